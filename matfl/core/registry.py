"""Named things that others can add to: methods, tasks, domains, readers, backbones.

A registry fills itself on first use: the package's own entries first, then those of plug-ins. A plug-in is a module
that calls `register`; it is found by an entry point of the group `matfl.plugins`, or named in `$MATFL_PLUGINS` (module
names with commas between them, which `matfl --import MODULE` sets for itself and for the processes that it starts).
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from types import FrameType
from typing import Generic, Protocol, TypeVar

__all__ = ["PLUGINS", "PluginError", "Registry", "load_plugins"]

PLUGINS = "MATFL_PLUGINS"
"""Environment variable with the names of modules to import as plug-ins."""

_loaded: set[str] = set()
_filling: set[str] = set()
"""Modules of built-ins that are being imported."""


class PluginError(ValueError):
    """A plug-in that cannot be imported, or a name that is taken; the message says which and what to do.

    >>> import matfl
    >>> matfl.METHODS.register(matfl.METHODS["matfl"])
    Traceback (most recent call last):
    matfl.core.registry.PluginError: 'matfl' is one of the package's methods: choose another name
    """


class Named(Protocol):
    """What a registry holds."""

    @property
    def name(self) -> str: ...


T = TypeVar("T", bound=Named)


class Registry(Mapping[str, T], Generic[T]):
    """Values by name, in the order in which they were registered; the package's own come first and cannot be replaced.

    >>> from dataclasses import dataclass
    >>> @dataclass(frozen=True)
    ... class Colour:
    ...     name: str
    >>> colours = Registry("colour")
    >>> colours.register(Colour("red"))
    Colour(name='red')
    >>> list(colours)
    ['red']
    """

    def __init__(self, kind: str, *, builtin: str = "") -> None:
        """`kind` is the word for an entry in messages; importing the module `builtin` registers the package's own."""
        self.kind = kind
        self._builtin = builtin
        self._items: dict[str, T] = {}
        self._own: set[str] = set()
        self._origin: dict[str, str] = {}

    def register(self, item: T) -> T:
        """Add `item` under its name and return it.

        A plug-in's or a notebook cell's own earlier entry is replaced (a cell may run twice). Raises PluginError when
        the name is one of the package's, or belongs to another module.
        """
        self._fill_own()
        module = origin_of(item)
        own = self._builtin in _filling
        if item.name in self._own and not own:
            raise PluginError(f"{item.name!r} is one of the package's {self.kind}s: choose another name")
        before = self._origin.get(item.name, module)
        if before != module:
            raise PluginError(
                f"{self.kind} {item.name!r} is registered by {before} and by {module}: rename one, or import only one"
            )
        self._items[item.name] = item
        self._origin[item.name] = module
        if own:
            self._own.add(item.name)
        return item

    def adopt(self, item: T, origin: str) -> None:
        """Add an entry that another process registered, in its module `origin`."""
        self._fill_own()
        if item.name in self._own:
            raise PluginError(f"{item.name!r} is one of the package's {self.kind}s: choose another name")
        self._items[item.name], self._origin[item.name] = item, origin

    def foreign(self, name: str) -> bool:
        """Whether the entry called `name` is not one of the package's own."""
        self._fill_own()
        return name not in self._own

    def remove(self, name: str) -> None:
        """Take out an entry of a plug-in or a notebook. Raises PluginError when it is one of the package's."""
        if name in self._own:
            raise PluginError(f"{name!r} is one of the package's {self.kind}s: it cannot be removed")
        del self._items[name], self._origin[name]

    @contextmanager
    def filling(self) -> Iterator[None]:
        """Within, what is registered counts as the package's own: for a module of built-ins that anyone may import."""
        outermost = self._builtin not in _filling
        _loaded.add(self._builtin)
        _filling.add(self._builtin)
        try:
            yield
        except BaseException:
            _loaded.discard(self._builtin)
            raise
        finally:
            if outermost:
                _filling.discard(self._builtin)

    def find(self, name: str) -> T:
        """The entry called `name`. Raises ValueError listing the known ones."""
        self._fill()
        if name not in self._items:
            raise ValueError(
                f"unknown {self.kind} {name!r}: choose from {', '.join(self._items)}; one from a plug-in needs "
                "`--import MODULE` on the command line, or the import of its module"
            )
        return self._items[name]

    def origin(self, name: str) -> str:
        """The module that registered `name`."""
        self._fill()
        return self._origin[name]

    def _fill_own(self) -> None:
        if self._builtin and self._builtin not in _loaded:
            with self.filling():
                importlib.import_module(self._builtin)

    def _fill(self) -> None:
        self._fill_own()
        load_plugins()

    def __getitem__(self, name: str) -> T:
        self._fill()
        return self._items[name]

    def __iter__(self) -> Iterator[str]:
        self._fill()
        return iter(self._items)

    def __len__(self) -> int:
        self._fill()
        return len(self._items)


def origin_of(item: object) -> str:
    """The module that wrote `item`: that of its class or function; where those are the package's own, the module whose
    code is registering it."""
    module = str(getattr(item, "__module__", type(item).__module__))
    frame: FrameType | None = sys._getframe(1)
    while _ours(module) and frame is not None:
        caller = str(frame.f_globals.get("__name__", ""))
        if frame.f_code.co_name == "<module>" or not _ours(caller):
            return caller
        frame = frame.f_back
    return module


def _ours(module: str) -> bool:
    return module.partition(".")[0] == __name__.partition(".")[0]


@cache
def _installed(read: Callable[..., Iterable[EntryPoint]], path: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
    """(module, where it is named) of the installed plug-ins. Reading all packages takes 50 ms: once a path."""
    points = read(group="matfl.plugins")
    return tuple((point.value.partition(":")[0], f"entry point {point.name!r}") for point in points)


def load_plugins(imported: Callable[[str], object] = importlib.import_module) -> tuple[str, ...]:
    """Import the plug-ins that are not imported yet; the names of all of them.

    Raises PluginError naming the module that cannot be imported.
    """
    named = [name.strip() for name in os.environ.get(PLUGINS, "").split(",") if name.strip()]
    found = dict(_installed(entry_points, tuple(sys.path)))
    found |= dict.fromkeys(named, f"--import or ${PLUGINS}")
    for module, source in found.items():
        if module in _loaded:
            continue
        _loaded.add(module)
        try:
            imported(module)
        except PluginError:
            raise
        except Exception as error:
            _loaded.discard(module)
            raise PluginError(
                f"plug-in {module} ({source}) cannot be imported ({type(error).__name__}: {error}): install it, "
                "correct its name, or put its folder on PYTHONPATH"
            ) from error
    return tuple(found)
