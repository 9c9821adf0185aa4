"""Captions of methods against each other (notebooks 02, 03, 04, 07, 08 and 11)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from matfl.paper.names import method_title, metric_title, set_title, task_title
from matfl.paper.shown import Caption
from matfl.paper.studies.captions.basis import ENDS, INTERVAL, by_name, configs_of, run_words

if TYPE_CHECKING:
    import pandas as pd

    from matfl.paper.studies.tables import RunLike

__all__ = [
    "bytes_to_quality",
    "clients_per_task",
    "contest",
    "delta_over_rounds",
    "k_sweep",
    "learning_curves",
    "methods",
    "server",
    "throughput",
]


def methods(runs: Sequence[RunLike], deltas: pd.DataFrame) -> Caption:
    """Table 1 in one number a method."""
    parts = [
        f"{set_title(str(tasks), role=False)}: " + by_name(group.groupby("method", sort=False)["delta_m"].mean()) + " %"
        for tasks, group in deltas.groupby("tasks", sort=False)
    ]
    return Caption(
        text="Mean relative gain over single-task FL of the same seed in percent (delta_m over all tasks), after the "
        f"last round, on the same axis for all task sets. Dots are seeds, larger marks their mean; {INTERVAL}. "
        f"{run_words(configs_of(runs))}",
        alt="Mean delta_m by method. " + "; ".join(parts) + ".",
    )


def learning_curves(runs: Sequence[RunLike], curves: pd.DataFrame) -> Caption:
    """Every task over the rounds."""
    tasks = str(curves["tasks"].iloc[0])
    metrics = ", ".join(dict.fromkeys(f"{task_title(name)} {metric_title(name)}" for name in curves["pair"].unique()))
    chosen = [config for config in configs_of(runs) if config.tasks == tasks]
    return Caption(
        text=f"{set_title(tasks)}: each task's main metric over the rounds ({metrics}), of the dispatched models after "
        f"aggregation. Lines are means over seeds; {ENDS}. {run_words(chosen)}",
        alt=f"Learning curves of {curves['pair'].nunique()} tasks and {curves['method'].nunique()} methods over "
        f"{int(curves['round'].max())} rounds.",
    )


def clients_per_task(runs: Sequence[RunLike], deltas: pd.DataFrame) -> Caption:
    """Table 2."""
    own = deltas[deltas["method"] == "matfl"].groupby("clients_per_task")["delta_m"].mean()
    listed = ", ".join(f"{value:+.1f} % with {count}" for count, value in own.items())
    tasks = str(deltas["tasks"].iloc[0])
    return Caption(
        text=f"{set_title(tasks)}, by the number of clients per task; all clients of a task together see the same "
        "number of "
        "pictures. Left: segmentation of the first domain (mIoU). Middle: delta_m against single-task FL with as many "
        "clients (percent). Right, where the paper has it: its own Table 2, one run, other pictures. Lines join means "
        f"over seeds, dots are seeds; methods stand side by side. {run_words(configs_of(runs))}",
        alt=f"Line plots over clients per task; delta_m of MaT-FL: {listed}.",
    )


def k_sweep(runs: Sequence[RunLike], numbers: pd.DataFrame) -> Caption:
    """Figure 4."""
    own = numbers[numbers["method"] == "matfl"].groupby("k")["delta_m"].mean()
    return Caption(
        text="MaT-FL over K, and the methods that know no K as lines. Left: segmentation of the first domain (mIoU), "
        "means "
        "over seeds, as in the paper's Figure 4. Middle and right: what decides, differences from single-task FL of "
        "the "
        f"same seed (points of mIoU; delta_m over all tasks in percent); {INTERVAL}, the lines' at the right end. "
        f"{run_words(configs_of(runs))}",
        alt="delta_m of MaT-FL: " + ", ".join(f"{value:+.1f} % at K = {k}" for k, value in own.items()) + ".",
    )


def bytes_to_quality(runs: Sequence[RunLike], frame: pd.DataFrame) -> Caption:
    """Communication."""
    missed = frame[frame["gigabytes"].isna()].groupby("level")["method"].nunique()
    listed = ", ".join(f"{count} methods do not reach {level:+g} % in every seed" for level, count in missed.items())
    return Caption(
        text="Gigabytes (both directions, all clients) until delta_m, here against what single-task FL reaches in the "
        "end, first reaches a level; at the server's step 1. Marks are means over seeds, lines reach from the least to "
        "the greatest seed; a hollow arrow at the edge: a seed never gets there. Local training sends nothing. "
        f"{run_words(configs_of(runs))}",
        alt="Dot plot of gigabytes by level and method." + (f" {listed}." if listed else ""),
    )


def server(steps: pd.DataFrame) -> Caption:
    """The server's step over N."""
    own = steps[steps["way"] == "ours"].sort_values("clients")
    narrow = own[own["width"] == own["width"].min()]
    listed = ", ".join(f"{n} clients {1000 * s:.0f} ms" for n, s in zip(narrow["clients"], narrow["seconds"]))
    return Caption(
        text="Left: seconds of one server step over the number of clients N, both axes logarithmic; thin grey lines "
        "through its last point grow with N (updates moved) and with N squared (cosines of all pairs). Floor: what "
        "moving the bytes alone would take. Right: memory; marks are measured (peak of the streamed step), the dotted "
        "line is computed (4 N P bytes for P parameters). One machine, best of repeats, the loop over pairs and memory "
        "once; no spread.",
        alt=f"Time of the server's step: {listed}.",
    )


def throughput(frame: pd.DataFrame) -> Caption:
    """Training speed."""
    listed = ", ".join(
        f"{method_title(way)} {speed:.0f}" for way, speed in zip(frame["way"], frame["images_per_second"])
    )
    return Caption(
        text="Training images a second of whole loops; best of repeats, no spread. Floor: the network alone on one "
        "resident "
        "batch. Hatched: no measurement of the machine, for the reason beside the name.",
        alt=f"Bars of training images a second: {listed}.",
    )


def delta_over_rounds(runs: Sequence[RunLike]) -> Caption:
    """Courses at both steps."""
    return Caption(
        text="delta_m (percent) against single-task FL at step 1 of the same seed and round. Lines are means over "
        "seeds; "
        f"{ENDS}. Filled marks: the server's step 1, hollow: a step of its own. {run_words(configs_of(runs))}",
        alt="Line plots of delta_m over the rounds, a panel a task set, a line a method and server step.",
    )


def contest(runs: Sequence[RunLike], rows: pd.DataFrame) -> Caption:
    """Our best against others."""
    listed = ", ".join(
        f"{method_title(against)} at step {step:.3g} {value:+.1f}"
        for against, step, value in zip(rows["against"], rows["server_lr"], rows["difference"])
    )
    return Caption(
        text=f"{set_title(str(rows['tasks'].iloc[0]))}: delta_m of our best method minus that of each other, paired "
        "by seed "
        f"(points); right of 0 ours is better. Marks are means, {INTERVAL}. {run_words(configs_of(runs))}",
        alt=f"Mean differences: ours minus {listed} points.",
    )
