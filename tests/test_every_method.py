"""What holds for every method: any clients may reply, a killed run goes on bit for bit, Flower's run is the same."""

import warnings

import pytest
import torch
from rounds import applied, begun, make_round
from safetensors.torch import load
from tiny import contents, tiny

from matfl.client import training
from matfl.runs import engine
from matfl.server.methods import METHODS, fedhca2

STATEFUL = ("tag", "mas", "ifca", "fedhca2", "gradnorm", "scaffold", "fedfomo", "ditto")
"""Methods that keep something on the server or on clients, or send more than a model."""
QUICK = [pytest.param(name, marks=() if name in STATEFUL else pytest.mark.slow) for name in METHODS]
CHANGES = {"participation": 0.75, "evaluate_every": 3}


def test_all_that_keep_something_are_known():
    for name, method in METHODS.items():
        before = make_round("aabb", scope=method.scope, method=name, heads=True)
        keeps = type(method).client is not type(METHODS["fedavg"]).client and name not in PLAIN
        assert (name in STATEFUL) == bool(keeps or method.start(before)), name


PLAIN = ("fedprox", "fedamp", "heurfedamp", "fedrep", "matfl_gain", "matfl_sketches")
"""Methods whose clients do more than train, but keep nothing."""


@pytest.mark.parametrize("clients", [(), (2,), (0, 1, 3), (0, 1, 2, 3, 4, 5)], ids=len)
@pytest.mark.parametrize("name", METHODS)
def test_any_clients_may_reply(name, clients, monkeypatch):
    monkeypatch.setattr(fedhca2, "_layers", lambda config: (("conv.weight", "conv.bias"),))
    method = METHODS[name]
    options = {"scope": method.scope, "method": name, "clients": clients, "heads": True, "dtype": torch.float32}
    before = make_round("aabbcc", **options)
    state = begun(method, before)
    shapes = method.reply_shapes(make_round("aabbcc", state=state, **options), 0)
    messages = [{key: torch.ones(shape) for key, shape in shapes.items()} for _ in clients]
    round = make_round("aabbcc", state=state, messages=messages, **options)
    mixing = method.mix(round)
    assert mixing.weights_NN.shape == (len(clients),) * 2
    assert mixing.weights_NN.dtype == torch.float32
    after = applied(round, mixing, scope=method.scope)
    assert after.theta_CP.isfinite().all()
    assert (after.buffers_CB > 0).all()  # variances stay variances
    moved = (after.theta_CP != round.models.theta_CP).any(1)
    assert moved.tolist() == [row in set(round.starts) for row in range(len(moved))]
    for key, tensor in (mixing.state or {}).items():
        assert key in state
        assert tensor.dtype == state[key].dtype, key
        assert not tensor.is_floating_point() or key == "first_loss" or tensor.isfinite().all(), key


@pytest.fixture
def breaking(monkeypatch):
    """In round 2 the training of one participant breaks down."""
    intact = training.train

    def train(*args, round, client, **others):
        if round == 2 and client == 1:
            raise FloatingPointError("the loss is not finite")
        return intact(*args, round=round, client=client, **others)

    monkeypatch.setattr(training, "train", train)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="left out")
        yield


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def alone(tmp_path_factory, cache):
    """alone(method): the folder of its run, made without a stop; the same within this module."""
    base, made = tmp_path_factory.mktemp("alone"), {}

    def alone(name):
        if name not in made:
            made[name] = base / name
            engine.run(tiny(method=name, **CHANGES), made[name], device="cpu", cache_dir=cache)
        return made[name]

    return alone


@pytest.mark.parametrize("name", QUICK)
def test_a_run_that_stops_goes_on_bit_for_bit(name, alone, breaking, tmp_path, cache):
    config = tiny(method=name, **CHANGES)
    expected = alone(name)
    while not (tmp_path / "run" / "state.json").exists() or engine.store.stored_round(tmp_path / "run", config) < 3:
        engine.run(config, tmp_path / "run", device="cpu", cache_dir=cache, stop=lambda: True)
    assert contents(tmp_path / "run") == contents(expected)


@pytest.mark.parametrize("name", QUICK)
def test_a_federation_on_flower_is_the_local_run(name, alone, breaking, tmp_path, cache, monkeypatch):
    pytest.importorskip("flwr")
    from inprocess import InProcessGrid
    from test_flower import app_config, nodes_of

    from matfl.flower import Settings, client_app, federation

    monkeypatch.setattr("matfl.flower.nodes.RETRY", 0.0)
    config = tiny(method=name, **CHANGES)
    app = app_config(config, **{"runs-dir": str(tmp_path), "run-name": "run"})
    grid = InProcessGrid(client_app, app, nodes_of(config, cache), order=1)
    federation(grid, Settings.of(app))
    mine, expected = contents(tmp_path / "run"), contents(alone(name))
    stored, wanted = (load(files.pop("checkpoint.safetensors")) for files in (mine, expected))
    assert mine == expected
    # What clients keep lies with them on Flower, and in the checkpoint of a run on one machine.
    wanted = {key: tensor for key, tensor in wanted.items() if "/memory." not in key}
    assert stored.keys() == wanted.keys()
    assert all(torch.equal(stored[key], wanted[key]) for key in stored)
