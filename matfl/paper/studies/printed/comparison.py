"""The paper's Tables 1 and 2 in its layout, Figure 4's numbers, and differences between methods."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from matfl.paper.names import STAND_IN, method_title, pair_title, table_title
from matfl.paper.studies.captions import conditions
from matfl.paper.studies.clients_per_task import deltas as scaled_deltas
from matfl.paper.studies.methods import PAPER, deltas, reported
from matfl.paper.studies.methods import beside_paper as table_1_gains
from matfl.paper.studies.methods import table as methods_table
from matfl.paper.studies.printed.basis import CONSTANT, count, described
from matfl.paper.studies.tables import RunLike, final, ordered_pairs, summary
from matfl.paper.tables import Column, Table

if TYPE_CHECKING:
    import pandas as pd


__all__ = [
    "GROUPING",
    "beside_paper",
    "by_task",
    "bytes_to",
    "choice",
    "clients",
    "compared",
    "contest",
    "costs",
    "gains",
    "k_by_task",
    "k_sweep",
    "methods",
    "one_by_one",
    "over_rounds",
    "paper_layout",
    "paper_measures",
    "readings",
    "server",
    "steps",
    "tried",
]


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
        frame=full,
        spread=spread.reindex(full.index),
        references=(CONSTANT,),
        caption=f"{about}; {described(runs)}.{_where_seeds_differ(frame)}",
    )


def _where_seeds_differ(frame: pd.DataFrame) -> str:
    """A caption's last sentence where rows of one task set have unlike numbers of seeds."""
    uneven = frame.groupby("tasks")["seeds"].nunique().max() > 1
    return " Rows of fewer seeds are means over fewer pictures, and never bold." if uneven else ""


def one_by_one(found: Mapping[str, tuple[Sequence[RunLike], str]], levels: pd.DataFrame | None = None) -> Table:
    """Notebook 02: `matfl.paper.studies.methods.one_by_one`, a group of rows a difference; constants in the first."""
    import pandas as pd

    frames: dict[str, pd.DataFrame] = {}
    spreads: dict[str, pd.DataFrame | None] = {}
    for words, (runs, kind) in found.items():
        table = methods(runs, None if frames else levels, kind=kind)
        means = summary(deltas(runs, kind=kind), ["tasks", "method"], "delta_m").set_index(["tasks", "method"])
        bounds = means.loc[means["sd"] > 0, ["low", "high"]].reindex(table.frame.index)  # the baseline has none
        frames[words] = table.frame.drop(columns="seeds").join(bounds)
        spreads[words] = table.spread
    names = ["as in the paper", "tasks", "method"]
    return Table(
        frame=pd.concat(frames, names=names).droplevel("tasks"),
        spread=pd.concat(spreads, names=names).droplevel("tasks"),
        references=(CONSTANT,),
        caption="The differences of the paper's protocol one by one, after aggregation where not said otherwise, and "
        "delta_m against single-task FL of the same rows with its 95 % interval; "
        f"{described([run for runs, _ in found.values() for run in runs])}.",
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
        frame=full, spread=spread.reindex(full.index), references=(CONSTANT,), caption=f"{about}; {described(runs)}."
    )


def _papers(tasks: str, method: str, clients_per_task: int) -> dict[str, float]:
    return reported(tasks, clients_per_task).get(method, {})


def clients(
    runs: Sequence[RunLike],
    levels: pd.DataFrame | None = None,
    *,
    reference: Sequence[RunLike] = (),
    about: str = "delta_m is against single-task FL with as many clients",
) -> Table:
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
    title = f"Table 2 of the paper: {table_title(tasks)} by clients per task; {about}"
    return Table(
        frame=full, spread=spread.reindex(full.index), references=(CONSTANT,), caption=f"{title}; {described(runs)}."
    )


GROUPING = ("matfl", "matfl_uniform", "similarity_only")
"""Methods whose K is printed: others know none."""


def k_sweep(
    runs: Sequence[RunLike],
    numbers: pd.DataFrame,
    levels: pd.DataFrame | None = None,
    *,
    about: str = "MaT-FL over K beside methods without one",
) -> Table:
    """Figure 4's numbers: segmentation and delta_m by method and K; methods that know no K have none.

    `levels` (`constants.levels`) adds the constant answer.
    """
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
    frame = _one_group(mean)
    if levels is not None and pair in set(levels["pair"]):
        frame.loc[CONSTANT, pair] = levels.set_index("pair").loc[pair, "chance"]
    return Table(
        frame=frame,
        spread=_one_group(sd).reindex(frame.index),
        references=(CONSTANT,),
        caption=f"{about}; {described(runs)}.",
    )


