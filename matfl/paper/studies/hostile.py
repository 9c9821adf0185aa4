"""Hostile clients: what they gain of honest clients' models under each method, and what that costs.

Trained: honest runs and the strongest attacks, four attackers, `STRENGTH` times as long as honest updates, every
method: delta_m against honest single-task FL of the same seed, for the tasks that have an attacker among their own
clients and for those that have none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from matfl.config.run_config import RunConfig
from matfl.paper.claims import Above, Below, Claim, Part
from matfl.paper.stats import Estimate, chance_of_choice, estimate, holm_adjusted, paired
from matfl.paper.studies import diagnostics
from matfl.paper.studies.base import Plan, regime
from matfl.paper.studies.grouping_frequency import client_pairs
from matfl.paper.studies.photographs import levels, levels_jobs
from matfl.paper.studies.store import Record
from matfl.paper.studies.trials import final_scores, gain, trial, trial_seeds
from matfl.server.attacks import attackers
from matfl.tasks.meters import delta_m
from matfl.tasks.task import pairs

if TYPE_CHECKING:
    import pandas as pd

    from matfl.runs.run import Run

__all__ = ["DEFENCES", "above_floor", "claims", "defence", "floor", "lies", "plan", "table", "weights"]

DEFENCES: Mapping[str, Mapping[str, object]] = {
    "single_task": {"method": "single_task"},
    "fedavg": {"method": "fedavg"},
    "matfl": {"method": "matfl"},
    "matfl, clipped": {"method": "matfl", "clip_norm": 1.0},
    "median": {"method": "median"},
    "krum": {"method": "krum", "krum.attackers": 4},
}
"""What is tried against the attacks, by the name in tables."""

TRAINED = ("flip", "copy", "votes")
LIED_TO = ("single_task", "fedavg", "matfl")
"""Defences that are tried against clients which lie about their task: these send honest updates of another one."""
ATTACKERS, STRENGTH = 4, 10.0
LENGTH = f"{STRENGTH:g} times as long as honest (made for the votes: where no layer votes)"


def plan(preset: str, *, seeds: int = 0, settings: str = "") -> Plan:
    """Every defence without attackers and against each of `TRAINED`; liars against `LIED_TO`; constant answers."""
    configs: list[RunConfig] = []
    for seed in trial_seeds(preset, seeds):
        for changes in DEFENCES.values():
            configs.append(trial(preset, settings, seed=seed, **changes))
            count = min(ATTACKERS, configs[-1].num_clients - 1)
            hostile = {"attackers": count, "attack_strength": STRENGTH}
            configs += [trial(preset, settings, seed=seed, **changes, attack=kind, **hostile) for kind in TRAINED]
            if changes["method"] in LIED_TO and "clip_norm" not in changes:
                configs.append(trial(preset, settings, seed=seed, **changes, attack="lie", attackers=count))
    constant = levels_jobs(preset, seeds=len(trial_seeds(preset, seeds)), settings=settings)
    return Plan(configs=tuple(configs), jobs=constant)


def defence(config: RunConfig) -> str:
    """The run's name in `DEFENCES`."""
    return f"{config.method}, clipped" if config.clip_norm else config.method


def _attacked(run: Run) -> list[str]:
    """The tasks that have an attacker among their clients, in this run or its honest twin of the same seed."""
    names = [pair.name for pair in pairs(run.config.tasks) for _ in range(run.config.clients_per_task)]
    count = run.config.attackers or min(ATTACKERS, len(names) - 1)
    twin = replace(run.config, attack="flip", attackers=count)
    return list(dict.fromkeys(names[client] for client in attackers(twin)))


def _free(run: Run) -> list[str]:
    """The other tasks."""
    hit = _attacked(run)
    return [pair.name for pair in pairs(run.config.tasks) if pair.name not in hit]


def _honest(runs: Sequence[Run]) -> dict[int, Run]:
    """Single-task FL without attackers, by seed."""
    return {run.config.seed: run for run in runs if (defence(run.config), run.config.attack) == ("single_task", "none")}


