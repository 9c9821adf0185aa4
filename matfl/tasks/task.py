"""The six dense tasks, the domains that label them, and the nine (domain, task) pairs of the paper (section 4.1).

Adding a task is one entry in `TASKS`; adding a data set is one entry in `DOMAINS`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from matfl.core.registry import Registry

__all__ = ["DOMAINS", "IGNORE", "TASKS", "TASK_SETS", "Domain", "Pair", "Task", "pair", "pairs", "unit"]

IGNORE = 255
"""The label value that takes no part in a loss or metric (class indices, saliency and edges alike)."""


def cross_entropy(prediction: Tensor, target: Tensor) -> Tensor:
    """Mean cross-entropy over labelled pixels; 0 where a batch has none. prediction (B, C, H, W), target (B, H, W)."""
    total = F.cross_entropy(prediction.float(), target.long(), ignore_index=IGNORE, reduction="sum")
    return total / (target != IGNORE).sum().clamp(min=1)


def _weighted_bce(logits: Tensor, target: Tensor, positive_weight: Tensor | float) -> Tensor:
    valid = (target != IGNORE).float()
    truth = (target == 1).float()
    weight = valid * (truth * positive_weight + (1 - truth) * (1 - positive_weight))
    loss = F.binary_cross_entropy_with_logits(logits.float(), truth, reduction="none")
    return (weight * loss).sum() / valid.sum().clamp(min=1)


def balanced_bce(prediction: Tensor, target: Tensor) -> Tensor:
    """Cross-entropy of logits (B, 1, H, W); positives weigh the batch's share of negatives, and the reverse."""
    valid = target != IGNORE
    share = ((target == 0) & valid).sum() / valid.sum().clamp(min=1)
    return _weighted_bce(prediction[:, 0], target, share)


def edge_bce(prediction: Tensor, target: Tensor) -> Tensor:
    """Cross-entropy of logits (B, 1, H, W) with weight 0.95 for edges and 0.05 for the rest."""
    return _weighted_bce(prediction[:, 0], target, 0.95)


def unit(vectors: Tensor) -> Tensor:
    """Vectors (B, 3, H, W) of any length as float32 unit vectors; those shorter than 1e-6 stay near zero."""
    vectors = vectors.float()
    # `F.normalize` reduces over a strided axis of 3 and takes ten times as long on a CPU.
    return vectors * vectors.square().sum(1, keepdim=True).clamp(min=1e-12).rsqrt()


def normals_l1(prediction: Tensor, target: Tensor) -> Tensor:
    """Mean L1 distance of the normalised prediction (B, 3, H, W) to unit normals, where the target is not zero."""
    valid = (target != 0).any(1, keepdim=True).float()
    difference = (unit(prediction) - target.float()).abs()
    return (valid * difference).sum() / (3 * valid.sum()).clamp(min=1)


def depth_l1(prediction: Tensor, target: Tensor) -> Tensor:
    """Mean absolute error in metres over pixels with a depth (target (B, H, W), 0 = none)."""
    valid = (target != 0).float()
    return (valid * (prediction[:, 0].float() - target.float()).abs()).sum() / valid.sum().clamp(min=1)


@dataclass(frozen=True, kw_only=True, slots=True)
class Task:
    """One dense prediction task: what its labels are, how it is trained and how it is measured."""

    name: str
    title: str
    """As written in tables and figures."""
    loss: Callable[[Tensor, Tensor], Tensor]
    """(prediction (B, C, H, W), target) -> scalar."""
    loss_weight: float
    """The field's customary weight, which keeps Adam's weight decay from dominating the update."""
    meter: str
    """A name in `matfl.tasks.meters.METERS`."""
    target_dtype: torch.dtype
    """Of the decoded arrays."""
    target_channels: int
    """3 for vectors (targets (B, 3, H, W): right, down, towards the viewer); 0 for maps (targets (B, H, W))."""
    ignore: float
    """Target value without a label: 255 for class-like targets, 0 (or the zero vector) for measured ones."""
    interpolation: str
    """How predictions reach the native size: 'nearest' (class indices) or 'bilinear'."""
    main_metric: str
    """The metric that stands for the task in tables and delta_m."""
    higher_is_better: bool


TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        Task(
            name="semseg",
            title="Seg.",
            loss=cross_entropy,
            loss_weight=1,
            meter="classes",
            target_dtype=torch.uint8,
            target_channels=0,
            ignore=IGNORE,
            interpolation="nearest",
            main_metric="mIoU",
            higher_is_better=True,
        ),
        Task(
            name="human_parts",
            title="H.Parts",
            loss=cross_entropy,
            loss_weight=2,
            meter="parts",
            target_dtype=torch.uint8,
            target_channels=0,
            ignore=IGNORE,
            interpolation="nearest",
            main_metric="mIoU",
            higher_is_better=True,
        ),
        Task(
            name="sal",
            title="Sal.",
            loss=balanced_bce,
            loss_weight=5,
            meter="saliency",
            target_dtype=torch.uint8,
            target_channels=0,
            ignore=IGNORE,
            interpolation="bilinear",
            main_metric="mIoU",
            higher_is_better=True,
        ),
        Task(
            name="normals",
            title="Norm.",
            loss=normals_l1,
            loss_weight=10,
            meter="normals",
            target_dtype=torch.float16,
            target_channels=3,
            ignore=0,
            interpolation="bilinear",
            main_metric="mean",
            higher_is_better=False,
        ),
        Task(
            name="edge",
            title="Edge",
            loss=edge_bce,
            loss_weight=50,
            meter="edges",
            target_dtype=torch.uint8,
            target_channels=0,
            ignore=IGNORE,
            interpolation="bilinear",
            main_metric="odsF",
            higher_is_better=True,
        ),
        Task(
            name="depth",
            title="Depth",
            loss=depth_l1,
            loss_weight=1,
            meter="depth",
            target_dtype=torch.float16,
            target_channels=0,
            ignore=0,
            interpolation="bilinear",
            main_metric="rmse",
            higher_is_better=False,
        ),
    )
}
"""The tasks of PASCAL-Context and NYUD (paper, section 4.1)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Domain:
    """A source of images and the tasks it labels.

    >>> DOMAINS.register(Domain(name="streets", title="street scenes", channels={"semseg": 19}, reader="pascal"))
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
"""The real data sets, their embedded stand-ins, and those that plug-ins and notebooks register."""


@dataclass(frozen=True, slots=True)
class Pair:
    """One (domain, task) pair: the unit that the paper calls a task, with a model of its own (section 3.1)."""

    domain: Domain
    task: Task

    @property
    def name(self) -> str:
        """`domain/task`, the name used in files, tables and parameters."""
        return f"{self.domain.name}/{self.task.name}"

    @property
    def channels(self) -> int:
        """Output channels of the head."""
        return self.domain.channels[self.task.name]

    def __str__(self) -> str:
        return self.name


def pair(name: str) -> Pair:
    """The pair called `domain/task`; a ValueError lists the known ones."""
    domain, _, task = name.partition("/")
    if domain not in DOMAINS or task not in DOMAINS[domain].channels:
        known = ", ".join(f"{d.name}/{t}" for d in DOMAINS.values() for t in d.channels)
        raise ValueError(f"unknown (domain, task) pair {name!r}: choose from {known}")
    return Pair(DOMAINS[domain], TASKS[task])


TASK_SETS: dict[str, tuple[str, ...]] = {
    "outdoor5": ("outdoor",),
    "scenes9": ("outdoor", "indoor"),
    "pascal5": ("pascal",),
    "paper9": ("pascal", "nyud"),
}
"""Named task sets: every task of the listed domains. The first two are embedded, the others the paper's."""


def pairs(tasks: str) -> tuple[Pair, ...]:
    """The pairs of a named task set (`TASK_SETS`) or of a comma-separated list of `domain/task` names.

    Raises ValueError for an unknown or repeated name.
    """
    if tasks in TASK_SETS:
        return tuple(Pair(DOMAINS[d], TASKS[t]) for d in TASK_SETS[tasks] for t in DOMAINS[d].channels)
    if "/" not in tasks:
        raise ValueError(
            f"tasks={tasks!r}: choose a set ({', '.join(TASK_SETS)}) or list pairs such as "
            "'outdoor/semseg,indoor/depth'"
        )
    chosen = tuple(pair(name.strip()) for name in tasks.split(","))
    if len(set(chosen)) < len(chosen):
        raise ValueError(f"tasks={tasks!r} names a pair twice: list each once and set clients_per_task instead")
    return chosen
