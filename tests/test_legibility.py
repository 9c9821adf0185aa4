"""Every figure of every notebook, drawn from made-up results of one seed and of five, is legible: what can be computed.

The notebooks' own cells draw; what is checked is what `Session.show` is given.
"""

from __future__ import annotations

import ast
import importlib.util
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")

import legibility
import matplotlib.pyplot as plt
import nbformat
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text
from synthetic_records import MAKERS, record_of
from synthetic_runs import FakeRun, diagnostics, metrics, scores

from matfl.config.run_config import RunConfig
from matfl.paper import plots
from matfl.paper.plots import style
from matfl.paper.plots.marks import settle
from matfl.paper.shown import Caption, Picture, Words, number_of
from matfl.paper.studies import STUDIES, Session, server_step
from matfl.paper.studies.session import collect_stored, collect_stored_records, notebooks_folder
from matfl.paper.tables import Table
from matfl.server.methods import METHODS
from matfl.tasks.task import TASKS

BETTER = {"local": -4.0, "single_task": 0.0, "fedavg": -7.0, "fedprox": -8.0, "matfl": -1.0}
SIZES = ("smoke", "scenes")
"""One seed and few rounds; three to five seeds, many methods, 60 rounds."""

STORED, TEXT = ("10_scale_privacy_attacks",), ("index",)
"""Notebooks drawn from the committed records, since their results have no made-up form; and those without figures."""

_diagnostics: dict[tuple[Any, ...], dict[str, np.ndarray]] = {}


def synthetic(config: RunConfig) -> FakeRun:
    """A run that differs from the others by its method, seed, K and layers, with a few percent of noise a task."""
    draws = np.random.default_rng([config.seed, len(config.method), config.k, config.voting_layers])
    better = BETTER.get(config.method, -2.0) - 0.1 * config.k + draws.standard_normal()
    better = 0.0 if config.method == "single_task" and config.server_lr == 1 else better
    last = scores(config, better, 0.03 * config.seed)
    last = {name: value * (1 + 0.02 * draws.standard_normal()) for name, value in last.items()}
    step = config.evaluate_every
    numbers = sorted({*range(step, config.rounds + 1, step), config.rounds})
    by_round = {n: {k: v * (1 + 0.2 * np.exp(-n / step)) for k, v in last.items()} for n in numbers}
    key = (config.tasks, config.clients_per_task, config.k, config.voting_layers, config.seed)
    if key not in _diagnostics:  # their number of rounds tells nothing of legibility
        _diagnostics[key] = diagnostics(config, 4, seed=config.seed)
    size = 1000 if config.method == "local" else 10**6 * config.num_clients
    size = 0 if config.method == "local" else size
    seconds = {"train": 1.0, "mix": 0.1, "evaluate": 0.2}
    rounds = [{"round": r + 1, "seconds": seconds, "bytes_up": size, "bytes_down": size} for r in range(config.rounds)]
    found = FakeRun(config, metrics(config, by_round, config.clients_per_task), _diagnostics[key], rounds)
    found.provenance["precision"] = config.precision
    return found


@dataclass
class Shown:
    """A figure that a notebook showed, with what was wrong with it."""

    name: str
    caption: Caption
    complaints: list[str]


DOMAIN_WORDS = {"O": "O outdoor scenes", "I": "I indoor scenes"}
"""What a caption says of the letter after a task's short name."""


def unexplained(fig: Figure, caption: Caption) -> list[str]:
    """Letters of domains that stand in the figure and not in its caption."""
    texts = [text.get_text() for text in fig.findobj(Text) if text.get_visible()]
    found = {match[1] for text in texts if (match := re.fullmatch(r"[A-Z][.A-Za-z]+ ([OI])", text))}
    return [f"no word on the letter {letter}" for letter in sorted(found) if DOMAIN_WORDS[letter] not in caption.text]


