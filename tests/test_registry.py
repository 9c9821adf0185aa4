"""Registries fill themselves with the package's own entries before anyone else's."""

import subprocess
import sys
import textwrap

from matfl.core.registry import Registry


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
