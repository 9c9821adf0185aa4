"""Tasks, domains and their pairs, by name.

A task is a value with behaviour (`Task`), a data set is a `Domain`; `TASKS.register` and `DOMAINS.register` add one.
Nothing outside this package asks what a task is called.
"""

from __future__ import annotations

from matfl.tasks.definitions import DOMAINS, IGNORE, TASKS, Domain, Pair, Task, unit
from matfl.tasks.joint import join, told_apart

__all__ = [
    "DOMAINS",
    "IGNORE",
    "TASKS",
    "TASK_SETS",
    "Domain",
    "Pair",
    "Task",
    "pair",
    "pairs",
    "parts_of",
    "task_of",
    "unit",
]


def pair(name: str) -> Pair:
    """The pair called `domain/task`, or `domain/task+task` of clients with several; a ValueError lists the known ones.

    `domain/task@kind` is the part of a kind (`Pair.within`).
    """
    name, _, within = name.partition("@")
    if "+" in name:
        first, *others = (text.strip() for text in name.split("+"))
        domain = first.partition("/")[0]
        return join([pair(first), *(pair(text if "/" in text else f"{domain}/{text}") for text in others)])
    domain, _, task = name.partition("/")
    if domain not in DOMAINS or task not in DOMAINS[domain].channels:
        known = ", ".join(f"{d.name}/{t}" for d in DOMAINS.values() for t in d.channels)
        raise ValueError(
            f"unknown (domain, task) pair {name!r}: choose from {known}; one from a plug-in needs "
            "`--import MODULE` on the command line, or the import of its module"
        )
    return Pair(DOMAINS[domain], TASKS.find(task), within)


TASK_SETS: dict[str, tuple[str, ...]] = {
    "outdoor5": ("outdoor",),
    "scenes9": ("outdoor", "indoor"),
    "pascal5": ("pascal",),
    "paper9": ("pascal", "nyud"),
    "photos8": ("people", "nyuv2"),
}
"""Named task sets: every task of the listed domains. The first two are embedded, the next two the paper's; the last is
of photographs that anyone can have."""


def _named(name: str) -> tuple[Pair, ...]:
    if domains := TASK_SETS.get(name, (name,) if name in DOMAINS else ()):
        return tuple(Pair(DOMAINS[d], TASKS.find(t)) for d in domains for t in DOMAINS[d].channels)
    if "@" in name:
        raise ValueError(f"{name!r} is a part of clients with several tasks: list them all, as in 'outdoor/semseg+sal'")
    return (pair(name),)


def pairs(tasks: str) -> tuple[Pair, ...]:
    """The pairs of a comma-separated list: `domain/task` names, domains (all their tasks), named sets (`TASK_SETS`).

    A `+` joins tasks of one domain into one kind of client, `outdoor/semseg+sal`: one backbone and a head a task.
    Raises ValueError for an unknown or repeated name.
    """
    if "/" not in tasks and not all(name.strip() in (*TASK_SETS, *DOMAINS) for name in tasks.split(",")):
        raise ValueError(
            f"tasks={tasks!r}: choose a set ({', '.join(TASK_SETS)}), a domain ({', '.join(DOMAINS)}) or list pairs "
            "such as 'outdoor/semseg,indoor/depth'"
        )
    chosen = tuple(found for name in tasks.split(",") for found in _named(name.strip()))
    if len({(p.domain.name, frozenset(p.task.name.split("+"))) for p in chosen}) < len(chosen):
        raise ValueError(f"tasks={tasks!r} names a pair twice: list each once and set clients_per_task instead")
    return told_apart(chosen)


def parts_of(tasks: str) -> tuple[Pair, ...]:
    """The pairs of `pairs(tasks)`, those of clients with several tasks one by one: what is measured and predicted."""
    return tuple(part for kind in pairs(tasks) for part in kind.parts)


def task_of(name: str) -> Task:
    """The task of a pair's `name` or `label`, a joint one as well. Raises ValueError for an unknown one."""
    label = name.rpartition("/")[2].partition("@")[0]
    if "+" not in label:
        return TASKS.find(label)
    return pair(name).task