def complaints(fig: Figure, caption: Caption) -> list[str]:
    """All that is wrong with a figure."""
    settle(fig)
    return [
        *legibility.small_type(fig, style.SMALLEST),
        *legibility.overlaps(fig),
        *legibility.outside(fig),
        *legibility.covered(fig),
        *legibility.unnamed(fig),
        *unexplained(fig, caption),
    ]


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Shown]:
    """Notebooks get made-up results; what they show is looked at and kept."""
    found: list[Shown] = []

    def show(self: Session, fig: Figure, name: str, caption: Caption, *, data: Any = None) -> None:
        assert data is None or isinstance(data, pd.DataFrame)
        found.append(Shown(name, caption, complaints(fig, caption)))
        plt.close(fig)

    monkeypatch.setattr(Session, "show", show)
    monkeypatch.setattr(Session, "stock", lambda self, plan: None)
    monkeypatch.setattr(Session, "runs", lambda self, plan: [synthetic(config) for config in plan.configs])
    monkeypatch.setattr(Session, "records", lambda self, plan: [record_of(job) for job in plan.jobs])
    monkeypatch.setattr(server_step, "FROZEN", frozen(tmp_path))
    return found


def frozen(folder: Path) -> Path:
    """Server steps as if chosen on development seeds, for all that notebooks compare."""
    names = ("single_task", "fedavg", "fedprox", "matfl", "matfl_self", "fedhca2")
    steps = {name: 1.0 + 0.5 * (name != "single_task") for name in names}
    tried = {f"{name}": {f"{step:g}": [float(len(name))]} for name, step in steps.items()}
    choice = {
        "seeds": [100],
        "regime": "",
        "steps": {"outdoor5": steps, "scenes9": steps},
        "delta_m": {f"{tasks} {name}": found for tasks in ("outdoor5", "scenes9") for name, found in tried.items()},
    }
    path = folder / "frozen.json"
    path.write_text(json.dumps(dict.fromkeys(SIZES, choice)))
    return path


def execute(study: str, preset: str) -> list[Table]:
    """A notebook's code cells, here; the tables that cells end with."""
    names: dict[str, Any] = {"display": lambda *values: tables.extend(v for v in values if isinstance(v, Table))}
    tables: list[Table] = []
    for cell in nbformat.read(notebooks_folder() / f"{study}.ipynb", as_version=4).cells:
        if cell.cell_type != "code":
            continue
        if "parameters" in cell.metadata.get("tags", []):
            exec(cell.source, names)
            names["preset"] = preset
            if "pictures" in names:
                names["settings"] = "images_train=40; images_val=6; images_per_client=4"
            continue
        tree = ast.parse(cell.source)
        last = tree.body[-1]
        if isinstance(last, ast.Expr):
            tree.body[-1] = ast.parse("shown_last = 0").body[0]
            tree.body[-1].value = last.value  # type: ignore[attr-defined]
        exec(compile(tree, study, "exec"), names)
        names["display"](names.pop("shown_last", None))
    return tables


@pytest.mark.parametrize("preset", SIZES)
def test_every_kind_of_result_has_a_made_up_one(preset: str) -> None:
    kinds = {job.kind for name in STUDIES if name not in STORED for job in STUDIES[name](preset).jobs}
    assert kinds <= set(MAKERS)


@pytest.mark.parametrize("preset", [SIZES[0], pytest.param(SIZES[1], marks=pytest.mark.slow)])
@pytest.mark.parametrize("study", [name for name in STUDIES if name not in (*STORED, *TEXT)])
def test_every_figure_of_every_notebook_is_legible(study: str, preset: str, shown: list[Shown]) -> None:
    tables = execute(study, preset)
    assert shown, "no figure was shown"
    assert {each.name: each.complaints for each in shown if each.complaints} == {}
    for each in shown:
        assert len(each.caption.text) > 40
        assert each.caption.text.endswith(".")
        assert "nan" not in each.caption.alt
    for table in tables:
        assert table.markdown()
        assert "tabular" in table.latex()
        assert table._repr_html_() == table._repr_html_(), "a page's text is the same every time"


