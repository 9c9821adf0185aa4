"""The field's question: does a method of our own beat single-task FL, plain many-task FL and the best other method?

Which of `OURS`, which other method, and at which server step, is decided on development seeds
(`matfl.paper.studies.server_step.best`); the comparison is made once, on report seeds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from matfl.config.run_config import RunConfig, override
from matfl.paper.claims import Above, Claim, Part
from matfl.paper.stats import Estimate, estimate, holm_adjusted, paired
from matfl.paper.studies import server_step
from matfl.paper.studies.base import OURS, Plan, base_config, five_tasks, regime, report_seeds, setting, sizes
from matfl.paper.studies.by_task import Entrant, by_task
from matfl.paper.studies.tables import RunLike, delta_table, final
from matfl.server.methods import METHODS

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Contest", "beside", "choice", "chosen_on", "claims", "compare", "contest", "plan", "tasks_apart", "tried"]

CHOSEN_ON = {"photos": ("scenes", "outdoor5"), "photos_imagenet": ("scenes", "outdoor5")}
"""Presets that take the choice made on another one's development seeds, and on which of its task sets."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Contest:
    """What is compared: (method, server step) by role, in the order of the table."""

    ours: Entrant
    others: dict[str, Entrant]
    """Role in words -> method and step."""
    beside: tuple[Entrant, ...] = ()
    """Shown with them and no opponents: MaT-FL at its own step, where the preset made the choice itself."""


def _chosen_on(preset: str) -> tuple[str, str]:
    """The preset and task set whose development seeds decide."""
    return CHOSEN_ON.get(preset, (preset, five_tasks(base_config(preset))))


def chosen_on(preset: str) -> str:
    """In words, the task set and the preset whose development seeds decide.

    >>> chosen_on("photos")
    'outdoor5 at scenes'
    """
    source, tasks = _chosen_on(preset)
    return f"{tasks} at {source}"


def contest(preset: str) -> Contest | None:
    """The choice made on development seeds; None where none of `OURS` has a step yet."""
    source, tasks = _chosen_on(preset)
    chosen = server_step.frozen().get(source, {}).get("steps", {}).get(tasks, {})
    ours = server_step.best(source, tasks, OURS)
    if ours is None:
        return None
    others = {"single-task FL, as in the paper": ("single_task", 1.0)}
    own = "its own step" if source == preset else f"the step chosen on {chosen_on(preset)}"
    roles = (
        (f"single-task FL at {own}", ["single_task"]),
        (f"plain many-task FL at {own}", ["fedavg"]),
        (
            f"the best other method on development seeds, at {own}",
            [m for m in chosen if m not in (*OURS, "single_task", "fedavg")],
        ),
    )
    for role, methods in roles:
        if (found := server_step.best(source, tasks, methods)) and found not in others.values():
            others[role] = found
    found = server_step.best(source, tasks, ["matfl"]) if source == preset else None
    beside = () if found is None or found in (ours, *others.values()) else (found,)
    return Contest(ours=ours, others=others, beside=beside)


def plan(preset: str, *, seeds: int = 0, tasks: str = "", settings: str = "") -> Plan:
    """The compared methods once a report seed; nothing where nothing was chosen yet."""
    base, size = base_config(preset, settings), sizes(preset)
    if (found := contest(preset)) is None:
        return Plan()
    chosen = [found.ours, *found.others.values(), *found.beside]
    configs = [
        override(setting(base, tasks or five_tasks(base), method=method, seed=seed), server_lr=step)
        for seed in report_seeds(seeds or size.main_seeds)
        for method, step in dict.fromkeys([("single_task", 1.0), *chosen])
    ]
    return Plan(configs=tuple(configs))


def choice(preset: str) -> pd.DataFrame:
    """What development seeds chose: columns role, method, server_lr, delta_m there; empty where nothing was."""
    import pandas as pd

    rows = []
    if found := contest(preset):
        source, tasks = _chosen_on(preset)
        tried = server_step.frozen()[source]["delta_m"]
        for role, (method, step) in {"our best": found.ours, **found.others}.items():
            values = tried.get(f"{tasks} {method}", {}).get(f"{step:g}", [np.nan])
            rows.append({"role": role, "method": method, "server_lr": step, "delta_m": float(np.mean(values))})
    return pd.DataFrame(rows, columns=["role", "method", "server_lr", "delta_m"])


