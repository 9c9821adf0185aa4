"""Settings written as text: `name=value`, one a command-line option or several with semicolons between them."""

from __future__ import annotations

from collections.abc import Iterable

__all__ = ["parse_settings"]


def parse_settings(text: str | Iterable[str], *, where: str) -> dict[str, str]:
    """Name -> value of `"k=4; seed=1"` or of `["k=4", "seed=1"]`, both as text; a later value replaces an earlier one.

    Raises ValueError that starts with `where` for what is not of that form.

    >>> parse_settings("rounds=5; fedprox.mu=0.1", where="settings")
    {'rounds': '5', 'fedprox.mu': '0.1'}
    """
    values = {}
    for item in text.split(";") if isinstance(text, str) else text:
        if isinstance(text, str) and not item.strip():
            continue
        name, equals, value = item.partition("=")
        if not equals or not name.strip():
            several = ", with a semicolon between two of them" if isinstance(text, str) else ""
            raise ValueError(f"{where}: {item.strip()!r} is not of the form NAME=VALUE{several}")
        values[name.strip()] = value.strip()
    return values
