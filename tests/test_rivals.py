"""The rivals' server steps, each against a plain transcription of its paper's formula on whole vectors."""

import itertools
import math

import numpy as np
import pytest
import torch
from rounds import applied, begun, decided, layout, make_round
from sklearn.cluster import AgglomerativeClustering

from matfl.server.methods import METHODS
from matfl.server.methods.affinity import best_groups, group_value
from matfl.server.methods.attention import FedAMP, attention, heuristic_attention
from matfl.server.methods.fomo import candidates, first_order_weights
from matfl.server.methods.steps import GradNorm, balanced


def trained(round):
    """The clients' weights after training, as one numpy row each: what they started from plus their updates."""
    return (round.models.theta_CP[list(round.starts)] + round.updates.updates_NP).numpy()


def close(found, expected, tolerance=1e-12):
    np.testing.assert_allclose(np.asarray(found), np.asarray(expected), rtol=tolerance, atol=tolerance)


# The authors' published code


def authors_similarity(round):
    """Cosines of weights minus their mean, over parameters, batch-norm means and variances, as one vector."""
    whole = np.concatenate([trained(round), round.updates.buffers_NB.numpy()], 1)
    deviation = whole - whole.mean(0)
    unit = deviation / np.linalg.norm(deviation, axis=1, keepdims=True)
    return whole, unit @ unit.T


@pytest.mark.parametrize("threshold", [0.0, 0.3, -0.2])
@pytest.mark.parametrize("clients", [(0, 1, 2, 3, 4, 5), (0, 2, 5)])
def test_authors_soft_groups_equal_their_arithmetic(threshold, clients):
    round = make_round("aabbcc", scope="client", clients=clients, seed=3)
    whole, cosines = authors_similarity(round)
    expected = np.array([[max(value + threshold, 0) for value in row] for row in cosines])
    expected /= expected.sum(1, keepdims=True)
    mixing, models = decided("authors_soft", round, threshold=threshold)
    close(mixing.weights_NN, expected)
    after = expected @ whole
    close(models.theta_CP[list(clients)], after[:, : layout().P])
    close(models.buffers_CB[list(clients)], after[:, layout().P :])
    absent = sorted(set(range(6)) - set(clients))
    assert torch.equal(models.theta_CP[absent], round.models.theta_CP[absent])


@pytest.mark.parametrize("clusters", [1, 2, 3, 6])
@pytest.mark.parametrize("seed", range(5))
def test_authors_clusters_equal_their_arithmetic(clusters, seed):
    round = make_round("aabbcc", scope="client", seed=seed)
    whole, cosines = authors_similarity(round)
    labels = AgglomerativeClustering(clusters, metric="precomputed", linkage="average").fit_predict(1 - cosines)
    expected = np.stack([whole[labels == label].mean(0) for label in labels])
    _, models = decided("authors_clustered", round, clusters=clusters)
    close(np.concatenate([models.theta_CP, models.buffers_CB], 1), expected)


def test_authors_methods_see_batch_norm_statistics():
    round = make_round("aabb", scope="client")
    before = METHODS["authors_soft"].mix(round).weights_NN
    round.updates.buffers_NB[0] *= 10
    assert not torch.allclose(before, METHODS["authors_soft"].mix(round).weights_NN)


# Step lengths


def test_fednova_is_the_normalised_average():
    steps = [1, 4, 10, 5]
    round = make_round("aabb", steps=steps, method="fednova")
    g = round.updates.updates_NP.numpy()
    effective = sum(steps) / 4
    expected = effective * sum(g[i] / steps[i] / 4 for i in range(4))
    _, models = decided("fednova", round)
    close(models.theta_CP - round.models.theta_CP, np.stack([expected] * 2))
    equal = make_round("aabb", steps=[7] * 4)
    close(METHODS["fednova"].mix(equal).weights_NN, np.full((4, 4), 0.25))
    with pytest.raises(ValueError, match="no local steps"):
        METHODS["fednova"].mix(make_round("ab", steps=[0, 3]))


@pytest.mark.parametrize("alpha", [0.0, 0.7, 1.5])
def test_gradnorm_makes_lengths_follow_the_loss_that_is_left(alpha):
    losses = [2.0, 1.0, 0.5, 3.0]
    round = make_round("aabb", losses=losses, method="gradnorm")
    first = torch.tensor([4.0, 1.0, math.nan, 2.0], dtype=torch.float64)
    method = GradNorm(alpha=alpha)
    mixing = method.mix(make_round("aabb", losses=losses, state={"first_loss": first}))
    left = np.array([0.5, 1.0, 1.0, 1.5])  # the third client is here for the first time
    rates = (left / left.mean()) ** alpha
    factors = mixing.weights_NN[0].numpy() * 4
    lengths = factors * np.linalg.norm(round.updates.updates_NP.numpy(), axis=1)
    close(lengths / lengths.mean(), rates / rates.mean())
    assert factors.mean() == pytest.approx(1)
    close(mixing.state["first_loss"], [4, 1, 0.5, 2])


