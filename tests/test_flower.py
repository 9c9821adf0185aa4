"""Federations on Flower in one process: equal to the local engine, faults, resuming, discovery, settings."""

import importlib
import subprocess
import sys
import warnings

import numpy as np
import own_data
import pytest
import torch
from own_method import PLUGIN
from safetensors.torch import load_file
from tiny import contents, settings_text, tiny

pytest.importorskip("flwr")

from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, MetricRecord, RecordDict
from inprocess import InProcessGrid, wire_bytes

from matfl.cli import report
from matfl.client import training as local
from matfl.config.run_config import preset
from matfl.data import load_split, make, partition
from matfl.data.start_bias import start_biases
from matfl.flower import ManyTask, NodeSettings, Settings, client_app, federation
from matfl.flower.client import share, without_paths
from matfl.flower.exchange import metric_rows
from matfl.flower.nodes import Nodes
from matfl.flower.settings import client_pairs, run_config
from matfl.runs import engine, store
from matfl.runs.run import Run
from matfl.server.methods import METHODS
from matfl.server.server import Server
from matfl.server.spool import FileRows


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def quick_polls(monkeypatch):
    monkeypatch.setattr("matfl.flower.nodes.RETRY", 0.0)


def app_config(config, **keys):
    """The keys of flower_app that make `config`."""
    settings = settings_text(config, preset("smoke"))
    return {
        "preset": "smoke",
        "method": config.method,
        "settings": settings,
        "device": "cpu",
        "discovery-timeout": 0.2,
        **keys,
    }


def nodes_of(config, cache, **more):
    n = config.num_clients
    return [
        {"partition-id": i, "num-partitions": n, "cache-dir": str(cache), "device": "cpu", **more} for i in range(n)
    ]


@pytest.fixture
def federate(tmp_path, cache):
    """federate(name, ...): a federated tiny run; `grid` is the last grid."""

    def federate(name="flower", *, fault=None, order=0, nodes=None, keys=None, **changes):
        config = tiny(**changes)
        app = app_config(config, **{"runs-dir": str(tmp_path / name), "run-name": "run", **(keys or {})})
        assert run_config(app) == config
        federate.grid = InProcessGrid(client_app, app, nodes or nodes_of(config, cache), fault=fault, order=order)
        return Run(federation(federate.grid, Settings.of(app)))

    return federate


@pytest.fixture(scope="module")
def alone(tmp_path_factory, cache):
    """alone(**changes): the same run by the local engine."""
    base, runs = tmp_path_factory.mktemp("alone"), {}

    def alone(**changes):
        config = tiny(**changes)
        if config not in runs:
            engine.run(config, base / config.name, device="cpu", cache_dir=cache)
            runs[config] = Run(base / config.name)
        return runs[config]

    return alone


def weights(run):
    return load_file(run.path / "checkpoint.safetensors")


def test_own_tasks_and_data_are_federated_as_they_are_run_alone(federate, alone):
    own_data.register()
    try:
        changes = {"tasks": "slopes", "k": 2, "size": 0, "images_train": 0, "images_val": 0, "rounds": 1}
        assert federate(**changes).metrics.equals(alone(**changes).metrics)
    finally:
        own_data.forget()


@pytest.mark.parametrize(
    "changes",
    [
        {"method": "matfl", "rounds": 2},
        {"method": "local", "rounds": 1},
        {"method": "fedprox", "fedprox.mu": 5.0, "rounds": 1},
        {"method": "clustered", "heads": "local", "participation": 0.75, "rounds": 2},
    ],
    ids=lambda changes: changes["method"],
)
@pytest.mark.parametrize("order", [1])
def test_a_federation_equals_the_local_run_bit_for_bit(federate, alone, changes, order):
    run, expected = federate(order=order, **changes), alone(**changes)
    assert contents(run.path) == contents(expected.path)
    for mine, theirs in zip(run.rounds, expected.rounds, strict=True):
        assert {key: mine[key] for key in theirs if key not in ("seconds", "clients")} == {
            key: theirs[key] for key in theirs if key not in ("seconds", "clients")
        }
    assert run.provenance["flower"]


