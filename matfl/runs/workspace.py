"""Where results and data lie: one rule for notebooks, the command line, scripts and `matfl reproduce`."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import matfl
from matfl.data.cache import cache_folder

__all__ = ["Folder", "Workspace", "checkout", "figure_folders", "packed"]

Folder = str | Path


def checkout() -> Path | None:
    """The repository that the package lies in, or None for an installed wheel."""
    root = Path(matfl.__file__).resolve().parent.parent
    return root if (root / "pyproject.toml").is_file() and (root / "notebooks").is_dir() else None


def packed() -> Path:
    """The folder in which a wheel brings `notebooks` and `figures/*/runs`: the package's own."""
    return Path(matfl.__file__).resolve().parent


@dataclass(frozen=True, init=False)
class Workspace:
    """The places of stored runs, committed records, cached arrays and real data.

    Each is the one that is given, else that of its environment variable, else the default. `home` is the checkout that
    the package lies in (an editable install), else the current folder.

    >>> Workspace(runs="/tmp/here").runs
    PosixPath('/tmp/here')
    """

    runs: Path
    """The run store, written to; $MATFL_RUNS, else `runs` in `home`."""
    records: tuple[Path, ...]
    """Read-only small records of runs, looked up after the store: `runs` in $MATFL_FIGURES, then `figures/*/runs` of
    the checkout, or those packed into the wheel. `records=()` reads none, so that every run has its weights."""
    cache: Path
    """Decoded pictures and starts; $MATFL_CACHE, else ~/.cache/matfl."""
    data: Path | None
    """Real data sets; $MATFL_DATA, else None."""

    def __init__(
        self,
        runs: Folder | None = None,
        *,
        records: Folder | Iterable[Folder] | None = None,
        cache: Folder | None = None,
        data: Folder | None = None,
    ) -> None:
        data = data or os.environ.get("MATFL_DATA")
        places = [records] if isinstance(records, str | Path) else records
        values = {
            "runs": _absolute(runs or os.environ.get("MATFL_RUNS") or self.home / "runs"),
            "records": _known_records() if places is None else tuple(_absolute(place) for place in places),
            "cache": _absolute(cache_folder(cache)),
            "data": _absolute(data) if data else None,
        }
        for name, value in values.items():
            object.__setattr__(self, name, value)

    @property
    def home(self) -> Path:
        """The checkout, else the current folder."""
        return checkout() or Path.cwd()

    def figures(self, preset: str) -> Path:
        """Where the figures of a preset are drawn: `figures/<preset>` in `home`."""
        return self.home / "figures" / preset

    def without_records(self) -> Workspace:
        """The same places, but for the records."""
        return Workspace(self.runs, records=(), cache=self.cache, data=self.data)


def _absolute(path: Folder) -> Path:
    return Path(path).expanduser().absolute()


def figure_folders() -> tuple[Path, ...]:
    """Folders of figures, verdicts and (in `runs`) records: $MATFL_FIGURES, then the checkout's or the wheel's."""
    root, figures = checkout() or packed(), os.environ.get("MATFL_FIGURES")
    found = [_absolute(figures)] if figures else []
    found += sorted(path for path in (root / "figures").glob("*") if path.is_dir())
    return tuple(dict.fromkeys(found))


def _known_records() -> tuple[Path, ...]:
    return tuple(path for folder in figure_folders() if (path := folder / "runs").is_dir())
