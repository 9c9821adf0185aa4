"""A difference of delta_m taken apart: tasks add up to it, and one may carry it alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats
from synthetic_runs import FakeRun, fake_run

from matfl.config.run_config import override, smoke
from matfl.paper.studies import methods, printed
from matfl.paper.studies.base import setting
from matfl.paper.studies.by_task import by_task, gains

SEEDS = (0, 1, 2)
GAINS = {
    ("matfl", 1.0): (9.0, 10.0, 11.0),
    ("fedavg", 1.0): (0.0, -0.5, 0.5),
    ("fedavg", 2.0): (8.0, 11.0, 9.0),
    ("single_task", 1.0): (0.0, 0.0, 0.0),
}


def run(method: str, step: float, seed: int, *, segmentation: float, others: float = 0.0) -> FakeRun:
    """A run whose segmentation is so many percent better than single-task FL's, and whose other tasks are `others`."""
    config = override(setting(smoke(), "outdoor5", method=method, seed=seed), server_lr=step)
    made, better = fake_run(config, others), fake_run(config, segmentation).metrics["value"]
    return replace(made, metrics=made.metrics.assign(value=made.metrics["value"].where(_other(made), better)))


def _other(made: FakeRun):
    return made.metrics["task"] != "semseg"


def runs() -> list[FakeRun]:
    """Segmentation gains as in GAINS; every other task of every method but single-task FL gains 1 %."""
    return [
        run(method, step, seed, segmentation=gains[seed], others=float(method != "single_task"))
        for (method, step), gains in GAINS.items()
        for seed in SEEDS
    ]


def test_one_task_that_carries_a_difference_is_seen() -> None:
    found = by_task(runs(), ("matfl", 1.0), [("fedavg", 1.0)]).set_index("pair")
    assert list(found.index) == [f"outdoor/{name}" for name in ("semseg", "human_parts", "sal", "normals", "edge")]
    gaps = np.array(GAINS["matfl", 1.0]) - GAINS["fedavg", 1.0]
    assert found.loc["outdoor/semseg", "gain"] == pytest.approx(gaps.mean())
    half = stats.t.ppf(0.975, 2) * gaps.std(ddof=1) / np.sqrt(3)
    assert found.loc["outdoor/semseg", "high"] == pytest.approx(gaps.mean() + half)
    assert found["share"].tolist() == pytest.approx([100, 0, 0, 0, 0])
    assert found.loc["outdoor/semseg", "without"] == pytest.approx(0)
    assert found["without"].iloc[1:].tolist() == pytest.approx([gaps.mean() / 4] * 4)


def test_tasks_add_up_to_the_difference_of_delta_m() -> None:
    whole = methods.compare([r for r in runs() if r.config.server_lr == 1]).set_index("against")["mean"]
    apart = methods.tasks_apart([r for r in runs() if r.config.server_lr == 1])
    assert set(apart["against"]) == {"single_task", "fedavg"}, "FedProx has no runs"
    for against, rows in apart.groupby("against"):
        assert rows["gain"].mean() == pytest.approx(whole[against])
        assert rows["share"].sum() == pytest.approx(100)
        left = (rows["gain"].sum() - rows["gain"]) / 4
        assert rows["without"].tolist() == pytest.approx(left.tolist())


def test_what_is_not_told_from_0_has_no_shares_and_p_is_adjusted_over_the_opponents() -> None:
    found = by_task(runs(), ("matfl", 1.0), [("single_task", 1.0), ("fedavg", 2.0)])
    near = found[(found["against"] == "fedavg") & (found["server_lr"] == 2)]
    assert near["share"].isna().all()
    assert near["gain"].iloc[0] == pytest.approx(2 / 3)
    assert near["p_holm"].iloc[1] == pytest.approx(stats.ttest_1samp([1.0, -1.0, 2.0], 0).pvalue)
    far = found[found["against"] == "single_task"]["p_holm"].iloc[1]
    assert far == pytest.approx(2 * stats.ttest_1samp([12.0, 13.0, 14.0], 0).pvalue), "the smaller of two, by Holm"


def test_gains_by_task_are_single_task_fls_0_and_average_to_delta_m() -> None:
    found = gains(runs())
    wide = found.pivot(index=["method", "server_lr", "seed"], columns="pair", values="gain")
    assert wide.loc["single_task"].abs().max(axis=None) < 1e-9
    for (method, step), expected in GAINS.items():
        assert wide.loc[(method, step), "outdoor/semseg"].tolist() == pytest.approx(expected)
        others = wide.loc[(method, step)].drop(columns="outdoor/semseg")
        assert others.to_numpy() == pytest.approx(float(method != "single_task"))
    at_1 = [r for r in runs() if r.config.server_lr == 1]
    whole = methods.deltas(at_1).set_index(["method", "seed"])["delta_m"]
    assert gains(at_1).groupby(["method", "seed"])["gain"].mean().to_dict() == pytest.approx(whole.to_dict())
    table = printed.gains(at_1, gains(at_1))
    assert table.frame.loc[("outdoor5", "matfl"), "outdoor/semseg"] == pytest.approx(10)
    assert table.spread.loc[("outdoor5", "matfl"), "outdoor/semseg"] == pytest.approx(1)
    assert table.frame.columns[0] == "outdoor/semseg"
    assert "Norm. (outdoor) (%) ↑" in table.markdown(), "an error's gain is better the higher it is"
    assert "fewer seeds" not in table.caption
    fewer = [run for run in at_1 if run.config.method != "fedavg" or run.config.seed != SEEDS[0]]
    assert "fewer seeds" in printed.gains(fewer, gains(fewer)).caption


def test_nothing_to_take_apart() -> None:
    one_task = [r for seed in SEEDS for r in _of_one_task(seed)]
    assert by_task(one_task, ("matfl", 1.0), [("single_task", 1.0)]).empty
    assert by_task([], ("matfl", 1.0), [("single_task", 1.0)]).empty
    assert by_task(runs(), ("pcgrad", 1.0), [("single_task", 1.0)]).empty
    assert gains(one_task).empty
    for table in (
        printed.by_task(by_task([], ("matfl", 1.0), []), "A minus B"),
        printed.gains(one_task, gains(one_task)),
    ):
        assert table.markdown().endswith("\n\nNothing to show here for these parameters.\n")


def _of_one_task(seed: int) -> list[FakeRun]:
    made = [setting(smoke(), "outdoor/sal", method=name, seed=seed) for name in ("single_task", "matfl")]
    return [fake_run(config, float(config.method == "matfl")) for config in made]


def test_a_step_stands_in_the_head_where_steps_differ() -> None:
    same = by_task(runs(), ("matfl", 1.0), [("fedavg", 1.0)])
    other = by_task(runs(), ("matfl", 1.0), [("fedavg", 1.0), ("fedavg", 2.0)])
    assert "| Plain Many-Task FL |" in printed.by_task(same, "MaT-FL").markdown()
    text = printed.by_task(other, "MaT-FL").markdown()
    assert "Plain Many-Task FL, step 1 " in text
    assert "Plain Many-Task FL, step 2 " in text
