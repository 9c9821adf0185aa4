"""Splits of the photographs through the cache, `check` on their folders, and the real archives where they are."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import photo_archives as archives
import pytest
from PIL import Image
from scipy import ndimage
from scipy.io import loadmat

from matfl.config.run_config import RunConfig
from matfl.data import DataError, check, fetch, load_split
from matfl.data.photos import nyuv2, people
from matfl.data.photos.readers import Nyuv2Reader, PeopleReader
from matfl.data.photos.repositories import NYUV2, PEOPLE
from matfl.paper.names import pair_title
from matfl.paper.plots.style import short_title
from matfl.paper.studies.captions.basis import letters
from matfl.tasks.task import DOMAINS, pairs

CONFIG = RunConfig(tasks="photos8", start="random", size=32)
REAL = Path(__file__).resolve().parents[2] / "shared/real"
"""Where the real archives may lie, beside the repository."""
with_real = pytest.mark.skipif(not REAL.exists(), reason="the real archives are not there")


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with both data sets, a few images of each."""
    base = tmp_path_factory.mktemp("photos")
    for name in ("nyuv2", "people"):
        for path, content in archives.FILES[name]().items():
            (base / name / path).parent.mkdir(parents=True, exist_ok=True)
            (base / name / path).write_bytes(content)
    return base


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch, original: Path, tmp_path: Path) -> None:
    """The few images are the whole split: train has all but the last."""
    ids = {"nyuv2": ("0", "1", "2"), "people": ("0001", "0002", "0003", "0004")}
    for reader, originals in ((Nyuv2Reader, NYUV2), (PeopleReader, PEOPLE)):
        name = reader.name
        monkeypatch.setattr(reader, "ids", lambda _, split, n=name: ids[n][:-1] if split == "train" else ids[n][-1:])
        small = archives.repository(archives.FILES[name](), originals, tmp_path / f"git-{name}")
        monkeypatch.setattr(reader, "repository", small)


def test_the_task_set_and_what_is_derived() -> None:
    assert [p.name for p in pairs("photos8")] == [
        *("people/semseg", "people/human_parts", "people/sal", "people/edge"),
        *("nyuv2/semseg", "nyuv2/normals", "nyuv2/edge", "nyuv2/depth"),
    ]
    assert [p.name for p in pairs("photos8") if p.derived] == ["people/edge", "nyuv2/normals", "nyuv2/edge"]
    assert pair_title("nyuv2/normals") == "Norm. (NYUv2, derived)"
    assert pair_title("nyuv2/depth") == "Depth (NYUv2)"
    assert [short_title(name) for name in ("people/edge", "nyuv2/depth")] == ["Edge Pd", "Depth N"]
    assert letters(p.name for p in pairs("photos8")) == "P people, N NYUv2, d derived labels"
    assert DOMAINS["people"].class_names["semseg"] == tuple(people.GARMENTS)
    assert DOMAINS["people"].class_names["human_parts"] == ("background", *people.PARTS)
    assert len(DOMAINS["nyuv2"].class_names["semseg"]) == 40


@pytest.mark.parametrize("domain", ["nyuv2", "people"])
@pytest.mark.parametrize("split_name", ["train", "val"])
def test_a_split_holds_its_samples(few: None, original: Path, tmp_path: Path, domain: str, split_name: str) -> None:
    split = load_split(CONFIG, domain, split_name, data_dir=original, cache_dir=tmp_path / "cache")
    form = nyuv2.Pictures(original / "nyuv2")
    for i, name in enumerate(split.ids):
        sample = nyuv2.Sample(form, int(name)) if domain == "nyuv2" else people.Sample(original / "people", name)
        assert split.native_size(i) == sample.size
        for task in DOMAINS[domain].channels:
            np.testing.assert_array_equal(split.native(task, i), sample.label(task))
            assert split.labels[task][i].shape[-2:] == (32, 32)
    assert split.images.shape == (len(split.ids), 3, 32, 32)
    if domain == "nyuv2":
        assert set(np.unique(split.labels["semseg"])) <= {*range(39), 255}


