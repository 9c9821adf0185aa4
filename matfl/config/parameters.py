"""The chosen method's own parameters, as `RunConfig.parameters` holds them: those that differ from its defaults."""

from __future__ import annotations

import typing
from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass, replace
from typing import Any

from matfl.config.values import check_type, coerce
from matfl.core.registry import Registry

__all__ = ["METHODS", "Parameters", "chosen", "defaults", "of_method", "with_parameters"]

Value = int | float | str | bool
Parameters = tuple[tuple[str, Value], ...]
"""(name, value) pairs, sorted by name."""

METHODS: Registry[Any] = Registry("method", builtin="matfl.server.methods")
"""All methods by name, with default parameters, in the order of tables and figures; `matfl.server.methods` fills it.

>>> import matfl
>>> list(matfl.METHODS)[:2], matfl.METHODS["fedprox"].mu
(['local', 'single_task'], 0.01)
"""


def defaults(method: object) -> dict[str, Value]:
    """A method's parameters and their default values; none for a method that is a plain function."""
    if not is_dataclass(method):
        return {}
    return {field.name: getattr(method, field.name) for field in fields(method) if field.init}


def of_method(name: str, given: Iterable[tuple[str, object]]) -> Parameters:
    """`given` as method `name` takes it: typed, without what equals its defaults, sorted.

    A method that is not known here, of a plug-in that is not imported say, keeps what is given. Raises ValueError for a
    parameter that the method lacks or that it refuses, TypeError for a value of another type.
    """
    pairs = sorted(given)
    if len({key for key, _ in pairs}) < len(pairs):
        raise ValueError(f"parameters={pairs!r}: give each parameter of method {name!r} once")
    for key, value in pairs:
        if not isinstance(key, str) or type(value) not in (int, float, str, bool):
            raise TypeError(f"{name}.{key}={value!r}: expected a number, text, true or false")
    if not pairs or name not in METHODS:
        return typing.cast(Parameters, tuple(pairs))
    method = METHODS[name]
    known, hints = defaults(method), typing.get_type_hints(type(method))
    typed: dict[str, Any] = {}
    for key, value in pairs:
        if key not in known:
            own = f"its parameters are {', '.join(known)}" if known else "it has none"
            raise ValueError(f"unknown parameter {name}.{key}: method {name!r} lacks it, {own}")
        typed[key] = coerce(f"{name}.{key}", value, hints[key])
        check_type(f"{name}.{key}", typed[key], hints[key])
    replace(method, **typed)  # its own ranges
    return tuple(
        (key, value + 0.0 if hints[key] is float else value) for key, value in typed.items() if value != known[key]
    )


def with_parameters(method: Any, given: Parameters) -> Any:
    """`method` with these parameters in the place of its defaults."""
    return replace(method, **dict(given)) if given else method


def chosen(changes: Mapping[str, object], method: str) -> dict[str, object]:
    """The parameters of `method` among `changes`, whose names are `METHOD.NAME` (or METHOD: a table of them).

    Raises ValueError for those of another method.
    """
    found: dict[str, object] = {}
    for name, value in changes.items():
        owner, dot, key = name.partition(".")
        table = {key: value} if dot else dict(typing.cast(Mapping[str, object], value))
        if owner != method:
            if owner not in METHODS:
                raise ValueError(f"unknown parameter {name!r}: method {owner!r} is none of {', '.join(METHODS)}")
            first = name if dot else f"{owner}.{next(iter(table), '')}"
            raise ValueError(
                f"{first} is a parameter of method {owner!r}, but the run's method is {method!r}: "
                f"set method={owner} as well, or leave it out"
            )
        found |= table
    return found
