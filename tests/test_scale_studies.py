"""The studies of many, packed, private, hostile and absent clients, on made-up numbers whose answers are known."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from rounds import make_round
from synthetic_runs import FakeRun, fake_run

from matfl.paper import plots
from matfl.paper.studies import (
    absent,
    hostile,
    many_clients,
    packed,
    printed,
    private,
    scale_privacy_attacks,
    signals,
)
from matfl.paper.studies.store import Record, load_or_compute
from matfl.paper.studies.trials import final_scores
from matfl.runs.captured import captured
from matfl.server.attacks import attackers
from matfl.server.grouping import cosine, gram
from matfl.tasks.task import pairs


@pytest.fixture(autouse=True)
def _close():
    yield
    plt.close("all")


# --- many -------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_step_is_measured_from_within_a_worker_process(tmp_path):
    job = many_clients.Crowds(clients=(20, 30), parameters=2_000)
    (found,) = load_or_compute([job], runs_dir=tmp_path, jobs=2)
    assert [row["clients"] for row in found.values["rows"]] == [20, 30]
    assert all(row["peak_mb"] >= 0 for row in found.values["rows"])


def test_planted_clients_are_alike_within_tasks_alone():
    layout = many_clients.layout_of(40_000)
    made = many_clients.Planted(layout, tasks=3)
    rows = torch.stack([made.update(client) for client in range(12)])
    assert torch.equal(rows[5], many_clients.Planted(layout, tasks=3).update(5))
    cosines = torch.nn.functional.normalize(rows) @ torch.nn.functional.normalize(rows).T
    same = torch.tensor([[a % 3 == b % 3 for b in range(12)] for a in range(12)])
    assert cosines[same & ~torch.eye(12, dtype=torch.bool)].mean() == pytest.approx(0.2, abs=0.02)
    assert cosines[~same].abs().max() < 0.05
    assert sum(layout.parameters[name].stop - layout.parameters[name].start for name in layout.voting) == 35_000


def test_a_step_over_planted_clients_finds_their_tasks():
    pytest.importorskip("faiss")
    row = many_clients._measure(90, 20_000, ("exact", "sketches", "nearest"))
    assert row["right_exact"] == 1
    assert row["right_sketches"] > 0.8
    assert row["recall"] > 0.5
    assert 1 <= row["additions"] <= many_clients.TASKS
    assert all(row[name] >= 0 for name in many_clients.SECONDS)


def test_slopes_of_powers_are_the_powers():
    clients = np.array([18, 100, 300, 1000, 3000])
    table = pd.DataFrame({"clients": clients, "sketches_s": 1e-6 * clients**2.0, "sketch_s": 1e-3 * clients})
    found = many_clients.slopes(table)
    assert found["slope"].round(3).to_dict() == {
        "sketch all updates": 1.0,
        "compare sketches, block by block": 2.0,
    }
    assert found.loc["compare sketches, block by block", "seconds at a million"] == pytest.approx(1e6)


# --- signals ----------------------------------------------------------------------------------------------------------


def alike(noise=0.3):
    """Nine clients of three tasks, whose updates share their task's direction."""
    round = make_round("aaabbbccc", dtype=torch.float32)
    directions = torch.randn(3, round.updates.layout.P, generator=torch.Generator().manual_seed(0))
    own = torch.randn(9, round.updates.layout.P, generator=torch.Generator().manual_seed(1))
    rows = directions[[0, 0, 0, 1, 1, 1, 2, 2, 2]] + noise * own
    return replace(round, updates=round.updates.holding(rows))


def test_tasks_are_told_from_what_tells_them_and_not_from_noise():
    names = [name for name in "abc" for _ in range(3)]
    base = torch.eye(3).repeat_interleave(3, 0)[None]
    assert signals._told(base, names) == 1
    noise = [signals._told(torch.randn(4, 9, 8, generator=torch.Generator().manual_seed(s)), names) for s in range(40)]
    assert np.mean(noise) == pytest.approx(1 / 3, abs=0.12)


def test_every_seed_has_noise_of_its_own_and_epsilon_is_for_the_runs_own_rounds(monkeypatch):
    asked = []

    def noise(epsilon, releases):
        asked.append(releases)
        return 5.0

    monkeypatch.setattr(signals, "noise_for", noise)
    round = alike()
    seeds = [replace(round, config=replace(round.config, seed=seed)) for seed in (0, 1, 1)]
    first, second, again = (pd.DataFrame(signals._private(its, releases=7)[0]) for its in seeds)
    assert set(asked) == {7}
    pd.testing.assert_frame_equal(second, again)
    assert not first["weights"].equals(second["weights"])