def changed(reply, change):
    """The reply with its backbone's numbers changed."""
    record = reply.content["model"]
    record["backbone"] = Array(change(record["backbone"].numpy()))
    return reply


def poisoned(numbers):
    numbers[7] = np.nan
    return numbers


def test_faults_are_recorded_and_the_rounds_go_on(federate):
    def fault(kind, round, client, reply):
        cases = {
            (1, 0): lambda: [],
            (1, 1): lambda: [reply, reply],
            (1, 2): lambda: [changed(reply, poisoned)],
            (2, 0): lambda: [Message(Error(8, "the process\nwas killed"), reply_to=reply)],
            (2, 1): lambda: [changed(reply, lambda numbers: numbers[:-1])],
            (2, 2): lambda: [],
            (2, 3): lambda: [],
            (3, 3): lambda: [changed(reply, lambda numbers: numbers.astype(np.float64))],
        }
        if kind != "train" or (round, client) not in cases:
            return [reply]
        replies = cases[round, client]()
        for other in replies:  # a node's error carries the identity of the reply that it stands for
            other.metadata.__dict__["_reply_to_message_id"] = reply.metadata.reply_to_message_id
        return replies

    states = {}
    save = store.save_round

    def saving(path, config, tensors, records):
        states[len(records.rounds)] = {name: t.clone() for name, t in tensors.items()}
        save(path, config, tensors, records)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store, "save_round", saving)
        run = federate(fault=fault, rounds=3)
    assert [row["participants"] for row in run.rounds] == [[1, 3], [], [0, 1, 2]]
    assert run.rounds[0]["excluded"] == {
        "0": "no reply within 3600 s",
        "2": "NaN or infinity in the update of 'conv1.weight'",
    }
    assert run.rounds[0]["duplicates"] == [1]
    excluded = run.rounds[1]["excluded"]
    assert excluded["0"] == "failed with Flower's error code 8: was killed"
    assert "another network was trained" in excluded["1"]
    assert excluded["2"] == excluded["3"] == "no reply within 3600 s"
    assert "array 'backbone' is float64" in run.rounds[2]["excluded"]["3"]
    assert run.diagnostics["participants"].tolist()[1] == [False] * 4
    assert all(torch.equal(states[1][name], states[2][name]) for name in states[1])
    assert all(t.isfinite().all() for t in weights(run).values() if t.is_floating_point())
    rows = run.metrics[(run.metrics["round"] == 3) & (run.metrics["kind"] == "local")]
    assert sorted(rows["client"].unique()) == [0, 1, 2]
    assert sorted(run.metrics[run.metrics["kind"] == "global"]["round"].unique()) == [2, 3]


def test_a_client_that_fails_says_why_without_its_folders(federate, monkeypatch):
    intact = local.train

    def breaking(*args, client, **kwargs):
        if client == 0:
            raise FileNotFoundError("/home/somebody/data/NYUD_MT/depth/7.npy is gone")
        if client == 1:
            raise FloatingPointError("the loss is not finite")
        return intact(*args, client=client, **kwargs)

    monkeypatch.setattr(local, "train", breaking)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        run = federate(rounds=1)
    assert run.rounds[0]["excluded"] == {
        "0": "failed: FileNotFoundError: <path> is gone",
        "1": "its loss is not finite",
    }
    assert "somebody" not in (run.path / "rounds.jsonl").read_text()


def test_a_node_that_lacks_the_codec_is_refused_before_it_trains(federate, monkeypatch):
    import dataclasses

    from matfl.server.codecs import codec_of

    unknown = lambda config: codec_of(dataclasses.replace(config, codec="zip"))  # noqa: E731
    monkeypatch.setattr("matfl.flower.client.codec_of", unknown)
    with pytest.raises(TimeoutError, match=r"codec='zip' is unknown here: .* must be installed on the server and on"):
        federate(codec="int8", rounds=1)


