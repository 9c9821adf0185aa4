"""Stored predictions: those of the run's own models, for rendered pictures alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny import tiny

from matfl.paper import controls
from matfl.paper.studies import methods, predictions
from matfl.paper.studies.predictions import Predictions
from matfl.paper.studies.store import load_or_compute
from matfl.runs.run import load_or_run
from matfl.runs.store import RunError
from matfl.runs.workspace import Workspace


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Two tiny runs with weights, and the job on them."""
    monkeypatch.setenv("MATFL_RUNS", str(tmp_path / "runs"))
    monkeypatch.setattr("matfl.runs.workspace.checkout", lambda: None)
    configs = tuple(replace(tiny(), method=name) for name in ("single_task", "fedavg"))
    runs = load_or_run(configs, workspace=Workspace(), jobs=1, progress=False)
    return runs, Predictions(configs=configs, images=2), tmp_path


def test_answers_are_those_of_the_stored_models(made: Any) -> None:
    from matfl.client.training import answers
    from matfl.data import load_split
    from matfl.tasks.task import pairs

    runs, job, folder = made
    (record,) = load_or_compute([job], runs_dir=folder / "records", jobs=1)
    found = predictions.of([record])
    assert found is not None
    assert found.methods == ("single_task", "fedavg")
    for run in runs:
        for p in pairs(run.config.tasks):
            split = load_split(run.config, p.domain, "val")
            pictures = torch.from_numpy(np.stack([np.asarray(split.images[i]) for i in range(2)]))
            (expected,) = answers(run.models[p.name], pictures, p, run.config, size=tuple(pictures.shape[-2:]))
            stored = record.arrays[f"{run.config.method}/{p.name}"].astype(np.float32)
            assert stored == pytest.approx(expected.float().numpy(), abs=2e-3)
    title, picture = found.row(found.pairs[0], 1)[-1]
    assert title.startswith("Plain Many-Task FL\n")
    assert f"{record.values['scores']['fedavg'][found.pairs[0]][1]:.2f}" in title
    assert picture.shape[-1] == 3
    with pytest.raises(ValueError, match=r"image=2: choose 0\.\.1"):
        found.row(found.pairs[0], 2)
    picker = controls.predictions(found)
    assert picker.picture(task=found.pairs[0], image=0) != picker.picture(task=found.pairs[0], image=1)


def test_records_alone_cannot_predict(made: Any) -> None:
    runs, job, _ = made
    (runs[1].path / "checkpoint.safetensors").unlink()
    with pytest.raises(RunError, match=r"no weights|checkpoint"):
        job.compute("fedavg", device=None)


def test_they_are_planned_only_where_nothing_needs_training_for_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MATFL_RUNS", str(tmp_path / "runs"))
    monkeypatch.setattr("matfl.runs.workspace.checkout", lambda: None)
    assert predictions.jobs_at_hand("smoke") == ()
    assert not any(isinstance(job, Predictions) for job in methods.plan("smoke").jobs)
    assert predictions.of([]) is None


def test_nothing_is_drawn_on_photographs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(predictions, "weights", lambda config: config)
    assert predictions.jobs_at_hand("photos") == ()
    assert len(predictions.jobs_at_hand("smoke")) == 1
