"""One run's folder: what is in it, and how it survives a kill, a full disk, damage and a second process.

A round is stored by renames under a manifest of checksums (`matfl.core.manifest`), the checkpoint's last but for the
summary. The checkpoint names its round, so it is the point at which the round counts: records that reach further (a
kill between two renames) are cut back to it when the run goes on. Whatever is read is compared with its checksum.
"""

from __future__ import annotations

import csv
import errno
import io
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from matfl.config.identity import SCHEMA
from matfl.config.run_config import RunConfig, from_dict
from matfl.core import locks
from matfl.core.files import json_bytes
from matfl.core.manifest import (
    MANIFEST,
    DamageError,
    check_file,
    read_checked,
    read_manifest,
    remove_files,
    write_files,
)
from matfl.core.records import MetricRow, RoundRow
from matfl.runs import plugins

__all__ = [
    "METRIC_COLUMNS",
    "RECORD_FILES",
    "Records",
    "RunBusyError",
    "RunError",
    "create",
    "discard",
    "is_finished",
    "load_checkpoint",
    "locked",
    "mark",
    "read_config",
    "read_diagnostics",
    "read_metrics",
    "read_provenance",
    "read_rounds",
    "read_settings",
    "read_state",
    "run_path",
    "save_round",
    "stored_round",
]

METRIC_COLUMNS = MetricRow._fields
"""Columns of metrics.csv."""

RECORD_FILES = ("config.json", "provenance.json", "metrics.csv", "rounds.jsonl", "diagnostics.npz")
"""What is kept of a run without its weights."""

_CHECKPOINT, _STATE, _LOCK = "checkpoint.safetensors", "state.json", "lock"


class RunError(RuntimeError):
    """A run cannot start, go on or be read; the message says why and what to do.

    >>> import matfl
    >>> from pathlib import Path
    >>> matfl.Run(Path("nowhere")).config
    Traceback (most recent call last):
    matfl.runs.store.RunError: nowhere holds no run (no config.json): `matfl runs` lists those that there are
    """


class RunBusyError(RunError):
    """Another process holds the run."""


@dataclass(kw_only=True)
class Records:
    """All that a run has measured so far."""

    metrics: list[MetricRow] = field(default_factory=list)
    """Rows of metrics.csv."""
    rounds: list[RoundRow] = field(default_factory=list)
    """Lines of rounds.jsonl, one a round."""
    diagnostics: dict[str, list[np.ndarray]] = field(default_factory=dict)
    """One array a round and name; stacked in diagnostics.npz."""
    static: dict[str, np.ndarray] = field(default_factory=dict)
    """Arrays of diagnostics.npz without a round axis."""

    def cut(self, rounds: int) -> Records:
        """The records of the first `rounds` rounds."""
        return Records(
            metrics=[row for row in self.metrics if row.round <= rounds],
            rounds=[row for row in self.rounds if row["round"] <= rounds],
            diagnostics={name: arrays[:rounds] for name, arrays in self.diagnostics.items()},
            static=self.static,
        )


@contextmanager
def locked(path: Path, *, wait: bool = False) -> Iterator[None]:
    """Hold the run folder `path` (made if missing) against other processes; the lock ends with its holder.

    Raises RunBusyError when another process holds it, unless `wait`.
    """
    with _disk(path):
        path.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        try:
            stack.enter_context(locks.locked(path / _LOCK, wait=wait))
        except locks.BusyError as error:
            raise RunBusyError(
                f"{path}: another process ({error.holder}) is training this run; wait for it, or stop it and resume"
            ) from None
        except OSError as error:
            raise RunError(
                str(error) if isinstance(error, locks.LockError) else f"{path}: cannot lock: {error}"
            ) from None
        with _disk(path):
            for stale in path.glob(".*.tmp*"):  # of a process that was killed while it wrote
                stale.unlink(missing_ok=True)
        yield


