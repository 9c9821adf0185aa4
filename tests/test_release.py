"""What is released: one version everywhere, and a wheel that redraws the committed figures wherever it is installed."""

import os
import re
import subprocess
import sys
import tomllib
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest

import matfl
from matfl.paper.studies import STUDIES
from matfl.paper.studies.session import VOTES

ROOT = Path(__file__).resolve().parent.parent
SIZE = 24 << 20
"""Bytes that a wheel may have: PyPI's limit is four times that, and a reader waits for all of them."""


def test_one_version_everywhere():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    citation = re.search(r"^version: (.+)$", (ROOT / "CITATION.cff").read_text(encoding="utf-8"), re.M)
    change = re.search(r"^## \[?(\d[\d.]*)", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.M)
    assert project == matfl.__version__ == citation[1].strip('"') == change[1]


def test_committed_records_keep_votes_and_similarities_only_where_a_figure_draws_them():
    """They are most of a record's bytes, and a wheel brings every record."""
    drawn, kept = set(), set()
    for preset in {runs.parent.name for runs in (ROOT / "figures").glob("*/runs")}:
        drawn |= {config.name for plan in STUDIES.values() for config in plan(preset).votes}
    for file in (ROOT / "figures").glob("*/runs/*/diagnostics.npz"):
        with np.load(file) as diagnostics:
            kept |= {file.parent.name} if set(VOTES) & set(diagnostics.files) else set()
    assert kept
    assert kept <= drawn


def brought() -> dict[str, Path]:
    """Names in the wheel -> committed files that it brings."""
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    names = {name: name for name in tracked if name.startswith("matfl/")}
    names |= {
        f"matfl/{name}": name for name in tracked if re.fullmatch(r"notebooks/\w+\.ipynb|figures/\w+/runs/.*", name)
    }
    return {name: ROOT / file for name, file in names.items()}


def test_all_that_a_wheel_brings_fits_into_it():
    """Each file deflated, with its name in two heads and in the list of contents, beside a digest."""
    heads = sum(46 + 30 + 60 + 3 * len(name) for name in brought())
    assert 0 < heads + sum(len(zlib.compress(file.read_bytes())) for file in brought().values()) < SIZE


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """A folder with what the wheel installs."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", folder, ROOT]
    subprocess.run(build, check=True, timeout=900)
    (wheel,) = folder.glob("*.whl")
    assert wheel.stat().st_size < SIZE
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


@pytest.mark.slow
def test_the_wheel_brings_notebooks_records_and_nothing_else(installed):
    files = {path.relative_to(installed).as_posix() for path in installed.rglob("*") if path.is_file()}
    assert {name for name in files if ".dist-info/" not in name} == set(brought())


@pytest.mark.slow
def test_the_wheel_redraws_without_training(installed, tmp_path):
    """Outside the checkout, with an empty store: the worked example's round comes from a record in the wheel."""
    env = {**os.environ, "PYTHONPATH": str(installed), "MATFL_RUNS": str(tmp_path / "runs")}
    env |= {"IPYTHONDIR": str(tmp_path / "ipython"), "OMP_NUM_THREADS": "1"}
    env.pop("MATFL_FIGURES", None)
    call = [
        sys.executable,
        "-m",
        "matfl",
        "reproduce",
        "how_matfl_decides",
        "--no-train",
        "--out",
        tmp_path / "figures",
    ]
    done = subprocess.run(call, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "figures" / "how_matfl_decides_round.png").exists()
    assert not list((tmp_path / "runs").glob("*/config.json"))