@pytest.mark.slow
@pytest.mark.parametrize("study", STORED)
def test_figures_of_committed_records_are_legible(
    study: str, shown: list[Shown], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Session, "runs", lambda self, plan: collect_stored(plan))
    monkeypatch.setattr(Session, "records", lambda self, plan: collect_stored_records(plan))
    execute(study, "quick")
    assert {each.name: each.complaints for each in shown if each.complaints} == {}
    assert len(shown) == 6


# --- every check can fail ---------------------------------------------------------------------------------------------


def test_small_type_is_seen() -> None:
    fig, ax = plots.figure("single", height=2)
    ax.set_xlabel("small", size=style.SMALLEST - 0.5)
    assert legibility.small_type(fig, style.SMALLEST) == ["'small' has 6 pt"]
    plt.close(fig)


def test_texts_over_each_other_and_beyond_the_canvas_are_seen() -> None:
    fig, ax = plots.figure("single", height=2)
    for x, word in ((0.5, "one"), (0.52, "two"), (1.4, "far")):
        ax.text(x, 0.5, word, transform=ax.transAxes).set_in_layout(False)
    settle(fig)
    assert legibility.overlaps(fig) == ["'one' and 'two' overlap"]
    assert legibility.outside(fig) == ["'far' leaves the canvas"]
    plt.close(fig)


def test_a_legend_over_data_and_axes_without_a_name_are_seen() -> None:
    fig, ax = plots.figure("single", height=2)
    ax.plot([0, 1], [0, 1], label="line")
    ax.legend(loc="upper right")
    settle(fig)
    assert legibility.covered(fig)
    assert len(legibility.unnamed(fig)) == 2
    ax.set(xlabel="round", ylabel="share")
    ax.legend(loc="upper left")
    assert not legibility.covered(fig)
    assert not legibility.unnamed(fig)
    plt.close(fig)


def test_labels_that_would_cover_each_other_are_moved() -> None:
    fig, ax = plots.figure("single", height=2)
    points = pd.DataFrame({"x": [0.0, 0.01, 5], "y": [0.0, 0.01, 5], "pair": PAIRS})
    plots.update_tsne(points, ax=ax, legend=False)
    plots.label_clusters(points, ax)
    assert legibility.overlaps(fig) == []
    plt.close(fig)


def test_names_of_clusters_cover_no_marks() -> None:
    """Of four tight clusters three are so near above each other that a name above one meets the next."""
    near = [(0.0, 0.0), (0.0, 0.6), (0.0, 1.2), (4.0, 3.0)]
    points = pd.DataFrame(
        [(x + dx, y + dx, pair) for (x, y), pair in zip(near, [*PAIRS, "indoor/edge"]) for dx in (-0.05, 0.0, 0.05)],
        columns=["x", "y", "pair"],
    )
    fig, ax = plots.figure("single", height=2)
    plots.update_tsne(points, ax=ax, legend=False)
    plots.label_clusters(points, ax)
    marks = ax.transData.transform(points[["x", "y"]].to_numpy())
    for text in ax.texts:
        box = text.get_window_extent()
        inside = (marks > [box.x0, box.y0]) & (marks < [box.x1, box.y1])
        assert not inside.all(1).any(), text.get_text()
    plt.close(fig)


PAIRS = ["outdoor/semseg", "outdoor/sal", "indoor/depth"]


# --- colours ----------------------------------------------------------------------------------------------------------


def test_deficient_sight_is_modelled() -> None:
    """Greys stay what they are; red and green of one lightness come close for two of three."""
    for deficiency in legibility.DEFICIENCIES:
        plain, changed = legibility.seen(["#808080"], None), legibility.seen(["#808080"], deficiency)
        assert np.abs(plain - changed).max() < 1
    red_green = {"red": "#C8605A", "green": "#8A8A3C"}
    assert (
        legibility.closest(red_green)["red", "green"]
        < 12
        < np.linalg.norm(np.subtract(*legibility.seen(list(red_green.values()), None)))
    )


