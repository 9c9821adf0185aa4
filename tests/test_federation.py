"""Rounds against an independent simulation, fixed points, participation, failures, and runs that stop and go on."""

import warnings
from dataclasses import asdict

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tiny import contents, tiny

from matfl import scenes
from matfl.client import training as local
from matfl.data import Client, partition
from matfl.data.start_bias import start_biases
from matfl.models.network import build, start_head
from matfl.models.starts import start_backbone
from matfl.paper.studies.origins import mixed_origins
from matfl.runs import engine as federation
from matfl.runs import store
from matfl.runs.clients import client_round
from matfl.runs.rounding import rounding
from matfl.runs.run import Run
from matfl.server.methods import METHODS
from matfl.server.server import Reply, Server
from matfl.tasks.task import pairs


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def train(tmp_path, cache):
    """train(name, **changes): a finished tiny run."""

    def train(name="run", **changes):
        options = {key: changes.pop(key) for key in ("progress", "stop", "fresh") if key in changes}
        config = tiny(**changes)
        federation.run(config, tmp_path / name, device="cpu", cache_dir=cache, **options)
        return Run(tmp_path / name)

    return train


@pytest.fixture(scope="module")
def trained(tmp_path_factory, cache):
    """trained(**changes): a finished tiny run that several tests look at."""
    base, runs = tmp_path_factory.mktemp("runs"), {}

    def trained(**changes):
        config = tiny(**changes)
        if config not in runs:
            federation.run(config, base / config.name, device="cpu", cache_dir=cache)
            runs[config] = Run(base / config.name)
        return runs[config]

    return trained


def _norm(tensors):
    return torch.cat([t.flatten().double() for t in tensors.values()]).norm()


def weights(run):
    return load_file(run.path / "checkpoint.safetensors")


def assert_close(one, two, **tolerance):
    assert one.keys() == two.keys()
    for name in one:
        torch.testing.assert_close(one[name], two[name], msg=lambda m, name=name: f"{name}: {m}", **tolerance)


def by_hand(config, cache, participants):
    """Many-task FedAvg as one would write it down: the mean update of everybody, the mean head of each task."""
    torch.manual_seed(0)
    splits = federation.load_splits(config, cache_dir=cache)
    clients = partition(config, {name: both["train"] for name, both in splits.items()})
    biases = start_biases(clients, splits)
    server = {}
    for pair in pairs(config.tasks):
        model = build(config, pair)
        model.backbone.load_state_dict(start_backbone(config, cache_dir=cache))
        model.head.load_state_dict(start_head(config, pair, bias=biases.get(pair.name)))
        server[pair.name] = {name: t.clone() for name, t in model.state_dict().items()}
    losses, metrics = [], []
    for round in range(config.rounds):
        trained = {}
        for client in (clients[i] for i in participants(round + 1)):
            model = build(config, client.pair)
            model.load_state_dict(server[client.pair.name])
            split = splits[client.pair.domain.name]
            images, targets = split["train"].tensors(client.pair.task.name, client.images)
            result = local.train(model, images, targets, client.pair, config, round=round + 1, client=client.index)
            trained[client.index] = (client.pair.name, {n: t.clone() for n, t in model.state_dict().items()})
            losses.append(result.loss)
        before = {name: {n: t.clone() for n, t in state.items()} for name, state in server.items()}
        is_parameter = {name for name, _ in model.named_parameters()}
        for task, state in server.items():
            mine = [after for name, after in trained.values() if name == task]
            for name, tensor in state.items():
                if not tensor.is_floating_point() or not mine:
                    continue
                if name.startswith("head."):
                    tensor.copy_(torch.stack([after[name] for after in mine]).mean(0))
                elif name in is_parameter:
                    state[name] = tensor + torch.stack(
                        [after[name] - before[t][name] for t, after in trained.values()]
                    ).mean(0)
                else:
                    tensor.copy_(torch.stack([after[name] for _, after in trained.values()]).mean(0))
    for pair in pairs(config.tasks):
        model = build(config, pair)
        model.load_state_dict(server[pair.name])
        measured = local.evaluate(model, splits[pair.domain.name]["val"], pair, config, device="cpu")
        metrics += [(config.rounds, pair.name, name, value) for name, value in measured.items()]
    return server, losses, metrics


