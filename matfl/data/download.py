"""One file from a server or a folder to the disk, going on where an earlier try ended when the server allows that."""

from __future__ import annotations

import http.client
import json
import shutil
import ssl
import stat
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import IO, Any

from tqdm import tqdm

from matfl.core.files import replace_file
from matfl.data.cache import DataError

__all__ = ["BLOCK", "download"]

BLOCK = 2**20
ATTEMPTS = 6
"""Tries in a row that bring nothing new before the download is given up."""
TIMEOUT = 60.0
"""Seconds without a byte after which a connection counts as lost."""
SCHEMES = ("http", "https", "file")


def download(
    url: str,
    path: Path,
    *,
    by_hand: str,
    progress: bool = False,
    pause: float = 1.0,
    say: Callable[[str], object] | None = None,
) -> None:
    """Bring `url` (http, https or file) to `path`, by way of `path`.part and a note of which file that is a part of.

    Args:
        by_hand: what a person can do instead, for messages.
        pause: seconds before the second try after a failure; doubled for each further one.
        say: told in a sentence when bytes that are there already cannot be used and the download begins anew.

    Raises ValueError for an address that cannot be one, DataError when the server or the network fails, and OSError
    when the disk does.
    """
    parts = urllib.parse.urlsplit(url)
    if parts.scheme not in SCHEMES or not (parts.hostname or parts.scheme == "file"):
        raise ValueError(f"url {_printable(url)!r}: expected http://HOST/..., https://HOST/... or file:///...")
    if parts.scheme == "file":
        _copy(Path(urllib.request.url2pathname(parts.path)), path, url)
        return
    part = path.with_name(path.name + ".part")
    failures = 0
    with tqdm(unit="B", unit_scale=True, desc=path.name, disable=not progress, dynamic_ncols=True) as bar:
        while True:
            connection = _Connection(url, part, by_hand, say)
            try:
                if connection.bring(bar):
                    break
                reason = "the connection ended early"
            except urllib.error.HTTPError as error:
                reason = _printable(f"{error.code} {error.reason}")
                if error.code < 500 and error.code not in (408, 429):
                    raise DataError(f"{url} answers {reason}: {by_hand}") from None
            except (
                urllib.error.URLError,
                http.client.HTTPException,
                ssl.SSLError,
                ConnectionError,
                TimeoutError,
            ) as error:
                reason = _printable(str(error) or type(error).__name__)
            failures = 0 if connection.gained else failures + 1
            if failures >= ATTEMPTS:
                raise DataError(
                    f"{url}: the download failed ({reason}); {part.name} keeps {_size(part)} bytes. Fetch "
                    f"again to go on, or {by_hand}"
                )
            time.sleep(pause * 2 ** max(0, failures - 1))
    part.replace(path)
    _note(part).unlink(missing_ok=True)


def _copy(source: Path, path: Path, url: str) -> None:
    try:
        kind = source.stat().st_mode
    except OSError as error:
        raise DataError(f"{url} cannot be read ({error.strerror}): check the path") from None
    if not stat.S_ISREG(kind):
        raise DataError(f"{url} is no file: expected the archive; check the path")
    part = path.with_name(path.name + ".part")
    for left in (part, _note(part)):
        left.unlink(missing_ok=True)
    replace_file(path, partial(shutil.copyfile, source))


def _printable(text: str) -> str:
    """A server's words without what a terminal would act upon."""
    return "".join(c if c.isprintable() else "?" for c in text)[:200]


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _note(part: Path) -> Path:
    return part.with_name(part.name + ".json")


def _read_note(part: Path) -> dict[str, Any]:
    """What `part` is a part of: its url, total bytes and validator; empty when that is not known."""
    try:
        note = json.loads(_note(part).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    known = isinstance(note, dict) and isinstance(note.get("total"), int) and isinstance(note.get("validator"), str)
    return note if known else {}


class _SameKind(urllib.request.HTTPRedirectHandler):
    """Follows redirects to http and https alone, and never from https down to http."""

    def redirect_request(
        self, request: urllib.request.Request, reply: IO[bytes], code: int, reason: str, headers: Any, to: str
    ) -> urllib.request.Request | None:
        before, after = (urllib.parse.urlsplit(url).scheme for url in (request.full_url, to))
        if after not in ("https", before):
            raise DataError(
                f"{request.full_url} redirects to {_printable(to)!r}: not followed, since {after or 'that'} is not as "
                f"safe as {before}; give the right address with --url"
            )
        return super().redirect_request(request, reply, code, reason, headers, to)


class _Connection:
    """One request for what `part` still lacks."""

    def __init__(self, url: str, part: Path, by_hand: str, say: Callable[[str], object] | None) -> None:
        self.url, self.part, self.by_hand, self.say = url, part, by_hand, say
        self.gained = False
        """Whether bytes came that were not there before; those of a server that always begins anew count once."""

    def bring(self, bar: tqdm) -> bool:
        """Append to `part` what the server still has. True when the file is complete."""
        have, note = _size(self.part), _read_note(self.part)
        request = urllib.request.Request(self.url, headers={"User-Agent": "matfl", "Accept-Encoding": "identity"})
        asked = note.get("url") == self.url and 0 < have <= note["total"]
        if asked and have == note["total"]:
            return True
        if asked:
            request.add_header("Range", f"bytes={have}-")
            request.add_header("If-Range", note["validator"])
        with urllib.request.build_opener(_SameKind).open(request, timeout=TIMEOUT) as response:
            if response.headers.get_content_type() == "text/html":
                raise DataError(
                    f"{self.url} answers with a web page instead of the archive (a limit on downloads, or a login): "
                    f"{self.by_hand}"
                )
            resumed = response.status == http.client.PARTIAL_CONTENT
            if resumed and not asked:
                raise DataError(f"{self.url} answers with a part of the file (206) unasked: {self.by_hand}")
            if resumed and response.headers.get("Content-Range") != f"bytes {have}-{note['total'] - 1}/{note['total']}":
                _note(self.part).unlink()  # the server's file is another one by now: begin again
                return False
            if have and not resumed and self.say:
                self.say(
                    f"{self.part.name}: the server cannot go on from the {have} bytes that are there; "
                    "the download begins anew"
                )
            return self._store(response, have if resumed else 0, bar)

    def _store(self, response: Any, start: int, bar: tqdm) -> bool:
        length = response.headers.get("Content-Length", "")
        if length and not (length.isascii() and length.isdigit()):
            raise DataError(f"{self.url} answers with Content-Length {_printable(length)!r}, no number: {self.by_hand}")
        total = start + int(length) if length else None
        etag = response.headers.get("ETag", "")
        validator = etag if etag and not etag.startswith("W/") else response.headers.get("Last-Modified")
        replace_file(_note(self.part), json.dumps({"url": self.url, "total": total, "validator": validator}))
        bar.total, bar.n = total, start
        fresh = not _size(self.part)
        with open(self.part, "r+b" if start else "wb") as file:
            file.seek(start)
            while block := response.read(BLOCK):
                file.write(block)
                bar.update(len(block))
                self.gained = start > 0 or fresh
            return total is None or file.tell() == total
