"""Notebooks as a reader meets them: opened in JupyterLab, all cells run, a slider moved, and the picture changes."""

from __future__ import annotations

import shutil
import time
from typing import Any

import pytest
from browser import chromium, lab, open_notebook, run_all

from matfl.paper.studies.session import notebooks_folder

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """JupyterLab on copies of the notebooks, with a run store of its own."""
    folder = tmp_path_factory.mktemp("lab")
    for notebook in notebooks_folder().glob("*.ipynb"):
        shutil.copy(notebook, folder)
    with lab(folder, MATFL_RUNS=str(folder / ".runs")) as served:
        yield served


@pytest.fixture(scope="module")
def page() -> Any:
    with chromium() as browser:
        yield browser.new_page(viewport={"width": 1400, "height": 1000})


@pytest.mark.parametrize("name", ["how_matfl_decides", "05_grouping_frequency"])
def test_moving_a_slider_changes_the_picture(name: str, address: str, page: Any) -> None:
    open_notebook(page, address, f"{name}.ipynb")
    run_all(page)
    assert page.locator('.jp-OutputArea-output[data-mime-type="application/vnd.jupyter.error"]').count() == 0
    picture = page.locator("img.widget-image, .jupyter-widgets img").first
    picture.scroll_into_view_if_needed()
    before = pixels(picture)
    handle = page.locator(".noUi-handle").first
    handle.focus()
    handle.press("ArrowRight")
    deadline = time.monotonic() + 30
    while pixels(picture) == before:
        assert time.monotonic() < deadline, "the picture stays as it was"
        time.sleep(0.2)


def pixels(picture: Any) -> str:
    """What an image of the page shows, as text."""
    return str(
        picture.evaluate(
            """image => { const canvas = document.createElement('canvas');
            canvas.width = image.naturalWidth; canvas.height = image.naturalHeight;
            canvas.getContext('2d').drawImage(image, 0, 0); return canvas.toDataURL(); }"""
        )
    )


def test_the_index_leads_to_every_notebook(address: str, page: Any) -> None:
    open_notebook(page, address, "index.ipynb")
    run_all(page)
    links = page.locator(".jp-RenderedHTMLCommon a").evaluate_all("found => found.map(a => a.getAttribute('href'))")
    for notebook in notebooks_folder().glob("[0-9h]*.ipynb"):
        assert any(notebook.name in (link or "") for link in links), notebook.name
    assert page.locator(".jp-RenderedHTML img").count() >= 1, "no thumbnail"


def test_a_notebook_without_results_says_what_is_missing_and_trains_nothing(address: str, page: Any) -> None:
    open_notebook(page, address, "04_k_sweep.ipynb")
    page.locator(".jp-CodeCell .cm-content").nth(1).click()
    page.keyboard.press("Control+Home")
    page.keyboard.press("End")
    page.keyboard.press("Control+A")
    page.keyboard.insert_text(parameters("smoke"))
    run_all(page)
    text = page.locator(".jp-Notebook").inner_text()
    assert "results of preset 'smoke' are stored" in text
    assert "Nothing is trained now" in text
    assert "not computed" in text
    assert page.locator('.jp-OutputArea-output[data-mime-type="application/vnd.jupyter.error"]').count() == 0


def parameters(preset: str) -> str:
    """The parameters cell of notebook 04 at another preset."""
    import nbformat

    cells = nbformat.read(notebooks_folder() / "04_k_sweep.ipynb", as_version=4).cells
    (source,) = (cell.source for cell in cells if "parameters" in cell.metadata.get("tags", []))
    first, *rest = source.splitlines()
    return "\n".join([f'preset: str = "{preset}"', *rest]) if first else source
