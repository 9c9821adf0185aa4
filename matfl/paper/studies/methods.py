"""Table 1: the methods against each other, on five tasks of one domain and nine of two."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import numpy as np

from matfl.config.run_config import RunConfig
from matfl.paper.claims import Above, Below, Claim, Part
from matfl.paper.names import STAND_IN
from matfl.paper.stats import Estimate, bootstrap_interval, estimate, holm_adjusted, paired
from matfl.paper.studies import predictions
from matfl.paper.studies.base import (
    BASELINES,
    MARGIN,
    Plan,
    base_config,
    chosen_methods,
    chosen_sets,
    five_tasks,
    own_parameters,
    regime,
    report_seeds,
    seeds_of,
    setting,
    sizes,
)
from matfl.paper.studies.by_round import by_round
from matfl.paper.studies.by_task import by_task, gains
from matfl.paper.studies.photographs import levels_jobs
from matfl.paper.studies.server_step import with_own_steps
from matfl.paper.studies.tables import RunLike, delta_table, differences, final, ordered_pairs, scores, summary, tidy
from matfl.server.methods import METHODS

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "OTHERWISE",
    "PAPER",
    "Apart",
    "Reading",
    "all_metrics",
    "apart",
    "beside_paper",
    "claims",
    "compare",
    "curves",
    "deltas",
    "gains",
    "one_by_one",
    "plan",
    "read_otherwise",
    "reported",
    "rounds_apart",
    "table",
    "tasks_apart",
]

R = TypeVar("R", bound=RunLike)

PAPER: dict[tuple[str, int], dict[str, dict[str, float]]] = {
    ("pascal5", 2): {
        "single_task": {"pascal/semseg": 0.2449, "pascal/sal": 0.5619},
        "fedavg": {"pascal/semseg": 0.2731, "pascal/sal": 0.5638},
        "fedprox": {"pascal/semseg": 0.2745, "pascal/sal": 0.5661},
        "matfl": {"pascal/semseg": 0.2762, "pascal/sal": 0.5774},
    },
    ("paper9", 2): {
        "single_task": {"pascal/semseg": 0.2449, "pascal/sal": 0.5619},
        "fedavg": {"pascal/semseg": 0.2707, "pascal/sal": 0.5714},
        "fedprox": {"pascal/semseg": 0.2611, "pascal/sal": 0.5745},
        "matfl": {"pascal/semseg": 0.2938, "pascal/sal": 0.5814},
    },
    ("pascal5", 1): {
        "single_task": {"pascal/semseg": 0.2896, "pascal/sal": 0.5730},
        "fedavg": {"pascal/semseg": 0.2738, "pascal/sal": 0.5712},
        "fedprox": {"pascal/semseg": 0.3032, "pascal/sal": 0.5604},
        "matfl": {"pascal/semseg": 0.3045, "pascal/sal": 0.5803},
    },
}
"""The paper's Tables 1 and 2 by (task set, clients per task), method and pair."""


def reported(tasks: str, clients_per_task: int) -> dict[str, dict[str, float]]:
    """`PAPER`'s scores by method and pair where `tasks` is, or stands for, a task set of the paper; else empty."""
    return PAPER.get((STAND_IN.get(tasks, tasks), clients_per_task), {})


DIFFERENCES: dict[str, dict[str, Any]] = {
    "heads stay with clients": {"heads": "local"},
    "no loss weights": {"loss_weights": "none"},
    "10 local epochs at 1e-4": {"lr": 1e-4, "local_epochs": 10},
}
"""Settings in which the paper and its authors' code differ from this package's. That scores are taken before
aggregation (`kind="local"`) is the fourth difference, and no setting of a run."""

PROTOCOL: dict[str, Any] = {name: value for change in DIFFERENCES.values() for name, value in change.items()}
"""All of `DIFFERENCES` at once."""

ONE_BY_ONE = ("single_task", "fedavg", "matfl")
"""Methods that also run with each of `DIFFERENCES` alone."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Reading:
    """A setting in which the paper or its authors' code can be read otherwise."""

    change: Mapping[str, Any]
    methods: tuple[str, ...]
    """Who runs with it."""
    everywhere: bool = False
    """Whether on every task set and with as many seeds as the paper's four methods, not on five tasks alone."""


