"""Downloads from a local server that cuts connections, changes its mind and serves malicious archives."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import signal
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import real_layouts as files
from archive_server import Server, serving

from matfl.data import DataError, check, fetch


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    with serving(monkeypatch) as running:
        yield running


def pack(root: Path) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        tar.add(root, root.name)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    root = tmp_path_factory.mktemp("archive") / "NYUD_MT"
    for split in ("train", "val"):
        files.write_nyud(root, [(40, 48)] * 2, split=split)
    return pack(root)


def get(server: Server, folder: Path, name: str = "nyud", **more: object):  # type: ignore[no-untyped-def]
    return fetch(name, folder, url=server.url, pause=0.01, **more)  # type: ignore[arg-type]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if not path.name.endswith(".lock"))


def test_download_record_and_extraction(server: Server, archive: bytes, tmp_path: Path) -> None:
    server.body = archive
    record = get(server, tmp_path / "new" / "data", progress=True)
    folder = tmp_path / "new" / "data"
    assert record.sha256 == hashlib.sha256(archive).hexdigest()
    assert record.bytes == len(archive)
    assert json.loads((folder / "NYUD_MT.tgz.json").read_text())["sha256"] == record.sha256
    assert names(folder) == ["NYUD_MT", "NYUD_MT.tgz", "NYUD_MT.tgz.json"]
    assert check(folder).ok
    assert get(server, folder) == record
    assert server.requests == [None]  # there already: nothing is asked for


def test_cut_connections_are_continued(server: Server, archive: bytes, tmp_path: Path) -> None:
    server.body, server.cut = archive, len(archive) // 4
    assert get(server, tmp_path).sha256 == hashlib.sha256(archive).hexdigest()
    step = len(archive) // 4
    assert server.requests[:4] == [None, f"bytes={step}-", f"bytes={2 * step}-", f"bytes={3 * step}-"]


def test_a_later_call_goes_on(server: Server, archive: bytes, tmp_path: Path) -> None:
    server.body, server.cut = archive, 1000
    server.cut = 0
    (tmp_path / "NYUD_MT.tgz.part").write_bytes(archive[:1000])
    note = {"url": server.url, "total": len(archive), "validator": '"one"'}
    (tmp_path / "NYUD_MT.tgz.part.json").write_text(json.dumps(note))
    with pytest.raises(
        DataError, match=r"download failed \(the connection ended early\); NYUD_MT.tgz.part keeps 1000 "
    ):
        get(server, tmp_path)
    assert server.requests == ["bytes=1000-"] * 6
    assert names(tmp_path) == ["NYUD_MT.tgz.part", "NYUD_MT.tgz.part.json"]
    server.cut = None
    assert get(server, tmp_path).sha256 == hashlib.sha256(archive).hexdigest()
    assert server.requests[6:] == ["bytes=1000-"]


@pytest.mark.parametrize("change", ["etag", "no ranges", "no validator", "other url", "too long", "broken note"])
def test_what_cannot_be_continued_begins_again(server: Server, archive: bytes, tmp_path: Path, change: str) -> None:
    server.body = archive
    (tmp_path / "NYUD_MT.tgz.part").write_bytes(b"x" * (len(archive) + 5 if change == "too long" else 1000))
    note = {"url": server.url, "total": len(archive), "validator": '"one"'}
    if change == "etag":
        server.etag = '"two"'
    elif change == "no ranges":
        server.ranges = False
    elif change == "no validator":
        note["validator"] = None
    elif change == "other url":
        note["url"] = "http://elsewhere/"
    (tmp_path / "NYUD_MT.tgz.part.json").write_text("{" if change == "broken note" else json.dumps(note))
    assert get(server, tmp_path).sha256 == hashlib.sha256(archive).hexdigest()


def test_a_part_of_another_length_begins_again(server: Server, archive: bytes, tmp_path: Path) -> None:
    server.body = archive  # the validator is the same, but the length by now is another
    (tmp_path / "NYUD_MT.tgz.part").write_bytes(b"x" * 1000)
    note = {"url": server.url, "total": len(archive) - 7, "validator": '"one"'}
    (tmp_path / "NYUD_MT.tgz.part.json").write_text(json.dumps(note))
    assert get(server, tmp_path).sha256 == hashlib.sha256(archive).hexdigest()
    assert server.requests == ["bytes=1000-", None]


def test_refusals_of_the_server(server: Server, tmp_path: Path) -> None:
    server.status = 404
    with pytest.raises(DataError, match=r"answers 404 .*with a browser, save it as .*NYUD_MT.tgz and fetch again"):
        get(server, tmp_path)
    server.status, server.kind, server.body = 200, "text/html; charset=utf-8", b"<html>quota exceeded</html>"
    with pytest.raises(DataError, match=r"answers with a web page .*browser, save it as .*NYUD_MT.tgz and fetch again"):
        get(server, tmp_path)
    server.status = 503
    with pytest.raises(DataError, match=r"the download failed .503"):
        get(server, tmp_path)
    assert len(server.requests) == 1 + 1 + 6
    assert names(tmp_path) == []
    server.shutdown()
    server.server_close()
    with pytest.raises(DataError, match=r"the download failed .*refused"):
        get(server, tmp_path)


def test_bad_arguments(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="unknown data set 'imagenet': choose from pascal, nyud, nyuv2, people"):
        fetch("imagenet", tmp_path)
    for url in ("ftp://host/archive.tgz", "http://", "https:///archive.tgz", "archive.tgz"):
        with pytest.raises(ValueError, match="expected http://HOST"):
            fetch("nyud", tmp_path, url=url)
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="cannot write"):
        fetch("nyud", tmp_path / "file", url="http://127.0.0.1:9/")


def test_a_python_without_the_data_filter_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(tarfile, "data_filter")
    with pytest.raises(DataError, match=r"use 3\.11\.4 or later"):
        fetch("nyud", tmp_path)


def test_an_archive_put_there_by_hand_is_used(archive: bytes, tmp_path: Path) -> None:
    (tmp_path / "NYUD_MT.tgz").write_bytes(archive)
    assert fetch("nyud", tmp_path, url="http://127.0.0.1:9/").bytes == len(archive)
    assert check(tmp_path).ok


def test_the_checksum_is_compared_if_given(server: Server, archive: bytes, tmp_path: Path) -> None:
    server.body = archive
    with pytest.raises(DataError, match=r"has SHA-256 .*expected 00: it is damaged or another"):
        get(server, tmp_path, sha256="00")
    assert names(tmp_path) == ["NYUD_MT.tgz"]
    get(server, tmp_path, sha256=hashlib.sha256(archive).hexdigest().upper())


def test_a_folder_that_is_there_is_left_alone(server: Server, tmp_path: Path) -> None:
    (tmp_path / "NYUD_MT").mkdir()
    with pytest.raises(DataError, match=r"NYUD_MT is there already and was not fetched here: `matfl data check"):
        get(server, tmp_path)
    assert server.requests == []


def test_two_at_once_are_refused(tmp_path: Path) -> None:
    from matfl.data.cache import locked

    with locked(tmp_path / ".NYUD_MT.tgz.lock"), pytest.raises(DataError, match="another process is fetching"):
        fetch("nyud", tmp_path, url="http://127.0.0.1:9/")


def malicious(kind: str) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        good = tarfile.TarInfo("NYUD_MT/gt_sets/train.txt")
        good.size = 5
        tar.addfile(good, io.BytesIO(b"0001\n"))
        member = tarfile.TarInfo("NYUD_MT/bad")
        if kind == "parent":
            member.name = "NYUD_MT/../../evil"
        elif kind == "absolute":
            member.name = "/tmp/matfl-evil"
        elif kind == "symbolic link":
            member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
        elif kind == "inner symbolic link":
            member.type, member.linkname = tarfile.SYMTYPE, "gt_sets/train.txt"
        elif kind == "hard link":
            member.type, member.linkname = tarfile.LNKTYPE, "NYUD_MT/gt_sets/train.txt"
        elif kind == "device":
            member.type = tarfile.CHRTYPE
        else:
            member.type = tarfile.FIFOTYPE
        tar.addfile(member)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "kind, message",
    [
        ("parent", "'NYUD_MT/../../evil' lies outside the folder"),
        ("absolute", "'/tmp/matfl-evil' lies outside the folder"),
        ("symbolic link", "'NYUD_MT/bad' is a link"),
        ("inner symbolic link", "'NYUD_MT/bad' is a link"),
        ("hard link", "'NYUD_MT/bad' is a link"),
        ("device", "'NYUD_MT/bad' is neither file nor folder"),
        ("pipe", "'NYUD_MT/bad' is neither file nor folder"),
    ],
)
def test_malicious_archives_leave_nothing(server: Server, tmp_path: Path, kind: str, message: str) -> None:
    server.body = malicious(kind)
    base = tmp_path / "deep" / "data"
    with pytest.raises(DataError, match=message + ": refused to extract; remove the archive"):
        get(server, base)
    assert names(base) == ["NYUD_MT.tgz", "NYUD_MT.tgz.json"]
    assert names(tmp_path / "deep") == ["data"]
    assert not Path("/tmp/matfl-evil").exists()


@pytest.mark.parametrize("damage", ["cut", "checksum", "no archive", "plain tar"])
def test_damaged_archives_leave_no_folder(server: Server, archive: bytes, tmp_path: Path, damage: str) -> None:
    server.body = {
        "cut": archive[: len(archive) // 2],
        "checksum": archive[:-8] + bytes(8),
        "no archive": b"no archive at all",
        "plain tar": gzip.decompress(archive),
    }[damage]
    with pytest.raises(DataError, match=r"NYUD_MT\.tgz is damaged .*: remove it and fetch again"):
        get(server, tmp_path)
    assert "NYUD_MT" not in names(tmp_path)
    assert not [name for name in names(tmp_path) if "extract" in name]


def test_an_archive_of_another_kind_is_refused(server: Server, tmp_path: Path) -> None:
    root = tmp_path / "source" / "NYUD_MT"
    files.write_nyud(root, [(16, 16)])
    files.write_nyud(root, [(16, 16)], split="val")
    (root / "segmentation/0001.mat").touch()
    server.body = pack(root)
    with pytest.raises(DataError, match=r"this is ASTMT's NYUD_MT.tgz"):
        get(server, tmp_path / "a")
    assert "NYUD_MT" not in names(tmp_path / "a")
    with pytest.raises(DataError, match="holds the nyud layout: expected pascal"):
        get(server, tmp_path / "b", "pascal")
    (root / "segmentation/0001.mat").unlink()
    (root / "gt_sets/val.txt").unlink()
    server.body = pack(root)
    with pytest.raises(DataError, match=r"val\.txt is missing"):
        get(server, tmp_path / "c")


EXTRACT_SLOWLY = """
import sys, tarfile, time
from matfl.data import fetch
extract = tarfile.TarFile.extract
def slow(self, *arguments, **keywords):
    extract(self, *arguments, **keywords)
    print("extracted", flush=True)
    time.sleep(0.2)
