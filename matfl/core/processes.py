"""Worker processes that do not outlive the process that started them."""

from __future__ import annotations

import os
import sys
import threading
import time
from typing import Any

__all__ = ["child_of_this", "end_with"]

_watched: set[int] = set()


def child_of_this() -> dict[str, Any]:
    """Options of `joblib.parallel_config(backend="loky")`: each worker ends with this process, also before any work.

    joblib keeps workers for the next call with the same options. The path is one of them, so that a module which
    became importable in between, a plug-in say, meets new workers, which find it.
    """
    return {"initializer": _child_of, "initargs": (os.getpid(), tuple(sys.path))}


def _child_of(parent: int, path: tuple[str, ...]) -> None:
    if os.getppid() != parent:  # it was killed while this process was starting
        os._exit(1)
    sys.path[:] = path
    end_with(parent)


def end_with(parent: int) -> None:
    """End this process within a second or so after process `parent`, which started it, is gone, killed say.

    Nothing happens in any other process: in `parent` itself, or on another machine.
    """
    if os.getppid() != parent or parent in _watched:
        return
    _watched.add(parent)
    threading.Thread(target=_watch, args=(parent,), daemon=True).start()


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)  # what is being written is under a temporary name, so nothing is half there
