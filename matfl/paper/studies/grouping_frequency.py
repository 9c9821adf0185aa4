"""Figure 5: how often each client chose each other one, and whether it chose the partner of its own task."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from matfl.paper.studies import diagnostics
from matfl.paper.studies.base import Claim, Plan, base_config, setting, sizes, verdict
from matfl.paper.studies.tables import interval

if TYPE_CHECKING:
    import pandas as pd

    from matfl.runs.run import Run

__all__ = ["claims", "frequencies", "neighbours", "over_rounds", "plan"]


def plan(preset: str, *, seeds: int = 0, tasks: str = "", k: int = 0, settings: str = "") -> Plan:
    """MaT-FL on the preset's task set, once a seed."""
    base = base_config(preset, settings)
    config = setting(base, tasks or base.tasks, k=k, method="matfl")
    return Plan(
        configs=tuple(
            setting(config, config.tasks, k=config.k, seed=seed) for seed in range(seeds or sizes(preset).seeds)
        )
    )


def client_pairs(run: Run) -> list[str]:
    """Pair name of each client."""
    return [str(name) for name in run.diagnostics["client_pairs"]]


def frequencies(runs: Sequence[Run]) -> np.ndarray:
    """(N, N) share of rounds in which row's client chose column's, averaged over the seeds."""
    return np.mean(
        [diagnostics.frequency(run.diagnostics["friends"], run.diagnostics["participants"]) for run in runs], axis=0
    )


def over_rounds(runs: Sequence[Run]) -> pd.DataFrame:
    """Per run and round: correctness, the chance of it, and the weight of a client's self, partners and the others."""
    import pandas as pd

    frames = []
    for run in runs:
        stored, config = run.diagnostics, run.config
        same_NN = diagnostics.same_task(client_pairs(run))
        present_RN, weights_RNN = stored["participants"], stored["weights"].astype(float)
        own = diagnostics.self_weight(weights_RNN, present_RN)
        partner = diagnostics.partner_weight(weights_RNN, same_NN, present_RN)
        frames.append(
            pd.DataFrame(
                {
                    "tasks": config.tasks,
                    "clients_per_task": config.clients_per_task,
                    "k": config.k,
                    "voting_layers": config.voting_layers,
                    "seed": config.seed,
                    "round": np.arange(1, len(own) + 1),
                    "correctness": diagnostics.correctness(stored["friends"], same_NN, present_RN),
                    "chance": diagnostics.chance(config.k, config.num_clients),
                    "self_weight": own,
                    "partner_weight": partner,
                    "other_weight": 1 - own - partner,
                }
            )
        )
    return pd.concat(frames, ignore_index=True)


def neighbours(runs: Sequence[Run]) -> pd.DataFrame:
    """How often a client of each pair chose a client of each pair, averaged over clients and seeds (pair x pair).

    The diagonal counts the partner, not the client itself; it is NaN with one client per task.
    """
    import pandas as pd

    names = client_pairs(runs[0])
    chosen_NN = frequencies(runs)
    np.fill_diagonal(chosen_NN, np.nan)
    frame = pd.DataFrame(chosen_NN, index=names, columns=names)
    order = list(dict.fromkeys(names))
    columns = frame.T.groupby(level=0).mean().T
    return columns.groupby(level=0).mean().loc[order, order]


def claims(runs: Sequence[Run]) -> list[Claim]:
    """Section 5.1: clients find their own task, and segmentation finds segmentation across domains."""
    frame = over_rounds(runs)
    result = []
    if frame["correctness"].notna().any():
        by_seed = frame.groupby("seed")["correctness"].mean()
        odds = float(frame["chance"].iloc[0])
        bound = interval(by_seed.to_numpy() - odds)
        held = verdict(bound["low"], bound["high"])
        mean = float(by_seed.mean())
        result.append(
            Claim(
                text="Clients almost always choose the other client of their own task.",
                held=(mean >= 0.9) if held else held,
                evidence=f"Same-task partners were chosen in {mean:.0%} of the cases (first round "
                f"{frame.loc[frame['round'] == 1, 'correctness'].mean():.0%}, last round "
                f"{frame.loc[frame['round'] == frame['round'].max(), 'correctness'].mean():.0%}); "
                f"at random it would be {odds:.0%}. 'Held' asks for 90 % and more than chance.",
            )
        )
    differences = [_segmentation_abroad(neighbours([run])) for run in runs]
    found = [pair for pair in differences if pair is not None]
    if found:
        across, others = np.mean(found, axis=0)
        bound = interval([first - second for first, second in found])
        result.append(
            Claim(
                text="Segmentation clients choose segmentation clients of the other domain more often than "
                "other tasks.",
                held=verdict(bound["low"], bound["high"]),
                evidence=f"Chosen in {across:.0%} of the rounds, against {others:.0%} for clients of other tasks "
                f"({len(found)} seed{'s' if len(found) > 1 else ''}).",
            )
        )
    last = frame[frame["round"] == frame["round"].max()]
    own, partner = float(last["self_weight"].mean()), float(last["partner_weight"].mean())
    result.append(
        Claim(
            text="The weights combine a client's update with its friends' rather than keep its own.",
            held=own < 0.5,
            evidence=f"In the last round a client gave {own:.0%} of the weight to its own update, {partner:.0%} to "
            f"partners of its task and {1 - own - partner:.0%} to all others (round 1: "
            f"{frame.loc[frame['round'] == 1, 'self_weight'].mean():.0%} to itself).",
        )
    )
    return result


def _segmentation_abroad(table: pd.DataFrame) -> tuple[float, float] | None:
    """How often segmentation chose the other domain's segmentation, and other tasks; None with one domain."""
    twins = [
        (row, column)
        for row in table.index
        for column in table.columns
        if row != column and row.endswith("/semseg") and column.endswith("/semseg")
    ]
    if not twins:
        return None
    rest = [column for column in table.columns if not column.endswith("/semseg")]
    rows = sorted({row for row, _ in twins})
    return float(np.mean([table.loc[pair] for pair in twins])), float(table.loc[rows, rest].to_numpy().mean())
