"""Folders of memory-mapped arrays that exist whole or not at all.

A folder is filled under a temporary name and renamed when everything in it has reached the disk, under a lock that ends
with its holder. So a kill leaves either the whole folder or a temporary one that the next process removes, and of two
processes one fills the folder while the other waits for it. A folder that no longer is what was written
(`matfl.data.checksums`) is made anew, with a warning that names the file.
"""

from __future__ import annotations

import json
import os
import shutil
import uuid
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from matfl.core.files import json_hash as key_hash
from matfl.core.locks import locked
from matfl.core.processes import child_of_this
from matfl.data import checksums
from matfl.tasks.task import TASKS

__all__ = [
    "DataError",
    "Specs",
    "allocate",
    "array_specs",
    "build_once",
    "cache_folder",
    "in_parallel",
    "key_hash",
    "locked",
    "open_array",
    "processes_for",
    "read_meta",
]

Specs = dict[str, tuple[tuple[int, ...], Any]]
"""Array name -> (shape, dtype)."""

T = TypeVar("T")

META = "meta.json"
FORMAT = 2
"""Folders of another format are made anew; those of format 1 had no checksums."""


class DataError(ValueError):
    """Data that cannot be used; the message names the file, what was expected and what to do.

    >>> import matfl
    >>> try:
    ...     matfl.from_folder("birds", "no/such/folder", channels={"semseg": 2})
    ... except matfl.DataError as error:
    ...     print("no/such/folder" in str(error))
    True
    """


def cache_folder(cache_dir: str | Path | None = None) -> Path:
    """Where decoded arrays are kept: `cache_dir`, else $MATFL_CACHE, else ~/.cache/matfl."""
    return Path(cache_dir or os.environ.get("MATFL_CACHE") or Path.home() / ".cache" / "matfl").expanduser()


def build_once(folder: Path, fill: Callable[[Path], Mapping[str, Any]]) -> None:
    """Make `folder` unless it is there and whole. `fill(temporary)` writes arrays and returns what meta.json also says.

    Warns when the folder is there but damaged. Raises DataError when the cache cannot be written; whatever `fill`
    raises ends the attempt without a trace.
    """
    if not _fault(folder):
        return
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with locked(folder.with_name(folder.name + ".lock")):
            fault = _fault(folder)
            if not fault:
                return
            if folder.exists():
                warnings.warn(f"{fault}: the cached folder is made anew", stacklevel=4)
            for stale in (folder, *folder.parent.glob(f"{folder.name}.tmp-*")):
                shutil.rmtree(stale, ignore_errors=True)
            temporary = folder.with_name(f"{folder.name}.tmp-{uuid.uuid4().hex}")
            temporary.mkdir()
            try:
                meta = {**fill(temporary), "format": FORMAT}
                files = sorted(temporary.iterdir())
                meta["files"] = {file.name: checksums.summary(file) for file in files}
                (temporary / META).write_text(json.dumps(meta), encoding="utf-8")
                for path in (*files, temporary / META, temporary):
                    _flush(path)
                temporary.rename(folder)
                _flush(folder.parent)
            finally:
                shutil.rmtree(temporary, ignore_errors=True)
    except OSError as error:
        raise DataError(
            f"{folder.parent}: cannot write decoded data ({error}); free space, or set MATFL_CACHE (or "
            "cache_dir) to a folder that can hold it"
        ) from error


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _fault(folder: Path) -> str | None:
    """Why the folder cannot be used; None if meta.json, which is written last, and all that it lists are as written."""
    try:
        meta = read_meta(folder)
        if meta["format"] != FORMAT:
            return f"{folder / META} is of format {meta['format']}, not {FORMAT}"
        for name, recorded in meta["files"].items():
            if damage := checksums.damage(folder / name, recorded):
                return f"{folder / name} is damaged ({damage})"
    except OSError as error:
        return f"{folder} is not whole ({error})"
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        return f"{folder / META} is damaged ({type(error).__name__}: {error})"
    return None


def read_meta(folder: Path) -> dict[str, Any]:
    """What `fill` returned when the folder was made."""
    return json.loads((folder / META).read_text(encoding="utf-8"))


def array_specs(tasks: Sequence[str], count: int, size: tuple[int, int]) -> Specs:
    """The arrays of a split at network size: 'images' and one a task."""
    specs: Specs = {"images": ((count, 3, *size), np.uint8)}
    for task in tasks:
        vector = (TASKS[task].target_channels,) if TASKS[task].target_channels else ()
        specs[task] = ((count, *vector, *size), str(TASKS[task].target_dtype).removeprefix("torch."))
    return specs


def allocate(folder: Path, specs: Specs) -> None:
    """Create the arrays (zeros) with their space on the disk, so that a full disk is an error now, no crash later."""
    for name, (shape, dtype) in specs.items():
        path = folder / f"{name}.npy"
        np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)
        if hasattr(os, "posix_fallocate"):
            with open(path, "rb+") as file:
                os.posix_fallocate(file.fileno(), 0, path.stat().st_size)


def open_array(folder: Path, name: str, *, write: bool = False) -> np.ndarray:
    """The array `name` of a folder as a memory map."""
    return np.load(folder / f"{name}.npy", mmap_mode="r+" if write else "r", allow_pickle=False)


def in_parallel(
    work: Callable[..., Sequence[T]],
    chunks: Sequence[tuple[Any, ...]],
    *,
    processes: int,
    total: int,
    progress: bool,
    title: str,
) -> list[T]:
    """`work(*chunk)` of every chunk, over `processes` processes: what each returns, one item an image, in order.

    The processes end when this one does, however that happens. Raises DataError when one of them is killed.
    """
    import joblib
    from joblib.externals.loky.process_executor import TerminatedWorkerError
    from tqdm import tqdm

    results: list[T] = []
    with tqdm(total=total, desc=title, unit="image", disable=not progress, dynamic_ncols=True) as bar:
        if processes == 1:
            done: Iterable[Sequence[T]] = (work(*chunk) for chunk in chunks)
        else:
            with joblib.parallel_config(backend="loky", n_jobs=processes, inner_max_num_threads=1, **child_of_this()):
                parallel = joblib.Parallel(return_as="generator", batch_size=1)
            done = parallel(joblib.delayed(work)(*chunk) for chunk in chunks)
        try:
            for items in done:
                results += items
                bar.update(len(items))
        except TerminatedWorkerError:
            raise DataError(
                f"{title}: a worker process was killed, perhaps for lack of memory; free some and try again"
            ) from None
    return results


def processes_for(seconds: float) -> int:
    """How many processes are worth starting (each takes some seconds) for work of so many seconds on one core."""
    import joblib

    return max(1, min(joblib.cpu_count(), int(seconds / 4)))
