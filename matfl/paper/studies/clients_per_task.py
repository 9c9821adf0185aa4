"""Table 2: one, two and more clients for every task."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from matfl.paper.claims import Above, Below, Claim, Part
from matfl.paper.names import STAND_IN
from matfl.paper.stats import holm_adjusted, trend
from matfl.paper.studies.base import (
    BASELINES,
    Plan,
    base_config,
    chosen_methods,
    chosen_numbers,
    five_tasks,
    own_parameters,
    regime,
    report_seeds,
    setting,
    sizes,
)
from matfl.paper.studies.by_round import by_round
from matfl.paper.studies.methods import PAPER
from matfl.paper.studies.paper_measures import paper_measures
from matfl.paper.studies.photographs import levels_jobs
from matfl.paper.studies.server_step import with_own_steps
from matfl.paper.studies.tables import RunLike, delta_table, differences, final, ordered_pairs, summary

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["claims", "deltas", "measures", "papers", "plan", "rounds_apart", "scores", "table"]

PAPERS = (1, 2)
"""The paper's numbers of clients per task."""

OPPONENTS = {"single_task": "single-task FL", "fedavg": "plain many-task FL", "fedprox": "FedProx"}
"""Whom the paper compares MaT-FL with, and their names in a sentence."""


def plan(
    preset: str,
    *,
    seeds: int = 0,
    tasks: str = "",
    methods: str = "",
    clients: str = "",
    k: int = 0,
    settings: str = "",
) -> Plan:
    """The paper's four methods on five tasks with each number of clients per task, at step 1 and at their own."""
    names = chosen_methods(methods, BASELINES)
    names = names if "single_task" in names else ("single_task", *names)
    base, size = base_config(preset, settings, methods=names), sizes(preset)
    own = {name: own_parameters(settings, name) for name in names}
    counts = chosen_numbers(clients, size.clients, name="clients")
    configs = tuple(
        setting(
            base,
            tasks or five_tasks(base),
            clients_per_task=count,
            k=k,
            seed=seed,
            **{"method": name, **own[name]},  # type: ignore[arg-type]
        )
        for count in counts
        for name in names
        for seed in report_seeds(seeds or size.seeds)
    )
    return with_own_steps(Plan(configs=configs, jobs=levels_jobs(preset, seeds=seeds, settings=settings)))


def deltas(runs: Sequence[RunLike], *, reference: Sequence[RunLike] = ()) -> pd.DataFrame:
    """delta_m of each run against single-task FL of the same seed and number of clients, from `reference` if given."""
    return delta_table(final(runs), reference=final(reference) if reference else None)


def rounds_apart(runs: Sequence[RunLike]) -> pd.DataFrame:
    """MaT-FL minus each other of the paper's four by clients per task, round by round (`by_round`)."""
    others = [name for name in BASELINES if name != "matfl"]
    return by_round(runs, [("matfl", name) for name in others], by="clients_per_task").drop(columns="ours")


def scores(runs: Sequence[RunLike]) -> pd.DataFrame:
    """The first pair's main metric (Seg., where there is one) of each run at the last round."""
    frame = final(runs)
    pair = next((name for name in frame["pair"] if name.endswith("/semseg")), frame["pair"].iloc[0])
    return frame[frame["pair"] == pair]


def papers(runs: Sequence[RunLike]) -> pd.DataFrame:
    """The paper's Seg. mIoU of Table 2, if the runs' tasks stand for its own: columns method, clients_per_task, value.

    Empty where they do not.
    """
    import pandas as pd

    theirs = {STAND_IN.get(run.config.tasks, run.config.tasks) for run in runs}
    rows = [
        {"method": method, "clients_per_task": count, "value": values["pascal/semseg"]}
        for (tasks, count), methods in sorted(PAPER.items())
        if tasks in theirs and tasks == "pascal5"
        for method, values in methods.items()
    ]
    return pd.DataFrame(rows, columns=["method", "clients_per_task", "value"])


def table(runs: Sequence[RunLike], *, reference: Sequence[RunLike] = ()) -> pd.DataFrame:
    """Table 2: mean over seeds of every pair's main metric and of delta_m, a row a (clients per task, method).

    `reference` is as in `deltas`.
    """
    frame = final(runs)
    keys = ["clients_per_task", "method"]
    wide = frame.pivot_table(index=keys, columns="pair", values="value", sort=False)
    by_method = summary(deltas(runs, reference=reference), keys, "delta_m").set_index(keys)
    chosen = frame.groupby(keys, sort=False)["k"].first()
    return wide[ordered_pairs(dict.fromkeys(frame["tasks"]))].assign(
        delta_m=by_method["mean"], delta_m_sd=by_method["sd"], k=chosen
    )


def measures(runs: Sequence[RunLike]) -> pd.DataFrame:
    """MaT-FL minus each opponent in the paper's own measures, at its numbers of clients (`paper_measures`)."""
    return paper_measures(runs, [("matfl", against) for against in OPPONENTS], clients=PAPERS)


def claims(runs: Sequence[RunLike]) -> list[Claim]:
    """Section 4.3: MaT-FL is ahead at either scale, and more clients with less data each do worse.

    The paper's comparisons, all opponents at its numbers of clients, are a family for Holm's adjustment; those at other
    numbers are another.
    """
    delta, where = deltas(runs), regime(runs[0].config)
    found = {
        (against, count): value
        for against in OPPONENTS
        for count, value in differences(
            delta, "delta_m", method="matfl", against=against, by=["clients_per_task"]
        ).items()
    }
    families = {
        "at the paper's numbers of clients per task (1 and 2)": lambda count: count in PAPERS,
        "with more clients per task than in the paper": lambda count: count not in PAPERS,
    }
    result = []
    for words, belongs in families.items():
        family = holm_adjusted({key: value for key, value in found.items() if belongs(key[1])})
        for against, title in OPPONENTS.items():
            parts = tuple(
                Part(
                    statistic=f"delta_m of MaT-FL minus that of {title}, {count} a task",
                    value=value,
                    rule=Above(0),
                    digits=1,
                )
                for (other, count), value in family.items()
                if other == against
            )
            if parts:
                result.append(Claim(text=f"MaT-FL beats {title} {words}.", parts=parts, regime=where))
    frame = final(runs)
    segmentation = frame[frame["pair"].str.endswith("/semseg")]
    wide, alone = (
        segmentation[segmentation["method"] == name]
        .pivot_table(index="seed", columns="clients_per_task", values="value")
        .dropna()
        for name in ("matfl", "single_task")
    )
    if wide.shape[1] > 1 and len(wide):
        result.append(
            Claim(
                text="With more clients per task, and so less data and fewer steps each, MaT-FL's segmentation gets "
                "worse.",
                parts=(
                    Part(
                        statistic="trend of Seg. mIoU over the number of clients (monotone contrast)",
                        value=trend(wide.to_numpy()),
                        rule=Below(0),
                        digits=3,
                    ),
                ),
                note="Seg. mIoU "
                + ", ".join(f"{value:.3f} with {count}" for count, value in wide.mean().items())
                + "; single-task FL "
                + ", ".join(f"{value:.3f}" for value in alone.mean())
                + ".",
                regime=where,
            )
        )
    return result
