"""The methods as mixing weights, the step that applies them, and screening of faulty clients."""

from dataclasses import dataclass, replace

import naive
import pytest
import torch

from matfl.config.run_config import RunConfig
from matfl.core.registry import PluginError
from matfl.server.methods import METHODS, Method, Mixing, Round, method, register
from matfl.server.mixing import mix
from matfl.server.models import Models
from matfl.server.screening import screen
from matfl.server.updates import ClientUpdate, Layout, Updates, save_update

SHAPES = {"stem": (4, 3), "conv1": (5, 4), "norm.mean": (6,), "norm.var": (6,), "conv2": (3, 7), "count": ()}
PARAMETERS = ("stem", "conv1", "conv2")
CONFIG = RunConfig()
AVERAGES = (
    "local",
    "single_task",
    "fedavg",
    "fedprox",
    "matfl",
    "matfl_uniform",
    "similarity_only",
    "matfl_layers",
    "matfl_self",
    "matfl_task",
    "clustered",
    "soft_grouping",
)
"""The methods that average updates: rows are shares, and nothing is kept or asked (`test_rivals` has the others)."""
SHARED = [name for name in AVERAGES if name != "local"]
GROUPING = ("matfl", "matfl_uniform", "similarity_only", "clustered", "soft_grouping")


def state(generator):
    drawn = {name: torch.rand(shape, generator=generator) for name, shape in SHAPES.items() if shape}
    return drawn | {"count": torch.tensor(3)}


LAYOUT = Layout.of(state(torch.Generator().manual_seed(0)), parameters=PARAMETERS, voting=("conv1", "conv2"))


def round_of(tasks, seed=0, scale=1.0):
    """(models of all tasks, one client's update for each entry of `tasks`), everything drawn from `seed`."""
    generator = torch.Generator().manual_seed(seed)
    owners = sorted(set(tasks)) or ["a"]
    heads = {owner: {"weight": torch.rand(2, 2, generator=generator), "count": torch.tensor(1)} for owner in owners}
    models = Models.start(LAYOUT, state(generator), owners, heads)
    replies = []
    for client, task in enumerate(tasks):
        local = {
            n: t + scale * torch.randn(t.shape, generator=generator) if t.is_floating_point() else t
            for n, t in models.backbone(task).items()
        }
        head = {"weight": torch.rand(2, 2, generator=generator), "count": torch.tensor(9)}
        local |= {n: torch.rand(6, generator=generator) for n in LAYOUT.buffers}
        start_P = models.theta_CP[owners.index(task)]
        replies.append(ClientUpdate(client=client, state=local, start_P=start_P, head=head))
    return models, Updates.of(LAYOUT, replies)


def structured(tasks, noise=0.1):
    """Like `round_of`, with updates that are alike within a task and orthogonal across tasks."""
    models, updates = round_of(tasks)
    generator = torch.Generator().manual_seed(1)
    directions = torch.linalg.qr(torch.randn(LAYOUT.P, len(models.owners), generator=generator)).Q.T
    rows = torch.stack([directions[models.owners.index(task)] for task in tasks])
    for slot in (LAYOUT.parameters[name] for name in LAYOUT.voting):
        part = torch.linalg.qr(torch.randn(slot.stop - slot.start, len(models.owners), generator=generator)).Q.T
        rows[:, slot.start : slot.stop] = torch.stack([part[models.owners.index(task)] for task in tasks])
    updates.updates_NP.copy_(rows + noise * torch.randn(rows.shape, generator=generator) / rows.shape[1] ** 0.5)
    return models, updates


def decide(name, models, updates, tasks, config=CONFIG, **parameters):
    """What the method called `name`, with some parameters changed, makes of the updates."""
    starts = [models.owners.index(task) if task in models.owners else 0 for task in tasks]
    round = Round(
        number=1,
        config=config,
        models=models,
        client_tasks=tuple(tasks),
        updates=updates,
        tasks=tuple(tasks),
        starts=tuple(starts),
    )
    return replace(METHODS[name], **parameters).mix(round)


def apply(name, models, updates, tasks, config=CONFIG, parameters=None, **options):
    chosen = METHODS[name]
    mixing = decide(name, models, updates, tasks, config, **parameters or {})
    mix(models, updates, mixing, tasks, scope=chosen.scope, **options)
    return mixing


