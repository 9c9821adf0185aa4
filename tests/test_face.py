"""The public face: light to import, whole, and enough for README's newcomer."""

import re
import subprocess
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
from PIL import Image
from tiny import TINY

import matfl
from matfl.config.parameters import METHODS
from matfl.config.run_config import PRESETS

ROOT = Path(__file__).parent.parent
PAGES = (ROOT / "README.md", ROOT / "docs" / "tutorials" / "own_method.md")
BLOCKS = [text for page in PAGES for text in re.findall(r"```python\n(.*?)```", page.read_text("utf-8"), re.S)]


def block(word: str) -> str:
    """The code block of README, or of the page on methods, that contains `word`."""
    (found,) = [text for text in BLOCKS if word in text]
    return found


@pytest.fixture
def small(tmp_path, monkeypatch):
    """Presets of a second each, in a workspace of the test's own."""
    monkeypatch.setenv("MATFL_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("MATFL_CACHE", str(tmp_path / "cache"))
    for name in ("smoke", "quick"):
        monkeypatch.setitem(PRESETS, name, lambda: TINY)
    yield tmp_path
    plt.close("all")


def test_every_public_name_is_there():
    for name in matfl.__all__:
        assert getattr(matfl, name) is not None
        assert name in dir(matfl)
    assert len(set(matfl.__all__)) == len(matfl.__all__)
    with pytest.raises(AttributeError, match="no attribute 'runn': it has run, load_or_run"):
        matfl.runn  # noqa: B018


def test_importing_it_imports_nothing_heavy():
    code = "import sys, matfl; print([m for m in ('torch', 'numpy', 'pandas', 'matplotlib') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
    timed = [sys.executable, "-X", "importtime", "-c", "import matfl"]
    seconds = []
    for _ in range(5):
        last = subprocess.run(timed, capture_output=True, text=True, check=True).stderr.strip().splitlines()[-1]
        assert last.split("|")[2].strip() == "matfl"
        seconds.append(int(last.split("|")[1]) / 1e6)
    assert min(seconds) < 0.1


def test_the_newcomer_s_lines(small, capsys):
    plt.close("all")  # what other tests left open is drawn into
    exec(block("matfl.choices(ours)"), names := {})
    table = capsys.readouterr().out
    assert "single_task" in table
    assert "delta_m" in table
    assert len(plt.gcf().axes) == 2, "the heatmap and its scale"
    assert {path.name.split("-")[1] for path in (small / "runs").iterdir()} == {"single_task", "matfl"}
    ours = names["ours"]
    assert set(ours.models) == {"outdoor/semseg", "indoor/depth"}
    Image.fromarray(np.zeros((20, 30, 3), np.uint8)).save(small / "black.png")
    predictions = ours.predict(small / "black.png")
    assert {name: maps[0].shape for name, maps in predictions.items()} == dict.fromkeys(ours.models, (20, 30))
    before = {path: path.stat().st_mtime_ns for path in (small / "runs").rglob("*")}
    assert matfl.run("smoke", method="matfl").path == ours.path
    assert {path: path.stat().st_mtime_ns for path in (small / "runs").rglob("*")} == before, "found, not trained"


def test_a_method_in_a_notebook_cell(small):
    try:
        exec(block("def nearest(round)"), names := {"__name__": "__main__"})
        assert ((names["run"].diagnostics["weights"] > 0).sum(-1) <= 2).all()
        assert names["run"].provenance["plugins"] == {"method nearest": "__main__"}
    finally:
        METHODS.remove("nearest")


def test_comparing_without_a_baseline_leaves_delta_m_out(small):
    table = matfl.compare([matfl.run("smoke", rounds=1)])
    assert list(table.columns) == ["outdoor/semseg", "indoor/depth"]
    with pytest.raises(ValueError, match="method 'local' chooses no friends"):
        matfl.choices(matfl.run("smoke", method="local", rounds=1))


BLOCKED = """
import importlib.machinery, sys
finder = importlib.machinery.PathFinder
find = finder.find_spec

def find_spec(name, path=None, target=None):
    return None if name.partition(".")[0] in {blocked!r} else find(name, path, target)

finder.find_spec = staticmethod(find_spec)
sys.path.insert(0, {tests!r})
"""
EXTRAS = {"matplotlib", "seaborn", "sklearn", "networkx", "papermill", "nbformat", "jupyterlab", "IPython"}
EXTRAS |= {"flwr", "ray", "timm", "h5py", "pytest"}


def without_extras(code: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run code where only what `pip install matfl` brings can be imported."""
    start = BLOCKED.format(blocked=EXTRAS, tests=str(ROOT / "tests"))
    return subprocess.run([sys.executable, "-c", start + code], cwd=folder, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_a_client_s_installation_trains_and_runs_the_command_line(tmp_path):
    code = """
import os
os.environ |= {"MATFL_RUNS": "runs", "MATFL_CACHE": "cache"}
import matfl
from tiny import TINY
from matfl.cli.main import main
run = matfl.run(TINY, rounds=1, device="cpu", progress=False)
assert run.finished
matfl.compare([run]), matfl.choices(run)
for arguments in (["runs"], ["show", str(run.path)], ["methods"], ["config", "smoke"]):
    assert main(arguments) == 0, arguments
assert main(["data", "make", "made", "--train", "2", "--val", "2", "--size", "32"]) == 0
assert main(["reproduce", "04", "--preset", "smoke"]) == 1
try:
    matfl.plots
except ImportError as error:
    print("plots:", error)
"""
    done = without_extras(code, tmp_path)
    assert done.returncode == 0, done.stderr
    assert "`matfl reproduce` needs the package papermill: pip install 'matfl[paper]'" in done.stderr
    assert "plots: drawing (matfl.plots) needs the package matplotlib: pip install 'matfl[paper]'" in done.stdout


def test_imports_point_downwards_and_never_in_circles():
    pytest.importorskip("importlinter")
    linter = [sys.executable, "-c", "from importlinter.cli import lint_imports_command; lint_imports_command()"]
    done = subprocess.run([*linter, "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
