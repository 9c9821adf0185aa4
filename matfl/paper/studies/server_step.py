"""The server's step: every method at 1, as in the paper, and at the one that suits it.

The mean of C tasks' orthogonal updates moves a task's model by 1/C of what its own clients ask for; methods that leave
a client its own update hardly shorten it. So a comparison at step 1 compares steps as well as methods. Each method's
own step is chosen on development seeds (`choose`) and kept in `frozen.json` before any report seed is run with it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from matfl.config.run_config import RunConfig, override
from matfl.core.files import json_bytes, replace_file
from matfl.paper.claims import Above, Claim, Part
from matfl.paper.stats import Estimate, estimate, holm_adjusted, paired
from matfl.paper.studies.base import (
    BASELINES,
    Plan,
    base_config,
    chosen_methods,
    chosen_sets,
    development_seeds,
    regime,
    seeds_of,
    setting,
    sizes,
)
from matfl.paper.studies.by_task import by_task
from matfl.paper.studies.tables import RunLike, delta_table, final, scores
from matfl.server.methods import METHODS
from matfl.tasks.task import pairs

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "FROZEN",
    "at_own_step",
    "best",
    "by_step",
    "candidates",
    "choose",
    "claims",
    "development",
    "freeze",
    "frozen",
    "over_rounds",
    "own_step",
    "plan",
    "table",
    "tasks_apart",
    "with_own_steps",
]

FROZEN = Path(__file__).with_name("frozen.json")
"""Preset -> what was chosen on development seeds: the seeds, the steps, the numbers behind them."""

R = TypeVar("R", bound=RunLike)

TOLERANCE = 1.0
"""Points of delta_m below the best step so far at which the climb to larger steps ends."""


def candidates(tasks: str) -> tuple[float, ...]:
    """Steps to choose from, ascending: 1, sqrt 2, 2, sqrt C and C for C tasks.

    >>> candidates("scenes9")
    (1.0, 1.4142, 2.0, 3.0, 9.0)
    """
    c = len(pairs(tasks))
    return tuple(sorted({round(step, 4) for step in (1.0, math.sqrt(2), 2.0, math.sqrt(c), float(c))}))


def frozen(path: Path | None = None) -> dict[str, Any]:
    """What `freeze` wrote, by preset; empty where nothing was chosen yet."""
    file = path or FROZEN
    return json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}


def own_step(preset: str, tasks: str, method: str, *, path: Path | None = None) -> float | None:
    """The method's own step on a task set; None where none was chosen."""
    found = frozen(path).get(preset, {}).get("steps", {}).get(tasks, {}).get(method)
    return None if found is None else float(found)


def development(config: RunConfig, step: float, seeds: Sequence[int]) -> list[RunConfig]:
    """One method with one step on the development seeds."""
    return [override(setting(config, config.tasks, k=config.k, seed=seed), server_lr=step) for seed in seeds]


def choose(
    preset: str,
    collect: Callable[[Sequence[RunConfig]], Sequence[RunLike]],
    *,
    methods: Sequence[str] = BASELINES,
    tasks: str = "",
    settings: str = "",
    seeds: int = 0,
) -> dict[str, Any]:
    """Each method's step of greatest mean delta_m on development seeds, against single-task FL at step 1.

    Steps are tried in ascending order, until one lies more than `TOLERANCE` below the best so far. `collect` returns
    the runs of some configs, trained where they are missing; all methods' next steps are asked for together. The
    result is what `freeze` keeps.
    """
    base, size = base_config(preset, settings), sizes(preset)
    chosen_seeds = list(development_seeds(seeds or size.development))
    sets = chosen_sets(base, tasks)
    plain = [c for name in sets for c in _development(base, name, "single_task", 1.0, chosen_seeds)]
    found: dict[tuple[str, str], dict[float, list[float]]] = {(name, m): {} for name in sets for m in methods}
    for place in range(max(len(candidates(name)) for name in sets)):
        asked = {
            (name, method): candidates(name)[place]
            for (name, method), tried in found.items()
            if place < len(candidates(name)) and _climbs(tried)
        }
        configs = [c for (name, m), step in asked.items() for c in _development(base, name, m, step, chosen_seeds)]
        frame = delta_table(final(list(collect(list(dict.fromkeys([*plain, *configs]))))))
        for (name, method), step in asked.items():
            rows = frame[(frame["tasks"] == name) & (frame["method"] == method) & (frame["server_lr"] == step)]
            found[name, method][step] = [float(value) for value in rows.sort_values("seed")["delta_m"]]
    steps: dict[str, dict[str, float]] = {name: {} for name in sets}
    for (name, method), tried in found.items():
        steps[name][method] = max(tried, key=lambda step: float(np.mean(tried[step])))
    return {
        "seeds": chosen_seeds,
        "regime": regime(base),
        "steps": steps,
        "delta_m": {
            f"{name} {method}": {f"{step:g}": [round(v, 3) for v in values] for step, values in tried.items()}
            for (name, method), tried in found.items()
        },
    }


