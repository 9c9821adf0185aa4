"""The caption of every figure: what is drawn, of how many seeds, what bars and bands are, and what was run.

Functions are called as the plots that they belong to; each takes the runs or records that the figure is drawn from.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from matfl.config.run_config import RunConfig, from_dict
from matfl.paper.names import method_title, metric_title, pair_title, set_title, task_title
from matfl.paper.shown import Caption
from matfl.paper.studies.base import regime
from matfl.paper.studies.grouping_frequency import chance

if TYPE_CHECKING:
    import pandas as pd

    from matfl.data import Split
    from matfl.paper.studies.store import Record
    from matfl.paper.studies.tables import RunLike
    from matfl.runs.run import Run
    from matfl.tasks.edges import Curve

__all__ = [
    "bytes_to_quality",
    "class_frequencies",
    "clients_per_task",
    "conditions",
    "contest",
    "cosine_course",
    "cosine_matrix",
    "decisions",
    "delta_over_rounds",
    "gallery",
    "grouping_graph",
    "helps",
    "k_sweep",
    "layers",
    "learning_curves",
    "methods",
    "neighbour_bars",
    "precision_recall",
    "recorded",
    "rounds",
    "seeds",
    "server",
    "step_components",
    "throughput",
    "transfer",
    "update_tsne",
    "votes",
    "worked",
]

INTERVAL = "bars are 95 % t intervals over seeds, and an arrow marks one that leaves the axes"
ENDS = "bars at the right end reach from the worst to the best seed of the last round"


def seeds(configs: Iterable[RunConfig]) -> str:
    """How many seeds: `n = 1 seed (no spread can be shown)`, `n = 5 seeds`, `n = 3 to 5 seeds, by method`."""
    by_case: dict[tuple[str, str], set[int]] = defaultdict(set)
    for config in configs:
        by_case[config.tasks, config.method].add(config.seed)
    counts = sorted({len(found) for found in by_case.values()})
    if not counts:
        return "n = 0"
    if counts == [1]:
        return "n = 1 seed (no spread can be shown)"
    return f"n = {counts[0]} seeds" if len(counts) == 1 else f"n = {counts[0]} to {counts[-1]} seeds, by method"


def conditions(configs: Iterable[RunConfig]) -> str:
    """What was run: the regimes in words, those that differ in their domains alone in one."""
    where: dict[str, list[str]] = {}
    for config in configs:
        domains, _, rest = regime(config).partition(" at ")
        where.setdefault(rest, []).append(domains.removeprefix("on "))
    found = [f"on {', and on '.join(dict.fromkeys(names))} at {rest}" for rest, names in where.items()]
    return "; ".join(found)


def _run(configs: Sequence[RunConfig]) -> str:
    """The last sentences of a caption."""
    return f"{seeds(configs)[0].upper()}{seeds(configs)[1:]}. Run: {conditions(configs)}."


def _configs(runs: Iterable[RunLike]) -> list[RunConfig]:
    return [run.config for run in runs]


def recorded(records: Iterable[Record]) -> list[RunConfig]:
    """The configs of records that have one."""
    return [from_dict(record.spec["config"] | {"preset": "record"}) for record in records if "config" in record.spec]


def _listed(means: pd.Series, form: str = "{:+.1f}") -> str:
    """`MaT-FL -2.0, FedProx -5.4` for a series by method or other words."""
    words = (pair_title(str(name)) if "/" in str(name) else method_title(str(name)) for name in means.index)
    return ", ".join(f"{word} {form.format(value)}" for word, value in zip(words, means))


def gallery(split: Split) -> Caption:
    """Pictures and labels of one domain."""
    names, title = [f"{split.domain.name}/{task}" for task in split.domain.channels], split.domain.title
    keys = ["The key under it names classes by colour"] if split.class_names else []
    if any(name.endswith("/normals") for name in names):
        keys.append("normals are coloured by direction (red: right, green: down, blue: towards the viewer)")
    if any(name.endswith("/depth") for name in names):
        keys.append("depth by distance, bright near and dark far, from the nearest to the farthest metres under it")
    words = f"{keys[0][0].upper()}{'; '.join(keys)[1:]}. " if keys else ""
    height, width = np.asarray(split.images[0]).shape[-2:]
    return Caption(
        text=f"Validation pictures of {title} and their labels, a row a picture ({width} x {height} pixels). {words}"
        "Mid-grey pixels have no label.",
        alt=f"Grid of pictures of {title}; beside each its labels: {', '.join(map(task_title, names))}.",
    )


def class_frequencies(tables: dict[str, pd.DataFrame], what: str) -> Caption:
    """Classes of a benchmark."""
    rarest = {name: table.loc[table["share"].idxmin()] for name, table in tables.items()}
    listed = "; ".join(
        f"{pair_title(name)}: rarest is {row['class_name']} ({100 * row['share']:.2g} %)"
        for name, row in rarest.items()
    )
    return Caption(
        text=f"How much each class shows in the training pictures of {what}: filled dots are its share of labelled "
        "pixels, hollow dots the share of pictures that show it; percent on a logarithmic axis. Counted, not sampled.",
        alt=f"Dot plots of class shares, one panel a class map. By pixels, {listed}.",
    )


def transfer(records: Sequence[Record], gains: pd.DataFrame) -> Caption:
    """Centralised sharing."""
    means = gains.groupby("pair", sort=False)["gain"].mean()
    return Caption(
        text="Gain of training a task centrally with others on one backbone over training it alone (percent of the "
        "main "
        f"metric, positive is better); marks are means over seeds, small dots seeds, {INTERVAL}. "
        f"{_run(recorded(records))} No federated method.",
        alt="Gains by task, mean of both arrangements: " + _listed(means, "{:+.1f} %") + ".",
    )


def precision_recall(record: Record, curves: dict[str, Curve]) -> Caption:
    """Edges of single-task models."""
    best = ", ".join(f"{pair_title(name)} {curve.f_T[curve.best]:.3f}" for name, curve in curves.items())
    configs = recorded([record])
    return Caption(
        text="Precision over recall of single-task edge models over all thresholds; marks are the best F of one "
        "threshold "
        "for all pictures (ODS-F), grey lines have equal F. The axes end where the curves do. "
        f"One seed (0). Run: {conditions(configs)}.",
        alt=f"Precision-recall curves; ODS-F: {best}.",
    )


def update_tsne(record: Record, rate: str, perplexities: Sequence[float]) -> Caption:
    """Figure 2."""
    labels = record.arrays["labels"]
    listed = ", ".join(f"{value:g}" for value in perplexities)
    return Caption(
        text=f"t-SNE of the cosine distances between the updates of {len(labels)} models trained from one start at "
        "learning "
        f"rate {rate}, at perplexities {listed}; a point a model, colour the task type, squares indoor and circles "
        "outdoor, names at each task's middle (O outdoor, I indoor). Axes have no unit: t-SNE keeps neighbourhoods, "
        "not "
        f"distances. Run: {_once(record)}.",
        alt=f"Scatter plots of {len(labels)} updates of {len(set(labels.tolist()))} tasks for perplexities {listed}.",
    )


def _once(record: Record) -> str:
    return conditions(recorded([record])).replace("1 rounds of ", "")


def cosine_matrix(records: Sequence[Record], matrices: dict[str, pd.DataFrame]) -> Caption:
    """Cosines behind Figure 2."""
    ends = []
    for rate, matrix in matrices.items():
        off = matrix.to_numpy()[~np.eye(len(matrix), dtype=bool)]
        ends.append(f"at learning rate {rate} from {off.min():.2f} to {off.max():.2f}")
    return Caption(
        text="Mean cosine between the updates of two tasks' models (no unit; O outdoor, I indoor; equal task types are "
        f"framed; a model is not compared with itself); a panel a learning rate. {len(records[0].arrays['labels'])} "
        f"models each. Run: {_once(records[0])}.",
        alt="Heat maps of mean cosines between tasks; between different tasks they reach " + ", ".join(ends) + ".",
    )


def neighbour_bars(frame: pd.DataFrame) -> Caption:
    """What decides the cosines."""
    means = frame[frame["kind"] == "same_task"].set_index("variant")["mean"]
    return Caption(
        text="Mean cosine of two updates by what they share (no unit), for each start of heads and backbone; in "
        "brackets "
        "the number of models, which differs. Bars are 95 % jackknife intervals over the random subsets of pictures, "
        "and an arrow marks one that leaves the axes; none where there are too few subsets.",
        alt="Dot plot; mean cosine of updates of the same task: " + _listed(means, "{:.2f}") + ".",
    )


def methods(runs: Sequence[RunLike], deltas: pd.DataFrame) -> Caption:
    """Table 1 in one number a method."""
    parts = [
        f"{set_title(str(tasks), role=False)}: " + _listed(group.groupby("method", sort=False)["delta_m"].mean()) + " %"
        for tasks, group in deltas.groupby("tasks", sort=False)
    ]
    return Caption(
        text="Mean relative gain over single-task FL of the same seed in percent (delta_m over all tasks), after the "
        "last "
        f"round, on the same axis for all task sets. Dots are seeds, larger marks their mean; {INTERVAL}. "
        f"{_run(_configs(runs))}",
        alt="Mean delta_m by method. " + "; ".join(parts) + ".",
    )


def learning_curves(runs: Sequence[RunLike], curves: pd.DataFrame) -> Caption:
    """Every task over the rounds."""
    tasks = str(curves["tasks"].iloc[0])
    metrics = ", ".join(dict.fromkeys(f"{task_title(name)} {metric_title(name)}" for name in curves["pair"].unique()))
    chosen = [config for config in _configs(runs) if config.tasks == tasks]
    return Caption(
        text=f"{set_title(tasks)}: each task's main metric over the rounds ({metrics}), of the dispatched models after "
        f"aggregation. Lines are means over seeds; {ENDS}. {_run(chosen)}",
        alt=f"Learning curves of {curves['pair'].nunique()} tasks and {curves['method'].nunique()} methods over "
        f"{int(curves['round'].max())} rounds.",
    )


def clients_per_task(runs: Sequence[RunLike], deltas: pd.DataFrame) -> Caption:
    """Table 2."""
    own = deltas[deltas["method"] == "matfl"].groupby("clients_per_task")["delta_m"].mean()
    listed = ", ".join(f"{value:+.1f} % with {count}" for count, value in own.items())
    tasks = str(deltas["tasks"].iloc[0])
    return Caption(
        text=f"{set_title(tasks)}, by the number of clients per task; all clients of a task together see the same "
        "number of "
        "pictures. Left: segmentation of the first domain (mIoU). Middle: delta_m against single-task FL with as many "
        "clients (percent). Right, where the paper has it: its own Table 2, one run, other pictures. Lines join means "
        f"over seeds, dots are seeds; methods stand side by side. {_run(_configs(runs))}",
        alt=f"Line plots over clients per task; delta_m of MaT-FL: {listed}.",
    )


def k_sweep(runs: Sequence[RunLike], numbers: pd.DataFrame) -> Caption:
    """Figure 4."""
    own = numbers[numbers["method"] == "matfl"].groupby("k")["delta_m"].mean()
    return Caption(
        text="MaT-FL over K, and the methods that know no K as lines. Left: segmentation of the first domain (mIoU), "
        "means "
        "over seeds, as in the paper's Figure 4. Middle and right: what decides, differences from single-task FL of "
        "the "
        f"same seed (points of mIoU; delta_m over all tasks in percent); {INTERVAL}, the lines' at the right end. "
        f"{_run(_configs(runs))}",
        alt="delta_m of MaT-FL: " + ", ".join(f"{value:+.1f} % at K = {k}" for k, value in own.items()) + ".",
    )


def grouping_graph(runs: Sequence[Run]) -> Caption:
    """Figure 5."""
    config = runs[0].config
    return Caption(
        text="Whom one client of each task (in the middle) chose: width and number of an edge are the share of rounds "
        "in "
        f"which it chose that client, mean over seeds. K - 1 = {config.k - 1} of {config.num_clients - 1} others are "
        f"chosen a round, so chance is {chance(runs):.2f}; numbers no higher are grey. Bold: the partner of the same "
        f"task. Squares are indoor clients, circles outdoor ones. {_run(_configs(runs))}",
        alt="Star graphs, one a task, with the share of rounds in which its client chose each other client.",
    )


def rounds(runs: Sequence[Run], frame: pd.DataFrame) -> Caption:
    """Grouping and weights over the rounds."""
    first, last = (frame[frame["round"] == r]["self_weight"].mean() for r in (1, frame["round"].max()))
    return Caption(
        text="Left: share of cases in which a client's friends hold a partner of its task; line: mean over seeds, "
        "band: from "
        "the least to the greatest seed, dotted: chance. Right: where a client's weights go (shares of 1, mean over "
        f"clients and seeds). {_run(_configs(runs))}",
        alt=f"Partners are chosen in {frame['correctness'].mean():.0%} of cases on average, by chance "
        f"{chance(runs):.0%}; own weight goes from {first:.0%} to {last:.0%}.",
    )


def votes(runs: Sequence[RunLike]) -> Caption:
    """Figure 6."""
    config = runs[0].config
    return Caption(
        text="Votes of one client of each task, a row a voting layer (stage.block.convolution, shallow to deep), two "
        "or more "
        f"columns a task's clients; brighter is a higher vote, mean over the rounds of seed {config.seed}. The "
        "client's "
        f"own column, always K = {config.k}, is hatched, so colours end at K - 1. Run: {conditions([config])}.",
        alt=f"Heat maps of votes, one a task: {config.voting_layers} layers by {config.num_clients} clients.",
    )


def layers(runs: Sequence[RunLike], numbers: pd.DataFrame) -> Caption:
    """Agreement of layers, and their number."""
    means = numbers.groupby("voting_layers")["delta_m"].mean()
    return Caption(
        text="Left: rank correlation of two layers' opinions of the other clients, mean over clients, rounds and "
        "seeds. "
        "Middle: delta_m against single-task FL (percent) over the number of voting layers. Right: share of rounds "
        "with "
        f"the partner among the friends. Dots are seeds, lines join their means. {_run(_configs(runs))}",
        alt="delta_m "
        + ", ".join(f"{value:+.1f} % with {count}" for count, value in means.items())
        + " voting layers.",
    )


def bytes_to_quality(runs: Sequence[RunLike], frame: pd.DataFrame) -> Caption:
    """Communication."""
    missed = frame[frame["gigabytes"].isna()].groupby("level")["method"].nunique()
    listed = ", ".join(f"{count} methods never reach {level:+g} %" for level, count in missed.items())
    return Caption(
        text="Gigabytes (both directions, all clients) until delta_m, here against what single-task FL reaches in the "
        "end, "
        "first reaches a level. Marks are means over seeds, lines reach from the least to the greatest seed; a hollow "
        f"arrow at the edge: a seed never gets there. Local training sends nothing. {_run(_configs(runs))}",
        alt="Dot plot of gigabytes by level and method." + (f" {listed}." if listed else ""),
    )


def server(steps: pd.DataFrame) -> Caption:
    """The server's step over N."""
    own = steps[steps["way"] == "ours"].sort_values("clients")
    narrow = own[own["width"] == own["width"].min()]
    listed = ", ".join(f"{n} clients {1000 * s:.0f} ms" for n, s in zip(narrow["clients"], narrow["seconds"]))
    return Caption(
        text="Left: seconds of one server step over the number of clients N, both axes logarithmic; thin grey lines "
        "grow "
        "with N (updates moved) and with N squared (cosines of all pairs): the step passes from the first to the "
        "second "
        "as N grows. Floor: what moving the bytes alone would take. Right: memory; marks are measured (peak of the "
        "streamed step), the dotted line is computed (4 N P bytes for P parameters). Best of repeats on one machine, "
        "named above; no spread.",
        alt=f"Time of the server's step: {listed}.",
    )


