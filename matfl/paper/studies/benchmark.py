"""What the benchmark can show: its pictures and classes, and transfer between tasks without any federated method."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from matfl.config.run_config import RunConfig
from matfl.paper.claims import Above, Claim, Part
from matfl.paper.names import pair_title
from matfl.paper.shown import Words
from matfl.paper.stats import estimate, holm_adjusted
from matfl.paper.studies import constants, photographs
from matfl.paper.studies.base import Plan, base_config, regime, report_seeds, setting, sizes
from matfl.paper.studies.classes import class_table, class_tables
from matfl.paper.studies.store import Arrays, Record, recorded_config
from matfl.tasks.task import DOMAINS, pairs, parts_of, task_of

if TYPE_CHECKING:
    import pandas as pd

    from matfl.data import Split
    from matfl.tasks.edges import Curve

__all__ = [
    "CentralTest",
    "apart",
    "claims",
    "class_table",
    "class_tables",
    "class_words",
    "edge_curves",
    "gains",
    "mean_gains",
    "partition_sentence",
    "pictures",
    "plan",
    "score_table",
    "scores",
    "shares",
    "splits",
]

SHARING = ("none", "domain", "all")
"""Which tasks share a backbone: none (single-task), those of one domain, all of them."""


@dataclass(frozen=True, kw_only=True)
class CentralTest:
    """Centralised training of one seed: each task alone, with its domain's other tasks, and with all others.

    A task's images are those of its clients in the federated runs; every task takes the same number of steps in every
    arrangement, `config.rounds x config.local_epochs` passes.
    """

    config: RunConfig

    kind = "central"
    alone = False

    def spec(self) -> dict[str, Any]:
        """Everything that decides the scores."""
        from matfl.runs.engine import data_version

        return {"config": self.config.identity, "data": data_version(self.config), "arrays": "edges"}

    def groups(self) -> dict[str, list[str]]:
        """Unit name -> pair names that share a backbone. The unit's first part is an entry of `SHARING`."""
        names = [pair.name for pair in parts_of(self.config.tasks)]
        domains = list(dict.fromkeys(name.partition("/")[0] for name in names))
        groups = {f"none-{name.replace('/', '_')}": [name] for name in names}
        groups |= {f"domain-{domain}": [name for name in names if name.startswith(domain + "/")] for domain in domains}
        return groups | ({"all": names} if len(domains) > 1 else {})

    def units(self) -> list[str]:
        """One group of tasks each."""
        return list(self.groups())

    def compute(self, unit: str, *, device: str | None) -> tuple[dict[str, Any], Arrays]:
        """Train one group; values hold every pair's metrics, arrays an edge task's precision, recall and F (3, T)."""
        from matfl.paper.studies.training import train_centrally
        from matfl.tasks.edges import EdgeMeter

        meters = train_centrally(self.config, self.groups()[unit], device=device)
        curves = {name: meter.curve() for name, meter in meters.items() if isinstance(meter, EdgeMeter)}
        return (
            {"metrics": {name: meter.compute() for name, meter in meters.items()}},
            {name: np.stack([curve.precision_T, curve.recall_T, curve.f_T]) for name, curve in curves.items()},
        )

    def combine(self, parts: Sequence[tuple[dict[str, Any], Arrays]]) -> tuple[dict[str, Any], Arrays]:
        """Metrics by arrangement and pair; arrays are named by both, as in `none/outdoor/edge`."""
        metrics: dict[str, dict[str, Any]] = {kind: {} for kind in SHARING}
        curves: Arrays = {}
        for unit, (values, arrays) in zip(self.units(), parts, strict=True):
            kind = unit.partition("-")[0]
            metrics[kind] |= values["metrics"]
            curves |= {f"{kind}/{name}": curve for name, curve in arrays.items()}
        return {"seed": self.config.seed, "metrics": {kind: found for kind, found in metrics.items() if found}}, curves


