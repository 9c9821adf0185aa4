"""The bench of local training: its loops do what they say, and its record is whole."""

import json

import numpy as np
import pytest
import torch

from matfl.bench import data, edges, record, server, train
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
    assert train.main([*argv, "--loaded"]) == 0
    stored = json.loads(file.read_text())
    assert stored["bench"] == "train"
    assert stored["matfl_over"]["images_per_second"] == {"plain": 2.0, "floor": 0.8}
    assert stored["loops"]["floor"]["images_per_cpu_second"] == 62.5
    assert stored["floor_holds"] is True
    printed = capsys.readouterr().out
    assert all(loop in printed for loop in speeds)
    with pytest.raises(SystemExit):
        train.main(["--images", "1", "--loaded"])


@pytest.mark.parametrize(
    "bench, options",
    [
        (train, ["--preset", "smoke", "--device", "cpu"]),
        (server, ["--device", "cpu"]),
        (edges, []),
        (data, ["--device", "cpu"]),
    ],
)
def test_no_bench_measures_a_busy_machine(monkeypatch, capsys, bench, options):
    monkeypatch.setattr(record, "load", lambda: 7.0)
    monkeypatch.setattr(record, "cores", lambda: 2)
    monkeypatch.setattr(bench, "machine", lambda *_: pytest.fail("it measures"))
    with pytest.raises(SystemExit):
        bench.main(options)
    assert "the load average is 7.0 on 2 cores" in capsys.readouterr().err


def test_what_makes_a_machine_busy(monkeypatch):
    monkeypatch.setattr(record, "load", lambda: 7.0)
    monkeypatch.setattr(record, "cores", lambda: 2)
    assert record.machine()["busy"] is True
    assert record.quiet(patience=0.0) is False
    monkeypatch.setattr(record, "load", lambda: 0.4)
    assert record.machine()["busy"] is False
    assert record.quiet(patience=0.0) is True
    monkeypatch.setattr(record, "load", lambda: None)
    assert record.machine()["busy"] is False


def test_a_floor_that_is_beaten_is_measured_again(monkeypatch):
    """The first turns of the floor were disturbed; it is asked again, other loops are not."""
    asked = []

    def work(loop, *_):
        asked.append(loop)
        return (100 if loop == "matfl" else 30 * asked.count("floor")), 1.0, 1.0

    class Now:
        def __init__(self, *_, **__): ...
        def __enter__(self):
            return self

        def __exit__(self, *_): ...
        def submit(self, call, *arguments):
            return type("Done", (), {"result": lambda self: call(*arguments)})()

    monkeypatch.setattr(train, "_work", work)
    monkeypatch.setattr(train, "ProcessPoolExecutor", Now)
    monkeypatch.setattr(train.os, "sched_getaffinity", lambda pid: {0}, raising=False)
    found = train.measure(CONFIG, repeats=3, loops=("matfl", "floor"))
    assert asked == ["matfl", "floor"] * 3 + ["floor"]
    assert found["floor"].images_per_second == 120
    assert not train._beaten(found)
    asked.clear()
    found = train.measure(CONFIG, repeats=1, loops=("matfl", "floor"))
    assert asked == ["matfl", "floor", "floor"]
    assert train._beaten(found)  # still: the record says that the floor does not hold


@pytest.mark.slow
def test_processes_measure_together(monkeypatch):
    monkeypatch.setattr(train.os, "sched_getaffinity", lambda pid: {0, 1}, raising=False)
    config = override(CONFIG, tasks="outdoor/sal", k=1)
    found = train.measure(config, images=4, seconds=0.0, repeats=1, loops=("plain", "matfl"))
    assert [(m.processes, m.threads) for m in found.values()] == [(1, 2), (2, 1)]
    assert all(np.isfinite(m.images_per_second) and m.images_per_second > 0 for m in found.values())
