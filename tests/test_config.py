"""RunConfig refuses what it does not know, and a config is the same run wherever it comes from."""

import hashlib
import json
import os
import re
import subprocess
import sys
from dataclasses import FrozenInstanceError, asdict, fields, replace
from pathlib import Path

import pytest

from matfl.config.run_config import PRESETS, RunConfig, from_dict, load_toml, override, preset, quick, smoke
from matfl.tasks.task import pairs


def test_defaults_are_the_paper_s():
    config = RunConfig()
    assert (config.rounds, config.local_epochs, config.batch_size) == (100, 10, 10)
    assert (config.lr, config.lr_decay, config.weight_decay) == (1e-4, 0.99, 1e-4)
    assert (config.k, config.clients_per_task, config.voting_layers, config.participation) == (8, 2, 8, 1.0)
    assert (config.num_clients, config.size, config.width) == (18, 0, 64)
    assert preset("paper_9") == config
    assert preset("paper_pascal5").num_clients == 10


@pytest.mark.parametrize("name", PRESETS)
def test_presets(name):
    config = preset(name)
    assert config.preset == name
    assert config.name == f"{name}-{config.method}-{config.hash}"
    rendered = name in ("smoke", "quick", "full")
    assert all(p.domain.rendered == rendered for p in pairs(config.tasks))
    assert PRESETS[name].__doc__


def test_preset_names_and_hashes_differ():
    assert len({preset(name).hash for name in PRESETS}) == len(PRESETS) == 5
    with pytest.raises(
        ValueError, match="unknown preset 'tiny': choose from smoke, quick, full, paper_pascal5, paper_9"
    ):
        preset("tiny")


def test_every_field_says_what_it_is():
    """A string literal follows each field in the source."""
    source = Path(sys.modules["matfl.config.run_config"].__file__).read_text(encoding="utf-8")
    for field in fields(RunConfig):
        assert re.search(rf'\n    {field.name}: [^\n]+\n    """[A-Z0-9/\'].+', source), field.name


def test_the_config_is_frozen_and_keyword_only():
    with pytest.raises(FrozenInstanceError):
        RunConfig().k = 3
    with pytest.raises(TypeError):
        RunConfig("quick")
    with pytest.raises(TypeError, match="unexpected keyword argument 'epochs'"):
        RunConfig(epochs=3)


@pytest.mark.parametrize(
    "name, value",
    [
        ("rounds", 1.5),
        ("rounds", "3"),
        ("rounds", True),
        ("rounds", None),
        ("lr", "1e-3"),
        ("lr", None),
        ("lr", False),
        ("method", 3),
        ("tasks", ["scenes9"]),
        ("aspp_rates", [2, 4]),
        ("aspp_rates", (2.0,)),
        ("aspp_rates", 4),
        ("aspp_rates", (True,)),
    ],
)
def test_mistyped_values(name, value):
    with pytest.raises(TypeError, match=rf"{name}={re.escape(repr(value))}: expected"):
        RunConfig(**{name: value})


