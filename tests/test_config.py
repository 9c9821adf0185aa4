"""RunConfig refuses what it does not know, and a config is the same run wherever it comes from."""

import hashlib
import json
import os
import re
import subprocess
import sys
from dataclasses import FrozenInstanceError, dataclass, fields, replace
from pathlib import Path

import pytest

from matfl.config.identity import DEFAULTS
from matfl.config.parameters import METHODS, defaults
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
    rendered = name in ("smoke", "quick", "scenes", "full")
    assert all(p.domain.rendered == rendered for p in pairs(config.tasks))
    assert PRESETS[name].__doc__


def test_preset_names_and_hashes_differ():
    assert len({preset(name).hash for name in PRESETS}) == len(PRESETS) == 8
    known = "smoke, quick, scenes, photos, photos_imagenet, full, paper_pascal5, paper_9"
    with pytest.raises(ValueError, match=f"unknown preset 'tiny': choose from {known}"):
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
    "k": [(0, "choose 1..18"), (19, r"choose 1..18, the number of clients \(9 tasks x clients_per_task=2\)")],
    "clients_per_task": [(0, "from 1 up to 1000"), (10**9, "from 1 up to 1000")],
    "voting_layers": [(0, "choose 1..16"), (17, "resnet18 has 16 3x3 convolutions")],
    "rounds": [(0, "from 1 up to")],
    "local_epochs": [(0, "from 1 up to")],
    "batch_size": [(0, "from 1 up to"), (2**62, "up to 65536")],
    "width": [(0, "from 1 up to"), (2**63, "up to 4096")],
    "head_channels": [(0, "from 1 up to")],
    "balance": [("mean", "choose one of 'sum'"), ("pcgrad", "every client has one: leave it out, or join tasks")],
    "evaluate_every": [(0, "from 1 up to")],
    "lr": [
        (0.0, "above 0"),
        (-1.0, "above 0"),
        (1e30, "up to 100"),
        (float("nan"), "finite"),
        (float("inf"), "finite"),
    ],
    "lr_decay": [(0.0, "above 0 and up to 1"), (1.01, "above 0 and up to 1")],
    "weight_decay": [(-1e-4, "from 0"), (float("nan"), "finite")],
    "participation": [(0.0, "above 0 and up to 1"), (1.1, "above 0 and up to 1"), (float("nan"), "finite")],
    "server_lr": [(0.0, "above 0"), (1e4, "up to 1000")],
    "server_optimizer": [("sgd", "choose one of 'none', 'avgm', 'adam', 'yogi'")],
    "server_beta1": [(-0.1, "from 0"), (1.0, "up to 0.9999")],
    "server_beta2": [(1.0, "up to 0.999999")],
    "server_tau": [(0.0, "from 1e-12")],
    "norm_bound": [(-1.0, "from 0"), (1.5, "at least 2, or 0"), (float("inf"), "finite")],
    "clip_norm": [(-1.0, "from 0")],
    "sketch": [(-1, "from 0")],
    "attack": [("steal", "choose one of 'none', 'flip'"), ("flip", "with attackers=0: set both")],
    "attackers": [(-1, "from 0"), (1, "set both")],
    "attack_strength": [(-1.0, "from 0"), (float("nan"), "finite")],
    "codec": [("", "choose 'none', 'bf16'"), ("a b", "or a plug-in's")],
    "codec_share": [(0.0, "above 0"), (1.5, "up to 1")],
    "dp_clip": [(-1.0, "from 0")],
    "dp_noise": [(-1.0, "from 0"), (1.0, "set dp_clip too")],
    "late": [(-0.1, "from 0"), (1.1, "up to 1")],
    "start": [("scenery", "choose 'imagenet', 'random', 'scenes' or a .safetensors file")],
    "head_start": [("equal", "choose one of 'shared', 'per_type', 'per_task', 'independent'")],
    "heads": [("global", "choose one of 'task', 'local'")],
    "mixes": [("gradients", "'updates'.*'weights'")],
    "client_moments": [("lost", "'anew'.*'kept'")],
    "loss_weights": [("all", "choose one of 'field', 'none'")],
    "backbone": [
        ("timm:../weights", "choose 'resnet18', 'resnet34', 'resnet50', 'timm:NAME' or a plug-in's"),
        ("", "'timm:NAME'"),
    ],
    "output_stride": [(4, "choose 8, 16 or 32"), (0, "choose 8, 16 or 32")],
    "precision": [("fp16", "choose one of 'auto', 'fp32', 'bf16'"), (["fp32"], "choose one of")],
    "edge_protocol": [("seism", "choose one of 'mtl', 'astmt', 'fedhca2'")],
    "aspp_rates": [((), "at least one positive rate"), ((0, 2), "from 1 up to 1024")],
    "size": [(-8, "from 0"), (20, "a multiple of 8 from 32"), (60, "a multiple of 8"), (2**63 - 8, "up to 8192")],
    "images_train": [(-1, "from 0"), (2**63, "up to 100000000")],
    "images_val": [(-1, "from 0")],
    "images_per_client": [(-1, "from 0")],
    "seed": [(-1, "from 0"), (2**63, "up to 9223372036854775807")],
    "data_seed": [(-1, "from 0"), (2**63, "up to 9223372036854775807")],
    "tasks": [("nine", "choose a set"), ("pascal/edge,pascal/edge", "names a pair twice")],
    "preset": [("../elsewhere", "names the run's folder"), ("", "names the run's folder")],
    "method": [("a/b", "names the run's folder"), (".hidden", "names the run's folder")],
    "parameters": [((("a", 1), ("a", 2)), "give each parameter")],
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
        ({"backbone": "timm:resnet10t.c3_in1k", "start": "imagenet", "voting_layers": 40}, None),
        ({"backbone": "timm:resnet10t"}, "start='scenes' is made for resnet18"),
        ({"backbone": "mine", "start": "my own"}, "choose 'imagenet', 'random', 'scenes' or a .safetensors"),
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
        ({"K": 4}, ValueError, "unknown parameter 'K': the parameters are preset, method, parameters, tasks"),
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
    stored = json.loads(json.dumps(config.to_json()))
    assert from_dict(stored) == config
    assert from_dict(stored).hash == config.hash
    assert from_dict({"schema": 1, **stored}) == config