def throughput(frame: pd.DataFrame) -> Caption:
    """Training speed."""
    listed = ", ".join(
        f"{method_title(way)} {speed:.0f}" for way, speed in zip(frame["way"], frame["images_per_second"])
    )
    return Caption(
        text="Training images a second of whole loops; best of repeats, no spread. Floor: the network alone on one "
        "resident "
        "batch. Hatched: no measurement of the machine, for the reason beside the name.",
        alt=f"Bars of training images a second: {listed}.",
    )


def delta_over_rounds(runs: Sequence[RunLike]) -> Caption:
    """Courses at both steps."""
    return Caption(
        text="delta_m (percent) against single-task FL at step 1 of the same seed and round. Lines are means over "
        "seeds; "
        f"{ENDS}. Filled marks: the server's step 1, hollow: a step of its own. {_run(_configs(runs))}",
        alt="Line plots of delta_m over the rounds, a panel a task set, a line a method and server step.",
    )


def step_components(runs: Sequence[RunLike], steps: pd.DataFrame) -> Caption:
    """Dilution."""
    means = steps[steps["server_lr"] == 1].groupby("method", sort=False)["own"].mean()
    return Caption(
        text="Component of a task's step along the mean update of its own clients, averaged over rounds and clients; "
        "1 (line) "
        "is single-task FL's. Coloured marks are seeds, crosses what orthogonal updates of one length would give under "
        f"the same weights. {_run(_configs(runs))}",
        alt="Dot plot; component at step 1: " + _listed(means, "{:.2f}") + ".",
    )


