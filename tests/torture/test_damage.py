"""Random damage to every file of a run, of the cache and of a data set: found and named, or without any effect."""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from damages import damage
from tiny import tiny

from matfl.data import DataError, check, load_split, make
from matfl.data.decode import Sample
from matfl.data.layouts import LABELS, locate
from matfl.runs import engine, store
from matfl.runs.run import Run
from matfl.runs.store import RunError

CONFIG = tiny()


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A finished run, and the cache that it was made with."""
    base = tmp_path_factory.mktemp("damage")
    engine.run(CONFIG, base / "run", cache_dir=base / "cache", device="cpu")
    return base / "run", base / "cache"


def numbers(path: Path) -> dict[str, Any]:
    """Everything that anybody reads of a run, so that it can be compared."""
    run = Run(path)
    tensors, _ = store.load_checkpoint(path, run.config)
    return {
        "config": run.config,
        "finished": run.finished,
        "provenance": json.dumps(run.provenance, sort_keys=True),
        "metrics": run.metrics.to_csv(),
        "rounds": json.dumps(run.rounds, sort_keys=True),
        "diagnostics": {name: array.tobytes() for name, array in run.diagnostics.items()},
        "weights": {name: tensor.numpy().tobytes() for name, tensor in tensors.items()},
    }


def test_a_run(places: tuple[Path, Path], tmp_path: Path, tally, trials, rng: np.random.Generator) -> None:
    """Random damage to every file of a run."""
    whole, path = places[0], tmp_path / "run"
    expected = numbers(whole)
    names = sorted(file.name for file in whole.iterdir() if file.name != "lock")
    assert {"metrics.csv", "rounds.jsonl", "checkpoint.safetensors", "config.json"} <= set(names)
    for trial in trials(300):
        shutil.copytree(whole, path)
        name = names[trial % len(names)]
        kind = damage(path / name, rng)
        said = ""
        try:
            found = numbers(path)
        except RunError as error:
            said = str(error)
        assert str(path) in said or found == expected, f"{kind} in {name} changed numbers silently ({said})"
        tally["found and named" if said else "without effect"] += kind is not None
        shutil.rmtree(path)


def arrays(cache: Path) -> dict[str, bytes]:
    """All that a run reads from the cache."""
    content = {}
    for domain in ("outdoor", "indoor"):
        for split_name in ("train", "val"):
            split = load_split(CONFIG, domain, split_name, cache_dir=cache)
            for name, array in {"images": split.images, **split.labels}.items():
                content[f"{domain}/{split_name}/{name}"] = np.asarray(array).tobytes()
    return content


def test_the_cache(places: tuple[Path, Path], tmp_path: Path, tally, trials, rng: np.random.Generator) -> None:
    """Random damage to every file of the cache."""
    cache = Path(shutil.copytree(places[1], tmp_path / "cache"))
    expected = arrays(cache)
    names = sorted(path.relative_to(cache) for path in cache.glob("*/*"))
    assert len(names) > 12
    for trial in trials(200):
        name = names[trial % len(names)]
        kind = damage(cache / name, rng)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            assert arrays(cache) == expected, f"{kind} in {name} changed arrays silently"
        said = [str(warning.message) for warning in caught if "is made anew" in str(warning.message)]
        if said:
            assert str((cache / name).parent) in said[0]
        tally["found, named and made anew" if said else "without effect"] += kind is not None


def test_a_data_set(tmp_path: Path, tally, trials, rng: np.random.Generator) -> None:
    """Random damage to every kind of file of a data set; most formats have no checksums."""
    make(tmp_path, train=2, val=3, size=48, seed=4)
    files = sorted(path for path in tmp_path.rglob("*") if path.is_file() and path.suffix != ".json")
    for trial in trials(120):
        path = files[trial % len(files)]
        content = path.read_bytes()
        kind = damage(path, rng)
        layout = locate("pascal" if "PASCAL_MT" in path.parts else "nyud", tmp_path)
        said = ""
        try:
            for split_name in ("train", "val"):
                for name in layout.ids(split_name):
                    sample = Sample(layout, name)
                    sample.image()
                    for task in LABELS[layout.kind]:
                        sample.label(task)
        except DataError as error:
            said = str(error)
        unseen = path.suffix != ".png" or kind in (None, "longer", "twice")  # those have checksums within
        assert str(layout.root) in said or (unseen and not said), f"{kind} in {path} went unnoticed ({said})"
        tally["found and named" if said else "still a picture or numbers in range"] += kind is not None
        path.write_bytes(content)
    assert check(tmp_path).ok
