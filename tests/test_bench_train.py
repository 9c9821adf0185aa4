"""The bench of local training: its loops do what they say, and its record is whole."""

import json

import numpy as np
import pytest
import torch

from matfl.bench import train
from matfl.bench.loops import LOOPS, Pictures, _PlainModel, arrays
from matfl.config.run_config import override, smoke
from matfl.models.network import build
from matfl.tasks.task import IGNORE, pair, pairs

CONFIG = override(smoke(), start="random", width=4, head_channels=8, size=32, batch_size=4)
TASKS = [p.name for p in pairs("scenes9") if p.domain.name == "outdoor"] + ["indoor/depth"]


@pytest.fixture(autouse=True)
def _threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("loop", LOOPS)
def test_every_loop_trains_and_counts_its_images(loop):
    p = pair("outdoor/normals")
    epoch = LOOPS[loop](CONFIG, p, torch.device("cpu"), *arrays(p, 9, (32, 32)))
    assert [epoch(), epoch()] == [8, 8]  # the ninth image is left over


def test_the_plain_network_computes_the_same_numbers():
    model = build(CONFIG, pair("outdoor/semseg")).eval()
    images = torch.randn(2, 3, 40, 56, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = model(images)
        torch.testing.assert_close(_PlainModel(model)(images), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", TASKS)
def test_pictures_keep_the_conventions_of_their_task(name):
    p = pair(name)
    images, targets = arrays(p, 6, (32, 40))
    assert targets.dtype == p.task.target_dtype
    for i in range(6):
        image, target = Pictures(images, targets, p)[i]
        assert (image.shape, target.shape, target.dtype) == (images[i].shape, targets[i].shape, targets.dtype)
        if p.task.target_channels:
            norms = target.float().norm(dim=0)
            assert torch.all((norms < 1e-3) | ((norms - 1).abs() < 5e-3))
        elif targets.dtype == torch.uint8:
            assert set(target.unique().tolist()) <= {*targets.unique().tolist(), IGNORE}


def test_a_turn_is_timed_in_one_process():
    done, seconds, cpu = train._work(
        "matfl", override(CONFIG, tasks="outdoor/sal,indoor/edge", k=1), "cpu", 6, 0.0, 1, False
    )
    assert done == 2 * 6
    assert seconds > 0
    assert cpu > 0


def test_the_record_has_every_loop_and_the_ratios(tmp_path, monkeypatch, capsys):
    speeds = {"plain": 50.0, "matfl": 100.0, "floor": 125.0}
    monkeypatch.setattr(
        train,
        "measure",
        lambda config, **options: {
            loop: train.Measurement(images_per_second=speed, images_per_cpu_second=speed / 2, processes=2, threads=1)
            for loop, speed in speeds.items()
        },
    )
    file = tmp_path / "train.json"
    argv = ["--preset", "smoke", "--device", "cpu", "--tasks", "outdoor/sal", "--json", str(file)]
    assert train.main(argv) == 0
    record = json.loads(file.read_text())
    assert record["bench"] == "train"
    assert record["matfl_over"]["images_per_second"] == {"plain": 2.0, "floor": 0.8}
    assert record["loops"]["floor"]["images_per_cpu_second"] == 62.5
    printed = capsys.readouterr().out
    assert all(loop in printed for loop in speeds)
    with pytest.raises(SystemExit):
        train.main(["--images", "1"])


@pytest.mark.slow
def test_processes_measure_together(monkeypatch):
    monkeypatch.setattr(train.os, "sched_getaffinity", lambda pid: {0, 1}, raising=False)
    config = override(CONFIG, tasks="outdoor/sal", k=1)
    found = train.measure(config, images=4, seconds=0.0, repeats=1, loops=("plain", "matfl"))
    assert [(m.processes, m.threads) for m in found.values()] == [(1, 2), (2, 1)]
    assert all(np.isfinite(m.images_per_second) and m.images_per_second > 0 for m in found.values())
