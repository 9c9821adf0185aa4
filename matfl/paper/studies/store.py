"""Stored results that are not federated runs: found again by hash, computed in resumable units over processes.

A record is a folder `<kind>-<hash12>/` with `record.json` (spec, values, provenance), `arrays.npz` and their checksums.
Units wait in the same folder until the last of them is done; a killed computation goes on with the units that are
missing, and two at once share them.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from matfl.config.run_config import RunConfig, from_dict
from matfl.core.files import json_bytes, json_hash
from matfl.core.locks import BusyError, locked
from matfl.core.manifest import MANIFEST, DamageError, read_checked, read_manifest, write_files
from matfl.core.processes import child_of_this
from matfl.core.surroundings import shows_bars
from matfl.runs.arithmetic import differences, without_arithmetic
from matfl.runs.parallel import register_backend, worker_killed
from matfl.runs.store import RunError

__all__ = [
    "Job",
    "Record",
    "find_record",
    "job_name",
    "load_or_compute",
    "read_record",
    "recorded_config",
    "write_record",
]

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
    outdated: tuple[str, ...] = ()
    """The parts of its arithmetic that are of another revision than today's, in words."""


def job_name(job: Job) -> str:
    """`<kind>-<hash12>` of the spec without the revisions of its arithmetic: the record's folder."""
    spec = job.spec()
    if "data" in spec:
        spec["data"] = without_arithmetic(spec["data"])
    return f"{job.kind}-{json_hash({'kind': job.kind, **spec})}"


def recorded_config(spec: Mapping[str, Any]) -> RunConfig:
    """The config in a job's spec; its preset, which decides no number, is 'record'."""
    return from_dict(spec["config"] | {"preset": "record"})


def _packed(arrays: Arrays) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]  # the stub takes `allow_pickle` for an array
    return buffer.getvalue()


def _read(folder: Path, name: str) -> tuple[dict[str, Any], Arrays]:
    """The JSON object `name` and the arrays of a record or unit. Raises RunError naming the file that is damaged."""
    try:
        content = json.loads(read_checked(folder, name))
        with np.load(io.BytesIO(read_checked(folder, "arrays.npz")), allow_pickle=False) as file:
            return dict(content), {key: file[key] for key in file.files}
    except DamageError as error:
        raise _damaged(error.path, error.reason) from None
    except Exception as error:  # damage that has its checksum: a zip archive alone fails in many ways
        raise _damaged(folder, error) from None


def _damaged(path: Path, reason: object) -> RunError:
    return RunError(f"{path} is damaged ({reason}): put back a copy, or remove {path.parent} to compute it anew")


def write_record(folder: Path, record: Record) -> Path:
    """Write a record to `folder/<name of its own folder>`; record.json last, as the mark that it is whole."""
    target = folder / record.path.name
    content = {"spec": record.spec, "values": record.values, "provenance": record.provenance}
    text = json.dumps(content, indent=1, sort_keys=True) + "\n"
    write_files(target, {"arrays.npz": _packed(record.arrays), "record.json": text})
    return target


def read_record(path: Path) -> Record:
    """The record in a folder. Raises RunError where a file of it is missing or damaged."""
    content, arrays = _read(path, "record.json")
    try:
        parts = {name: content[name] for name in ("spec", "values", "provenance")}
    except KeyError as error:
        raise _damaged(path / "record.json", f"no {error}") from None
    return Record(path=path, arrays=arrays, **parts)


def _stored(path: Path, job: Job) -> bool:
    """Whether a record is there. One whose files are lost counts, so that reading it names them."""
    if (path / "record.json").exists():
        return True
    if not (path / MANIFEST).exists() or any((path / unit).exists() for unit in job.units()):
        return False  # not begun, or killed while the record was written: the units are still there
    try:
        return "record.json" in read_manifest(path)
    except DamageError as error:
        raise _damaged(error.path, error.reason) from None


def _unit(job: Job, unit: str, folder: Path, *, device: str | None, wait: bool) -> bool:
    """Compute one unit into `folder/unit`, unless it is there; False when another process is at it and not `wait`."""
    import torch

    folder.mkdir(parents=True, exist_ok=True)
    try:
        with locked(folder / f"{unit}.lock", wait=wait):
            if (folder / "record.json").exists() or (folder / unit / "values.json").exists():
                return True
            threads = torch.get_num_threads()
            torch.set_num_threads(1)  # one process a core beats many threads in each
            try:
                arithmetic, began = _arithmetic(job, device), time.monotonic()
                values, arrays = job.compute(unit, device=device)
            finally:
                torch.set_num_threads(threads)
            values = {"values": values, "seconds": time.monotonic() - began, "arithmetic": arithmetic}
            write_files(folder / unit, {"arrays.npz": _packed(arrays), "values.json": json_bytes(values)})
    except BusyError:
        return False
    return True