def test_a_model_nobody_could_evaluate_is_noted(federate):
    def fault(kind, round, client, reply):
        return [] if kind == "evaluate" and client == 0 else [reply]

    run = federate(fault=fault, rounds=1)
    assert run.rounds[0]["not_evaluated"] == {"outdoor/semseg": "client 0: no reply within 3600 s"}
    assert run.metrics[run.metrics["kind"] == "global"]["task"].unique().tolist() == ["depth"]


def dies(kind, round, client, reply):
    """The server ends before the second round's last message."""
    if (kind, round, client) == ("evaluate", 2, 0):
        raise KeyboardInterrupt
    return [reply]


def test_a_federation_that_is_killed_goes_on_from_its_last_round(federate, alone):
    changes = {"method": "fedavg", "rounds": 2, "evaluate_every": 1}
    with pytest.raises(KeyboardInterrupt):
        federate("same", fault=dies, **changes)
    run = federate("same", order=5, **changes)
    assert contents(run.path) == contents(alone(**changes).path)
    assert [session["from_round"] for session in run.provenance["resumed"]] == [1]
    sent = len(federate.grid.sent)
    assert sent == 4 + 4 + 2  # who are you, train, evaluate
    federate("same", **changes)
    assert not federate.grid.sent  # finished: no client is asked for anything


@pytest.fixture
def remembering(tmp_path, monkeypatch):
    """A user's method with state, messages, memory and personal models."""
    (tmp_path / "remembering_flower.py").write_text(PLUGIN)
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.import_module("remembering_flower")
    yield {"method": "remembering", "rounds": 2, "evaluate_every": 1}
    METHODS.remove("remembering")
    del sys.modules["remembering_flower"]


def test_a_method_with_state_and_memory_is_the_local_run_also_when_the_server_was_killed(
    federate, alone, cache, remembering
):
    others = set((cache / "memory").glob("*"))  # of tests that ran before
    with pytest.raises(KeyboardInterrupt):
        federate("same", fault=dies, **remembering)
    run, expected = federate("same", order=5, **remembering), alone(**remembering)
    mine, theirs = contents(run.path), contents(expected.path)
    for name in ("metrics.csv", "diagnostics.npz", "config.json"):
        assert mine[name] == theirs[name], name
    here, there = weights(run), weights(expected)
    assert {name for name in there if "/memory." not in name} == set(here)
    assert all(torch.equal(here[name], there[name]) for name in here)
    (folder,) = set((cache / "memory").iterdir()) - others
    kept = load_file(folder / "client-2-round-2.safetensors")
    assert kept
    assert all(torch.equal(tensor, there[f"client-2/memory.{name}"]) for name, tensor in kept.items())
    assert sorted(file.name for file in folder.glob("client-2-*")) == [
        "client-2-round-1.safetensors",
        "client-2-round-2.safetensors",
    ]


def test_kept_moments_and_mixed_weights_are_the_local_runs(federate, alone):
    changes = {"method": "matfl", "client_moments": "kept", "mixes": "weights", "rounds": 2}
    run, expected = federate(**changes), alone(**changes)
    here, there = weights(run), weights(expected)
    assert {name for name in there if "/memory.moments." not in name} == set(here)
    assert all(torch.equal(here[name], there[name]) for name in here)


def test_a_node_that_lost_its_memory_says_so_and_is_left_out(federate, cache, remembering):
    def fault(kind, round, client, reply):
        if (kind, round, client) == ("evaluate", 1, 3):
            for file in (cache / "memory").rglob("client-1-*.safetensors"):
                file.unlink()
        return [reply]

    run = federate(fault=fault, **remembering)
    assert run.rounds[1]["participants"] == [0, 2, 3]
    assert "client 1 lost what it kept after round 1" in run.rounds[1]["excluded"]["1"]
    assert "/" not in run.rounds[1]["excluded"]["1"].split("(")[0]


