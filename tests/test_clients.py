"""Local training against plain loops, closed forms and faults; evaluation against an independent loop."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from matfl.client import training as clients
from matfl.client.training import evaluate, learning_rate, loss_weight, resolve_precision, train
from matfl.config.run_config import override, preset, smoke
from matfl.core.streams import derive, stream
from matfl.data.augment import augment, normalise
from matfl.data.split import Split
from matfl.models.network import build
from matfl.tasks.task import DOMAINS, pair, pairs

CONFIG = override(smoke(), start="random", width=4, head_channels=8, size=32, local_epochs=2, batch_size=4)
SEMSEG = pair("outdoor/semseg")


def labels(p, n, height, width, seed=0):
    """Random targets of the pair's kind."""
    rng = np.random.default_rng(seed)
    if p.task.name == "normals":
        vectors = rng.normal(size=(n, 3, height, width))
        return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float16)
    if p.task.name == "depth":
        return rng.uniform(1, 6, (n, height, width)).astype(np.float16)
    return rng.integers(0, max(2, p.channels), (n, height, width), dtype=np.uint8)


def data(p=SEMSEG, n=9, size=32, seed=0):
    images = np.random.default_rng(seed + 1).integers(0, 256, (n, 3, size, size), dtype=np.uint8)
    return torch.from_numpy(images), torch.from_numpy(labels(p, n, size, size, seed))


def trained(config=CONFIG, p=SEMSEG, *, round=1, client=0, n=9, **options):
    model = build(config, p)
    result = train(model, *data(p, n, config.size), p, config, round=round, client=client, **options)
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}, result


def pulled(mu, p=SEMSEG):
    """Options of `train` for FedProx's term from the model that `trained` starts from."""
    start = {name: tensor.clone() for name, tensor in build(CONFIG, p).state_dict().items()}
    return {"correct": lambda parameters: clients.add_pull(parameters, start, mu)} if mu else {}


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def plain_loop(config, p, round, client, mu=0.0, n=9):
    """What `train` says it does, in the plainest words: torch's own Adam, the penalty by autograd."""
    model = build(config, p).train()
    images, targets = data(p, n, config.size)
    start = [parameter.detach().clone() for parameter in model.parameters()]
    optimizer = torch.optim.Adam(
        model.parameters(),
        lr=config.lr * config.lr_decay ** (round - 1),
        weight_decay=config.weight_decay,
        amsgrad=True,
        fused=False,
    )
    generator = stream(config.seed, "train", round - 1, client)
    losses = []
    torch.manual_seed(derive(config.seed, "dropout", round - 1, client))
    for _ in range(config.local_epochs):
        for batch in torch.randperm(n, generator=generator).split(config.batch_size):
            if len(batch) == 1:
                continue
            x, y = augment(images[batch], targets[batch], p, generator=generator)
            loss = p.task.loss(model(x), y)
            drift = sum((w - s).square().sum() for w, s in zip(model.parameters(), start, strict=True))
            weight = p.task.loss_weight if config.loss_weights == "field" else 1
            optimizer.zero_grad()
            (weight * loss + mu / 2 * drift).backward()
            optimizer.step()
            losses.append(loss.item())
    return model.state_dict(), losses


@pytest.mark.parametrize("mu", [0.0, 0.5])
@pytest.mark.parametrize(
    "name", ["outdoor/semseg", "outdoor/human_parts", "outdoor/sal", "indoor/normals", "indoor/edge", "indoor/depth"]
)
def test_training_is_the_plain_loop(name, mu):
    p = pair(name)
    config = override(CONFIG, local_epochs=1, lr=1e-3)
    state, result = trained(config, p, round=2, client=3, **pulled(mu, p))
    expected, losses = plain_loop(config, p, 2, 3, mu)
    assert result.loss == pytest.approx(np.mean(losses), rel=1e-4)
    for key, tensor in expected.items():
        torch.testing.assert_close(state[key], tensor, rtol=1e-3, atol=2e-4, msg=key)


