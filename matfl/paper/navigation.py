"""What every notebook has besides its study: links, a cell that installs what is missing, exercises at its end.

`python -m matfl.paper.navigation` writes these cells anew into the notebooks of the checkout; a test holds them to it.
"""

from __future__ import annotations

import ast
import tomllib
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from matfl.paper.exercises import EXERCISES, exercise_text
from matfl.paper.studies.session import notebooks_folder
from matfl.runs.workspace import checkout

if TYPE_CHECKING:
    import nbformat

__all__ = ["API", "READING", "header", "install_code", "refresh", "repository", "with_cells"]

READING: Mapping[str, str] = {
    "index": "Index: every claim of the paper and its verdict",
    "how_matfl_decides": "How MaT-FL decides, by hand",
    "00_benchmark": "The benchmark",
    "01_update_tsne": "Figure 2: directions of updates",
    "02_methods": "Table 1: the methods",
    "03_clients_per_task": "Table 2: more clients",
    "04_k_sweep": "Figure 4: how many friends",
    "05_grouping_frequency": "Figure 5: who chose whom",
    "06_layer_voting": "Figure 6: layers' votes",
    "07_cost_and_scale": "Cost and scale",
    "08_server_step": "The server's step",
    "09_why": "Why it comes out so",
    "10_scale_privacy_attacks": "Many, private and hostile clients",
    "11_our_best": "Methods of our own",
}
"""Notebook -> its short title, in the order in which they are read."""

API: Mapping[str, tuple[str, ...]] = {
    "index": ("matfl.paper.studies.scorecard",),
    "how_matfl_decides": (
        "matfl.paper.studies.how_matfl_decides",
        "matfl.server.grouping.votes",
        "matfl.server.grouping.friends",
    ),
    "00_benchmark": ("matfl.paper.studies.benchmark",),
    "01_update_tsne": ("matfl.paper.studies.update_tsne",),
    "02_methods": ("matfl.paper.studies.methods",),
    "03_clients_per_task": ("matfl.paper.studies.clients_per_task",),
    "04_k_sweep": ("matfl.paper.studies.k_sweep",),
    "05_grouping_frequency": ("matfl.paper.studies.grouping_frequency",),
    "06_layer_voting": ("matfl.paper.studies.layer_voting",),
    "07_cost_and_scale": ("matfl.paper.studies.cost_and_scale",),
    "08_server_step": ("matfl.paper.studies.server_step",),
    "09_why": ("matfl.paper.studies.why",),
    "10_scale_privacy_attacks": ("matfl.paper.studies.scale_privacy_attacks",),
    "11_our_best": ("matfl.paper.studies.our_best",),
}
"""Notebook -> what it calls, besides `matfl.paper.plots` and `matfl.paper.studies.session`."""

API_PAGE = "../docs/api/studies.md"
"""Where these are documented, seen from the notebooks."""

NAVIGATION, INSTALL, EXERCISE = "navigation", "install", "exercises"
"""Ids of the cells."""


def repository() -> str:
    """The address of the repository from the project's URLs ('Repository' or 'Source'), or ''."""
    return _address("repository", "source")


def api_link(name: str, site: str | None = None) -> str:
    """Where a name is documented: on the site (the project's URL 'Documentation'), else in the checkout."""
    site = _address("documentation") if site is None else site
    return f"{site}/api/studies/#{name}" if site else API_PAGE


def _address(*names: str) -> str:
    """The first of the project's URLs with one of these names, without a slash at its end, or ''."""
    root = checkout()
    if root:
        project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        urls = {name.lower(): url for name, url in project.get("urls", {}).items()}
    else:
        try:
            listed = metadata("matfl").get_all("Project-URL") or []
        except PackageNotFoundError:
            listed = []
        urls = {name.strip().lower(): url.strip() for name, _, url in (entry.partition(",") for entry in listed)}
    return next((urls[name].rstrip("/") for name in names if name in urls), "")


