"""Reading labels of data sets from files: what cannot be used is a `DataError` that names the file and the remedy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from matfl.data.cache import DataError
from matfl.data.pictures import regular

__all__ = ["RESTORE", "by_size", "in_range", "read_mat", "unreadable"]

RESTORE = "restore it from the archive"
"""The remedy of most messages."""


def read_mat(path: Path, variable: str) -> np.ndarray:
    """A variable of a MATLAB 5 file, as loadmat has it."""
    from scipy.io import loadmat

    regular(path, RESTORE)
    try:
        values = loadmat(path, variable_names=[variable])
    except Exception as error:  # a damaged file fails anywhere in scipy's reader: zlib, struct, TypeError, ...
        raise unreadable(path, "a MATLAB 5 file", error) from None
    if variable not in values:
        raise DataError(f"{path} has no variable {variable}; {RESTORE}")
    if not isinstance(values[variable], np.ndarray):
        raise DataError(f"{path}: {variable} is a sparse matrix: expected a full one; {RESTORE}")
    return values[variable]


def unreadable(path: Path, what: str, error: Exception) -> DataError:
    """The error for a damaged file."""
    return DataError(
        f"{path} cannot be read as {what} ({error or type(error).__name__}): it is damaged or truncated; {RESTORE}"
    )


def in_range(path: Path, what: str, values: Any, fine: bool, expected: str) -> None:
    """Raises DataError with the span of `values` unless they are `fine`."""
    if not fine:
        found = np.asarray(values, dtype=np.float64)
        span = f"{found.min():g} to {found.max():g}" if found.ndim else f"{found:g}"
        raise DataError(f"{path}: {what} {span} is out of range: expected {expected}; {RESTORE}")


def by_size(shape: tuple[int, ...]) -> str:
    """(height, width, ...) as 480x640."""
    return f"{shape[0]}x{shape[1]}"