def test_sketches_are_compared_with_whole_updates(monkeypatch):
    monkeypatch.setattr(signals, "LENGTHS", (8, 16))
    rows = pd.DataFrame(signals._sketched(alike()))
    assert set(rows["length"]) == {8, 16}
    assert rows["partners_exact"].eq(1).all()
    assert rows["error"].mean() < 2 * rows["theory"].mean()
    assert rows["weights"].between(0, 2).all()


def test_weights_of_a_lonely_client_go_to_itself_and_to_others():
    round = alike()
    rows = pd.DataFrame(signals._absent(round, round.updates.updates_NP.clone()))
    means = rows.groupby("case")[["own", "partners", "others", "fresh", "late"]].mean()
    assert means.loc["alone in its task", "partners"] == 0
    assert means.loc["all, in time", "partners"] > 0.3
    assert means.loc["half late", "fresh"] == means.loc["half late", "late"] == 1  # the same updates as today's
    assert np.allclose(means.loc[["all, in time", "alone in its task"], ["own", "partners", "others"]].sum(axis=1), 1)
    other = pd.DataFrame(signals._absent(round, torch.randn(9, round.updates.layout.P)))
    strangers = other[other["case"] == "half late"]
    assert strangers["late"].mean() < strangers["fresh"].mean()


def test_attacks_lead_astray_whom_their_formulas_say(monkeypatch):
    monkeypatch.setattr(signals, "COUNTS", (1,))
    round = alike()
    config = replace(round.config, tasks="pascal/semseg,pascal/sal,pascal/normals", clients_per_task=3, k=4)
    rows = pd.DataFrame(signals._hostile(replace(round, config=config)))
    found = rows.groupby(["defence", "attack"])[["weight", "astray_others", "astray_attacked"]].mean()
    assert found.loc[("single_task", "flip"), "astray_others"] == pytest.approx(0, abs=1e-6)
    assert found.loc[("fedavg", "flip"), "weight"] == pytest.approx(1 / 9)
    assert found.loc[("matfl", "flip"), "weight"] < 0.03  # few parameters: chance likeness
    assert found.loc[("matfl", "votes"), "weight"] > 1 / 9
    assert found.loc[("fedavg", "scale"), "astray_others"] > 0.5
    assert found.loc[("matfl, clipped", "copy"), "astray_others"] < found.loc[("matfl", "copy"), "astray_others"]


def test_captured_rounds_are_those_of_the_run(tmp_path, monkeypatch):
    from tiny import tiny

    from matfl.runs import engine
    from matfl.runs.run import Run

    monkeypatch.setenv("MATFL_CACHE", str(tmp_path / "cache"))
    config = tiny()
    engine.run(config, tmp_path / "run", device="cpu", cache_dir=tmp_path / "cache")
    stored = Run(tmp_path / "run").diagnostics["similarity"]
    for round in captured(config, (1, 3), device="cpu"):
        found = cosine(gram(round.updates, round.updates.layout.voting)).numpy()
        np.testing.assert_allclose(found, stored[round.number - 1].astype(float), atol=2e-3)
    with pytest.raises(ValueError, match=r"round 4: choose 1\.\.3"):
        next(captured(config, (4,)))


# --- trained runs -----------------------------------------------------------------------------------------------------


def faked(plan, better):
    """A made-up run for each config; `better(config)` percent above the base in every task."""
    return [fake_run(config, better(config)) for config in plan.configs]


