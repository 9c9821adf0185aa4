"""Labels of the photographs: derived ones against closed forms, readers against what the tests wrote, bad input."""

from __future__ import annotations

import builtins
from collections.abc import Callable
from pathlib import Path

import numpy as np
import photo_archives as archives
import pytest
from scipy import ndimage
from skimage.morphology import thin

from matfl.data import DataError
from matfl.data.photos import derive, nyuv2, people
from matfl.data.photos.labelled_mat import FILE, LabelledMat

FOCAL, CENTRE = (100.0, 110.0), (63.0, 50.0)


def rays(shape: tuple[int, int]) -> np.ndarray:
    """(3, h, w): where each pixel looks at depth 1, in (right, down, forward)."""
    v, u = np.mgrid[: shape[0], : shape[1]]
    return np.stack([(u - CENTRE[0]) / FOCAL[0], (v - CENTRE[1]) / FOCAL[1], np.ones(shape)])


@pytest.mark.parametrize("normal", [(0, -1, -0.2), (0.3, 0.1, -1), (-0.6, 0.2, -0.8), (0, 0, -1)])
def test_a_plane_has_one_normal(normal: tuple[float, float, float]) -> None:
    unit = np.array(normal) / np.linalg.norm(normal)
    across = np.einsum("k,khw->hw", unit, rays((96, 128)))
    depth = np.where(across < -0.02, -1.5 / np.minimum(across, -0.02), 75)  # the plane n.P = -1.5, where it is seen
    seen = ndimage.binary_erosion(across < -0.06, iterations=24)
    found = derive.plane_normals(depth, FOCAL, CENTRE)
    assert found.shape == (3, 96, 128)
    assert seen.sum() > 500
    expected = unit * [1, 1, -1]  # towards the viewer instead of forward
    angles = np.degrees(np.arccos(np.clip(expected @ found[:, seen], -1, 1)))
    assert angles.max() < 1
    np.testing.assert_allclose(np.linalg.norm(found, axis=0), 1, atol=1e-5)


def test_normals_reach_the_border_and_follow_a_crease() -> None:
    depth = np.where(np.arange(160) < 80, 2.0, 2.0 + 0.02 * (np.arange(160) - 80))[None].repeat(120, 0)
    found = derive.plane_normals(depth, FOCAL, CENTRE)
    np.testing.assert_allclose(found[:, :, :60].reshape(3, -1).T, np.tile([0, 0, 1.0], (60 * 120, 1)), atol=1e-3)
    assert (found[0, :, 120:] > 0.3).all()  # the right part runs away to the right, as a corridor's left wall does


def test_one_stray_pixel_of_depth_moves_no_normal() -> None:
    depth = np.full((112, 128), 3.0)
    depth[40, 40] = 9
    np.testing.assert_allclose(derive.plane_normals(depth, FOCAL, CENTRE)[2], 1, atol=1e-6)


def boundaries_in_words(classes: np.ndarray) -> np.ndarray:
    marks = np.zeros(classes.shape, bool)
    height, width = classes.shape
    for y in range(height):
        for x in range(width):
            around = [(y, x + 1), (y + 1, x), (y + 1, x + 1)]
            if x == width - 1:
                around = [(y + 1, x)]
            elif y == height - 1:
                around = [(y, x + 1)]
            marks[y, x] = any(j < height and i < width and classes[j, i] != classes[y, x] for j, i in around)
    return thin(marks)


def test_boundaries_are_those_of_the_definition() -> None:
    rng = np.random.default_rng(0)
    for shape, side in [((40, 53), 9), ((30, 30), 3), ((17, 20), 1), ((1, 9), 2), ((9, 1), 2)]:
        classes = archives.blocks(rng, shape, 5, side)
        found = derive.boundaries(classes)
        assert found.dtype == np.uint8
        np.testing.assert_array_equal(found, boundaries_in_words(classes))


@pytest.mark.parametrize("width", range(1, 10))
@pytest.mark.parametrize("down", [False, True])
def test_strips_up_to_six_pixels_are_closed(width: int, down: bool) -> None:
    classes = np.full((40, 50), 3, np.uint8)
    classes[:, 20:] = 7
    classes[:, 20 : 20 + width] = 39
    filled = derive.fill_strips(classes.T if down else classes, 39, 6)
    filled = filled.T if down else filled
    if width > 6:
        np.testing.assert_array_equal(filled, classes)
    else:
        assert not (filled == 39).any()
        edge = (filled == 3).sum(1)
        assert (edge == edge[0]).all()
        assert abs(edge[0] - (20 + width / 2)) <= 0.5
    assert (derive.boundaries(filled).sum(1) == (1 if width <= 6 else 2)).sum() >= 35