@pytest.mark.parametrize("participation, rounds, off", [(1.0, 1, 1e-5), (0.75, 1, 1e-5), (0.75, 3, 2e-2)])
def test_fedavg_equals_a_loop_written_by_hand(trained, cache, participation, rounds, off):
    """`off`: distance to the loop's weights in parts of the way from the start. Adam turns the last bit of a small
    gradient into a step of full size, so that rounding grows from round to round."""
    run = trained(method="fedavg", participation=participation, rounds=rounds)
    chosen = [row["participants"] for row in run.rounds]
    server, losses, metrics = by_hand(run.config, cache, lambda round: chosen[round - 1])
    start = start_backbone(run.config)
    stored = weights(run)
    for task, state in server.items():
        way = {name: state[f"backbone.{name}"] - start[name] for name in start if start[name].is_floating_point()}
        gap = {name: stored[f"{task}/backbone.{name}"] - state[f"backbone.{name}"] for name in way}
        assert _norm(gap) < off * _norm(way)
        assert _norm(way) > 0.1
        heads = [name for name in state if name.startswith("head.") and state[name].is_floating_point()]
        assert _norm({n: stored[f"{task}/{n}"] - state[n] for n in heads}) < off * _norm({n: state[n] for n in heads})
    assert [c["loss"] for row in run.rounds for c in row["clients"]] == pytest.approx(losses, rel=off)
    last = run.metrics[(run.metrics["round"] == run.config.rounds) & (run.metrics["kind"] == "global")]
    values = dict(zip(last["domain"] + "/" + last["task"] + last["metric"], last["value"]))
    assert values == {task + name: pytest.approx(value, rel=5 * off, abs=off) for _, task, name, value in metrics}


def test_a_group_of_all_with_equal_weights_is_fedavg(trained):
    one, two = trained(method="matfl_uniform", k=4, rounds=1), trained(method="fedavg", rounds=1)
    assert_close(weights(one), weights(two), rtol=1e-4, atol=1e-6)


def test_one_client_a_task_with_itself_as_friend_is_single_task_and_local(trained):
    runs = [trained(method=method, clients_per_task=1, k=1, rounds=2) for method in ("matfl", "single_task")]
    assert_close(weights(runs[0]), weights(runs[1]), rtol=0, atol=0)
    alone = weights(trained(method="local", clients_per_task=1, k=1, rounds=2))
    for index, task in enumerate(("outdoor/semseg", "indoor/depth")):
        mine = {n.removeprefix(f"{task}/"): t for n, t in weights(runs[0]).items() if n.startswith(f"{task}/")}
        own = {n.removeprefix(f"client-{index}/"): t for n, t in alone.items() if n.startswith(f"client-{index}/")}
        assert_close(mine, own, rtol=1e-5, atol=1e-7)


def test_what_is_mixed_matters_where_tasks_mix_alone(trained):
    """Clients of a task start alike, so single-task FL, and plain averaging from one start, are the same either way."""
    for method, alike in (("single_task", True), ("fedavg", True), ("matfl", False)):
        updates, mixed = (trained(method=method, mixes=mixes) for mixes in ("updates", "weights"))
        close = [torch.allclose(weights(updates)[n], t, rtol=1e-4, atol=1e-6) for n, t in weights(mixed).items()]
        assert all(close) is alike
    with pytest.raises(ValueError, match="mixes='weights': this method has no one average"):
        trained(method="median", mixes="weights")


def test_kept_moments_matter_from_the_second_round_on_and_stay_with_the_client(trained):
    first, kept = (trained(rounds=1, client_moments=how) for how in ("anew", "kept"))
    assert_close(weights(first), {n: t for n, t in weights(kept).items() if "moments." not in n}, rtol=0, atol=0)
    second, later = (trained(rounds=2, client_moments=how) for how in ("anew", "kept"))
    name = "outdoor/semseg/backbone.conv1.weight"
    assert not torch.equal(weights(second)[name], weights(later)[name])
    assert [row["bytes_up"] for row in later.rounds] == [row["bytes_up"] for row in second.rounds]


