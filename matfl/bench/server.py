"""How fast the server's step is: similarity, votes, weights and mixing of all clients' updates.

- compare: the default method against a transcription of the paper's pseudo-code that compares one pair of clients and
  one layer at a time, and against the time in which this machine's memory can move the bytes (updates read twice,
  models written once).
- methods: each method's step over that of plain averaging in the same run.
- scale: the parts of the step for more and more clients; mixing and screening should cost the same per client.
- stream: the step over files, with the memory it takes beyond the interpreter's own (Linux tells it exactly).
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import resource
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from matfl.bench.methods import measure_methods
from matfl.bench.record import Speed, add_load_option, machine, race, refuse_load, save
from matfl.bench.rounds import CONFIG, TASKS, fill_update, layout_of, models_of, round_of, tasks_of, updates_of
from matfl.server.grouping import similarity
from matfl.server.kernels import load_loop
from matfl.server.methods import METHODS
from matfl.server.mixing import mix
from matfl.server.models import Models
from matfl.server.screening import screen
from matfl.server.updates import ClientUpdate, Updates, save_update

__all__ = ["PARTS", "main", "measure", "measure_streamed", "one_pair_at_a_time"]


def one_pair_at_a_time(
    theta: list[dict[str, Tensor]],
    updates: list[dict[str, Tensor]],
    tasks: Sequence[str],
    layers: Sequence[str],
    k: int,
) -> list[dict[str, Tensor]]:
    """Algorithm 1 as one would first write it in torch: loops over clients, layers and clients, models by name."""
    n = len(updates)
    aggregated = []
    for i in range(n):
        votes, closeness, weights = torch.zeros(n), torch.zeros(n), torch.zeros(n)
        for layer in layers:
            s = torch.stack(
                [F.cosine_similarity(updates[i][layer].flatten(), updates[j][layer].flatten(), dim=0) for j in range(n)]
            ).cpu()
            for rank, j in enumerate(s.topk(k).indices.tolist()):
                votes[j] += k - rank
            closeness += s / len(layers)
            weights += s.clamp(min=0) / s.clamp(min=0).sum() / len(layers)
        chosen = (votes + 0.1 * closeness).topk(k).indices.tolist()  # the closer of those with equal votes
        total = weights[chosen].sum()
        aggregated.append(
            {name: sum(float(weights[j] / total) * updates[j][name] for j in chosen) for name in updates[i]}
        )
    moved = []
    for task, model in zip(dict.fromkeys(tasks), theta):
        mine = [update for update, its in zip(aggregated, tasks) if its == task]
        moved.append(
            {name: value + sum(update[name] for update in mine) / max(len(mine), 1) for name, value in model.items()}
        )
    return moved


def _step(models: Models, updates: Updates) -> int:
    mix(models, updates, METHODS["matfl"].mix(round_of(models, updates)), tasks_of(len(updates)))
    return 1


def measure(
    clients: int, *, width: int = 64, device: torch.device | str = "cpu", repeats: int = 5, naive: bool = True
) -> dict[str, Any]:
    """Seconds (best of `repeats`) of the step and its parts over updates in memory, as one flat record.

    `width` is that of ResNet18's first stage: 64 has 11.2 million parameters. `times_floor` is the step over the floor,
    `times_naive` the naive transcription over the step; both also by processor time (`cpu_`), which other load hardly
    moves. With `naive` the results are compared; AssertionError when they differ.
    """
    layout, tasks = layout_of(width), tasks_of(clients)
    models = models_of(layout, device)
    updates = updates_of(layout, clients, device)
    matrix_NP = updates.updates_NP
    assert isinstance(matrix_NP, Tensor)
    mixing = METHODS["matfl"].mix(round_of(models, updates))
    copied = torch.empty_like(matrix_NP[: 1 + (1 << 26) // layout.P])

    def run(work: Any) -> int:
        work()
        return 1

    ways = {
        "step": partial(_step, models, updates),
        "similarity": partial(run, lambda: similarity(updates, layout.voting)),
        "mixing": partial(run, lambda: mix(models, updates, mixing, tasks)),
        "screening": partial(run, lambda: screen(updates)),
        "copy": partial(run, lambda: copied.copy_(matrix_NP[: len(copied)])),
    }
    found = race(ways, seconds=0, repeats=repeats, device=device)
    record: dict[str, Any] = {"clients": clients, "parameters": layout.P, "tasks": TASKS}
    record |= {f"{name}_s": 1 / speed.per_second for name, speed in found.items()}
    per_byte = 1 / (2 * copied.numel() * copied.element_size())
    moved = 4 * layout.P * (2 * clients + TASKS)
    record["copy_gb_per_s"] = found["copy"].per_second / per_byte / 1e9
    record["floor_s"] = moved * per_byte / found["copy"].per_second
    record["times_floor"] = record["step_s"] / record["floor_s"]
    record["cpu_times_floor"] = found["copy"].per_cpu_second / found["step"].per_cpu_second / (moved * per_byte)
    record["linear_us_per_client"] = 1e6 * (record["mixing_s"] + record["screening_s"]) / clients
    if naive:
        record |= _compared(models, updates, found["step"], device)
    return record


def _compared(models: Models, updates: Updates, ours: Speed, device: torch.device | str) -> dict[str, float]:
    layout, tasks = updates.layout, tasks_of(len(updates))
    assert isinstance(updates.updates_NP, Tensor)
    models.theta_CP.fill_(0.1)
    theta = [layout.unflatten(row_P) for row_P in models.theta_CP]
    named = [layout.unflatten(row_P) for row_P in updates.updates_NP]
    results: list[list[dict[str, Tensor]]] = []

    def work() -> int:
        results[:] = [one_pair_at_a_time(theta, named, tasks, layout.voting, min(CONFIG.k, len(updates)))]
        return 1

    naive = race({"naive": work}, seconds=0, repeats=1, device=device)["naive"]
    _step(models, updates)
    for row_P, expected in zip(models.theta_CP, results[0]):
        torch.testing.assert_close(row_P, layout.flatten(expected), rtol=0, atol=1e-6)
    return {
        "naive_s": 1 / naive.per_second,
        "times_naive": ours.per_second / naive.per_second,
        "cpu_times_naive": ours.per_cpu_second / naive.per_cpu_second,
    }


def measure_streamed(
    clients: int,
    *,
    width: int = 64,
    device: torch.device | str = "cpu",
    memory: int = 128 << 20,
    folder: str | Path | None = None,
) -> dict[str, Any]:
    """Seconds of one step over the clients' files, and the peak memory of the process that makes it, in MB.

    Files are written to a temporary folder (in `folder`) and removed; each holds 4 bytes a parameter. `peak_mb` is
    above what the process holds after a first small step, with all libraries loaded, and includes the nine models.
    """
    layout = layout_of(width)
    with tempfile.TemporaryDirectory(dir=folder) as where:
        zero_P = torch.zeros(layout.P)
        for client in range(clients):
            state = layout.unflatten(fill_update(client, torch.zeros(layout.P)), torch.ones(layout.B))
            save_update(
                Path(where, f"{client}.safetensors"), layout, ClientUpdate(client=client, state=state, start_P=zero_P)
            )
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
            job = pool.submit(_streamed_step, where, clients, width, str(device), memory, torch.get_num_threads())
            return {
                "clients": clients,
                "parameters": layout.P,
                "tasks": TASKS,
                "buffer_mb": memory / 1e6,
                **job.result(),
            }


def _streamed_step(folder: str, clients: int, width: int, device: str, memory: int, threads: int) -> dict[str, float]:
    torch.set_num_threads(threads)
    small = layout_of(1)
    _step(models_of(small, device), updates_of(small, TASKS, device))
    load_loop()
    layout, before = layout_of(width), _forget_peak()
    began = time.perf_counter()
    models = models_of(layout, device)
    files = {client: Path(folder, f"{client}.safetensors") for client in range(clients)}
    _step(models, Updates.stream(layout, files, memory=memory, device=device))
    float(models.theta_CP[0, 0])  # waits for the device
    seconds = time.perf_counter() - began
    return {
        "step_s": seconds,
        "peak_mb": _peak_mb() - before,
        "models_mb": models.theta_CP.nbytes / 1e6,
        "gb_per_s": 2 * clients * layout.P * 4 / seconds / 1e9,
    }


def _forget_peak() -> float:
    """MB that this process holds now, from where its peak counts on; its peak so far where the system keeps that."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    return _peak_mb()


