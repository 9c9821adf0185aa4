"""Precision and recall of edge detection."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from matfl.paper.plots.style import marker, pair_color, pair_title
from matfl.paper.plots.updates import _axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from matfl.tasks.edges import Curve

__all__ = ["precision_recall"]


def precision_recall(
    curve: Curve, *, label: str | None = None, pair: str | None = None, ax: Axes | None = None
) -> Axes:
    """Precision over recall of `EdgeMeter.curve()`, over grey lines of equal F; a dot marks ODS-F.

    The legend names the curve (`label`), its ODS-F and the protocol. Draw several on the same axes to compare them.
    `pair`, a `domain/task` name, gives the line its task's colour and its domain's marker and dashes.
    """
    ax = _axes(ax)
    if not ax.lines:
        recall = np.linspace(0.01, 1, 200)
        for f in np.arange(1, 10) / 10:
            above = recall > f / 2
            precision = f * recall[above] / (2 * recall[above] - f)
            ax.plot(recall[above][precision <= 1], precision[precision <= 1], color="0.85", linewidth=0.6, zorder=0)
            ax.annotate(
                f"F={f:.1f}",
                (1, f / (2 - f)),
                xytext=(2, 0),
                textcoords="offset points",
                va="center",
                color="0.6",
                fontsize="x-small",
                annotation_clip=False,
            )
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
    ax.set(xlim=(0, 1), ylim=(0, 1), xlabel="recall", ylabel="precision")
    ax.legend(loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0.3)
    return ax
