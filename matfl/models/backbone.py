"""What a backbone is, and the registry of those that `RunConfig.backbone` can name.

A plug-in adds one by registering a value:

    class Mine(Backbone):
        name, title = "mine", "My network"

        def build(self, config):
            return MyNetwork()  # images (B, 3, H, W) to features (B, MyNetwork.channels, h, w)

    BACKBONES.register(Mine())
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor, nn

from matfl.config.run_config import RunConfig
from matfl.core.registry import Registry
from matfl.core.streams import derive

__all__ = [
    "BACKBONES",
    "Backbone",
    "Start",
    "State",
    "build_backbone",
    "check_backbone",
    "dense_layers",
    "find_backbone",
    "seeded",
    "voting_layers",
]

State = dict[str, Tensor]

Load = Callable[[RunConfig, str | Path | None, torch.device | str], Mapping[str, Tensor]]
"""(config, cache folder, device that may compute) -> the backbone's tensors by name."""


def _unversioned(config: RunConfig) -> str | None:
    return None


@dataclass(frozen=True, kw_only=True, slots=True)
class Start:
    """Weights from which a backbone can start."""

    source: str
    """Whose weights they are, for messages."""
    load: Load
    """Raises FileNotFoundError or ValueError with the remedy when they cannot be had."""
    version: Callable[[RunConfig], str | None] = _unversioned
    """What tells these weights from other ones, for a run's provenance; None where the config alone does."""


class Backbone(ABC):
    """A network without its head, as `RunConfig.backbone` names it."""

    name: str
    """As `RunConfig.backbone` writes it, or what stands before the colon there."""
    title: str
    """One line for lists: what it is."""
    variants: ClassVar[bool] = False
    """Whether the name goes on after a colon: 'timm:NAME'."""

    @property
    def starts(self) -> Mapping[str, Start]:
        """What `RunConfig.start` may name besides 'random' and a file."""
        return {}

    @abstractmethod
    def build(self, config: RunConfig) -> nn.Module:
        """The network with random weights: images (B, 3, H, W) to features (B, `channels`, h, w) of any stride.

        The module has the attribute `channels`. Draws of torch's global generator come from `config.seed` here.
        """

    def channels(self, config: RunConfig) -> int:
        """Number of features. Override it where it is known without building the network."""
        return _built_channels(self, config)

    def check(self, config: RunConfig) -> None:  # noqa: B027  (most backbones have nothing to add)
        """Raise ValueError, or MissingExtra, for a config that this backbone cannot serve, before any work is done."""

    def bf16_pays(self, config: RunConfig) -> bool:
        """Whether training on a processor with bfloat16 units is faster in it (`precision='auto'`)."""
        return False

    def voters(self, network: nn.Module) -> tuple[str, ...]:
        """Names of the weights that may vote, from shallow to deep (section 5.2)."""
        return dense_layers(network)


BACKBONES: Registry[Backbone] = Registry("backbone", builtin="matfl.models.builtin")


def find_backbone(config: RunConfig) -> Backbone:
    """The backbone that `config` names. Raises ValueError for one that is not known."""
    family, colon, _ = config.backbone.partition(":")
    backbone = BACKBONES.find(family)
    if backbone.variants and not colon:
        raise ValueError(f"backbone={config.backbone!r}: name the network as well, '{family}:NAME'")
    if colon and not backbone.variants:
        raise ValueError(f"backbone={config.backbone!r}: {family} is one network; write backbone={family!r}")
    return backbone


def check_backbone(config: RunConfig) -> None:
    """Raise what building the backbone of `config` would raise, and for a start that it does not have."""
    find_start(config)
    find_backbone(config).check(config)


def find_start(config: RunConfig) -> Start | None:
    """The start that `config` names among its backbone's; None for 'random' and for a file.

    Raises ValueError listing the known ones.
    """
    starts = find_backbone(config).starts
    if config.start == "random" or config.start.endswith(".safetensors"):
        return None
    if config.start not in starts:
        known = ", ".join(map(repr, (*starts, "random")))
        raise ValueError(
            f"start={config.start!r}: backbone={config.backbone!r} has no such start; choose {known} or a "
            ".safetensors file"
        )
    return starts[config.start]


def build_backbone(config: RunConfig) -> nn.Module:
    """The backbone with random weights that follow from the config alone; the global generator stays as it was."""
    with seeded(derive(config.seed, "backbone")):
        return find_backbone(config).build(config)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Within, torch's global generator on the CPU draws from `seed`; afterwards it goes on as if nothing was drawn."""
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        yield


@lru_cache(maxsize=32)
def _built_channels(backbone: Backbone, config: RunConfig) -> int:
    with seeded(0):
        return int(backbone.build(config).channels)  # type: ignore[arg-type]


def dense_layers(network: nn.Module) -> tuple[str, ...]:
    """Names of the weights that may vote, from shallow to deep, chosen by module type.

    Those of all dense (`groups=1`) 3x3 convolutions where there are at least 8, as in the paper's ResNet: neither 1x1
    shortcuts nor a 7x7 stem vote. Networks of depthwise convolutions or attention have fewer, and there all dense
    convolutions and linear layers may vote. Frozen layers do not.
    """
    dense = {
        f"{name}.weight": module
        for name, module in network.named_modules()
        if ((isinstance(module, nn.Conv2d) and module.groups == 1) or isinstance(module, nn.Linear))
        and module.weight.requires_grad
    }
    square = tuple(name for name, module in dense.items() if getattr(module, "kernel_size", None) == (3, 3))
    return square if len(square) >= 8 else tuple(dense)


def voting_layers(
    network: nn.Module, n: int, *, rule: Callable[[nn.Module], tuple[str, ...]] = dense_layers
) -> tuple[str, ...]:
    """Names of the last `n` weights that may vote by `rule`, from shallow to deep (section 5.2).

    ValueError when there are fewer.
    """
    names = rule(network)
    if not 1 <= n <= len(names):
        raise ValueError(
            f"voting_layers={n}: choose 1..{len(names)}, the number of layers of this backbone that may vote"
        )
    return tuple(names[-n:])
