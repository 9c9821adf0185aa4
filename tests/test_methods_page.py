"""The page of methods holds what the registry holds: every method, its title, its source, its parameters' names."""

import re
from dataclasses import fields
from pathlib import Path

from matfl.server.methods import METHODS

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "methods.md").read_text(encoding="utf-8")
ROWS = [[cell.strip() for cell in line.strip("|").split("|")] for line in PAGE.splitlines() if line.startswith("| `")]


def test_every_method_has_a_row_with_its_title_and_source():
    assert {row[0].split("`")[1] for row in ROWS} == set(METHODS)
    assert len(ROWS) == len(METHODS)
    for row in ROWS:
        name, title = re.fullmatch(r"`(\w+)` (.+)", row[0]).groups()
        assert METHODS[name].title == title
        assert METHODS[name].source == row[5]
        assert len(row) == 7
        assert all(row[1:])


def test_rows_are_grouped_by_family():
    families = [METHODS[row[0].split("`")[1]].family for row in ROWS]
    assert families == sorted(families, key=families.index)


def test_the_tests_that_the_page_names_exist():
    written = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").glob("test_*.py"))
    for row in ROWS:
        assert f"def {row[6].strip('`')}(" in written, row[6]


def test_every_parameter_and_method_says_what_it_is():
    import inspect

    for name, method in METHODS.items():
        assert (type(method).__doc__ or "").strip(), name
        source = "".join(inspect.getsource(kind) for kind in type(method).__mro__[:-2] if fields(method))
        for item in fields(method):
            assert re.search(rf'\n    {item.name}: [^\n]+\n    """', source), f"{name}.{item.name} has no docstring"
