"""`matfl lab`: copies that respect changes, and the command that opens JupyterLab on the index."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from matfl.cli.main import main
from matfl.paper import lab
from matfl.paper.lab import Copied, command, copy_notebooks
from matfl.runs.store import RunError


@pytest.fixture
def package(tmp_path: Path) -> Path:
    folder = tmp_path / "package"
    folder.mkdir()
    for name in ("index", "a"):
        (folder / f"{name}.ipynb").write_text(f"{name} of version 1")
    return folder


def test_untouched_copies_follow_the_package_and_changed_ones_stay(package: Path, tmp_path: Path) -> None:
    target = tmp_path / "mine"
    assert copy_notebooks(target, package) == Copied(written=("a.ipynb", "index.ipynb"))
    assert copy_notebooks(target, package) == Copied()
    (target / "a.ipynb").write_text("mine")
    for name in ("index", "a"):
        (package / f"{name}.ipynb").write_text(f"{name} of version 2")
    assert copy_notebooks(target, package) == Copied(written=("index.ipynb",), kept=("a.ipynb",))
    assert (target / "a.ipynb").read_text() == "mine"
    assert (target / "index.ipynb").read_text() == "index of version 2"
    (target / "a.ipynb").unlink()
    assert copy_notebooks(target, package) == Copied(written=("a.ipynb",))


def test_a_file_that_was_there_before_is_the_users(package: Path, tmp_path: Path) -> None:
    target = tmp_path / "mine"
    target.mkdir()
    (target / "a.ipynb").write_text("from elsewhere")
    assert copy_notebooks(target, package) == Copied(written=("index.ipynb",), kept=("a.ipynb",))


def test_a_folder_that_cannot_be_written_is_named(package: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="file: cannot be written to"):
        copy_notebooks(tmp_path / "file", package)


def test_the_command_opens_the_index(tmp_path: Path) -> None:
    opened = command(tmp_path)
    assert opened[1:3] == ["-m", "jupyterlab"]
    assert opened[-1] == str(tmp_path / "index.ipynb")
    assert "--no-browser" not in opened
    assert {"--no-browser", "--port=9000"} <= set(command(tmp_path, browser=False, port=9000))


@pytest.mark.parametrize("installed", [True, False])
def test_a_checkouts_own_notebooks_are_opened_and_a_wheels_are_copied(
    installed: bool, package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[list[str]] = []

    def run(arguments: list[str], **_: Any) -> SimpleNamespace:
        asked.append(arguments)
        return SimpleNamespace(returncode=0)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(lab.subprocess, "run", run)
    monkeypatch.setattr(lab, "notebooks_folder", lambda: package)
    monkeypatch.setattr(lab, "checkout", lambda: None if installed else tmp_path)
    assert main(["lab", "--no-browser"]) == 0
    folder = tmp_path / "matfl-notebooks" if installed else package
    assert asked[0][-1] == str(folder / "index.ipynb")
    assert "--no-browser" in asked[0]
    assert (folder / "index.ipynb").read_text() == "index of version 1"


def test_without_jupyterlab_a_sentence_says_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "jupyterlab", None)
    assert main(["lab"]) == 1
    assert "pip install 'matfl[paper]'" in capsys.readouterr().err