def client_models(models, n):
    """The models of scope "client": every client starts from its number's row."""
    return Models.start(LAYOUT, models.backbone(models.owners[0]), range(n), {})


def test_registry_lists_the_methods_in_order_with_their_sources():
    families = [entry.family for entry in METHODS.values()]
    assert list(dict.fromkeys(families)) == [
        "baseline",
        "paper",
        "beyond",
        "authors",
        "grouping",
        "conflict",
        "optimisation",
        "personal",
        "robust",
    ]
    assert families == sorted(families, key=families.index)  # each family in one piece
    for name, entry in METHODS.items():
        assert entry.name == name
        assert entry.title
        assert entry.description
        assert entry.source
    assert METHODS["fedprox"].mu == 0.01
    assert METHODS["local"].scope == "client"
    assert METHODS.find("matfl") is METHODS["matfl"]
    with pytest.raises(ValueError, match=r"unknown method 'fedsgd': choose from local, single_task"):
        METHODS.find("fedsgd")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("n", [0, 1, 2, 3, 7])
@pytest.mark.parametrize("name", AVERAGES)
def test_every_method_returns_rows_that_sum_to_one_for_any_number_of_clients(name, n, dtype):
    tasks = [*"abcabca"][:n]
    models, updates = round_of(tasks)
    updates = replace(updates, updates_NP=updates.updates_NP.to(dtype))
    mixing = decide(name, models, updates, tasks)
    assert mixing.weights_NN.shape == (n, n)
    assert mixing.weights_NN.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    torch.testing.assert_close(mixing.weights_NN.sum(1).double(), torch.ones(n, dtype=torch.float64))
    assert (mixing.weights_NN >= 0).all()
    record = mixing.record()
    assert set(record) == {"weights", *mixing.diagnostics}
    if name in GROUPING:
        assert record["similarity"].shape == (2, n, n)
    if name != "local":
        mix(models, updates, mixing, tasks)


@pytest.mark.parametrize("name", AVERAGES)
def test_permuting_clients_permutes_the_weights_and_leaves_the_models(name):
    tasks = [*"abcabcab"]
    models, updates = round_of(tasks)
    order = torch.randperm(8, generator=torch.Generator().manual_seed(3)).tolist()
    shuffled, shuffled_tasks = updates.select(order), [tasks[i] for i in order]
    assert shuffled.clients == tuple(order)
    if name == "local":
        models = client_models(models, 8)
    other = replace(
        models, theta_CP=models.theta_CP.clone(), buffers_CB=models.buffers_CB.clone(), heads=dict(models.heads)
    )
    config, parameters = replace(CONFIG, k=3), {"clusters": 3} if name == "clustered" else {}
    a = apply(name, models, updates, tasks, config, parameters).weights_NN
    b = apply(name, other, shuffled, shuffled_tasks, config, parameters).weights_NN
    torch.testing.assert_close(b, a[order][:, order])
    torch.testing.assert_close(other.theta_CP, models.theta_CP)
    torch.testing.assert_close(other.buffers_CB, models.buffers_CB)
    for owner, head in models.heads.items():
        torch.testing.assert_close(other.heads[owner], head)


def test_matfl_agrees_with_the_transcription_over_a_whole_round():
    for seed, n, k in ((0, 6, 3), (1, 9, 9), (2, 11, 2), (3, 1, 1), (4, 5, 8)):
        tasks = [*"abcabcabcab"][:n]
        models, updates = round_of(tasks, seed)
        rows = updates.updates_NP.tolist()
        layers = [(s.start, s.stop) for s in (LAYOUT.parameters[name] for name in LAYOUT.voting)]
        s = naive.similarity([[row[a:b] for a, b in layers] for row in rows])
        chosen = naive.friends(naive.votes(s, min(k, n)), s, min(k, n))
        weights = naive.weights(s, chosen)
        theta = {owner: row.tolist() for owner, row in zip(models.owners, models.theta_CP)}
        expected = naive.step(theta, tasks, rows, weights)
        mixing = apply("matfl", models, updates, tasks, replace(CONFIG, k=k))
        torch.testing.assert_close(mixing.weights_NN, torch.tensor(weights), atol=1e-6, rtol=0)
        torch.testing.assert_close(
            models.theta_CP, torch.tensor([expected[o] for o in models.owners]), atol=1e-5, rtol=0
        )


