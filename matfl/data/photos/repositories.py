"""The two public repositories of photographs with dense labels, at pinned commits, and their verified extraction."""

from __future__ import annotations

import os
import re
import tarfile
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

from matfl.data.cache import DataError
from matfl.data.download import BLOCK
from matfl.data.extract import opened, replacing
from matfl.data.photos.git import Blob, blob_hash, blob_id, differences, expected_blobs, tree_id

__all__ = ["NYUV2", "PEOPLE", "REPOSITORIES", "Repository", "altered", "unpack"]

NAMED = 100
"""Damaged files that a message names; of more it gives the number."""


@dataclass(frozen=True, kw_only=True)
class Repository:
    """A repository on GitHub at one commit, and what of it is read."""

    name: str
    """The domain, and the folder that it is extracted to."""
    owner: str
    repository: str
    commit: str
    """40 hexadecimal digits."""
    trees: Mapping[str, str]
    """Folder -> git tree id at the commit, of folders that hold everything that is read."""
    used: Mapping[str, str]
    """Folder -> git tree id that it has when it holds nothing but the files that are read (the listed ones)."""
    keep: str
    """A pattern for the paths that are extracted."""
    licence: str
    citation: str
    listed: Mapping[str, str] | None = None
    """Path -> first digits of the blob id. Default: those that the package lists under `name`."""

    @property
    def file(self) -> str:
        """File name of the archive, with the commit in it so that another one's is never taken for it."""
        return f"{self.repository}-{self.commit[:12]}.tar.gz"

    @property
    def url(self) -> str:
        """GitHub's own archive of the commit."""
        return f"https://codeload.github.com/{self.owner}/{self.repository}/tar.gz/{self.commit}"

    @property
    def page(self) -> str:
        """The same for a browser."""
        return f"https://github.com/{self.owner}/{self.repository}/archive/{self.commit}.tar.gz"

    @property
    def folders(self) -> tuple[str, ...]:
        """Names under which the data set is found: as `fetch` calls it, as an archive or a clone does."""
        return (self.name, f"{self.repository}-{self.commit}", self.repository)

    @property
    def blobs(self) -> Mapping[str, str]:
        """Path -> first digits of the blob id of every listed file."""
        return expected_blobs(self.name) if self.listed is None else self.listed


NYUV2 = Repository(
    name="nyuv2",
    owner="markshih91",
    repository="refinenet_pytorch",
    commit="109cc25300c5c545c7b732b2f4daa97b0755468b",
    trees={"data": "bcb1e6db1e5c409b80ff81fdfbb3e6ddd8fbecfc"},
    used={
        "data/nyu_images": "5266e514294bded472d2edc941195ce0bec3bc4a",
        "data/nyu_depths": "c92ef3e623d3ec953273965b5c307dba1688e945",
        "data/nyu_labels40": "9cd69ca8bafef7ac0765f2584f6e525583951e1d",
    },
    keep=r"(README\.md|LICENSE|data/nyu_(images|depths|labels40)/\d+\.(jpg|png))",
    licence="none is given; for research, as the data set's authors ask",
    citation="Silberman, Hoiem, Kohli, Fergus: Indoor Segmentation and Support Inference from RGBD Images, ECCV 2012",
)

PEOPLE = Repository(
    name="people",
    owner="bearpaw",
    repository="clothing-co-parsing",
    commit="fe34fb77721a9973fbae92c05f7f12b664d10110",
    trees={
        "annotations": "01a37b2e7853634d64441a80e9b0287e721048d0",
        "photos": "69f61ad9ec64f339701664146bbe7acb418cec5c",
    },
    used={
        "annotations/pixel-level": "f92ee4a49d5237cf088f5c7135eecd1e705b2b90",
        "photos": "52a4b939771bb4ca2db2d5a8f9b7f2f62eb2909b",
    },
    keep=r"(README\.md|LICENSE|label_list\.mat|photos/(0\d{3}|100[0-4])\.jpg|annotations/pixel-level/\d{4}\.mat)",
    licence="Apache-2.0 (the repository's)",
    citation="Yang, Luo, Lin: Clothing Co-Parsing by Joint Image Segmentation and Labeling, CVPR 2014",
)

REPOSITORIES = {repository.name: repository for repository in (NYUV2, PEOPLE)}
"""What `fetch` brings by git tree ids."""


