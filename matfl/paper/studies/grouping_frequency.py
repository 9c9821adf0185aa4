"""Figure 5: how often each client chose each other one, and whether it chose the partner of its own task."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from matfl.paper.claims import Above, AtLeast, Below, Claim, Part
from matfl.paper.stats import chance_of_choice, estimate, popularity_adjusted
from matfl.paper.studies import diagnostics
from matfl.paper.studies.base import Plan, base_config, regime, report_seeds, setting, sizes
from matfl.tasks.task import DOMAINS

if TYPE_CHECKING:
    import pandas as pd

    from matfl.runs.run import Run

ALMOST_ALWAYS = 0.9
"""Share of rounds that counts as 'almost always'."""

__all__ = ["chance", "claims", "frequencies", "neighbours", "over_rounds", "plan"]


def plan(preset: str, *, seeds: int = 0, tasks: str = "", k: int = 0, settings: str = "") -> Plan:
    """MaT-FL on the preset's task set, once a seed."""
    base = base_config(preset, settings)
    config = setting(base, tasks or base.tasks, k=k, method="matfl")
    return Plan(
        configs=tuple(
            setting(config, config.tasks, k=config.k, seed=seed)
            for seed in report_seeds(seeds or sizes(preset).main_seeds)
        )
    )


def client_pairs(run: Run) -> list[str]:
    """Pair name of each client."""
    return [str(name) for name in run.diagnostics["client_pairs"]]


def frequencies(runs: Sequence[Run]) -> np.ndarray:
    """(N, N) share of rounds in which row's client chose column's, averaged over the seeds."""
    return np.mean([_frequency(run) for run in runs], axis=0)


def chance(runs: Sequence[Run]) -> float:
    """The share of rounds in which a client chosen at random would be among the friends."""
    return chance_of_choice(runs[0].config.k, runs[0].config.num_clients)


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
                    "chance": chance_of_choice(config.k, config.num_clients),
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
    frame, where = over_rounds(runs), regime(runs[0].config)
    result = []
    if frame["correctness"].notna().any():
        by_round = frame.groupby("round")["correctness"].mean()
        odds = float(frame["chance"].iloc[0])
        hits = estimate(frame.groupby("seed")["correctness"].mean())
        extra = estimate([_beyond_popularity(run) for run in runs])
        result.append(
            Claim(
                text="Clients almost always choose the other client of their own task, whatever its popularity.",
                parts=(
                    Part(statistic="share of partners chosen", value=hits, rule=AtLeast(ALMOST_ALWAYS)),
                    Part(
                        statistic="the same minus how often clients of other tasks chose them",
                        value=extra,
                        rule=Above(0),
                    ),
                ),
                note=f"First round {by_round.iloc[0]:.0%}, last round {by_round.iloc[-1]:.0%}; at random it would be "
                f"{odds:.0%}.",
                regime=where,
            )
        )
    abroad = {domain: estimate(found) for domain, found in _segmentation_abroad(runs).items()}
    if abroad:
        table, odds = neighbours(runs), float(frame["chance"].iloc[0])
        result.append(
            Claim(
                text="Segmentation clients choose segmentation clients of the other domain, beyond the popularity that "
                "these have with the other tasks there.",
                parts=tuple(
                    Part(
                        statistic=f"how often those of {DOMAINS[domain].title} chose them minus how often the other "
                        "tasks of their own domain chose the same ones",
                        value=value,
                        rule=Above(0),
                    )
                    for domain, value in abroad.items()
                ),
                note=_choices_abroad(table, list(abroad)) + f" At random it would be {odds:.0%}.",
                regime=where,
            )
        )
    last = frame[frame["round"] == frame["round"].max()]
    own, partner = float(last["self_weight"].mean()), float(last["partner_weight"].mean())
    kept = Part(
        statistic="weight of a client's own update in the last round",
        value=estimate(last.groupby("seed")["self_weight"].mean()),
        rule=Below(0.5),
    )
    result.append(
        Claim(
            text="In the last round the weights combine a client's update with its friends' rather than keep its own.",
            parts=(kept,),
            note=f"Partners of its task got {partner:.0%}, all others {1 - own - partner:.0%}; in round 1 it kept "
            f"{frame.loc[frame['round'] == 1, 'self_weight'].mean():.0%}. A task's model then takes the mean over its "
            "clients.",
            regime=where,
        )
    )
    return result


def _beyond_popularity(run: Run) -> float:
    """`popularity_adjusted` choice of partners."""
    return popularity_adjusted(_frequency(run), diagnostics.same_task(client_pairs(run)))


def _segmentation_abroad(runs: Sequence[Run]) -> dict[str, list[float]]:
    """Domain of the choosers -> how much more often than its other tasks its segmentation clients chose those abroad.

    A value a run. They are compared within their domain: clients of the chosen one's domain share its pictures. Empty
    where only one domain has segmentation.
    """
    domain_N, kind_N = np.array([name.split("/") for name in client_pairs(runs[0])]).T
    both_NN = (kind_N[:, None] == "semseg") & (kind_N[None, :] == "semseg")
    same_NN = domain_N[:, None] == domain_N[None, :]
    found = {
        str(domain): [
            popularity_adjusted(_frequency(run), both_NN & ~same_NN & (domain_N == domain)[:, None], aside_NN=same_NN)
            for run in runs
        ]
        for domain in dict.fromkeys(domain_N)
    }
    return {domain: values for domain, values in found.items() if not np.isnan(values).any()}


def _frequency(run: Run) -> np.ndarray:
    return diagnostics.frequency(run.diagnostics["friends"], run.diagnostics["participants"])


def _choices_abroad(table: pd.DataFrame, domains: Sequence[str]) -> str:
    """How often each domain's segmentation chose the other's, and tasks that are not segmentation there, in words."""
    sentences = []
    for domain in domains:
        there = [column for column in table.columns if not column.startswith(f"{domain}/")]
        seg = [column for column in there if column.endswith("/semseg")]
        rest = [column for column in there if column not in seg]
        row = table.loc[f"{domain}/semseg"]
        sentences.append(
            f"Those of {DOMAINS[domain].title} chose them in {row[seg].mean():.0%} of the rounds, and clients of other "
            f"tasks there in {row[rest].mean():.0%}."
        )
    return " ".join(sentences)