def _development(base: RunConfig, tasks: str, method: str, step: float, seeds: Sequence[int]) -> list[RunConfig]:
    return development(setting(base, tasks, method=method), step, seeds)


def _climbs(tried: Mapping[float, Sequence[float]]) -> bool:
    """Whether the largest step tried is still within `TOLERANCE` of the best."""
    means = [float(np.mean(values)) for _, values in sorted(tried.items())]
    return not means or means[-1] >= max(means) - TOLERANCE


def freeze(preset: str, choice: Mapping[str, Any], *, path: Path | None = None) -> None:
    """Keep a choice beside what the preset has for other methods and task sets.

    ValueError where it says otherwise than what is kept: a choice is made once, before report seeds are run.
    """
    file = path or FROZEN
    everything = frozen(file)
    kept = everything.get(preset, {name: choice[name] for name in ("seeds", "regime")} | {"steps": {}, "delta_m": {}})
    other = [name for name in ("seeds", "regime") if kept[name] != choice[name]]
    other += [case for case, tried in choice["delta_m"].items() if kept["delta_m"].get(case, tried) != tried]
    if other:
        raise ValueError(
            f"{file} holds another choice for preset {preset!r} ({', '.join(other)}): it is made once, before report "
            "seeds are run; remove the entry to choose anew, and compute everything that used it again"
        )
    sets = {**kept["steps"], **choice["steps"]}
    steps = {tasks: {**kept["steps"].get(tasks, {}), **choice["steps"].get(tasks, {})} for tasks in sets}
    everything[preset] = kept | {"steps": steps, "delta_m": kept["delta_m"] | choice["delta_m"]}
    replace_file(file, json_bytes(everything, sort_keys=True))


def best(preset: str, tasks: str, methods: Sequence[str], *, path: Path | None = None) -> tuple[str, float] | None:
    """Of `methods`, the one of greatest mean delta_m on development seeds at its own step, and that step.

    None where no step was chosen for any of them.
    """
    kept = frozen(path).get(preset, {"steps": {}, "delta_m": {}})
    steps = {name: step for name, step in kept["steps"].get(tasks, {}).items() if name in methods}
    if not steps:
        return None
    name = max(steps, key=lambda name: float(np.mean(kept["delta_m"][f"{tasks} {name}"][f"{steps[name]:g}"])))
    return name, float(steps[name])


def at_own_step(config: RunConfig, *, path: Path | None = None) -> RunConfig:
    """The config at its method's own step on its task set; as it is where none was chosen."""
    step = own_step(config.preset, config.tasks, config.method, path=path)
    return config if step is None else override(config, server_lr=step)


def with_own_steps(plan: Plan) -> Plan:
    """The plan's runs, and those of them whose method has a step of its own once more at that step."""
    return replace(plan, configs=tuple(dict.fromkeys([*plan.configs, *map(at_own_step, plan.configs)])))


def by_step(runs: Sequence[R]) -> tuple[list[R], list[R]]:
    """The runs at step 1, and those of methods that have a step of their own, at that step (which may be 1)."""
    first = [run for run in runs if run.config.server_lr == 1]
    return first, [run for run in runs if run.config.server_lr == _own(run.config)]


def _own(config: RunConfig) -> float | None:
    return own_step(config.preset, config.tasks, config.method)


def plan(preset: str, *, seeds: int = 0, tasks: str = "", methods: str = "", settings: str = "") -> Plan:
    """The methods at step 1 and, where chosen, at their own, once a report seed; single-task FL always among them."""
    base, size = base_config(preset, settings), sizes(preset)
    names = chosen_methods(methods, BASELINES)
    names = names if "single_task" in names else ("single_task", *names)
    configs = [
        setting(base, chosen, method=name, seed=seed)
        for chosen in chosen_sets(base, tasks)
        for name in names
        for seed in seeds_of(name, size, seeds)
    ]
    return with_own_steps(Plan(configs=tuple(configs)))