def plan(preset: str, *, seeds: int = 0, settings: str = "") -> Plan:
    """The transfer test and constant answers, once a seed, and numbers of the photographs where they are at hand."""
    base, size = base_config(preset, settings), sizes(preset)
    tests = [
        CentralTest(config=setting(base, base.tasks, method="single_task", seed=seed))
        for seed in report_seeds(seeds or size.seeds)
    ]
    chance = constants.jobs(preset, seeds=seeds, settings=settings)
    return Plan(jobs=(*tests, *chance, *photographs.jobs_at_hand()))


def apart(records: Sequence[Record]) -> tuple[list[Record], list[Record]]:
    """The records of the transfer test, and those of photographs (`matfl.paper.studies.photographs`)."""
    kinds = [record.path.name.partition("-")[0] for record in records]
    tests = [record for record, kind in zip(records, kinds) if kind == CentralTest.kind]
    return tests, [record for record, kind in zip(records, kinds) if kind == photographs.Photographs.kind]


def scores(records: Sequence[Record]) -> pd.DataFrame:
    """Main metric of every pair: columns sharing, pair, seed, value; in the order of `SHARING` and of the pairs."""
    import pandas as pd

    rows = []
    for record in records:
        names = [pair.name for pair in parts_of(recorded_config(record.spec).tasks)]
        for kind in SHARING:
            found = record.values["metrics"].get(kind, {})
            rows += [
                {
                    "sharing": kind,
                    "pair": name,
                    "seed": record.values["seed"],
                    "value": found[name][task_of(name).main_metric],
                }
                for name in names
                if name in found
            ]
    return pd.DataFrame(rows)


def edge_curves(record: Record, sharing: str = "none") -> dict[str, Curve]:
    """Precision and recall of every edge task of one seed's models, by pair name."""
    from matfl.tasks.edges import PROTOCOLS, Curve

    protocol = PROTOCOLS[recorded_config(record.spec).edge_protocol]
    found = {}
    for name, (precision_T, recall_T, f_T) in record.arrays.items():
        kind, _, pair_name = name.partition("/")
        if kind == sharing:
            found[pair_name] = Curve(
                protocol=protocol.name,
                thresholds_T=np.array(protocol.thresholds),
                precision_T=precision_T,
                recall_T=recall_T,
                f_T=f_T,
            )
    return found


def score_table(frame: pd.DataFrame, chance: pd.DataFrame) -> pd.DataFrame:
    """Mean over seeds of every arrangement (`scores`) beside the constant answer (`constants.levels`), a row a pair."""
    wide = frame.pivot_table(index="pair", columns="sharing", values="value", sort=False)
    return chance.set_index("pair").join(wide[[kind for kind in SHARING if kind in wide]])


def gains(frame: pd.DataFrame) -> pd.DataFrame:
    """Relative gain (percent, positive is better) of sharing over the same seed's single-task model."""
    single = frame[frame["sharing"] == "none"].set_index(["pair", "seed"])["value"]
    shared = frame[frame["sharing"] != "none"].copy()
    reference = np.array([single[key] for key in zip(shared["pair"], shared["seed"])])
    sign = np.array([1 if task_of(name).higher_is_better else -1 for name in shared["pair"]])
    shared["gain"] = 100 * sign * (shared["value"].to_numpy() - reference) / reference
    return shared.reset_index(drop=True)


def mean_gains(frame: pd.DataFrame) -> pd.DataFrame:
    """`gains` averaged over all tasks, over those of each domain, over all but the one that gains most, and over all
    but the one that gains least.

    Columns: sharing, over (in words), mean, low, high (95 % t interval over seeds), seeds.
    """
    import pandas as pd

    by_pair = frame.groupby("pair", sort=False)["gain"].mean()
    domain = frame["pair"].str.partition("/")[0]
    groups = {"all tasks": frame["pair"].notna()}
    groups |= {f"those of {DOMAINS[name].title}": domain == name for name in domain.unique() if (domain != name).any()}
    groups |= {
        f"all but {pair_title(str(name))}": frame["pair"] != name for name in (by_pair.idxmax(), by_pair.idxmin())
    }
    rows = []
    for kind in dict.fromkeys(frame["sharing"]):
        for over, chosen in groups.items():
            found = estimate(frame[chosen & (frame["sharing"] == kind)].groupby("seed")["gain"].mean())
            row = {"sharing": kind, "over": over, "mean": found.mean, "low": found.low, "high": found.high}
            rows.append(row | {"seeds": found.n})
    return pd.DataFrame(rows)


