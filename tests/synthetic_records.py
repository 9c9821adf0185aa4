"""Made-up results of every kind of job that notebooks draw from, with seeds that differ."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from synthetic_runs import scores

from matfl.data import load_split
from matfl.paper.studies.store import Job, Record, job_name
from matfl.tasks.edges import PROTOCOLS
from matfl.tasks.task import pairs, task_of

MACHINE = {"device": "cpu", "processor": "made up", "cores": 2, "torch": "2", "load": 0.1, "busy": False}


def record_of(job: Job) -> Record:
    """A record as the job would leave it."""
    values, arrays = MAKERS[job.kind](job)
    return Record(path=Path(job_name(job)), spec=job.spec(), values=values, arrays=arrays, provenance={})


def _metric(found: dict[str, float]) -> dict[str, dict[str, float]]:
    return {name: {task_of(name).main_metric: value} for name, value in found.items()}


def _draws(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def _gained(job: Any, base: float) -> dict[str, dict[str, float]]:
    """Scores that a few percent of noise tells from task to task and from seed to seed."""
    draws = _draws(job.config.seed + round(100 * abs(base)))
    found = {}
    for name in (pair.name for pair in pairs(job.config.tasks)):
        found |= {name: scores(job.config, base + 4 * draws.standard_normal(), 0.02 * job.config.seed)[name]}
    return _metric(found)


def _central(job: Any) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    kinds = {"none": 0.0, "domain": 3.0} | ({"all": -2.0} if "all" in job.groups() else {})
    protocol = PROTOCOLS[job.config.edge_protocol]
    thresholds = np.array(protocol.thresholds)
    recall = 0.4 * (1 - thresholds)
    precision = 0.1 + 0.3 * thresholds
    curve = np.stack([precision, recall, 2 * precision * recall / (precision + recall)])
    edges = [pair.name for pair in pairs(job.config.tasks) if pair.task.name == "edge"]
    values = {"seed": job.config.seed, "metrics": {kind: _gained(job, base) for kind, base in kinds.items()}}
    return values, {f"none/{name}": curve * (1 + 0.1 * i) for i, name in enumerate(edges)}


def _pairs(job: Any) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    metrics = {}
    for place, (unit, names) in enumerate(job.groups().items()):
        found = _gained(job, 1.0 + place)
        metrics[unit] = {name: found[name] for name in names}
    return {"seed": job.config.seed, "metrics": metrics}, {}


def _constants(job: Any) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    return {"seed": job.config.seed, "constant": scores(job.config, -40.0)}, {}


def _predictions(job: Any) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Answers that are the labels."""
    methods = job.units()
    truth = {}
    for pair in pairs(job.configs[0].tasks):
        labels = load_split(job.configs[0], pair.domain, "val").labels[pair.task.name]
        truth[pair.name] = np.stack([np.asarray(labels[i]) for i in range(job.images)])
    found = {name: (np.arange(job.images) / job.images).tolist() for name in truth}
    arrays = {f"{method}/{name}": labels for method in methods for name, labels in truth.items()}
    return {"scores": dict.fromkeys(methods, found)}, arrays


def _photographs(job: Any) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    found: dict[str, Any] = {}
    for pair in pairs(job.config.tasks):
        there = found.setdefault(
            pair.domain.name, {"images": {"train": 795, "val": 654}, "classes": {}, "constant": {}}
        )
        there["constant"][pair.name] = 0.1 if pair.task.higher_is_better else 30.0
        if names := pair.domain.class_names.get(pair.task.name):
            share = 0.5 ** np.arange(1, len(names) + 1)
            table = {"class_name": list(names), "share": share.tolist(), "images": np.sqrt(share).tolist()}
            there["classes"][pair.name] = table
    return {"domains": found}, {}


def _updates(job: Any) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Directions that agree within a task most, within a task type of another domain less."""
    labels = job.labels()
    draws = _draws(len(job.title))
    kinds = {name: draws.standard_normal(40) for name in {label.split("/")[1] for label in labels}}
    own = {name: draws.standard_normal(40) for name in set(labels)}
    made = np.stack([kinds[n.split("/")[1]] + 0.7 * own[n] + 0.6 * draws.standard_normal(40) + 0.8 for n in labels])
    unit = made / np.linalg.norm(made, axis=1, keepdims=True)
    cosine = (unit @ unit.T).astype(np.float32)
    arrays = {"labels": np.array(labels), "cosine_backbone": cosine, "cosine_voting": cosine}
    losses = [1.0] * len(labels)
    return {"title": job.title, "losses": losses}, arrays | {"cos_start": np.zeros(len(labels), np.float32)}


def _server(job: Any) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    machine, rows = MACHINE, []
    for width, counts in job.widths.items():
        for n in counts:
            row = {"way": "step", "width": width, "parameters": 44_000 * width, "clients": n, "machine": machine}
            row |= {"step_s": 0.003 * n * (1 + n / 100), "floor_s": 0.0004 * n}
            rows.append(row | ({"naive_s": 0.001 * n * n} if n <= job.naive else {}))
    width = min(job.widths)
    rows += [
        {"way": "stream", "width": width, "parameters": 44_000 * width, "clients": n, "peak_mb": 150.0 + n / 4}
        for n in job.streamed
    ]
    return {"rows": rows}, {}


def _train(job: Any) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    speeds = {"reference": 150.0, "plain": 160.0, "matfl": 390.0, "floor": 330.0}
    loops = {name: {"images_per_second": speed} for name, speed in speeds.items()}
    return {"bench": "train", "preset": job.preset, "machine": MACHINE, "loops": loops}, {}


MAKERS = {
    "central": _central,
    "pairs": _pairs,
    "constants": _constants,
    "predictions": _predictions,
    "photographs": _photographs,
    "updates": _updates,
    "bench-server": _server,
    "bench-train": _train,
}
