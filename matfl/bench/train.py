"""How many images a second training passes, against the loops one would write first and against the network alone.

- reference: one image at a time through Pillow, a DataLoader, float32, the loss read every step, all cores' threads.
- plain: the batched augmentation, float32, torch's defaults, all cores' threads.
- plain_per_core (on demand): the same, one process per core; what is left of the ratio then is not the processes'.
- matfl: `matfl.client.training.train` as a run calls it; on a CPU one process per core with one thread each.
- floor: the same network on one resident batch that is ready for it, in the fastest precision and memory format. Where
  a loop beats it, it is measured again; if it stays beaten, the record says that it does not hold.

Every loop trains each pair of the preset in turn on random images and labels (their content does not matter for speed).
The loops alternate, and the best of the repeats counts: other load on the machine can only slow a loop down.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from matfl.bench.loops import LOOPS, PER_CORE, Epoch, arrays
from matfl.bench.record import add_load_option, machine, refuse_load, save, wait
from matfl.client.training import resolve_precision
from matfl.config.run_config import PRESETS, RunConfig, override, preset
from matfl.data.split import network_size
from matfl.tasks.task import pairs

__all__ = ["DEFAULT", "Measurement", "main", "measure"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Measurement:
    """One loop's speed on this machine."""

    images_per_second: float
    """By the clock, of all processes together."""
    images_per_cpu_second: float
    """By the processors' time: what to compare while other programs keep the machine busy."""
    processes: int
    threads: int
    """Of each process."""


DEFAULT = ("reference", "plain", "matfl", "floor")
"""Loops that are measured unless others are asked for."""
_PATIENCE = 900
"""Seconds that processes wait for each other."""

_barrier: Any = None
_made: dict[Any, list[Epoch]] = {}


def _begin(barrier: Any) -> None:
    global _barrier  # noqa: PLW0603  (a worker process's own; barriers cannot be sent with a task)
    _barrier = barrier


def _work(
    loop: str, config: RunConfig, device: str, images: int, seconds: float, threads: int, together: bool
) -> tuple[int, float, float]:
    """(images, seconds, CPU seconds) of one process in whole turns over all pairs, `seconds` or longer.

    The first turn is not timed.
    """
    torch.set_num_threads(threads)
    where = torch.device(device)
    if (loop, config) not in _made:
        chosen = pairs(config.tasks)
        _made[loop, config] = [
            LOOPS[loop](config, p, where, *arrays(p, images, network_size(config, p.domain))) for p in chosen
        ]
        for epoch in _made[loop, config]:
            epoch()
    wait(where)
    if together:
        _barrier.wait(_PATIENCE)
    done, began, cpu = 0, time.perf_counter(), time.process_time()
    while time.perf_counter() - began < seconds or not done:
        done += sum(epoch() for epoch in _made[loop, config])
        wait(where)
    spent = time.perf_counter() - began, time.process_time() - cpu
    if together:
        _barrier.wait(_PATIENCE)  # a process that was done sooner would leave the others a quieter machine
    return done, *spent


