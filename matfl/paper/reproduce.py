"""`matfl reproduce`: compute what the notebooks need, execute them with papermill, and report their claims."""

from __future__ import annotations

import ast
import inspect
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from matfl.config.run_config import RunConfig
from matfl.config.run_config import preset as preset_config
from matfl.core.extras import require
from matfl.core.files import replace_file, unfinished
from matfl.core.locks import locked
from matfl.core.processes import child_of_this
from matfl.paper.studies import STUDIES
from matfl.paper.studies.base import Plan, sizes
from matfl.paper.studies.order import by_importance
from matfl.paper.studies.session import (
    check_writable,
    collect,
    collect_records,
    collect_stored,
    collect_stored_records,
    export_record,
    has_votes,
    notebooks_folder,
    read_claims,
)
from matfl.paper.studies.stock import seconds_of
from matfl.paper.studies.store import Record, job_name, write_record
from matfl.runs.parallel import worker_killed
from matfl.runs.workspace import Workspace, checkout

if TYPE_CHECKING:
    from matfl.runs.run import Run

__all__ = ["NotebookError", "Outcome", "choose", "normalise", "parameters_of", "reproduce", "typed_parameters"]


LAST = "index"
"""The notebook that is drawn after all others."""


class NotebookError(RuntimeError):
    """One or more notebooks failed; the message names them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What one notebook came to."""

    study: str
    seconds: float
    """To execute it, once everything was computed."""
    compute_seconds: float
    """Recorded time of all runs and other results that it uses, shared ones included."""
    claims: tuple[Mapping[str, str], ...] = ()
    error: str = ""


def choose(names: Sequence[str]) -> tuple[str, ...]:
    """Studies by full name, number or the part after the number; all of them for no name.

    Raises ValueError for a name that fits none.
    """
    chosen = []
    for name in names:
        number, plain = name.zfill(2) if name else "", name.removesuffix(".ipynb")
        fits = [
            study
            for study in STUDIES
            if (plain and plain in (study, study.partition("_")[2])) or study.split("_")[0] == number
        ]
        if not fits:
            raise ValueError(f"unknown study {name!r}: choose from {', '.join(STUDIES)}")
        chosen += fits
    return tuple(study for study in STUDIES if study in chosen) if chosen else tuple(STUDIES)


def parameters_of(notebook: Path) -> dict[str, tuple[str, object]]:
    """Name -> (type name, default) of a notebook's parameters cell."""
    papermill = require("papermill", extra="paper", what="`matfl reproduce`")
    found = {}
    for name, entry in papermill.inspect_notebook(str(notebook)).items():
        default = ast.literal_eval(entry["default"])
        found[name] = (entry["inferred_type_name"], default)
    return found


def _typed(name: str, value: object, kind: str, where: str) -> object:
    """`value`, which may be text, as the declared type."""
    if isinstance(value, str) and kind != "str":
        try:
            if kind == "bool":
                return {"true": True, "false": False, "1": True, "0": False}[value.lower()]
            return {"int": int, "float": float}[kind](value)
        except (KeyError, ValueError):
            raise TypeError(f"{where}: {name}={value!r}: expected {kind}") from None
    if type(value).__name__ != kind and not (kind == "float" and type(value) is int):
        raise TypeError(f"{where}: {name}={value!r}: expected {kind}, got {type(value).__name__}")
    return value


def typed_parameters(
    known: Mapping[str, Mapping[str, tuple[str, object]]], given: Mapping[str, object]
) -> dict[str, dict[str, object]]:
    """For each study the given parameters that its notebook has, with their declared types.

    papermill itself would only warn of an unknown name and pass 'false' on as a true string. Raises ValueError for a
    name that no chosen notebook has, TypeError for a value of another type.
    """
    everywhere = {name for parameters in known.values() for name in parameters}
    for name in given:
        if name not in everywhere:
            raise ValueError(
                f"unknown parameter {name!r}: {', '.join(known)} "
                f"{'have' if len(known) > 1 else 'has'} {', '.join(sorted(everywhere))}"
            )
    return {
        study: {
            name: _typed(name, value, parameters[name][0], study) for name, value in given.items() if name in parameters
        }
        for study, parameters in known.items()
    }


