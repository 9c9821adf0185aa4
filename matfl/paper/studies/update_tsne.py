"""Figure 2: do models of different tasks, trained from one start, move in different directions? (paper, section 3.3)"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from matfl.config.run_config import RunConfig, override
from matfl.core.extras import require
from matfl.paper.claims import Above, AtLeast, Below, Claim, Part, Rule
from matfl.paper.stats import Estimate, estimate, jackknife
from matfl.paper.studies.base import Plan, base_config, regime, setting, sizes
from matfl.paper.studies.store import Arrays, Record, recorded_config
from matfl.tasks.task import pairs

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "UpdateSet",
    "claims",
    "cosines",
    "embed",
    "extremes",
    "in_words",
    "kinds",
    "losses",
    "mains",
    "pair_matrix",
    "perplexities",
    "plan",
    "rate",
    "similarities",
    "statistics",
    "variants",
]

LAYERS = ("backbone", "voting")
"""Which part of an update is compared: all parameters of the backbone, or its voting layers."""

PAPER_LR, RATE = 1e-4, "learning rate"
"""The paper's (section 4.1), and the word in the titles of the sets that differ by it."""
CLUSTERED, NEAREST = 0.25, 0.9
"""Silhouette above which there is structure (Kaufman and Rousseeuw, 1990), and share of nearest updates."""
ALIKE, UNLIKE = 0.3, 0.1
"""Mean cosine above which two tasks' directions count as alike, and below which as unlike."""


@dataclass(frozen=True, kw_only=True)
class UpdateSet:
    """Single-task models of every pair, each trained on a random subset from one start; their cosines are kept."""

    title: str
    """As written in tables."""
    config: RunConfig
    subsets: int
    """Models per pair."""
    share: float
    """Part of the domain's training images that a model sees."""

    kind = "updates"
    alone = False

    def spec(self) -> dict[str, Any]:
        """Everything that decides the cosines."""
        from matfl.runs.engine import data_version

        return {
            "config": self.config.identity,
            "subsets": self.subsets,
            "share": self.share,
            "data": data_version(self.config),
        }

    def units(self) -> list[str]:
        """One model each: its pair's position and its subset's number."""
        return [f"{p:02d}-{s:02d}" for p in range(len(pairs(self.config.tasks))) for s in range(self.subsets)]

    def labels(self) -> list[str]:
        """Pair name of each model, in the order of `units`."""
        return [pair.name for pair in pairs(self.config.tasks) for _ in range(self.subsets)]

    def compute(self, unit: str, *, device: str | None) -> tuple[dict[str, Any], Arrays]:
        """Train one model; arrays hold the direction of its update (P,)."""
        from matfl.paper.studies.training import single_update

        position, subset = (int(part) for part in unit.split("-"))
        return single_update(self.config, pairs(self.config.tasks)[position], subset, self.share, device=device)

    def combine(self, parts: Sequence[tuple[dict[str, Any], Arrays]]) -> tuple[dict[str, Any], Arrays]:
        """Cosines (M, M) of all models' updates for each entry of `LAYERS`, and each update's cosine with the start."""
        updates = [arrays["update"] for _, arrays in parts]
        voting_P = parts[0][1]["voting"].astype(bool)
        arrays: Arrays = {"labels": np.array(self.labels())}
        for name, chosen_P in zip(LAYERS, (np.ones_like(voting_P), voting_P)):
            arrays[f"cosine_{name}"] = _cosines(updates, chosen_P).astype(np.float32)
        arrays["cos_start"] = np.array([values["cos_start"] for values, _ in parts], np.float32)
        return {
            "title": self.title,
            "losses": [round(values["loss"], 5) for values, _ in parts],
            "images": [values["images"] for values, _ in parts],
        }, arrays


def _cosines(updates: Sequence[NDArray[np.floating]], chosen_P: NDArray[np.bool_]) -> NDArray[np.float64]:
    """(M, M) cosines of M updates (P,), over the chosen parameters alone."""
    gram_MM = np.zeros((len(updates),) * 2)
    for first in range(0, len(chosen_P), 1 << 20):  # float64 products without a float64 copy of everything
        part = slice(first, first + (1 << 20))
        block = np.stack([update[part][chosen_P[part]] for update in updates]).astype(np.float64)
        gram_MM += block @ block.T
    norm_M = np.sqrt(np.diagonal(gram_MM))
    if (norm_M == 0).any():
        raise ValueError("a model did not move from its start: its update has no direction; raise lr or local_epochs")
    return gram_MM / norm_M[:, None] / norm_M[None, :]


