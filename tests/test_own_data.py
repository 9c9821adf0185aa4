"""Tasks and data of one's own, as a user would add them without touching the package."""

import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from own_data import arrays, forget, register
from PIL import Image
from tiny import tiny

from matfl.core.registry import PLUGINS
from matfl.data import DataError, from_arrays, from_folder, load_split
from matfl.data.augment import Warp, warp
from matfl.runs.engine import run
from matfl.runs.predict import predict, write_predictions
from matfl.runs.run import Run, load_or_run
from matfl.runs.store import RunError
from matfl.runs.workspace import Workspace
from matfl.tasks.kinds import Quantity
from matfl.tasks.task import DOMAINS, TASKS, Domain, pair, pairs

CHANNELS = {"height": 1, "bright": 2}


@pytest.fixture(scope="module", autouse=True)
def slopes():
    yield register()
    forget()


def own(**changes):
    return tiny(**{"tasks": "slopes", "k": 2, "size": 0, "images_train": 0, "images_val": 0, **changes})


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    base = tmp_path_factory.mktemp("own")
    run(own(lr=0.01, images_per_client=0), base / "run", cache_dir=base / "cache")
    return Run(base / "run"), base / "cache"


def test_a_domain_stands_for_all_its_tasks(slopes):
    assert [p.name for p in pairs("slopes")] == ["slopes/height", "slopes/bright"]
    assert [p.name for p in pairs("slopes, indoor/depth")] == ["slopes/height", "slopes/bright", "indoor/depth"]
    assert slopes.size == (32, 32)


def test_a_seventh_task_on_own_arrays_is_trained_and_measured(trained, slopes):
    run, _ = trained
    found = {(row.task, row.metric): row.value for row in run.metrics[run.metrics["kind"] == "global"].itertuples()}
    assert {metric for task, metric in found if task == "height"} == {"rmse", "mae"}
    assert 0 < found["height", "rmse"] < 1.5, "heights are 2 to 5; the head starts at their mean"
    assert 0 < found["bright", "mIoU"] <= 1
    assert run.provenance["data"]["domain slopes"] == slopes.source.fingerprint


def test_predictions_are_what_was_measured(trained, tmp_path):
    """The stored score is that of predict's answers against the labels; pictures are drawn by the task."""
    run, cache = trained
    split = load_split(run.config, "slopes", "val", cache_dir=cache)
    files = [tmp_path / f"{name}.png" for name in split.ids]
    for file, image in zip(files, split.images):
        Image.fromarray(np.asarray(image).transpose(1, 2, 0)).save(file)
    last = run.metrics[(run.metrics["kind"] == "global") & (run.metrics["round"] == run.config.rounds)]
    for p in pairs("slopes"):
        meter = p.meter()
        for i, (_, _, answer) in enumerate(predict(run, files, tasks=[p.name])):
            meter.update(torch.from_numpy(answer)[None], torch.from_numpy(split.native(p.task.name, i))[None])
        for row in last[last["task"] == p.task.name].itertuples():
            assert meter.compute()[row.metric] == pytest.approx(row.value, rel=1e-4), row.metric
    drawn = list(write_predictions(run, files[:1], tmp_path / "out"))
    assert [path.name.split("-")[-1] for path in drawn] == ["height.png", "bright.png"]
    assert all(Image.open(path).size == (32, 32) for path in drawn)


def test_a_run_is_not_gone_on_with_on_other_arrays(trained, slopes, tmp_path):
    cache = trained[1]
    run(own(rounds=2), tmp_path / "run", cache_dir=cache, stop=lambda: True)
    other = {"train": arrays(16, 5), "val": arrays(4, 1)}
    DOMAINS.remove("slopes")
    try:
        DOMAINS.register(from_arrays("slopes", channels=CHANNELS, **other))
        with pytest.raises(RunError, match=r"begun with other data \(fingerprint of domain slopes: \w{16} then, "):
            run(own(rounds=2), tmp_path / "run", cache_dir=cache)
    finally:
        DOMAINS.remove("slopes")
        DOMAINS.register(slopes)
    run(own(rounds=2), tmp_path / "run", cache_dir=cache)
    assert Run(tmp_path / "run").finished