def _arithmetic(job: Job, device: str | None) -> str:
    """`float32 on cpu x86_64, rounding 0123456789ab`: what one machine's numbers have in common."""
    import torch

    from matfl.client.training import resolve_precision
    from matfl.runs.engine import device_name, pick_device, repeatable
    from matfl.runs.rounding import rounding

    chosen, spec = pick_device(device), job.spec()
    precision = resolve_precision(recorded_config(spec), chosen) if "config" in spec else torch.float32
    kind = str(precision).removeprefix("torch.")
    with repeatable(chosen):
        rounds = rounding(chosen, precision)
    return f"{kind} on {device_name(chosen)}, rounding {rounds}"


def _finish(job: Job, folder: Path, provenance: Mapping[str, Any]) -> Record:
    """The record of a job whose units are all there; another process may have put it together meanwhile."""
    with locked(folder / "lock"):
        if (folder / "record.json").exists():
            return read_record(folder)
        parts, seconds, arithmetic = [], 0.0, set()
        for unit in job.units():
            stored, arrays = _read(folder / unit, "values.json")
            parts.append((stored["values"], arrays))
            seconds += stored["seconds"]
            arithmetic.add(stored.get("arithmetic", "unknown"))  # older units do not say
        values, arrays = job.combine(parts)
        record = Record(
            path=folder,
            spec=job.spec(),
            values=values,
            arrays=arrays,
            provenance={**provenance, "seconds": round(seconds, 1), "arithmetic": sorted(arithmetic)},
        )
        write_record(folder.parent, record)
        _remove_units(job, folder)
    return record


def _remove_units(job: Job, folder: Path) -> None:
    for unit in job.units():
        shutil.rmtree(folder / unit, ignore_errors=True)
        (folder / f"{unit}.lock").unlink(missing_ok=True)


def _discard(job: Job, folder: Path) -> None:
    """Remove what is stored of a job, once nobody puts it together."""
    if folder.exists():
        with locked(folder / "lock"):
            for name in ("record.json", MANIFEST, "arrays.npz"):
                (folder / name).unlink(missing_ok=True)
            _remove_units(job, folder)


def _progress(results: Iterable[bool], total: int, title: str) -> Iterator[bool]:
    """Pass results on; a bar on a terminal, else a line for every tenth of them."""
    from tqdm import tqdm

    if shows_bars(sys.stderr):
        yield from tqdm(results, total=total, desc=title, file=sys.stderr, leave=False)
        return
    for done, result in enumerate(results, 1):
        if done * 10 // total > (done - 1) * 10 // total:
            print(f"{title}: {done}/{total}", file=sys.stderr, flush=True)
        yield result


def find_record(job: Job, runs_dir: Path, records: Sequence[Path] = ()) -> Record | None:
    """The job's stored record, of `runs_dir` only if its arithmetic is today's; None where there is none."""
    for place in (folder / job_name(job) for folder in (runs_dir, *records)):
        if not _stored(place, job):
            continue
        record = read_record(place)
        old = tuple(differences(record.spec.get("data", {}), job.spec().get("data", {})))
        if not old or place.parent != runs_dir:
            return replace(record, outdated=old)
    return None


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
    wanted = list(wanted)
    found: dict[str, Record] = {}
    missing: dict[str, Job] = {}
    for job in wanted:
        name = job_name(job)
        if name in found or name in missing:
            continue
        if fresh:
            _discard(job, runs_dir / name)
        record = None if fresh else find_record(job, runs_dir, records)
        if record is None:
            missing[name] = job
        else:
            found[name] = record
    if missing:
        for name, job in missing.items():
            if _stored(runs_dir / name, job) and find_record(job, runs_dir) is None:
                _discard(job, runs_dir / name)  # of an older arithmetic: only committed records are drawn as they are
        _compute(missing, runs_dir, jobs=jobs, backend=backend, device=device)
        for name, job in missing.items():
            found[name] = _finish(job, runs_dir / name, provenance or {})
    return [found[job_name(job)] for job in wanted]


def _compute(missing: Mapping[str, Job], runs_dir: Path, *, jobs: int | None, backend: str, device: str | None) -> None:
    """All units of the missing jobs: side by side, then those that must run alone, then those of other processes."""
    from joblib import Parallel, delayed, parallel_config

    tasks = [(job, unit, runs_dir / name) for name, job in missing.items() for unit in job.units()]
    together = [task for task in tasks if not task[0].alone]
    register_backend(backend)
    ending = child_of_this() if backend == "loky" else {}
    with parallel_config(backend=backend, n_jobs=jobs or os.cpu_count() or 1, **ending):
        parallel = Parallel(return_as="generator_unordered" if backend == "loky" else "list")
    calls = (delayed(_unit)(*task, device=device, wait=False) for task in together)
    kinds = ", ".join(sorted({job.kind for job, *_ in together}))
    with worker_killed("what is computed is stored"):
        for _ in _progress(parallel(calls), len(together), f"computing {kinds}"):
            pass
    for job, unit, folder in tasks:
        if job.alone and not (folder / unit / "values.json").exists():
            print(f"measuring {job_name(job)}", file=sys.stderr, flush=True)
        _unit(job, unit, folder, device=device, wait=True)
