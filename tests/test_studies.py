"""The numbers of the studies on made-up runs whose answers are known."""

from __future__ import annotations

import re
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from synthetic_runs import FakeRun, diagnostics, fake_run, metrics, scores

from matfl.config.run_config import RunConfig, override, preset, quick, smoke
from matfl.paper.claims import Above, Claim, Part
from matfl.paper.stats import estimate
from matfl.paper.studies import (
    STUDIES,
    Plan,
    benchmark,
    clients_per_task,
    cost_and_scale,
    grouping_frequency,
    k_sweep,
    layer_voting,
    methods,
    printed,
    server_step,
    tables,
    update_tsne,
)
from matfl.paper.studies import diagnostics as measure
from matfl.paper.studies.base import (
    BASELINES,
    base_config,
    chosen_methods,
    chosen_numbers,
    development_seeds,
    regime,
    report_seeds,
    setting,
    sizes,
)
from matfl.paper.studies.constants import ConstantAnswers
from matfl.paper.studies.order import ORDER, by_importance
from matfl.paper.studies.session import Report, Session, merged
from matfl.paper.studies.store import Record, job_name, load_or_compute, read_record
from matfl.tasks.task import TASKS, pairs

BETTER = {"local": -4.0, "single_task": 0.0, "fedavg": -7.0, "fedprox": -8.0, "matfl": -1.0}


def runs_of(plan: Plan, better: dict[str, float] = BETTER, spread: float = 0.0) -> list[FakeRun]:
    """A made-up run for every config of a plan; `spread` percent more for each seed except in single_task."""
    return [
        fake_run(c, better.get(c.method, -2.0) + (0 if c.method == "single_task" else spread * c.seed))
        for c in plan.configs
    ]


# --- settings ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "tasks, clients, k", [("scenes9", 2, 8), ("outdoor5", 2, 4), ("outdoor5", 1, 4), ("outdoor5", 4, 4)]
)
def test_k_fits_the_number_of_clients(tasks: str, clients: int, k: int) -> None:
    assert setting(quick(), tasks, clients_per_task=clients).k == k


def test_k_is_capped_and_a_given_one_kept() -> None:
    assert setting(quick(), "outdoor/semseg,outdoor/sal", clients_per_task=1).k == 2
    assert setting(quick(), "outdoor5", k=7).k == 7
    assert setting(base_config("paper_9"), "pascal5").k == 8
    assert setting(base_config("paper_9"), "pascal5", clients_per_task=1).k == 5
    with pytest.raises(ValueError, match=r"k=11: choose 1\.\.10"):
        setting(quick(), "outdoor5", k=11)


def test_settings_reach_the_config() -> None:
    assert base_config("smoke", "rounds=7; lr=3e-4").rounds == 7
    assert base_config("smoke", "rounds=7; lr=3e-4").lr == 3e-4
    with pytest.raises(ValueError, match="unknown parameter 'round'"):
        base_config("smoke", "round=7")
    with pytest.raises(ValueError, match="not of the form NAME=VALUE"):
        base_config("smoke", "rounds")


@pytest.mark.parametrize("study", [methods, clients_per_task, cost_and_scale], ids=lambda study: study.__name__)
def test_a_methods_own_parameters_are_for_its_runs_alone(study) -> None:
    plain, changed = (study.plan("smoke", settings=text).configs for text in ("rounds=2", "rounds=2; fedprox.mu=0.5"))
    assert len(plain) == len(changed)
    for before, after in zip(plain, changed):
        assert after == (override(before, **{"fedprox.mu": 0.5}) if before.method == "fedprox" else before)
    assert any(config.method == "fedprox" for config in changed)
    with pytest.raises(ValueError, match=r"ditto.strength is a parameter of method 'ditto', and the methods compared"):
        study.plan("smoke", methods="fedavg,matfl", settings="ditto.strength=1")
    with pytest.raises(ValueError, match=r"unknown parameter fedprox.nu"):
        study.plan("smoke", settings="fedprox.nu=1")
    with pytest.raises(ValueError, match="mu=-1"):
        study.plan("smoke", settings="fedprox.mu=-1")


def test_a_parameter_of_another_method_than_the_studys_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"fedprox\.mu is a parameter of method 'fedprox', but"):
        base_config("smoke", "fedprox.mu=0.5")


def test_lists_of_names_and_numbers() -> None:
    assert chosen_methods("", ("matfl",)) == ("matfl",)
    assert chosen_methods("matfl, local", ()) == ("local", "matfl")
    assert len(chosen_methods("all", ())) >= 9
    with pytest.raises(ValueError, match="unknown method 'fedsgd': choose from local"):
        chosen_methods("fedsgd", ())
    assert chosen_numbers("8,2,8", (1,), name="ks") == (2, 8)
    assert chosen_numbers(" ", (3, 1), name="ks") == (3, 1)
    with pytest.raises(ValueError, match="ks='2;8': expected integers"):
        chosen_numbers("2;8", (), name="ks")
    with pytest.raises(ValueError, match="unknown preset 'tiny'"):
        sizes("tiny")


# --- plans ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chosen", ["smoke", "quick", "scenes", "full", "paper_pascal5", "paper_9"])
def test_every_study_plans_for_every_preset(chosen: str) -> None:
    for name, plan in STUDIES.items():
        found = plan(chosen)
        if name not in ("11_our_best", "index"):  # which wait for a choice on development seeds, and for the others
            assert found.configs or found.jobs, name
        assert all(config.preset == chosen for config in found.configs)
        assert set(found.votes) <= set(found.configs)


def test_studies_share_their_runs() -> None:
    plans = [STUDIES[name]("scenes") for name in STUDIES]
    union = merged(plans)
    assert len(set(union.configs)) == len(union.configs) < sum(len(plan.configs) for plan in plans)
    table1 = set(methods.plan("scenes").configs)
    assert set(grouping_frequency.plan("scenes").configs) <= table1
    configs = cost_and_scale.plan("scenes", methods="single_task,matfl").configs
    methods_alone, plain = cost_and_scale.fast_and_plain([fake_run(c) for c in configs])
    assert {run.config for run in methods_alone} <= table1
    assert {(run.config.method, run.config.precision) for run in plain} == {("single_task", "fp32")}
    further = set(k_sweep.plan("scenes").configs) - table1
    assert len(further) == 2 * 3 * (len(sizes("scenes").ks) - 1), "at step 1 and at MaT-FL's own"
    seeds = {**dict.fromkeys(sizes("scenes").rivals, 3), **dict.fromkeys(BASELINES, 5)}
    chosen = [case for steps in server_step.frozen()["scenes"]["steps"].values() for case in steps.items()]
    own = sum(seeds.get(method, 0) for method, step in chosen if step != 1)
    protocols = 4 * 3 + 3 * 3 * 3
    readings = 2 * 5 + 3 * 3
    assert len(table1) == 2 * (4 * 5 + 3) + 14 * 3 + protocols + readings + own


def test_every_seed_has_pictures_of_its_own() -> None:
    for name, plan in STUDIES.items():
        for config in plan("scenes").configs:
            assert config.data_seed == config.seed, name
    assert {job.config.data_seed for job in benchmark.plan("scenes").jobs if hasattr(job, "config")} == {0, 1, 2}
    assert setting(quick(), "outdoor5", seed=3).data_seed == 3
    assert setting(base_config("quick", "data_seed=50"), "outdoor5", seed=3).data_seed == 53
    assert setting(base_config("paper_9"), "paper9", seed=3).data_seed == 0
    assert setting(base_config("quick", "seed=4"), "outdoor5").seed == 4


def test_table_2_keeps_the_number_of_images() -> None:
    """Sharing out the same images among more clients, not giving each of fewer clients no more than before."""
    configs = clients_per_task.plan("scenes").configs
    shares = {c.clients_per_task: c.images_per_client for c in configs}
    assert shares == {1: 200, 2: 100, 4: 50}
    assert len({c.clients_per_task * c.images_per_client for c in configs}) == 1
    assert {c.images_per_client for c in clients_per_task.plan("paper_pascal5").configs} == {0}


def test_what_matters_most_is_computed_first() -> None:
    plans = {name: plan("scenes") for name, plan in STUDIES.items()}
    union = by_importance(plans)
    assert set(union.configs) == {config for plan in plans.values() for config in plan.configs}
    first = union.configs[: 2 * 4 * 5]
    assert {config.method for config in first} == set(BASELINES)
    assert {config.tasks for config in first} == {"outdoor5", "scenes9"}
    assert [config.seed for config in first] == sorted(config.seed for config in first)
    assert set(STUDIES) <= set(ORDER)


