"""A parameter's type and range: what is legal, and text, JSON or TOML turned into it."""

from __future__ import annotations

import math
import typing
from typing import Any, Literal

__all__ = ["check_range", "check_type", "coerce"]


def check_type(name: str, value: object, hint: Any) -> None:
    """Raise TypeError, or ValueError for a word that is no choice or a number that is not finite."""
    origin = typing.get_origin(hint)
    if origin is Literal:
        if value not in typing.get_args(hint):
            raise ValueError(f"{name}={value!r}: choose one of {', '.join(map(repr, typing.get_args(hint)))}")
    elif origin is tuple:
        if not isinstance(value, tuple) or not all(type(item) is int for item in value):
            raise TypeError(f"{name}={value!r}: expected a tuple of integers")
    elif type(value) is not hint and not (hint is float and type(value) is int):
        raise TypeError(f"{name}={value!r}: expected {hint.__name__}, got {type(value).__name__}")
    if hint is float and not math.isfinite(typing.cast(float, value)):
        raise ValueError(f"{name}={value}: choose a finite number")


def check_range(name: str, value: float, low: float, high: float, *, above: bool = False) -> None:
    """Raise ValueError naming the range unless low <= value <= high, or low < value <= high with `above`."""
    if not low <= value <= high or (above and value == low):
        raise ValueError(
            f"{name}={value}: choose a value {'above' if above else 'from'} {low} {'and ' if above else ''}up to {high}"
        )


def coerce(name: str, value: object, hint: Any) -> object:
    """A value from text, JSON or TOML as type `hint` (lists to tuples, integers to floats, '8' to 8, 'true' to True).

    What cannot be turned comes back as it is, for `check_type` to refuse, but for text, which is a TypeError here.
    """
    if isinstance(value, str) and hint is not str and typing.get_origin(hint) is not Literal:
        return _from_text(name, value, hint)
    if isinstance(value, list):
        return tuple(value)
    if hint is float and type(value) is int:
        try:
            return float(value)
        except OverflowError:
            raise ValueError(f"{name}={value}: choose a finite number") from None
    return value


def _from_text(name: str, text: str, hint: Any) -> object:
    try:
        if hint is bool:
            return {"true": True, "false": False, "1": True, "0": False}[text.lower()]
        if hint in (int, float):
            return hint(text)
        return tuple(int(item) for item in text.strip("()[] ").split(",") if item.strip())
    except (KeyError, ValueError):
        expected = "a comma-separated list of integers" if typing.get_origin(hint) is tuple else hint.__name__
        raise TypeError(f"{name}={text!r}: expected {expected}") from None