OTHERWISE: dict[str, Reading] = {
    "the trained models are mixed": Reading(change={"mixes": "weights"}, methods=("matfl",), everywhere=True),
    "Adam's moments go on between rounds": Reading(change={"client_moments": "kept"}, methods=ONE_BY_ONE),
}
"""The readings that run. Mixing models is mixing updates where a task takes only from clients that started as it did:
single-task FL and plain many-task FL are the same either way and stand as they are beside MaT-FL's mixed models."""


@dataclass(frozen=True, slots=True)
class Apart(Generic[R]):
    """A plan's runs by what they are run for."""

    usual: list[R]
    """Under the plan's own protocol."""
    alone: dict[str, list[R]]
    """With each of `DIFFERENCES` alone, by its words."""
    papers: list[R]
    """Under the paper's protocol."""
    otherwise: dict[str, list[R]]
    """With each of `OTHERWISE`, by its words."""


def plan(preset: str, *, seeds: int = 0, tasks: str = "", methods: str = "", k: int = 0, settings: str = "") -> Plan:
    """Every method on every task set, once a seed; single-task FL is always among them, as delta_m's baseline.

    Methods with a server step of their own run at that one as well. Where the preset says for how many rounds, the
    paper's four methods also run under the paper's protocol (`PROTOCOL`) on five tasks, three of them with each of its
    `DIFFERENCES` alone, and some with each reading of `OTHERWISE`: `apart` tells these from the others. Constant
    answers are the tables' lowest row; predictions of the first seed are drawn where they are at hand
    (`matfl.paper.studies.predictions`).
    """
    size = sizes(preset)
    compared = _compared(methods, (*size.variants, *size.rivals))
    base = base_config(preset, settings, methods=compared)
    own = {name: own_parameters(settings, name) for name in compared}
    configs = []
    for chosen in chosen_sets(base, tasks):
        rivals = size.rivals if chosen == five_tasks(base) else ()
        configs += [
            setting(base, chosen, k=k, seed=seed, **{"method": name, **own[name]})  # type: ignore[arg-type]
            for name in _compared(methods, (*size.variants, *rivals))
            for seed in seeds_of(name, size, seeds)
        ]
    configs = list(with_own_steps(Plan(configs=tuple(configs))).configs)
    if size.protocol_rounds and not methods and not tasks:
        for names, change in _protocols(base):
            rounds = size.protocol_rounds if "local_epochs" in change else base.rounds  # as many steps
            configs += [
                setting(
                    base, five_tasks(base), k=k, seed=seed, **{"method": name, "rounds": rounds, **change, **own[name]}
                )
                for name in names
                for seed in report_seeds(seeds or size.seeds)
            ]
        configs += [
            setting(base, chosen, k=k, seed=seed, **{"method": name, **reading.change, **own[name]})
            for reading in OTHERWISE.values()
            if _differs(base, reading.change)
            for chosen in (chosen_sets(base, "") if reading.everywhere else [five_tasks(base)])
            for name in reading.methods
            for seed in report_seeds(seeds or (size.main_seeds if reading.everywhere else size.seeds))
        ]
    shown = () if methods or tasks or k or settings else predictions.jobs_at_hand(preset)
    chance = levels_jobs(preset, seeds=seeds or size.main_seeds, settings=settings)
    return Plan(configs=tuple(configs), jobs=(*chance, *shown))


def _protocols(base: RunConfig) -> list[tuple[tuple[str, ...], dict[str, Any]]]:
    """Methods and changes of `base` towards the paper's protocol: all of it, then each part that is not all of it."""
    parts = [part for part in DIFFERENCES.values() if _differs(base, part)]
    single = [(ONE_BY_ONE, part) for part in parts] if len(parts) > 1 else []
    return [(BASELINES, PROTOCOL), *single] if parts else []


def _differs(config: RunConfig, change: Mapping[str, Any]) -> bool:
    return any(getattr(config, name) != value for name, value in change.items())


def _compared(methods: str, others: Sequence[str]) -> tuple[str, ...]:
    """The methods of a comparison: `methods`, or the paper's and `others`; single-task FL is always among them."""
    names = chosen_methods(methods or ",".join((*BASELINES, *others)), ())
    return names if "single_task" in names else ("single_task", *names)


def apart(runs: Sequence[R]) -> Apart[R]:
    """A plan's runs by what they are run for.

    The first run's protocol is the plan's own; what it shares with the paper's is no difference. Scores under the
    paper's are of kind 'local', each client's model right after local training.
    """
    readings = {words: reading.change for words, reading in OTHERWISE.items()}
    found: Apart[R] = Apart([], {}, [], {})
    for run in runs:
        reading, words = _changed(run, runs[0], readings), _changed(run, runs[0], DIFFERENCES)
        if reading:
            found.otherwise.setdefault(reading[0], []).append(run)
        elif not words:
            found.usual.append(run)
        elif not _differs(run.config, PROTOCOL):
            found.papers.append(run)
        else:
            found.alone.setdefault(words[0], []).append(run)
    return found


