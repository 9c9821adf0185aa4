"""The cache of decoded arrays: whole or absent, whoever is killed and whoever else is at work."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import real_layouts as files

from matfl import scenes
from matfl.config.run_config import RunConfig, smoke
from matfl.data import DataError, Split, checksums, load_split
from matfl.data import cache as caching

CONFIG = RunConfig(size=32)
SIZES = [(36, 40)] * 6

SLOW_DECODING = """
import sys, time
from matfl.config.run_config import RunConfig
from matfl.data import cache, decode, decoded, load_split

image = decode.Sample.image
def slow(self):
    print("decoding", flush=True)
    time.sleep(float(sys.argv[3]))
    return image(self)
decode.Sample.image = slow
decoded.CHUNK = 1
if len(sys.argv) > 4:
    decoded.processes_for = lambda seconds: 2
split = load_split(RunConfig(size=32), "pascal", "val", data_dir=sys.argv[1], cache_dir=sys.argv[2])
print("images", len(split), int(split.images.sum()))
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = tmp_path_factory.mktemp("data")
    files.write_pascal(base / "PASCAL_MT", SIZES)
    files.write_pascal(base / "PASCAL_MT", SIZES, split="val")
    return base


def load(data: Path, cache: Path, split: str = "val") -> Split:
    return load_split(CONFIG, "pascal", split, data_dir=data, cache_dir=cache)


def start(data: Path, cache: Path, seconds: float, *more: str) -> subprocess.Popen[str]:
    arguments = [sys.executable, "-c", SLOW_DECODING, str(data), str(cache), str(seconds), *more]
    return subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})


def same(a: Split, b: Split) -> None:
    assert a.ids == b.ids
    np.testing.assert_array_equal(a.images, b.images)
    for task in a.labels:
        np.testing.assert_array_equal(a.labels[task], b.labels[task])
        for i in range(len(a)):
            np.testing.assert_array_equal(a.native(task, i), b.native(task, i))


def folders(cache: Path) -> list[str]:
    return sorted(path.name for path in cache.iterdir() if path.is_dir())


def test_a_killed_decoding_leaves_nothing_that_is_served(data: Path, tmp_path: Path) -> None:
    whole = load(data, tmp_path / "other")
    cache = tmp_path / "cache"
    process = start(data, cache, 0.2)
    assert process.stdout
    for _ in range(4):
        assert process.stdout.readline() == "decoding\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert ["tmp" in name for name in folders(cache)] == [True]
    assert not list(cache.glob("*/meta.json"))
    same(load(data, cache), whole)
    assert ["tmp" in name for name in folders(cache)] == [False]  # what the killed one had done is gone


@pytest.mark.slow
def test_killed_at_random_with_worker_processes(data: Path, tmp_path: Path) -> None:
    whole = load(data, tmp_path / "other")
    rng = np.random.default_rng(0)
    for wait in rng.uniform(2, 8, 4):
        process = start(data, tmp_path / "cache", 0.3, "parallel")
        time.sleep(wait)
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()  # type: ignore[union-attr]
    same(load(data, tmp_path / "cache"), whole)


