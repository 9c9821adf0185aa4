"""What this process runs in: a terminal, a notebook that somebody looks at, or a batch."""

from __future__ import annotations

import os
import sys
from typing import TextIO

__all__ = ["in_kernel", "is_live", "shows_bars"]

_EDITORS = ("JPY_SESSION_NAME", "VSCODE_PID", "COLAB_RELEASE_TAG", "KAGGLE_KERNEL_RUN_TYPE")
"""Variables that servers and editors set for the kernels of notebooks that are open in them."""


def in_kernel() -> bool:
    """Whether this is a Jupyter kernel, in whatever hands."""
    return "ipykernel" in sys.modules and "IPython" in sys.modules and sys.modules["IPython"].get_ipython() is not None


def is_live() -> bool:
    """Whether a notebook is open before somebody, not executed by papermill, nbval or `matfl reproduce`.

    $MATFL_LIVE (0 or 1) decides where the surroundings do not tell.
    """
    if answer := os.environ.get("MATFL_LIVE"):
        return answer != "0"
    return in_kernel() and "MATFL_FIGURES" not in os.environ and any(name in os.environ for name in _EDITORS)


def shows_bars(stream: TextIO) -> bool:
    """Whether a bar that is redrawn in place looks right on `stream`: a terminal's, or a notebook's."""
    return stream.isatty() or is_live()