def measure(
    config: RunConfig,
    *,
    device: str = "cpu",
    images: int = 50,
    seconds: float = 3.0,
    repeats: int = 3,
    loops: Sequence[str] = DEFAULT,
) -> dict[str, Measurement]:
    """The speed of each loop, with `images` images a client; best of `repeats` turns in which the loops alternate."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    context = get_context("spawn")
    shape = {loop: (cores, 1) if device == "cpu" and loop in PER_CORE else (1, cores) for loop in loops}
    workers = max(processes for processes, _ in shape.values())
    best: dict[str, Measurement] = {}
    again = 0
    with ProcessPoolExecutor(workers, context, initializer=_begin, initargs=(context.Barrier(workers),)) as pool:
        turns = [loop for _, loop in product(range(repeats), loops)]
        while turns:
            loop = turns.pop(0)
            processes, threads = shape[loop]
            tasks = [
                pool.submit(_work, loop, config, device, images, seconds, threads, processes > 1)
                for _ in range(processes)
            ]
            done = [task.result() for task in tasks]
            found = Measurement(
                images_per_second=sum(n / wall for n, wall, _ in done),
                processes=processes,
                threads=threads,
                images_per_cpu_second=sum(n for n, _, _ in done) / sum(cpu for *_, cpu in done),
            )
            if loop not in best or found.images_per_second > best[loop].images_per_second:
                best[loop] = found
            # Nothing can be faster than the network alone: where something was, the floor's turns were disturbed.
            if not turns and _beaten(best) and again < repeats:
                turns, again = ["floor"], again + 1
    return best


def _beaten(found: Mapping[str, Measurement]) -> bool:
    """Whether a loop was faster than the floor, by the clock."""
    floor = found.get("floor")
    return floor is not None and any(floor.images_per_second < other.images_per_second for other in found.values())


def main(argv: Sequence[str] | None = None) -> int:
    """`python -m matfl.bench train`: prints a table of speeds and ratios; `--json FILE` keeps the record."""
    parser = argparse.ArgumentParser(
        prog="python -m matfl.bench train", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--preset", choices=sorted(PRESETS), default="quick", help="whose network, tasks and sizes")
    parser.add_argument("--tasks", help="task set or pairs instead of the preset's")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--images", type=int, default=50, help="images of a client (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=3.0, help="least time of one measurement")
    parser.add_argument("--repeats", type=int, default=3, help="measurements of each loop; the best counts")
    parser.add_argument("--loops", nargs="+", choices=list(LOOPS), default=list(DEFAULT))
    parser.add_argument("--json", type=Path, help="file for the record")
    add_load_option(parser)
    options = parser.parse_args(argv)
    if options.images < 2:
        parser.error("--images: batch norm needs at least 2")
    config = replace(preset(options.preset), start="random")
    if options.tasks:
        config = override(config, tasks=options.tasks, k=1)
    refuse_load(parser, loaded=options.loaded, device=options.device)
    facts = machine(options.device)
    found = measure(
        config,
        device=options.device,
        images=options.images,
        seconds=options.seconds,
        repeats=options.repeats,
        loops=options.loops,
    )
    precision = str(resolve_precision(config, options.device)).removeprefix("torch.")
    rates = {loop: asdict(measurement) for loop, measurement in found.items()}
    ratios = {
        key: {loop: rates["matfl"][key] / rates[loop][key] for loop in rates if loop != "matfl"}
        for key in ("images_per_second", "images_per_cpu_second")
        if "matfl" in rates
    }
    record = {
        "bench": "train",
        "preset": options.preset,
        "tasks": config.tasks,
        "device": options.device,
        "machine": facts,
        "precision": precision,
        "images": options.images,
        "seconds": options.seconds,
        "repeats": options.repeats,
        "loops": rates,
        "matfl_over": ratios,
        "floor_holds": not _beaten(found),
    }
    named = facts["processor"] if options.device == "cpu" else facts["device"]
    print(f"training, preset {options.preset}, {named}, {facts['cores']} cores, load {facts['load']}; {precision}")
    print(f"{'':15}{'images/s':>10}{'x':>7}{'images/CPU s':>15}{'x':>7}   (x: matfl over this loop)")
    for loop, rate in rates.items():
        columns = [(rate[key], ratios.get(key, {}).get(loop)) for key in ("images_per_second", "images_per_cpu_second")]
        (speed, a), (cpu, b) = [(f"{value:.1f}", f"{ratio:.2f}" if ratio else "") for value, ratio in columns]
        shape = f"{rate['processes']} process(es) of {rate['threads']} thread(s)"
        print(f"{loop:15}{speed:>10}{a:>7}{cpu:>15}{b:>7}   {shape}")
    if not record["floor_holds"]:
        print("a loop was faster than the floor: other work disturbed this measurement, repeat it")
    save(options.json, record)
    return 0