def test_single_task_is_always_there_and_parameters_change_the_plan() -> None:
    assert {c.method for c in methods.plan("smoke", methods="matfl").configs} == {"single_task", "matfl"}
    assert {c.k for c in k_sweep.plan("smoke", ks="3,5").configs if c.method == "matfl"} == {3, 5}
    assert {c.tasks for c in methods.plan("smoke", tasks="outdoor5").configs} == {"outdoor5"}
    assert {c.seed for c in clients_per_task.plan("smoke", seeds=2).configs} == {0, 1}
    assert {c.voting_layers for c in layer_voting.plan("smoke", layers="2").configs} == {2, 8}
    with pytest.raises(ValueError, match=r"k=19: choose 1\.\.18"):
        k_sweep.plan("smoke", ks="19")


def test_update_sets_differ_by_one_setting() -> None:
    main, slow, *others = update_tsne.plan("scenes").jobs
    assert isinstance(main, update_tsne.UpdateSet)
    assert len(main.units()) == 90
    assert main.config.lr == preset("scenes").lr == 1e-3  # the regime of the federated runs
    for job in (main, slow):  # a spec names what differs from the defaults, and 1e-4 is one
        record = Record(path=Path(job_name(job)), spec=job.spec(), values={}, arrays={}, provenance={})
        assert update_tsne.rate(record) == job.config.lr
    assert slow.config.lr == 1e-4  # and the paper's
    assert [job.title for job in others] == ["heads per_type", "heads per_task", "heads independent", "random start"]
    assert {job.config.lr for job in others} == {1e-3}
    assert len({job_name(job) for job in (main, slow, *others)}) == 6
    assert [job.title for job in update_tsne.plan("paper_9").jobs][:2] == [
        "heads shared, learning rate 0.0001",
        "heads per_type",
    ]


# --- tables -----------------------------------------------------------------------------------------------------------


def test_delta_m_of_a_uniform_gain_is_that_gain() -> None:
    runs = [
        fake_run(setting(smoke(), "scenes9", method=name, seed=seed), better)
        for name, better in (("single_task", 0.0), ("matfl", 3.0))
        for seed in (0, 1)
    ]
    found = tables.delta_table(tables.final(runs)).set_index(["method", "seed"])["delta_m"]
    assert found["matfl", 0] == pytest.approx(3.0)
    assert found["matfl", 1] == pytest.approx(3.0)
    assert found["single_task", 1] == 0


def test_final_takes_the_last_round_the_kind_and_the_clients_mean() -> None:
    config = setting(smoke(), "outdoor/semseg", method="local")
    table = metrics(config, {1: {"outdoor/semseg": 0.1}, 4: {"outdoor/semseg": 0.4}})
    own = table[table["kind"] == "global"]
    table = pd.concat([own.assign(client=0), own.assign(client=1, value=own["value"] + 0.2)])
    run = FakeRun(config, table)
    assert tables.final([run])["value"].tolist() == pytest.approx([0.5])
    assert tables.scores([run])["round"].tolist() == [1, 4]
    with pytest.raises(ValueError, match="no metrics of kind 'local'"):
        tables.final([run], kind="local")
    local = fake_run(setting(smoke(), "outdoor/semseg,outdoor/normals", method="matfl"))
    values = tables.final([local], kind="local").set_index("pair")["value"]
    assert values["outdoor/semseg"] == pytest.approx(0.45)
    assert values["outdoor/normals"] == pytest.approx(22)


def test_missing_baseline_is_an_error() -> None:
    runs = [fake_run(setting(smoke(), "outdoor5", method="matfl", seed=3))]
    with pytest.raises(ValueError, match=r"delta_m needs a run of 'single_task' with tasks=outdoor5.*seed=3"):
        tables.delta_table(tables.final(runs))
    with pytest.raises(ValueError, match="no runs"):
        tables.tidy([])


def test_paired_matches_seeds_and_refuses_mixtures() -> None:
    frame = pd.DataFrame(
        {
            "tasks": "a",
            "method": ["x", "x", "y", "y"],
            "seed": [0, 1, 1, 0],
            "value": [1.0, 2.0, 5.0, 3.0],
        }
    )
    found = tables.differences(frame, "value", method="x", against="y")
    assert asdict(found["a"]) == pytest.approx(asdict(estimate([1 - 3, 2 - 5])), nan_ok=True)
    assert tables.differences(frame, "value", method="x", against="z") == {}
    twice = pd.concat([frame, frame])
    with pytest.raises(ValueError, match="several runs of one seed"):
        tables.differences(twice, "value", method="x", against="y")


# --- diagnostics ------------------------------------------------------------------------------------------------------


def test_weights_and_correctness_by_hand() -> None:
    same = measure.same_task(["a", "a", "b", "b"])
    weights = np.array([[[0.7, 0.1, 0.2, 0.0], [0.2, 0.8, 0.0, 0.0], [0.0, 0.0, 0.5, 0.5], [0.25, 0.25, 0.0, 0.5]]])
    everyone = np.ones((1, 4), bool)
    assert measure.self_weight(weights, everyone) == pytest.approx([(0.7 + 0.8 + 0.5 + 0.5) / 4])
    assert measure.partner_weight(weights, same, everyone) == pytest.approx([(0.1 + 0.2 + 0.5 + 0.0) / 4])
    friends = weights > 0
    assert measure.correctness(friends, same, everyone) == pytest.approx([0.75])
    three = np.array([[True, True, True, False]])
    assert measure.self_weight(weights, three) == pytest.approx([2.0 / 3])
    assert measure.correctness(friends, same, three) == pytest.approx([1.0])
    assert np.isnan(measure.correctness(friends, same, np.array([[True, False, True, False]]))[0])
    frequency = measure.frequency(np.concatenate([friends, ~friends]), np.concatenate([everyone, three]))
    assert frequency[0, 1] == 0.5
    assert frequency[0, 3] == 0
    assert np.isnan(measure.frequency(friends, three)[0, 3])


def test_random_friends_reach_chance_and_perfect_ones_everything() -> None:
    config = setting(quick(), "scenes9", method="matfl", rounds=40)
    random = grouping_frequency.over_rounds([fake_run(config, perfect=False)])
    assert random["correctness"].mean() == pytest.approx(7 / 17, abs=0.05)
    perfect = grouping_frequency.over_rounds([fake_run(config)])
    assert (perfect["correctness"] == 1).all()
    shares = perfect[["self_weight", "partner_weight", "other_weight"]].sum(axis=1)
    assert shares.to_numpy() == pytest.approx(1)


def test_agreement_of_equal_and_of_unrelated_layers() -> None:
    generator = np.random.default_rng(0)
    one = generator.normal(size=(2, 1, 12, 12))
    everyone = np.ones((2, 12), bool)
    assert measure.agreement(np.repeat(one, 3, axis=1), everyone) == pytest.approx(np.ones((3, 3)))
    unrelated = measure.agreement(generator.normal(size=(20, 2, 12, 12)), np.ones((20, 12), bool))
    assert abs(unrelated[0, 1]) < 0.1
    values = generator.normal(size=(1, 2, 5, 5))
    expected = np.mean(
        [stats.spearmanr(np.delete(values[0, 0, i], i), np.delete(values[0, 1, i], i)).statistic for i in range(5)]
    )
    assert measure.agreement(values, np.ones((1, 5), bool))[0, 1] == pytest.approx(expected)
    assert np.isnan(measure.agreement(values, np.array([[True, True, False, False, False]]))).all()


def test_mean_votes_leave_out_who_was_absent() -> None:
    votes = np.stack([np.full((1, 2, 2), 4), np.zeros((1, 2, 2))])
    present = np.array([[True, True], [True, False]])
    assert measure.mean_votes(votes, present)[0].tolist() == [[2, 4], [4, 4]]


# --- studies ----------------------------------------------------------------------------------------------------------


