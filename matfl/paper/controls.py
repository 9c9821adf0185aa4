"""Controls: one figure over one number, as small multiples on paper and as a slider in an open notebook.

    control = controls.choices_by_round(run)
    session.show(control.figure(), "by_round", control.caption)   # a few values side by side: paper, nbval, GitHub
    control.show()                                                # a slider over all, only where somebody looks

A slider's pictures are drawn when they are asked for and kept, so that going back costs nothing.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from matfl.core.surroundings import is_live
from matfl.paper.plots import decisions, figure, update_tsne
from matfl.paper.plots import predictions as draw_predictions
from matfl.paper.shown import Caption
from matfl.paper.studies import how_matfl_decides
from matfl.paper.studies import update_tsne as updates
from matfl.paper.studies.captions.basis import letters

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from matfl.paper.studies.predictions import Predicted
    from matfl.paper.studies.store import Record
    from matfl.runs.run import Run

__all__ = [
    "WITHOUT_WIDGETS",
    "Control",
    "Picker",
    "choices_by_round",
    "embeddings",
    "friends_by_k",
    "predictions",
    "votes_by_round",
]

WITHOUT_WIDGETS = "Sliders need the package ipywidgets: pip install 'matfl[paper]', then restart the kernel."
"""What is said in an open notebook without them."""


def _png(fig: Figure) -> bytes:
    """The figure's picture; the figure is closed."""
    import matplotlib.pyplot as plt

    buffer = io.BytesIO()
    fig.savefig(buffer, format="png", dpi=110)
    plt.close(fig)
    return buffer.getvalue()


@dataclass(kw_only=True)
class Picker:
    """A picture that follows from one choice in each of several lists."""

    choices: Mapping[str, Sequence[Any]]
    """Name -> what can be chosen: whole numbers in a row become a slider, anything else a list."""
    draw: Callable[..., Figure]
    """The figure of one choice a name."""
    start: Mapping[str, Any] = field(default_factory=dict)
    """Chosen at first; default the first of each."""
    drawn: dict[tuple[Any, ...], bytes] = field(default_factory=dict, repr=False)

    def picture(self, **chosen: Any) -> bytes:
        """The PNG of a choice, drawn once. Raises ValueError for what is no choice."""
        for name, value in chosen.items():
            if value not in self.choices[name]:
                raise ValueError(f"{name}={value!r}: choose from {', '.join(map(str, self.choices[name]))}")
        key = tuple(chosen[name] for name in self.choices)
        if key not in self.drawn:
            self.drawn[key] = _png(self.draw(**chosen))
        return self.drawn[key]

    def show(self) -> None:
        """Show it with its controls in an open notebook; nothing in a batch, a sentence without ipywidgets."""
        if not is_live():
            return
        try:
            import ipywidgets
        except ImportError:
            print(WITHOUT_WIDGETS, file=sys.stdout)
            return
        from IPython.display import display

        boxes = {name: _widget(ipywidgets, name, values, self.start.get(name)) for name, values in self.choices.items()}
        shown = ipywidgets.Image(format="png", value=self.picture(**{name: box.value for name, box in boxes.items()}))
        shown.layout.max_width = "100%"

        def follow(_: Any) -> None:
            shown.value = self.picture(**{name: box.value for name, box in boxes.items()})

        for box in boxes.values():
            box.observe(follow, names="value")
        display(ipywidgets.VBox([ipywidgets.HBox(list(boxes.values())), shown]))


def _widget(ipywidgets: Any, name: str, values: Sequence[Any], start: Any) -> Any:
    first = values[0] if start is None else start
    numbers = all(isinstance(value, int) for value in values)
    kind = ipywidgets.SelectionSlider if numbers else ipywidgets.Dropdown
    return (
        kind(options=list(values), value=first, description=name, continuous_update=False)
        if numbers
        else kind(options=list(values), value=first, description=name)
    )


