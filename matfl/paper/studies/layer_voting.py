"""Figure 6: how each layer votes, how far layers agree, and what their number changes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from matfl.paper.claims import AtLeast, Claim, Part, Within
from matfl.paper.stats import chance_of_same_first, estimate
from matfl.paper.studies import diagnostics
from matfl.paper.studies.base import MARGIN, Plan, base_config, chosen_numbers, regime, report_seeds, setting, sizes
from matfl.paper.studies.by_round import by_round
from matfl.paper.studies.grouping_frequency import client_pairs, over_rounds
from matfl.paper.studies.tables import delta_table, final

if TYPE_CHECKING:
    import pandas as pd

    from matfl.runs.run import Run

SIMILAR = 0.5
"""Rank correlation from which two layers' choices count as similar."""
EARLY = 5
"""Rounds that count as the first ones."""

__all__ = ["agreement", "claims", "default_runs", "numbers", "plan", "rounds_apart", "votes"]


def plan(preset: str, *, seeds: int = 0, tasks: str = "", layers: str = "", k: int = 0, settings: str = "") -> Plan:
    """MaT-FL with every number of voting layers, and single-task FL as the baseline of delta_m, for each seed.

    The preset's own number of layers is always among them: the votes are drawn from it.
    """
    base, size = base_config(preset, settings), sizes(preset)
    counts = sorted({base.voting_layers, *chosen_numbers(layers, size.layers, name="layers")})
    configs = []
    for seed in report_seeds(seeds or size.seeds):
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
    return np.mean([_agreement(run) for run in runs], axis=0)


def _agreement(run: Run) -> np.ndarray:
    return diagnostics.agreement(run.diagnostics["similarity"], run.diagnostics["participants"])


def numbers(runs: Sequence[Run]) -> pd.DataFrame:
    """One row a MaT-FL run: voting_layers, seed, delta_m, and means over rounds of correctness and self weight."""
    delta = delta_table(final(runs))
    own = delta[delta["method"] == "matfl"][["voting_layers", "seed", "k", "delta_m"]]
    rounds = over_rounds([run for run in runs if run.config.method == "matfl"])
    columns = ["correctness", "chance", "self_weight", "partner_weight"]
    means = rounds.groupby(["voting_layers", "seed"], as_index=False)[columns].mean()
    return own.merge(means, on=["voting_layers", "seed"]).sort_values(["voting_layers", "seed"], ignore_index=True)


def rounds_apart(runs: Sequence[Run], layers: int) -> pd.DataFrame:
    """MaT-FL with each other number of voting layers minus with `layers`, round by round (`by_round`)."""
    others = sorted({run.config.voting_layers for run in runs if run.config.method == "matfl"} - {layers})
    found = by_round(runs, [(count, layers) for count in others], column="voting_layers")
    return found.drop(columns="against").rename(columns={"ours": "voting_layers"})


def claims(runs: Sequence[Run], frame: pd.DataFrame) -> list[Claim]:
    """Section 5.2: most layers vote alike (`runs` with votes), so their number matters little (`numbers` frame)."""
    where = regime(runs[0].config)
    result = []
    layers = len(runs[0].diagnostics["layers"])
    if layers > 1:
        pairs_LL = np.triu_indices(layers, 1)
        by_seed_SM = np.array([_agreement(run)[pairs_LL] for run in runs])
        first, clients = np.mean([_same_first_choice(run) for run in runs]), len(client_pairs(runs[0]))
        middle = Part(
            statistic="rank correlation that half of the pairs of layers exceed (median)",
            value=estimate(np.median(by_seed_SM, axis=1)),
            rule=AtLeast(SIMILAR),
        )
        result.append(
            Claim(
                text="A majority of layers make similar choices.",
                parts=(middle,),
                note=f"Correlations reach from {by_seed_SM.mean(0).min():.2f} to {by_seed_SM.mean(0).max():.2f}; two "
                f"layers name the same first choice in {first:.0%} of the cases, at random it would be "
                f"{chance_of_same_first(clients):.0%}.{_course(runs)}",
                regime=where,
            )
        )
    wide = frame.pivot(index="seed", columns="voting_layers", values="delta_m")
    parts = tuple(
        Part(
            statistic=f"delta_m with {n} voting layers minus with {layers}, points",
            value=estimate((wide[n] - wide[layers]).dropna()),
            rule=Within(MARGIN),
        )
        for n in wide
        if n != layers
    )
    if parts:
        result.append(
            Claim(
                text="The method is not sensitive to the number of voting layers.",
                parts=parts,
                note="After the last round, with the last layers each time; which ones, at one number of them, was not "
                "varied.",
                regime=where,
            )
        )
    return result


def _course(runs: Sequence[Run]) -> str:
    """A sentence: the median over pairs of layers in the first rounds and after them; empty where runs are shorter."""
    if min(len(run.diagnostics["similarity"]) for run in runs) <= EARLY:
        return ""
    medians = []
    for chosen in (slice(EARLY), slice(EARLY, None)):
        parts = [[run.diagnostics[name][chosen] for name in ("similarity", "participants")] for run in runs]
        found = [diagnostics.agreement(*part) for part in parts]
        medians.append(np.mean([np.median(each[np.triu_indices(len(each), 1)]) for each in found]))
    return f" The median is {medians[0]:.2f} in the first {EARLY} rounds and {medians[1]:.2f} after them."


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
