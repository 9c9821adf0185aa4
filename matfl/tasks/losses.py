"""What local training minimises: means over the labelled pixels of a batch, in float32, 0 where nothing is labelled."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from matfl.tasks.task import IGNORE, unit

__all__ = ["absolute_error", "binary_cross_entropy", "cross_entropy", "direction_error"]


def cross_entropy(prediction: Tensor, target: Tensor) -> Tensor:
    """Mean cross-entropy over labelled pixels. prediction (B, C, H, W), target (B, H, W)."""
    total = F.cross_entropy(prediction.float(), target.long(), ignore_index=IGNORE, reduction="sum")
    return total / (target != IGNORE).sum().clamp(min=1)


def binary_cross_entropy(prediction: Tensor, target: Tensor, positive_weight: float | None = None) -> Tensor:
    """Mean weighted cross-entropy of logits (B, 1, H, W): positives weigh w, negatives 1 - w.

    By default w is the batch's share of negatives, so that both kinds weigh the same in all.
    """
    valid = target != IGNORE
    weight = ((target == 0) & valid).sum() / valid.sum().clamp(min=1) if positive_weight is None else positive_weight
    known = valid.float()
    truth = (target == 1).float()
    pixels = known * (truth * weight + (1 - truth) * (1 - weight))
    loss = F.binary_cross_entropy_with_logits(prediction[:, 0].float(), truth, reduction="none")
    return (pixels * loss).sum() / known.sum().clamp(min=1)


def direction_error(prediction: Tensor, target: Tensor) -> Tensor:
    """Mean L1 distance of the normalised prediction (B, 3, H, W) to unit vectors, where the target is not zero."""
    valid = (target != 0).any(1, keepdim=True).float()
    difference = (unit(prediction) - target.float()).abs()
    return (valid * difference).sum() / (3 * valid.sum()).clamp(min=1)


def absolute_error(prediction: Tensor, target: Tensor, labelled: Tensor) -> Tensor:
    """Mean |prediction - target| over labelled pixels. prediction (B, 1, H, W), target and labelled (B, H, W)."""
    valid = labelled.float()
    difference = prediction[:, 0].float() - torch.where(labelled, target.float(), 0)
    return (valid * difference.abs()).sum() / valid.sum().clamp(min=1)
