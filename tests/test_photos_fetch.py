"""Fetching repositories of photographs: verified by git's own ids, whole or not at all, every bad file named."""

from __future__ import annotations

import errno
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path

import photo_archives as archives
import pytest
from archive_server import Server, serving

from matfl.data import DataError
from matfl.data.fetch import Fetched, fetch, fetch_source, repository_source
from matfl.data.photos import git
from matfl.data.photos.repositories import NYUV2, PEOPLE, Repository, altered

REAL = Path(__file__).resolve().parents[2] / "shared/real"
"""Where the real archives may lie, beside the repository."""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    with serving(monkeypatch) as running:
        running.etag = 'W/"weak"'  # as GitHub's: nothing that a download could go on by
        running.ranges = False
        yield running


@pytest.fixture(scope="module", params=["nyuv2", "people"])
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def files(name: str) -> dict[str, bytes]:
    return archives.FILES[name]()


@pytest.fixture(scope="module")
def repository(name: str, files: dict[str, bytes], tmp_path_factory: pytest.TempPathFactory) -> Repository:
    return archives.repository(files, archives.ORIGINALS[name], tmp_path_factory.mktemp("git"))


def get(repository: Repository, folder: Path, content: bytes, **more: object) -> Fetched:
    source = folder.parent / "mirror.tar.gz"
    source.write_bytes(content)
    return fetch_source(repository_source(repository), folder, url=source.as_uri(), **more)  # type: ignore[arg-type]


def pack(repository: Repository, files: dict[str, bytes], **more: object) -> bytes:
    return archives.pack(files, archives.top(repository), repository.commit, **more)  # type: ignore[arg-type]


def visible(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if not path.name.endswith(".lock"))


def test_ids_are_gits_own(tmp_path: Path) -> None:
    contents = {"a/b.txt": b"one", "a/b/c": b"", "a/b-c": b"x" * 5000, "a.txt": b"a\r\nb", "a0/\N{SNOWMAN}": b"\0"}
    blobs = {path: ("100644", git.blob_id(content)) for path, content in contents.items()}
    for folder in ("", "a", "a/b"):
        assert git.tree_id(blobs, folder) == archives.git_tree(
            contents, folder, tmp_path / f"git-{folder.count('/')}{folder[:1]}"
        )


def test_lists_of_ids_are_read_as_they_are_written() -> None:
    blobs = {f"f/{i:04d}.x": ("100644", git.blob_id(bytes([i]))) for i in range(1, 40)} | {"g": ("100644", b"\1" * 20)}
    text = "What this is.\n" + git.format_blobs(blobs, [("f/{:04d}.x", 1, 39)])
    assert git.parse_blobs(text) == {path: blob.hex()[:8] for path, (_, blob) in blobs.items()}
    assert max(map(len, text.splitlines())) <= 120


def test_the_packages_lists_hold_every_file_that_is_read() -> None:
    assert set(NYUV2.blobs) >= {
        f"data/nyu_{kind}/{i}.{end}"
        for kind, end in (("images", "jpg"), ("depths", "png"), ("labels40", "png"))
        for i in range(1449)
    }
    ids = [f"{i:04d}" for i in range(1, 1005)]
    assert set(PEOPLE.blobs) >= {f"photos/{i}.jpg" for i in ids} | {f"annotations/pixel-level/{i}.mat" for i in ids}
    assert all(len(short) == git.DIGITS for short in (NYUV2.blobs | PEOPLE.blobs).values())


def test_a_whole_archive_becomes_a_folder(
    repository: Repository, files: dict[str, bytes], tmp_path: Path, server: Server
) -> None:
    server.body = pack(repository, files)
    record = fetch_source(repository_source(repository), tmp_path, url=server.url, pause=0.01)
    assert record.verified == "whole by git tree ids: " + ", ".join(f"{k} {v}" for k, v in repository.trees.items())
    assert record.citation == repository.citation
    root = tmp_path / repository.name
    read = [path for path in files if path.rpartition("/")[0] in repository.used and "2000" not in path]
    for path in read:
        assert (root / path).read_bytes() == files[path]
        assert (root / path).stat().st_mtime == 1_500_000_000
    assert not any((root / path).exists() for path in ("photos/2000.jpg", "net/train.py", "data/train.txt"))
    assert altered(repository, root) == {}
    assert fetch_source(repository_source(repository), tmp_path, url="http://127.0.0.1:9/") == record


def test_a_mirror_without_github_s_header_or_folder_name(
    repository: Repository, files: dict[str, bytes], tmp_path: Path
) -> None:
    assert get(repository, tmp_path / "d", archives.pack(files, "mirror")).verified.startswith("whole")


