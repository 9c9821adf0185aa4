"""Many runs at once: spread over processes or a Ray cluster, watched, and none lost when one of them fails."""

from __future__ import annotations

import sys
import threading
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from matfl.config.run_config import PRESETS, RunConfig
from matfl.core.extras import require
from matfl.core.processes import child_of_this
from matfl.core.surroundings import shows_bars
from matfl.runs.plugins import Carried, adopt, carried
from matfl.runs.store import RunError, read_state, run_path
from matfl.runs.workspace import Workspace
from matfl.tasks.task import pairs

__all__ = ["describe", "register_backend", "train_all", "work", "worker_killed"]


def describe(config: RunConfig) -> str:
    """The fields in which a config differs from its preset, for messages: 'method=matfl, seed=1'."""
    base = PRESETS[config.preset]() if config.preset in PRESETS else RunConfig()
    changed = {"method": config.method} | config.changes(base)
    return ", ".join(f"{name}={value}" for name, value in changed.items())


def work(config: RunConfig) -> float:
    """Work of a run in arbitrary units: the largest starts first, and others' seconds say how long it may take."""
    domains = len({pair.domain for pair in pairs(config.tasks)})
    images = config.images_per_client or (config.images_train or 1000) * domains / config.num_clients
    size = config.size or 512
    return (
        config.rounds
        * config.num_clients
        * config.participation
        * config.local_epochs
        * images
        * size**2
        * (config.width * (config.width + 16))
    )


def register_backend(backend: str) -> None:
    """Make joblib know 'ray'; it knows 'loky'. ImportError where Ray is not installed."""
    if backend == "ray":
        require("ray.util.joblib", extra="ray", what="backend='ray'").register_ray()


def train_all(
    configs: Sequence[RunConfig],
    workspace: Workspace,
    *,
    jobs: int | None,
    backend: str,
    device: str | None,
    fresh: bool,
    progress: bool,
) -> None:
    """Train or resume `configs` in the workspace, `jobs` at a time, as `matfl.runs.run.load_or_run` says."""
    import joblib

    from matfl.runs import engine as federation

    if backend not in ("loky", "ray"):
        raise ValueError(f"backend={backend!r}: choose 'loky' (this machine) or 'ray' (a cluster)")
    if jobs is not None and jobs < 1:
        raise ValueError(f"jobs={jobs}: must be at least 1")
    where = federation.pick_device(device)
    if jobs is None and backend == "loky":
        jobs = 1 if where.type == "cuda" else joblib.cpu_count()
    jobs = None if jobs is None else min(jobs, len(configs))
    base = workspace.runs
    places = {"data_dir": workspace.data, "cache_dir": workspace.cache}
    options = {**places, "device": str(where), "fresh": fresh, "wait": True}
    # Splits and starts go to the cache once, before the processes ask for them.
    federation.prepare(
        configs, device=where, progress=progress and sys.stderr.isatty(), say=_say if progress else None, **places
    )
    ordered = sorted(configs, key=work, reverse=True)
    failures: dict[RunConfig, str] = {}
    with _Monitor(ordered, base, enabled=progress, jobs=jobs) as monitor:
        for index, failure in _results(ordered, base, jobs, backend, options):
            if failure:
                failures[ordered[index]] = failure
            monitor.done(ordered[index], failure)
    if failures:
        lines = [f"  {config.name} ({describe(config)}): {text.splitlines()[0]}" for config, text in failures.items()]
        error = RunError(f"{len(failures)} of {len(configs)} runs failed (the others are stored):\n" + "\n".join(lines))
        for config, text in failures.items():
            error.add_note(f"{config.name}: {text}")
        raise error


def _results(
    configs: Sequence[RunConfig], base: Path, jobs: int | None, backend: str, options: dict[str, Any]
) -> Iterator[tuple[int, str | None]]:
    """(index, failure or None) of every config as it ends."""
    if jobs == 1 and backend == "loky":
        for index, config in enumerate(configs):
            yield _run_one(index, config, run_path(config, base), [], options)
        return
    import joblib

    try:
        register_backend(backend)
    except ImportError as error:
        raise RunError(str(error)) from None
    limits = {"inner_max_num_threads": 1, **child_of_this()} if backend == "loky" else {}
    with (
        worker_killed("finished rounds are stored"),
        joblib.parallel_config(backend=backend, n_jobs=jobs or -1, **limits),
    ):
        order = "list" if backend == "ray" else "generator_unordered"  # Ray's backend gives all at the end
        yield from joblib.Parallel(return_as=order, batch_size=1, pre_dispatch=jobs or "all")(
            joblib.delayed(_run_one)(index, config, run_path(config, base), carried(config), options)
            for index, config in enumerate(configs)
        )


@contextmanager
def worker_killed(kept: str) -> Iterator[None]:
    """The end of a worker process as a RunError; `kept` says what is not lost."""
    from joblib.externals.loky.process_executor import TerminatedWorkerError

    try:
        yield
    except TerminatedWorkerError:
        raise RunError(
            f"a worker process was killed, perhaps for lack of memory: use fewer jobs; {kept}, so the same call goes on"
        ) from None


def _run_one(
    index: int, config: RunConfig, path: Path, entries: Sequence[Carried], options: dict[str, Any]
) -> tuple[int, str | None]:
    """Train one run; an exception comes back as text, so that it ends this run alone.

    `entries` are what the config needs of the caller's own: a notebook's cell may have registered it.
    """
    from matfl.runs import engine as federation

    adopt(entries)
    try:
        federation.run(config, path, **options)
    except Exception as error:
        return index, f"{error}\n{traceback.format_exc()}"
    return index, None


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


class _Monitor:
    """Progress of many runs on stderr: one bar over their rounds, or one line a finished run."""

    def __init__(self, configs: Sequence[RunConfig], base: Path, *, enabled: bool, jobs: int | None) -> None:
        self.paths = [run_path(config, base) for config in configs]
        self.total = sum(config.rounds for config in configs)
        self.enabled, self.jobs, self.ended = enabled, jobs, 0
        self.bar: Any = None
        self.closing = threading.Event()
        self.thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> _Monitor:
        if self.enabled and shows_bars(sys.stderr):
            from tqdm import tqdm

            self.bar = tqdm(
                total=self.total, initial=self._stored(), unit="round", dynamic_ncols=True, desc=self._title()
            )
            self.thread.start()
        elif self.enabled:
            _say(f"training {len(self.paths)} runs ({self.total} rounds), {self.jobs or 'as many as fit'} at a time")
        return self

    def __exit__(self, *_: object) -> None:
        self.closing.set()
        if self.bar is not None:
            self.thread.join()
            self.bar.close()

    def done(self, config: RunConfig, failure: str | None) -> None:
        self.ended += 1
        state = f"failed: {failure.splitlines()[0]}" if failure else "finished"
        if self.bar is not None:
            self.bar.set_description(self._title())
            if failure:
                self.bar.write(f"{config.name} {state}", file=sys.stderr)
        elif self.enabled:
            _say(f"[{self.ended}/{len(self.paths)}] {config.name} ({describe(config)}) {state}")

    def _title(self) -> str:
        return f"{self.ended}/{len(self.paths)} runs"

    def _stored(self) -> int:
        return sum(read_state(path).get("round", 0) for path in self.paths)

    def _watch(self) -> None:
        while not self.closing.wait(0.5):
            self.bar.n = self._stored()
            self.bar.refresh()
        self.bar.n = self._stored()
        self.bar.refresh()