def test_wide_regions_keep_their_shape_and_lose_their_tentacles() -> None:
    classes = np.zeros((40, 40), np.uint8)
    classes[10:25, 10:25] = 39
    classes[15:18, 25:] = 39
    filled = derive.fill_strips(classes, 39, 6)
    assert (filled[10:25, 10:25] == 39).all()
    assert (filled == 39).sum() == 15 * 15
    everything = np.full((5, 5), 39, np.uint8)
    np.testing.assert_array_equal(derive.fill_strips(everything, 39, 6), everything)


@pytest.fixture(scope="module")
def rooms() -> dict[str, bytes]:
    return archives.nyuv2_files()


def place(files: dict[str, bytes], root: Path) -> Path:
    for path, content in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(content)
    return root


def opened(content: bytes) -> np.ndarray:
    import io

    from PIL import Image

    return np.asarray(Image.open(io.BytesIO(content)))


def test_nyuv2_is_mirrored_cropped_and_in_metres(rooms: dict[str, bytes], tmp_path: Path) -> None:
    sample = nyuv2.Sample(nyuv2.Pictures(place(rooms, tmp_path)), 2)
    inside = (slice(45, 471), slice(41, 601))
    assert sample.size == (426, 560)
    np.testing.assert_array_equal(sample.image(), opened(rooms["data/nyu_images/2.jpg"])[:, ::-1][inside])
    raw = opened(rooms["data/nyu_labels40/2.png"])[:, ::-1][inside]
    semseg = sample.label("semseg")
    np.testing.assert_array_equal(semseg, np.where(raw == 39, 255, raw))
    assert (semseg == 255).any()
    levels = opened(rooms["data/nyu_depths/2.png"])[:, ::-1][inside].astype(float)
    np.testing.assert_allclose(sample.label("depth"), (levels + 0.5) / 255 * 9.995, rtol=1e-5)
    for task, dtype, shape in [("edge", np.uint8, (426, 560)), ("normals", np.float32, (3, 426, 560))]:
        label = sample.label(task)
        assert (label.dtype, label.shape) == (dtype, shape)
    np.testing.assert_array_equal(sample.label("edge"), derive.boundaries(raw))  # its blocks leave no strips


def test_the_official_split() -> None:
    train, val = (nyuv2.split_indices(name) for name in ("train", "val"))
    assert (len(train), len(val)) == (795, 654)
    assert sorted(train + val) == list(range(1449))
    assert train[:5] == (2, 3, 4, 5, 6)
    assert val[:5] == (0, 1, 8, 13, 14)


def png(change: Callable[[np.ndarray], np.ndarray]) -> Callable[[bytes], bytes]:
    return lambda content: archives.picture(change(opened(content)), "png")


@pytest.mark.parametrize(
    "file, change, message",
    [
        (
            "depths",
            png(lambda v: v.astype(np.uint16) * 40),
            r"nyu_depths/0.png is of mode I;16: expected L, one 8-bit channel",
        ),
        ("depths", png(lambda v: v[:240]), r"nyu_depths/0.png is 240x640: expected 480x640"),
        ("depths", lambda content: content[:-20], r"nyu_depths/0.png cannot be read as an image .*truncated; restore"),
        ("labels40", png(lambda v: v + np.uint8(1)), r"nyu_labels40/0.png: class 1 to 40 is out of range.* 0 to 39"),
        ("labels40", png(lambda v: np.stack([v] * 3, 2)), r"nyu_labels40/0.png is of mode RGB: expected L"),
        ("images", lambda content: b"GIF89a" + content, r"nyu_images/0.jpg is a GIF file: expected JPEG"),
        ("images", None, r"nyu_images/0.jpg is missing: remove .* and fetch again"),
    ],
)
def test_bad_files_of_nyuv2_are_named(
    rooms: dict[str, bytes], tmp_path: Path, file: str, change: Callable[[bytes], bytes] | None, message: str
) -> None:
    name = next(path for path in rooms if f"nyu_{file}/0." in path)
    files = dict(rooms)
    content = files.pop(name)
    place(files if change is None else files | {name: change(content)}, tmp_path)
    with pytest.raises(DataError, match=message):
        nyuv2.Sample(nyuv2.Pictures(tmp_path), 0).label("depth")


