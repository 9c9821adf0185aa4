"""Very many clients: the same friends, weights and models as by the matrices of size N x N; budgets."""

import numpy as np
import pytest
import torch
from scipy.sparse import csr_matrix
from test_hostile import honest, server_of
from tiny import tiny

from matfl.server import mixing
from matfl.server.grouping import cosine, friends, similarity_weights, votes
from matfl.server.hierarchy import add_by_sums, factors
from matfl.server.layout import Layout
from matfl.server.many import Crowd, Sums, shares
from matfl.server.mixing import Mixing, mix, owner_shares
from matfl.server.models import Models
from matfl.server.server import Reply
from matfl.server.sketches import Sketcher, sketch, sketch_gram
from matfl.server.spool import Spool
from matfl.server.updates import Updates, save_update

SIZES = {"a.weight": 300, "b.weight": 500, "c.weight": 200}
LAYOUT = Layout.of({n: torch.zeros(s) for n, s in SIZES.items()}, parameters=list(SIZES), voting=list(SIZES)[:2])


def planted(n, tasks=5, noise=1.0, seed=0):
    draw = torch.Generator().manual_seed(seed)
    directions = torch.randn(tasks, LAYOUT.P, generator=draw)
    labels = torch.arange(n) % tasks
    return directions[labels] + noise * torch.randn(n, LAYOUT.P, generator=draw), labels.tolist()


def updates_of(rows_NP):
    n = len(rows_NP)
    return Updates(
        layout=LAYOUT, clients=tuple(range(n)), updates_NP=rows_NP, buffers_NB=torch.zeros(n, 0), heads=({},) * n
    )


def dense(rows_NP, sketcher, k):
    estimated = cosine(sketch_gram(sketch(updates_of(rows_NP), LAYOUT.voting, sketcher)))
    chosen = friends(votes(estimated, k), k, similarity=estimated)
    return chosen, similarity_weights(estimated, chosen)


def spread(groups, n):
    weights = torch.zeros(n, n).scatter_(1, groups.friends_NK, groups.weights_NK)
    return torch.zeros(n, n, dtype=torch.bool).scatter_(1, groups.friends_NK, True), weights


@pytest.mark.parametrize("noise", [0.5, 3.0])
@pytest.mark.parametrize("k", [1, 4, 40])
def test_groups_block_by_block_are_those_of_the_whole_matrix(noise, k, monkeypatch):
    monkeypatch.setattr("matfl.server.many._BLOCK_BYTES", 4 * 2 * 40 * 7)
    rows_NP, _ = planted(40, noise=noise)
    sketcher = Sketcher(length=64, seed=2)
    crowd = Crowd(LAYOUT, sketcher)
    for client, row_P in enumerate(rows_NP):
        crowd.add(client, row_P)
    chosen, weights = spread(crowd.group(k=k), 40)
    expected_friends, expected_weights = dense(rows_NP, sketcher, k)
    assert torch.equal(chosen, expected_friends)
    torch.testing.assert_close(weights, expected_weights.float(), atol=1e-5, rtol=1e-4)


def test_nearest_neighbours_find_nearly_the_same_groups():
    pytest.importorskip("faiss")
    rows_NP, labels = planted(600, tasks=100, noise=1.5)
    crowd = Crowd(LAYOUT, Sketcher(length=64, seed=2))
    for client, row_P in enumerate(rows_NP):
        crowd.add(client, row_P)
    exact, near = crowd.group(k=6), crowd.group(k=6, approximate=True)
    (a, _), (b, near_weights) = spread(exact, 600), spread(near, 600)
    assert (a & b).sum() / a.sum() > 0.8
    torch.testing.assert_close(near_weights.sum(1), torch.ones(600))
    task = torch.tensor(labels)
    right = [(task[groups.friends_NK] == task[:, None]).double().mean() for groups in (exact, near)]
    assert right[1] > right[0] - 0.05


def test_wrong_crowds_are_refused():
    crowd = Crowd(LAYOUT, Sketcher(length=8))
    crowd.add(0, torch.ones(LAYOUT.P))
    with pytest.raises(ValueError, match=r"k=2: choose 1\.\.1"):
        crowd.group(k=2)
    with pytest.raises(ValueError, match="no voting layers"):
        Crowd(Layout.of({"a": torch.zeros(2)}, parameters=["a"]), Sketcher(length=8))
    with pytest.raises(ValueError, match="no model belongs to 'x'"):
        shares(crowd.group(k=1), ["x"], ["a"])
    with pytest.raises(ValueError, match="no update was added"):
        Sums(np.ones((1, 1))).total()


def matrices():
    draw = np.random.default_rng(0)
    n, c = 30, 4
    single = np.zeros((c, n))
    single[np.arange(n) % c, np.arange(n)] = draw.random(n)
    mixed = single.copy()
    mixed[0, 5], mixed[:, 7] = 0.3, draw.random(c)
    yield "plain", np.full((c, n), 1 / n), n
    yield "single", single, n
    yield "mixed", mixed, np.count_nonzero(mixed)
    yield "scaled columns", np.outer(draw.random(c), draw.random(n)), n
    yield "dense", draw.random((c, n)), c * n
    yield "nothing", np.zeros((c, n)), 0