tarfile.TarFile.extract = slow
fetch("nyud", sys.argv[1], url="http://127.0.0.1:9/")
"""


def test_a_killed_extraction_looks_like_none(archive: bytes, tmp_path: Path) -> None:
    (tmp_path / "NYUD_MT.tgz").write_bytes(archive)
    process = subprocess.Popen([sys.executable, "-c", EXTRACT_SLOWLY, str(tmp_path)], stdout=subprocess.PIPE)
    for _ in range(3):
        assert process.stdout
        assert process.stdout.readline() == b"extracted\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()  # type: ignore[union-attr]
    assert not (tmp_path / "NYUD_MT").exists()
    assert len([name for name in names(tmp_path) if "extract" in name]) == 1
    fetch("nyud", tmp_path, url="http://127.0.0.1:9/")
    assert not [name for name in names(tmp_path) if "extract" in name]
    assert check(tmp_path).ok
    assert os.listdir(tmp_path / "NYUD_MT")


@pytest.mark.parametrize("note", ["[]", '{"total": "many"}', '{"url": 1, "total": 5, "validator": 7}', "[" * 5000])
def test_a_damaged_note_means_to_begin_again(server: Server, archive: bytes, tmp_path: Path, note: str) -> None:
    server.body = archive
    (tmp_path / "NYUD_MT.tgz.part").write_bytes(b"x" * 1000)
    (tmp_path / "NYUD_MT.tgz.part.json").write_text(note)
    assert get(server, tmp_path).sha256 == hashlib.sha256(archive).hexdigest()


def test_answers_that_make_no_sense(server: Server, archive: bytes, tmp_path: Path) -> None:
    server.body, server.status = archive, 206
    with pytest.raises(DataError, match=r"a part of the file \(206\) unasked: download .* with a browser"):
        get(server, tmp_path)
    server.status = 200
    for length in ("-5", "many", "1e3", "\x1b[31m"):
        server.length = length
        with pytest.raises(DataError, match=r"Content-Length '[^\x1b]*', no number: download .* with a browser"):
            get(server, tmp_path)
    server.length = str(len(archive) + 1)
    with pytest.raises(DataError, match="the download failed"):
        get(server, tmp_path)
    assert "NYUD_MT" not in names(tmp_path)


def test_redirects_lead_to_no_other_kind_of_server(server: Server, archive: bytes, tmp_path: Path) -> None:
    server.body, server.redirect = archive, "/elsewhere"
    assert get(server, tmp_path / "a").bytes == len(archive)
    for to in ("ftp://host/x", "file:///etc/passwd"):
        server.redirect = to
        with pytest.raises(DataError, match=rf"redirects to '{to}': not followed|url '{to}' is not allowed"):
            get(server, tmp_path / "b")
    assert names(tmp_path / "b") == []


def test_a_server_s_words_reach_no_terminal_as_commands(server: Server, tmp_path: Path) -> None:
    server.status, server.reason = 404, "gone \x1b]0;title\x07"
    with pytest.raises(DataError, match=r"answers 404 gone \?\]0;title\?: ") as caught:
        get(server, tmp_path)
    assert "\x1b" not in str(caught.value)


def test_a_pipe_in_the_archive_s_place_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "NYUD_MT.tgz")
    with pytest.raises(DataError, match=r"NYUD_MT\.tgz is no file: expected the archive"):
        fetch("nyud", tmp_path)
