"""The embedded benchmark's splits, rendered straight into the cache."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matfl import scenes
from matfl.data.cache import (
    allocate,
    array_specs,
    build_once,
    cache_folder,
    in_parallel,
    key_hash,
    open_array,
    processes_for,
)
from matfl.data.split import Split
from matfl.tasks.task import Domain

__all__ = ["RenderedReader"]

CHUNK = 128
"""Images rendered at once; the pictures do not depend on it."""


class RenderedReader:
    """Reader 'rendered': images 0 to count - 1 of a domain that `matfl.scenes` draws, square, by their own seed."""

    name = "rendered"

    def version(self, domain: Domain) -> dict[str, Any]:
        """The version of the rendered pictures."""
        return {"scenes": scenes.VERSION}

    def load(
        self,
        domain: Domain,
        split_name: str,
        *,
        count: int,
        size: tuple[int, int],
        seed: int,
        data_dir: str | Path | None = None,
        cache_dir: str | Path | None = None,
        progress: bool = False,
    ) -> Split:
        """See `Reader.load`; nothing is read from `data_dir`."""
        side = size[0]
        key = {
            "domain": domain.name,
            "split": split_name,
            "data_seed": seed,
            "size": side,
            "count": count,
            "version": scenes.VERSION,
        }
        folder = cache_folder(cache_dir) / f"{domain.name}-{split_name}-{side}-{key_hash(key)}"

        def fill(temporary: Path) -> Mapping[str, Any]:
            allocate(temporary, array_specs(tuple(domain.channels), count, size))
            chunks = [
                (temporary, domain.name, split_name, start, min(start + CHUNK, count), seed, side)
                for start in range(0, count, CHUNK)
            ]
            in_parallel(
                _render_chunk,
                chunks,
                processes=processes_for(count * side**2 / 6e5),
                total=count,
                progress=progress,
                title=f"{domain.name}/{split_name}: rendering",
            )
            return {"key": key}

        build_once(folder, fill)
        return Split(
            domain=domain,
            ids=tuple(f"{domain.name}-{split_name}-{i:06d}" for i in range(count)),
            images=open_array(folder, "images"),
            labels={task: open_array(folder, task) for task in domain.channels},
            class_names={"semseg": scenes.CLASS_NAMES[domain.name], "human_parts": scenes.PART_NAMES},
        )


def _render_chunk(folder: Path, domain: str, split_name: str, start: int, stop: int, seed: int, size: int) -> range:
    rendered = scenes.render(domain, split_name, range(start, stop), seed=seed, size=size)
    for name, tensor in rendered.items():
        file = "images" if name == "image" else name
        if (folder / f"{file}.npy").exists():  # the renderer may give more than the domain's tasks
            open_array(folder, file, write=True)[start:stop] = tensor.numpy()
    return range(start, stop)
