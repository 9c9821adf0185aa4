"""The studies' numbers as printed tables: the paper's Tables 1 and 2 in its layout, and what belongs to them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from matfl.paper.names import STAND_IN, layer_title, method_title, pair_title, table_title
from matfl.paper.studies import grouping_frequency, update_tsne
from matfl.paper.studies.captions import conditions, recorded, seeds
from matfl.paper.studies.clients_per_task import deltas as scaled_deltas
from matfl.paper.studies.methods import PAPER, deltas
from matfl.paper.studies.methods import beside_paper as table_1_gains
from matfl.paper.studies.methods import table as methods_table
from matfl.paper.studies.tables import RunLike, final, ordered_pairs, summary
from matfl.paper.tables import Column, Table

if TYPE_CHECKING:
    import pandas as pd

    from matfl.paper.studies.store import Record
    from matfl.runs.run import Run

__all__ = [
    "CONSTANT",
    "agreement",
    "beside_paper",
    "bytes_to",
    "choice",
    "choices",
    "clients",
    "compared",
    "contest",
    "costs",
    "dilution",
    "fits",
    "grouping",
    "k_sweep",
    "layers",
    "losses",
    "methods",
    "needs",
    "paper_layout",
    "photographs",
    "rounds",
    "server",
    "steps",
    "transfer",
    "variants",
]

CONSTANT = "constant answer"
"""The row of the best answer that never looks at a picture."""


def _run(runs: Sequence[RunLike]) -> str:
    configs = [run.config for run in runs]
    return f"mean ± standard deviation, {seeds(configs)}. Run: {conditions(configs)}"


def _spread(frame: pd.DataFrame, keys: Sequence[str]) -> pd.DataFrame:
    """Standard deviations over seeds of a `final` frame: rows `keys`, a column a pair."""
    found = summary(frame, [*keys, "pair"], "value")
    return found.pivot_table(index=list(keys), columns="pair", values="sd", sort=False, dropna=False)


def _with_constant(frame: pd.DataFrame, levels: pd.DataFrame | None) -> pd.DataFrame:
    """One more row a group with the constant answers of the pairs that the group has numbers for."""
    import pandas as pd

    if levels is None or levels.empty:
        return frame
    constant = levels.set_index("pair")["chance"]
    names = list(frame.index.names)
    parts = []
    for key, group in frame.groupby(level=names[:-1], sort=False):
        found = {c: constant.get(c, np.nan) if group[c].notna().any() else np.nan for c in frame.columns}
        head = key if isinstance(key, tuple) else (key,)
        row = pd.DataFrame([found], index=pd.MultiIndex.from_tuples([(*head, CONSTANT)], names=names))
        parts += [group, row]
    return pd.concat(parts)


def methods(
    runs: Sequence[RunLike],
    levels: pd.DataFrame | None = None,
    *,
    families: bool = False,
    kind: str = "global",
    reference: Sequence[RunLike] = (),
    about: str = "Every task's main metric after the last round, and delta_m over all tasks",
) -> Table:
    """Every pair's main metric and delta_m by method; `levels` (`constants.levels`) adds a row of constant answers.

    The other arguments are those of `matfl.paper.studies.methods.table`.
    """
    frame = methods_table(runs, families=families, kind=kind, reference=reference)
    spread = _spread(final(runs, kind=kind), ["tasks", "method"]).assign(delta_m=_flat(frame)["delta_m_sd"])
    spread = spread.reindex(_flat(frame).index)
    spread.index = frame.index
    frame = frame.drop(columns="delta_m_sd")
    full = _with_constant(frame, levels)
    return Table(
        frame=full, spread=spread.reindex(full.index), references=(CONSTANT,), caption=f"{about}; {_run(runs)}."
    )


def _flat(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.droplevel("family") if "family" in frame.index.names else frame


def paper_layout(runs: Sequence[RunLike], levels: pd.DataFrame | None = None) -> Table:
    """Table 1 in the paper's layout: Seg. and Sal. of the first domain by data set and method, the paper's beside ours.

    The embedded benchmark stands in for the paper's data (other pictures): compare signs and sizes, not levels.
    """
    frame = final(runs)
    frame = frame[frame["method"].isin(PAPER["pascal5", 2])]
    first = str(frame["pair"].iloc[0]).partition("/")[0]
    shown = [name for name in (f"{first}/semseg", f"{first}/sal") if name in set(frame["pair"])]
    keys = ["tasks", "method"]
    wide = frame.pivot_table(index=keys, columns="pair", values="value", sort=False)[shown]
    by_method = summary(deltas(runs), keys, "delta_m").set_index(keys)
    wide = wide.assign(delta_m=by_method["mean"])
    spread = _spread(frame, keys)[shown].assign(delta_m=by_method["sd"])
    for task in ("semseg", "sal"):
        wide[f"paper_{task}"] = [_papers(t, m, 2).get(f"pascal/{task}", np.nan) for t, m in wide.index]
    full = _with_constant(wide, levels)
    stands = {tasks: STAND_IN.get(tasks, tasks) for tasks in dict.fromkeys(frame["tasks"])}
    named = "; ".join(f"{table_title(a)} beside {table_title(b)}" for a, b in stands.items() if (b, 2) in PAPER)
    about = f"Table 1 of the paper: {named}" if named else "Table 1 of the paper, on other data"
    return Table(
        frame=full, spread=spread.reindex(full.index), references=(CONSTANT,), caption=f"{about}; {_run(runs)}."
    )


def _papers(tasks: str, method: str, clients_per_task: int) -> dict[str, float]:
    return PAPER.get((STAND_IN.get(tasks, tasks), clients_per_task), {}).get(method, {})


def clients(runs: Sequence[RunLike], levels: pd.DataFrame | None = None, *, reference: Sequence[RunLike] = ()) -> Table:
    """Table 2: every pair's main metric and delta_m by clients per task and method, with the paper's Seg. and Sal."""
    frame = final(runs)
    keys = ["clients_per_task", "method"]
    tasks = str(frame["tasks"].iloc[0])
    wide = frame.pivot_table(index=keys, columns="pair", values="value", sort=False)
    wide = wide[ordered_pairs(dict.fromkeys(frame["tasks"]))]
    by_method = summary(scaled_deltas(runs, reference=reference), keys, "delta_m").set_index(keys)
    grouped = frame.groupby(keys, sort=False)["k"].first()
    used = [method in GROUPING for _, method in wide.index]
    wide = wide.assign(delta_m=by_method["mean"], k=grouped.where(np.array(used)))
    for task in ("semseg", "sal"):
        papers = [_papers(tasks, method, int(count)).get(f"pascal/{task}", np.nan) for count, method in wide.index]
        if np.isfinite(papers).any():
            wide[f"paper_{task}"] = papers
    spread = _spread(frame, keys).assign(delta_m=by_method["sd"])
    full = _with_constant(wide, levels)
    about = f"Table 2 of the paper: {table_title(tasks)} by clients per task"
    return Table(
        frame=full, spread=spread.reindex(full.index), references=(CONSTANT,), caption=f"{about}; {_run(runs)}."
    )


GROUPING = ("matfl", "matfl_uniform", "similarity_only")
"""Methods whose K is printed: others know none."""


def k_sweep(runs: Sequence[RunLike], numbers: pd.DataFrame) -> Table:
    """Figure 4's numbers: segmentation and delta_m by method and K; methods that know no K have none."""
    pair = str(numbers["pair"].iloc[0])
    keys = ["method", "k"]
    import pandas as pd

    found = {
        name: summary(numbers, keys, value).set_index(keys) for name, value in ((pair, "value"), ("delta_m", "delta_m"))
    }
    index = next(iter(found.values())).index
    words = [str(k) if method in GROUPING else "–" for method, k in index]
    rows = pd.MultiIndex.from_arrays([index.get_level_values("method"), words], names=keys)
    mean, sd = (
        pd.DataFrame({name: part[column].to_numpy() for name, part in found.items()}, index=rows)
        for column in ("mean", "sd")
    )
    return Table(
        frame=_one_group(mean),
        spread=_one_group(sd),
        caption=f"MaT-FL over K beside methods without one; {_run(runs)}.",
    )


