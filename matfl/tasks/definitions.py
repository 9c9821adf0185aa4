"""What a task, a domain and a (domain, task) pair are, and the registries of them; imported from `matfl.tasks.task`."""

from __future__ import annotations

import math
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Literal, Protocol

import numpy as np
import torch
from torch import Tensor

from matfl.core.registry import Registry

if TYPE_CHECKING:
    from matfl.tasks.meters import Meter

__all__ = ["DOMAINS", "IGNORE", "TASKS", "Domain", "Pair", "Source", "Task", "unit"]

IGNORE = 255
"""The label value that takes no part in a loss or metric (class indices, saliency and edges alike)."""


def unit(vectors: Tensor) -> Tensor:
    """Vectors (B, 3, H, W) of any length as float32 unit vectors; those shorter than 1e-6 stay near zero."""
    vectors = vectors.float()
    # `F.normalize` reduces over a strided axis of 3 and takes ten times as long on a CPU.
    return vectors * vectors.square().sum(1, keepdim=True).clamp(min=1e-12).rsqrt()


@dataclass(frozen=True, kw_only=True)
class Task(ABC):
    """One dense prediction task, with all that is particular to it: labels, training, answers, measure, picture.

    The kinds in `matfl.tasks.kinds` are ready to use; a kind of one's own overrides what differs.

    >>> import matfl
    >>> from matfl.tasks.kinds import Quantity
    >>> height = matfl.TASKS.register(Quantity(name="height", title="Height", unit="m"))
    >>> height.main_metric, height.higher_is_better
    ('rmse', False)
    """

    target_dtype: ClassVar[torch.dtype]
    """Of the decoded arrays: uint8, float16 or float32."""
    target_channels: ClassVar[int] = 0
    """3 for vectors (targets (B, 3, H, W): right, down, towards the viewer); 0 for maps (targets (B, H, W))."""
    geometry: ClassVar[Literal["nearest", "distance", "direction"]] = "nearest"
    """How labels follow a picture that is turned and zoomed: they stay what they are; are divided by the zoom (of
    things that come nearer); or turn with it."""
    thin: ClassVar[bool] = False
    """Whether labels are lines a pixel wide, which stay whole lines when a picture is made smaller."""

    name: str
    title: str
    """As written in tables and figures."""
    color: str = "#777777"
    """Of the task in every figure."""
    loss_weight: float = 1
    """The field's customary weight, which keeps Adam's weight decay from dominating the update."""
    main_metric: str
    """The metric that stands for the task in tables and delta_m; one of those that its meter computes."""
    higher_is_better: bool
    ignore: float | None = IGNORE
    """Target value without a label: 255 for class-like targets; for measured ones 0, another number, or None: NaN."""

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z0-9]\w*", self.name):
            raise ValueError(f"task {self.name!r}: use letters, digits and _; it names files and parameters")
        if not self.loss_weight > 0:
            raise ValueError(f"task {self.name!r}: loss_weight={self.loss_weight}: must be positive")

    @abstractmethod
    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        """What training minimises: raw output (B, C, H, W) and target -> scalar, 0 where nothing is labelled."""

    @abstractmethod
    def answer(self, output: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        """Raw output (B, C, h, w) as what it stands for, at `size` (H, W) or its own: (B, H, W), or (B, K, H, W).

        The one path from a network to what is measured, predicted and drawn. A pixel that the network gave NaN for
        stays recognisable to the meter.
        """

    @abstractmethod
    def meter(self, pair: Pair, *, edge_protocol: str = "fedhca2") -> Meter:
        """A new, empty meter of answers; only edges use `edge_protocol`."""

    @abstractmethod
    def draw(self, values: np.ndarray, channels: int) -> np.ndarray:
        """An answer or a label (H, W) or (K, H, W) as a picture uint8 (H, W, 3); unlabelled pixels are mid-grey."""

    @abstractmethod
    def constant(self, labels: np.ndarray, channels: int) -> Tensor:
        """Raw output (1, C, H, W) of an answer that never looks at the picture, from training labels (N, ...)."""

    @abstractmethod
    def problem(self, label: np.ndarray, channels: int) -> str | None:
        """What is wrong with one image's label: a value that cannot be, in words; None for a sound one."""

    @property
    def metric_unit(self) -> str:
        """Unit of the main metric, for tables and axes; '' for shares and other pure numbers."""
        return ""

    @property
    def unlabelled(self) -> float:
        """`ignore` as the number that fills targets."""
        return math.nan if self.ignore is None else self.ignore

    @property
    def output_channels(self) -> int | None:
        """Of the head, where the kind of task says it; None where the data do (`Domain.channels`)."""
        return 1

    def labelled(self, target: Tensor) -> Tensor:
        """Which pixels (B, H, W) of a target have a label: bool."""
        known = ~target.isnan() if self.ignore is None else target != self.ignore
        return known.any(1) if self.target_channels else known

    @property
    def selective(self) -> bool:
        """Whether some images do not count for the task: neither trained on nor measured (see `counts`)."""
        return False

    @property
    def counting(self) -> str:
        """What an image that counts does, for messages: 'shows a person'; '' where all count."""
        return ""

    def counts(self, target: Tensor) -> Tensor:
        """Which images (B,) of a target count: bool. All of them, unless the task is `selective`."""
        return torch.ones(len(target), dtype=torch.bool, device=target.device)

    def implausible(self, labels: np.ndarray) -> str | None:
        """What a whole split's labels (N, ...) give away that single ones don't, in words; None: nothing."""
        return None

    def sums(self, label: np.ndarray) -> tuple[float, ...]:
        """Of one image's label, sums from which `start_bias` follows; they add up over images and clients."""
        return ()

    def start_bias(self, sums: Sequence[float], channels: int) -> tuple[float, ...] | None:
        """Where the head's last bias starts, a number a channel, by all training labels' `sums`; None: as drawn."""
        return None


TASKS: Registry[Task] = Registry("task", builtin="matfl.tasks.standard")
"""The tasks of PASCAL-Context and NYUD (paper, section 4.1), and those that plug-ins and notebooks register.

>>> import matfl
>>> matfl.TASKS["depth"].main_metric
'rmse'
"""


class Source(Protocol):
    """Data that belong to a domain; equal where the fingerprints are."""

    @property
    def fingerprint(self) -> str:
        """Of all contents."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Domain:
    """A source of images and the tasks it labels.

    >>> import matfl
    >>> streets = matfl.Domain(name="streets", title="street scenes", channels={"semseg": 19}, reader="pascal")
    >>> matfl.DOMAINS.register(streets).title
    'street scenes'
    """

    name: str
    title: str
    channels: Mapping[str, int] = field(hash=False)
    """Output channels of each labelled task, in the paper's order."""
    reader: str
    """Who makes its splits: a name in `matfl.data.readers.READERS`."""
    augmentation: str = "pascal"
    """How training pictures are warped: a name in `matfl.data.augment.RULES`."""
    size: tuple[int, int] | None = None
    """Network input (height, width) where `config.size` is 0; None: `config.size` must say it."""
    edge_tolerance: Mapping[str, float] | float = field(default=0.0075, hash=False)
    """Greatest distance of a matched edge pixel as a share of the image diagonal: one number, or one an edge protocol
    (`matfl.tasks.edges.PROTOCOLS`)."""
    indoor: bool = False
    """Drawn as a square in graphs (paper, Figure 5), else a circle."""
    derived: tuple[str, ...] = ()
    """Tasks whose labels are computed from other labels instead of annotated; named so wherever they appear."""
    source: Source | None = field(default=None, repr=False)
    """Data that the domain brings along (`matfl.data.own`), for reader 'own'."""
    class_names: Mapping[str, tuple[str, ...]] = field(default_factory=dict, hash=False)
    """Task -> names of its classes, for tables; tasks without an entry show numbers."""

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z0-9]\w*", self.name):
            raise ValueError(f"domain {self.name!r}: use letters, digits and _; it names files and parameters")
        if not self.channels:
            raise ValueError(f"domain {self.name!r} labels no task: give channels, such as {{'semseg': 13}}")
        for task, count in self.channels.items():
            if type(count) is not int or not 1 <= count < IGNORE:
                raise ValueError(f"domain {self.name!r}: channels[{task!r}]={count!r}: choose 1..{IGNORE - 1}")
            names = self.class_names.get(task, ())
            if names and len(names) != count:
                raise ValueError(f"domain {self.name!r}: {task!r} has {count} channels, but {len(names)} class names")
        if unknown := sorted({*self.derived, *self.class_names} - set(self.channels)):
            raise ValueError(f"domain {self.name!r} has no task {unknown[0]!r}: choose from {', '.join(self.channels)}")

    @property
    def rendered(self) -> bool:
        """Whether the embedded renderer (`matfl.scenes`) makes it, at any size and number; else it is data."""
        return self.reader == "rendered"

    def max_distance(self, protocol: str) -> float:
        """Edge tolerance under a protocol. Raises ValueError for a protocol that the domain gives none for."""
        if not isinstance(self.edge_tolerance, Mapping):
            return self.edge_tolerance
        if protocol not in self.edge_tolerance:
            raise ValueError(
                f"domain {self.name!r} has no edge tolerance for protocol {protocol!r}: choose from "
                f"{', '.join(self.edge_tolerance)}, or add it to the domain's edge_tolerance"
            )
        return self.edge_tolerance[protocol]


