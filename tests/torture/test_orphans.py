"""Worker processes end with the process that started them, and what they had stored goes on."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from tiny import contents, tiny

from matfl.runs.run import load_or_run
from matfl.runs.workspace import Workspace

SPREAD = """
import sys
sys.path[:0] = sys.argv[3:]
from tiny import tiny
from matfl.runs.run import load_or_run
from matfl.runs.workspace import Workspace
configs = [tiny(seed=seed, rounds=12) for seed in range(3)]
load_or_run(configs, workspace=Workspace(sys.argv[1], records=(), cache=sys.argv[2]), jobs=2, device="cpu")
"""


def children_of(process: int) -> set[str]:
    """Process numbers of its children, whichever of its threads has started them."""
    tasks = Path(f"/proc/{process}/task").glob("*/children")
    return {child for task in tasks for child in task.read_text().split()}


def test_runs_side_by_side(tmp_path: Path, tally, trials, rng: np.random.Generator) -> None:
    """Kill -9 of the process that spreads runs over two workers."""
    configs = [tiny(seed=seed, rounds=12) for seed in range(3)]

    def place(name: str) -> Workspace:
        return Workspace(tmp_path / name, records=(), cache=tmp_path / "cache")

    whole = load_or_run(configs, workspace=place("whole"), jobs=1, device="cpu")
    places = [str(tmp_path / "cut"), str(tmp_path / "cache"), str(Path(__file__).parent.parent)]
    for _ in trials(2):
        with subprocess.Popen([sys.executable, "-c", SPREAD, *places], stderr=subprocess.DEVNULL) as process:
            until = time.monotonic() + 120
            while not list(tmp_path.glob("cut/*/state.json")) and process.poll() is None and time.monotonic() < until:
                time.sleep(0.02)
            time.sleep(float(rng.uniform(0, 1)))
            children = children_of(process.pid)
            process.kill()
        until = time.monotonic() + 20
        while time.monotonic() < until and any(Path(f"/proc/{child}").exists() for child in children):
            time.sleep(0.1)
        assert not [child for child in children if Path(f"/proc/{child}").exists()]
        tally["workers gone"] += len(children)
    assert tally["workers gone"] > 0
    again = load_or_run(configs, workspace=place("cut"), jobs=1, device="cpu")
    assert [contents(run.path) for run in again] == [contents(run.path) for run in whole]
