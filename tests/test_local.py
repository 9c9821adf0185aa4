"""What a method's part on a client is built of: phases, corrections, held-out losses, memory."""

import pytest
import torch
from tiny import tiny

from matfl.client.local import Local
from matfl.client.training import mean_loss
from matfl.data import partition
from matfl.models.network import build
from matfl.runs.engine import load_splits

CONFIG = tiny()


@pytest.fixture(scope="module")
def splits(tmp_path_factory):
    return load_splits(CONFIG, cache_dir=tmp_path_factory.mktemp("cache"))


@pytest.fixture
def local(splits):
    clients = partition(CONFIG, {name: both["train"] for name, both in splits.items()})
    model = build(CONFIG, clients[0].pair)
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    split = splits[clients[0].pair.domain.name]["train"]
    return Local(config=CONFIG, client=clients[0], split=split, round=1, model=model, state=state)


def moved(local, part):
    now = local.model.state_dict()
    return {n for n, t in local.state.items() if n.startswith(f"{part}.") and not torch.equal(t, now[n])}


@pytest.mark.parametrize("part,other", [("head", "backbone"), ("backbone", "head")])
def test_a_frozen_part_keeps_its_weights_and_statistics(local, part, other):
    local.train(only=part)
    assert not moved(local, other)
    names = moved(local, part)
    assert any(name.endswith("running_mean") for name in names)
    assert any(name.endswith("weight") for name in names)
    assert all(parameter.requires_grad for parameter in local.model.parameters())


def test_phases_of_a_round_shuffle_anew_and_the_first_is_the_plain_one(local):
    first = local.train()
    one = local.snapshot()
    local.train(start=local.state)
    two = local.snapshot()
    assert not torch.equal(one["head.last.weight"], two["head.last.weight"])
    again = Local(config=CONFIG, client=local.client, split=local.split, round=1, model=local.model, state=local.state)
    again.model.load_state_dict(dict(local.state))
    assert again.train().loss == first.loss
    assert torch.equal(again.snapshot()["head.last.weight"], one["head.last.weight"])
    assert len(local.results) == 2


def test_epochs_and_steps(local):
    assert local.train(epochs=3).steps == 3 * local.train().steps


def test_a_shift_is_added_to_the_gradient(local):
    seen = {}

    def watch(parameters):
        before = parameters["head.last.bias"].grad.clone()
        local.shift({"head.last.bias": torch.full_like(before, 0.5), "elsewhere": torch.ones(1)})(parameters)
        seen["difference"] = parameters["head.last.bias"].grad - before

    local.train(correct=watch)
    torch.testing.assert_close(seen["difference"], torch.full_like(seen["difference"], 0.5))


def test_held_out_images_are_the_same_each_round_and_never_trained_on(local):
    local.hold_out(0.25)
    held, rest = set(local._held_out), set(local._images)
    assert len(held) == 1
    assert held | rest == set(local.client.images)
    assert not held & rest
    again = Local(config=CONFIG, client=local.client, split=local.split, round=9, model=local.model, state=local.state)
    again.hold_out(0.25)
    assert set(again._held_out) == held


def test_losses_are_deterministic_and_leave_the_model_alone(local):
    local.hold_out(0.5)
    local.train()
    before = local.snapshot()
    other = local.loss(local.state, held_out=True)
    assert other == local.loss(local.state, held_out=True)
    assert other != local.loss(held_out=True)
    part = {name: tensor for name, tensor in local.state.items() if name.startswith("backbone.")}
    assert local.loss(part) not in (local.loss(), local.loss(local.state))
    assert all(torch.equal(tensor, before[name]) for name, tensor in local.snapshot().items())


def test_the_mean_loss_weighs_images_alike(local):
    images, targets = local._tensors(local.client.images)
    pair = local.client.pair
    single = [mean_loss(local.model, images[i : i + 1], targets[i : i + 1], pair, CONFIG) for i in range(3)]
    alone = tiny(batch_size=1)
    assert mean_loss(local.model, images[:3], targets[:3], pair, alone) == pytest.approx(sum(single) / 3)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.75, 1.0])
def test_a_share_that_leaves_too_few_is_an_error(local, share):
    with pytest.raises(ValueError, match="cannot be held out; at least one must be, and two must be left"):
        local.hold_out(share)


def test_a_held_out_loss_needs_held_out_images(local):
    with pytest.raises(ValueError, match=r"call local.hold_out\(share\) first"):
        local.loss(held_out=True)
