"""One client: local training from the weights it was sent, and evaluation of a model on a split."""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn

from matfl.client.objective import balance_of, follow, loss_weight, losses, total
from matfl.config.run_config import RunConfig
from matfl.core.streams import derive, stream
from matfl.data.augment import augment, normalise
from matfl.models.backbone import find_backbone
from matfl.models.network import Model
from matfl.tasks.joint import Joint, Packed, Targets
from matfl.tasks.meters import Meter
from matfl.tasks.task import Pair

if TYPE_CHECKING:
    from matfl.data import Split

__all__ = [
    "Correction",
    "TrainResult",
    "add_pull",
    "answers",
    "aspects",
    "evaluate",
    "learning_rate",
    "loss_weight",
    "mean_gradient",
    "mean_loss",
    "measure",
    "measure_answers",
    "resolve_precision",
    "train",
]

Correction = Callable[[Mapping[str, Tensor]], None]
"""Changes the gradients of parameters, given by their names, in place."""

PIXELS = 1 << 21
"""Network pixels of a batch in evaluation: eight images of the paper's size, at most 64 small ones."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainResult:
    """What one client's local training did."""

    loss: float
    """Mean over all steps of the task's loss, without loss weight, proximal term or weight decay; of several tasks the
    sum of theirs, each times its weight over their mean."""
    seconds: float
    images: int
    """Image passes: images a step, summed over steps and epochs."""
    steps: int
    moments: Mapping[str, Tensor] = field(default_factory=dict)
    """Adam's state after the last step by '<parameter>.<moment>', on the CPU; empty unless `train` was given one."""


def resolve_precision(config: RunConfig, device: torch.device | str) -> torch.dtype:
    """The dtype of convolutions on `device`: `config.precision`, or for 'auto' bfloat16 where it is native and pays.

    That is CUDA devices that compute it natively, and processors with AVX512-BF16 or AMX where the backbone says so
    (`Backbone.bf16_pays`: a ResNet from width 16 on). Parameters, batch-norm statistics, losses and Adam stay float32
    in any case.
    """
    if config.precision != "auto":
        return {"fp32": torch.float32, "bf16": torch.bfloat16}[config.precision]
    kind = torch.device(device).type
    if kind == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        native = kind == "cpu" and _cpu_has_bf16() and find_backbone(config).bf16_pays(config)
    return torch.bfloat16 if native else torch.float32


def _cpu_has_bf16() -> bool:
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def learning_rate(config: RunConfig, round: int) -> float:
    """lr x lr_decay^(round - 1); rounds count from 1 (section 4.1)."""
    return config.lr * config.lr_decay ** (round - 1)


def train(
    model: Model,
    images_u8: Tensor,
    targets: Targets,
    pair: Pair,
    config: RunConfig,
    *,
    round: int,
    client: int,
    correct: Correction | None = None,
    only: Literal["backbone", "head"] | None = None,
    phase: int = 0,
    aspects_N: Tensor | None = None,
    moments: Mapping[str, Tensor] | None = None,
) -> TrainResult:
    """Train `model` in place for `config.local_epochs` on one client's images, from the state that it holds.

    images_u8 (n, 3, H, W) and targets (n, ...) may lie on the model's device or anywhere else; batches follow the
    model. A pair of several tasks takes their targets `Packed`, and joins their gradients by `config.balance`. Adam
    (amsgrad, L2 term) is made anew unless `moments` are given; order, augmentation and dropout depend on config.seed,
    round, client and phase alone. A last batch of one image is skipped: batch norm needs two. Nothing waits for the
    device within an epoch, unless gradients are balanced.

    Args:
        round: 1-based.
        correct: called after each backward pass with the trained parameters by name.
        only: train this part; the other one's parameters and batch-norm statistics stay as they are.
        phase: number of the call within the client's round, from 0.
        aspects_N: (CPU) height over width of the original pictures where they were resized to the network's shape
            (`matfl.data.augment`).
        moments: an earlier result's, from which Adam goes on; parameters without any start anew.

    Raises ValueError when no batch has two images, FloatingPointError when the loss is not finite after an epoch.
    """
    n = len(images_u8)
    if min(n, config.batch_size) < 2:
        remedy = (
            "set batch_size to at least 2"
            if config.batch_size < 2
            else ("raise images_train or images_per_client, or lower clients_per_task")
        )
        raise ValueError(
            f"client {client} ({pair}): {n} image(s) in batches of {config.batch_size}, but batch norm "
            f"needs two images a step; {remedy}"
        )
    began = time.perf_counter()
    device = next(model.parameters()).device
    dtype = resolve_precision(config, device)
    layout = _memory_format(device, dtype)
    model.to(memory_format=layout)  # type: ignore[call-overload]
    model.train()
    parameters = dict(model.named_parameters())
    if only:
        getattr(model, "head" if only == "backbone" else "backbone").eval()
        parameters = {name: p for name, p in parameters.items() if name.startswith(f"{only}.")}
    optimizer = torch.optim.Adam(
        list(parameters.values()),
        lr=learning_rate(config, round),
        weight_decay=config.weight_decay,
        amsgrad=True,
        fused=device.type in ("cpu", "cuda"),
    )
    _go_on(optimizer, parameters, moments or {})
    scale = loss_weight(config, pair)
    key = (round - 1, client, phase) if phase else (round - 1, client)
    generator = stream(config.seed, "train", *key)
    balance = balance_of(config, pair, stream(config.seed, "balance", *key))
    seen = torch.zeros((), device=device, dtype=torch.float64 if device.type != "mps" else torch.float32)
    steps = passes = 0
    frozen = _frozen(p for name, p in model.named_parameters() if name not in parameters)
    with _dropout_from(derive(config.seed, "dropout", *key), device), _deterministic(device), frozen:
        for epoch in range(config.local_epochs):
            order = torch.randperm(n, generator=generator)
            there = order.to(images_u8.device, non_blocking=True)
            for batch, chosen in zip(there.split(config.batch_size), order.split(config.batch_size), strict=True):
                if len(batch) < 2:
                    continue
                picture, label = images_u8[batch], targets[batch]
                images, target = augment(
                    picture.to(device, non_blocking=True),
                    label.to(device, non_blocking=True),
                    pair,
                    generator=generator,
                    aspect=None if aspects_N is None else aspects_N[chosen],
                )
                with _autocast(device, dtype):
                    prediction = model(images.contiguous(memory_format=layout))
                parts = losses(prediction, target, pair, config)
                optimizer.zero_grad()
                follow([scale * loss for loss in parts], parameters, balance)
                if correct:
                    correct(parameters)
                optimizer.step()
                seen += total(parts).detach()
                steps += 1
                passes += len(batch)
            if not math.isfinite(seen.item()):
                raise FloatingPointError(
                    f"client {client} ({pair}): the loss is not finite in round {round}, epoch {epoch}; "
                    f"lower lr={config.lr}, or set precision='fp32' if it is not"
                )
    return TrainResult(
        loss=seen.item() / steps,
        seconds=time.perf_counter() - began,
        images=passes,
        steps=steps,
        moments={} if moments is None else _moments(optimizer, parameters),
    )