def test_gradnorm_minimises_what_the_paper_descends():
    norms, progress = torch.tensor([1.0, 5.0, 0.3]), torch.tensor([0.9, 0.5, 0.7])
    factors = balanced(norms, progress, 1.5).numpy()
    weighted = factors * norms.numpy()
    rates = progress.numpy() / progress.numpy().mean()
    scale = weighted.sum() / (rates**1.5).sum()  # the common length that these factors agree on
    assert np.abs(weighted - scale * rates**1.5).sum() < 1e-6
    close(balanced(torch.tensor([0.0, 2.0]), torch.ones(2), 1.0), [1, 1])


# FedAMP


def test_fedamp_is_the_papers_sum_over_models():
    round = make_round("aabbc", scope="client", seed=2)
    w, n, alpha, sigma = trained(round), 5, 0.4, 1.3
    distances = [[sum((w[i] - w[j]) ** 2) for j in range(n)] for i in range(n)]
    mean = sum(map(sum, distances)) / (n * (n - 1))
    sigma_k = sigma * mean
    alpha_k = alpha * sigma_k / (n - 1)
    expected = []
    for i in range(n):
        xi = [alpha_k * math.exp(-distances[i][j] / sigma_k) / sigma_k if j != i else 0.0 for j in range(n)]
        xi[i] = 1 - sum(xi)
        expected.append(sum(xi[j] * w[j] for j in range(n)))
    _, models = decided("fedamp", round, alpha=alpha, sigma=sigma)
    close(models.theta_CP, np.stack(expected), 1e-10)
    assert (FedAMP(alpha=1.0, sigma=1e9).mix(round).weights_NN >= -1e-12).all()


def test_attention_is_the_derivative_of_the_papers_function():
    x, sigma, alpha = 2.0, 1.7, 0.3
    slope = ((1 - math.exp(-(x + 1e-6) / sigma)) - (1 - math.exp(-(x - 1e-6) / sigma))) / 2e-6
    xi = attention(torch.tensor([[0.0, x], [x, 0.0]], dtype=torch.float64), alpha=alpha, sigma=sigma)
    assert xi[0, 1].item() == pytest.approx(alpha * slope, rel=1e-8)
    close(xi.sum(1), [1, 1])


def test_heuristic_fedamp_is_a_softmax_of_the_models_cosines():
    round = make_round("aabb", scope="client", seed=4)
    w, sigma, own = trained(round), 3.0, 0.3
    expected = []
    for i in range(4):
        scores = {
            j: math.exp(sigma * (w[i] @ w[j]) / np.linalg.norm(w[i]) / np.linalg.norm(w[j])) for j in range(4) if j != i
        }
        shares = {j: (1 - own) * score / sum(scores.values()) for j, score in scores.items()}
        expected.append(own * w[i] + sum(share * w[j] for j, share in shares.items()))
    _, models = decided("heurfedamp", round, sigma=sigma, own=own)
    close(models.theta_CP, np.stack(expected), 1e-10)
    assert heuristic_attention(torch.ones(1, 1), sigma=1.0, own=0.2).item() == 1


def test_fedamp_of_equal_models_shares_alpha():
    round = make_round("aabb", scope="client")
    round.models.theta_CP.copy_(round.models.theta_CP[:1].clone().expand(4, -1))
    round.updates.updates_NP.copy_(round.updates.updates_NP[:1].clone().expand(4, -1))
    close(METHODS["fedamp"].mix(round).weights_NN.diagonal(), [0.5] * 4)


# FedFomo


def test_fedfomo_weights_are_gain_over_distance():
    old, losses, distances = 2.0, [1.0, 2.5, 1.5, 2.0, math.nan], [2.0, 1.0, 4.0, 1.0, 1.0]
    gains = [max(0.0, (old - a) / b) if math.isfinite(a) else 0.0 for a, b in zip(losses, distances)]
    found = first_order_weights(old, torch.tensor(losses), torch.tensor(distances))
    close(found, [gain / sum(gains) for gain in gains])
    close(first_order_weights(1.0, torch.tensor([1.0, 2.0]), torch.tensor([1.0, 0.0])), [0, 0])


