"""One hostile or broken reply leaves out its client, with the reason, and nothing else."""

import math
import re

import pytest
import torch
from tiny import tiny

from matfl.models.starts import start_backbone
from matfl.runs import engine
from matfl.runs.run import Run
from matfl.server.methods import METHODS
from matfl.server.screening import Moved, clip_factors, too_far
from matfl.server.server import Reply, Server
from matfl.tasks.task import pairs

CONFIG = tiny(method="fedavg", rounds=2)


def server_of(config=CONFIG):
    server = Server(config, [pair for pair in pairs(config.tasks) for _ in range(config.clients_per_task)])
    return server, server.start(start_backbone(config))


def honest(server, state, client, scale=0.01):
    """A reply that moved every parameter a little."""
    generator = torch.Generator().manual_seed(client)
    trained = {}
    for name, tensor in server.dispatch(state, client).items():
        trained[name] = tensor.clone()
        if tensor.is_floating_point() and "running" not in name:
            size = float(tensor.square().mean().sqrt().clamp(min=1e-3))
            trained[name] += scale * size * torch.randn(tensor.shape, generator=generator)
    return {"client": client, "state": trained, "loss": 1.0, "images": 4, "seconds": 1.0, "steps": 2}


def times(factor, part):
    def change(reply, start):
        for name in reply["state"]:
            if name.startswith(part) and "running" not in name and reply["state"][name].is_floating_point():
                reply["state"][name] = start[name] + factor * (reply["state"][name] - start[name])

    return change


def fill(name, value):
    def change(reply, start):
        reply["state"][name] = torch.full_like(reply["state"][name], value)

    return change


def number(name, value):
    return lambda reply, start: reply.update({name: value})


def scaled(factor):
    def change(reply, start):
        reply["state"] = {n: t * factor if t.is_floating_point() else t for n, t in reply["state"].items()}

    return change


HOSTILE = {
    "update times 1e6": (times(1e6, "backbone."), "it moved the backbone by .* over norm_bound=100"),
    "head times 1e6": (times(1e6, "head."), "it moved the head by .* over norm_bound=100"),
    "negative variance": (fill("backbone.bn1.running_var", -1.0), "a negative variance .* in 'bn1.running_var'"),
    "head's negative variance": (
        fill("head.norm.running_var", -1.0),
        r"a negative variance .* in 'head.norm.running_var'",
    ),
    "head of 1e30": (fill("head.last.weight", 1e30), r"a number of size 1e\+30 .* in 'head.last.weight'"),
    "model times 1e25": (scaled(1e25), "a number of size"),
    "update of 3e38": (fill("backbone.conv1.weight", 3e38), r"a number of size 3e\+38 .* the update of 'conv1.weight'"),
    "statistics times 1e6": (fill("backbone.bn1.running_mean", 1e6), "it moved the batch-norm statistics"),
    "NaN": (fill("backbone.conv1.weight", math.nan), "NaN or infinity in the update of 'conv1.weight'"),
    "infinite statistic": (fill("backbone.bn1.running_mean", math.inf), "NaN or infinity in 'bn1.running_mean'"),
    "unknown prefix": (lambda r, s: r["state"].update({"spine.x": torch.zeros(1)}), "tensor 'spine.x' is unknown"),
    "missing tensor": (lambda r, s: r["state"].pop("head.last.bias"), "tensor 'head.last.bias' is missing"),
    "wrong shape": (
        lambda r, s: r["state"].update({"head.last.bias": torch.zeros(7, 7)}),
        r"tensor 'head.last.bias' has shape \(7, 7\), not",
    ),
    "unasked message": (number("message", {"x": torch.zeros(1)}), "message 'x' is unknown"),
    "loss NaN": (number("loss", math.nan), "its loss is not finite"),
    "loss 1e308": (number("loss", 1e308), r"loss=1e\+308 is not between"),
    "images -5": (number("images", -5), "images=-5 is not between 0 and"),
    "steps 1e15": (number("steps", 10**15), "steps="),
    "seconds NaN": (number("seconds", math.nan), "seconds=nan is not between 0 and"),
    "seconds -1": (number("seconds", -1.0), "seconds=-1 is not between"),
}


