"""The embedded benchmark written in the real layouts comes back as it was rendered, whoever reads it."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import real_layouts as files
import torch
from PIL import Image
from scipy.io import loadmat

from matfl import scenes
from matfl.config.run_config import RunConfig
from matfl.data import DataError, check, load_split, make
from matfl.data.cache import locked
from matfl.data.decode import VALID_NORMALS

SEED, TRAIN, VAL, SIZE = 4, 5, 3, 48
VARIANTS = {"mt": ("PASCAL_MT", "NYUD_MT"), "fedhca2": ("PASCALContext", "NYUDv2")}


@pytest.fixture(scope="module", params=["mt", "fedhca2"])
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    base = tmp_path_factory.mktemp(request.param)
    record = make(base, train=TRAIN, val=VAL, size=SIZE, seed=SEED, variant=request.param)
    assert [Path(folder).name for folder in record.folders] == list(VARIANTS[request.param])
    return request.param, base


def rendered(domain: str, split: str) -> dict[str, np.ndarray]:
    count = TRAIN if split == "train" else VAL
    tensors = scenes.render(domain, split, range(count), seed=SEED, size=SIZE)
    return {name: tensor.numpy() for name, tensor in tensors.items()}


def compare(task: str, found: np.ndarray, truth: np.ndarray, *, eight_bits: bool) -> None:
    if task == "image":
        assert np.abs(found.astype(float) - truth).mean() < (4 if not eight_bits else 1e-9)
    elif task == "normals":
        known = truth.any(0)
        np.testing.assert_array_equal(found.any(0), known)
        np.testing.assert_allclose(np.linalg.norm(found, axis=0)[known], 1, atol=1e-5)
        np.testing.assert_allclose(found, truth, atol=1 / 127)
    else:
        np.testing.assert_allclose(found, truth)


@pytest.mark.parametrize("split", ["train", "val"])
@pytest.mark.parametrize("domain, real", [("outdoor", "pascal"), ("indoor", "nyud")])
def test_our_reader_gives_back_what_was_rendered(
    made: tuple[str, Path], tmp_path: Path, domain: str, real: str, split: str
) -> None:
    variant, base = made
    loaded = load_split(RunConfig(size=SIZE), real, split, data_dir=base, cache_dir=tmp_path)
    truth = rendered(domain, split)
    assert len(loaded) == len(truth["image"])
    for i in range(len(loaded)):
        compare("image", loaded.images[i], truth["image"][i], eight_bits=variant == "fedhca2" and real == "nyud")
        for task in loaded.labels:
            compare(task, loaded.native(task, i), truth[task][i], eight_bits=True)
    assert (loaded.labels["edge"] == truth["edge"]).all()


@pytest.mark.parametrize("split", ["train", "val"])
def test_an_independent_reader_gives_it_back_as_well(made: tuple[str, Path], split: str) -> None:
    variant, base = made
    pascal, nyud = (base / name for name in VARIANTS[variant])
    for domain, root, ids in (
        ("outdoor", pascal, (pascal / f"ImageSets/Context/{split}.txt").read_text().split()),
        ("indoor", nyud, (nyud / f"gt_sets/{split}.txt").read_text().split()),
    ):
        truth = rendered(domain, split)
        assert len(ids) == len(truth["image"])
        for i, name in enumerate(ids):
            if domain == "outdoor":
                found = files.read_pascal(root, name, set(VALID_NORMALS))
            else:
                found = files.read_nyud(root, name)
            found["image"] = found["image"].transpose(2, 0, 1)
            assert set(found) == set(truth)
            for task, values in found.items():
                compare(task, values, truth[task][i], eight_bits=variant == "fedhca2" and domain == "indoor")


def test_the_nesting_of_anno_is_pascal_parts(made: tuple[str, Path]) -> None:
    root = made[1] / VARIANTS[made[0]][0]
    persons = others = 0
    for path in sorted((root / "human_parts").glob("*.mat")):
        anno = loadmat(path)["anno"]
        assert anno.dtype.names == ("imname", "objects")
        assert anno[0][0][0][0] == path.stem
        for thing in anno[0][0][1][0]:
            category, mask, parts = thing[1][0][0], thing[2], thing[3]
            assert mask.shape == (SIZE, SIZE)
            assert mask.any()
            if category == 15:
                persons += 1
                assert parts.shape[0] == 1
                for part in parts[0]:
                    assert isinstance(str(part[0][0]), str)
                    assert part[1].shape == mask.shape
                    assert (part[1] <= mask).all()
            else:
                others += 1
                assert parts.size == 0
    assert persons
    assert others


def test_only_the_sky_lacks_normals_by_class(made: tuple[str, Path]) -> None:
    root = made[1] / VARIANTS[made[0]][0]
    normals = rendered("outdoor", "train")["normals"]
    for i, path in enumerate(sorted((root / "pascal-context/trainval").glob("2008_*.mat"))):
        valid = np.isin(loadmat(path)["LabelMap"], sorted(VALID_NORMALS))
        np.testing.assert_array_equal(valid, normals[i].any(0))


def test_check_finds_it_sound(made: tuple[str, Path]) -> None:
    report = check(made[1])
    assert report.ok, report.problems
    for folder in VARIANTS[made[0]]:
        assert report.counts[f"{folder}/train"] == TRAIN
        assert report.counts[f"{folder}/val/edge"] == VAL
        facts = json.loads((made[1] / folder / "EMBEDDED.json").read_text())
        assert facts["seed"] == SEED
        assert "no photographs" in facts["what"]


def test_semseg_pictures_have_vocs_colours(made: tuple[str, Path]) -> None:
    picture = Image.open(next((made[1] / VARIANTS[made[0]][0] / "semseg/VOC12").iterdir()))
    assert picture.mode == "P"
    palette = np.array(picture.getpalette()).reshape(-1, 3)
    assert palette[[0, 1, 15, 255]].tolist() == [[0, 0, 0], [128, 0, 0], [192, 128, 128], [224, 224, 192]]


def test_the_files_do_not_depend_on_what_is_rendered_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path / "a", train=3, val=1, size=32)
    monkeypatch.setattr("matfl.data.write.CHUNK", 2)
    make(tmp_path / "b", train=3, val=1, size=32)
    listed = sorted(path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*.*"))
    assert len(listed) == 2 + 2 * 2 + 4 * 6 + 4 * 5
    for path in listed:
        assert (tmp_path / "a" / path).read_bytes() == (tmp_path / "b" / path).read_bytes(), path


def test_nothing_is_overwritten_and_nothing_half_made_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "NYUD_MT").mkdir()
    with pytest.raises(DataError, match="NYUD_MT is there already: remove it"):
        make(tmp_path, train=1, val=1, size=32)
    assert [path.name for path in tmp_path.iterdir()] == ["NYUD_MT"]
    monkeypatch.setattr("matfl.data.write._write_pascal", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        make(tmp_path / "other", train=1, val=1, size=32)
    assert list((tmp_path / "other").iterdir()) == []


SLOW_MAKING = """
import os, sys, time
from matfl.data import write
write.CHUNK = 1
write.processes_for = lambda seconds: int(sys.argv[2])
make_chunk = write._write_chunk
def slow(*arguments):
    ids = make_chunk(*arguments)
    os.write(1, f"{os.getpid()} {arguments[0].kind} {ids[0]}\\n".encode())
    time.sleep(0.1)
    return ids
