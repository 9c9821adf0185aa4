"""What is stored, what is missing, what it would take, and notebooks that draw what they can."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from synthetic_runs import fake_run
from test_reproduce import write_run

from matfl.config.run_config import smoke
from matfl.core import surroundings
from matfl.paper.claims import Above, Claim, Part
from matfl.paper.stats import estimate
from matfl.paper.studies import STUDIES, Plan, Session
from matfl.paper.studies.base import setting
from matfl.paper.studies.benchmark import CentralTest
from matfl.paper.studies.constants import ConstantAnswers
from matfl.paper.studies.paper_claims import PAPER_CLAIMS, not_computed
from matfl.paper.studies.partial import Tolerant, forget
from matfl.paper.studies.session import collect_stored
from matfl.paper.studies.session import stock as stock_of
from matfl.paper.studies.stock import comparable, seconds_of
from matfl.paper.studies.store import Record, job_name, write_record
from matfl.runs.run import Run
from matfl.runs.store import RunError
from matfl.runs.workspace import Workspace


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    monkeypatch.setenv("MATFL_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("MATFL_FIGURES", str(tmp_path / "figures"))
    monkeypatch.setattr("matfl.runs.workspace.checkout", lambda: None)
    (tmp_path / "figures").mkdir()
    return Workspace()


def config(method: str = "matfl", seed: int = 0, **changes: Any) -> Any:
    return setting(smoke(), "outdoor5", method=method, seed=seed, **changes)


def store(place: Workspace, *configs: Any) -> None:
    for each in configs:
        write_run(place.runs, each, fake_run(each))


def test_a_stock_tells_the_stored_from_the_missing(place: Workspace) -> None:
    plan = Plan(configs=(config("single_task"), config(), config(seed=1)))
    store(place, config("single_task"), config())
    found = stock_of(plan, preset="smoke")
    assert found.runs == plan.configs[:2]
    assert found.missing_runs == plan.configs[2:]
    assert (found.missing, found.total) == (1, 3)
    text = str(found)
    assert "2 of 3 results of preset 'smoke' are stored" in text
    assert "1 run of matfl" in text
    assert 'train = "yes"' in text
    store(place, config(seed=1))
    assert str(stock_of(plan, preset="smoke")) == "All 3 results are stored: nothing needs to be trained."


def test_minutes_follow_from_recorded_seconds(place: Workspace) -> None:
    missing = Plan(configs=(config(seed=7),))
    assert math.isnan(stock_of(missing, preset="smoke").minutes)
    assert "unknown time" in str(stock_of(missing, preset="smoke"))
    store(place, config())
    recorded = seconds_of(Run(place.runs / config().name))
    assert recorded > 0
    same = stock_of(missing, preset="smoke")
    assert same.minutes * 60 * same.cores == pytest.approx(recorded), "the same run on another seed"
    longer = stock_of(Plan(configs=(config("fedavg", rounds=8),)), preset="smoke")
    assert longer.minutes * 60 * longer.cores == pytest.approx(2 * recorded), "another method, twice the rounds"


def test_minutes_of_other_results_are_those_of_as_much_work(place: Workspace) -> None:
    def central(**changes: Any) -> CentralTest:
        return CentralTest(config=config("single_task", **changes))

    for rounds, seconds in ((4, 30.0), (40, 900.0)):
        job = central(rounds=rounds)
        taken = {"seconds": seconds}
        write_record(
            place.runs, Record(path=Path(job_name(job)), spec=job.spec(), values={}, arrays={}, provenance=taken)
        )
    for rounds, expected in ((4, 30), (8, 60), (20, 450), (80, 1800)):
        found = stock_of(Plan(jobs=(central(rounds=rounds, seed=3),)), preset="smoke")
        assert found.minutes * 60 * found.cores == pytest.approx(expected), "of the record with the nearest work"
    assert math.isnan(stock_of(Plan(jobs=(ConstantAnswers(config=config()),)), preset="smoke").minutes)


def test_the_size_is_that_of_a_model_a_client(place: Workspace) -> None:
    from matfl.models.network import build
    from matfl.tasks.task import pairs

    chosen = config()
    parameters = sum(p.numel() for pair in pairs("outdoor5") for p in build(chosen, pair).parameters())
    found = stock_of(Plan(configs=(chosen,)), preset="smoke").megabytes
    assert 2 * 4 * parameters / 1e6 <= found < 1.1 * 2 * 4 * parameters / 1e6


def test_a_run_without_its_single_task_baseline_is_not_drawn(place: Workspace) -> None:
    plan = Plan(configs=tuple(config(m, s) for s in (0, 1) for m in ("single_task", "fedavg", "matfl")))
    stored = [c for c in plan.configs if (c.method, c.seed) != ("single_task", 1)]
    assert comparable(stored, plan) == [c for c in stored if c.seed == 0]
    own_step = config(server_lr=2.0)
    assert comparable([own_step], plan) == []
    assert comparable([own_step, config("single_task")], plan)[0] == own_step
    alone = Plan(configs=(config(),))
    assert comparable([config()], alone) == [config()], "a plan without baselines compares nothing"
    store(place, *stored)
    assert [run.config for run in collect_stored(plan)] == [c for c in stored if c.seed == 0]


def test_training_is_asked_for_or_follows_from_the_surroundings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MATFL_LIVE", "1")
    assert not Session("04_k_sweep", "smoke").trains
    assert Session("04_k_sweep", "smoke", train="yes").trains
    assert Session("04_k_sweep", "smoke", train=True).trains
    monkeypatch.setenv("MATFL_LIVE", "0")
    assert Session("04_k_sweep", "smoke").trains
    assert not Session("04_k_sweep", "smoke", train=False).trains
    with pytest.raises(ValueError, match="train='maybe': choose 'ask'"):
        Session("04_k_sweep", "smoke", train="maybe")
    with pytest.raises(ValueError, match="unknown preset 'quikc'"):
        Session("04_k_sweep", "quikc")


def test_a_batch_and_a_terminal_are_no_open_notebook(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MATFL_LIVE", raising=False)
    monkeypatch.setenv("JPY_SESSION_NAME", "a.ipynb")
    assert not surroundings.is_live(), "no kernel"
    monkeypatch.setattr(surroundings, "in_kernel", lambda: True)
    monkeypatch.delenv("MATFL_FIGURES", raising=False)
    assert surroundings.is_live()
    monkeypatch.setenv("MATFL_FIGURES", "/x")
    assert not surroundings.is_live(), "matfl reproduce"
    monkeypatch.delenv("MATFL_FIGURES")
    monkeypatch.delenv("JPY_SESSION_NAME")
    for name in ("VSCODE_PID", "COLAB_RELEASE_TAG", "KAGGLE_KERNEL_RUN_TYPE"):
        monkeypatch.delenv(name, raising=False)
    assert not surroundings.is_live(), "papermill, nbval"


def test_a_store_that_cannot_be_written_is_named_before_anything_trains(
    place: Workspace, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MATFL_RUNS", str(tmp_path / "file"))
    with pytest.raises(RunError, match=r"file: cannot be written to .* MATFL_RUNS"):
        Session("04_k_sweep", "smoke", train="yes").stock(Plan(configs=(config(),)))
    assert Session("04_k_sweep", "smoke", train="no").stock(Plan(configs=(config(),))).missing == 1


def test_claims_without_runs_are_not_computed() -> None:
    part = Part(statistic="s", value=estimate([1.0, 1.1, 1.2]), rule=Above(0))
    found = Claim(text="outdoor5: MaT-FL beats FedProx.", parts=(part,))
    claims = not_computed("02_methods", [found])
    assert claims[0] is found
    assert [claim.word for claim in claims[1:]] == ["not computed"] * 4
    assert not any("FedProx." in claim.text and "beats" in claim.text for claim in claims[1:])
    assert "- **not computed** – MaT-FL beats single-task FL." in claims[3].markdown()
    assert claims[3].row()["verdict"] == "not computed"


def test_every_claim_of_the_paper_is_judged_by_a_notebook() -> None:
    assert {claim.study for claim in PAPER_CLAIMS} <= set(STUDIES)
    assert len({claim.judged_as for claim in PAPER_CLAIMS}) == len(PAPER_CLAIMS)


@pytest.fixture
def shell() -> Iterator[Any]:
    """A kernel's shell in this process."""
    from IPython.core.interactiveshell import InteractiveShell

    made = InteractiveShell.instance()
    yield made
    forget()
    InteractiveShell.clear_instance()


