"""`python -m matfl.paper.choose PRESET`: choose each method's server step on development seeds and keep it.

The runs are stored and found again, so a call that was cut off goes on. What is chosen is written to
`matfl/paper/studies/frozen.json`, which belongs in a commit before any report seed is run at these steps.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from matfl.paper.studies import server_step
from matfl.paper.studies.base import BASELINES, SIZES, chosen_methods

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Choose, print what every step gave, and keep the choice; 0."""
    from matfl.runs.run import load_or_run
    from matfl.runs.workspace import Workspace

    parser = argparse.ArgumentParser(prog="python -m matfl.paper.choose", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("preset", choices=sorted(SIZES), help="whose runs")
    parser.add_argument("--methods", default="", help=f"with commas between them (default: {','.join(BASELINES)})")
    parser.add_argument("--tasks", default="", help="task sets with semicolons between them (default: the preset's)")
    parser.add_argument("--runs-dir", help="the run store (default: $MATFL_RUNS, else runs)")
    parser.add_argument("--jobs", type=int, help="runs at a time (default: one a core)")
    options = parser.parse_args(argv)
    place = Workspace(options.runs_dir).without_records()
    choice = server_step.choose(
        options.preset,
        lambda configs: load_or_run(configs, workspace=place, jobs=options.jobs),
        methods=chosen_methods(options.methods, BASELINES),
        tasks=options.tasks,
    )
    for case, tried in choice["delta_m"].items():
        tasks, method = case.split()
        listed = ", ".join(f"{step}: {sum(values) / len(values):+.2f}" for step, values in tried.items())
        print(f"{case}: {choice['steps'][tasks][method]:g}   (mean delta_m by step: {listed})")
    server_step.freeze(options.preset, choice)
    print(f"kept in {server_step.FROZEN}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