def variants(config: RunConfig) -> dict[str, RunConfig]:
    """The other settings of the study by title: head starts, a random backbone."""
    starts = [name for name in ("shared", "per_type", "per_task", "independent") if name != config.head_start]
    found = {f"heads {name}": override(config, head_start=name) for name in starts}
    if config.start != "random":
        found["random start"] = override(config, start="random")
    return found


def plan(preset: str, *, tasks: str = "", subsets: int = 0, epochs: int = 0, settings: str = "") -> Plan:
    """The updates at the learning rate of the federated runs, those at the paper's, then the variants' (fewer models).

    The paper's is left out where the runs use it themselves.
    """
    base, size = base_config(preset, settings), sizes(preset)
    config = setting(
        base,
        tasks or base.tasks,
        method="single_task",
        rounds=1,
        clients_per_task=1,
        images_per_client=0,
        local_epochs=epochs or size.update_epochs,
    )
    many = subsets or size.subsets
    drawn = [config] if config.lr == PAPER_LR else [config, override(config, lr=PAPER_LR)]
    found = [
        UpdateSet(title=f"heads {config.head_start}, {RATE} {each.lr:g}", config=each, subsets=many, share=size.share)
        for each in drawn
    ]
    few = min(size.variant_subsets, many)
    others = [
        UpdateSet(title=title, config=other, subsets=few, share=size.share) for title, other in variants(config).items()
    ]
    return Plan(jobs=(*found, *others))


def mains(records: Sequence[Record]) -> list[Record]:
    """Of a plan's records those that are drawn and judged: one a learning rate, the runs' own first."""
    return [record for record in records if RATE in record.values["title"]]


def rate(record: Record) -> float:
    """The learning rate of a record's models."""
    return recorded_config(record.spec).lr


def losses(records: Sequence[Record]) -> pd.DataFrame:
    """Mean training loss of each pair's models over their epochs: a row a pair, a column a record (its title)."""
    import pandas as pd

    columns = {}
    for record in records:
        labels = [str(name) for name in record.arrays["labels"]]
        values = pd.Series(record.values["losses"], index=labels)
        columns[record.values["title"]] = values.groupby(level=0, sort=False).mean()
    return pd.DataFrame(columns).rename_axis("pair")


def cosines(record: Record, layers: str = "backbone") -> NDArray[np.float64]:
    """(M, M) cosines of a record; `layers` is one of `LAYERS`."""
    if layers not in LAYERS:
        raise ValueError(f"layers={layers!r}: choose from {', '.join(LAYERS)}")
    return record.arrays[f"cosine_{layers}"].astype(np.float64)


def perplexities(models: int) -> tuple[float, ...]:
    """t-SNE's perplexities to draw for a number of models: 5, 15 and 30, none above a third of the others."""
    most = max((models - 1) / 3, 1.0)
    return tuple(dict.fromkeys(round(min(value, most), 1) for value in (5.0, 15.0, 30.0)))


def embed(
    cosine_MM: NDArray[np.floating], labels: Sequence[str], *, seed: int = 0, perplexity: float = 0.0
) -> pd.DataFrame:
    """t-SNE of the cosine distances: columns x, y, pair, perplexity (default: 30, or a third of the other models)."""
    import pandas as pd

    TSNE = require("sklearn.manifold", extra="paper", what="the t-SNE of updates").TSNE

    distance_MM = np.clip(1 - cosine_MM, 0, None)
    chosen = perplexity or perplexities(len(distance_MM))[-1]
    points = TSNE(metric="precomputed", init="random", perplexity=chosen, random_state=seed).fit_transform(distance_MM)
    return pd.DataFrame({"x": points[:, 0], "y": points[:, 1], "pair": list(labels), "perplexity": chosen})


