"""Precision and recall of edge detection."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from matfl.paper.names import pair_title
from matfl.paper.plots.marks import current_axes
from matfl.paper.plots.style import SMALLEST, marker, pair_color

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from matfl.tasks.edges import Curve

__all__ = ["precision_recall"]

GUIDE = "iso-f"
"""Marks the lines of equal F, which are drawn anew with every curve."""


def precision_recall(
    curve: Curve, *, label: str | None = None, pair: str | None = None, ax: Axes | None = None
) -> Axes:
    """Precision over recall of `EdgeMeter.curve()`, over grey lines of equal F; a dot marks ODS-F.

    The legend names the curve (`label`), its ODS-F and the protocol. Draw several on the same axes to compare them;
    the axes end a little beyond the farthest. `pair`, a `domain/task` name, gives the line its task's colour and its
    domain's marker and dashes.
    """
    ax = current_axes(ax)
    if pair:
        label = label or pair_title(pair)
        looks: dict[str, Any] = {"color": pair_color(pair), "linestyle": "--" if marker(pair) == "s" else "-"}
    else:
        looks = {}
    name = f"{label}: " if label else ""
    # Precision is 1 by convention where nothing is predicted: such thresholds are no part of the curve.
    drawn = curve.recall_T > 0
    (line,) = ax.plot(
        curve.recall_T[drawn],
        curve.precision_T[drawn],
        label=f"{name}ODS-F {curve.f_T[curve.best]:.3f} ({curve.protocol})",
        **looks,
    )
    ax.plot(
        curve.recall_T[curve.best],
        curve.precision_T[curve.best],
        marker=marker(pair) if pair else "o",
        color=line.get_color(),
    )
    ax.set(xlabel="recall", ylabel="precision")
    _reach(ax)
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2))
    return ax


def _reach(ax: Axes) -> None:
    """Axes that end where the curves do, and grey lines of equal F between them."""
    for line in [line for line in ax.lines if line.get_gid() == GUIDE]:
        line.remove()
    for text in [text for text in ax.texts if text.get_gid() == GUIDE]:
        text.remove()
    reached = max(float(np.max(np.asarray(line.get_xydata()), initial=0.0)) for line in ax.lines)
    end = min(1.0, np.ceil(1.15 * max(reached, 0.04) * 20) / 20)
    step = next(step for step in (0.01, 0.02, 0.05, 0.1) if end / step <= 10)
    for f in np.arange(1, round(end / step)) * step:
        recall = np.linspace(f / 2 + 1e-4, end, 400)
        precision = f * recall / (2 * recall - f)
        inside = precision <= end
        if not inside.any():
            continue
        ax.plot(recall[inside], precision[inside], color="0.85", linewidth=0.6, zorder=0, gid=GUIDE)
        at, words = (end, float(precision[inside][-1])), f"F={f:.2f}"
        ax.annotate(
            words,
            at,
            (2, 0),
            textcoords="offset points",
            va="center",
            color="0.45",
            size=SMALLEST,
            gid=GUIDE,
            annotation_clip=False,
        )
    ax.set(xlim=(0, end), ylim=(0, end), aspect="equal")