def _moments(optimizer: torch.optim.Adam, parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What `_go_on` takes; of parameters that never had a gradient there is nothing."""
    return {
        f"{name}.{moment}": value.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
        for name, parameter in parameters.items()
        for moment, value in optimizer.state.get(parameter, {}).items()
    }


def _go_on(optimizer: torch.optim.Adam, parameters: Mapping[str, Tensor], moments: Mapping[str, Tensor]) -> None:
    """Give the optimiser the state of an earlier one, in the memory format of its parameters."""
    for whole, value in moments.items():
        name, _, moment = whole.rpartition(".")
        if name in parameters:
            like = parameters[name] if value.shape == parameters[name].shape else value
            there = torch.empty_like(like, device=parameters[name].device, dtype=value.dtype).copy_(value)
            optimizer.state[parameters[name]][moment] = there.detach()


def add_pull(parameters: Mapping[str, Tensor], origin: Mapping[str, Tensor], strength: float) -> None:
    """Add strength (w - w_0), the gradient of strength/2 ||w - w_0||^2, to the gradients of `parameters`.

    `origin` holds w_0 by name; parameters without one, or without a gradient, are left alone.
    """
    pulled = [(p, origin[name]) for name, p in parameters.items() if p.grad is not None and name in origin]
    gradients = [p.grad for p, _ in pulled if p.grad is not None]
    away = torch._foreach_sub([p.detach() for p, _ in pulled], [start.to(p.device) for p, start in pulled])
    torch._foreach_add_(gradients, away, alpha=strength)


def aspects(split: Split, indices: Sequence[int]) -> Tensor | None:
    """Height over width (N,) of the original pictures; None where all enter the network as they are."""
    if split.natives is None:
        return None
    return torch.tensor([height / width for height, width in map(split.native_size, indices)])


@torch.no_grad()
def mean_loss(model: Model, images_u8: Tensor, targets: Targets, pair: Pair, config: RunConfig) -> float:
    """Mean loss of `model` on images that are not augmented, in evaluation mode; every image counts the same.

    Shapes and loss as in `train`, without the loss weight. Nothing is learned and nothing random is drawn.
    """
    losses = _plain_losses(model, images_u8, targets, pair, config)
    return sum(float(loss) * count for loss, count in losses) / len(images_u8)


def mean_gradient(
    model: Model, images_u8: Tensor, targets: Targets, pair: Pair, config: RunConfig
) -> dict[str, Tensor]:
    """The gradient of `mean_loss` times the task's loss weight in the backbone's parameters, by `Model`'s names."""
    parameters = {name: p for name, p in model.named_parameters() if name.startswith("backbone.")}
    summed = {name: torch.zeros_like(p) for name, p in parameters.items()}
    for loss, count in _plain_losses(model, images_u8, targets, pair, config):
        scaled = loss_weight(config, pair) * loss * (count / len(images_u8))
        parts = torch.autograd.grad(scaled, list(parameters.values()), allow_unused=True)
        for name, part in zip(summed, parts):
            if part is not None:
                summed[name] += part
    return summed


def _plain_losses(
    model: Model, images_u8: Tensor, targets: Targets, pair: Pair, config: RunConfig
) -> Iterator[tuple[Tensor, int]]:
    """(loss, images) of each batch, in order, in evaluation mode and without augmentation."""
    device = next(model.parameters()).device
    dtype = resolve_precision(config, device)
    layout = _memory_format(device, dtype)
    model.to(memory_format=layout)  # type: ignore[call-overload]
    model.eval()
    with _deterministic(device):
        for picture, label in zip(images_u8.split(config.batch_size), targets.split(config.batch_size)):
            with _autocast(device, dtype):
                prediction = model(normalise(picture.to(device)).contiguous(memory_format=layout))
            yield total(losses(prediction, label.to(device), pair, config)), len(picture)


@contextmanager
def _frozen(parameters: Iterator[nn.Parameter]) -> Iterator[None]:
    """Within, no gradients are computed for the parameters."""
    held = list(parameters)
    for parameter in held:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in held:
            parameter.requires_grad_(True)


def _memory_format(device: torch.device, dtype: torch.dtype) -> torch.memory_format:
    """channels_last feeds tensor cores; on processors oneDNN picks its own blocking and the usual order was as fast."""
    return torch.channels_last if device.type == "cuda" and dtype == torch.bfloat16 else torch.contiguous_format


def _autocast(device: torch.device, dtype: torch.dtype) -> AbstractContextManager[object]:
    return torch.autocast(device.type, dtype=dtype) if dtype != torch.float32 else nullcontext()


@contextmanager
def _dropout_from(seed: int, device: torch.device) -> Iterator[None]:
    """Within, dropout draws from `seed`; the caller's generators go on as if nothing had been drawn."""
    with torch.random.fork_rng([device] if device.type == "cuda" else [], enabled=True):
        torch.manual_seed(seed)
        yield


def _deterministic(device: torch.device) -> AbstractContextManager[object]:
    """cuDNN limited to algorithms that repeat bit for bit, so that a resumed run ends as an uninterrupted one."""
    if device.type != "cuda":
        return nullcontext()
    return torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True)


