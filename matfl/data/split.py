"""`Split`: one domain's images and labels, decoded once and memory-mapped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from matfl.config.run_config import RunConfig
from matfl.tasks.task import DOMAINS, IGNORE, Domain

__all__ = ["NATIVE_SIZES", "Natives", "Split", "load_split", "network_size"]

NATIVE_SIZES = {"pascal": (512, 512), "nyud": (480, 640)}
"""Network input (height, width) of each layout in the paper (section 4.1)."""


class Natives(Protocol):
    """Labels at the images' own sizes."""

    def size(self, i: int) -> tuple[int, int]:
        """(height, width) of image i."""

    def label(self, task: str, i: int) -> np.ndarray:
        """Decoded label of image i: uint8 (h, w), or float32 (h, w) or (3, h, w)."""


@dataclass(frozen=True, kw_only=True)
class Split:
    """The images and labels of one domain's training or validation split; labels as `matfl.tasks.task` describes."""

    domain: Domain
    ids: tuple[str, ...]
    """Names of the images in their data set."""
    images: np.ndarray
    """uint8 (N, 3, H, W), memory-mapped, at network size."""
    labels: Mapping[str, np.ndarray]
    """Task name -> (N, H, W) or (N, 3, H, W), memory-mapped, at network size."""
    people: np.ndarray | None = None
    """bool (N,): whether the native human_parts label shows a person. Default: found out from `labels`."""
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

    def with_person(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """Which of the given images show a person: bool, one each."""
        self._check("human_parts")
        chosen = np.asarray(indices, dtype=np.int64)
        if self.people is not None:
            return np.asarray(self.people[chosen])
        parts = self.labels["human_parts"]
        return np.array([bool(((parts[i] != 0) & (parts[i] != IGNORE)).any()) for i in chosen], dtype=bool)

    def _check(self, task_name: str) -> None:
        if task_name not in self.labels:
            raise ValueError(
                f"domain {self.domain.name} has no labels for {task_name!r}: choose from {', '.join(self.labels)}"
            )


def network_size(config: RunConfig, domain: Domain) -> tuple[int, int]:
    """(height, width) at which the domain's images enter the network; the aspect of real ones is not kept."""
    return (config.size, config.size) if config.size else NATIVE_SIZES[domain.layout]


def load_split(
    config: RunConfig,
    domain: Domain | str,
    split_name: str,
    *,
    data_dir: str | Path | None = None,
    cache_dir: str | Path | None = None,
    progress: bool = False,
) -> Split:
    """The 'train' or 'val' split of a domain at the network size of `config`, made on first use and cached.

    Rendered domains hold `config.images_train` or `images_val` pictures of `config.data_seed`. Real ones are decoded
    from PASCAL_MT, PASCALContext, NYUD_MT or NYUDv2 in `data_dir` (default: $MATFL_DATA); a limit on their images
    takes that many at equal distances in the split file. The cache ($MATFL_CACHE, else ~/.cache/matfl) is keyed by
    all that decides the arrays; it may be shared by processes and killed at any time.

    Raises DataError for whatever is missing or damaged, naming the file and the remedy.
    """
    domain = DOMAINS[domain] if isinstance(domain, str) else domain
    if split_name not in ("train", "val"):
        raise ValueError(f"split {split_name!r}: choose 'train' or 'val'")
    count = config.images_train if split_name == "train" else config.images_val
    size = network_size(config, domain)
    if domain.rendered:
        from matfl.data.rendered import load_rendered

        return load_rendered(
            domain, split_name, count=count, size=size[0], seed=config.data_seed, cache_dir=cache_dir, progress=progress
        )
    from matfl.data.real import load_real

    return load_real(
        domain, split_name, count=count, size=size, data_dir=data_dir, cache_dir=cache_dir, progress=progress
    )
