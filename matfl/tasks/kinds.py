"""The kinds of task: what class maps, binary maps, edges, directions and quantities have in common with their like.

>>> import matfl
>>> height = matfl.TASKS.register(Quantity(name="height", title="Height", unit="m"))
>>> roads = matfl.TASKS.register(ClassMap(name="roads", title="Roads"))
>>> height.main_metric, roads.main_metric
('rmse', 'mIoU')
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from matfl.tasks import colours, losses
from matfl.tasks.constants import best_classes, middle_direction
from matfl.tasks.edges import EdgeMeter
from matfl.tasks.meters import ClassMeter, DepthMeter, Meter, NormalsMeter, QuantityMeter, SaliencyMeter
from matfl.tasks.task import IGNORE, Pair, Task, unit

__all__ = ["BinaryMap", "ClassMap", "Depth", "Directions", "EdgeMap", "Quantity"]


def _linear(values: Tensor, size: tuple[int, int] | None) -> Tensor:
    """(B, C, h, w) at another size, linearly; itself where it has that size. Float32, no rounding."""
    if size is None or values.shape[-2:] == torch.Size(size):
        return values
    return F.interpolate(values, size, mode="bilinear", align_corners=False)


def _values(label: np.ndarray, legal: np.ndarray, expected: str) -> str | None:
    """A word on the first value of a label that is not legal."""
    if legal.all():
        return None
    wrong = label[~legal]
    return f"{wrong.size} of {label.size} pixels are wrong, the first {wrong.flat[0]}: expected {expected}"


@dataclass(frozen=True, kw_only=True)
class ClassMap(Task):
    """A class index at every pixel: labels uint8 (H, W) below the domain's number of channels, 255 for none.

    Cross-entropy; answers go to the nearest pixel; mIoU over all classes.
    """

    target_dtype: ClassVar[torch.dtype] = torch.uint8

    main_metric: str = "mIoU"
    higher_is_better: bool = True
    foreground: str = ""
    """What a picture must show (any class above 0) to count, in a word or two; '' counts every picture."""

    @property
    def output_channels(self) -> int | None:
        """The number of classes is the data's."""
        return None

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        """Mean cross-entropy over labelled pixels."""
        return losses.cross_entropy(output, target)

    def answer(self, output: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        """Class indices uint8 (B, H, W); 255 where the output is NaN."""
        score, index = output.float().max(1)
        classes = index.to(torch.uint8).masked_fill(score.isnan(), IGNORE)
        if size is None or classes.shape[-2:] == torch.Size(size):
            return classes
        return F.interpolate(classes[:, None], size, mode="nearest-exact")[:, 0]

    def meter(self, pair: Pair, *, edge_protocol: str = "fedhca2") -> Meter:
        """mIoU over the pictures that count."""
        return ClassMeter(pair.channels, counts=self.counts if self.selective else None)

    def draw(self, values: np.ndarray, channels: int) -> np.ndarray:
        """Each class in its colour."""
        return colours.paint(values, values == IGNORE, channels)

    def constant(self, labels: np.ndarray, channels: int) -> Tensor:
        """At every pixel the class with which the map's mIoU over the training labels is greatest (`best_classes`)."""
        values = torch.from_numpy(np.array(labels))
        if self.selective:
            values = values[self.counts(values)]
        counts_CHW = torch.stack([(values == c).sum(0) for c in range(channels)])
        return F.one_hot(best_classes(counts_CHW), channels).permute(2, 0, 1).float()[None]

    def problem(self, label: np.ndarray, channels: int) -> str | None:
        """Values must be classes or 255."""
        return _values(label, (label < channels) | (label == IGNORE), f"classes 0..{channels - 1}, or 255 for no label")

    @property
    def selective(self) -> bool:
        """With `foreground`."""
        return bool(self.foreground)

    @property
    def counting(self) -> str:
        """With `foreground`."""
        return f"shows {self.foreground}" if self.foreground else ""

    def counts(self, target: Tensor) -> Tensor:
        """With `foreground`: images with any class above 0."""
        if not self.selective:
            return super().counts(target)
        return ((target != 0) & (target != IGNORE)).flatten(1).any(1)


@dataclass(frozen=True, kw_only=True)
class BinaryMap(Task):
    """Yes or no at every pixel: labels uint8 (H, W) of 0, 1 or 255 for none; one channel. Answers are probabilities."""

    target_dtype: ClassVar[torch.dtype] = torch.uint8

    main_metric: str = "mIoU"
    higher_is_better: bool = True
    positive_weight: float | None = None
    """Weight of positives in the loss, negatives having the rest to 1; None: the batch's share of negatives."""

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        """Mean weighted cross-entropy over labelled pixels."""
        return losses.binary_cross_entropy(output, target, self.positive_weight)

    def answer(self, output: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        """Probabilities float32 (B, H, W)."""
        return _linear(output.float().sigmoid(), size)[:, 0]

    def meter(self, pair: Pair, *, edge_protocol: str = "fedhca2") -> Meter:
        """Best mean IoU over thresholds, and maximal F."""
        return SaliencyMeter()

    def draw(self, values: np.ndarray, channels: int) -> np.ndarray:
        """White where the answer is yes."""
        missing = values == IGNORE if values.dtype == np.uint8 else np.isnan(values)
        return colours.greys(values, missing)

    def constant(self, labels: np.ndarray, channels: int) -> Tensor:
        """At every pixel how often it is labelled 1."""
        values = torch.from_numpy(np.array(labels))
        zeros, ones = ((values == c).sum(0).float() for c in (0, 1))
        share = ones / (zeros + ones).clamp(min=1)
        return share.clamp(1e-4, 1 - 1e-4).logit()[None, None]

    def problem(self, label: np.ndarray, channels: int) -> str | None:
        """Values must be 0, 1 or 255."""
        return _values(label, (label < 2) | (label == IGNORE), "0 or 1, or 255 for no label")

    def implausible(self, labels: np.ndarray) -> str | None:
        """Masks of 0 and 255 are no labels of ours: 255 means none."""
        if (labels == IGNORE).any() and not (labels == 1).any():
            return "255 occurs but 1 never does: 1 is yes, 255 no label; write masks of 0 and 255 as 0 and 1"
        return None


@dataclass(frozen=True, kw_only=True)
class EdgeMap(BinaryMap):
    """Thin boundaries: a binary map measured by ODS-F (`matfl.tasks.edges`)."""

    thin: ClassVar[bool] = True

    main_metric: str = "odsF"
    positive_weight: float | None = 0.95

    def meter(self, pair: Pair, *, edge_protocol: str = "fedhca2") -> Meter:
        """ODS-F under a protocol, with the domain's tolerance."""
        return EdgeMeter(edge_protocol, pair.domain.max_distance(edge_protocol))


@dataclass(frozen=True, kw_only=True)
class Directions(Task):
    """A unit vector at every pixel: labels float16 (3, H, W), right, down and towards the viewer; zero for none."""

    target_dtype: ClassVar[torch.dtype] = torch.float16
    target_channels: ClassVar[int] = 3
    geometry: ClassVar[Literal["nearest", "distance", "direction"]] = "direction"

    main_metric: str = "mean"
    higher_is_better: bool = False
    ignore: float | None = 0

    @property
    def metric_unit(self) -> str:
        """Angles are in degrees."""
        return "degrees"

    @property
    def output_channels(self) -> int | None:
        """The vector's."""
        return 3

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        """Mean L1 distance of unit vectors over labelled pixels."""
        return losses.direction_error(output, target)

    def answer(self, output: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        """Unit vectors float32 (B, 3, H, W)."""
        vectors = unit(output)
        resized = _linear(vectors, size)
        return vectors if resized is vectors else unit(resized)

    def meter(self, pair: Pair, *, edge_protocol: str = "fedhca2") -> Meter:
        """Angles."""
        return NormalsMeter()

    def draw(self, values: np.ndarray, channels: int) -> np.ndarray:
        """Components -1 to 1 as red, green and blue."""
        picture = np.round((np.moveaxis(values.astype(float), 0, -1).clip(-1, 1) + 1) * 127.5).astype(np.uint8)
        return np.where((values == 0).all(0)[..., None], np.uint8(colours.GREY), picture)

    def constant(self, labels: np.ndarray, channels: int) -> Tensor:
        """At every pixel the direction of least mean angle (`middle_direction`)."""
        return middle_direction(torch.from_numpy(np.asarray(labels).astype(np.float32)))[None]

    def problem(self, label: np.ndarray, channels: int) -> str | None:
        """Vectors must have length 1 (up to a twentieth) or 0."""
        length = np.sqrt(np.square(label.astype(np.float32)).sum(0))
        return _values(length, (abs(length - 1) < 0.05) | (length == 0), "vectors of length 1, or zero for no label")


@dataclass(frozen=True, kw_only=True)
class Quantity(Task):
    """A number at every pixel: labels float32 (H, W), NaN (or `ignore`) for none; one channel.

    Mean absolute error; the head starts at the labels' mean. Numbers far from 1 train slowly: choose the unit so.
    """

    target_dtype: ClassVar[torch.dtype] = torch.float32

    main_metric: str = "rmse"
    higher_is_better: bool = False
    ignore: float | None = None
    unit: str = ""
    """Of the labels, for messages and tables."""

    @property
    def metric_unit(self) -> str:
        """That of the labels."""
        return self.unit

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        """Mean absolute error over labelled pixels."""
        return losses.absolute_error(output, target, self.labelled(target))

    def answer(self, output: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        """Numbers float32 (B, H, W), in the labels' unit."""
        return _linear(output.float(), size)[:, 0]

    def meter(self, pair: Pair, *, edge_protocol: str = "fedhca2") -> Meter:
        """rmse and mae."""
        return QuantityMeter(self.labelled)

    def draw(self, values: np.ndarray, channels: int) -> np.ndarray:
        """The picture's least bright, its greatest dark."""
        return colours.near_to_far(values, ~self._known(values))

    def constant(self, labels: np.ndarray, channels: int) -> Tensor:
        """At every pixel the mean, whose rmse is least."""
        values = torch.from_numpy(np.asarray(labels).astype(np.float32))
        known = values.masked_fill(~self.labelled(values), float("nan"))
        return known.nanmean(0).nan_to_num()[None, None]

    def problem(self, label: np.ndarray, channels: int) -> str | None:
        """Labels must be finite, and some pixel must have one."""
        known = self._known(label)
        if not known.any():
            return f"no pixel has a label ({'NaN' if self.ignore is None else self.ignore} means none): leave it out"
        return _values(label, np.isfinite(label) | ~known, "finite numbers")

    def _known(self, values: np.ndarray) -> np.ndarray:
        return ~np.isnan(values) if self.ignore is None else values != self.ignore

    def sums(self, label: np.ndarray) -> tuple[float, ...]:
        """Sum and number of the labels. The sum of float16 numbers is exact in float64."""
        known = label[self._known(label)].astype(np.float64)
        return float(known.sum()), known.size

    def start_bias(self, sums: Sequence[float], channels: int) -> tuple[float, ...] | None:
        """The labels' mean: from 0 a head learns slowly."""
        total, count = sums
        return (total / count,) * channels if count else None


@dataclass(frozen=True, kw_only=True)
class Depth(Quantity):
    """Distance in metres: labels float16 (H, W), 0 for none. Things that are zoomed come nearer."""

    target_dtype: ClassVar[torch.dtype] = torch.float16
    geometry: ClassVar[Literal["nearest", "distance", "direction"]] = "distance"
    FARTHEST: ClassVar[float] = 655.0
    """Metres that no data set of the field reaches: greater values are another unit."""

    ignore: float | None = 0
    unit: str = "m"

    def meter(self, pair: Pair, *, edge_protocol: str = "fedhca2") -> Meter:
        """rmse and log_rmse."""
        return DepthMeter()

    def problem(self, label: np.ndarray, channels: int) -> str | None:
        """Labels must be positive metres that something can be away."""
        if sound := super().problem(label, channels):
            return sound
        known = label[label != 0]
        if known.min() < 0:
            return f"the least is {known.min():g}: expected positive metres, or 0 for no label"
        if known.max() > self.FARTHEST:
            return f"the greatest is {known.max():g}: expected metres; divide millimetres by 1000, centimetres by 100"
        return None
