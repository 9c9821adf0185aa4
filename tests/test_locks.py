"""Locks between processes: refused, waited for with a word, never through a link."""

import errno
import signal
import subprocess
import sys
import time

import pytest

from matfl.core import locks

HOLDER = (
    "import sys, time\nfrom pathlib import Path\nfrom matfl.core.locks import locked\n"
    "with locked(Path(sys.argv[1])):\n    print('held', flush=True)\n    time.sleep(float(sys.argv[2]))\n"
)


def held(path, seconds):
    """A process that holds the lock `path`."""
    process = subprocess.Popen([sys.executable, "-c", HOLDER, path, str(seconds)], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    return process


def test_a_held_lock_is_refused_naming_the_holder_and_ends_with_it(tmp_path):
    process = held(tmp_path / "lock", 60)
    try:
        with pytest.raises(locks.BusyError, match=f"pid {process.pid}"), locks.locked(tmp_path / "lock", wait=False):
            pass
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    with locks.locked(tmp_path / "lock", wait=False):
        pass


def test_waiting_says_for_whom(tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "PATIENCE", 0.2)
    said = []
    process = held(tmp_path / "lock", 1.5)
    began = time.monotonic()
    with locks.locked(tmp_path / "lock", say=said.append):
        assert process.wait(5) == 0
    assert time.monotonic() - began < 20
    assert said == [f"waiting for another process (pid {process.pid}), which holds {tmp_path / 'lock'}"]


def test_nothing_is_said_of_a_short_wait(tmp_path):
    said = []
    held(tmp_path / "lock", 0.3)
    with locks.locked(tmp_path / "lock", say=said.append):
        pass
    assert not said


def test_a_linked_lock_is_refused_and_its_target_left_alone(tmp_path):
    (tmp_path / "mine.txt").write_text("precious")
    (tmp_path / "lock").symlink_to(tmp_path / "mine.txt")
    with pytest.raises(locks.LockError, match="is a symbolic link"), locks.locked(tmp_path / "lock"):
        pass
    assert (tmp_path / "mine.txt").read_text() == "precious"


def test_a_file_system_without_locks_is_a_clear_error(tmp_path, monkeypatch):
    import fcntl

    def flock(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(locks.LockError, match="this file system cannot lock files"), locks.locked(tmp_path / "lock"):
        pass
