"""matfl: Many-Task Federated Learning (Cai et al., CVPR 2023 workshops), reproduced, compared and extended.

    import matfl
    runs = [matfl.run("smoke", method=name) for name in ("single_task", "matfl")]
    matfl.compare(runs)                                    # a row a method: each task's score, delta_m
    matfl.plots.choice_matrix(matfl.choices(runs[1]))      # who chose whom

What is listed in `matfl.__all__` is the public face; it is imported when it is first asked for. The rooms behind it:

core/     files, locks, registries, streams         client/   local training and evaluation
tasks/    tasks, domains, meters                    server/   updates, similarity, methods, mixing
config/   `RunConfig`, presets                      runs/     whole runs, their store, `Workspace`
scenes/   the rendered benchmark                    flower/   the same on real clients
data/     readers, partition, cache                 bench/    speed
models/   backbones and heads                       paper/    studies, plots, `matfl reproduce`
                                                    cli/      the command `matfl`
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.2.0"

_FACE = {
    # train and read
    "run": "matfl.runs.run",
    "load_or_run": "matfl.runs.run",
    "list_runs": "matfl.runs.run",
    "Run": "matfl.runs.run",
    "Workspace": "matfl.runs.workspace",
    "RunConfig": "matfl.config.run_config",
    "PRESETS": "matfl.config.run_config",
    "preset": "matfl.config.run_config",
    "override": "matfl.config.run_config",
    "load_toml": "matfl.config.run_config",
    # compare and draw
    "metrics_table": "matfl.runs.run",
    "compare": "matfl.paper.face",
    "choices": "matfl.paper.face",
    "plots": "matfl.paper.plots",
    # own methods
    "METHODS": "matfl.server.methods",
    "Method": "matfl.server.methods",
    "Mixing": "matfl.server.methods",
    "Round": "matfl.server.methods",
    "Local": "matfl.client.local",
    "method": "matfl.server.methods",
    "register": "matfl.server.methods",
    "Updates": "matfl.server.updates",
    "gram": "matfl.server.grouping",
    "cosine": "matfl.server.grouping",
    "similarity": "matfl.server.grouping",
    "votes": "matfl.server.grouping",
    "friends": "matfl.server.grouping",
    "normalise": "matfl.server.grouping",
    "similarity_weights": "matfl.server.grouping",
    # own tasks and data
    "TASKS": "matfl.tasks.task",
    "Task": "matfl.tasks.task",
    "DOMAINS": "matfl.tasks.task",
    "Domain": "matfl.tasks.task",
    "from_arrays": "matfl.data.own",
    "from_folder": "matfl.data.own",
    "Split": "matfl.data.split",
    # what can go wrong
    "PluginError": "matfl.core.registry",
    "RunError": "matfl.runs.store",
    "DataError": "matfl.data.cache",
}
"""Public name -> the module that it is imported from on first use."""

__all__ = ["__version__", *_FACE]  # noqa: PLE0604  (names of the package's own table)

if TYPE_CHECKING:
    from matfl.client.local import Local as Local
    from matfl.config.run_config import PRESETS as PRESETS
    from matfl.config.run_config import RunConfig as RunConfig
    from matfl.config.run_config import load_toml as load_toml
    from matfl.config.run_config import override as override
    from matfl.config.run_config import preset as preset
    from matfl.core.registry import PluginError as PluginError
    from matfl.data.cache import DataError as DataError
    from matfl.data.own import from_arrays as from_arrays
    from matfl.data.own import from_folder as from_folder
    from matfl.data.split import Split as Split
    from matfl.paper import plots as plots
    from matfl.paper.face import choices as choices
    from matfl.paper.face import compare as compare
    from matfl.runs.run import Run as Run
    from matfl.runs.run import list_runs as list_runs
    from matfl.runs.run import load_or_run as load_or_run
    from matfl.runs.run import metrics_table as metrics_table
    from matfl.runs.run import run as run
    from matfl.runs.store import RunError as RunError
    from matfl.runs.workspace import Workspace as Workspace
    from matfl.server.grouping import cosine as cosine
    from matfl.server.grouping import friends as friends
    from matfl.server.grouping import gram as gram
    from matfl.server.grouping import normalise as normalise
    from matfl.server.grouping import similarity as similarity
    from matfl.server.grouping import similarity_weights as similarity_weights
    from matfl.server.grouping import votes as votes
    from matfl.server.methods import METHODS as METHODS
    from matfl.server.methods import Method as Method
    from matfl.server.methods import Mixing as Mixing
    from matfl.server.methods import Round as Round
    from matfl.server.methods import method as method
    from matfl.server.methods import register as register
    from matfl.server.updates import Updates as Updates
    from matfl.tasks.task import DOMAINS as DOMAINS
    from matfl.tasks.task import TASKS as TASKS
    from matfl.tasks.task import Domain as Domain
    from matfl.tasks.task import Task as Task


def __getattr__(name: str) -> Any:
    if name not in _FACE:
        raise AttributeError(f"module 'matfl' has no attribute {name!r}: it has {', '.join(_FACE)}")
    module = importlib.import_module(_FACE[name])
    value = module if name == "plots" else getattr(module, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_FACE})
