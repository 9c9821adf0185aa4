"""Simulated attacks send what their formulas say; robust averages are those of numpy, and are not moved far."""

import numpy as np
import pytest
import torch
from rounds import applied, decided, make_round
from test_hostile import honest, server_of
from tiny import tiny

from matfl.runs.hostile import true_task
from matfl.server.attacks import ATTACKS, attack, attackers
from matfl.server.grouping import similarity, votes
from matfl.server.methods import METHODS, Mixing
from matfl.server.server import Reply
from matfl.server.spool import Spool


def unit(vector):
    return vector / vector.norm()


def sent(kind, hostile=(1,), strength=3.0, **options):
    """(the honest updates, what the attackers sent, the round)."""
    round = make_round("aabbcc")
    before = round.updates.updates_NP.clone()
    after = attack(round.updates, hostile, kind, strength=strength, **options)
    assert torch.equal(round.updates.updates_NP, before), "the honest replies were changed"
    kept = [n for n in range(6) if n not in hostile]
    assert torch.equal(after.updates_NP[kept], before[kept])
    return before, after.updates_NP, after


def test_attacks_are_their_formulas():
    for kind, expected in {"flip": lambda g: -3 * g, "scale": lambda g: 3 * g}.items():
        before, after, _ = sent(kind)
        torch.testing.assert_close(after[1], expected(before[1]))
    before, after, _ = sent("noise")
    assert (after[1] - before[1]).norm() == pytest.approx(3 * before[1].norm())
    before, after, _ = sent("copy")
    torch.testing.assert_close(after[1], 3 * before[1].norm() * unit(before[[0, 2, 3, 4, 5]].mean(0)))
    before, after, _ = sent("replace", (1, 4))
    torch.testing.assert_close(unit(after[1]), unit(after[4]))
    assert after[4].norm() == pytest.approx(3 * before[4].norm())


def test_noise_differs_by_client_and_round_and_a_target_does_not():
    one, two = (sent("noise", (1, 2), round=r)[1] - sent("noise", (1, 2))[0] for r in (1, 2))
    assert abs(unit(one[1]) @ unit(one[2])) < 0.5
    assert not torch.equal(one[1], two[1])
    assert torch.equal(sent("replace", round=1)[1], sent("replace", round=2)[1])
    assert not torch.equal(sent("replace", seed=1)[1], sent("replace", seed=2)[1])


def test_votes_is_what_most_honest_clients_like_and_poison_elsewhere():
    before, after, updates = sent("votes")
    layout, kept = updates.layout, [0, 2, 3, 4, 5]
    votes_of = votes(similarity(updates, layout.voting), 3)[:, kept, 1].sum()
    assert votes_of == max(votes(similarity(sent(kind)[2], layout.voting), 3)[:, kept, 1].sum() for kind in ATTACKS)
    draw = torch.Generator().manual_seed(0)
    for name in layout.voting:
        columns = slice(layout.parameters[name].start, layout.parameters[name].stop)
        honest_units = torch.stack([unit(row) for row in before[kept][:, columns]])
        best = (honest_units @ unit(after[1, columns])).sum()
        for _ in range(20):
            other = unit(after[1, columns]) + 0.3 * unit(
                torch.randn(best.new_empty(columns.stop - columns.start).shape, generator=draw, dtype=torch.float64)
            )
            assert (honest_units @ unit(other)).sum() <= best + 1e-9
    free = torch.ones(layout.P, dtype=torch.bool)
    for name in layout.voting:
        free[layout.parameters[name].start : layout.parameters[name].stop] = False
    assert after[1, free] @ before[kept].mean(0)[free] < 0


def test_attackers_are_drawn_from_the_seed_over_as_many_tasks_as_there_are():
    config = tiny(attack="flip", attackers=2)
    assert attackers(config) == attackers(config)
    assert len({client // 2 for client in attackers(config)}) == 2
    assert len({attackers(tiny(attack="flip", attackers=2, seed=seed)) for seed in range(20)}) == 4
    assert attackers(tiny()) == ()
    assert len(attackers(tiny(attack="flip", attackers=3))) == 3


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"attack": "flip"}, "attack='flip' with attackers=0: set both"),
        ({"attackers": 1}, "attack='none' with attackers=1: set both"),
        ({"attack": "flip", "attackers": 4}, r"attackers=4: choose 0\.\.3"),
        ({"attack": "steal", "attackers": 1}, "attack='steal': choose one of 'none', 'flip'"),
    ],
)
def test_wrong_attacks_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        tiny(**changes)


def test_attacks_need_updates_in_memory(tmp_path):
    server, state = server_of(tiny(attack="flip", attackers=1))
    with pytest.raises(ValueError, match=r"need the round's updates in memory.*set memory=0"):
        server.begin(state, Spool(folder=tmp_path / "replies", memory=100_000))
    with pytest.raises(ValueError, match="attack='steal': choose from flip"):
        sent("steal")


