"""How fast pictures come: rendered, augmented and read back.

- render: pictures with all their labels a second, `matfl.scenes.render` in this process, per domain.
- fill: the same into an empty cache by all cores, as the first run of a preset does it (with the processes' start).
- augment: a batch warped at once, against one image at a time through Pillow and numpy, per pair.
- read: random batches from the decoded cache, against opening the files of each image (the outdoor scenes, written in
  the PASCAL layout).
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from matfl.bench.loops import Pictures, arrays
from matfl.bench.record import Speed, add_load_option, machine, race, refuse_load, save
from matfl.config.run_config import RunConfig, preset
from matfl.core.streams import stream
from matfl.data import load_split, make
from matfl.data.augment import augment
from matfl.data.decode import Sample
from matfl.data.decoded import resize_image, resize_label
from matfl.data.layouts import locate
from matfl.scenes import render
from matfl.tasks.task import DOMAINS, TASKS, pairs

__all__ = ["PARTS", "main"]

DOMAIN_NAMES = tuple(name for name, domain in DOMAINS.items() if domain.rendered)


def _render(options: argparse.Namespace) -> dict[str, dict[str, Any]]:
    def work(domain: str) -> int:
        render(domain, "train", range(options.images), size=options.size, device=options.device)
        return options.images

    return _rows(race({name: partial(work, name) for name in DOMAIN_NAMES}, **_race(options)))


def _fill(options: argparse.Namespace) -> dict[str, dict[str, Any]]:
    config = replace(preset("quick"), size=options.size, images_train=options.fill, images_val=1)
    rows = {}
    for name in DOMAIN_NAMES:
        with tempfile.TemporaryDirectory() as folder:
            began = time.perf_counter()
            load_split(config, name, "train", cache_dir=folder)
            rows[name] = {"per_second": options.fill / (time.perf_counter() - began)}
    return rows


def _augment(options: argparse.Namespace) -> dict[str, dict[str, Any]]:
    rows = {}
    size = (options.size, options.size)
    for pair in pairs("scenes9"):
        images, targets = arrays(pair, options.batch, size)
        singly = Pictures(images, targets, pair)
        here, there = images.to(options.device), targets.to(options.device)
        generator = stream("bench", "augment")

        def batched(
            images: torch.Tensor = here,
            targets: torch.Tensor = there,
            pair: Any = pair,
            generator: torch.Generator = generator,
        ) -> int:
            augment(images, targets, pair, generator=generator)
            return len(images)

        def one_by_one(singly: Pictures = singly) -> int:
            samples = [singly[i] for i in range(len(singly))]
            torch.stack([image for image, _ in samples]).to(options.device)
            torch.stack([target for _, target in samples]).to(options.device)
            return len(samples)

        found = race({"matfl": batched, "reference": one_by_one}, **_race(options))
        rows[pair.name] = _compared(found, options.device)
    return rows


def _read(options: argparse.Namespace) -> dict[str, dict[str, Any]]:
    with _written(options) as (config, folder):
        split = load_split(config, "pascal", "train", data_dir=folder, cache_dir=folder / "cache")
        layout = locate("pascal", folder)
        rng = np.random.default_rng(0)
        size = (options.size, options.size)
        rows = {}
        for task in DOMAINS["pascal"].channels:

            def cached(task: str = task) -> int:
                split.tensors(task, rng.permutation(len(split))[: options.batch], options.device)
                return min(options.batch, len(split))

            def from_files(task: str = task) -> int:
                for i in rng.permutation(len(split))[: options.batch]:
                    sample = Sample(layout, split.ids[i])
                    resize_image(sample.image(), size)
                    label = sample.label(task)
                    resize_label(label, size, TASKS[task])
                return min(options.batch, len(split))

            found = race({"matfl": cached, "reference": from_files}, **_race(options))
            rows[f"pascal/{task}"] = _compared(found, options.device)
    return rows


@contextmanager
def _written(options: argparse.Namespace) -> Iterator[tuple[RunConfig, Path]]:
    """A folder with some outdoor scenes in the PASCAL layout, and a config that reads them."""
    config = replace(preset("quick"), tasks="pascal5", size=options.size, images_train=0, images_val=0)
    with tempfile.TemporaryDirectory() as folder:
        make(folder, train=options.files, val=1, size=options.size)
        yield config, Path(folder)


PARTS: dict[str, Callable[[argparse.Namespace], dict[str, dict[str, Any]]]] = {
    "render": _render,
    "fill": _fill,
    "augment": _augment,
    "read": _read,
}
"""Name -> (options) -> rows of numbers: items per_second and per_cpu_second; where there is a reference, its and the
ratio: of processor time on a CPU, which other load hardly moves, else by the clock."""


def _race(options: argparse.Namespace) -> dict[str, Any]:
    return {"seconds": options.seconds, "repeats": options.repeats, "device": options.device}


def _rows(found: dict[str, Speed]) -> dict[str, dict[str, Any]]:
    return {name: asdict(speed) for name, speed in found.items()}


def _compared(found: dict[str, Speed], device: str) -> dict[str, Any]:
    ours, theirs = asdict(found["matfl"]), asdict(found["reference"])
    clock = "per_cpu_second" if torch.device(device).type == "cpu" else "per_second"
    return {
        **ours,
        **{f"reference_{key}": value for key, value in theirs.items()},
        "ratio": ours[clock] / theirs[clock],
    }


def main(argv: Sequence[str] | None = None) -> int:
    """`python -m matfl.bench data`: prints images a second and ratios; `--json FILE` keeps the record."""
    parser = argparse.ArgumentParser(
        prog="python -m matfl.bench data", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"which of {', '.join(PARTS)} (default: all)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--size", type=int, default=64, help="side of the pictures in pixels (default: %(default)s)")
    parser.add_argument("--images", type=int, default=128, help="pictures rendered at once (default: %(default)s)")
    parser.add_argument("--batch", type=int, default=10, help="images augmented or read at once (default: %(default)s)")
    parser.add_argument("--fill", type=int, default=1500, help="pictures of 'fill' (default: %(default)s)")
    parser.add_argument("--files", type=int, default=32, help="images that 'read' writes (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="torch threads of this process (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=0.5, help="least time of one turn (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=5, help="turns; the best counts (default: %(default)s)")
    parser.add_argument("--json", type=Path, help="file for the record")
    add_load_option(parser)
    options = parser.parse_args(argv)
    unknown = [part for part in options.parts if part not in PARTS]
    if unknown:
        parser.error(f"unknown part {unknown[0]!r}: choose from {', '.join(PARTS)}")
    for name in ("images", "batch", "fill", "files", "threads", "repeats"):
        if getattr(options, name) < 1:
            parser.error(f"--{name}: must be at least 1")
    torch.set_num_threads(options.threads)
    refuse_load(parser, loaded=options.loaded, device=options.device)
    facts = machine(options.device)
    print(
        f"data, {options.size}x{options.size} pixels, {facts['device']} ({facts['processor']}, {facts['cores']} cores)"
    )
    found = {}
    for part in options.parts or PARTS:
        found[part] = PARTS[part](options)
        print(part)
        for name, row in found[part].items():
            cpu = f"{row['per_cpu_second']:10.0f} /CPU s" if "per_cpu_second" in row else ""
            ratio = f"{row['ratio']:8.1f} x one by one" if "ratio" in row else ""
            print(f"  {name:22}{row['per_second']:10.0f} images/s{cpu}{ratio}", flush=True)
    asked = {key: value for key, value in vars(options).items() if key not in ("json", "parts", "device", "loaded")}
    save(options.json, {"bench": "data", "machine": facts, "options": asked, "parts": found})
    return 0