def test_fedfomo_asks_the_best_known_and_sometimes_others():
    affinity = torch.tensor([0.0, 3.0, 1.0, 2.0, 0.0])
    greedy = {"ask": 2, "explore": 0.0, "generator": torch.Generator().manual_seed(0)}
    assert candidates(affinity, 0, **greedy) == [1, 3]
    assert candidates(affinity, 1, **greedy) == [2, 3]
    assert candidates(affinity, 0, ask=9, explore=0.0, generator=torch.Generator()) == [1, 2, 3, 4]
    generator = torch.Generator().manual_seed(0)
    seen = {tuple(candidates(affinity, 0, ask=2, explore=1.0, generator=generator)) for _ in range(200)}
    assert seen == set(itertools.combinations(range(1, 5), 2))


# IFCA


def test_ifca_moves_a_backbone_to_the_mean_of_its_takers():
    round = make_round("aabb", scope="client", clients=(0, 1, 3), method="ifca")
    state = begun(METHODS["ifca"], round)
    assert not torch.equal(state["parameters"][0], state["parameters"][1])
    ratio = (state["parameters"] - round.models.theta_CP[0]).norm() / round.models.theta_CP[0].norm() / 2**0.5
    assert 0.04 < float(ratio) < 0.06
    choices = [1, 0, 1]
    messages = [{"choice": torch.tensor([k]), "losses": torch.zeros(2)} for k in choices]
    round = make_round("aabb", scope="client", clients=(0, 1, 3), messages=messages, state=state)
    mixing, models = decided("ifca", round)
    w, b = trained(round), round.updates.buffers_NB.numpy()
    close(mixing.state["parameters"], np.stack([w[1], (w[0] + w[2]) / 2]))
    close(mixing.state["buffers"], np.stack([b[1], (b[0] + b[2]) / 2]))
    close(models.theta_CP[[0, 1, 3]], np.stack([(w[0] + w[2]) / 2, w[1], (w[0] + w[2]) / 2]))
    assert torch.equal(models.theta_CP[2], round.models.theta_CP[2])
    assert mixing.state["choice"].tolist() == [1, 0, -1, 1]
    untaken = make_round("aabb", scope="client", clients=(0,), messages=messages[:1], state=state)
    assert torch.equal(METHODS["ifca"].mix(untaken).state["parameters"][0], state["parameters"][0])


# SCAFFOLD's server


