"""The paper's comparisons in its own two measures: closed forms, the family of Holm, and the paper's numbers."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd
import pytest
from synthetic_runs import FakeRun, fake_run

from matfl.config.run_config import preset, smoke
from matfl.paper.stats import estimate, holm_adjusted
from matfl.paper.studies import clients_per_task, printed
from matfl.paper.studies.base import BASELINES, setting
from matfl.paper.studies.paper_claims import PAPER_CLAIMS
from matfl.paper.studies.paper_measures import MEASURES, TABLE_1, paper_measures
from matfl.paper.studies.tables import final

GAINS = {"single_task": 0.0, "fedavg": -6.0, "fedprox": -7.0, "matfl": -1.0, "local": 30.0}


def runs(tasks: str = "outdoor5", clients: tuple[int, ...] = (2,), seeds: int = 3) -> list[FakeRun]:
    """Gains over single-task FL in percent, a little more with each seed."""
    return [
        fake_run(
            setting(preset("scenes"), tasks, method=name, clients_per_task=count, seed=seed),
            gain + 0.3 * seed * (name != "single_task"),
        )
        for count in clients
        for name, gain in GAINS.items()
        for seed in range(seeds)
    ]


def test_differences_are_of_each_measure_paired_by_seed() -> None:
    made = runs()
    found = paper_measures(made).set_index(["pair", "method", "against"])
    assert list(found.index) == [(f"outdoor/{task}", *pair) for task in MEASURES for pair in TABLE_1]
    values = final(made).set_index(["pair", "method", "seed"])["value"].sort_index()
    gaps = {
        (f"outdoor/{task}", m, a): estimate(
            values[f"outdoor/{task}", m].to_numpy() - values[f"outdoor/{task}", a].to_numpy()
        )
        for task in MEASURES
        for m, a in TABLE_1
    }
    for key, value in holm_adjusted(gaps).items():
        row = found.loc[key]
        assert row[["mean", "low", "high"]].to_numpy(float) == pytest.approx([value.mean, value.low, value.high])
        assert row["p_holm"] == pytest.approx(value.p_holm), "all comparisons of a task set are a family"
    assert (found["n"] == 3).all()


def test_table_2_takes_the_paper_s_numbers_of_clients_in_one_family() -> None:
    made = runs(clients=(1, 2, 4))
    found = clients_per_task.measures(made)
    assert [*dict.fromkeys(found["clients_per_task"])] == [1, 2], "four clients are not the paper's"
    assert len(found) == 12
    frame = final(made).set_index(["pair", "clients_per_task", "method", "seed"])["value"].sort_index()
    family = holm_adjusted(
        {
            (pair, count, against): estimate(
                frame[pair, count, "matfl"].to_numpy() - frame[pair, count, against].to_numpy()
            )
            for pair in ("outdoor/semseg", "outdoor/sal")
            for count in (1, 2)
            for against in clients_per_task.OPPONENTS
        }
    )
    for _, row in found.iterrows():
        key = (row["pair"], row["clients_per_task"], row["against"])
        assert row["p_holm"] == pytest.approx(family[key].p_holm)
    table = printed.paper_measures(made, found)
    assert table.frame.index.names == ["tasks", "pair", "clients_per_task", "method", "against"]


def test_the_paper_s_differences_are_those_of_the_index() -> None:
    """`PAPER`, from which differences are taken, and the index's words were copied from the paper apart."""
    tables = {"5": paper_measures(runs()), "9": paper_measures(runs("scenes9"))}
    by_words = {claim.judged_as: claim.numbers for claim in PAPER_CLAIMS if claim.study == "02_methods"}
    names = {
        ("fedavg", "single_task"): "Plain many-task FL beats single-task FL.",
        ("matfl", "single_task"): "MaT-FL beats single-task FL.",
        ("matfl", "fedavg"): "MaT-FL beats plain many-task FL.",
        ("matfl", "fedprox"): "MaT-FL beats FedProx.",
    }
    for pair, words in names.items():
        numbers = [float(text) for text in re.findall(r"[-+]\.\d{4}", by_words[words])]
        rows = [table[(table["method"] == pair[0]) & (table["against"] == pair[1])] for table in tables.values()]
        assert np.concatenate([row["paper"] for row in rows]) == pytest.approx(numbers, abs=1e-9), words


def test_no_paper_no_measure_no_runs() -> None:
    photographs = paper_measures(
        [fake_run(setting(preset("photos"), "photos8", method=m, seed=s)) for m in BASELINES for s in (0, 1)]
    )
    assert list(dict.fromkeys(photographs["pair"])) == ["people/semseg", "people/sal"]
    assert photographs["paper"].isna().all(), "these pictures stand for none of the paper's"
    edges = [fake_run(setting(smoke(), "outdoor/edge", method=m)) for m in BASELINES]
    for nothing in (paper_measures([]), paper_measures(edges)):
        assert isinstance(nothing, pd.DataFrame)
        assert nothing.empty
        assert printed.paper_measures([], nothing).markdown().endswith("Nothing to show here for these parameters.\n")


def test_who_is_not_compared_is_not_counted() -> None:
    """The caption's seeds are of the methods in the table, not of a rival with fewer."""
    more = [run for run in runs(seeds=5) if run.config.method != "local" or run.config.seed < 3]
    caption = printed.paper_measures(more, paper_measures(more)).caption
    assert "n = 5 seeds" in caption