write._write_chunk = slow
write.make(sys.argv[1], train=4, val=1, size=32)
"""


def started(folder: Path, processes: int, lines: int) -> list[str]:
    """The first lines of a slow `make` (process, layout and id of an image each), which is killed after them.

    Its worker processes are seen to be gone a little later, those without a line as well.
    """
    arguments = [sys.executable, "-c", SLOW_MAKING, str(folder), str(processes)]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        read = [process.stdout.readline() for _ in range(lines)]
        tasks = Path(f"/proc/{process.pid}/task").glob("*/children")  # by the thread that started them
        children = [child for task in tasks for child in task.read_text().split()]
        process.kill()
    until = time.monotonic() + 20
    while time.monotonic() < until and any(Path(f"/proc/{child}").exists() for child in children):
        time.sleep(0.1)
    assert not [child for child in children if Path(f"/proc/{child}").exists()]
    return read


@pytest.mark.parametrize("images", [3, 8])  # within the first folder, and after it has appeared
def test_a_killed_making_can_be_repeated_and_leaves_nothing(tmp_path: Path, images: int) -> None:
    made = make(tmp_path / "whole", train=4, val=1, size=32)
    layout = started(tmp_path / "cut", 1, images)[-1].split()[1]
    assert layout == ("pascal" if images == 3 else "nyud")
    assert [path.name for path in (tmp_path / "cut").glob(".*.make-*")] != []
    assert make(tmp_path / "cut", train=4, val=1, size=32).counts == made.counts
    assert sorted(path.name for path in (tmp_path / "cut").iterdir()) == ["NYUD_MT", "PASCAL_MT"]
    whole = {path.relative_to(tmp_path / "whole"): path for path in (tmp_path / "whole").rglob("*.*")}
    cut = {path.relative_to(tmp_path / "cut"): path for path in (tmp_path / "cut").rglob("*.*")}
    assert whole.keys() == cut.keys()
    assert all(cut[name].read_bytes() == path.read_bytes() for name, path in whole.items())
    with pytest.raises(DataError, match="PASCAL_MT is there already: remove it"):
        make(tmp_path / "cut", train=4, val=1, size=32, seed=1)


@pytest.mark.slow
def test_a_terminated_making_leaves_nothing_at_once(tmp_path: Path) -> None:
    arguments = [sys.executable, "-m", "matfl", "data", "make", str(tmp_path), "--train", "3000", "--size", "96"]
    with subprocess.Popen(arguments) as process:
        until = time.monotonic() + 60
        while not list(tmp_path.glob(".*.make-*/semseg/*/*.png")) and time.monotonic() < until:
            time.sleep(0.05)
        assert list(tmp_path.iterdir())
        process.terminate()
    assert process.returncode == 143
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_workers_end_with_the_process_that_started_them(tmp_path: Path) -> None:
    workers = [line.split()[0] for line in started(tmp_path, 2, 3)]
    assert not [worker for worker in workers if Path(f"/proc/{worker}").exists()]


def test_two_at_once_are_refused(tmp_path: Path) -> None:
    with (
        locked(tmp_path / ".make.lock"),
        pytest.raises(DataError, match="another process is writing data sets here; wait for it"),
    ):
        make(tmp_path, train=1, val=1, size=32)
    make(tmp_path, train=1, val=1, size=32)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["NYUD_MT", "PASCAL_MT"]


def test_bad_arguments(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="variant 'voc': choose 'mt' or 'fedhca2'"):
        make(tmp_path, variant="voc")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="each split needs 1 to 999999 images"):
        make(tmp_path, val=0)
    with pytest.raises(ValueError, match=r"train=10000000000.*: each split needs 1 to 999999 images"):
        make(tmp_path, train=10**10)
    with pytest.raises(ValueError, match="size=1000000: choose 16 to 8192 pixels"):
        make(tmp_path, size=10**6)
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="cannot write"):
        make(tmp_path / "file", train=1, val=1)


def test_a_network_size_other_than_the_pictures(made: tuple[str, Path], tmp_path: Path) -> None:
    config = replace(RunConfig(size=32), images_train=2)
    loaded = load_split(config, "pascal", "train", data_dir=made[1], cache_dir=tmp_path)
    assert loaded.images.shape == (2, 3, 32, 32)
    assert loaded.native_size(1) == (SIZE, SIZE)
    assert torch.from_numpy(loaded.native("normals", 1)).shape == (3, SIZE, SIZE)


LIMITED = """
import resource, sys
from pathlib import Path
import numpy as np
from matfl.data import write
values = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
work = {"a.jpg": write._save_image, "a.png": write._save_image, "a.npy": write._save_array}
sizes = {}
for name, save in work.items():
    save(Path(sys.argv[1], name), values)
    sizes[name] = Path(sys.argv[1], name).stat().st_size
for name, save in work.items():
    resource.setrlimit(resource.RLIMIT_FSIZE, (sizes[name] - 1, resource.RLIM_INFINITY))
    try:
        save(Path(sys.argv[1], "b" + name), values)
        print(name, "was cut in silence")
    except OSError:
        pass
"""


def test_a_file_for_which_there_is_no_room_is_an_error(tmp_path: Path) -> None:
    """Pillow's JPEG encoder takes a write of fewer bytes for a whole one."""
    done = subprocess.run([sys.executable, "-c", LIMITED, tmp_path], capture_output=True, text=True, check=True)
    assert done.stdout == ""