def test_methods_table_differences_and_claims() -> None:
    usual = methods.apart(runs_of(methods.plan("scenes", seeds=3), spread=0.2)).usual
    runs, _ = server_step.by_step(usual)
    table = methods.table(runs)
    assert table.loc[("scenes9", "fedavg"), "delta_m"] == pytest.approx(-6.8)
    assert table.loc[("scenes9", "fedavg"), "delta_m_sd"] == pytest.approx(0.2)
    assert np.isnan(table.loc[("outdoor5", "matfl"), "indoor/depth"])
    differences = methods.compare(runs).set_index(["tasks", "against"])
    assert differences.loc[("outdoor5", "fedavg"), "mean"] == pytest.approx(6.0)
    claims = {claim.text: claim for claim in methods.claims(runs)}
    for against, text in (("single_task", "MaT-FL beats single-task FL."), ("fedprox", "MaT-FL beats FedProx.")):
        judged = claims[f"outdoor5: {text}"].parts[0].value
        assert differences.loc[("outdoor5", against), "p_holm"] == judged.p_holm, "one comparison has one verdict"
    others = differences.loc["outdoor5"].drop(["single_task", "fedavg", "fedprox"])
    least = others.loc[others["p"].idxmin()]
    assert least["p_holm"] == pytest.approx(min(len(others) * least["p"], 1)), "a family of their own"
    words = {text: claim.word for text, claim in claims.items()}
    assert words["scenes9: MaT-FL beats plain many-task FL."] == "held"
    assert words["scenes9: Plain many-task FL beats single-task FL."] == "not held"
    assert words["outdoor5: MaT-FL beats single-task FL."] == "not held"
    assert words["outdoor5: FedProx gains less than a point over plain many-task FL."] == "held"
    assert all("on outdoor scenes" in claim.regime for claim in methods.claims(runs))
    one_seed = [run for run in runs if run.config.seed == 0]
    assert {claim.held for claim in methods.claims(one_seed)} == {None}


@pytest.mark.parametrize("gain, verdict", [(-4, "held"), (0.5, "held"), (1, "undecided"), (4, "not held")])
def test_fedprox_barely_gains_where_it_gains_less_than_a_point(gain: float, verdict: str) -> None:
    better = BETTER | {"fedprox": BETTER["fedavg"] + gain}
    runs, _ = server_step.by_step(methods.apart(runs_of(methods.plan("scenes"), better)).usual)
    claims = {claim.text: claim.word for claim in methods.claims(runs)}
    assert claims["outdoor5: FedProx gains less than a point over plain many-task FL."] == verdict


def test_differences_over_the_rounds_and_before_aggregation() -> None:
    runs, _ = server_step.by_step(methods.apart(runs_of(methods.plan("scenes"), spread=0.2)).usual)
    found = methods.rounds_apart(runs).set_index(["tasks", "against", "kind", "round"])
    assert set(found.index.get_level_values("against")) == {"single_task", "fedavg", "fedprox"}
    last = found.index.get_level_values("round").max()
    whole = methods.compare(runs).set_index(["tasks", "against"])
    for tasks, against in (("outdoor5", "single_task"), ("scenes9", "fedavg")):
        row, expected = found.loc[(tasks, against, "global", last)], whole.loc[(tasks, against)]
        assert row[["mean", "low", "high", "n"]].tolist() == pytest.approx(
            expected[["mean", "low", "high", "n"]].tolist()
        )
    assert set(found.index.get_level_values("round")) == {1, last}
    first = found.loc[("outdoor5", "fedavg", "global", 1), "mean"]
    assert first > 7, "of that round, in which the baseline had 30 % less"
    local = found.loc[("outdoor5", "fedavg", "local", last), "mean"]
    for run in runs:
        if run.config.method == "matfl":
            run.metrics.loc[run.metrics["kind"].eq("local") & run.metrics["task"].eq("sal"), "value"] *= 1.1
    changed = methods.rounds_apart(runs).set_index(["tasks", "against", "kind", "round"])["mean"]
    assert changed["outdoor5", "fedavg", "local", last] > local + 1
    after = changed.drop("local", level="kind")
    assert after.to_numpy() == pytest.approx(found["mean"].drop("local", level="kind").to_numpy()), "nothing else moved"
    table = printed.over_rounds(found.reset_index(), "MaT-FL minus each")
    assert list(table.frame.columns)[-2:] == [f"round {last}", f"round {last} before aggregation"]
    assert table.frame.loc[("outdoor5", "fedavg", "difference"), f"round {last}"] == pytest.approx(6.0)
    assert table.frame.loc[("outdoor5", "fedavg", "to")].notna().all()


def test_the_papers_protocol_is_a_row_of_its_own() -> None:
    runs = runs_of(methods.plan("scenes"))
    found = methods.apart(runs)
    usual, papers = found.usual, found.papers
    assert {run.config.method for run in papers} == set(BASELINES)
    assert {(run.config.heads, run.config.lr, run.config.local_epochs) for run in papers} == {("local", 1e-4, 10)}
    assert {(run.config.heads, run.config.lr, run.config.loss_weights) for run in usual} == {("task", 1e-3, "field")}
    table = methods.table(papers, kind="local")
    assert list(table.index) == [("outdoor5", name) for name in BASELINES]
    assert table.loc[("outdoor5", "fedavg"), "delta_m"] == pytest.approx(-7)
    quick_runs = runs_of(methods.plan("quick"))
    assert methods.apart(quick_runs) == methods.Apart(quick_runs, {}, [], {})


def test_each_difference_of_the_papers_protocol_alone() -> None:
    runs = runs_of(methods.plan("scenes"), spread=0.2)
    found = methods.apart(runs)
    usual, alone, papers, read = found.usual, found.alone, found.papers, found.otherwise
    assert len(usual) + sum(map(len, (*alone.values(), *read.values()))) + len(papers) == len(runs)
    first = usual[0].config
    for words, found in alone.items():
        for config in (run.config for run in found):
            changed = {name: getattr(config, name) for name in methods.PROTOCOL}
            assert changed == {name: getattr(first, name) for name in methods.PROTOCOL} | methods.DIFFERENCES[words]
            assert config.rounds * config.local_epochs == first.rounds * first.local_epochs, "as many steps"
    rows = methods.one_by_one(server_step.by_step(usual)[0], alone, papers)
    assert list(rows) == ["none", "scores before aggregation", *methods.DIFFERENCES, "all of these"]
    assert [kind for _, kind in rows.values()] == ["global", "local", "global", "global", "global", "local"]
    cases = [{(r.config.method, r.config.tasks, r.config.seed) for r in found} for found, _ in rows.values()]
    assert all(case == cases[0] for case in cases), "the same pictures"
    table = printed.one_by_one(rows)
    assert table.frame.loc[("no loss weights", "fedavg"), "delta_m"] == pytest.approx(-6.8)
    assert table.spread is not None
    assert table.spread.loc[("none", "matfl"), "delta_m"] == pytest.approx(0.2)
    shown = table.frame.loc[("all of these", "matfl"), ["low", "high"]].to_numpy(float)
    expected = estimate([-1.0, -0.8, -0.6])
    assert shown == pytest.approx([expected.low, expected.high])
    assert table.frame.loc[("none", "single_task"), ["low", "high"]].isna().all()
    assert methods.one_by_one(usual, {}, papers) == {}, "no difference alone"


def test_what_settings_make_the_papers_is_no_difference() -> None:
    plan = methods.plan("smoke", settings="heads=local")
    assert len({config.name for config in plan.configs}) == len(plan.configs), "no run twice"
    found = methods.apart(runs_of(plan))
    usual, alone, papers = found.usual, found.alone, found.papers
    assert {run.config.heads for run in usual} == {"local"}
    assert list(alone) == ["no loss weights", "10 local epochs at 1e-4"]
    assert {run.config.method for run in papers} == set(BASELINES)
    assert {run.config.heads for found in alone.values() for run in found} == {"local"}
    one_left = runs_of(methods.plan("smoke", settings="heads=local; loss_weights=none"))
    found = methods.apart(one_left)
    assert (len(found.alone), len(found.papers)) == (0, 4), "the last difference is all of them"
    none_left = "heads=local; loss_weights=none; lr=1e-4; local_epochs=10"
    found = methods.apart(runs_of(methods.plan("smoke", settings=none_left)))
    assert (len(found.alone), len(found.papers)) == (0, 0)


