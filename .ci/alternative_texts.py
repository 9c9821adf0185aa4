"""Hook of the site: pictures of notebooks get the alternative texts of their outputs, which nbconvert drops."""

from __future__ import annotations

import html as escaping
import json
import re
from pathlib import Path
from typing import Any

MISSING = 'alt="No description has been provided for this image"'


def texts_of(notebook: Path) -> list[str]:
    """The alternative text of every PNG among a notebook's outputs, in order; '' where one has none."""
    content = json.loads(notebook.read_text(encoding="utf-8"))
    outputs = [output for cell in content["cells"] for output in cell.get("outputs", [])]
    pictures = [output for output in outputs if "image/png" in output.get("data", {})]
    return [output.get("metadata", {}).get("image/png", {}).get("alt", "") for output in pictures]


def described(page: str, texts: list[str]) -> str:
    """The page with its pictures described; as it is where it has another number of them than the notebook."""
    if page.count(MISSING) != len(texts):
        return page
    remaining = iter(texts)
    return re.sub(re.escape(MISSING), lambda _: f'alt="{escaping.escape(next(remaining))}"', page)


def on_page_content(html: str, *, page: Any, **_: Any) -> str:
    """Called by mkdocs for every page."""
    source = Path(page.file.abs_src_path)
    return described(html, texts_of(source)) if source.suffix == ".ipynb" else html
