"""Few and late clients: what grouping does where most are away, updates are old, or a task has one client."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from matfl.config.run_config import RunConfig
from matfl.paper.claims import Above, Below, Claim
from matfl.paper.stats import Estimate, estimate, paired
from matfl.paper.studies.base import Plan, regime
from matfl.paper.studies.signals import frame
from matfl.paper.studies.store import Record
from matfl.paper.studies.trials import gain, trial, trial_seeds

if TYPE_CHECKING:
    import pandas as pd

    from matfl.runs.run import Run

__all__ = ["case", "claims", "plan", "table"]

LATE = 0.5
"""Share of clients that train on the model they were sent the last time."""
PARTICIPATION = 0.1


def plan(preset: str, *, seeds: int = 0, settings: str = "") -> Plan:
    """Single-task FL and MaT-FL: everybody in time, a tenth of the clients a round, half of the clients late."""
    return Plan(
        configs=tuple(
            trial(preset, settings, seed=seed, method=method, **changes)
            for seed in trial_seeds(preset, seeds)
            for method in ("single_task", "matfl")
            for changes in ({}, {"participation": PARTICIPATION}, {"late": LATE})
        )
    )


def case(config: RunConfig) -> str:
    """What is wrong with a run's clients, in words."""
    if config.participation < 1:
        return f"{config.participation:.0%} a round"
    return f"{config.late:.0%} late" if config.late else "all, in time"


def table(runs: Sequence[Run]) -> pd.DataFrame:
    """delta_m (%) against single-task FL with all clients in time, a row a run: case, method, seed, delta_m."""
    import pandas as pd

    full = {r.config.seed: r for r in runs if r.config.method == "single_task" and case(r.config) == "all, in time"}
    rows = [
        {
            "case": case(run.config),
            "method": run.config.method,
            "seed": run.config.seed,
            "delta_m": gain(run, full[run.config.seed]),
        }
        for run in runs
    ]
    return pd.DataFrame(rows)


def claims(runs: Sequence[Run], records: Sequence[Record]) -> list[Claim]:
    """What grouping does with those who are there."""
    found, seen = table(runs), frame(records, "absent")

    def delta(what: str, method: str) -> dict[int, float]:
        rows = found[(found["case"] == what) & (found["method"] == method)]
        return dict(zip(rows["seed"], rows["delta_m"]))

    def of(what: str, column: str) -> Estimate:
        rows = seen[seen["case"] == what]
        return estimate(rows.groupby("seed")[column].mean().sort_index())

    where = regime(runs[0].config)
    return [
        Claim.of(
            "A client whose partners are away gives other tasks more weight.",
            statistic="weight on clients of other tasks: clients that are alone in theirs, a task's first, minus all "
            "with partners",
            value=estimate(
                paired(
                    *(
                        seen[seen["case"] == name].groupby("seed")["others"].mean().to_dict()
                        for name in ("alone in its task", "all, in time")
                    )
                )
            ),
            rule=Above(0),
            digits=3,
            note=f"Its own weight goes from {of('all, in time', 'own').mean:.2f} to "
            f"{of('alone in its task', 'own').mean:.2f}.",
            regime=where,
        ),
        Claim.of(
            "A partner's update of the round before is not recognised as well as one of today.",
            statistic="share of late partners minus that of partners in time among a client's friends",
            value=estimate(
                seen[seen["case"] == "half late"].groupby("seed")[["late", "fresh"]].mean().eval("late - fresh")
            ),
            rule=Below(0),
            regime=where,
        ),
        Claim.of(
            "With a tenth of the clients a round MaT-FL is at most 2 % worse off than single-task FL.",
            statistic="delta_m of MaT-FL minus single-task FL with 10 % participation, in percent",
            value=estimate(
                paired(
                    delta(f"{PARTICIPATION:.0%} a round", "matfl"),
                    delta(f"{PARTICIPATION:.0%} a round", "single_task"),
                )
            ),
            rule=Above(-2.0),
            digits=1,
            note="They end at {:+.1f} and {:+.1f} against single-task FL with all clients in time.".format(
                *(
                    sum(ends.values()) / len(ends)
                    for ends in (delta(f"{PARTICIPATION:.0%} a round", name) for name in ("matfl", "single_task"))
                )
            ),
            regime=where,
        ),
        Claim.of(
            "Half of the clients being a round late costs MaT-FL more than single-task FL.",
            statistic="what lateness costs MaT-FL minus what it costs single-task FL, in percent",
            value=estimate(
                [
                    (delta("all, in time", "matfl")[s] - delta(f"{LATE:.0%} late", "matfl")[s])
                    - (delta("all, in time", "single_task")[s] - delta(f"{LATE:.0%} late", "single_task")[s])
                    for s in sorted(delta("all, in time", "matfl"))
                ]
            ),
            rule=Above(0),
            digits=1,
            regime=where,
        ),
    ]