def _one_group(frame: pd.DataFrame) -> pd.DataFrame:
    """Method and K as one row head, so that all rows are in one contest."""
    heads = [method_title(m) + ("" if k == "–" else f", K = {k}") for m, k in frame.index]
    return frame.set_axis(heads, axis=0).rename_axis("method")


def compared(runs: Sequence[RunLike], frame: pd.DataFrame) -> Table:
    """Notebook 02: differences paired by seed."""
    rows = frame.drop(columns=["method"]).set_index(["tasks", "against"])
    configs = [run.config for run in runs]
    return Table(
        frame=rows,
        caption="delta_m of MaT-FL minus that of each other method; p by Holm over the paper's own comparisons of a "
        f"task set, and apart from these over all others. Run: {conditions(configs)}.",
    )


def _differences(unit: str, **titles: str) -> tuple[tuple[str, Column], ...]:
    """Columns of signed differences with one digit, by name."""
    return tuple((name, Column(title=title, unit=unit, digits=1, signed=True)) for name, title in titles.items())


_IN_TASK = _differences("%", gain="in this task", low="95 % from", high="to")
_OVER_OTHERS = _differences("points", without="over the others", without_low="95 % from ", without_high="to ")


def by_task(frame: pd.DataFrame, about: str) -> Table:
    """Notebooks 02 and 11: `matfl.paper.studies.by_task`; `about` says whose difference it is."""
    steps = frame["server_lr"] != 1
    named = [f"{method_title(m)}, step {s:.3g}" for m, s in zip(frame["against"], frame["server_lr"])]
    rows = frame.assign(against=named if steps.any() else frame["against"]).drop(columns="server_lr")
    return Table(
        frame=rows.set_index(["tasks", "against", "pair"]),
        columns=(
            *_IN_TASK,
            ("share", Column(title="its share", unit="%", digits=0)),
            *_OVER_OTHERS,
        ),
        caption=f"{about}, task by task: the difference of gains over single-task FL, its share of the whole "
        "difference (where that is told from 0), and delta_m's difference over the other tasks, p by Holm over the "
        "opponents.",
    )


def gains(runs: Sequence[RunLike], frame: pd.DataFrame) -> Table:
    """Notebook 02: `matfl.paper.studies.by_task.gains` at one server step, a column a task."""
    keys = ["tasks", "method"]
    grouped = frame.groupby([*keys, "pair"], sort=False)["gain"]
    order = ordered_pairs(dict.fromkeys(frame["tasks"]))
    rows = frame.set_index(keys).index.unique()
    mean, sd = (found.unstack("pair").reindex(index=rows, columns=order) for found in (grouped.mean(), grouped.std()))
    counted = mean.assign(seeds=frame.groupby(keys)["seed"].nunique())
    return Table(
        frame=counted,
        spread=sd,
        columns=tuple((p, Column(title=pair_title(p), unit="%", better=1, digits=1, signed=True)) for p in order),
        caption="Gain over single-task FL of the same seed in each task's main metric; a row's mean is delta_m; "
        f"{described(runs)}.{_where_seeds_differ(counted)}",
    )


_READ_OTHERWISE = (
    *_differences("%", usual="Δm as everywhere", delta_m="Δm"),
    *_differences("points", change="change", low="95 % from", high="to"),
    *_differences("points", usual_lead="MaT-FL above it as everywhere", lead="MaT-FL above it"),
    *_differences("points", lead_low="95 % from ", lead_high="to "),
)


def readings(runs: Sequence[RunLike], frame: pd.DataFrame) -> Table:
    """Notebook 02: `matfl.paper.studies.methods.read_otherwise`; `runs` are those of the other readings."""
    return Table(
        frame=frame.set_index(["tasks", "reading", "method"]),
        columns=_READ_OTHERWISE,
        caption="Where the paper or its authors' code can be read otherwise: delta_m against single-task FL as "
        "everywhere above, and MaT-FL minus the method, both as everywhere and with the reading, paired by seed; a "
        "method that a reading leaves as it is stands as everywhere; intervals are not adjusted. Run: "
        f"{conditions([run.config for run in runs])}.",
    )


def over_rounds(frame: pd.DataFrame, about: str) -> Table:
    """Notebooks 02, 03 and 06: `matfl.paper.studies.by_round`, a column a moment; `about` says what is compared."""
    import pandas as pd

    moments = {"global": "round {}", "local": "round {} before aggregation"}
    named = frame.assign(moment=[moments[kind].format(at) for kind, at in zip(frame["kind"], frame["round"])])
    keys = list(frame.columns[: list(frame.columns).index("kind")])
    rows = {
        (*key, title): dict(zip(group["moment"], group[value]))
        for key, group in named.groupby(keys, sort=False)
        for value, title in (("mean", "difference"), ("low", "95 % from"), ("high", "to"))
    }
    columns = list(dict.fromkeys(named["moment"]))
    return Table(
        frame=pd.DataFrame(
            list(rows.values()), index=pd.MultiIndex.from_tuples(rows, names=[*keys, "points"]), columns=columns
        ),
        columns=tuple((moment, Column(title=moment, digits=1, signed=True)) for moment in columns),
        caption=f"{about} over the rounds: delta_m's difference, paired by seed, after aggregation but for the last "
        "column; intervals are not adjusted.",
    )