def test_a_stored_config_without_a_later_parameter_reads_as_its_default():
    stored = RunConfig(seed=3, k=4, rounds=7, method="fedavg").to_json()
    for name, value in DEFAULTS.items():
        lean = {key: item for key, item in stored.items() if key != name}
        assert from_dict(lean).to_json() == {**stored, name: value}, name


def test_a_stored_config_with_an_unknown_parameter_names_who_wrote_it():
    stored = quick().to_json()
    with pytest.raises(ValueError, match=r"parameter 'colour' is unknown .* it was written by matfl 9\.1"):
        from_dict({**stored, "colour": "red"}, written_by="matfl 9.1")
    with pytest.raises(ValueError, match=r"schema 2 is unknown .* it was written by matfl 9"):
        from_dict({**stored, "schema": 2}, written_by="matfl 9")


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
        ("[run]\nk = 3", ValueError, "unknown parameter 'run': method 'run' is none of local, single_task"),
        ("k = 4.5", TypeError, "k=4.5: expected int"),
        ("k = true", TypeError, "k=True: expected int"),
        ("k = 2000-01-01", TypeError, "expected int"),
        ("k = ", ValueError, "Invalid value"),
        ('preset = "tiny"', ValueError, "unknown preset 'tiny'"),
        ("preset = 3", ValueError, "unknown preset 3"),
        ("preset = [1]", ValueError, r"unknown preset [1]"),
        ("k = 0", ValueError, "k=0: choose 1..18"),
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
    path.write_text("k = " + "[" * 5000)
    with pytest.raises(
        ValueError, match=r"\.toml: nested too deeply; a parameter's value is a number, a text or a list"
    ):
        load_toml(path)


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
        "output_stride": 16,
        "precision": "bf16",
        "edge_protocol": "mtl",
        "aspp_rates": (2, 4),
        "size": 96,
        "participation": 0.5,
        "lr_decay": 0.9,
        "server_optimizer": "adam",
        "server_beta1": 0.5,
        "server_beta2": 0.5,
        "attack": "flip",
        "codec": "int8",
        "codec_share": 0.5,
        "late": 0.5,
        "mixes": "weights",
        "client_moments": "kept",
        "balance": "cagrad",
    }
    value = others[field] if field in others else getattr(config, field) + 1
    needs = {
        "backbone": {"start": "random"},
        "attack": {"attackers": 1},
        "attackers": {"attack": "scale"},
        "dp_noise": {"dp_clip": 1.0},
        "balance": {"tasks": "outdoor/semseg+sal,outdoor/edge", "k": 2},
    }
    extra = needs.get(field, {})
    return replace(config, **{field: value, **extra})


