"""Why it comes out so: dilution by averaging, the decay of grouping, who helps whom, where the weights go."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np

from matfl.config.run_config import RunConfig
from matfl.paper import dilution
from matfl.paper.claims import Above, AtLeast, Below, Claim, Part, Within
from matfl.paper.stats import Estimate, chance_of_choice, estimate, mantel, trend
from matfl.paper.studies import benchmark, diagnostics, server_step
from matfl.paper.studies.base import (
    BASELINES,
    OURS,
    Plan,
    base_config,
    five_tasks,
    regime,
    report_seeds,
    setting,
    sizes,
)
from matfl.paper.studies.grouping_frequency import client_pairs, neighbours
from matfl.paper.studies.session import merged
from matfl.paper.studies.store import Arrays, Record, recorded_config
from matfl.paper.studies.tables import delta_table, final, summary
from matfl.tasks.task import pairs, parts_of

if TYPE_CHECKING:
    import pandas as pd

    from matfl.runs.run import Run

__all__ = [
    "PairTest",
    "chosen",
    "claims",
    "courses",
    "curve",
    "decay",
    "decay_runs",
    "fits",
    "helps",
    "main_runs",
    "needs",
    "plan",
    "shared",
    "step_sizes",
]

BLOCKS = 6
"""Equal parts of a run in which cosines are averaged before their trend is tested."""


@dataclass(frozen=True, kw_only=True)
class PairTest(benchmark.CentralTest):
    """Centralised training of one seed: every two tasks of the set with one backbone between them."""

    kind = "pairs"

    def groups(self) -> dict[str, list[str]]:
        """Unit name -> the two pairs that share a backbone."""
        names = [pair.name for pair in pairs(self.config.tasks)]
        return {f"{i:02d}-{j:02d}": [names[i], names[j]] for i, j in combinations(range(len(names)), 2)}

    def combine(self, parts: Sequence[tuple[dict[str, Any], Arrays]]) -> tuple[dict[str, Any], Arrays]:
        """Metrics by unit and pair."""
        found = {unit: values["metrics"] for unit, (values, _) in zip(self.units(), parts, strict=True)}
        return {"seed": self.config.seed, "metrics": found}, {}


def plan(preset: str, *, seeds: int = 0, settings: str = "") -> Plan:
    """On five tasks: the paper's four methods and the best rival, each at both steps; MaT-FL with other numbers of
    clients and images; local training, whose clients are never averaged; pairs.

    The rival is the best one on development seeds; none before these were run. Every run's update lengths and cosines
    are needed, which records of older versions lack.
    """
    base, size = base_config(preset, settings), sizes(preset)
    tasks, report = five_tasks(base), report_seeds(seeds or size.seeds)
    if parts_of(tasks) != pairs(tasks):
        raise ValueError(f"tasks={tasks!r}: this study asks what one task gains by another: give each client one task")
    chosen = server_step.frozen().get(preset, {}).get("steps", {}).get(tasks, {})
    rival = server_step.best(preset, tasks, [name for name in chosen if name not in (*BASELINES, *OURS)])
    names = (*BASELINES, rival[0]) if rival else BASELINES
    main = [setting(base, tasks, method=name, seed=seed) for name in names for seed in report]
    grown = [
        setting(base, tasks, clients_per_task=count, method="matfl", seed=seed)
        for count in size.clients
        for seed in report
    ]
    few = [_few(base, tasks, size.few_images, seed) for seed in report] if size.few_images else []
    never = [setting(base, tasks, method="local", seed=seed) for seed in report] if size.never_averaged else []
    alone = setting(base, tasks, method="single_task")
    central = [benchmark.CentralTest(config=setting(alone, tasks, seed=seed)) for seed in report]
    pairwise = [PairTest(config=test.config) for test in central]
    runs = server_step.with_own_steps(Plan(configs=tuple(main)))
    configs = tuple(dict.fromkeys([*runs.configs, *grown, *few, *never]))
    return merged([Plan(configs=configs, norms=configs, jobs=(*central, *pairwise))])


def _few(base: RunConfig, tasks: str, images: int, seed: int) -> RunConfig:
    """MaT-FL with fewer images a client, seen so much oftener that a round has as many steps."""
    more = max(1, base.images_per_client // images)
    return setting(
        base,
        tasks,
        method="matfl",
        seed=seed,
        images_per_client=images,
        local_epochs=base.local_epochs * more,
    )


def main_runs(runs: Sequence[Run]) -> list[Run]:
    """The runs of the paper's setting: two clients a task, all of their images, each method at either step."""
    return [run for run in _usual(runs) if run.config.method != "local"]