def test_fingerprints_tell_contents_apart(slopes):
    same = from_arrays("slopes", train=arrays(16, 0), val=arrays(4, 1), channels=CHANNELS)
    assert same == slopes
    changed = arrays(16, 0)
    changed["height"][3, 10, 10] += 0.5
    other = from_arrays("slopes", train=changed, val=arrays(4, 1), channels=CHANNELS)
    assert other != slopes
    swapped = from_arrays("slopes", train=arrays(4, 1), val=arrays(16, 0), channels=CHANNELS)
    assert len({d.source.fingerprint for d in (slopes, other, swapped)}) == 3


def test_a_pickle_finds_its_arrays_in_the_cache_or_says_what_to_do(slopes, tmp_path):
    there = pickle.loads(pickle.dumps(slopes))
    assert there == slopes
    assert len(pickle.dumps(slopes)) < 2000
    with pytest.raises(DataError, match="neither in this process nor in its cache: share the cache"):
        load_split(own(), there, "val", cache_dir=tmp_path)
    first = load_split(own(), slopes, "val", cache_dir=tmp_path)
    second = load_split(own(), there, "val", cache_dir=tmp_path)
    np.testing.assert_array_equal(second.native("height", 2), arrays(4, 1)["height"][2])
    np.testing.assert_array_equal(first.images, second.images)
    np.testing.assert_array_equal(first.images, arrays(4, 1)["images"])


def test_other_network_sizes_are_measured_at_the_arrays_own(slopes, tmp_path):
    split = load_split(own(size=64), slopes, "val", cache_dir=tmp_path)
    assert split.images.shape == (4, 3, 64, 64)
    assert split.native_size(0) == (32, 32)
    assert split.native("bright", 1).shape == (32, 32)


def test_unlabelled_numbers_stay_unlabelled_when_pictures_are_turned():
    labels = torch.from_numpy(arrays(3, 0)["height"])
    images = torch.from_numpy(arrays(3, 0)["images"])
    still = Warp(torch.zeros(3), torch.zeros(3), torch.ones(3))
    _, same = warp(images, labels, pair("slopes/height"), still)
    torch.testing.assert_close(same, labels, equal_nan=True)
    turned = Warp(torch.tensor([0.0, 1, 0]), torch.tensor([0.0, 0, 0.3]), torch.tensor([0.5, 1, 1.3]))
    _, target = warp(images, labels, pair("slopes/height"), turned)
    assert target[0].isnan().sum() > 3 * labels[0].isnan().sum(), "what enters from outside has no label"
    torch.testing.assert_close(target[1], labels[1].flip(-1), equal_nan=True)
    known = target[~target.isnan()]
    assert known.min() >= 2, "heights are not divided by the zoom"
    assert known.max() <= 5


@pytest.mark.parametrize(
    "change, match",
    [
        (
            {"images": lambda a: a.astype(np.float32) / 255},
            r"train\['images'\] is float32 \(16, 3, 32, 32\): expected",
        ),
        ({"images": lambda a: a.transpose(0, 2, 3, 1)}, r"use images.transpose\(0, 3, 1, 2\)"),
        ({"height": lambda a: a[:3]}, r"train\['height'\] has shape \(3, 32, 32\): expected \(16, 32, 32\)"),
        (
            {"height": lambda a: np.full_like(a, np.inf)},
            r"\['height'\]\[0\]: 1024 of 1024 pixels are wrong, the first",
        ),
        ({"height": lambda a: np.full_like(a, np.nan)}, r"\['height'\]\[0\]: no pixel has a label \(NaN means none\)"),
        (
            {"bright": lambda a: a * 2},
            r"\['bright'\]\[0\]: \d+ of 1024 pixels are wrong, the first 2: expected classes",
        ),
        (
            {"bright": lambda a: a.astype(np.float32)},
            r"\['bright'\] is float32: expected whole numbers",
        ),
        ({"bright": lambda a: a.astype(np.int64) - 1}, r"\['bright'\]\[0, 0, 0\] is -1: expected 0 to 255"),
        ({"more": lambda a: a}, "'more' is in one split alone"),
    ],
)
def test_wrong_arrays_are_named(change, match):
    given = arrays(16, 0)
    for name, how in change.items():
        given[name] = how(given.get(name, given["bright"]))
    good = arrays(4, 1)
    train, val = (good, given) if "more" in change else (given, good)
    with pytest.raises(ValueError, match=match):
        from_arrays("wrong", train=train, val=val, channels=CHANNELS)


