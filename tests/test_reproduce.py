"""The driver: which studies, which parameters, what is written, what an error looks like."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pandas as pd
import pytest
from synthetic_runs import fake_run

from matfl.config.run_config import smoke
from matfl.core.locks import locked
from matfl.core.manifest import write_files
from matfl.paper import reproduce as driver
from matfl.paper.claims import Above, Claim, Part
from matfl.paper.reproduce import choose, normalise, parameters_of, reproduce, typed_parameters
from matfl.paper.stats import estimate
from matfl.paper.studies import STUDIES, Plan
from matfl.paper.studies import session as places
from matfl.paper.studies.base import setting
from matfl.paper.studies.session import VOTES, Session, collect, collect_stored, export_record
from matfl.runs.store import RunError
from matfl.runs.workspace import Workspace


def write_notebook(path: Path, parameters: str, *cells: str) -> None:
    """A notebook with a parameters cell and some code cells."""
    from nbformat.v4 import new_code_cell, new_notebook

    first = new_code_cell(parameters)
    first.metadata["tags"] = ["parameters"]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    nbformat.write(new_notebook(cells=[first, *map(new_code_cell, cells)], metadata=kernel), path)


def test_studies_are_chosen_by_number_or_name_in_their_own_order() -> None:
    assert choose([]) == tuple(STUDIES)
    assert choose(["4", "methods"]) == ("02_methods", "04_k_sweep")
    assert choose(["04_k_sweep.ipynb", "04"]) == ("04_k_sweep",)
    with pytest.raises(ValueError, match="unknown study 'table1': choose from 00_benchmark, 01"):
        choose(["table1"])


KNOWN = {
    "a": {"preset": ("str", "quick"), "seeds": ("int", 0), "lr": ("float", 1e-4), "fast": ("bool", False)},
    "b": {"preset": ("str", "quick"), "ks": ("str", "")},
}


def test_parameters_get_the_declared_type_and_reach_who_has_them() -> None:
    found = typed_parameters(KNOWN, {"preset": "smoke", "seeds": "2", "lr": "3", "fast": "false", "ks": "2"})
    assert found == {
        "a": {"preset": "smoke", "seeds": 2, "lr": 3.0, "fast": False},
        "b": {"preset": "smoke", "ks": "2"},
    }
    assert typed_parameters(KNOWN, {"lr": 1})["a"]["lr"] == 1


@pytest.mark.parametrize("name, value", [("seeds", "two"), ("fast", "no"), ("seeds", 2.5), ("ks", 2), ("seeds", True)])
def test_mistyped_parameters_are_errors(name: str, value: object) -> None:
    with pytest.raises(TypeError, match=rf"{name}={value!r}: expected"):
        typed_parameters(KNOWN, {name: value})


def test_unknown_parameters_are_errors_that_list_the_known_ones() -> None:
    with pytest.raises(ValueError, match="unknown parameter 'seed': a, b have fast, ks, lr, preset, seeds"):
        typed_parameters(KNOWN, {"seed": "1"})


def test_errors_come_before_any_training(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="unknown preset 'quikc'"):
        reproduce(["04"], preset="quikc", workspace=Workspace(tmp_path))
    with pytest.raises(ValueError, match="unknown parameter 'kk': 04_k_sweep has"):
        reproduce(["04"], preset="smoke", parameters={"kk": "3"}, workspace=Workspace(tmp_path))
    with pytest.raises(TypeError, match="seeds='x': expected int"):
        reproduce(["04"], preset="smoke", parameters={"seeds": "x"}, workspace=Workspace(tmp_path))
    with pytest.raises(ValueError, match=r"k=40: choose 1\.\.18"):
        reproduce(["04"], preset="smoke", parameters={"ks": "40"}, workspace=Workspace(tmp_path))
    with pytest.raises(ValueError, match="give preset with --preset"):
        reproduce(["04"], parameters={"preset": "smoke"}, workspace=Workspace(tmp_path))
    with pytest.raises(ValueError, match="give train with --no-train"):
        reproduce(["04"], parameters={"train": "no"}, workspace=Workspace(tmp_path))
    with pytest.raises(ValueError, match="--fresh trains everything again, --no-train nothing"):
        reproduce(["04"], fresh=True, train=False, workspace=Workspace(tmp_path))
    with pytest.raises(ValueError, match="--update-notebooks replaces"):
        reproduce(["04"], preset="smoke", update_notebooks=True, workspace=Workspace(tmp_path))
    assert not list(tmp_path.iterdir())


def test_normalised_notebooks_do_not_differ_from_execution_to_execution(tmp_path: Path) -> None:
    from nbformat.v4 import new_code_cell, new_notebook, new_output

    contents = []
    for run in ("first", "second"):
        parameters, injected = new_code_cell("k: int = 1"), new_code_cell("k = 2")
        injected.metadata["tags"] = ["injected-parameters"]
        shown = new_code_cell("k", execution_count=7)
        shown.outputs = [
            new_output("stream", name="stderr", text=run),
            new_output("execute_result", {"text/plain": "2"}, execution_count=7),
        ]
        shown.metadata["papermill"] = {"duration": run}
        shown.metadata["execution"] = {"iopub.status.busy": run}
        cells = [parameters, injected, shown]
        for number, cell in enumerate(cells):
            cell["id"] = f"cell-{number}"
        path = tmp_path / f"{run}.ipynb"
        nbformat.write(
            new_notebook(cells=cells, metadata={"papermill": run, "language_info": {"name": "python", "version": run}}),
            path,
        )
        normalise(path, keep_parameters=False)
        contents.append(path.read_bytes())
    assert contents[0] == contents[1]
    cells = nbformat.read(tmp_path / "first.ipynb", as_version=4).cells
    assert [cell.execution_count for cell in cells] == [1, 2]
    assert cells[1].outputs == [
        {"output_type": "execute_result", "data": {"text/plain": "2"}, "metadata": {}, "execution_count": 2}
    ]


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A driver whose only studies are two tiny notebooks and whose runs are made up."""
    notebooks = tmp_path / "notebooks"
    notebooks.mkdir()
    body = """
from matfl.paper.claims import Above, Claim, Part
from matfl.paper.stats import exact
from matfl.paper.studies import Session
import matplotlib.pyplot as plt
import pandas as pd
from matfl.paper import plots
session = Session("{study}", preset, train=train)
fig, ax = plots.figure("single", height=1)
ax.plot([0, number])
session.save(fig, "line", data=pd.DataFrame({{"x": [number]}}))
part = Part(statistic="it", value=exact(number), rule=Above(0))
session.report([Claim(text="The number is positive.", parts=(part,))])
"""
    parameters = 'preset: str = "quick"  # the preset\ntrain: str = "ask"  # missing\nnumber: int = 1  # a number'
    write_notebook(notebooks / "90_first.ipynb", parameters, body.format(study="90_first"))
    write_notebook(
        notebooks / "91_second.ipynb",
        parameters + '\nword: str = ""  # text',
        "assert number >= 0, 'negative'",
        body.format(study="91_second"),
    )

    def plan(preset: str, *, number: int = 1) -> Plan:
        return Plan(configs=(setting(smoke(), "outdoor5", method="matfl", seed=abs(number)),))

    def made_up(plan: Plan, **options: Any) -> list[Any]:
        runs = []
        for config in plan.configs:
            run = fake_run(config)
            object.__setattr__(run, "path", tmp_path / "records" / config.name)
            runs.append(run)
        return runs

    monkeypatch.setattr(driver, "STUDIES", {"90_first": plan, "91_second": plan})
    monkeypatch.setattr(driver, "notebooks_folder", lambda: notebooks)
    monkeypatch.setattr(Workspace, "figures", lambda self, name: tmp_path / "figures" / name)
    monkeypatch.setattr(driver, "collect", made_up)
    monkeypatch.setattr(driver, "export_record", lambda run, folder, votes: folder)
    monkeypatch.setenv("MATFL_RUNS", str(tmp_path / "elsewhere"))
    return tmp_path


