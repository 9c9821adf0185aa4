"""Runs whose method or server keeps something from round to round, killed in the middle of one and gone on with."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tiny import contents, tiny

from matfl.runs import engine

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

KILLED = """
import json, os, signal, sys

sys.path.insert(0, sys.argv[1])
from test_killed import config_of
from matfl.client import training
from matfl.runs import engine

case, folder, cache, round_number = json.loads(sys.argv[2])
intact, trained = training.train, []

def train(*args, round, **others):
    if round == round_number:
        trained.append(others["client"])
        if len(trained) == 2:  # its first client of the round is done
            os.kill(os.getpid(), signal.SIGKILL)
    return intact(*args, round=round, **others)

training.train = train
engine.run(config_of(case), folder, device="cpu", cache_dir=cache)
"""


def config_of(case):
    return tiny(**CASES[case], **CHANGES)


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
        given = json.dumps([case, str(tmp_path / "killed"), str(cache), number])
        command = [sys.executable, "-c", KILLED, str(Path(__file__).parent), given]
        done = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)
        assert done.returncode == -signal.SIGKILL, done.stderr[-2000:]
        assert engine.store.stored_round(tmp_path / "killed", config) == stored
    engine.run(config, tmp_path / "killed", device="cpu", cache_dir=cache)
    assert contents(tmp_path / "killed") == contents(tmp_path / "alone")
