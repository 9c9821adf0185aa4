"""Private clients: what noise on updates or on sketches leaves of grouping, and what sketches tell about tasks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from matfl.config.run_config import RunConfig
from matfl.paper.claims import Above, Below, Claim
from matfl.paper.stats import chance_of_choice, estimate, paired
from matfl.paper.studies import diagnostics
from matfl.paper.studies.base import Plan, regime
from matfl.paper.studies.grouping_frequency import client_pairs
from matfl.paper.studies.signals import EPSILONS, frame
from matfl.paper.studies.store import Record
from matfl.paper.studies.trials import gain, trial, trial_seeds
from matfl.server.privacy import noise_for
from matfl.tasks.task import pairs

if TYPE_CHECKING:
    import pandas as pd

    from matfl.runs.run import Run

__all__ = ["chances", "claims", "plan", "release", "secure_sums", "table", "told"]

CLIP = 1.0
"""Norm to which everything that a client changed in a round is shortened."""
EPSILON = 256.0
"""What a client spends in a whole run where updates or sketches are noised: far beyond what anyone calls private."""


def plan(preset: str, *, seeds: int = 0, settings: str = "") -> Plan:
    """MaT-FL, MaT-FL by sketches, and both with noise: on all that leaves a client, or on its sketch."""
    configs = []
    for seed in trial_seeds(preset, seeds):
        plain = trial(preset, settings, seed=seed, method="matfl")
        noise = round(noise_for(EPSILON, plain.rounds), 4)
        configs += [
            plain,
            trial(preset, settings, seed=seed, method="matfl", dp_clip=CLIP, dp_noise=noise),
            trial(preset, settings, seed=seed, method="matfl_sketches"),
            trial(preset, settings, seed=seed, method="matfl_sketches", **{"matfl_sketches.noise": noise}),
        ]
    return Plan(configs=tuple(configs))


def release(config: RunConfig) -> str:
    """What of a run's clients is noised, in words."""
    if config.dp_noise:
        return "all that leaves a client"
    if config.method == "matfl_sketches":
        return "the sketch alone" if config.parameters else "nothing, grouped by sketches"
    return "nothing"


def table(runs: Sequence[Run]) -> pd.DataFrame:
    """A row a run of `plan`: noised, epsilon, seed, delta_m (%) against no noise, partners (share among friends).

    Column bounded is delta_m over the tasks whose score has a bound.
    """
    import pandas as pd

    plain = {run.config.seed: run for run in runs if release(run.config) == "nothing"}
    rows = []
    for run in runs:
        stored, same_NN = run.diagnostics, diagnostics.same_task(client_pairs(run))
        noised = release(run.config)
        correct_R = diagnostics.correctness(stored["friends"], same_NN, stored["participants"])
        rows.append(
            {
                "noised": noised,
                "epsilon": float("inf") if noised.startswith("nothing") else EPSILON,
                "seed": run.config.seed,
                "delta_m": gain(run, plain[run.config.seed]),
                "bounded": gain(run, plain[run.config.seed], _bounded(run.config)),
                "partners": float(np.nanmean(correct_R)) if np.isfinite(correct_R).any() else float("nan"),
            }
        )
    return pd.DataFrame(rows)


def _bounded(config: RunConfig) -> list[str]:
    """The tasks whose score cannot get worse without end: a depth that diverges outweighs everything else."""
    return [pair.name for pair in pairs(config.tasks) if pair.task.name != "depth"]


def told(records: Sequence[Record], what: str, *, by: Sequence[str] = ("length", "epsilon", "seed")) -> pd.DataFrame:
    """'private' or 'tasks' of `signals.frame`, averaged over draws and whatever else is not in `by`.

    Columns: `by` (epsilon is a number), and what was measured.
    """
    found = frame([r for r in records if r.path.name.startswith("signals")], what)
    found["epsilon"] = found["epsilon"].astype(float)
    averaged = {"draw", "round", "seed", "length", "epsilon"} - set(by)
    return found.drop(columns=list(averaged)).groupby(list(by)).mean().reset_index()


def chances(runs: Sequence[Run]) -> dict[str, float]:
    """What chance finds: 'partners' among friends, 'tasks' told."""
    config = runs[0].config
    return {
        "partners": chance_of_choice(config.k, config.num_clients),
        "tasks": 1 / len(dict.fromkeys(client_pairs(runs[0]))),
    }


