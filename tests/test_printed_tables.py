"""Printed tables: bold, arrows, units, spread and reference rows, the same numbers in every form."""

from __future__ import annotations

import io

import numpy as np
import pandas as pd
import pytest
from synthetic_runs import fake_run

from matfl.config.run_config import smoke
from matfl.paper.claims import Above, Part
from matfl.paper.stats import estimate
from matfl.paper.studies import k_sweep, methods, printed
from matfl.paper.studies.base import setting
from matfl.paper.tables import Column, Table, column


def made() -> Table:
    index = pd.MultiIndex.from_tuples(
        [("outdoor5", "single_task"), ("outdoor5", "matfl"), ("outdoor5", "constant answer"), ("scenes9", "matfl")],
        names=["tasks", "method"],
    )
    frame = pd.DataFrame(
        {
            "outdoor/semseg": [0.31, 0.3204, 0.9, 0.3],
            "outdoor/normals": [20.04, 20.01, 10.0, np.nan],
            "note": ["a|b", "50 %", "d_", "e"],
        },
        index=index,
    )
    spread = frame[["outdoor/semseg"]] * 0.1
    return Table(frame=frame, spread=spread, caption="Quality of 5 % & more", references=("constant answer",))


def test_heads_have_units_and_the_better_direction() -> None:
    assert column("outdoor/normals").head == "Norm. (outdoor) mean error (degrees) ↓"
    assert column("indoor/depth").head == "Depth (indoor) RMSE (m) ↓"
    assert column("outdoor/edge").head == "Edge (outdoor) ODS-F ↑"
    assert column("delta_m").head == "Δm (%) ↑"
    assert column("some_word").head == "some word"


def test_the_best_is_bold_within_its_group_and_references_never_are() -> None:
    lines = made().markdown().splitlines()
    single, ours, constant, alone = (line for line in lines if line.startswith("|") and " 0." in line.replace("*", " "))
    assert "**0.320 ± 0.032**" in ours
    assert "**" not in alone, "one row is no contest"
    assert single.count("**20.0**") == ours.count("**20.0**") == 1, "equal in print is equally good"
    assert "*0.900" in constant
    assert "**0.900" not in constant
    assert single.count("Outdoor scenes (5)") == 1
    assert "Outdoor scenes" not in ours, "a head that stands above is not repeated"


def test_means_over_fewer_seeds_are_never_the_best() -> None:
    frame = pd.DataFrame({"outdoor/sal": [0.40, 0.41, 0.45], "seeds": [5, 5, 3]}, index=["a", "b", "c"])
    text = Table(frame=frame, caption="").markdown()
    assert "**0.410**" in text
    assert "**0.450" not in text
    assert "**0.450**" in Table(frame=frame.drop(columns="seeds"), caption="").markdown()


def test_missing_numbers_and_signs() -> None:
    table = Table(frame=pd.DataFrame({"delta_m": [1.26, -0.5, 0.01, np.nan]}, index=list("abcd")), caption="x")
    assert [table._cell(i, "delta_m") for i in range(4)] == ["+1.3", "-0.5", "0.0", "–"]
    own = Table(frame=table.frame, caption="x", columns=(("delta_m", Column(title="d", digits=2)),))
    assert own._cell(0, "delta_m") == "1.26"


def test_what_diverged_is_legible() -> None:
    frame = pd.DataFrame({"delta_m": [-63182109.4, 12.5]}, index=list("ab"))
    table = Table(frame=frame, spread=frame.abs() * 2, caption="x")
    assert [table._cell(i, "delta_m") for i in range(2)] == ["-6.3e+07 ± 1.3e+08", "+12.5 ± 25.0"]
    value = estimate([9e7, 7e7, 8e7])
    part = Part(statistic="cost", value=value, rule=Above(0), digits=1)
    assert str(part) == "cost: 8.0e+07 (95 % interval 5.5e+07 to 1.0e+08, n = 3)"
    assert part.held is True, "print is all that changes"


def test_no_p_value_is_printed_as_zero() -> None:
    table = Table(frame=pd.DataFrame({"p": [0.04, 0.0005, 0.0004, 0.0]}, index=list("abcd")), caption="x")
    assert [table._cell(i, "p") for i in range(4)] == ["0.040", "0.001", "< 0.001", "< 0.001"]
    assert "$<$ 0.001" in table.latex()
    assert "&lt; 0.001" in table.styler().to_html()


def test_latex_has_rules_and_escapes() -> None:
    text = made().latex()
    assert all(rule in text for rule in ("\\toprule", "\\midrule", "\\bottomrule"))
    assert "\\caption{Quality of 5 \\% \\& more}" in text
    assert "\\textbf{0.320 $\\pm$ 0.032}" in text
    assert "$\\downarrow$" in text
    assert "d\\_" in text


def test_html_is_the_same_every_time_and_escaped() -> None:
    table = made().numbered("02.1")
    assert table._repr_html_() == made().numbered("02.1")._repr_html_()
    assert "<caption>Table 02.1. Quality of 5 % &amp; more</caption>" in table._repr_html_()
    assert "<strong>0.320 ± 0.032</strong>" in table._repr_html_()
    assert "<em>0.900</em>" in table._repr_html_() or "<em>0.900 ± 0.090</em>" in table._repr_html_()
    assert "**" not in repr(table)