def pair_matrix(cosine_MM: NDArray[np.floating], labels: Sequence[str]) -> pd.DataFrame:
    """Mean cosine between models of two pairs (a model with itself left out)."""
    import pandas as pd

    names = list(dict.fromkeys(labels))
    label_M = np.asarray(labels)
    other_MM = ~np.eye(len(label_M), dtype=bool)
    matrix = np.full((len(names), len(names)), np.nan)
    for i, first in enumerate(names):
        for j, second in enumerate(names):
            block = (label_M[:, None] == first) & (label_M[None, :] == second) & other_MM
            if block.any():
                matrix[i, j] = cosine_MM[block].mean()
    return pd.DataFrame(matrix, index=names, columns=names)


def extremes(matrices: Mapping[str, pd.DataFrame]) -> tuple[float, float]:
    """The least and the greatest number of several `pair_matrix` frames, for one scale of colours."""
    values = np.concatenate([matrix.to_numpy().ravel() for matrix in matrices.values()])
    return float(np.nanmin(values)), float(np.nanmax(values))


def similarities(cosine_MM: NDArray[np.floating], labels: Sequence[str]) -> dict[str, float]:
    """Mean cosine of two models by what they share: task, task type across domains, domain, nothing."""
    label_M = np.asarray(labels)
    domain_M = np.array([name.partition("/")[0] for name in labels])
    type_M = np.array([name.partition("/")[2] for name in labels])
    same_domain, same_type = domain_M[:, None] == domain_M[None, :], type_M[:, None] == type_M[None, :]
    other = ~np.eye(len(label_M), dtype=bool)
    masks = {
        "same_task": same_domain & same_type & other,
        "same_type_other_domain": ~same_domain & same_type,
        "other_type_same_domain": same_domain & ~same_type,
        "other_type_other_domain": ~same_domain & ~same_type,
    }
    return {name: float(cosine_MM[mask].mean()) if mask.any() else float("nan") for name, mask in masks.items()}


def statistics(cosine_MM: NDArray[np.floating], labels: Sequence[str]) -> dict[str, float]:
    """What the picture suggests, as numbers.

    Silhouettes of the cosine distances by pair, by task type and by domain; how often a model's nearest neighbour has
    its pair; of the models whose task type occurs in another domain too, how often the nearest model of another domain
    has that type; and `similarities`.
    """
    silhouette_score = require("sklearn.metrics", extra="paper", what="the silhouette of updates").silhouette_score

    distance_MM = np.clip(1 - cosine_MM, 0, None)
    np.fill_diagonal(distance_MM, 0)
    label_M = np.asarray(labels)
    domain_M = np.array([name.partition("/")[0] for name in labels])
    type_M = np.array([name.partition("/")[2] for name in labels])

    def silhouette(groups: NDArray[np.str_]) -> float:
        count = len(set(groups))
        proper = 1 < count < len(groups)
        return float(silhouette_score(distance_MM, groups, metric="precomputed")) if proper else float("nan")

    apart_MM = distance_MM + np.where(np.eye(len(label_M), dtype=bool), np.inf, 0)
    nearest = label_M[apart_MM.argmin(1)] == label_M
    abroad_MM = np.where(domain_M[:, None] == domain_M[None, :], np.inf, distance_MM)
    shared = [len(set(domain_M[type_M == kind])) > 1 for kind in type_M]
    right = type_M[abroad_MM.argmin(1)] == type_M
    return {
        "silhouette_pair": silhouette(label_M),
        "silhouette_type": silhouette(type_M),
        "silhouette_domain": silhouette(domain_M),
        "nearest_same_task": float(nearest.mean()),
        "nearest_abroad_same_type": float(right[shared].mean()) if any(shared) else float("nan"),
        **similarities(cosine_MM, labels),
    }


def table(records: Sequence[Record], layers: str = "backbone") -> pd.DataFrame:
    """`statistics` of every record, a row each, with the mean cosine of its updates with the starting weights."""
    import pandas as pd

    rows = []
    for record in records:
        labels = [str(name) for name in record.arrays["labels"]]
        rows.append(
            {
                "variant": record.values["title"],
                "models": len(labels),
                **statistics(cosines(record, layers), labels),
                "cos_start": float(record.arrays["cos_start"].mean()),
            }
        )
    return pd.DataFrame(rows)