def mat(root: Path, *, images: int = 3, **changes: np.ndarray) -> LabelledMat:
    """A small file of the official form: MATLAB's axes reversed, every value a function of where it is."""
    h5py = pytest.importorskip("h5py")
    w, h = np.mgrid[:640, :480]
    values: dict[str, np.ndarray] = {
        "images": np.stack([np.stack([w % 256, h % 256, w * 0 + i]) for i in range(images)]).astype(np.uint8),
        "labels": np.stack([(w // 20 + i) % 60 * 15 for i in range(images)]).astype(np.uint16),
        "depths": np.stack([1 + h / 480 + w / 640 + i for i in range(images)]).astype(np.float32),
        **changes,
    }
    with h5py.File(root / FILE, "w") as file:
        for name, value in values.items():
            file.create_dataset(name, data=value, compression="gzip")
    (root / "classMapping40.mat").write_bytes(archives.matlab(mapClass=np.arange(894)[None] % 40 + 1))
    return LabelledMat(root)


def test_the_official_file_is_read_as_it_lies(tmp_path: Path) -> None:
    form = mat(tmp_path)
    sample = nyuv2.Sample(form, 1)
    y, x = np.mgrid[45:471, 41:601]
    np.testing.assert_array_equal(sample.image(), np.stack([x % 256, y % 256, x * 0 + 1], 2))
    np.testing.assert_allclose(sample.label("depth"), 2 + y / 480 + x / 640, rtol=1e-6)
    label = (x // 20 + 1) % 60 * 15
    classes = np.where(label == 0, 255, (label - 1) % 40)
    np.testing.assert_array_equal(sample.label("semseg"), np.where(classes == 39, 255, classes))
    np.savetxt(tmp_path / "classMapping40.txt", np.arange(894) % 40 + 1, fmt="%d")
    (tmp_path / "classMapping40.mat").unlink()
    np.testing.assert_array_equal(nyuv2.Sample(form, 1).label("semseg"), sample.label("semseg"))
    with pytest.raises(DataError, match="images has 3 images, so image 3 is missing"):
        form.raw(3)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"depths": np.zeros((1, 640, 480), np.float32)}, r"depth of image 0 0 to 0 is out of range: expected metres"),
        ({"depths": np.ones((1, 480, 640), np.float32)}, r"depths is float32 of shape \(1, 480, 640\): expected"),
        ({"depths": np.ones((1, 640, 480), np.uint16)}, r"depths is uint16 of shape"),
        ({"labels": np.full((1, 640, 480), 895, np.uint16)}, r"label of image 0 895 to 895 is out of range: .* 894"),
    ],
)
def test_bad_official_files_are_named(tmp_path: Path, changes: dict[str, np.ndarray], message: str) -> None:
    with pytest.raises(DataError, match=message):
        mat(tmp_path, images=1, **changes).raw(0)


def test_bad_mappings_and_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    form = mat(tmp_path, images=1)
    (tmp_path / "classMapping40.mat").write_bytes(archives.matlab(other=1))
    with pytest.raises(DataError, match="has no variable mapClass"):
        form.raw(0)
    (tmp_path / "classMapping40.mat").write_bytes(archives.matlab(mapClass=np.arange(894)))
    with pytest.raises(DataError, match=r"class 0 to 893 is out of range: expected whole numbers of 1 to 40"):
        form.raw(0)
    (tmp_path / "classMapping40.mat").unlink()
    with pytest.raises(DataError, match=r"classMapping40.mat is missing: .*mapping to 40 classes is needed"):
        form.raw(0)
    (tmp_path / "classMapping40.txt").write_text("1 2 3")
    with pytest.raises(DataError, match="has 3 entries: expected 894"):
        form.raw(0)
    (tmp_path / "classMapping40.txt").write_text("1 " * 894)
    (tmp_path / FILE).write_bytes(b"MATLAB 5.0")
    with pytest.raises(DataError, match="cannot be read as an HDF5 file"):
        form.raw(0)

    def without(name: str, *rest: object, **more: object) -> object:
        if name == "h5py":
            raise ImportError(name)
        return original(name, *rest, **more)  # type: ignore[arg-type]

    original = builtins.__import__
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(DataError, match=r"needs h5py, `pip install 'matfl\[hdf5\]'`"):
        form.raw(0)