def test_a_server_optimiser_and_step_travel_nowhere_and_change_nothing_but_the_models(federate, alone):
    changes = {"method": "fedavg", "server_optimizer": "yogi", "server_lr": 0.5, "rounds": 2, "evaluate_every": 1}
    with pytest.raises(KeyboardInterrupt):
        federate("same", fault=dies, **changes)
    assert contents(federate("same", **changes).path) == contents(alone(**changes).path)


@pytest.mark.parametrize("method", ["matfl"])
def test_replies_that_do_not_fit_into_memory_give_the_same_run(federate, alone, cache, monkeypatch, method):
    for module in ("files", "updates"):
        monkeypatch.setattr(f"matfl.server.{module}.WINDOW", 4096)
    written = []
    intact = FileRows.add
    monkeypatch.setattr(FileRows, "add", lambda self, reply: (written.append(reply.client), intact(self, reply))[1])
    changes = {"method": method, "rounds": 1, "clip_norm": 1.0, "seed": 3}
    run = federate(keys={"memory": 1}, **changes)
    assert sorted(written) == [0, 1, 2, 3]
    assert contents(run.path) == contents(alone(**changes).path)
    assert not (run.path / "replies").exists()
    here = run.path.parent / "streamed"
    engine.run(tiny(**changes), here, device="cpu", cache_dir=cache, memory=1)
    assert contents(here) == contents(run.path)


HOSTILE = {
    0: ("result", {"loss": 1e308}, "loss=1e+308 is not between"),
    1: ("result", {"images": -5.0}, "images=-5 is not between"),
    2: ("result", {"seconds": float("nan")}, "seconds=nan is not between"),
    3: ("result", {"steps": float("inf")}, "steps=inf is no whole number"),
}


def test_hostile_replies_over_flower_leave_out_their_clients_and_end_nothing(federate):
    def fault(kind, round, client, reply):
        if kind != "train":
            return [reply]
        if round == 1:
            record, change, _ = HOSTILE[client]
            for key, value in change.items():
                reply.content[record][key] = value
        if round == 2 and client == 0:
            return [changed(reply, lambda numbers: numbers * np.float32(1e25))]
        if round == 2 and client == 1:
            model = reply.content["model"]
            model["backbone.buffers"] = Array(-np.abs(model["backbone.buffers"].numpy()))
        if round == 2 and client == 2:
            reply.content["model"]["head"] = Array(np.full_like(reply.content["model"]["head"].numpy(), 1e30))
        if round == 2 and client == 3:
            reply.content["message"] = ArrayRecord({"more": Array(np.zeros(3, np.float32))})
        return [reply]

    run = federate(method="matfl", rounds=3, fault=fault)
    assert [row["participants"] for row in run.rounds] == [[], [], [0, 1, 2, 3]]
    for client, (_, _, why) in HOSTILE.items():
        assert why in run.rounds[0]["excluded"][str(client)]
    found = run.rounds[1]["excluded"]
    assert "a number of size" in found["0"]
    assert "a negative variance" in found["1"]
    assert "1e+30" in found["2"]
    assert found["3"] == "message 'more' is unknown"
    assert all(t.isfinite().all() for t in weights(run).values() if t.is_floating_point())


def test_too_few_clients_in_a_later_round_end_the_federation_and_nothing_is_lost(federate, alone):
    gone = []

    def fault(kind, round, client, reply):
        if (kind, round, client) == ("evaluate", 1, 2):  # the last message of the round
            gone.extend(node for node, c in federate.grid.contexts.items() if c.node_config["partition-id"] in (1, 3))
            for node in gone:
                del federate.grid.contexts[node]
        return [reply]

    changes = {"method": "fedavg", "rounds": 2, "evaluate_every": 1}
    keys = {"min-clients": 3}
    expected = r"2 of at least 3 clients.*Missing: 1 \(outdoor/semseg\), 3 \(indoor/depth\).*min-clients"
    with pytest.raises(TimeoutError, match=expected):
        federate("few", fault=fault, keys=keys, **changes)
    assert gone
    assert contents(federate("few", keys=keys, **changes).path) == contents(alone(**changes).path)


