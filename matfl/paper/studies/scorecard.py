"""The index: every claim of the paper beside its verdicts here, what differs from the paper, and what it all cost.

Nothing is computed: verdicts are those that the notebooks left beside their figures, hours those that records hold.
"""

from __future__ import annotations

import base64
import html
import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from matfl.config.run_config import RunConfig, override
from matfl.config.run_config import preset as preset_config
from matfl.paper.studies.base import Plan, five_tasks, setting, sizes
from matfl.paper.studies.methods import PROTOCOL
from matfl.paper.studies.paper_claims import PAPER_CLAIMS, PaperClaim
from matfl.paper.studies.stock import seconds_of
from matfl.paper.studies.store import job_name, read_record
from matfl.runs.workspace import figure_folders

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["COLUMNS", "Scorecard", "costs", "deviations", "pace", "plan", "scorecard"]

COLUMNS: Mapping[str, str] = {
    "scenes": "rendered scenes",
    "photos": "photographs",
    "photos_imagenet": "photographs, ImageNet start",
}
"""Preset -> its column."""

THUMBNAILS = {
    "01_update_tsne": "tsne",
    "02_methods": "delta_m",
    "03_clients_per_task": "clients",
    "04_k_sweep": "k",
    "05_grouping_frequency": "graphs",
    "06_layer_voting": "votes",
}
"""Notebook -> the figure that stands for it."""

NOTHING = "not computed"


def plan(preset: str) -> Plan:
    """Nothing: the index shows what the other notebooks left."""
    preset_config(preset)
    return Plan()


def _left(study: str, preset: str) -> tuple[Path, dict[str, Any]] | None:
    """The folder and content of the verdicts that a notebook left at a preset."""
    for folder in figure_folders():
        file = folder / f"{study}.json"
        if file.is_file():
            content = json.loads(file.read_text(encoding="utf-8"))
            if content["provenance"]["preset"] == preset:
                return folder, content
    return None


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """What one preset says about a claim of the paper."""

    word: str
    subject: str
    """The task set, where the claim is judged on several."""
    evidence: str
    preset: str

    @property
    def look(self) -> bool:
        """Whether it only stands in for a preset that is not computed."""
        return self.preset not in COLUMNS


@cache
def _claims(study: str, preset: str) -> tuple[Mapping[str, str], ...]:
    left = _left(study, preset)
    return tuple(left[1]["claims"]) if left else ()


def verdicts(claim: PaperClaim, preset: str) -> list[Verdict]:
    """The verdicts of a preset, one a task set or regime; empty where nothing is computed."""
    rows = [row for row in _claims(claim.study, preset) if claim.fits(row["claim"]) and row["verdict"] != NOTHING]
    return [
        Verdict(word=row["verdict"], subject=subject, evidence=row["evidence"], preset=preset)
        for row, subject in zip(rows, _subjects(claim, rows))
    ]


def _subjects(claim: PaperClaim, rows: Sequence[Mapping[str, str]]) -> list[str]:
    """What each verdict is about, where there are several: its task set, and else what its regime alone says."""
    named = [row["claim"].removesuffix(claim.judged_as).removesuffix(": ") for row in rows]
    if len(set(named)) == len(named):
        return named
    regimes = [row.get("regime", "").replace("learning rate", "lr").split(", ") for row in rows]
    shared = set.intersection(*map(set, regimes))
    return [", ".join(filter(None, [name, *(p for p in its if p not in shared)])) for name, its in zip(named, regimes)]


