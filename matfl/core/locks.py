"""Locks between processes: files of the `filelock` library that end with their holder and say who that is."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

__all__ = ["BusyError", "LockError", "holder", "locked"]

PATIENCE = 2.0
"""Seconds of waiting before a word about whom for."""


class LockError(OSError):
    """A lock that cannot be taken here at all; the message says why and what to do."""


class BusyError(LockError, BlockingIOError):
    """Another process holds the lock."""

    def __init__(self, path: Path, who: str) -> None:
        self.holder = who
        super().__init__(f"{path} is held by another process ({who})")


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def holder(path: Path) -> str:
    """Who wrote a number into the lock file: 'pid 1234', or 'pid unknown'."""
    with suppress(OSError, ValueError):
        return f"pid {int(path.read_text(encoding='ascii'))}"
    return "pid unknown"


@contextmanager
def locked(path: Path, *, wait: bool = True, say: Callable[[str], None] = _say) -> Iterator[None]:
    """Hold the lock file `path` (made if missing) against other processes; the lock ends with its holder.

    Waiting for more than two seconds is told, with the holder's process number, through `say`.

    Raises:
        BusyError: another process holds it, and `wait` is false.
        LockError: the file system has no locks, or `path` is a link, which is not followed.
    """
    if path.is_symlink():
        raise LockError(f"{path} is a symbolic link: a lock is a file of its own; remove the link")
    lock = FileLock(path, thread_local=False)
    try:
        try:
            lock.acquire(timeout=PATIENCE if wait else 0)
        except Timeout:
            if not wait:
                raise BusyError(path, holder(path)) from None
            say(f"waiting for another process ({holder(path)}), which holds {path}")
            lock.acquire()
    except (OSError, NotImplementedError) as error:
        if isinstance(error, LockError):
            raise
        number = getattr(error, "errno", None)
        if number in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP) or isinstance(error, NotImplementedError):
            raise LockError(
                f"{path}: this file system cannot lock files ({error}), so two processes could write one result at "
                "once: choose a local folder (--runs-dir or $MATFL_RUNS, $MATFL_CACHE for the cache), or mount it "
                "with locks"
            ) from None
        raise
    try:
        _sign(path)
        yield
    finally:
        lock.release()


def _sign(path: Path) -> None:
    """Leave this process's number for those who wait."""
    with suppress(OSError), open(path, "r+", encoding="ascii") as file:
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
