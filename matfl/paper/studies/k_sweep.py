"""Figure 4: MaT-FL over K, with the methods that know no K beside it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from matfl.paper.claims import Above, Below, Claim, Part
from matfl.paper.stats import LEVEL, Estimate, estimate, holm_adjusted, paired, trend
from matfl.paper.studies.base import (
    Plan,
    base_config,
    chosen_methods,
    chosen_numbers,
    regime,
    report_seeds,
    setting,
    sizes,
)
from matfl.paper.studies.photographs import levels_jobs
from matfl.paper.studies.server_step import with_own_steps
from matfl.paper.studies.tables import RunLike, delta_table, final, ordered_pairs, summary
from matfl.server.methods import METHODS
from matfl.tasks.meters import delta_m
from matfl.tasks.task import task_of

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["claims", "numbers", "paired_gains", "plan", "table", "tasks_apart"]

LINES = ("single_task", "fedavg", "fedprox")


def plan(
    preset: str, *, seeds: int = 0, tasks: str = "", ks: str = "", baselines: str = "", settings: str = ""
) -> Plan:
    """MaT-FL with every K, and the baselines once, for each seed, at step 1 and at their own; constant answers.

    K above the number of clients is an error.
    """
    base, size = base_config(preset, settings), sizes(preset)
    chosen = tasks or base.tasks
    names = chosen_methods(baselines, LINES)
    names = names if "single_task" in names else ("single_task", *names)
    configs = []
    for seed in report_seeds(seeds or size.seeds):
        configs += [setting(base, chosen, method=name, seed=seed) for name in names]
        limit = configs[0].num_clients
        default = [k for k in size.ks if k <= limit]
        configs += [
            setting(base, chosen, method="matfl", k=k, seed=seed) for k in chosen_numbers(ks, default, name="ks")
        ]
    levels = levels_jobs(preset, seeds=seeds, settings=settings)
    return with_own_steps(Plan(configs=tuple(configs), jobs=levels))


def numbers(runs: Sequence[RunLike], *, pair: str = "", reference: Sequence[RunLike] = ()) -> pd.DataFrame:
    """One row a run: method, k, seed, the pair's main metric (default: the first Seg.) and delta_m.

    delta_m is against single-task FL of the same seed, from `reference` if given.
    """
    frame = final(runs)
    pair = pair or next((name for name in frame["pair"] if name.endswith("/semseg")), frame["pair"].iloc[0])
    delta = delta_table(frame, reference=final(reference) if reference else None)
    one = frame[frame["pair"] == pair]
    keys = ["tasks", "method", "k", "seed"]
    return one[[*keys, "pair", "value"]].merge(delta[[*keys, "delta_m"]], on=keys)


def paired_gains(frame: pd.DataFrame) -> pd.DataFrame:
    """A `numbers` frame with column gain: how much better its value is than single-task FL's of the same seed."""
    single = frame[frame["method"] == "single_task"].set_index("seed")["value"]
    sign = 1 if task_of(str(frame["pair"].iloc[0])).higher_is_better else -1
    return frame.assign(gain=sign * (frame["value"] - frame["seed"].map(single)))


def table(frame: pd.DataFrame) -> pd.DataFrame:
    """Means and spread over seeds of a `numbers` frame; the baselines' K is left empty."""
    columns = {}
    for value in ("value", "delta_m"):
        by_case = summary(frame, ["method", "k"], value).set_index(["method", "k"])
        columns[f"{value}_mean"], columns[f"{value}_sd"] = by_case["mean"], by_case["sd"]
    import pandas as pd

    return pd.DataFrame(columns).reset_index()