@dataclass(frozen=True)
class Scorecard:
    """Rows of (claim of the paper, verdicts by column); shown with thumbnails in a notebook."""

    rows: tuple[tuple[PaperClaim, Mapping[str, Sequence[Verdict]]], ...]

    def frame(self) -> pd.DataFrame:
        """The verdicts alone: a row a claim, a column a kind of data."""
        import pandas as pd

        table = [
            {"place": claim.place, "claim": claim.words} | {column: _words(found) for column, found in row.items()}
            for claim, row in self.rows
        ]
        return pd.DataFrame(table).set_index(["place", "claim"])

    def counts(self) -> pd.DataFrame:
        """How many claims were held, not held, undecided, not computed in each column."""
        import pandas as pd

        words = ("held", "not held", "undecided", NOTHING)
        found = {
            column: [word for _, row in self.rows for word in ([v.word for v in row[column]] or [NOTHING])]
            for column in COLUMNS.values()
        }
        return pd.DataFrame({column: [listed.count(word) for word in words] for column, listed in found.items()}, words)

    def _repr_html_(self) -> str:
        head = "".join(f"<th>{title}</th>" for title in ("paper", *COLUMNS.values(), "figure"))
        body, before = [], ""
        for claim, row in self.rows:
            count = sum(other.study == claim.study for other, _ in self.rows) if claim.study != before else 0
            picture = f'<td rowspan="{count}">{_picture(claim)}</td>' if count else ""
            before = claim.study
            numbers = f"<br><small>{html.escape(claim.numbers)}</small>" if claim.numbers else ""
            paper = f"<small>{claim.place}</small><br>{html.escape(claim.words)}{numbers}"
            cells = "".join(f"<td>{_cell(found)}</td>" for found in row.values())
            body.append(
                f'<tr style="vertical-align: top"><td style="text-align: left">{paper}</td>{cells}{picture}</tr>'
            )
        return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(body)}</tbody></table>"

    def __repr__(self) -> str:
        return str(self.frame())


def _words(found: Sequence[Verdict]) -> str:
    """Verdicts in a cell: 'held; not held (scenes9)'; a look is marked."""
    if not found:
        return NOTHING
    listed = [f"{v.word} ({v.subject})" if v.subject else v.word for v in found]
    return "; ".join(dict.fromkeys(listed)) + (f" [a look: {found[0].preset}]" if found[0].look else "")


SIGNS = {"held": "&#10003;", "not held": "&#10007;", "undecided": "?"}
"""Beside the words, so that a column can be read at a glance."""


def _cell(found: Sequence[Verdict]) -> str:
    if not found:
        return "<small>not computed yet</small>"
    parts = [
        f"<b>{SIGNS[v.word]} {v.word}</b>{f' ({v.subject})' if v.subject else ''}"
        f"<br><small>{html.escape(v.evidence)}</small>"
        for v in found
    ]
    look = f"<small><i>a look (preset {found[0].preset})</i></small><br>" if found[0].look else ""
    return look + "<br>".join(parts)


def _picture(claim: PaperClaim, width: int = 150) -> str:
    """The notebook's figure as a small picture that links to it, else the link alone."""
    for preset in (*COLUMNS, "quick", "smoke"):
        left = _left(claim.study, preset)
        files = sorted(left[0].glob(f"{claim.study}_{THUMBNAILS[claim.study]}*.png")) if left else []
        if files:
            source = base64.b64encode(_small(files[0], width)).decode()
            inner = f'<img src="data:image/png;base64,{source}" alt="{claim.place}" width="{width}">'
            return f'<a href="{claim.study}.ipynb">{inner}<br>{claim.study}</a>'
    return f'<a href="{claim.study}.ipynb">{claim.study}</a>'


def _small(file: Path, width: int) -> bytes:
    from PIL import Image

    with Image.open(file) as image:
        size = (2 * width, round(image.height * 2 * width / image.width))
        small = image.convert("RGB").resize(size, Image.Resampling.LANCZOS).quantize(32)
    buffer = io.BytesIO()
    small.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def scorecard(look: str = "quick") -> Scorecard:
    """Every claim of the paper with its verdicts at each preset; `look` stands in where `scenes` is not computed."""
    _claims.cache_clear()
    rows = []
    for claim in PAPER_CLAIMS:
        row = {column: verdicts(claim, preset) for preset, column in COLUMNS.items()}
        row[COLUMNS["scenes"]] = row[COLUMNS["scenes"]] or verdicts(claim, look)
        rows.append((claim, row))
    return Scorecard(tuple(rows))


PLACES = ("preset", "method", "parameters", "seed", "data_seed", "evaluate_every", "precision")
"""Fields of a config that are no deviation."""