def _changed(run: RunLike, first: RunLike, changes: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The words of those `changes` whose fields are not as in `first`."""
    before = first.config
    return [words for words, change in changes.items() if _differs(run.config, {n: getattr(before, n) for n in change})]


def read_otherwise(usual: Sequence[RunLike], otherwise: Mapping[str, Sequence[RunLike]]) -> pd.DataFrame:
    """What each of `OTHERWISE` changes: a row a task set, reading and method.

    Columns: tasks, reading, method, seeds; usual, delta_m (as everywhere and with the reading, against single-task FL
    as everywhere of the same seed); change, low, high (of delta_m, paired by seed, with its 95 % t interval);
    usual_lead, lead, lead_low, lead_high (MaT-FL's over the method, as everywhere and with the reading). A method that
    does not run with a reading, since it would be the same, stands as everywhere; NaN where a row would be compared
    with itself. Seeds are those of the reading's runs.
    """
    import pandas as pd

    of_three = [run for run in usual if run.config.method in ONE_BY_ONE]
    rows = []
    for reading, runs in otherwise.items():
        for tasks in dict.fromkeys(run.config.tasks for run in runs):
            changed = [run for run in runs if run.config.tasks == tasks]
            seeds = {run.config.seed for run in changed}
            same = [run for run in of_three if run.config.tasks == tasks and run.config.seed in seeds]
            rows += [(tasks, reading, *row) for row in _beside(_by_seed(same, same), _by_seed(changed, same))]
    columns = ("seeds", "usual", "delta_m", "change", "low", "high", "usual_lead", "lead", "lead_low", "lead_high")
    return pd.DataFrame(rows, columns=["tasks", "reading", "method", *columns])


def _beside(usual: dict[str, dict[int, float]], changed: dict[str, dict[int, float]]) -> Iterator[tuple[Any, ...]]:
    """A row of `read_otherwise` a method, from its name on."""
    unknown, after = (math.nan,) * 3, usual | changed
    for method, values in after.items():
        change = _interval(values, usual[method]) if method in changed else unknown
        before, *_ = unknown if method == "matfl" else _interval(usual["matfl"], usual[method])
        lead = unknown if method == "matfl" else _interval(after["matfl"], values)
        levels = (np.mean(list(usual[method].values())), np.mean(list(values.values())))
        yield (method, len(values), *levels, *change, before, *lead)


def _by_seed(runs: Sequence[RunLike], reference: Sequence[RunLike]) -> dict[str, dict[int, float]]:
    """delta_m of each method by seed, of one task set, against `reference`'s single-task FL."""
    frame = deltas(runs, reference=reference)
    return {
        str(method): dict(zip(rows["seed"], rows["delta_m"])) for method, rows in frame.groupby("method", sort=False)
    }


def _interval(first: Mapping[int, float], second: Mapping[int, float]) -> tuple[float, float, float]:
    found = estimate(paired(first, second))
    return found.mean, found.low, found.high


def one_by_one(
    usual: Sequence[RunLike], alone: Mapping[str, Sequence[RunLike]], papers: Sequence[RunLike]
) -> dict[str, tuple[list[RunLike], str]]:
    """Runs and kind of score by what they do as the paper does, from nothing over each difference to all of them.

    Methods are `ONE_BY_ONE`, tasks and seeds those of the differences' runs, so that all rows are of the same
    pictures. Empty where no difference was run alone.
    """
    cases = {(run.config.tasks, run.config.seed) for runs in alone.values() for run in runs}

    def chosen(runs: Sequence[RunLike]) -> list[RunLike]:
        of = [run for run in runs if run.config.method in ONE_BY_ONE]
        return [run for run in of if (run.config.tasks, run.config.seed) in cases]

    every = {
        "none": (chosen(usual), "global"),
        "scores before aggregation": (chosen(usual), "local"),
        **{words: (chosen(runs), "global") for words, runs in alone.items()},
        "all of these": (chosen(papers), "local"),
    }
    return {words: found for words, found in every.items() if found[0]}


def deltas(runs: Sequence[RunLike], *, kind: str = "global", reference: Sequence[RunLike] = ()) -> pd.DataFrame:
    """delta_m of each run at the last round, against single-task FL of the same seed, from `reference` if given."""
    return delta_table(final(runs, kind=kind), reference=final(reference, kind=kind) if reference else None)


def table(
    runs: Sequence[RunLike], *, families: bool = False, kind: str = "global", reference: Sequence[RunLike] = ()
) -> pd.DataFrame:
    """Table 1: mean over seeds of every pair's main metric and of delta_m, a row a (task set, method).

    `kind` is as in `scores`, `reference` as in `deltas`. With `families` the rows are grouped by the methods' families
    (`matfl methods` lists them), in its order.
    """
    frame = final(runs, kind=kind)
    wide = frame.pivot_table(index=["tasks", "method"], columns="pair", values="value", sort=False)
    wide = wide[ordered_pairs(dict.fromkeys(frame["tasks"]))]
    by_method = summary(deltas(runs, kind=kind, reference=reference), ["tasks", "method"], "delta_m").set_index(
        ["tasks", "method"]
    )
    wide = wide.assign(delta_m=by_method["mean"], delta_m_sd=by_method["sd"], seeds=by_method["n"].astype(int))
    return _by_family(wide) if families else wide


def _by_family(table: pd.DataFrame) -> pd.DataFrame:
    """The rows (tasks, family, method) in the registry's order; methods of unknown plug-ins last, in 'other'."""
    known = list(METHODS)
    frame = table.reset_index()
    order = frame["method"].map({name: place for place, name in enumerate(known)}).fillna(len(known))
    family = frame["method"].map({name: METHODS[name].family for name in known}).fillna("other")
    tasks = frame["tasks"].map({name: place for place, name in enumerate(dict.fromkeys(frame["tasks"]))})
    frame = frame.assign(family=family, _tasks=tasks, _order=order).sort_values(["_tasks", "_order"], kind="stable")
    return frame.drop(columns=["_tasks", "_order"]).set_index(["tasks", "family", "method"])


def all_metrics(runs: Sequence[RunLike]) -> pd.DataFrame:
    """Every metric of every pair at the last round, mean and spread over seeds: rows (tasks, pair, metric, kind)."""
    frame = tidy(runs)
    frame = frame[frame["round"] == frame.groupby(["tasks", "method", "seed"])["round"].transform("max")]
    keys = ["tasks", "pair", "metric", "kind", "method"]
    by_seed = frame.groupby([*keys, "seed"], sort=False)["value"].mean().reset_index()
    return summary(by_seed, keys, "value")[[*keys, "n", "mean", "sd"]]


def compare(runs: Sequence[RunLike], *, method: str = "matfl") -> pd.DataFrame:
    """delta_m of `method` minus that of every other method, paired by seed.

    Columns: tasks, method, against, n, mean, sd, low, high (95 % t interval), boot_low, boot_high (percentile
    bootstrap), g (Hedges), p and p_holm. Two families a task set are adjusted apart: the paper's own comparisons
    (`STATEMENTS`, which `claims` judges), and those with all other methods.
    """
    import pandas as pd

    frame = deltas(runs)
    rows = []
    for tasks, group in frame.groupby("tasks", sort=False):
        by_seed = {
            name: part.set_index("seed")["delta_m"].to_dict() for name, part in group.groupby("method", sort=False)
        }
        others = [name for name in by_seed if name != method and set(by_seed[name]) & set(by_seed.get(method, {}))]
        gaps = {name: paired(by_seed[method], by_seed[name]) for name in others}
        papers = {other: found for (one, other), found in _papers_family(group).items() if one == method}
        further = holm_adjusted({name: estimate(values) for name, values in gaps.items() if name not in papers})
        family = papers | further
        for name, found in ((name, family[name]) for name in gaps):
            low, high = bootstrap_interval(gaps[name])
            rows.append(
                {
                    "tasks": tasks,
                    "method": method,
                    "against": name,
                    "n": found.n,
                    "mean": found.mean,
                    "sd": found.sd,
                    "low": found.low,
                    "high": found.high,
                    "boot_low": low,
                    "boot_high": high,
                    "g": found.g,
                    "p": found.p,
                    "p_holm": found.p_holm,
                }
            )
    return pd.DataFrame(rows)


def tasks_apart(runs: Sequence[RunLike], *, method: str = "matfl") -> pd.DataFrame:
    """`method` minus each other of the paper's four, task by task (`matfl.paper.studies.by_task`)."""
    return by_task(runs, (method, 1.0), [(name, 1.0) for name in BASELINES if name != method])


def rounds_apart(runs: Sequence[RunLike], *, method: str = "matfl") -> pd.DataFrame:
    """`method` minus each other of the paper's four, round by round (`matfl.paper.studies.by_round`)."""
    four = [run for run in runs if run.config.method in BASELINES]
    return by_round(four, [(method, name) for name in BASELINES if name != method]).drop(columns="ours")


def curves(runs: Sequence[RunLike], tasks: str) -> pd.DataFrame:
    """Main metric of every pair of a task set at every evaluated round."""
    frame = scores(runs)
    return frame[frame["tasks"] == tasks]


def beside_paper(runs: Sequence[RunLike]) -> pd.DataFrame:
    """The paper's Table 1 (or 2) and ours as gains over single-task FL in percent, for Seg. and Sal.

    The embedded benchmark stands in for PASCAL-Context: other images, so only signs and sizes can be compared. Where
    the data are the paper's, the levels are added.
    """
    import pandas as pd

    frame = final(runs)
    keys = ["tasks", "clients_per_task"]
    rows = []
    for (tasks, count), group in frame.groupby(keys, sort=False):
        of_paper = reported(str(tasks), int(count))  # type: ignore[call-overload]
        means = group.groupby(["method", "pair"])["value"].mean()
        first = str(group["pair"].iloc[0]).partition("/")[0]
        for method, values in of_paper.items():
            if method not in means.index.get_level_values(0) or "single_task" not in means.index.get_level_values(0):
                continue
            row: dict[str, object] = {"tasks": tasks, "clients_per_task": count, "method": method}
            for task, title in (("semseg", "Seg."), ("sal", "Sal.")):
                ours, single = means[method, f"{first}/{task}"], means["single_task", f"{first}/{task}"]
                theirs, base = values[f"pascal/{task}"], of_paper["single_task"][f"pascal/{task}"]
                row |= {f"{title} paper %": 100 * (theirs / base - 1), f"{title} ours %": 100 * (ours / single - 1)}
                if first == "pascal":
                    row |= {f"{title} paper": theirs, f"{title} ours": ours}
            rows.append(row)
    return pd.DataFrame(rows)


STATEMENTS = (
    ("fedavg", "single_task", "Plain many-task FL beats single-task FL."),
    ("matfl", "single_task", "MaT-FL beats single-task FL."),
    ("matfl", "fedavg", "MaT-FL beats plain many-task FL."),
    ("matfl", "fedprox", "MaT-FL beats FedProx."),
)
"""(method, against, words): a family of comparisons within each task set (section 4.2)."""


def _papers_family(frame: pd.DataFrame) -> dict[tuple[str, str], Estimate]:
    """`STATEMENTS` of one task set's `deltas` that have runs, adjusted together, by (method, against)."""
    (tasks,) = frame["tasks"].unique()
    found = {
        (method, against): differences(frame, "delta_m", method=method, against=against).get(tasks)
        for method, against, _ in STATEMENTS
    }
    return holm_adjusted({key: value for key, value in found.items() if value is not None})


def claims(runs: Sequence[RunLike]) -> list[Claim]:
    """Section 4.2: what the paper reports of its four methods, as differences of delta_m paired by seed."""
    frame = deltas(runs)
    where = {run.config.tasks: regime(run.config) for run in runs}
    result = []
    for tasks, group in frame.groupby("tasks", sort=False):
        family = _papers_family(group)
        for method, against, words in STATEMENTS:
            value = family.get((method, against))
            if value is None:
                continue
            statistic = f"delta_m of {METHODS[method].title} minus {METHODS[against].title}, points"
            result.append(
                Claim(
                    text=f"{tasks}: {words}",
                    parts=(Part(statistic=statistic, value=value, rule=Above(0), digits=1),),
                    note="" if math.isnan(value.g) else f"Hedges' g {value.g:.1f}.",
                    regime=where[str(tasks)],
                )
            )
        gap = differences(group, "delta_m", method="fedprox", against="fedavg").get(tasks)
        if gap is not None:
            statistic = f"delta_m of {METHODS['fedprox'].title} minus {METHODS['fedavg'].title}, points"
            result.append(
                Claim(
                    text=f"{tasks}: FedProx gains less than a point over plain many-task FL.",
                    parts=(Part(statistic=statistic, value=gap, rule=Below(MARGIN), digits=1),),
                    regime=where[str(tasks)],
                )
            )
    return result
