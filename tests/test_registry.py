"""Registries fill themselves with the package's own entries before anyone else's."""

import subprocess
import sys
import textwrap
import types

import pytest

from matfl.core.registry import PLUGINS, PluginError, Registry
from matfl.tasks.task import DOMAINS, Domain


def python(code, tmp_path, **env):
    import os

    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env={**os.environ, **env},
    )


def write(tmp_path, name, registers):
    (tmp_path / f"{name}.py").write_text(textwrap.dedent(registers))


def test_a_plugin_that_registers_first_comes_after_the_built_ins_and_cannot_take_their_names(tmp_path):
    write(
        tmp_path,
        "things",
        """
        from matfl.core.registry import Registry
        class Entry:
            def __init__(self, name, module):
                self.name, self.__module__ = name, module
        ONE, TWO = Registry("one", builtin="builtins_of_things"), Registry("two", builtin="builtins_of_things")
        """,
    )
    write(
        tmp_path,
        "builtins_of_things",
        """
        from things import ONE, TWO, Entry
        with ONE.filling():
            ONE.register(Entry("own", "things"))
            TWO.register(Entry("own", "things"))
        """,
    )
    for first in ("", "import builtins_of_things", "list(TWO)"):
        code = f"""
        from things import ONE, TWO, Entry
        {first}
        from matfl.core.registry import PluginError
        ONE.register(Entry("mine", "plugin"))
        assert list(ONE) == ["own", "mine"], list(ONE)
        for registry in (ONE, TWO):
            try:
                registry.register(Entry("own", "plugin"))
            except PluginError as error:
                print(error)
        """
        done = python(code, tmp_path)
        assert done.returncode == 0, done.stderr
        assert done.stdout.splitlines() == [
            f"'own' is one of the package's {kind}s: choose another name" for kind in ("one", "two")
        ]


def test_entries_can_be_removed_but_for_the_packages_own():
    things = Registry("thing")

    class Entry:
        name = "mine"

    things.register(Entry())
    assert list(things) == ["mine"]
    things.remove("mine")
    assert list(things) == []


def module_that_registers(name: str, title: str) -> None:
    """Run a module `name` that registers the domain 'registry_test'."""
    code = f"DOMAINS.register(Domain(name='registry_test', title={title!r}, channels={{'sal': 1}}, reader='pascal'))"
    module = types.ModuleType(name)
    module.__dict__.update(DOMAINS=DOMAINS, Domain=Domain)
    exec(code, module.__dict__)


@pytest.fixture
def clean():
    yield
    if "registry_test" in DOMAINS:
        DOMAINS.remove("registry_test")


def test_the_package_s_own_come_first_and_cannot_be_replaced():
    assert list(DOMAINS)[:4] == ["outdoor", "indoor", "pascal", "nyud"]
    with pytest.raises(PluginError, match="'outdoor' is one of the package's domains: choose another name"):
        DOMAINS.register(Domain(name="outdoor", title="mine", channels={"sal": 1}, reader="pascal"))


def test_values_of_one_class_belong_to_the_modules_that_register_them(clean):
    module_that_registers("first_plugin", "one")
    module_that_registers("first_plugin", "again")  # a notebook cell that runs twice
    assert DOMAINS["registry_test"].title == "again"
    assert DOMAINS.origin("registry_test") == "first_plugin"
    with pytest.raises(PluginError, match="registered by first_plugin and by second_plugin: rename one"):
        module_that_registers("second_plugin", "two")


def test_a_plugin_that_cannot_be_imported_is_named(monkeypatch):
    monkeypatch.setenv(PLUGINS, "matfl_no_such_plugin")
    with pytest.raises(PluginError, match=r"plug-in matfl_no_such_plugin .* cannot be imported"):
        list(DOMAINS)
    monkeypatch.delenv(PLUGINS)
    assert "matfl_no_such_plugin" not in sys.modules


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(ValueError, match="unknown domain 'moon': choose from outdoor, indoor, pascal, nyud"):
        DOMAINS.find("moon")
