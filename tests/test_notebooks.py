"""The notebooks are thin, their parameters are plain and typed, and the driver knows all of them."""

from __future__ import annotations

import ast
import inspect
from pathlib import Path

import nbformat
import pytest

from matfl.config.run_config import PRESETS
from matfl.paper.reproduce import parameters_of
from matfl.paper.studies import STUDIES
from matfl.paper.studies.session import notebooks_folder

FILES = sorted(notebooks_folder().glob("*.ipynb"))
NAMES = [path.stem for path in FILES]
DRAWN = [path for path in FILES if path.stem != "index"]
"""Those that draw results of their own."""
COMPUTED = pytest.mark.parametrize("path", DRAWN, ids=[path.stem for path in DRAWN])


def cells(path: Path, kind: str = "code") -> list[nbformat.NotebookNode]:
    return [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == kind]


def tagged(path: Path, tag: str) -> list[nbformat.NotebookNode]:
    return [cell for cell in cells(path) if tag in cell.metadata.get("tags", [])]


def test_every_study_has_its_notebook() -> None:
    assert set(STUDIES) == set(NAMES)


@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_parameters_are_typed_literals_with_a_comment(path: Path) -> None:
    (cell,) = tagged(path, "parameters")
    statements = ast.parse(cell.source).body
    for statement in statements:
        assert isinstance(statement, ast.AnnAssign), "name: type = literal, nothing derived"
        value = ast.literal_eval(statement.value)
        assert type(value).__name__ == ast.unparse(statement.annotation)
        line = cell.source.splitlines()[statement.lineno - 1]
        assert "  # " in line
        assert line.count("=") == 1, "papermill's inspection passes over lines with a second one"
    names = [statement.target.id for statement in statements]
    assert list(parameters_of(path)) == names
    assert names[0] == "preset"
    assert path not in DRAWN or names[1] == "train"


@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_the_plan_takes_the_notebooks_parameters(path: Path) -> None:
    accepted = set(inspect.signature(STUDIES[path.stem]).parameters)
    known = parameters_of(path)
    assert accepted <= set(known), "what decides the computation must be a parameter of the notebook"
    used = "\n".join(cell.source for cell in cells(path) if "parameters" not in cell.metadata.get("tags", []))
    words = {node.id for node in ast.walk(ast.parse(used)) if isinstance(node, ast.Name)}
    assert set(known) <= words, "a parameter without effect"
    default = {name: value for name, (_, value) in known.items() if name in accepted}
    assert STUDIES[path.stem](**default) == STUDIES[path.stem](str(known["preset"][1]))


@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_notebooks_are_thin_and_ask_the_papers_question(path: Path) -> None:
    code = cells(path)
    assert len(code) <= 15
    for cell in code:
        tree = ast.parse(cell.source)
        assert not any(isinstance(node, ast.FunctionDef | ast.ClassDef | ast.Lambda) for node in ast.walk(tree))
        assert len(cell.source.splitlines()) <= 14
    first = nbformat.read(path, as_version=4).cells[0]
    assert first.cell_type == "markdown"
    assert first.source.startswith("# ")
    if path in DRAWN:
        assert f'Session("{path.stem}", preset, train=train)' in "".join(cell.source for cell in code)
        assert ".report(" in code[-1].source
    assert "nbval-check-output" in code[-1].metadata["tags"]
    assert len(tagged(path, "nbval-check-output")) >= 2


@COMPUTED
def test_what_is_missing_is_shown_in_a_cell_of_its_own_before_anything_trains(path: Path) -> None:
    sources = [cell.source for cell in cells(path)]
    shown = next(number for number, source in enumerate(sources) if "session.stock(plan)" in source)
    assert sources[shown].splitlines()[-1] == "session.stock(plan)"
    assert not any(".runs(" in source or ".records(" in source for source in sources[: shown + 1])


@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_committed_notebooks_are_normalised(path: Path) -> None:
    content = nbformat.read(path, as_version=4)
    nbformat.validate(content)
    assert content.metadata.kernelspec.name == "python3"
    assert set(content.metadata) == {"kernelspec"}
    text = path.read_text(encoding="utf-8")
    assert "/tmp/" not in text
    assert "/home/" not in text
    assert "injected-parameters" not in text
    for cell in content.cells:
        assert not {"papermill", "execution"} & set(cell.metadata)
        assert all(output.get("name") != "stderr" for output in cell.get("outputs", []))
        assert all(output.output_type != "error" for output in cell.get("outputs", []))


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_is_named_in_the_notebooks(name: str) -> None:
    for path in DRAWN:
        assert name in tagged(path, "parameters")[0].source
