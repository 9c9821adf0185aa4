"""Real photographs in numbers: how many there are, how frequent their classes are, what a constant answer scores.

The numbers are stored like any other result, so they can be shown where the photographs themselves may not be.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from matfl.config.run_config import preset
from matfl.paper.studies import constants
from matfl.paper.studies.base import base_config
from matfl.paper.studies.classes import class_tables as tables_of
from matfl.paper.studies.constants import ConstantAnswers
from matfl.paper.studies.store import Arrays, Record, job_name
from matfl.server.methods import METHODS
from matfl.tasks.task import TASKS, pair, pairs

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Photographs", "class_tables", "jobs_at_hand", "levels", "levels_jobs", "table"]


@dataclass(frozen=True, kw_only=True)
class Photographs(ConstantAnswers):
    """What the labels of a config's domains look like in numbers, at the config's size and on its splits."""

    kind = "photographs"

    def compute(self, unit: str, *, device: str | None) -> tuple[dict[str, Any], Arrays]:
        """Numbers of images, class tables and constant answers of one domain."""
        from matfl.runs.engine import load_splits

        constant, arrays = ConstantAnswers.compute(self, unit, device=device)
        splits = load_splits(self.only(unit))
        return {
            "images": {name: len(split) for name, split in splits[unit].items()},
            "classes": {name: found.to_dict("list") for name, found in tables_of(splits).items()},
            "constant": constant,
        }, arrays

    def combine(self, parts: Sequence[tuple[dict[str, Any], Arrays]]) -> tuple[dict[str, Any], Arrays]:
        """The units' numbers by domain."""
        return {"domains": {unit: values for unit, (values, _) in zip(self.units(), parts, strict=True)}}, {}


def jobs_at_hand() -> tuple[Photographs, ...]:
    """The job of preset `photos`, if its numbers are stored or its photographs are there; else none."""
    from matfl.data.cache import DataError
    from matfl.data.photos.readers import PhotosReader
    from matfl.data.readers import READERS
    from matfl.runs.workspace import Workspace

    job, place = Photographs(config=preset("photos")), Workspace()
    if any((folder / job_name(job) / "record.json").exists() for folder in (place.runs, *place.records)):
        return (job,)
    try:
        for p in pairs(job.config.tasks):
            reader = READERS.find(p.domain.reader)
            assert isinstance(reader, PhotosReader)
            reader.locate(place.data)
    except DataError:
        return ()
    return (job,)


def levels_jobs(name: str, *, seeds: int = 0, settings: str = "") -> tuple[ConstantAnswers, ...]:
    """What a preset's `levels` are read from: constant answers on rendered pictures, or the photographs' numbers.

    None for other data, whose pictures would have to be read.
    """
    base = base_config(name, settings, methods=tuple(METHODS))
    if all(p.domain.rendered for p in pairs(base.tasks)):
        return constants.jobs(name, seeds=seeds, settings=settings)
    same = (base.tasks, base.size) == (preset("photos").tasks, preset("photos").size)
    return jobs_at_hand() if same else ()


def levels(records: Sequence[Record]) -> pd.DataFrame:
    """The best constant answers of every pair in the records of `levels_jobs`: columns pair, chance."""
    import pandas as pd

    stored = [
        {"pair": name, "chance": value}
        for record in records
        for values in record.values.get("domains", {}).values()
        for name, value in values["constant"].items()
    ]
    return pd.DataFrame(stored) if stored else constants.levels(records)


def table(records: Sequence[Record]) -> pd.DataFrame:
    """A row a pair: images for training and validation, whether its labels are derived, the best constant answer."""
    import pandas as pd

    rows = []
    for record in records:
        for values in record.values["domains"].values():
            for name, constant in values["constant"].items():
                chosen = pair(name)
                rows.append(
                    {
                        "pair": name,
                        "training": values["images"]["train"],
                        "validation": values["images"]["val"],
                        "labels": "derived" if chosen.task.name in chosen.domain.derived else "published",
                        "metric": TASKS[chosen.task.name].main_metric,
                        "constant": constant,
                    }
                )
    return pd.DataFrame(rows, columns=["pair", "training", "validation", "labels", "metric", "constant"])


def class_tables(records: Sequence[Record]) -> dict[str, pd.DataFrame]:
    """`class_table` of every class map without classes that no image shows (ignored ones), by pair name."""
    import pandas as pd

    return {
        name: pd.DataFrame(columns).query("images > 0")
        for record in records
        for values in record.values["domains"].values()
        for name, columns in values["classes"].items()
    }
