"""Worker processes of one call after another."""

import importlib
import os
import sys

import joblib

from matfl.core.processes import child_of_this


def in_workers(function):
    with joblib.parallel_config(backend="loky", n_jobs=2, **child_of_this()):
        return set(joblib.Parallel()(joblib.delayed(function)() for _ in range(2)))


def test_workers_are_kept_until_the_path_changes_and_then_know_new_modules(tmp_path, monkeypatch):
    (tmp_path / "came_later.py").write_text("def greet():\n    return 'hello'\n")
    first = in_workers(os.getpid)
    assert os.getpid() not in first
    assert in_workers(os.getpid) <= first or len(first) < 2
    monkeypatch.syspath_prepend(str(tmp_path))
    try:
        assert in_workers(importlib.import_module("came_later").greet) == {"hello"}
    finally:
        sys.modules.pop("came_later", None)
