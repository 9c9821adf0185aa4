"""One rule for where results and data lie, whoever asks and wherever he stands."""

import subprocess
import sys
from pathlib import Path

import pytest

from matfl.runs import workspace
from matfl.runs.workspace import Workspace

ROOT = Path(__file__).parent.parent


@pytest.fixture(autouse=True)
def plain(monkeypatch):
    for name in ("MATFL_RUNS", "MATFL_DATA", "MATFL_CACHE", "MATFL_FIGURES"):
        monkeypatch.delenv(name, raising=False)


def test_the_places_of_a_checkout_do_not_depend_on_where_one_stands(tmp_path, monkeypatch):
    before = Workspace()
    monkeypatch.chdir(tmp_path)
    assert Workspace() == before
    assert before.runs == ROOT / "runs"
    assert ROOT / "figures" / "quick" / "runs" in before.records
    assert (before.cache, before.data) == (Path.home() / ".cache" / "matfl", None)
    assert before.figures("smoke") == ROOT / "figures" / "smoke"


def test_an_installed_package_takes_the_current_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(workspace, "checkout", lambda: None)
    monkeypatch.chdir(tmp_path)
    assert (Workspace().runs, Workspace().records) == (tmp_path / "runs", ())
    assert Workspace().figures("quick") == tmp_path / "figures" / "quick"


def test_what_is_given_comes_before_the_environment(tmp_path, monkeypatch):
    for name in ("RUNS", "DATA", "CACHE", "FIGURES"):
        monkeypatch.setenv(f"MATFL_{name}", str(tmp_path / name))
    (tmp_path / "FIGURES" / "runs").mkdir(parents=True)
    place = Workspace()
    assert (place.runs, place.data, place.cache) == (tmp_path / "RUNS", tmp_path / "DATA", tmp_path / "CACHE")
    assert place.records[0] == tmp_path / "FIGURES" / "runs"
    given = Workspace(tmp_path / "a", records=[tmp_path / "b"], cache="c", data="~/d")
    assert (given.runs, given.records) == (tmp_path / "a", (tmp_path / "b",))
    assert (given.cache, given.data) == (Path("c").absolute(), Path.home() / "d")
    assert given.without_records() == Workspace(tmp_path / "a", records=(), cache="c", data="~/d")


@pytest.mark.slow
@pytest.mark.parametrize("folder", [ROOT, ROOT / "notebooks"], ids=["checkout", "notebooks"])
def test_command_line_notebook_and_script_agree(folder):
    code = "from matfl.runs.workspace import Workspace; print(Workspace().runs)"
    script = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=True)
    listing = subprocess.run(
        [sys.executable, "-m", "matfl", "runs", "--runs-dir", str(ROOT / "no such store")],
        cwd=folder,
        capture_output=True,
        text=True,
        check=True,
    )
    assert script.stdout.strip() == str(ROOT / "runs")
    assert listing.stdout.strip() == f"no runs in {ROOT / 'no such store'}"
