"""`Split`: one domain's images and labels, decoded once and memory-mapped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from matfl.config.run_config import RunConfig
from matfl.tasks.joint import Packed, Targets
from matfl.tasks.task import TASKS, Domain, Pair

__all__ = ["Natives", "Split", "network_size"]


class Natives(Protocol):
    """Labels at the images' own sizes."""

    def size(self, i: int) -> tuple[int, int]:
        """(height, width) of image i."""

    def label(self, task: str, i: int) -> np.ndarray:
        """Decoded label of image i: uint8 (h, w), or float32 (h, w) or (3, h, w)."""

    def truth(self, task: str, i: int) -> np.ndarray:
        """What an answer on image i is measured against, in the form of its label; the label itself for most tasks."""


@dataclass(frozen=True, kw_only=True)
class Split:
    """The images and labels of one domain's training or validation split; labels as `matfl.tasks.task` describes.

    >>> import matfl, numpy
    >>> zeros = numpy.zeros((2, 3, 32, 32), numpy.uint8)
    >>> split = matfl.Split(domain=matfl.DOMAINS["outdoor"], ids=("a", "b"), images=zeros, labels={"sal": zeros[:, 0]})
    >>> len(split), split.native_size(0)
    (2, (32, 32))
    """

    domain: Domain
    ids: tuple[str, ...]
    """Names of the images in their data set."""
    images: np.ndarray
    """uint8 (N, 3, H, W), memory-mapped, at network size."""
    labels: Mapping[str, np.ndarray]
    """Task name -> (N, H, W) or (N, 3, H, W), memory-mapped, at network size."""
    counted: Mapping[str, np.ndarray] = field(default_factory=dict)
    """Task name -> bool (N,): which images count by their native labels, of selective tasks (`Task.counts`). Default:
    found out from `labels`."""
    class_names: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Task name -> names of its classes, where they are known."""
    natives: Natives | None = None
    """Labels at native sizes; None where those are the network size."""

    def __len__(self) -> int:
        return len(self.ids)

    def native_size(self, i: int) -> tuple[int, int]:
        """(height, width) of image i as it was photographed or rendered."""
        height, width = self.images.shape[-2:]
        return self.natives.size(i) if self.natives else (height, width)

    def native(self, task_name: str, i: int) -> np.ndarray:
        """The label of image i at native size: uint8 (h, w), float32 (h, w) or float32 (3, h, w)."""
        self._check(task_name)
        if self.natives:
            return self.natives.label(task_name, i)
        label = np.array(self.labels[task_name][i])
        return label.astype(np.float32) if label.dtype == np.float16 else label

    def truth(self, task_name: str, i: int) -> np.ndarray:
        """What an answer on image i is measured against, at native size: its label, or for edges of real data sets the
        truth of the benchmarks (`matfl.tasks.edges.truth`). Rendered edges are exact, and their own truth."""
        self._check(task_name)
        return self.natives.truth(task_name, i) if self.natives else self.native(task_name, i)

    def tensors(
        self, task_name: str, indices: Sequence[int] | np.ndarray, device: torch.device | str = "cpu"
    ) -> tuple[Tensor, Tensor]:
        """(images uint8 (B, 3, H, W), targets) of the given images at network size, in that order, on `device`."""
        self._check(task_name)
        chosen = np.asarray(indices, dtype=np.int64)
        return (
            torch.from_numpy(np.asarray(self.images[chosen])).to(device),
            torch.from_numpy(np.asarray(self.labels[task_name][chosen])).to(device),
        )

    def tensors_of(
        self, pair: Pair, indices: Sequence[int] | np.ndarray, device: torch.device | str = "cpu"
    ) -> tuple[Tensor, Targets]:
        """`tensors` for a client's pair; where it joins several tasks the targets are `Packed`."""
        each = [self.tensors(part.task.name, indices, device) for part in pair.parts]
        return each[0] if len(each) == 1 else (each[0][0], Packed(tuple(targets for _, targets in each)))

    def counting(self, task_name: str, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """Which of the given images count for a task (`Task.counts`), or for each of those joined: bool, one each."""
        if "+" in task_name:
            return np.all([self.counting(task, indices) for task in task_name.split("+")], 0)
        self._check(task_name)
        chosen, task = np.asarray(indices, dtype=np.int64), TASKS.find(task_name)
        if not task.selective:
            return np.ones(len(chosen), bool)
        if task_name in self.counted:
            return np.asarray(self.counted[task_name][chosen])
        labels = self.labels[task_name]
        return np.array([bool(task.counts(torch.from_numpy(np.array(labels[i : i + 1])))) for i in chosen], bool)

    def _check(self, task_name: str) -> None:
        if task_name not in self.labels:
            raise ValueError(
                f"domain {self.domain.name} has no labels for {task_name!r}: choose from {', '.join(self.labels)}"
            )


def network_size(config: RunConfig, domain: Domain) -> tuple[int, int]:
    """(height, width) at which the domain's images enter the network; the aspect of real ones is not kept.

    Raises ValueError where neither the config nor the domain says it.
    """
    if config.size:
        return config.size, config.size
    if domain.size is None:
        raise ValueError(f"size=0: domain {domain.name!r} has no network size of its own; set size")
    return domain.size