def table(runs: Sequence[RunLike]) -> pd.DataFrame:
    """delta_m against single-task FL at step 1: a row a (task set, method), at step 1, at its own, and the difference.

    Columns: step_1, own_step (its size), own, gain, low, high (95 % interval of the gain), seeds. NaN where no step was
    chosen.
    """
    import pandas as pd

    rows = []
    for (tasks, method), (first, own, step) in _both(runs).items():
        gain = estimate(paired(own, first))
        row = {"tasks": tasks, "method": method, "step_1": np.mean(list(first.values()))}
        if own_step(_preset(runs), tasks, method) is None:
            row |= dict.fromkeys(("own_step", "own", "gain", "low", "high"), np.nan)
        else:
            row |= {"own_step": step, "own": np.mean([own[seed] for seed in own])}
            row |= {"gain": gain.mean, "low": gain.low, "high": gain.high}
        rows.append(row | {"seeds": gain.n})
    return pd.DataFrame(rows)


def _both(runs: Sequence[RunLike]) -> dict[tuple[str, str], tuple[dict[int, float], dict[int, float], float]]:
    """(task set, method) -> (delta_m by seed at step 1, the same at its own step, that step)."""
    frame = delta_table(final(runs))
    found = {}
    for (tasks, method), group in frame.groupby(["tasks", "method"], sort=False):
        first = group[group["server_lr"] == 1]
        step = own_step(_preset(runs), str(tasks), str(method)) or 1.0
        own = group[group["server_lr"] == step]
        by_seed = [part.set_index("seed")["delta_m"].to_dict() for part in (first, own)]
        found[str(tasks), str(method)] = (*by_seed, step)
    return found  # type: ignore[return-value]


def _preset(runs: Sequence[RunLike]) -> str:
    return runs[0].config.preset


def tasks_apart(runs: Sequence[RunLike], *, method: str = "matfl") -> pd.DataFrame:
    """`method` minus each other one, each at its own step, task by task (`matfl.paper.studies.by_task`)."""
    import pandas as pd

    found = []
    for tasks in dict.fromkeys(run.config.tasks for run in runs):
        names = dict.fromkeys(run.config.method for run in runs if run.config.tasks == tasks)
        steps = {name: step for name in names if (step := own_step(_preset(runs), tasks, name)) is not None}
        if method in steps:
            others = [(name, step) for name, step in steps.items() if name != method]
            found.append(by_task([run for run in runs if run.config.tasks == tasks], (method, steps[method]), others))
    return pd.concat(found, ignore_index=True) if found else by_task([], (method, 1.0), [])


def over_rounds(runs: Sequence[RunLike]) -> pd.DataFrame:
    """delta_m at every evaluated round against single-task FL at step 1 of the same round: is a large step steady?"""
    return delta_table(scores(runs))


def claims(runs: Sequence[RunLike]) -> list[Claim]:
    """What the step decides, and whether the paper's order appears once every method has its own.

    Each set of comparisons within a task set is a family of its own for Holm's adjustment.
    """
    both, where = _both(runs), {run.config.tasks: regime(run.config) for run in runs}
    result = []
    for tasks in dict.fromkeys(tasks for tasks, _ in both):
        steps = {method: step for (name, method), (_, _, step) in both.items() if name == tasks}
        own = {method: values for (name, method), (_, values, _) in both.items() if name == tasks}
        first = {method: values for (name, method), (values, _, _) in both.items() if name == tasks}
        if not any(own_step(_preset(runs), tasks, method) for method in own):
            continue
        gains = {m: estimate(paired(own[m], first[m])) for m in own if steps[m] != 1}
        for method, value in holm_adjusted(gains).items():
            result.append(
                _claim(
                    f"{tasks}: {METHODS[method].title} gains from a server step of its own ({steps[method]:g}).",
                    f"delta_m of {METHODS[method].title} at its own step minus at 1, points",
                    value,
                    where[tasks],
                )
            )
        order = (("fedavg", "single_task"), ("matfl", "single_task"), ("matfl", "fedavg"), ("matfl", "fedprox"))
        ahead = {(a, b): estimate(paired(own[a], own[b])) for a, b in order if a in own and b in own}
        for (method, against), value in holm_adjusted(ahead).items():
            title, other = METHODS[method].title, METHODS[against].title
            result.append(
                _claim(
                    f"{tasks}: each at its own step, {title} beats {other}.",
                    f"delta_m of {title} minus {other}, points",
                    value,
                    where[tasks],
                )
            )
    return result


def _claim(text: str, statistic: str, value: Estimate, where: str) -> Claim:
    part = Part(statistic=statistic, value=value, rule=Above(0), digits=1)
    return Claim(text=text, parts=(part,), regime=where)
