"""A method that a user registers reaches every way of running it."""

import importlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from own_method import PLUGIN
from safetensors.torch import load_file
from tiny import contents, tiny

from matfl.config.parameters import of_method
from matfl.core.registry import PLUGINS
from matfl.runs import engine as federation
from matfl.runs.predict import models_of
from matfl.runs.run import Run, load_or_run
from matfl.runs.workspace import Workspace
from matfl.server.grouping import normalise, similarity
from matfl.server.methods import METHODS, Method, Mixing, method


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


def test_a_round_without_anybody_is_a_warning(tmp_path):
    """A method whose clients return what it never announced would seem to train."""

    class Telling(Method):
        name, title, description = "telling", "Telling", "returns what it does not announce"

        def client(self, local):
            local.train()
            return {"rounds": torch.ones(1)}

        def mix(self, round):
            return Mixing(weights_NN=torch.eye(round.n))

    METHODS.register(Telling())
    try:
        with pytest.warns(UserWarning, match="round 1: every client was left out; client 0: message 'rounds'"):
            federation.run(tiny(method="telling", rounds=1), tmp_path / "run", cache_dir=tmp_path / "cache")
    finally:
        METHODS.remove("telling")
    assert Run(tmp_path / "run").rounds[0]["participants"] == []


def test_an_unknown_method_names_the_known_ones(tmp_path):
    with pytest.raises(Exception, match="unknown method 'nearest'"):
        load_or_run([tiny(method="nearest")], workspace=Workspace(tmp_path / "runs", cache=tmp_path / "cache"), jobs=1)


@pytest.fixture
def plugin(tmp_path, monkeypatch):
    """The module `remembering_plugin` in a folder of its own, named in $MATFL_PLUGINS as a user does."""
    folder = tmp_path / "plugins"
    folder.mkdir()
    (folder / "remembering_plugin.py").write_text(PLUGIN)
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setenv(PLUGINS, "remembering_plugin")
    monkeypatch.setattr("matfl.core.registry._loaded", {"matfl.server.methods", "matfl.tasks"})
    importlib.invalidate_caches()
    yield folder
    if "remembering_plugin" in sys.modules:
        METHODS.remove("remembering")
        del sys.modules["remembering_plugin"]


REMEMBERING = {"method": "remembering", "remembering.damping": 0.25, "participation": 0.75, "rounds": 3}


def test_a_plugin_with_parameters_state_and_memory_resumes_bit_for_bit(tmp_path, plugin):
    config = tiny(**REMEMBERING)
    assert config.parameters == (("damping", 0.25),)
    places = {"device": "cpu", "cache_dir": tmp_path / "cache"}
    federation.run(config, tmp_path / "whole", **places)
    for _ in range(config.rounds):
        federation.run(config, tmp_path / "parts", stop=lambda: True, **places)
    whole = Run(tmp_path / "whole")
    assert contents(whole.path) == contents(tmp_path / "parts")
    tensors = load_file(whole.path / "checkpoint.safetensors")
    assert tensors["server/method.heard"].count_nonzero() == 4
    assert any(name.startswith("client-3/memory.head.") for name in tensors)
    assert np.isfinite(whole.diagnostics["heard"]).sum() == 3 * config.rounds
    scored = whole.metrics[whole.metrics["kind"] == "global"]
    assert sorted(scored["client"].unique()) == [0, 1, 2, 3]  # personal models, one a client
    used = models_of(config, tensors)["outdoor/semseg"]
    assert torch.equal(used["head.last.weight"], tensors["client-0/memory.head.last.weight"])
    assert not torch.equal(used["head.last.weight"], tensors["outdoor/semseg/head.last.weight"])
    assert tiny(**{**REMEMBERING, "remembering.damping": 0.5}).hash != config.hash


def test_a_checkpoint_without_the_methods_state_is_refused(tmp_path, plugin):
    from matfl.server.server import Server
    from matfl.tasks.task import pairs

    config = tiny(**REMEMBERING)
    federation.run(config, tmp_path / "run", device="cpu", cache_dir=tmp_path / "cache", stop=lambda: True)
    tensors = load_file(tmp_path / "run" / "checkpoint.safetensors")
    del tensors["server/method.heard"]
    server = Server(config, [pair for pair in pairs(config.tasks) for _ in "ab"])
    with pytest.raises(ValueError, match=r"lacks the state 'heard' of method 'remembering'.*--fresh"):
        server.unpack(tensors, 1)


def test_a_parameter_of_a_plugin_is_checked(plugin):
    with pytest.raises(ValueError, match=r"remembering.damping=2.0: choose a share"):
        tiny(**{**REMEMBERING, "remembering.damping": 2.0})
    with pytest.raises(ValueError, match="lacks it, its parameters are damping, pull"):
        of_method("remembering", [("dampin", 0.5)])


@pytest.mark.slow
def test_a_plugin_works_from_the_command_line_and_in_worker_processes(tmp_path, plugin):
    env = {**os.environ, "PYTHONPATH": f"{plugin}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    env |= {"MATFL_CACHE": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"}
    settings = ["rounds=2", "images_per_client=4", "remembering.pull=0.2"]
    options = [part for setting in settings for part in ("-p", setting)]
    command = [sys.executable, "-m", "matfl", "run", "smoke"]
    done = subprocess.run(
        [*command, "--method", "remembering", *options, "--runs-dir", str(tmp_path / "runs"), "--quiet"],
        capture_output=True,
        text=True,
        check=False,
        env=env,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr
    configs = [tiny(method="remembering", rounds=1, seed=seed) for seed in range(2)]
    runs = load_or_run(
        configs, workspace=Workspace(runs=tmp_path / "more", cache=tmp_path / "cache"), jobs=2, progress=False
    )
    assert all(run.finished for run in runs)


@pytest.mark.slow
def test_a_method_of_the_calling_script_reaches_other_processes(tmp_path):
    tests = Path(__file__).parent
    script = f"""
import sys
sys.path.insert(0, {str(tests)!r})
from tiny import tiny
from matfl.server.methods import method
from matfl.runs.run import load_or_run
from matfl.runs.workspace import Workspace

@method(title="Selfish", description="nobody else")
def selfish(round):
    import torch
    return torch.eye(round.n)

if __name__ == "__main__":
    configs = [tiny(method="selfish", rounds=1, seed=seed) for seed in range(2)]
    place = Workspace({str(tmp_path / "runs")!r}, cache={str(tmp_path / "cache")!r})
    runs = load_or_run(configs, workspace=place, jobs=2)
    print([float(abs(run.diagnostics["weights"][0]).trace()) for run in runs])
"""
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        timeout=900,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[4.0, 4.0]"