def table(runs: Sequence[Run], *, kind: str = "global") -> pd.DataFrame:
    """delta_m (%) against honest single-task FL of the same seed, a row a run.

    `kind` is 'global', after aggregation, or 'local', of clients' models before the last one. Columns: defence,
    attack, seed, attacked (tasks with an attacker among their clients), others, all. Tasks of honest runs are split in
    the same way.
    """
    import pandas as pd

    honest, rows = _honest(runs), []
    for run in runs:
        hit, free, reference = _attacked(run), _free(run), honest[run.config.seed]
        rows.append(
            {
                "defence": defence(run.config),
                "attack": run.config.attack,
                "seed": run.config.seed,
                "attacked": gain(run, reference, hit, kind=kind),
                "others": gain(run, reference, free, kind=kind) if free else float("nan"),
                "all": gain(run, reference, kind=kind),
            }
        )
    return pd.DataFrame(rows)


def floor(runs: Sequence[Run], records: Sequence[Record], *, kind: str = "global") -> pd.DataFrame:
    """As `table`, of the best answer that never looks at a picture: where a model is that has learnt nothing.

    Columns seed, attacked, others, all, and each pair's name; no rows where constant answers are not among `records`.
    """
    import pandas as pd

    rows = []
    for seed, run in _honest(runs).items():
        scores, constant = final_scores(run, kind=kind), _constant(records, seed)
        if set(scores) <= set(constant):
            chosen = {"attacked": _attacked(run), "others": _free(run), "all": list(scores)}
            chosen |= {pair: [pair] for pair in scores}
            row = {
                name: delta_m({pair: constant[pair] for pair in its}, {pair: scores[pair] for pair in its})
                for name, its in chosen.items()
                if its
            }
            rows.append({"seed": seed, **row})
    return pd.DataFrame(rows) if rows else pd.DataFrame(columns=["seed", "attacked", "others", "all"])


def above_floor(runs: Sequence[Run], records: Sequence[Record], *, kind: str = "global") -> pd.DataFrame:
    """How far each model is above the best answer that never looks at a picture, in percent of that answer's score.

    Columns: defence, attack, seed, pair, above (below 0: worse than it); no rows where constant answers are not among
    `records`. `kind` is that of `table`.
    """
    import pandas as pd

    rows = []
    for run in runs:
        constant = _constant(records, run.config.seed)
        for pair, score in final_scores(run, kind=kind).items():
            if pair in constant:
                above = delta_m({pair: score}, {pair: constant[pair]})
                rows.append((defence(run.config), run.config.attack, run.config.seed, pair, above))
    return pd.DataFrame(rows, columns=["defence", "attack", "seed", "pair", "above"])


def _constant(records: Sequence[Record], seed: int) -> dict[str, float]:
    """Constant answers' scores by pair on a seed's pictures; of real ones all seeds have the same."""
    found = levels([record for record in records if record.values.get("seed", seed) == seed])
    return dict(zip(found["pair"], found["chance"]))


def weights(runs: Sequence[Run]) -> pd.DataFrame:
    """What honest clients gave attackers in MaT-FL's runs, over all rounds; a row a run.

    Columns: defence, attack, seed, weight (an honest client's, on all attackers together), chosen (share of attackers
    among an honest client's friends that could be), plain (the weight under plain averaging), chance (of being chosen).
    """
    import pandas as pd

    rows = []
    for run in runs:
        config = run.config
        if config.method != "matfl" or config.attack == "none":
            continue
        hostile = np.zeros(config.num_clients, bool)
        hostile[list(attackers(config))] = True
        stored = run.diagnostics
        rows.append(
            {
                "defence": defence(config),
                "attack": config.attack,
                "seed": config.seed,
                "weight": float(stored["weights"][:, ~hostile][:, :, hostile].astype(float).sum(2).mean()),
                "chosen": float(stored["friends"][:, ~hostile][:, :, hostile].mean()),
                "plain": hostile.sum() / len(hostile),
                "chance": chance_of_choice(config.k, config.num_clients),
            }
        )
    return pd.DataFrame(rows)


def lies(runs: Sequence[Run]) -> pd.DataFrame:
    """How often honest clients of MaT-FL choose those who claim their task, a row a seed.

    Columns: seed, liars (share of the liars that claim a client's task among its friends), honest (the same clients,
    where they are honest).
    """
    import pandas as pd

    by_attack = {(run.config.attack, run.config.seed): run for run in runs if defence(run.config) == "matfl"}
    rows = []
    for (kind, seed), run in by_attack.items():
        if kind != "lie":
            continue
        liars = np.zeros(run.config.num_clients, bool)
        liars[list(attackers(run.config))] = True
        asked_NN = diagnostics.same_task(client_pairs(run)) & ~liars[:, None] & liars[None]
        share = {
            name: float(its.diagnostics["friends"][:, asked_NN].mean())
            for name, its in (("liars", run), ("honest", by_attack["none", seed]))
        }
        rows.append({"seed": seed, **share})
    return pd.DataFrame(rows)