def _plan(study: str, known: Mapping[str, tuple[str, object]], given: Mapping[str, object]) -> Plan:
    """The study's plan with the notebook's defaults and the given parameters; those only for drawing are left out."""
    accepted = inspect.signature(STUDIES[study]).parameters
    values = {name: default for name, (_, default) in known.items()} | dict(given)
    return STUDIES[study](**{name: value for name, value in values.items() if name in accepted})


@contextmanager
def _environment(**values: str | Path | None) -> Iterator[None]:
    """Environment variables for the notebooks' kernels; put back afterwards."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update({name: str(value) for name, value in values.items() if value is not None})
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _places(place: Workspace) -> AbstractContextManager[None]:
    """The workspace in the environment, for other processes and for plans that ask what is at hand."""
    return _environment(MATFL_RUNS=place.runs, MATFL_DATA=place.data, MATFL_CACHE=place.cache)


def normalise(notebook: Path, *, keep_parameters: bool = True) -> None:
    """Drop from an executed notebook what differs from execution to execution, in place; outputs and counts stay.

    With `keep_parameters=False` the injected parameters' cell goes as well and counts close up.
    """
    import nbformat

    content = nbformat.read(notebook, as_version=4)
    for name in ("papermill", "language_info"):
        content.metadata.pop(name, None)
    if not keep_parameters:
        content.cells = [c for c in content.cells if "injected-parameters" not in c.metadata.get("tags", [])]
    count = 0
    for cell in content.cells:
        for name in ("papermill", "execution"):
            cell.metadata.pop(name, None)
        if cell.cell_type == "code":
            count += 1
            cell.execution_count = count
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
            for output in cell.outputs:
                if "execution_count" in output:
                    output.execution_count = count
    nbformat.write(content, notebook)


def _execute(study: str, notebook: Path, parameters: Mapping[str, object], out: Path) -> tuple[str, float]:
    """Run one notebook into `out`; the error's text, or '', and the seconds it took."""
    import papermill

    from matfl.paper import kernels

    began = time.monotonic()
    target = out / f"{study}.ipynb"
    (out / f"{study}.json").unlink(missing_ok=True)
    try:
        with _environment(MATFL_FIGURES=out):
            papermill.execute_notebook(
                str(notebook),
                str(target),
                dict(parameters),
                kernel_name="python3",
                progress_bar=False,
                extra_arguments=["--log-level=ERROR"],
                **kernels.options(),
            )
    except papermill.exceptions.PapermillExecutionError as error:
        return f"{error.ename}: {error.evalue} (cell {error.exec_count} of {target})", time.monotonic() - began
    normalise(target)
    return "", time.monotonic() - began


def _execute_all(
    typed: Mapping[str, Mapping[str, object]], folders: Mapping[str, Path], jobs: int | None
) -> Iterator[tuple[str, str, float, tuple[Mapping[str, str], ...]]]:
    """Run the notebooks in processes of their own, `jobs` at a time: (study, error or '', seconds, claims) as they end.

    The last begins when the others have ended: it shows what they left. All share the processes, whose imports take
    longer than most notebooks. Raises RunError when one of the processes is killed.
    """
    from concurrent.futures import as_completed

    from joblib.externals.loky import ProcessPoolExecutor

    workers = min(len(typed), jobs or os.cpu_count() or 1)
    ended = worker_killed("what is computed is stored")
    with ended, ProcessPoolExecutor(workers, **child_of_this()) as pool:
        for part in ([study for study in typed if study != LAST], [study for study in typed if study == LAST]):
            waiting = {
                pool.submit(_execute, study, notebooks_folder() / f"{study}.ipynb", typed[study], folders[study]): study
                for study in part
            }
            for done in as_completed(waiting):
                error, seconds = done.result()
                study = waiting[done]
                yield study, error, seconds, () if error else tuple(read_claims(folders[study], study))


