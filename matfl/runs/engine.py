"""A whole federated run on one machine: the rounds, what is recorded of them, and where they are stored.

The server's own steps are in `matfl.server.server`, so that another transport (`matfl.flower`) runs the same ones.
Everything random is derived from (seed, round, client): a run that goes on from a checkpoint ends as if it had never
stopped.
"""

from __future__ import annotations

import os
import platform
import subprocess
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch

import matfl
from matfl.client import training as local
from matfl.config.run_config import RunConfig
from matfl.data import READERS, load_split
from matfl.data.start_bias import start_biases
from matfl.models.backbone import check_backbone
from matfl.models.pretrain import scenes_file
from matfl.models.starts import start_backbone, start_version
from matfl.runs import store
from matfl.runs.arithmetic import arithmetic
from matfl.runs.plugins import origins
from matfl.runs.rounding import rounding
from matfl.runs.simulation import Progress, Simulation, Splits
from matfl.server.methods import method_of
from matfl.server.server import Server, ServerState
from matfl.server.spool import Spool
from matfl.tasks.task import pairs

__all__ = [
    "Progress",
    "add_diagnostics",
    "begin",
    "data_difference",
    "data_version",
    "device_name",
    "load_splits",
    "pick_device",
    "prepare",
    "provenance",
    "repeatable",
    "run",
]

Folder = str | Path


def pick_device(device: str | torch.device | None = None) -> torch.device:
    """`device`, or a GPU if there is one, else the CPU. RuntimeError when the named one cannot be used."""
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
        torch.empty(1, device=chosen)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(
            f"device={str(device)!r} cannot be used here ({reason}): choose 'cpu', or leave it out"
        ) from None
    return chosen


def data_version(config: RunConfig) -> dict[str, Any]:
    """What, beside the config, decides a run's numbers: its domains' pictures, the start weights, the arithmetic."""
    version: dict[str, Any] = {}
    for domain in dict.fromkeys(pair.domain for pair in pairs(config.tasks)):
        version |= READERS.find(domain.reader).version(domain)
    if (start := start_version(config)) is not None:
        version["start"] = start
    if revisions := arithmetic(config):
        version["arithmetic"] = revisions
    return version


def data_difference(stored: Mapping[str, Any] | None, now: Mapping[str, Any]) -> str:
    """How two `data_version`s differ, in words: '' where they don't."""
    before = stored or {}
    names = {
        "scenes": "version of the rendered pictures",
        "start": "start weights",
        "arithmetic": "revisions of the arithmetic",
    }
    return ", ".join(
        f"{names.get(key, f'fingerprint of {key}')}: {before.get(key)} then, {now.get(key)} now"
        for key in (*before, *(key for key in now if key not in before))
        if before.get(key) != now.get(key)
    )


def device_name(device: torch.device) -> str:
    """The GPU's own name, or the kind of device and of processor: `cpu x86_64`."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"{device.type} {platform.machine()}"


def provenance(config: RunConfig, device: torch.device) -> dict[str, Any]:
    """What made a run: versions, device, seed, data version and git commit, without names of machines or folders."""
    package = Path(matfl.__file__).parent
    git = (
        subprocess.run(
            ["git", "-C", str(package), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
            capture_output=True,
            text=True,
            check=False,
        )
        if _has_git(package)
        else None
    )
    precision = local.resolve_precision(config, device)
    with repeatable(device):
        rounds = rounding(device, precision)
    return {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "matfl": matfl.__version__,
        "git": git.stdout.strip() if git and git.returncode == 0 else None,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "device": device_name(device),
        "rounding": rounds,
        "precision": str(precision).removeprefix("torch."),
        "threads": torch.get_num_threads(),
        "seed": config.seed,
        "hash": config.hash,
        "data": data_version(config),
        **({"plugins": plugins} if (plugins := origins(config)) else {}),
    }


def _has_git(package: Path) -> bool:
    """Whether the package lies in a checkout of its own, not merely somewhere below another repository."""
    from shutil import which

    return which("git") is not None and (package.parent / ".git").exists()


def load_splits(
    config: RunConfig, *, data_dir: Folder | None = None, cache_dir: Folder | None = None, progress: bool = False
) -> Splits:
    """Both splits of every domain in the config's tasks."""
    domains = dict.fromkeys(pair.domain for pair in pairs(config.tasks))
    return {
        domain.name: {
            name: load_split(config, domain, name, data_dir=data_dir, cache_dir=cache_dir, progress=progress)
            for name in ("train", "val")
        }
        for domain in domains
    }


def prepare(
    configs: Sequence[RunConfig],
    *,
    data_dir: Folder | None = None,
    cache_dir: Folder | None = None,
    device: str | torch.device | None = None,
    progress: bool = False,
    say: Callable[[str], None] | None = None,
) -> None:
    """Put the data and the starts of all `configs` into the cache, so that runs side by side find them there.

    `progress` shows bars on stderr; `say` is told when a start has to be trained. Raises what any run would raise for
    an unknown method or device, and for data or start weights that are missing.
    """
    where, data, starts = pick_device(device), {}, {}
    for config in configs:
        method_of(config)
        check_backbone(config)
        data[config.tasks, config.size, config.images_train, config.images_val, config.data_seed] = config
        starts[config.start, config.backbone, config.width] = config
    for config in data.values():
        load_splits(config, data_dir=data_dir, cache_dir=cache_dir, progress=progress)
    for config in starts.values():
        if say and config.start == "scenes" and not scenes_file(config.width, cache_dir).exists():
            say(
                f"pre-training the start of width {config.width} on rendered objects, once (about a minute on one core)"
            )
        with repeatable(where):
            start_backbone(config, cache_dir=cache_dir, device=where)