def _peak_mb() -> float:
    """Most memory that this process has held."""
    status = Path("/proc/self/status")
    if status.exists():
        return next(int(line.split()[1]) / 1e3 for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1e6 if sys.platform == "darwin" else 1e3)


def _compare(options: argparse.Namespace) -> list[dict[str, Any]]:
    row = measure(options.clients, width=options.width, device=options.device, repeats=options.repeats)
    print(
        f"  step {row['step_s'] * 1e3:8.0f} ms   similarity {row['similarity_s'] * 1e3:.0f}, "
        f"mixing {row['mixing_s'] * 1e3:.0f}; screening beside it {row['screening_s'] * 1e3:.0f}\n"
        f"  floor {row['floor_s'] * 1e3:7.0f} ms   at {row['copy_gb_per_s']:.1f} GB/s: the step takes "
        f"{row['times_floor']:.2f} x (CPU time {row['cpu_times_floor']:.2f} x)\n"
        f"  naive {row['naive_s'] * 1e3:7.0f} ms   one pair at a time: {row['times_naive']:.1f} x the step "
        f"(CPU time {row['cpu_times_naive']:.1f} x)"
    )
    return [row]


def _scale(options: argparse.Namespace) -> list[dict[str, Any]]:
    rows = []
    for clients in options.scale:
        row = measure(clients, width=options.scale_width, device=options.device, repeats=options.repeats, naive=False)
        print(
            f"  {clients:5} clients   step {row['step_s'] * 1e3:7.1f} ms ({row['times_floor']:.2f} x floor), "
            f"mixing and screening {row['linear_us_per_client']:.0f} us a client",
            flush=True,
        )
        rows.append(row)
    return rows