def test_other_readings_of_the_paper_stand_beside_the_plans_own() -> None:
    """With kept moments MaT-FL gains a point, single-task FL half of one, and with mixed models MaT-FL loses two."""

    def quality(config: RunConfig) -> float:
        kept = {"matfl": 1 + 0.1 * config.seed, "single_task": 0.5}.get(config.method, 0.0)
        mixed = -2.0 * (config.mixes == "weights")
        return BETTER.get(config.method, -2.0) + (kept if config.client_moments == "kept" else mixed)

    runs = [fake_run(config, quality(config)) for config in methods.plan("scenes").configs]
    parts = methods.apart(runs)
    usual, read = parts.usual, parts.otherwise
    assert list(read) == list(methods.OTHERWISE)
    for words, reading in methods.OTHERWISE.items():
        assert {run.config.method for run in read[words]} == set(reading.methods)
        for config in (run.config for run in read[words]):
            (same,) = (c for c in (run.config for run in usual) if replace(c, **reading.change) == config)
            assert same != config, "the reading alone"
    assert all(run.config.mixes == "updates" and run.config.client_moments == "anew" for run in usual)
    steps, _ = server_step.by_step(usual)
    table = methods.read_otherwise(steps, read)
    found = table.set_index(["tasks", "reading", "method"]).sort_index()
    moments, models = "Adam's moments go on between rounds", "the trained models are mixed"
    assert set(found.index.droplevel("method")) == {("outdoor5", moments), ("outdoor5", models), ("scenes9", models)}
    kept, mixed = found.loc[("outdoor5", moments)], found.loc[("scenes9", models)]
    assert set(kept["seeds"]) == {3}
    assert set(mixed["seeds"]) == {5}, "as many as the paper's four methods have"
    expected = estimate([1.0, 1.1, 1.2])
    interval = kept.loc["matfl", ["change", "low", "high"]].to_numpy(float)
    assert interval == pytest.approx([expected.mean, expected.low, expected.high])
    assert kept.loc["single_task", "delta_m"] == pytest.approx(0.5), "against single-task FL as everywhere"
    assert kept.loc["single_task", "usual"] == pytest.approx(0)
    assert kept.loc["fedavg", "lead"] == pytest.approx(kept.loc["fedavg", "usual_lead"] + expected.mean)
    assert kept.loc["single_task", "lead"] == pytest.approx(kept.loc["single_task", "usual_lead"] + expected.mean - 0.5)
    assert mixed.loc["matfl", "change"] == pytest.approx(-2)
    assert set(mixed.index) == {"single_task", "fedavg", "matfl"}, "who would be the same stands as everywhere"
    assert mixed.loc["fedavg", "lead"] == pytest.approx(mixed.loc["fedavg", "usual_lead"] - 2)
    assert mixed.loc[["single_task", "fedavg"], "change"].isna().all()
    assert found.xs("matfl", level="method")["lead"].isna().all()
    shown = printed.readings([run for group in read.values() for run in group], table)
    assert shown.frame.loc[("outdoor5", moments, "matfl"), "change"] == pytest.approx(1.1)


def test_the_k_sweep_has_constant_answers_of_its_own_pictures() -> None:
    jobs = k_sweep.plan("scenes").jobs
    assert [job.kind for job in jobs] == ["constants"] * 3
    assert [job.config.seed for job in jobs if isinstance(job, ConstantAnswers)] == [0, 1, 2]


def test_a_reading_that_is_the_plans_own_is_not_run_twice() -> None:
    plan = methods.plan("smoke", settings="client_moments=kept")
    assert len({config.name for config in plan.configs}) == len(plan.configs)
    found = methods.apart(runs_of(plan))
    assert list(found.otherwise) == ["the trained models are mixed"]
    mixed = found.otherwise["the trained models are mixed"]
    assert {run.config.client_moments for run in (*found.usual, *mixed)} == {"kept"}


def test_all_metrics_keep_every_metric_and_kind() -> None:
    table = methods.all_metrics(runs_of(methods.plan("smoke", tasks="outdoor5")))
    assert set(table["metric"]) >= {"mIoU", "odsF", "mean", "other"}
    assert set(table["kind"]) == {"global", "local"}


def test_paper_numbers_stand_beside_ours_as_gains() -> None:
    runs = runs_of(methods.plan("quick", seeds=1))
    table = methods.beside_paper(runs).set_index(["tasks", "method"])
    assert table.loc[("outdoor5", "fedavg"), "Seg. paper %"] == pytest.approx(100 * (0.2731 / 0.2449 - 1))
    assert table.loc[("outdoor5", "fedavg"), "Seg. ours %"] == pytest.approx(-7)
    assert "Seg. ours" not in table
    real = runs_of(methods.plan("paper_9", seeds=1, methods="single_task,fedavg"))
    assert methods.beside_paper(real)["Sal. paper"].notna().all()


def test_clients_per_task_claims_name_every_scale() -> None:
    runs, _ = server_step.by_step(
        runs_of(clients_per_task.plan("scenes", seeds=3), BETTER | {"matfl": 2.0}, spread=0.1)
    )
    table = clients_per_task.table(runs)
    assert table.index.get_level_values(0).unique().tolist() == [1, 2, 4]
    claims = clients_per_task.claims(runs)
    assert [claim.word for claim in claims] == ["held"] * 6 + ["undecided"]
    papers, further = claims[:3], claims[3:6]
    assert [len(claim.parts) for claim in papers + further] == [2] * 3 + [1] * 3, "the paper's numbers, and more"
    for family, size in ((papers, 6), (further, 3)):
        values = [part.value for claim in family for part in claim.parts]
        assert len(values) == size
        least = min(values, key=lambda value: value.p)
        assert least.p_holm == pytest.approx(min(size * least.p, 1)), "all opponents together"
    assert "; single-task FL 0.5" in claims[-1].note
    assert len(clients_per_task.scores(runs)) == len(runs)
    worse = [
        fake_run(run.config, (2.0 if run.config.method == "matfl" else 0.0) - 0.3 * run.config.clients_per_task)
        for run in runs
    ]
    assert clients_per_task.claims(worse)[-1].word == "held"


def test_differences_over_the_rounds_by_clients_per_task() -> None:
    runs, _ = server_step.by_step(
        runs_of(clients_per_task.plan("scenes", seeds=3), BETTER | {"matfl": 2.0}, spread=0.1)
    )
    found = clients_per_task.rounds_apart(runs)
    assert set(found["clients_per_task"]) == set(sizes("scenes").clients)
    last = found[(found["round"] == found["round"].max()) & (found["against"] == "single_task")]
    assert last["mean"].to_numpy() == pytest.approx(2.1)
    assert set(last["kind"]) == {"global", "local"}


def swept_at_1() -> list[RunConfig]:
    """The K sweep of three seeds at the server's step 1."""
    return [config for config in k_sweep.plan("scenes", seeds=3).configs if config.server_lr == 1]


def test_k_sweep_numbers_and_claims() -> None:
    configs = swept_at_1()
    runs = [
        fake_run(
            c,
            BETTER[c.method]
            + (0.1 * c.seed if c.method != "single_task" else 0)
            + (5 if c.method == "matfl" and c.k > 2 else 0),
        )
        for c in configs
    ]
    frame = k_sweep.numbers(runs)
    assert frame.loc[(frame["k"] == 2) & (frame["seed"] == 0), "delta_m"].tolist() == pytest.approx([-1])
    assert set(frame["pair"]) == {"outdoor/semseg"}
    assert [claim.word for claim in k_sweep.claims(runs)] == ["held", "held", "held"]
    assert len(k_sweep.table(frame)) == 3 + len(sizes("scenes").ks)
    flat = [fake_run(c, BETTER[c.method]) for c in configs]
    assert k_sweep.claims(flat)[0].word == "not held"
    assert "over Single-Task FL" in k_sweep.claims(flat)[0].evidence


def test_a_baseline_that_is_not_clearly_beaten_decides_whatever_its_mean() -> None:
    configs = swept_at_1()
    base = {"single_task": (0.0, 0.0, 0.0), "fedavg": (-2.0, -8.0, 1.0), "fedprox": (-1.0, -1.1, -0.9)}
    runs = [fake_run(c, 2 + 0.1 * c.seed if c.method == "matfl" else base[c.method][c.seed]) for c in configs]
    claim = k_sweep.claims(runs)[1]
    gaps = k_sweep.numbers(runs).groupby("method")["delta_m"].mean()
    assert gaps["fedavg"] < gaps["fedprox"] < gaps["single_task"], "the largest lead on average"
    assert all("over Plain Many-Task FL" in part.statistic for part in claim.parts)
    assert claim.word == "undecided"