IMPOSSIBLE = {
    "k": [(0, "at least 1"), (19, r"choose 1..18, the number of clients \(9 tasks x clients_per_task=2\)")],
    "clients_per_task": [(0, "at least 1")],
    "voting_layers": [(0, "at least 1"), (17, "resnet18 has 16 3x3 convolutions")],
    "rounds": [(0, "at least 1")],
    "local_epochs": [(0, "at least 1")],
    "batch_size": [(0, "at least 1")],
    "width": [(0, "at least 1")],
    "head_channels": [(0, "at least 1")],
    "evaluate_every": [(0, "at least 1")],
    "clusters": [(0, "at least 1"), (19, "choose 1..18")],
    "lr": [(0.0, "must be positive"), (-1.0, "must be positive"), (float("nan"), "finite"), (float("inf"), "finite")],
    "lr_decay": [(0.0, r"in \(0, 1\]"), (1.01, r"in \(0, 1\]")],
    "weight_decay": [(-1e-4, "not be negative"), (float("nan"), "finite")],
    "mu": [(-0.1, "not be negative"), (float("nan"), "finite")],
    "participation": [(0.0, r"in \(0, 1\]"), (1.1, r"in \(0, 1\]"), (float("nan"), "finite")],
    "threshold": [(1.0, "cosine"), (-1.1, "cosine")],
    "start": [("scenery", "choose 'imagenet', 'random', 'scenes' or a .safetensors file")],
    "head_start": [("equal", "choose one of 'shared', 'per_type', 'per_task', 'independent'")],
    "heads": [("global", "choose one of 'task', 'local'")],
    "loss_weights": [("all", "choose one of 'field', 'none'")],
    "backbone": [("vgg", "choose one of 'resnet18', 'resnet34', 'resnet50'")],
    "precision": [("fp16", "choose one of 'auto', 'fp32', 'bf16'"), (["fp32"], "choose one of")],
    "edge_protocol": [("seism", "choose one of 'mtl', 'astmt', 'fedhca2'")],
    "aspp_rates": [((), "at least one positive rate"), ((0, 2), "at least one positive rate")],
    "size": [(-8, "not be negative"), (20, "a multiple of 8 of at least 32"), (60, "a multiple of 8")],
    "images_train": [(-1, "not be negative")],
    "images_val": [(-1, "not be negative")],
    "images_per_client": [(-1, "not be negative")],
    "seed": [(-1, "not be negative")],
    "data_seed": [(-1, "not be negative")],
    "tasks": [("nine", "choose a set"), ("pascal/edge,pascal/edge", "names a pair twice")],
    "preset": [("../elsewhere", "names the run's folder"), ("", "names the run's folder")],
    "method": [("a/b", "names the run's folder"), (".hidden", "names the run's folder")],
}


@pytest.mark.parametrize("name, value, message", [(n, v, m) for n, cases in IMPOSSIBLE.items() for v, m in cases])
def test_impossible_values(name, value, message):
    with pytest.raises(ValueError, match=message) as caught:
        RunConfig(**{name: value})
    assert name in str(caught.value)


def test_every_constrained_field_is_tried():
    assert set(IMPOSSIBLE) == {field.name for field in fields(RunConfig)}


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"tasks": "outdoor/semseg,outdoor/edge"}, r"k=8: choose 1..4, the number of clients \(2 tasks"),
        ({"tasks": "paper9"}, None),
        ({"backbone": "resnet34"}, "start='scenes' is made for resnet18"),
        ({"start": "imagenet"}, "needs width=64, not 16"),
        ({"start": "mine.safetensors"}, None),
        ({"backbone": "resnet34", "start": "random", "voting_layers": 32}, None),
        ({"backbone": "resnet50", "start": "random", "voting_layers": 17}, "resnet50 has 16 3x3"),
        ({"size": 0}, "the rendered domains need size, images_train and images_val"),
        ({"images_train": 0}, "the rendered domains need"),
        ({"images_val": 0, "tasks": "pascal/edge,indoor/edge", "k": 2}, "the rendered domains need"),
        ({"images_val": 0, "tasks": "paper9"}, None),
        ({"k": 18}, None),
    ],
)
def test_combinations(changes, message):
    if message is None:
        assert isinstance(replace(quick(), **changes), RunConfig)
    else:
        with pytest.raises(ValueError, match=message):
            replace(quick(), **changes)


def test_values_from_text():
    config = override(quick(), k="4", lr="1e-4", aspp_rates="2, 4", method="fedavg", precision="fp32")
    assert config == replace(quick(), k=4, lr=1e-4, aspp_rates=(2, 4), method="fedavg", precision="fp32")
    assert override(quick(), aspp_rates="(3,)").aspp_rates == override(quick(), aspp_rates=[3]).aspp_rates == (3,)
    assert override(quick()) == quick()


@pytest.mark.parametrize(
    "changes, error, message",
    [
        ({"K": 4}, ValueError, "unknown parameter 'K': the parameters are preset, method, tasks"),
        ({"k": "four"}, TypeError, "k='four': expected int"),
        ({"k": "4.0"}, TypeError, "k='4.0': expected int"),
        ({"k": 4.0}, TypeError, "k=4.0: expected int"),
        ({"lr": "fast"}, TypeError, "lr='fast': expected float"),
        ({"lr": "nan"}, ValueError, "lr=nan: choose a finite number"),
        ({"aspp_rates": "2,x"}, TypeError, "expected a comma-separated list of integers"),
        ({"aspp_rates": ["2"]}, TypeError, "expected a tuple of integers"),
        ({"method": 3}, TypeError, "method=3: expected str, got int"),
        ({"heads": "Task"}, ValueError, "heads='Task': choose one of"),
        ({"rounds": False}, TypeError, "rounds=False: expected int, got bool"),
    ],
)
def test_wrong_overrides(changes, error, message):
    with pytest.raises(error, match=re.escape(message)):
        override(quick(), **changes)


