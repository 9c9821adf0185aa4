"""The docs name what there is: every public name has its place in the API page, links lead somewhere, examples run."""

import ast
import json
import re
from pathlib import Path

import pytest
from small import small_place

import matfl

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted((ROOT / "docs").rglob("*.md")) + [
    ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md")
]
BLOCK = re.compile(r"^```python\n(.*?)^```", re.M | re.S)
LINK = re.compile(r"\]\(([^)#\s]+)[^)]*\)")


def whole(page: Path) -> str:
    """A page's text with the parts of README that it takes in."""
    text = page.read_text(encoding="utf-8")
    for name in re.findall(r'^--8<-- "README.md:(.*)"$', text, re.M):
        readme = (ROOT / "README.md").read_text(encoding="utf-8")
        part = readme.partition(f"[start:{name}]")[2].partition(f"[end:{name}]")[0]
        text = text.replace(f'--8<-- "README.md:{name}"', part)
    return text


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
    for target in LINK.findall(page.read_text(encoding="utf-8")):
        if not re.match(r"[a-z]+:", target):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_examples_are_python(page):
    for block in BLOCK.findall(page.read_text(encoding="utf-8")):
        ast.parse(block)


@pytest.fixture
def place(tmp_path):
    with small_place(tmp_path) as folder:
        yield folder


PROGRAMS = [page for page in PAGES if BLOCK.search(whole(page))]


@pytest.mark.parametrize("page", PROGRAMS, ids=lambda page: str(page.relative_to(ROOT)))
def test_pages_run_as_written(page, place):
    """All code of a page, one block after the other, with every preset a run of a second."""
    exec("\n\n".join(BLOCK.findall(whole(page))), {"__name__": "__main__"})


def test_the_site_has_every_page():
    """A page that the navigation leaves out cannot be found; a name that it has and no file would break the build."""
    navigation = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").partition("\nnav:")[2]
    pages = [page.relative_to(ROOT / "docs") for page in (ROOT / "docs").rglob("*.md")]
    pages += [path.relative_to(ROOT) for path in (ROOT / "notebooks").glob("*.ipynb")]
    assert set(re.findall(r"[\w/]+\.(?:md|ipynb)", navigation)) == {page.as_posix() for page in pages}


def test_links_in_notebooks_lead_to_files():
    for path in (ROOT / "notebooks").glob("*.ipynb"):
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        text = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
        for target in LINK.findall(text):
            assert re.match(r"[a-z]+:", target) or (path.parent / target).exists(), f"{path.name}: {target}"


def test_anchors_of_links_are_headings():
    """In what is read on the forge; mkdocs checks those of the site."""
    for page in PAGES:
        for target, anchor in re.findall(r"\]\(([^)#\s]*)#([^)\s]+)\)", page.read_text(encoding="utf-8")):
            if not re.match(r"[a-z]+:", target):
                there = (page.parent / target if target else page).read_text(encoding="utf-8")
                headings = [re.sub(r"[^\w -]", "", line).strip() for line in re.findall(r"^#+ (.*)$", there, re.M)]
                assert anchor in {heading.lower().replace(" ", "-") for heading in headings}, f"{page}: #{anchor}"