START_WORDS = {
    "heads shared": "heads equal where shapes are",
    "heads per_type": "heads equal within a type",
    "heads per_task": "heads equal within a task",
    "heads independent": "heads all different",
    "random start": "random backbone",
}
"""How figures call the variants (`head_start` of a run's config, and the start of the backbone)."""


def kinds(records: Sequence[Record], layers: str = "backbone") -> pd.DataFrame:
    """Mean cosines by what two updates share, with jackknife intervals over the subsets, for every record.

    Columns: variant (in words), models, kind (a key of `similarities`), mean, low, high.
    """
    import pandas as pd

    rows = []
    for record in records:
        labels = [str(name) for name in record.arrays["labels"]]
        cosine_MM = cosines(record, layers)
        words = in_words(str(record.values["title"]))
        for kind, value in similarities(cosine_MM, labels).items():
            if np.isnan(value):
                continue
            found = _over_subsets(_similarity(kind), cosine_MM, labels)
            rows.append(
                {
                    "variant": words,
                    "models": len(labels),
                    "kind": kind,
                    "mean": value,
                    "low": found.low,
                    "high": found.high,
                }
            )
    return pd.DataFrame(rows, columns=["variant", "models", "kind", "mean", "low", "high"])


def in_words(title: str) -> str:
    """A record's title as figures and tables write it."""
    start, _, rest = title.partition(", ")
    return START_WORDS.get(start, start) + (f", {rest}" if rest else "")


def _similarity(kind: str) -> Callable[[NDArray[np.floating], list[str]], float]:
    return lambda cosine_MM, labels: similarities(cosine_MM, labels)[kind]


def claims(record: Record, layers: str = "backbone") -> list[Claim]:
    """Section 3.3: updates cluster by task, task type outweighs domain, every task has friends and enemies.

    Intervals are jackknifed over the subsets, each in turn left out of every pair; of what is said of tasks at large,
    they are over types of task.
    """
    labels = [str(name) for name in record.arrays["labels"]]
    cosine_MM = cosines(record, layers)
    where = regime(recorded_config(record.spec), central=True)
    found = statistics(cosine_MM, labels)

    def part(statistic: str, of: Callable[[NDArray[np.floating], list[str]], float], rule: Rule) -> Part:
        return Part(statistic=statistic, value=_over_subsets(of, cosine_MM, labels), rule=rule)

    result = [
        Claim(
            text="Updates cluster by task.",
            parts=(
                part("silhouette by task", lambda c, n: statistics(c, n)["silhouette_pair"], Above(CLUSTERED)),
                part(
                    "share of updates whose nearest is of the same task",
                    lambda c, n: statistics(c, n)["nearest_same_task"],
                    AtLeast(NEAREST),
                ),
            ),
            note=f"Silhouette by domain {found['silhouette_domain']:.2f}.",
            regime=where,
        )
    ]
    if np.isfinite(found["same_type_other_domain"]):
        gaps = type_gaps(cosine_MM, labels)
        by_type: dict[str, list[float]] = {}
        for name, gap in gaps.items():
            by_type.setdefault(name.partition("/")[2], []).append(gap)
        over_types = Part(
            statistic="mean cosine with the same type in the other domain minus with the other tasks of its own, over "
            "the types that are in both",
            value=estimate([fmean(values) for values in by_type.values()]),
            rule=Above(0),
        )
        jackknifed = _over_subsets(lambda c, n: float(np.mean(list(type_gaps(c, n).values()))), cosine_MM, labels)
        result.append(
            Claim(
                text="A task's updates are more like those of its type on the other data set than like those of other "
                "tasks on its own.",
                parts=(over_types,),
                note="The interval is over types, whose tasks share a cosine; over subsets of their pictures "
                f"{jackknifed.low:.2f} to {jackknifed.high:.2f}. By task "
                + ", ".join(f"{name} {gap:+.2f}" for name, gap in gaps.items())
                + f". Same task {found['same_task']:.2f}.",
                regime=where,
            )
        )
        if segmentations := list(_segmentation_gaps(cosine_MM, labels)):
            result.append(
                Claim(
                    text="Each domain's segmentation updates are closer to the other domain's segmentation than to any "
                    "other task of their own.",
                    parts=tuple(
                        part(
                            f"{name}: mean cosine with the other domain's minus with the closest other task of its own",
                            _segmentation_gap(name),
                            Above(0),
                        )
                        for name in segmentations
                    ),
                    regime=where,
                )
            )
    if len(set(labels)) > 2:
        matrix = pair_matrix(cosine_MM, labels).to_numpy()
        off = matrix[~np.eye(len(matrix), dtype=bool)]
        result.append(
            Claim(
                text="Every task has friends and enemies: other tasks whose direction is like its own, and others "
                "whose direction is unlike it.",
                parts=(
                    part("closest other task, lowest over tasks, mean cosine", _least_friend, Above(ALIKE)),
                    part("farthest other task, highest over tasks, mean cosine", _least_enemy, Below(UNLIKE)),
                ),
                note=f"Between different tasks mean cosines reach from {off.min():.2f} to {off.max():.2f}.",
                regime=where,
            )
        )
    return result


