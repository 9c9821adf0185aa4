"""Measurements of this machine as stored results: each runs alone, after everything that is computed side by side."""

from __future__ import annotations

import contextlib
import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matfl.config.run_config import preset as preset_config
from matfl.paper.studies.store import Arrays

__all__ = ["STREAM_BUFFER", "ServerBench", "TrainBench"]

PATIENCE = 60.0
"""Seconds to wait for a busy machine before each measurement, which is marked where the machine stays busy."""
STREAM_BUFFER = 64 << 20
"""Bytes of updates that the streamed step holds at a time."""


@dataclass(frozen=True, kw_only=True)
class ServerBench:
    """The server's step for several numbers of clients, on this machine: `matfl.bench.server`."""

    widths: dict[int, tuple[int, ...]]
    """ResNet18's width -> numbers of clients whose updates lie in memory."""
    naive: int
    """The naive transcription is timed up to this number of clients."""
    streamed: tuple[int, ...]
    """Numbers of clients whose updates are streamed from files, at the first width."""

    kind = "bench-server"
    alone = True

    def spec(self) -> dict[str, Any]:
        """What is measured; the machine is part of the result."""
        return {
            "widths": [[width, list(counts)] for width, counts in self.widths.items()],
            "naive": self.naive,
            "streamed": list(self.streamed),
        }

    def units(self) -> list[str]:
        """One number of clients each."""
        steps = [f"step-{width}-{n}" for width, counts in self.widths.items() for n in counts]
        return steps + [f"stream-{next(iter(self.widths))}-{n}" for n in self.streamed]

    def compute(self, unit: str, *, device: str | None) -> tuple[dict[str, Any], Arrays]:
        """Time one number of clients."""
        from matfl.bench.record import machine, quiet
        from matfl.bench.server import measure, measure_streamed
        from matfl.runs.engine import pick_device

        where = pick_device(device)
        quiet(PATIENCE)
        facts = machine(where)
        way, width, n = unit.split("-")
        if way == "step":
            row = measure(int(n), width=int(width), device=where, repeats=3, naive=int(n) <= self.naive)
        else:
            row = measure_streamed(int(n), width=int(width), device=where, memory=STREAM_BUFFER)
        return {"way": way, "width": int(width), **row, "machine": facts}, {}

    def combine(self, parts: Sequence[tuple[dict[str, Any], Arrays]]) -> tuple[dict[str, Any], Arrays]:
        """All rows."""
        return {"rows": [values for values, _ in parts]}, {}


@dataclass(frozen=True, kw_only=True)
class TrainBench:
    """Training throughput on this machine: `matfl.bench.train`."""

    preset: str
    arguments: tuple[str, ...]

    kind = "bench-train"
    alone = True

    def spec(self) -> dict[str, Any]:
        """What is trained, and the bench's arguments; the machine is part of the result."""
        return {"config": preset_config(self.preset).identity, "arguments": list(self.arguments)}

    def units(self) -> list[str]:
        """All in one."""
        return ["train"]

    def compute(self, unit: str, *, device: str | None) -> tuple[dict[str, Any], Arrays]:
        """Run the bench; values are its JSON record."""
        from matfl.bench.record import quiet
        from matfl.bench.train import main
        from matfl.runs.engine import pick_device

        quiet(PATIENCE)
        with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(sys.stderr):
            file = Path(folder) / "train.json"
            where = str(pick_device(device))
            main(["--preset", self.preset, *self.arguments, "--device", where, "--json", str(file), "--loaded"])
            return json.loads(file.read_text()), {}

    def combine(self, parts: Sequence[tuple[dict[str, Any], Arrays]]) -> tuple[dict[str, Any], Arrays]:
        """The record."""
        return parts[0]