def _usual(runs: Sequence[Run]) -> list[Run]:
    most = max(_images(run.config) for run in runs)
    return [run for run in runs if run.config.clients_per_task == 2 and _images(run.config) == most]


def decay_runs(runs: Sequence[Run]) -> list[Run]:
    """MaT-FL at step 1 with every number of clients and of images."""
    return [run for run in runs if run.config.method == "matfl" and run.config.server_lr == 1]


def _images(config: RunConfig) -> int:
    """Images of all clients of a task together."""
    return config.images_per_client * config.clients_per_task


# --- (a) dilution -----------------------------------------------------------------------------------------------------


def _steps(run: Run) -> dilution.Steps:
    stored = run.diagnostics
    same_NN = diagnostics.same_task(client_pairs(run))
    present_RN = stored["participants"]
    return dilution.steps(
        stored["norms"],
        stored["cosines"],
        stored["weights"],
        same_NN,
        present_RN,
        server_lr=run.config.server_lr,
    )


def step_sizes(runs: Sequence[Run]) -> pd.DataFrame:
    """How far a round moves a task's model, a row a run, averaged over rounds and clients.

    Columns: tasks, method, server_lr, seed; norm, own, others (`matfl.paper.dilution.Steps`); norm_theory, own_theory
    (orthogonal updates of one length under the same weights); self_weight, partner_weight, other_weight; delta_m
    against single-task FL at step 1.
    """
    import pandas as pd

    by_run = delta_table(final(runs)).set_index(["tasks", "method", "server_lr", "seed"])["delta_m"]
    rows = []
    for run in runs:
        config, found = run.config, _steps(run)
        same_NN = diagnostics.same_task(client_pairs(run))
        mean_NN = run.diagnostics["weights"][run.diagnostics["participants"].all(1)].mean(0)
        norm, own = dilution.orthogonal(mean_NN, same_NN, server_lr=config.server_lr)
        case = {
            "tasks": config.tasks,
            "method": config.method,
            "server_lr": config.server_lr,
            "seed": config.seed,
        }
        rows.append(
            {
                **case,
                **{name: float(np.nanmean(values)) for name, values in zip(found._fields, found)},
                "norm_theory": norm,
                "own_theory": own,
                "delta_m": by_run[tuple(case.values())],
            }
        )
    return pd.DataFrame(rows)


# --- (b) the decay of grouping ----------------------------------------------------------------------------------------


def decay(runs: Sequence[Run]) -> pd.DataFrame:
    """Mean cosine of partners' and of other tasks' whole updates over the rounds.

    Columns: clients_per_task, images (a client's), seed, round, partners (NaN with one client a task), others, chosen
    (share of partners among friends).
    """
    import pandas as pd

    frames = []
    for run in runs:
        stored, config = run.diagnostics, run.config
        same_NN, present_RN = diagnostics.same_task(client_pairs(run)), stored["participants"]
        partners_R, others_R = dilution.partner_cosines(stored["cosines"], same_NN, present_RN)
        frames.append(
            pd.DataFrame(
                {
                    "clients_per_task": config.clients_per_task,
                    "images": config.images_per_client,
                    "seed": config.seed,
                    "round": np.arange(1, len(partners_R) + 1),
                    "partners": partners_R,
                    "others": others_R,
                    "chosen": diagnostics.correctness(stored["friends"], same_NN, present_RN),
                }
            )
        )
    return pd.concat(frames, ignore_index=True)