def test_a_federation_that_is_killed_can_be_finished_without_flower(federate, alone, cache, tmp_path):
    changes = {"method": "fedavg", "rounds": 2, "evaluate_every": 1}
    with pytest.raises(KeyboardInterrupt):
        federate("local", fault=dies, **changes)
    engine.run(tiny(**changes), tmp_path / "local" / "run", device="cpu", cache_dir=cache)
    run = Run(tmp_path / "local" / "run")
    assert contents(run.path) == contents(alone(**changes).path)
    assert "wait " in report.show(run)  # what the first round knows and the second does not


def test_half_precision_halves_the_bytes_and_hardly_moves_the_models(federate, alone):
    exact = alone(method="fedavg", rounds=1)
    for keys in ({"updates": "fp16"}, {"updates": "fp16", "models": "fp16"}):
        run = federate("-".join(keys), keys=keys, method="fedavg", rounds=1)
        wire = run.rounds[0]["wire"]
        assert wire["up"] < 0.53 * run.rounds[0]["bytes_up"]
        assert (wire["down"] < 0.53 * run.rounds[0]["bytes_down"]) == ("models" in keys)
        start = engine.start_backbone(exact.config)
        way = gap = 0.0
        for name, tensor in weights(exact).items():
            if "/backbone." in name and tensor.ndim == 4:
                gap += float((weights(run)[name] - tensor).square().sum())
                way += float((tensor - start[name.split("/backbone.")[1]]).square().sum())
        assert gap < (1e-6 if "models" not in keys else 0.3) * way
    settings = Settings.of(app_config(tiny(), updates="fp16"))
    assert settings.folder == f"{tiny().name}-updates-fp16"


def test_a_message_is_hardly_larger_than_the_numbers_in_it(federate):
    sizes = []

    def fault(kind, round, client, reply):
        if kind == "train":
            sizes.append(wire_bytes(reply))
        return [reply]

    run = federate(fault=fault, rounds=1, method="fedavg")
    payload = run.rounds[0]["clients"][0]["bytes"]
    assert all(payload < size < 1.02 * payload for size in sizes)
    train = [message for message in federate.grid.sent if message.metadata.message_type == "train"]
    assert all(payload < 1.01 * wire_bytes(message) < 1.03 * payload for message in train)
    parts = {array.object_id for message in train for array in message.content["model"].values()}
    assert len(parts) <= 2 * 4  # one set of arrays a task, however many clients it has


def test_start_biases_are_the_local_engines(federate, cache):
    config = tiny()
    app = app_config(config)
    nodes = Nodes(settings=Settings.of(app))
    nodes.wait(InProcessGrid(client_app, app, nodes_of(config, cache)), 4)
    splits = engine.load_splits(config, cache_dir=cache)
    clients = partition(config, {name: both["train"] for name, both in splits.items()})
    assert nodes.start_biases() == start_biases(clients, splits)
    for client in clients:
        node = NodeSettings.of(nodes_of(config, cache)[client.index], config)
        assert share(config, node) == client


def test_too_few_clients_are_an_error_that_says_who_is_missing(federate, cache):
    nodes = nodes_of(tiny(), cache)
    wrong = {**nodes[1], "task": "indoor/depth"}
    expected = (
        r"(?s)2 of at least 4 clients came within 0.2 s.*was refused.*'indoor/depth' with partition-id=1: "
        r"client 1 trains outdoor/semseg; the clients of indoor/depth are 2, 3.*"
        r"Missing: 1 \(outdoor/semseg\), 3 \(indoor/depth\)"
    )
    with pytest.raises(TimeoutError, match=expected):
        federate(nodes=[nodes[0], wrong, nodes[2]])