def test_tasks_are_told_apart_by_everybody() -> None:
    close = {pair: d for pair, d in legibility.closest({n: t.color for n, t in TASKS.items()}).items() if d < 9}
    assert close == {}


def test_methods_are_told_apart_by_everybody() -> None:
    """By colour, or else by mark or line; and those of most figures by colour and by mark."""
    looks = {name: style.method_look(name) for name in METHODS}
    for (a, b), distance in legibility.closest({name: look["color"] for name, look in looks.items()}).items():
        marks = looks[a]["marker"] != looks[b]["marker"] or looks[a]["linestyle"] != looks[b]["linestyle"]
        assert marks or distance > 10, (a, b, distance)
    main = {name: style.METHOD_COLORS[name] for name in ("local", "single_task", "fedavg", "fedprox", "matfl")}
    assert min(legibility.closest(main).values()) > 10
    assert len({looks[name]["marker"] for name in main}) == len(main)


# --- what is shown ----------------------------------------------------------------------------------------------------


def test_a_figure_is_shown_with_its_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page: list[Any] = []
    monkeypatch.setattr("IPython.display.display", lambda *values: page.extend(values))
    monkeypatch.setenv("MATFL_FIGURES", str(tmp_path))
    session = Session("02_methods", "smoke")
    for _ in range(2):  # a cell that is run again keeps its number
        for name in ("first", "second"):
            fig, ax = plots.figure("single", height=2)
            ax.plot([0, 1], [1, 0])
            session.show(fig, name, Caption(text="A line.", alt="It falls."))
            assert not plt.fignum_exists(fig.number)
    picture, words = page[-2:]
    data, metadata = picture._repr_mimebundle_()
    assert metadata == {"image/png": {"alt": "Figure 02.2: It falls."}}
    assert data["text/plain"] == "[Figure 02.2: It falls.]"
    assert words._repr_markdown_() == "**Figure 02.2.** A line."
    assert repr(words) == "Figure 02.2. A line."
    assert page[0].png == page[4].png
    beside = (tmp_path / "02_methods_second.md").read_text(encoding="utf-8")
    assert beside == "![It falls.](02_methods_second.png)\n\n**Figure 02.2.** A line.\n"
    assert (tmp_path / "02_methods_second.png").exists()


def test_a_caption_needs_words() -> None:
    with pytest.raises(ValueError, match="alt is empty"):
        Caption(text="A line.", alt=" ")
    assert number_of("how_matfl_decides", 2) == "H.2"
    assert isinstance(Picture(b"", "x"), Picture)
    assert repr(Words("**a** b")) == "a b"


def test_the_site_describes_pictures(tmp_path: Path) -> None:
    spec = importlib.util.spec_from_file_location("hook", Path(__file__).parents[1] / ".ci" / "alternative_texts.py")
    assert spec is not None
    assert spec.loader is not None
    hook = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(hook)
    cell = nbformat.v4.new_code_cell(outputs=[])
    for text in ("Figure 1: a < b", "Figure 2: c"):
        output = nbformat.v4.new_output("display_data", {"image/png": "AA=="}, metadata={"image/png": {"alt": text}})
        cell.outputs.append(output)
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), tmp_path / "a.ipynb")
    texts = hook.texts_of(tmp_path / "a.ipynb")
    page = f"<img {hook.MISSING}><p><img {hook.MISSING}>"
    assert hook.described(page, texts) == '<img alt="Figure 1: a &lt; b"><p><img alt="Figure 2: c">'
    assert hook.described(f"<img {hook.MISSING}>", texts) == f"<img {hook.MISSING}>", "another number of pictures"