def _methods(options: argparse.Namespace) -> list[dict[str, Any]]:
    rows = measure_methods(
        options.clients, width=options.width, device=options.device, repeats=options.repeats, names=options.methods
    )
    for row in rows:
        print(
            f"  {row['method']:18} {row['step_s'] * 1e3:7.0f} ms   {row['times_fedavg']:5.2f} x fedavg "
            f"(CPU time {row['cpu_times_fedavg']:.2f} x), {row['times_matfl']:.2f} x matfl "
            f"(CPU time {row['cpu_times_matfl']:.2f} x)"
        )
    return rows


def _stream(options: argparse.Namespace) -> list[dict[str, Any]]:
    row = measure_streamed(options.streamed, width=options.width, device=options.device, folder=options.folder)
    print(
        f"  {row['clients']} clients' files   step {row['step_s']:.1f} s ({row['gb_per_s']:.2f} GB/s), peak "
        f"{row['peak_mb']:.0f} MB, of which {row['models_mb']:.0f} are the models"
    )
    return [row]


PARTS = {"compare": _compare, "methods": _methods, "scale": _scale, "stream": _stream}


def main(argv: Sequence[str]) -> int:
    """Run the parts, print ratios and keep the record; 0."""
    parser = argparse.ArgumentParser(prog="python -m matfl.bench server", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"which of {', '.join(PARTS)} (default: all)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--clients", type=int, default=18, help="clients of a step (default: %(default)s)")
    parser.add_argument(
        "--width", type=int, default=64, help="ResNet18's width (default: %(default)s, 11.2 M parameters)"
    )
    parser.add_argument(
        "--scale",
        type=int,
        nargs="+",
        default=[16, 32, 64, 128, 256, 512],
        metavar="N",
        help="clients of 'scale' (default: 16 to 512)",
    )
    parser.add_argument("--scale-width", type=int, default=16, help="width of 'scale' (default: %(default)s)")
    parser.add_argument(
        "--streamed", type=int, default=32, help="clients of 'stream', 45 MB each (default: %(default)s)"
    )
    parser.add_argument("--methods", nargs="+", default=[], choices=list(METHODS), help="of 'methods' (default: all)")
    parser.add_argument("--folder", type=Path, help="where 'stream' puts its files (default: the temporary folder)")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="default: %(default)s")
    parser.add_argument("--repeats", type=int, default=5, help="turns; the best counts (default: %(default)s)")
    parser.add_argument("--json", type=Path, help="file for the record")
    add_load_option(parser)
    options = parser.parse_args(argv)
    unknown = [part for part in options.parts if part not in PARTS]
    if unknown:
        parser.error(f"unknown part {unknown[0]!r}: choose from {', '.join(PARTS)}")
    for name in ("clients", "width", "scale_width", "streamed", "threads", "repeats"):
        if getattr(options, name) < 1:
            parser.error(f"--{name.replace('_', '-')}: must be at least 1")
    torch.set_num_threads(options.threads)
    refuse_load(parser, loaded=options.loaded, device=options.device)
    facts = machine(options.device)
    print(f"server, {facts['device']} ({facts['processor']}, {facts['cores']} cores, {options.threads} threads)")
    found = {}
    for part in options.parts or PARTS:
        print(part, flush=True)
        found[part] = PARTS[part](options)
    asked = {
        key: str(value) if isinstance(value, Path) else value
        for key, value in vars(options).items()
        if key not in ("json", "parts", "device", "folder", "loaded")
    }
    save(options.json, {"bench": "server", "machine": facts, "options": asked, "parts": found})
    return 0