def test_hostile_runs_are_judged_against_the_honest_of_their_seed():
    def better(config):
        loss = {"none": 0.0, "flip": -5.0, "copy": -40.0, "votes": -20.0, "lie": -1.0}[config.attack]
        return (1.0 if config.method == "matfl" else 0.0) + loss * (0.5 if config.clip_norm else 1.0)

    runs = faked(hostile.plan("scenes", seeds=2), better)
    table = hostile.table(runs)
    assert len(table) == len(runs) == 2 * (len(hostile.DEFENCES) * 4 + len(hostile.LIED_TO))
    means = table.groupby(["defence", "attack"])[["attacked", "others", "all"]].mean()
    assert means.loc[("single_task", "none")].abs().max() < 1e-9
    assert means.loc[("matfl", "copy")].mean() < means.loc[("matfl, clipped", "copy")].mean() < -10
    before = hostile.table(runs, kind="local").set_index(["defence", "attack", "seed"])["all"]
    after = table.set_index(["defence", "attack", "seed"])["all"]
    assert (before - after).abs().max() < 1e-9, "made-up scores before aggregation are in proportion"
    for run in runs:
        if run.config.attack == "copy":
            run.metrics.loc[run.metrics["kind"] == "global", "value"] = 0.0
    assert (hostile.table(runs, kind="local").set_index(["defence", "attack", "seed"])["all"] == before).all()
    changed = hostile.table(runs).set_index(["defence", "attack", "seed"])["all"]
    assert (changed.xs("copy", level="attack") != after.xs("copy", level="attack")).all()
    config = next(run.config for run in runs if run.config.attack == "flip")
    assert len(attackers(config)) == hostile.ATTACKERS
    given = hostile.weights(runs)
    assert set(given["attack"]) == {*hostile.TRAINED, "lie"}
    assert (hostile.lies(runs)["liars"] == 1).all()  # made-up clients are grouped by the task that they claim
    assert given["plain"].iloc[0] == pytest.approx(4 / 18)
    claims = hostile.claims(runs)
    assert all(claim.word in ("held", "not held", "undecided") for claim in claims)
    for claim in claims:
        family = [part.value for part in claim.parts]
        assert len(family) == 1 or all(value.p_holm >= value.p for value in family), "attacks are a family"
    assert "made for the votes: where no layer votes" in claims[-1].regime


def test_what_ends_at_a_constant_answer_has_forgotten_all():
    runs = faked(hostile.plan("scenes", seeds=2), lambda config: 0.0)
    names = [pair.name for pair in pairs(runs[0].config.tasks)]
    honest = {seed: final_scores(run) for seed, run in hostile._honest(runs).items()}

    def constant(seed, share):
        """An answer whose classes score `share` of single-task FL's, and whose depth is as good as its."""
        scores = {n: (1 if n.endswith("depth") else share) * honest[seed][n] for n in names}
        scores["outdoor/normals"] = honest[seed]["outdoor/normals"] / share
        values = {"seed": seed, "constant": scores | {"outdoor/edge": 0.1}}
        return Record(path=Path(f"constants-{seed}"), spec={}, values=values, arrays={}, provenance={})

    found = hostile.floor(runs, [constant(0, 0.5), constant(1, 0.8), *told_records()]).set_index("seed")
    assert found.loc[0, "outdoor/semseg"] == pytest.approx(-50)
    assert found.loc[0, "outdoor/normals"] == pytest.approx(-100), "an error that doubles"
    assert found.loc[1, "all"] == pytest.approx((4 * -20 - 25 + 0) / 6)
    before = hostile.floor(runs, [constant(0, 0.5), constant(1, 0.8)], kind="local").set_index("seed")
    assert (before["all"] > found["all"]).all(), "made-up scores before aggregation are worse"
    free = [name for name in names if name not in hostile._attacked(runs[0])]
    assert found.loc[0, "others"] == pytest.approx(found.loc[0, free].mean())
    table = printed.attacked(runs, hostile.table(runs), found.reset_index())
    assert "Not above the constant answer without attackers: Depth (indoor)." in table.caption
    assert "| any " in (last := table.markdown().splitlines()[-1])
    assert last.count("*-") == 3
    constants, keys = [constant(0, 0.5), constant(1, 0.8), *told_records()], ["defence", "attack", "pair", "seed"]
    above = hostile.above_floor(runs, constants).set_index(keys)["above"].sort_index()
    assert above["matfl", "copy", "outdoor/semseg"].to_dict() == pytest.approx({0: 100, 1: 25})
    assert above["matfl", "copy", "outdoor/normals", 0] == pytest.approx(50), "half the error"
    assert above.xs("indoor/depth", level="pair").abs().max() < 1e-9
    assert above.xs("outdoor/normals", level="pair").gt(0).all()
    worse = hostile.above_floor(runs, constants, kind="local").set_index(keys)["above"]
    assert worse["matfl", "copy", "outdoor/semseg", 0] < 100
    by_task = printed.above_floor(runs, hostile.above_floor(runs, constants))
    assert list(by_task.frame.columns) == names
    assert by_task.frame.loc[("flip", "MaT-FL"), "outdoor/semseg"] == pytest.approx((100 + 25) / 2)
    assert list(dict.fromkeys(by_task.frame.index.get_level_values("attack"))) == ["none", *hostile.TRAINED, "lie"]
    empty = hostile.floor(runs, told_records())
    assert empty.empty
    nothing = printed.above_floor(runs, hostile.above_floor(runs, told_records()))
    assert "Nothing to show here" in nothing.markdown()
    assert "constant" not in printed.attacked(runs, hostile.table(runs), empty).markdown()


