"""Labels that nobody drew: boundaries of class maps, and surface normals of depth maps.

They are consistent with what they are derived from, and no better: say "derived" wherever they are measured against.
"""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageFilter

__all__ = ["boundaries", "fill_strips", "plane_normals"]

WINDOW = 7
"""Side of the window, in pixels of the quarter-size map, to which a plane is fitted."""
QUARTER = 4


def boundaries(classes_HW: np.ndarray) -> np.ndarray:
    """Where classes meet, one pixel wide: uint8 (h, w), 1 on a boundary.

    SEISM's rule, with which predictions are measured elsewhere (`matfl.tasks.edges.truth`), makes the label as well.

    >>> boundaries(np.array([[0, 0, 1, 1]] * 3))[1].tolist()
    [0, 1, 0, 0]
    """
    from matfl.tasks.edges import truth

    return truth(classes_HW).astype(np.uint8)


def fill_strips(classes_HW: np.ndarray, unlabelled: int, widest: int) -> np.ndarray:
    """The map with strips of `unlabelled` that are at most `widest` pixels wide given their nearest class.

    Annotators leave such strips between objects; each would count as two boundaries. Wider regions stay.

    >>> fill_strips(np.array([[1, 9, 9, 2]] * 9), 9, 2)[0].tolist()
    [1, 1, 2, 2]
    """
    from scipy import ndimage

    gap = classes_HW == unlabelled
    strip = gap & ~ndimage.binary_opening(gap, np.ones((widest + 1, widest + 1)))
    if not strip.any() or gap.all():
        return classes_HW
    nearest = ndimage.distance_transform_edt(gap, return_distances=False, return_indices=True)
    return np.where(strip, classes_HW[tuple(nearest)], classes_HW)


def plane_normals(depth_HW: np.ndarray, focal: tuple[float, float], centre: tuple[float, float]) -> np.ndarray:
    """Unit normals float32 (3, h, w) of a depth map in metres without holes: right, down, towards the viewer.

    A plane is linear in inverse depth: 1/Z = a x + b y + c with x = (u - cx)/fx and y = (v - cy)/fy, and its normal
    that faces the camera is -(a, b, c) in camera axes (right, down, forward). The plane is fitted by least squares in
    7x7 windows of the map at a quarter of its size (5x5 median first, then area means), and blended back to full size;
    within 3 of those pixels of the border the nearest whole window counts.

    Args:
        focal: (fx, fy) in pixels; centre: (cx, cy). Height and width must be multiples of 4, at least 28.
    """
    height, width = depth_HW.shape
    picture = Image.fromarray(depth_HW.astype(np.float32)).filter(ImageFilter.MedianFilter(5))
    small = np.asarray(picture, dtype=np.float64)
    small = small.reshape(height // QUARTER, QUARTER, width // QUARTER, QUARTER).mean((1, 3))
    x = (np.arange(small.shape[1]) * QUARTER + (QUARTER - 1) / 2 - centre[0]) / focal[0]
    y = (np.arange(small.shape[0]) * QUARTER + (QUARTER - 1) / 2 - centre[1]) / focal[1]
    windows = np.lib.stride_tricks.sliding_window_view(1 / small, (WINDOW, WINDOW))
    offset, half = np.arange(WINDOW) - WINDOW // 2, WINDOW // 2
    across, down = windows.sum(2), windows.sum(3)  # over rows; over columns
    squares = WINDOW * float(offset @ offset)
    a = across @ offset / (squares * (x[1] - x[0]))
    b = down @ offset / (squares * (y[1] - y[0]))
    c = across.sum(2) / WINDOW**2 - a * x[half:-half] - b * y[half:-half, None]
    normals_3hw = np.stack([-a, -b, c])
    normals_3hw /= np.sqrt((normals_3hw**2).sum(0))
    normals_3hw = np.pad(normals_3hw, ((0, 0), (half, half), (half, half)), mode="edge").astype(np.float32)
    blend = np.stack(
        [np.asarray(Image.fromarray(n).resize((width, height), Image.Resampling.BILINEAR)) for n in normals_3hw]
    )
    return blend / np.sqrt((blend**2).sum(0)).clip(1e-6)
