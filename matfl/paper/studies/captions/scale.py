"""Captions of many, packed, private and hostile clients (notebook 10)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from matfl.paper.shown import Caption
from matfl.paper.stats import chance_of_choice
from matfl.paper.studies.captions.basis import by_name, conditions, configs_of, run_words

if TYPE_CHECKING:
    import pandas as pd

    from matfl.paper.studies.tables import RunLike

__all__ = ["attack_deltas", "attack_table", "crowds", "packed_quality", "private", "sketches"]


LOOKED_AT = "the first and the last two rounds"
"""Of whose updates there are signals (`many_clients.plan`)."""


def _short(runs: Sequence[RunLike]) -> str:
    return conditions(configs_of(runs))


def sketches(runs: Sequence[RunLike], frame: pd.DataFrame) -> Caption:
    """How well sketches keep what grouping needs."""
    config = runs[0].config
    chance = chance_of_choice(config.k, config.num_clients)
    error = frame.groupby("length")["error"].mean()
    seeds = frame["seed"].nunique()
    return Caption(
        text="Count sketches of real updates over their length d (numbers a layer, logarithmic). Left: error of "
        "cosines (no unit, logarithmic), dots are seeds, the line is theory's. Right: shares that stay as with whole "
        "updates, weights by 1 less half their L1 change, partners as their share among friends; lines are means over "
        "seeds, bands reach from the worst to the best seed; dotted: partners found with whole updates, by chance "
        f"{chance:.2f}. Means over {LOOKED_AT}. n = {seeds} seeds. Run: {_short(runs)}.",
        alt="Line plots; error of cosines "
        + ", ".join(f"{value:.3f} at d = {length}" for length, value in error.items())
        + ".",
    )


def crowds(frame: pd.DataFrame) -> Caption:
    """Time and memory of grouping for very many clients."""
    most = int(frame["clients"].max())
    return Caption(
        text="One server step over N made-up clients with planted tasks, all axes logarithmic. Left: processor "
        "seconds of "
        "its parts, dotted on paper at the slope of the last three sizes. Right: memory in GB; dashed lines are "
        "computed, "
        "the black one is the step's measured peak, the dotted one 1 GB. Measured once on one machine.",
        alt=f"Line plots of time and memory up to {most} clients measured and beyond on paper.",
    )


def packed_quality(runs: Sequence[RunLike], frame: pd.DataFrame) -> Caption:
    """Fewer bytes."""
    means = frame.groupby("packing", sort=False)["delta_m"].mean()
    return Caption(
        text="delta_m against the same run with float32 updates (percent) over the megabytes that a client sends a "
        "round "
        f"(logarithmic); marks are seeds. {run_words(configs_of(runs))}",
        alt="Mean delta_m by packing: " + by_name(means) + " %.",
    )


def private(runs: Sequence[RunLike], frame: pd.DataFrame) -> Caption:
    """Noise on sketches."""
    seeds = frame["seed"].nunique()
    return Caption(
        text="Over the epsilon that a client spends in a whole run (delta = 1e-5), a line a sketch length d. Left: "
        "partners "
        "among friends. Right: share of clients whose task the nearest mean tells from their sketches. Lines are means "
        f"over seeds and {LOOKED_AT}, bands reach from the worst to the best seed; dotted: chance. n = {seeds} "
        f"seeds. Run: {_short(runs)}.",
        alt="Line plots of two shares over epsilon, from strong noise to none.",
    )


def attack_table(runs: Sequence[RunLike], astray: pd.DataFrame) -> Caption:
    """One step under attack."""
    worst = astray.mean().astype(float)
    return Caption(
        text="Attacks (rows) by defences (columns), one step on real updates, means over seeds; grey is logarithmic. "
        "Left: how far tasks without an attacker of their own are led astray, in lengths of each defence's own step by "
        "the honest alone. Right: weight that attackers get (of median and trimmed mean, which have no weights, their "
        f"share of the clients). The step is the last round's. Run: {_short(runs)}.",
        alt="Heat maps; led astray by defence, mean over attacks: " + by_name(worst, "{:.2f}") + ".",
    )


def attack_deltas(runs: Sequence[RunLike], frame: pd.DataFrame) -> Caption:
    """Training under attack."""
    return Caption(
        text="delta_m after training under attack (percent against the honest run of single-task FL), by attack and "
        "defence: small marks are seeds, large ones their means; left of tasks without an attacker of their own, right "
        f"of the others. Beyond 10 axes are logarithmic. {run_words(configs_of(runs))}",
        alt=f"Dot plots of delta_m without an attack and under {(frame['attack'].unique() != 'none').sum()}.",
    )
