"""Captions of the pictures, of centralised training, and of single-task updates (notebooks 00 and 01)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from matfl.paper.names import pair_title, task_title
from matfl.paper.shown import Caption
from matfl.paper.studies.captions.basis import INTERVAL, by_name, conditions, letters, marks, recorded, run_words
from matfl.tasks.task import pair

if TYPE_CHECKING:
    import pandas as pd

    from matfl.data import Split
    from matfl.paper.studies.store import Record
    from matfl.tasks.edges import Curve

__all__ = [
    "class_frequencies",
    "cosine_matrix",
    "gallery",
    "neighbour_bars",
    "precision_recall",
    "transfer",
    "update_tsne",
]


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


def class_frequencies(tables: dict[str, pd.DataFrame]) -> Caption:
    """Classes of a benchmark, a table for every class map."""
    rendered = all(pair(name).domain.rendered for name in tables)
    rarest = {name: table.loc[table["share"].idxmin()] for name, table in tables.items()}
    listed = "; ".join(
        f"{pair_title(name)}: rarest is {row['class_name']} ({100 * row['share']:.2g} %)"
        for name, row in rarest.items()
    )
    return Caption(
        text="How much each class shows in the training pictures of the "
        f"{'rendered scenes' if rendered else 'real photographs'}: filled dots are its share of labelled pixels, "
        "hollow dots the share of pictures that show it; percent on a logarithmic axis. Counted, not sampled.",
        alt=f"Dot plots of class shares, one panel a class map. By pixels, {listed}.",
    )


def transfer(records: Sequence[Record], gains: pd.DataFrame) -> Caption:
    """Centralised sharing."""
    means = gains.groupby("pair", sort=False)["gain"].mean()
    return Caption(
        text="Gain of training a task centrally with others on one backbone over training it alone (percent of the "
        "main "
        f"metric, positive is better); marks are means over seeds, small dots seeds, {INTERVAL}. "
        f"{run_words(recorded(records), central=True)} No federated method.",
        alt="Gains by task, mean of both arrangements: " + by_name(means, "{:+.1f} %") + ".",
    )


def precision_recall(record: Record, curves: dict[str, Curve]) -> Caption:
    """Edges of single-task models."""
    best = ", ".join(f"{pair_title(name)} {curve.f_T[curve.best]:.3f}" for name, curve in curves.items())
    used = recorded([record])
    return Caption(
        text="Precision over recall of single-task edge models over all thresholds; marks are the best F of one "
        "threshold "
        "for all pictures (ODS-F), grey lines have equal F. The axes are cut above the curves. "
        f"One seed (0). Run: {conditions(used, central=True)}.",
        alt=f"Precision-recall curves; ODS-F: {best}.",
    )


def update_tsne(record: Record, rate: str, perplexities: Sequence[float]) -> Caption:
    """Figure 2."""
    labels = [str(name) for name in record.arrays["labels"]]
    listed = ", ".join(f"{value:g}" for value in perplexities)
    return Caption(
        text=f"t-SNE of the cosine distances between the updates of {len(labels)} models trained from one start at "
        "learning "
        f"rate {rate}, at perplexities {listed}; a point a model, colour the task type, {marks(labels)}; "
        f"names stand beside their points where there is room ({letters(labels)}). Axes have no unit: t-SNE keeps "
        f"neighbourhoods, not distances. Run: {_once(record)}.",
        alt=f"Scatter plots of {len(labels)} updates of {len(set(labels))} tasks for perplexities {listed}.",
    )


def _once(record: Record) -> str:
    return conditions(recorded([record]), central=True)


def _without_rate(record: Record) -> str:
    return _once(record).replace(f", learning rate {record.spec['config']['lr']:g}", "")


def cosine_matrix(records: Sequence[Record], matrices: dict[str, pd.DataFrame]) -> Caption:
    """Cosines behind Figure 2."""
    ends, names = [], map(str, next(iter(matrices.values())))
    for rate, matrix in matrices.items():
        off = matrix.to_numpy()[~np.eye(len(matrix), dtype=bool)]
        ends.append(f"at learning rate {rate} from {off.min():.2f} to {off.max():.2f}")
    return Caption(
        text=f"Mean cosine between the updates of two tasks' models (no unit; {letters(names)}; equal task types are "
        f"framed; a model is not compared with itself); a panel a learning rate. {len(records[0].arrays['labels'])} "
        f"models each. Run: {_without_rate(records[0])}.",
        alt="Heat maps of mean cosines between tasks; between different tasks they reach " + ", ".join(ends) + ".",
    )


def neighbour_bars(frame: pd.DataFrame) -> Caption:
    """What decides the cosines."""
    means = frame[frame["kind"] == "same_task"].set_index("variant")["mean"]
    return Caption(
        text="Mean cosine of two updates by what they share (no unit), for each start of heads and backbone; in "
        "brackets the number of models, which differs; where no learning rate is named it is the runs' own. Bars are "
        "95 % jackknife intervals over the random subsets of pictures, "
        "and an arrow marks one that leaves the axes; none where there are too few subsets.",
        alt="Dot plot; mean cosine of updates of the same task: " + by_name(means, "{:.2f}") + ".",
    )
