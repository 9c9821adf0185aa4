"""The docs name what there is: every public name has its place in the API page, links lead somewhere, examples run."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import matfl

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted((ROOT / "docs").rglob("*.md")) + [
    ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md")
]
BLOCK = re.compile(r"^```python\n(.*?)^```", re.M | re.S)


def test_every_public_name_is_on_the_api_page():
    text = (ROOT / "docs" / "api" / "index.md").read_text(encoding="utf-8")
    named = {line.removeprefix("::: ").rpartition(".")[2] for line in text.splitlines() if line.startswith("::: ")}
    assert named == set(matfl.__all__) - {"__version__"}


def test_every_public_name_says_what_it_is():
    for name in matfl.__all__:
        value = getattr(matfl, name)
        if callable(value) or isinstance(value, type):
            assert (value.__doc__ or "").strip(), name


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_relative_links_lead_to_files(page):
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text(encoding="utf-8")):
        if not re.match(r"[a-z]+:", target):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_examples_are_python(page):
    for block in BLOCK.findall(page.read_text(encoding="utf-8")):
        ast.parse(block)


@pytest.mark.parametrize("page", ["tutorials/own_method.md", "tutorials/own_task.md", "tutorials/own_pictures.md"])
def test_tutorials_run_as_written(page, tmp_path):
    blocks = BLOCK.findall((ROOT / "docs" / page).read_text(encoding="utf-8"))
    script = tmp_path / "tutorial.py"  # in a process of its own, whose registries nobody else sees
    script.write_text("\n\n".join(blocks), encoding="utf-8")
    subprocess.run([sys.executable, str(script)], check=True, timeout=300, cwd=tmp_path)