def _one_group(frame: pd.DataFrame) -> pd.DataFrame:
    """Method and K as one row head, so that all rows are in one contest."""
    heads = [method_title(m) + ("" if k == "–" else f", K = {k}") for m, k in frame.index]
    return frame.set_axis(heads, axis=0).rename_axis("method")


# --- single tables of the other notebooks -----------------------------------------------------------------------------


def transfer(records: Sequence[Record], scores: pd.DataFrame, levels: pd.DataFrame) -> Table:
    """Notebook 00: every pair trained centrally alone, with its domain's tasks and with all, beside the constant "
    "answer.

    `scores` is `benchmark.scores`; a row an arrangement, a column a pair, so that units and directions stand in heads.
    """
    import pandas as pd

    titles = {"none": "alone", "domain": "with its domain's tasks", "all": "with all tasks"}
    by_case = summary(scores, ["sharing", "pair"], "value")
    names = list(dict.fromkeys(scores["pair"]))
    mean, sd = (
        by_case.pivot_table(index="sharing", columns="pair", values=column, sort=False, dropna=False)[names]
        for column in ("mean", "sd")
    )
    mean.index = sd.index = pd.Index(
        [titles.get(str(kind), str(kind)) for kind in mean.index], name="trained centrally"
    )
    constant = pd.DataFrame([levels.set_index("pair")["chance"].reindex(names)], index=[CONSTANT])
    full = pd.concat([mean, constant]).rename_axis("trained centrally")
    configs = recorded(records)
    text = f"Main metric by shared backbone, centralised training; mean ± standard deviation, {seeds(configs)}. Run: "
    return Table(
        frame=full, spread=sd.reindex(full.index), references=(CONSTANT,), caption=f"{text}{conditions(configs)}."
    )


