"""A plug-in on the command line: seen by every command and process, and missed by name where it is not imported."""

import importlib
import os
import sys

import pytest
from tiny import settings_text, tiny

from matfl.cli.main import main
from matfl.config.parameters import METHODS
from matfl.config.run_config import override, smoke
from matfl.core import registry
from matfl.core.registry import PLUGINS
from matfl.runs import plugins
from matfl.runs.parallel import _run_one
from matfl.runs.run import Run

MODULE = "leaning_plugin"
CODE = '''
"""A method with a parameter."""
from dataclasses import dataclass

import torch

import matfl


@matfl.register
@dataclass(frozen=True, kw_only=True)
class Leaning(matfl.Method):
    name, title, description, source = "leaning", "Leaning", "more to oneself", "a test"
    own: float = 0.5

    def __post_init__(self):
        if not 0 <= self.own <= 1:
            raise ValueError(f"leaning.own={self.own}: choose a share from 0 to 1")

    def mix(self, round):
        everybody_NN = torch.ones(round.n, round.n) / max(round.n, 1)
        return matfl.Mixing(weights_NN=torch.lerp(everybody_NN, torch.eye(round.n), self.own))
'''


def forget():
    """As if the plug-in had never been imported."""
    registry._loaded.discard(MODULE)
    os.environ.pop(PLUGINS, None)
    if sys.modules.pop(MODULE, None):
        METHODS.remove("leaning")


@pytest.fixture
def matfl(tmp_path, tmp_path_factory, monkeypatch, capsys):
    """Call the command with a plug-in in the current folder; (code, out, err)."""
    (tmp_path / f"{MODULE}.py").write_text(CODE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MATFL_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv(PLUGINS, "")
    monkeypatch.setenv("PYTHONPATH", os.environ.get("PYTHONPATH", ""))
    monkeypatch.setattr(sys, "path", list(sys.path))
    importlib.invalidate_caches()

    def call(*arguments):
        code = main([str(argument) for argument in arguments])
        return code, *capsys.readouterr()

    yield call
    forget()


SETTINGS = [item for text in settings_text(tiny(rounds=1), smoke()).split("; ") for item in ("-p", text)]


def test_a_plugin_from_the_command_line(matfl, tmp_path):
    code, out, _ = matfl("--import", MODULE, "methods")
    assert code == 0
    assert "leaning" in out
    assert "-p leaning.own=0.5" in out
    assert f"(plug-in {MODULE})" in out
    code, out, err = matfl(
        "run", "smoke", "--import", MODULE, "--method", "leaning", "-p", "leaning.own=1", *SETTINGS, "--quiet"
    )
    assert code == 0, err
    (path,) = (tmp_path / "runs").iterdir()
    run = Run(path)
    assert run.config == override(tiny(rounds=1), method="leaning", **{"leaning.own": 1.0})
    assert (run.diagnostics["weights"][0].diagonal() == 1).all()
    assert run.provenance["plugins"] == {"method leaning": MODULE}
    forget()
    code, out, _ = matfl("runs")
    assert code == 0
    assert path.name in out
    assert "1/1" in out
    code, out, _ = matfl("show", path)
    assert code == 0
    assert f"method leaning comes from plug-in {MODULE}, which is not imported here: add `--import {MODULE}`" in out
    assert "outdoor/semseg" in out
    code, _, err = matfl("resume", path)
    assert code == 1
    assert f"add `--import {MODULE}`" in err
    code, out, _ = matfl("resume", path, "--import", MODULE)
    assert code == 0


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--import", "no_such_plugin", "methods"], "plug-in no_such_plugin (--import or $MATFL_PLUGINS) cannot be"),
        (["run", "smoke", "--method", "leaning"], "unknown method 'leaning'"),
        (["run", "smoke", "--import", MODULE, "-p", "leaning.own=1"], "set method=leaning as well"),
        (
            ["run", "smoke", "--import", MODULE, "--method", "leaning", "-p", "leaning.own=2"],
            "leaning.own=2.0: choose a share from 0 to 1",
        ),
        (["run", "smoke", "--import", MODULE, "--method", "leaning", "-p", "leaning.mood=2"], "its parameters are own"),
    ],
)
def test_what_is_wrong_with_plugins_is_one_clear_line(matfl, arguments, message):
    code, _, err = matfl(*arguments)
    assert code == 2
    assert message in err
    assert err.count("\n") == 1


def test_two_plugins_with_one_name(matfl, tmp_path):
    (tmp_path / "leaning_twin.py").write_text(CODE)
    code, _, err = matfl("--import", MODULE, "--import", "leaning_twin", "methods")
    registry._loaded.discard("leaning_twin")
    assert code == 2
    assert f"method 'leaning' is registered by {MODULE} and by leaning_twin: rename one" in err


def test_what_a_run_needs_is_carried_to_a_process_that_lacks_it(matfl, tmp_path):
    matfl("--import", MODULE, "methods")
    config = override(tiny(rounds=1), method="leaning")
    entries = plugins.carried(config)
    assert [(kind, entry.name, origin) for kind, entry, origin in entries] == [("method", "leaning", MODULE)]
    METHODS.remove("leaning")
    index, failure = _run_one(3, config, tmp_path / "run", entries, {"device": "cpu"})
    assert (index, failure) == (3, None)
    assert Run(tmp_path / "run").finished
    assert METHODS.origin("leaning") == MODULE


def test_nothing_of_the_package_s_own_is_carried():
    assert plugins.carried(tiny()) == []
    assert plugins.origins(tiny()) == {}