def test_scaffold_moves_the_control_by_the_share_that_replied():
    changes = torch.randn(2, layout().P, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    control = torch.ones(layout().P, dtype=torch.float64)
    messages = [{"change": row} for row in changes]
    round = make_round("aabb", clients=(0, 3), messages=messages, state={"control": control})
    mixing = METHODS["scaffold"].mix(round)
    close(mixing.state["control"], 1 + (2 / 4) * changes.numpy().mean(0))
    close(mixing.weights_NN, np.full((2, 2), 0.5))
    assert torch.equal(control, torch.ones_like(control))


# TAG


def partitions(items):
    if not items:
        yield []
        return
    first, rest = items[0], items[1:]
    for size in range(len(rest) + 1):
        for others in itertools.combinations(rest, size):
            left = [item for item in rest if item not in others]
            for more in partitions(left):
                yield [[first, *others], *more]


@pytest.mark.parametrize("seed", range(4))
def test_best_groups_are_those_of_a_search_over_all_partitions(seed):
    affinity = torch.randn(6, 6, generator=torch.Generator().manual_seed(seed))
    for k in range(1, 7):
        values = []
        for parts in partitions(list(range(6))):
            if len(parts) == k:
                total = 0.0
                for part in parts:
                    for j in part:
                        helped = [float(affinity[i, j]) for i in part if i != j]
                        total += sum(helped) / len(helped) if helped else 0.0
                values.append(total)
        labels = best_groups(affinity, k)
        assert len(set(labels)) == k
        groups = [[i for i in range(6) if labels[i] == g] for g in range(k)]
        assert sum(group_value(affinity, group) for group in groups) == pytest.approx(max(values), abs=1e-6)


def tag_state(round):
    """Of a round whose steps were sent to the clients before it, with their answers."""
    state = begun(METHODS["tag"], round)
    c = len(round.models.owners)
    zeros = torch.zeros(c, layout().P, dtype=torch.float64)
    return state | {"base": zeros, "base_buffers": zeros[:, : layout().B], "steps": zeros, "stepped": torch.ones(c)}


def test_tag_groups_tasks_by_the_measured_affinity():
    # Losses of (nothing, a step on a, on b, on c, on d): a and c help each other, b and d too.
    answers = {
        "a": [1, 0.9, 1.1, 0.8, 1.2],
        "b": [2, 2.2, 1.8, 2.1, 1.5],
        "c": [1, 0.7, 1.3, 0.9, 1],
        "d": [1, 1, 0.9, 1, 1],
    }
    messages = [{"losses": torch.tensor(answers[task], dtype=torch.float64)} for task in "abcd"]
    state = tag_state(make_round("abcd"))
    round = make_round("abcd", messages=messages, state=state, number=2)
    mixing, models = decided("tag", round, every=2)
    labels = mixing.state["groups"].tolist()
    assert labels[0] == labels[2] != labels[1] == labels[3]
    close(mixing.weights_NN[0], [0.5, 0, 0.5, 0])
    together = round.models.theta_CP[[0, 2]].mean(0) + round.updates.updates_NP[[0, 2]].mean(0)
    close(models.theta_CP[0], together)
    assert torch.equal(models.theta_CP[0], models.theta_CP[2])
    assert mixing.state["steps"].shape == (0, layout().P)
    assert not mixing.state["measured"].any()


def test_tag_sends_each_tasks_mean_step_and_averages_what_comes_back():
    round = make_round("aabb", clients=(0, 1), number=1)
    round = make_round("aabb", clients=(0, 1), number=1, state=begun(METHODS["tag"], round))
    mixing = METHODS["tag"].mix(round)
    close(mixing.weights_NN, np.full((2, 2), 0.5))  # all tasks in one until something is known
    g = round.updates.updates_NP.numpy()
    close(mixing.state["steps"], np.stack([g.mean(0), 0 * g[0]]))
    assert mixing.state["stepped"].tolist() == [1, 0]
    assert torch.equal(mixing.state["base"], round.models.theta_CP)
    losses = [{"losses": torch.tensor([2.0, 1.0, 9.0])}, {"losses": torch.tensor([4.0, 3.0, 9.0])}]
    after = make_round("aabb", clients=(0, 2), number=4, state=mixing.state, messages=losses)
    state = METHODS["tag"].mix(after).state
    close(state["affinity"] / state["measured"].clamp(min=1), [[0.5, 0.25], [0, 0]])  # b made no step


def test_mas_splits_once_after_the_first_rounds():
    method = type(METHODS["mas"])(together=3)
    round = make_round("abc", number=1)
    state = begun(method, round)
    for number in range(1, 6):
        c = 3
        help_each_other, harm = torch.tensor([1.0, 0.5, 0.5, 2.0]), torch.tensor([1.0, 2.0, 2.0, 0.5])
        messages = [{"losses": losses} for losses in (help_each_other, help_each_other, harm)]
        round = make_round("abc", number=number, state=state, messages=messages if len(state["steps"]) else None)
        mixing = method.mix(round)
        state = dict(mixing.state)
        assert (len(state["steps"]) == c) == (number < 3)
        assert bool(state["grouped"]) == (number >= 3)
    assert state["groups"].tolist() == [0, 0, 1]
    close(mixing.weights_NN, [[0.5, 0.5, 0], [0.5, 0.5, 0], [0, 0, 1]])


# One direction for all


@pytest.mark.parametrize("name", ["pcgrad", "cagrad"])
def test_conflict_methods_give_all_clients_one_direction(name):
    round = make_round("aabb", seed=5)
    mixing, models = decided(name, round)
    assert torch.equal(mixing.weights_NN[0], mixing.weights_NN[3])
    direction = models.theta_CP - round.models.theta_CP
    close(direction[0], direction[1], 1e-9)
    opposed = make_round("ab")
    opposed.updates.updates_NP[1] = -0.5 * opposed.updates.updates_NP[0]
    _, models = decided(name, opposed)
    moved = (models.theta_CP - opposed.models.theta_CP)[0].numpy()
    if name == "pcgrad":  # each is projected onto the other's orthogonal complement: nothing is left
        close(moved, 0 * moved)
    else:  # the mean is a quarter of g_0; the ball's best point for g_1 is 0.4 of that nearer the origin
        close(moved, 0.6 * 0.25 * opposed.updates.updates_NP[0].numpy(), 1e-8)


def test_pcgrads_order_follows_seed_and_round():
    def row(**changes):
        return METHODS["pcgrad"].mix(make_round("aabbccdd", method="pcgrad", **changes)).weights_NN[0]

    first = row(number=1)
    assert torch.equal(first, row(number=1))
    assert not torch.equal(first, row(number=2))


def test_applied_models_leave_those_of_the_round():
    round = make_round("aabb")
    before = round.models.theta_CP.clone()
    applied(round, METHODS["fedavg"].mix(round))
    assert torch.equal(before, round.models.theta_CP)
