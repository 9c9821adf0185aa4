"""What the command line shows: progress of a round, tables of runs, one run's summary, a config as TOML."""

from __future__ import annotations

import ast
import inspect
import json
import math
import sys
import textwrap
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from matfl.config.parameters import METHODS, defaults
from matfl.config.run_config import RunConfig
from matfl.runs import plugins
from matfl.runs.run import Run
from matfl.runs.store import RunError, read_settings, read_state
from matfl.tasks.task import parts_of

if TYPE_CHECKING:
    from matfl.runs.engine import Progress

__all__ = ["listing", "methods", "progress", "show", "sparkline", "table", "toml"]

_BARS = "▁▂▃▄▅▆▇█"


def sparkline(values: Sequence[float]) -> str:
    """One character a value, from the lowest to the highest; a blank where there is none (NaN)."""
    finite = [value for value in values if math.isfinite(value)]
    low, high = (min(finite), max(finite)) if finite else (0.0, 0.0)
    scale = (len(_BARS) - 1) / (high - low) if high > low else 0.0
    return "".join(_BARS[round((value - low) * scale)] if math.isfinite(value) else " " for value in values)


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Aligned columns; those whose entries are numbers are aligned to the right."""
    columns = list(zip(header, *rows, strict=True))
    widths = [max(map(len, column)) for column in columns]
    numeric = [all(_is_number(cell) for cell in column[1:]) for column in columns]
    lines = [
        "  ".join(
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(row, widths, numeric, strict=True)
        ).rstrip()
        for row in (header, *rows)
    ]
    return "\n".join(lines)


def _is_number(cell: str) -> bool:
    try:
        float(cell.rstrip("%"))
    except ValueError:
        return cell in ("", "-")
    return True


def listing(runs: Sequence[Run]) -> str:
    """One line a run: name, how far it is, and what tells runs apart; below it what is wrong with some."""
    rows, notes = [], []
    for run in runs:
        try:
            done = str(run.config.rounds if run.finished else read_state(run.path).get("round", 0))
        except RunError as error:
            done = "?"
            notes.append(str(error))
        stored = _settings(run)
        rows.append([run.path.name, f"{done}/{stored.get('rounds', '?')}"] + [str(stored.get(n, "")) for n in _TOLD])
    return "\n".join([table(("run", "rounds", *_TOLD), rows), *notes])


_TOLD = ("method", "tasks", "clients_per_task", "k", "seed")


def _settings(run: Run) -> dict[str, Any]:
    """The run's stored parameters, whether or not they are known here; empty where they cannot be read."""
    try:
        return read_settings(run.path)
    except RunError:
        return {}


def methods() -> str:
    """The methods by family, with their parameters and their defaults, and their module if it is a plug-in's."""
    width = max(map(len, METHODS))
    lines, family = [], ""
    for name, method in METHODS.items():
        if method.family != family:
            family = method.family
            lines.append(f"{family}:")
        lines.append(f"  {name:<{width}}  {method.title}: {method.description} [{method.source}]")
        if METHODS.foreign(name):
            lines[-1] += f" (plug-in {METHODS.origin(name)})"
        lines += [f"  {'':<{width}}  -p {name}.{key}={value}" for key, value in defaults(method).items()]
    return "\n".join(lines)


def show(run: Run) -> str:
    """A run's final metrics, their course, what the server decided, and what it cost."""
    try:
        config = run.config
    except RunError as error:
        return _show_unknown(run, error)
    parts = [f"{run.path}\n{config.tasks}, {config.num_clients} clients, method {config.method}"]
    if absent := plugins.missing(run.provenance):
        parts[0] += f"\n{plugins.remedy(absent)}"
    if not (run.path / "rounds.jsonl").exists():
        return parts[0] + "\nno round is stored yet"
    if not run.finished:
        parts[0] += f", unfinished: {len(run.rounds)} of {config.rounds} rounds (`matfl resume` goes on)"
    return "\n\n".join([*parts, _metrics(run), *filter(None, [_grouping(run)]), _costs(run)])


def _show_unknown(run: Run, error: RunError) -> str:
    """What can be said of a run whose config this installation does not understand."""
    stored = _settings(run)
    if not stored:
        raise error
    told = ", ".join(f"{name}={stored[name]}" for name in _TOLD if name in stored)
    parts = [f"{run.path}\n{told}\n{error}"]
    if (run.path / "rounds.jsonl").exists():
        frame = run.metrics
        last = frame[frame["round"] == frame["round"].max()] if len(frame) else frame
        means = last.groupby(["domain", "task", "metric", "kind"], sort=False)["value"].mean()
        rows = [[f"{d}/{t}", metric, kind, f"{value:.4f}"] for (d, t, metric, kind), value in means.items()]
        parts += [table(("task", "metric", "kind", "value"), rows), _costs(run)]
    return "\n\n".join(parts)