def courses(runs: Sequence[Run]) -> pd.DataFrame:
    """How alike updates are at first and at last under each method and step, local training's never averaged clients
    among them: a row a run.

    Columns: method, server_lr, seed; partners_first, partners_last, others_first, others_last, mean cosines in the
    first and the last sixth of the rounds; chosen_first, chosen_last, how often a client's partners are among its
    friends, of MaT-FL's runs (NaN of others).
    """
    import pandas as pd

    rows = []
    for run in _usual(runs):
        config, frame = run.config, decay([run])
        row = {"method": config.method, "server_lr": config.server_lr, "seed": config.seed}
        for column in ("partners", "others", "chosen"):
            told = column != "chosen" or config.method == "matfl"
            blocks = _blocks(frame, column)[0] if told else [np.nan]
            row |= {f"{column}_first": blocks[0], f"{column}_last": blocks[-1]}
        rows.append(row)
    return pd.DataFrame(rows)


def fits(frame: pd.DataFrame, column: str = "partners") -> pd.DataFrame:
    """`matfl.paper.dilution.fit_fading` of a `decay` frame's runs with partners: common, decay, limit, explained.

    A row a run; `column` is whose cosines are fitted, 'partners' or 'others'.
    """
    import pandas as pd

    rows = []
    keys = ["clients_per_task", "images", "seed"]
    for key, group in frame.dropna(subset=["partners"]).groupby(keys, sort=False):
        found = dilution.fit_fading(group.sort_values("round")[column].to_numpy())
        rows.append({**dict(zip(keys, key)), **found._asdict()})
    return pd.DataFrame(rows, columns=[*keys, *dilution.Fading._fields])


def curve(frame: pd.DataFrame) -> np.ndarray:
    """(R,) the mean of the closed forms that `fits` finds, over the rounds of a `decay` frame."""
    rounds = int(frame["round"].max())
    found = fits(frame)[["common", "decay", "limit"]].to_numpy()
    return np.mean([dilution.fading(rounds, *each) for each in found], axis=0)


# --- (c) who helps whom -----------------------------------------------------------------------------------------------


def helps(records: Sequence[Record]) -> dict[int, pd.DataFrame]:
    """Seed -> gain (percent) of row's task from sharing a backbone with column's alone, trained centrally."""
    import pandas as pd

    single = benchmark.scores([record for record in records if record.path.name.startswith("central")])
    alone = single[single["sharing"] == "none"].set_index(["seed", "pair"])["value"]
    found = {}
    for record in records:
        if not record.path.name.startswith("pairs"):
            continue
        seed = int(record.values["seed"])
        chosen_pairs = pairs(recorded_config(record.spec).tasks)
        names = [pair.name for pair in chosen_pairs]
        table = pd.DataFrame(np.nan, index=names, columns=names)
        for metrics in record.values["metrics"].values():
            first, second = metrics
            for gainer, helper in ((first, second), (second, first)):
                task = next(pair.task for pair in chosen_pairs if pair.name == gainer)
                sign = 1 if task.higher_is_better else -1
                value, base = metrics[gainer][task.main_metric], float(alone[seed, gainer])
                table.loc[gainer, helper] = 100 * sign * (value - base) / base
        found[seed] = table
    return found


def chosen(runs: Sequence[Run]) -> dict[int, pd.DataFrame]:
    """Seed -> how often row's clients chose column's, in MaT-FL's runs of the paper's setting."""
    wanted = [run for run in main_runs(runs) if run.config.method == "matfl" and run.config.server_lr == 1]
    return {run.config.seed: neighbours([run]) for run in wanted}


