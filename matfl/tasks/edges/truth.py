"""What predictions are measured against: SEISM's ground truth, which is not the label that trains the network.

SEISM (Pont-Tuset and Marques, PAMI 2016), behind every published ODS-F of PASCAL-Context and NYUD in this field, takes
the boundary map of a region map by `seg2bmap`, a one-sided difference, and thins it. The training label of the same
image is a two-sided difference (`matfl.data.decode.laplacian_edges`), thinned.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .thinning import thin

__all__ = ["boundaries", "truth"]


def boundaries(regions_HW: ArrayLike) -> NDArray[np.bool_]:
    """Where a region map (H, W) differs from its right, lower or lower-right neighbour (`seg2bmap`).

    In the last column only the lower neighbour counts, in the last row only the right one, in the corner none.

    >>> boundaries([[1, 1, 2], [1, 1, 2], [3, 3, 3]]).astype(int)
    array([[0, 1, 0],
           [1, 1, 1],
           [0, 0, 0]])
    """
    regions = np.asarray(regions_HW)
    if regions.ndim != 2:
        raise ValueError(f"boundaries takes one map (H, W), not shape {regions.shape}: call it once per map")
    found = np.zeros(regions.shape, np.bool_)
    found[:, :-1] |= regions[:, :-1] != regions[:, 1:]
    found[:-1] |= regions[:-1] != regions[1:]
    found[:-1, :-1] |= regions[:-1, :-1] != regions[1:, 1:]
    return found


def truth(regions_HW: ArrayLike) -> NDArray[np.bool_]:
    """Ground truth (H, W) of a region map, or, as SEISM does it on NYUD, of a stored boundary map: thinned boundaries.

    >>> truth([[1, 1, 2], [1, 1, 2], [3, 3, 3]]).astype(int)
    array([[0, 0, 0],
           [1, 1, 1],
           [0, 0, 0]])
    """
    return thin(boundaries(regions_HW))
