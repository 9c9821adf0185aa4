"""Stored results that are not runs: damage is named, two processes share the work, none outlives its parent."""

import json
import os
import platform
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from squares_job import Squares

from matfl.core.manifest import write_files
from matfl.paper.studies import store
from matfl.paper.studies.store import job_name, load_or_compute, read_record, write_record
from matfl.runs.store import RunError

CALL = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from squares_job import Squares
from matfl.paper.studies.store import load_or_compute
folder = Path(sys.argv[1])
if __name__ == "__main__":
    job = Squares({numbers}, folder / "trace", {seconds})
    (record,) = load_or_compute([job], runs_dir=folder / "runs", jobs={jobs})
    print(record.values["squares"])
"""


def computing(folder: Path, *, numbers: tuple[int, ...], seconds: float, jobs: int = 1) -> subprocess.Popen[str]:
    """Another process that computes the job."""
    code = CALL.format(tests=str(Path(__file__).parent), numbers=numbers, seconds=seconds, jobs=jobs)
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, "-c", code, folder], **pipes)


def units(folder: Path) -> list[str]:
    """The units that were begun, in order."""
    file = folder / "trace"
    return [line.split()[0] for line in file.read_text().splitlines()] if file.exists() else []


def wait_for(condition, seconds: float = 60.0) -> None:
    """Until the condition holds; AssertionError after so many seconds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.slow
def test_two_processes_share_the_units_of_a_job(tmp_path):
    numbers = (1, 2, 3, 4, 5, 6)
    both = [computing(tmp_path, numbers=numbers, seconds=0.4) for _ in range(2)]
    results = [process.communicate(timeout=300) for process in both]
    assert [out for out, _ in results] == ["[1, 4, 9, 16, 25, 36]\n"] * 2, results
    assert sorted(units(tmp_path)) == [str(n) for n in numbers], "no unit is computed twice"


def test_a_record_says_which_arithmetic_made_it(tmp_path, monkeypatch):
    job = Squares((1, 2), tmp_path / "trace")
    (record,) = load_or_compute([job], runs_dir=tmp_path / "here", jobs=1, backend="sequential")
    (said,) = record.provenance["arithmetic"]
    assert re.fullmatch(rf"float32 on cpu {platform.machine()}, rounding [0-9a-f]{{12}}", said)

    store._unit(job, "1", tmp_path / "moved" / job_name(job), device=None, wait=True)
    monkeypatch.setattr("matfl.runs.rounding.rounding", lambda device, dtype: "0" * 12)
    (record,) = load_or_compute([job], runs_dir=tmp_path / "moved", jobs=1, backend="sequential")
    assert record.provenance["arithmetic"] == sorted([said, said[:-12] + "0" * 12])


@pytest.mark.parametrize("file", ["record.json", "arrays.npz", "manifest.json"])
@pytest.mark.parametrize("damage", ["flip", "empty", "gone"])
def test_damage_to_a_record_is_named(tmp_path, file, damage):
    job = Squares((1, 2), tmp_path / "trace")
    (record,) = load_or_compute([job], runs_dir=tmp_path / "runs", jobs=1)
    path = record.path / file
    content = bytearray(path.read_bytes())
    if damage == "gone":
        path.unlink()
    else:
        content[len(content) // 2] ^= 1
        path.write_bytes(content if damage == "flip" else b"")
    with pytest.raises(RunError, match=rf"{file} is damaged .*: put back a copy, or remove .* to compute it anew"):
        load_or_compute([job], runs_dir=tmp_path / "none", records=[tmp_path / "runs"], jobs=1)
    assert units(tmp_path) == ["1", "2"], "nothing is computed in the place of a damaged record"
    (anew,) = load_or_compute([job], runs_dir=tmp_path / "runs", jobs=1, fresh=True)
    assert anew.values == record.values


def test_a_number_written_into_a_record_is_found(tmp_path):
    (record,) = load_or_compute([Squares((1, 2), tmp_path / "trace")], runs_dir=tmp_path, jobs=1)
    path = record.path / "record.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "values": {"squares": [1, 5]}}))
    with pytest.raises(RunError, match="do not match their checksum"):
        read_record(record.path)


@pytest.mark.parametrize("content", ["", "[]", "{}", "[" * 100_000])
def test_a_record_that_is_none_although_its_checksum_fits(tmp_path, content):
    (record,) = load_or_compute([Squares((1,), tmp_path / "trace")], runs_dir=tmp_path, jobs=1)
    write_files(record.path, {"record.json": content})
    with pytest.raises(RunError, match="is damaged"):
        read_record(record.path)


def test_a_kill_while_the_record_is_written_loses_nothing(tmp_path, monkeypatch):
    job = Squares((1, 2), tmp_path / "trace")
    rename, count = os.replace, 0

    def die(source, target):
        nonlocal count
        count += Path(target).parent.name.startswith("squares-")
        if count == 2:  # between the manifest and the arrays
            raise KeyboardInterrupt
        rename(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", die)
        with pytest.raises(KeyboardInterrupt):
            load_or_compute([job], runs_dir=tmp_path, jobs=1)
    (record,) = load_or_compute([job], runs_dir=tmp_path, jobs=1)
    assert record.values == {"squares": [1, 4]}
    assert units(tmp_path) == ["1", "2"]


def test_a_copied_record_is_the_record(tmp_path):
    (record,) = load_or_compute([Squares((1, 2), tmp_path / "trace")], runs_dir=tmp_path / "a", jobs=1)
    copy = read_record(write_record(tmp_path / "b", record))
    assert (copy.values, copy.spec, copy.provenance) == (record.values, record.spec, record.provenance)
    assert np.array_equal(copy.arrays["all"], record.arrays["all"])


@pytest.mark.slow
def test_a_killed_worker_is_one_clear_error(tmp_path):
    job = Squares((1, 13, 2), tmp_path / "trace")
    with pytest.raises(RunError, match="a worker process was killed, perhaps for lack of memory: use fewer jobs"):
        load_or_compute([job], runs_dir=tmp_path, jobs=2)


@pytest.mark.slow
def test_no_worker_outlives_a_killed_parent(tmp_path):
    process = computing(tmp_path, numbers=(1, 2, 3, 4), seconds=30, jobs=2)
    wait_for(lambda: len(units(tmp_path)) >= 2)
    workers = {int(line.split()[1]) for line in (tmp_path / "trace").read_text().splitlines()} - {process.pid}
    assert len(workers) == 2
    process.send_signal(signal.SIGKILL)
    process.wait()
    wait_for(lambda: not any(Path(f"/proc/{pid}").exists() for pid in workers), 20)