def test_the_proximal_term_changes_training_by_its_strength(trained):
    plain, without, proximal = (
        weights(trained(rounds=1, **changes))
        for changes in (
            {"method": "fedavg"},
            {"method": "fedprox", "fedprox.mu": 0.0},
            {"method": "fedprox", "fedprox.mu": 5.0},
        )
    )
    assert_close(plain, without, rtol=0, atol=0)
    name = "outdoor/semseg/backbone.conv1.weight"
    assert not torch.equal(plain[name], proximal[name])


@pytest.mark.parametrize(
    "changes",
    [
        {"method": "matfl"},
        {"method": "local"},
        {"heads": "local", "participation": 0.5},
        {"client_moments": "kept", "mixes": "weights", "participation": 0.5},
        {"method": "ditto", "client_moments": "kept"},
    ],
    ids=str,
)
def test_a_run_that_stops_after_every_round_ends_as_one_that_never_stopped(train, trained, changes):
    whole = trained(**changes)
    parts = train("parts", stop=lambda: True, **changes)
    assert len(parts.rounds) == 1
    assert not parts.finished
    for _ in range(2):
        train("parts", stop=lambda: True, **changes)
    parts = Run(parts.path)
    assert parts.finished
    assert contents(parts.path) == contents(whole.path)
    without_times = [
        [{**row, "seconds": 0, "clients": [{**c, "seconds": 0} for c in row["clients"]]} for row in run.rounds]
        for run in (whole, parts)
    ]
    assert without_times[0] == without_times[1]
    assert [session["from_round"] for session in parts.provenance["resumed"]] == [1, 2]


def test_a_finished_run_is_left_alone_unless_it_shall_be_fresh(train):
    run = train(rounds=1)
    before, stored = (run.path / "checkpoint.safetensors").stat().st_mtime_ns, contents(run.path)
    train(rounds=1)
    assert (run.path / "checkpoint.safetensors").stat().st_mtime_ns == before
    assert contents(train(rounds=1, fresh=True).path) == stored
    assert (run.path / "checkpoint.safetensors").stat().st_mtime_ns > before


def test_a_run_whose_state_file_was_not_written_any_more_is_finished(train):
    run = train(rounds=1)
    (run.path / "state.json").unlink()
    assert run.finished
    train(rounds=1)
    assert (run.path / "state.json").exists()


def test_threads_of_the_caller_change_nothing(train, trained):
    threads = torch.get_num_threads()
    one = trained(rounds=1)
    torch.set_num_threads(2)
    try:
        two = train("two", rounds=1)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)
    assert contents(one.path) == contents(two.path)


def test_what_a_run_records(trained):
    run = trained(method="matfl")
    n, layers, rounds = 4, 8, 3
    shapes = {
        "participants": (rounds, n),
        "weights": (rounds, n, n),
        "similarity": (rounds, layers, n, n),
        "votes": (rounds, layers, n, n),
        "friends": (rounds, n, n),
        "cos_start": (rounds, n),
        "norms": (rounds, n),
        "cosines": (rounds, n, n),
        "client_pairs": (n,),
        "layers": (layers,),
    }
    assert {name: array.shape for name, array in run.diagnostics.items()} == shapes
    stored = run.diagnostics
    assert stored["client_pairs"].tolist() == ["outdoor/semseg"] * 2 + ["indoor/depth"] * 2
    np.testing.assert_allclose(stored["weights"].sum(2), 1, atol=1e-5)
    assert (stored["friends"].sum(2) == 2).all()
    assert stored["participants"].all()
    np.testing.assert_array_equal(np.sort(stored["votes"], axis=3)[..., ::-1][..., :2], [2, 1] * np.ones((3, 8, 4, 1)))
    assert (np.diagonal(stored["similarity"], axis1=2, axis2=3) == 1).all()
    assert (np.abs(stored["cos_start"]) <= 1).all()
    assert (stored["norms"] > 0).all()
    assert (np.abs(stored["cosines"].astype(float)) <= 1).all()
    assert (np.diagonal(stored["cosines"], axis1=1, axis2=2) == 1).all()
    rows = run.metrics.drop_duplicates(["round", "kind", "client"])[["round", "kind", "client"]]
    assert rows.value_counts().eq(1).all()
    assert sorted(map(tuple, rows.to_numpy())) == sorted(
        [(r, "local", c) for r in (2, 3) for c in range(4)] + [(r, "global", -1) for r in (2, 3)]
    )
    assert run.rounds[0]["seconds"].keys() == {"train", "mix", "evaluate"}
    assert run.rounds[0]["seconds"]["evaluate"] == 0 < run.rounds[1]["seconds"]["evaluate"]
    assert run.provenance["data"] == {"scenes": scenes.VERSION, "arithmetic": {"augmentation": 2}}
    assert run.provenance["threads"] == 1
    assert run.provenance["rounding"] == rounding("cpu")
    assert not any("/" in str(value) for value in run.provenance.values() if not isinstance(value, dict))