def test_k_of_all_clients_with_equal_weights_is_fedavg():
    tasks = [*"aabbcc"]
    a, updates = round_of(tasks)
    b, _ = round_of(tasks)
    x = apply("matfl_uniform", a, updates, tasks, replace(CONFIG, k=6))
    y = apply("fedavg", b, updates, tasks)
    assert torch.equal(x.weights_NN, y.weights_NN)
    assert torch.equal(a.theta_CP, b.theta_CP)
    torch.testing.assert_close(y.weights_NN, torch.full((6, 6), 1 / 6))


@pytest.mark.parametrize("name", ["matfl", "matfl_uniform"])
def test_k_of_two_with_perfect_partners_is_single_task(name):
    tasks = [*"abcabc"]
    a, updates = structured(tasks, noise=0)
    b, _ = structured(tasks, noise=0)
    x = apply(name, a, updates, tasks, replace(CONFIG, k=2))
    y = apply("single_task", b, updates, tasks)
    torch.testing.assert_close(x.weights_NN, y.weights_NN)
    torch.testing.assert_close(a.theta_CP, b.theta_CP)


def test_clusters_are_the_tasks_where_updates_say_so():
    tasks = [*"abcabcabc"]
    models, updates = structured(tasks)
    mixing = decide("clustered", models, updates, tasks, clusters=3)
    single = decide("single_task", models, updates, tasks)
    torch.testing.assert_close(mixing.weights_NN, single.weights_NN)
    assert len(mixing.weights_NN.unique(dim=0)) == 3


def test_clusters_agree_with_scikit_learn():
    from sklearn.cluster import AgglomerativeClustering

    for seed in range(5):
        tasks = ["a"] * 12
        models, updates = round_of(tasks, seed)
        flat = torch.cat(
            [updates.updates_NP[:, s.start : s.stop] for s in (LAYOUT.parameters[name] for name in LAYOUT.voting)], 1
        )
        labels = AgglomerativeClustering(4, metric="cosine", linkage="average").fit_predict(flat.numpy())
        found = decide("clustered", models, updates, tasks, clusters=4).weights_NN > 0
        assert torch.equal(found, torch.tensor(labels[:, None] == labels))


def test_as_many_clusters_as_clients_and_equal_updates_still_give_exactly_that_many():
    tasks = ["a"] * 6
    models, updates = round_of(tasks)
    updates.updates_NP.copy_(updates.updates_NP[:1].expand(6, -1))
    for clusters in (1, 3, 6, 8):
        weights_NN = decide("clustered", models, updates, tasks, clusters=clusters).weights_NN
        assert len(weights_NN.unique(dim=0)) == min(clusters, 6)


def test_soft_grouping_weighs_by_cosine_above_the_threshold():
    tasks = ["a"] * 7
    models, updates = round_of(tasks)
    flat = torch.cat(
        [updates.updates_NP[:, s.start : s.stop] for s in (LAYOUT.parameters[name] for name in LAYOUT.voting)], 1
    )
    cosine = torch.cosine_similarity(flat[:, None], flat[None], dim=2)
    for threshold in (-1.0, 0.0, 0.2, 0.99):
        kept = torch.where(cosine >= threshold, cosine, 0).clamp(min=0)
        found = decide("soft_grouping", models, updates, tasks, threshold=threshold).weights_NN
        torch.testing.assert_close(found, kept / kept.sum(1, keepdim=True))


@pytest.mark.parametrize("name", SHARED)
def test_identical_clients_are_a_fixed_point(name):
    """All clients with one update move every model by that update."""
    tasks = [*"aabbb"]
    models, updates = round_of(tasks)
    update, start = updates.updates_NP[0].clone(), models.theta_CP.clone()
    updates.updates_NP.copy_(update.expand(5, -1))
    apply(name, models, updates, tasks)
    torch.testing.assert_close(models.theta_CP, start + update)


@pytest.mark.parametrize("name", SHARED)
def test_one_client_alone_takes_its_own_update(name):
    models, updates = round_of(["a"])
    local = models.theta_CP[0] + updates.updates_NP[0]
    mixing = apply(name, models, updates, ["a"])
    assert mixing.weights_NN.tolist() == [[1]]
    torch.testing.assert_close(models.theta_CP[0], local)
    assert torch.equal(models.buffers_CB[0], updates.buffers_NB[0])


