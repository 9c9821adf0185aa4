"""Figure 4: MaT-FL over K, with the methods that know no K beside it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from matfl.paper.studies.base import Claim, Plan, base_config, chosen_methods, chosen_numbers, setting, sizes, verdict
from matfl.paper.studies.tables import RunLike, delta_table, final, interval, summary
from matfl.tasks.task import TASKS

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["claims", "numbers", "plan", "table"]

LINES = ("single_task", "fedavg", "fedprox")


def plan(
    preset: str, *, seeds: int = 0, tasks: str = "", ks: str = "", baselines: str = "", settings: str = ""
) -> Plan:
    """MaT-FL with every K, and the baselines once, for each seed. K above the number of clients is an error."""
    base, size = base_config(preset, settings), sizes(preset)
    chosen = tasks or base.tasks
    names = chosen_methods(baselines, LINES)
    names = names if "single_task" in names else ("single_task", *names)
    configs = []
    for seed in range(seeds or size.seeds):
        configs += [setting(base, chosen, method=name, seed=seed) for name in names]
        limit = configs[0].num_clients
        default = [k for k in size.ks if k <= limit]
        configs += [
            setting(base, chosen, method="matfl", k=k, seed=seed) for k in chosen_numbers(ks, default, name="ks")
        ]
    return Plan(configs=tuple(configs))


def numbers(runs: Sequence[RunLike], *, pair: str = "") -> pd.DataFrame:
    """One row a run: method, k, seed, the pair's main metric (default: the first Seg.) and delta_m."""
    frame = final(runs)
    pair = pair or next((name for name in frame["pair"] if name.endswith("/semseg")), frame["pair"].iloc[0])
    delta = delta_table(frame)
    one = frame[frame["pair"] == pair]
    keys = ["tasks", "method", "k", "seed"]
    return one[[*keys, "pair", "value"]].merge(delta[[*keys, "delta_m"]], on=keys)


def table(frame: pd.DataFrame) -> pd.DataFrame:
    """Means and spread over seeds of a `numbers` frame; the baselines' K is left empty."""
    columns = {}
    for value in ("value", "delta_m"):
        by_case = summary(frame, ["method", "k"], value).set_index(["method", "k"])
        columns[f"{value}_mean"], columns[f"{value}_sd"] = by_case["mean"], by_case["sd"]
    import pandas as pd

    return pd.DataFrame(columns).reset_index()


def claims(frame: pd.DataFrame) -> list[Claim]:
    """Section 4.4, on a `numbers` frame: ahead of every baseline for K from 4 to N, and worse for a tiny K."""
    own = frame[frame["method"] == "matfl"]
    result = []
    pair = frame["pair"].iloc[0]
    for column, label, digits in (("value", f"main metric of {pair}", 3), ("delta_m", "delta_m", 1)):
        means = own.groupby("k")[column].mean()
        lines = frame[frame["method"] != "matfl"].groupby("method")[column].mean()
        sign = 1 if column == "delta_m" or TASKS[pair.partition("/")[2]].higher_is_better else -1
        best = str((sign * lines).idxmax())
        line = frame[frame["method"] == best].set_index("seed")[column]
        wide = own[own["k"] >= 4].pivot(index="seed", columns="k", values=column)
        bounds = {k: interval((sign * (wide[k] - line)).dropna().to_numpy()) for k in wide}
        verdicts = [verdict(bound["low"], bound["high"]) for bound in bounds.values()]
        ahead = [str(k) for k, bound in bounds.items() if bound["mean"] > 0]
        result.append(
            Claim(
                text=f"For every K from 4 up, MaT-FL is better than every baseline ({label}).",
                held=False if False in verdicts else None if None in verdicts or not verdicts else True,
                evidence=f"The best baseline is {best} ({lines[best]:.{digits}f}); on average MaT-FL is better at "
                f"{len(ahead)} of {len(bounds)} values of K"
                + (f" ({', '.join(ahead)})" if ahead else "")
                + ", with the whole 95 % interval at "
                + f"{sum(v is True for v in verdicts)} and worse at "
                + f"{sum(v is False for v in verdicts)}. Means: "
                + ", ".join(f"K={k} {value:.{digits}f}" for k, value in means.items())
                + ".",
            )
        )
    low = own[own["k"] == 2].set_index("seed")["delta_m"]
    rest = own[own["k"] >= 4]
    if len(low) and len(rest):
        difference = rest.groupby("seed")["delta_m"].mean() - low
        bound = interval(difference.dropna().to_numpy())
        result.append(
            Claim(
                text="An extremely small K (2) is worse than larger ones.",
                held=verdict(bound["low"], bound["high"]),
                evidence=f"The mean delta_m of K >= 4 is {bound['mean']:+.2f} points from that of K = 2 "
                + (
                    f"(95 % interval {bound['low']:+.2f} to {bound['high']:+.2f})." if bound["n"] > 1 else "(one seed)."
                ),
            )
        )
    return result
