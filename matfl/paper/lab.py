"""`matfl lab`: JupyterLab on the index of the notebooks, from a checkout or from an installed package."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from matfl.core.extras import require
from matfl.core.files import digest, replace_file
from matfl.paper.studies.session import check_writable, notebooks_folder
from matfl.runs.workspace import checkout

__all__ = ["Copied", "command", "copy_notebooks", "open_lab"]

FOLDER = "matfl-notebooks"
"""Where an installed package's notebooks are copied to, in the current folder."""

MARKS = ".copied.json"
"""In it: checksums of what was copied, by which a changed notebook is known."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Copied:
    """What became of each notebook."""

    written: tuple[str, ...] = ()
    """New ones, and untouched copies of an older version."""
    kept: tuple[str, ...] = ()
    """Changed ones, which stay as they are though the package's differ."""


def copy_notebooks(folder: Path, source: Path | None = None) -> Copied:
    """Copy the package's notebooks to `folder`; what was changed there is never overwritten.

    Raises RunError where the folder cannot be written.
    """
    check_writable(folder, "choose another folder")
    marks_file = folder / MARKS
    marks: dict[str, str] = json.loads(marks_file.read_text(encoding="utf-8")) if marks_file.exists() else {}
    written, kept = [], []
    for notebook in sorted((source or notebooks_folder()).glob("*.ipynb")):
        content, target = notebook.read_bytes(), folder / notebook.name
        there = digest(target.read_bytes()) if target.exists() else None
        if there == digest(content):
            marks[notebook.name] = there
        elif there is None or there == marks.get(notebook.name):
            replace_file(target, content)
            marks[notebook.name] = digest(content)
            written.append(notebook.name)
        else:
            kept.append(notebook.name)
    replace_file(marks_file, json.dumps(marks, indent=1, sort_keys=True) + "\n")
    return Copied(written=tuple(written), kept=tuple(kept))


def command(folder: Path, *, browser: bool = True, port: int | None = None) -> list[str]:
    """The command that opens JupyterLab on the index of the notebooks in `folder`.

    JupyterLab runs in the folder itself. Without a browser it serves this machine and prints its address with a token.
    """
    options: Sequence[str] = [] if browser else ["--no-browser"]
    place = [f"--port={port}"] if port else []
    return [
        sys.executable,
        "-m",
        "jupyterlab",
        f"--notebook-dir={folder}",
        *options,
        *place,
        str(folder / "index.ipynb"),
    ]


def open_lab(folder: str | Path | None = None, *, browser: bool = True, port: int | None = None) -> int:
    """Open JupyterLab on the index and wait for its end; its exit code.

    Args:
        folder: of the notebooks. Default: the checkout's own, or copies of the package's in `./matfl-notebooks`.
        browser: False for servers.
        port: default JupyterLab's, 8888 or the next one that is free.

    Raises MissingExtra without JupyterLab, RunError where the folder cannot be written.
    """
    require("jupyterlab", extra="paper", what="`matfl lab`")
    if folder is None and checkout():
        target = notebooks_folder()
    else:
        target = Path(folder or FOLDER).expanduser().resolve()
        copied = copy_notebooks(target)
        print(f"notebooks in {target}: {len(copied.written)} written", file=sys.stderr)
        for name in copied.kept:
            print(f"  {name} was changed and stays; remove it to have the package's", file=sys.stderr)
    return subprocess.run(command(target, browser=browser, port=port), check=False).returncode
