"""Streaming meters: counts on the answers' device, one division at the end.

`update` takes answers (`Task.answer`: class indices, probabilities, unit vectors, numbers) at the target's resolution
and never waits for the device; `compute` divides. The same images give the same result in whatever batches they come,
up to how float32 rounds single pixels. A quantity of which nothing was labelled is NaN. NaN answers are an error at
`compute`, never a number. Edges are measured by `matfl.tasks.edges`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Protocol

import torch
from torch import Tensor

from matfl.tasks.task import IGNORE, pair, unit

__all__ = [
    "ClassMeter",
    "DepthMeter",
    "Meter",
    "NormalsMeter",
    "QuantityMeter",
    "SaliencyMeter",
    "delta_m",
]


class Meter(Protocol):
    """What every meter can do."""

    def update(self, answer: Tensor, target: Tensor) -> None:
        """Count a batch: answers of a task and the targets, of one shape: (B, H, W), or (B, K, H, W) for vectors."""

    def compute(self) -> dict[str, float]:
        """The metrics over everything counted so far; a ValueError if a prediction was NaN."""


class _Streaming:
    """Adds up what `_count` returns, on the device of the first answer."""

    dimensions = 3
    """Of answers and targets: (B, H, W), or (B, 3, H, W) for vectors."""

    def __init__(self) -> None:
        self._state: tuple[Tensor, ...] | None = None

    def update(self, answer: Tensor, target: Tensor) -> None:
        """Count a batch of answers and their targets. Shapes that do not fit are a ValueError."""
        if answer.shape != target.shape or answer.ndim != self.dimensions:
            expected = "(B, H, W)" if self.dimensions == 3 else "(B, 3, H, W)"
            raise ValueError(
                f"answer {tuple(answer.shape)} and target {tuple(target.shape)}: expected {expected} of both; "
                "Task.answer(output, size) makes answers of a network's output at the target's size"
            )
        with torch.no_grad():
            counts = self._count(answer, target)
            self._state = counts if self._state is None else tuple(a + b for a, b in zip(self._state, counts))

    def _count(self, answer: Tensor, target: Tensor) -> tuple[Tensor, ...]:
        raise NotImplementedError

    def _totals(self) -> list[Tensor]:
        if self._state is None:
            raise ValueError("the meter has seen no image: call update before compute")
        return [total.cpu() for total in self._state]


def _refuse(nan: Tensor, labels: Tensor, legal: str) -> None:
    if nan.item():
        raise ValueError(f"{int(nan.item())} predicted pixels are NaN: training has diverged; lower lr")
    if labels.item():
        raise ValueError(f"{int(labels.item())} target pixels are neither {legal}: check the labels")


def _on_cpu(tensor: Tensor) -> bool:
    return tensor.device.type == "cpu"


def _histogram(index: Tensor, bins: int) -> Tensor:
    """How often each of 0..bins-1 occurs, as int64. `bincount` would make a GPU wait for its result's length."""
    index = index.flatten()
    if _on_cpu(index):
        return torch.bincount(index, minlength=bins)
    ones = torch.ones((), dtype=torch.int64, device=index.device).expand_as(index)
    return torch.zeros(bins, dtype=torch.int64, device=index.device).scatter_add_(0, index, ones)


class ClassMeter(_Streaming):
    """mIoU of class maps: answers and targets uint8 (B, H, W), 255 = ignore in targets, no number in answers.

    tp, fp, fn are pooled over the whole set; IoU = tp / (tp + fp + fn); the mean is over *all* classes, and one that
    occurs neither in targets nor in answers counts 0. `counts` (see `Task.counts`) says which images are measured.
    """

    def __init__(self, classes: int, *, counts: Callable[[Tensor], Tensor] | None = None) -> None:
        super().__init__()
        self.channels = classes
        self.counts = counts

    def _count(self, answer: Tensor, target: Tensor) -> tuple[Tensor, ...]:
        labelled_BHW = target != IGNORE
        if self.counts is not None:
            labelled_BHW &= self.counts(target).view(-1, 1, 1)
        legal_BHW = target < self.channels
        index = target.to(torch.int64) * self.channels + answer.clamp(max=self.channels - 1)
        index = torch.where(labelled_BHW & legal_BHW, index, self.channels**2 + (labelled_BHW & ~legal_BHW).long())
        return _histogram(index, self.channels**2 + 2), (answer == IGNORE).sum()

    def confusion(self) -> Tensor:
        """Pixels by (true class, predicted class), int64 (C, C) on the CPU."""
        counts, nan = self._totals()
        _refuse(nan, counts[-1], f"a class from 0 to {self.channels - 1} nor {IGNORE} (ignore)")
        return counts[:-2].view(self.channels, self.channels)

    def iou(self) -> Tensor:
        """IoU of each class, float64 (C); 0 for a class that never occurs; NaN if no pixel was labelled."""
        confusion = self.confusion().double()
        hits = confusion.diagonal()
        union = confusion.sum(0) + confusion.sum(1) - hits
        return hits / union.clamp(min=1) if confusion.any() else torch.full_like(hits, math.nan)

    def compute(self) -> dict[str, float]:
        """mIoU in [0, 1]."""
        return {"mIoU": self.iou().mean().item()}