def test_a_tiny_k_against_larger_ones_task_by_task() -> None:
    configs = swept_at_1()
    gain = {2: 3.0, 4: 2.0, 8: 1.0, 12: 0.0, 18: -1.0}
    runs = [fake_run(c, gain[c.k] + c.seed if c.method == "matfl" else 0.0) for c in configs]
    found = k_sweep.tasks_apart(runs).set_index("pair")
    assert list(found.index) == [pair.name for pair in pairs("scenes9")]
    assert found["gain"].to_numpy() == pytest.approx(3 - 0.5)
    assert found["without"].to_numpy() == pytest.approx(2.5)
    for run in runs:  # one task alone the other way round
        if run.config.method == "matfl" and run.config.k == 2:
            depth = (run.metrics["task"] == "depth") & (run.metrics["metric"] == "rmse")
            run.metrics.loc[depth, "value"] *= 1.1
    changed = k_sweep.tasks_apart(runs).set_index("pair")
    assert changed.loc["indoor/depth", "gain"] < -5
    assert changed.loc["indoor/depth", "without"] == pytest.approx(2.5)
    assert changed.loc["outdoor/sal", "without"] < 2
    assert len(printed.k_by_task(found.reset_index()).frame) == 9
    few = [run for run in runs if run.config.k != 2 or run.config.method == "single_task"]
    assert k_sweep.tasks_apart(few).empty
    partly = [run for run in runs if (run.config.seed, run.config.k) != (2, 18)]
    assert k_sweep.tasks_apart(partly).set_index("pair").loc["outdoor/edge", "gain"] == pytest.approx(2.5)
    alone = k_sweep.plan("scenes", seeds=2, tasks="outdoor/semseg", ks="2,4", settings="clients_per_task=4")
    assert k_sweep.tasks_apart([fake_run(config) for config in alone.configs]).empty


def test_one_k_of_many_that_lies_below_a_baseline_by_chance_decides_nothing() -> None:
    """Its interval alone is below 0; among all comparisons of a K with a baseline that is not rare."""
    configs = swept_at_1()
    low = {4: (-1.0, -1.2, -0.6)}
    noise = {8: (-2.0, 1.0, 0.4), 12: (1.0, -2.0, 0.2), 18: (0.5, 1.5, -2.4)}
    gains = {2: (0.0, 0.1, 0.2), **low, **noise}
    runs = [fake_run(c, gains[c.k][c.seed] if c.method == "matfl" else BETTER[c.method]) for c in configs]
    claim = k_sweep.claims(runs)[1]
    part = next(part for part in claim.parts if "K = 4" in part.statistic)
    assert part.value.high < 0
    assert part.value.p < 0.05 < part.value.p_holm
    assert claim.word == "undecided"
    assert "Of 8 comparisons with the others" in claim.note


def test_a_tiny_k_is_judged_against_larger_ones_and_by_the_trend_over_all_k() -> None:
    """Noise that hides every single step leaves the slope; a falling slope refutes the words, as does a high K = 2."""
    generator = np.random.default_rng(0)
    configs = swept_at_1()

    def claim(slope: float, first: float = 0.0) -> Claim:
        def gain(k: int) -> float:
            return slope * np.log2(k) + first * (k == 2) + generator.normal(0, 0.3)

        runs = [fake_run(c, BETTER[c.method] + gain(c.k) * (c.method == "matfl")) for c in configs]
        return k_sweep.claims(runs)[-1]

    assert claim(0.8).text.startswith("An extremely small K (2) is worse")
    assert claim(0.8).word == "held"
    assert claim(-0.8).word == "not held"
    assert claim(0.0).word == "undecided"
    assert claim(0.8, first=4.0).word == "not held"


def test_grouping_tables_and_claims() -> None:
    runs = [fake_run(config) for config in grouping_frequency.plan("scenes", seeds=3).configs]
    assert np.diagonal(grouping_frequency.frequencies(runs)) == pytest.approx(1)
    choices = grouping_frequency.neighbours(runs)
    assert np.diagonal(choices) == pytest.approx(1)
    counts = pd.Series(grouping_frequency.client_pairs(runs[0])).value_counts()
    others = counts[choices.columns].to_numpy()[None, :] - np.eye(len(choices))
    assert (choices.to_numpy() * others).sum() == pytest.approx(7 * len(choices))
    claims = grouping_frequency.claims(runs)
    assert claims[0].word == "held"
    assert "at random it would be 41%" in claims[0].evidence
    assert len(claims[0].parts) == 2
    unlucky = [fake_run(c, perfect=False) for c in grouping_frequency.plan("scenes", seeds=3).configs]
    assert grouping_frequency.claims(unlucky)[0].word != "held"


def test_a_client_that_everybody_chooses_is_no_agreement() -> None:
    """Indoor segmentation is chosen by all: outdoor segmentation does so too, but not because of its task."""
    configs = grouping_frequency.plan("scenes", seeds=3).configs
    runs = [fake_run(config, perfect=False) for config in configs]
    names = grouping_frequency.client_pairs(runs[0])
    for run in runs:
        for name in ("indoor/semseg", "outdoor/semseg"):
            run.diagnostics["friends"][:, :, [i for i, n in enumerate(names) if n == name]] = True
    claim = grouping_frequency.claims(runs)[1]
    assert claim.text.startswith("Segmentation clients choose")
    assert [part.value.mean for part in claim.parts] == pytest.approx([0, 0])
    assert claim.note.count("100% of the rounds") == 2
    assert claim.word == "undecided"


def test_segmentation_that_is_chosen_one_way_alone_is_not_chosen_across_domains() -> None:
    """Each direction is a part of its own: a mean of one that is chosen and one that is not would hold."""
    runs = [fake_run(config, perfect=False) for config in grouping_frequency.plan("scenes", seeds=3).configs]
    names = np.array(grouping_frequency.client_pairs(runs[0]))
    for run in runs:
        chosen = run.diagnostics["friends"]
        for chooser, there, chooses in (("outdoor", "indoor", True), ("indoor", "outdoor", False)):
            for client in np.flatnonzero(names == f"{chooser}/semseg"):
                chosen[:, client, names == f"{there}/semseg"] = chooses
    claim = grouping_frequency.claims(runs)[1]
    outdoor, indoor = (part.value.mean for part in claim.parts)
    assert outdoor > 0.3
    assert indoor < -0.2
    assert outdoor + indoor > 0
    assert "those of outdoor scenes" in claim.parts[0].statistic
    assert claim.word == "not held"


def test_grouping_without_partners_makes_no_claim_of_correctness() -> None:
    config = setting(quick(), "outdoor5", clients_per_task=1, method="matfl")
    texts = [claim.text for claim in grouping_frequency.claims([fake_run(config)])]
    assert texts == [
        "In the last round the weights combine a client's update with its friends' rather than keep its own."
    ]


def replace_better(run: FakeRun, layers: int, more: float) -> FakeRun:
    """The run, `more` percent better where it is of so many voting layers."""
    config = run.config
    return fake_run(config, 0.1 * config.seed + more) if config.voting_layers == layers else run


def test_layer_voting_numbers_and_claims() -> None:
    plan = layer_voting.plan("scenes", seeds=3)
    runs = [fake_run(c, 0.0 if c.method == "single_task" else 0.1 * c.seed) for c in plan.configs]
    drawn = layer_voting.default_runs(runs, "scenes")
    assert [run.config for run in drawn] == list(plan.votes)
    frame = layer_voting.numbers(runs)
    assert frame["voting_layers"].tolist() == [n for n in sizes("scenes").layers for _ in range(3)]
    rounds = layer_voting.rounds_apart([replace_better(run, 16, 2.0) for run in runs], 8)
    last = rounds[rounds["round"] == rounds["round"].max()].set_index(["voting_layers", "kind"])["mean"]
    assert last.loc[16].to_numpy() == pytest.approx(2.0)
    assert last.loc[2].to_numpy() == pytest.approx(0.0)
    assert 8 not in rounds["voting_layers"].to_numpy()
    assert list(printed.over_rounds(rounds, "layers").frame.index.names) == ["tasks", "voting_layers", "points"]
    claims = layer_voting.claims(drawn, frame)
    assert [claim.word for claim in claims] == ["held", "held"]
    assert "100% of the cases, at random it would be 6%" in claims[0].evidence
    short = [replace(run, diagnostics=diagnostics(run.config, 5, seed=run.config.seed)) for run in drawn]
    assert "first 5 rounds" not in layer_voting.claims(short, frame)[0].note
    longer = [replace(run, diagnostics=diagnostics(run.config, 6, seed=run.config.seed)) for run in drawn]
    for run in longer:
        shape = run.diagnostics["similarity"][5].shape
        run.diagnostics["similarity"][5] = np.random.default_rng(run.config.seed).random(shape)
    note = layer_voting.claims(longer, frame)[0].note
    early, late = map(float, re.search(r"median is (.*) in the first 5 rounds and (.*) after them", note).groups())
    assert early > 0.9
    assert late < 0.3
    near = frame.assign(delta_m=frame["delta_m"] + (frame["voting_layers"] == 16) * 0.5)
    assert layer_voting.claims(drawn, near)[1].word == "held"
    sensitive = frame.assign(delta_m=frame["delta_m"] - (frame["voting_layers"] == 16) * 3)
    assert layer_voting.claims(drawn, sensitive)[1].word == "not held"
    assert layer_voting.votes(drawn[0]).shape == (8, 18, 18)
    assert np.diagonal(layer_voting.votes(drawn[0])[0]) == pytest.approx(8)