def test_on_a_gpu_kernels_repeat_without_filling_memory_and_the_callers_settings_come_back(monkeypatch):
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":16:8")
    memory = torch.utils.deterministic

    def settings():
        strict, warns = (
            torch.are_deterministic_algorithms_enabled(),
            torch.is_deterministic_algorithms_warn_only_enabled(),
        )
        return strict, warns, memory.fill_uninitialized_memory, torch.get_num_threads()

    before = settings()
    assert before[:3] == (False, False, True)
    with federation.repeatable(torch.device("cuda")):
        assert settings() == (True, True, False, before[3])
    assert settings() == before
    with federation.repeatable(torch.device("cpu")):
        assert settings() == (False, False, True, 1)
    assert settings() == before


def test_runs_that_differ_in_the_servers_part_begin_with_the_same_loss(trained):
    plain = [trained(method=name) for name in ("single_task", "fedavg", "matfl", "scaffold", "local")]
    others = [trained(method="fedavg", server_lr=2.0), trained(method="fedprox")]
    assert len({run.rounds[0]["loss"] for run in plain + others[:1]}) == 1
    assert mixed_origins(plain + others) == []


def test_bytes_are_those_of_the_floating_point_tensors(trained):
    run = trained(method="matfl")
    one = {n: t for n, t in weights(run).items() if n.startswith("outdoor/semseg/") and t.is_floating_point()}
    two = {n: t for n, t in weights(run).items() if n.startswith("indoor/depth/") and t.is_floating_point()}
    expected = 2 * sum(4 * t.numel() for t in (*one.values(), *two.values()))
    assert [row["bytes_up"] for row in run.rounds] == [row["bytes_down"] for row in run.rounds] == [expected] * 3
    heads = trained(heads="local", participation=0.5).rounds[0]["bytes_up"]
    backbones = sum(4 * t.numel() for n, t in {**one, **two}.items() if "/backbone." in n)
    assert heads == backbones  # two of the four clients
    assert trained(method="local").rounds[0]["bytes_up"] == 0


@pytest.mark.slow
def test_bytes_count_what_methods_send_beside_a_model_and_models_of_clients(trained, cache):
    def sent(method):
        row = trained(method=method).rounds[-1]
        assert sum(client["bytes"] for client in row["clients"]) == row["bytes_up"]
        return row["bytes_down"], row["bytes_up"]

    layout = Server(tiny(), pairs("outdoor/semseg,indoor/depth")).layout
    backbones = 4 * 4 * (layout.P + layout.B)
    down, up = sent("fedavg")
    assert sent("scaffold") == (down + 4 * 4 * layout.P, up + 4 * 4 * layout.P)
    assert sent("fedamp") == sent("authors_soft") == (backbones, backbones)  # heads stay
    assert sent("ditto") == (down, up)
    assert sent("fedper") == (backbones, backbones)
    assert sent("ifca") == (3 * backbones, backbones + 4 * (8 + 2 * 8))
    fomo_down, fomo_up = sent("fedfomo")
    assert fomo_down == backbones * (1 + 3) + 4 * 3 * 8  # all three others' models, and whose they are
    assert fomo_up == backbones + 4 * 4 * 8


@pytest.mark.parametrize("changes", [{"method": "local"}, {"heads": "local", "participation": 0.5}], ids=str)
def test_clients_with_models_of_their_own_are_evaluated_one_by_one(trained, changes):
    metrics = trained(**changes).metrics
    assert sorted(metrics[metrics["kind"] == "global"]["client"].unique()) == [0, 1, 2, 3]


