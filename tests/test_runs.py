"""Runs found, trained, resumed, exported and tabulated; storms of kills; two processes; many at a time."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import TINY, contents, tiny

from matfl.core.manifest import MANIFEST, write_files
from matfl.runs import engine as federation
from matfl.runs import run as runs
from matfl.runs import store
from matfl.runs.arithmetic import arithmetic, differences
from matfl.runs.parallel import describe
from matfl.runs.run import export, list_runs, load_or_run, metrics_table
from matfl.runs.workspace import Workspace

TRAIN = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from tiny import tiny
from matfl.runs import engine as federation
print("ready", flush=True)
federation.run(tiny(**eval(sys.argv[3])), Path(sys.argv[1]), device="cpu", cache_dir=sys.argv[2], wait=True)
""".format(tests=str(Path(__file__).parent))  # noqa: UP032  (the code has braces of its own)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def quickly(monkeypatch):
    """Training replaced by writing down the seed as the only metric; yields the list of configs that were trained."""
    trained = []

    def run(config, path, *, fresh=False, **options):
        trained.append(config)
        with store.locked(path):
            if fresh:
                store.discard(path)
            if config.seed == 13:
                raise ValueError("seed 13 is unlucky")
            store.create(path, config, {"data": federation.data_version(config)})
            records = store.Records(static={"layers": np.array(["a"])})
            for number in range(1, config.rounds + 1):
                records.metrics.append((number, "outdoor", "semseg", -1, "global", "mIoU", float(config.seed)))
                records.rounds.append({"round": number})
                records.diagnostics.setdefault("participants", []).append(np.ones(4, bool))
            store.save_round(path, config, {"x": torch.zeros(1)}, records)

    monkeypatch.setattr(federation, "run", run)
    monkeypatch.setattr(federation, "prepare", lambda *args, **kwargs: None)
    return trained


def find(configs, base, **options):
    place = Workspace(base, records=options.pop("records", ()))
    return load_or_run(configs, workspace=place, device="cpu", **{"progress": False, "jobs": 1, **options})


def test_runs_come_in_the_order_asked_for_and_are_trained_once(tmp_path, quickly):
    wanted = [tiny(seed=2), tiny(seed=1), tiny(seed=2)]
    found = find(wanted, tmp_path)
    assert [run.config for run in found] == wanted
    assert [run.metrics["value"].iloc[-1] for run in found] == [2.0, 1.0, 2.0]
    assert len(quickly) == 2
    find(wanted, tmp_path)
    assert len(quickly) == 2
    find(wanted[:1], tmp_path, fresh=True)
    assert len(quickly) == 3


def test_any_iterable_of_configs_will_do(tmp_path, quickly):
    assert [run.config.seed for run in find((tiny(seed=i) for i in (3, 1)), tmp_path)] == [3, 1]
    assert find([], tmp_path) == []


def test_committed_records_are_used_after_the_store(tmp_path, quickly):
    config = tiny()
    (run,) = find([config], tmp_path / "runs")
    record = export(run, tmp_path / "records")
    assert {path.name for path in record.iterdir()} == {*store.RECORD_FILES, MANIFEST}
    (found,) = find([config], tmp_path / "other", records=tmp_path / "records")
    assert found.path == record
    assert found.finished
    assert found.metrics.equals(run.metrics)
    (found,) = find([config], tmp_path / "runs", records=[tmp_path / "records"])
    assert found.path == run.path
    assert len(quickly) == 1


def test_a_cut_record_is_an_error_and_one_of_other_pictures_is_not_used(tmp_path, quickly):
    config = tiny()
    (run,) = find([config], tmp_path / "runs")
    record = export(run, tmp_path / "records")
    lines = (record / "rounds.jsonl").read_text().splitlines()
    (record / "rounds.jsonl").write_text(lines[0] + "\n")
    with pytest.raises(store.RunError, match=r"rounds\.jsonl is damaged"):
        find([config], tmp_path / "a", records=tmp_path / "records")
    write_files(record, {"rounds.jsonl": lines[0] + "\n"})  # a record of fewer rounds, with its checksum
    find([config], tmp_path / "a", records=tmp_path / "records")
    assert len(quickly) == 2
    shutil.rmtree(record)
    export(run, tmp_path / "records")
    write_files(record, {"provenance.json": json.dumps({"data": {"scenes": -1}})})
    with pytest.warns(UserWarning, match="version of the rendered pictures: -1 then"):
        find([config], tmp_path / "b", records=tmp_path / "records")
    assert len(quickly) == 3


