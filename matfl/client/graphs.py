"""A small network's training step as one CUDA graph.

A step of a ResNet on a few small pictures is more than a thousand kernels of some microseconds, and a processor takes
longer to launch one than a GPU to run it. A graph launches all at once. It runs the kernels that were recorded, on the
memory that they had then, so the numbers are those of the plain step bit for bit; what it reads and writes must stay in
its place, which is why an optimiser is kept with the model.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.optim import Adam

from matfl.tasks.joint import Targets

__all__ = ["SMALL", "Step", "kept_adam", "recorded"]

Step = Callable[[Tensor, Targets, Tensor], Tensor]
"""Pictures (B, 3, H, W), their labels and numbers (B, 8) of `matfl.data.augment.entries` -> the loss."""

SMALL = 1 << 19
"""Pixels of a batch up to which launches take longer than what they launch. A larger one keeps the GPU busy, and a
graph would only hold memory."""


@dataclass(frozen=True, slots=True)
class _Recording:
    graph: torch.cuda.CUDAGraph
    batch: Sequence[Tensor]
    loss: Tensor
    gradients: Sequence[Tensor | None]

    def replay(self, parameters: Sequence[nn.Parameter], batch: Sequence[Tensor]) -> Tensor:
        for place, tensor in zip(self.batch, batch, strict=True):
            place.copy_(tensor)
        self.graph.replay()
        for parameter, gradient in zip(parameters, self.gradients, strict=True):
            parameter.grad = gradient
        return self.loss


_optimizers: WeakKeyDictionary[nn.Module, dict[Hashable, Adam]] = WeakKeyDictionary()
_recordings: WeakKeyDictionary[nn.Module, dict[tuple[Any, ...], _Recording]] = WeakKeyDictionary()


def kept_adam(
    model: nn.Module, parameters: Sequence[nn.Parameter], *, lr: float, weight_decay: float, key: Hashable
) -> Adam:
    """An Adam (amsgrad) as new for `parameters` of a model on a CUDA device, whose tensors a graph can find again.

    It is the model's own for `key`: calls with equal ones must name the same parameters and weight decay.
    """
    of_model = _optimizers.setdefault(model, {})
    if key not in of_model:
        rate = torch.zeros((), device=parameters[0].device)
        of_model[key] = Adam(parameters, lr=rate, weight_decay=weight_decay, amsgrad=True, fused=True, capturable=True)
    optimizer = of_model[key]
    optimizer.param_groups[0]["lr"].fill_(lr)
    if state := _state(optimizer):
        torch._foreach_zero_(state)
    return optimizer


def recorded(step: Step, model: nn.Module, optimizer: Adam, *, key: Hashable) -> Step:
    """`step` of a model on a CUDA device, recorded once for each shape of small batch and replayed from then on.

    The recording belongs to the model and is found again by `key`, which must hold all that `step` depends on beside
    the batch and the tensors of model and optimiser (one of `kept_adam`). A step may set gradients, move the model and
    the optimiser's state, and draw random numbers; it must not wait for the device. The loss that it returns, and the
    gradients, are overwritten by the next. Batches of more than `SMALL` pixels, and labels of several tasks, take the
    plain step.
    """
    of_model = _recordings.setdefault(model, {})
    parameters = optimizer.param_groups[0]["params"]
    addresses = tuple(tensor.data_ptr() for tensor in chain(model.parameters(), model.buffers()))

    def launched(pictures: Tensor, labels: Targets, numbers_BK: Tensor) -> Tensor:
        if pictures[:, 0].numel() > SMALL or not isinstance(labels, Tensor):
            return step(pictures, labels, numbers_BK)
        batch = (pictures, labels, numbers_BK)
        known = (key, *((tensor.shape, tensor.dtype) for tensor in batch), addresses)
        if known not in of_model:
            for other in [name for name in of_model if name[-1] != addresses]:  # the model's tensors have moved
                del of_model[other]
            # A model's graphs share memory: they run one after another, and what one leaves is used before the next.
            pool = next((recording.graph.pool() for recording in of_model.values()), None)
            of_model[known] = _record(step, model, optimizer, batch, pool)
        return of_model[known].replay(parameters, batch)

    return launched


def _record(step: Step, model: nn.Module, optimizer: Adam, batch: Iterable[Tensor], pool: Any) -> _Recording:
    """Nothing is learned by it and no random number is used up: what the first calls change is put back."""
    pictures, labels, numbers_BK = places = [tensor.clone() for tensor in batch]
    before = [(tensor, tensor.detach().clone()) for tensor in _changing(model, optimizer)]
    device, side = pictures.device, torch.cuda.Stream(pictures.device)
    with torch.random.fork_rng([device]):
        side.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(side):  # libraries set themselves up in the first calls, which no graph may hold
            for _ in range(2):
                step(pictures, labels, numbers_BK)
        torch.cuda.current_stream(device).wait_stream(side)
        with torch.no_grad():
            for tensor, value in before:
                tensor.copy_(value)
            for begun in _changing(model, optimizer)[len(before) :]:  # the state of an optimiser that had none yet
                begun.zero_()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=pool):
            loss = step(pictures, labels, numbers_BK)
    return _Recording(graph, places, loss, [p.grad for p in optimizer.param_groups[0]["params"]])


def _changing(model: nn.Module, optimizer: Adam) -> list[Tensor]:
    return [*model.parameters(), *model.buffers(), *_state(optimizer)]


def _state(optimizer: Adam) -> list[Tensor]:
    return [tensor for state in optimizer.state.values() for tensor in state.values()]