DOMAINS: Registry[Domain] = Registry("domain", builtin="matfl.tasks.domains")
"""The real data sets, their embedded stand-ins, and those that plug-ins and notebooks register.

>>> import matfl
>>> dict(matfl.DOMAINS["indoor"].channels)
{'semseg': 13, 'normals': 3, 'edge': 1, 'depth': 1}
"""


@dataclass(frozen=True, slots=True)
class Pair:
    """One (domain, task) pair: the unit that the paper calls a task, with a model of its own (section 3.1).

    A client may have several tasks of its domain: its pair's task is then a `matfl.tasks.joint.Joint`.
    """

    domain: Domain
    task: Task
    within: str = ""
    """The clients' kind ('semseg+sal') of which this is a part, where the run has other kinds with the same task."""

    @property
    def name(self) -> str:
        """`domain/task`, the name used in files, tables and parameters; with `@kind` for a part `within` a kind."""
        return f"{self.domain.name}/{self.label}"

    @property
    def label(self) -> str:
        """The name without its domain."""
        return f"{self.task.name}@{self.within}" if self.within else self.task.name

    @property
    def plain(self) -> str:
        """`domain/task`, whichever kind of client it belongs to."""
        return f"{self.domain.name}/{self.task.name}"

    @property
    def parts(self) -> tuple[Pair, ...]:
        """The pairs that it joins; itself where it is one task."""
        return getattr(self.task, "parts", (self,))

    @property
    def channels(self) -> int:
        """Output channels of the head, of all heads together where there are several."""
        return sum(self.domain.channels[part.task.name] for part in self.parts)

    @property
    def derived(self) -> bool:
        """Whether its labels (some of them) are computed from other labels instead of annotated."""
        return any(part.task.name in self.domain.derived for part in self.parts)

    def meter(self, *, edge_protocol: str = "fedhca2") -> Meter:
        """A new, empty meter for the pair's answers; only edges use `edge_protocol`."""
        return self.task.meter(self, edge_protocol=edge_protocol)

    def __str__(self) -> str:
        return self.name
