"""Numbers in print."""

from __future__ import annotations

__all__ = ["decimal"]

READABLE = 1e6
"""From here on a number stands as a power of ten: only a run that diverged has such scores."""


def decimal(value: float, digits: int, *, signed: bool = False) -> str:
    """`value` with `digits` decimals, `signed` with a plus where it is positive; two digits where it is huge.

    >>> decimal(1.25, 1), decimal(0.04, 2, signed=True), decimal(-63182109.4, 1)
    ('1.2', '+0.04', '-6.3e+07')
    """
    sign = "+" if signed and round(value, digits) != 0 else ""
    return f"{value:{sign}.1e}" if abs(value) >= READABLE else f"{value:{sign}.{digits}f}"