def test_photographs_without_labels_may_be_missing(tmp_path: Path) -> None:
    repository = archives.repository(archives.people_files(), PEOPLE, tmp_path / "git")
    record = get(repository, tmp_path / "d", pack(repository, archives.people_files(whole=False)))
    assert record.verified.startswith("each of the 8 listed files by git tree ids (annotations/pixel-level")
    assert record.verified.endswith("others, which are not read, are missing or not the commit's")


def test_a_cut_download_begins_anew_with_a_word(
    repository: Repository, files: dict[str, bytes], tmp_path: Path, server: Server
) -> None:
    server.body = pack(repository, files)
    (tmp_path / f"{repository.file}.part").write_bytes(b"x" * 1000)
    said: list[str] = []
    fetch_source(repository_source(repository), tmp_path, url=server.url, pause=0.01, say=said.append)
    assert said == [
        f"{repository.file}.part: the server cannot go on from the 1000 bytes that are there; the download begins anew"
    ]
    assert server.requests == [None]


def test_a_server_that_always_cuts_ends_the_download(
    repository: Repository, files: dict[str, bytes], tmp_path: Path, server: Server
) -> None:
    server.body, server.cut = pack(repository, files), 1000
    with pytest.raises(DataError, match=r"the download failed .*codeload|browser"):
        fetch_source(repository_source(repository), tmp_path, url=server.url, pause=0.001)
    assert len(server.requests) == 7


def victim(repository: Repository) -> str:
    return next(path for path in repository.blobs if path.startswith(tuple(repository.used)))


@pytest.mark.parametrize("damage", ["altered", "missing", "swapped", "both"])
def test_each_damaged_file_is_named(
    repository: Repository, files: dict[str, bytes], tmp_path: Path, damage: str
) -> None:
    path = victim(repository)
    other = path.replace("0.jpg", "1.jpg").replace("0001.jpg", "0002.jpg")
    bad, expected = dict(files), [f"{path} is altered"]
    if damage == "altered":
        bad[path] = files[path][:-1] + bytes([files[path][-1] ^ 1])
    elif damage == "missing":
        del bad[path]
        expected = [f"{path} is missing"]
    elif damage == "swapped":
        bad[path], bad[other] = files[other], files[path]
        expected.append(f"{other} is altered")
    else:
        bad[path] = b""
        del bad[other]
        expected.append(f"{other} is missing")
    with pytest.raises(DataError) as caught:
        get(repository, tmp_path / "d", pack(repository, bad))
    message = str(caught.value)
    assert (
        f"is not commit {repository.commit}: {'; '.join(sorted(expected, key=lambda t: t.split()[0]))}; remove"
        in message
    )
    assert repository.page in message
    assert visible(tmp_path / "d") == [repository.file, f"{repository.file}.json"]


def test_an_archive_of_another_commit(repository: Repository, files: dict[str, bytes], tmp_path: Path) -> None:
    other = "0123456789" * 4
    bad = dict(files) | {victim(repository): b"new"}
    for i, content in enumerate((archives.pack(bad, f"x-{other}", other), archives.pack(bad, f"x-{other}"))):
        with pytest.raises(DataError, match=rf"is an archive of commit {other}: expected {repository.commit}; remove"):
            get(repository, tmp_path / f"d{i}", content)
        assert repository.name not in visible(tmp_path / f"d{i}")


def test_an_added_file_is_no_part_of_the_commit(tmp_path: Path) -> None:
    files = archives.nyuv2_files()
    repository = archives.repository(files, NYUV2, tmp_path / "git")
    record = get(repository, tmp_path / "d", pack(repository, files | {"data/nyu_images/evil.sh": b"#!/bin/sh\n"}))
    assert "others, which are not read" in record.verified
    assert not (tmp_path / "d/nyuv2/data/nyu_images/evil.sh").exists()


def test_a_listed_file_that_is_not_read_is_named_as_well(tmp_path: Path) -> None:
    files = archives.nyuv2_files()
    repository = archives.repository(files, NYUV2, tmp_path / "git")
    with pytest.raises(DataError, match=r"is not commit .*: data/train.txt is altered; remove"):
        get(repository, tmp_path / "d", pack(repository, files | {"data/train.txt": b"2\n"}))


def test_two_folders_doubled_members_and_loose_files(
    repository: Repository, files: dict[str, bytes], tmp_path: Path
) -> None:
    path = victim(repository)

    def add(member: str):  # type: ignore[no-untyped-def]
        return lambda tar: tar.addfile(tarfile.TarInfo(member))

    for i, (member, message) in enumerate(
        [
            ("other/file", "holds 2 folders: expected one"),
            (f"{archives.top(repository)}/{path}", f"{path}' comes twice"),
            ("loose", "'loose' lies in no folder"),
        ]
    ):
        with pytest.raises(DataError, match=message):
            get(repository, tmp_path / f"d{i}", pack(repository, files, extra=add(member)))
        assert repository.name not in visible(tmp_path / f"d{i}")


