"""Every command of the docs is executed: here, with presets of a second, or by the test or script that is named."""

import os
import re
import shlex
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
from deployment import free_port
from PIL import Image
from small import small_place
from test_docs import BLOCK, PAGES, ROOT

import matfl
from matfl.cli.main import _parser, main

HERE = r"matfl (--import \S+ )?(run|runs|show|resume|config|methods|predict|data (make|check))\b"
"""Commands that are executed here."""
ELSEWHERE = {
    r"matfl data fetch (nyuv2|people)": ("tests/test_photos_fetch.py", "nyuv2"),
    r"matfl data fetch (pascal|nyud)": ("tests/test_data_fetch.py", '"pascal"'),
    r"matfl reproduce .*--backend ray": ("tests/test_runs.py", 'backend="ray"'),
    r"matfl reproduce": (".ci/run", "matfl reproduce --preset smoke"),
    r"python -m matfl\.bench": ("tests/test_bench_data.py", "dispatch("),
    r"python -m matfl\.paper\.choose": ("tests/test_studies.py", "choose"),
    r"python -m matfl\.paper\.studies\.readings": ("tests/test_readings.py", "readings"),
    r"python3 -m venv|\. venv/bin/activate|pip install -e": (".ci/run", "pip install --quiet -e"),
    r"pip install .matfl": (".ci/release", 'pip" install'),
    r"pytest -n 2 -m .not torture.": (".ci/run", 'pytest -n 2 -m "not torture"'),
    r"pytest -m torture": ("tests/torture/conftest.py", "MATFL_TORTURE"),
    r"pytest -n 2$": (".github/workflows/ci.yml", "pytest -n 2"),
    r"ruff |mypy|lint-imports": (".ci/run", "lint-imports"),
    r"ray start": ("tests/test_runs.py", "ray.shutdown"),
}
"""What starts otherwise -> a file of the repository that executes it, and a word in it."""
NAMES = {"DATA": "made", "PRESET": "smoke", "picture.jpg": "picture.png", "cuda": "cpu", "IMAGES...": "picture.png"}


def shell(text: str) -> str:
    """The shell blocks of a page (indented, or fenced as sh), continued lines joined."""
    text = re.sub(r"^```(?!sh\b).*?^```$", "", text, flags=re.M | re.S)
    indented = re.findall(r"(?:^|\n)\n((?:    .*\n|\n(?=    ))+)", text)
    fenced = re.findall(r"^```sh\n(.*?)^```", text, re.M | re.S)
    return re.sub(r"\\\n\s*", " ", "\n".join(textwrap.dedent(block) for block in indented + fenced))


def single(line: str) -> list[str]:
    """The commands of a line, each with its variables in front; comments are left out."""
    words = shlex.shlex(line, posix=False, punctuation_chars="&|;")
    words.whitespace_split = True
    commands: list[list[str]] = [[]]
    for word in words:
        commands.append([]) if set(word) <= set("&|;") else commands[-1].append(word)
    return [" ".join(command) for command in commands if command]


COMMANDS = [
    pytest.param(page, command, id=f"{page.name}:{command[:60]}")
    for page in PAGES
    for line in shell(page.read_text(encoding="utf-8")).splitlines()
    for command in single(line)
    if page.name != "flower.md" or line.startswith("pip ")
]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A small place with a data set, and with the modules that pages have their readers write."""
    with small_place(tmp_path_factory.mktemp("commands")) as folder:
        assert main(["data", "make", "made", "--train", "2", "--val", "2", "--size", "32"]) == 0
        run = matfl.run("smoke", method="matfl")
        Image.fromarray(np.zeros((48, 64, 3), np.uint8)).save(folder / "picture.png")
        for module, page, word in (
            ("my_methods", "tutorials/own_method.md", "class Counting"),
            ("mine", "howto/backbones.md", "class Mine"),
        ):
            (code,) = [text for text in BLOCK.findall((ROOT / "docs" / page).read_text("utf-8")) if word in text]
            (folder / f"{module}.py").write_text(code.partition("\n\n\nmatfl.run")[0])
        yield run


def arguments(command: str, run: str) -> list[str]:
    """The words after `matfl`, with the names that a reader replaces replaced."""
    words = [word for word in shlex.split(command) if not re.fullmatch(r"[A-Z_]+=.*", word)]
    return [run if word == "RUN" else NAMES.get(word, word) for word in words[1:]]


@pytest.mark.parametrize(("page", "command"), COMMANDS)
def test_a_command_runs(page, command, place, monkeypatch):
    plain = re.sub(r"^([A-Z_]+=\S* )+", "", command)
    if re.match(HERE, plain):
        for name, value in re.findall(r"\b([A-Z]\w+)=(\S+) ", command[: len(command) - len(plain)]):
            monkeypatch.setenv(name, NAMES.get(value, value))
        monkeypatch.setenv("MATFL_PLUGINS", "")
        monkeypatch.setenv("PYTHONPATH", os.environ.get("PYTHONPATH", ""))
        assert main(arguments(plain, place.path.name)) == 0
        return
    found = [(file, word) for start, (file, word) in ELSEWHERE.items() if re.match(start, plain)]
    assert found, f"{page.name}: nothing executes {command!r}: add it to ELSEWHERE with the test that does, or to HERE"
    assert found[0][1] in (ROOT / found[0][0]).read_text(encoding="utf-8")
    if plain.startswith("matfl "):
        _parser().parse_args(arguments(plain, "run"))


INLINE = [
    pytest.param(page, command, id=f"{page.name}:{command[:60]}")
    for page in PAGES
    for command in re.findall(r"`(matfl [^`]+)`", page.read_text(encoding="utf-8"))
    if not re.search(r"\.\.\.|\[|NAME|COMMAND|MODULE|FILE|^matfl (data )?\w+$", command)
]


@pytest.mark.parametrize(("page", "command"), INLINE)
def test_a_command_in_a_sentence_is_one(page, command):
    """The parser takes it; what it needs beside is the page's. Two words name a command, and are no call of it."""
    _parser().parse_args(arguments(command, "run"))


FLOWER = (ROOT / "docs" / "flower.md").read_text(encoding="utf-8")
SMALLER = 'preset=\\"smoke\\" settings=\\"rounds=1; local_epochs=1; start=random; images_train=36; images_val=4\\" '


@pytest.mark.slow
@pytest.mark.parametrize("section", ["Quick start on loopback", "Simulation", "TLS and authentication"])
def test_flower_s_page_runs_as_written(section, tmp_path):
    """The preamble and a section's blocks in one shell, at free ports, for one round; the simulation smaller."""
    pytest.importorskip("flwr")
    preamble, blocks = FLOWER.partition("\n## ")[0], FLOWER.partition(f"\n## {section}\n")[2].partition("\n## ")[0]
    script = shell(preamble.partition("installs Flower")[2]) + "\n" + shell(blocks)
    script = script.replace("8000", str(free_port())).replace("910", str(free_port() // 10))
    script = script.replace("rounds=3", "rounds=1")
    if section == "Simulation":
        script = script.replace('preset=\\"smoke\\" ', SMALLER)
    (tmp_path / "flower_app").symlink_to(ROOT / "flower_app")
    env = {**os.environ, "HOME": str(tmp_path), "MATFL_RUNS": str(tmp_path / "runs")}
    env |= {"PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))}
    env |= {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", "-c", script], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=900, check=False
    )
    runs = matfl.list_runs(tmp_path / "runs")
    assert [run.finished for run in runs] == [True], done.stdout + done.stderr
    assert "finished:completed" in done.stdout or section == "Simulation"