def test_the_proximal_gradient_is_mu_times_the_distance():
    generator = torch.Generator().manual_seed(0)
    weights = {
        "a": torch.nn.Parameter(torch.randn(3, 4, generator=generator)),
        "b": torch.nn.Parameter(torch.randn(5)),
        "elsewhere": torch.nn.Parameter(torch.randn(2)),
    }
    start = {name: torch.randn_like(weights[name]) for name in "ab"}
    for parameter in weights.values():
        parameter.grad = torch.ones_like(parameter)
    parameters = [weights[name] for name in "ab"]
    penalty = 0.3 / 2 * sum((weights[name] - start[name]).square().sum() for name in "ab")
    by_autograd = torch.autograd.grad(penalty, parameters)
    clients.add_pull(weights, start, 0.3)
    assert torch.equal(weights["elsewhere"].grad, torch.ones(2))
    for parameter, origin, gradient in zip(parameters, start.values(), by_autograd, strict=True):
        torch.testing.assert_close(parameter.grad, 1 + 0.3 * (parameter.detach() - origin))
        torch.testing.assert_close(parameter.grad, 1 + gradient)


def test_a_strong_proximal_term_keeps_the_client_near_its_start():
    start = build(CONFIG, SEMSEG).state_dict()
    config = override(CONFIG, lr=1e-3, local_epochs=4, weight_decay=0.0)

    def drift(mu):
        state, _ = trained(config, **pulled(mu))
        return sum((state[name] - start[name]).square().sum().item() for name in start if name.endswith("weight"))

    assert drift(1e4) < 0.5 * drift(0.0)


def test_training_depends_on_seed_round_and_client_alone():
    first, result = trained()
    torch.manual_seed(123)  # the caller's generator neither matters nor moves
    before = torch.get_rng_state()
    again, same = trained()
    assert torch.equal(torch.get_rng_state(), before)
    assert equal(first, again)
    assert (result.loss, result.images, result.steps) == (same.loss, same.images, same.steps)
    for other in (trained(round=2), trained(client=1), trained(override(CONFIG, seed=1))):
        assert not equal(first, other[0])


def test_one_module_serves_clients_in_any_order():
    model, (images, targets) = build(CONFIG, SEMSEG), data()
    start = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    states = {}
    for order in ((0, 1), (1, 0)):
        for client in order:
            model.load_state_dict(start)
            train(model, images, targets, SEMSEG, CONFIG, round=1, client=client)
            state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
            assert equal(states.setdefault(client, state), state)


def test_learning_rate_decays_by_round():
    config = override(CONFIG, lr=0.5, lr_decay=0.9)
    assert [learning_rate(config, r) for r in (1, 2, 3)] == pytest.approx([0.5, 0.45, 0.405])


def test_adam_is_new_each_round_and_its_first_step_is_the_learning_rate():
    """Adam's first step moves every parameter that has a gradient by lr, whatever was trained before."""
    config = override(CONFIG, local_epochs=1, weight_decay=0.0, lr=1e-3, lr_decay=0.5)
    model, (images, targets) = build(config, SEMSEG), data(n=4)
    for round in range(3):
        before = model.head.last.weight.detach().clone()
        assert train(model, images, targets, SEMSEG, config, round=round + 1, client=0).steps == 1
        moved = (model.head.last.weight.detach() - before).abs()
        torch.testing.assert_close(moved.median(), torch.tensor(1e-3 * 0.5**round), rtol=0.02, atol=0)


def test_kept_moments_are_one_adam_over_two_rounds(monkeypatch):
    config = override(CONFIG, lr=1e-3)
    model, other, (images, targets) = build(config, SEMSEG), build(config, SEMSEG), data()
    moments = {}
    for round in (1, 2):
        moments = train(model, images, targets, SEMSEG, config, round=round, client=0, moments=moments).moments
    adam, made = torch.optim.Adam, []

    def the_same(parameters, *, lr, **options):
        """The optimiser of the first round again, at this round's learning rate."""
        made[:] = made or [adam(parameters, lr=lr, **options)]
        made[0].param_groups[0]["lr"] = lr
        return made[0]

    monkeypatch.setattr(torch.optim, "Adam", the_same)
    for round in (1, 2):
        assert not train(other, images, targets, SEMSEG, config, round=round, client=0).moments
    assert equal(model.state_dict(), other.state_dict())
    monkeypatch.undo()
    anew = build(config, SEMSEG)
    for round in (1, 2):
        train(anew, images, targets, SEMSEG, config, round=round, client=0)
    assert not equal(model.state_dict(), anew.state_dict())
    names = {name.rpartition(".")[0] for name in moments}
    assert names == {name for name, _ in model.named_parameters()}
    assert all(value.device.type == "cpu" and value.is_contiguous() for value in moments.values())