def k_by_task(frame: pd.DataFrame) -> Table:
    """Notebook 04: `k_sweep.tasks_apart`."""
    return Table(
        frame=frame.set_index("pair"),
        columns=(*_IN_TASK, *_OVER_OTHERS),
        caption="MaT-FL at K = 2 minus its mean over larger K, task by task: the difference of gains over single-task "
        "FL, and delta_m's difference over the other tasks; intervals are not adjusted.",
    )


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


_MIOU = tuple(
    (name, Column(title=title, digits=4, signed=True))
    for name, title in (("mean", "difference"), ("low", "95 % from"), ("high", "to"), ("paper", "paper's difference"))
)


def paper_measures(runs: Sequence[RunLike], frame: pd.DataFrame) -> Table:
    """Notebooks 02 and 03: `matfl.paper.studies.paper_measures`."""
    compared = {*frame["method"], *frame["against"]}
    return Table(
        frame=frame.set_index(["tasks", "pair", "clients_per_task", "method", "against"]).drop(columns="n"),
        columns=_MIOU,
        caption="The paper's comparisons in its own measures, mIoU of segmentation and of saliency in the first domain "
        "after aggregation: method minus the one it is compared with, paired by seed, "
        f"{count([run for run in runs if run.config.method in compared])}; p by Holm over "
        "all comparisons of a task set.",
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
        frame=frame,
        columns=(*columns, last),
        caption=f"Gigabytes until the seeds' mean reaches a level, at the server's step 1; {count(runs)}.",
    )


def costs(runs: Sequence[RunLike], frame: pd.DataFrame) -> Table:
    """Notebook 07: what a round costs."""
    return Table(
        frame=frame,
        caption="A round: megabytes a client, seconds of training all clients one after another and of all else but "
        "evaluation (the server's step among it) in the recorded runs, whose machines' load differs from run to run; "
        f"mean, {count(runs)}.",
    )


def server(frame: pd.DataFrame) -> Table:
    """Notebook 07: seconds of the server's step."""
    wide = frame.pivot_table(index=["width", "parameters", "clients"], columns="way", values="seconds")
    columns = tuple((str(name), Column(title=str(name), unit="s", digits=4)) for name in wide)
    return Table(
        frame=wide,
        columns=columns,
        caption="One step of the server on one machine, best of repeats; the loop over pairs was timed once.",
    )


def steps(frame: pd.DataFrame, runs: Sequence[RunLike]) -> Table:
    """Notebook 08: `matfl.paper.studies.server_step.table`."""
    about = "delta_m at the server's step 1 and at each method's own; the gain has its 95 % t interval"
    configs = [run.config for run in runs]
    return Table(frame=frame.set_index(["tasks", "method"]), caption=f"{about}. Run: {conditions(configs)}.")


def choice(frame: pd.DataFrame, where: str) -> Table:
    """Notebook 11: what development seeds chose; `where` is `matfl.paper.studies.our_best.chosen_on`."""
    caption = f"Chosen on development seeds ({where}); delta_m is the mean there."
    return Table(frame=frame.set_index("role"), caption=caption)


def tried(frame: pd.DataFrame, where: str) -> Table:
    """Notebook 11: all that could have been chosen, and `where`, as in `choice`."""
    rows = frame.set_axis([f"step {step:.3g}" for step in frame], axis=1)
    return Table(
        frame=rows,
        columns=tuple((name, Column(title=name, unit="%", digits=1, signed=True)) for name in rows),
        caption=f"Mean delta_m on development seeds ({where}) at each server step; larger steps were not tried where "
        "one was more than a point below the method's best so far.",
    )


def contest(runs: Sequence[RunLike], frame: pd.DataFrame, beside: pd.DataFrame) -> Table:
    """Notebook 11: ours minus each opponent (`our_best.compare`), and what stands beside them (`our_best.beside`)."""
    import pandas as pd

    configs = [run.config for run in runs]
    rows = pd.concat([part for part in (frame, beside) if len(part)] or [frame]).set_index(["tasks", "against"])
    where = f" Run: {conditions(configs)}." if configs else ""
    return Table(
        frame=rows,
        caption="delta_m of our best method minus that of each other, paired by seed; without p what only stands "
        f"beside the opponents.{where}",
    )