def claims(records: Sequence[Record]) -> list[Claim]:
    """Whether tasks help each other here at all, without any federated method."""
    frame, where = gains(scores(records)), regime(recorded_config(records[0].spec), central=True)
    titles = {"domain": "the other tasks of its domain", "all": "all other tasks of both domains"}
    by_seed = {
        str(kind): estimate(chosen.groupby("seed")["gain"].mean())
        for kind, chosen in frame.groupby("sharing", sort=False)
    }
    result = []
    for kind, value in holm_adjusted(by_seed).items():
        chosen, title = frame[frame["sharing"] == kind], titles[kind]
        by_pair = chosen.groupby("pair", sort=False)["gain"].mean()
        mean = Part(
            statistic="gain over single-task training, mean over tasks, %",
            value=value,
            rule=Above(0),
            digits=1,
        )
        result.append(
            Claim(
                text=f"Trained centrally, a task gains on average from sharing its backbone with {title}.",
                parts=(mean,),
                note=f"{(by_pair > 0).sum()} of {len(by_pair)} tasks gain, the most {by_pair.idxmax()} "
                f"({by_pair.max():+.1f} %), the least {by_pair.idxmin()} ({by_pair.min():+.1f} %).",
                regime=where,
            )
        )
    return result


def pictures(split: Split, indices: Sequence[int]) -> list[tuple[str, list[np.ndarray]]]:
    """Columns of `plots.gallery`: the images, then each task's labels."""
    columns = [("image", [np.asarray(split.images[i]) for i in indices])]
    for task in split.domain.channels:
        columns.append((f"{split.domain.name}/{task}", [np.asarray(split.labels[task][i]) for i in indices]))
    return columns


def splits(preset: str, settings: str = "") -> dict[str, dict[str, Split]]:
    """Domain name -> its 'train' and 'val' split, for every domain of the preset; none where no photographs are given.

    Scores are drawn from records alone, so a preset of photographs can be looked at without them.
    """
    from matfl.runs.engine import load_splits
    from matfl.runs.workspace import Workspace

    base = base_config(preset, settings)
    made = all(p.domain.rendered or p.domain.source for p in pairs(base.tasks))
    return load_splits(base) if made or Workspace().data else {}


def shares(found: Mapping[str, Mapping[str, Split]], preset: str, settings: str = "", *, seed: int = 0) -> pd.DataFrame:
    """One seed's partition of `splits`: columns client, pair, images; empty without splits."""
    import pandas as pd

    from matfl.data import partition

    base = base_config(preset, settings)
    config = setting(base, base.tasks, seed=seed)
    clients = partition(config, {domain: both["train"] for domain, both in found.items()}) if found else []
    rows = [(client.index, client.pair.name, len(client.images)) for client in clients]
    return pd.DataFrame(rows, columns=["client", "pair", "images"])


def partition_sentence(frame: pd.DataFrame) -> Words:
    """A `shares` frame in a sentence: how many images most clients have, and which have another number."""
    if frame.empty:
        return Words("The pictures are not at hand: `matfl data fetch` brings them, MATFL_DATA says where they are.")
    usual = int(frame["images"].mode().iloc[0])
    other = frame[frame["images"] != usual]
    listed = [
        f"those of {pair_title(str(name))} {' and '.join(map(str, group['images']))}"
        for name, group in other.groupby("pair", sort=False)
    ]
    rest = f"; {', '.join(listed)}" if listed else ""
    return Words(
        f"{len(frame) - len(other)} clients have {usual} training images each{rest}. No image is in two clients."
    )


def class_words(found: Mapping[str, Mapping[str, Split]], domain: str) -> dict[str, tuple[str, ...]]:
    """Names of the classes of a domain's class maps, by task; tasks without names are left out."""
    return {task: tuple(names) for task, names in found[domain]["train"].class_names.items()}
