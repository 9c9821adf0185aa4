"""What the site needs beside mkdocs: the repository's own pages in it, and examples of docstrings as code."""

import re
from pathlib import Path

import griffe
from mkdocs.plugins import event_priority
from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parent.parent
FILES = {name.lower(): name for name in ("ARCHITECTURE.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md")}


@event_priority(100)  # before the plug-in that turns notebooks into pages
def on_files(files, config):
    """The notebooks as they are committed are pages of the site."""
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        files.append(File(f"notebooks/{path.name}", str(ROOT), config["site_dir"], config["use_directory_urls"]))
    return files


def on_page_markdown(markdown: str, page, **_: object) -> str:
    """A page of `project/` is the file of that name in the root; its links lead from where the page lies."""
    folder, _, name = page.file.src_uri.rpartition("/")
    if folder != "project":
        return markdown
    text = (ROOT / FILES[name]).read_text(encoding="utf-8")
    text = re.sub(r"\]\(docs/", "](../", text)
    return re.sub(r"\]\(([A-Z]+\.md)", lambda found: f"]({found[1].lower()}", text)


class Examples(griffe.Extension):
    """Lines from `>>> ` to the next empty one are an example, wherever they stand in a docstring."""

    def on_instance(self, *, obj: griffe.Object, **_: object) -> None:
        if obj.docstring:
            fenced = r"```pycon\n\g<0>\n```"
            obj.docstring.value = re.sub(r"^>>> .*(?:\n.+)*", fenced, obj.docstring.value, flags=re.M)
