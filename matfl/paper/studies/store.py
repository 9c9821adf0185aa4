"""Stored results that are not federated runs: found again by hash, computed in resumable units over processes.

A record is a folder `<kind>-<hash12>/` with `record.json` (spec, values, provenance) and `arrays.npz`. Units wait in
the same folder until the last of them is done; a killed computation goes on with the units that are missing.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from matfl.runs.parallel import register_backend

__all__ = ["Job", "Record", "job_name", "load_or_compute", "read_record", "replace_file", "write_json", "write_record"]

Arrays = dict[str, NDArray[Any]]


class Job(Protocol):
    """A result that is computed in independent units (models to train) and then combined."""

    @property
    def kind(self) -> str:
        """First part of the folder's name."""
        ...

    @property
    def alone(self) -> bool:
        """Whether nothing else may run meanwhile (measurements of speed)."""
        ...

    def spec(self) -> dict[str, Any]:
        """Everything that decides the result, as JSON values."""
        ...

    def units(self) -> Sequence[str]:
        """Names of the units, fit for a file name."""
        ...

    def compute(self, unit: str, *, device: str | None) -> tuple[dict[str, Any], Arrays]:
        """Values (JSON) and arrays of one unit."""
        ...

    def combine(self, parts: Sequence[tuple[dict[str, Any], Arrays]]) -> tuple[dict[str, Any], Arrays]:
        """Values and arrays of the record from its units', in the order of `units`."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """A stored result."""

    path: Path
    spec: dict[str, Any]
    values: dict[str, Any]
    arrays: Arrays
    provenance: dict[str, Any]


def job_name(job: Job) -> str:
    """`<kind>-<hash12>` of the spec: the record's folder."""
    text = json.dumps({"kind": job.kind, **job.spec()}, sort_keys=True)
    return f"{job.kind}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"


def replace_file(path: Path, data: bytes) -> None:
    """Write a file whole: to a temporary name, flushed and renamed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with open(temporary, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def write_json(path: Path, value: object) -> None:
    """Write JSON to a temporary name, flush and rename."""
    replace_file(path, (json.dumps(value, indent=1, sort_keys=True) + "\n").encode())


def _write_arrays(path: Path, arrays: Arrays) -> None:
    import io

    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]  # the stub takes `allow_pickle` for an array
    replace_file(path, buffer.getvalue())


def _read_arrays(path: Path) -> Arrays:
    with np.load(path, allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


def write_record(folder: Path, record: Record) -> Path:
    """Write a record to `folder/<name of its own folder>`; record.json last, as the mark that it is whole."""
    target = folder / record.path.name
    _write_arrays(target / "arrays.npz", record.arrays)
    write_json(target / "record.json", {"spec": record.spec, "values": record.values, "provenance": record.provenance})
    return target


def read_record(path: Path) -> Record:
    """The record in a folder. FileNotFoundError where it is not whole."""
    content = json.loads((path / "record.json").read_text())
    return Record(
        path=path,
        spec=content["spec"],
        values=content["values"],
        provenance=content["provenance"],
        arrays=_read_arrays(path / "arrays.npz"),
    )


def _unit(job: Job, unit: str, folder: Path, device: str | None) -> None:
    """Compute one unit into `folder/unit`, unless it is there."""
    import torch

    if (folder / unit / "values.json").exists():
        return
    threads, began = torch.get_num_threads(), time.monotonic()
    torch.set_num_threads(1)  # one process a core beats many threads in each
    try:
        values, arrays = job.compute(unit, device=device)
    finally:
        torch.set_num_threads(threads)
    _write_arrays(folder / unit / "arrays.npz", arrays)
    write_json(folder / unit / "values.json", {"values": values, "seconds": time.monotonic() - began})


def _finish(job: Job, folder: Path, provenance: dict[str, Any]) -> Record:
    parts, seconds = [], 0.0
    for unit in job.units():
        stored = json.loads((folder / unit / "values.json").read_text())
        parts.append((stored["values"], _read_arrays(folder / unit / "arrays.npz")))
        seconds += stored["seconds"]
    values, arrays = job.combine(parts)
    record = Record(
        path=folder,
        spec=job.spec(),
        values=values,
        arrays=arrays,
        provenance={**provenance, "seconds": round(seconds, 1)},
    )
    write_record(folder.parent, record)
    for unit in job.units():
        shutil.rmtree(folder / unit)
    return record


def _progress(results: Iterable[None], total: int, title: str) -> Iterator[None]:
    """Pass results on; a bar on a terminal, else a line for every tenth of them."""
    from tqdm import tqdm

    if sys.stderr.isatty():
        yield from tqdm(results, total=total, desc=title, file=sys.stderr, leave=False)
        return
    for done, result in enumerate(results, 1):
        if done * 10 // total > (done - 1) * 10 // total:
            print(f"{title}: {done}/{total}", file=sys.stderr, flush=True)
        yield result


def load_or_compute(
    wanted: Iterable[Job],
    *,
    runs_dir: Path,
    records: Sequence[Path] = (),
    jobs: int | None = None,
    backend: str = "loky",
    device: str | None = None,
    fresh: bool = False,
    provenance: dict[str, Any] | None = None,
) -> list[Record]:
    """The jobs' records, in order: read where stored (`runs_dir`, then `records`), else computed into `runs_dir`.

    `jobs` processes share the missing units of all jobs (default: one a core). `fresh` computes everything again.
    """
    from joblib import Parallel, delayed

    wanted = list(wanted)
    found: dict[str, Record] = {}
    missing: dict[str, Job] = {}
    for job in wanted:
        name = job_name(job)
        if name in found or name in missing:
            continue
        if fresh:
            shutil.rmtree(runs_dir / name, ignore_errors=True)
        places = [] if fresh else [folder / name for folder in (runs_dir, *records)]
        stored = next((place for place in places if (place / "record.json").exists()), None)
        if stored is not None:
            found[name] = read_record(stored)
        else:
            missing[name] = job
    if missing:
        tasks = [(job, unit, runs_dir / name) for name, job in missing.items() for unit in job.units()]
        together = [task for task in tasks if not task[0].alone]
        register_backend(backend)
        parallel = Parallel(
            n_jobs=jobs or os.cpu_count() or 1,
            backend=backend,
            return_as="generator_unordered" if backend == "loky" else "list",
        )
        calls = (delayed(_unit)(job, unit, folder, device) for job, unit, folder in together)
        kinds = ", ".join(sorted({job.kind for job, *_ in together}))
        for _ in _progress(parallel(calls), len(together), f"computing {kinds}"):
            pass
        for job, unit, folder in tasks:
            if job.alone:
                print(f"measuring {job_name(job)}", file=sys.stderr, flush=True)
                _unit(job, unit, folder, device)
        for name, job in missing.items():
            found[name] = _finish(job, runs_dir / name, provenance or {})
    return [found[job_name(job)] for job in wanted]
