"""Notebooks with missing results: each cell draws what it can, and says in a sentence what it cannot.

Nothing of this is at work where all results are stored. Where some are missing and are not to be trained, `tolerate`
puts every later cell of the kernel into a block that turns an error into a sentence, so that the other cells go on.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matfl.paper.studies.session import Session

__all__ = ["Tolerant", "forget", "tolerate"]

GUARD = "_matfl_guard"
"""The name under which cells find their guard."""

EXPECTED = (ArithmeticError, AttributeError, LookupError, NameError, StopIteration, TypeError, ValueError)
"""What a cell may raise for lack of results. Damaged files, missing packages and interruptions are errors as ever."""


class Tolerant(ast.NodeTransformer):
    """Puts a cell's statements under `with _matfl_guard.cell(...)`, a last expression being shown as ever."""

    def visit_Module(self, node: ast.Module) -> ast.Module:
        """The cell within the guard."""
        body = list(node.body)
        if not body:
            return node
        if isinstance(body[-1], ast.Expr):
            shown = ast.copy_location(_call("show", [body[-1].value]), body[-1])
            body[-1] = ast.copy_location(ast.Expr(shown), body[-1])
        judges = any(isinstance(part, ast.Attribute) and part.attr == "report" for part in ast.walk(node))
        item = ast.withitem(context_expr=_call("cell", [ast.Constant(judges)]))
        guarded = ast.copy_location(ast.With(items=[item], body=body), node.body[0])
        return ast.fix_missing_locations(ast.Module(body=[guarded], type_ignores=[]))


def _call(name: str, arguments: list[ast.expr]) -> ast.Call:
    return ast.Call(ast.Attribute(ast.Name(GUARD, ast.Load()), name, ast.Load()), arguments, [])


class _Guard:
    """Runs a notebook's cells for one session."""

    def __init__(self, session: Session) -> None:
        self.session = session

    @contextmanager
    def cell(self, judges: bool) -> Iterator[None]:
        """Within, an error that may come of missing results becomes a sentence.

        A cell that judges claims (`judges`) then names those that are not computed.
        """
        import matplotlib.pyplot as plt

        try:
            yield
        except EXPECTED as error:
            plt.close("all")
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            print(
                f"Not drawn from what is stored ({reason[:160]}). {self.session.missing} results are missing; "
                '`train = "yes"` in the cell of the parameters trains them.'
            )
            if judges and not self.session.reported and (rest := self.session.report(())).claims:
                self.show(rest)

    @staticmethod
    def show(value: Any) -> None:
        """What a cell's last expression would show."""
        from IPython.display import display

        if value is not None:
            display(value)


def _shell() -> Any:
    """The kernel's shell, or None outside of notebooks."""
    return sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None


def tolerate(session: Session) -> None:
    """From the next cell on, missing results end no cell with an error. Outside of IPython nothing changes."""
    forget()
    if (shell := _shell()) is not None:
        shell.user_ns[GUARD] = _Guard(session)
        shell.ast_transformers.append(Tolerant())


def forget() -> None:
    """Run cells as they are again."""
    if (shell := _shell()) is not None:
        shell.ast_transformers[:] = [t for t in shell.ast_transformers if not isinstance(t, Tolerant)]
