"""What all captions say: how many seeds, and under which conditions."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from matfl.config.run_config import RunConfig
from matfl.paper.names import domain_letter, is_derived, method_title, pair_title
from matfl.paper.studies.base import regime
from matfl.paper.studies.store import recorded_config
from matfl.tasks.definitions import DOMAINS

if TYPE_CHECKING:
    import pandas as pd

    from matfl.paper.studies.store import Record
    from matfl.paper.studies.tables import RunLike

__all__ = [
    "ENDS",
    "INTERVAL",
    "by_name",
    "conditions",
    "configs_of",
    "letters",
    "marks",
    "recorded",
    "run_words",
    "seeds",
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


def conditions(configs: Iterable[RunConfig], *, central: bool = False) -> str:
    """What was run: the regimes in words, those that differ in their domains alone in one."""
    where: dict[str, list[str]] = {}
    for config in configs:
        domains, _, rest = regime(config, central=central).partition(" at ")
        where.setdefault(rest, []).append(domains.removeprefix("on "))
    found = [f"on {', and on '.join(dict.fromkeys(names))} at {rest}" for rest, names in where.items()]
    return "; ".join(found)


def run_words(configs: Sequence[RunConfig], *, central: bool = False) -> str:
    """The last sentences of a caption."""
    return f"{seeds(configs)}. Run: {conditions(configs, central=central)}."


def configs_of(runs: Iterable[RunLike]) -> list[RunConfig]:
    """The runs' configs."""
    return [run.config for run in runs]


def recorded(records: Iterable[Record]) -> list[RunConfig]:
    """The configs of records that have one: of training without a federation (`central`)."""
    return [recorded_config(record.spec) for record in records if "config" in record.spec]


def marks(pairs: Iterable[str]) -> str:
    """Which domain has which mark: `squares indoor scenes, circles outdoor scenes`."""
    shapes = {True: "squares", False: "circles"}
    found = [DOMAINS[name] for name in dict.fromkeys(pair.partition("/")[0] for pair in pairs)]
    return ", ".join(f"{shapes[domain.indoor]} {domain.title}" for domain in sorted(found, key=lambda d: not d.indoor))


def letters(pairs: Iterable[str]) -> str:
    """What the letters after a task's short name say: `O outdoor scenes, I indoor scenes`, `d derived labels`."""
    names = list(pairs)
    found = dict.fromkeys(pair.partition("/")[0] for pair in names)
    words = [f"{domain_letter(domain)} {DOMAINS[domain].title}" for domain in found]
    return ", ".join(words + ["d derived labels"] * any(map(is_derived, names)))


def by_name(means: pd.Series, form: str = "{:+.1f}") -> str:
    """`MaT-FL -2.0, FedProx -5.4` for a series by method or other words."""
    words = (pair_title(str(name)) if "/" in str(name) else method_title(str(name)) for name in means.index)
    return ", ".join(f"{word} {form.format(value)}" for word, value in zip(words, means))
