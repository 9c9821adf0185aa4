"""Tables of notebook 10: many, private, hostile and absent clients."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from matfl.paper.names import method_title, pair_title
from matfl.paper.studies import absent, many_clients, private
from matfl.paper.studies.printed.basis import CONSTANT, count, described
from matfl.paper.tables import COLUMNS, Column, Table

if TYPE_CHECKING:
    import pandas as pd

    from matfl.runs.run import Run

__all__ = ["above_floor", "absences", "astray", "attacked", "away", "growth", "packings", "releases", "secure_sums"]

PARTNERS = Column(title="partners among friends", better=1)


def growth(cost: pd.DataFrame) -> Table:
    """How the parts of a server step grow with the number of clients."""
    columns = (
        ("slope", Column(title="slope")),
        ("measured up to", Column(title="measured up to", unit="clients", digits=0)),
        ("seconds there", Column(title="there", unit="s")),
        ("seconds at a million", Column(title="a million on paper", unit="s", digits=0)),
    )
    return Table(
        frame=many_clients.slopes(cost),
        columns=columns,
        caption="Growth of a server step's parts: slope of the logarithms of processor time over the last three "
        "numbers of clients. Measured once on one machine.",
    )


def packings(runs: Sequence[Run], frame: pd.DataFrame) -> Table:
    """Bytes of an update, and what they cost in quality and grouping; `frame` is that of `packed.table`."""
    columns = (
        ("megabytes", Column(title="a client and round", unit="MB", better=-1)),
        ("delta_m", _against("float32")),
        ("partners", PARTNERS),
        ("change", Column(title="change of weights in round 1", unit="L1", digits=3)),
    )
    return _by(frame, ["packing"], columns, f"Packed updates; {described(runs)}.")


def releases(runs: Sequence[Run]) -> Table:
    """What noise on everything, or on sketches alone, costs."""
    columns = (("delta_m", _against("no noise")), ("partners", PARTNERS))
    frame = private.table(runs)
    frame["epsilon"] = frame["epsilon"].map(lambda value: "∞" if value == float("inf") else f"{value:g}")
    return _by(frame, ["noised", "epsilon"], columns, f"Client-level privacy; {described(runs)}.")


def secure_sums(runs: Sequence[Run]) -> Table:
    """Secure aggregation beside grouping by sketches, on paper."""
    honest = [run for run in runs if private.release(run.config) == "nothing"]
    return Table(
        frame=private.secure_sums(runs),
        columns=(("number", Column(title="number", digits=1)),),
        caption="Secure sums within groups, counted from the weights of all rounds of MaT-FL's honest runs; "
        f"{count(honest)}.",
    )


def astray(frame: pd.DataFrame) -> Table:
    """How far attacks lead tasks without an attacker; `frame` is that of `scale_privacy_attacks.given`."""
    return Table(
        frame=frame.rename_axis("attack"),
        columns=tuple((str(name), Column(title=_defence(str(name)))) for name in frame),
        caption="How far a step leads tasks without an attacker of their own astray, in lengths of each defence's own "
        "step by the honest alone, mean over seeds; columns are defences. Krum steps by one client's update, and is "
        "not 0 where attackers change whose, even if it is none of theirs.",
    )


def attacked(runs: Sequence[Run], frame: pd.DataFrame, floor: pd.DataFrame, *, when: str = "after") -> Table:
    """What is left under attack; the frames are those of `hostile.table` and `hostile.floor`.

    `when` is 'after' or 'before': on which side of the last aggregation their scores were taken.
    """
    import pandas as pd

    titles = {
        "others": "tasks without an attacker",
        "attacked": "tasks with an attacker of their own",
        "all": "all tasks",
    }
    columns = tuple((name, replace(COLUMNS["delta_m"], title=f"Δm, {title}")) for name, title in titles.items())
    shown = _together(frame.assign(defence=frame["defence"].map(_defence)), "attack")
    shown = pd.concat([shown, floor.assign(attack="any", defence=CONSTANT)])
    by_pair = floor[[name for name in floor if "/" in name]].mean()
    unlearnt = " and ".join(pair_title(str(pair)) for pair, level in by_pair.items() if level >= 0)
    level = f" Not above the constant answer without attackers: {unlearnt or 'no task'}." if len(floor) else ""
    words = f"Training under attack, {when} the last aggregation: delta_m against the honest run of single-task FL"
    words += "; each seed draws its attackers"
    table = _by(shown, ["attack", "defence"], columns, f"{words}; {described(runs)}.{level}")
    return replace(table, references=(CONSTANT,))


def above_floor(runs: Sequence[Run], frame: pd.DataFrame) -> Table:
    """What models under attack have learnt, task by task; `frame` is that of `hostile.above_floor`."""
    order = list(dict.fromkeys(frame["pair"]))
    shown = frame.assign(defence=frame["defence"].map(_defence))
    wide = shown.pivot_table(index=["attack", "defence", "seed"], columns="pair", values="above", sort=False)
    columns = tuple((p, Column(title=pair_title(p), unit="%", digits=1, signed=True)) for p in order)
    caption = (
        "Main metrics after the last aggregation, above the best answer that never looks at a picture (in percent of "
        f"its score; below 0: worse than it); {described(runs)}."
    )
    return _by(_together(wide[order].reset_index(), "attack"), ["attack", "defence"], columns, caption)


def away(frame: pd.DataFrame) -> Table:
    """Where weights go when clients are away or late; `frame` is that of `scale_privacy_attacks.away`."""
    titles = {
        "others": "weight of other tasks",
        "own": "own weight",
        "partners": "partners' weight",
        "fresh": "partners in time among friends",
        "late": "late partners among friends",
    }
    return Table(
        frame=frame,
        columns=tuple((name, Column(title=title)) for name, title in titles.items()),
        caption="Weights and friends (shares) where clients are away or late, mean over rounds, draws and seeds; late "
        "updates are looked at in the last round alone, beside those of the round before.",
    )


def absences(runs: Sequence[Run]) -> Table:
    """What absence and lateness cost."""
    columns = (("delta_m", _against("single-task FL with all clients in time")),)
    frame = _together(absent.table(runs), "case")
    return _by(frame, ["case", "method"], columns, f"Few and late clients; {described(runs)}.")


def _together(frame: pd.DataFrame, column: str) -> pd.DataFrame:
    """Rows with the same value of a column together, values in order of appearance."""
    place = {value: i for i, value in enumerate(frame[column].unique())}
    return frame.sort_values(column, key=lambda values: values.map(place), kind="stable")


def _defence(name: str) -> str:
    method, comma, more = name.partition(",")
    return method_title(method) + comma + more


def _against(what: str) -> Column:
    return replace(COLUMNS["delta_m"], title=f"Δm against {what}")


def _by(frame: pd.DataFrame, index: list[str], columns: tuple[tuple[str, Column], ...], caption: str) -> Table:
    """Means and standard deviations over seeds of `columns`, a row a group."""
    grouped = frame.groupby(index, sort=False)[[name for name, _ in columns]]
    return Table(frame=grouped.mean(), spread=grouped.std(ddof=1), columns=columns, caption=caption)
