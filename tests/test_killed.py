"""Runs whose method or server keeps something from round to round, killed in the middle of one and gone on with."""

import multiprocessing
import os
import signal

import pytest
from tiny import contents, tiny

from matfl.client import training
from matfl.runs import engine

PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["matfl.runs.engine"])

CHANGES = {"participation": 0.75, "evaluate_every": 3, "rounds": 4}
CASES = {
    **{
        name: {"method": name}
        for name in ("scaffold", "ifca", "fedhca2", "fedamp", "ditto", "fedfomo", "gradnorm", "tag")
    },
    "mas": {"method": "mas", "mas.together": 2},
    **{f"server {kind}": {"server_optimizer": kind, "server_lr": 0.01} for kind in ("avgm", "adam", "yogi")},
    "several tasks": {"tasks": "outdoor/semseg+sal,indoor/depth", "balance": "pcgrad", "method": "scaffold"},
}


def config_of(case):
    return tiny(**CASES[case], **CHANGES)


def run_until_killed(case, folder, cache, number):
    """The run in a process of its own, killed in a round once its first client there is done."""
    intact, trained = training.train, []

    def train(*args, round, **others):
        if round == number:
            trained.append(others["client"])
            if len(trained) == 2:
                os.kill(os.getpid(), signal.SIGKILL)
        return intact(*args, round=round, **others)

    training.train = train
    engine.run(config_of(case), folder, device="cpu", cache_dir=cache)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_a_run_that_is_killed_within_a_round_ends_with_the_same_bytes(case, tmp_path, cache):
    """Once in round 2, which goes on from what the first left, and again in round 4."""
    config = config_of(case)
    engine.run(config, tmp_path / "alone", device="cpu", cache_dir=cache)
    for stored, number in ((1, 2), (3, 4)):
        given = (case, tmp_path / "killed", cache, number)
        process = PROCESSES.Process(target=run_until_killed, args=given, daemon=True)  # one that hangs ends with us
        process.start()
        process.join(900)
        assert process.exitcode == -signal.SIGKILL
        assert engine.store.stored_round(tmp_path / "killed", config) == stored
    engine.run(config, tmp_path / "killed", device="cpu", cache_dir=cache)
    assert contents(tmp_path / "killed") == contents(tmp_path / "alone")
