"""How frequent the classes of a split are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from matfl.tasks.kinds import ClassMap
from matfl.tasks.task import TASKS

if TYPE_CHECKING:
    import pandas as pd

    from matfl.data import Split

__all__ = ["class_table", "class_tables"]


def class_tables(found: Mapping[str, Mapping[str, Split]]) -> dict[str, pd.DataFrame]:
    """`class_table` of every class map of the training splits, by pair name."""
    tables = {}
    for domain, both in found.items():
        for task in both["train"].domain.channels:
            if isinstance(TASKS[task], ClassMap):
                names = both["train"].class_names.get(task)
                tables[f"{domain}/{task}"] = class_table(both["train"], task, names)
    return tables


def class_table(split: Split, task: str, names: Sequence[str] | None = None) -> pd.DataFrame:
    """Each class's share of the labelled pixels and of the images that show it: columns class_name, share, images."""
    import pandas as pd

    channels = split.domain.channels[task]
    count = np.zeros(channels, np.int64)
    shown = np.zeros(channels, np.int64)
    for i in range(len(split)):
        found = np.bincount(np.asarray(split.labels[task][i]).reshape(-1), minlength=256)[:channels]
        count += found
        shown += found > 0
    titles = list(names) if names is not None else [str(c) for c in range(channels)]
    return pd.DataFrame({"class_name": titles, "share": count / max(count.sum(), 1), "images": shown / len(split)})
