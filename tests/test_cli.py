"""The command line: help, errors as one line with the right exit code, and a run from start to prediction."""

import os
import re
import signal
import subprocess
import sys
import tomllib
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny import contents, tiny

from matfl.cli import main as cli
from matfl.cli import report
from matfl.config.run_config import PRESETS, load_toml, preset
from matfl.core.manifest import write_files
from matfl.runs import engine as federation
from matfl.runs import predict, store
from matfl.runs.run import Run


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def run(tmp_path_factory, cache):
    """A finished tiny run."""
    path = tmp_path_factory.mktemp("runs") / tiny().name
    federation.run(tiny(), path, device="cpu", cache_dir=cache)
    return Run(path)


@pytest.fixture
def matfl(tmp_path, cache, monkeypatch, capsys):
    """matfl("show", ...) -> (exit code, stdout, stderr), in an empty folder with its own run store."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MATFL_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("MATFL_CACHE", str(cache))
    monkeypatch.delenv("MATFL_DEBUG", raising=False)

    def call(*arguments):
        capsys.readouterr()
        try:
            code = cli.main([str(argument) for argument in arguments])
        except SystemExit as end:  # argparse's own
            code = end.code
        return code, *capsys.readouterr()

    return call


@pytest.fixture
def toml(tmp_path):
    """A file with the tiny config."""
    path = tmp_path / "tiny.toml"
    path.write_text(report.toml(tiny(preset="smoke")))
    return path


COMMANDS = [
    "",
    "run",
    "resume",
    "runs",
    "show",
    "methods",
    "config",
    "data",
    "data make",
    "data check",
    "data fetch",
    "reproduce",
    "predict",
]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(matfl, command):
    code, out, err = matfl(*command.split(), "--help")
    assert code == 0
    assert out.startswith(f"usage: matfl {command}".rstrip())
    assert not err


def test_help_does_not_wait_for_torch():
    code = (
        "import sys\nfrom matfl.cli import main as cli\ntry:\n    cli.main(['--help'])\nexcept SystemExit:\n    pass\n"
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("False\n")
    for command in ("run", "resume", "runs", "show", "methods", "config", "data", "reproduce", "predict"):
        assert re.search(rf"^    {command}\s", done.stdout, re.M), command


def test_help_names_the_presets(matfl):
    _, out, _ = matfl("run", "--help")
    assert all(name in out for name in PRESETS)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["run", "huge"], "unknown preset 'huge': choose from smoke, quick, scenes, photos, photos_imagenet, full"),
        (["run", "smoke", "-p", "kk=3"], "unknown parameter 'kk': the parameters are"),
        (["run", "smoke", "-p", "k=three"], "k='three': expected int"),
        (["run", "smoke", "-p", "k"], "-p: 'k' is not of the form NAME=VALUE"),
        (["run", "smoke", "-p", "k=99"], "k=99: choose 1..18"),
        (["run", "smoke", "--method", "best"], "unknown method 'best': choose from local, single_task"),
        (["run", "smoke", "--device", "abacus"], "device='abacus' cannot be used here"),
        (["run", "missing.toml"], "missing.toml is no file: `matfl config quick > missing.toml` writes one to change"),
        (["run", "."], "unknown preset '.'"),
        (["run", "a\x1b[31m\u202eb"], r"unknown preset 'a\x1b[31m\u202eb'"),
        (["show", "a" * 5000], "File name too long: '" + "a" * 179),
        (["show", "nothing"], "no run 'nothing': neither a run's folder nor the name or hash of one in"),
        (["resume", "nothing"], "`matfl runs` lists them"),
        (["predict", "nothing", "a.png"], "no run 'nothing'"),
        (["reproduce", "nothing"], "unknown study 'nothing': choose from"),
        (["data", "make", "x", "--train", "0"], "train=0"),
    ],
)
def test_bad_input_is_one_clear_line(matfl, arguments, message):
    code, out, err = matfl(*arguments)
    assert code == 2
    assert err.startswith("matfl: error: ")
    assert message in err
    assert err.count("\n") == 1
    assert not out


def test_usage_errors_are_argparses(matfl):
    assert matfl("run")[0] == 2
    assert "invalid choice" in matfl("jump")[2]


def test_failures_exit_with_1_and_debug_shows_where(matfl, monkeypatch):
    def broken(*args, **kwargs):
        raise RuntimeError("out of luck")

    monkeypatch.setattr("matfl.runs.run.list_runs", broken)
    assert matfl("runs") == (1, "", "matfl: error: RuntimeError: out of luck (MATFL_DEBUG=1 shows where)\n")
    monkeypatch.setenv("MATFL_DEBUG", "1")
    with pytest.raises(RuntimeError, match="out of luck"):
        matfl("runs")


def test_a_full_disk_is_a_failure(matfl, toml, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(store, "save_file", full)
    code, _, err = matfl("run", toml, "--device", "cpu", "--quiet")
    assert code == 1
    assert "the disk is full. The last finished round is kept" in err
    assert err.count("\n") == 1


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
def test_a_disk_that_fills_up_and_is_given_space(matfl, toml, tmp_path, cache, monkeypatch):
    small = tmp_path / "small"
    small.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", small], check=False).returncode:
        pytest.skip("cannot mount here")
    try:
        filled, save = [], store.save_round

        def fill_after_the_first(*arguments):
            save(*arguments)
            if not filled:
                filled.append((small / "ballast").write_bytes(bytes(os.statvfs(small).f_bavail * 4096 - 2**20)))

        monkeypatch.setattr(store, "save_round", fill_after_the_first)
        code, _, err = matfl("run", toml, "--device", "cpu", "--quiet", "--runs-dir", small)
        assert code == 1
        assert "the disk is full. The last finished round is kept" in err
        assert err.count("\n") == 1
        (path,) = small.glob("smoke-*")
        assert len(store.load_checkpoint(path, Run(path).config)[1].rounds) == 1
        (small / "ballast").unlink()
        assert matfl("resume", path, "--device", "cpu", "--quiet")[0] == 0
        federation.run(Run(path).config, tmp_path / "whole", device="cpu", cache_dir=cache)
        assert contents(path) == contents(tmp_path / "whole")
    finally:
        subprocess.run(["umount", small], check=True)


def test_run_then_show_then_list(matfl, toml, tmp_path):
    code, out, err = matfl("run", toml, "--device", "cpu", "-p", "rounds=2", "--method", "matfl_uniform")
    assert code == 0
    lines = err.splitlines()
    assert [line.split(":")[0] for line in lines] == ["round 1/2", "round 2/2"]
    assert all(re.search(r": loss \d\.\d+, \d+ s", line) for line in lines)
    (path,) = (tmp_path / "runs").iterdir()
    assert Run(path).config == tiny(preset="smoke", rounds=2, method="matfl_uniform")
    for expected in ("outdoor/semseg", "mIoU*", "indoor/depth", "rmse*", "self weight", "chance 0.33", "MB sent"):
        assert expected in out
    assert matfl("show", path)[1] == matfl("show", path.name)[1] == matfl("show", Run(path).config.hash)[1] == out
    listed = matfl("runs")[1].splitlines()
    assert listed[0].split() == ["run", "rounds", "method", "tasks", "clients_per_task", "k", "seed"]
    assert listed[1].split()[:3] == [path.name, "2/2", "matfl_uniform"]


def test_the_shown_numbers_are_the_stored_ones(matfl, run):
    _, out, _ = matfl("show", run.path)
    metrics = run.metrics
    last = metrics[(metrics["round"] == 3) & (metrics["metric"] == "mIoU")]
    shared = last[last["kind"] == "global"]["value"].item()
    own = last[last["kind"] == "local"]["value"].mean()
    assert re.search(rf"outdoor/semseg +mIoU\* +{shared:.4f} +{own:.4f}", out)
    assert f"{run.diagnostics['weights'][-1].diagonal().mean():.3f}" in out


def test_no_runs(matfl, tmp_path):
    assert matfl("runs") == (0, f"no runs in {tmp_path / 'runs'}\n", "")


def test_a_damaged_run_is_listed_as_such(matfl, tmp_path):
    write_files(tmp_path / "runs" / "broken", {"config.json": "{"})
    code, out, _ = matfl("runs")
    assert code == 0
    assert "is damaged" in out


def test_a_run_that_was_just_begun_can_be_shown(matfl, tmp_path):
    (tmp_path / "new").mkdir()
    store.create(tmp_path / "new", tiny(), {})
    assert matfl("show", tmp_path / "new")[1].endswith("no round is stored yet\n")


def test_the_config_printed_is_the_config_read(matfl, tmp_path):
    for name in PRESETS:
        _, out, _ = matfl("config", name, "-p", "seed=7", "-p", "aspp_rates=2,3")
        (tmp_path / "c.toml").write_text(out)
        config = load_toml(tmp_path / "c.toml")
        assert asdict(config) == {**asdict(preset(name)), "seed": 7, "aspp_rates": (2, 3)}
    assert set(tomllib.loads(out)) == set(asdict(config)) - {"parameters"}
    assert out.count("\n# ") >= len(asdict(config)) - 2


def test_methods(matfl):
    from matfl.server.methods import METHODS

    _, out, _ = matfl("methods")
    indented = [line for line in out.splitlines() if line.startswith("  ")]
    assert [line.split()[0] for line in indented if not line.startswith("   ")] == list(METHODS)
    assert f"  {'':<{max(map(len, METHODS))}}  -p fedprox.mu=0.01" in indented
    families = [line.removesuffix(":") for line in out.splitlines() if line not in indented]
    assert families == list(dict.fromkeys(method.family for method in METHODS.values()))


SIGNALLED = "import sys; from matfl.cli.main import main; sys.exit(main(sys.argv[1:]))"


@pytest.mark.slow
@pytest.mark.parametrize("times", [1, 2])
def test_an_interrupted_run_resumes_as_if_it_never_was(matfl, toml, tmp_path, cache, times):
    config = tiny(preset="smoke", rounds=40)
    process = subprocess.Popen(
        [sys.executable, "-c", SIGNALLED, "run", toml, "-p", "rounds=40", "--device", "cpu"],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert process.stderr.readline().startswith("round 1/40")
    process.send_signal(signal.SIGINT)
    assert process.stderr.readline() == "\n"
    assert "ending after this round is stored; Ctrl-C again ends now" in process.stderr.readline()
    if times == 2:
        process.send_signal(signal.SIGINT)
    errors = process.stderr.read()
    assert process.wait() == 130
    assert "interrupted; finished rounds are stored" in errors
    assert "Traceback" not in errors
    path = tmp_path / "runs" / config.name
    done = len(Run(path).rounds)
    assert 1 <= done < 40
    assert matfl("resume", config.hash, "--device", "cpu", "--quiet")[0] == 0
    federation.run(config, tmp_path / "whole", device="cpu", cache_dir=cache)
    assert contents(path) == contents(tmp_path / "whole")


def test_predictions_are_pictures_of_the_images_size(matfl, run, tmp_path):
    generator = np.random.default_rng(0)
    for name, size in (("a", (40, 24)), ("b", (17, 51))):
        Image.fromarray(generator.integers(0, 256, (*size[::-1], 3), np.uint8)).save(tmp_path / f"{name}.png")
    code, out, _ = matfl("predict", run.path, "a.png", "b.png", "--out", "pictures", "--device", "cpu")
    assert code == 0
    paths = [Path(line) for line in out.splitlines()]
    assert {path.name for path in paths} == {
        f"{image}-{task}.png" for image in "ab" for task in ("outdoor-semseg", "indoor-depth")
    }
    for path in paths:
        picture = Image.open(path)
        assert picture.size == ((40, 24) if path.name.startswith("a") else (17, 51))
        assert picture.mode == "RGB"
    only = matfl("predict", run.path, "a.png", "--task", "indoor/depth", "--out", "depth", "--device", "cpu")[1]
    assert only == f"depth{os.sep}a-indoor-depth.png\n"


def test_a_prediction_of_a_training_picture_is_what_evaluation_sees(run, cache, tmp_path):
    """The same picture, through a file and the network, gives the classes that the meter counted."""
    from matfl.data.augment import normalise
    from matfl.models.network import build
    from matfl.server.server import models_of

    splits = federation.load_splits(run.config, cache_dir=cache)
    images, _ = splits["outdoor"]["val"].tensors("semseg", [0])
    Image.fromarray(images[0].permute(1, 2, 0).numpy()).save(tmp_path / "x.png")
    ((_, chosen, prediction),) = predict.predict(run, [tmp_path / "x.png"], tasks=["outdoor/semseg"], device="cpu")
    model = build(run.config, chosen)
    model.load_state_dict(models_of(run.config, store.load_checkpoint(run.path, run.config)[0])["outdoor/semseg"])
    np.testing.assert_array_equal(prediction, model.eval()(normalise(images)).argmax(1)[0].numpy())


def test_bad_predictions(matfl, run, tmp_path):
    (tmp_path / "text.png").write_text("no image")
    (tmp_path / "sub").mkdir()
    for folder in (tmp_path, tmp_path / "sub"):
        Image.new("RGB", (8, 8)).save(folder / "x.png")
    Image.fromarray(np.full((8, 8), 40000, np.uint16)).save(tmp_path / "deep.png")
    Image.new("L", (20000, 10000)).save(tmp_path / "bomb.png")
    Image.new("RGB", (8, 8)).save(tmp_path / "figure.jpg", format="EPS")
    for arguments, message in (
        (["text.png"], "text.png cannot be read as an image"),
        (["missing.png"], "missing.png is missing: check the path"),
        (["deep.png"], "deep.png is of mode I;16: expected 8 bits a channel; convert it to an 8-bit JPEG or PNG file"),
        (["bomb.png"], "bomb.png has too many pixels"),
        (["figure.jpg"], "figure.jpg is a PostScript file: expected JPEG or PNG, whatever its name says"),
        (["x.png", "--task", "outdoor/sal"], "task 'outdoor/sal': this run has outdoor/semseg, indoor/depth"),
        (["x.png", "sub/x.png"], "two images are called 'x'"),
    ):
        code, _, err = matfl("predict", run.path, *arguments)
        assert code == 2
        assert message in err
    (run.path / "checkpoint.safetensors").rename(tmp_path / "kept")
    try:
        code, _, err = matfl("predict", run.path, "x.png")
    finally:
        (tmp_path / "kept").rename(run.path / "checkpoint.safetensors")
    assert code == 1
    assert "checkpoint.safetensors is damaged (missing)" in err


def test_sparklines():
    assert report.sparkline([0, 1, float("nan"), 0.5]) == "▁█ ▅"
    assert report.sparkline([2, 2]) == "▁▁"
    assert report.sparkline([]) == ""


def test_tables_align():
    assert report.table(("a", "n"), [["x", "10"], ["long", "9"]]) == "a      n\nx     10\nlong   9"


def test_data_commands(matfl, tmp_path):
    code, out, _ = matfl("data", "make", "made", "--train", "4", "--val", "4", "--size", "32")
    assert code == 0
    assert "4 images" in out
    assert matfl("data", "check", "made")[0] == 0
    next((tmp_path / "made").rglob("*.txt")).unlink()
    code, out, _ = matfl("data", "check", "made")
    assert code == 1
    assert "problem: " in out


def test_the_progress_bar(monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    config = tiny()
    with report.progress(config, quiet=False) as show:
        for number, phase, done in ((2, "train", 1), (2, "train", 4), (2, "done", 1), (3, "evaluate", 1)):
            show(federation.Progress(round=number, rounds=3, phase=phase, done=done, of=4, loss=0.25))
    err = capsys.readouterr().err
    assert "matfl" in err
    assert "loss 0.250" in err
    assert "round 3.0/3" in err
    with report.progress(config, quiet=True) as show:
        assert show is None
