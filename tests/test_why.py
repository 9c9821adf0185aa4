"""The server's step and the explanation, on made-up runs whose answers are known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from synthetic_runs import fake_run, scores

from matfl.config.run_config import RunConfig, override, smoke
from matfl.paper.studies import clients_per_task, k_sweep, methods, server_step, why
from matfl.paper.studies.base import setting
from matfl.paper.studies.benchmark import CentralTest
from matfl.paper.studies.paper_claims import PAPER_CLAIMS
from matfl.paper.studies.store import Record, job_name
from matfl.server.methods import METHODS
from matfl.tasks.task import TASKS

BETTER = {"single_task": 0.0, "fedavg": -4.0, "fedprox": -4.2, "matfl": -0.5, "local": -2.0}
BEST = {"single_task": 1.4142, "fedavg": 2.2361, "fedprox": 2.2361, "matfl": 1.4142}


def gain(config: RunConfig) -> float:
    """delta_m that grows to a method's best step by 3 points and falls steeply beyond."""
    best, noise = BEST.get(config.method, 2.0), np.random.default_rng([config.seed, len(config.method)]).normal(0, 0.1)
    step = config.server_lr
    change = 3 * (step - 1) / (best - 1) if step <= best else 3 - 6 * (step - best)
    return BETTER[config.method] + change + (noise if (config.method, step) != ("single_task", 1) else 0)


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A place of its own for what is chosen."""
    monkeypatch.setattr(server_step, "FROZEN", tmp_path / "frozen.json")
    return tmp_path / "frozen.json"


def test_candidates_depend_on_the_number_of_tasks() -> None:
    assert server_step.candidates("outdoor5") == (1, 1.4142, 2, 2.2361, 5)
    assert server_step.candidates("scenes9") == (1, 1.4142, 2, 3, 9)
    assert server_step.candidates("outdoor/sal") == (1, 1.4142, 2)


def test_the_best_step_is_chosen_on_development_seeds_alone(kept: Path) -> None:
    asked: list[RunConfig] = []

    def collect(configs: Any) -> list[Any]:
        asked.extend(configs)
        return [fake_run(config, gain(config)) for config in configs]

    choice = server_step.choose("scenes", collect, tasks="outdoor5")
    assert choice["steps"]["outdoor5"] == BEST
    assert choice["seeds"] == [100, 101]
    assert {config.seed for config in asked} == {config.data_seed for config in asked} == {100, 101}
    tried = choice["delta_m"]["outdoor5 single_task"]
    assert list(tried) == ["1", "1.4142", "2"]  # 2 is far below, so larger ones are not trained
    assert len(choice["delta_m"]["outdoor5 fedavg"]["2.2361"]) == 2
    server_step.freeze("scenes", choice, path=kept)
    server_step.freeze("scenes", choice, path=kept)
    assert server_step.own_step("scenes", "outdoor5", "matfl", path=kept) == 1.4142
    assert server_step.own_step("scenes", "scenes9", "matfl", path=kept) is None
    with pytest.raises(ValueError, match="made once, before report seeds are run"):
        server_step.freeze("scenes", choice | {"seeds": [100]}, path=kept)


def frozen_steps(kept: Path) -> None:
    choice = {"seeds": [100], "regime": "", "steps": {"outdoor5": BEST}, "delta_m": {}}
    server_step.freeze("scenes", choice, path=kept)


def test_without_a_choice_only_step_1_is_planned(kept: Path) -> None:
    assert {c.server_lr for c in server_step.plan("scenes").configs} == {1}
    assert server_step.claims([fake_run(c, gain(c)) for c in server_step.plan("scenes").configs]) == []


def test_methods_at_their_own_steps(kept: Path) -> None:
    frozen_steps(kept)
    configs = server_step.plan("scenes", tasks="outdoor5", seeds=3).configs
    assert len(configs) == 2 * 4 * 3
    assert {c.server_lr for c in configs if c.method == "fedavg"} == {1, 2.2361}
    runs = [fake_run(c, gain(c)) for c in configs]
    table = server_step.table(runs).set_index("method")
    assert table.loc["matfl", "own_step"] == 1.4142
    assert table.loc["matfl", "gain"] == pytest.approx(3, abs=0.3)
    assert table.loc["fedavg", "own"] == pytest.approx(-1, abs=0.3)
    words = {claim.text: claim.word for claim in server_step.claims(runs)}
    assert words["outdoor5: MaT-FL gains from a server step of its own (1.4142)."] == "held"
    plain, single = METHODS["fedavg"].title, METHODS["single_task"].title
    assert words[f"outdoor5: each at its own step, MaT-FL beats {plain}."] == "held"
    assert words[f"outdoor5: each at its own step, {plain} beats {single}."] == "not held"
    course = server_step.over_rounds(runs)
    assert set(course["round"]) == {1, 60}


def test_a_method_without_a_step_of_its_own_is_shown_at_1_alone(kept: Path) -> None:
    frozen_steps(kept)
    planned = server_step.plan("scenes", tasks="outdoor5;scenes9", seeds=2).configs
    table = server_step.table([fake_run(c, gain(c)) for c in planned]).set_index(["tasks", "method"])
    without = table.loc["scenes9"]
    assert without["step_1"].notna().all()
    assert without[["own_step", "own", "gain", "low", "high"]].isna().all(axis=None)
    assert table.loc["outdoor5"].notna().all(axis=None)


def test_tables_at_own_steps_are_against_single_task_at_step_1(kept: Path) -> None:
    frozen_steps(kept)
    planned = clients_per_task.plan("scenes", seeds=2, clients="2").configs
    runs, own = server_step.by_step([fake_run(c, gain(c)) for c in planned])
    assert len(planned) == len({*planned}) == 2 * 4 * 2
    assert {run.config.server_lr for run in runs} == {1}
    assert {run.config.method: run.config.server_lr for run in own} == BEST
    table = clients_per_task.table(own, reference=runs)["delta_m"]
    assert table[2, "single_task"] == pytest.approx(3, abs=0.3)
    assert table[2, "fedavg"] == pytest.approx(-1, abs=0.3)
    assert clients_per_task.table(runs)["delta_m"][2, "single_task"] == 0
    swept = k_sweep.plan("scenes", tasks="outdoor5", ks="4", seeds=1).configs
    runs, own = server_step.by_step([fake_run(c, gain(c)) for c in swept])
    frame = k_sweep.numbers(own, reference=runs).set_index("method")
    assert frame.loc["matfl", "delta_m"] == pytest.approx(2.5, abs=0.3)
    table1 = methods.plan("scenes", tasks="outdoor5", methods="matfl", seeds=1).configs
    assert {(c.method, c.server_lr) for c in table1} == {
        ("single_task", 1),
        ("single_task", 1.4142),
        ("matfl", 1),
        ("matfl", 1.4142),
    }


def test_the_k_sweep_is_judged_at_own_steps_too_by_delta_m_and_not_for_the_paper(kept: Path) -> None:
    frozen_steps(kept)
    planned = k_sweep.plan("scenes", tasks="outdoor5", ks="2,4,8", seeds=3).configs
    for worse_at_2 in (True, False):
        tilt = {2: -6.0 if worse_at_2 else 9.0, 4: 7.5, 8: 8.0}
        made = [fake_run(c, gain(c) + (tilt[c.k] if c.method == "matfl" else 0) * (c.server_lr > 1)) for c in planned]
        runs, own = server_step.by_step(made)
        at_own = {claim.text: claim for claim in k_sweep.claims(own, reference=runs)}
        ahead, tiny = at_own.values()
        assert ahead.text.endswith("every baseline (delta_m), at the methods' own server steps.")
        assert ahead.word == "held"
        assert all("Single-Task FL" in part.statistic for part in ahead.parts)
        assert [part.value.mean for part in ahead.parts] == pytest.approx([7.0, 7.5], abs=0.3)
        assert tiny.text.endswith("larger ones, at the methods' own server steps.")
        assert tiny.word == ("held" if worse_at_2 else "not held")
        assert not any(paper.fits(text) for paper in PAPER_CLAIMS for text in at_own)
        assert k_sweep.claims(runs)[1].word == "not held", "at step 1 MaT-FL is below single-task FL"
    assert k_sweep.claims([], reference=runs) == []


# --- why --------------------------------------------------------------------------------------------------------------


def records(better: dict[tuple[str, str], float], seeds: int = 3) -> list[Record]:
    """Central and pairwise tests in which row's task gains `better` percent from column's."""
    found = []
    for seed in range(seeds):
        config = setting(smoke(), "outdoor5", method="single_task", seed=seed)
        central, pairwise = CentralTest(config=config), why.PairTest(config=config)

        def metric(values: dict[str, float]) -> dict[str, dict[str, float]]:
            return {name: {TASKS[name.split("/")[1]].main_metric: value} for name, value in values.items()}

        alone = scores(config, 0.0)
        values = {"seed": seed, "metrics": {"none": metric(alone), "domain": metric(scores(config, 2.0))}}
        found.append(Record(path=Path(job_name(central)), spec=central.spec(), values=values, arrays={}, provenance={}))
        metrics = {
            unit: metric({a: scores(config, better[a, b])[a], b: scores(config, better[b, a])[b]})
            for unit, (a, b) in pairwise.groups().items()
        }
        values = {"seed": seed, "metrics": metrics}
        found.append(
            Record(path=Path(job_name(pairwise)), spec=pairwise.spec(), values=values, arrays={}, provenance={})
        )
    return found


def planned(kept: Path, seeds: int = 3) -> list[Any]:
    frozen_steps(kept)
    return [fake_run(c, gain(c)) for c in why.plan("scenes", seeds=seeds).configs]


def test_the_plan_asks_for_norms_and_shares_its_runs(kept: Path) -> None:
    plan = why.plan("scenes")
    assert plan.norms == plan.configs
    assert {c.tasks for c in plan.configs} == {"outdoor5"}
    shares = {(c.clients_per_task, c.images_per_client, c.local_epochs) for c in plan.configs if c.method == "matfl"}
    assert shares == {(1, 200, 1), (2, 100, 1), (4, 50, 1), (2, 20, 5)}
    assert [job.kind for job in plan.jobs] == ["central"] * 3 + ["pairs"] * 3
    assert len(plan.jobs[-1].units()) == 10


def test_steps_stand_beside_their_theory(kept: Path) -> None:
    runs = planned(kept)
    table = why.step_sizes(why.main_runs(runs))
    assert set(table["server_lr"]) == {1, 1.4142, 2.2361}
    for run in runs:
        run.diagnostics["cosines"] = np.broadcast_to(np.eye(run.config.num_clients), run.diagnostics["cosines"].shape)
    table = why.step_sizes(why.main_runs(runs))
    assert table["norm"].to_numpy() == pytest.approx(table["norm_theory"].to_numpy(), rel=0.01)
    assert table["own"].to_numpy() == pytest.approx(table["own_theory"].to_numpy(), rel=0.01)
    one, own = (table[(table["method"] == "matfl") & (table["server_lr"] == step)] for step in (1, 1.4142))
    assert own["own"].mean() == pytest.approx(1.4142 * one["own"].mean(), rel=0.01)


@pytest.mark.slow
def test_partners_turn_against_each_other(kept: Path) -> None:
    frame = why.decay(why.decay_runs(planned(kept)))
    assert frame[frame["clients_per_task"] == 1]["partners"].isna().all()
    two = frame[(frame["clients_per_task"] == 2) & (frame["images"] == 100)]
    assert two.groupby("round")["partners"].mean().iloc[[0, -1]].to_numpy() == pytest.approx([0.3, -0.3], abs=1e-3)
    assert two["others"].mean() == pytest.approx(0.02, abs=1e-3)
    assert set(why.fits(frame)["clients_per_task"]) == {2, 4}


def test_local_training_stands_beside_the_cosines_and_nowhere_else(kept: Path) -> None:
    runs = planned(kept)
    for run in runs:
        if run.config.method == "local":
            np.copyto(run.diagnostics["cosines"], np.float16(0.25))
    assert {run.config.method for run in why.main_runs(runs)} == {"single_task", "fedavg", "fedprox", "matfl"}
    table = why.courses(runs).set_index(["method", "server_lr", "seed"]).sort_index()
    assert set(table.loc["matfl"].index.get_level_values("server_lr")) > {1}, "at its own step as well"
    chosen = ["chosen_first", "chosen_last"]
    assert (table.loc["local"].drop(columns=chosen) == 0.25).all(axis=None)
    assert table.loc["matfl", "partners_first"].to_numpy() == pytest.approx(0.25, abs=0.02)
    assert table.loc["matfl", "partners_last"].to_numpy() == pytest.approx(-0.25, abs=0.02)
    assert table.loc["matfl", chosen].notna().all(axis=None)
    assert table.drop("matfl")[chosen].isna().all(axis=None), "who does not vote chooses nobody"
    assert not any(config.method == "local" for config in why.plan("quick").configs)
    never = [run for run in runs if run.config.method == "local"]
    (flat,) = why._control_claims(never, "")
    assert flat.word != "held"
    assert why._control_claims([], "") == []


def test_claims_of_the_explanation(kept: Path) -> None:
    runs = planned(kept)
    choices = why.chosen(runs)[0]
    names = list(choices.index)
    better = {(a, b): 10 * choices.loc[a, b] + 0.1 * i for i, a in enumerate(names) for b in names if a != b}
    found = {claim.text: claim for claim in why.claims(runs, records(better))}
    assert found["Under MaT-FL partners' updates grow unlike each other as training goes on."].word == "held"
    end = found["Under MaT-FL partners are in the end less alike than clients of different tasks."]
    assert end.word == "held"
    assert end.note.startswith("Under plain averaging -0.")
    never = "Partners' updates grow unlike each other as training goes on where clients are never averaged, too."
    assert found[never].word == "held"
    few = "With fewer images a client, seen as much oftener, its partner's update is less like its own in the end."
    assert found[few].word != "held"
    assert found["Clients choose the tasks that help them."].parts[0].value.mean > 0.3
    first = found["Plain averaging moves each task's model by about 1/C of what its own clients ask for."]
    assert first.note.startswith("The component falls from ")
    worse = {pair: -value for pair, value in better.items()}
    against = {claim.text: claim for claim in why.claims(runs, records(worse))}
    assert against["Clients choose the tasks that help them."].parts[0].value.mean < -0.3


def test_tasks_that_everybody_chooses_are_chosen_for_no_gain() -> None:
    """All clients choose by popularity alone, and popular tasks help everybody: nothing is left of the correlation."""
    names = [f"outdoor/{task}" for task in ("semseg", "human_parts", "sal", "normals", "edge")]
    popular = np.array([0.9, 0.7, 0.5, 0.3, 0.1])
    gains = {s: pd.DataFrame(10 * popular[None] + np.zeros((5, 1)), index=names, columns=names) for s in range(3)}
    noise = [np.random.default_rng(s).normal(0, 1e-3, (5, 5)) for s in range(3)]
    choices = {s: pd.DataFrame(popular[None] + noise[s], index=names, columns=names) for s in range(3)}
    (claim,) = why._choice_claims(gains, choices, "")
    assert claim.parts[0].value.mean > 0.9
    assert abs(float(claim.note.rpartition(" ")[2].rstrip("."))) < 0.3


def test_gains_in_pairs_have_their_direction() -> None:
    names = [f"outdoor/{task}" for task in ("semseg", "human_parts", "sal", "normals", "edge")]
    better = {(a, b): float(i - j) for i, a in enumerate(names) for j, b in enumerate(names) if a != b}
    table = why.helps(records(better, seeds=1))[0]
    assert isinstance(table, pd.DataFrame)
    for (a, b), value in better.items():
        assert table.loc[a, b] == pytest.approx(value)


def test_what_a_method_would_have_to_do(kept: Path) -> None:
    runs = planned(kept)
    table = why.needs(runs)
    assert table.loc["delta_m (%)", ["plain", "matfl", "alone"]].tolist() == pytest.approx([-4, -0.5, 3], abs=0.3)
    assert table.loc["component of a step along the task's own", "alone"] == pytest.approx(1.4, abs=0.2)
    weights = table.loc[["weight of the task's own clients", "weight of other tasks' clients"]]
    assert weights.sum().tolist() == pytest.approx([1, 1, 1])
    kept_by = why.step_sizes(why.main_runs(runs)).query("method == 'matfl' and server_lr == 1").mean(numeric_only=True)
    assert weights["matfl"].iloc[0] == pytest.approx(kept_by["self_weight"] + kept_by["partner_weight"])
    last = why.decay(why.main_runs([run for run in runs if run.config.method == "matfl" and run.config.server_lr == 1]))
    expected = last[last["round"] > 50]["partners"].mean()
    assert table.loc["cosine of partners, last sixth of the rounds", "matfl"] == pytest.approx(expected)


def test_what_one_backbone_for_all_gives_each_task() -> None:
    names = [f"outdoor/{task}" for task in ("semseg", "human_parts", "sal", "normals", "edge")]
    table = why.shared(records({(a, b): 1.0 for a in names for b in names if a != b})).set_index("pair")
    assert list(table.index) == names
    assert table["mean"].to_numpy() == pytest.approx(2)
    assert set(table["n"]) == {3}


def test_a_step_of_a_method_is_set_in_its_config(kept: Path) -> None:
    frozen_steps(kept)
    config = setting(override(smoke(), preset="scenes"), "outdoor5", method="fedavg")
    assert server_step.at_own_step(config).server_lr == 2.2361
    assert server_step.at_own_step(override(config, method="local")).server_lr == 1
