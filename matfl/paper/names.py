"""What things are called where people read: task sets, metrics with their units, methods, layers."""

from __future__ import annotations

from matfl.tasks.task import DOMAINS, pairs, task_of

__all__ = [
    "STAND_IN",
    "domain_letter",
    "is_derived",
    "layer_title",
    "method_title",
    "metric_name",
    "metric_title",
    "pair_title",
    "set_title",
    "table_title",
    "task_title",
]

STAND_IN = {"outdoor5": "pascal5", "scenes9": "paper9"}
"""The paper's task set that an embedded one stands for."""

_METRICS = {"odsF": "ODS-F", "mean": "mean error", "rmse": "RMSE"}
_TABLES = {"pascal5": "Pascal-Context (5)", "paper9": "Pascal-Context & NYUD (9)"}


def _domains(tasks: str) -> str:
    words = " and ".join(dict.fromkeys(p.domain.title.removesuffix(" scenes") for p in pairs(tasks)))
    words += " scenes" if all(p.domain.rendered for p in pairs(tasks)) else ""
    return words[0].upper() + words[1:]


def set_title(tasks: str, *, role: bool = True, separator: str = " ") -> str:
    """A task set in words, with the role that it has in the paper's place.

    >>> set_title("outdoor5")
    "Outdoor scenes, 5 tasks (PASCAL-Context's part in the paper)"
    """
    count = len(pairs(tasks))
    words = f"{_domains(tasks)}, {count} task{'s' if count > 1 else ''}"
    stands = STAND_IN.get(tasks)
    if not (role and stands):
        return words
    theirs = " and ".join(dict.fromkeys(p.domain.title for p in pairs(stands)))
    return f"{words}{separator}({theirs}'s part in the paper)"


def table_title(tasks: str) -> str:
    """A task set as the paper's tables name theirs: `Outdoor scenes (5)` as `Pascal-Context (5)`."""
    return _TABLES.get(tasks, f"{_domains(tasks)} ({len(pairs(tasks))})")


def metric_title(name: str, *, arrow: bool = True) -> str:
    """Main metric of a task, or of a `domain/task` name's, with its unit and, as an arrow, the better direction.

    >>> metric_title("indoor/depth")
    'RMSE (m) ↓'
    """
    found = task_of(name)
    words = metric_name(name)
    words += f" ({found.metric_unit})" if found.metric_unit else ""
    return words + (f" {'↑' if found.higher_is_better else '↓'}" if arrow else "")


def metric_name(name: str) -> str:
    """A task's main metric as written."""
    metric = task_of(name).main_metric
    return _METRICS.get(metric, metric)


def is_derived(name: str) -> bool:
    """Whether labels of a `domain/task` name are computed from other labels."""
    domain, _, label = name.partition("/")
    return any(task in DOMAINS[domain].derived for task in label.partition("@")[0].split("+"))


def task_title(name: str) -> str:
    """Of a `domain/task` name's task; of the part of a kind of client with both: 'Seg. of Seg. + Sal.'."""
    own, _, kind = name.partition("@")
    if not kind:
        return task_of(own).title
    return f"{task_of(own).title} of {task_of(own.partition('/')[0] + '/' + kind).title}"


def pair_title(name: str) -> str:
    """`outdoor/semseg` in a sentence or a table: `Seg. (outdoor)`; labels that are computed are called derived."""
    domain = DOMAINS[name.partition("/")[0]]
    derived = ", derived" if is_derived(name) else ""
    return f"{task_title(name)} ({domain.title.removesuffix(' scenes')}{derived})"


def domain_letter(name: str) -> str:
    """What stands for the domain of a `domain/task` name where space is short: its title's first letter."""
    return DOMAINS[name.partition("/")[0]].title[0].upper()


def method_title(method: str) -> str:
    """The method's title from the registry, or its name."""
    from matfl.server.methods import METHODS

    return METHODS[method].title if method in METHODS else method


def layer_title(name: str) -> str:
    """A layer without what all of them share: `layer4.0.conv2.weight` is `4.0.conv2`."""
    return name.removesuffix(".weight").removeprefix("backbone.").removeprefix("layer")
