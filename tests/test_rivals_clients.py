"""What the rivals' clients do, on a client of four images."""

from functools import cache

import numpy as np
import pytest
import torch
from rounds import make_round
from tiny import tiny

from matfl.client.local import Local
from matfl.data import partition
from matfl.models.network import build
from matfl.runs.engine import load_splits
from matfl.server.layout import Layout
from matfl.server.methods import METHODS
from matfl.server.methods.personal import Ditto, FedRep

CONFIG = tiny(local_epochs=2)


@cache
def data():
    splits = load_splits(CONFIG)
    train = {name: both["train"] for name, both in splits.items()}
    return train, partition(CONFIG, train)


def local(index=0, *, message=None, memory=None, config=CONFIG):
    """Client `index` with a model that is the same in every call."""
    train, clients = data()
    client = clients[index]
    model = build(config, client.pair)
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    return Local(
        config=config,
        client=client,
        split=train[client.pair.domain.name],
        round=1,
        model=model,
        state=state,
        message=message or {},
        memory=memory or {},
    )


def backbone(at):
    of = Layout.of(at.model.backbone)
    return of, of.flatten(at.model.backbone).clone(), of.flatten_buffers(at.model.backbone).clone()


def equal(a, b):
    return all(torch.equal(a[name], b[name]) for name in a)


def test_scaffolds_control_is_the_papers_second_option_for_plain_gradient_steps(monkeypatch):
    """With SGD the mean raw gradient is c_i - c + (start - end) / (steps lr)."""

    def sgd(parameters, lr, **ignored):
        return torch.optim.SGD(parameters, lr=lr)

    monkeypatch.setattr(torch.optim, "Adam", sgd)
    generator = torch.Generator().manual_seed(0)
    at = local()
    of, start, _ = backbone(at)
    server, own = (1e-2 * torch.randn(of.P, generator=generator) for _ in range(2))
    at = local(message={"control": server}, memory={"control": own})
    change = METHODS["scaffold"].client(at)["change"]
    end = of.flatten(at.model.backbone)
    option_2 = own - server + (start - end) / (at.results[0].steps * CONFIG.lr)
    torch.testing.assert_close(at.memory["control"], option_2, rtol=0, atol=2e-4)  # rounding of end over steps x lr
    torch.testing.assert_close(change, at.memory["control"] - own)
    assert at.results[0].steps == 4


def test_scaffold_without_controls_trains_as_fedavg():
    at, plain = local(message={"control": torch.zeros(backbone(local())[0].P)}), local()
    METHODS["scaffold"].client(at)
    METHODS["fedavg"].client(plain)
    assert equal(at.snapshot(), plain.snapshot())


def test_ditto_sends_what_fedavg_sends_and_keeps_a_model_of_its_own():
    at, plain = local(), local()
    Ditto(strength=0.1).client(at)
    METHODS["fedavg"].client(plain)
    assert equal(at.snapshot(), plain.snapshot())
    assert not equal(at.memory, at.snapshot())
    assert equal(METHODS["ditto"].model(at), at.memory)
    assert len(at.results) == 2

    origin = local().snapshot()

    def from_origin(strength):
        there = local()
        Ditto(strength=strength).client(there)
        names = [name for name, _ in there.model.named_parameters()]
        return sum(float((there.memory[name] - origin[name]).square().sum()) for name in names)

    assert from_origin(1e4) < 0.5 * from_origin(0.0)
    again = local(memory=dict(at.memory))
    Ditto(strength=0.0).client(again)
    assert not equal(again.memory, at.memory)


def test_ditto_before_its_first_round_uses_the_dispatched_model():
    at = local()
    assert equal(METHODS["ditto"].model(at), at.state)


def test_fedper_is_fedavg_with_local_heads():
    assert METHODS["fedper"].heads == "local"
    at, plain = local(), local()
    METHODS["fedper"].client(at)
    METHODS["fedavg"].client(plain)
    assert equal(at.snapshot(), plain.snapshot())
    round = make_round("aabb")
    assert torch.equal(METHODS["fedper"].mix(round).weights_NN, METHODS["fedavg"].mix(round).weights_NN)


def test_fedrep_trains_the_head_first_and_then_the_backbone():
    at = local()
    phases = []
    train = at.train

    def watched(**options):
        before = at.snapshot()
        result = train(**options)
        after = at.snapshot()
        changed = {name.partition(".")[0] for name in after if not torch.equal(before[name], after[name])}
        phases.append((options.get("only"), changed, result.steps))
        return result

    at.train = watched
    FedRep(head_epochs=3).client(at)
    assert phases == [("head", {"head"}, 6), ("backbone", {"backbone"}, 4)]