def _metrics(run: Run) -> str:
    frame = run.metrics
    rows = []
    for pair in parts_of(run.config.tasks):
        mine = frame[(frame["domain"] == pair.domain.name) & (frame["task"] == pair.label)]
        for metric in dict.fromkeys(mine["metric"]):
            values = mine[mine["metric"] == metric].groupby(["kind", "round"])["value"].mean()
            course = values.get("global")
            last = {kind: f"{values[kind].iloc[-1]:.4f}" if kind in values else "-" for kind in ("global", "local")}
            star = "*" if metric == pair.task.main_metric else ""
            rows.append(
                [
                    pair.name,
                    metric + star,
                    last["global"],
                    last["local"],
                    sparkline(course.tolist()) if course is not None and star else "",
                ]
            )
    if not rows:
        return "no round has been evaluated yet"
    last_round = int(frame["round"].max())
    text = table(("task", "metric", "global", "local", "course"), rows)
    derived = ", ".join(pair.name for pair in parts_of(run.config.tasks) if pair.derived)
    return (
        f"{text}\n(round {last_round}; global: the task's model after aggregation; local: clients' models after "
        f"local training, averaged; *: main metric{f'; derived labels: {derived}' if derived else ''})"
    )


def _grouping(run: Run) -> str:
    from matfl.paper.stats import chance_of_choice
    from matfl.paper.studies import diagnostics as measure

    stored = run.diagnostics
    present = stored["participants"]
    same = measure.same_task(stored["client_pairs"])
    rows: list[tuple[str, np.ndarray, str]] = [
        ("self weight", measure.self_weight(stored["weights"], present), ""),
        ("weight of same-task partners", measure.partner_weight(stored["weights"], same, present), ""),
    ]
    if "friends" in stored and stored["friends"].any() and same.any():
        chance = chance_of_choice(run.config.k, run.config.num_clients)
        correct = measure.correctness(stored["friends"], same, present)
        rows.append(("partners among friends", correct, f"chance {chance:.2f}"))
    cosines = np.where(present, stored["cos_start"], 0).sum(1) / np.maximum(present.sum(1), 1)
    rows.append(("cosine of updates with start", np.where(present.any(1), cosines, np.nan), ""))
    return table(
        ("server", "first", "last", "course", ""),
        [
            [name, f"{values[0]:.3f}", f"{values[-1]:.3f}", sparkline(values.tolist()), note]
            for name, values, note in rows
        ],
    )


def _costs(run: Run) -> str:
    rounds = run.rounds
    phases = dict.fromkeys(phase for row in rounds for phase in row["seconds"])  # a federation's server also waits
    seconds = {phase: sum(row["seconds"].get(phase, 0.0) for row in rounds) for phase in phases}
    sent = sum(row[way] for row in rounds for way in ("bytes_up", "bytes_down")) / 1e6
    left_out = sum(len(row["excluded"]) for row in rounds)
    text = ", ".join(f"{phase} {value:.1f} s" for phase, value in seconds.items())
    return f"cost: {text}; {sent:.1f} MB sent" + (f"; {left_out} times a client was left out" if left_out else "")


@contextmanager
def progress(config: RunConfig, *, quiet: bool) -> Iterator[Callable[[Progress], None] | None]:
    """The callback that shows a run's progress on stderr: a bar, or a line a round when stderr is no terminal."""
    if quiet:
        yield None
    elif sys.stderr.isatty():
        from tqdm import tqdm

        layout = "{desc} {percentage:3.0f}%|{bar}| round {n:.1f}/{total} [{elapsed}<{remaining}{postfix}]"
        bar = tqdm(total=config.rounds, desc=config.method, bar_format=layout, dynamic_ncols=True)

        def advance(event: Progress) -> None:
            position = event.round - 1 + (event.done / event.of if event.phase == "train" else 1)
            if not bar.n:  # a resumed run starts where it stopped, or the time left would be too short
                bar.initial = bar.n = event.round - 1
            bar.set_postfix_str(f"{event.phase}, loss {event.loss:.3f}", refresh=False)
            bar.update(position - bar.n)

        with bar:
            yield advance
    else:
        began = time.monotonic()

        def line(event: Progress) -> None:
            if event.phase == "done":
                print(
                    f"round {event.round}/{config.rounds}: loss {event.loss:.4f}, {time.monotonic() - began:.0f} s",
                    file=sys.stderr,
                    flush=True,
                )

        yield line


def toml(config: RunConfig) -> str:
    """A TOML file that `load_toml` reads back as `config`, each parameter with what it means."""
    meanings = _field_docs()
    lines = [f"preset = {json.dumps(config.preset)}", ""]
    for name, value in config.to_json().items():
        if name in ("preset", "parameters"):
            continue
        lines += [f"# {line}" for line in textwrap.wrap(meanings.get(name, ""), 116)]
        lines.append(f"{name} = {json.dumps(value)}")
    if config.parameters:
        lines += ["", f"[{config.method}]", *(f"{name} = {json.dumps(value)}" for name, value in config.parameters)]
    return "\n".join(lines) + "\n"


def _field_docs() -> dict[str, str]:
    """The strings below the fields of `RunConfig`."""
    body = ast.parse(textwrap.dedent(inspect.getsource(RunConfig))).body[0]
    assert isinstance(body, ast.ClassDef)
    docs = {}
    for field, text in zip(body.body, body.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and isinstance(text, ast.Expr):
            docs[field.target.id] = " ".join(str(ast.literal_eval(text.value)).split())
    return docs