def test_loss_weights_scale_the_gradient_and_not_the_record():
    edge = pair("outdoor/edge")
    field, none = (override(CONFIG, loss_weights=w, weight_decay=0.0, local_epochs=1) for w in ("field", "none"))
    assert (loss_weight(field, edge), loss_weight(none, edge)) == (50, 1)
    (state_a, a), (state_b, b) = trained(field, edge, n=4), trained(none, edge, n=4)
    assert a.loss == b.loss  # of the one step, taken before it
    assert not equal(state_a, state_b)  # batch-norm epsilon of Adam aside the steps are alike
    torch.testing.assert_close(state_a["head.last.weight"], state_b["head.last.weight"], rtol=1e-2, atol=1e-5)


@pytest.mark.parametrize("n, steps, images", [(9, 4, 16), (10, 6, 20), (8, 4, 16), (3, 2, 6)])
def test_a_last_batch_of_one_is_skipped(n, steps, images):
    _, result = trained(n=n)
    assert (result.steps, result.images) == (steps, images)


def test_too_few_images_for_batch_norm_are_an_error_with_a_remedy():
    with pytest.raises(ValueError, match=r"client 5 \(outdoor/semseg\): 1 image.*raise images_train"):
        trained(n=1, client=5)
    with pytest.raises(ValueError, match="set batch_size to at least 2"):
        trained(override(CONFIG, batch_size=1))


def test_a_loss_that_is_not_finite_is_named():
    model, (images, targets) = build(CONFIG, SEMSEG), data()
    with torch.no_grad():
        model.head.last.bias.fill_(math.nan)
    with pytest.raises(FloatingPointError, match=r"client 7 \(outdoor/semseg\).*round 3, epoch 0.*lower lr"):
        train(model, images, targets, SEMSEG, CONFIG, round=3, client=7)


@pytest.mark.parametrize("name", ["outdoor/semseg", "indoor/depth"])
def test_a_few_images_can_be_learnt(name):
    p = pair(name)
    config = override(CONFIG, lr=1e-2, local_epochs=5)
    images, _ = data(p, 8)
    images[:, :, :, :16] //= 4
    target = torch.ones(8, 32, 32, dtype=p.task.target_dtype)
    target[:, :, 16:] = 4
    model = build(config, p)
    losses = [train(model, images, target, p, config, round=r + 1, client=0).loss for r in range(6)]
    assert losses[-1] < 0.5 * losses[0]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_parameters_and_statistics_stay_float32(precision):
    state, result = trained(override(CONFIG, precision=precision))
    assert {t.dtype for name, t in state.items() if not name.endswith("num_batches_tracked")} == {torch.float32}
    assert math.isfinite(result.loss)


def test_bf16_is_close_to_fp32():
    (a, exact), (b, coarse) = (trained(override(CONFIG, precision=p, local_epochs=1)) for p in ("fp32", "bf16"))
    assert coarse.loss == pytest.approx(exact.loss, rel=0.02)
    assert not equal(a, b)


def test_precision_is_the_configs_or_what_the_device_has(monkeypatch):
    fp32, bf16 = torch.float32, torch.bfloat16
    narrow, wide = override(CONFIG, precision="auto", width=8), override(CONFIG, precision="auto", width=16)
    for native in (False, True):
        monkeypatch.setattr(clients, "_cpu_has_bf16", lambda native=native: native)
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True, native=native: native)
        assert resolve_precision(narrow, "cpu") == fp32
        assert resolve_precision(wide, "cpu") == (bf16 if native else fp32)
        assert resolve_precision(narrow, "cuda") == (bf16 if native else fp32)
        assert resolve_precision(override(wide, precision="fp32"), "cpu") == fp32
        assert resolve_precision(override(narrow, precision="bf16"), "cpu") == bf16
    assert resolve_precision(wide, "meta") == fp32


def test_the_original_aspect_reaches_the_augmentation():
    square, _ = trained(local := override(CONFIG, local_epochs=1))
    same, _ = trained(local, aspects_N=torch.ones(9))
    wide, _ = trained(local, aspects_N=torch.full((9,), 0.6))
    assert equal(square, same)
    assert not equal(square, wide)