def test_the_hash_stands_for_every_field_but_the_label():
    config = quick()
    names = [item.name for item in fields(RunConfig) if item.name not in ("preset", "parameters")]
    hashes = [config.hash, *(changed(config, name).hash for name in names)]
    assert len(set(hashes)) == len(hashes)
    assert all(re.fullmatch("[0-9a-f]{12}", digits) for digits in hashes)
    labelled = changed(config, "preset")
    assert (labelled, labelled.hash) == (config, config.hash)
    assert labelled.name == f"mine-matfl-{config.hash}"


GOLDEN = {
    "smoke": "89c6c3b86620",
    "quick": "826173e9bc1b",
    "scenes": "215e6679010b",
    "photos": "0a5eae2afacd",
    "photos_imagenet": "1c6aa9ca9805",
    "full": "2061604c34cd",
    "paper_pascal5": "c5918fd37c4f",
    "paper_9": "c9dca30088fb",
}
"""Hashes that must never change: stored runs and committed records are found by them."""


@pytest.mark.parametrize("name", GOLDEN)
def test_golden_hashes(name):
    assert preset(name).hash == GOLDEN[name]


def test_golden_hash_of_many_changes():
    config = override(
        quick(), method="fedavg", tasks="outdoor5", k=4, lr=3e-4, aspp_rates=(1, 2), seed=7, heads="local"
    )
    assert config.hash == "a870e1dbf5f6"


def test_a_new_field_with_a_default_changes_no_hash():
    @dataclass(frozen=True, kw_only=True, slots=True)
    class Later(RunConfig):
        colour: str = "red"

    for name in PRESETS:
        plain = preset(name)
        later = Later(**{item.name: getattr(plain, item.name) for item in fields(RunConfig)})
        assert later.hash == GOLDEN[name]
        assert replace(later, colour="blue").hash != GOLDEN[name]


def test_every_parameter_has_a_frozen_default():
    """A new field enters `matfl.config.identity.DEFAULTS` as well, or a later change of its default renames runs."""
    assert set(DEFAULTS) == {item.name for item in fields(RunConfig)} - {"preset"}


def test_the_hash_is_of_values_not_of_how_they_were_written():
    assert replace(quick(), lr=1).hash == replace(quick(), lr=1.0).hash
    assert replace(quick(), weight_decay=-0.0).hash == replace(quick(), weight_decay=0).hash
    assert override(quick(), participation="1").hash == quick().hash
    assert RunConfig(lr=1).lr.hex() == (1.0).hex()
    text = json.dumps({"schema": 1, "k": 4, "lr": 1.0}, sort_keys=True)
    assert RunConfig(k=4, lr=1).hash == hashlib.sha256(text.encode()).hexdigest()[:12]


