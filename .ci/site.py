"""What the site needs beside mkdocs: the repository's own pages in it, and examples of docstrings as code."""

import logging
import posixpath
import re
from pathlib import Path

import griffe
from mkdocs.plugins import event_priority
from mkdocs.structure.files import File

log = logging.getLogger("mkdocs.hooks.site")
ROOT = Path(__file__).resolve().parent.parent
FILES = {name.lower(): name for name in ("ARCHITECTURE.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md")}


@event_priority(100)  # before the plug-in that turns notebooks into pages
def on_files(files, config):
    """The notebooks as they are committed are pages of the site."""
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        files.append(File(f"notebooks/{path.name}", str(ROOT), config["site_dir"], config["use_directory_urls"]))
    return files


def on_page_markdown(markdown: str, page, **_: object) -> str:
    """A page of `project/` is the file of that name in the root. Links of pages in `docs/` to `../notebooks/` lead to
    `notebooks/`, where the site has them."""
    folder, _, name = page.file.src_uri.rpartition("/")
    if not folder:
        return markdown.replace("](../notebooks/", "](notebooks/")
    if folder != "project":
        return markdown
    text = (ROOT / FILES[name]).read_text(encoding="utf-8")
    text = re.sub(r"\]\(docs/", "](../", text)
    return re.sub(r"\]\(([A-Z]+\.md)", lambda found: f"]({found[1].lower()}", text)


def on_page_content(html: str, page, files, **_: object) -> str:
    """Links between notebooks, and to pages of docs/, lead to where the site has them; one that does not is a warning,
    by which a strict build fails."""
    if not page.file.src_uri.endswith(".ipynb"):
        return html

    def led(found: re.Match[str]) -> str:
        source = posixpath.normpath(f"notebooks/{found[1]}").removeprefix("docs/")
        there = files.get_file_from_path(source)
        if there is None:
            log.warning("%s contains a link '%s', but the site has no page '%s'", page.file.src_uri, found[1], source)
            return found[0]
        return f'href="{there.url_relative_to(page.file)}{found[2] or ""}"'

    return re.sub(r'href="(?!\w+:)([^"#]+\.(?:ipynb|md))(#[^"]*)?"', led, html)


class Examples(griffe.Extension):
    """Lines from `>>> ` to the next empty one are an example, wherever they stand in a docstring."""

    def on_instance(self, *, obj: griffe.Object, **_: object) -> None:
        if obj.docstring:
            fenced = r"```pycon\n\g<0>\n```"
            obj.docstring.value = re.sub(r"^>>> .*(?:\n.+)*", fenced, obj.docstring.value, flags=re.M)