def _beyond_popularity(table: pd.DataFrame) -> pd.DataFrame:
    """A `chosen` table less how often the column's task was chosen by the others on average."""
    return table - table.mask(np.eye(len(table), dtype=bool)).mean()


def _correlations(gains: dict[int, pd.DataFrame], choices: dict[int, pd.DataFrame]) -> list[float]:
    """Rank correlation of the two tables of each seed, off the diagonal."""
    found = []
    for seed in sorted(set(gains) & set(choices)):
        names = list(gains[seed].index)
        found.append(mantel(gains[seed].to_numpy(), choices[seed].loc[names, names].to_numpy(), permutations=1)[0])
    return found


# --- what follows -----------------------------------------------------------------------------------------------------


def shared(records: Sequence[Record]) -> pd.DataFrame:
    """What each task gains (percent) from one backbone for all tasks, trained centrally: a row a task.

    Columns: pair, n, mean, sd, low, high (95 % t interval over seeds). Every arrangement takes the same optimiser and
    the same loss weights, so a task's share of a step is smaller in a shared backbone here as well.
    """
    central = benchmark.gains(benchmark.scores([r for r in records if r.path.name.startswith("central")]))
    return summary(central[central["sharing"] == "domain"], ["pair"], "gain")


def needs(runs: Sequence[Run]) -> pd.DataFrame:
    """Where a method that shares would have to be, in numbers: a row a quantity.

    Columns: quantity; plain and matfl, averaging and MaT-FL at step 1; alone, single-task FL at its own step (at 1
    where it has none), which such a method has to exceed.
    """
    import pandas as pd

    steps = step_sizes(main_runs(runs))
    steps["own_clients"] = steps["self_weight"] + steps["partner_weight"]
    columns = ["own", "others", "own_clients", "other_weight", "delta_m"]
    means = steps.groupby(["method", "server_lr"])[columns].mean()
    plain, ours = means.loc["fedavg", 1.0], means.loc["matfl", 1.0]
    alone = means.loc["single_task"].sort_index().iloc[-1]
    course = decay([run for run in decay_runs(runs) if run in main_runs(runs)])
    titles = {
        "own": "component of a step along the task's own",
        "others": "component of a step along all other tasks'",
        "own_clients": "weight of the task's own clients",
        "other_weight": "weight of other tasks' clients",
        "delta_m": "delta_m (%)",
    }
    rows = [(titles[name], plain[name], ours[name], alone[name]) for name in columns]
    config = main_runs(runs)[0].config
    among = f"partners among friends (by chance {chance_of_choice(config.k, config.num_clients):.2f})"
    for name, title in (("chosen", among), ("partners", "cosine of partners")):
        last = float(_blocks(course, name)[:, -1].mean())
        rows.insert(-1, (f"{title}, last sixth of the rounds", np.nan, last, np.nan))
    return pd.DataFrame(rows, columns=["quantity", "plain", "matfl", "alone"]).set_index("quantity")


def claims(runs: Sequence[Run], records: Sequence[Record]) -> list[Claim]:
    """The explanation as claims; each number is one a seed."""
    where = regime(main_runs(runs)[0].config)
    steps = step_sizes(main_runs(runs))
    return [
        *_dilution_claims(steps, len(pairs(runs[0].config.tasks)), _plain_course(runs), where),
        *_decay_claims(decay(decay_runs(runs)), decay(_plain(runs)), where),
        *_control_claims([run for run in _usual(runs) if run.config.method == "local"], where),
        *_choice_claims(helps(records), chosen(runs), where),
    ]


def _plain(runs: Sequence[Run]) -> list[Run]:
    """Plain averaging at step 1."""
    return [run for run in main_runs(runs) if run.config.method == "fedavg" and run.config.server_lr == 1]


def _plain_course(runs: Sequence[Run]) -> np.ndarray:
    """(BLOCKS,) component of plain averaging's step along the task's own, over equal parts of the rounds."""
    own_SR = np.array([_steps(run).own for run in _plain(runs)])
    return np.array([part.mean() for part in np.array_split(own_SR, min(BLOCKS, own_SR.shape[1]), axis=1)])


