"""`matfl`: train, resume and look at runs, prepare data, reproduce the paper's figures, predict on images."""

from __future__ import annotations

import argparse
import errno
import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from matfl.core.settings import parse_settings

if TYPE_CHECKING:
    from matfl.config.run_config import RunConfig
    from matfl.runs.run import Run
    from matfl.runs.workspace import Workspace

__all__ = ["main"]

# Handlers import what they need, so that --help does not wait for torch.


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; the exit code is 0, 1 (it failed), 2 (bad input), 130 (interrupted) or 143 (terminated)."""
    arguments = _parser().parse_args(argv)
    try:
        with _termination():
            _import_plugins([*arguments.imports, *arguments.more_imports])
            return arguments.handler(arguments) or 0
    except KeyboardInterrupt:
        print("matfl: interrupted; finished rounds are stored and the same command goes on from there", file=sys.stderr)
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or the interpreter complains once more at exit
        return 1
    except Exception as error:
        if os.environ.get("MATFL_DEBUG"):
            raise
        bad_input = isinstance(error, (ValueError, TypeError)) or getattr(error, "errno", None) in _BAD_PATH
        bad_input |= isinstance(error, FileNotFoundError)
        known = bad_input or isinstance(error, OSError) or type(error).__module__.startswith("matfl")
        name = "" if known else f"{type(error).__name__}: "
        hint = _REMEDIES.get(error.errno or 0, "") if isinstance(error, OSError) else ""
        hint = hint if known else " (MATFL_DEBUG=1 shows where)"
        print(f"matfl: error: {name}{_printable(str(error))}{hint}", file=sys.stderr)
        return 2 if bad_input else 1


_BAD_PATH = (errno.ENAMETOOLONG, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.EINVAL)

_REMEDIES = {
    errno.ENOSPC: ": free some space and repeat the command",
    errno.EDQUOT: ": free some space and repeat the command",
    errno.EFBIG: ": raise the limit on the size of files (`ulimit -f`) and repeat the command",
    errno.EROFS: ": choose a folder that can be written to",
    errno.EACCES: ": choose another path, or change its permissions",
    errno.EPERM: ": choose another path, or change its permissions",
}


def _printable(text: str) -> str:
    """A message without what a terminal would act upon, and with the middle of endless words left out."""
    shown = "".join(c if c.isprintable() or c == "\n" else repr(c)[1:-1] for c in text)
    return re.sub(r"(\S{200})\S{200,}(\S{100})", r"\1[...]\2", shown)


def _import_plugins(modules: Sequence[str]) -> None:
    """Import plug-ins from the current folder or the environment, here and in every process that this one starts."""
    if not modules:
        return
    from matfl.core.registry import PLUGINS, load_plugins

    here = os.getcwd()
    if here not in sys.path:  # as with `python -m`; the command itself leaves it out
        sys.path.append(here)
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (os.environ.get("PYTHONPATH"), here)))
    names = dict.fromkeys([*os.environ.get(PLUGINS, "").split(","), *modules])
    os.environ[PLUGINS] = ",".join(filter(None, names))
    load_plugins()


@contextmanager
def _termination() -> Iterator[None]:
    """Within, SIGTERM ends the process in order: unfinished files go, workers end. A second one ends at once."""

    def end(*_: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        sys.exit(143)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="matfl",
        description=__doc__.replace("`", "") if __doc__ else None,
        epilog="`matfl COMMAND --help` explains a command.",
    )
    parser.add_argument("--version", action="version", version=_version())
    _add_import(parser, "imports")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    _add_run(commands)
    _add_lists(commands)
    _add_data(commands)
    _add_reproduce(commands)
    _add_lab(commands)
    _add_predict(commands)
    return parser


def _version() -> str:
    from matfl import __version__

    return f"matfl {__version__}"


Commands = "argparse._SubParsersAction[argparse.ArgumentParser]"


def _command(
    commands: argparse._SubParsersAction[argparse.ArgumentParser],
    name: str,
    handler: Callable[[argparse.Namespace], int | None],
    text: str,
    epilog: str | None = None,
) -> argparse.ArgumentParser:
    parser = commands.add_parser(
        name,
        help=text,
        description=text[0].upper() + text[1:] + ".",
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(handler=handler)
    _add_import(parser, "more_imports")
    return parser


def _add_import(parser: argparse.ArgumentParser, destination: str) -> None:
    """`--import`, which may stand before or after the command."""
    parser.add_argument(
        "--import",
        dest=destination,
        action="append",
        default=[],
        metavar="MODULE",
        help="import a plug-in first, as often as needed: a module that registers methods, tasks, domains or readers",
    )


def _places(parser: argparse.ArgumentParser, *, training: bool = True) -> None:
    parser.add_argument(
        "--runs-dir", metavar="DIR", help="the run store (default: $MATFL_RUNS, else runs in the checkout or folder)"
    )
    if training:
        parser.add_argument("--data-dir", metavar="DIR", help="real data sets (default: $MATFL_DATA)")
        parser.add_argument(
            "--cache-dir", metavar="DIR", help="decoded data and starts (default: $MATFL_CACHE, else ~/.cache/matfl)"
        )
        parser.add_argument("--device", help="cpu, cuda, cuda:1, ... (default: a GPU if there is one)")


def _config_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "config",
        metavar="PRESET|FILE.toml",
        help="smoke, quick, scenes, photos, photos_imagenet, full, paper_pascal5, paper_9, or a file (`matfl config`)",
    )
    parser.add_argument("--method", help="a name from `matfl methods` (short for -p method=NAME)")
    parser.add_argument(
        "-p",
        "--param",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="change a parameter, as often as needed; `matfl config PRESET` explains them",
    )


def _add_run(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    run = _command(
        commands,
        "run",
        _run,
        "train one federated run, or go on with it",
        "examples:\n  matfl run smoke\n  matfl run quick --method fedavg -p seed=1 -p k=4\n"
        "  matfl run my.toml --device cuda",
    )
    _config_arguments(run)
    _places(run)
    run.add_argument("--fresh", action="store_true", help="train it again from nothing, whatever is stored")
    run.add_argument("--quiet", action="store_true", help="no progress")
    resume = _command(commands, "resume", _resume, "go on with a stored run")
    resume.add_argument("run", metavar="RUN", help="its folder, or its name or hash in the run store")
    _places(resume)
    resume.add_argument("--quiet", action="store_true", help="no progress")


def _add_lists(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    runs = _command(commands, "runs", _runs, "list the stored runs")
    _places(runs, training=False)
    show = _command(commands, "show", _show, "show a run: final metrics, their course over the rounds, grouping, costs")
    show.add_argument("run", metavar="RUN", help="its folder, or its name or hash in the run store")
    _places(show, training=False)
    _command(commands, "methods", _methods, "list the aggregation methods")
    config = _command(
        commands,
        "config",
        _config,
        "print a run's parameters, explained, as a TOML file",
        "example:\n  matfl config quick -p k=4 > my.toml && matfl run my.toml",
    )
    _config_arguments(config)


def _add_data(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    data = commands.add_parser("data", help="make, check or fetch data sets")
    actions = data.add_subparsers(metavar="ACTION", required=True)
    make = _command(actions, "make", _data_make, "write the embedded benchmark as data sets in the real layouts")
    make.add_argument("folder", metavar="DIR", help="where PASCAL_MT/ and NYUD_MT/ appear")
    make.add_argument("--train", type=int, default=200, metavar="N", help="training images a domain (default: 200)")
    make.add_argument("--val", type=int, default=40, metavar="N", help="validation images a domain (default: 40)")
    make.add_argument("--size", type=int, default=64, metavar="PIXELS", help="side of the images (default: 64)")
    make.add_argument("--seed", type=int, default=0, help="of the pictures (default: 0)")
    make.add_argument("--variant", choices=("mt", "fedhca2"), default="mt", help="which project's folders and files")
    check = _command(actions, "check", _data_check, "read every image and label of the real data sets in a folder")
    check.add_argument("folder", metavar="DIR", help="a data set, or the folder that holds them")
    fetch = _command(actions, "fetch", _data_fetch, "download and extract a real data set; a cut-off download goes on")
    fetch.add_argument("name", choices=("pascal", "nyud", "nyuv2", "people"), help="which one")
    fetch.add_argument("folder", metavar="DIR", help="where it goes; use the same for --data-dir")
    fetch.add_argument("--url", help="a mirror, or file:///... (default: the published address)")
    fetch.add_argument("--sha256", help="refuse an archive with another checksum")


def _add_reproduce(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    reproduce = _command(
        commands,
        "reproduce",
        _reproduce,
        "compute and draw the paper's tables and figures",
        "examples:\n  matfl reproduce --preset smoke\n  matfl reproduce 04 -p ks=2,8,18",
    )
    reproduce.add_argument("studies", nargs="*", metavar="STUDY", help="notebooks by name or number (default: all)")
    reproduce.add_argument("--preset", help="size of everything (default: each notebook's own)")
    reproduce.add_argument(
        "-p", "--param", action="append", default=[], metavar="NAME=VALUE", help="a notebook's parameter"
    )
    reproduce.add_argument("--fresh", action="store_true", help="train everything again, whatever is stored")
    reproduce.add_argument(
        "--no-train", action="store_true", help="train nothing: draw what is stored and say what is missing"
    )
    reproduce.add_argument("--jobs", type=_count, metavar="N", help="runs at a time (default: 1 per core, or on a GPU)")
    reproduce.add_argument(
        "--backend",
        choices=("loky", "ray"),
        default="loky",
        help="spread runs over this machine's processes, or over a Ray cluster",
    )
    reproduce.add_argument(
        "--out", metavar="DIR", help="where figures and executed notebooks go (default: figures/PRESET)"
    )
    reproduce.add_argument(
        "--update-notebooks", action="store_true", help="also put the executed notebooks in the place of the checkout's"
    )
    _places(reproduce)


def _add_lab(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    lab = _command(
        commands,
        "lab",
        _lab,
        "open JupyterLab on the index of the notebooks",
        "In a checkout these are its own; an installed package's are copied to ./matfl-notebooks, where those\n"
        "that you change are never overwritten.",
    )
    lab.add_argument("folder", nargs="?", metavar="DIR", help="where the copies go")
    lab.add_argument("--no-browser", action="store_true", help="only serve, and print the address (for servers)")
    lab.add_argument("--port", type=int, metavar="N", help="default: 8888, or the next one that is free")


def _add_predict(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    predict = _command(commands, "predict", _predict, "write a run's dense predictions for images as pictures")
    predict.add_argument("run", metavar="RUN", help="its folder, or its name or hash in the run store")
    predict.add_argument("images", nargs="+", metavar="IMAGE", help="image files of any size")
    predict.add_argument("--task", action="append", metavar="DOMAIN/TASK", help="only this task (default: all)")
    predict.add_argument("--out", default="predictions", metavar="DIR", help="folder of the pictures")
    predict.add_argument("--device", help="cpu, cuda, ... (default: a GPU if there is one)")
    _places(predict, training=False)


def _count(text: str) -> int:
    """A whole number of at least 1, for argparse."""
    try:
        number = int(text)
    except ValueError:
        number = 0
    if not 1 <= number <= 4096:
        raise argparse.ArgumentTypeError(f"{text!r}: choose a whole number from 1 to 4096")
    return number


def _workspace(arguments: argparse.Namespace) -> Workspace:
    """The places that the options name, the default ones else."""
    from matfl.runs.workspace import Workspace

    given = vars(arguments)
    return Workspace(given.get("runs_dir"), cache=given.get("cache_dir"), data=given.get("data_dir"))


def _chosen_config(arguments: argparse.Namespace) -> RunConfig:
    from matfl.config.run_config import load_toml, override, preset
    from matfl.server.methods import METHODS

    name = arguments.config
    changes: dict[str, object] = dict(parse_settings(arguments.param, where="-p"))
    if arguments.method:
        changes["method"] = arguments.method
    config = override(load_toml(name) if name.endswith(".toml") else preset(name), **changes)
    if config.method not in METHODS:
        raise ValueError(f"unknown method {config.method!r}: choose from {', '.join(METHODS)}")
    return config


def _find(arguments: argparse.Namespace) -> Run:
    """The run that RUN names: a folder, or a name or the end of one (its hash) in the store, else in the records."""
    from matfl.runs.run import Run, list_runs

    path = Path(arguments.run)
    if (path / "config.json").exists():
        return Run(path)
    place = _workspace(arguments)
    for folder in (place.runs, *place.records):
        names = (run for run in list_runs(folder))
        matches = [run for run in names if f"-{run.path.name}".endswith(f"-{arguments.run}")]
        if len(matches) == 1:
            return matches[0]
        if matches:
            raise ValueError(f"{arguments.run!r} fits {', '.join(run.path.name for run in matches)}: give a whole name")
    raise FileNotFoundError(
        f"no run {arguments.run!r}: neither a run's folder nor the name or hash of one in {place.runs} or among the "
        "records; `matfl runs` lists them"
    )


def _run(arguments: argparse.Namespace) -> None:
    from matfl.runs.store import run_path

    config = _chosen_config(arguments)
    _train(config, run_path(config, _workspace(arguments).runs), arguments, fresh=arguments.fresh)


def _resume(arguments: argparse.Namespace) -> None:
    from matfl.runs import plugins
    from matfl.runs.store import RunError

    run = _find(arguments)
    if absent := plugins.missing(run.provenance):
        raise RunError(f"{run.path}: {plugins.remedy(absent)}")
    _train(run.config, run.path, arguments, fresh=False)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _train(config: RunConfig, path: Path, arguments: argparse.Namespace, *, fresh: bool) -> None:
    from matfl.cli import report
    from matfl.runs import engine as federation
    from matfl.runs.run import Run
    from matfl.runs.store import is_finished

    place = _workspace(arguments)
    places = {"device": arguments.device, "data_dir": place.data, "cache_dir": place.cache}
    if fresh or not is_finished(path, config):
        federation.prepare(
            [config],
            progress=sys.stderr.isatty() and not arguments.quiet,
            say=None if arguments.quiet else _say,
            **places,
        )
    with _interrupts() as interrupted, report.progress(config, quiet=arguments.quiet) as progress:
        federation.run(config, path, progress=progress, fresh=fresh, stop=interrupted, **places)
    run = Run(path)
    if not run.finished:
        raise KeyboardInterrupt
    print(report.show(run))


@contextmanager
def _interrupts() -> Iterator[Callable[[], bool]]:
    """Within, the first Ctrl-C only asks the run to end after its round (the yielded function); the second ends it."""
    asked = False

    def ask(*_: object) -> None:
        nonlocal asked
        if asked:
            raise KeyboardInterrupt
        asked = True
        print("\nmatfl: ending after this round is stored; Ctrl-C again ends now", file=sys.stderr)

    before = signal.signal(signal.SIGINT, ask)
    try:
        yield lambda: asked
    finally:
        signal.signal(signal.SIGINT, before)


def _runs(arguments: argparse.Namespace) -> None:
    from matfl.cli import report
    from matfl.runs.run import list_runs

    folder = _workspace(arguments).runs
    runs = list_runs(folder)
    print(report.listing(runs) if runs else f"no runs in {folder}")


def _show(arguments: argparse.Namespace) -> None:
    from matfl.cli import report

    print(report.show(_find(arguments)))


def _methods(_: argparse.Namespace) -> None:
    from matfl.cli import report

    print(report.methods())


def _config(arguments: argparse.Namespace) -> None:
    from matfl.cli import report

    print(report.toml(_chosen_config(arguments)), end="")


def _data_make(arguments: argparse.Namespace) -> None:
    from matfl import data

    made = data.make(
        arguments.folder,
        train=arguments.train,
        val=arguments.val,
        size=arguments.size,
        seed=arguments.seed,
        variant=arguments.variant,
        progress=sys.stderr.isatty(),
    )
    for name, count in made.counts.items():
        print(f"{Path(arguments.folder) / name}: {count} images")


def _data_check(arguments: argparse.Namespace) -> int:
    from matfl import data

    report = data.check(arguments.folder, progress=sys.stderr.isatty())
    for name, count in report.counts.items():
        print(f"{name}: {count}")
    for problem in report.problems:
        print(f"problem: {problem}")
    print("no problem found" if report.ok else f"{len(report.problems)} problems")
    return 0 if report.ok else 1


def _data_fetch(arguments: argparse.Namespace) -> None:
    from matfl import data

    fetched = data.fetch(
        arguments.name,
        arguments.folder,
        url=arguments.url,
        sha256=arguments.sha256,
        progress=sys.stderr.isatty(),
        say=_say,
    )
    print(
        f"{Path(arguments.folder) / fetched.folder}: from {fetched.archive} ({fetched.bytes} bytes, "
        f"sha256 {fetched.sha256})"
    )
    for title, text in (
        ("verified", fetched.verified),
        ("licence", fetched.licence),
        ("please cite", fetched.citation),
    ):
        if text:
            print(f"{title}: {text}")


def _reproduce(arguments: argparse.Namespace) -> int | None:
    from matfl.paper.reproduce import reproduce

    return reproduce(
        arguments.studies,
        preset=arguments.preset,
        parameters=parse_settings(arguments.param, where="-p"),
        train=not arguments.no_train,
        fresh=arguments.fresh,
        jobs=arguments.jobs,
        backend=arguments.backend,
        out=arguments.out,
        workspace=_workspace(arguments),
        device=arguments.device,
        update_notebooks=arguments.update_notebooks,
    )


def _lab(arguments: argparse.Namespace) -> int:
    from matfl.paper.lab import open_lab

    return open_lab(arguments.folder, browser=not arguments.no_browser, port=arguments.port)


def _predict(arguments: argparse.Namespace) -> None:
    from matfl.runs.predict import write_predictions

    for path in write_predictions(
        _find(arguments), arguments.images, arguments.out, tasks=arguments.task, device=arguments.device
    ):
        print(path)
