"""`RunConfig`: everything that decides a run's numbers, and the presets.

Whatever only says where or how fast (device, folders, threads) is not here, so that a run is found again by its config.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import tomllib
import types
import typing
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

from matfl.tasks.task import pairs

__all__ = [
    "PRESETS",
    "RunConfig",
    "from_dict",
    "full",
    "load_toml",
    "override",
    "paper_9",
    "paper_pascal5",
    "preset",
    "quick",
    "smoke",
]


@dataclass(frozen=True, kw_only=True, slots=True)
class RunConfig:
    """One federated run. Defaults are the paper's (section 4.1); presets change them."""

    preset: str = "paper_9"
    """Name of the preset that this config started from; part of the run's name."""
    method: str = "matfl"
    """A name in `matfl.server.methods.METHODS`."""
    tasks: str = "paper9"
    """A task set (`matfl.tasks.task.TASK_SETS`) or a comma-separated list of `domain/task` pairs."""
    clients_per_task: int = 2
    """N/C (section 4.1)."""
    k: int = 8
    """K of the TopK in votes and friends, the client itself included (section 3.4)."""
    voting_layers: int = 8
    """How many of the backbone's last 3x3 convolutions vote (section 5.2)."""
    rounds: int = 100
    """Communication rounds (section 4.1)."""
    local_epochs: int = 10
    """Passes over a client's images each round (section 4.1)."""
    batch_size: int = 10
    """Images a step (section 4.1)."""
    lr: float = 1e-4
    """Learning rate of the first round (section 4.1)."""
    lr_decay: float = 0.99
    """Factor on the learning rate after each round (section 4.1)."""
    weight_decay: float = 1e-4
    """L2 term of Adam."""
    mu: float = 0.01
    """Strength of the proximal term; only methods with one use it (FedProx, section 3.2)."""
    participation: float = 1.0
    """Share of the clients that train in a round, at least one."""
    start: str = "imagenet"
    """Backbone at round 0: 'imagenet', 'random', 'scenes' (pre-trained on rendered objects) or a .safetensors file."""
    head_start: Literal["shared", "per_type", "per_task", "independent"] = "shared"
    """How heads start: equal wherever shapes agree; equal per task type; per task; or each client its own draw."""
    heads: Literal["task", "local"] = "task"
    """'task' averages a task's heads every round; 'local' leaves each client its own."""
    loss_weights: Literal["field", "none"] = "none"
    """'field' multiplies each loss by its task's customary weight; 'none' is the authors' code."""
    backbone: Literal["resnet18", "resnet34", "resnet50"] = "resnet18"
    """Dilated to output stride 8 (section 4.1)."""
    width: int = 64
    """Channels of the backbone's first stage; 64 is the standard network."""
    head_channels: int = 256
    """Channels of the DeepLab head."""
    aspp_rates: tuple[int, ...] = (12, 24, 36)
    """Dilation rates of the DeepLab head."""
    size: int = 0
    """Network input: side of the square in pixels, or 0 for the layouts' own (512x512 and 480x640)."""
    images_train: int = 0
    """Training images a domain that are shared out to the clients; 0 means all (real data only)."""
    images_val: int = 0
    """Validation images a domain; 0 means all (real data only)."""
    images_per_client: int = 0
    """Keep at most this many images of each client's share; 0 keeps all."""
    evaluate_every: int = 10
    """Evaluate after every so many rounds, and always after the last."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Arithmetic of training; 'auto' is bf16 where the device computes it natively and the network is wide enough."""
    edge_protocol: Literal["mtl", "astmt", "fedhca2"] = "fedhca2"
    """How ODS-F is measured (`matfl.tasks.edges`)."""
    clusters: int = 2
    """Number of groups of method 'clustered'."""
    threshold: float = 0.0
    """Cosine below which method 'soft_grouping' gives no weight."""
    seed: int = 0
    """Partition, heads, batches and augmentation."""
    data_seed: int = 0
    """The rendered benchmark's own seed; the same images for every `seed`."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            _check_type(field.name, value, _HINTS[field.name])
            if _HINTS[field.name] is float:
                if not math.isfinite(value):
                    raise ValueError(f"{field.name}={value}: choose a finite number")
                object.__setattr__(self, field.name, value + 0.0)  # 1 and 1.0, 0.0 and -0.0 are one run, not two
        for name in ("preset", "method"):
            if not re.fullmatch(r"[A-Za-z0-9]\w*", getattr(self, name)):
                raise ValueError(
                    f"{name}={getattr(self, name)!r}: use letters, digits and _; it names the run's folder"
                )
        at_least_one = (
            "clients_per_task",
            "k",
            "voting_layers",
            "rounds",
            "local_epochs",
            "batch_size",
            "width",
            "head_channels",
            "evaluate_every",
            "clusters",
        )
        for name in at_least_one:
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}: must be at least 1")
        for name in (
            "images_train",
            "images_val",
            "images_per_client",
            "size",
            "seed",
            "data_seed",
            "weight_decay",
            "mu",
        ):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}={getattr(self, name)}: must not be negative")
        if not self.lr > 0 or not 0 < self.lr_decay <= 1:
            raise ValueError(f"lr={self.lr}, lr_decay={self.lr_decay}: lr must be positive and lr_decay in (0, 1]")
        if not 0 < self.participation <= 1:
            raise ValueError(f"participation={self.participation}: choose a share in (0, 1]")
        if not -1 <= self.threshold < 1:
            raise ValueError(f"threshold={self.threshold}: choose a cosine in [-1, 1)")
        if not self.aspp_rates or min(self.aspp_rates) < 1:
            raise ValueError(f"aspp_rates={self.aspp_rates}: give at least one positive rate")
        if self.size and (self.size < 32 or self.size % 8):
            raise ValueError(f"size={self.size}: choose a multiple of 8 of at least 32, or 0 for the layout's own")
        chosen = pairs(self.tasks)
        n = self.num_clients
        if self.k > n:
            raise ValueError(
                f"k={self.k}: choose 1..{n}, the number of clients ({len(chosen)} tasks x "
                f"clients_per_task={self.clients_per_task})"
            )
        if self.clusters > n:
            raise ValueError(f"clusters={self.clusters}: choose 1..{n}, the number of clients")
        available = {"resnet18": 16, "resnet34": 32, "resnet50": 16}[self.backbone]
        if self.voting_layers > available:
            raise ValueError(
                f"voting_layers={self.voting_layers}: {self.backbone} has {available} 3x3 convolutions; "
                f"choose 1..{available}"
            )
        if self.backbone != "resnet18" and self.start == "scenes":
            raise ValueError(
                f"start='scenes' is made for resnet18; with backbone={self.backbone!r} choose 'imagenet', "
                "'random' or a file"
            )
        if self.start == "imagenet" and self.width != 64:
            raise ValueError(f"start='imagenet' needs width=64, not {self.width}: choose start='scenes' or 'random'")
        if self.start not in ("imagenet", "random", "scenes") and not self.start.endswith(".safetensors"):
            raise ValueError(f"start={self.start!r}: choose 'imagenet', 'random', 'scenes' or a .safetensors file")
        if any(p.domain.rendered for p in chosen) and not (self.size and self.images_train and self.images_val):
            raise ValueError(
                "the rendered domains need size, images_train and images_val (presets smoke, quick and "
                "full set them); 0 is for real data"
            )

    @property
    def num_clients(self) -> int:
        """N, all clients of all tasks."""
        return len(pairs(self.tasks)) * self.clients_per_task

    @property
    def hash(self) -> str:
        """12 hexadecimal digits that stand for every field's value."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:12]

    @property
    def name(self) -> str:
        """`<preset>-<method>-<hash>`: the run's folder."""
        return f"{self.preset}-{self.method}-{self.hash}"