@contextmanager
def _disk(path: Path) -> Iterator[None]:
    """A failure to write as a RunError that says what is still there."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or "No space left" in str(error)
        limited = getattr(error, "errno", None) == errno.EFBIG
        reason = "the disk is full" if full else str(error)
        remedy = "free some space" if full else "raise `ulimit -f`" if limited else "correct that"
        raise RunError(
            f"{path}: cannot write: {reason}. The last finished round is kept; {remedy} and resume the run"
        ) from error


def create(path: Path, config: RunConfig, provenance: Mapping[str, Any]) -> None:
    """Begin the run in folder `path`, or check that the run begun there has the same config.

    A run that goes on gets `provenance` appended to its own under 'resumed', with the round it went on from.
    """
    config_file, provenance_file = path / "config.json", path / "provenance.json"
    if config_file.exists():
        there, wanted = read_config(path).to_json(), config.to_json()
        differing = [name for name, value in wanted.items() if name != "preset" and there[name] != value]
        if differing:
            name = differing[0]
            raise RunError(
                f"{path} holds another run ({name}={there[name]!r}, not {wanted[name]!r}): "
                "its config was changed, or the folder copied; choose another folder"
            )
    else:
        with _disk(path):
            write_files(path, {"config.json": json_bytes({"schema": SCHEMA, **config.to_json()})})
    number = stored_round(path, config)
    if number and number == config.rounds:
        return
    if provenance_file.exists() and number:
        first = read_provenance(path)
        provenance = {**first, "resumed": [*first.get("resumed", []), {"from_round": number, **provenance}]}
    with _disk(path):
        write_files(path, {"provenance.json": json_bytes(provenance)})


def run_path(config: RunConfig, folder: Path) -> Path:
    """The folder of the config's run in a run store: also one that another preset's name labels."""
    named = folder / config.name
    if (named / "config.json").exists():
        return named
    return next((path.parent for path in sorted(folder.glob(f"*-{config.hash}/config.json"))), named)


def discard(path: Path) -> None:
    """Remove what a run has stored in folder `path`, so that it starts anew. Other files there stay."""
    with _disk(path):
        remove_files(path, (_STATE, _CHECKPOINT, *RECORD_FILES))


def save_round(path: Path, config: RunConfig, tensors: Mapping[str, Tensor], records: Records) -> None:
    """Store `records` and then, as the point of no return, the checkpoint of their last round.

    Raises RunError when the disk is full; the state before stays readable.
    """
    number = len(records.rounds)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(METRIC_COLUMNS)
    writer.writerows(records.metrics)
    arrays = {**records.static, **{name: np.stack(items) for name, items in records.diagnostics.items()}}
    # One key only: the library keeps metadata in a hash map, whose order would differ from process to process.
    header = {"matfl": json.dumps({"round": number, "config": config.hash})}
    with _disk(path):
        write_files(
            path,
            {
                "diagnostics.npz": lambda temporary: _save_npz(temporary, arrays),
                "metrics.csv": text.getvalue(),
                "rounds.jsonl": "".join(json.dumps(row) + "\n" for row in records.rounds),
                _CHECKPOINT: lambda temporary: save_file(dict(tensors), temporary, metadata=header),
                _STATE: _state(config, number),
            },
        )


def mark(path: Path, config: RunConfig, number: int) -> None:
    """Write state.json, the summary of how far the run is, where it is missing or says something else."""
    if not (path / _STATE).exists() or read_state(path).get("round") != number:
        with _disk(path):
            write_files(path, {_STATE: _state(config, number)})


def _state(config: RunConfig, number: int) -> bytes:
    return json_bytes(
        {"round": number, "rounds": config.rounds, "finished": number >= config.rounds, "config": config.hash}
    )


def _save_npz(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    with open(path, "wb") as file:  # given a name, numpy would append .npz to it
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]


def _damaged(path: Path, reason: object) -> RunError:
    return RunError(
        f"{path} is damaged ({reason}): put back a copy, or remove the run's folder (or use --fresh) to train it anew"
    )


T = TypeVar("T")


def _read(path: Path, name: str, parse: Callable[[bytes], T]) -> T:
    """The parsed content of a run's file. Raises RunError when it is missing, damaged or not what it should be."""
    try:
        return parse(read_checked(path, name))
    except DamageError as error:
        raise _damaged(error.path, error.reason) from None
    except Exception as error:  # damage that has its checksum: a zip archive alone fails in many ways
        raise _damaged(path / name, error) from None


def _header(path: Path) -> dict[str, Any]:
    """What a run's checkpoint says of itself; no weights are read."""
    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads(file.metadata()["matfl"])
        return {"round": int(header["round"]), "config": str(header["config"])}
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise _damaged(path, error) from None


def stored_round(path: Path, config: RunConfig) -> int:
    """Finished rounds of the run in `path`, 0 before the first. Raises RunError if another config made its checkpoint,
    or if that is lost."""
    if not (path / _CHECKPOINT).exists():
        if read_state(path).get("round"):
            raise _damaged(path / _CHECKPOINT, "missing")
        return 0
    header = _header(path / _CHECKPOINT)
    if header["config"] != config.hash:
        raise RunError(
            f"{path / _CHECKPOINT} was made with another config (hash {header['config']}, not "
            f"{config.hash}): config.json was changed, or the checkpoint copied; restore it or choose "
            "another folder"
        )
    return header["round"]


