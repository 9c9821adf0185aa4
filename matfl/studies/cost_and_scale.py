"""What it costs: bytes to reach a quality, the server's step and its memory over N, training throughput."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from matfl.metrics import delta_m
from matfl.studies.base import Plan, base_config, chosen_methods, setting, sizes
from matfl.studies.tables import scores

if TYPE_CHECKING:
    import pandas as pd

    from matfl.runs import Run

__all__ = ["bytes_to", "plan", "round_costs", "traffic"]


def plan(preset: str, *, seeds: int = 0, methods: str = "", settings: str = "") -> Plan:
    """The methods' runs on the preset's task set, the same as in `02_methods`."""
    base, size = base_config(preset, settings), sizes(preset)
    names = chosen_methods(methods, size.methods or chosen_methods("all", ()))
    names = names if "single_task" in names else ("single_task", *names)
    return Plan(configs=tuple(setting(base, base.tasks, method=name, seed=seed)
                              for name in names for seed in range(seeds or size.seeds)))  # fmt: skip


def traffic(runs: Sequence[Run]) -> pd.DataFrame:
    """Quality over bytes: a row an evaluated round of each run, columns method, seed, round, gigabytes, delta_m.

    Gigabytes count both directions from round 1 on. delta_m is against the *last* round of single-task FL of the same
    seed, so a method that is at 0 has reached what single-task FL reaches in the end.
    """
    import pandas as pd

    frame = scores(runs)
    single = frame[frame["method"] == "single_task"]
    single = single[single["round"] == single["round"].max()]
    goal = {seed: dict(zip(group["pair"], group["value"])) for seed, group in single.groupby("seed")}
    sent = {(run.config.method, run.config.seed): np.cumsum([row["bytes_up"] + row["bytes_down"] for row in run.rounds])
            for run in runs}  # fmt: skip
    rows = []
    for (method, seed, number), group in frame.groupby(["method", "seed", "round"], sort=False):
        rows.append({"method": method, "seed": seed, "round": number,
                     "gigabytes": sent[method, seed][int(number) - 1] / 1e9,  # type: ignore[index, call-overload]
                     "delta_m": delta_m(dict(zip(group["pair"], group["value"])), goal[seed])})  # fmt: skip
    return pd.DataFrame(rows)


def bytes_to(frame: pd.DataFrame, levels: Sequence[float] = (-20, -10, -5)) -> pd.DataFrame:
    """Gigabytes sent until the seeds' mean delta_m first reaches each level (`traffic` frame), NaN where never."""
    import pandas as pd

    rows = {}
    for method, group in frame.groupby("method", sort=False):
        means = group.groupby("round")[["gigabytes", "delta_m"]].mean()
        rows[method] = {
            f"{level:+g} %": means.loc[means["delta_m"] >= level, "gigabytes"].min() for level in levels
        } | {"last delta_m": means["delta_m"].iloc[-1]}
    return pd.DataFrame(rows).T.rename_axis("method")


def round_costs(runs: Sequence[Run]) -> pd.DataFrame:
    """Means over rounds and seeds: megabytes each way per client, seconds of training and mixing per round."""
    import pandas as pd

    rows = []
    for run in runs:
        n = run.config.num_clients
        rows.append({"method": run.config.method,
                     "MB up a client": np.mean([row["bytes_up"] for row in run.rounds]) / n / 1e6,
                     "MB down a client": np.mean([row["bytes_down"] for row in run.rounds]) / n / 1e6,
                     "training s": np.mean([row["seconds"]["train"] for row in run.rounds]),
                     "server s": np.mean([row["seconds"]["mix"] for row in run.rounds])})  # fmt: skip
    return pd.DataFrame(rows).groupby("method", sort=False).mean()
