"""What the models see: predictions of one seed's finished models on a few validation pictures, kept as a result.

The predictions are stored and not the models: of a network of width 16 one takes 2 MB in half precision, its answers on
eight pictures a tenth of that. Only rendered pictures: photographs, and what is drawn on them, are not stored.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch

from matfl.config.run_config import RunConfig, from_dict
from matfl.paper.names import method_title, metric_title, pair_title
from matfl.paper.shown import Caption
from matfl.paper.studies.base import base_config, setting
from matfl.paper.studies.store import Arrays, Record, job_name
from matfl.runs.workspace import Workspace
from matfl.tasks.task import Pair, pair, pairs

__all__ = ["ABSENT", "METHODS_SHOWN", "Predicted", "Predictions", "jobs_at_hand", "of"]

METHODS_SHOWN = ("single_task", "fedavg", "matfl")
"""The columns: alone, averaged over all tasks, and by friends."""

ABSENT = (
    "No predictions are stored for this preset. They are made from the weights of its runs of seed 0, which records do "
    "not hold: `matfl run PRESET --method single_task`, then fedavg and matfl, and draw again. Of photographs none are "
    "stored."
)
"""What a notebook says without them."""


@dataclass(frozen=True, kw_only=True)
class Predictions:
    """Answers and scores of several runs' task models on the first validation pictures of each domain."""

    configs: tuple[RunConfig, ...]
    """One run a method, equal in everything else."""
    images: int = 8

    kind = "predictions"
    alone = False

    def spec(self) -> dict[str, Any]:
        """Everything that decides the answers."""
        from matfl.runs.engine import data_version

        configs = [config.identity for config in self.configs]
        return {"configs": configs, "images": self.images, "data": data_version(self.configs[0])}

    def units(self) -> list[str]:
        """The methods."""
        return [config.method for config in self.configs]

    def compute(self, unit: str, *, device: str | None) -> tuple[dict[str, Any], Arrays]:
        """Scores by pair, one a picture, and answers by `method/domain/task`. RunError where the weights are lost."""
        from matfl.client.training import answers
        from matfl.data import load_split

        (config,) = (config for config in self.configs if config.method == unit)
        models = weights(config).models
        scores: dict[str, list[float]] = {}
        arrays: Arrays = {}
        for p in pairs(config.tasks):
            split = load_split(config, p.domain, "val")
            pictures = torch.from_numpy(np.stack([np.asarray(split.images[i]) for i in range(self.images)]))
            targets = [torch.from_numpy(np.array(split.labels[p.task.name][i])) for i in range(self.images)]
            (found,) = answers(models[p.name], pictures, p, config, size=pictures.shape[-2:])  # type: ignore[arg-type]
            scores[p.name] = [_score(p, config, one, target) for one, target in zip(found, targets)]
            arrays[f"{unit}/{p.name}"] = _packed(found.float().numpy() if found.is_floating_point() else found.numpy())
        return {"method": unit, "scores": scores}, arrays

    def combine(self, parts: Sequence[tuple[dict[str, Any], Arrays]]) -> tuple[dict[str, Any], Arrays]:
        """Scores by method and pair; all answers."""
        arrays = {name: array for _, found in parts for name, array in found.items()}
        return {"scores": {values["method"]: values["scores"] for values, _ in parts}}, arrays


def weights(config: RunConfig) -> Any:
    """The run with its weights. RunError where the store has none."""
    from matfl.runs.run import find_run
    from matfl.runs.store import RunError

    run = find_run(config, Workspace().without_records())
    if run is None or not (run.path / "checkpoint.safetensors").exists():
        raise RunError(f"no weights of {config.name} in {Workspace().runs}: train that run, records cannot predict")
    return run


def _packed(values: np.ndarray) -> np.ndarray:
    """Class indices as they are, numbers in half precision with three digits."""
    return values if values.dtype == np.uint8 else np.round(values, 3).astype(np.float16)


def _score(p: Pair, config: RunConfig, answer: torch.Tensor, target: torch.Tensor) -> float:
    """The pair's main metric on one picture."""
    meter = p.meter(edge_protocol=config.edge_protocol)
    meter.update(answer[None], target[None])
    return float(meter.compute()[p.task.main_metric])


