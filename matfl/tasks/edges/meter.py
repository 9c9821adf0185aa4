"""ODS-F and OIS-F under the published protocols: what is measured, on one map and over a data set.

ODS-F is the best F over thresholds of the counts summed over the set (one threshold for the data set); OIS-F is the F
of the counts that each image has at its own best threshold, summed over the set. F is taken at the protocol's
thresholds only; the BSDS scripts also interpolate between neighbouring thresholds, which can only raise it.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from matfl.tasks.task import IGNORE

from .matching import Counts, check_strength, evaluate_map
from .nms import nms

__all__ = ["PROTOCOLS", "Curve", "EdgeMeter", "Protocol", "measure_map"]

_HUNDREDTHS = tuple(k / 100 for k in range(1, 100))


@dataclass(frozen=True, kw_only=True, slots=True)
class Protocol:
    """A way in which edge results were published. Numbers of different protocols do not compare."""

    name: str
    source: str
    """Code bases that use it."""
    suppress: Callable[[ArrayLike], NDArray[np.float64]] | None
    """Non-maximum suppression of a strength map; None for none."""
    thresholds: tuple[float, ...]
    strict: bool
    """A pixel is predicted where strength > threshold; else where strength >= threshold."""


PROTOCOLS: dict[str, Protocol] = {
    protocol.name: protocol
    for protocol in (
        Protocol(
            name="mtl",
            source="Multi-Task-Learning-PyTorch (PASCAL: the 2498 images of test_new)",
            suppress=None,
            thresholds=_HUNDREDTHS,
            strict=False,
        ),
        Protocol(
            name="astmt",
            source="ASTMT, InvPT (PASCAL: all 5105 images, or those 2498)",
            suppress=partial(nms, radius=1),
            thresholds=(0.001, *_HUNDREDTHS, 0.999),
            strict=True,
        ),
        Protocol(
            name="fedhca2",
            source="FedHCA2 (PASCAL: all 5105 images)",
            suppress=partial(nms, radius=4, smoothing=1, levels=255),
            thresholds=_HUNDREDTHS,
            strict=False,
        ),
    )
}
"""The protocols of the literature. `fedhca2` is the default here."""


def measure_map(
    strength_HW: ArrayLike,
    truth_HW: ArrayLike,
    protocol: Protocol,
    max_distance: float,
    *,
    ignore_HW: ArrayLike | None = None,
) -> Counts:
    """Counts of one map under a protocol. strength_HW in [0, 1] before suppression, truth_HW boolean.

    `max_distance` is the greatest distance of a match as a share of the image diagonal (`Domain.max_distance`). Ignored
    pixels are neither predicted nor true: they take part in the suppression, and are cleared after it.
    """
    strength = check_strength(strength_HW)
    truth = np.asarray(truth_HW, dtype=np.bool_)
    if protocol.suppress is not None:
        strength = protocol.suppress(strength)
    if ignore_HW is not None and np.any(ignore_HW):
        strength, truth = np.where(ignore_HW, 0, strength), truth & ~np.asarray(ignore_HW)
    return evaluate_map(strength, truth, protocol.thresholds, max_distance, strict=protocol.strict)


@dataclass(frozen=True, kw_only=True, slots=True)
class Curve:
    """Precision and recall over a data set at T thresholds, under a named protocol."""

    protocol: str
    thresholds_T: NDArray[np.float64]
    precision_T: NDArray[np.float64]
    recall_T: NDArray[np.float64]
    f_T: NDArray[np.float64]

    @property
    def best(self) -> int:
        """Index of the first threshold with the greatest F."""
        return int(self.f_T.argmax())


class EdgeMeter:
    """Streaming ODS-F and OIS-F of edge predictions. `protocol` names an entry of `PROTOCOLS`.

    `max_distance` is the greatest distance of a match as a share of the image diagonal (`Domain.max_distance`).

    >>> meter = EdgeMeter("fedhca2", max_distance=0.0075)
    >>> line = torch.zeros(1, 64, 64, dtype=torch.uint8)
    >>> line[0, 32] = 1
    >>> meter.update(0.9 * line, line)
    >>> meter.compute()["odsF"]
    0.976
    """

    def __init__(self, protocol: str = "fedhca2", max_distance: float = 0.0075) -> None:
        if protocol not in PROTOCOLS:
            raise ValueError(f"edge protocol {protocol!r}: choose from {', '.join(PROTOCOLS)}")
        self.protocol = PROTOCOLS[protocol]
        if not 0 <= max_distance < 1:
            raise ValueError(f"max_distance={max_distance}: give a share of the image diagonal, in [0, 1)")
        self.max_distance = max_distance
        self.images = 0
        zeros_T = np.zeros(len(self.protocol.thresholds), np.int64)
        self._counts = Counts(zeros_T, zeros_T, 0)
        self._best = Counts(zeros_T[:1], zeros_T[:1], 0)

    def update(self, strength_BHW: Tensor, target_BHW: Tensor) -> None:
        """Add a batch: probabilities of an edge and targets (B, H, W) of 0, 1 or 255 (no label).

        Images without any label are skipped. Raises ValueError for other shapes or target values, and for NaN. Images
        are measured in parallel on as many threads as torch uses.
        """
        if target_BHW.ndim != 3 or strength_BHW.shape != target_BHW.shape:
            raise ValueError(
                f"edges take probabilities and targets (B, H, W), not {tuple(strength_BHW.shape)} and "
                f"{tuple(target_BHW.shape)}: Task.answer(output, size) makes them of a network's output"
            )
        strength = strength_BHW.detach().float().cpu().numpy()
        target = target_BHW.cpu().numpy()
        if not np.isin(target, (0, 1, IGNORE)).all():
            raise ValueError("edge targets hold 0, 1 and 255 (no label): binarise them first")

        def count(index: int) -> Counts:
            truth_HW, ignore_HW = target[index] == 1, target[index] == IGNORE
            return measure_map(strength[index], truth_HW, self.protocol, self.max_distance, ignore_HW=ignore_HW)

        threads = min(len(target), torch.get_num_threads(), os.cpu_count() or 1)
        if threads > 1:
            with ThreadPoolExecutor(threads) as pool:
                counts = list(pool.map(count, range(len(target))))
        else:
            counts = [count(index) for index in range(len(target))]
        labelled = [count for count, target_HW in zip(counts, target) if (target_HW != IGNORE).any()]
        self.images += len(labelled)
        self._counts = sum(labelled, self._counts)
        self._best = sum((image.at(int(image.f_T.argmax())) for image in labelled), self._best)

    def curve(self) -> Curve:
        """Precision and recall at each threshold, over all images so far; ValueError if there are none."""
        if not self.images:
            raise ValueError("no edge map was measured: call update first")
        total = self._counts
        return Curve(
            protocol=self.protocol.name,
            thresholds_T=np.array(self.protocol.thresholds),
            precision_T=total.precision_T,
            recall_T=total.recall_T,
            f_T=total.f_T,
        )

    def compute(self) -> dict[str, float]:
        """odsF, with the threshold, precision and recall where it is reached, and oisF; NaN where nothing was labelled.

        Shares in [0, 1].
        """
        if not self.images:
            return dict.fromkeys(("odsF", "oisF", "ods_threshold", "ods_precision", "ods_recall"), float("nan"))
        curve = self.curve()
        best = curve.best
        return {
            "odsF": float(curve.f_T[best]),
            "oisF": float(self._best.f_T[0]),
            "ods_threshold": float(curve.thresholds_T[best]),
            "ods_precision": float(curve.precision_T[best]),
            "ods_recall": float(curve.recall_T[best]),
        }
