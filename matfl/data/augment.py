"""The training augmentation of the field as one batched affine warp on the images' own device.

Order: horizontal flip (p = 0.5), then about the centre a rotation and a zoom by the domain's rule. PASCAL: angle
U(-20, 20) degrees, scale U(0.75, 1.25); NYUD: no rotation, scale one of 1, 1.2, 1.5. Pictures of one fixed camera:
angle U(-10, 10), no zoom. A zoom divides depth, which is right where cameras differ, and where there is but one makes
everything nearer than it ever is; a turn about the optical axis leaves depth as it is. Then regions without a label
become ignore, and images are normalised by ImageNet's mean and standard deviation. What enters from outside the
picture is the mean colour in the image (0 after normalisation) and ignore in every label.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple, TypeVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from matfl.tasks.joint import Packed, Targets
from matfl.tasks.task import Pair, Task

__all__ = ["MEAN", "RULES", "STD", "Warp", "augment", "draw", "normalise", "warp"]

T = TypeVar("T", bound=Targets)

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
"""Of ImageNet's red, green and blue, in shares of 255."""


class Warp(NamedTuple):
    """The random numbers of a batch, float32 on the CPU."""

    flip_B: Tensor
    """1 mirrors the image left to right (before it is rotated), 0 leaves it."""
    angle_B: Tensor
    """Counter-clockwise rotation of the picture as one looks at it, in radians."""
    scale_B: Tensor
    """Zoom: above 1 enlarges the middle of the picture."""


def _pascal(uniform_2B: Tensor) -> tuple[Tensor, Tensor]:
    return (uniform_2B[0] * 40 - 20) * (math.pi / 180), uniform_2B[1] * 0.5 + 0.75


def _nyud(uniform_2B: Tensor) -> tuple[Tensor, Tensor]:
    scales = torch.tensor([1.0, 1.2, 1.5])
    return torch.zeros_like(uniform_2B[0]), scales[(uniform_2B[1] * 3).long()]


def _fixed_camera(uniform_2B: Tensor) -> tuple[Tensor, Tensor]:
    return (uniform_2B[0] * 20 - 10) * (math.pi / 180), torch.ones_like(uniform_2B[1])


RULES: dict[str, Callable[[Tensor], tuple[Tensor, Tensor]]] = {
    "pascal": _pascal,
    "nyud": _nyud,
    "fixed_camera": _fixed_camera,
}
"""`Domain.augmentation` -> (two rows of uniform numbers in [0, 1)) -> (angles, scales)."""


def draw(rule: str, n: int, *, generator: torch.Generator) -> Warp:
    """Random numbers for n images by a rule of `RULES`, from a CPU generator (always 3 n numbers)."""
    uniform_3B = torch.rand(3, n, generator=generator)
    angle_B, scale_B = RULES[rule](uniform_3B[1:])
    return Warp((uniform_3B[0] < 0.5).float(), angle_B, scale_B)


def normalise(images: Tensor) -> Tensor:
    """uint8 images (B, 3, H, W) -> float32 of ImageNet's mean 0 and standard deviation 1 per channel."""
    mean = torch.tensor(MEAN, device="cpu").mul_(255).view(3, 1, 1)
    gain = torch.tensor(STD, device="cpu").mul_(255).reciprocal_().view(3, 1, 1)
    device = images.device
    return images.float().sub_(mean.to(device, non_blocking=True)).mul_(gain.to(device, non_blocking=True))


def augment(
    images: Tensor, target: T, pair: Pair, *, generator: torch.Generator, aspect: float | Tensor | None = None
) -> tuple[Tensor, T]:
    """A randomly warped batch: images uint8 (B, 3, H, W) and the pair's target -> (normalised float32, target).

    Targets are class-like uint8 (B, H, W), numbers (B, H, W) or directions (B, 3, H, W); the last two come back as
    float32. Those of several tasks (`Packed`) are warped alike. `generator` lives on the CPU and is read before the
    device is touched, so nothing waits for the device. `aspect` is as in `warp`.
    """
    return warp(images, target, pair, draw(pair.domain.augmentation, len(images), generator=generator), aspect=aspect)


