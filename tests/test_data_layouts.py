"""The readers of the real layouts: against an independent reader, at native and network size, and on bad input."""

from __future__ import annotations

import os
import re
import struct
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import real_layouts as files
import torch
from PIL import Image
from scipy import ndimage
from scipy.sparse import csc_array
from skimage.morphology import thin

from matfl.config.run_config import RunConfig
from matfl.data import DataError, Split, check, load_split
from matfl.data.decode import VALID_NORMALS, Sample, laplacian_edges
from matfl.data.decoded import resize_lines, resize_nearest, resize_normals
from matfl.data.layouts import locate, open_layout
from matfl.tasks.edges import truth as edge_truth

SIZES = [(40, 56), (48, 32), (33, 47)]
CONFIG = RunConfig(size=32)


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a PASCAL_MT and a NYUD_MT, which no test changes."""
    base = tmp_path_factory.mktemp("data")
    for split in ("train", "val"):
        files.write_pascal(base / "PASCAL_MT", SIZES, split=split)
        files.write_nyud(base / "NYUD_MT", SIZES, split=split)
    return base


@pytest.fixture
def data(original: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    import shutil

    return Path(shutil.copytree(original, tmp_path / "data"))


def load(data: Path, tmp_path: Path, domain: str = "pascal", split: str = "train", **changes: int) -> Split:
    return load_split(replace(CONFIG, **changes), domain, split, data_dir=data, cache_dir=tmp_path / "cache")


def read(data: Path, domain: str, name: str) -> dict[str, np.ndarray]:
    if domain == "pascal":
        return files.read_pascal(data / "PASCAL_MT", name, set(VALID_NORMALS))
    return files.read_nyud(data / "NYUD_MT", name)


@pytest.mark.parametrize("domain", ["pascal", "nyud"])
@pytest.mark.parametrize("split", ["train", "val"])
def test_native_labels_equal_an_independent_readers(original: Path, tmp_path: Path, domain: str, split: str) -> None:
    loaded = load(original, tmp_path, domain, split)
    assert [loaded.native_size(i) for i in range(len(loaded))] == SIZES
    for i, name in enumerate(loaded.ids):
        expected = read(original, domain, name)
        np.testing.assert_array_equal(Sample(locate(domain, original), name).image(), expected.pop("image"))
        assert set(expected) == set(loaded.labels)
        for task, truth in expected.items():
            label = loaded.native(task, i)
            assert label.shape == truth.shape
            assert label.dtype == (np.float32 if task in ("normals", "depth") else np.uint8)
            np.testing.assert_allclose(label, truth, atol=1e-6, err_msg=f"{name} {task}")
            torch.from_numpy(label).add_(0)  # writable, so that nothing warns


@pytest.mark.parametrize("domain", ["pascal", "nyud"])
@pytest.mark.parametrize("split", ["train", "val"])
def test_edges_are_measured_against_the_benchmarks_truth(
    original: Path, tmp_path: Path, domain: str, split: str
) -> None:
    """thin(seg2bmap(...)) of the label map (PASCAL) or the stored boundaries (NYUD); for other tasks the label."""
    loaded = load(original, tmp_path, domain, split)
    for i, name in enumerate(loaded.ids):
        sample = Sample(locate(domain, original), name)
        source = sample.label_map if domain == "pascal" else sample.label("edge")
        found = loaded.truth("edge", i)
        np.testing.assert_array_equal(found, edge_truth(source))
        assert found.dtype == np.uint8
        assert (found != loaded.native("edge", i)).any()
        np.testing.assert_array_equal(loaded.truth("semseg", i), loaded.native("semseg", i))
        np.testing.assert_array_equal(loaded.truth("normals", i), loaded.native("normals", i))


@pytest.mark.parametrize("domain", ["pascal", "nyud"])
def test_network_size_samples_the_native_labels(original: Path, tmp_path: Path, domain: str) -> None:
    loaded = load(original, tmp_path, domain)
    assert loaded.images.shape == (3, 3, 32, 32)
    assert loaded.images.dtype == np.uint8
    for i, name in enumerate(loaded.ids):
        truth = read(original, domain, name)
        height, width = SIZES[i]
        rows = np.floor((np.arange(32) + 0.5) * height / 32).astype(int)
        columns = np.floor((np.arange(32) + 0.5) * width / 32).astype(int)
        mean = truth["image"].mean((0, 1))
        np.testing.assert_allclose(loaded.images[i].mean((1, 2)), mean, atol=1.5)
        for task, labels in loaded.labels.items():
            nearest = truth[task][..., rows[:, None], columns]
            if task == "normals":
                assert labels.dtype == np.float16
                vectors = labels[i].astype(np.float32)
                np.testing.assert_array_equal(vectors.any(0), nearest.any(0))
                np.testing.assert_allclose(np.linalg.norm(vectors, axis=0)[vectors.any(0)], 1, atol=2e-3)
            elif task == "depth":
                np.testing.assert_allclose(labels[i], nearest, rtol=1e-3)
            elif task == "edge":
                np.testing.assert_array_equal(labels[i], resize_lines(truth[task], (32, 32)))
            else:
                np.testing.assert_array_equal(labels[i], nearest)


def test_images_are_antialiased() -> None:
    from matfl.data.decoded import resize_image

    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 255
    assert np.abs(resize_image(stripes, (16, 16)).astype(int)[:, :, 2:-2] - 127).max() < 8  # grey, no black or white


def test_resized_normals_are_unit_vectors_or_zero_and_constant_fields_stay() -> None:
    field = np.zeros((3, 20, 30), np.float32)
    field[:, :, 10:] = np.array([0.6, 0, 0.8], np.float32)[:, None, None]
    small = resize_normals(field, (10, 10))
    known = resize_nearest(field.any(0).astype(np.uint8), (10, 10)) == 1
    assert 0 < known.sum() < 100
    np.testing.assert_allclose(small[:, known].T, np.tile([0.6, 0, 0.8], (known.sum(), 1)), atol=1e-6)
    assert not small[:, ~known].any()


def test_a_thin_line_stays_whole_when_it_is_made_smaller() -> None:
    row, column = np.mgrid[:90, :70]
    ring = laplacian_edges(((row - 45) ** 2 + (column - 35) ** 2 < 24**2).astype(np.uint8)).astype(np.uint8)
    small = resize_lines(ring, (10, 10))
    naive = np.array([[ring[9 * i : 9 * i + 9, 7 * j : 7 * j + 7].max() for j in range(10)] for i in range(10)])
    np.testing.assert_array_equal(small, naive)
    holes, count = ndimage.label(small == 0)
    assert count == 2, "what is inside stays apart from what is outside"
    assert holes[5, 5] != holes[0, 0]
    assert ndimage.label(resize_nearest(ring, (10, 10)) == 0)[1] == 1, "the nearest pixels break it"


def test_lines_take_the_nearest_pixel_where_nothing_shrinks_and_no_label_is_the_least() -> None:
    labels = np.array([[0, 1, 255, 255], [255, 0, 255, 255]], np.uint8)
    assert resize_lines(labels, (2, 4)).tolist() == labels.tolist()
    assert resize_lines(labels, (1, 2)).tolist() == [[1, 255]]
    assert resize_lines(labels[:1], (2, 8)).tolist() == [[0, 0, 1, 1, 255, 255, 255, 255]] * 2


def test_tensors_follow_the_indices(original: Path, tmp_path: Path) -> None:
    loaded = load(original, tmp_path)
    images, target = loaded.tensors("normals", [2, 0], "cpu")
    assert images.dtype == torch.uint8
    assert target.dtype == torch.float16
    np.testing.assert_array_equal(images.numpy(), loaded.images[[2, 0]])
    np.testing.assert_array_equal(target.numpy(), loaded.labels["normals"][[2, 0]])
    with pytest.raises(ValueError, match="no labels for 'depth': choose from semseg, human_parts"):
        loaded.tensors("depth", [0])


def test_persons_are_found_at_native_size(original: Path, tmp_path: Path) -> None:
    assert load(original, tmp_path).counting("human_parts", [2, 1, 0]).tolist() == [True, False, True]


def test_a_limit_takes_images_at_equal_distances(original: Path, tmp_path: Path) -> None:
    everything = load(original, tmp_path)
    limited = load(original, tmp_path, images_train=2)
    assert limited.ids == (everything.ids[0], everything.ids[1])
    np.testing.assert_array_equal(limited.images, everything.images[:2])
    with pytest.raises(DataError, match=r"train\.txt lists 3 ids but the config wants 4: lower images_train"):
        load(original, tmp_path, images_train=4)


def test_size_zero_is_the_papers(original: Path, tmp_path: Path) -> None:
    assert load(original, tmp_path, size=0, images_train=1).images.shape == (1, 3, 512, 512)
    assert load(original, tmp_path, "nyud", size=0, images_train=1).images.shape == (1, 3, 480, 640)


@pytest.mark.parametrize("folder", ["PASCALContext", "NYUDv2"])
def test_variants_are_recognised(tmp_path: Path, folder: str) -> None:
    domain = "pascal" if folder == "PASCALContext" else "nyud"
    for split in ("train", "val"):
        if domain == "pascal":
            files.write_pascal(tmp_path / folder, SIZES, split=split)
        else:
            files.write_nyud(tmp_path / folder, SIZES, split=split, fedhca2=True)
    report = check(tmp_path)
    assert report.ok, report.problems
    assert report.counts[f"{folder}/val"] == 3
    loaded = load(tmp_path, tmp_path, domain, "val")
    for i, name in enumerate(loaded.ids):
        reader = (
            files.read_nyud
            if domain == "nyud"
            else lambda root, name: files.read_pascal(root, name, set(VALID_NORMALS))
        )
        expected = reader(tmp_path / folder, name)
        for task in loaded.labels:
            np.testing.assert_allclose(loaded.native(task, i), expected[task], atol=1e-6)
    assert load(tmp_path / folder, tmp_path, domain, "val").ids == loaded.ids  # the folder itself may be named


def test_astmts_archive_is_refused(data: Path, tmp_path: Path) -> None:
    root = data / "NYUD_MT"
    for i, (folder, ending) in enumerate((("segmentation", ".mat"), ("normals", ".jpg"), ("depth", ".mat"))):
        (root / folder / f"0001{ending}").touch()
        with pytest.raises(DataError, match=rf"0001\{ending}: this is ASTMT's .*Multi-Task-Learning-PyTorch"):
            load(data, tmp_path, "nyud")
        assert "ASTMT" in "".join(check(data).problems), i
        (root / folder / f"0001{ending}").unlink()
    assert check(data).ok


def test_no_two_data_sets_of_a_kind(data: Path, tmp_path: Path) -> None:
    files.write_pascal(data / "PASCALContext", SIZES)
    with pytest.raises(DataError, match=r"PASCAL_MT and PASCALContext are both there.*data_dir"):
        load(data, tmp_path)


def test_wrong_folders(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match=r"nowhere holds no PASCAL_MT or PASCALContext: `matfl data fetch pascal DIR`"):
        load(tmp_path / "nowhere", tmp_path)
    monkeypatch.delenv("MATFL_DATA", raising=False)
    with pytest.raises(DataError, match="set MATFL_DATA, or pass data_dir"):
        load_split(CONFIG, "pascal", "train", cache_dir=tmp_path)
    monkeypatch.setenv("MATFL_DATA", str(data))
    assert len(load_split(CONFIG, "pascal", "train", cache_dir=tmp_path)) == 3
    (data / "NYUD_MT").rename(data / "PASCALContext")
    (data / "PASCAL_MT").rename(data / "NYUD_MT")
    with pytest.raises(DataError, match="NYUD_MT holds the pascal layout: expected nyud/ with gt_sets"):
        load(data, tmp_path, "nyud")
    with pytest.raises(ValueError, match="choose 'train' or 'val'"):
        load(data, tmp_path, "pascal", "test")
    (tmp_path / "PASCAL_MT" / "pictures").mkdir(parents=True)
    with pytest.raises(DataError, match=r"no known layout: expected pascal/ with ImageSets, .*found pictures"):
        load(tmp_path, tmp_path)
    with pytest.raises(DataError, match="is no folder"):
        open_layout(tmp_path / "nowhere")


def truncate(path: Path, keep: float = 0.6) -> None:
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * keep)])


def cut_end(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-8])


def remove(path: Path) -> None:
    path.unlink()


def remove_and(make):  # type: ignore[no-untyped-def]
    def damage(path: Path) -> None:
        path.unlink()
        make(path)

    return damage


def encoded(kind: str):  # type: ignore[no-untyped-def]
    def damage(path: Path) -> None:
        picture = Image.fromarray(np.asarray(Image.open(path)))
        picture.save(path, format=kind)

    return damage


def bomb() -> bytes:
    """A PNG file of some bytes that says of itself to be 60000 pixels wide and high."""
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)), (b"IDAT", b""), (b"IEND", b"")]
    body = (struct.pack(">I", len(d)) + n + d + struct.pack(">I", zlib.crc32(n + d)) for n, d in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(body)


def flip_in_pixels(path: Path) -> None:
    """One bit of the last checksum of a PNG file's pixels, which Pillow's decoder does not look at."""
    data = bytearray(path.read_bytes())
    data[data.rindex(b"IEND") - 5] ^= 1
    path.write_bytes(data)


def npy_header(shape: object) -> bytes:
    """A .npy file without numbers."""
    text = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}}}\n".encode()
    return b"\x93NUMPY\1\0" + struct.pack("<H", len(text)) + text


def replaced(values: object):  # type: ignore[no-untyped-def]
    return lambda path: files.save(path, values)


MASK = np.ones(SIZES[0], np.uint8)
SMALL = np.ones((5, 4), np.uint8)
BAD = [
    ("PASCAL_MT/ImageSets/Context/train.txt", remove, "is missing: it must list the ids of the train images"),
    ("PASCAL_MT/ImageSets/Context/train.txt", lambda p: p.write_text("\n"), "is empty: expected the ids"),
    ("PASCAL_MT/ImageSets/Context/train.txt", lambda p: p.write_text("../x\n"), "'../x' is no id"),
    ("PASCAL_MT/ImageSets/Context/train.txt", lambda p: p.write_text("a b\n"), "'a b' is no id"),
    ("PASCAL_MT/ImageSets/Context/train.txt", lambda p: p.write_bytes(b"\xff\xfe"), "cannot be read"),
    ("PASCAL_MT/ImageSets/Context/train.txt", lambda p: p.write_text(2 * "2008_000000\n"), "lists 2008_000000 twice"),
    ("PASCAL_MT/JPEGImages/2008_000000.jpg", remove, "is missing: a split lists 2008_000000"),
    ("PASCAL_MT/JPEGImages/2008_000000.jpg", truncate, "cannot be read as an image .*truncated"),
    ("PASCAL_MT/JPEGImages/2008_000000.jpg", cut_end, "cannot be read as an image .*truncated"),
    ("PASCAL_MT/JPEGImages/2008_000000.jpg", lambda p: p.write_bytes(b""), "cannot be read as an image"),
    ("PASCAL_MT/semseg/VOC12/2008_000000.png", remove, r"is missing \(nor semseg/pascal-context/2008_000000.png\)"),
    ("PASCAL_MT/semseg/VOC12/2008_000000.png", cut_end, "cannot be read as an image .*truncated"),
    ("PASCAL_MT/semseg/VOC12/2008_000000.png", replaced(21 * MASK), "class 21 is out of range: expected 0 to 20 or"),
    ("PASCAL_MT/semseg/VOC12/2008_000000.png", replaced(SMALL), "is 5x4 but its image is 40x56: expected"),
    ("PASCAL_MT/semseg/VOC12/2008_000000.png", replaced(np.dstack(3 * [MASK])), "mode RGB: expected one 8-bit channel"),
    ("PASCAL_MT/ImageSets/Context/train.txt", remove_and(os.mkfifo), "is a pipe, socket or device: expected a file"),
    ("PASCAL_MT/JPEGImages/2008_000000.jpg", remove_and(os.mkfifo), "is a pipe, socket or device: expected a file"),
    ("PASCAL_MT/JPEGImages/2008_000000.jpg", encoded("GIF"), "is a GIF file: expected JPEG or PNG, whatever its name"),
    ("PASCAL_MT/JPEGImages/2008_000000.jpg", encoded("EPS"), "is a PostScript file: expected JPEG or PNG"),
    ("PASCAL_MT/JPEGImages/2008_000000.jpg", lambda p: p.write_bytes(bomb()), "has too many pixels"),
    ("PASCAL_MT/semseg/VOC12/2008_000000.png", encoded("JPEG"), "is a JPEG file: expected PNG, whatever its name says"),
    ("PASCAL_MT/semseg/VOC12/2008_000000.png", flip_in_pixels, "cannot be read as an image"),
    ("PASCAL_MT/sal_distill/2008_000000.png", replaced(MASK), "sal strength 1 to 1 is out of range: expected 0 to 255"),
    ("PASCAL_MT/sal_distill/2008_000000.png", replaced(SMALL), "is 5x4 but its image is 40x56"),
    ("PASCAL_MT/sal_distill/2008_000000.png", truncate, "cannot be read as an image"),
    ("PASCAL_MT/normals_distill/2008_000000.png", replaced(MASK), "mode L: expected RGB"),
    ("PASCAL_MT/normals_distill/2008_000000.png", replaced(np.dstack(3 * [SMALL])), "is 5x4 but its image is 40x56"),
    ("PASCAL_MT/pascal-context/trainval/2008_000000.mat", truncate, "cannot be read as a MATLAB 5 file"),
    ("PASCAL_MT/pascal-context/trainval/2008_000000.mat", remove, "is missing: .* its label_map file is expected"),
    ("PASCAL_MT/pascal-context/trainval/2008_000000.mat", replaced({"labels": MASK}), "has no variable LabelMap"),
    ("PASCAL_MT/pascal-context/trainval/2008_000000.mat", replaced({"LabelMap": SMALL}), "is 5x4 but its image is"),
    ("PASCAL_MT/pascal-context/trainval/2008_000000.mat", replaced({"LabelMap": -1.0 * MASK}), "-1 to -1 is out of"),
    ("PASCAL_MT/pascal-context/trainval/2008_000000.mat", replaced({"LabelMap": "text"}), "expected one class number"),
    ("PASCAL_MT/pascal-context/trainval/2008_000000.mat", replaced({"LabelMap": csc_array(MASK)}), "a sparse matrix"),
    ("PASCAL_MT/pascal-context/trainval/2008_000000.mat", replaced({"LabelMap": np.nan * MASK}), "out of range"),
    ("PASCAL_MT/human_parts/2008_000000.mat", remove, "is missing"),
    ("PASCAL_MT/human_parts/2008_000000.mat", replaced({"anno": files.anno([(np.inf, MASK, [])])}), "is not nested"),
    ("PASCAL_MT/human_parts/2008_000000.mat", truncate, "cannot be read as a MATLAB 5 file"),
    ("PASCAL_MT/human_parts/2008_000000.mat", replaced({"parts": MASK}), "has no variable anno"),
    ("PASCAL_MT/human_parts/2008_000000.mat", replaced({"anno": MASK}), "anno is not nested"),
    (
        "PASCAL_MT/human_parts/2008_000000.mat",
        replaced({"anno": files.anno([(15, MASK, [("wing", MASK)])])}),
        "'wing' is no part of a person: expected hair, head",
    ),
    (
        "PASCAL_MT/human_parts/2008_000000.mat",
        replaced({"anno": files.anno([(15, MASK, [("head", SMALL)])])}),
        "is 5x4 but its image is 40x56",
    ),
    ("NYUD_MT/gt_sets/train.txt", remove, "is missing: it must list"),
    ("NYUD_MT/images/0001.jpg", remove, r"is missing \(nor images/0001.png\)"),
    ("NYUD_MT/segmentation/0001.png", replaced(41 * MASK), "class 41 is out of range: expected 0 to 40;"),
    ("NYUD_MT/segmentation/0001.png", replaced(255 * MASK), "class 255 is out of range: expected 0 to 40;"),
    ("NYUD_MT/depth/0001.npy", truncate, "cannot be read as a NumPy array"),
    (
        "NYUD_MT/depth/0001.npy",
        replaced(-1.0 * MASK),
        "depth -1 to -1 is out of range: expected metres from 0.01 to 100",
    ),
    ("NYUD_MT/depth/0001.npy", replaced(np.nan * MASK), "depth nan to nan is out of range"),
    ("NYUD_MT/depth/0001.npy", replaced(np.inf * MASK), "out of range"),
    ("NYUD_MT/depth/0001.npy", replaced(np.ones(3)), r"is of shape \(3,\): expected 2 axes"),
    ("NYUD_MT/depth/0001.npy", replaced(SMALL), "is 5x4 but its image is 40x56"),
    ("NYUD_MT/depth/0001.npy", lambda p: np.save(p, np.array([{}]), allow_pickle=True), "cannot be read as a NumPy"),
    ("NYUD_MT/depth/0001.npy", replaced((3000 * np.ones(SIZES[0])).astype(np.uint16)), "3000 .*millimetres .* by 1000"),
    ("NYUD_MT/depth/0001.npy", replaced(120.0 * MASK), "depth 120 to 120 is out of range: expected metres from 0.01"),
    ("NYUD_MT/depth/0001.npy", replaced(1e-5 * MASK), "depth 1e-05 to 1e-05 is out of range"),
    ("NYUD_MT/depth/0001.npy", replaced(0.0 * MASK), "depth is 0 everywhere: expected a depth at some pixel"),
    ("NYUD_MT/depth/0001.npy", remove_and(os.mkfifo), "is a pipe, socket or device: expected a file"),
    ("NYUD_MT/depth/0001.npy", remove_and(os.mkdir), "is a folder: expected a file"),
    ("NYUD_MT/depth/0001.npy", lambda p: p.write_bytes(b"PK\3\4" + bytes(60)), "cannot be read as a NumPy array"),
    ("NYUD_MT/depth/0001.npy", lambda p: p.write_bytes(p.read_bytes()[:40]), "cannot be read as a NumPy array"),
    ("NYUD_MT/depth/0001.npy", lambda p: p.write_bytes(p.read_bytes() + b"x"), "1 bytes more than its header says"),
    ("NYUD_MT/depth/0001.npy", lambda p: p.write_bytes(npy_header("(" * 3000 + ")" * 3000)), "cannot be read as a Num"),
    ("NYUD_MT/depth/0001.npy", lambda p: p.write_bytes(npy_header((10**9, 10**9))), "cannot be read as a NumPy array"),
    ("NYUD_MT/edge/0001.npy", replaced(2.0 * MASK), "edge strength 2 to 2 is out of range: expected 0 to 1"),
    ("NYUD_MT/normals/0001.npy", replaced(np.dstack(3 * [3.0 * MASK])), "component 3 to 3 is out of range"),
    ("NYUD_MT/normals/0001.npy", replaced(np.dstack(2 * [1.0 * MASK])), r"expected \(height, width, 3\)"),
]


@pytest.mark.parametrize(
    "file, damage, message", BAD, ids=[f"{f.split('/')[-2]}-{i}" for i, (f, _, _) in enumerate(BAD)]
)
def test_bad_input_is_named(data: Path, tmp_path: Path, file: str, damage, message: str) -> None:  # type: ignore[no-untyped-def]
    damage(data / file)
    name = re.escape(str(data / file))
    with pytest.raises(DataError, match=rf"{name}.*{message}") as raised:
        load(data, tmp_path, "pascal" if file.startswith("PASCAL") else "nyud")
    assert any(word in str(raised.value) for word in ("restore", "remove", "take the id"))
    assert not list((tmp_path / "cache").glob("*/meta.json"))
    report = check(data)
    assert not report.ok
    assert [problem for problem in report.problems if re.search(rf"{name}.*{message}", problem)]
    assert len(report.problems) <= 2
    assert report.counts["NYUD_MT/val/depth"] == 3  # the other data is judged all the same


def test_check_counts(original: Path, data: Path) -> None:
    report = check(original)
    assert report.ok
    assert report.counts["PASCAL_MT/train"] == report.counts["PASCAL_MT/val/human_parts"] == 3
    assert report.counts["NYUD_MT/unlisted"] == 0
    (data / "PASCAL_MT/ImageSets/Context/train.txt").write_text("2008_000000\n2009_000001\n")
    (data / "PASCAL_MT/semseg/VOC12/2008_000002.png").unlink()  # unlisted by now: may lack labels
    truncate(data / "PASCAL_MT/sal_distill/2008_000001.png")  # unlisted, too, but damaged
    report = check(data / "PASCAL_MT")
    assert report.counts["PASCAL_MT/unlisted"] == 2
    assert report.counts["PASCAL_MT/train/sal"] == 2
    assert len(report.problems) == 2
    assert re.search(r"val\.txt lists 2009_000001 .*expected no image in both splits", report.problems[0])
    assert re.search(r"sal_distill/2008_000001\.png cannot be read", report.problems[1])
    assert "is no folder" in check(data / "nothing").problems[0]


def test_an_image_in_both_splits_is_refused(data: Path, tmp_path: Path) -> None:
    path = data / "PASCAL_MT/ImageSets/Context/val.txt"
    path.write_text(path.read_text() + "2008_000001\n")
    for split in ("train", "val"):
        with pytest.raises(
            DataError, match=r"val\.txt lists 2008_000001 \(1 ids in all\), as train\.txt does: expected"
        ):
            load(data, tmp_path, "pascal", split)


def test_check_goes_on_after_files_that_fail_in_any_way(data: Path) -> None:
    for i, name in enumerate(("0001", "0002", "0003")):
        (data / f"NYUD_MT/depth/{name}.npy").write_bytes((b"PK\3\4" + bytes(60), b"\x93NUMPY\1\0\x10", b"")[i])
    (data / "PASCAL_MT/JPEGImages/2008_000000.jpg").write_bytes(bomb())
    report = check(data)
    for name in ("depth/0001.npy", "depth/0002.npy", "depth/0003.npy", "JPEGImages/2008_000000.jpg"):
        assert any(name in problem for problem in report.problems), name
    assert report.counts["NYUD_MT/train/edge"] == 3


def test_check_names_a_split_without_persons(tmp_path: Path) -> None:
    for split in ("train", "val"):
        files.write_pascal(tmp_path / "PASCAL_MT", SIZES, split=split, people=split == "val")
    report = check(tmp_path)
    assert len(report.problems) == 1
    assert re.search(r"human_parts: no train image shows a person", report.problems[0])


def test_laplacian_edges_at_the_border_are_mirrored() -> None:
    # In the middle of the first row 5 + 6 - 2 * 5 + 2 * (4 - 5) is not 0; with the border repeated it would be.
    label_map = np.array([[5, 5, 6], [4, 4, 4], [4, 4, 4]])
    marked = {}
    for mode in ("reflect", "edge"):
        around = np.pad(label_map, 1, mode=mode)  # type: ignore[call-overload]
        marked[mode] = 4 * label_map != around[:-2, 1:-1] + around[2:, 1:-1] + around[1:-1, :-2] + around[1:-1, 2:]
    assert marked["reflect"][0, 1]
    assert not marked["edge"][0, 1]
    np.testing.assert_array_equal(laplacian_edges(label_map), thin(marked["reflect"]))
    assert (thin(marked["reflect"]) != thin(marked["edge"])).any()
    assert laplacian_edges(np.ones((1, 4))).sum() == 0


def test_palette_indices_are_read_as_they_are(data: Path, tmp_path: Path) -> None:
    path = data / "PASCAL_MT/semseg/VOC12/2008_000000.png"
    indices = np.array(Image.open(path))
    palette = Image.frombytes("P", indices.shape[::-1], indices.tobytes())
    palette.putpalette([int(value) for value in np.random.default_rng(0).integers(0, 256, 768)])
    palette.save(path)
    assert Image.open(path).mode == "P"
    np.testing.assert_array_equal(load(data, tmp_path).native("semseg", 0), indices)
