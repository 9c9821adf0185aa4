"""The best answers that never look at a picture, each for the metric that its task is measured by."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["best_classes", "middle_direction"]

ROUNDS = 50
"""Iterations, of which both need a few."""


def best_classes(counts_CHW: Tensor) -> Tensor:
    """(H, W) class map of high mIoU against many label maps, from how often each pixel has each class.

    The commonest class everywhere is best for accuracy, not for mIoU, which asks for rare classes too. From there every
    pixel goes to the class by which the sum of the IoUs grows most, to first order, as long as that sum grows: a local
    maximum.
    """
    count_CHW = counts_CHW.double()
    total_HW, label_C = count_CHW.sum(0), count_CHW.flatten(1).sum(1)
    best_HW = count_CHW.argmax(0)
    best = _iou(best_HW, count_CHW, total_HW, label_C)
    for _ in range(ROUNDS):
        hits_C, union_C = _sums(best_HW, count_CHW, total_HW, label_C)
        union_C = union_C.clamp(min=1)
        gain_CHW = count_CHW / union_C[:, None, None]
        gain_CHW = gain_CHW - (hits_C / union_C**2)[:, None, None] * (total_HW - count_CHW)
        moved_HW = gain_CHW.argmax(0)
        value = _iou(moved_HW, count_CHW, total_HW, label_C)
        if value <= best:
            break
        best_HW, best = moved_HW, value
    return best_HW


def _sums(map_HW: Tensor, count_CHW: Tensor, total_HW: Tensor, label_C: Tensor) -> tuple[Tensor, Tensor]:
    """Matched pixels and union of each class over all label maps."""
    chosen_CHW = torch.nn.functional.one_hot(map_HW, len(count_CHW)).permute(2, 0, 1).double()
    hits_C = (chosen_CHW * count_CHW).flatten(1).sum(1)
    return hits_C, label_C + (chosen_CHW * (total_HW - count_CHW)).flatten(1).sum(1)


def _iou(map_HW: Tensor, count_CHW: Tensor, total_HW: Tensor, label_C: Tensor) -> float:
    hits_C, union_C = _sums(map_HW, count_CHW, total_HW, label_C)
    return float((hits_C / union_C.clamp(min=1)).sum())


def middle_direction(vectors_N3HW: Tensor) -> Tensor:
    """(3, H, W) unit vectors of least mean angle to the N unit (or zero, unlabelled) vectors of each pixel.

    The spherical median, by Weiszfeld's iteration: the mean of the tangents towards the vectors, each of length 1, is 0
    there. Where nothing is labelled: zero.
    """
    labelled_N1HW = (vectors_N3HW != 0).any(1, keepdim=True)
    middle_3HW = _normalised(vectors_N3HW.sum(0))
    for _ in range(ROUNDS):
        along_N1HW = (vectors_N3HW * middle_3HW).sum(1, keepdim=True).clamp(-1, 1)
        tangent_N3HW = vectors_N3HW - along_N1HW * middle_3HW
        sine_N1HW = tangent_N3HW.square().sum(1, keepdim=True).sqrt()
        angle_N1HW = torch.atan2(sine_N1HW, along_N1HW)
        pull_N1HW = torch.where(labelled_N1HW, 1 / sine_N1HW.clamp(min=1e-3), 0)
        weight_N1HW = torch.where(labelled_N1HW, 1 / angle_N1HW.clamp(min=1e-3), 0)
        step_3HW = (pull_N1HW * tangent_N3HW).sum(0) / weight_N1HW.sum(0).clamp(min=1e-9)
        length_1HW = step_3HW.square().sum(0, keepdim=True).sqrt()
        turn_3HW = step_3HW / length_1HW.clamp(min=1e-9)
        middle_3HW = _normalised(length_1HW.cos() * middle_3HW + length_1HW.sin() * turn_3HW)
    return middle_3HW


def _normalised(vectors_3HW: Tensor) -> Tensor:
    length_1HW = vectors_3HW.square().sum(0, keepdim=True).sqrt()
    return torch.where(length_1HW > 1e-6, vectors_3HW / length_1HW.clamp(min=1e-6), 0)
