"""Exercises at the end of the notebooks: each one changes parameters of its notebook, and runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from matfl.paper.studies import STUDIES
from matfl.paper.studies.base import Plan
from matfl.paper.studies.session import stock
from matfl.runs.workspace import Workspace

__all__ = ["EXERCISES", "Exercise", "exercise_text", "minutes", "new_results"]


SHORT = "quick"
"""The preset at which exercises take minutes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Exercise:
    """A question, and the parameters that answer it."""

    words: str
    parameters: Mapping[str, object]
    """Of the notebook, by name."""
    minutes: int = 0
    """About how long it trains at `quick` on two cores; 0 where everything is stored. `minutes()` recomputes it."""


EXERCISES: Mapping[str, tuple[Exercise, ...]] = {
    "how_matfl_decides": (
        Exercise(words="Does the first round decide like the one in the middle?", parameters={"round": 1}),
        Exercise(
            words="Let every client choose three others only: whose friends change?", parameters={"settings": "k=4"}
        ),
    ),
    "00_benchmark": (
        Exercise(words="More pictures of each domain, without training", parameters={"pictures": 8}),
        Exercise(
            words="Do tasks give each other more when each has fewer images?",
            parameters={"settings": "images_per_client=50"},
            minutes=2,
        ),
    ),
    "01_update_tsne": (
        Exercise(
            words="Compare the voting layers alone: do they cluster as the whole backbone does?",
            parameters={"layers": "voting"},
        ),
        Exercise(
            words="Stop after two epochs: are directions clear that early?",
            parameters={"epochs": 2, "subsets": 3},
            minutes=4,
        ),
    ),
    "02_methods": (
        Exercise(
            words="Try K = 2: does MaT-FL become single-task FL?", parameters={"k": 2, "tasks": "outdoor5"}, minutes=4
        ),
        Exercise(
            words="A rival from the list of `matfl methods`: gradients without conflict",
            parameters={"methods": "single_task,matfl,pcgrad", "tasks": "outdoor5"},
            minutes=1,
        ),
        Exercise(
            words="Twice the rounds: does sharing help later?",
            parameters={"settings": "rounds=24", "tasks": "outdoor5"},
            minutes=8,
        ),
    ),
    "03_clients_per_task": (
        Exercise(words="Three clients a task", parameters={"clients": "1,3"}, minutes=3),
        Exercise(words="K = 2 at every scale", parameters={"k": 2}, minutes=6),
    ),
    "04_k_sweep": (
        Exercise(words="Try K = 6: where is the bend?", parameters={"ks": "4,6,8"}, minutes=2),
        Exercise(words="The same on five tasks", parameters={"tasks": "outdoor5", "ks": "2,5,10"}, minutes=2),
    ),
    "05_grouping_frequency": (
        Exercise(words="Try K = 4: whom do clients drop first?", parameters={"k": 4}),
        Exercise(
            words="Heads that start differently at each client: do partners still find each other?",
            parameters={"settings": "head_start=independent"},
            minutes=2,
        ),
    ),
    "06_layer_voting": (
        Exercise(words="One voting layer against sixteen", parameters={"layers": "1,16"}, minutes=2),
        Exercise(words="Do layers agree more when K is small?", parameters={"k": 4}, minutes=3),
    ),
    "07_cost_and_scale": (
        Exercise(words="What does FedHCA2 send?", parameters={"methods": "single_task,matfl,fedhca2"}, minutes=2),
    ),
    "08_server_step": (
        Exercise(words="FedProx alone, on nine tasks", parameters={"methods": "fedprox", "tasks": "scenes9"}),
    ),
    "09_why": (
        Exercise(
            words="With a tenth of the learning rate, do partners grow unlike each other later?",
            parameters={"settings": "lr=1e-4"},
            minutes=10,
        ),
    ),
    "10_scale_privacy_attacks": (
        Exercise(words="Four seeds: which undecided claims do they decide?", parameters={"seeds": 4}, minutes=45),
    ),
    "11_our_best": (
        Exercise(
            words="The same comparison on nine tasks, if something was chosen for them", parameters={"tasks": "scenes9"}
        ),
    ),
}
"""By notebook."""


def new_results(study: str, exercise: Exercise, preset: str = SHORT) -> Plan:
    """What an exercise needs beyond the notebook's own plan; parameters for drawing alone need nothing."""
    from inspect import signature

    plan = STUDIES[study]
    accepted = {name: value for name, value in exercise.parameters.items() if name in signature(plan).parameters}
    usual, asked = plan(preset), plan(preset, **accepted)
    known = {(job.kind, str(job.spec())) for job in usual.jobs}
    return Plan(
        configs=tuple(config for config in asked.configs if config not in set(usual.configs)),
        jobs=tuple(job for job in asked.jobs if (job.kind, str(job.spec())) not in known),
    )


def minutes(study: str, exercise: Exercise, preset: str = SHORT, *, cores: int = 2) -> float:
    """How long an exercise trains, from recorded seconds; 0 where it only draws, NaN where nothing is recorded."""
    needed = new_results(study, exercise, preset)
    empty = Workspace(runs=Workspace().home / "none")
    found = stock(needed, preset=preset, workspace=empty)
    return found.minutes * found.cores / cores if found.missing else 0.0


def exercise_text(study: str, preset: str = SHORT) -> str:
    """The exercises of a notebook as its last cell. One drawn at another `preset` goes to the short one for them."""
    lines = []
    for exercise in EXERCISES[study]:
        parameters = {**({} if preset == SHORT else {"preset": SHORT}), **exercise.parameters}
        changes = "; ".join(f"{name} = {value!r}" for name, value in parameters.items())
        long = (
            f"about {exercise.minutes} minute{'s' * (exercise.minutes > 1)}" if exercise.minutes else "nothing to train"
        )
        lines.append(f"- {exercise.words} – `{changes}` ({long})")
    return (
        "## Exercises\n\nChange the values in the cell of the parameters and run all. The cell after it says how long "
        "the "
        'missing runs would take; `train = "yes"` trains them.\n\n' + "\n".join(lines)
    )