@pytest.mark.parametrize(
    "task, value, match",
    [
        ("depth", np.uint16(3000), r"\['depth'\]\[0\]: the greatest is 3000: expected metres; divide millimetres by"),
        ("depth", np.float32(0), r"\['depth'\]\[0\]: no pixel has a label \(0 means none\)"),
        (
            "sal",
            np.uint8(255),
            "255 occurs but 1 never does: 1 is yes, 255 no label; write masks of 0 and 255",
        ),
        ("normals", np.float32(0.5), r"\['normals'\] has shape \(2, 32, 32\): expected \(2, 3, 32, 32\)"),
        ("semseg", np.uint8(1), r"how many classes has 'semseg'\? Give channels={'semseg': ...}"),
        ("altitude", np.uint8(1), "unknown task 'altitude': choose from semseg"),
    ],
)
def test_implausible_labels_are_found(task, value, match):
    given = {"images": arrays(2, 0)["images"], task: np.full((2, 32, 32), value)}
    with pytest.raises(ValueError, match=match):
        from_arrays("implausible", train=given, val=given)


def test_names_of_the_package_stay_its_own():
    with pytest.raises(ValueError, match="'depth' is one of the package's tasks"):
        TASKS.register(Quantity(name="depth", title="Mine"))
    with pytest.raises(ValueError, match="use letters, digits and _"):
        Quantity(name="my/height", title="Height")
    with pytest.raises(ValueError, match="has 2 channels, but 3 class names"):
        Domain(name="x", title="x", channels={"bright": 2}, reader="own", class_names={"bright": ("a", "b", "c")})


def write_folder(root: Path) -> Path:
    for split, n, seed in (("train", 6, 0), ("val", 3, 1)):
        for kind in ("images", "height", "bright"):
            (root / split / kind).mkdir(parents=True)
        held = arrays(n, seed, size=40)
        for i in range(n):
            name = f"{split}{i}"
            picture = Image.fromarray(held["images"][i].transpose(1, 2, 0)[: 40 - 4 * (i % 2)])
            picture.save(root / split / "images" / f"{name}.png")
            np.save(root / split / "height" / f"{name}.npy", held["height"][i][: 40 - 4 * (i % 2)])
            label = Image.fromarray(held["bright"][i][: 40 - 4 * (i % 2)])
            label.save(root / split / "bright" / f"{name}.png")
    return root


def test_a_folder_of_files_is_read_at_its_own_sizes(tmp_path):
    folder = write_folder(tmp_path / "fields")
    domain = from_folder("fields", folder, channels=CHANNELS)
    split = load_split(own(size=32), domain, "val", cache_dir=tmp_path / "cache")
    assert split.ids == ("val0", "val1", "val2")
    assert split.images.shape == (3, 3, 32, 32)
    assert [split.native_size(i) for i in range(3)] == [(40, 40), (36, 40), (40, 40)]
    np.testing.assert_array_equal(split.native("height", 1), arrays(3, 1, size=40)["height"][1][:36])
    np.testing.assert_array_equal(split.native("bright", 2), arrays(3, 1, size=40)["bright"][2])
    again = from_folder("fields", folder, channels=CHANNELS)
    assert again.source == domain.source
    np.save(folder / "val/height/val2.npy", np.ones((40, 40), np.float32))
    assert from_folder("fields", folder, channels=CHANNELS).source != domain.source