class Photographs:
    """Native labels of three sizes."""

    sizes = ((32, 32), (40, 48), (51, 37))

    def size(self, i):
        return self.sizes[i % 3]

    def label(self, task, i):
        p = pair(f"nyud/{task}" if task == "depth" else f"pascal/{task}")
        label = labels(p, 1, *self.size(i), seed=i)[0]
        return label if label.dtype == np.uint8 else label.astype(np.float32)

    def truth(self, task, i):
        return self.label(task, i)


def split(domain, n, natives=None):
    return Split(
        domain=DOMAINS[domain],
        ids=tuple(map(str, range(n))),
        images=data(n=n)[0].numpy(),
        natives=natives,
        labels={t: labels(pair(f"{domain}/{t}"), n, 32, 32, 5) for t in DOMAINS[domain].channels},
    )


@pytest.mark.parametrize("name", [p.name for p in pairs("scenes9") if p.task.name != "edge"])
@torch.no_grad()
def test_evaluation_of_rendered_images_is_the_independent_loop(name, monkeypatch):
    monkeypatch.setattr(clients, "PIXELS", 3 * 32 * 32)  # batches of three, the last one of one
    p = pair(name)
    model, validation = build(CONFIG, p), split(p.domain.name, 7)
    measured = evaluate(model, validation, p, CONFIG, device="cpu")
    expected = p.meter()
    model.eval()
    for i in range(7):
        output = model(normalise(torch.from_numpy(validation.images[i : i + 1])))
        expected.update(p.task.answer(output), torch.from_numpy(validation.labels[p.task.name][i : i + 1]))
    assert measured == pytest.approx(expected.compute(), rel=1e-4)


@pytest.mark.parametrize("name", ["pascal/semseg", "pascal/human_parts", "pascal/sal", "pascal/normals", "nyud/depth"])
@torch.no_grad()
def test_evaluation_of_photographs_is_at_their_own_size(name):
    p = pair(name)
    config = override(preset("paper_9"), start="random", width=4, head_channels=8, size=32, aspp_rates="2,4")
    model = build(config, p)
    measured = evaluate(model, split(p.domain.name, 7, Photographs()), p, config, device="cpu")
    expected = p.meter()
    model.eval()
    for i in range(7):
        output = model(normalise(data(n=7)[0][i : i + 1]))
        size = Photographs().size(i)
        if p.task.name in ("semseg", "human_parts"):
            native = F.interpolate(output.argmax(1, keepdim=True).float(), size, mode="nearest-exact")[:, 0].to(
                torch.uint8
            )
        else:
            value = {"sal": output.sigmoid(), "normals": F.normalize(output, dim=1), "depth": output}[p.task.name]
            native = F.interpolate(value, size, mode="bilinear", align_corners=False)
            native = F.normalize(native, dim=1) if p.task.name == "normals" else native[:, 0]
        expected.update(native, torch.from_numpy(Photographs().label(p.task.name, i))[None])
    assert measured == pytest.approx(expected.compute(), rel=1e-4)


def test_evaluation_leaves_the_model_as_it_was():
    model = build(CONFIG, SEMSEG)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    evaluate(model, split("outdoor", 3), SEMSEG, CONFIG, device="cpu")
    assert equal(model.state_dict(), before)
    assert not any(parameter.grad is not None for parameter in model.parameters())


@pytest.fixture
def waiting_is_an_error(monkeypatch):
    """Makes CUDA raise when the host waits for the device, up to the reading of the loss after the epoch."""
    item = torch.Tensor.item

    def allowed(tensor):
        torch.cuda.set_sync_debug_mode("default")
        return item(tensor)

    monkeypatch.setattr(torch.Tensor, "item", allowed)
    yield lambda: torch.cuda.set_sync_debug_mode("error")
    torch.cuda.set_sync_debug_mode("default")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_cuda_trains_without_waiting_and_repeats_bit_for_bit(precision, waiting_is_an_error):
    config = replace(CONFIG, precision=precision, local_epochs=1)
    states = []
    for _ in range(2):
        model = build(config, SEMSEG).to("cuda")
        images, targets = (tensor.to("cuda") for tensor in data())
        waiting_is_an_error()
        train(model, images, targets, SEMSEG, config, round=1, client=0)
        states.append({name: tensor.cpu() for name, tensor in model.state_dict().items()})
    assert equal(*states)