def test_traffic_accumulates_and_finds_the_level() -> None:
    runs, _ = cost_and_scale.fast_and_plain(runs_of(cost_and_scale.plan("quick", seeds=2)))
    frame = cost_and_scale.traffic(runs)
    rounds = quick().rounds
    last = frame[(frame["method"] == "fedavg") & (frame["round"] == rounds)]
    assert last["gigabytes"].tolist() == pytest.approx([rounds * 2 * 18000 / 1e9] * 2)
    assert last["delta_m"].tolist() == pytest.approx([-7, -7])
    reached = cost_and_scale.bytes_to(frame, levels=(-40, -22, -5))
    assert reached.loc["fedavg", "-40 %"] == pytest.approx(2 * 18000 / 1e9)
    assert reached.loc["fedavg", "-22 %"] == pytest.approx((1 + rounds) / 2 * 2 * 18000 / 1e9)
    assert np.isnan(reached.loc["fedavg", "-5 %"])
    assert reached.loc["matfl", "-5 %"] == pytest.approx((1 + (rounds - 1) * 26 / 30) * 2 * 18000 / 1e9)
    assert cost_and_scale.round_costs(runs).loc["fedavg", "MB up a client"] == pytest.approx(1e-3)


def test_the_chosen_precision_is_as_good_within_a_point() -> None:
    def gaps(shift: float, seeds: int = 3) -> pd.DataFrame:
        runs = []
        for config in cost_and_scale.plan("quick", seeds=seeds, methods="single_task").configs:
            found = scores(config, shift if config.precision == "auto" else 0, seed_shift=0.02 * config.seed)
            precision = "bfloat16" if config.precision == "auto" else "float32"
            runs.append(FakeRun(config, metrics(config, {12: found}), provenance={"precision": precision}))
        return cost_and_scale.precision_gaps(*cost_and_scale.fast_and_plain(runs))

    frame = gaps(-0.5)
    same = frame[frame["comparison"] == "same seed"]
    assert same["delta_m"].tolist() == pytest.approx([-0.5] * 3)
    assert set(same["precision"]) == {"bfloat16"}
    nothing = pd.DataFrame({"way": [], "width": [], "clients": [], "seconds": []})

    def word(found: pd.DataFrame) -> str:
        (claim,) = cost_and_scale.claims(pd.DataFrame(), nothing, found)
        return claim.word

    assert word(frame) == "held"
    assert word(gaps(-1.5)) == "not held", "more than a point, though less than seeds differ by"
    assert word(gaps(-0.5, seeds=1)) == "undecided"
    smoke_runs = [fake_run(config) for config in cost_and_scale.plan("smoke").configs]
    assert cost_and_scale.fast_and_plain(smoke_runs) == (smoke_runs, [])
    assert cost_and_scale.precision_gaps(smoke_runs, []).empty


# --- updates ----------------------------------------------------------------------------------------------------------


def clustered_updates(domains: float = 0.0, types: float = 1.0, models: int = 4) -> tuple[np.ndarray, list[str]]:
    """Cosines of updates made of a part per task type, a part per domain and noise."""
    generator = np.random.default_rng(0)
    labels = [
        pair
        for pair in ("outdoor/semseg", "outdoor/normals", "indoor/semseg", "indoor/normals", "indoor/depth")
        for _ in range(models)
    ]
    parts = {name: generator.normal(size=300) for label in labels for name in label.split("/")}
    updates = np.stack(
        [
            domains * parts[label.split("/")[0]] + types * parts[label.split("/")[1]] + 0.5 * generator.normal(size=300)
            for label in labels
        ]
    )
    updates /= np.linalg.norm(updates, axis=1, keepdims=True)
    return updates @ updates.T, labels


def test_statistics_tell_tasks_from_domains() -> None:
    by_type = update_tsne.statistics(*clustered_updates())
    assert by_type["nearest_abroad_same_type"] == 1
    assert by_type["same_type_other_domain"] > 0.7 > by_type["other_type_same_domain"]
    assert by_type["silhouette_type"] > 0.5 > by_type["silhouette_domain"]
    by_domain = update_tsne.statistics(*clustered_updates(domains=2, types=0.2))
    assert by_domain["silhouette_domain"] > by_domain["silhouette_type"]


def updates_record(**options: float) -> Record:
    """A record of Figure 2 with made-up cosines."""
    cosine, labels = clustered_updates(**options)  # type: ignore[arg-type]
    job = update_tsne.UpdateSet(title="main", config=setting(smoke(), "scenes9"), subsets=4, share=0.1)
    arrays = {"labels": np.array(labels), "cosine_backbone": cosine, "cos_start": np.zeros(len(labels))}
    return Record(path=Path("x"), spec=job.spec(), values={"title": "main"}, arrays=arrays, provenance={})


def test_update_claims_test_their_words() -> None:
    by_type = [claim.word for claim in update_tsne.claims(updates_record(domains=0.4))]
    assert by_type[:3] == ["held", "held", "held"]
    by_domain = update_tsne.claims(updates_record(domains=2.0, types=0.2))
    assert by_domain[1].word == "not held"
    assert all("learning rate 0.001" in claim.regime for claim in by_domain)


def test_a_task_s_type_is_compared_with_its_own_neighbours() -> None:
    """A task whose type is in one domain alone, far from all, changes neither side; each segmentation is told apart."""
    labels = ["a/semseg", "a/edge", "a/sal", "b/semseg", "b/edge"]
    cosine = np.full((5, 5), 0.3)
    cosine[2], cosine[:, 2] = 0.0, 0.0
    cosine[0, 3] = cosine[3, 0] = 0.5
    cosine[3, 4] = cosine[4, 3] = 0.6
    gaps = update_tsne.type_gaps(cosine, labels)
    assert gaps == pytest.approx({"a/semseg": 0.35, "a/edge": 0.15, "b/semseg": -0.1, "b/edge": -0.3})
    found = update_tsne._segmentation_gaps(cosine, labels)
    assert found == pytest.approx({"a/semseg": 0.2, "b/semseg": -0.1})


def test_what_is_said_of_tasks_at_large_has_an_interval_over_types() -> None:
    """One of two types against it: not decided, however sure each task's own number is."""
    names = ["a/semseg", "a/edge", "b/semseg", "b/edge"]
    matrix = pd.DataFrame(0.3, index=names, columns=names)
    for one, other, value in (("a/semseg", "b/semseg", 0.5), ("a/edge", "b/edge", 0.2)):
        matrix.loc[one, other] = matrix.loc[other, one] = value
    labels = [name for name in names for _ in range(4)]
    cosine = matrix.loc[labels, labels].to_numpy(copy=True)
    np.fill_diagonal(cosine, 1)
    record = updates_record()
    arrays = {"labels": np.array(labels), "cosine_backbone": cosine, "cos_start": np.zeros(len(labels))}
    claim = next(c for c in update_tsne.claims(replace(record, arrays=arrays)) if c.text.startswith("A task's updates"))
    assert claim.parts[0].value.n == 2, "both tasks of a type have one cosine abroad"
    assert claim.parts[0].value.mean == pytest.approx(0.05)
    assert claim.word == "undecided"
    assert "over subsets of their pictures 0.05 to 0.05" in claim.note


def test_friends_are_other_tasks_than_oneself() -> None:
    """Tasks that are like nothing but themselves have no friends, however alike their own models are."""
    alone = np.kron(np.eye(4), np.full((3, 3), 0.8)) + 0.2 * np.eye(12)
    labels = [name for name in ("outdoor/semseg", "outdoor/sal", "outdoor/edge", "outdoor/normals") for _ in range(3)]
    job = update_tsne.UpdateSet(title="main", config=setting(smoke(), "outdoor5"), subsets=3, share=0.1)
    arrays = {"labels": np.array(labels), "cosine_backbone": alone, "cos_start": np.zeros(12)}
    record = Record(path=Path("x"), spec=job.spec(), values={"title": "main"}, arrays=arrays, provenance={})
    claim = update_tsne.claims(record)[-1]
    assert claim.text.startswith("Every task has friends and enemies")
    assert [part.held for part in claim.parts] == [False, True]


