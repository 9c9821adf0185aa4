"""A method that a user registers reaches every way of running it."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tiny import tiny

from matfl.runs import engine as federation
from matfl.runs.run import Run, load_or_run
from matfl.server.grouping import normalise, similarity
from matfl.server.methods import METHODS, method


@pytest.fixture
def registered():
    @method(title="Nearest", description="the most similar client", source="test")
    def nearest(round):
        """Each client listens to itself and the most similar other client."""
        s_NN = similarity(round.updates, round.updates.layout.voting).mean(0)
        return normalise(s_NN.where(s_NN >= s_NN.topk(2).values[:, 1:], 0))

    yield
    METHODS.remove("nearest")


def test_a_registered_method_decides_the_weights(tmp_path, registered):
    federation.run(tiny(method="nearest", rounds=1), tmp_path / "run", cache_dir=tmp_path / "cache")
    weights = Run(tmp_path / "run").diagnostics["weights"][0]
    np.testing.assert_allclose(weights.sum(1), 1, atol=1e-6)
    assert ((weights > 0).sum(1) <= 2).all()


def test_an_unknown_method_names_the_known_ones(tmp_path):
    with pytest.raises(Exception, match="unknown method 'nearest'"):
        load_or_run([tiny(method="nearest")], runs_dir=tmp_path / "runs", cache_dir=tmp_path / "cache", jobs=1)


@pytest.mark.slow
def test_a_method_of_the_calling_script_reaches_other_processes(tmp_path):
    tests = Path(__file__).parent
    script = f"""
import sys
sys.path.insert(0, {str(tests)!r})
from tiny import tiny
from matfl.server.methods import method
from matfl.runs.run import load_or_run

@method(title="Selfish", description="nobody else")
def selfish(round):
    import torch
    return torch.eye(round.n)

if __name__ == "__main__":
    configs = [tiny(method="selfish", rounds=1, seed=seed) for seed in range(2)]
    runs = load_or_run(configs, runs_dir={str(tmp_path / "runs")!r}, cache_dir={str(tmp_path / "cache")!r}, jobs=2)
    print([float(abs(run.diagnostics["weights"][0]).trace()) for run in runs])
"""
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[4.0, 4.0]"