def test_a_folder_whose_config_was_changed_is_an_error(tmp_path, quickly):
    (run,) = find([tiny()], tmp_path)
    write_files(run.path, {"config.json": json.dumps({**tiny().to_json(), "k": 3})})
    with pytest.raises(store.RunError, match="holds another run than its name says"):
        find([tiny()], tmp_path)


def test_one_failure_is_named_and_the_others_are_kept(tmp_path, quickly, capsys):
    with pytest.raises(store.RunError, match=r"1 of 3 runs failed .*\n.*seed=13.*: seed 13 is unlucky") as caught:
        find([tiny(seed=i) for i in (1, 13, 2)], tmp_path, progress=True)
    assert "Traceback" in caught.value.__notes__[0]
    assert sorted(run.config.seed for run in list_runs(tmp_path) if run.finished) == [1, 2]
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "training 3 runs (9 rounds), 1 at a time"
    assert [line[:5] for line in lines[1:]] == ["[1/3]", "[2/3]", "[3/3]"]


def test_nothing_is_said_when_nothing_is_trained(tmp_path, quickly, capsys):
    find([tiny()], tmp_path, progress=True)
    assert capsys.readouterr().err
    find([tiny()], tmp_path, progress=True)
    assert not capsys.readouterr().err


def test_the_largest_run_starts_first(tmp_path, quickly):
    find([tiny(rounds=1), tiny(rounds=5), tiny(rounds=3)], tmp_path)
    assert [config.rounds for config in quickly] == [5, 3, 1]


def test_bad_options(tmp_path, quickly, monkeypatch):
    with pytest.raises(ValueError, match="jobs=0: must be at least 1"):
        find([tiny()], tmp_path, jobs=0)
    with pytest.raises(ValueError, match="backend='threads': choose 'loky'"):
        find([tiny()], tmp_path, backend="threads")
    monkeypatch.setitem(sys.modules, "ray.util.joblib", None)
    with pytest.raises(store.RunError, match=r"needs the package ray: pip install 'matfl\[ray\]'"):
        find([tiny()], tmp_path, backend="ray")


def test_unfinished_runs_are_not_exported(tmp_path, quickly):
    (run,) = find([tiny()], tmp_path)
    state = json.loads((run.path / "state.json").read_text())
    write_files(run.path, {"state.json": json.dumps({**state, "finished": False})})
    with pytest.raises(store.RunError, match="is not finished"):
        export(run, tmp_path / "records")


def test_tables_name_what_differs(tmp_path, quickly):
    table = metrics_table(find([tiny(seed=1), tiny(seed=2, k=3)], tmp_path))
    assert list(table.columns) == ["k", "seed", "run", *store.METRIC_COLUMNS]
    assert (table["seed"] == table["value"]).all()
    assert list(metrics_table([]).columns) == ["run", *store.METRIC_COLUMNS]


def test_configs_are_described_by_what_they_change():
    assert describe(replace(runs_quick(), seed=4)) == "method=matfl, seed=4"


def runs_quick():
    from matfl.config.run_config import quick

    return quick()