def photographs(records: Sequence[Record]) -> Table:
    """Notebook 00: the photographs in numbers."""
    from matfl.paper.studies.photographs import table

    columns = tuple((name, Column(title=f"{name} pictures", digits=0)) for name in ("training", "validation"))
    level = ("constant", Column(title="constant answer", digits=3))
    return Table(
        frame=table(records).set_index("pair"), columns=(*columns, level), caption="Task set photos8 at 64x64, counted."
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


def compared(runs: Sequence[RunLike], frame: pd.DataFrame) -> Table:
    """Notebook 02: differences paired by seed."""
    rows = frame.drop(columns=["method"]).set_index(["tasks", "against"])
    configs = [run.config for run in runs]
    return Table(frame=rows, caption=f"delta_m of MaT-FL minus that of each other method. Run: {conditions(configs)}.")


def beside_paper(runs: Sequence[RunLike]) -> Table:
    """Notebook 02: gains over single-task FL, the paper's and ours."""
    frame = table_1_gains(runs)
    keys = [name for name in ("tasks", "clients_per_task", "method") if name in frame]
    levels = [name for name in frame if name not in keys]
    columns = tuple(
        (name, Column(title=name.removesuffix(" %"), unit="%", digits=1, signed=True))
        if name.endswith("%")
        else (name, Column(title=name, digits=4))
        for name in levels
    )
    return Table(
        frame=frame.set_index(keys) if keys else frame,
        columns=columns,
        caption="Gains over single-task FL, the paper's on its data and ours on ours: compare signs and sizes.",
    )


def grouping(runs: Sequence[Run]) -> Table:
    """Notebook 02: what MaT-FL's grouping did, averaged over rounds."""
    own = [run for run in runs if run.config.method == "matfl"]
    frame = grouping_frequency.over_rounds(own).groupby("tasks", sort=False)[GROUPED].mean()
    return Table(
        frame=frame, caption=f"MaT-FL's friends and weights (shares), mean over rounds, clients and seeds; {_n(own)}."
    )


GROUPED = ["correctness", "chance", "self_weight", "partner_weight", "other_weight"]


def _n(runs: Sequence[RunLike]) -> str:
    return seeds(run.config for run in runs)


def choices(runs: Sequence[Run]) -> Table:
    """Notebook 05: who chose whom."""
    frame = grouping_frequency.neighbours(runs).rename_axis("choosing")
    columns = tuple((str(name), Column(title=pair_title(str(name)))) for name in frame)
    rows = frame.set_axis([pair_title(str(name)) for name in frame.index], axis=0).rename_axis("choosing client")
    about = (
        "Share of rounds in which the row's clients chose the column's; the diagonal is the partner of the same task"
    )
    return Table(
        frame=rows, columns=columns, caption=f"{about}. At random: {grouping_frequency.chance(runs):.2f}. {_n(runs)}."
    )


def rounds(runs: Sequence[Run], frame: pd.DataFrame) -> Table:
    """Notebook 05: friends and weights by round."""
    means = frame.groupby("round")[GROUPED].mean()
    return Table(
        frame=means, caption=f"Friends and weights (shares) by round, mean over clients and seeds; {_n(runs)}."
    )


def layers(runs: Sequence[RunLike], frame: pd.DataFrame) -> Table:
    """Notebook 06: by number of voting layers."""
    columns = ["delta_m", "correctness", "chance", "self_weight", "partner_weight"]
    grouped = frame.groupby("voting_layers")[columns]
    spread = grouped.std(ddof=1)[["delta_m"]]
    return Table(frame=grouped.mean(), spread=spread, caption=f"By the number of voting layers; {_run(runs)}.")


def agreement(runs: Sequence[Run], matrix_LL: np.ndarray) -> Table:
    """Notebook 06: rank correlation of layers."""
    import pandas as pd

    names = [layer_title(str(name)) for name in runs[0].diagnostics["layers"]]
    frame = pd.DataFrame(matrix_LL, index=pd.Index(names, name="layer"), columns=names)
    columns = tuple((name, Column(title=name)) for name in names)
    return Table(
        frame=frame, columns=columns, caption=f"Rank correlation of the layers' opinions of others; {_n(runs)}."
    )


def bytes_to(runs: Sequence[RunLike], frame: pd.DataFrame) -> Table:
    """Notebook 07: gigabytes to each level."""
    columns = tuple(
        (str(name), Column(title=f"to {name}", unit="GB", better=-1, digits=3))
        for name in frame
        if name != "last delta_m"
    )
    last = ("last delta_m", Column(title="Δm in the end", unit="%", better=1, digits=1, signed=True))
    return Table(
        frame=frame, columns=(*columns, last), caption=f"Gigabytes until the seeds' mean reaches a level; {_n(runs)}."
    )


def costs(runs: Sequence[RunLike], frame: pd.DataFrame) -> Table:
    """Notebook 07: what a round costs."""
    return Table(frame=frame, caption=f"A round: megabytes a client, seconds of training and mixing; mean, {_n(runs)}.")


def server(frame: pd.DataFrame) -> Table:
    """Notebook 07: seconds of the server's step."""
    wide = frame.pivot_table(index=["width", "parameters", "clients"], columns="way", values="seconds")
    columns = tuple((str(name), Column(title=str(name), unit="s", digits=4)) for name in wide)
    return Table(frame=wide, columns=columns, caption="One step of the server, best of repeats on one machine.")


def steps(frame: pd.DataFrame, runs: Sequence[RunLike]) -> Table:
    """Notebook 08: `matfl.paper.studies.server_step.table`."""
    about = "delta_m at the server's step 1 and at each method's own; the gain has its 95 % t interval"
    configs = [run.config for run in runs]
    return Table(frame=frame.set_index(["tasks", "method"]), caption=f"{about}. Run: {conditions(configs)}.")


def dilution(runs: Sequence[RunLike], frame: pd.DataFrame) -> Table:
    """Notebook 09: how far a round moves a task's model."""
    grouped = frame.drop(columns=["tasks", "seed"]).groupby(["method", "server_lr"], sort=False)
    # "own" is a component here, not a delta_m.
    columns = tuple((name, Column(title=name.replace("_", " "))) for name in ("own", "others", "norm"))
    return Table(frame=grouped.mean(), columns=columns, caption=f"Steps by method and server step, mean; {_n(runs)}.")


def fits(runs: Sequence[RunLike], frame: pd.DataFrame) -> Table:
    """Notebook 09: the closed form's three numbers."""
    means = frame.drop(columns="seed").groupby(["clients_per_task", "images"]).mean()
    return Table(frame=means, caption=f"The closed form fitted to partners' cosines, mean; {_n(runs)}.")


def needs(runs: Sequence[RunLike], frame: pd.DataFrame) -> Table:
    """Notebook 09: what a method would have to do."""
    return Table(
        frame=frame, caption=f"Where plain averaging and MaT-FL stand, and where a method would have to be; {_n(runs)}."
    )


def choice(frame: pd.DataFrame) -> Table:
    """Notebook 11: what development seeds chose."""
    return Table(frame=frame.set_index("role"), caption="Chosen on development seeds; delta_m is the mean there.")


def contest(runs: Sequence[RunLike], frame: pd.DataFrame) -> Table:
    """Notebook 11: ours minus each other."""
    configs = [run.config for run in runs]
    rows = frame.set_index(["tasks", "against"])
    where = f" Run: {conditions(configs)}." if configs else ""
    return Table(frame=rows, caption=f"delta_m of our best method minus that of each other, paired by seed.{where}")
