"""Packages that only some runs need: imported where they are used, with a word on how to install them."""

from __future__ import annotations

import importlib
from types import ModuleType

__all__ = ["MissingExtra", "require"]


class MissingExtra(ImportError):
    """A package of one of matfl's extras is not installed; the message holds the command that installs it."""


def require(module: str, *, extra: str, what: str) -> ModuleType:
    """The module of that name.

    `what` needs it (the beginning of the message) and `pip install 'matfl[extra]'` brings it. Raises MissingExtra.
    """
    package = module.partition(".")[0]
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != package:
            raise
        raise MissingExtra(f"{what} needs the package {package}: pip install 'matfl[{extra}]'") from None