@pytest.fixture
def persons(tmp_path: Path) -> Path:
    return place(archives.people_files(), tmp_path / "people")


def test_people_are_merged_by_the_annotations_names(persons: Path) -> None:
    raw = archives_labels(persons, "0001")
    sample = people.Sample(persons, "0001")
    assert sample.size == raw.shape == (60, 44)
    garment = {label: name for name, labels in people.GARMENTS.items() for label in labels}
    assert sorted(garment) == list(range(59))
    names = np.array(list(people.GARMENTS))
    np.testing.assert_array_equal(names[sample.label("semseg")], np.vectorize(garment.get)(raw))
    np.testing.assert_array_equal(sample.label("sal"), raw > 0)
    parts = np.zeros_like(raw)
    for index, labels in enumerate(people.PARTS.values(), start=1):
        parts[np.isin(raw, labels)] = index
    np.testing.assert_array_equal(sample.label("human_parts"), parts)
    np.testing.assert_array_equal(sample.label("edge"), derive.boundaries(sample.label("semseg")))


def archives_labels(root: Path, name: str) -> np.ndarray:
    from scipy.io import loadmat

    return np.asarray(loadmat(root / f"annotations/pixel-level/{name}.mat")["groundtruth"])


def test_parts_by_hand() -> None:
    labels = {
        "hair": 19,
        "sunglasses": 47,
        "skin": 41,
        "t-shirt": 51,
        "coat": 13,
        "jeans": 25,
        "socks": 44,
        "dress": 14,
    }
    expected = dict(zip(labels, (1, 1, 2, 3, 3, 4, 4, 5))) | {"boots": 6, "bag": 0, "belt": 0, "null": 0}
    labels |= {"boots": 7, "bag": 2, "belt": 3, "null": 0}
    order = ["background", *people.PARTS]
    for name, label in labels.items():
        assert [part for part, members in people.PARTS.items() if label in members] == order[expected[name] :][
            : expected[name] > 0
        ]


def test_every_fifth_photograph_is_for_validation() -> None:
    train, val = people.split_ids("train"), people.split_ids("val")
    assert (len(train), len(val)) == (803, 200)
    assert val[:2] == ("0005", "0010")
    assert "0536" not in train + val


@pytest.mark.parametrize(
    "values, message",
    [
        ({"other": np.ones((60, 44), np.uint8)}, r"0002.mat has no variable groundtruth; restore"),
        ({"groundtruth": np.full((60, 44), 59, np.uint8)}, r"label 59 to 59 is out of range: .* 0 to 58"),
        ({"groundtruth": np.full((60, 44), 1.5)}, r"label 1.5 to 1.5 is out of range"),
        ({"groundtruth": np.full((60, 44), np.nan)}, r"is out of range"),
        ({"groundtruth": np.ones((44, 60), np.uint8)}, r"0002.mat is 44x60 but 0002.jpg is 60x44: expected the same"),
        ({"groundtruth": np.ones((2, 2, 2), np.uint8)}, r"holds no map of labels"),
        ({"groundtruth": "text"}, r"holds no map of labels"),
        ({"groundtruth": np.zeros((60, 44), np.uint8)}, r"0002.mat: groundtruth is empty \(0 everywhere\)"),
        ({"groundtruth": np.zeros((0, 0), np.uint8)}, r"0002.mat: groundtruth|0002.mat is 0x0"),
        (None, r"0002.mat cannot be read as a MATLAB 5 file"),
    ],
)
def test_bad_annotations_are_named(persons: Path, values: dict[str, object] | None, message: str) -> None:
    path = persons / "annotations/pixel-level/0002.mat"
    path.write_bytes(path.read_bytes()[:100] if values is None else archives.matlab(**values))
    with pytest.raises(DataError, match=message):
        people.Sample(persons, "0002").label("semseg")


def test_a_missing_photograph_is_named(persons: Path) -> None:
    (persons / "photos/0002.jpg").unlink()
    with pytest.raises(DataError, match=r"photos/0002.jpg is missing: remove .*people and fetch again"):
        people.Sample(persons, "0002")
