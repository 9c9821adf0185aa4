"""Captions of who chose whom, how layers voted, and why (notebooks 05, 06, 09 and how_matfl_decides)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from matfl.paper.shown import Caption
from matfl.paper.studies.captions.basis import by_name, conditions, configs_of, letters, marks, run_words
from matfl.paper.studies.grouping_frequency import chance
from matfl.tasks.task import pairs

if TYPE_CHECKING:
    import pandas as pd

    from matfl.config.run_config import RunConfig
    from matfl.paper.studies.tables import RunLike
    from matfl.runs.run import Run

__all__ = [
    "cosine_course",
    "decisions",
    "grouping_graph",
    "helps",
    "layers",
    "rounds",
    "step_components",
    "votes",
    "worked",
]


def grouping_graph(runs: Sequence[Run]) -> Caption:
    """Figure 5."""
    config = runs[0].config
    return Caption(
        text="Whom one client of each task (in the middle) chose: width and number of an edge are the share of rounds "
        "in "
        f"which it chose that client, mean over seeds. K - 1 = {config.k - 1} of {config.num_clients - 1} others are "
        f"chosen a round, so chance is {chance(runs):.2f}; numbers no higher are grey. Bold: the partner of the same "
        f"task. Clients: {marks(pair.name for pair in pairs(config.tasks))}. {run_words(configs_of(runs))}",
        alt="Star graphs, one a task, with the share of rounds in which its client chose each other client.",
    )


def rounds(runs: Sequence[Run], frame: pd.DataFrame) -> Caption:
    """Grouping and weights over the rounds."""
    first, last = (frame[frame["round"] == r]["self_weight"].mean() for r in (1, frame["round"].max()))
    return Caption(
        text="Left: share of cases in which a client's friends hold a partner of its task; line: mean over seeds, "
        "band: from "
        "the least to the greatest seed, dotted: chance. Right: where a client's weights go (shares of 1, mean over "
        f"clients and seeds). {run_words(configs_of(runs))}",
        alt=f"Partners are chosen in {frame['correctness'].mean():.0%} of cases on average, by chance "
        f"{chance(runs):.0%}; own weight goes from {first:.0%} to {last:.0%}.",
    )


def votes(runs: Sequence[RunLike]) -> Caption:
    """Figure 6."""
    config = runs[0].config
    return Caption(
        text="Votes of one client of each task, a row a voting layer (stage.block.convolution, shallow to deep), two "
        "or more "
        f"columns a task's clients; brighter is a higher vote, mean over the rounds of seed {config.seed}. The "
        "client's "
        f"own column, always K = {config.k}, is hatched, so colours end at K - 1. "
        f"Letters: {_letters(config)}. Run: {conditions([config])}.",
        alt=f"Heat maps of votes, one a task: {config.voting_layers} layers by {config.num_clients} clients.",
    )


def layers(runs: Sequence[RunLike], numbers: pd.DataFrame) -> Caption:
    """Agreement of layers, and their number."""
    means = numbers.groupby("voting_layers")["delta_m"].mean()
    return Caption(
        text="Left: rank correlation of two layers' opinions of the other clients, mean over clients, rounds and "
        "seeds. "
        "Middle: delta_m against single-task FL (percent) over the number of voting layers. Right: share of rounds "
        "with the partner among the friends (dotted: at random). Dots are seeds, lines join their means. "
        f"{run_words(configs_of(runs))}",
        alt="delta_m "
        + ", ".join(f"{value:+.1f} % with {count}" for count, value in means.items())
        + " voting layers.",
    )


def step_components(runs: Sequence[RunLike], steps: pd.DataFrame) -> Caption:
    """Dilution."""
    means = steps[steps["server_lr"] == 1].groupby("method", sort=False)["own"].mean()
    return Caption(
        text="Component of a task's step along the mean update of its own clients, averaged over rounds and clients; "
        "1 (line) "
        "is single-task FL's. Coloured marks are seeds, crosses what orthogonal updates of one length would give under "
        f"the same weights. {run_words(configs_of(runs))}",
        alt="Dot plot; component at step 1: " + by_name(means, "{:.2f}") + ".",
    )


def cosine_course(runs: Sequence[RunLike], course: pd.DataFrame) -> Caption:
    """Partners over the rounds."""
    ends = course[course["round"].isin((1, course["round"].max()))]
    means = ends.groupby(["clients_per_task", "images", "round"])[["partners", "others"]].mean()
    words = [
        f"{clients} a task with {images} images: "
        + ", ".join(
            f"{title} {group[name].iloc[0]:.2f} to {group[name].iloc[-1]:.2f}"
            for name, title in (("partners", "same task"), ("others", "other tasks"))
            if group[name].notna().all()
        )
        for (clients, images), group in means.groupby(level=[0, 1])
    ]
    return Caption(
        text="Mean cosine of the whole updates of two clients of one task, and of different tasks, over the rounds (no "
        "unit), by clients a task and pictures a client. Lines are means over seeds, bands reach from the least to the "
        "greatest seed; dotted: the mean of the closed forms fitted to each seed. Fewer images are seen as much "
        f"oftener. {run_words(configs_of(runs))}",
        alt="Line plots of mean cosines, first to last round; " + "; ".join(words) + ".",
    )


def helps(runs: Sequence[RunLike], gain: pd.DataFrame) -> Caption:
    """Who helps whom."""
    values = gain.to_numpy()
    return Caption(
        text="Left: gain (percent of the main metric, positive is better) of the row's task from sharing a backbone "
        "with the "
        "column's alone, trained centrally. Right: share of rounds in which the row's clients chose the column's. "
        "Means "
        f"over seeds; the diagonal is framed. Letters: {letters(map(str, gain.index))}. {run_words(configs_of(runs))}",
        alt=f"Two heat maps of tasks; gains reach from {np.nanmin(values):+.1f} to {np.nanmax(values):+.1f} %.",
    )


def worked(what: str, alt: str) -> Caption:
    """One of the worked example's figures, whose four clients are made up."""
    return Caption(text=f"{what} Made-up numbers of four clients, exact.", alt=alt)


def decisions(run: RunLike, number: int) -> Caption:
    """A real round."""
    config = run.config
    return Caption(
        text=f"Round {number} of one run, rows choose and columns are chosen, two or more clients a task. Left: votes "
        "of all "
        "layers added, friends framed. Right: weights, a row's sum is 1. "
        f"Letters: {_letters(config)}. K = {config.k}, seed {config.seed}. Run: {conditions([config])}.",
        alt=f"Heat maps of votes and weights between {config.num_clients} clients.",
    )


def _letters(config: RunConfig) -> str:
    return letters(pair.name for pair in pairs(config.tasks))