def badges(study: str, address: str) -> str:
    """Badges that open the notebook on Colab, Binder and nbviewer; '' for a repository that is not on GitHub."""
    host, _, name = address.removeprefix("https://").partition("/")
    if host != "github.com" or not name:
        return ""
    path = f"notebooks/{study}.ipynb"
    opened = {
        "Open in Colab": (
            "https://colab.research.google.com/assets/colab-badge.svg",
            f"https://colab.research.google.com/github/{name}/blob/main/{path}",
        ),
        "Binder": ("https://mybinder.org/badge_logo.svg", f"https://mybinder.org/v2/gh/{name}/main?labpath={path}"),
        "nbviewer": (
            "https://raw.githubusercontent.com/jupyter/design/main/logos/Badges/nbviewer_badge.svg",
            f"https://nbviewer.org/github/{name}/blob/main/{path}",
        ),
    }
    return " ".join(f"[![{title}]({image})]({link})" for title, (image, link) in opened.items())


def header(study: str, address: str | None = None) -> str:
    """Links of a notebook: back to the index, to the one before and after it, to the API page; badges if they can be.

    `address` is the repository's, default `repository()`.
    """
    names = list(READING)
    place = names.index(study)
    links = [] if study == "index" else ["[Index](index.ipynb)"]
    if place > 1:
        links.append(f"before: [{READING[names[place - 1]]}]({names[place - 1]}.ipynb)")
    if place + 1 < len(names):
        links.append(f"next: [{READING[names[place + 1]]}]({names[place + 1]}.ipynb)")
    links.append(f"calls {', '.join(f'[`{name}`]({api_link(name)})' for name in API[study])}")
    opened = badges(study, repository() if address is None else address)
    return " · ".join(links) + (f"\n\n{opened}" if opened else "")


def install_code(address: str | None = None) -> str:
    """A cell that installs the package where it is missing; records come with it."""
    address = repository() if address is None else address
    source = f"matfl[paper] @ git+{address}" if address else "matfl[paper]"
    return (
        "from importlib.util import find_spec\n\n"
        'if find_spec("matfl") is None:  # a fresh machine, Colab say: the records come with the package\n'
        f'    get_ipython().run_line_magic("pip", "install --quiet \'{source}\'")'
    )


def with_cells(notebook: nbformat.NotebookNode, study: str, address: str | None = None) -> nbformat.NotebookNode:
    """The notebook with these cells as they should be: links and installation after its title, exercises at the end."""
    from nbformat.v4 import new_code_cell, new_markdown_cell

    old = {cell.id: cell for cell in notebook.cells if cell.id in (NAVIGATION, INSTALL, EXERCISE)}
    others = [cell for cell in notebook.cells if cell.id not in old]

    def cell(name: str, make: Any, source: str) -> Any:
        found = old.get(name) or make(source, id=name)
        found.source = source
        return found

    first = [
        cell(NAVIGATION, new_markdown_cell, header(study, address)),
        cell(INSTALL, new_code_cell, install_code(address)),
    ]
    last = [cell(EXERCISE, new_markdown_cell, exercise_text(study, _preset(others)))] if EXERCISES.get(study) else []
    notebook.cells = [others[0], *first, *others[1:], *last]
    return notebook


def _preset(cells: Sequence[Any]) -> str:
    """What the notebook is drawn at: the default of its parameter `preset`."""
    (parameters,) = (cell for cell in cells if "parameters" in cell.metadata.get("tags", []))
    lines = [line for line in ast.parse(parameters.source).body if isinstance(line, ast.AnnAssign)]
    return str({ast.unparse(line.target): ast.literal_eval(line.value) for line in lines if line.value}["preset"])


def refresh(folder: Path | None = None) -> list[Path]:
    """Write the cells anew into every notebook of `folder` (default: the checkout's); those that changed."""
    import nbformat

    changed = []
    for study in READING:
        path = (folder or notebooks_folder()) / f"{study}.ipynb"
        notebook = with_cells(nbformat.read(path, as_version=4), study)
        if notebook != nbformat.read(path, as_version=4):
            nbformat.write(notebook, path)
            changed.append(path)
    return changed


if __name__ == "__main__":
    for written in refresh():
        print(written)