class SaliencyMeter(_Streaming):
    """Best mean IoU and maximal F1 of probabilities over the 15 thresholds 0.20, 0.25, ..., 0.90 (strictly above).

    IoU, precision and recall are of single images (target uint8 (B, H, W), 255 = ignore) and averaged over images.
    IoU is 1 where truth and prediction are both empty; precision without a prediction and recall without truth are 0.
    Images without a labelled pixel do not count.
    """

    def _count(self, answer: Tensor, target: Tensor) -> tuple[Tensor, ...]:
        # A pixel in bucket b lies above the first b thresholds, so one histogram per image holds all 15 binary maps.
        thresholds = torch.arange(4, 19, device=answer.device) / 20
        bucket_BHW = torch.bucketize(answer.float().contiguous(), thresholds)
        buckets = len(thresholds) + 1
        image_B11 = torch.arange(len(target), device=target.device).view(-1, 1, 1)
        index = (image_B11 * 3 + torch.where(target == IGNORE, 2, (target == 1).long())) * buckets + bucket_BHW
        counts_B3K = _histogram(index, len(target) * 3 * buckets).view(-1, 3, buckets).double()
        above_B3K = counts_B3K.flip(2).cumsum(2).flip(2)
        truth_B1 = above_B3K[:, 1, :1]
        hits_BK, false_BK = above_B3K[:, 1, 1:], above_B3K[:, 0, 1:]
        found_BK = hits_BK + false_BK
        union_BK = truth_B1 + false_BK
        iou_BK = torch.where(union_BK > 0, hits_BK / union_BK.clamp(min=1), 1)
        precision_BK, recall_BK = hits_BK / found_BK.clamp(min=1), hits_BK / truth_B1.clamp(min=1)
        counted_B = above_B3K[:, :2, 0].sum(1) > 0
        sums_3K = (torch.stack([iou_BK, precision_BK, recall_BK], 1) * counted_B.view(-1, 1, 1)).sum(0)
        return sums_3K, counted_B.sum(), answer.isnan().sum(), ((target > 1) & (target != IGNORE)).sum()

    def compute(self) -> dict[str, float]:
        """mIoU and maxF in [0, 1]."""
        sums_3K, images, nan, labels = self._totals()
        _refuse(nan, labels, f"0, 1 nor {IGNORE} (ignore)")
        iou_K, precision_K, recall_K = sums_3K / images if images else torch.full_like(sums_3K, math.nan)
        f_K = 2 * precision_K * recall_K / (precision_K + recall_K)
        f_K = torch.where(precision_K + recall_K == 0, 0, f_K)
        return {"mIoU": iou_K.max().item(), "maxF": f_K.max().item()}


