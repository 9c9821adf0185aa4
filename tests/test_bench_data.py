"""The benches' dispatcher, their common record, and the data bench at a tiny size."""

import getpass
import json
import socket
import time
from pathlib import Path

import pytest
import torch

from matfl.bench import BENCHES, data, race, save
from matfl.bench.__main__ import main as dispatch
from matfl.bench.record import machine


@pytest.fixture(autouse=True)
def _threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_help_lists_every_bench(capsys):
    for argv in ([], ["--help"], ["-h"]):
        assert dispatch(argv) == 0
        printed = capsys.readouterr().out
        assert all(f"\n  {name} " in printed for name in BENCHES)


def test_an_unknown_bench_is_refused(capsys):
    assert dispatch(["speed"]) == 2
    assert f"unknown name 'speed': choose from {', '.join(BENCHES)}" in capsys.readouterr().err


def test_arguments_and_exit_code_are_passed_on(monkeypatch):
    seen = []
    monkeypatch.setattr(data, "main", lambda argv: seen.append(argv) or 3)
    assert dispatch(["data", "augment", "--size", "32"]) == 3
    assert seen == [["augment", "--size", "32"]]


def test_a_race_counts_items_and_takes_turns():
    turns = []

    def slow():
        turns.append("slow")
        time.sleep(0.02)
        return 2

    def fast():
        turns.append("fast")
        time.sleep(0.001)
        return 3

    found = race({"slow": slow, "fast": fast}, seconds=0.05, repeats=2)
    assert list(found) == ["slow", "fast"]
    assert found["slow"].per_second <= 2 / 0.02
    assert found["slow"].per_second < found["fast"].per_second <= 3 / 0.001
    assert found["slow"].per_cpu_second > found["slow"].per_second  # it mostly slept
    order = [name for name, previous in zip(turns, ["", *turns]) if name != previous]
    assert order == ["slow", "fast"] * 3  # once untimed, then two turns each


def test_a_race_calls_a_slow_way_once_a_turn():
    calls = []
    race({"only": lambda: calls.append(1) or 1}, seconds=0, repeats=4)
    assert len(calls) == 5


def test_the_machine_s_description_names_no_one():
    facts = json.dumps(machine())
    assert json.loads(facts)["torch"] == torch.__version__
    for private in (socket.gethostname(), str(Path.home()), str(Path.cwd()), f'"{getpass.getuser()}"'):
        assert private not in facts


def test_save(tmp_path):
    save(None, {})
    save(tmp_path / "record.json", {"a": [1.5]})
    assert json.loads((tmp_path / "record.json").read_text()) == {"a": [1.5]}


def test_data(tmp_path, capsys):
    path = tmp_path / "record.json"
    options = [
        "--size",
        "32",
        "--images",
        "2",
        "--batch",
        "2",
        "--fill",
        "2",
        "--files",
        "2",
        "--seconds",
        "0",
        "--repeats",
        "1",
        "--device",
        "cpu",
    ]
    assert data.main([*options, "--loaded", "--json", str(path)]) == 0
    record = json.loads(path.read_text())
    assert list(record["parts"]) == list(data.PARTS)
    assert set(record["parts"]["render"]) == set(record["parts"]["fill"]) == {"outdoor", "indoor"}
    assert len(record["parts"]["augment"]) == 9
    assert len(record["parts"]["read"]) == 5
    for part in ("augment", "read"):
        for row in record["parts"][part].values():
            assert row["ratio"] == pytest.approx(row["per_cpu_second"] / row["reference_per_cpu_second"])
    assert all(row["per_second"] > 0 for rows in record["parts"].values() for row in rows.values())
    printed = capsys.readouterr().out
    assert printed.count("x one by one") == 14
    assert str(tmp_path) not in json.dumps(record)


@pytest.mark.parametrize(
    "argv, message",
    [
        (["reading"], "unknown part 'reading': choose from render, fill, augment, read"),
        (["--batch", "0"], "--batch: must be at least 1"),
        (["--size", "big"], "invalid int value"),
    ],
)
def test_wrong_arguments(argv, message, capsys):
    with pytest.raises(SystemExit) as caught:
        data.main(argv)
    assert caught.value.code == 2
    assert message in capsys.readouterr().err