def cosine_course(runs: Sequence[RunLike]) -> Caption:
    """Partners over the rounds."""
    return Caption(
        text="Mean cosine of the whole updates of two clients of one task, and of different tasks, over the rounds (no "
        "unit), by clients a task and pictures a client. Lines are means over seeds, bands reach from the least to the "
        f"greatest seed; dotted: the closed form with its three numbers fitted. {_run(_configs(runs))}",
        alt="Line plots of mean cosines over the rounds: partners' updates start alike and turn against each other.",
    )


def helps(runs: Sequence[RunLike], gain: pd.DataFrame) -> Caption:
    """Who helps whom."""
    values = gain.to_numpy()
    return Caption(
        text="Left: gain (percent of the main metric, positive is better) of the row's task from sharing a backbone "
        "with the "
        "column's alone, trained centrally. Right: share of rounds in which the row's clients chose the column's. "
        "Means "
        f"over seeds; equal task types are framed, empty cells do not exist. {_run(_configs(runs))}",
        alt=f"Two heat maps of tasks; gains reach from {np.nanmin(values):+.1f} to {np.nanmax(values):+.1f} %.",
    )


def contest(runs: Sequence[RunLike], rows: pd.DataFrame) -> Caption:
    """Our best against others."""
    listed = _listed(rows.groupby("against", sort=False)["difference"].mean(), "{:+.1f}")
    return Caption(
        text=f"{set_title(str(rows['tasks'].iloc[0]))}: delta_m of our best method minus that of each other, paired "
        "by seed "
        f"(points); right of 0 ours is better. Marks are means, {INTERVAL}. {_run(_configs(runs))}",
        alt=f"Mean differences: ours minus {listed} points.",
    )


def worked(what: str, alt: str) -> Caption:
    """One of the worked example's figures, whose four clients are made up."""
    return Caption(text=f"{what} Made-up numbers of four clients, exact.", alt=alt)


def decisions(run: RunLike, number: int) -> Caption:
    """A real round."""
    config = run.config
    return Caption(
        text=f"Round {number} of one run, rows choose and columns are chosen, two or more clients a task. Left: votes "
        "of all "
        "layers added, friends framed. Right: weights, a row's sum is 1. "
        f"K = {config.k}, seed {config.seed}. Run: {conditions([config])}.",
        alt=f"Heat maps of votes and weights between {config.num_clients} clients.",
    )
