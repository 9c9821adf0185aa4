"""Tiny repositories of the same form as those of the photographs, and the archives that GitHub would make of them."""

from __future__ import annotations

import gzip
import hashlib
import io
import subprocess
import tarfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.io import savemat

from matfl.data.photos.repositories import NYUV2, PEOPLE, Repository


def picture(values: np.ndarray, kind: str) -> bytes:
    """The bytes of a .jpg or .png file."""
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, "JPEG" if kind == "jpg" else "PNG")
    return buffer.getvalue()


def matlab(**values: object) -> bytes:
    """The bytes of a MATLAB 5 file, without the time at its beginning."""
    buffer = io.BytesIO()
    savemat(buffer, values, do_compression=True)
    return b"MATLAB 5.0 MAT-file".ljust(116) + buffer.getvalue()[116:]


def blocks(rng: np.random.Generator, shape: tuple[int, int], values: int, side: int = 40) -> np.ndarray:
    coarse = rng.integers(0, values, (-(-shape[0] // side), -(-shape[1] // side)))
    return np.kron(coarse, np.ones((side, side), int))[: shape[0], : shape[1]].astype(np.uint8)


def nyuv2_files(indices: range = range(3)) -> dict[str, bytes]:
    """Images 480x640, smooth depth and block labels of 0 to 39, with what else lies in the repository."""
    rng = np.random.default_rng(0)
    files = {"README.md": b"words\n", "net/train.py": b"pass\n", "data/train.txt": b"1\n", "data/test.txt": b"0\n"}
    y, x = np.mgrid[:480, :640]
    for i in indices:
        image = np.stack([(x + 40 * i) % 256, y // 2, (x + y) // 5], 2).astype(np.uint8)
        files[f"data/nyu_images/{i}.jpg"] = picture(image, "jpg")
        files[f"data/nyu_depths/{i}.png"] = picture((40 + y // 4 + x // 16 + i).astype(np.uint8), "png")
        files[f"data/nyu_labels40/{i}.png"] = picture(blocks(rng, (480, 640), 40), "png")
    return files


def people_files(ids: range = range(1, 5), *, whole: bool = True) -> dict[str, bytes]:
    """Photographs 60x44 with labels 0 to 58; the whole repository has a photograph without pixel labels as well."""
    rng = np.random.default_rng(1)
    files = {"LICENSE": b"Apache\n", "README.md": b"words\n", "label_list.mat": matlab(label_list=np.zeros(59))}
    for i in ids:
        noise = rng.integers(0, 256, (60, 44, 3), dtype=np.uint8)
        files[f"photos/{i:04d}.jpg"] = picture(noise, "jpg")
        files[f"annotations/pixel-level/{i:04d}.mat"] = matlab(groundtruth=blocks(rng, (60, 44), 59, 9))
    if whole:
        files["photos/2000.jpg"] = picture(noise, "jpg")
        files["annotations/image-level/2000.mat"] = matlab(tags=np.arange(3))
    return files


def pack(
    files: Mapping[str, bytes],
    top: str,
    commit: str | None = None,
    extra: Callable[[tarfile.TarFile], None] | None = None,
) -> bytes:
    """A .tar.gz with everything below the folder `top` and the commit in its header, as GitHub packs it."""
    buffer = io.BytesIO()
    headers = {"comment": commit} if commit else {}
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT, pax_headers=headers) as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(f"{top}/{name}")
            member.size, member.mode, member.mtime = len(content), 0o664, 1_500_000_000
            tar.addfile(member, io.BytesIO(content))
        if extra:
            extra(tar)
    return gzip.compress(buffer.getvalue(), compresslevel=1)


def git_tree(files: Mapping[str, bytes], folder: str, place: Path) -> str:
    """The tree id of `folder` by git itself."""
    place.mkdir(parents=True)

    def git(*words: str) -> str:
        name = ("-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "core.autocrlf=false")
        run = subprocess.run(["git", *name, *words], cwd=place, check=True, capture_output=True, text=True)
        return run.stdout.strip()

    git("init", "-q")
    for path, content in files.items():
        (place / path).parent.mkdir(parents=True, exist_ok=True)
        (place / path).write_bytes(content)
    git("add", "-A", "-f")
    git("commit", "-q", "-m", "all")
    return git("rev-parse", f"HEAD:{folder}")


def sha(content: bytes) -> bytes:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).digest()


def flat_tree(files: Mapping[str, bytes], folder: str) -> str:
    """The tree id of a folder that holds files alone."""
    names = sorted(path.removeprefix(folder + "/") for path in files if path.startswith(folder + "/"))
    content = b"".join(b"100644 %s\0" % name.encode() + sha(files[f"{folder}/{name}"]) for name in names)
    return hashlib.sha1(b"tree %d\0" % len(content) + content).hexdigest()


def repository(files: Mapping[str, bytes], original: Repository, place: Path) -> Repository:
    """`original` with the ids of these files instead of the published ones."""
    read = {path: content for path, content in files.items() if "2000" not in path}
    below = tuple(f"{folder}/" for folder in original.trees)
    return replace(
        original,
        trees={folder: git_tree(files, folder, place / folder) for folder in original.trees},
        used={folder: flat_tree(read, folder) for folder in original.used},
        listed={path: sha(content).hex()[:8] for path, content in read.items() if path.startswith(below)},
    )


def top(original: Repository) -> str:
    return f"{original.repository}-{original.commit}"


ORIGINALS = {"nyuv2": NYUV2, "people": PEOPLE}
FILES = {"nyuv2": nyuv2_files, "people": people_files}
