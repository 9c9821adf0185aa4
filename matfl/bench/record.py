"""What the benches share: the race between ways of doing one thing, the machine's description, the record on disk."""

from __future__ import annotations

import json
import os
import platform
import time
from argparse import ArgumentParser
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

__all__ = ["BUSY", "Speed", "add_load_option", "busy", "machine", "quiet", "race", "refuse_load", "save", "wait"]

BUSY = 0.5
"""Load average per usable core from which a machine is too busy for a measurement to mean anything."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Speed:
    """How fast one way was: its best turn, since other load on the machine can only slow a turn down."""

    per_second: float
    """Items by the clock on the wall."""
    per_cpu_second: float
    """Items by the processor time of this process, which other load hardly moves."""


def wait(device: torch.device | str) -> None:
    """Until the device has done what was asked of it."""
    kind = torch.device(device).type
    if kind == "cuda":
        torch.cuda.synchronize(device)
    elif kind == "mps":
        torch.mps.synchronize()


def race(
    ways: Mapping[str, Callable[[], int]], *, seconds: float = 0.5, repeats: int = 5, device: torch.device | str = "cpu"
) -> dict[str, Speed]:
    """Items a second of each way, a function that does some items and returns how many.

    After an untimed call of each, the ways take turns of at least `seconds`, `repeats` times.
    """
    for work in ways.values():
        work()
    best = dict.fromkeys(ways, (0.0, 0.0))
    for _ in range(repeats):
        for name, work in ways.items():
            wait(device)
            done, began, cpu_began = 0, time.perf_counter(), time.process_time()
            while time.perf_counter() - began < seconds or not done:
                done += work()
            wait(device)
            wall, cpu = time.perf_counter() - began, time.process_time() - cpu_began
            best[name] = (max(best[name][0], done / wall), max(best[name][1], done / max(cpu, 1e-9)))
    return {name: Speed(per_second=wall, per_cpu_second=cpu) for name, (wall, cpu) in best.items()}


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def load() -> float | None:
    """Programs that ran or waited to run in the last minute, on average; None where the system does not tell."""
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None


def busy(facts: Mapping[str, Any]) -> bool:
    """Whether a machine, as `machine` describes it, had other work at the time."""
    return facts.get("load") is not None and facts["load"] > BUSY * facts["cores"]


def quiet(patience: float = 180.0, *, every: float = 5.0) -> bool:
    """Wait up to `patience` seconds until the load average says that the machine is free; whether it is.

    The average is over a minute, so work that has just ended takes about as long to be forgotten.
    """
    until = time.monotonic() + patience
    while busy({"load": load(), "cores": cores()}):
        if time.monotonic() >= until:
            return False
        time.sleep(min(every, max(0.0, until - time.monotonic())))
    return True


def add_load_option(parser: ArgumentParser) -> None:
    """`--loaded`: measure although the machine is busy."""
    parser.add_argument(
        "--loaded", action="store_true", help="measure on a busy machine too; the record is marked and says little"
    )


def refuse_load(parser: ArgumentParser, *, loaded: bool, device: str = "cpu") -> None:
    """End with an error where the processor is to be measured while it has other work, unless `loaded` allows that."""
    found = load()
    if not loaded and torch.device(device).type == "cpu" and busy({"load": found, "cores": cores()}):
        parser.error(
            f"the load average is {found:.1f} on {cores()} cores, so this machine is busy and would be measured too "
            f"slow: stop what else runs until it is below {BUSY * cores():g}, or measure anyway with --loaded"
        )


def machine(device: torch.device | str = "cpu") -> dict[str, Any]:
    """Processor, cores, versions, the device, the load and whether it is too high: nothing that names the computer.

    Ask before measuring: afterwards the load is the measurement's own.
    """
    from matfl import __version__

    where = torch.device(device)
    facts = {
        "processor": _processor(),
        "cores": cores(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name(where) if where.type == "cuda" else where.type,
        "system": platform.system(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "matfl": __version__,
        "load": load(),
    }
    return facts | {"busy": where.type == "cpu" and busy(facts)}


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def save(path: str | Path | None, record: Mapping[str, Any]) -> None:
    """Write the record as JSON if a file was asked for. Raises OSError if it cannot be written."""
    if path is not None:
        Path(path).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