def test_a_round_with_attackers_says_who_and_moves_by_what_they_send():
    ends = {}
    for kind in ("none", "flip"):
        config = tiny(method="local", attack=kind, attackers=int(kind != "none"), attack_strength=2.0)
        server, state = server_of(config)
        collection = server.begin(state)
        for client in range(4):
            collection.add(Reply(**honest(server, state, client)))
        after, record = collection.finish()
        ends[kind] = after.models.theta_CP - state.models.theta_CP, record.row
    (plain_CP, quiet), (attacked_CP, row) = ends["none"], ends["flip"]
    (hostile,) = row["attackers"]
    assert "attackers" not in quiet
    for client in range(4):
        expected = -2 * plain_CP[client] if client == hostile else plain_CP[client]
        torch.testing.assert_close(attacked_CP[client], expected, rtol=1e-3, atol=1e-6)


def test_a_liar_trains_another_task_of_its_domain():
    config = tiny(tasks="outdoor/semseg,outdoor/sal,indoor/depth", attack="lie", attackers=1)
    (liar,) = attackers(config)
    from matfl.data import Client
    from matfl.tasks.task import pairs

    names = [pair for pair in pairs(config.tasks) for _ in range(2)]
    found = {n: true_task(config, Client(n, names[n], ())) for n in range(4)}
    assert [n for n, task in found.items() if task] == ([liar] if liar < 4 else [])
    for n, task in found.items():
        assert task is None or (task.domain == names[n].domain and task != names[n])
    alone = tiny(attack="lie", attackers=1)
    client = attackers(alone)[0]
    with pytest.raises(ValueError, match=r"attack='lie': client .* has no other task to train"):
        true_task(alone, Client(client, pairs(alone.tasks)[client // 2], ()))


@pytest.mark.parametrize("n", [1, 2, 5, 6])
def test_coordinate_averages_are_those_of_numpy(n):
    from scipy.stats import trim_mean

    round = make_round("aabbcc", clients=range(n))
    values, kinds = round.updates.updates_NP.numpy(), {"median": np.median(round.updates.updates_NP.numpy(), axis=0)}
    kinds["trimmed_mean"] = trim_mean(values, 0.25, axis=0)
    for name, expected in kinds.items():
        _, after = decided(name, round)
        for row, moved in enumerate(after.theta_CP - round.models.theta_CP):
            wanted = expected if row in round.starts else np.zeros_like(expected)
            np.testing.assert_allclose(moved.numpy(), wanted, atol=1e-12)
        buffers = round.updates.buffers_NB.numpy()
        values_B = np.median(buffers, axis=0) if name == "median" else trim_mean(buffers, 0.25, axis=0)
        np.testing.assert_allclose(after.buffers_CB[0].numpy(), values_B, atol=1e-12)


def test_krum_keeps_away_from_outliers():
    round = make_round("aabbcc")
    round.updates.updates_NP[:] = 1.0 + 0.01 * torch.randn(6, round.updates.layout.P, dtype=torch.float64)
    round.updates.updates_NP[[2, 5]] += 50
    for keep in (1, 3):
        mixing, _ = decided("krum", round, attackers=2, keep=keep)
        assert (mixing.weights_NN > 0).sum(1).tolist() == [keep] * 6
        assert not mixing.weights_NN[:, [2, 5]].any()
    # By hand: the sum of squared distances to the N - f - 2 = 2 nearest.
    rows = round.updates.updates_NP.numpy()
    distance = ((rows[:, None] - rows[None]) ** 2).sum(-1)
    best = np.argmin(np.sort(distance, axis=1)[:, 1:3].sum(1))
    assert decided("krum", round, attackers=2)[0].weights_NN[0].argmax() == best


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"method": "krum", "krum.attackers": 2}, r"krum.attackers=2: choose 0\.\.1"),
        ({"method": "krum", "krum.attackers": -1}, "choose 0 or more"),
        ({"method": "krum", "krum.attackers": 1, "krum.keep": 9}, r"krum.keep=9: choose 1\.\.4"),
        ({"method": "krum", "krum.keep": 0}, "choose 1 or more"),
        ({"method": "trimmed_mean", "trimmed_mean.share": 0.5}, "choose 0 .* below 0.5"),
    ],
)
def test_wrong_parameters_of_robust_methods_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        server_of(tiny(**changes))


def test_weights_and_columns_do_not_mix_with_groups():
    round = make_round("aabb")
    weights = torch.eye(4, dtype=torch.float64)
    mixing = Mixing(weights_NN=weights, columns=lambda c: c, groups={("stem.weight",): weights})
    with pytest.raises(ValueError, match="columns and groups"):
        applied(round, mixing)
    same = applied(round, Mixing(weights_NN=weights, columns=lambda c: c))
    plain = applied(round, Mixing(weights_NN=weights))
    torch.testing.assert_close(same.theta_CP, plain.theta_CP)


def test_robust_methods_hold_what_plain_averaging_does_not():
    def moved(name, **parameters):
        round = make_round("aaaaaa")
        base = torch.randn(round.updates.layout.P, dtype=torch.float64)
        round.updates.updates_NP[:] = base + 0.1 * torch.randn_like(round.updates.updates_NP)
        hit = attack(round.updates, (5,), "replace", strength=50.0)
        from dataclasses import replace

        round = replace(round, updates=hit)
        _, after = decided(name, round, **parameters)
        step = (after.theta_CP - round.models.theta_CP)[0]
        return float((step - base).norm() / base.norm())

    assert moved("fedavg") > 5
    for name, parameters in (("median", {}), ("trimmed_mean", {}), ("krum", {"attackers": 1})):
        assert moved(name, **parameters) < 0.2
    assert {"median", "trimmed_mean", "krum"} < set(METHODS)
