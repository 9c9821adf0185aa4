"""Tables of centralised training, updates, grouping and weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from matfl.paper.names import layer_title, pair_title
from matfl.paper.studies import grouping_frequency, update_tsne
from matfl.paper.studies.captions.basis import recorded, run_words
from matfl.paper.studies.printed.basis import CONSTANT, count, described
from matfl.paper.studies.tables import RunLike, summary
from matfl.paper.tables import Column, Table

if TYPE_CHECKING:
    import pandas as pd

    from matfl.paper.studies.store import Record
    from matfl.runs.run import Run

__all__ = [
    "GROUPED",
    "SHARED",
    "STATISTICS",
    "agreement",
    "choices",
    "courses",
    "dilution",
    "fits",
    "grouping",
    "layers",
    "losses",
    "mean_gains",
    "needs",
    "photographs",
    "rounds",
    "transfer",
    "variants",
]


def transfer(records: Sequence[Record], scores: pd.DataFrame, levels: pd.DataFrame) -> Table:
    """Notebook 00: every pair trained centrally alone, with its domain's tasks and with all, beside the constant "
    "answer.

    `scores` is `benchmark.scores`; a row an arrangement, a column a pair, so that units and directions stand in heads.
    """
    import pandas as pd

    by_case = summary(scores, ["sharing", "pair"], "value")
    names = list(dict.fromkeys(scores["pair"]))
    mean, sd = (
        by_case.pivot_table(index="sharing", columns="pair", values=column, sort=False, dropna=False)[names]
        for column in ("mean", "sd")
    )
    mean.index = sd.index = pd.Index(
        [SHARED.get(str(kind), str(kind)) for kind in mean.index], name="trained centrally"
    )
    constant = pd.DataFrame([levels.set_index("pair")["chance"].reindex(names)], index=[CONSTANT])
    full = pd.concat([mean, constant]).rename_axis("trained centrally")
    configs = recorded(records)
    return Table(
        frame=full,
        spread=sd.reindex(full.index),
        references=(CONSTANT,),
        caption="Main metric by shared backbone, centralised training; mean ± standard deviation, "
        f"{run_words(configs, central=True)}",
    )


SHARED = {"none": "alone", "domain": "with its domain's tasks", "all": "with all tasks"}
"""Entries of `benchmark.SHARING` in words."""


def mean_gains(frame: pd.DataFrame) -> Table:
    """Notebook 00: `benchmark.mean_gains`."""
    rows = frame.assign(sharing=frame["sharing"].map(SHARED)).rename(columns={"sharing": "trained centrally"})
    percent = {"mean": "gain", "low": "95 % from", "high": "to"}
    return Table(
        frame=rows.set_index(["trained centrally", "over"]),
        columns=tuple((n, Column(title=t, unit="%", digits=1, signed=True)) for n, t in percent.items()),
        caption="Mean gain over training alone, with its 95 % t interval over seeds. The last rows of each leave out "
        "the task that gains most and the one that gains least, as found here, to show how much hangs on them.",
    )


def photographs(records: Sequence[Record]) -> Table:
    """Notebook 00: the photographs in numbers."""
    from matfl.paper.studies.photographs import table

    columns = tuple((name, Column(title=f"{name} pictures", digits=0)) for name in ("training", "validation"))
    level = ("constant", Column(title="constant answer", digits=3))
    sizes = " and ".join(
        sorted({f"{size}x{size}" for record in records if (size := record.spec["config"].get("size"))})
    )
    return Table(
        frame=table(records).set_index("pair"),
        columns=(*columns, level),
        caption=f"Task set photos8, counted; constant answers are made at {sizes} and measured at native size.",
    )


def losses(records: Sequence[Record]) -> Table:
    """Notebook 01: did the models learn?"""
    frame = update_tsne.losses(records)
    columns = tuple((str(name), Column(title=str(name).replace("_", " "), digits=3)) for name in frame)
    return Table(
        frame=frame, columns=columns, caption="Mean training loss over the epochs, mean over each task's models."
    )


def variants(records: Sequence[Record], layers: str) -> Table:
    """Notebook 01: what the picture suggests, as numbers, a column a start of heads and backbone."""
    frame = update_tsne.table(records, layers)
    frame = frame.assign(variant=[update_tsne.in_words(str(title)) for title in frame["variant"]])
    flat = frame.set_index("variant").T.rename(index=lambda name: STATISTICS.get(name, name.replace("_", " ")))
    digits = tuple((str(name), Column(title=str(name))) for name in flat)
    return Table(frame=flat.rename_axis("statistic"), columns=digits, caption="Updates by start of heads and backbone.")


STATISTICS = {
    "silhouette_pair": "silhouette by task",
    "silhouette_type": "silhouette by task type",
    "silhouette_domain": "silhouette by domain",
    "nearest_same_task": "nearest update of the same task",
    "nearest_abroad_same_type": "nearest in the other domain of the same type",
    "same_task": "cosine, same task",
    "same_type_other_domain": "cosine, same type in the other domain",
    "other_type_same_domain": "cosine, other type in the same domain",
    "other_type_other_domain": "cosine, other type in the other domain",
    "cos_start": "cosine with the starting weights",
}
"""The columns of `update_tsne.table` in words."""


def grouping(runs: Sequence[Run]) -> Table:
    """Notebook 02: what MaT-FL's grouping did, averaged over rounds."""
    own = [run for run in runs if run.config.method == "matfl"]
    frame = grouping_frequency.over_rounds(own).groupby("tasks", sort=False)[GROUPED].mean()
    return Table(
        frame=frame,
        caption=f"MaT-FL's friends and weights (shares), mean over rounds, clients and seeds; {count(own)}.",
    )