def test_buffers_are_mixed_as_values_with_the_weights_of_the_updates():
    tasks = [*"aab"]
    models, updates = round_of(tasks)
    weights = apply("matfl", models, updates, tasks, replace(CONFIG, k=2)).weights_NN
    expected = torch.stack([(weights[0] + weights[1]) / 2, weights[2]]) @ updates.buffers_NB
    torch.testing.assert_close(models.buffers_CB, expected)
    assert (models.backbone("a")["norm.var"] > 0).all()


def test_weights_that_are_not_convex_move_parameters_but_keep_variances_positive():
    """As of a method that projects conflicting updates away: rows need not be convex."""
    tasks = [*"ab"]
    models, updates = round_of(tasks)
    start = models.theta_CP.clone()
    weights = torch.tensor([[1.0, -2.0], [0.0, 3.0]])
    mix(models, updates, Mixing(weights_NN=weights), tasks)
    torch.testing.assert_close(models.theta_CP, start + weights @ updates.updates_NP)
    assert torch.equal(models.buffers_CB, updates.buffers_NB)


def test_heads_are_averaged_over_a_tasks_clients():
    tasks = [*"aab"]
    models, updates = round_of(tasks)
    apply("fedavg", models, updates, tasks)
    torch.testing.assert_close(
        models.heads["a"]["weight"], (updates.heads[0]["weight"] + updates.heads[1]["weight"]) / 2
    )
    torch.testing.assert_close(models.heads["b"]["weight"], updates.heads[2]["weight"])
    assert models.heads["a"]["count"] == 1


def test_local_heads_stay_with_their_clients():
    tasks = [*"aab"]
    models, updates = round_of(tasks)
    models.heads.clear()
    apply("fedavg", models, updates, tasks, heads="local")
    assert list(models.heads) == [0, 1, 2]
    for client in range(3):
        assert torch.equal(models.heads[client]["weight"], updates.heads[client]["weight"])


def test_a_wrong_head_names_client_and_tensor():
    tasks = [*"aab"]
    models, updates = round_of(tasks)
    heads = (
        {"weight": torch.zeros(2, 2), "count": torch.tensor(0)},
        {"weight": torch.zeros(3), "count": torch.tensor(0)},
    )
    bad = replace(updates, heads=(*heads, updates.heads[2]))
    with pytest.raises(ValueError, match=r"client 1: tensor 'weight' of the head has shape \(3,\).*\(2, 2\)"):
        apply("fedavg", models, bad, tasks)
    bad = replace(updates, heads=(heads[0], {"weight": torch.zeros(2, 2)}, updates.heads[2]))
    with pytest.raises(ValueError, match=r"client 1: tensor 'count' of the head is missing"):
        apply("fedavg", models, bad, tasks)


def test_local_keeps_every_client_apart():
    tasks = [*"aab"]
    models, updates = round_of(tasks)
    own = client_models(models, 5)
    start = own.theta_CP.clone()
    some = updates.select([0, 2])
    apply("local", own, some, ["a", "b"])
    for row, client in enumerate((0, 2)):
        torch.testing.assert_close(own.theta_CP[client], start[client] + some.updates_NP[row])
        assert torch.equal(own.buffers_CB[client], some.buffers_NB[row])
        assert torch.equal(own.heads[client]["weight"], some.heads[row]["weight"])
    for client in (1, 3, 4):
        assert torch.equal(own.theta_CP[client], start[client])
    assert set(own.heads) == {0, 2}


@pytest.mark.parametrize("name", SHARED)
def test_a_task_without_replies_keeps_its_model_to_the_bit(name):
    tasks = [*"aabbbc"]
    models, updates = round_of(tasks)
    start, heads = (models.theta_CP.clone(), models.buffers_CB.clone()), dict(models.heads)
    some = updates.select([0, 5])
    apply(name, models, some, ["a", "c"])
    b = models.owners.index("b")
    assert torch.equal(models.theta_CP[b], start[0][b])
    assert torch.equal(models.buffers_CB[b], start[1][b])
    assert models.heads["b"] is heads["b"]
    assert not torch.equal(models.theta_CP[0], start[0][0])