def tried(preset: str) -> pd.DataFrame:
    """delta_m on development seeds of all that could have been chosen: a row a method, a column a server step.

    NaN where a method was already more than a point below its best at a smaller step.
    """
    import pandas as pd

    source, tasks = _chosen_on(preset)
    rows = {
        case.split()[1]: {float(step): float(np.mean(values)) for step, values in steps.items()}
        for case, steps in server_step.frozen().get(source, {}).get("delta_m", {}).items()
        if case.split()[0] == tasks
    }
    frame = pd.DataFrame.from_dict(rows, orient="index").rename_axis("method")
    best_first = frame.max(axis=1).sort_values(ascending=False).index
    return frame.reindex(best_first)[sorted(frame.columns)]


def compare(runs: Sequence[RunLike]) -> pd.DataFrame:
    """Our best minus each of the others, paired by report seed, in points of delta_m against single-task FL at step 1.

    Columns: tasks, ours, against, server_lr (of `against`), difference, low, high (95 % t interval), g (Hedges),
    p_holm (adjusted for all rows of the task set), seeds.
    """
    return _differences(runs, lambda found: list(found.others.values()), holm_adjusted)


def beside(runs: Sequence[RunLike]) -> pd.DataFrame:
    """As `compare`, of what only stands beside the opponents: no family, and so no p."""
    return _differences(runs, lambda found: list(found.beside), dict)


def _differences(
    runs: Sequence[RunLike],
    against: Callable[[Contest], list[Entrant]],
    adjusted: Callable[[dict[Entrant, Estimate]], dict[Entrant, Estimate]],
) -> pd.DataFrame:
    """`compare` with some entrants of the contest, those without runs left out."""
    import pandas as pd

    rows = []
    for tasks, case in _by_tasks(runs).items():
        found = contest(case.config.preset)
        if found is None:
            continue
        ours = case.deltas[found.ours]
        values = {e: estimate(paired(ours, case.deltas[e])) for e in against(found) if e in case.deltas}
        for (method, step), value in adjusted(values).items():
            rows.append(
                {
                    "tasks": tasks,
                    "ours": found.ours[0],
                    "against": method,
                    "server_lr": step,
                    "difference": value.mean,
                    "low": value.low,
                    "high": value.high,
                    "g": value.g,
                    "p_holm": value.p_holm,
                    "seeds": value.n,
                }
            )
    columns = ["tasks", "ours", "against", "server_lr", "difference", "low", "high", "g", "p_holm", "seeds"]
    return pd.DataFrame(rows, columns=columns)


def tasks_apart(runs: Sequence[RunLike]) -> pd.DataFrame:
    """Our best minus each opponent, task by task (`matfl.paper.studies.by_task`)."""
    found = contest(runs[0].config.preset) if runs else None
    return by_task(runs, found.ours, list(found.others.values())) if found else by_task([], ("", 1.0), [])


def claims(runs: Sequence[RunLike]) -> list[Claim]:
    """One claim an opponent, all of a task set in one family."""
    result = []
    for tasks, case in _by_tasks(runs).items():
        found = contest(case.config.preset)
        if found is None:
            continue
        ours = METHODS[found.ours[0]].title
        values = holm_adjusted(
            {
                role: estimate(paired(case.deltas[found.ours], case.deltas[other]))
                for role, other in found.others.items()
            }
        )
        for role, value in values.items():
            part = Part(
                statistic=f"delta_m of {ours} minus {METHODS[found.others[role][0]].title}, points",
                value=value,
                rule=Above(0),
                digits=1,
            )
            text = f"{tasks}: {ours}, at step {found.ours[1]:g}, beats {role}."
            result.append(Claim(text=text, parts=(part,), regime=regime(case.config)))
    return result


@dataclass(frozen=True, slots=True)
class _Case:
    config: RunConfig
    deltas: dict[tuple[str, float], dict[int, float]]
    """(method, step) -> delta_m by seed."""


def _by_tasks(runs: Sequence[RunLike]) -> dict[str, _Case]:
    if not runs:
        return {}
    frame = delta_table(final(runs))
    first = {run.config.tasks: run.config for run in reversed(runs)}
    return {
        str(tasks): _Case(
            first[str(tasks)],
            {
                (str(method), float(step)): part.set_index("seed")["delta_m"].to_dict()
                for (method, step), part in group.groupby(["method", "server_lr"], sort=False)
            },
        )
        for tasks, group in frame.groupby("tasks", sort=False)
    }
