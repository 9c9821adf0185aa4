"""Pictures beside labels and what models see in them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["predictions"]


def predictions(
    rows: Sequence[Sequence[tuple[str, NDArray[np.generic]]]], axes: NDArray[np.object_]
) -> NDArray[np.object_]:
    """Fill a grid of axes: each row has (title, picture) from left to right; titles stand above their pictures."""
    for row, line in zip(rows, axes):
        for (title, picture), ax in zip(row, line):
            ax.imshow(picture, interpolation="nearest")
            ax.set_axis_off()
            ax.set_title(title, size=7, pad=2)
    return axes
