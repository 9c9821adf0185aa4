"""JupyterLab in a headless Chromium, for tests that look at notebooks as a reader does."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

INSTALL = "pip install 'matfl[dev]' && playwright install --with-deps chromium (or apt-get install chromium)"


@contextmanager
def chromium() -> Iterator[Any]:
    """A headless browser, playwright's own or the system's; the test is skipped where there is none."""
    playwright = pytest.importorskip("playwright.sync_api", reason=f"no playwright: {INSTALL}")
    with playwright.sync_playwright() as started:
        system = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
        try:
            found = started.chromium.launch(executable_path=system, args=["--no-sandbox"])
        except playwright.Error as error:
            pytest.skip(f"no browser ({str(error).splitlines()[0]}): {INSTALL}")
        yield found
        found.close()


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@contextmanager
def lab(folder: Path, **environment: str) -> Iterator[str]:
    """A JupyterLab that serves `folder`; yields its address. Every cell stays in the page, also out of sight."""
    settings = folder / ".settings" / "@jupyterlab" / "notebook-extension"
    settings.mkdir(parents=True)
    (settings / "tracker.jupyterlab-settings").write_text(json.dumps({"windowingMode": "none"}))
    port = _free_port()
    command = [sys.executable, "-m", "jupyterlab", f"--notebook-dir={folder}", "--no-browser", f"--port={port}"]
    command += ["--IdentityProvider.token=", "--ServerApp.disable_check_xsrf=True", "--ServerApp.port_retries=0"]
    command += ["--allow-root"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []
    places = {"JUPYTERLAB_SETTINGS_DIR": str(folder / ".settings"), "IPYTHONDIR": str(folder / ".ipython")}
    with open(folder / ".log", "w") as log:
        server = subprocess.Popen(command, env={**os.environ, **places, **environment}, stdout=log, stderr=log)
        try:
            deadline = time.monotonic() + 120
            while True:
                with socket.socket() as one:
                    if one.connect_ex(("127.0.0.1", port)) == 0:
                        break
                assert server.poll() is None, (folder / ".log").read_text()
                assert time.monotonic() < deadline, "JupyterLab does not answer"
                time.sleep(0.3)
            yield f"http://127.0.0.1:{port}"
        finally:
            server.terminate()
            server.wait(30)


def open_notebook(page: Any, address: str, name: str) -> None:
    """Open a notebook alone in the page and wait until its kernel is idle."""
    page.goto(f"{address}/doc/tree/{name}", timeout=120_000)
    page.locator(".jp-NotebookPanel-notebook .jp-Cell").first.wait_for(timeout=120_000)
    deadline = time.monotonic() + 120
    while not any(
        session["path"] == name and session["kernel"]["execution_state"] == "idle"
        for session in page.request.get(f"{address}/api/sessions").json()
    ):
        assert time.monotonic() < deadline, "the kernel does not start"
        choose_kernel(page)
        time.sleep(0.3)
    time.sleep(1)
    choose_kernel(page)


def choose_kernel(page: Any) -> None:
    """Answer JupyterLab's question for a kernel, which it asks where the kernel is slow to start."""
    button = page.locator(".jp-Dialog .jp-mod-accept")
    if button.count():
        button.first.click()


def run_all(page: Any, *, timeout: float = 300) -> float:
    """Clear the open notebook and run all its cells; the seconds that it took."""
    page.get_by_role("menuitem", name="Edit", exact=True).click()
    page.get_by_role("menuitem", name="Clear Outputs of All Cells", exact=True).click()
    began = time.monotonic()
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
    last = page.locator(".jp-CodeCell .jp-InputArea-prompt").last
    while not re.fullmatch(r"\[\d+\]:", last.inner_text().strip()) or page.get_by_text("[*]:", exact=True).count():
        assert time.monotonic() - began < timeout, "the notebook does not end"
        choose_kernel(page)
        time.sleep(0.2)
    return time.monotonic() - began
