"""How maps become pictures: uint8 (H, W, 3), pixels without a value mid-grey. Needs nothing but numpy."""

from __future__ import annotations

import numpy as np

__all__ = ["GREY", "class_colours", "greys", "near_to_far", "paint"]

GREY = 128
"""Of pixels without a value."""

_STRONG = "1f77b4 ff7f0e 2ca02c d62728 9467bd 8c564b e377c2 7f7f7f bcbd22 17becf"
_PALE = "aec7e8 ffbb78 98df8a ff9896 c5b0d5 c49c94 f7b6d2 c7c7c7 dbdb8d 9edae5"
_FURTHER = (
    "393b79 5254a3 6b6ecf 9c9ede 637939 8ca252 b5cf6b cedb9c 8c6d31 bd9e39 "
    "e7ba52 e7cb94 843c39 ad494a d6616b e7969c 7b4173 a55194 ce6dbd de9ed6"
)
_VIRIDIS = "440154 472d7b 3b528b 2c728e 21918c 28ae80 5ec962 addc30 fde725"
"""Nine of viridis' colours at equal steps, dark to bright."""


def _table(colours: str) -> np.ndarray:
    """uint8 (n, 3) of hexadecimal colours with blanks between them."""
    return np.frombuffer(bytes.fromhex(colours), np.uint8).reshape(-1, 3)


def class_colours(n: int) -> np.ndarray:
    """uint8 (n, 3), all different: class 0, the background, is dark; then matplotlib's tab20 and tab20b, strong colours
    first; from class 41 on PASCAL VOC's, which spread an index's bits over the three channels."""
    first = _table(f"212129 {_STRONG} {_PALE} {_FURTHER}")
    if n <= len(first):
        return first[:n]
    indices = np.arange(len(first), n)
    more = np.zeros((len(indices), 3), np.uint8)
    for bit in range(8):
        for channel in range(3):
            more[:, channel] |= ((indices >> (3 * bit + channel) & 1) << (7 - bit)).astype(np.uint8)
    return np.concatenate([first, more])


def paint(index_HW: np.ndarray, missing_HW: np.ndarray, channels: int) -> np.ndarray:
    """Class indices in their colours."""
    picture = class_colours(channels)[np.where(missing_HW, 0, index_HW)]
    return np.where(missing_HW[..., None], np.uint8(GREY), picture)


def greys(share_HW: np.ndarray, missing_HW: np.ndarray) -> np.ndarray:
    """Shares in [0, 1], black to white."""
    picture = np.round(255 * np.clip(np.where(missing_HW, 0, share_HW), 0, 1)).astype(np.uint8)
    return np.repeat(np.where(missing_HW, np.uint8(GREY), picture)[..., None], 3, axis=-1)


def near_to_far(values_HW: np.ndarray, missing_HW: np.ndarray) -> np.ndarray:
    """Numbers from the picture's least (bright) to its greatest (dark), in viridis' colours."""
    known = values_HW[~missing_HW]
    near, far = (float(known.min()), float(known.max())) if known.size else (0.0, 1.0)
    share_HW = 1 - (np.where(missing_HW, near, values_HW).astype(float) - near) / max(far - near, 1e-6)
    table = _table(_VIRIDIS).astype(float)
    steps = np.arange(len(table)) / (len(table) - 1)
    picture = np.stack([np.interp(share_HW, steps, table[:, channel]) for channel in range(3)], -1)
    return np.where(missing_HW[..., None], np.uint8(GREY), np.round(picture).astype(np.uint8))