def test_local_training_alone_means_the_same_before_and_after_aggregation(trained):
    metrics = trained(method="local").metrics
    sides = [
        metrics[metrics["kind"] == kind].set_index(["round", "client", "metric"])["value"].sort_index()
        for kind in ("local", "global")
    ]
    np.testing.assert_allclose(sides[0], sides[1], rtol=0.02, atol=0.02)
    assert sides[0].index.equals(sides[1].index)
    assert not np.allclose(sides[0], sides[0].mean())


def test_participation(trained):
    run = trained(participation=0.5, rounds=5)
    present = run.diagnostics["participants"]
    assert (present.sum(1) == 2).all()
    assert len({tuple(row) for row in present}) > 1
    assert [row["participants"] for row in run.rounds] == [np.flatnonzero(row).tolist() for row in present]
    absent = ~present
    assert np.isnan(run.diagnostics["cos_start"][absent]).all()
    assert not run.diagnostics["weights"][absent].any()
    assert run.rounds[0]["participants"] == trained(participation=0.5, rounds=1).rounds[0]["participants"]
    assert trained(participation=0.01, rounds=1).diagnostics["participants"].sum() == 1


def test_a_task_without_participants_keeps_its_model(train):
    seeds = (
        seed
        for seed in range(99)
        if set(Server(c := tiny(participation=0.5, rounds=1, seed=seed), _pairs(c)).participants(0)) == {0, 1}
    )
    seed = next(seeds)
    run = train(participation=0.5, rounds=1, seed=seed)
    start = start_backbone(run.config)
    for name, tensor in weights(run).items():
        if name.startswith("indoor/depth/backbone."):
            assert torch.equal(tensor, start[name.removeprefix("indoor/depth/backbone.")]), name


def _pairs(config):
    return [pair for pair in pairs(config.tasks) for _ in range(config.clients_per_task)]


@pytest.mark.parametrize("method, how", [("fedavg", "loss"), ("matfl", "weights")])
def test_a_client_that_breaks_down_is_left_out_and_recorded(train, monkeypatch, method, how):
    intact = local.train

    def breaking(model, images, targets, pair, config, *, round, client, **others):
        result = intact(model, images, targets, pair, config, round=round, client=client, **others)
        if client == 1 and round == 2:
            if how == "loss":
                raise FloatingPointError("the loss is not finite")
            next(model.backbone.parameters()).data.view(-1)[3] = float("nan")
        return result

    monkeypatch.setattr(local, "train", breaking)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        run = train(method=method, rounds=2)
    assert [row["participants"] for row in run.rounds] == [[0, 1, 2, 3], [0, 2, 3]]
    assert run.rounds[1]["excluded"] == {
        "1": "its loss is not finite" if how == "loss" else "NaN or infinity in the update of 'conv1.weight'"
    }
    assert run.diagnostics["participants"].tolist()[1] == [True, False, True, True]
    assert all(t.isfinite().all() for t in weights(run).values() if t.is_floating_point())
    local_rows = run.metrics[(run.metrics["kind"] == "local") & (run.metrics["round"] == 2)]
    assert sorted(local_rows["client"].unique()) == [0, 2, 3]


def test_when_everybody_breaks_down_the_models_stay(train, monkeypatch):
    def breaking(*args, **kwargs):
        raise FloatingPointError("the loss is not finite")

    monkeypatch.setattr(local, "train", breaking)
    with pytest.warns(UserWarning, match="left out"):
        run = train(rounds=1)
    assert run.rounds[0]["loss"] is None
    assert len(run.rounds[0]["excluded"]) == 4
    start = start_backbone(run.config)
    assert torch.equal(weights(run)["outdoor/semseg/backbone.conv1.weight"], start["conv1.weight"])


@pytest.mark.parametrize("changes", [{}, {"method": "local"}, {"heads": "local"}], ids=str)
def test_packing_is_undone_by_unpacking(changes):
    config = tiny(**changes)
    server = Server(config, _pairs(config))
    state = server.start(start_backbone(config), biases={"indoor/depth": (3.5,)})
    state.models.theta_CP.add_(torch.arange(len(state.models.owners))[:, None])
    packed = {name: t.clone() for name, t in server.pack(state).items()}
    again = server.unpack(packed, 7)
    assert again.rounds_done == 7
    assert_close(server.pack(again), packed, rtol=0, atol=0)
    for client in range(4):
        assert_close(server.dispatch(again, client), server.dispatch(state, client), rtol=0, atol=0)