@pytest.mark.slow
def test_notebooks_are_executed_and_their_claims_reported(small: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert reproduce(preset="smoke", parameters={"number": "3"}, workspace=Workspace(small / "runs")) == 0
    out = small / "figures" / "smoke-number=3"
    assert sorted(path.name for path in out.iterdir()) == [
        ".lock",
        "90_first.ipynb",
        "90_first.json",
        "90_first_line.csv",
        "90_first_line.pdf",
        "90_first_line.png",
        "91_second.ipynb",
        "91_second.json",
        "91_second_line.csv",
        "91_second_line.pdf",
        "91_second_line.png",
    ]
    printed = capsys.readouterr().out
    assert "90_first" in printed
    assert "held         The number is positive." in printed
    assert "2 held, 0 not held, 0 undecided, 0 not computed" in printed
    executed = nbformat.read(out / "91_second.ipynb", as_version=4)
    assert "injected-parameters" in executed.cells[1].metadata["tags"]
    assert "number = 3" in executed.cells[1].source
    assert "papermill" not in executed.metadata
    assert os.environ["MATFL_RUNS"] == str(small / "elsewhere")
    assert "MATFL_FIGURES" not in os.environ


def there(small: Path) -> dict[str, Any]:
    """Options that keep everything in the test's folder."""
    return {"workspace": Workspace(small / "runs"), "out": small / "out"}


@pytest.mark.slow
def test_without_a_preset_each_notebook_is_drawn_at_its_own(small: Path) -> None:
    first = small / "notebooks" / "90_first.ipynb"
    first.write_text(first.read_text().replace('\\"quick\\"', '\\"smoke\\"'))
    assert reproduce(workspace=Workspace(small / "runs")) == 0
    for folder, study, preset in (("smoke", "90_first", "smoke"), ("quick", "91_second", "quick")):
        drawn = small / "figures" / folder
        assert [path.stem for path in drawn.glob("*.ipynb")] == [study]
        assert json.loads((drawn / f"{study}.json").read_text())["provenance"]["preset"] == preset


@pytest.mark.slow
def test_the_last_notebook_begins_when_the_others_have_ended(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver, "LAST", "90_first")
    write_notebook(
        small / "notebooks" / "90_first.ipynb",
        'preset: str = "quick"  # the preset\ntrain: str = "ask"  # missing\nnumber: int = 1  # a number',
        "import os, pathlib\nassert (pathlib.Path(os.environ['MATFL_FIGURES']) / '91_second.json').exists()",
    )
    assert reproduce(preset="smoke", **there(small)) == 0


@pytest.mark.slow
def test_without_training_only_what_is_stored_is_used(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> Any:
        raise AssertionError("trains")

    for name in ("collect", "collect_records"):
        monkeypatch.setattr(driver, name, refuse)
    assert reproduce(["90"], preset="smoke", train=False, **there(small)) == 0
    executed = nbformat.read(small / "out" / "90_first.ipynb", as_version=4)
    assert 'train = "no"' in executed.cells[1].source


@pytest.mark.slow
def test_a_failing_notebook_is_named_and_the_others_go_on(small: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert reproduce(preset="smoke", parameters={"number": -1}, **there(small)) == 1
    printed = capsys.readouterr().out
    assert "not held     The number is positive." in printed
    assert "FAILED       AssertionError: negative" in printed
    assert not (small / "out" / "91_second.json").exists()


@pytest.mark.slow
def test_a_parameter_that_one_study_lacks_is_passed_to_the_other(small: Path) -> None:
    assert reproduce(["91"], preset="smoke", parameters={"word": "x"}, **there(small)) == 0
    with pytest.raises(ValueError, match="unknown parameter 'word': 90_first has"):
        reproduce(["90"], preset="smoke", parameters={"word": "x"}, **there(small))


@pytest.mark.slow
def test_executed_notebooks_take_the_place_of_the_checkouts(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver, "checkout", lambda: small)
    assert reproduce(["90"], preset="quick", workspace=Workspace(small / "runs"), update_notebooks=True) == 0
    first = (small / "notebooks" / "90_first.ipynb").read_bytes()
    content = nbformat.reads(first.decode(), as_version=4)
    assert [cell.execution_count for cell in content.cells] == [1, 2]
    assert "parameters" in content.cells[0].metadata["tags"]
    assert reproduce(["90"], preset="quick", workspace=Workspace(small / "runs"), update_notebooks=True) == 0
    assert (small / "notebooks" / "90_first.ipynb").read_bytes() == first
    assert parameters_of(small / "notebooks" / "90_first.ipynb")["number"] == ("int", 1)


# --- sessions and records ---------------------------------------------------------------------------------------------


def test_sessions_write_only_where_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from matfl.paper import plots

    session = Session("04_k_sweep", "smoke")
    fig, _ = plots.figure("single", height=1)
    claim = Claim(text="t", parts=(Part(statistic="s", value=estimate([1.0]), rule=Above(0)),))
    monkeypatch.delenv("MATFL_FIGURES", raising=False)
    monkeypatch.chdir(tmp_path)
    session.save(fig, "k", data=pd.DataFrame({"x": [1]}))
    assert session.report([claim]).claims == (claim,)
    assert not list(tmp_path.iterdir())
    monkeypatch.setenv("MATFL_FIGURES", str(tmp_path / "out"))
    session.save(fig, "k", data=pd.DataFrame({"x": [1 / 3]}, index=pd.Index(["a"], name="row")))
    session.report([claim])
    assert (tmp_path / "out" / "04_k_sweep_k.csv").read_text() == "row,x\na,0.333333\n"
    session.save(fig, "k", data=pd.DataFrame({"x": [1, 2]}, index=["flip", "copy"]))
    assert (tmp_path / "out" / "04_k_sweep_k.csv").read_text() == ",x\nflip,1\ncopy,2\n", "names are kept"
    stored = json.loads((tmp_path / "out" / "04_k_sweep.json").read_text())
    assert stored["claims"] == [claim.row()]


def write_run(folder: Path, config: Any, run: Any) -> Path:
    """Store a made-up run as the run store would, finished and without weights."""
    from matfl.runs.engine import data_version

    path = folder / config.name
    files = {
        "config.json": json.dumps(config.to_json()),
        "provenance.json": json.dumps({"torch": "2", "data": data_version(config)}),
        "metrics.csv": run.metrics.to_csv(index=False),
        "rounds.jsonl": "".join(json.dumps(row | {"clients": ["detail"]}) + "\n" for row in run.rounds),
        "diagnostics.npz": lambda file: np.savez(file, **run.diagnostics),
    }
    write_files(path, files)
    return path


def test_exported_records_are_small_and_still_runs(tmp_path: Path) -> None:
    from matfl.runs.run import Run, load_or_run

    config = setting(smoke(), "scenes9", method="matfl")
    run = Run(write_run(tmp_path / "runs", config, fake_run(config)))
    export_record(run, tmp_path / "full", votes=True)
    export_record(run, tmp_path / "lean", votes=False)
    (full,) = load_or_run([config], workspace=Workspace(tmp_path / "none", records=tmp_path / "full"))
    (lean,) = load_or_run([config], workspace=Workspace(tmp_path / "none", records=tmp_path / "lean"))
    assert set(full.diagnostics) - set(lean.diagnostics) == set(VOTES)
    assert lean.diagnostics["weights"].dtype == np.float16
    assert np.abs(lean.diagnostics["weights"] - run.diagnostics["weights"]).max() < 1e-3
    assert np.array_equal(full.diagnostics["votes"], run.diagnostics["votes"])
    assert "clients" not in lean.rounds[0]
    assert lean.metrics["value"].to_numpy() == pytest.approx(run.metrics["value"].to_numpy(), rel=1e-5)
    size = sum(path.stat().st_size for path in lean.path.iterdir())
    assert size < 20_000


def test_a_record_without_the_votes_that_are_needed_does_not_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from matfl.runs.run import Run

    config = setting(smoke(), "scenes9", method="matfl")
    run = Run(write_run(tmp_path / "runs", config, fake_run(config)))
    export_record(run, tmp_path / "lean", votes=False)
    place = Workspace(tmp_path / "none", records=tmp_path / "lean")
    (found,) = collect(Plan(configs=(config,)), workspace=place)
    assert found.path.parent == tmp_path / "lean"
    asked = []

    def trained(configs: Any, **options: Any) -> list[Run]:
        asked.append((list(configs), options["workspace"].records))
        return [run for _ in configs]

    monkeypatch.setattr("matfl.runs.run.load_or_run", trained)
    (richer,) = collect(Plan(configs=(config,), votes=(config,)), workspace=place)
    assert asked == [([config], ())]
    assert "votes" in richer.diagnostics


def test_a_lean_record_does_not_hide_a_copy_with_all_that_is_needed(tmp_path: Path) -> None:
    """`matfl reproduce 07` leaves records without votes in a folder of one's own; 06, drawn next, needs the votes."""
    from matfl.runs.run import Run

    config = setting(smoke(), "scenes9", method="matfl")
    run = Run(write_run(tmp_path / "runs", config, fake_run(config)))
    export_record(run, tmp_path / "lean", votes=False)
    full = export_record(run, tmp_path / "full", votes=True)
    place = Workspace(tmp_path / "none", records=(tmp_path / "lean", tmp_path / "full"))
    plan = Plan(configs=(config,), votes=(config,))
    assert [found.path for found in collect_stored(plan, workspace=place)] == [full]
    assert [found.path for found in collect(plan, workspace=place)] == [full]
    assert not (tmp_path / "none").exists(), "nothing was trained"


def test_what_is_drawn_does_not_depend_on_which_copy_of_a_run_is_at_hand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from matfl.runs.run import Run

    config = setting(smoke(), "scenes9", method="matfl")
    stored = Run(write_run(tmp_path / "runs", config, fake_run(config, 1 / 3)))
    record = export_record(stored, tmp_path / "figures" / "runs", votes=False)
    monkeypatch.setenv("MATFL_FIGURES", str(tmp_path / "figures"))
    (found,) = collect(Plan(configs=(config,)), workspace=Workspace(tmp_path / "runs"))
    assert found.path == record
    (with_votes,) = collect(Plan(configs=(config,), votes=(config,)), workspace=Workspace(tmp_path / "runs"))
    assert with_votes.path == stored.path
    provenance = json.loads((stored.path / "provenance.json").read_text())
    write_files(stored.path, {"provenance.json": json.dumps({**provenance, "started": "later"})})
    (again,) = collect(Plan(configs=(config,)), workspace=Workspace(tmp_path / "runs"))
    assert again.path == stored.path, "another run of the same config is not its copy"


def test_records_keep_votes_that_a_part_of_the_studies_does_not_need(tmp_path: Path) -> None:
    from matfl.runs.run import Run

    config = setting(smoke(), "scenes9", method="matfl")
    run = Run(write_run(tmp_path / "runs", config, fake_run(config)))
    for votes, expected in (((), False), ((config,), True), ((), True)):
        driver._export(Plan(configs=(config,), votes=votes), {config: run}, {}, tmp_path / "out")
        assert places.has_votes(Run(tmp_path / "out" / config.name)) == expected
    stale = tmp_path / "out" / "smoke-matfl-000000000000"
    stale.mkdir()
    driver._prune(Plan(configs=(config,)), tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == [config.name]


@pytest.mark.slow
def test_two_drawings_into_one_folder_wait_for_each_other(small: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from threading import Thread

    results: list[int] = []

    def draw() -> None:
        results.append(reproduce(["90"], preset="smoke", **there(small)))

    (small / "out").mkdir()
    with locked(small / "out" / ".lock"):
        other = Thread(target=draw)
        other.start()
        other.join(2.5)
        assert other.is_alive()
    other.join(120)
    assert results == [0]
    assert f"waiting for another process (pid {os.getpid()}), which holds" in capsys.readouterr().err


def test_a_folder_that_cannot_be_written_is_named_before_anything_is_computed(small: Path) -> None:
    (small / "file").write_text("")
    with pytest.raises(RunError, match=r"file: cannot be written to .* choose another folder with --out"):
        reproduce(["90"], preset="smoke", workspace=Workspace(small / "runs"), out=small / "file")


def test_an_empty_name_is_no_study() -> None:
    with pytest.raises(ValueError, match="unknown study ''"):
        driver.choose([""])