@pytest.mark.parametrize("name", PRESETS)
def test_json_round_trip(name):
    config = preset(name)
    stored = json.loads(json.dumps(asdict(config)))
    assert from_dict(stored) == config
    assert from_dict(stored).hash == config.hash
    with pytest.raises(ValueError, match="lacks 'seed': it was written by another version"):
        from_dict({key: value for key, value in stored.items() if key != "seed"})
    with pytest.raises(ValueError, match="unknown parameter 'colour'"):
        from_dict({**stored, "colour": "red"})


def test_toml(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text('preset = "smoke"\nk = 4\nlr = 1\naspp_rates = [1, 2]\nmethod = "fedavg"\n')
    assert load_toml(path) == replace(smoke(), k=4, lr=1.0, aspp_rates=(1, 2), method="fedavg")
    path.write_text("")
    assert load_toml(str(path)) == quick()


@pytest.mark.parametrize(
    "text, error, message",
    [
        ("epochs = 3", ValueError, "unknown parameter 'epochs'"),
        ("[run]\nk = 3", ValueError, "unknown parameter 'run'"),
        ("k = 4.5", TypeError, "k=4.5: expected int"),
        ("k = true", TypeError, "k=True: expected int"),
        ("k = 2000-01-01", TypeError, "expected int"),
        ("k = ", ValueError, "Invalid value"),
        ('preset = "tiny"', ValueError, "unknown preset 'tiny'"),
        ("preset = 3", ValueError, "unknown preset 3"),
        ("preset = [1]", ValueError, r"unknown preset [1]"),
        ("k = 0", ValueError, "k=0: must be at least 1"),
        (b'method = "\xff"', ValueError, "decode"),
    ],
)
def test_toml_errors_name_the_file(tmp_path, text, error, message):
    path = tmp_path / "wrong.toml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(error, match=rf"wrong\.toml: .*{re.escape(message)}"):
        load_toml(path)
    with pytest.raises(FileNotFoundError):
        load_toml(tmp_path / "absent.toml")


def changed(config, field):
    """`config` with another legal value of one field."""
    others = {
        "preset": "mine",
        "method": "fedavg",
        "tasks": "outdoor5",
        "start": "random",
        "head_start": "per_task",
        "heads": "local",
        "loss_weights": "none",
        "backbone": "resnet34",
        "precision": "bf16",
        "edge_protocol": "mtl",
        "aspp_rates": (2, 4),
        "size": 96,
        "participation": 0.5,
        "threshold": 0.1,
        "lr_decay": 0.9,
    }
    value = others[field] if field in others else getattr(config, field) + 1
    extra = {"start": "random"} if field == "backbone" else {}
    return replace(config, **{field: value, **extra})


def test_the_hash_stands_for_every_field():
    config = quick()
    hashes = [config.hash, *(changed(config, field.name).hash for field in fields(RunConfig))]
    assert len(set(hashes)) == len(hashes)
    assert all(re.fullmatch("[0-9a-f]{12}", digits) for digits in hashes)


def test_the_hash_is_of_values_not_of_how_they_were_written():
    assert replace(quick(), lr=1).hash == replace(quick(), lr=1.0).hash
    assert replace(quick(), mu=-0.0).hash == replace(quick(), mu=0).hash
    assert override(quick(), participation="1").hash == quick().hash
    assert RunConfig(lr=1).lr.hex() == (1.0).hex()
    text = json.dumps(asdict(quick()), sort_keys=True)
    assert quick().hash == hashlib.sha256(text.encode()).hexdigest()[:12]


def test_another_process_finds_the_same_hash():
    code = "from matfl.config.run_config import quick; print(quick().hash)"
    environment = {**os.environ, "PYTHONHASHSEED": "77", "PYTHONPATH": os.pathsep.join(sys.path)}
    printed = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert printed.stdout.strip() == quick().hash