def _dilution_claims(steps: pd.DataFrame, tasks: int, course: np.ndarray, where: str) -> list[Claim]:
    first = steps[steps["server_lr"] == 1]
    plain, ours = (first[first["method"] == name].sort_values("seed") for name in ("fedavg", "matfl"))
    return [
        Claim(
            text="Plain averaging moves each task's model by about 1/C of what its own clients ask for.",
            parts=(
                Part(
                    statistic=f"component of the step along the task's own update, times C = {tasks}, minus 1",
                    value=estimate(plain["own"] * tasks - 1),
                    rule=Within(0.25),
                ),
            ),
            note=f"The component falls from {course[0]:.2f} in the first sixth of the rounds to {course[-1]:.2f} in "
            f"the last. The step is {plain['norm'].mean():.2f} times as long as the task's own (orthogonal updates: "
            f"{plain['norm_theory'].mean():.2f}).",
            regime=where,
        ),
        Claim(
            text="MaT-FL leaves most of the weight to a client's own update.",
            parts=(Part(statistic="weight of a client's own", value=estimate(ours["self_weight"]), rule=Above(0.5)),),
            note="Nearly by construction: nobody is as similar to a client as it is to itself. "
            f"Partners get {ours['partner_weight'].mean():.0%}, other tasks {ours['other_weight'].mean():.0%}. A "
            "task's model takes the mean over its clients, so what these leave to themselves and to each other counts "
            f"alike: the step keeps {ours['own'].mean():.0%} of the task's own.",
            regime=where,
        ),
    ]


def _blocks(frame: pd.DataFrame, column: str) -> np.ndarray:
    """(seeds, BLOCKS): a column's means over equal parts of the rounds."""
    wide = frame.pivot(index="seed", columns="round", values=column).to_numpy()
    return np.stack([part.mean(1) for part in np.array_split(wide, min(BLOCKS, wide.shape[1]), axis=1)], axis=1)


def _in_words(value: Estimate) -> str:
    return f"{value.mean:+.3f}" + (f" ({value.low:.3f} to {value.high:.3f})" if value.n > 1 else "")


