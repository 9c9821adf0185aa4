"""What a notebook shows of a figure: the picture with words for those who do not see it, and a numbered caption.

JupyterLab, GitHub and the site show the picture and, under it, the caption as text of the page.
"""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Caption", "Picture", "Words", "number_of"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Caption:
    """The words of one figure. Both are needed: a figure without them says nothing to some of its readers."""

    text: str
    """What is on the axes, what marks, bars and bands are, of how many seeds, and what was run."""
    alt: str
    """What a reader would see, in a sentence or two, for those who do not see it."""

    def __post_init__(self) -> None:
        for name in ("text", "alt"):
            if not getattr(self, name).strip():
                raise ValueError(f"a caption's {name} is empty: say what the figure shows")

    def numbered(self, number: str, kind: str = "Figure") -> str:
        """As Markdown under the figure."""
        return f"**{kind} {number}.** {self.text}"


@dataclass(frozen=True, slots=True)
class Picture:
    """A drawn figure as PNG; its alternative text is in the output's metadata, where pages take it from."""

    png: bytes
    alt: str

    @classmethod
    def of(cls, fig: Figure, alt: str) -> Picture:
        """The figure as its files show it, at screen resolution; the same figure gives the same bytes."""
        buffer = io.BytesIO()
        fig.canvas.draw()  # axes of a fixed aspect find their place in a second pass
        fig.savefig(buffer, format="png", dpi=130, metadata={"Software": None})
        return cls(buffer.getvalue(), alt)

    def _repr_mimebundle_(self, **_: Any) -> tuple[dict[str, str], dict[str, Any]]:
        data = {"image/png": base64.b64encode(self.png).decode(), "text/plain": f"[{self.alt}]"}
        return data, {"image/png": {"alt": self.alt}}


@dataclass(frozen=True, slots=True)
class Words:
    """A line of Markdown on the page; plain text where nothing renders it."""

    text: str

    def __repr__(self) -> str:
        return self.text.replace("**", "")

    def _repr_markdown_(self) -> str:
        return self.text


def number_of(study: str, place: int) -> str:
    """The number of a notebook's figure or table: `02.3` is the third of `02_methods`; others go by their first letter.

    >>> number_of("02_methods", 3), number_of("how_matfl_decides", 1)
    ('02.3', 'H.1')
    """
    head = study.partition("_")[0]
    return f"{head if head.isdigit() else study[0].upper()}.{place}"
