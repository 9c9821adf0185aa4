"""Links, installation cells and exercises of the notebooks are those that the library writes, and lead somewhere."""

from __future__ import annotations

import ast
import importlib
import math
import re
from pathlib import Path
from typing import Any

import nbformat
import pytest

from matfl.paper import exercises, navigation
from matfl.paper.exercises import EXERCISES, Exercise, minutes, new_results
from matfl.paper.navigation import API, API_PAGE, READING, badges, header, install_code, refresh, with_cells
from matfl.paper.reproduce import parameters_of, typed_parameters
from matfl.paper.studies import STUDIES
from matfl.paper.studies.session import notebooks_folder

ADDRESS = "https://github.com/someone/matfl"


def test_every_notebook_is_in_the_order_of_reading_once() -> None:
    assert set(READING) == set(API) == set(STUDIES)
    assert next(iter(READING)) == "index"


@pytest.mark.parametrize("study", READING)
def test_the_notebooks_hold_the_cells_that_are_written_today(study: str) -> None:
    notebook = nbformat.read(notebooks_folder() / f"{study}.ipynb", as_version=4)
    today = with_cells(nbformat.from_dict(notebook), study)
    assert [(c.id, c.source) for c in today.cells] == [(c.id, c.source) for c in notebook.cells], (
        "python -m matfl.paper.navigation writes them anew"
    )


@pytest.mark.parametrize("study", READING)
def test_links_lead_somewhere(study: str) -> None:
    text = header(study)
    links = re.findall(r"\]\(([^)]+)\)", text)
    assert links
    for link in links:
        assert (notebooks_folder() / link).resolve().is_file(), link
    assert ("index.ipynb" in text) == (study != "index")
    names = list(READING)
    for other in names[names.index(study) + 1 : names.index(study) + 2]:
        assert f"next: [{READING[other]}]({other}.ipynb)" in text


@pytest.mark.parametrize("name", sorted({name for names in API.values() for name in names}))
def test_what_a_notebook_calls_is_on_the_api_page(name: str) -> None:
    page = (notebooks_folder() / API_PAGE).resolve().read_text(encoding="utf-8")
    assert f"::: {name}\n" in page
    parent, _, last = name.rpartition(".")
    assert (
        importlib.util.find_spec(name) if parent.endswith("studies") else hasattr(importlib.import_module(parent), last)
    )


@pytest.mark.parametrize("study", [name for name in READING if name != "index"])
def test_the_named_study_is_what_the_notebook_calls(study: str) -> None:
    notebook = nbformat.read(notebooks_folder() / f"{study}.ipynb", as_version=4)
    code = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "code")
    assert f"studies.{API[study][0].rpartition('.')[2]}" in code


def test_badges_appear_with_a_repository_on_github() -> None:
    assert badges("02_methods", "") == badges("02_methods", "https://example.org/matfl") == ""
    text = header("02_methods", ADDRESS)
    assert "https://colab.research.google.com/github/someone/matfl/blob/main/notebooks/02_methods.ipynb" in text
    assert "https://mybinder.org/v2/gh/someone/matfl/main?labpath=notebooks/02_methods.ipynb" in text
    assert "https://nbviewer.org/github/someone/matfl/blob/main/notebooks/02_methods.ipynb" in text
    assert f"matfl[paper] @ git+{ADDRESS}" in install_code(ADDRESS)


def test_the_repository_is_the_projects(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pyproject.toml").write_text(f'[project]\nname = "matfl"\n[project.urls]\nRepository = "{ADDRESS}/"\n')
    monkeypatch.setattr(navigation, "checkout", lambda: tmp_path)
    assert navigation.repository() == ADDRESS
    assert navigation.api_link("a.b") == navigation.API_PAGE
    assert navigation.api_link("a.b", "https://example.org") == "https://example.org/api/studies/#a.b"
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "matfl"\n')
    assert navigation.repository() == ""


@pytest.mark.parametrize("there", [True, False])
def test_the_package_is_installed_only_where_it_is_missing(there: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, str]] = []

    class Shell:
        def run_line_magic(self, name: str, line: str) -> None:
            asked.append((name, line))

    monkeypatch.setattr("importlib.util.find_spec", lambda name: there or None)
    exec(compile(ast.parse(install_code("")), "cell", "exec"), {"get_ipython": Shell})
    assert asked == ([] if there else [("pip", "install --quiet 'matfl[paper]'")])


def test_refreshing_changes_only_what_is_stale(tmp_path: Path) -> None:
    for study in READING:
        (tmp_path / f"{study}.ipynb").write_bytes((notebooks_folder() / f"{study}.ipynb").read_bytes())
    assert refresh(tmp_path) == []
    stale = tmp_path / "04_k_sweep.ipynb"
    stale.write_text(stale.read_text(encoding="utf-8").replace("[Index](index.ipynb)", "[Index](elsewhere.ipynb)"))
    assert refresh(tmp_path) == [stale]
    assert stale.read_bytes() == (notebooks_folder() / "04_k_sweep.ipynb").read_bytes()


# --- exercises --------------------------------------------------------------------------------------------------------

EACH = [(study, number) for study, listed in EXERCISES.items() for number in range(len(listed))]


def exercise(study: str, number: int) -> Exercise:
    return EXERCISES[study][number]


def test_every_notebook_but_the_index_has_exercises() -> None:
    assert set(EXERCISES) == set(READING) - {"index"}


@pytest.mark.parametrize("study, number", EACH)
def test_an_exercise_is_a_change_of_parameters_that_plans(study: str, number: int) -> None:
    chosen = exercise(study, number)
    known = {study: parameters_of(notebooks_folder() / f"{study}.ipynb")}
    typed = typed_parameters(known, chosen.parameters)[study]
    assert typed == dict(chosen.parameters)
    assert any(known[study][name][1] != value for name, value in typed.items()), "it changes nothing"
    needed = new_results(study, chosen)
    assert bool(needed.configs or needed.jobs) or not chosen.minutes


@pytest.mark.parametrize("study, number", EACH)
def test_the_minutes_of_an_exercise_are_about_those_of_the_records(study: str, number: int) -> None:
    chosen = exercise(study, number)
    today = minutes(study, chosen)
    if not math.isnan(today):
        assert chosen.minutes / 2 - 1 <= today <= 2 * chosen.minutes + 1


def test_a_notebook_drawn_at_another_preset_goes_to_the_short_one_for_its_exercises() -> None:
    study = "05_grouping_frequency"
    notebook = nbformat.read(notebooks_folder() / f"{study}.ipynb", as_version=4)
    texts = {}
    for preset in ("quick", "scenes"):
        (cell,) = (cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", []))
        cell.source = re.sub(r'preset: str = "\w+"', f'preset: str = "{preset}"', cell.source)
        texts[preset] = with_cells(notebook, study).cells[-1].source
    assert "`k = 4` (nothing to train)" in texts["quick"]
    assert "`preset = 'quick'; k = 4` (nothing to train)" in texts["scenes"]


@pytest.mark.slow
def test_an_exercise_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    from matfl.paper.reproduce import reproduce
    from matfl.runs.workspace import Workspace

    chosen = exercise("05_grouping_frequency", 0)
    place = Workspace(tmp_path / "runs", records=())
    done = reproduce(["05"], preset="smoke", parameters=chosen.parameters, workspace=place, out=tmp_path / "out")
    assert done == 0, capsys.readouterr().out
    assert exercises.exercise_text("05_grouping_frequency").count("\n- ") == 2