def secure_sums(runs: Sequence[Run]) -> pd.DataFrame:
    """Secure aggregation on paper, from the weights of MaT-FL's honest runs: a row a quantity.

    The server would learn the sketches and, of every model, one masked sum. A client sends its weighted update once for
    each model that takes some of it; a sum hides its clients only if there are several.
    """
    import pandas as pd

    rows = []
    for run in runs:
        if release(run.config) != "nothing":
            continue
        tasks = np.array(client_pairs(run))
        for weights_NN in run.diagnostics["weights"].astype(float):
            takes_CN = np.stack([weights_NN[tasks == name].mean(0) for name in dict.fromkeys(tasks)]) > 1e-4
            rows.append((takes_CN.sum(0).mean(), takes_CN.sum(1).mean(), takes_CN.sum(1).min()))
    found = pd.DataFrame(rows, columns=["uploads", "clients", "fewest"])
    values = {
        "uploads of a client, mean": found["uploads"].mean(),
        "clients in a sum, mean": found["clients"].mean(),
        "clients in a sum, fewest in any round": found["fewest"].min(),
    }
    return pd.Series(values, name="number").to_frame()


def claims(runs: Sequence[Run], records: Sequence[Record]) -> list[Claim]:
    """What privacy leaves of grouping."""
    signals, tasks = told(records, "private"), told(records, "tasks")
    config = runs[0].config
    chance, names = chances(runs)["partners"], len(dict.fromkeys(client_pairs(runs[0])))
    longest = int(signals["length"].max())
    strongest, weakest = min(EPSILONS), max(e for e in EPSILONS if np.isfinite(e))

    def at(table: pd.DataFrame, column: str, epsilon: float) -> list[float]:
        rows = table[(table["length"] == longest) & (table["epsilon"] == epsilon)]
        return list(rows.sort_values("seed")[column])

    rounds = told(records, "tasks", by=("length", "epsilon", "round"))
    without_noise = rounds[(rounds["length"] == longest) & np.isinf(rounds["epsilon"])]
    found = table(runs)
    noised = found[found["noised"] == "all that leaves a client"].set_index("seed")["bounded"]
    sketch = found[found["noised"] == "the sketch alone"].set_index("seed")["bounded"]
    costs = paired(sketch.to_dict(), noised.to_dict())
    where = f"{regime(config)}; delta 1e-5, sketches of {longest} numbers a layer"
    return [
        Claim.of(
            "On average over the rounds looked at, sketches without noise tell a client's task better than chance.",
            statistic=f"accuracy of the nearest mean (chance {1 / names:.2f})",
            value=estimate(at(tasks, "accuracy", float("inf"))),
            rule=Above(1 / names),
            note="By round: "
            + ", ".join(f"{row['accuracy']:.2f} in {int(row['round'])}" for _, row in without_noise.iterrows())
            + ".",
            regime=where,
        ),
        Claim.of(
            f"At epsilon {strongest:g} for a whole run, sketches tell a task less than twice as often as chance.",
            statistic=f"accuracy of the nearest mean minus chance ({1 / names:.2f})",
            value=estimate(np.array(at(tasks, "accuracy", strongest)) - 1 / names),
            rule=Below(1 / names),
            regime=where,
        ),
        Claim.of(
            f"At epsilon {weakest:g}, sketches find partners more often than chance.",
            statistic=f"share of partners among friends (chance {chance:.2f})",
            value=estimate(at(signals, "partners", weakest)),
            rule=Above(chance),
            note=f"Without noise {np.mean(at(signals, 'partners', float('inf'))):.2f}, at epsilon {strongest:g} "
            f"{np.mean(at(signals, 'partners', strongest)):.2f}.",
            regime=where,
        ),
        Claim.of(
            f"Noise on sketches alone costs less than noise on all that leaves a client (epsilon {EPSILON:g}).",
            statistic="delta_m with noise on the sketch minus with noise on everything, over tasks whose score has a "
            "bound (all but depth), in percent",
            value=estimate(costs),
            rule=Above(0),
            digits=1,
            note=f"With noise on everything they end at {noised.mean():+.0f} %, and depth without bound.",
            regime=where,
        ),
    ]