MESSAGES = {
    "wrong shape": ("scaffold", {"change": torch.zeros(3)}, r"message 'change' has shape \(3,\), not \(\d+,\)"),
    "missing": ("ifca", {"choice": torch.tensor([1])}, "message 'losses' is missing"),
    "NaN": ("fedfomo", {"weights": torch.tensor([0.0, 1.0, math.nan, 0.0])}, "NaN or infinity in 'weights'"),
    "no backbone": (
        "ifca",
        {"choice": torch.tensor([9]), "losses": torch.ones(2)},
        r"message 'choice' is 9, and the backbones are 0..1",
    ),
    "half a backbone": ("ifca", {"choice": torch.tensor([0.5]), "losses": torch.ones(2)}, "message 'choice' is 0.5"),
}


@pytest.mark.parametrize("where", ["engine", pytest.param("flower", marks=pytest.mark.slow)])
@pytest.mark.parametrize("how", list(MESSAGES))
def test_a_hostile_message_leaves_out_its_client_by_number(how, where, monkeypatch, tmp_path):
    """Client 2 sends it in round 1; the others' round goes on."""
    method, message, reason = MESSAGES[how]
    kind = type(METHODS[method])
    intact = kind.client

    def client(self, local):
        sent = intact(self, local)
        return message if local.client.index == 2 else sent

    monkeypatch.setattr(kind, "client", client)
    config = tiny(method=method, rounds=1, evaluate_every=1)
    if where == "engine":
        engine.run(config, tmp_path / "run", device="cpu", cache_dir=tmp_path / "cache")
    else:
        pytest.importorskip("flwr")
        from inprocess import InProcessGrid
        from test_flower import app_config, nodes_of

        from matfl.flower import Settings, client_app, federation

        app = app_config(config, **{"runs-dir": str(tmp_path), "run-name": "run"})
        nodes = nodes_of(config, tmp_path / "cache")
        federation(InProcessGrid(client_app, app, nodes, order=1), Settings.of(app))
    row = Run(tmp_path / "run").rounds[0]
    assert list(row["excluded"]) == ["2"]
    assert re.search(reason, row["excluded"]["2"])
    assert row["participants"] == [0, 1, 3]


@pytest.mark.parametrize("how", list(HOSTILE))
def test_a_hostile_reply_leaves_out_its_client_alone(how):
    change, reason = HOSTILE[how]
    server, state = server_of(tiny(method="matfl"))
    start = {name: t.clone() for name, t in server.pack(state).items()}
    ends = []
    for hostile in (True, False):
        collection = server.begin(state)
        for client in range(4):
            reply = honest(server, state, client)
            if client == 1 and hostile:
                change(reply, server.dispatch(state, 1))
            if client != 1 or hostile:
                collection.add(Reply(**reply))
        ends.append(collection.finish())
    (after, record), (without, _) = ends
    assert record.row["participants"] == [0, 2, 3]
    assert list(record.row["excluded"]) == ["1"]

    assert re.search(reason, record.row["excluded"]["1"]), record.row["excluded"]["1"]
    for name, tensor in server.pack(after).items():
        assert torch.equal(tensor, server.pack(without)[name]), name
    for name, tensor in server.pack(state).items():
        assert torch.equal(tensor, start[name]), f"{name} of the state before has changed"
    assert all(math.isfinite(entry["seconds"]) for entry in record.row["clients"])


def test_two_finite_replies_cannot_average_to_infinity():
    server, state = server_of()
    collection = server.begin(state)
    for client in range(4):
        reply = honest(server, state, client)
        if client < 2:
            fill("backbone.conv1.weight", 3e38)(reply, None)
        collection.add(Reply(**reply))
    after, record = collection.finish()
    assert record.row["participants"] == [2, 3]
    assert after.models.theta_CP.isfinite().all()


def test_everybody_hostile_leaves_the_models():
    server, state = server_of()
    collection = server.begin(state)
    for client in range(4):
        reply = honest(server, state, client)
        fill("head.last.weight", 1e30)(reply, None)
        assert collection.add(Reply(**reply)) is None  # found when all have come
    after, record = collection.finish()
    assert record.row["participants"] == []
    for name, tensor in server.pack(after).items():
        assert torch.equal(tensor, server.pack(state)[name])


