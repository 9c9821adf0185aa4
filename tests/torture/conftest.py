"""The torture suite: what happens to results under kills, full disks, damage, nonsense and hostile replies.

    pytest -m torture tests/torture                      # some minutes on two cores
    MATFL_TORTURE=20 pytest -m torture tests/torture     # twenty times as many trials, other random numbers

A table in the end says what was tried how often, and what came of it.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator

import numpy as np
import pytest

SCALE = float(os.environ.get("MATFL_TORTURE", "1"))

rows: list[tuple[str, Counter[str]]] = []


class Tally(Counter[str]):
    """How often what came of one kind of trial."""


@pytest.fixture
def tally(request: pytest.FixtureRequest) -> Iterator[Tally]:
    """Counts outcomes for the table; the test's docstring says what was tried."""
    counts = Tally()
    title = (request.function.__doc__ or request.node.name).splitlines()[0].rstrip(".")
    case = request.node.callspec.id if hasattr(request.node, "callspec") else ""
    yield counts
    rows.append((f"{title} ({case})" if case else title, counts))


@pytest.fixture
def rng(request: pytest.FixtureRequest) -> np.random.Generator:
    """Random numbers of this test alone, other ones at another size of the suite."""
    return np.random.default_rng([int(SCALE * 100), *request.node.nodeid.encode()])


@pytest.fixture
def trials() -> object:
    """`trials(n)`: a range of n, times $MATFL_TORTURE."""
    return lambda n: range(max(1, round(n * SCALE)))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "torture" in item.path.parts:
            item.add_marker(pytest.mark.slow)
            item.add_marker(pytest.mark.torture)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if rows:
        terminalreporter.section("what was tried")
        width = max(len(title) for title, _ in rows)
        for title, counts in rows:
            outcomes = ", ".join(f"{name} {number}" for name, number in sorted(counts.items()))
            terminalreporter.write_line(f"{title:<{width}}  {sum(counts.values()):>5}  {outcomes}")
