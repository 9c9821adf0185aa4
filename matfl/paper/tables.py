"""Tables as tables: units, the better direction, the best in bold, spread over seeds; as HTML, Markdown, LaTeX, CSV.

    Table(frame=means, spread=sds, caption="Quality after the last round")   # a cell of a notebook shows it

The text on a page is the same whenever the numbers are, so nbval can compare it.
"""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from matfl.paper.names import method_title, metric_name, pair_title, table_title
from matfl.paper.numbers import decimal
from matfl.tasks.task import DOMAINS, task_of

if TYPE_CHECKING:
    import pandas as pd
    from pandas.io.formats.style import Styler

__all__ = ["COLUMNS", "Column", "Table", "column"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Column:
    """How a column of numbers is printed."""

    title: str
    unit: str = ""
    better: int = 0
    """1: higher is better, -1: lower is; 0: neither, and nothing is best."""
    digits: int = 2
    signed: bool = False
    """Whether positive numbers get their sign: differences."""
    floor: bool = False
    """Whether what would be printed as 0 is said to be below the last digit: p values."""

    @property
    def head(self) -> str:
        """Title, unit and arrow."""
        unit = f" ({self.unit})" if self.unit else ""
        return self.title + unit + {1: " ↑", -1: " ↓", 0: ""}[self.better]


def _gain(title: str) -> Column:
    return Column(title=title, unit="%", better=1, digits=1, signed=True)


def _difference(title: str) -> Column:
    return Column(title=title, unit="points", digits=2, signed=True)


COLUMNS: dict[str, Column] = {
    "delta_m": _gain("Δm"),
    "gain": _difference("gain"),
    "step_1": _gain("Δm at step 1"),
    "own": _gain("Δm at its own step"),
    "own_step": Column(title="its own step", digits=3),
    "server_lr": Column(title="server step", digits=3),
    "mean": _difference("difference"),
    "difference": _difference("difference"),
    "sd": Column(title="sd", unit="points"),
    "low": _difference("95 % from"),
    "high": _difference("to"),
    "boot_low": _difference("bootstrap from"),
    "boot_high": _difference("to "),
    "g": Column(title="Hedges' g", signed=True),
    "p": Column(title="p", digits=3, floor=True),
    "p_holm": Column(title="p (Holm)", digits=3, floor=True),
    "k": Column(title="K", digits=0),
    "seeds": Column(title="seeds", digits=0),
    "n": Column(title="seeds", digits=0),
    "models": Column(title="models", digits=0),
    "correctness": Column(title="partner chosen"),
    "chance": Column(title="at random"),
    "self_weight": Column(title="own weight"),
    "partner_weight": Column(title="partners' weight"),
    "other_weight": Column(title="others' weight"),
    "paper_semseg": Column(title="Seg. mIoU, the paper's", better=1, digits=4),
    "paper_sal": Column(title="Sal. mIoU, the paper's", better=1, digits=4),
}
"""Columns that occur in the studies' frames."""

NOTHING = "Nothing to show here for these parameters."
"""In the place of a table without rows."""

_WORDS: dict[str, Callable[[str], str]] = {
    "method": method_title,
    "against": method_title,
    "ours": method_title,
    "pair": pair_title,
    "tasks": table_title,
}
_HEADS = {
    "tasks": "data set",
    "pair": "task",
    "clients_per_task": "clients per task",
    "voting_layers": "voting layers",
    "server_lr": "server step",
    "k": "K",
}


def column(name: str) -> Column:
    """How a column of that name is printed: a known one, a pair's main metric, or its words with two digits."""
    if name in COLUMNS:
        return COLUMNS[name]
    if name.partition("/")[0] in DOMAINS and "/" in name:
        found = task_of(name)
        digits = 1 if found.metric_unit == "degrees" else 3
        better = 1 if found.higher_is_better else -1
        title = f"{pair_title(name)} {metric_name(name)}"
        return Column(title=title, unit=found.metric_unit, better=better, digits=digits)
    return Column(title=name.replace("_", " "))


@dataclass(frozen=True, kw_only=True)
class Table:
    """A frame whose index names the rows, and how it is printed.

    The best of a column is bold where its `Column` says which direction is better, within each group: rows with the
    same index but for its last level. Rows in `references` (last level) are printed in italics and never best, nor are
    rows of fewer `seeds`, if there is such a column, than the most of their group: their means are over other pictures.
    """

    frame: pd.DataFrame
    caption: str
    spread: pd.DataFrame | None = None
    """Standard deviations over seeds, of the same rows; NaN prints none. Columns it lacks have none."""
    columns: tuple[tuple[str, Column], ...] = ()
    """How to print columns otherwise than `column` says."""
    references: tuple[str, ...] = ()
    number: str = ""

    def numbered(self, number: str) -> Table:
        """The same table with its number in the notebook."""
        return replace(self, number=number)

    def _column(self, name: Hashable) -> Column:
        return dict(self.columns).get(str(name)) or column(str(name))

    def _title(self) -> str:
        return f"Table {self.number}. {self.caption}" if self.number else self.caption

    def _best(self) -> set[tuple[int, Hashable]]:
        """(row, column) of the best numbers, by what is printed: equal in print is equally good."""
        groups: dict[Any, list[int]] = {}
        for i, key in enumerate(self.frame.index):
            levels = key if isinstance(key, tuple) else (key,)
            if str(levels[-1]) not in self.references:
                groups.setdefault(levels[:-1], []).append(i)
        found = set()
        if "seeds" in self.frame:
            seeds = self.frame["seeds"].to_numpy()
            groups = {key: [i for i in rows if seeds[i] == max(seeds[rows])] for key, rows in groups.items()}
        for name in self.frame.columns:
            how = self._column(name)
            for rows in groups.values() if how.better else ():
                values = {i: self.frame[name].iloc[i] for i in rows}
                known = {i: round(float(v), how.digits) for i, v in values.items() if _is_number(v)}
                if len(known) > 1:
                    best = max(how.better * v for v in known.values())
                    found |= {(i, name) for i, v in known.items() if how.better * v == best}
        return found

    def _cell(self, i: int, name: Hashable) -> str:
        value, how = self.frame[name].iloc[i], self._column(name)
        if isinstance(value, str):
            return _WORDS.get(str(name), str)(value)
        if not _is_number(value):
            return "–"
        if how.floor and round(float(value), how.digits) == 0:
            return f"< {10**-how.digits:.{how.digits}f}"
        text = decimal(float(value), how.digits, signed=how.signed)
        if self.spread is not None and name in self.spread and _is_number(self.spread[name].iloc[i]):
            text += f" ± {decimal(float(self.spread[name].iloc[i]), how.digits)}"
        return text

    def _printed(self, bold: Callable[[str], str], italic: Callable[[str], str], escape: Callable[[str], str]) -> Any:
        """The frame as text, marked up; index and heads in words."""
        import pandas as pd

        best = self._best()
        names = [str(name) if name else "" for name in self.frame.index.names]
        keys = [key if isinstance(key, tuple) else (key,) for key in self.frame.index]
        rows = []
        for i, key in enumerate(keys):
            cells = [escape(self._cell(i, name)) for name in self.frame.columns]
            if str(key[-1]) in self.references:
                cells = [italic(cell) for cell in cells]
            rows.append([bold(c) if (i, name) in best else c for c, name in zip(cells, self.frame.columns)])
        heads = [escape(self._column(name).head) for name in self.frame.columns]
        words = [tuple(escape(_level(name, level)) for name, level in zip(names, key)) for key in keys]
        titles = [escape(_HEADS.get(name, name.replace("_", " "))) for name in names]
        index = pd.MultiIndex.from_tuples(words, names=titles) if len(names) > 1 else None
        plain = pd.Index([word[0] for word in words], name=titles[0]) if index is None else index
        return pd.DataFrame(rows, index=plain, columns=heads, dtype=str)

    def styler(self) -> Styler:
        """As pandas' `Styler` for HTML; its text holds the bold and italic marks, which every page keeps."""
        flat = self._flat(self._printed("<strong>{}</strong>".format, "<em>{}</em>".format, html.escape))
        return flat.style.hide(axis="index").set_caption(html.escape(self._title()))

    def _flat(self, frame: pd.DataFrame) -> pd.DataFrame:
        """The printed frame with its index as columns; a head that stands above already is left empty."""
        import pandas as pd

        heads = [*(str(name) for name in frame.index.names), *frame.columns]
        return pd.DataFrame(self._sparse(frame), columns=_unique(heads))

    def _sparse(self, frame: pd.DataFrame) -> list[list[str]]:
        """Rows of cells, index first; a head that stands above already is left empty."""
        rows, before = [], None
        for key, cells in zip(frame.index, frame.to_numpy().tolist()):
            levels = list(key) if isinstance(key, tuple) else [key]
            shown = list(levels)
            for place in range(len(levels) - 1):
                if before is not None and levels[: place + 1] == before[: place + 1]:
                    shown[place] = ""
            before = levels
            rows.append([str(item) for item in (*shown, *cells)])
        return rows

    def markdown(self, *, marks: bool = True) -> str:
        """As a Markdown table under its title; without `marks` nothing is bold."""
        if self.frame.empty:
            return f"{self._title()}\n\n{NOTHING}\n"
        bold, italic = ("**{}**", "*{}*") if marks else ("{}", "{}")
        frame = self._printed(bold.format, italic.format, lambda text: text.replace("|", "\\|"))
        heads = [*(str(name) for name in frame.index.names), *frame.columns]
        rows = self._sparse(frame)
        widths = [max(len(row[i]) for row in [heads, *rows]) for i in range(len(heads))]
        lines = [heads, ["-" * max(width, 3) for width in widths], *rows]
        body = "\n".join("| " + " | ".join(c.ljust(w) for c, w in zip(line, widths)) + " |" for line in lines)
        return f"{self._title()}\n\n{body}\n"

    def latex(self) -> str:
        """As a LaTeX table with booktabs' rules."""
        frame = self._printed("\\textbf{{{}}}".format, "\\emph{{{}}}".format, _tex)
        flat = self._flat(frame)
        return str(
            flat.style.hide(axis="index").to_latex(
                hrules=True,
                column_format="l" * frame.index.nlevels + "r" * len(frame.columns),
                caption=_tex(self.caption),
                position="tb",
                position_float="centering",
            )
        )

    def csv(self) -> str:
        """The numbers, unrounded to six digits, standard deviations in columns of their own."""
        frame = self.frame
        if self.spread is not None:
            frame = frame.join(self.spread.add_suffix(" sd"), how="left")
        return str(frame.to_csv(float_format="%.6g", lineterminator="\n"))

    def __repr__(self) -> str:
        return self.markdown(marks=False).rstrip()

    def _repr_html_(self) -> str:
        if self.frame.empty:
            return f"<p>{html.escape(self._title())} {NOTHING}</p>"
        return str(self.styler().to_html(exclude_styles=True))


def _is_number(value: object) -> bool:
    """Whether there is something to print: NaN and None are not."""
    try:
        return not math.isnan(float(value))  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return False


def _level(name: str, value: object) -> str:
    if name in _WORDS and isinstance(value, str):
        try:
            return _WORDS[name](value)
        except ValueError:  # words already: a row of the paper's or of constant answers
            return value
    return f"{value:g}" if isinstance(value, float) else str(value)


def _unique(heads: Sequence[str]) -> list[str]:
    """Heads that occur twice, told apart by blanks that no page shows."""
    seen: dict[str, int] = {}
    found = []
    for head in heads:
        found.append(head + " " * seen.get(head, 0))
        seen[head] = seen.get(head, 0) + 1
    return found


_TEX = {
    "\\": "\\textbackslash{}", "&": "\\&", "%": "\\%", "_": "\\_", "#": "\\#", "$": "\\$", "{": "\\{", "}": "\\}",
    "±": "$\\pm$", "↑": "$\\uparrow$", "↓": "$\\downarrow$", "Δm": "$\\Delta_m$", "–": "--", "²": "$^2$",
    "~": "\\textasciitilde{}", "^": "\\textasciicircum{}", "<": "$<$",
}  # fmt: skip


def _tex(text: str) -> str:
    """Text with what LaTeX reads otherwise escaped."""
    text = text.replace("Δm", "\0")
    return "".join(_TEX.get(character, character) for character in text).replace("\0", _TEX["Δm"])