def test_parameters_of_the_chosen_method():
    config = override(smoke(), method="fedprox", **{"fedprox.mu": "0.1"})
    assert config.parameters == (("mu", 0.1),)
    assert config == override(smoke(), method="fedprox", fedprox={"mu": 0.1})
    assert config == override(override(smoke(), method="fedprox"), **{"fedprox.mu": 0.1})
    assert override(config, seed=3).parameters == config.parameters
    assert override(config, method="matfl") == smoke()
    assert config.params(METHODS["fedprox"]).mu == 0.1
    assert from_dict(json.loads(json.dumps(config.to_json()))) == config
    assert config.identity == {**smoke().identity, "method": "fedprox", "parameters": {"mu": 0.1}}
    assert override(smoke(), **config.changes(smoke())) == config


def test_a_default_given_as_a_parameter_is_no_other_run():
    plain = override(smoke(), method="clustered")
    assert override(plain, **{"clustered.clusters": "2"}) == plain
    assert override(smoke(), method="fedprox", **{"fedprox.mu": 1}).parameters == (("mu", 1.0),)


@pytest.mark.parametrize(
    "changes, error, message",
    [
        (
            {"fedprox.mu": 1},
            ValueError,
            "fedprox.mu is a parameter of method 'fedprox', but the run's method is 'matfl'",
        ),
        ({"fedprox": {"mu": 1}}, ValueError, "set method=fedprox as well, or leave it out"),
        ({"method": "fedprox", "fedprox.nu": 1}, ValueError, "lacks it, its parameters are mu"),
        ({"matfl.mu": 1}, ValueError, "unknown parameter matfl.mu: method 'matfl' lacks it, it has none"),
        ({"method": "fedprox", "fedprox.mu": "high"}, TypeError, "fedprox.mu='high': expected float"),
        ({"method": "fedprox", "fedprox.mu": True}, TypeError, "fedprox.mu=True: expected float"),
        ({"method": "fedprox", "fedprox.mu": -1}, ValueError, "fedprox.mu=-1.0: choose"),
        ({"method": "clustered", "clustered.clusters": 0}, ValueError, "clustered.clusters=0: must be at least 1"),
        ({"method": "fedprox", "fedprox.mu": [1]}, TypeError, "expected a number, text, true or false"),
        ({"fedsgd.mu": 1}, ValueError, "unknown parameter 'fedsgd.mu': method 'fedsgd' is none of local, single_task"),
        ({"mu": 1}, ValueError, "unknown parameter 'mu'"),
    ],
)
def test_wrong_parameters_of_methods(changes, error, message):
    with pytest.raises(error, match=re.escape(message)):
        override(smoke(), **changes)


def test_the_methods_own_defaults_are_frozen_as_well():
    """A run at a method's defaults does not name them, so they are part of every such run's meaning."""
    known = {name: defaults(METHODS[name]) for name in ("fedprox", "clustered", "soft_grouping", "matfl")}
    assert known == {
        "fedprox": {"mu": 0.01},
        "clustered": {"clusters": 2},
        "soft_grouping": {"threshold": 0.0},
        "matfl": {},
    }


def test_the_parameters_of_an_unknown_method_are_kept():
    stored = {**smoke().to_json(), "method": "of_a_plugin", "parameters": {"depth": 3, "alpha": 0.5}}
    config = from_dict(stored)
    assert config.parameters == (("alpha", 0.5), ("depth", 3))
    assert from_dict(config.to_json()) == config


def test_parameters_in_toml(tmp_path):
    path = tmp_path / "mine.toml"
    wanted = override(smoke(), method="fedprox", **{"fedprox.mu": 0.1})
    for text in ("fedprox.mu = 0.1", "[fedprox]\nmu = 0.1"):
        path.write_text(f'preset = "smoke"\nmethod = "fedprox"\n{text}\n')
        assert load_toml(path) == wanted


def test_another_process_finds_the_same_hash():
    code = "from matfl.config.run_config import quick; print(quick().hash)"
    environment = {**os.environ, "PYTHONHASHSEED": "77", "PYTHONPATH": os.pathsep.join(sys.path)}
    printed = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert printed.stdout.strip() == quick().hash
