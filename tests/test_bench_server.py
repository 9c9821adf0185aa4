"""The bench of the server's step, at a size that takes no time."""

import json

import pytest

from matfl.bench.methods import measure_methods
from matfl.bench.server import main, measure, measure_streamed
from matfl.server.methods import METHODS


def test_a_record_holds_the_step_its_parts_and_both_ratios():
    row = measure(5, width=2, repeats=1)
    assert (row["clients"], row["tasks"]) == (5, 9)
    for name in ("step", "similarity", "mixing", "screening", "copy", "floor", "naive"):
        assert row[f"{name}_s"] > 0
    assert row["times_floor"] == pytest.approx(row["step_s"] / row["floor_s"])
    assert row["times_naive"] == pytest.approx(row["naive_s"] / row["step_s"])
    assert row["floor_s"] * row["copy_gb_per_s"] * 1e9 == pytest.approx(4 * row["parameters"] * (2 * 5 + 9))


def test_ratios_are_printed_and_the_record_is_kept(tmp_path, capsys):
    record = tmp_path / "server.json"
    asked = "compare scale --clients 3 --width 2 --scale 2 4 --scale-width 2 --repeats 1 --threads 1 --device cpu"
    assert main([*asked.split(), "--loaded", "--json", str(record)]) == 0
    shown = capsys.readouterr().out
    assert "one pair at a time" in shown
    assert "4 clients" in shown
    stored = json.loads(record.read_text())
    assert stored["bench"] == "server"
    assert [row["clients"] for row in stored["parts"]["scale"]] == [2, 4]
    assert str(tmp_path) not in record.read_text()


def test_unknown_parts_are_refused(capsys):
    with pytest.raises(SystemExit):
        main(["everything"])
    assert "choose from compare, methods, scale, stream" in capsys.readouterr().err


@pytest.mark.slow
def test_a_streamed_client_takes_a_fraction_of_its_update():
    """16 clients more, 11 MB each, through a buffer that grows by a window of columns (1 MB) a client."""
    few, many = (measure_streamed(clients, width=32, memory=4 << 20) for clients in (8, 24))
    assert many["peak_mb"] - few["peak_mb"] < 0.5 * 16 * 4 * few["parameters"] / 1e6


def test_every_method_has_a_row_beside_plain_averaging(capsys):
    rows = measure_methods(9, width=1, repeats=1)
    assert [row["method"] for row in rows] == list(METHODS)
    for row in rows:
        assert row["step_s"] > 0
        assert row["times_fedavg"] > 0
    asked = "methods --loaded --clients 3 --width 1 --repeats 1 --threads 1 --device cpu --methods pcgrad"
    assert main(asked.split()) == 0
    assert "x fedavg" in capsys.readouterr().out