def test_csv_keeps_the_numbers() -> None:
    rows = pd.read_csv(io.StringIO(made().csv()), index_col=[0, 1])
    assert rows["outdoor/semseg"].tolist() == [0.31, 0.3204, 0.9, 0.3]
    assert rows["outdoor/semseg sd"].iloc[0] == pytest.approx(0.031)


def runs(count: int = 3) -> list:  # type: ignore[type-arg]
    names = {"single_task": 0.0, "fedavg": 2.0, "fedprox": 1.0, "matfl": 4.0}
    return [
        fake_run(setting(smoke(), "outdoor5", method=name, seed=seed), better + 0.5 * seed * bool(better))
        for name, better in names.items()
        for seed in range(count)
    ]


def test_table_1_in_the_papers_layout() -> None:
    levels = pd.DataFrame({"pair": ["outdoor/semseg", "outdoor/sal"], "chance": [0.05, 0.2]})
    table = printed.paper_layout(runs(), levels)
    assert list(table.frame.columns) == ["outdoor/semseg", "outdoor/sal", "delta_m", "paper_semseg", "paper_sal"]
    papers = table.frame.loc[("outdoor5", "matfl")]
    assert papers[["paper_semseg", "paper_sal"]].tolist() == [0.2762, 0.5774]
    assert papers["delta_m"] == pytest.approx(4.5)
    assert table.spread is not None
    assert table.spread.loc[("outdoor5", "matfl"), "delta_m"] == pytest.approx(0.5)
    assert table.frame.loc[("outdoor5", printed.CONSTANT), "outdoor/sal"] == 0.2
    assert "Outdoor scenes (5) beside Pascal-Context (5)" in table.caption
    assert "n = 3 seeds" in table.caption
    assert "64x64" in table.caption
    everything = printed.methods(runs(), levels)
    assert (
        everything.frame.loc[("outdoor5", "matfl"), "outdoor/semseg"]
        == methods.table(runs()).loc[("outdoor5", "matfl"), "outdoor/semseg"]
    )


def test_table_2_has_k_only_where_a_method_knows_one() -> None:
    table = printed.clients(runs())
    assert np.isnan(table.frame.loc[(2, "fedavg"), "k"])
    assert table.frame.loc[(2, "matfl"), "k"] == 4
    assert table.frame.loc[(2, "matfl"), "paper_semseg"] == 0.2762
    sweep = printed.k_sweep(runs(), k_sweep.numbers(runs()))
    assert list(sweep.frame.index) == ["Single-Task FL", "Plain Many-Task FL", "FedProx", "MaT-FL, K = 4"]
    assert "**" in sweep.markdown().splitlines()[-1]
    assert "n = 1 seed (no spread" in printed.k_sweep(runs(1), k_sweep.numbers(runs(1))).caption
    levels = pd.DataFrame({"pair": ["outdoor/sal", "outdoor/semseg"], "chance": [0.9, 0.95]})
    known = printed.k_sweep(runs(), k_sweep.numbers(runs()), levels)
    assert known.frame.loc[printed.CONSTANT, "outdoor/semseg"] == 0.95
    assert np.isnan(known.frame.loc[printed.CONSTANT, "delta_m"])
    assert "**0.95" not in known.markdown(), "an answer that never looks takes part in no contest"
    assert known.frame.drop(printed.CONSTANT).equals(sweep.frame)


def test_what_attacks_leave_is_told_by_attack_and_by_kind_of_task() -> None:
    frame = pd.DataFrame(
        [
            {"defence": name, "attack": kind, "seed": seed, "attacked": -2.0 * seed, "others": 1.0, "all": -1.0 * seed}
            for name in ("fedavg", "matfl, clipped")
            for kind in ("none", "copy")
            for seed in (0, 1)
        ]
    )
    table = printed.attacked(runs(2), frame, pd.DataFrame())
    assert list(table.frame.index) == [
        (kind, name) for kind in ("none", "copy") for name in ("Plain Many-Task FL", "MaT-FL, clipped")
    ]
    assert table.frame.loc[("copy", "Plain Many-Task FL")].tolist() == [1.0, -1.0, -0.5]
    assert "tasks with an attacker of their own (%) ↑" in table.markdown()


def test_packings_are_means_over_seeds_with_their_spread() -> None:
    frame = pd.DataFrame(
        {
            "packing": ["float32", "float32", "int8", "int8"],
            "seed": [0, 1, 0, 1],
            "megabytes": [4.0, 4.0, 1.0, 1.0],
            "delta_m": [0.0, 0.0, -1.0, 1.0],
            "partners": [0.8, 0.6, 0.5, 0.5],
            "change": [0.0, 0.0, 0.1, 0.3],
        }
    )
    table = printed.packings(runs(2), frame)
    assert table.frame.loc["int8"].tolist() == pytest.approx([1.0, 0.0, 0.5, 0.2])
    assert table.spread is not None
    assert table.spread.loc["float32", "partners"] == pytest.approx(0.1414, abs=1e-3)
    plain, packed = table.markdown().splitlines()[-2:]
    assert "**1.00 ± 0.00**" in packed, "fewer bytes are better"
    assert "**0.70 ± 0.14**" in plain
    assert "n = 2 seeds" in table.caption