def deviations(presets: Sequence[str] = ("quick", *COLUMNS)) -> pd.DataFrame:
    """The parameters in which presets differ from the paper: a row a field, the paper's value first.

    The paper's column is `paper_9` under the paper's protocol (`methods.PROTOCOL`); all of it is read from configs.
    """
    import pandas as pd

    paper = override(preset_config("paper_9"), **PROTOCOL)
    columns = {"paper": paper} | {name: preset_config(name) for name in presets}
    rows = {
        field.name: {title: _shown(config, field.name) for title, config in columns.items()}
        for field in fields(RunConfig)
        if field.name not in PLACES
    }
    rows["K on five tasks"] = {title: str(_five(config).k) for title, config in columns.items()}
    differing = {name: row for name, row in rows.items() if len(set(row.values())) > 1}
    return pd.DataFrame.from_dict(differing, orient="index")


def _five(config: RunConfig) -> RunConfig:
    return setting(config, five_tasks(config))


def _shown(config: RunConfig, name: str) -> str:
    value = getattr(config, name)
    if name in ("images_train", "images_val", "images_per_client", "size") and not value:
        return "all" if name != "size" else "full"
    return f"{value:g}" if isinstance(value, float) else str(value)


def costs(plans: Mapping[str, Callable[..., Plan]], presets: Sequence[str] = ("quick", *COLUMNS)) -> pd.DataFrame:
    """Recorded core-hours of each notebook's results at each preset, and how many results of its plan are recorded.

    Results that notebooks share count in each of them, and once in the last row.
    """
    import pandas as pd

    columns: dict[str, dict[str, str]] = {}
    for preset in presets:
        seconds: dict[str, float | None] = {}
        chosen = sizes(preset).studies or tuple(plans)
        cells = {}
        for study in (study for study in plans if study in chosen):
            names = _names(plans[study](preset))
            for name in names:
                seconds.setdefault(name, _recorded(name))
            if names:
                cells[study] = _hours([seconds[name] for name in names])
        cells["all, each once"] = _hours(list(seconds.values()))
        columns[preset] = cells
    return pd.DataFrame(columns).reindex([*(s for s in plans if s != "index"), "all, each once"]).fillna("")


def pace() -> pd.DataFrame:
    """Core-milliseconds of training for an image: the median over recorded runs, and the least and most of them.

    Rows: preset, version and device that made them, task set. Runs in which clients are left out, or train on all the
    images there are, don't count: what they saw is not in their config.
    """
    import pandas as pd

    from matfl.runs.run import list_runs

    rows = []
    for folder in figure_folders():
        for run in list_runs(folder / "runs"):
            config, images = run.config, run.config.images_per_client * run.config.local_epochs
            if images and config.participation == 1:
                seconds = sum(row["seconds"]["train"] for row in run.rounds)
                ms = 1000 * seconds / (images * config.num_clients * config.rounds)
                made_by = f"{run.provenance['matfl']}, {run.provenance['device']}"
                tasks = "other sets" if "," in config.tasks else config.tasks
                rows.append({"preset": config.preset, "made by": made_by, "tasks": tasks, "ms": ms})
    if not rows:
        return pd.DataFrame()
    grouped = pd.DataFrame(rows).groupby(["preset", "made by", "tasks"])["ms"]
    return grouped.agg(runs="size", ms="median", least="min", most="max").round(2)


def _names(plan: Plan) -> list[str]:
    return [*dict.fromkeys(config.name for config in plan.configs), *dict.fromkeys(map(job_name, plan.jobs))]


def _hours(seconds: Sequence[float | None]) -> str:
    there = [value for value in seconds if value is not None]
    return f"{sum(there) / 3600:.1f} h ({len(there)} of {len(seconds)})" if there else f"none of {len(seconds)}"


def _recorded(name: str) -> float | None:
    """Core-seconds of a recorded result, None where there is no record."""
    from matfl.runs.run import Run

    for folder in figure_folders():
        path = folder / "runs" / name
        if (path / "config.json").is_file():
            return seconds_of(Run(path))
        if (path / "record.json").is_file():
            return float(read_record(path).provenance.get("seconds", 0.0))
    return None