def load_checkpoint(path: Path, config: RunConfig) -> tuple[dict[str, Tensor], Records]:
    """The last finished round's tensors, and the records up to it.

    Raises RunError for damaged or missing files, and for a checkpoint that another config made.
    """
    number = stored_round(path, config)
    file = path / _CHECKPOINT
    try:
        # Each in memory of its own: products of tensors that begin at odd places, as in a mapped file, round otherwise.
        tensors = {name: tensor.clone() for name, tensor in load_file(check_file(path, _CHECKPOINT)).items()}
    except DamageError as error:
        raise _damaged(error.path, error.reason) from None
    except (SafetensorError, OSError) as error:
        raise _damaged(file, error) from None
    stacked = read_diagnostics(path)
    per_round = [name for name in stacked if name not in STATIC]
    records = Records(
        metrics=read_metrics(path),
        rounds=read_rounds(path),
        diagnostics={name: list(stacked[name]) for name in per_round},
        static={name: stacked[name] for name in stacked if name in STATIC},
    ).cut(number)
    short = [name for name, items in records.diagnostics.items() if len(items) < number]
    if short or len(records.rounds) < number:
        raise _damaged(path / ("diagnostics.npz" if short else "rounds.jsonl"), f"it ends before round {number}")
    return tensors, records


STATIC = ("client_pairs", "layers")
"""Arrays of diagnostics.npz that have no round axis."""


def is_finished(path: Path, config: RunConfig) -> bool:
    """Whether folder `path` holds all rounds of the run: by its state, or where that is missing by its rounds.

    Raises RunError naming the file when the run is finished but has lost one.
    """
    if not (path / MANIFEST).exists():
        return False
    try:
        listed = read_manifest(path)
    except DamageError as error:
        raise _damaged(error.path, error.reason) from None
    if _CHECKPOINT in listed or _STATE in listed:
        if (path / _STATE).exists() and not read_state(path).get("finished"):
            return False
    elif "rounds.jsonl" not in listed:
        return False
    for name in RECORD_FILES:
        if not (path / name).exists():
            raise _damaged(path / name, "missing, though the run is finished")
    return (path / _STATE).exists() or len(read_rounds(path)) == config.rounds


def _json_object(content: bytes) -> dict[str, Any]:
    value = json.loads(content)
    if not isinstance(value, dict):
        raise ValueError("not a JSON object")
    return value


def read_config(path: Path) -> RunConfig:
    """The config in a run's folder. Raises RunError when it is missing, damaged or of another version of matfl."""
    if not (path / "config.json").exists():
        raise RunError(f"{path} holds no run (no config.json): `matfl runs` lists those that there are")
    stored = read_settings(path)
    try:
        return from_dict(stored, written_by=_writer(path))
    except (TypeError, ValueError) as error:
        raise RunError(f"{path / 'config.json'}: {error}{_plugin_hint(path)}") from None


def read_settings(path: Path) -> dict[str, Any]:
    """The stored parameters of a run as they are, whether or not this version and its plug-ins know them all."""
    if not (path / MANIFEST).exists() and (path / "config.json").exists():
        raise RunError(
            f"{path / 'config.json'} has no checksum ({MANIFEST} is missing): {_writer(path)} wrote it before runs had "
            "checksums, or the file was lost; train the run again (--fresh), or use that version"
        )
    return _read(path, "config.json", _json_object)


def _writer(path: Path) -> str:
    """The version of matfl that began the run in `path`, in words."""
    try:
        return f"matfl {json.loads((path / 'provenance.json').read_text(encoding='utf-8'))['matfl']}"
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return "another version of matfl"


def _plugin_hint(path: Path) -> str:
    try:
        absent = plugins.missing(read_provenance(path))
    except RunError:
        return ""
    return f" ({plugins.remedy(absent)})" if absent else ""


def read_state(path: Path) -> dict[str, Any]:
    """How far the run in `path` is: round, rounds, finished, config; empty before its first round is stored."""
    return _read(path, _STATE, _json_object) if (path / _STATE).exists() else {}


def read_provenance(path: Path) -> dict[str, Any]:
    """What made the run: versions, device, seed, git commit."""
    return _read(path, "provenance.json", _json_object)


def read_metrics(path: Path) -> list[MetricRow]:
    """The rows of metrics.csv with numbers parsed."""

    def parse(content: bytes) -> list[MetricRow]:
        rows = list(csv.reader(io.StringIO(content.decode(), newline="")))
        if not rows or tuple(rows[0]) != METRIC_COLUMNS:
            raise ValueError(f"columns {rows[0] if rows else 'missing'}")
        return [
            MetricRow(int(number), domain, task, int(client), cast(Any, kind), metric, float(value))
            for number, domain, task, client, kind, metric, value in rows[1:]
        ]

    return _read(path, "metrics.csv", parse)


def read_rounds(path: Path) -> list[RoundRow]:
    """The lines of rounds.jsonl."""

    def parse(content: bytes) -> list[RoundRow]:
        return [cast(RoundRow, _json_object(line)) for line in content.splitlines()]

    return _read(path, "rounds.jsonl", parse)


def read_diagnostics(path: Path) -> dict[str, np.ndarray]:
    """The arrays of diagnostics.npz; nothing pickled is read."""

    def parse(content: bytes) -> dict[str, np.ndarray]:
        with np.load(io.BytesIO(content), allow_pickle=False) as file:
            return {name: file[name] for name in file.files}

    return _read(path, "diagnostics.npz", parse)