def test_cells_that_lack_results_say_so_and_the_others_go_on(
    place: Workspace, shell: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    shell.user_ns["plan"] = Plan(configs=(config(), config(seed=1)))
    setup = (
        "from matfl.paper.studies import Session\n"
        'session = Session("02_methods", "smoke", train="no")\nstock = session.stock(plan)'
    )
    assert shell.run_cell(setup).success
    for cell in ("runs = session.runs(plan)\nruns[0]", "runs", "1 + 1", "x = 5\nx", "session.report([runs[0]])"):
        assert shell.run_cell(cell).success, cell
    printed = capsys.readouterr().out
    assert printed.count("Not drawn from what is stored (IndexError: list index out of range)") == 2
    assert "2 results are missing" in printed
    assert "[]" in printed
    assert "5" in printed
    assert "[not computed] MaT-FL beats FedProx." in printed
    assert not shell.run_cell("import nothing_of_this_name").success, "what has other causes stays an error"
    assert shell.run_cell('session = Session("02_methods", "smoke", train="no")').success
    assert not shell.run_cell("undefined_name").success, "a new session starts afresh"


def test_complete_notebooks_run_as_they_are_written(place: Workspace, shell: Any) -> None:
    store(place, config())
    shell.user_ns["plan"] = Plan(configs=(config(),))
    shell.run_cell(
        "from matfl.paper.studies import Session\n"
        'session = Session("02_methods", "smoke", train="no")\nsession.stock(plan)'
    )
    assert not any(isinstance(transformer, Tolerant) for transformer in shell.ast_transformers)


def test_records_without_what_is_drawn_count_as_missing(place: Workspace) -> None:
    chosen = config()
    run = fake_run(chosen)
    lean = replace(run, diagnostics={k: v for k, v in run.diagnostics.items() if k not in ("votes", "similarity")})
    write_run(place.runs, chosen, lean)
    assert stock_of(Plan(configs=(chosen,)), preset="smoke").missing == 0
    assert stock_of(Plan(configs=(chosen,), votes=(chosen,)), preset="smoke").missing == 1