def perturbed(at, seed, scale=0.1):
    of, theta, buffers = backbone(at)
    noise = torch.randn(of.P, generator=torch.Generator().manual_seed(seed))
    return theta + scale * theta.abs().mean() * noise, buffers


def named(of, theta, buffers):
    return {f"backbone.{name}": tensor for name, tensor in of.unflatten(theta, buffers).items()}


def test_ifca_takes_the_backbone_of_least_loss():
    at = local()
    of = backbone(at)[0]
    rows = [perturbed(at, seed) for seed in range(3)]
    losses = [at.loss(named(of, *row)) for row in rows]
    message = {"parameters": torch.stack([row for row, _ in rows]), "buffers": torch.stack([b for _, b in rows])}
    there = local(message=message)
    sent = METHODS["ifca"].client(there)
    assert int(sent["choice"]) == int(np.argmin(losses))
    assert sent["losses"].tolist() == pytest.approx(losses)
    expected = local()
    expected.train(start={**expected.state, **named(of, *rows[int(np.argmin(losses))])})
    assert equal(there.snapshot(), expected.snapshot())


def test_fedfomo_starts_from_what_helps_on_held_out_images():
    at = local()
    at.hold_out(0.25)
    of, mine, buffers = backbone(at)
    old, others = perturbed(at, 7)[0], [perturbed(at, seed, 0.3) for seed in range(2)]
    before = at.loss(named(of, old, buffers), held_out=True)
    weights = []
    for theta, its in [(mine, buffers), *others]:
        gain = before - at.loss(named(of, theta, its), held_out=True)
        weights.append(max(0.0, gain / float((theta - old).norm())))
    assert sum(weights) > 0
    weights = torch.tensor([w / sum(weights) for w in weights])
    start = old + sum(w * (theta - old) for w, theta in zip(weights, [mine, others[0][0], others[1][0]]))
    message = {
        "parameters": torch.stack([theta for theta, _ in others]),
        "buffers": torch.stack([its for _, its in others]),
        "clients": torch.tensor([1, 3]),
    }
    there = local(message=message, memory={"old.parameters": old, "old.buffers": buffers})
    sent = type(METHODS["fedfomo"])(held_out=0.25).client(there)
    torch.testing.assert_close(sent["weights"].float(), torch.tensor([weights[0], weights[1], 0, weights[2]]))
    torch.testing.assert_close(there.memory["old.parameters"], start)
    assert there.results[0].images == 2 * 2  # the third of three images left is a batch of one, in both epochs


def test_fedfomos_first_round_is_local_training_without_the_held_out_images():
    there = local()
    sent = METHODS["fedfomo"].client(there)
    assert not sent["weights"].any()
    torch.testing.assert_close(there.memory["old.parameters"], backbone(local())[1])


def test_tag_answers_with_losses_of_the_backbone_and_of_each_step():
    at = local(2)
    of, theta, buffers = backbone(at)
    steps = torch.stack([perturbed(at, seed)[0] - theta for seed in range(2)])
    expected = [at.loss(named(of, row, buffers)) for row in (theta, theta + steps[0], theta + steps[1])]
    there = local(2, message={"base": theta, "base_buffers": buffers, "steps": steps})
    sent = METHODS["tag"].client(there)
    assert sent["losses"].tolist() == pytest.approx(expected)
    plain = local(2)
    plain.train()
    assert equal(there.snapshot(), plain.snapshot())
    assert METHODS["tag"].client(local(2)) == {}


def test_gain_sends_the_gradient_of_the_held_out_loss():
    there = local(2)
    sent = METHODS["matfl_gain"].client(there)
    at = local(2)
    at.hold_out(0.2)
    of, theta, buffers = backbone(at)
    direction = sent["gradient"] / sent["gradient"].norm()
    step = 1e-3 * theta.norm()
    ahead, behind = (at.loss(named(of, theta + s * direction, buffers), held_out=True) for s in (step, -step))
    slope = (ahead - behind) / (2 * float(step))
    scale = at.client.pair.task.loss_weight
    assert scale * slope == pytest.approx(float(sent["gradient"].norm()), rel=0.05)
    plain = local(2)
    plain.hold_out(0.2)
    plain.train()
    assert equal(there.snapshot(), plain.snapshot())  # measuring left no trace