def test_wrong_folders_are_named(tmp_path):
    with pytest.raises(DataError, match=r"train/images is no folder: expected train/images/ID.jpg or .png"):
        from_folder("fields", tmp_path, channels=CHANNELS)
    folder = write_folder(tmp_path / "fields")
    (folder / "val/images/train0.png").write_bytes((folder / "val/images/val0.png").read_bytes())
    with pytest.raises(DataError, match=r"val/(bright|height)/train0.\* is missing: expected one file of .png, .npy"):
        from_folder("fields", folder, channels=CHANNELS)
    for kind, ending in (("height", "npy"), ("bright", "png")):
        (folder / f"val/{kind}/train0.{ending}").write_bytes((folder / f"val/{kind}/val0.{ending}").read_bytes())
    with pytest.raises(DataError, match=r"train0 \(1 in all\) is in train and in val"):
        from_folder("fields", folder, channels=CHANNELS)
    for kind in ("images", "height", "bright"):
        next((folder / "val" / kind).glob("train0.*")).unlink()
    Image.fromarray(arrays(1, 0, size=40)["bright"][0] * 9).save(folder / "val/bright/val0.png")
    with pytest.raises(DataError, match=r"val0.png: \d+ of 1600 pixels are wrong, the first 9: expected classes 0..1"):
        load_split(own(size=32), from_folder("fields", folder, channels=CHANNELS), "val", cache_dir=tmp_path / "cache")


def test_flower_nodes_agree_on_data_but_for_what_is_their_own(slopes):
    pytest.importorskip("flwr")
    from matfl.flower.settings import agreed_data

    config = own(tasks="slopes,indoor/depth", size=32, images_train=4, images_val=4)
    assert slopes.source.fingerprint in agreed_data(config, own_data=False)
    assert slopes.source.fingerprint not in agreed_data(config, own_data=True)
    assert "scenes" in agreed_data(config, own_data=True)


@pytest.mark.slow
def test_own_data_reach_worker_processes(tmp_path):
    configs = [own(rounds=1, seed=seed) for seed in range(2)]
    two, one = (Workspace(runs=tmp_path / name, records=(), cache=tmp_path / "cache") for name in ("two", "one"))
    side_by_side = load_or_run(configs, workspace=two, jobs=2, progress=False)
    here = load_or_run(configs, workspace=one, jobs=1, progress=False)
    for one, two in zip(here, side_by_side, strict=True):
        assert one.metrics.equals(two.metrics)


@pytest.mark.slow
def test_a_plugin_s_task_and_domain_on_the_command_line(tmp_path):
    settings = [
        f"-p {name}={value}"
        for name, value in {
            "tasks": "slopes",
            "k": 2,
            "size": 32,
            "images_train": 0,
            "images_val": 0,
            "images_per_client": 4,
            "start": "random",
            "batch_size": 2,
            "rounds": 1,
            "local_epochs": 1,
            "head_channels": 8,
            "aspp_rates": "1",
        }.items()
    ]
    arguments = [part for setting in settings for part in setting.split(" ", 1)]
    places = ["--runs-dir", str(tmp_path / "runs"), "--cache-dir", str(tmp_path / "cache"), "--device", "cpu"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}

    def matfl(*words: str, plugins: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "matfl", *words]
        return subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=900, env={**environment, PLUGINS: plugins}
        )

    done = matfl("run", "smoke", *arguments, *places, plugins="own_plugin")
    assert done.returncode == 0, done.stderr
    assert "slopes/height" in done.stdout
    folder = next((tmp_path / "runs").iterdir())
    assert Run(folder).finished
    alone = matfl("run", "smoke", *arguments, *places, plugins="")
    assert alone.returncode == 2
    assert "choose a set" in alone.stderr