def run(
    config: RunConfig,
    path: Folder,
    *,
    device: str | torch.device | None = None,
    data_dir: Folder | None = None,
    cache_dir: Folder | None = None,
    progress: Callable[[Progress], None] | None = None,
    fresh: bool = False,
    wait: bool = False,
    stop: Callable[[], bool] | None = None,
    memory: int = 0,
) -> None:
    """Train the run in folder `path`, or go on with it, until its last round is stored.

    Args:
        device: default: a GPU if there is one. On a CPU one thread computes, so that numbers do not depend on how many
            runs share the machine; many runs at once are `matfl.runs.run.load_or_run`.
        progress: called after every step.
        fresh: remove what is stored in `path` first.
        wait: wait for another process that has the run, instead of raising `RunBusyError`.
        stop: asked after every stored round; True ends the run there.
        memory: megabytes of updates to hold; where a round's need more they go to files in `path`. 0: all are held.
            The numbers are the same.

    Raises:
        RunError: the folder holds another config, is damaged, in use, or cannot be written.
        ValueError: the data do not suffice for the config.
    """
    path = Path(path)
    where = pick_device(device)
    with store.locked(path, wait=wait), repeatable(where):
        if fresh:
            store.discard(path)
        begin(path, config, provenance(config, where))
        if store.stored_round(path, config) == config.rounds:
            store.mark(path, config, config.rounds)
            return
        check_backbone(config)
        simulation = Simulation(config, where, load_splits(config, data_dir=data_dir, cache_dir=cache_dir), progress)
        server = Server(config, [client.pair for client in simulation.clients], device=where)
        if store.stored_round(path, config):
            tensors, records = store.load_checkpoint(path, config)
            state = server.unpack(tensors, len(records.rounds))
            simulation.unpack(tensors)
        else:
            start = start_backbone(config, cache_dir=cache_dir, device=where)
            state = server.start(start, biases=start_biases(simulation.clients, simulation.splits))
            records = store.Records(static=server.static())
        spool = Spool(folder=path / "replies", memory=memory * 10**6) if memory else None
        while state.rounds_done < config.rounds:
            state = _round(server, simulation, state, records, spool)
            store.save_round(path, config, server.pack(state) | simulation.pack(), records)
            simulation.report("done", state.rounds_done, 1, 1, records.rounds[-1]["loss"] or float("nan"))
            if stop and stop():
                return


def begin(path: Path, config: RunConfig, made_by: Mapping[str, Any]) -> None:
    """Begin the run in folder `path`, or check that it can go on there: same config, pictures and start.

    Raises RunError when it cannot.
    """
    store.create(path, config, made_by)
    if difference := data_difference(store.read_provenance(path).get("data"), data_version(config)):
        raise store.RunError(
            f"{path} was begun with other data ({difference}): finish it with those, or remove its folder (or use "
            "--fresh)"
        )


def _round(
    server: Server, simulation: Simulation, state: ServerState, records: store.Records, spool: Spool | None
) -> ServerState:
    """One round: train, mix, evaluate; `records` grow by what it measured."""
    spent = {"train": 0.0, "mix": 0.0, "evaluate": 0.0}
    began = time.perf_counter()
    collection = server.begin(state, spool)
    measured = simulation.train(server, state, collection, spent)
    after, record = collection.finish()
    if record.row["excluded"] and not record.row["participants"]:
        client, why = next(iter(record.row["excluded"].items()))
        warnings.warn(f"round {after.rounds_done}: every client was left out; client {client}: {why}", stacklevel=3)
    _wait_for(simulation.device)
    spent["mix"] = time.perf_counter() - began - spent["train"] - spent["evaluate"]
    if server.evaluates(after.rounds_done):
        began = time.perf_counter()
        measured += simulation.evaluate(server, after, record.loss)
        spent["evaluate"] += time.perf_counter() - began
    records.metrics += measured
    records.rounds.append({**record.row, "seconds": {k: round(v, 4) for k, v in spent.items()}})
    add_diagnostics(records, record.diagnostics)
    return after


def add_diagnostics(records: store.Records, arrays: Mapping[str, np.ndarray]) -> None:
    """Add a round's arrays to the records; a method's own that a round lacks are NaN there."""
    done = len(records.rounds) - 1
    for name in dict.fromkeys((*records.diagnostics, *arrays)):
        like = arrays[name] if name in arrays else records.diagnostics[name][0]
        filler = np.full(like.shape, np.nan, np.float32)
        rows = records.diagnostics.setdefault(name, [filler] * done)
        rows.append(arrays.get(name, filler))


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@contextmanager
def repeatable(device: torch.device) -> Iterator[None]:
    """One thread on a CPU, deterministic kernels on a GPU; the caller's settings come back afterwards."""
    memory: Any = torch.utils.deterministic  # whose attribute is a property that mypy does not see
    threads, fills = torch.get_num_threads(), memory.fill_uninitialized_memory
    strict, warn_only = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )
    with warnings.catch_warnings():
        if device.type == "cpu":
            torch.set_num_threads(1)
        else:
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
            # Only warn: the loss's sum over pixels has no repeatable kernel, and no gradient depends on that sum.
            torch.use_deterministic_algorithms(True, warn_only=True)
            memory.fill_uninitialized_memory = False  # a launch for every tensor, to find bugs
            warnings.filterwarnings("ignore", message=".*does not have a deterministic implementation.*")
        try:
            yield
        finally:
            torch.set_num_threads(threads)
            torch.use_deterministic_algorithms(strict, warn_only=warn_only)
            memory.fill_uninitialized_memory = fills