def test_a_mix_that_is_not_finite_never_replaces_the_models(monkeypatch):
    """The last resort: weights of a method that blow a sound update up."""
    from matfl.server.methods import METHODS, Mixing, method

    @method(title="Wild")
    def wild(round):
        return Mixing(weights_NN=1e300 * torch.eye(round.n, dtype=torch.float64))

    try:
        server, state = server_of(tiny(method="wild"))
        collection = server.begin(state)
        for client in range(4):
            collection.add(Reply(**honest(server, state, client)))
        after, record = collection.finish()
    finally:
        METHODS.remove("wild")
    assert after.models.theta_CP.isfinite().all()
    assert set(record.row["excluded"].values()) == {"with its reply the mix is not finite"}


def test_honest_clients_are_never_out_of_bounds_and_the_bound_can_be_off():
    for bound, left in ((100.0, 4), (0.0, 4)):
        server, state = server_of(tiny(method="fedavg", norm_bound=bound))
        collection = server.begin(state)
        for client in range(4):
            collection.add(Reply(**honest(server, state, client, scale=0.01 * 3**client)))
        assert len(collection.finish()[1].row["participants"]) == left
    server, state = server_of(tiny(method="fedavg", norm_bound=0.0))
    collection = server.begin(state)
    for client in range(4):
        reply = honest(server, state, client)
        if client == 0:
            times(1e4, "backbone.")(reply, server.dispatch(state, 0))
        collection.add(Reply(**reply))
    assert collection.finish()[1].row["participants"] == [0, 1, 2, 3]


def test_bounds_in_numbers():
    def moved(distances, starts):
        return {"the backbone": Moved(torch.tensor(distances).double(), torch.tensor(starts).double())}

    assert too_far((0, 1, 2), moved([1.0, 1.0, 99.0], [1.0] * 3), 100.0) == {}
    assert list(too_far((0, 1, 2), moved([1.0, 1.0, 101.0], [50.0] * 3), 100.0)) == [2]
    # A round in which most stand still does not condemn who moves by less than its own norm.
    assert too_far((0, 1, 2), moved([0.0, 0.0, 5.0], [6.0] * 3), 100.0) == {}
    # With nobody to compare with, its own norm is the measure.
    assert list(too_far((5,), moved([1e4], [10.0]), 100.0)) == [5]
    assert too_far((5,), moved([900.0], [10.0]), 100.0) == {}


def test_clipping_shortens_to_multiples_of_the_median_and_is_recorded():
    assert clip_factors(torch.tensor([1.0, 2.0, 8.0]), 2.0) == [1.0, 1.0, 0.5]
    assert clip_factors(torch.tensor([1.0, 2.0, 8.0]), 0.0) == [1.0, 1.0, 1.0]
    ends = {}
    for clip in (0.0, 1.5):
        server, state = server_of(tiny(method="local", clip_norm=clip))
        collection = server.begin(state)
        for client in range(4):
            reply = honest(server, state, client)
            if client == 3:
                times(10.0, "backbone.")(reply, server.dispatch(state, 3))
            collection.add(Reply(**reply))
        after, record = collection.finish()
        ends[clip] = after.models.theta_CP - state.models.theta_CP, record.row
    (free_CP, plain), (clipped_CP, row) = ends[0.0], ends[1.5]
    assert "clipped" not in plain
    assert list(row["clipped"]) == ["3"]
    torch.testing.assert_close(clipped_CP[:3], free_CP[:3])
    torch.testing.assert_close(clipped_CP[3], free_CP[3] * row["clipped"]["3"], rtol=1e-4, atol=1e-7)
    median = free_CP.norm(dim=1).sort().values[1]
    torch.testing.assert_close(clipped_CP[3].norm(), 1.5 * median, rtol=1e-3, atol=0)


def test_a_client_that_was_not_asked_or_replies_twice_is_the_transports_error():
    server, state = server_of(tiny(method="fedavg", participation=0.5))
    collection = server.begin(state)
    asked = collection.dispatch.participants
    other = next(client for client in range(4) if client not in asked)
    with pytest.raises(ValueError, match=f"client {other} was not asked in round 1"):
        collection.add(Reply(**honest(server, state, other)))
    collection.add(Reply(**honest(server, state, asked[0])))
    with pytest.raises(ValueError, match="replied twice in round 1"):
        collection.add(Reply(**honest(server, state, asked[0])))