def evaluate(
    model: Model, split: Split, pair: Pair, config: RunConfig, *, device: torch.device | str
) -> dict[str, float]:
    """Every metric of `pair`'s task on all images of `split`, as `measure` takes them."""
    return measure(model, split, pair, config, device=device)[pair].compute()


@torch.no_grad()
def measure(
    model: Model, split: Split, pair: Pair, config: RunConfig, *, device: torch.device | str
) -> dict[Pair, Meter]:
    """The meter of each part of `pair` after all images of `split`, at the labels' native resolution.

    A pair of one task is its only part. Images enter at network size; answers go to each image's own size before they
    are measured (`answers`). Images of one size go through the network together, and once for all parts.
    """
    return measure_answers(
        lambda images_u8, size: answers(model, images_u8, pair, config, size=size), split, pair, config, device=device
    )


def measure_answers(
    answer: Callable[[Tensor, tuple[int, int]], Sequence[Tensor]],
    split: Split,
    pair: Pair,
    config: RunConfig,
    *,
    device: torch.device | str,
) -> dict[Pair, Meter]:
    """As `measure`, of whatever answers on images (B, 3, H, W) at a size, once for each part."""
    measured = {part: part.meter(edge_protocol=config.edge_protocol) for part in pair.parts}
    height, width = split.images.shape[-2:]
    at_once = max(1, min(64, PIXELS // (height * width)))
    groups: dict[tuple[int, int], list[int]] = defaultdict(list)
    for i in range(len(split)):
        groups[split.native_size(i)].append(i)
    for size, members in groups.items():
        for first in range(0, len(members), at_once):
            indices = members[first : first + at_once]
            images, targets = split.tensors_of(pair, indices, device)
            own = targets.parts if isinstance(targets, Packed) else (targets,)
            for (part, meter), answered, target in zip(measured.items(), answer(images, size), own, strict=True):
                if split.natives is not None:
                    truth = [torch.from_numpy(split.truth(part.task.name, i)) for i in indices]
                    meter.update(answered, torch.stack(truth).to(device))
                else:
                    meter.update(answered, target)
    return measured


@torch.no_grad()
def answers(
    model: Model, images_u8: Tensor, pair: Pair, config: RunConfig, *, size: tuple[int, int]
) -> tuple[Tensor, ...]:
    """What `model` answers on images (B, 3, H, W) at network size, at another (height, width): see `Task.answer`.

    One answer for each part of the pair, so one alone of a pair with one task. The one way from pictures to answers,
    for measuring and for predictions; in the arithmetic of training.
    """
    device = next(model.parameters()).device
    dtype = resolve_precision(config, device)
    layout = _memory_format(device, dtype)
    model.to(memory_format=layout).eval()  # type: ignore[call-overload]
    with _deterministic(device), _autocast(device, dtype):
        output = model(normalise(images_u8.to(device)).contiguous(memory_format=layout))
    outputs = pair.task.slices(output) if isinstance(pair.task, Joint) else (output,)
    return tuple(part.task.answer(own, size) for part, own in zip(pair.parts, outputs, strict=True))