def _recorded_seconds(runs: Sequence[Run], records: Sequence[Record]) -> float:
    return sum(map(seconds_of, runs)) + sum(record.provenance.get("seconds", 0.0) for record in records)


def _summary(outcomes: Sequence[Outcome], total: float) -> str:
    """The final table: study, verdicts on claims, time."""
    from textwrap import wrap

    lines = []
    for outcome in outcomes:
        time_text = f"{outcome.compute_seconds / 60:.1f} min of computing, drawn in {outcome.seconds:.0f} s"
        lines.append(f"{outcome.study}  ({time_text})")
        if outcome.error:
            lines.append(f"  FAILED       {outcome.error}")
        for claim in outcome.claims:
            first, *rest = wrap(claim["claim"], 96) or [""]
            lines.append(f"  {claim['verdict']:<12} {first}")
            lines += [f"{'':<15}{line}" for line in rest]
    counts = {
        word: sum(c["verdict"] == word for o in outcomes for c in o.claims)
        for word in ("held", "not held", "undecided", "not computed")
    }
    lines.append(", ".join(f"{count} {word}" for word, count in counts.items()) + f"; {total / 60:.1f} min in all")
    return "\n".join(lines)


def reproduce(
    studies: Sequence[str] = (),
    *,
    preset: str | None = None,
    parameters: Mapping[str, object] | None = None,
    train: bool = True,
    fresh: bool = False,
    jobs: int | None = None,
    backend: str = "loky",
    out: str | Path | None = None,
    workspace: Workspace | None = None,
    device: str | None = None,
    update_notebooks: bool = False,
) -> int:
    """Compute what the studies need, execute their notebooks, and print a summary; 0 if all went well.

    Args:
        studies: names or numbers; default those of the preset (`Sizes.studies`), else all. A ValueError lists them.
        preset: of all of them; default each notebook's own.
        parameters: of the notebooks; text is turned into the declared type, unknown names are a ValueError.
        train: False draws what is stored and trains nothing; notebooks say what is missing.
        fresh: train everything again, whatever is stored.
        out: default `figures/<preset>`, with the parameters in the folder's name if there are any.
        update_notebooks: also replace the notebooks of the checkout by the executed ones (default parameters only).
    """
    began = time.monotonic()
    given = dict(parameters or {})
    for name, option in (("preset", "--preset"), ("train", "--no-train")):
        if name in given:
            raise ValueError(f"give {name} with {option}, not as a parameter")
    if fresh and not train:
        raise ValueError("--fresh trains everything again, --no-train nothing: choose one of them")
    if preset is not None:
        preset_config(preset)
        given["preset"] = preset
    chosen = choose(studies or (sizes(preset).studies if preset else ()))
    known = {study: parameters_of(notebooks_folder() / f"{study}.ipynb") for study in chosen}
    typed = typed_parameters(known, given)
    presets = {study: preset or str(known[study]["preset"][1]) for study in chosen}
    if update_notebooks and (
        parameters or checkout() is None or any(known[s]["preset"][1] != presets[s] for s in chosen)
    ):
        raise ValueError(
            "--update-notebooks replaces the checkout's notebooks, whose parameters must stay the default "
            "ones: leave out -p, and --preset or choose the notebooks' own"
        )
    for study in chosen:
        if "train" in known[study]:
            typed[study]["train"] = "yes" if train else "no"
    place = workspace or Workspace()
    with _places(place):
        plans = {study: _plan(study, known[study], typed[study]) for study in chosen}
    union = by_importance(plans)
    suffix = "".join(f"-{name}={value}" for name, value in sorted((parameters or {}).items())).replace("/", "_")
    common = Path(out).expanduser().resolve() if out else None
    folders = {study: common or place.figures(presets[study] + suffix).resolve() for study in chosen}
    there = tuple(dict.fromkeys(folders.values()))
    for folder in there:
        check_writable(folder, "choose another folder with --out")
    place = Workspace(
        place.runs, records=(*(folder / "runs" for folder in there), *place.records), cache=place.cache, data=place.data
    )
    needed = {
        folder: by_importance({s: plans[s] for s in chosen if folders[s] == folder and s != LAST}) for folder in there
    }
    drawn: dict[str, tuple[str, float, tuple[Mapping[str, str], ...]]] = {}
    with _places(place), _environment(MPLBACKEND="module://matplotlib_inline.backend_inline"):
        runs, computed = _results(union, place, train=train, fresh=fresh, jobs=jobs, backend=backend, device=device)
        with ExitStack() as stack:
            for folder in sorted(there):  # another process may be drawing there
                stack.enter_context(locked(folder / ".lock"))
            for folder in there:
                _export(needed[folder], runs, computed, folder / "runs")
            for study, error, seconds, claims in _execute_all(typed, folders, jobs):
                drawn[study] = error, seconds, claims
                print(f"[{len(drawn)}/{len(chosen)}] {study}", file=sys.stderr, flush=True)
            if preset and train and chosen == tuple(STUDIES) and not parameters:
                for folder in there:
                    _prune(needed[folder], folder / "runs")
        if update_notebooks:
            for study in (study for study in chosen if not drawn[study][0]):
                _replace_notebook(study, folders[study])
    outcomes = []
    for study in chosen:
        error, seconds, claims = drawn[study]
        used = [runs[config] for config in dict.fromkeys(plans[study].configs) if config in runs]
        results = [computed[name] for job in plans[study].jobs if (name := job_name(job)) in computed]
        outcomes.append(
            Outcome(
                study=study,
                error=error,
                seconds=seconds,
                claims=claims,
                compute_seconds=_recorded_seconds(used, results),
            )
        )
    print(_summary(outcomes, time.monotonic() - began))
    print(f"figures, numbers and executed notebooks: {', '.join(map(str, there))}")
    return 1 if any(outcome.error for outcome in outcomes) else 0