def test_replies_that_do_not_come_are_recorded():
    config = tiny(method="fedavg")
    server = Server(config, _pairs(config))
    state = server.start(start_backbone(config))
    before = {name: t.clone() for name, t in server.dispatch(state, 0).items()}
    trained = {name: t + 1 if t.is_floating_point() else t for name, t in before.items()}
    collection = server.begin(state)
    assert collection.add(Reply(client=0, state=trained, loss=0.5, images=4, seconds=1.0)) is None
    after, record = collection.finish()
    assert after.rounds_done == 1
    assert_close(server.dispatch(state, 0), before, rtol=0, atol=0)
    assert record.loss == 0.5
    assert record.row["participants"] == [0]
    assert set(record.row["excluded"]) == {"1", "2", "3"}
    moved = server.dispatch(after, 0)
    torch.testing.assert_close(moved["backbone.conv1.weight"], before["backbone.conv1.weight"] + 1)
    torch.testing.assert_close(moved["head.last.bias"], before["head.last.bias"] + 1)


def test_depth_heads_start_at_the_mean_depth_of_their_clients(cache):
    config = tiny()
    splits = federation.load_splits(config, cache_dir=cache)
    clients = partition(config, {name: both["train"] for name, both in splits.items()})
    biases = start_biases(clients, splits)
    labels = np.concatenate(
        [splits["indoor"]["train"].labels["depth"][i].ravel() for c in clients[2:] for i in c.images]
    )
    assert biases == {"indoor/depth": (pytest.approx(labels[labels != 0].astype(float).mean()),)}
    state = Server(config, _pairs(config)).start(start_backbone(config), biases=biases)
    assert state.models.heads["indoor/depth"]["last.bias"].tolist() == pytest.approx(list(biases["indoor/depth"]))


def test_a_client_trains_from_what_it_was_sent(cache):
    config = tiny()
    splits = federation.load_splits(config, cache_dir=cache)
    pair = pairs(config.tasks)[0]
    client = Client(0, pair, (0, 1, 2))
    model = build(config, pair)
    sent = {name: t + 0.01 if t.is_floating_point() else t.clone() for name, t in model.state_dict().items()}
    kept = {name: t.clone() for name, t in sent.items()}
    split, method = splits["outdoor"]["train"], METHODS["fedavg"]
    replies = [client_round(model, sent, client, split, config, method=method, round=1).reply for _ in "ab"]
    assert replies[0].loss == replies[1].loss
    assert replies[0].images == 2
    assert_close(sent, kept, rtol=0, atol=0)


def test_progress_is_reported_in_order(train):
    events = []
    train(progress=events.append, rounds=2)
    expected = [
        (r, phase, i)
        for r in (1, 2)
        for phase, count in (("train", 4), ("evaluate", 0 if r == 1 else 2), ("done", 1))
        for i in range(1, count + 1)
    ]
    assert [(e.round, e.phase, e.done) for e in events] == expected
    assert all(e.rounds == 2 and np.isfinite(e.loss) for e in events)


def test_errors_come_before_training(train, tmp_path, cache):
    with pytest.raises(ValueError, match="unknown method 'nope': choose from local, single_task"):
        train(method="nope")
    with pytest.raises(ValueError, match=r"device='cuda:99' cannot be used here"):
        federation.run(tiny(), tmp_path / "x", device="cuda:99", cache_dir=cache)
    with pytest.raises(ValueError, match="has no image to train on"):
        train("few", images_train=1)


def test_a_run_begun_with_other_pictures_is_refused(train, monkeypatch):
    run = train(stop=lambda: True)
    monkeypatch.setattr(scenes, "VERSION", scenes.VERSION + 1)
    with pytest.raises(store.RunError, match=r"begun with other data \(version of the rendered pictures: "):
        train()
    assert asdict(run.config) == asdict(tiny())