def test_a_depth_that_diverges_does_not_decide_what_noise_costs():
    pytest.importorskip("dp_accounting")

    def run(config):
        made = fake_run(config, -30.0 if config.dp_noise else 0.0)
        far = (made.metrics["task"] == "depth") & bool(config.dp_noise)
        return replace(
            made, metrics=made.metrics.assign(value=made.metrics["value"].mask(far, 1e9 * (1 + config.seed)))
        )

    runs = [run(config) for config in private.plan("scenes").configs]
    means = private.table(runs).groupby("noised")[["delta_m", "bounded"]].mean()
    assert means.loc["all that leaves a client", "delta_m"] < -1e6
    assert means.loc["all that leaves a client", "bounded"] == pytest.approx(-30)
    (claim,) = (c for c in private.claims(runs, told_records()) if c.text.startswith("Noise on sketches alone"))
    assert claim.word == "held"
    assert "at -30 %" in claim.note


def bytes_of(run: FakeRun) -> FakeRun:
    share = {"none": 1.0, "bf16": 0.5, "int8": 0.25, "topk": 0.02}[run.config.codec]
    for row in run.rounds:
        row["bytes_up"] = int(share * row["bytes_up"])
    return run


def test_packed_runs_are_named_by_how_they_travel():
    runs = [bytes_of(run) for run in faked(packed.plan("scenes"), lambda c: -1.0 if c.codec == "topk" else 0.0)]
    table = packed.table(runs)
    assert list(dict.fromkeys(table["packing"])) == list(packed.PACKINGS)
    means = table.groupby("packing")[["megabytes", "delta_m", "change"]].mean()
    assert means.loc["bf16", "megabytes"] == pytest.approx(means.loc["float32", "megabytes"] / 2)
    assert means.loc["float32", "delta_m"] == 0
    assert means.loc["top 1 %", "delta_m"] < -0.5
    held = {claim.text: claim.word for claim in packed.claims(runs)}
    assert held["A quarter of the bytes (int8) changes a client's weights in round 1 by less than .05."] == "held"
    plots.packed_quality(table)


def record(rows: dict[str, list[dict]], seed: int) -> Record:
    tables = {name: rows.get(name, []) for name in signals.TABLES}
    values = {"seed": seed, "tables": tables}
    return Record(path=Path(f"signals-{seed}"), spec={}, values=values, arrays={}, provenance={})


def told_records():
    records = []
    for seed in range(3):
        rows: dict[str, list[dict]] = {"private": [], "tasks": [], "absent": []}
        for epsilon in signals.EPSILONS:
            good = 0.9 if np.isinf(epsilon) else 0.41 + 0.01 * seed
            case = {"round": 1, "length": 64, "epsilon": str(epsilon), "draw": 0}
            rows["private"].append({**case, "noise": 1.0, "partners": good, "weights": 0.5})
            rows["tasks"].append({**case, "accuracy": 0.8 + 0.01 * seed if np.isinf(epsilon) else 1 / 6})
        for name, others in (("all, in time", 0.1), ("alone in its task", 0.2 + 0.01 * seed)):
            rows["absent"].append({"round": 1, "case": name, "draw": 0, "own": 0.6, "partners": 0.1, "others": others})
        rows["absent"].append({"round": 1, "case": "half late", "draw": 0, "fresh": 0.9, "late": 0.5 + 0.01 * seed})
        records.append(record(rows, seed))
    return records