def _results(
    plan: Plan, place: Workspace, *, train: bool, **options: Any
) -> tuple[dict[RunConfig, Run], dict[str, Record]]:
    """The plan's runs by config and other results by name: all of them, or with `train=False` those that are stored."""
    if train:
        runs, records = collect(plan, workspace=place, **options), collect_records(plan, workspace=place, **options)
    else:
        runs, records = collect_stored(plan, workspace=place), collect_stored_records(plan, workspace=place)
    return {run.config: run for run in runs}, {record.path.name: record for record in records}


def _export(plan: Plan, runs: Mapping[RunConfig, Run], records: Mapping[str, Record], folder: Path) -> None:
    """Write the plan's small records, from which figures are drawn; votes that a record has already are kept."""
    from matfl.runs.run import Run

    for config in plan.configs:
        run = runs.get(config)
        if run is None or run.path.parent == folder:
            continue
        there = Run(folder / config.name)
        kept = (there.path / "diagnostics.npz").exists() and has_votes(there) and has_votes(run)
        export_record(run, folder, votes=config in plan.votes or kept)
    for job in plan.jobs:
        record = records.get(job_name(job))
        if record is not None and record.path.parent != folder:
            write_record(folder, record)


def _prune(plan: Plan, folder: Path) -> None:
    """Remove records that no figure is drawn from any more."""
    import shutil

    wanted = {config.name for config in plan.configs} | {job_name(job) for job in plan.jobs}
    for path in folder.iterdir() if folder.exists() else ():
        if path.is_dir() and path.name not in wanted:
            shutil.rmtree(path)


def _replace_notebook(study: str, folder: Path) -> None:
    """Copy an executed notebook over the checkout's, without the injected parameters."""
    import shutil

    target = notebooks_folder() / f"{study}.ipynb"
    with unfinished(target) as temporary:
        shutil.copyfile(folder / f"{study}.ipynb", temporary)
        normalise(temporary, keep_parameters=False)
        replace_file(target, temporary.read_bytes())