def _job(preset: str) -> Predictions:
    base = base_config(preset)
    return Predictions(configs=tuple(setting(base, base.tasks, method=name, seed=0) for name in METHODS_SHOWN))


def jobs_at_hand(preset: str) -> tuple[Predictions, ...]:
    """The job, where its record is stored or can be made from weights in the store: nothing is trained for it."""
    from matfl.runs.store import RunError

    job = _job(preset)
    if not all(p.domain.rendered for p in pairs(job.configs[0].tasks)):
        return ()
    place = Workspace()
    if any((folder / job_name(job) / "record.json").exists() for folder in (place.runs, *place.records)):
        return (job,)
    try:
        for config in job.configs:
            weights(config)
    except RunError:
        return ()
    return (job,)


def of(records: Sequence[Record]) -> Predicted | None:
    """The predictions among a plan's records, None where there are none."""
    found = [record for record in records if record.path.name.startswith(f"{Predictions.kind}-")]
    return Predicted(found[0]) if found else None


@dataclass(frozen=True)
class Predicted:
    """Stored predictions beside the pictures and labels that they are for."""

    record: Record

    @cached_property
    def config(self) -> RunConfig:
        """Of the first method's run; the others' differ in the method alone."""
        return from_dict(self.record.spec["configs"][0])

    @property
    def methods(self) -> tuple[str, ...]:
        """Names, in order."""
        return tuple(self.record.values["scores"])

    @property
    def pairs(self) -> tuple[str, ...]:
        """Names of the (domain, task) pairs."""
        return tuple(p.name for p in pairs(self.config.tasks))

    @property
    def images(self) -> int:
        """Pictures of each domain."""
        return int(self.record.spec["images"])

    @cached_property
    def _splits(self) -> dict[str, Any]:
        from matfl.data import load_split

        domains = dict.fromkeys(p.domain.name for p in pairs(self.config.tasks))
        return {domain: load_split(self.config, domain, "val") for domain in domains}

    @property
    def caption(self) -> Caption:
        """Of the static figure."""
        tasks = ", ".join(f"{pair_title(name)}, picture {image}" for name, image in self.chosen())
        methods = ", ".join(map(method_title, self.methods))
        return Caption(
            text=f"Validation pictures of seed {self.config.seed}, their labels, and the predictions of the finished "
            f"task models ({methods}); above each its main metric on this picture alone, n = 1. Rows: {tasks}.",
            alt=f"Grid of pictures: image, label and predictions of {methods} for {tasks}.",
        )

    def row(self, name: str, image: int) -> list[tuple[str, np.ndarray]]:
        """(title, picture) of one task on one image: the image, its label, each method's prediction with its score.

        Raises ValueError for an image that is not stored.
        """
        if not 0 <= image < self.images:
            raise ValueError(f"image={image}: choose 0..{self.images - 1}")
        p = pair(name)
        split = self._splits[p.domain.name]
        picture = np.moveaxis(np.asarray(split.images[image]), 0, -1)
        label = np.asarray(split.labels[p.task.name][image])
        shown = [("image", picture), (f"label: {p.task.title}", p.task.draw(label, p.channels))]
        for method in self.methods:
            answer = self.record.arrays[f"{method}/{name}"][image]
            drawn = p.task.draw(answer if answer.dtype == np.uint8 else answer.astype(np.float32), p.channels)
            score = self.record.values["scores"][method][name][image]
            metric = metric_title(name).replace("(degrees)", "(°)")  # a picture is no wider than that
            shown.append((f"{method_title(method)}\n{metric} {score:.2f}", drawn))
        return shown

    def chosen(self) -> list[tuple[str, int]]:
        """(pair, image) of the static figure: five tasks, each on another picture."""
        wanted = ("outdoor/semseg", "outdoor/human_parts", "outdoor/normals", "indoor/semseg", "indoor/depth")
        there = [name for name in wanted if name in self.pairs] or list(self.pairs[:5])
        return [(name, number % self.images) for number, name in enumerate(there)]