def test_where_the_photographs_are_looked_for(
    few: None, original: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(folder: Path | None) -> int:
        return len(load_split(CONFIG, "people", "val", data_dir=folder, cache_dir=tmp_path / "cache"))

    assert load(original) == load(original / "people") == 1
    other = tmp_path / f"clothing-co-parsing-{PEOPLE.commit}"
    other.symlink_to(original / "people")
    assert load(tmp_path) == 1
    (tmp_path / "people").symlink_to(original / "people")
    with pytest.raises(DataError, match="both hold the people data: expected one"):
        load(tmp_path)
    with pytest.raises(
        DataError, match=r"holds no people/ with annotations/pixel-level: `matfl data fetch people DIR`"
    ):
        load(tmp_path / "cache")
    monkeypatch.delenv("MATFL_DATA", raising=False)
    with pytest.raises(DataError, match="no folder was given for the people data: set MATFL_DATA"):
        load(None)
    (tmp_path / "nyuv2/data/nyu_images").mkdir(parents=True)
    (tmp_path / "nyuv2/nyu_depth_v2_labeled.mat").touch()
    with pytest.raises(DataError, match="expected one form of NYUv2; move one away"):
        load_split(CONFIG, "nyuv2", "val", data_dir=tmp_path, cache_dir=tmp_path / "cache")


def test_a_split_is_no_larger_than_it_is(few: None, original: Path, tmp_path: Path) -> None:
    config = replace(CONFIG, images_val=5)
    with pytest.raises(
        DataError, match=r"the val split of people lists 1 ids but the config wants 5: lower images_val"
    ):
        load_split(config, "people", "val", data_dir=original, cache_dir=tmp_path / "cache")


def test_a_changed_file_is_decoded_anew(few: None, original: Path, tmp_path: Path) -> None:
    data = Path(shutil.copytree(original, tmp_path / "data"))
    before = load_split(CONFIG, "people", "val", data_dir=data, cache_dir=tmp_path / "cache")
    path = data / "people/annotations/pixel-level/0004.mat"
    path.write_bytes(archives.matlab(groundtruth=np.full((60, 44), 41, np.uint8)))
    after = load_split(CONFIG, "people", "val", data_dir=data, cache_dir=tmp_path / "cache")
    assert (after.labels["semseg"] == 1).all()
    assert not (before.labels["semseg"] == 1).all()


def test_check_reads_everything_and_compares_it(few: None, original: Path, tmp_path: Path) -> None:
    report = check(original)
    assert report.ok, report.problems
    assert report.counts["nyuv2/train"] == report.counts["nyuv2/train/normals"] == 2
    assert report.counts["people/val/human_parts"] == 1
    data = Path(shutil.copytree(original, tmp_path / "data"))
    (data / "nyuv2/data/nyu_depths/1.png").unlink()
    (data / "people/photos/0002.jpg").write_bytes((data / "people/photos/0001.jpg").read_bytes())
    (data / "people/annotations/pixel-level/0004.mat").write_bytes(archives.matlab(groundtruth=np.zeros((60, 44))))
    report = check(data)
    text = "\n".join(report.problems)
    assert not report.ok
    assert "nyuv2/data/nyu_depths/1.png is missing: it is not that of commit 109cc25300c5" in text
    assert "people/photos/0002.jpg is altered" in text
    assert "0004.mat: groundtruth is empty (0 everywhere)" in text
    assert report.counts["nyuv2/train/image"] == 1
    assert report.counts["people/val/sal"] == 0
    assert check(data / "people").counts == {k: v for k, v in report.counts.items() if k.startswith("people")}


@pytest.mark.slow
def test_the_official_file_makes_the_same_split(tmp_path: Path) -> None:
    """A file of the official shape that holds a few images; what is not written is one class at 2 m."""
    h5py = pytest.importorskip("h5py")
    root = tmp_path / "nyuv2"
    root.mkdir()
    with h5py.File(root / "nyu_depth_v2_labeled.mat", "w") as file:
        for name, shape, dtype, fill in [
            ("images", (1449, 3, 640, 480), np.uint8, 7),
            ("labels", (1449, 640, 480), np.uint16, 5),
            ("depths", (1449, 640, 480), np.float32, 2.0),
        ]:
            file.create_dataset(name, shape, dtype, chunks=(1, *shape[1:]), compression="gzip", fillvalue=fill)
        file["labels"][1447] = np.arange(480)[None] // 240 * 3 + 1
    np.savetxt(root / "classMapping40.txt", np.arange(894) % 40 + 1, fmt="%d")
    split = load_split(replace(CONFIG, images_val=5), "nyuv2", "val", data_dir=tmp_path, cache_dir=tmp_path / "cache")
    assert split.ids[0] == "0"
    assert (split.labels["semseg"][0] == 4).all()
    assert (split.labels["depth"] == 2).all()
    np.testing.assert_allclose(split.labels["normals"][:, 2].astype(float), 1, atol=1e-3)


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("real")
    for name, file in (("nyuv2", "nyuv2.tar.gz"), ("people", "clothing-co-parsing.tar.gz")):
        fetch(name, folder, url=(REAL / file).as_uri())
    return folder


@with_real
def test_the_split_is_that_of_the_authors() -> None:
    splits = loadmat(REAL / "nyuv2_splits.mat")
    for name, variable in (("train", "trainNdxs"), ("val", "testNdxs")):
        assert nyuv2.split_indices(name) == tuple(sorted(int(n) - 1 for n in splits[variable].ravel()))


@pytest.mark.slow
@with_real
def test_every_real_photograph_decodes(real: Path) -> None:
    report = check(real)
    assert report.ok, report.problems
    for name, counts in {"nyuv2": (795, 654), "people": (803, 200)}.items():
        for split_name, count in zip(("train", "val"), counts):
            for kind in ("", "/image", *(f"/{task}" for task in DOMAINS[name].channels)):
                assert report.counts[f"{name}/{split_name}{kind}"] == count


@pytest.mark.slow
@with_real
def test_real_rooms_are_as_measured(real: Path) -> None:
    """By an own reading of the files: frame and orientation, steps of depth, what is unlabelled."""
    form = nyuv2.Pictures(real / "nyuv2")
    unlabelled, bright = [], np.zeros((480, 640))
    for i in range(0, 1449, 29):
        stored = [np.asarray(Image.open(path)) for path in form.files(i)]
        raw, sample = form.raw(i), nyuv2.Sample(form, i)
        for mine, theirs in zip((raw.image_HW3, raw.classes_HW), (stored[0], stored[2])):
            np.testing.assert_array_equal(mine, theirs[:, ::-1])
        depth = sample.label("depth")
        assert 0 < depth.min() < depth.max() <= 10.01
        steps = np.unique(depth) / (9.995 / 255) - 0.5
        np.testing.assert_allclose(steps, steps.round(), atol=2e-3)
        unlabelled.append((sample.label("semseg") == 255).mean())
        bright += raw.image_HW3.min(2) > 235
    bright /= len(unlabelled)
    rows, columns = bright[:, 100:500].mean(1) > 0.9, bright[100:400].mean(0) > 0.9
    # The white frame, once flipped: 6 rows above and 5 below, 6 columns at the left and 7 at the right.
    assert (rows.argmin(), rows[::-1].argmin()) == (5, 5)
    assert (columns.argmin(), columns[::-1].argmin()) == (6, 7)
    assert not rows[nyuv2.ROWS].any()
    assert not columns[nyuv2.COLUMNS].any()
    assert 0.15 < np.mean(unlabelled) < 0.25


@pytest.mark.slow
@with_real
def test_real_floors_are_flat_and_below_ceilings(real: Path) -> None:
    form, angles, up = nyuv2.Pictures(real / "nyuv2"), [], {"floor": [], "ceiling": [], "wall": []}
    for i in range(0, 1449, 21):
        sample = nyuv2.Sample(form, i)
        classes, normals = sample.label("semseg"), sample.label("normals")
        for name, where in up.items():
            mask = classes == DOMAINS["nyuv2"].class_names["semseg"].index(name)
            mask = ndimage.binary_erosion(mask, iterations=6)
            if mask.sum() < 10000:
                continue
            vectors = normals[:, mask]
            mean = vectors.mean(1) / np.linalg.norm(vectors.mean(1))
            where.append(-mean[1])  # the second axis points down
            if name == "floor":
                angles.append(np.degrees(np.arccos(np.clip(mean @ vectors, -1, 1))))
    joined = np.concatenate(angles)
    assert len(angles) > 30
    assert np.median(joined) < 6.6
    assert (joined < 11.25).mean() > 0.75
    assert np.median(up["floor"]) > 0.9
    assert np.median(up["ceiling"]) < -0.8
    assert abs(np.median(up["wall"])) < 0.25


@pytest.mark.slow
@with_real
def test_real_people_are_as_measured(real: Path) -> None:
    shares, labels = [], set()
    for path in sorted((real / "people/annotations/pixel-level").iterdir())[::10]:
        raw = loadmat(path)["groundtruth"]
        labels |= set(np.unique(raw).tolist())
        sample = people.Sample(real / "people", path.stem)
        height, width = sample.size
        assert width == 550
        assert 801 <= height <= 873
        shares.append((sample.label("sal") == 1).mean())
        np.testing.assert_array_equal(sample.label("sal"), raw != 0)
    assert abs(np.mean(shares) - 0.23) < 0.01
    assert labels <= set(range(59)) - {12, 30, 50}
    names = [str(name[0]) for name in loadmat(real / "people/label_list.mat")["label_list"].ravel()]
    assert len(names) == 59
    for group, members in {
        "footwear": "boots clogs flats heels loafers pumps sandals shoes sneakers wedges",
        "trousers": "jeans leggings pants",
        "bag": "bag purse wallet",
        "legwear": "socks stockings tights",
        "skirt and shorts": "shorts skirt",
        "dress": "dress romper swimwear",
        "outerwear": "blazer cape cardigan coat jacket suit",
    }.items():
        assert {names[label] for label in people.GARMENTS[group]} == set(members.split())
