"""One client: local training from the weights it was sent, and evaluation of a model on a split."""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from matfl.config.run_config import RunConfig
from matfl.core.streams import derive, stream
from matfl.data.augment import augment, normalise
from matfl.models.network import Model
from matfl.tasks.meters import Meter, meter, resize_prediction
from matfl.tasks.task import Pair

if TYPE_CHECKING:
    from matfl.data import Split

__all__ = ["TrainResult", "evaluate", "learning_rate", "loss_weight", "measure", "resolve_precision", "train"]

PIXELS = 1 << 21
"""Network pixels of a batch in evaluation: eight images of the paper's size, at most 64 small ones."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainResult:
    """What one client's local training did."""

    loss: float
    """Mean over all steps of the task's loss, without loss weight, proximal term or weight decay."""
    seconds: float
    images: int
    """Image passes: images a step, summed over steps and epochs."""
    steps: int


def resolve_precision(config: RunConfig, device: torch.device | str) -> torch.dtype:
    """The dtype of convolutions on `device`: `config.precision`, or for 'auto' bfloat16 where it is native and pays.

    That is CUDA devices that compute it natively, and processors with AVX512-BF16 or AMX from width 16 on (narrower
    networks spend their time elsewhere). Parameters, batch-norm statistics, losses and Adam stay float32 in any case.
    """
    if config.precision != "auto":
        return {"fp32": torch.float32, "bf16": torch.bfloat16}[config.precision]
    kind = torch.device(device).type
    if kind == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        native = kind == "cpu" and config.width >= 16 and _cpu_has_bf16()
    return torch.bfloat16 if native else torch.float32


def _cpu_has_bf16() -> bool:
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def learning_rate(config: RunConfig, round: int) -> float:
    """lr x lr_decay^round; rounds count from 0 (section 4.1)."""
    return config.lr * config.lr_decay**round


def loss_weight(config: RunConfig, pair: Pair) -> float:
    """Factor on the task's loss: the field's with `loss_weights='field'`, else 1."""
    return pair.task.loss_weight if config.loss_weights == "field" else 1.0


def train(
    model: Model,
    images_u8: Tensor,
    targets: Tensor,
    pair: Pair,
    config: RunConfig,
    *,
    round: int,
    client: int,
    mu: float = 0.0,
    aspects_N: Tensor | None = None,
) -> TrainResult:
    """Train `model` in place for `config.local_epochs` on one client's images, from the state that it holds.

    images_u8 (n, 3, H, W) and targets (n, ...) may lie on the model's device or anywhere else; batches follow the
    model. Adam (amsgrad, L2 term) is made anew; order, augmentation and dropout depend on (config.seed, round, client)
    alone. `mu` > 0 adds FedProx's mu/2 ||w - w_start||^2 over all parameters. A last batch of one image is skipped:
    batch norm needs two. `aspects_N` (CPU) is height over width of the original pictures where they were resized to the
    network's shape (`matfl.data.augment`). Nothing waits for the device within an epoch.

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
    parameters = list(model.parameters())
    start = [p.detach().clone() for p in parameters] if mu else []
    optimizer = torch.optim.Adam(
        parameters,
        lr=learning_rate(config, round),
        weight_decay=config.weight_decay,
        amsgrad=True,
        fused=device.type in ("cpu", "cuda"),
    )
    scale = loss_weight(config, pair)
    generator = stream(config.seed, "train", round, client)
    total = torch.zeros((), device=device, dtype=torch.float64 if device.type != "mps" else torch.float32)
    steps = passes = 0
    with _dropout_from(derive(config.seed, "dropout", round, client), device), _deterministic(device):
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
                loss = pair.task.loss(prediction, target)
                optimizer.zero_grad()
                (scale * loss).backward()
                if mu:
                    _add_proximal_gradient(parameters, start, mu)
                optimizer.step()
                total += loss.detach()
                steps += 1
                passes += len(batch)
            if not math.isfinite(total.item()):
                raise FloatingPointError(
                    f"client {client} ({pair}): the loss is not finite in round {round}, epoch {epoch}; "
                    f"lower lr={config.lr}, or set precision='fp32' if it is not"
                )
    return TrainResult(loss=total.item() / steps, seconds=time.perf_counter() - began, images=passes, steps=steps)


def _add_proximal_gradient(parameters: Sequence[Tensor], start: list[Tensor], mu: float) -> None:
    """Gradient of mu/2 ||w - w_start||^2 is mu (w - w_start)."""
    pairs = [(p.grad, p.detach(), s) for p, s in zip(parameters, start, strict=True) if p.grad is not None]
    gradients, values, origins = map(list, zip(*pairs))
    torch._foreach_add_(gradients, torch._foreach_sub(values, origins), alpha=mu)


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
    return measure(model, split, pair, config, device=device).compute()


@torch.no_grad()
def measure(model: Model, split: Split, pair: Pair, config: RunConfig, *, device: torch.device | str) -> Meter:
    """The meter of `pair`'s task after all images of `split`, at the labels' native resolution.

    Real images enter at network size; what the network gives goes back to each image's own size before it is measured
    (`matfl.tasks.meters.resize_prediction`). Images of one size go through the network together.
    """
    device = torch.device(device)
    dtype = resolve_precision(config, device)
    layout = _memory_format(device, dtype)
    model.to(memory_format=layout)  # type: ignore[call-overload]
    model.eval()
    measured = meter(pair, edge_protocol=config.edge_protocol)
    height, width = split.images.shape[-2:]
    at_once = max(1, min(64, PIXELS // (height * width)))
    groups: dict[tuple[int, int], list[int]] = defaultdict(list)
    for i in range(len(split)):
        groups[split.native_size(i)].append(i)
    with _deterministic(device):
        for size, members in groups.items():
            for first in range(0, len(members), at_once):
                indices = members[first : first + at_once]
                images, target = split.tensors(pair.task.name, indices, device)
                with _autocast(device, dtype):
                    prediction = model(normalise(images).contiguous(memory_format=layout))
                if not pair.domain.rendered:
                    prediction = resize_prediction(prediction, size, pair)
                    native = [torch.from_numpy(split.native(pair.task.name, i)) for i in indices]
                    target = torch.stack(native).to(device)
                measured.update(prediction, target)
    return measured
