"""Notebook kernels that begin with the package imported: each is a fork of one process that imported it.

A notebook drawn from stored results spends more time on its imports than on its figures. `ForkedKernels` is the kernel
manager that papermill and nbclient are given for it (Linux; elsewhere forking a process with this many libraries is not
safe, and kernels start as usual).
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import tempfile
import threading
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from jupyter_client.manager import AsyncKernelManager
from jupyter_client.provisioning.local_provisioner import LocalProvisioner

__all__ = ["ForkedKernels", "options"]

_IMPORTED = [
    "ipykernel.kernelapp",
    "ipywidgets",
    "joblib.externals.loky",  # a fork takes over its owner's way to start processes, which for joblib's workers is this
    "matplotlib_inline.backend_inline",
    "matfl.paper.plots",
    "matfl.paper.studies",
]


def options() -> dict[str, Any]:
    """What to give `papermill.execute_notebook`, so that notebooks executed by this process share their imports."""
    return {"kernel_manager_class": ForkedKernels} if sys.platform == "linux" else {}


def _serve(arguments: Sequence[str], environment: Mapping[str, str], folder: str | None) -> None:
    """Be a kernel, in the forked process. It ends with the process that asked for it, also when that is killed."""
    import pandas as pd
    from ipykernel.kernelapp import IPKernelApp

    pd.set_option("display.max_columns", 20)  # as in any notebook: imported outside of one, pandas counts a terminal's
    threading.Thread(target=_end_with_owner, daemon=True).start()
    os.environ.clear()
    os.environ.update(environment)
    if folder:
        os.chdir(folder)
    IPKernelApp.launch_instance([*arguments, f"--IPKernelApp.parent_handle={os.getppid()}"])


def _end_with_owner() -> None:
    """The server that forks stays as long as any fork of it, so a kernel has to watch the process that asked for it."""
    owner = multiprocessing.parent_process()
    assert owner is not None
    owner.join()
    os._exit(1)


class _Process:
    """A process of `multiprocessing` with the methods of `subprocess.Popen` that a provisioner calls."""

    stdin = stdout = stderr = None

    def __init__(self, process: multiprocessing.process.BaseProcess) -> None:
        self.process, self.pid = process, process.pid
        self.kill, self.terminate, self.poll = process.kill, process.terminate, lambda: process.exitcode

    def wait(self) -> int | None:
        """Its exit status, once it has ended."""
        self.process.join()
        return self.process.exitcode

    def send_signal(self, number: int) -> None:
        """Send it a signal, if it has not ended. No interrupt: one comes before each shutdown and would be logged."""
        if number != signal.SIGINT and self.pid is not None and self.poll() is None:
            os.kill(self.pid, number)


class _Forked(LocalProvisioner):
    """Starts kernels by forking a server process, which is started with the first of them."""

    async def launch_kernel(self, cmd: list[str], **kwargs: Any) -> Any:
        """Fork the kernel whose usual command line is `cmd` ("python -m ipykernel_launcher -f FILE ...")."""
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(_IMPORTED)
        process = context.Process(
            target=_serve, args=(cmd[cmd.index("-f") :], dict(kwargs.get("env") or os.environ), kwargs.get("cwd"))
        )
        process.start()
        self.process = _Process(process)  # type: ignore[assignment]  # all that is called of a Popen
        self.pid = process.pid
        return self.connection_info


class ForkedKernels(AsyncKernelManager):
    """Manages one kernel that is a fork of this process' server of kernels."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.kernel_id = str(uuid.uuid4())
        self.transport = "ipc"  # of two kernels that start together, one may take a port that the other has picked
        self.connection_file = os.path.join(tempfile.gettempdir(), f"{self.kernel_id}.json")
        self.provisioner = _Forked(kernel_id=self.kernel_id, kernel_spec=self.kernel_spec, parent=self)