def unpack(repository: Repository, path: Path, target: Path, *, progress: bool = False) -> str:
    """Extract what is read of the archive `path` to the folder `target` and say what was verified.

    Every byte is compared by git's ids before the folder appears, by one rename. Raises DataError naming each damaged
    or missing file, and for an archive of another commit.
    """
    with replacing(target) as temporary:
        found, commit = _extract(repository, path, temporary, progress)
        verified = _verify(repository, path, found, commit)
        os.sync()
        temporary.rename(target)
    return verified


def altered(repository: Repository, root: Path) -> dict[str, str]:
    """Path -> 'is missing' or 'is altered' of the files that are read, in the extracted folder `root`.

    The used trees compare whole ids; where they differ and the listed digits name no file, a folder is named.
    """
    expected = {path: short for path, short in repository.blobs.items() if _below(path, repository.used)}
    found = {path: ("100644", blob_id((root / path).read_bytes())) for path in expected if (root / path).is_file()}
    wrong = differences(found, expected)
    return wrong or {folder: "is altered" for folder, tree in repository.used.items() if tree_id(found, folder) != tree}


def _extract(repository: Repository, path: Path, folder: Path, progress: bool) -> tuple[dict[str, Blob], str]:
    """(every file's blob, commit that the archive says it is of) of an archive; what is read is written to `folder`."""
    found: dict[str, Blob] = {}
    tops = set()
    with opened(path, progress=progress) as (tar, members):
        for member in members:
            top, _, name = member.name.strip("/").partition("/")
            tops.add(top)
            if not member.isfile():
                continue
            if not name or name in found:
                raise DataError(
                    f"{path}: {member.name!r} {'comes twice' if name else 'lies in no folder'}: this is no archive of "
                    f"GitHub's; remove it and fetch again"
                )
            place = folder / name if re.fullmatch(repository.keep, name) else None
            blob = _store(tar, member, place)
            found[name] = ("100755" if member.mode & 0o100 else "100644", blob)
        commit = str(tar.pax_headers.get("comment", ""))
    if len(tops) != 1:
        raise DataError(
            f"{path} holds {len(tops)} folders: expected one, {repository.repository}-{repository.commit}, as GitHub "
            "packs it; remove it and fetch again"
        )
    return found, commit or tops.pop().rpartition("-")[2]


def _store(tar: tarfile.TarFile, member: tarfile.TarInfo, place: Path | None) -> bytes:
    """The blob id of a file in an archive, which is written to `place` on the way, with its time (the cache's key)."""
    content = tar.extractfile(member)
    assert content is not None, "the member is a file"
    digest = blob_hash(member.size)
    if place:
        place.parent.mkdir(parents=True, exist_ok=True)
    with open(place, "wb") if place else nullcontext() as file:
        while block := content.read(BLOCK):
            digest.update(block)
            if file:
                file.write(block)
    if place:
        os.utime(place, (member.mtime, member.mtime))
    return digest.digest()


def _verify(repository: Repository, path: Path, found: Mapping[str, Blob], commit: str) -> str:
    if all(tree_id(found, folder) == tree for folder, tree in repository.trees.items()):
        return "whole by git tree ids: " + ", ".join(f"{folder} {tree}" for folder, tree in repository.trees.items())
    wrong = differences(found, repository.blobs)
    read = {name: blob for name, blob in found.items() if name in repository.blobs}
    if not wrong and all(tree_id(read, folder) == tree for folder, tree in repository.used.items()):
        return (
            f"each of the {len(read)} listed files by git tree ids ("
            + ", ".join(f"{folder} {tree}" for folder, tree in repository.used.items())
            + "); others, which are not read, are missing or not the commit's"
        )
    remedy = f"remove {path} and fetch again; the archive is {repository.page}"
    if re.fullmatch(r"[0-9a-f]{40}", commit) and commit != repository.commit:
        raise DataError(f"{path} is an archive of commit {commit}: expected {repository.commit}; {remedy}")
    if not wrong:
        wrong = dict.fromkeys(repository.trees, "holds other files than at the commit")
    names = "; ".join(f"{name} {what}" for name, what in list(wrong.items())[:NAMED])
    more = f"; and {len(wrong) - NAMED} more" if len(wrong) > NAMED else ""
    raise DataError(f"{path} is not commit {repository.commit}: {names}{more}; {remedy}")


def _below(path: str, folders: Mapping[str, str]) -> bool:
    return any(path.startswith(folder + "/") for folder in folders)
