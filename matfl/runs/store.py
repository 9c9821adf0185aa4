"""One run's folder: what is in it, and how it survives a kill, a full disk and a second process.

A round is stored by four renames, the checkpoint's last. The checkpoint names its round, so it is the point at which
the round counts: records that reach further (a kill between two renames) are cut back to it when the run goes on.
"""

from __future__ import annotations

import csv
import errno
import fcntl
import hashlib
import io
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from matfl.config.identity import SCHEMA
from matfl.config.run_config import RunConfig, from_dict

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
    "read_state",
    "save_round",
    "stored_round",
]

METRIC_COLUMNS = ("round", "domain", "task", "client", "kind", "metric", "value")
"""Columns of metrics.csv, and the order of a row in `Records.metrics`."""

RECORD_FILES = ("config.json", "provenance.json", "metrics.csv", "rounds.jsonl", "diagnostics.npz")
"""What is kept of a run without its weights."""

_CHECKPOINT, _STATE, _LOCK = "checkpoint.safetensors", "state.json", "lock"


class RunError(RuntimeError):
    """A run cannot start, go on or be read; the message says why and what to do."""


class RunBusyError(RunError):
    """Another process holds the run."""


@dataclass(kw_only=True)
class Records:
    """All that a run has measured so far."""

    metrics: list[tuple[Any, ...]] = field(default_factory=list)
    """Rows of metrics.csv (`METRIC_COLUMNS`)."""
    rounds: list[dict[str, Any]] = field(default_factory=list)
    """One JSON-able dict a round, with its 1-based number under 'round'."""
    diagnostics: dict[str, list[np.ndarray]] = field(default_factory=dict)
    """One array a round and name; stacked in diagnostics.npz."""
    static: dict[str, np.ndarray] = field(default_factory=dict)
    """Arrays of diagnostics.npz without a round axis."""

    def cut(self, rounds: int) -> Records:
        """The records of the first `rounds` rounds."""
        return Records(
            metrics=[row for row in self.metrics if row[0] <= rounds],
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
        file = open(path / _LOCK, "a+")  # noqa: SIM115  (closed below, which releases the lock)
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            file.seek(0)
            holder = file.read().strip() or "unknown"
            raise RunBusyError(
                f"{path}: another process (pid {holder}) is training this run; wait for it, or stop it and resume"
            ) from None
        with _disk(path):
            file.truncate(0)
            file.write(f"{os.getpid()}\n")
            file.flush()
        yield
    finally:
        file.close()


@contextmanager
def _disk(path: Path) -> Iterator[None]:
    """A failure to write as a RunError that says what is still there."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or "No space left" in str(error)
        reason = "the disk is full" if full else str(error)
        remedy = "free some space" if full else "correct that"
        raise RunError(
            f"{path}: cannot write: {reason}. The last finished round is kept; {remedy} and resume the run"
        ) from error


def _replace(path: Path, write: Callable[[Path], None]) -> None:
    """Let `write` fill a temporary file, flush it to the disk and rename it to `path`."""
    temporary = path.with_name(path.name + ".tmp")
    with _disk(path):
        try:
            write(temporary)
            with open(temporary, "rb+") as file:
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        directory = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)


def _replace_text(path: Path, text: str) -> None:
    def write(temporary: Path) -> None:
        temporary.write_text(text, encoding="utf-8")

    _replace(path, write)


def _json(value: object) -> str:
    return json.dumps(value, indent=2, sort_keys=False) + "\n"


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
        _replace_text(config_file, _json({"schema": SCHEMA, **config.to_json()}))
    if provenance_file.exists() and stored_round(path, config):
        first = _read_json(provenance_file)
        again = {"from_round": stored_round(path, config), **provenance}
        _replace_text(provenance_file, _json({**first, "resumed": [*first.get("resumed", []), again]}))
    else:
        _replace_text(provenance_file, _json(provenance))


def discard(path: Path) -> None:
    """Remove what a run has stored in folder `path`, so that it starts anew. Other files there stay."""
    for name in (_CHECKPOINT, _STATE, *RECORD_FILES):  # the checkpoint first: without it nothing else counts
        (path / name).unlink(missing_ok=True)


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
    _replace(path / "diagnostics.npz", lambda temporary: _save_npz(temporary, arrays))
    _replace_text(path / "metrics.csv", text.getvalue())
    _replace_text(path / "rounds.jsonl", "".join(json.dumps(row) + "\n" for row in records.rounds))
    # One key only: the library keeps metadata in a hash map, whose order would differ from process to process.
    header = {"matfl": json.dumps({"round": number, "config": config.hash, "sha256": _digest(tensors)})}
    _replace(path / _CHECKPOINT, lambda temporary: save_file(dict(tensors), temporary, metadata=header))
    mark(path, config, number)


def mark(path: Path, config: RunConfig, number: int) -> None:
    """Write state.json, the summary of how far the run is."""
    state = {"round": number, "rounds": config.rounds, "finished": number >= config.rounds, "config": config.hash}
    _replace_text(path / _STATE, _json(state))


def _save_npz(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    with open(path, "wb") as file:  # given a name, numpy would append .npz to it
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]


def _digest(tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensors[name].detach().reshape(-1).contiguous().view(torch.uint8).cpu().numpy().tobytes())
    return digest.hexdigest()


def _damaged(path: Path, reason: object) -> RunError:
    return RunError(
        f"{path} is damaged ({reason}): put back a copy, or remove the run's folder (or use --fresh) to train it anew"
    )


def _header(path: Path) -> dict[str, Any]:
    """What a run's checkpoint says of itself; no weights are read."""
    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads(file.metadata()["matfl"])
        return {"round": int(header["round"]), "config": str(header["config"]), "sha256": str(header["sha256"])}
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise _damaged(path, error) from None


def stored_round(path: Path, config: RunConfig) -> int:
    """Finished rounds of the run in `path`, 0 without a checkpoint. Raises RunError if another config made it."""
    if not (path / _CHECKPOINT).exists():
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
        tensors = load_file(file)
    except (SafetensorError, OSError) as error:
        raise _damaged(file, error) from None
    if _digest(tensors) != _header(file)["sha256"]:
        raise _damaged(file, "its contents do not match their checksum")
    stacked = read_diagnostics(path)
    per_round = [name for name in stacked if name not in STATIC]
    records = Records(
        metrics=[tuple(row) for row in read_metrics(path)],
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
    """Whether folder `path` holds all rounds of the run: by its state, or as a record without weights by its rounds."""
    if (path / _STATE).exists():
        return bool(read_state(path).get("finished")) and all((path / name).exists() for name in RECORD_FILES)
    if (path / _CHECKPOINT).exists() or not all((path / name).exists() for name in RECORD_FILES):
        return False
    return len(read_rounds(path)) == config.rounds


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise _damaged(path, error) from None
    if not isinstance(value, dict):
        raise _damaged(path, "not a JSON object")
    return value


def read_config(path: Path) -> RunConfig:
    """The config in a run's folder. Raises RunError when it is missing, damaged or of another version of matfl."""
    if not (path / "config.json").exists():
        raise RunError(f"{path} holds no run (no config.json): `matfl runs` lists those that there are")
    try:
        return from_dict(_read_json(path / "config.json"), written_by=_writer(path))
    except (TypeError, ValueError) as error:
        raise RunError(f"{path / 'config.json'}: {error}") from None


def _writer(path: Path) -> str:
    """The version of matfl that began the run in `path`, in words."""
    try:
        return f"matfl {json.loads((path / 'provenance.json').read_text(encoding='utf-8'))['matfl']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another version of matfl"


def read_state(path: Path) -> dict[str, Any]:
    """How far the run in `path` is: round, rounds, finished, config; empty before its first round is stored."""
    return _read_json(path / _STATE) if (path / _STATE).exists() else {}


def read_provenance(path: Path) -> dict[str, Any]:
    """What made the run: versions, device, seed, git commit."""
    return _read_json(path / "provenance.json")


def read_metrics(path: Path) -> list[list[Any]]:
    """The rows of metrics.csv with numbers parsed (`METRIC_COLUMNS`)."""
    try:
        with open(path / "metrics.csv", encoding="utf-8", newline="") as file:
            rows = list(csv.reader(file))
        if tuple(rows[0]) != METRIC_COLUMNS:
            raise ValueError(f"columns {rows[0]}")
        return [
            [int(r), domain, task, int(client), kind, metric, float(value)]
            for r, domain, task, client, kind, metric, value in rows[1:]
        ]
    except (OSError, ValueError, IndexError) as error:
        raise _damaged(path / "metrics.csv", error) from None


def read_rounds(path: Path) -> list[dict[str, Any]]:
    """The lines of rounds.jsonl."""
    try:
        return [json.loads(line) for line in (path / "rounds.jsonl").read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError) as error:
        raise _damaged(path / "rounds.jsonl", error) from None


def read_diagnostics(path: Path) -> dict[str, np.ndarray]:
    """The arrays of diagnostics.npz; nothing pickled is read."""
    try:
        with np.load(path / "diagnostics.npz", allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except Exception as error:  # a zip archive fails in many ways: zipfile, zlib, struct, numpy's ValueError
        raise _damaged(path / "diagnostics.npz", error) from None
