"""Kernels forked from a process with the imports done: as apart from each other as any, and gone with their owner."""

import os
import signal
import subprocess
import sys
import textwrap
import time

import pytest

nbclient = pytest.importorskip("nbclient")
nbformat = pytest.importorskip("nbformat")
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="kernels are forked on Linux alone")


def execute(*cells, path=None):
    from matfl.paper.kernels import ForkedKernels

    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    resources = {"metadata": {"path": str(path)}} if path else {}
    client = nbclient.NotebookClient(notebook, kernel_manager_class=ForkedKernels, timeout=120, resources=resources)
    client.execute()
    return [output["text"].strip() for cell in notebook.cells for output in cell.outputs if output.name == "stdout"]


def test_a_kernel_has_the_imports_and_nothing_of_the_kernel_before_it(tmp_path, monkeypatch):
    [one] = execute(
        "import os, matfl; matfl.left_over = left_over = 1; os.environ['LEFT_OVER'] = '1'; print(os.getpid())"
    )
    monkeypatch.setenv("MATFL_OF_THIS_TEST", "set after the server began")
    imported, two, left, environment, folder = execute(
        "import os, sys; print('matfl.paper.studies' in sys.modules)",
        "print(os.getpid())",
        "import matfl; print('left_over' in globals(), hasattr(matfl, 'left_over'), 'LEFT_OVER' in os.environ)",
        "print(os.environ['MATFL_OF_THIS_TEST'])",
        "print(os.getcwd())",
        path=tmp_path,
    )
    assert len({one, two, str(os.getpid())}) == 3
    assert (imported, left) == ("True", "False False False")
    assert environment == "set after the server began"
    assert folder == str(tmp_path)


def test_an_error_in_a_cell_is_raised_and_the_next_notebook_runs():
    with pytest.raises(nbclient.exceptions.CellExecutionError, match="ZeroDivisionError"):
        execute("1 / 0")
    assert execute("print(6 * 7)") == ["42"]


def test_tables_are_shown_as_in_a_notebook():
    assert execute("import pandas as pd; print(pd.get_option('display.max_columns'))") == ["20"]


def test_a_kernel_that_dies_is_an_error():
    with pytest.raises(nbclient.exceptions.DeadKernelError):
        execute("import os; os._exit(3)")


def test_kernels_end_with_the_process_that_asked_for_them(tmp_path):
    script = f"""
        import sys
        sys.path.insert(0, {os.path.dirname(__file__)!r})
        from test_kernels import execute
        if __name__ == "__main__":
            execute("import os, pathlib, time; pathlib.Path('pid').write_text(str(os.getpid())); time.sleep(600)",
                    path={str(tmp_path)!r})
        """
    (tmp_path / "owner.py").write_text(textwrap.dedent(script))
    owner = subprocess.Popen([sys.executable, tmp_path / "owner.py"])
    try:
        while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
            assert owner.poll() is None
            time.sleep(0.1)
        kernel = int((tmp_path / "pid").read_text())
    finally:
        owner.send_signal(signal.SIGKILL)
        owner.wait()
    for _ in range(600):
        if not os.path.exists(f"/proc/{kernel}"):
            return
        time.sleep(0.1)
    os.kill(kernel, signal.SIGKILL)
    pytest.fail("the kernel outlived its owner")
