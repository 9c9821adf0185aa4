"""Readers 'pascal' and 'nyud': the data sets on disk in the field's two layouts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from matfl.data.cache import DataError, key_hash
from matfl.data.decode import DECODING_VERSION, Sample
from matfl.data.decoded import load_decoded
from matfl.data.layouts import FILES, Layout, locate
from matfl.data.split import Split
from matfl.tasks.task import Domain

__all__ = ["LayoutReader", "evenly"]


@dataclass(frozen=True, slots=True)
class LayoutReader:
    """Reads the layout of its name from `data_dir` (`matfl.data.layouts.locate`)."""

    name: str

    def version(self, domain: Domain) -> dict[str, Any]:
        """Nothing: the published archives do not change."""
        return {}

    def load(
        self,
        domain: Domain,
        split_name: str,
        *,
        count: int,
        size: tuple[int, int],
        seed: int = 0,
        data_dir: str | Path | None = None,
        cache_dir: str | Path | None = None,
        progress: bool = False,
    ) -> Split:
        """See `Reader.load`; `count` images at equal distances in the split file, or all for 0."""
        layout = locate(self.name, data_dir)
        ids = evenly(layout.ids(split_name), count, split_name, str(layout.split_file(split_name)))
        return load_decoded(
            domain,
            split_name,
            ids,
            partial(Sample, layout),
            size=size,
            key={"layout": layout.kind, "decoding": DECODING_VERSION, "files": _fingerprint(layout, ids)},
            cache_dir=cache_dir,
            progress=progress,
            source=str(layout.root.absolute()),
        )


def evenly(listed: Sequence[str], count: int, split_name: str, where: str) -> tuple[str, ...]:
    """`count` of the listed ids at equal distances, or all for 0. Raises DataError, naming `where`, for too many."""
    if count > len(listed):
        raise DataError(
            f"{where} lists {len(listed)} ids but the config wants {count}: lower images_{split_name}, or set it to 0 "
            "for all"
        )
    return tuple(listed) if not count else tuple(listed[i * len(listed) // count] for i in range(count))


def _fingerprint(layout: Layout, ids: Sequence[str]) -> str:
    """Hash of the names, sizes and modification times of all files that the images need. Missing ones are an error."""
    files = []
    for name in ids:
        for kind in FILES[layout.kind]:
            path = layout.file(kind, name)
            status = path.stat()
            files.append((str(path.relative_to(layout.root)), status.st_size, status.st_mtime_ns))
    return key_hash(files)