def _decay_claims(frame: pd.DataFrame, plain: pd.DataFrame, where: str) -> list[Claim]:
    """Of MaT-FL's runs, and beside them plain averaging's."""
    known = frame.dropna(subset=["partners"])
    if known.empty:
        return []
    two = known[known["clients_per_task"] == 2]
    many, few = two[two["images"] == two["images"].max()], two[two["images"] == two["images"].min()]
    partners, others = _blocks(many, "partners"), _blocks(many, "others")
    found, elsewhere = fits(many), fits(many, "others")
    averaged = estimate(_blocks(plain, "partners")[:, -1] - _blocks(plain, "others")[:, -1])
    result = [
        Claim(
            text="Under MaT-FL partners' updates grow unlike each other as training goes on.",
            parts=(
                Part(
                    statistic="trend of the partners' mean cosine over the rounds (monotone contrast)",
                    value=trend(partners),
                    rule=Below(0),
                    digits=3,
                ),
            ),
            note=f"From {partners[:, 0].mean():.2f} in the first sixth to {partners[:, -1].mean():.2f} in the last; "
            f"clients of different tasks from {others[:, 0].mean():.2f} to {others[:, -1].mean():.2f}.",
            regime=where,
        ),
        Claim(
            text="Under MaT-FL partners are in the end less alike than clients of different tasks.",
            parts=(
                Part(
                    statistic="mean cosine of partners minus that of different tasks, last sixth of the rounds",
                    value=estimate(partners[:, -1] - others[:, -1]),
                    rule=Below(0),
                    digits=3,
                ),
            ),
            note=f"Under plain averaging {_in_words(averaged)}.",
            regime=where,
        ),
    ]
    if found.notna().all(axis=None):
        result += [
            Claim(
                text="A common part that fades relative to the rest describes the course of partners' cosine under "
                "MaT-FL.",
                parts=(
                    Part(
                        statistic="share of the cosine's variance over rounds that the closed form explains",
                        value=estimate(found["explained"]),
                        rule=AtLeast(0.8),
                    ),
                ),
                note="So it does any curve that falls and levels off: of the cosines of different tasks, which have no "
                f"common mean, it explains {elsewhere['explained'].mean():.2f}. What the rest is made of, it cannot "
                "tell.",
                regime=where,
            ),
            Claim(
                text="Under MaT-FL partners' updates point against each other in the limit.",
                parts=(
                    Part(
                        statistic="limit of the partners' mean cosine in the fitted closed form",
                        value=estimate(found["limit"]),
                        rule=Below(0),
                        digits=3,
                    ),
                ),
                note="The pull away from their average alone would end at -1, and noise draws that towards 0; above 0, "
                "a part of what is common does not fade.",
                regime=where,
            ),
        ]
    if few["images"].iloc[0] != many["images"].iloc[0]:
        scarce = _blocks(few, "partners")
        rows = min(len(scarce), len(partners))
        less = scarce[:rows] - partners[:rows]
        whole = estimate(less.mean(1))
        result.append(
            Claim(
                text="With fewer images a client, seen as much oftener, its partner's update is less like its own in "
                "the end.",
                parts=(
                    Part(
                        statistic=f"partners' mean cosine with {few['images'].iloc[0]} images minus with "
                        f"{many['images'].iloc[0]}, last sixth of the rounds",
                        value=estimate(less[:, -1]),
                        rule=Below(0),
                        digits=3,
                    ),
                ),
                note=f"Over all rounds {_in_words(whole)}; in each sixth of them "
                + ", ".join(f"{value:+.3f}" for value in less.mean(0))
                + ".",
                regime=where,
            )
        )
    return result


def _control_claims(never: Sequence[Run], where: str) -> list[Claim]:
    """Whether it takes the start from an average; `never` are runs whose clients are never averaged."""
    if not never:
        return []
    frame = decay(never)
    partners, others = _blocks(frame, "partners"), _blocks(frame, "others")
    return [
        Claim(
            text="Partners' updates grow unlike each other as training goes on where clients are never averaged, too.",
            parts=(
                Part(
                    statistic="trend of the partners' mean cosine over the rounds under local training (monotone "
                    "contrast)",
                    value=trend(partners),
                    rule=Below(0),
                    digits=3,
                ),
            ),
            note=f"From {partners[:, 0].mean():.2f} in the first sixth to {partners[:, -1].mean():.2f} in the last, "
            f"different tasks' from {others[:, 0].mean():.2f} to {others[:, -1].mean():.2f}. Where this "
            "holds, a start from their average is not what it takes.",
            regime=where,
        )
    ]


def _choice_claims(gains: dict[int, pd.DataFrame], choices: dict[int, pd.DataFrame], where: str) -> list[Claim]:
    found = _correlations(gains, choices)
    unpopular = _correlations(gains, {seed: _beyond_popularity(table) for seed, table in choices.items()})
    if not found or np.isnan(found).any():
        return []
    mean = sum(gains.values()) / len(gains)
    off = mean.to_numpy()[~np.eye(len(mean), dtype=bool)]
    return [
        Claim(
            text="Clients choose the tasks that help them.",
            parts=(
                Part(
                    statistic="rank correlation, over all ordered pairs of tasks, of a task's gain from another, "
                    "trained centrally in pairs, with how often its clients chose that task's",
                    value=estimate(found),
                    rule=Above(0),
                ),
            ),
            note=f"Gains in pairs reach from {off.min():+.1f} to {off.max():+.1f} %. Less how often each task was "
            f"chosen by all, the correlation is {np.mean(unpopular):.2f}.",
            regime=where,
        )
    ]
