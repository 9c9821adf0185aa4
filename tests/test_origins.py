"""Runs that are compared were made by the same arithmetic, and where they were not it is said."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from synthetic_runs import FakeRun, fake_run
from test_reproduce import write_run

from matfl.config.run_config import override, smoke
from matfl.paper.studies.base import Plan, setting
from matfl.paper.studies.origins import mixed_origins
from matfl.paper.studies.session import Session
from matfl.paper.studies.store import Record
from matfl.runs.rounding import rounding
from matfl.runs.run import Run, list_runs

RECORDS = Path(__file__).parent.parent / "figures"


def begun(loss: float, **changes: object) -> FakeRun:
    """A run whose first round had `loss`."""
    return replace(fake_run(override(smoke(), **changes)), rounds=[{"loss": loss}, {"loss": 0.1}])


@pytest.mark.parametrize(
    "servers_part",
    [{"method": "matfl"}, {"method": "matfl", "k": 3}, {"server_lr": 2.0}, {"server_optimizer": "adam"}, {"rounds": 4}],
)
def test_the_servers_part_does_not_change_how_a_run_begins(servers_part):
    one, two = begun(0.5, method="fedavg"), begun(0.6, **{"method": "fedavg", **servers_part})
    assert mixed_origins([one, two]) == [[one, two]]
    assert mixed_origins([one, replace(two, rounds=one.rounds)]) == []


@pytest.mark.parametrize(
    "clients_part",
    [{"seed": 1}, {"images_per_client": 7}, {"lr": 0.5}, {"method": "fedprox"}, {"method": "fedrep"}, {"size": 48}],
)
def test_runs_whose_clients_train_otherwise_are_not_compared(clients_part):
    assert mixed_origins([begun(0.5), begun(0.6, **clients_part)]) == []


def test_methods_that_train_in_their_own_way_are_compared_with_themselves():
    one, two = begun(0.5, method="fedprox"), begun(0.6, method="fedprox", server_lr=2.0)
    assert mixed_origins([one, two]) == [[one, two]]
    other = begun(0.6, method="fedprox", **{"fedprox.mu": 1.0})
    assert mixed_origins([one, other]) == []


@pytest.mark.parametrize("preset", [path.name for path in sorted(RECORDS.glob("*")) if (path / "runs").is_dir()])
def test_committed_records_were_made_by_one_arithmetic_wherever_they_are_compared(preset):
    runs = list_runs(RECORDS / preset / "runs")
    assert runs
    assert [[run.config.name for run in strangers] for strangers in mixed_origins(runs)] == []


def test_a_result_that_several_presets_share_was_measured_once():
    """What a notebook finds must not depend on the order in which records are looked through."""
    found = {}
    for file in RECORDS.glob("*/runs/*/record.json"):
        found.setdefault(file.parent.name, set()).add(file.read_bytes())
    assert {name for name, contents in found.items() if len(contents) > 1} == set()


def test_a_notebook_says_which_of_its_runs_do_not_begin_alike(tmp_path, monkeypatch, capsys):
    configs = [setting(smoke(), "scenes9", method=name) for name in ("matfl", "fedavg")]
    made = [fake_run(config) for config in configs]
    stored = [Run(write_run(tmp_path / "runs", *pair)) for pair in zip(configs, made, strict=True)]
    session, plan = Session("04_k_sweep", "smoke", train="no"), Plan(configs=tuple(configs))
    monkeypatch.setattr("matfl.paper.studies.session.collect_stored", lambda plan: stored)
    assert session.runs(plan) == stored
    assert capsys.readouterr().out == ""
    other = replace(made[1], rounds=[{**made[1].rounds[0], "loss": 0.7}, *made[1].rounds[1:]])
    stored[1] = Run(write_run(tmp_path / "elsewhere", configs[1], other))
    assert session.runs(plan) == stored
    said = capsys.readouterr().out
    assert said.startswith(f"Note: {configs[0].name}, {configs[1].name} should begin with the same loss and do not")
    assert "`matfl reproduce --fresh`" in said


def test_a_notebook_says_which_of_its_results_are_of_several_machines(monkeypatch, capsys):
    def record(name: str, *arithmetic: str) -> Record:
        kept = {"arithmetic": list(arithmetic)} if arithmetic else {}
        return Record(path=Path(name), spec={}, values={}, arrays={}, provenance=kept)

    alike = [record("central-1", "a"), record("central-2", "a"), record("pairs-1", "b"), record("central-3")]
    session = Session("00_benchmark", "smoke", train="no")
    monkeypatch.setattr("matfl.paper.studies.session.collect_stored_records", lambda plan: shown)
    shown = alike
    session.records(Plan())
    assert capsys.readouterr().out == ""
    shown = [*alike, record("central-4", "a", "b")]
    session.records(Plan())
    assert capsys.readouterr().out.startswith("Note: results of kind central come from a and from b: ")


def test_rounding_has_a_name_that_repeats_in_another_process_and_differs_by_precision():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        here = rounding("cpu"), rounding("cpu", torch.bfloat16)
    finally:
        torch.set_num_threads(threads)
    assert len({*here}) == 2
    assert all(len(name) == 12 and int(name, 16) >= 0 for name in here)
    assert elsewhere() == here[0]


@pytest.mark.skipif(platform.machine() != "x86_64", reason="asks oneDNN for kernels of older x86 processors")
def test_kernels_of_an_older_processor_round_otherwise():
    assert elsewhere(ONEDNN_MAX_CPU_ISA="SSE41") != elsewhere()


def elsewhere(**environment: str) -> str:
    """`rounding` in a process of its own, on one thread."""
    code = "import torch; torch.set_num_threads(1); from matfl.runs.rounding import rounding; print(rounding('cpu'))"
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **environment}, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()