def start(path, cache, **changes):
    """A process that trains a tiny run."""
    command = [sys.executable, "-c", TRAIN, path, cache, repr(changes)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert process.stdout.readline() == "ready\n"
    return process


@pytest.mark.slow
@pytest.mark.parametrize("storm", range(2))
def test_a_storm_of_kills_changes_nothing(tmp_path, cache, storm):
    changes = {"rounds": 12, "evaluate_every": 3, "participation": 0.75}
    began = time.monotonic()
    federation.run(tiny(**changes), tmp_path / "whole", device="cpu", cache_dir=cache)
    pace = (time.monotonic() - began) / 12
    path, draw, kills = tmp_path / "killed", random.Random(storm), 0
    while (done := store.read_state(path).get("round", 0)) < 12:
        process, goal = start(path, cache, **changes), done + draw.randint(0, 2)
        while process.poll() is None and store.read_state(path).get("round", 0) < goal:
            time.sleep(pace / 20)
        time.sleep(draw.uniform(0, 1.5 * pace))
        kills += process.poll() is None
        process.send_signal(signal.SIGKILL)
        process.wait()
    federation.run(tiny(**changes), path, device="cpu", cache_dir=cache)
    assert kills > 3
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")
    left = {path.name for path in (tmp_path / "killed").iterdir()}
    assert left == {*store.RECORD_FILES, "checkpoint.safetensors", "state.json", "lock", MANIFEST}


@pytest.mark.slow
def test_two_processes_on_one_run(tmp_path, cache):
    federation.run(TINY, tmp_path / "whole", device="cpu", cache_dir=cache)
    both = [start(tmp_path / "shared", cache) for _ in range(2)]
    assert [process.wait() for process in both] == [0, 0]
    assert contents(tmp_path / "shared") == contents(tmp_path / "whole")


@pytest.mark.slow
def test_a_second_process_is_refused_when_it_does_not_wait(tmp_path, cache):
    process = start(tmp_path / "run", cache, rounds=200)
    try:
        while not (tmp_path / "run" / "state.json").exists():
            time.sleep(0.05)
        with pytest.raises(store.RunBusyError, match=f"pid {process.pid}"):
            federation.run(tiny(rounds=200), tmp_path / "run", device="cpu", cache_dir=cache)
    finally:
        process.kill()
        process.wait()


@pytest.mark.slow
def test_side_by_side_or_one_by_one_the_numbers_are_the_same(tmp_path, cache):
    configs = [tiny(seed=seed, method=method) for seed in (0, 1) for method in ("matfl", "local")]
    options = {"device": "cpu", "progress": False}
    one = load_or_run(configs, workspace=Workspace(tmp_path / "one", cache=cache), jobs=1, **options)
    two = load_or_run(configs, workspace=Workspace(tmp_path / "two", cache=cache), jobs=2, **options)
    for a, b in zip(one, two, strict=True):
        assert contents(a.path) == contents(b.path)


@pytest.mark.slow
def test_a_ray_cluster_gives_the_same_numbers(tmp_path, cache, monkeypatch):
    ray = pytest.importorskip("ray")
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.chdir(tmp_path)
    configs, options = [tiny(seed=seed) for seed in (0, 1)], {"device": "cpu", "progress": False}
    try:
        there = load_or_run(configs, workspace=Workspace("there", cache=cache), backend="ray", **options)
    finally:
        ray.shutdown()
    here = load_or_run(configs, workspace=Workspace("here", cache=cache), jobs=1, **options)
    for a, b in zip(there, here, strict=True):
        assert contents(a.path) == contents(b.path)


@pytest.mark.slow
def test_an_interrupted_call_goes_on(tmp_path, cache):
    # A test run in the background of a shell inherits that interrupts are ignored.
    code = (
        f"import signal, sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\nfrom tiny import tiny\n"
        "from matfl.runs.run import load_or_run\nfrom matfl.runs.workspace import Workspace\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "load_or_run([tiny(seed=s, rounds=30) for s in range(3)], workspace=Workspace(sys.argv[1], cache=sys.argv[2]),"
        " jobs=2, device='cpu')"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, tmp_path, cache], stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    while sum(store.read_state(path).get("round", 0) for path in tmp_path.glob("tiny-*")) < 4:
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=300)
    assert process.returncode != 0
    assert "KeyboardInterrupt" in errors
    before = {run.config.seed: len(run.rounds) for run in list_runs(tmp_path) if (run.path / "state.json").exists()}
    found = load_or_run(
        [tiny(seed=s, rounds=30) for s in range(3)],
        workspace=Workspace(tmp_path, cache=cache),
        jobs=2,
        device="cpu",
        progress=False,
    )
    assert all(run.finished for run in found)
    resumed = [run.provenance["resumed"][0]["from_round"] for run in found if "resumed" in run.provenance]
    assert resumed
    assert max(resumed) >= max(before.values()) - 1


def test_an_older_arithmetic_is_told_apart(tmp_path, quickly):
    """Records of it are drawn and say so; a run of the store is not reused."""
    config = tiny()
    (run,) = find([config], tmp_path / "runs")
    assert run.outdated == []
    record = export(run, tmp_path / "records")
    old = {name: value for name, value in federation.data_version(config).items() if name != "arithmetic"}
    write_files(record, {"provenance.json": json.dumps({"data": old})})
    (found,) = find([config], tmp_path / "a", records=tmp_path / "records")
    assert found.path == record
    assert found.outdated == ["augmentation 1 (today 2)"]
    assert len(quickly) == 1
    write_files(run.path, {"provenance.json": json.dumps({"data": old})})
    with pytest.warns(UserWarning, match="revisions of the arithmetic"):
        assert runs.find_run(config, Workspace(tmp_path / "runs", records=())) is None


def test_only_the_arithmetic_that_a_run_uses_is_written_down():
    assert arithmetic(tiny()) == {"augmentation": 2}
    assert arithmetic(tiny(tasks="outdoor/edge,indoor/edge")) == {"augmentation": 2, "edges": 2}
    assert arithmetic(tiny(tasks="outdoor/sal,outdoor/normals")) == {}
    assert "arithmetic" not in federation.data_version(tiny(tasks="outdoor/sal,outdoor/normals"))
    assert differences({"arithmetic": {"edges": 2}}, {"arithmetic": {"edges": 2}}) == []
