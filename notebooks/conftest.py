"""nbval: what is written to stderr (progress, warnings) is not compared; a notebook without outputs has none to check."""

import json
from pathlib import Path


def _executed(notebook: Path) -> bool:
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    return any(cell.get("outputs") for cell in cells)


collect_ignore = [path.name for path in Path(__file__).parent.glob("*.ipynb") if not _executed(path)]


def pytest_collectstart(collector):
    if hasattr(collector, "skip_compare"):
        collector.skip_compare += ("stderr",)