def test_pair_matrix_leaves_out_the_model_itself() -> None:
    cosine, labels = clustered_updates(models=3)
    matrix = update_tsne.pair_matrix(cosine, labels)
    block = cosine[:3, :3]
    assert matrix.loc["outdoor/semseg", "outdoor/semseg"] == pytest.approx((block.sum() - np.trace(block)) / 6)
    assert np.isnan(update_tsne.pair_matrix(np.eye(1), ["outdoor/sal"]).iloc[0, 0])


def test_costs_of_the_benches_as_tables() -> None:
    machine = {"device": "cpu", "processor": "P", "cores": 2, "torch": "2"}
    step = {"way": "step", "width": 16, "parameters": 1000, "machine": machine}
    rows = [
        {**step, "clients": 9, "naive_s": 0.4, "step_s": 0.02, "floor_s": 0.01},
        {**step, "clients": 288, "step_s": 0.6, "floor_s": 0.3},
        {**step, "way": "stream", "clients": 288, "peak_mb": 70.0},
    ]
    server = type("Record", (), {"values": {"rows": rows}})()
    steps = cost_and_scale.server_steps(server)
    assert steps["way"].tolist() == ["naive", "ours", "floor", "ours", "floor"]
    held = cost_and_scale.memory(server).set_index("way")["gigabytes"]
    assert held.to_dict() == pytest.approx({"held": 4 * 288 * 1000 / 1e9, "streamed": 0.07})
    costs = pd.DataFrame({"training s": [9.0], "all else s": [1.0]}, index=["matfl"])
    none = pd.DataFrame()
    assert [claim.word for claim in cost_and_scale.claims(costs, steps, none)] == ["not held", "held"]
    narrow = [{**rows[0], "naive_s": 0.14, "clients": 18}]
    server.values["rows"] += narrow
    (_, fast) = cost_and_scale.claims(costs, cost_and_scale.server_steps(server), none)
    assert fast.word == "not held"  # 20 times at one size, 7 at another
    loops = {"plain": {"images_per_second": 50.0}, "matfl": {"images_per_second": 100.0}}
    record = {"machine": "a CPU, 2 cores", "torch": "2", "preset": "quick", "loops": loops}
    on_gpu = {**record, "machine": machine | {"device": "a GPU"}}
    table = cost_and_scale.throughput([record, on_gpu])
    assert table["times"].tolist() == [2, 1, 2, 1]
    assert table["machine"].unique().tolist() == ["a CPU, 2 cores", "a GPU"]
    train = type("Record", (), {"values": record})()
    assert cost_and_scale.machines(server, train)[0] == "server: cpu, P, 2 cores, torch 2"
    train.values = {**on_gpu, "machine": on_gpu["machine"] | {"load": 3.0}}
    assert cost_and_scale.machines(server, train)[1] == "training: a GPU, P, 2 cores, torch 2, load 3.0 at the time"
    train.values = {**on_gpu, "floor_holds": False}
    assert cost_and_scale.machines(server, train)[1].endswith("; the floor was beaten and does not hold")
    train.values = {**on_gpu, "machine": machine | {"load": 3.0}}
    assert ": BUSY, so these times are no measurement" in cost_and_scale.machines(server, train)[1]


def test_records_of_other_machines(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"bench": "train", "machine": "x"}')
    (tmp_path / "b.json").write_text('{"bench": "server"}')
    assert cost_and_scale.other_machines(tmp_path) == [{"bench": "train", "machine": "x"}]
    assert cost_and_scale.other_machines(tmp_path / "none") == []


def test_cosines_of_updates_and_a_model_that_did_not_move() -> None:
    job = update_tsne.UpdateSet(title="main", config=setting(smoke(), "outdoor/sal"), subsets=2, share=0.1)
    values = {"loss": 1.0, "images": 3, "cos_start": 0.0}
    parts = [
        (values, {"update": np.array(update, np.float32), "voting": np.array([0, 1, 1])})
        for update in ([3.0, 4.0, 0.0], [0.0, 0.0, 2.0])
    ]
    _, arrays = job.combine(parts)
    assert arrays["cosine_backbone"][0, 1] == 0
    assert arrays["cosine_backbone"][0, 0] == pytest.approx(1)
    record = type("Record", (), {"arrays": arrays})()
    with pytest.raises(ValueError, match="layers='head': choose from backbone, voting"):
        update_tsne.cosines(record, "head")
    parts[1][1]["update"][:] = 0
    with pytest.raises(ValueError, match="did not move"):
        job.combine(parts)


def test_embedding_is_repeatable() -> None:
    cosine, labels = clustered_updates(models=3)
    first, second = (update_tsne.embed(cosine, labels) for _ in range(2))
    pd.testing.assert_frame_equal(first, second)
    assert first["pair"].tolist() == labels


# --- the benchmark ----------------------------------------------------------------------------------------------------


def central_record(seed: int, gain: float) -> Record:
    """A centralised test whose shared models are `gain` percent better."""
    job = benchmark.CentralTest(config=setting(smoke(), "outdoor5", method="single_task", seed=seed))
    none, shared = scores(job.config, 0.0, 0.01 * seed), scores(job.config, gain, 0.01 * seed)
    metrics = {
        kind: {name: {TASKS[name.partition("/")[2]].main_metric: value} for name, value in found.items()}
        for kind, found in (("none", none), ("domain", shared))
    }
    return Record(
        path=Path(job_name(job)), spec=job.spec(), values={"seed": seed, "metrics": metrics}, arrays={}, provenance={}
    )


def test_gains_have_the_sign_of_better() -> None:
    frame = benchmark.gains(benchmark.scores([central_record(0, 3.0)]))
    assert frame["gain"].tolist() == pytest.approx([3.0] * 5)
    assert [claim.word for claim in benchmark.claims([central_record(0, 3.0)])] == ["undecided"]
    assert benchmark.claims([central_record(s, 3.0 + s) for s in range(3)])[0].word == "held"
    assert benchmark.claims([central_record(s, -3.0 - s) for s in range(3)])[0].word == "not held"


def test_mean_gains_by_domain_and_without_the_task_that_gains_most_or_least() -> None:
    outdoor = {"outdoor/sal": (1.0, 1.0), "outdoor/edge": (2.0, 2.0)}
    values = outdoor | {"indoor/depth": (10.0, 14.0), "indoor/edge": (-2.0, 0.0)}
    rows = [
        {"sharing": kind, "pair": pair, "seed": seed, "gain": gain + more}
        for kind, more in (("domain", 0.0), ("all", 1.0))
        for pair, gains in values.items()
        for seed, gain in enumerate(gains)
    ]
    found = benchmark.mean_gains(pd.DataFrame(rows)).set_index(["sharing", "over"])
    by_domain = {"those of outdoor scenes": 1.5, "those of indoor scenes": 5.5}
    without = {"all but Depth (indoor)": 2 / 3, "all but Edge (indoor)": 5.0}
    expected = {"all tasks": 3.5, **by_domain, **without}
    assert found.loc["domain", "mean"].to_dict() == pytest.approx(expected)
    assert (found.loc["all", "mean"] - found.loc["domain", "mean"]).tolist() == pytest.approx([1.0] * 5)
    whole = estimate([2.75, 4.25])
    assert found.loc[("domain", "all tasks"), ["low", "high"]].tolist() == pytest.approx([whole.low, whole.high])
    one_domain = benchmark.mean_gains(pd.DataFrame([row for row in rows if row["pair"].startswith("outdoor")]))
    assert one_domain["over"].unique().tolist() == ["all tasks", "all but Edge (outdoor)", "all but Sal. (outdoor)"]


def test_the_central_test_s_arrangements_are_a_family() -> None:
    """A gain whose p is below 0.05 alone, and not after Holm over both arrangements, is undecided."""
    records = []
    for seed, gain in enumerate((1.0, 2.0, 1.4)):
        record = central_record(seed, gain)
        shared = record.values["metrics"]
        more = central_record(seed, (-2.0, 3.0, 0.5)[seed]).values["metrics"]["domain"]
        records.append(replace(record, values={"seed": seed, "metrics": {**shared, "all": more}}))
    domain, everything = benchmark.claims(records)
    value = domain.parts[0].value
    assert value.p < 0.05 < value.p_holm == pytest.approx(2 * value.p)
    assert value.low > 0
    assert [domain.word, everything.word] == ["undecided", "undecided"]