@dataclass(kw_only=True)
class Control:
    """A figure over one number: small multiples on paper, a slider in an open notebook."""

    name: str
    """Of the number, as its slider is labelled."""
    values: Sequence[int]
    draw: Callable[[int, Axes], object]
    """Draws one value on one axes."""
    still: Sequence[int]
    """The values of the small multiples."""
    words: str
    """The small multiples' caption, without the values."""
    height: float = 2.6
    """Of a panel, in inches."""

    @property
    def caption(self) -> Caption:
        """Of the small multiples."""
        shown = f"{self.name} {', '.join(map(str, self.still))}"
        return Caption(text=f"{self.words} Panels: {shown}.", alt=f"Small multiples at {shown}. {self.words}")

    def figure(self) -> Figure:
        """The small multiples."""
        fig, axes = figure("double", height=self.height, cols=len(self.still), squeeze=False)
        for value, ax in zip(self.still, axes.flat):
            self.draw(value, ax)
            ax.set_title(f"{self.name} {value}")
        return fig

    def single(self, value: int) -> Figure:
        """The figure of one value."""
        fig, ax = figure("single", height=1.25 * self.height)
        self.draw(value, ax)
        ax.set_title(f"{self.name} {value}")
        return fig

    @property
    def picker(self) -> Picker:
        """The slider's logic."""
        return Picker(
            choices={self.name: list(self.values)},
            draw=lambda **chosen: self.single(chosen[self.name]),
            start={self.name: self.still[len(self.still) // 2]},
        )

    def show(self) -> None:
        """The slider, where somebody looks (`Picker.show`)."""
        self.picker.show()


def _spread(values: Sequence[int], count: int = 3) -> list[int]:
    """First, last and what lies evenly between."""
    places = np.linspace(0, len(values) - 1, min(count, len(values))).round().astype(int)
    return [values[place] for place in dict.fromkeys(places.tolist())]


def choices_by_round(run: Run) -> Control:
    """Who chose whom in each round: friends framed, shades the weights of the mix (Figure 5, round by round)."""
    pairs, stored = run.diagnostics["client_pairs"].tolist(), run.diagnostics
    rounds = list(range(1, len(stored["weights"]) + 1))

    def draw(number: int, ax: Axes) -> None:
        weights_NN = np.nan_to_num(stored["weights"][number - 1].astype(float))
        decisions(weights_NN, pairs, label="weight", marked=stored["friends"][number - 1].astype(bool), ax=ax)

    words = (
        "Who chose whom in single rounds of one seed: a row is a client, two of each task; framed are its friends, "
        f"shades the weights of the mix. Letters: {letters(pairs)}. {_named(run)}"
    )
    return Control(name="round", values=rounds, draw=draw, still=_spread(rounds), words=words)


def _named(run: Run) -> str:
    config = run.config
    return f"Seed {config.seed}, K = {config.k} of {config.num_clients} clients, n = 1 run."


def votes_by_round(run: Run) -> Control:
    """How all layers voted together in each round, friends framed (Figure 6, round by round).

    A client's own cell, which always gets the most, is left out of the shades.
    """
    pairs, stored = run.diagnostics["client_pairs"].tolist(), run.diagnostics
    rounds = list(range(1, len(stored["votes"]) + 1))

    def draw(number: int, ax: Axes) -> None:
        votes_NN = stored["votes"][number - 1].sum(0).astype(float)
        np.fill_diagonal(votes_NN, 0)
        decisions(votes_NN, pairs, label="votes", marked=stored["friends"][number - 1].astype(bool), ax=ax)

    words = (
        "Votes of all layers added, in single rounds of one seed: a row is a client, two of each task; framed "
        "are its friends. Its own cell, always the highest, is left empty; each panel has its own scale. "
        f"Letters: {letters(pairs)}. {_named(run)}"
    )
    return Control(name="round", values=rounds, draw=draw, still=_spread(rounds), words=words)


def friends_by_k(decided: how_matfl_decides.Round) -> Control:
    """Friends and weights at every K, from one round's stored similarities by the library's own steps."""
    n = len(decided.pairs)
    ks = list(range(1, n + 1))

    def draw(k: int, ax: Axes) -> None:
        _, friends_NN, weights_NN = how_matfl_decides.decide(decided.similarity_LNN, k)
        decisions(weights_NN.numpy(), decided.pairs, label="weight", marked=friends_NN.numpy(), ax=ax)

    words = (
        f"Friends (framed) and weights (shades) that follow from the similarities of round {decided.number} at other "
        f"values of K, of {n} clients; a row is a client. Letters: {letters(decided.pairs)}."
    )
    return Control(name="K", values=ks, draw=draw, still=[2, (n + 1) // 2, n], words=words)


def embeddings(record: Record, layers: str = "backbone") -> Control:
    """The t-SNE of updates at several perplexities: what stays whatever it is, and what does not."""
    cosine_MM = updates.cosines(record, layers)
    labels = [str(name) for name in record.arrays["labels"]]
    most = max(2, (len(labels) - 1) // 3)
    values = sorted({value for value in (3, 5, 8, 12, 20, 30, 50) if value < most} | {most})

    def draw(perplexity: int, ax: Axes) -> None:
        update_tsne(updates.embed(cosine_MM, labels, perplexity=perplexity), ax=ax, legend=False)

    words = (
        "t-SNE of the cosine distances between updates; neighbourhoods mean something, distances do not. "
        f"Letters: {letters(labels)}."
    )
    return Control(name="perplexity", values=values, draw=draw, still=_spread(values), words=words)


def predictions(found: Predicted) -> Picker:
    """A viewer: one task on one picture, its label and each method's prediction with its score."""

    def draw(task: str, image: int) -> Figure:
        row = found.row(task, image)
        fig, axes = figure("double", height=1.9, cols=len(row), squeeze=False)
        draw_predictions([row], axes)
        return fig

    return Picker(choices={"task": found.pairs, "image": list(range(found.images))}, draw=draw)
