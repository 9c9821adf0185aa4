"""What the benches share: the race between ways of doing one thing, the machine's description, the record on disk."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

__all__ = ["Speed", "machine", "race", "save", "wait"]


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


def machine(device: torch.device | str = "cpu") -> dict[str, Any]:
    """Processor, cores, versions, the device and the load: nothing that names the computer or its folders."""
    from matfl import __version__

    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    where = torch.device(device)
    return {
        "processor": _processor(),
        "cores": usable,
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name(where) if where.type == "cuda" else where.type,
        "system": platform.system(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "matfl": __version__,
        "load": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
    }


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