def warp(
    images: Tensor, target: T, pair: Pair, numbers: Warp, *, aspect: float | Tensor | None = None
) -> tuple[Tensor, T]:
    """The batch warped by the given numbers; shapes and types as in `augment`.

    Images and normals are sampled bilinearly, other labels at the nearest pixel. Normals point right, down and towards
    or away from the viewer (x, y, z): they turn with the picture, x changes sign in mirrored ones, and they are
    renormalised; one keeps its label where its bilinear blend is longer than a half, that is where most of its
    neighbourhood is labelled and agrees. Depth is divided by the scale. An image that no longer counts for its task
    (`Task.counts`: human_parts without a person) becomes ignore as a whole.

    `aspect` is height over width of the original pictures, one number or one an image (B): rotation is then that of the
    originals although the batch was resized to one size. Default: the batch's own.
    """
    height, width = images.shape[-2:]
    ratio = height / width if aspect is None else aspect
    flip_B, angle_B, scale_B = numbers
    mirror_B, cos_B, sin_B = 1 - 2 * flip_B, angle_B.cos(), angle_B.sin()
    # Columns 0-3 say where an output position (x, y in [-1, 1]) is read in the input; 4-7 are for the labels' values.
    columns = [
        mirror_B * cos_B / scale_B,
        sin_B / ratio / scale_B,
        -mirror_B * sin_B * ratio / scale_B,
        cos_B / scale_B,
        mirror_B,
        cos_B,
        sin_B,
        1 / scale_B,
    ]
    numbers_BK = torch.stack(columns, 1).to(images.device, non_blocking=True)
    grid = _grid(numbers_BK[:, :2], numbers_BK[:, 2:4], height, width)

    pictures = F.grid_sample(normalise(images), grid, align_corners=False)
    if isinstance(target, Packed):
        each = zip(pair.parts, target.parts, strict=True)
        return pictures, cast(T, Packed(tuple(_labels(part.task, its, grid, numbers_BK) for part, its in each)))
    return pictures, cast(T, _labels(pair.task, cast(Tensor, target), grid, numbers_BK))


def _labels(task: Task, target: Tensor, grid: Tensor, numbers_BK: Tensor) -> Tensor:
    """A task's target read at the grid's positions, its values changed as the picture was (columns 4 and on)."""
    if task.geometry == "direction":
        return _turn(F.grid_sample(target.float(), grid, align_corners=False), *numbers_BK[:, 4:7].unbind(1))
    if target.dtype == torch.uint8:
        # Complemented labels make the sampler's fill of 0 the ignore value 255.
        labels = ~_nearest(~target, grid).to(torch.uint8)
    else:
        labels = _nearest(target, grid)
        if task.geometry == "distance":
            labels = labels * numbers_BK[:, 7].view(-1, 1, 1)
        if task.ignore != 0:  # which the sampler fills in by itself
            missing = _nearest(task.labelled(target), grid) == 0
            labels = labels.masked_fill_(missing, task.unlabelled)
    if task.selective:
        labels.masked_fill_(~task.counts(labels).view(-1, 1, 1), task.unlabelled)
    return labels


def _grid(by_x_B2: Tensor, by_y_B2: Tensor, height: int, width: int) -> Tensor:
    """Positions (B, H, W, 2) for `grid_sample`: pixel centres times a matrix, a third of `F.affine_grid`'s time."""
    x = (torch.arange(width, device=by_x_B2.device) * 2 + 1) / width - 1
    y = (torch.arange(height, device=by_x_B2.device) * 2 + 1) / height - 1
    return by_x_B2[:, None, None] * x.view(1, 1, -1, 1) + by_y_B2[:, None, None] * y.view(1, -1, 1, 1)


def _nearest(target_BHW: Tensor, grid: Tensor) -> Tensor:
    return F.grid_sample(target_BHW.float().unsqueeze(1), grid, mode="nearest", align_corners=False).squeeze(1)


def _turn(blend_B3HW: Tensor, mirror_B: Tensor, cos_B: Tensor, sin_B: Tensor) -> Tensor:
    square_B1HW = blend_B3HW.square().sum(1, keepdim=True)
    blend_B3HW.mul_(torch.where(square_B1HW > 0.25, square_B1HW.rsqrt(), 0))
    zero_B, one_B = torch.zeros_like(cos_B), torch.ones_like(cos_B)
    turn_B33 = torch.stack(
        [mirror_B * cos_B, sin_B, zero_B, -mirror_B * sin_B, cos_B, zero_B, zero_B, zero_B, one_B], 1
    )
    return torch.bmm(turn_B33.view(-1, 3, 3), blend_B3HW.flatten(2)).view_as(blend_B3HW)