def test_of_two_processes_one_decodes_and_both_have_all(data: Path, tmp_path: Path) -> None:
    processes = [start(data, tmp_path / "cache", 0.1) for _ in range(2)]
    outputs = [process.communicate(timeout=300)[0].splitlines() for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert sorted(lines.count("decoding") for lines in outputs) == [0, 6]
    assert outputs[0][-1] == outputs[1][-1]
    assert outputs[0][-1].startswith("images 6 ")


def test_the_second_load_decodes_nothing(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = load(data, tmp_path)
    monkeypatch.setattr("matfl.data.decoded._decode_chunk", None)
    same(load(data, tmp_path), first)
    assert isinstance(first.images, np.memmap)


@pytest.mark.parametrize(
    "damage, said",
    [
        ("truncated array", r"edge\.npy is damaged \(1000 bytes instead of"),
        ("missing array", r"is not whole .*native-sal\.npy"),
        ("broken marker", r"meta\.json is damaged"),
        ("no marker", r"is not whole .*meta\.json"),
        ("deep marker", r"meta\.json is damaged"),
        ("old format", r"meta\.json is of format 1, not"),
    ],
)
def test_a_damaged_cache_is_made_anew(data: Path, tmp_path: Path, damage: str, said: str) -> None:
    first = load(data, tmp_path / "other")
    load(data, tmp_path / "cache")
    folder = tmp_path / "cache" / folders(tmp_path / "cache")[0]
    if damage == "truncated array":
        os.truncate(folder / "edge.npy", 1000)
    elif damage == "missing array":
        (folder / "native-sal.npy").unlink()
    elif damage == "broken marker":
        os.truncate(folder / "meta.json", 20)
    elif damage == "deep marker":
        (folder / "meta.json").write_text("[" * 10**5)
    elif damage == "no marker":
        (folder / "meta.json").unlink()
    else:
        meta = json.loads((folder / "meta.json").read_text())
        (folder / "meta.json").write_text(json.dumps({**meta, "format": 1}))
    with pytest.warns(UserWarning, match=rf"{said}.*: the cached folder is made anew"):
        same(load(data, tmp_path / "cache"), first)


def test_a_flipped_bit_is_found_in_every_file(data: Path, tmp_path: Path) -> None:
    first = load(data, tmp_path / "other")
    load(data, tmp_path / "cache")
    folder = tmp_path / "cache" / folders(tmp_path / "cache")[0]
    names = sorted(path.name for path in folder.glob("*.npy"))
    assert {"images.npy", "sizes.npy", "counts-human_parts.npy", "edge.npy", "native-sal.npy"} <= set(names)
    rng = np.random.default_rng(0)
    for name in names:
        size, when = (folder / name).stat().st_size, (folder / name).stat().st_mtime_ns
        with open(folder / name, "rb+") as file:
            place = int(rng.integers(size))
            file.seek(place)
            byte = file.read(1)[0]
            file.seek(place)
            file.write(bytes([byte ^ 1 << int(rng.integers(8))]))
        assert (folder / name).stat().st_mtime_ns > when  # a disk would not be so kind to a process that has looked
        with pytest.warns(UserWarning, match=rf"{name} is damaged \(the checksum of bytes 0 to {size - 1} differs\)"):
            same(load(data, tmp_path / "cache"), first)


def test_a_process_compares_a_file_once(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load(data, tmp_path)
    load(data, tmp_path)
    monkeypatch.setattr(checksums, "_checksum", None)
    load(data, tmp_path)


def test_of_a_large_file_other_blocks_are_compared_each_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checksums, "BLOCK", 10)
    monkeypatch.setattr(checksums, "WHOLE", 500)
    monkeypatch.setattr(checksums, "SAMPLES", 20)
    path = tmp_path / "large"
    content = bytes(range(256)) * 4
    path.write_bytes(content)
    recorded = checksums.summary(path)
    assert len(recorded["crc32"]) == 103
    looked: list[int] = []
    checksum = checksums._checksum
    monkeypatch.setattr(checksums, "_checksum", lambda file, block: looked.append(block) or checksum(file, block))

    def damage() -> str | None:
        checksums._compare.cache_clear()
        return checksums.damage(path, recorded)

    assert all(damage() is None for _ in range(20))
    assert looked.count(0) == looked.count(102) == 20
    assert 20 * 20 <= len(looked) <= 20 * 22
    assert len(set(looked)) > 90  # 1 - (1 - 20 / 103) ** 20 is .987 of all
    for place in (3, 1023):  # the header and the end are always among them
        path.write_bytes(content[:place] + b"?" + content[place + 1 :])
        assert "differs" in (damage() or "")
    path.write_bytes(content[:515] + b"?" + content[516:])
    assert 0 < sum(damage() == "the checksum of bytes 510 to 519 differs" for _ in range(60)) < 60


def test_what_decides_the_arrays_is_in_the_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "data" / "PASCAL_MT"
    ids = files.write_pascal(root, SIZES[:2])
    cache = tmp_path / "cache"

    def again(expected: int, config: RunConfig = CONFIG) -> Split:
        split = load_split(config, "pascal", "train", data_dir=tmp_path / "data", cache_dir=cache)
        assert len(folders(cache)) == expected
        return split

    again(1)
    again(1, replace(CONFIG, seed=5, rounds=3))
    again(2, replace(CONFIG, size=40))
    again(3, replace(CONFIG, images_train=1))
    mask = np.zeros(SIZES[0], np.uint8)
    files.save(root / f"sal_distill/{ids[0]}.png", mask)
    assert not again(4).labels["sal"][0].any()
    status = (root / f"sal_distill/{ids[0]}.png").stat()
    os.utime(root / f"sal_distill/{ids[0]}.png", ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    again(5)
    monkeypatch.setattr("matfl.data.real.DECODING_VERSION", 999)
    again(6)
    (root / f"semseg/VOC12/{ids[0]}.png").rename(root / f"semseg/pascal-context/{ids[0]}.png")
    again(7)
    files.list_ids(root / "ImageSets/Context/train.txt", ids[::-1])
    assert again(8).ids == tuple(ids[::-1])


@pytest.mark.slow
def test_several_processes_decode_the_same(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    alone = load(data, tmp_path / "alone")
    monkeypatch.setattr("matfl.data.decoded.processes_for", lambda seconds: 2)
    monkeypatch.setattr("matfl.data.decoded.CHUNK", 1)
    same(load(data, tmp_path / "together"), alone)


def test_an_error_in_a_worker_process_names_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = files.write_pascal(tmp_path / "PASCAL_MT", SIZES)
    monkeypatch.setattr("matfl.data.decoded.processes_for", lambda seconds: 2)
    os.truncate(tmp_path / f"PASCAL_MT/sal_distill/{ids[4]}.png", 60)
    with pytest.raises(DataError, match=rf"sal_distill/{ids[4]}\.png cannot be read as an image"):
        load(tmp_path, tmp_path / "cache", "train")
    assert folders(tmp_path / "cache") == []


def test_a_full_disk_is_an_error_before_decoding(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(handle: int, offset: int, length: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(DataError, match=r"cannot write decoded data .*No space left.*MATFL_CACHE"):
        load(data, tmp_path / "cache")
    assert folders(tmp_path / "cache") == []
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="file: cannot write decoded data"):
        load(data, tmp_path / "file")


def test_the_cache_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MATFL_CACHE", str(tmp_path / "a"))
    assert caching.cache_folder() == tmp_path / "a"
    assert caching.cache_folder(tmp_path / "b") == tmp_path / "b"
    monkeypatch.delenv("MATFL_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert caching.cache_folder() == tmp_path / ".cache" / "matfl"


@pytest.mark.parametrize("domain", ["outdoor", "indoor"])
def test_rendered_splits_are_the_renderers(domain: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = replace(smoke(), size=32, images_train=5, images_val=3, data_seed=2)
    monkeypatch.setattr("matfl.data.rendered.CHUNK", 2)
    for split_name, count in (("train", 5), ("val", 3)):
        split = load_split(config, domain, split_name, cache_dir=tmp_path)
        expected = scenes.render(domain, split_name, range(count), seed=2, size=32)
        np.testing.assert_array_equal(split.images, expected.pop("image"))
        assert set(expected) == set(split.labels)
        for task, truth in expected.items():
            dtype = np.float16 if task in ("normals", "depth") else np.uint8
            assert split.labels[task].dtype == dtype
            np.testing.assert_array_equal(split.labels[task], truth.numpy().astype(dtype))
            native = split.native(task, 1)
            assert native.dtype == (np.uint8 if dtype == np.uint8 else np.float32)
            np.testing.assert_array_equal(native, split.labels[task][1])
            images, target = split.tensors(task, [1, 0])
            assert images.shape == (2, 3, 32, 32)
            np.testing.assert_array_equal(target, split.labels[task][[1, 0]])
        assert split.native_size(0) == (32, 32)


def test_what_decides_rendered_pictures_is_in_the_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = replace(smoke(), size=32, images_train=2, images_val=2)
    first = load_split(config, "outdoor", "train", cache_dir=tmp_path)
    load_split(replace(config, seed=9, lr=0.5), "outdoor", "train", cache_dir=tmp_path)
    assert len(folders(tmp_path)) == 1
    other = load_split(replace(config, data_seed=9), "outdoor", "train", cache_dir=tmp_path)
    assert (np.asarray(first.images) != other.images).any()
    load_split(replace(config, size=40), "outdoor", "train", cache_dir=tmp_path)
    load_split(replace(config, images_train=3), "outdoor", "train", cache_dir=tmp_path)
    load_split(config, "outdoor", "val", cache_dir=tmp_path)
    assert len(folders(tmp_path)) == 5
    monkeypatch.setattr("matfl.scenes.VERSION", 10**6)
    load_split(config, "outdoor", "train", cache_dir=tmp_path)
    assert len(folders(tmp_path)) == 6


@pytest.mark.slow
def test_rendering_in_several_processes_is_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = replace(smoke(), size=32, images_train=4)
    alone = load_split(config, "indoor", "train", cache_dir=tmp_path / "alone")
    monkeypatch.setattr("matfl.data.rendered.processes_for", lambda seconds: 2)
    monkeypatch.setattr("matfl.data.rendered.CHUNK", 2)
    together = load_split(config, "indoor", "train", cache_dir=tmp_path / "together")
    np.testing.assert_array_equal(alone.images, together.images)