def _check_type(name: str, value: object, hint: Any) -> None:
    origin = typing.get_origin(hint)
    if origin is Literal:
        if value not in typing.get_args(hint):
            raise ValueError(f"{name}={value!r}: choose one of {', '.join(map(repr, typing.get_args(hint)))}")
    elif origin is tuple:
        if not isinstance(value, tuple) or not all(type(item) is int for item in value):
            raise TypeError(f"{name}={value!r}: expected a tuple of integers")
    elif type(value) is not hint and not (hint is float and type(value) is int):
        raise TypeError(f"{name}={value!r}: expected {hint.__name__}, got {type(value).__name__}")


_HINTS: Mapping[str, Any] = types.MappingProxyType(typing.get_type_hints(RunConfig))


def _coerce(name: str, value: object) -> object:
    """A value from text, JSON or TOML as the field's type (lists to tuples, integers to floats, '8' to 8)."""
    hint = _HINTS[name]
    if isinstance(value, str) and hint is not str and typing.get_origin(hint) is not Literal:
        try:
            if hint in (int, float):
                return hint(value)
            return tuple(int(item) for item in value.strip("()[] ").split(",") if item.strip())
        except ValueError:
            expected = "a comma-separated list of integers" if typing.get_origin(hint) is tuple else hint.__name__
            raise TypeError(f"{name}={value!r}: expected {expected}") from None
    if isinstance(value, list):
        return tuple(value)
    if hint is float and type(value) is int:
        return float(value)
    return value


