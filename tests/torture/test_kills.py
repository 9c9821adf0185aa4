"""Kill -9 at random and at the worst moments, and full disks: repeated, a command ends byte for byte the same."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from children import Spoil, counted_steps, fail_at, killed_at, limited, outcome, prepare_data, train
from tiny import contents

Contents = dict[str, bytes]


def tree(folder: Path) -> Contents:
    """Every file of a folder, hidden ones as well."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


class Job:
    """A command that can be repeated, what it must end with, and how long it takes."""

    def __init__(self, base: Path, work: Callable[..., None], read: Callable[[Path], Contents], *more: Path) -> None:
        self.base, self.work, self.read, self.more = base, work, read, more
        assert outcome(work, base / "first", *more) is None  # with what else is cached on first use
        self.steps = int(str(outcome(work, base / "counted", *more, spoil=counted_steps())))
        began = time.monotonic()
        assert outcome(work, base / "whole", *more) is None
        self.seconds = time.monotonic() - began
        self.expected = read(base / "whole")
        assert self.expected == read(base / "first")

    def attempt(self, name: str, **how: object) -> object:
        return outcome(self.work, self.base / name, *self.more, **how)  # type: ignore[arg-type]

    def ends_the_same(self, name: str) -> bool:
        return self.attempt(name) is None and self.read(self.base / name) == self.expected


@pytest.fixture(scope="module", params=["training", "data make"])
def job(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Job:
    base = tmp_path_factory.mktemp("job")
    if request.param == "training":
        return Job(base, train, contents, base / "cache")
    return Job(base, prepare_data, tree)


def test_killed_at_random_moments(job: Job, tally, trials, rng: np.random.Generator) -> None:
    """Kill -9 at random moments, again and again, then an undisturbed end."""
    for storm in trials(4):
        for _ in range(5):
            after = float(rng.uniform(0, 0.8 * job.seconds))
            tally[str(job.attempt(f"storm-{storm}", kill_after=after) or "done in time")] += 1
        assert job.ends_the_same(f"storm-{storm}")


def test_killed_at_every_kind_of_step(job: Job, tally, trials, rng: np.random.Generator) -> None:
    """Kill -9 at a flush, a rename or a new folder, then an undisturbed end."""
    steps = job.steps
    for trial in trials(10):
        n = 1 + round((trial * steps / 10) % steps) if trial < 10 else int(rng.integers(1, steps + 1))
        assert job.attempt(f"step-{trial}", spoil=killed_at(n)) == "killed", n
        assert job.ends_the_same(f"step-{trial}"), n
        tally["killed, then the same"] += 1


@pytest.mark.parametrize("disk", ["full at a flush", "files limited"])
def test_disks_that_fill_up(job: Job, disk: str, tally, trials, rng: np.random.Generator) -> None:
    """A full disk, then room: an error of one sentence, nothing half-made, and the same end."""
    largest = max(map(len, job.expected.values()))
    steps = job.steps
    for trial in trials(8):
        spoil: Spoil = fail_at(int(rng.integers(1, steps + 1)))
        if disk == "files limited":
            spoil = limited(int(largest ** rng.uniform(0, 0.97)))
        error = job.attempt(f"{disk}-{trial}", spoil=spoil)
        if error is not None:  # a folder that is there already needs no room
            assert isinstance(error, ValueError | RuntimeError), error
            assert str(job.base) in str(error)
            assert any(remedy in str(error) for remedy in ("space", "resume")), error
        assert job.ends_the_same(f"{disk}-{trial}")
        tally["error with its remedy, then the same" if error else "no harm done"] += 1