def test_of_two_nodes_that_claim_one_number_the_later_counts_and_the_error_names_the_other(cache):
    app, places = app_config(tiny()), nodes_of(tiny(), cache)
    grid = InProcessGrid(client_app, app, [*places[:3], places[1]])
    nodes = Nodes(settings=Settings.of(app))
    with pytest.raises(TimeoutError, match=r"3 of at least 4 clients.*came later as client 1 too; give each node"):
        nodes.wait(grid, 4)
    assert len(nodes.refused) == 1
    before = dict(nodes.clients)
    nodes.look(grid)
    assert nodes.clients == before  # they do not take turns
    del grid.contexts[nodes.clients[1]]
    nodes.look(grid)
    assert nodes.clients.keys() == {0, 1, 2}
    assert not nodes.refused


def test_a_client_that_comes_late_joins(federate, cache):
    nodes = nodes_of(tiny(), cache)
    late = {}

    def fault(kind, round, client, reply):
        if (kind, round) == ("train", 1) and not late:
            late["now"] = federate.grid.contexts.update(late_context)
        return [reply]

    whole = InProcessGrid(client_app, app_config(tiny(rounds=2)), nodes[3:], order=9)
    late_context = whole.contexts
    run = federate(nodes=nodes[:3], fault=fault, keys={"min-clients-start": 3}, rounds=2)
    assert [row["participants"] for row in run.rounds] == [[0, 1, 2], [0, 1, 2, 3]]
    assert run.rounds[0]["excluded"] == {"3": "its node is not connected"}


def test_a_node_that_was_started_anew_as_another_client_is_asked_again(federate):
    def fault(kind, round, client, reply):
        if (kind, round, client) == ("evaluate", 1, 0):
            context = next(c for c in federate.grid.contexts.values() if c.node_config["partition-id"] == 3)
            context.node_config["partition-id"] = 2
        return [reply]

    run = federate(fault=fault, rounds=3, evaluate_every=1, method="fedavg")
    assert "this node is client 2, not 3" in run.rounds[1]["excluded"]["3"]
    assert run.rounds[2]["excluded"] == {"3": "its node is not connected"}
    assert run.rounds[2]["participants"] == [0, 1, 2]


@pytest.mark.parametrize(
    "keys, match",
    [
        ({"preset": "huge"}, "unknown preset 'huge'"),
        ({"method": "best"}, "unknown method 'best'"),
        ({"settings": "rounds"}, "not of the form NAME=VALUE"),
        ({"settings": "speed=3"}, "unknown parameter 'speed'"),
        ({"settings": "rounds=many"}, "rounds='many': expected int"),
        ({"updates": "bf16"}, "choose from fp32, fp16"),
        ({"round-timeout": 0}, "positive number of seconds"),
        ({"min-clients-start": 99}, "choose 1..18, or 0 for all"),
        ({"min-clients": 0}, "min-clients=0: choose 1..18"),
        ({"runs_dir": "x"}, "unknown key 'runs_dir'"),
        ({"round-timeout": "long"}, "round-timeout='long' in the app's config: expected float"),
    ],
)
def test_bad_settings_are_errors_before_any_client_is_asked(keys, match):
    grid = InProcessGrid(client_app, {}, [])
    with pytest.raises((TypeError, ValueError), match=match):
        federation(grid, Settings.of({"preset": "smoke", **keys}))


@pytest.mark.parametrize(
    "node, match",
    [
        ({}, "lacks 'partition-id'"),
        ({"partition-id": 4}, r"choose 0..3"),
        ({"partition-id": "0"}, "a whole number"),
        ({"partition-id": 0, "num-partitions": 3}, "has 4 clients"),
        ({"partition-id": 0, "own-data": True}, "is rendered"),
        ({"partition-id": 0, "own-data": "yes"}, "true or false"),
        ({"partition-id": 0, "threads": 0}, "at least 1"),
        ({"partition-id": 0, "task": "semseg"}, "choose a task from outdoor/semseg, indoor/depth"),
        ({"partition-id": 0, "folder": "x"}, "unknown key 'folder'"),
    ],
)
def test_bad_node_configs_are_errors(node, match):
    with pytest.raises((TypeError, ValueError), match=match):
        NodeSettings.of(node, tiny())