@pytest.mark.parametrize("name", SHARED)
def test_a_round_without_replies_changes_nothing(name):
    models, updates = round_of([*"ab"])
    start = models.theta_CP.clone()
    apply(name, models, updates.select([]), [])
    assert torch.equal(models.theta_CP, start)


@pytest.mark.parametrize("name", SHARED)
def test_streamed_updates_give_the_models_of_updates_in_memory(name, tmp_path, monkeypatch):
    """Not to the bit: the pieces in which columns come change the order of sums."""
    for module in ("files", "updates"):
        monkeypatch.setattr(f"matfl.server.{module}.WINDOW", 5)
    tasks = [*"abcabca"]
    a, updates = round_of(tasks)
    b, _ = round_of(tasks)
    files = {}
    for row, client in enumerate(updates.clients):
        local = LAYOUT.unflatten(updates.updates_NP[row], updates.buffers_NB[row])
        files[client] = tmp_path / str(client)
        save_update(
            files[client],
            LAYOUT,
            ClientUpdate(client=client, state=local, start_P=torch.zeros(LAYOUT.P), head=updates.heads[row]),
        )
    streamed, dropped = screen(Updates.stream(LAYOUT, files, memory=1))
    assert dropped == {}
    x, y = apply(name, a, updates, tasks), apply(name, b, streamed, tasks)
    torch.testing.assert_close(y.weights_NN, x.weights_NN, atol=1e-7, rtol=0)
    torch.testing.assert_close(b.theta_CP, a.theta_CP, atol=1e-6, rtol=0)
    torch.testing.assert_close(b.buffers_CB, a.buffers_CB, atol=1e-6, rtol=0)
    torch.testing.assert_close(b.heads["a"], a.heads["a"])


def test_a_method_of_ones_own_is_a_function():
    try:

        @method(title="Nearest", description="the one before")
        def nearest(round):
            weights_NN = torch.eye(round.n).roll(1, 0)
            return Mixing(weights_NN=weights_NN, diagnostics={"k": torch.tensor(round.config.k)})

        assert isinstance(nearest, Method)
        assert METHODS["nearest"] is nearest
        assert (nearest.title, nearest.family, nearest.scope) == ("Nearest", "own", "task")
        models, updates = round_of([*"ab"])
        start = models.theta_CP.clone()
        mixing = apply("nearest", models, updates, [*"ab"])
        torch.testing.assert_close(models.theta_CP, start + updates.updates_NP.flip(0))
        assert mixing.record()["k"] == 8

        @method(title="Again")  # as when a cell runs twice
        def nearest(round):
            return torch.eye(round.n)

        assert METHODS["nearest"].title == "Again"
        assert torch.equal(decide("nearest", models, updates, [*"ab"]).weights_NN, torch.eye(2))
    finally:
        METHODS.remove("nearest")
    with pytest.raises(PluginError, match="'fedavg' is one of the package's methods: choose another name"):

        @method(title="Mine")
        def fedavg(round):
            return torch.eye(round.n)

    with pytest.raises(PluginError, match="cannot be removed"):
        METHODS.remove("fedavg")


def test_a_method_of_ones_own_has_parameters_that_are_its_fields():
    try:

        @register
        @dataclass(frozen=True, kw_only=True)
        class Scaled(Method):
            name, title = "scaled", "Scaled"
            factor: float = 2.0

            def mix(self, round):
                return Mixing(weights_NN=self.factor * torch.eye(round.n))

        models, updates = round_of([*"ab"])
        assert torch.equal(decide("scaled", models, updates, [*"ab"]).weights_NN, 2 * torch.eye(2))
        assert torch.equal(decide("scaled", models, updates, [*"ab"], factor=3.0).weights_NN, 3 * torch.eye(2))
        assert METHODS["scaled"] == Scaled()
    finally:
        METHODS.remove("scaled")


