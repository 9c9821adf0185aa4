"""ODS-F of one map at every threshold, against thinning and matching each threshold anew with scipy's maximum flow.

- sharp: a trained network's map of the given size after non-maximum suppression, 99 thresholds.
- dense: an untrained network's map without suppression, where every pixel is predicted at some threshold.
- small: a map of 64x64 pixels, suppression and validation included, as `EdgeMeter` measures it.

The reference computes the same counts (a difference is an error) and is timed once: it takes seconds a map.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from scipy.sparse import coo_array, csr_array
from scipy.sparse.csgraph import maximum_flow

from matfl.bench.record import add_load_option, machine, race, refuse_load, save
from matfl.tasks.edges import PROTOCOLS, Counts, evaluate_map, measure_map, nms, thin

__all__ = ["main", "reference", "scene"]

Map = NDArray[Any]

MAX_DISTANCE = 0.0075
"""Greatest distance of a match as a share of the image diagonal: PASCAL's under every protocol."""


def scene(size: int, *, regions: int, seed: int = 0) -> tuple[Map, Map]:
    """Edges (boolean, size x size) of about `regions` smooth regions, and a noisy, blurred prediction in [0, 1]."""
    rng = np.random.default_rng(seed)
    fields = [gaussian_filter(rng.normal(size=(size, size)), size / np.sqrt(regions) / 3) for _ in range(8)]
    label = np.argmax(fields, axis=0)
    truth = thin((label != np.roll(label, 1, 0)) | (label != np.roll(label, 1, 1)))
    noise = gaussian_filter(rng.normal(size=(size, size)), 1.5)
    return truth, np.clip(0.1 + 4 * gaussian_filter(truth.astype(float), 2) + 0.24 * noise, 0, 1)


def reference(
    strength: Map,
    truth: Map,
    thresholds: Sequence[float],
    max_distance: float,
    *,
    strict: bool = False,
    thin: Callable[[Map], Map] = thin,
) -> Counts:
    """`matfl.tasks.edges.evaluate_map`, one threshold at a time: `thin` and a maximum flow by Dinic's algorithm."""
    height, width = strength.shape
    reach = max_distance * np.sqrt(height**2 + width**2)
    steps = range(-int(reach), int(reach) + 1)
    disk = [(dy, dx) for dy in steps for dx in steps if dy * dy + dx * dx <= reach * reach]
    number = np.full(truth.shape, -1)
    number[truth] = np.arange(truth.sum())
    matched, predicted = [], []
    for threshold in thresholds:
        y, x = np.nonzero(thin(strength > threshold if strict else strength >= threshold))
        pixels, truths = len(y), int(truth.sum())
        tails, heads = [np.zeros(pixels, int), 1 + pixels + np.arange(truths)], [1 + np.arange(pixels)]
        heads.append(np.full(truths, 1 + pixels + truths))
        for dy, dx in disk:
            inside = np.nonzero((y + dy >= 0) & (y + dy < height) & (x + dx >= 0) & (x + dx < width))[0]
            other = number[y[inside] + dy, x[inside] + dx]
            tails.append(1 + inside[other >= 0])
            heads.append(1 + pixels + other[other >= 0])
        tail, head = np.concatenate(tails), np.concatenate(heads)
        graph = coo_array((np.ones(len(tail), np.int32), (tail, head)), shape=(pixels + truths + 2,) * 2)
        flow = maximum_flow(csr_array(graph), 0, pixels + truths + 1, method="dinic")
        matched.append(flow.flow_value)
        predicted.append(pixels)
    return Counts(np.array(matched), np.array(predicted), int(truth.sum()))


def measure(part: str, *, size: int, repeats: int, with_reference: bool) -> dict[str, Any]:
    """Seconds a map by the clock and by the processor, and how many times as long the reference takes."""
    protocol = PROTOCOLS["fedhca2"]
    truth, strength = scene(64 if part == "small" else size, regions=40)
    if part == "dense":
        noise = gaussian_filter(np.random.default_rng(1).normal(size=truth.shape), 1)
        strength = (noise - noise.min()) / np.ptp(noise)
    elif part == "sharp":
        strength = nms(strength, radius=4, smoothing=1, levels=255)

    def once() -> Counts:
        if part == "small":
            return measure_map(strength, truth, protocol, MAX_DISTANCE)
        return evaluate_map(strength, truth, protocol.thresholds, MAX_DISTANCE)

    def work() -> int:
        once()
        return 1

    speed = race({"matfl": work}, repeats=repeats)["matfl"]
    row: dict[str, Any] = {"s": 1 / speed.per_second, "cpu_s": 1 / speed.per_cpu_second}
    if with_reference:
        began = time.process_time()
        suppressed = nms(strength, radius=4, smoothing=1, levels=255) if part == "small" else strength
        theirs = reference(suppressed, truth, protocol.thresholds, MAX_DISTANCE)
        row |= {"reference_cpu_s": time.process_time() - began}
        row |= {"ratio": row["reference_cpu_s"] / row["cpu_s"]}
        ours = once()
        if not (
            np.array_equal(ours.matched_T, theirs.matched_T) and np.array_equal(ours.predicted_T, theirs.predicted_T)
        ):
            raise RuntimeError(f"{part}: the counts differ from the reference's: report it as a bug")
    return row


PARTS = ("sharp", "dense", "small")


def main(argv: Sequence[str] | None = None) -> int:
    """`python -m matfl.bench edges`: prints seconds a map and ratios; `--json FILE` keeps the record."""
    parser = argparse.ArgumentParser(
        prog="python -m matfl.bench edges", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"which of {', '.join(PARTS)} (default: all)")
    parser.add_argument("--size", type=int, default=512, help="side of the large maps (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=5, help="turns; the best counts (default: %(default)s)")
    parser.add_argument("--no-reference", action="store_true", help="time matfl alone")
    parser.add_argument("--json", type=Path, help="file for the record")
    add_load_option(parser)
    options = parser.parse_args(argv)
    unknown = [part for part in options.parts if part not in PARTS]
    if unknown:
        parser.error(f"unknown part {unknown[0]!r}: choose from {', '.join(PARTS)}")
    for name in ("size", "repeats"):
        if getattr(options, name) < 1:
            parser.error(f"--{name}: must be at least 1")
    refuse_load(parser, loaded=options.loaded)
    facts = machine()
    print(f"edges, 99 thresholds, one thread ({facts['processor']}, {facts['cores']} cores)")
    found = {}
    for part in options.parts or PARTS:
        found[part] = row = measure(
            part, size=options.size, repeats=options.repeats, with_reference=not options.no_reference
        )
        ratio = f"   {row['ratio']:6.0f} x scipy's maximum flow (CPU time, same counts)" if "ratio" in row else ""
        print(f"  {part:6}{row['cpu_s'] * 1e3:9.2f} ms CPU a map{ratio}", flush=True)
    asked = {"size": options.size, "repeats": options.repeats}
    save(options.json, {"bench": "edges", "machine": facts, "options": asked, "parts": found})
    return 0