def tasks_apart(runs: Sequence[RunLike]) -> pd.DataFrame:
    """MaT-FL at K = 2 minus its mean over larger K, task by task, paired by seed; seeds that lack a K are left out.

    No rows for a single task, or where 2 is not the least of several K.

    A task's gain is relative to single-task FL of the same seed, in percent: its mean over tasks is delta_m. Columns:
    pair; gain, low, high (the difference in that task, with its 95 % t interval); without, without_low, without_high
    (the difference of delta_m over the other tasks).
    """
    import pandas as pd

    columns = ["pair", "gain", "low", "high", "without", "without_low", "without_high"]
    frame = final(runs)
    single, own = (frame[frame["method"] == name] for name in ("single_task", "matfl"))
    base = single.set_index(["seed", "pair"])["value"]
    changes = [
        delta_m({pair: value}, {pair: base[seed, pair]}) for seed, pair, value in own[["seed", "pair", "value"]].values
    ]
    gains = own.assign(gain=changes).pivot(index=["seed", "k"], columns="pair", values="gain")
    whole = gains.unstack("k").dropna()
    ks = sorted(set(own["k"]))
    if gains.shape[1] < 2 or len(ks) < 2 or ks[0] != 2 or whole.empty:
        return pd.DataFrame(columns=columns)
    by_k = whole.stack("k", future_stack=True)
    difference = by_k.xs(2, level="k") - by_k.drop(2, level="k").groupby("seed").mean()
    rows = []
    for pair in ordered_pairs(dict.fromkeys(frame["tasks"])):
        task, rest = estimate(difference[pair]), estimate(difference.drop(columns=pair).mean(axis=1))
        rows.append((pair, task.mean, task.low, task.high, rest.mean, rest.low, rest.high))
    return pd.DataFrame(rows, columns=columns)


def claims(runs: Sequence[RunLike], *, reference: Sequence[RunLike] = ()) -> list[Claim]:
    """Section 4.4: ahead of every baseline for K from 4 to N, and worse for a tiny K.

    With `reference`, runs at step 1, `runs` are those at the methods' own steps, of which the paper says nothing:
    delta_m alone is judged. All comparisons of a K with a baseline are a family for Holm's adjustment. No runs, no
    claims.
    """
    if not runs:
        return []
    frame = numbers(runs, reference=reference)
    own = frame[frame["method"] == "matfl"]
    where, pair = regime(runs[0].config), str(frame["pair"].iloc[0])
    steps = ", at the methods' own server steps" if reference else ""
    judged = (("value", f"main metric of {pair}", 3), ("delta_m", "delta_m", 1))
    result = []
    for column, label, digits in judged[1:] if reference else judged:
        sign = 1 if column == "delta_m" or task_of(pair).higher_is_better else -1
        gaps = holm_adjusted(_gaps(sign, own[own["k"] >= 4], frame, column))
        ahead = Above(0)
        clear = {case: ({False: 0, None: 1, True: 2}[ahead(gap)], gap.mean) for case, gap in gaps.items()}
        # the worst verdict first, which decides the claim whatever the means
        least_clear = {k: min((case for case in gaps if case[0] == k), key=clear.__getitem__) for k, _ in gaps}
        parts = [
            Part(
                statistic=f"{label}, K = {k}, over {METHODS[name].title}",
                value=gaps[k, name],
                rule=ahead,
                digits=digits,
            )
            for k, name in least_clear.values()
        ]
        if parts:
            others = [value for case, value in gaps.items() if case[1] != "single_task"]
            beaten = sum(value.low > 0 and value.p_holm < 1 - LEVEL for value in others)
            text = f"For every K from 4 up, MaT-FL is better than every baseline ({label}){steps}."
            note = "Each K stands beside the baseline that it beats least clearly; Holm's family is all of them."
            if others:
                note += f" Of {len(others)} comparisons with the others {beaten} are above 0."
            result.append(Claim(text=text, parts=tuple(parts), note=note, regime=where))
    wide = own.pivot(index="seed", columns="k", values="delta_m").dropna()
    if wide.shape[1] > 1 and wide.columns.min() == 2 and len(wide):
        least, most = estimate(wide[2] - wide[wide.columns.max()]), wide.columns.max()
        lower = Part(
            statistic="delta_m at K = 2 minus its mean over larger K, points",
            value=estimate(wide[2] - wide.drop(columns=2).mean(axis=1)),
            rule=Below(0),
        )
        rising = Part(
            statistic="trend of delta_m over K (monotone contrast, points)", value=trend(wide.to_numpy()), rule=Above(0)
        )
        result.append(
            Claim(
                text=f"An extremely small K (2) is worse than larger ones{steps}.",
                parts=(lower, rising),
                note=f"K = 2 minus K = {most}: {least.mean:+.1f} points.",
                regime=where,
            )
        )
    return result


def _gaps(sign: int, own: pd.DataFrame, frame: pd.DataFrame, column: str) -> dict[tuple[int, str], Estimate]:
    """(K, baseline) -> how far MaT-FL is ahead of it, paired by seed."""
    return {
        (int(k), str(name)): estimate(
            sign * paired(mine.set_index("seed")[column].to_dict(), its.set_index("seed")[column].to_dict())
        )
        for k, mine in own.groupby("k")  # type: ignore[call-overload]
        for name, its in frame[frame["method"] != "matfl"].groupby("method", sort=False)
    }