@pytest.mark.parametrize(
    "name,parameter,value,match",
    [
        ("fedprox", "mu", -1.0, r"fedprox.mu=-1.0: choose a number of at least 0"),
        ("fedprox", "mu", float("nan"), "fedprox.mu=nan"),
        ("clustered", "clusters", 0, "clustered.clusters=0: must be at least 1"),
        ("soft_grouping", "threshold", 1.0, r"soft_grouping.threshold=1.0: choose a cosine in \[-1, 1\)"),
    ],
)
def test_parameters_out_of_range_are_refused(name, parameter, value, match):
    with pytest.raises(ValueError, match=match):
        replace(METHODS[name], **{parameter: value})


def test_more_clusters_than_clients_do_not_fit_a_run():
    with pytest.raises(ValueError, match=r"clustered.clusters=19: choose 1..18, the number of clients"):
        replace(METHODS["clustered"], clusters=19).check(CONFIG)


def test_mix_refuses_weights_and_tasks_that_do_not_fit():
    tasks = [*"ab"]
    models, updates = round_of(tasks)
    for weights in (torch.eye(3), torch.full((2, 2), torch.nan)):
        with pytest.raises(ValueError, match=r"must return finite weights of shape \(2, 2\)"):
            mix(models, updates, Mixing(weights_NN=weights), tasks)
    with pytest.raises(ValueError, match="1 tasks for 2 clients"):
        mix(models, updates, Mixing(weights_NN=torch.eye(2)), ["a"])
    with pytest.raises(ValueError, match="no model belongs to 'z': the models' owners are a, b"):
        mix(models, updates, Mixing(weights_NN=torch.eye(2)), ["a", "z"])
    with pytest.raises(ValueError, match="no model belongs to 0"):
        mix(models, updates, Mixing(weights_NN=torch.eye(2)), tasks, scope="client")


def test_models_check_their_parts():
    models, _ = round_of([*"ab"])
    with pytest.raises(ValueError, match=r"theta_CP has shape .* but 1 models"):
        replace(models, owners=("a",))
    with pytest.raises(ValueError, match="give each owner once"):
        replace(models, owners=("a", "a"))


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_screening_names_clients_and_tensors_and_drops_them(value):
    _, updates = round_of([*"abcabc"])
    updates.updates_NP[1, LAYOUT.parameters["conv1"].start + 2] = value
    updates.buffers_NB[2, LAYOUT.buffers["norm.var"].stop - 1] = value
    updates.heads[4]["weight"][0, 0] = value
    updates.updates_NP[5] = 0
    kept, dropped = screen(updates, expected=[*range(6), 9])
    assert kept.clients == (0, 3, 5)
    assert kept.zero == (5,)
    assert set(dropped) == {1, 2, 4, 9}
    assert "'conv1'" in dropped[1]
    assert "'norm.var'" in dropped[2]
    assert "'head.weight'" in dropped[4]
    assert dropped[9] == "no reply"
    assert torch.equal(kept.updates_NP, updates.updates_NP[[0, 3, 5]])


def test_screening_keeps_healthy_clients_without_a_copy():
    _, updates = round_of([*"ab"])
    updates.updates_NP[0, 0] = 1e10
    kept, dropped = screen(updates)
    assert dropped == {}
    assert kept.updates_NP is updates.updates_NP
    assert kept.zero == ()


def test_screening_of_files_names_what_cannot_be_read_or_is_not_finite(tmp_path, monkeypatch):
    for module in ("files", "updates"):
        monkeypatch.setattr(f"matfl.server.{module}.WINDOW", 5)
    _, updates = round_of([*"abc"])
    updates.updates_NP[2, LAYOUT.parameters["conv2"].start] = torch.inf
    files = {client: tmp_path / str(client) for client in range(3)}
    for row in (0, 2):
        state = LAYOUT.unflatten(updates.updates_NP[row], updates.buffers_NB[row])
        save_update(files[row], LAYOUT, ClientUpdate(client=row, state=state, start_P=torch.zeros(LAYOUT.P)))
    kept, dropped = screen(Updates.stream(LAYOUT, files, memory=1), expected=range(4))
    assert kept.clients == (0,)
    assert set(dropped) == {1, 2, 3}
    assert "No such file" in dropped[1]
    assert "'conv2'" in dropped[2]
    assert dropped[3] == "no reply"


def test_screening_nobody():
    _, updates = round_of([*"ab"])
    kept, dropped = screen(updates.select([]), expected=(0, 1))
    assert kept.clients == ()
    assert dropped == {0: "no reply", 1: "no reply"}