GROUPED = ["correctness", "chance", "self_weight", "partner_weight", "other_weight"]


def choices(runs: Sequence[Run]) -> Table:
    """Notebook 05: who chose whom."""
    frame = grouping_frequency.neighbours(runs).rename_axis("choosing")
    columns = tuple((str(name), Column(title=pair_title(str(name)))) for name in frame)
    rows = frame.set_axis([pair_title(str(name)) for name in frame.index], axis=0).rename_axis("choosing client")
    about = (
        "Share of rounds in which the row's clients chose the column's; the diagonal is the partner of the same task"
    )
    return Table(
        frame=rows,
        columns=columns,
        caption=f"{about}. At random: {grouping_frequency.chance(runs):.2f}. {count(runs)}.",
    )


def rounds(runs: Sequence[Run], frame: pd.DataFrame) -> Table:
    """Notebook 05: friends and weights by round."""
    means = frame.groupby("round")[GROUPED].mean()
    return Table(
        frame=means, caption=f"Friends and weights (shares) by round, mean over clients and seeds; {count(runs)}."
    )


def layers(runs: Sequence[RunLike], frame: pd.DataFrame) -> Table:
    """Notebook 06: by number of voting layers."""
    columns = ["delta_m", "correctness", "chance", "self_weight", "partner_weight"]
    grouped = frame.groupby("voting_layers")[columns]
    spread = grouped.std(ddof=1)[["delta_m"]]
    return Table(
        frame=grouped.mean(),
        spread=spread,
        caption="By the number of voting layers, the last ones of the backbone; shares are means over rounds and "
        f"clients. Δm: {described(runs)}.",
    )


def agreement(runs: Sequence[Run], matrix_LL: np.ndarray) -> Table:
    """Notebook 06: rank correlation of layers."""
    import pandas as pd

    names = [layer_title(str(name)) for name in runs[0].diagnostics["layers"]]
    frame = pd.DataFrame(matrix_LL, index=pd.Index(names, name="layer"), columns=names)
    columns = tuple((name, Column(title=name)) for name in names)
    return Table(
        frame=frame, columns=columns, caption=f"Rank correlation of the layers' opinions of others; {count(runs)}."
    )


def dilution(runs: Sequence[RunLike], frame: pd.DataFrame) -> Table:
    """Notebook 09: how far a round moves a task's model."""
    grouped = frame.drop(columns=["tasks", "seed"]).groupby(["method", "server_lr"], sort=False)
    # "own" is a component here, not a delta_m.
    columns = tuple((name, Column(title=name.replace("_", " "))) for name in ("own", "others", "norm"))
    return Table(
        frame=grouped.mean(), columns=columns, caption=f"Steps by method and server step, mean; {count(runs)}."
    )


def fits(runs: Sequence[RunLike], frame: pd.DataFrame) -> Table:
    """Notebook 09: the closed form's three numbers."""
    means = frame.drop(columns="seed").groupby(["clients_per_task", "images"]).mean()
    columns = tuple((name, Column(title=name, digits=3)) for name in ("decay", "limit"))
    return Table(
        frame=means, columns=columns, caption=f"The closed form fitted to partners' cosines, mean; {count(runs)}."
    )


def courses(runs: Sequence[RunLike], frame: pd.DataFrame) -> Table:
    """Notebook 09: partners' and others' cosines at first and at last, by method and step."""
    titles = {"partners": "same task", "others": "other tasks", "chosen": "partner chosen"}
    columns = tuple(
        (f"{name}_{when}", Column(title=f"{title}, {when} sixth", digits=3))
        for name, title in titles.items()
        for when in ("first", "last")
    )
    never = "; clients of local training are never averaged" if "local" in set(frame["method"]) else ""
    return Table(
        frame=frame.drop(columns="seed").groupby(["method", "server_lr"], sort=False).mean(),
        columns=columns,
        caption="Mean cosine of two clients' updates in the first and the last sixth of the rounds, by method and "
        f"server step, and how often MaT-FL's clients choose their partners{never}; {count(runs)}.",
    )


def needs(runs: Sequence[RunLike], frame: pd.DataFrame) -> Table:
    """Notebook 09: what a method would have to do."""
    titles = {"plain": "plain, step 1", "matfl": "MaT-FL, step 1", "alone": "Single-Task FL, own step"}
    return Table(
        frame=frame,
        columns=tuple((name, Column(title=title)) for name, title in titles.items()),
        caption="Where plain averaging and MaT-FL stand, and single-task FL at its own step, which a method that "
        f"shares would have to exceed; {count(runs)}.",
    )


def shared(runs: Sequence[RunLike], frame: pd.DataFrame) -> Table:
    """Notebook 09: what one backbone for all tasks gives each of them, trained centrally."""
    shown = frame.set_index("pair")[["mean", "low", "high", "n"]]
    titles = (("mean", "gain"), ("low", "95 % from"), ("high", "to"))
    columns = (
        *((name, Column(title=title, unit="%", digits=1, signed=True)) for name, title in titles),
        ("n", Column(title="seeds", digits=0)),
    )
    return Table(
        frame=shown,
        columns=columns,
        caption="Gain from one backbone for all tasks over one's own, trained centrally, with 95 % t intervals that "
        f"are not corrected for the number of tasks; {count(runs)}.",
    )
