"""Nonsense as arguments, settings and TOML files: exit 2 (or 1) with one sentence, never a traceback, never a start."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
from tiny import tiny

from matfl.cli.main import main
from matfl.config.run_config import RunConfig, from_dict, load_toml

NUMBERS = [
    *(
        "0",
        "-1",
        "1",
        "2",
        "-3",
        "0.5",
        "-0.0",
        "1e30",
        "1e-300",
        "1e400",
        "nan",
        "inf",
        "-inf",
        "10**9",
        "0x10",
        "1_0",
    ),
    *(str(2**31), str(2**63), str(2**63 - 1), str(-(2**63)), str(10**30), "9" * 5000),
]
WORDS = [
    *("", " ", "true", "False", "None", "[]", "{}", "()", "1,2", ",", "1,,2", "(1, 2)", "[1, [2]]", "matfl", "fedavg"),
    *("outdoor", "outdoor/semseg", "outdoor/semseg,outdoor/semseg", "scenes9", "outdoor/nothing", "../..", "/", "~"),
    *("a" * 300, "a" * 70000, "\x1b[31mred", "\n", "\t", "é", "\u202e", "\U0001f600", "%s%n", "$(id)", "'", '"', "\\"),
    *("__class__", "rounds", "fedprox.mu", "nobody.mu", ".", "..", "=", "x=y", "[" * 3000, "{" * 3000, "-" * 500),
]


class Reached(BaseException):
    """A command that was understood, at the point where its work would begin."""


@pytest.fixture(autouse=True)
def no_work(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    def reached(*_: object, **__: object) -> None:
        raise Reached

    for work in ("matfl.runs.engine.prepare", "matfl.runs.engine.run", "matfl.data.make", "matfl.data.fetch"):
        monkeypatch.setattr(work, reached)
    monkeypatch.setattr("matfl.paper.reproduce.reproduce", reached)
    monkeypatch.setenv("MATFL_RUNS", str(tmp_path / "runs"))
    monkeypatch.chdir(tmp_path)
    yield
    assert not (tmp_path / "runs").exists()


def told(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """How a command ends; fails where its user would see a traceback or nothing."""
    try:
        code = main(arguments)
    except SystemExit as error:  # argparse's way
        code = error.code if isinstance(error.code, int) else -1
    except Reached:
        return "understood"
    out, err = capsys.readouterr()
    if code == 0:
        return "understood"
    assert code in (1, 2), arguments
    assert err.strip() or "problem:" in out, arguments
    assert "Traceback" not in err, (arguments, err)
    assert "MATFL_DEBUG" not in err, (arguments, err)  # an exception that nobody had thought of
    assert "\x1b" not in err, (arguments, err)
    return f"exit {code}"


def value(rng: np.random.Generator) -> str:
    pool = NUMBERS if rng.random() < 0.6 else WORDS
    return pool[int(rng.integers(len(pool)))]


def test_parameters(tally, trials, rng: np.random.Generator, capsys: pytest.CaptureFixture[str]) -> None:
    """Nonsense for every parameter of a run (-p NAME=VALUE)."""
    names = [field.name for field in fields(RunConfig)]
    for trial in trials(400):
        name = names[trial % len(names)]
        if rng.random() < 0.05:
            name = value(rng)
        changes = [f"{name}={value(rng)}"] + [f"{n}={value(rng)}" for n in rng.choice(names, int(rng.integers(0, 2)))]
        command = ["config", "run"][int(rng.integers(2))]
        tally[told([command, "smoke", *(part for text in changes for part in ("-p", text))], capsys)] += 1


def toml(rng: np.random.Generator) -> bytes:
    """A settings file: some lines of a good one, spoilt."""
    settings = {**tiny().to_json(), "preset": "smoke"}
    lines = [
        f"{name} = {json.dumps(v)}" for name, v in settings.items() if not isinstance(v, dict) and name != "schema"
    ]
    kind = int(rng.integers(8))
    line = int(rng.integers(len(lines)))
    name = lines[line].split(" = ")[0]
    if kind == 0:
        return rng.bytes(int(rng.integers(0, 300)))
    if kind == 1:
        lines[line] = f"{name} = {value(rng)}"
    elif kind == 2:
        lines[line] = f"{name} = {json.dumps(value(rng))}"
    elif kind == 3:
        lines.append(lines[line])
    elif kind == 4:
        lines[line] = f"{name} = " + "[" * int(rng.integers(1, 3000))
    elif kind == 5:
        depth = int(rng.integers(1, 3000))
        lines[line] = f"{name} = " + "[" * depth + "]" * depth
    elif kind == 6:
        lines.append(f"[{value(rng)}]\n{name} = 1")
    else:
        text = bytearray("\n".join(lines).encode())
        for place in rng.integers(len(text), size=3):
            text[place] = int(rng.integers(256))
        return bytes(text)
    return "\n".join(lines).encode("utf-8", "replace")


def test_files(tally, trials, rng: np.random.Generator, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Settings files of damaged lines, wrong types, deep nesting and noise."""
    for _ in trials(250):
        (tmp_path / "run.toml").write_bytes(toml(rng))
        how = told(["config", str(tmp_path / "run.toml")], capsys)
        tally[how] += 1
        if how == "understood":  # then it is a config like any other
            config = load_toml(tmp_path / "run.toml")
            assert from_dict(json.loads(json.dumps(config.to_json()))) == config
    assert tally["understood"] > 5 or len(trials(250)) < 250
    for name in ("folder.toml", "missing.toml", "a\x1b[31m.toml"):
        (tmp_path / "folder.toml").mkdir(exist_ok=True)
        tally[told(["run", str(tmp_path / name)], capsys)] += 1


def test_commands(tally, trials, rng: np.random.Generator, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Nonsense as arguments of every command."""
    shapes = [
        ["run", "?"],
        ["run", "smoke", "--method", "?"],
        ["run", "smoke", "--runs-dir", "file", "--device", "?"],
        ["resume", "?"],
        ["show", "?"],
        ["runs", "--runs-dir", "?"],
        ["config", "?", "-p", "?"],
        ["data", "make", "out", "--train", "?", "--val", "?"],
        ["data", "make", "out", "--size", "?", "--seed", "?"],
        ["data", "check", "?"],
        ["data", "fetch", "?", "out"],
        ["reproduce", "?"],
        ["reproduce", "--preset", "?", "--jobs", "?"],
        ["predict", "?", "?"],
        ["?", "?"],
    ]
    (tmp_path / "file").touch()
    for trial in trials(300):
        shape = shapes[trial % len(shapes)]
        arguments = [value(rng).replace("\0", "") if part == "?" else part for part in shape]
        tally[told(arguments, capsys)] += 1
