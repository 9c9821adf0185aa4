"""Downloading and extracting the published archives."""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import shutil
import ssl
import tarfile
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
import zlib
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath

from tqdm import tqdm

from matfl.data.cache import DataError, locked
from matfl.data.layouts import ARCHIVES, FOLDERS, Archive, open_layout

__all__ = ["Fetched", "fetch"]

BLOCK = 2**20
ATTEMPTS = 6
"""Tries in a row that bring no byte before the download is given up."""
TIMEOUT = 60.0
"""Seconds without a byte after which a connection counts as lost."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Fetched:
    """A record of what was fetched; kept beside the archive as `<archive>.json`."""

    url: str
    archive: str
    """File name of the archive."""
    bytes: int
    sha256: str
    folder: str
    """Name of the folder that it became."""


def fetch(
    name: str,
    folder: str | Path,
    *,
    url: str | None = None,
    sha256: str | None = None,
    progress: bool = False,
    pause: float = 1.0,
) -> Fetched:
    """Download the archive of layout 'pascal' or 'nyud' into `folder` and extract it to PASCAL_MT/ or NYUD_MT/.

    A download that was cut off goes on where it ended, unless the server's file has changed. An archive that a person
    has put into `folder` is used as it is. The data set's folder appears when it is whole, by one rename.

    Args:
        url: a mirror; default: the published address.
        sha256: refuse an archive with another checksum. The publishers give none; the one found is recorded.
        pause: seconds before the second try after a failure; doubled for each further one.

    Raises DataError when the network, the archive or the disk fails; nothing half-made is left in the final place.
    """
    if name not in ARCHIVES:
        raise ValueError(f"unknown data set {name!r}: choose from {', '.join(ARCHIVES)}")
    if not hasattr(tarfile, "data_filter"):
        raise DataError("this Python extracts archives unsafely: use 3.11.4 or later, or extract the archive yourself")
    archive, base = ARCHIVES[name], Path(folder).expanduser()
    target, record_file = base / FOLDERS[name][0], base / f"{archive.file}.json"
    try:
        base.mkdir(parents=True, exist_ok=True)
        with locked(base / f".{archive.file}.lock", wait=False):
            if target.exists():
                return _already(target, record_file)
            path = base / archive.file
            if not path.exists():
                _download(url or archive.url, path, archive, progress=progress, pause=pause)
            record = Fetched(
                url=url or archive.url,
                archive=archive.file,
                bytes=path.stat().st_size,
                sha256=_digest(path),
                folder=target.name,
            )
            if sha256 and record.sha256 != sha256.lower():
                raise DataError(
                    f"{path} has SHA-256 {record.sha256}, expected {sha256}: it is damaged or another "
                    "archive; remove it and fetch again"
                )
            _write(record_file, json.dumps(asdict(record), indent=2) + "\n")
            _extract(path, target, name, progress=progress)
            return record
    except BlockingIOError:
        raise DataError(f"{base}: another process is fetching {archive.file} here; wait for it") from None
    except OSError as error:
        raise DataError(
            f"{base}: cannot write ({error}); free space or choose another folder, and fetch again: the "
            "download goes on where it ended"
        ) from error


def _already(target: Path, record_file: Path) -> Fetched:
    try:
        return Fetched(**json.loads(record_file.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        raise DataError(
            f"{target} is there already and was not fetched here: `matfl data check {target}` tests it; "
            "remove it to fetch it anew"
        ) from None


def _write(path: Path, text: str) -> None:
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


def _digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _download(url: str, path: Path, archive: Archive, *, progress: bool, pause: float) -> None:
    """Bring `url` to `path`, by way of `path`.part and a note of which file that is a part of."""
    if urllib.parse.urlsplit(url).scheme not in ("http", "https"):
        raise ValueError(f"url {url!r}: expected http:// or https://")
    part = path.with_name(path.name + ".part")
    failures = 0
    with tqdm(unit="B", unit_scale=True, desc=path.name, disable=not progress, dynamic_ncols=True) as bar:
        while True:
            before = _size(part)
            try:
                if _continue(url, part, archive, bar):
                    break
                reason: object = "the connection ended early"
            except urllib.error.HTTPError as error:
                if error.code < 500 and error.code not in (408, 429):
                    raise DataError(f"{url} answers {error.code} {error.reason}: {_by_hand(archive, path)}") from None
                reason = f"{error.code} {error.reason}"
            except (
                urllib.error.URLError,
                http.client.HTTPException,
                ssl.SSLError,
                ConnectionError,
                TimeoutError,
            ) as error:
                reason = error
            failures = 0 if _size(part) > before else failures + 1
            if failures >= ATTEMPTS:
                raise DataError(
                    f"{url}: the download failed ({reason}); {part.name} keeps {_size(part)} bytes. Fetch "
                    f"again to go on, or {_by_hand(archive, path)}"
                )
            time.sleep(pause * 2 ** max(0, failures - 1))
    part.replace(path)
    _note(part).unlink(missing_ok=True)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _by_hand(archive: Archive, path: Path) -> str:
    return f"download {archive.page} with a browser, save it as {path} and fetch again"


def _note(part: Path) -> Path:
    return part.with_name(part.name + ".json")


def _continue(url: str, part: Path, archive: Archive, bar: tqdm) -> bool:
    """One connection: append to `part` what the server still has. True when the file is complete."""
    have = _size(part)
    try:
        note = json.loads(_note(part).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        note = {}
    request = urllib.request.Request(url, headers={"User-Agent": "matfl", "Accept-Encoding": "identity"})
    if note.get("url") == url and note.get("validator") and 0 < have <= (note.get("total") or 0):
        if have == note["total"]:
            return True
        request.add_header("Range", f"bytes={have}-")
        request.add_header("If-Range", note["validator"])
    with urllib.request.urlopen(request, timeout=TIMEOUT) as response:
        if response.headers.get_content_type() == "text/html":
            raise DataError(
                f"{url} answers with a web page instead of the archive (a limit on downloads, or a login): "
                f"{_by_hand(archive, part.with_suffix(''))}"
            )
        resumed = response.status == http.client.PARTIAL_CONTENT
        if resumed and response.headers.get("Content-Range") != f"bytes {have}-{note['total'] - 1}/{note['total']}":
            _note(part).unlink()  # the server's file is another one by now: begin again
            return False
        start = have if resumed else 0
        length = response.headers.get("Content-Length")
        total = start + int(length) if length else None
        etag = response.headers.get("ETag", "")
        validator = etag if etag and not etag.startswith("W/") else response.headers.get("Last-Modified")
        _write(_note(part), json.dumps({"url": url, "total": total, "validator": validator}))
        bar.total, bar.n = total, start
        with open(part, "r+b" if resumed else "wb") as file:
            file.seek(start)
            while block := response.read(BLOCK):
                file.write(block)
                bar.update(len(block))
            return total is None or file.tell() == total


def _extract(path: Path, target: Path, name: str, *, progress: bool) -> None:
    """Extract under a temporary name, see that it is the expected layout, and rename."""
    for stale in target.parent.glob(f".{target.name}.extract-*"):
        shutil.rmtree(stale)
    temporary = target.with_name(f".{target.name}.extract-{uuid.uuid4().hex}")
    temporary.mkdir()
    try:
        try:
            with (
                tarfile.open(path, "r:gz") as tar,
                tqdm(desc=f"extracting {path.name}", unit="file", disable=not progress, dynamic_ncols=True) as bar,
            ):
                for member in tar:
                    _refuse(path, member)
                    tar.extract(member, temporary, filter="data")
                    bar.update()
                while tar.fileobj and tar.fileobj.read(BLOCK):  # up to gzip's checksum
                    pass
        except tarfile.FilterError as error:
            raise DataError(
                f"{path}: refused to extract ({error}); remove the archive and fetch it from its publisher"
            ) from None
        except (tarfile.TarError, EOFError, zlib.error, OSError) as error:
            if isinstance(error, OSError) and error.errno:
                raise
            raise DataError(f"{path} is damaged ({error}): remove it and fetch again") from None
        folders = [entry for entry in temporary.iterdir() if entry.is_dir()]
        layout = open_layout(folders[0] if len(folders) == 1 else temporary, name)
        for split_name in ("train", "val"):
            layout.ids(split_name)
        os.sync()
        layout.root.rename(target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _refuse(path: Path, member: tarfile.TarInfo) -> None:
    name = PurePosixPath(member.name)
    if name.is_absolute() or ".." in name.parts:
        reason = "lies outside the folder"
    elif member.issym() or member.islnk():
        reason = "is a link"
    elif not (member.isfile() or member.isdir()):
        reason = "is neither file nor folder"
    else:
        return
    raise DataError(
        f"{path}: {member.name!r} {reason}: refused to extract; remove the archive and fetch it from its publisher"
    )