def override(config: RunConfig, **changes: object) -> RunConfig:
    """`config` with some fields changed; values may be text (`k="4"`). Unknown names are a ValueError."""
    unknown = sorted(set(changes) - set(_HINTS))
    if unknown:
        raise ValueError(f"unknown parameter {unknown[0]!r}: the parameters are {', '.join(_HINTS)}")
    return replace(config, **{name: _coerce(name, value) for name, value in changes.items()})  # type: ignore[arg-type]


def from_dict(values: Mapping[str, object]) -> RunConfig:
    """The config that `dataclasses.asdict` (or JSON made from it) wrote down, every field named."""
    missing = sorted(set(_HINTS) - set(values))
    if missing:
        raise ValueError(f"the stored config lacks {missing[0]!r}: it was written by another version of matfl")
    return override(RunConfig(), **values)


def load_toml(path: str | Path) -> RunConfig:
    """The config of a TOML file: a `preset` (default quick) and the fields that differ. Errors name the file."""
    text = Path(path).read_bytes()
    try:
        values = tomllib.loads(text.decode())
        return override(preset(values.pop("preset", "quick")), **values)
    except TypeError as error:
        raise TypeError(f"{path}: {error}") from None
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def quick() -> RunConfig:
    """The default: embedded nine-task benchmark, every study on a laptop's CPU."""
    return RunConfig(
        preset="quick",
        tasks="scenes9",
        start="scenes",
        loss_weights="field",
        width=16,
        head_channels=64,
        aspp_rates=(2, 4, 6),
        size=64,
        images_train=1000,
        images_val=100,
        images_per_client=100,
        local_epochs=1,
        rounds=12,
        lr=1e-3,
        evaluate_every=3,
    )


def smoke() -> RunConfig:
    """Seconds a run: shows that everything works, not who is better."""
    return replace(
        quick(),
        preset="smoke",
        width=8,
        head_channels=32,
        images_train=200,
        images_val=40,
        images_per_client=20,
        local_epochs=2,
        rounds=4,
        evaluate_every=4,
        precision="fp32",
    )


def full() -> RunConfig:
    """Embedded benchmark at a size for one GPU."""
    return replace(
        quick(),
        preset="full",
        width=64,
        head_channels=256,
        aspp_rates=(4, 8, 12),
        size=128,
        images_train=5000,
        images_val=500,
        images_per_client=250,
        local_epochs=2,
        rounds=30,
        lr=3e-4,
        evaluate_every=5,
    )


def paper_9() -> RunConfig:
    """Pascal-Context & NYUD combined, 9 tasks (section 4.1)."""
    return RunConfig()


def paper_pascal5() -> RunConfig:
    """Pascal-Context, 5 tasks (section 4.1)."""
    return RunConfig(preset="paper_pascal5", tasks="pascal5")


PRESETS = {maker.__name__: maker for maker in (smoke, quick, full, paper_pascal5, paper_9)}


def preset(name: str) -> RunConfig:
    """The preset's config; a ValueError lists the known ones."""
    if not isinstance(name, str) or name not in PRESETS:
        raise ValueError(f"unknown preset {name!r}: choose from {', '.join(PRESETS)}")
    return PRESETS[name]()