def test_central_groups() -> None:
    job = benchmark.CentralTest(config=setting(smoke(), "scenes9"))
    groups = job.groups()
    assert sum(unit.startswith("none-") for unit in groups) == 9
    assert len(groups["domain-indoor"]) == 4
    assert len(groups["all"]) == 9
    assert "all" not in benchmark.CentralTest(config=setting(smoke(), "outdoor5")).groups()


def test_central_records_hold_the_curve_behind_odsf() -> None:
    config = setting(
        smoke(),
        "outdoor/sal,indoor/edge",
        images_train=20,
        images_val=4,
        images_per_client=4,
        rounds=1,
        local_epochs=1,
        start="random",
        precision="fp32",
        width=4,
        head_channels=8,
    )
    job = benchmark.CentralTest(config=config)
    values, arrays = job.combine([job.compute(unit, device="cpu") for unit in job.units()])
    record = Record(path=Path(job_name(job)), spec=job.spec(), values=values, arrays=arrays, provenance={})
    for sharing in ("none", "all"):
        ((name, curve),) = benchmark.edge_curves(record, sharing).items()
        assert name == "indoor/edge"
        stored = values["metrics"][sharing][name]
        assert curve.f_T[curve.best] == stored["odsF"]
        assert curve.recall_T[curve.best] == stored["ods_recall"]
        assert curve.thresholds_T[curve.best] == stored["ods_threshold"]


# --- the store of other results ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Squares:
    """A job that counts how often a unit is computed, by files."""

    numbers: tuple[int, ...]
    trace: Path
    fails: bool = False

    kind = "squares"
    alone = False

    def spec(self) -> dict[str, object]:
        return {"numbers": list(self.numbers)}

    def units(self) -> list[str]:
        return [str(number) for number in self.numbers]

    def compute(self, unit: str, *, device: str | None) -> tuple[dict[str, object], dict[str, np.ndarray]]:
        if self.fails and unit == "3":
            raise RuntimeError("interrupted")
        with open(self.trace, "a") as file:
            file.write(unit + "\n")
        return {"square": int(unit) ** 2}, {"array": np.full(2, int(unit))}

    def combine(
        self, parts: list[tuple[dict[str, object], dict[str, np.ndarray]]]
    ) -> tuple[dict[str, object], dict[str, np.ndarray]]:
        return (
            {"squares": [values["square"] for values, _ in parts]},
            {"all": np.stack([arrays["array"] for _, arrays in parts])},
        )


def test_records_are_computed_once_and_found_in_the_store_or_among_records(tmp_path: Path) -> None:
    job = Squares((1, 2), tmp_path / "trace")
    (first,) = load_or_compute([job], runs_dir=tmp_path / "a", jobs=1)
    assert first.values == {"squares": [1, 4]}
    assert sorted(path.name for path in first.path.iterdir()) == ["arrays.npz", "lock", "manifest.json", "record.json"]
    (again,) = load_or_compute([job], runs_dir=tmp_path / "b", records=[tmp_path / "a"], jobs=1)
    assert again.path == first.path
    assert np.array_equal(read_record(again.path).arrays["all"], [[1, 1], [2, 2]])
    assert (tmp_path / "trace").read_text() == "1\n2\n"
    load_or_compute([job], runs_dir=tmp_path / "a", jobs=1, fresh=True)
    assert (tmp_path / "trace").read_text() == "1\n2\n1\n2\n"


def test_an_interrupted_job_goes_on_with_what_is_missing(tmp_path: Path) -> None:
    job = Squares((1, 3, 4), tmp_path / "trace", fails=True)
    with pytest.raises(RuntimeError, match="interrupted"):
        load_or_compute([job], runs_dir=tmp_path, jobs=1)
    (record,) = load_or_compute([replace(job, fails=False)], runs_dir=tmp_path, jobs=1)
    assert record.values["squares"] == [1, 9, 16]
    assert sorted((tmp_path / "trace").read_text().split()) == ["1", "3", "4"]


def test_records_of_an_older_arithmetic_are_drawn_and_stored_ones_computed_anew(tmp_path: Path) -> None:
    @dataclass(frozen=True)
    class Revised(Squares):
        edges: int = 2

        def spec(self) -> dict[str, object]:
            return {"numbers": list(self.numbers), "data": {"scenes": 3, "arithmetic": {"edges": self.edges}}}

    old, new = Revised((1,), tmp_path / "trace", edges=1), Revised((1,), tmp_path / "trace")
    assert job_name(old) == job_name(new)
    (first,) = load_or_compute([old], runs_dir=tmp_path / "a", jobs=1)
    (drawn,) = load_or_compute([new], runs_dir=tmp_path / "b", records=[tmp_path / "a"], jobs=1)
    assert drawn.path == first.path
    assert drawn.outdated == ("edges 1 (today 2)",)
    (again,) = load_or_compute([new], runs_dir=tmp_path / "a", jobs=1)
    assert again.outdated == ()
    assert (tmp_path / "trace").read_text() == "1\n1\n"


def test_a_notebook_says_that_records_are_old(capsys: pytest.CaptureFixture[str]) -> None:
    Session("04_k_sweep", "smoke")._notice([[], ["edges 1 (today 2)"], ["edges 1 (today 2)"]], "runs")
    assert capsys.readouterr().out.startswith(
        "Note: 2 of these 3 runs are records of an older arithmetic: edges 1 (today 2)."
    )
    Session("04_k_sweep", "smoke")._notice([[], []], "runs")
    assert capsys.readouterr().out == ""


def test_ray_is_asked_for_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray.util.joblib", None)
    with pytest.raises(ImportError, match=r"pip install 'matfl\[ray\]'"):
        load_or_compute([Squares((1,), tmp_path / "trace")], runs_dir=tmp_path, backend="ray")


def test_measurements_run_alone_after_the_rest(tmp_path: Path) -> None:
    jobs = [replace_alone((1,), tmp_path), Squares((2, 3), tmp_path / "trace"), replace_alone((4,), tmp_path)]
    load_or_compute(jobs, runs_dir=tmp_path, jobs=1)
    assert (tmp_path / "trace").read_text() == "2\n3\n1\n4\n"


def replace_alone(numbers: tuple[int, ...], folder: Path) -> Squares:
    """A job that asks to run alone."""
    job = Squares(numbers, folder / "trace")
    object.__setattr__(job, "alone", True)
    return job


def test_equal_jobs_are_computed_once_and_keep_their_order(tmp_path: Path) -> None:
    jobs = [Squares((2,), tmp_path / "trace"), Squares((1,), tmp_path / "trace"), Squares((2,), tmp_path / "trace")]
    found = load_or_compute(jobs, runs_dir=tmp_path, jobs=1)
    assert [record.values["squares"] for record in found] == [[4], [1], [4]]
    assert (tmp_path / "trace").read_text() == "2\n1\n"


# --- claims -----------------------------------------------------------------------------------------------------------


def test_report_shows_what_claims_print() -> None:
    claim = Claim(text="It works.", parts=(Part(statistic="gain", value=estimate([1.0]), rule=Above(0)),))
    report = Report([claim])
    assert repr(report) == str(claim) == "[undecided] It works. gain: 1.00 (one seed: no interval) [above 0]."
    assert report._repr_markdown_() == claim.markdown()


def test_report_and_development_seeds_never_meet() -> None:
    assert list(report_seeds(3)) == [0, 1, 2]
    assert list(development_seeds(2)) == [100, 101]
    with pytest.raises(ValueError, match=r"seeds=101: choose 1\.\.100"):
        report_seeds(101)


def test_the_regime_is_said() -> None:
    assert regime(quick()) == (
        "on outdoor scenes and indoor scenes at 64x64, resnet18 of width 16 from weights from rendered objects, "
        "12 rounds of 1 local epoch, learning rate 0.001"
    )
    assert "at 128x128, timm:efficientnet_lite0 from ImageNet's weights, 20 rounds" in regime(preset("photos_imagenet"))


def test_synthetic_diagnostics_follow_the_votes() -> None:
    config = setting(smoke(), "outdoor5", method="matfl")
    stored = diagnostics(config)
    assert (stored["friends"].sum(-1) == config.k).all()
    assert (stored["votes"].max(-1) == config.k).all()
    assert scores(config, 10.0)["outdoor/normals"] == pytest.approx(18)
