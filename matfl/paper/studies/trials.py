"""The short runs of the studies of many, private and hostile clients: three clients a task, few rounds, few images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from matfl.config.run_config import RunConfig
from matfl.core.settings import parse_settings
from matfl.paper.studies.base import base_config, report_seeds, setting, sizes
from matfl.tasks.meters import delta_m
from matfl.tasks.task import TASKS, pairs

if TYPE_CHECKING:
    from matfl.runs.run import Run

__all__ = ["FIELDS", "final_scores", "gain", "trial", "trial_seeds", "varied"]

RENDERED = "outdoor/semseg,outdoor/human_parts,outdoor/sal,outdoor/normals,indoor/semseg,indoor/depth"
"""Six of the embedded tasks: those without edges, whose measure takes as long as these runs do."""

CLIENTS = 3
"""Clients of a task where pictures are rendered, 18 in all: one hostile client leaves a majority in its task."""

FIELDS = (
    "attack",
    "attackers",
    "attack_strength",
    "clip_norm",
    "codec",
    "codec_share",
    "dp_clip",
    "dp_noise",
    "late",
    "participation",
    "sketch",
)
"""What the studies vary beside the method and the seed."""


def trial(preset: str, settings: str = "", *, seed: int = 0, **changes: Any) -> RunConfig:
    """A short run of a preset's network and pictures, with some fields changed."""
    base, size = base_config(preset, settings), sizes(preset)
    tasks, clients = base.tasks, base.clients_per_task
    if all(pair.domain.rendered for pair in pairs(base.tasks)):
        tasks, clients = RENDERED, CLIENTS
    few: dict[str, Any] = {
        "rounds": size.trial_rounds,
        "evaluate_every": size.trial_rounds,
        "images_per_client": size.trial_images,
        "k": min(base.k, len(pairs(tasks)) * clients),
    }
    asked = parse_settings(settings, where="settings")
    given = {name: value for name, value in few.items() if name not in asked}
    return setting(base, tasks, clients_per_task=clients, seed=seed, **{**given, **changes})


def trial_seeds(preset: str, seeds: int = 0) -> range:
    """The report seeds of these runs; `seeds` of them where that is not 0."""
    return report_seeds(seeds or sizes(preset).trial_seeds)


def varied(config: RunConfig) -> tuple[object, ...]:
    """What tells a run from others of its seed: its method, with parameters, and `FIELDS`."""
    return (config.method, config.parameters, *(getattr(config, name) for name in FIELDS))


def final_scores(run: Run, *, kind: str = "global") -> dict[str, float]:
    """The main metric by pair after the last round, averaged over clients that have models of their own.

    `kind` 'local' is of the clients' models before the last aggregation.
    """
    frame = run.metrics
    frame = frame[(frame["kind"] == kind) & (frame["round"] == frame["round"].max())]
    main = frame["metric"] == frame["task"].map({name: task.main_metric for name, task in TASKS.items()})
    by_pair = frame[main].groupby(["domain", "task"], sort=False)["value"].mean()
    return {f"{domain}/{task}": float(value) for (domain, task), value in by_pair.items()}


def gain(run: Run, reference: Run, tasks: Sequence[str] = (), *, kind: str = "global") -> float:
    """delta_m (percent) of a run against another one over some of its pairs, all by default; NaN for none."""
    mine, its = final_scores(run, kind=kind), final_scores(reference, kind=kind)
    chosen = [name for name in mine if not tasks or name in tasks]
    if not chosen:
        return float("nan")
    return delta_m({name: mine[name] for name in chosen}, {name: its[name] for name in chosen})