def test_the_app_folder_names_every_key():
    import tomllib
    from pathlib import Path

    text = (Path(__file__).parents[1] / "flower_app" / "pyproject.toml").read_text()
    app = tomllib.loads(text)["tool"]["flwr"]["app"]
    settings = Settings.of(app["config"])
    assert settings.config == preset("quick")
    assert {key.replace("-", "_") for key in app["config"]} == {
        "preset",
        "method",
        "settings",
        *Settings.__dataclass_fields__,
    } - {"config", "poll_interval"}
    assert app["components"] == {"serverapp": "matfl.flower:server_app", "clientapp": "matfl.flower:client_app"}


def test_own_data_are_all_images_of_the_clients_folder(tmp_path):
    make(tmp_path, train=6, val=2, size=64)
    config = tiny(tasks="nyud/depth,nyud/edge", images_train=0, images_val=0, images_per_client=0)
    places = {"data-dir": str(tmp_path), "cache-dir": str(tmp_path / "cache")}
    own, shared = (NodeSettings.of({"partition-id": 2, "own-data": own, **places}, config) for own in (True, False))
    assert share(config, own).images == tuple(range(6))
    assert share(config, own).pair.name == "nyud/edge"
    split = load_split(config, "nyud", "train", data_dir=tmp_path, cache_dir=tmp_path / "cache")
    assert share(config, shared) == partition(config, {"nyud": split})[2]
    assert without_paths(f"DataError: {tmp_path}/NYUD_MT: no such folder") == "DataError: <path>: no such folder"


def test_what_a_strategy_makes_of_replies_of_another_form(cache, tmp_path):
    config = tiny(rounds=1)
    settings = Settings.of(app_config(config))
    server = Server(config, client_pairs(config))
    state = server.start(engine.start_backbone(config))
    strategy = ManyTask(server, state, store.Records(), Nodes(settings=settings), tmp_path, "run")
    with pytest.raises(ValueError, match="lacks the records 'model' and 'result'"):
        strategy._reply(0, RecordDict({"result": MetricRecord({"loss": 1.0})}), {"up": 0})
    sound = {"tasks": ["semseg"], "names": ["a"], "values": [1.0]}
    assert metric_rows(RecordDict({"metrics": ConfigRecord(sound)}), server.evaluated[0], "local", round=1)
    for wrong in ({"values": [1.0, 2.0]}, {"values": [1]}, {"names": [1.0]}, {"tasks": []}, {"names": 3}):
        record = RecordDict({"metrics": ConfigRecord(sound | wrong)})
        with pytest.raises(ValueError, match="not tasks, names and values"):
            metric_rows(record, server.evaluated[0], "local", round=1)
    foreign = RecordDict({"metrics": ConfigRecord(sound | {"tasks": ["depth"]})})
    with pytest.raises(ValueError, match="of task 'depth', which is none of outdoor/semseg"):
        metric_rows(foreign, server.evaluated[0], "local", round=1)


def test_the_bench_finds_messages_hardly_larger_than_their_numbers(tmp_path, capsys):
    import json

    from matfl.bench.flower import main

    tasks = "outdoor/semseg,indoor/depth"
    assert main(["--preset", "quick", "--tasks", tasks, "--clients-per-task", "1", "--json", str(tmp_path / "x")]) == 0
    found = json.loads((tmp_path / "x").read_text())["round"]
    assert 1 < found["wire_up_over_payload"] < 1.05
    assert 1 < found["wire_down_over_payload"] < 1.05
    assert "wire over payload" in capsys.readouterr().out


@pytest.mark.slow
def test_matfl_imports_no_flower():
    code = (
        "import sys, matfl, matfl.runs.engine, matfl.cli.main\nsys.exit('flwr' in sys.modules or 'ray' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=300)


def test_without_flower_the_import_says_what_to_install(monkeypatch):
    for name in [name for name in sys.modules if name.startswith("matfl.flower")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "flwr", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'matfl\[flower\]'"):
        import matfl.flower  # noqa: F401
