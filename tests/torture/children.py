"""Work in processes that can be killed: forked from a server that has imported everything, so that each starts fast."""

from __future__ import annotations

import errno
import multiprocessing
import os
import resource
import signal
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

__all__ = ["Spoil", "counted_steps", "fail_at", "killed_at", "limited", "outcome", "prepare_data", "train"]

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["matfl.runs.engine", "matfl.data", "tiny"])

Spoil = Callable[[], Callable[[], Any] | None]
"""Called in the process before its work; what it returns is called after it, for the outcome."""


def train(path: Path, cache: Path) -> None:
    """The tiny run, begun or resumed."""
    from tiny import tiny

    from matfl.runs import engine

    engine.run(tiny(), path, cache_dir=cache, device="cpu")


def prepare_data(folder: Path) -> None:
    """Two small data sets in the real layouts."""
    from matfl.data import make

    make(folder, train=6, val=2, size=32)


def _call(pipe: Connection, spoil: Spoil | None, work: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    try:
        report = spoil() if spoil else None
        work(*arguments)
    except Exception as error:
        pipe.send(error if type(error).__module__.startswith("matfl") else f"raw {type(error).__name__}: {error}")
    else:
        pipe.send(report() if report else None)


def outcome(
    work: Callable[..., None], *arguments: Any, spoil: Spoil | None = None, kill_after: float | None = None
) -> object:
    """What becomes of `work(*arguments)` in a process of its own: None, 'killed', the package's error, or text.

    With `spoil` it may also be what that reports.
    """
    ours, theirs = CONTEXT.Pipe()
    process = CONTEXT.Process(target=_call, args=(theirs, spoil, work, arguments))
    process.start()
    theirs.close()
    process.join(kill_after)
    if process.is_alive():
        process.kill()
        process.join()
    if process.exitcode == -signal.SIGKILL:
        return "killed"
    try:
        return ours.recv()
    except EOFError:
        return f"exit code {process.exitcode}"


class killed_at:
    """Kill this process at its n-th flush, rename or start of a file: a crash at the worst moments."""

    def __init__(self, n: int, act: Callable[[], None] | None = None) -> None:
        self.left, self.act = n, act

    def __call__(self) -> Callable[[], None] | None:
        for name in ("fsync", "replace", "rename", "mkdir"):
            setattr(os, name, self._counting(getattr(os, name)))
        return None

    def _counting(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*arguments: Any, **keywords: Any) -> Any:
            self.left -= 1
            if self.left == 0:
                if self.act is None:
                    os.kill(os.getpid(), signal.SIGKILL)
                else:
                    self.act()
            return call(*arguments, **keywords)

        return counted


class counted_steps(killed_at):
    """Report how many such steps the work takes."""

    def __init__(self) -> None:
        super().__init__(0)

    def __call__(self) -> Callable[[], int]:  # type: ignore[override]
        super().__call__()
        return lambda: -self.left


def _full() -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


class fail_at(killed_at):
    """Let the n-th flush, rename or new folder of this process find the disk full."""

    def __init__(self, n: int) -> None:
        super().__init__(n, _full)


class limited:
    """No file may grow beyond so many bytes: a full disk for whoever has no right to mount a small one."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __call__(self) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (self.size, resource.RLIM_INFINITY))
