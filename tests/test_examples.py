"""Every example in a docstring is executed, and every public name has one."""

import ast
import doctest
from importlib import import_module
from pathlib import Path
from types import FunctionType, ModuleType

import matplotlib.pyplot as plt
import pytest
from small import small_place

import matfl

ROOT = Path(matfl.__file__).parent


def examples(path: Path) -> list[doctest.DocTest]:
    """The examples of a module: of its docstring, its classes' and functions', and of the strings below its values."""
    module = ast.parse(path.read_text(encoding="utf-8"))
    name = ".".join(path.relative_to(ROOT.parent).with_suffix("").parts).removesuffix(".__init__")
    texts = [
        (node.value.value, node.lineno)
        for node in ast.walk(module)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
    ]
    parser = doctest.DocTestParser()
    return [parser.get_doctest(text, {}, f"{name}:{line}", str(path), line) for text, line in texts if ">>> " in text]


EXAMPLES = {path: found for path in sorted(ROOT.rglob("*.py")) if (found := examples(path))}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    with small_place(tmp_path_factory.mktemp("examples")) as folder:
        yield folder


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: str(path.relative_to(ROOT)))
def test_examples_do_what_they_say(path, place, capsys):
    runner = doctest.DocTestRunner(optionflags=doctest.IGNORE_EXCEPTION_DETAIL | doctest.NORMALIZE_WHITESPACE)
    for example in EXAMPLES[path]:
        example.globs = {**vars(import_module(example.name.partition(":")[0])), "__name__": "__main__"}
        runner.run(example)
    plt.close("all")
    assert runner.summarize(verbose=False).failed == 0, capsys.readouterr().out
    assert runner.tries > 0


@pytest.mark.parametrize("name", sorted(set(matfl.__all__) - {"__version__"}))
def test_every_public_name_has_an_example(name):
    value = getattr(matfl, name)
    if isinstance(value, type | FunctionType | ModuleType):
        assert ">>> " in (value.__doc__ or "")
    else:  # a value's are in the string below it
        assert any(f"matfl.{name}" in test.docstring for tests in EXAMPLES.values() for test in tests)