class NormalsMeter(_Streaming):
    """Angle in degrees between unit vectors (B, 3, H, W), pooled over pixels; zero vector = ignore.

    The median comes from a histogram of 0.01 degrees; everything else is exact.
    """

    STEPS_PER_DEGREE = 100
    dimensions = 4

    def _count(self, answer: Tensor, target: Tensor) -> tuple[Tensor, ...]:
        valid_BHW = (target != 0).any(1)
        a, b = answer.float(), unit(target)
        # Twice the half angle: unlike acos, exact to the last digits near 0 and 180 degrees.
        half = torch.atan2((a - b).square().sum(1).sqrt(), (a + b).square().sum(1).sqrt())
        angle_BHW = torch.where(valid_BHW, half * (360 / math.pi), 0)
        bins = 180 * self.STEPS_PER_DEGREE + 1
        index = (angle_BHW * self.STEPS_PER_DEGREE).nan_to_num(0).long().clamp(0, bins - 1)
        histogram = _histogram(torch.where(valid_BHW, index, bins), bins + 1)[:-1]
        sums = [angle_BHW.sum(dtype=torch.float64), angle_BHW.square().sum(dtype=torch.float64)]
        sums += [((angle_BHW < limit) & valid_BHW).sum().double() for limit in (11.25, 22.5, 30)]
        return torch.stack(sums), histogram, answer.isnan().any(1).sum(), target.isnan().any(1).sum()

    def compute(self) -> dict[str, float]:
        """mean, median, rmse in degrees; 11.25, 22.5, 30: the shares (0 to 1) of pixels under these angles."""
        sums, histogram, nan, labels = self._totals()
        _refuse(nan, labels, "unit vectors nor 0 (ignore)")
        n = int(histogram.sum())
        if n == 0:
            return dict.fromkeys(("mean", "median", "rmse", "11.25", "22.5", "30"), math.nan)
        mean, square, *shares = (sums / n).tolist()
        median = (self._ranked(histogram, (n - 1) // 2) + self._ranked(histogram, n // 2)) / 2
        return {"mean": mean, "median": median, "rmse": math.sqrt(square), **dict(zip(("11.25", "22.5", "30"), shares))}

    def _ranked(self, histogram: Tensor, rank: int) -> float:
        """The rank-th smallest angle, as if a bin's angles were spread evenly over it."""
        up_to = histogram.cumsum(0)
        k = int(torch.searchsorted(up_to, rank, right=True))
        inside = (rank + 0.5 - (up_to[k] - histogram[k]).item()) / histogram[k].item()
        return (k + inside) / self.STEPS_PER_DEGREE


class DepthMeter(_Streaming):
    """Errors of depth maps in metres (B, H, W), 0 = ignore; answers of 0 or less become 1e-9."""

    def _count(self, answer: Tensor, target: Tensor) -> tuple[Tensor, ...]:
        valid_BHW = target != 0
        truth_BHW = torch.where(valid_BHW, target.float(), 1)
        predicted_BHW = torch.where(valid_BHW, answer.float().clamp(min=1e-9), 1)
        square = (predicted_BHW - truth_BHW).square().sum(dtype=torch.float64)
        log_square = (predicted_BHW.log() - truth_BHW.log()).square().sum(dtype=torch.float64)
        return torch.stack([square, log_square]), valid_BHW.sum(), answer.isnan().sum(), (~(truth_BHW > 0)).sum()

    def compute(self) -> dict[str, float]:
        """rmse in metres; log_rmse of the natural logarithms."""
        squares, n, nan, labels = self._totals()
        _refuse(nan, labels, "positive metres nor 0 (ignore)")
        rmse, log_rmse = (squares / n).sqrt().tolist() if n else (math.nan, math.nan)
        return {"rmse": rmse, "log_rmse": log_rmse}


class QuantityMeter(_Streaming):
    """Errors of maps of numbers (B, H, W), pooled over the pixels that `labelled` (see `Task.labelled`) tells."""

    def __init__(self, labelled: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.labelled = labelled

    def _count(self, answer: Tensor, target: Tensor) -> tuple[Tensor, ...]:
        valid_BHW = self.labelled(target)
        error_BHW = torch.where(valid_BHW, answer.float() - target.float(), 0)
        sums = torch.stack([error_BHW.square().sum(dtype=torch.float64), error_BHW.abs().sum(dtype=torch.float64)])
        return sums, valid_BHW.sum(), answer.isnan().sum(), (valid_BHW & ~target.isfinite()).sum()

    def compute(self) -> dict[str, float]:
        """rmse and mae (mean absolute error), in the labels' unit."""
        sums, n, nan, labels = self._totals()
        _refuse(nan, labels, "finite numbers nor the ignore value")
        square, absolute = (sums / n).tolist() if n else (math.nan, math.nan)
        return {"rmse": math.sqrt(square), "mae": absolute}


def delta_m(values: Mapping[str, float], baseline: Mapping[str, float]) -> float:
    """Mean relative gain over a baseline in percent: 100 / T times the sum over pairs of (value - base) / base.

    Both map a pair's name to its main metric; the sign is turned where lower is better (depth RMSE, mean angle). NaN if
    a value is NaN or a baseline 0. A ValueError if the two do not cover the same pairs.
    """
    if not values or set(values) != set(baseline):
        raise ValueError(
            f"delta_m compares the same pairs, but got {sorted(values)} and the baseline {sorted(baseline)}"
        )
    gains = []
    for name, value in values.items():
        sign = 1 if pair(name).task.higher_is_better else -1
        gains.append(sign * (value - baseline[name]) / baseline[name] if baseline[name] else math.nan)
    return 100 * math.fsum(gains) / len(gains)