@pytest.mark.parametrize(
    "member, kind, message",
    [
        ("{}/../../evil", tarfile.REGTYPE, "lies outside the folder"),
        ("/tmp/matfl-evil", tarfile.REGTYPE, "lies outside the folder"),
        ("{}/bad", tarfile.SYMTYPE, "is a link"),
        ("{}/bad", tarfile.LNKTYPE, "is a link"),
        ("{}/bad", tarfile.FIFOTYPE, "is neither file nor folder"),
        ("{}/bad", tarfile.CHRTYPE, "is neither file nor folder"),
        ("{}" + "/a" * 100, tarfile.REGTYPE, "lies too deep"),
        ("{}/" + "a" * 2000, tarfile.REGTYPE, "lies too deep"),
    ],
)
def test_hostile_members(tmp_path: Path, member: str, kind: bytes, message: str) -> None:
    files = archives.people_files()
    repository = archives.repository(files, PEOPLE, tmp_path / "git")

    def add(tar: tarfile.TarFile) -> None:
        bad = tarfile.TarInfo(member.format(archives.top(repository)))
        bad.type, bad.linkname = kind, "/etc/passwd"
        tar.addfile(bad)

    with pytest.raises(DataError, match=message + ": refused to extract; remove the archive"):
        get(repository, tmp_path / "d", pack(repository, files, extra=add))
    assert visible(tmp_path / "d") == [repository.file, f"{repository.file}.json"]
    assert not Path("/tmp/matfl-evil").exists()


@pytest.mark.parametrize("damage", ["cut", "checksum", "page"])
def test_damaged_archives(repository: Repository, files: dict[str, bytes], tmp_path: Path, damage: str) -> None:
    good = pack(repository, files)
    content = {
        "cut": good[: len(good) // 2],
        "checksum": good[:-8] + bytes(8),
        "page": b"\n <!DOCTYPE html><html><body>Rate limit</body></html>",
    }[damage]
    with pytest.raises(DataError, match=r"is (damaged \(.*\)|a web page, not an archive): remove it and fetch again"):
        get(repository, tmp_path / "d", content)
    assert visible(tmp_path / "d") == [repository.file, f"{repository.file}.json"]


def test_a_web_page_instead_of_the_archive(repository: Repository, tmp_path: Path, server: Server) -> None:
    server.kind, server.body = "text/html", b"<html>busy</html>"
    with pytest.raises(
        DataError, match=rf"web page instead of the archive .*download {repository.page} with a browser"
    ):
        fetch_source(repository_source(repository), tmp_path, url=server.url, pause=0.01)
    assert visible(tmp_path) == []


def test_a_full_disk_while_extracting(
    repository: Repository, files: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flush, written = os.utime, []

    def full(path: Path, *rest: object) -> None:
        written.append(path)
        if len(written) == 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        flush(path, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "utime", full)
    with pytest.raises(DataError, match=r"cannot write .*No space left.*free space or choose another folder"):
        get(repository, tmp_path / "d", pack(repository, files))
    assert visible(tmp_path / "d") == [repository.file, f"{repository.file}.json"]
    assert get(repository, tmp_path / "d", b"not asked for").verified.startswith("whole")


def test_what_changes_after_extraction_is_named(
    repository: Repository, files: dict[str, bytes], tmp_path: Path
) -> None:
    get(repository, tmp_path / "d", pack(repository, files))
    root, path = tmp_path / "d" / repository.name, victim(repository)
    (root / path).write_bytes(b"other")
    assert altered(repository, root) == {path: "is altered"}
    (root / path).unlink()
    assert altered(repository, root) == {path: "is missing"}


@pytest.mark.parametrize("path, message", [("nothing", "cannot be read"), ("", "is no file"), ("pipe", "is no file")])
def test_files_that_are_none(tmp_path: Path, path: str, message: str) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(DataError, match=message):
        fetch("people", tmp_path / "d", url=(tmp_path / path).as_uri())


@pytest.mark.slow
@pytest.mark.skipif(not REAL.exists(), reason="the real archives are not there")
@pytest.mark.parametrize(
    "name, file, verified",
    [
        ("nyuv2", "nyuv2.tar.gz", ("whole by git tree ids: data bcb1e6db",)),
        ("people", "clothing-co-parsing.tar.gz", ("each of the 2008 listed files", "whole by git tree ids")),
    ],
)
def test_the_real_archives(tmp_path: Path, name: str, file: str, verified: tuple[str, ...]) -> None:
    record = fetch(name, tmp_path, url=(REAL / file).as_uri())
    assert record.verified.startswith(verified)
    assert altered(archives.ORIGINALS[name], tmp_path / name) == {}