def claims(runs: Sequence[Run]) -> list[Claim]:
    """What hostile clients are given, and what that does."""
    found, given = table(runs), weights(runs)
    size = f"{runs[0].config.num_clients} clients, {ATTACKERS} of them hostile, {LENGTH}"
    where = f"{regime(runs[0].config)}, {size}"

    def delta(name: str, attack: str, tasks: str = "others") -> pd.Series[float]:
        rows = found[(found["defence"] == name) & (found["attack"] == attack)]
        return rows.set_index("seed")[tasks].sort_index()

    def less(first: pd.Series[float], second: pd.Series[float]) -> Estimate:
        return estimate(paired(first.to_dict(), second.to_dict()))

    def parts(words: str, differences: dict[str, Estimate], rule: Above | Below) -> tuple[Part, ...]:
        """A part each, one family for Holm."""
        return tuple(
            Part(statistic=f"{name}: {words}", value=value, rule=rule, digits=1)
            for name, value in holm_adjusted(differences).items()
        )

    def of(attack: str, column: str) -> Estimate:
        rows = given[(given["attack"] == attack) & (given["defence"] == "matfl")]
        return estimate(rows[column] if column != "excess" else rows["weight"] - rows["plain"])

    chance, lied = float(given["chance"].iloc[0]), lies(runs)
    return [
        Claim.of(
            "Clients that lie about their task are chosen less often than honest ones by those whose task they claim.",
            statistic="share of such clients among friends, lying minus honest",
            value=estimate(lied["liars"] - lied["honest"]),
            rule=Below(0),
            note=f"Chosen {lied['liars'].mean():.2f} of the time, honest ones {lied['honest'].mean():.2f}.",
            regime=f"{regime(runs[0].config)}, {runs[0].config.num_clients} clients, {ATTACKERS} of them lying",
        ),
        Claim.of(
            "Honest clients of MaT-FL give flipped updates less than a hundredth of their weight.",
            statistic="weight that an honest client gives attackers",
            value=of("flip", "weight"),
            rule=Below(0.01),
            digits=3,
            regime=where,
        ),
        Claim.of(
            "Clients that copy the mean direction of the others are chosen more often than by chance.",
            statistic=f"how often an honest client chooses an attacker (share; chance {chance:.2f})",
            value=of("copy", "chosen"),
            rule=Above(chance),
            note=f"They get a weight of {of('copy', 'weight').mean:.2f} in all.",
            regime=where,
        ),
        Claim.of(
            "An attack made for the votes takes more weight than plain averaging would give it.",
            statistic="weight that an honest client gives attackers, minus their share of the clients",
            value=of("votes", "excess"),
            rule=Above(0),
            regime=where,
        ),
        Claim(
            text="Tasks without an attacker of their own keep more under MaT-FL than under plain averaging.",
            parts=parts(
                "delta_m of MaT-FL minus plain, in percent",
                {kind: less(delta("matfl", kind), delta("fedavg", kind)) for kind in TRAINED},
                Above(0),
            ),
            regime=where,
        ),
        Claim(
            text="Norm clipping at the round's median makes MaT-FL's tasks keep more under each of these attacks.",
            parts=parts(
                "delta_m over all tasks, clipped minus not, in percent",
                {kind: less(delta("matfl, clipped", kind, "all"), delta("matfl", kind, "all")) for kind in TRAINED},
                Above(0),
            ),
            regime=where,
        ),
        Claim(
            text="A task with a hostile client of its own is harmed by a flipped update under MaT-FL.",
            parts=(
                Part(
                    statistic="delta_m of the attacked tasks minus the same without attackers, in percent",
                    value=less(delta("matfl", "flip", "attacked"), delta("matfl", "none", "attacked")),
                    rule=Below(0),
                    digits=1,
                ),
            ),
            regime=where,
        ),
        Claim(
            text="Median and Krum, which step alike for all tasks, cost honest clients more than MaT-FL does.",
            parts=parts(
                "delta_m over all tasks minus MaT-FL's without attackers, in percent",
                {name: less(delta(name, "none", "all"), delta("matfl", "none", "all")) for name in ("median", "krum")},
                Below(0),
            ),
            regime=where,
        ),
    ]
