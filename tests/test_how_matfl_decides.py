"""Algorithm 1 by hand: the example says what its notebook says; a stored round follows from its similarities."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from matfl.paper.studies import how_matfl_decides as study
from matfl.server.grouping import friends, similarity, similarity_weights, votes


def decided():
    updates = study.example()
    similarity_LNN = similarity(updates, study.LAYERS)
    votes_LNN = votes(similarity_LNN, 2)
    friends_NN = friends(votes_LNN, 2, similarity=similarity_LNN)
    return updates, similarity_LNN, votes_LNN, friends_NN, similarity_weights(similarity_LNN, friends_NN)


def test_the_examples_cosines_are_those_of_its_angles():
    _, similarity_LNN, *_ = decided()
    assert similarity_LNN[0, 0, 1] == pytest.approx(np.cos(np.deg2rad(25)), abs=1e-6)
    assert similarity_LNN[2, 2, 3] == pytest.approx(np.cos(np.deg2rad(140)), abs=1e-6)


def test_friendship_in_the_example_is_not_mutual_and_one_tie_is_decided_by_similarity():
    _, similarity_LNN, votes_LNN, friends_NN, _ = decided()
    a, b, c, d = range(4)
    assert friends_NN[a, b]
    assert not friends_NN[b, a]
    assert friends_NN[b, c]
    assert votes_LNN.sum(0)[d, :3].tolist() == [1, 1, 1]
    assert friends_NN[d, b]
    assert similarity_LNN.sum(0)[d, b] == similarity_LNN.sum(0)[d, :3].max()


def test_a_tasks_step_is_the_mean_of_its_clients_rows_times_the_updates():
    updates, _, _, _, weights_NN = decided()
    rows_NP = study.arrows_of(updates).transpose(1, 0, 2).reshape(4, 6)
    taken_NN = weights_NN.numpy()
    expected = np.stack([taken_NN[:2].mean(0) @ rows_NP, taken_NN[2] @ rows_NP, taken_NN[3] @ rows_NP])
    np.testing.assert_allclose(study.steps(updates, weights_NN).to_numpy(), expected, atol=1e-6)


def run_of(similarity_LNN, friends_NN, weights_NN, *, k=2, present=True):
    return SimpleNamespace(
        path=SimpleNamespace(name="a-run"),
        config=SimpleNamespace(k=k),
        diagnostics={
            "participants": np.full((1, 4), present),
            "similarity": similarity_LNN.numpy().astype(np.float16)[None],
            "friends": friends_NN.numpy()[None],
            "weights": weights_NN.numpy()[None],
            "client_pairs": np.array(study.PAIRS),
        },
    )


def test_a_stored_round_is_recomputed_and_a_round_decided_otherwise_is_noticed():
    _, similarity_LNN, _, friends_NN, weights_NN = decided()
    good = study.stored_round(run_of(similarity_LNN, friends_NN, weights_NN), 1)
    assert study.claims([good])[0].held is True
    assert study.stored_round(run_of(similarity_LNN, friends_NN, weights_NN), 0).number == 1
    other = study.stored_round(run_of(similarity_LNN, friends_NN, torch.eye(4)), 1)
    assert study.claims([other])[0].held is False


@pytest.mark.parametrize(("number", "present", "message"), [(2, True, "choose 1..1"), (1, False, "did not take part")])
def test_rounds_that_cannot_be_shown_are_refused(number, present, message):
    _, similarity_LNN, _, friends_NN, weights_NN = decided()
    with pytest.raises(ValueError, match=message):
        study.stored_round(run_of(similarity_LNN, friends_NN, weights_NN, present=present), number)