def _over_subsets(
    of: Callable[[NDArray[np.floating], list[str]], float], cosine_MM: NDArray[np.floating], labels: list[str]
) -> Estimate:
    """A statistic of all models, jackknifed over the subsets (the s-th model of every pair is left out together)."""
    seen: dict[str, int] = {}
    number_M = np.array([seen.setdefault(name, -1) for name in labels])
    for i, name in enumerate(labels):
        seen[name] += 1
        number_M[i] = seen[name]
    left = []
    for number in range(number_M.max() + 1 if number_M.max() > 1 else 0):
        kept = np.flatnonzero(number_M != number)
        left.append(of(cosine_MM[np.ix_(kept, kept)], [labels[i] for i in kept]))
    return jackknife(of(cosine_MM, labels), left)


def _twins(labels: Sequence[str]) -> dict[str, tuple[list[str], list[str]]]:
    """Task whose type is in another domain too -> the tasks of its type there, and the others of its domain."""
    names = list(dict.fromkeys(labels))
    found = {}
    for name in names:
        domain, _, kind = name.partition("/")
        there = [other for other in names if other.endswith(f"/{kind}") and other != name]
        beside = [other for other in names if other.startswith(f"{domain}/") and other != name]
        if there and beside:
            found[name] = there, beside
    return found


def type_gaps(cosine_MM: NDArray[np.floating], labels: Sequence[str]) -> dict[str, float]:
    """Mean cosine with its type in other domains minus with the other tasks of its own, of each task that has both.

    Both means are of the same task's updates, so tasks whose type is in one domain alone do not count on one side.
    """
    matrix = pair_matrix(cosine_MM, labels)
    return {
        name: float(matrix.loc[name, there].mean() - matrix.loc[name, beside].mean())
        for name, (there, beside) in _twins(labels).items()
    }


def _segmentation_gaps(cosine_MM: NDArray[np.floating], labels: Sequence[str]) -> dict[str, float]:
    """Each segmentation: mean cosine with other domains' segmentation minus with the closest other task beside it."""
    matrix = pair_matrix(cosine_MM, labels)
    return {
        name: float(matrix.loc[name, there].mean() - matrix.loc[name, beside].max())
        for name, (there, beside) in _twins(labels).items()
        if name.endswith("/semseg")
    }


def _segmentation_gap(name: str) -> Callable[[NDArray[np.floating], list[str]], float]:
    return lambda cosine_MM, labels: _segmentation_gaps(cosine_MM, labels)[name]


def _least_friend(cosine_MM: NDArray[np.floating], labels: Sequence[str]) -> float:
    """Each task's mean cosine with its closest other task; the lowest of them."""
    matrix = pair_matrix(cosine_MM, labels).to_numpy(copy=True)
    np.fill_diagonal(matrix, -np.inf)
    return float(matrix.max(1).min())


def _least_enemy(cosine_MM: NDArray[np.floating], labels: Sequence[str]) -> float:
    """Each task's mean cosine with its farthest other task; the highest of them."""
    matrix = pair_matrix(cosine_MM, labels).to_numpy(copy=True)
    np.fill_diagonal(matrix, np.inf)
    return float(matrix.min(1).max())
