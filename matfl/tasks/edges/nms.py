"""Non-maximum suppression of edge strength, as defined by the structured edge detector's toolbox (edgesNms;
Dollar and Zitnick, "Fast edge detection using structured forests", PAMI 2015).
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit
from numpy.typing import ArrayLike, NDArray

from .matching import check_strength

__all__ = ["nms"]

ORIENTATION_RADIUS = 4
"""Of the triangle filter below which edges have an orientation."""


@njit(cache=True, nogil=True)
def _triangle(map_HW, radius):  # type: ignore[no-untyped-def]
    """The map filtered by [1 ... radius + 1 ... 1] along both axes, mirrored at its border (edge pixel repeated)."""
    for _ in range(2):
        source = np.ascontiguousarray(map_HW.T)
        size = len(source)
        map_HW = np.zeros_like(source)
        for y in range(size):
            for k in range(-radius, radius + 1):
                other = (y + k) % (2 * size)
                map_HW[y] += (radius + 1 - abs(k)) * source[min(other, 2 * size - 1 - other)]
    return map_HW / (radius + 1) ** 4


@njit(cache=True, nogil=True)
def _difference(map_HW, dy, dx):  # type: ignore[no-untyped-def]
    """Central difference along (dy, dx), one-sided at the border; 0 along an axis of one pixel."""
    height, width = map_HW.shape
    result = np.empty_like(map_HW)
    for y in range(height):
        for x in range(width):
            y0, y1 = max(y - dy, 0), min(y + dy, height - 1)
            x0, x1 = max(x - dx, 0), min(x + dx, width - 1)
            result[y, x] = (map_HW[y1, x1] - map_HW[y0, x0]) / max(y1 - y0 + x1 - x0, 1)
    return result


@njit(cache=True, nogil=True)
def _sample(map_HW, y, x):  # type: ignore[no-untyped-def]
    """Bilinear interpolation; the border continues outside."""
    height, width = map_HW.shape
    y, x = min(max(y, 0.0), height - 1.0), min(max(x, 0.0), width - 1.0)
    y0, x0 = int(y), int(x)
    y1, x1 = min(y0 + 1, height - 1), min(x0 + 1, width - 1)
    y, x = y - y0, x - x0
    top = (1 - x) * map_HW[y0, x0] + x * map_HW[y0, x1]
    return (1 - y) * top + y * ((1 - x) * map_HW[y1, x0] + x * map_HW[y1, x1])


@njit(cache=True, nogil=True)
def _nms(strength_HW, radius, smoothing, border, multiplier):  # type: ignore[no-untyped-def]
    height, width = strength_HW.shape
    if smoothing:
        strength_HW = _triangle(strength_HW, smoothing)
    smooth_HW = _triangle(strength_HW, ORIENTATION_RADIUS)
    across_HW, down_HW = _difference(smooth_HW, 0, 1), _difference(smooth_HW, 1, 0)
    xx_HW, xy_HW, yy_HW = _difference(across_HW, 0, 1), _difference(down_HW, 0, 1), _difference(down_HW, 1, 0)
    border = min(border, height // 2, width // 2)
    result = np.zeros_like(strength_HW)
    for y in range(height):
        for x in range(width):
            value = strength_HW[y, x]
            if value == 0:
                continue
            # The direction (cos O, sin O) of tan O = yy sign(-xy) / (xx + 1e-5), up to its sign.
            dx, dy = xx_HW[y, x] + 1e-5, -np.sign(xy_HW[y, x]) * yy_HW[y, x]
            length = math.hypot(dx, dy)
            dx, dy = (dx / length, dy / length) if length > 0 else (1.0, 0.0)
            keep = True
            for step in range(1, radius + 1):
                for d in (step, -step):
                    keep = keep and multiplier * value >= _sample(strength_HW, y + d * dy, x + d * dx)
            if keep:
                from_border_y, from_border_x = min(y, height - 1 - y), min(x, width - 1 - x)
                if from_border_y < border:
                    value *= from_border_y / border
                if from_border_x < border:
                    value *= from_border_x / border
                result[y, x] = value
    return result


def nms(
    strength_HW: ArrayLike,
    *,
    radius: int,
    smoothing: int = 0,
    border: int = 5,
    multiplier: float = 1.01,
    levels: int | None = None,
) -> NDArray[np.float64]:
    """The strengths (H, W) in [0, 1] of pixels that are a maximum across their edge; elsewhere 0.

    radius: distance in pixels, along the normal, within which a pixel must not be exceeded by more than `multiplier`.
    smoothing: radius of a triangle filter applied first (0: none).
    border: width of the frame whose k-th pixel from outside is multiplied by k / border.
    levels: round the result to multiples of 1 / levels (255: as if stored in an 8-bit image); None keeps it.

    The normal follows the second differences of the map under a triangle filter of radius 4.
    """
    strength = check_strength(strength_HW)
    if radius < 1 or smoothing < 0 or border < 0:
        raise ValueError(f"radius={radius}, smoothing={smoothing}, border={border}: radius is at least 1, the others 0")
    result = _nms(strength, radius, smoothing, border, multiplier)
    return result if levels is None else np.floor(result * levels + 0.5) / levels
