"""Figure 6: how each layer votes, how far layers agree, and what their number changes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from matfl.paper.studies import diagnostics
from matfl.paper.studies.base import Claim, Plan, base_config, chosen_numbers, setting, sizes
from matfl.paper.studies.grouping_frequency import client_pairs, over_rounds
from matfl.paper.studies.tables import delta_table, final, interval

if TYPE_CHECKING:
    import pandas as pd

    from matfl.runs.run import Run

MARGIN = 1.0
"""Points of delta_m that count as the same."""

__all__ = ["agreement", "claims", "default_runs", "numbers", "plan", "votes"]


def plan(preset: str, *, seeds: int = 0, tasks: str = "", layers: str = "", k: int = 0, settings: str = "") -> Plan:
    """MaT-FL with every number of voting layers, and single-task FL as the baseline of delta_m, for each seed.

    The preset's own number of layers is always among them: the votes are drawn from it.
    """
    base, size = base_config(preset, settings), sizes(preset)
    counts = sorted({base.voting_layers, *chosen_numbers(layers, size.layers, name="layers")})
    configs = []
    for seed in range(seeds or size.layer_seeds):
        configs.append(setting(base, tasks or base.tasks, k=k, method="single_task", seed=seed))
        configs += [
            setting(base, tasks or base.tasks, k=k, method="matfl", voting_layers=count, seed=seed) for count in counts
        ]
    drawn = tuple(c for c in configs if c.method == "matfl" and c.voting_layers == base.voting_layers)
    return Plan(configs=tuple(configs), votes=drawn)


def default_runs(runs: Sequence[Run], preset: str, settings: str = "") -> list[Run]:
    """The MaT-FL runs with the preset's own number of voting layers."""
    layers = base_config(preset, settings).voting_layers
    return [run for run in runs if run.config.method == "matfl" and run.config.voting_layers == layers]


def votes(run: Run) -> np.ndarray:
    """(L, N, N) votes averaged over the run's rounds."""
    return diagnostics.mean_votes(run.diagnostics["votes"], run.diagnostics["participants"])


def agreement(runs: Sequence[Run]) -> np.ndarray:
    """(L, L) rank correlation of the layers' similarities, averaged over clients, rounds and seeds."""
    return np.mean(
        [diagnostics.agreement(run.diagnostics["similarity"], run.diagnostics["participants"]) for run in runs], axis=0
    )


def numbers(runs: Sequence[Run]) -> pd.DataFrame:
    """One row a MaT-FL run: voting_layers, seed, delta_m, and means over rounds of correctness and self weight."""
    delta = delta_table(final(runs))
    own = delta[delta["method"] == "matfl"][["voting_layers", "seed", "k", "delta_m"]]
    rounds = over_rounds([run for run in runs if run.config.method == "matfl"])
    columns = ["correctness", "chance", "self_weight", "partner_weight"]
    means = rounds.groupby(["voting_layers", "seed"], as_index=False)[columns].mean()
    return own.merge(means, on=["voting_layers", "seed"]).sort_values(["voting_layers", "seed"], ignore_index=True)


def claims(runs: Sequence[Run], frame: pd.DataFrame) -> list[Claim]:
    """Section 5.2: most layers vote alike (`runs` with votes), so their number matters little (`numbers` frame)."""
    matrix = agreement(runs)
    off = matrix[~np.eye(len(matrix), dtype=bool)]
    result = []
    if len(off):
        names = client_pairs(runs[0])
        first = np.mean([_same_first_choice(run) for run in runs])
        result.append(
            Claim(
                text="A majority of layers make similar choices.",
                held=bool(np.nanmean(off) > 0.5),
                evidence=f"Rank correlation between two layers is {np.nanmean(off):.2f} on average (lowest "
                f"{np.nanmin(off):.2f}); two layers name the same first choice among the {len(names) - 1} others "
                f"in {first:.0%} of the cases. 'Held' asks for a mean correlation above 0.5.",
            )
        )
    means = frame.groupby("voting_layers")["delta_m"].mean()
    if len(means) > 1:
        default = len(runs[0].diagnostics["layers"])
        wide = frame.pivot(index="seed", columns="voting_layers", values="delta_m")
        bounds = {n: interval((wide[n] - wide[default]).dropna().to_numpy()) for n in wide if n != default}
        known = all(np.isfinite(bound["low"]) for bound in bounds.values())
        within = all(bound["low"] > -MARGIN and bound["high"] < MARGIN for bound in bounds.values())
        beyond = any(bound["low"] > 0 or bound["high"] < 0 for bound in bounds.values())
        result.append(
            Claim(
                text="The method is not sensitive to the choice of layers.",
                held=(True if within else False if beyond else None) if known else None,
                evidence="delta_m "
                + ", ".join(f"{value:+.2f} with {n}" for n, value in means.items())
                + f" layers; differences to {default} layers (95 % intervals): "
                + ", ".join(f"{n}: {bound['low']:+.2f} to {bound['high']:+.2f}" for n, bound in bounds.items())
                + f". 'Held' asks for all of them within {MARGIN:g} point, 'not held' for one that excludes 0.",
            )
        )
    return result


def _same_first_choice(run: Run) -> float:
    """Share of (round, client, pair of layers) in which both layers find the same other client most similar."""
    similarity_RLNN = run.diagnostics["similarity"].astype(float)
    present_RN = run.diagnostics["participants"]
    n = similarity_RLNN.shape[-1]
    barred = np.eye(n, dtype=bool)[None, None] | ~present_RN[:, None, None, :]
    first_RLN = np.where(barred, -np.inf, similarity_RLNN).argmax(-1)
    same = first_RLN[:, :, None] == first_RLN[:, None]
    upper = np.triu_indices(similarity_RLNN.shape[1], 1)
    return float(np.moveaxis(same[:, upper[0], upper[1]], 1, 2)[present_RN].mean())