@pytest.mark.parametrize("name, weights, additions", list(matrices()), ids=[m[0] for m in matrices()])
def test_sums_of_sums_are_the_product(name, weights, additions):
    found = factors(weights)
    np.testing.assert_allclose(found.basis_CG @ found.factors_GN.toarray(), weights, atol=1e-12)
    assert found.additions == additions
    assert not found.saves() or name == "nothing"
    rows_NK = torch.randn(30, 50, dtype=torch.float64)
    out_CK = torch.ones(4, 50, dtype=torch.float64)
    add_by_sums(out_CK, found, rows_NK, step=0.5)
    torch.testing.assert_close(out_CK, 1 + 0.5 * torch.from_numpy(weights) @ rows_NK)
    sums = Sums(csr_matrix(weights))
    for position, row_P in enumerate(rows_NK.float()):
        sums.add(position, row_P)
    torch.testing.assert_close(sums.total().double(), torch.from_numpy(weights) @ rows_NK, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", ["fedavg", "single_task", "dense"])
def test_mixing_many_clients_by_sums_gives_the_models_of_mixing_few(name, monkeypatch):
    n, tasks = 60, 5
    rows_NP, labels = planted(n, tasks)
    names = [f"task{t}" for t in labels]
    owners = tuple(dict.fromkeys(names))
    weights = {
        "fedavg": torch.full((n, n), 1 / n),
        "single_task": torch.tensor([[a == b for b in labels] for a in labels]).double() / (n / tasks),
        "dense": torch.rand(n, n) / n,
    }[name]
    ends = []
    for many in (10, 1000):
        monkeypatch.setattr(mixing, "_MANY", many)
        monkeypatch.setattr("matfl.server.hierarchy.Factors.saves", lambda its: True)
        start = {key: torch.zeros(size) for key, size in SIZES.items()}
        models = Models.start(LAYOUT, start, owners, {})
        mix(models, updates_of(rows_NP), Mixing(weights_NN=weights), names)
        ends.append(models.theta_CP.clone())
    torch.testing.assert_close(*ends, atol=1e-5, rtol=1e-4)
    expected = owner_shares(owners, names) @ weights.double() @ rows_NP.double()
    torch.testing.assert_close(ends[0].double(), expected, atol=1e-5, rtol=1e-4)


def test_a_streamed_round_of_a_crowd_is_that_of_the_method():
    """Sketch, group, sum: the same step as method matfl with the run's sketches."""
    server, state = server_of(tiny(sketch=32, k=3))
    collection = server.begin(state)
    crowd = Crowd(server.layout, Sketcher(length=32, seed=server.config.seed))
    rows = []
    for client in range(4):
        reply = honest(server, state, client)
        collection.add(Reply(**reply))
        trained = {name.removeprefix("backbone."): t for name, t in reply["state"].items()}
        start_P = state.models.theta_CP[state.models.row(server.owner(client))]
        rows.append(server.layout.subtract(trained, start_P))
        crowd.add(client, rows[-1])
    after, _ = collection.finish()
    tasks = [pair.name for pair in server.client_pairs]
    sums = Sums(shares(crowd.group(k=3), tasks, state.models.owners))
    for position, row_P in enumerate(rows):
        sums.add(position, row_P)
    torch.testing.assert_close(state.models.theta_CP + sums.total(), after.models.theta_CP, atol=1e-6, rtol=1e-4)


def test_many_clients_files_are_read_within_the_budget(tmp_path, monkeypatch):
    monkeypatch.setattr("matfl.server.files._WHOLE", 4)
    monkeypatch.setattr("matfl.server.files.NARROW", 64)
    rows_NP, _ = planted(12)
    files = {}
    from matfl.server.updates import ClientUpdate

    for client, row_P in enumerate(rows_NP):
        files[client] = tmp_path / f"{client}.safetensors"
        state = LAYOUT.unflatten(row_P)
        save_update(files[client], LAYOUT, ClientUpdate(client=client, state=state, start_P=torch.zeros(LAYOUT.P)))
    memory = 12 * 4 * 130
    streamed = Updates.stream(LAYOUT, files, memory=memory)
    pieces = [block_NK.clone() for _, block_NK in streamed.columns()]
    assert max(piece.numel() * 4 for piece in pieces) <= memory
    assert torch.equal(torch.cat(pieces, 1), rows_NP)


def test_a_budget_too_small_for_one_piece_says_what_it_takes(tmp_path):
    wide = Layout.of({"a": torch.zeros(1_000_000)}, parameters=["a"])
    with pytest.raises(ValueError, match=r"memory=1 MB: reading 1000 clients' .* takes 16.4 MB; .*memory=17, or 0"):
        Spool(folder=tmp_path, memory=10**6).needed(wide, 1000)
    assert Spool(folder=tmp_path, memory=17 * 10**6).needed(wide, 1000)
    assert not Spool(folder=tmp_path, memory=10**6).needed(LAYOUT, 4)


def test_sums_are_taken_where_models_are_many():
    many = np.zeros((40, 400))
    many[np.arange(400) % 40, np.arange(400)] = 1
    assert factors(many).saves()
    assert factors(np.full((40, 400), 1 / 400)).saves()
    assert not factors(np.random.default_rng(0).random((40, 400))).saves()


def test_a_client_leads_its_own_vote_before_an_equal_one_and_with_a_zero_update():
    rows_NP, _ = planted(6)
    rows_NP[3], rows_NP[5] = rows_NP[1], 0
    crowd = Crowd(LAYOUT, Sketcher(length=64))
    for client, row_P in enumerate(rows_NP):
        crowd.add(client, row_P)
    groups = crowd.group(k=1)
    assert groups.friends_NK[:, 0].tolist() == list(range(6))
    torch.testing.assert_close(groups.weights_NK, torch.ones(6, 1))