def test_private_runs_and_signals_are_judged_against_chance():
    pytest.importorskip("dp_accounting")
    runs = faked(private.plan("scenes"), lambda c: -30.0 if c.dp_noise else 0.0)
    table = private.table(runs)
    assert set(table["noised"]) == {
        "nothing",
        "nothing, grouped by sketches",
        "the sketch alone",
        "all that leaves a client",
    }
    words = {claim.text: claim.word for claim in private.claims(runs, told_records())}
    assert words == {
        "On average over the rounds looked at, sketches without noise tell a client's task better than chance.": "held",
        "At epsilon 1 for a whole run, sketches tell a task less than twice as often as chance.": "held",
        "At epsilon 256, sketches find partners more often than chance.": "undecided",
        "Noise on sketches alone costs less than noise on all that leaves a client (epsilon 256).": "held",
    }
    early_and_late = [*told_records(), *told_records()]
    for later in early_and_late[3:]:
        for row in later.values["tables"]["tasks"]:
            row.update(round=9, accuracy=0.25)
    told = private.claims(runs, early_and_late)[0]
    assert told.note == "By round: 0.81 in 1, 0.25 in 9.", "what is told at once is not hidden in a mean"
    assert told.parts[0].value.mean == pytest.approx((0.81 + 0.25) / 2)
    sums = private.secure_sums(runs)["number"]
    assert (sums >= 1).all()
    assert sums["clients in a sum, fewest in any round"] <= sums["clients in a sum, mean"]
    plots.epsilon_curve(private.told(told_records(), "private"), "partners", chance=0.4, label="x")


def test_absent_runs_are_judged_by_case():
    def better(config):
        return -10.0 * (config.participation < 1) - (3.0 if config.method == "matfl" else 1.0) * bool(config.late)

    runs = faked(absent.plan("scenes"), better)
    table = absent.table(runs)
    assert set(table["case"]) == {"all, in time", "10% a round", "50% late"}
    words = [claim.word for claim in absent.claims(runs, told_records())]
    assert words == ["held", "held", "held", "held"]
    few = absent.claims(runs, told_records())[2]
    assert few.note == "They end at -10.0 and -10.0 against single-task FL with all clients in time."
    assert list(scale_privacy_attacks.away(told_records()).index) == ["all, in time", "alone in its task", "half late"]


def test_the_plan_holds_every_part_once():
    plan = scale_privacy_attacks.plan("quick")
    assert len(set(plan.configs)) == len(plan.configs)
    parts = scale_privacy_attacks.parts([fake_run(config) for config in plan.configs], "quick")
    assert set().union(*({run.config for run in runs} for runs in parts.values())) == set(plan.configs)
    assert {job.kind for job in plan.jobs} == {"signals", "crowds", "constants"}
    assert len({config.num_clients for config in plan.configs}) == 1


def test_figures_show_what_is_in_the_frames():
    table = pd.DataFrame({"fedavg": [0.5, 2.0], "matfl": [0.0, 9.0]}, index=["flip", "copy"])
    axes = plots.attack_table(table, label="astray")
    assert [text.get_text() for text in axes.texts] == ["0.50", "0.00", "2.00", "9.00"]
    plt.close("all")
    rows = [
        {"defence": d, "attack": a, "seed": s, "others": -s, "attacked": -2 * s, "all": 0}
        for d in ("fedavg", "matfl")
        for a in ("none", "copy")
        for s in (0, 1)
    ]
    axes = plots.attack_deltas(pd.DataFrame(rows), "others", ["none", "copy"])
    assert [label.get_text() for label in axes.get_yticklabels()] == ["MaT-FL", "Plain Many-Task FL"]
    plt.close("all")
    cost = pd.DataFrame(
        {"clients": [18, 100], "parameters": [1000, 1000], "peak_mb": [10.0, 20.0], "sketch_s": [1.0, 5.0]}
    )
    assert len(plots.crowd_seconds(cost, many_clients.SECONDS).lines) == 2  # and on paper
    plt.close("all")
    assert len(plots.crowd_bytes(cost, layers=8, length=64).lines) == 5
    plt.close("all")
    columns = ("error", "theory", "votes", "friends", "partners", "partners_exact", "weights")
    frame = pd.DataFrame({"length": [8, 16], "seed": [0, 0]} | {name: [0.5, 0.6] for name in columns})
    assert plots.sketch_error(frame).get_xlabel() == "numbers a layer d"
    plt.close("all")
    assert len(plots.sketch_kept(frame).lines) == 5
