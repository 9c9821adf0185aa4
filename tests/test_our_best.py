"""Our best method against others, on made-up runs: who is compared is decided on development seeds alone."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from synthetic_runs import fake_run

from matfl.config.run_config import RunConfig
from matfl.paper import plots
from matfl.paper.studies import captions, our_best, printed, server_step, why
from matfl.paper.studies.base import BASELINES

TRIED = {
    "single_task": {"1": [0.0, 0.0], "1.4142": [1.0, 2.0]},
    "fedavg": {"1": [-3.0, -4.0], "2.2361": [0.5, 0.0]},
    "matfl": {"1": [0.0, 0.2], "1.4142": [1.0, 1.4]},
    "pcgrad": {"1": [2.0, 2.2], "2": [-9.0, -9.0]},
    "matfl_self": {"1": [1.0, 1.0]},
    "matfl_gain": {"1": [0.0, 0.0], "1.4142": [3.0, 3.2]},
}
"""delta_m on two development seeds: of ours `matfl_gain` is best, of the others `pcgrad`."""


@pytest.fixture(autouse=True)
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(server_step, "FROZEN", tmp_path / "frozen.json")
    return tmp_path / "frozen.json"


def choice(methods: list[str], tasks: str = "outdoor5") -> dict:
    steps = {m: float(max(TRIED[m], key=lambda step: np.mean(TRIED[m][step]))) for m in methods}
    tried = {f"{tasks} {m}": dict(TRIED[m]) for m in methods}
    return {"seeds": [100, 101], "regime": "here", "steps": {tasks: steps}, "delta_m": tried}


def freeze_all() -> None:
    server_step.freeze("scenes", choice(list(TRIED)))


def gain(config: RunConfig) -> float:
    """delta_m of a report seed: ours is 2 points above single-task FL at step 1, and level with PCGrad."""
    noise = np.random.default_rng([config.seed, len(config.method)]).normal(0, 0.1)
    if (config.method, config.server_lr) == ("single_task", 1):
        return 0.0
    return {"matfl_gain": 2.0, "pcgrad": 2.0, "single_task": 1.0}.get(config.method, -1.0) + noise


def test_nothing_is_compared_before_a_choice() -> None:
    server_step.freeze("scenes", choice(["single_task", "fedavg"]))
    assert our_best.plan("scenes").configs == ()
    assert our_best.choice("scenes").empty
    assert our_best.tried("quick").empty
    assert printed.tried(our_best.tried("quick"), our_best.chosen_on("quick")).markdown()
    assert our_best.compare([]).empty
    assert our_best.claims([]) == []


def test_methods_chosen_later_join_those_kept() -> None:
    server_step.freeze("scenes", choice(["single_task", "fedavg"]))
    server_step.freeze("scenes", choice(["matfl_gain"]))
    server_step.freeze("scenes", choice(["matfl"], tasks="scenes9"))
    steps = server_step.frozen()["scenes"]["steps"]
    assert steps == {
        "outdoor5": {"single_task": 1.4142, "fedavg": 2.2361, "matfl_gain": 1.4142},
        "scenes9": {"matfl": 1.4142},
    }
    changed = choice(["fedavg"])
    changed["delta_m"]["outdoor5 fedavg"]["1"] = [5.0, 5.0]
    with pytest.raises(ValueError, match=r"another choice for preset 'scenes' \(outdoor5 fedavg\)"):
        server_step.freeze("scenes", changed)
    assert server_step.frozen()["scenes"]["steps"] == steps


def test_the_best_on_development_seeds_are_compared() -> None:
    freeze_all()
    found = our_best.contest("scenes")
    assert found is not None
    assert found.ours == ("matfl_gain", 1.4142)
    assert list(found.others.values()) == [
        ("single_task", 1.0),
        ("single_task", 1.4142),
        ("fedavg", 2.2361),
        ("pcgrad", 1.0),
    ]
    configs = our_best.plan("scenes", seeds=2).configs
    assert {(c.method, c.server_lr) for c in configs} == {found.ours, *found.others.values(), *found.beside}
    assert {c.seed for c in configs} == {0, 1}


def test_photographs_take_the_choice_made_on_scenes() -> None:
    freeze_all()
    there, here = our_best.contest("scenes"), our_best.contest("photos")
    assert there is not None
    assert here is not None
    assert here.ours == there.ours
    assert list(here.others.values()) == list(there.others.values())
    assert "plain many-task FL at its own step" in there.others
    assert "plain many-task FL at the step chosen on outdoor5 at scenes" in here.others
    assert {c.tasks for c in our_best.plan("photos").configs} == {"photos8"}
    assert our_best.contest("quick") is None


def test_all_that_was_tried_is_shown_best_first() -> None:
    freeze_all()
    server_step.freeze("scenes", choice(["matfl"], tasks="scenes9"))
    found = our_best.tried("scenes")
    assert list(found.index) == ["matfl_gain", "pcgrad", "single_task", "matfl", "matfl_self", "fedavg"]
    assert list(found.columns) == [1, 1.4142, 2, 2.2361]
    assert found.loc["fedavg", [1, 2.2361]].to_list() == [-3.5, 0.25]
    assert found.loc["fedavg", [1.4142, 2]].isna().all()
    assert our_best.tried("photos").equals(found)
    text = printed.tried(found, our_best.chosen_on("photos")).markdown()
    assert "| step 1 (%) | step 1.41 (%) | step 2 (%) | step 2.24 (%) |" in re.sub(" +", " ", text)
    assert "+3.1" in text
    assert "development seeds (outdoor5 at scenes)" in printed.tried(found, our_best.chosen_on("photos")).caption


def test_every_opponent_has_a_row_and_a_claim() -> None:
    freeze_all()
    runs = [fake_run(c, gain(c)) for c in our_best.plan("scenes", seeds=5).configs]
    opponents = our_best.compare(runs)
    rows = opponents.set_index(["against", "server_lr"])
    assert rows.loc[("single_task", 1.0), "difference"] == pytest.approx(2, abs=0.2)
    assert rows.loc[("fedavg", 2.2361), "difference"] == pytest.approx(3, abs=0.2)
    words = [claim.word for claim in our_best.claims(runs)]
    assert words == ["held", "held", "held", "undecided"]
    ax = plots.contest(opponents)
    assert [label.get_text().rpartition(" ")[2] for label in ax.get_yticklabels()] == ["1", "1.41", "2.24", "1"]
    alt = captions.contest(runs, opponents).alt
    assert re.search(r"Single-Task FL at step 1 \+(1\.9|2\.0|2\.1),", alt)
    assert alt.count("Single-Task FL") == 2


def test_matfl_at_its_own_step_stands_beside_the_opponents_and_is_none() -> None:
    freeze_all()
    assert our_best.contest("scenes").beside == (("matfl", 1.4142),)
    assert our_best.contest("photos").beside == (), "the step is another preset's"
    runs = [fake_run(c, gain(c)) for c in our_best.plan("scenes", seeds=5).configs]
    rows, beside = our_best.compare(runs), our_best.beside(runs)
    assert rows["against"].tolist() == ["single_task", "single_task", "fedavg", "pcgrad"]
    assert beside["against"].tolist() == ["matfl"]
    assert beside["difference"].iloc[0] == pytest.approx(3, abs=0.2)
    assert beside["p_holm"].isna().all(), "the family is the opponents'"
    lines = printed.contest(runs, rows, beside).markdown().splitlines()
    assert [line.split("|")[2].strip() for line in lines[-2:]] == ["PCGrad", "MaT-FL"]
    assert our_best.beside([run for run in runs if run.config.method != "matfl"]).empty
    assert len(our_best.claims(runs)) == 4
    assert set(our_best.tasks_apart(runs)["against"]) == {"single_task", "fedavg", "pcgrad"}
    assert our_best.tasks_apart([]).empty


def test_intervals_lie_within_the_axes_unless_two_seeds_make_them_very_wide() -> None:
    rows = pd.DataFrame({"against": ["single_task", "fedavg"], "server_lr": 1.0, "difference": [1.0, -0.5]})
    near = plots.contest(rows.assign(low=[-1.5, -1.0], high=[2.5, 0.0])).get_xlim()
    assert near[0] < -1.5
    assert near[1] > 2.5
    wide = plots.contest(rows.assign(low=[-40.0, -1.0], high=[42.0, 0.0])).get_xlim()
    assert wide == pytest.approx((-3.36, 3.36))


def test_the_explanation_shows_the_best_rival() -> None:
    shown = {*BASELINES, "local"}  # local training is the control of averaging
    assert {c.method for c in why.plan("scenes").configs} == shown
    freeze_all()
    assert {c.method for c in why.plan("scenes").configs} == {*shown, "pcgrad"}
