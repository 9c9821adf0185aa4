"""The network against torchvision's own, and the starts of backbone and heads."""

import errno
import os
import pickle
import urllib.error
from dataclasses import replace
from itertools import combinations, product

import pytest
import torch
import torch.nn.functional as F
import torchvision
from safetensors.torch import load_file, save_file
from torch import nn
from torchvision.models.segmentation.deeplabv3 import DeepLabHead

from matfl.config.run_config import override, preset, smoke
from matfl.data import DataError
from matfl.models import pretrain
from matfl.models.backbone import voting_layers
from matfl.models.network import Head, build, start_head
from matfl.models.resnet import ResNet
from matfl.models.starts import start_backbone
from matfl.tasks.task import pair, pairs

NETWORKS = ("resnet18", "resnet34", "resnet50")
RANDOM = override(smoke(), start="random", head_channels=8)


def torchvision_state(name="resnet18"):
    torch.manual_seed(0)
    network = torchvision.models.get_model(name)
    for module in network.modules():  # running statistics that matter
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.uniform_(-0.1, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    return network.eval()


def without_classifier(network):
    return {name: tensor for name, tensor in network.state_dict().items() if not name.startswith("fc.")}


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_state_dict_is_torchvisions_without_the_classifier(name):
    with torch.device("meta"):
        theirs, ours = without_classifier(torchvision.models.get_model(name)), ResNet(name).state_dict()
    assert [(k, v.shape, v.dtype) for k, v in ours.items()] == [(k, v.shape, v.dtype) for k, v in theirs.items()]


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
@torch.no_grad()
def test_dilation_computes_the_strided_networks_features_in_between(name):
    """Trading strides for dilation leaves every fourth position as it was, borders included."""
    network = torchvision_state(name)
    images = torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(1)).double()
    network.double()
    features = nn.Sequential(*list(network.children())[:-2])(images)
    assert features.shape[-2:] == (2, 3)
    for stride in (32, 16, 8):
        backbone = ResNet(name, stride=stride).eval().double()
        backbone.load_state_dict(without_classifier(network))
        ours = backbone(images)
        assert ours.shape == (1, backbone.channels, 64 // stride, 96 // stride)
        torch.testing.assert_close(ours[..., :: 32 // stride, :: 32 // stride], features)


def test_dilations_of_the_last_stages():
    backbone = ResNet(width=4)
    found = {
        name: (module.stride[0], module.dilation[0], module.padding[0])
        for name, module in backbone.named_modules()
        if isinstance(module, nn.Conv2d) and name.startswith(("layer3", "layer4"))
    }
    for stage, rate in (("layer3", 2), ("layer4", 4)):
        first, *rest = [found[f"{stage}.{b}.conv{c}"] for b in (0, 1) for c in (1, 2)]
        assert first == (1, rate // 2, rate // 2)
        assert rest == [(1, rate, rate)] * 3
        assert found[f"{stage}.0.downsample.0"] == (1, 1, 0)


@pytest.mark.parametrize("size", [(64, 64), (33, 50)])
@pytest.mark.parametrize("name", ["outdoor/semseg", "indoor/depth"])
def test_outputs_have_the_input_size_and_the_tasks_channels(name, size):
    model = build(RANDOM, pair(name)).eval()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = model(torch.zeros(2, 3, *size))
    assert output.shape == (2, pair(name).channels, *size)
    assert output.dtype == torch.float32


def test_upsampling_is_bilinear_in_value_and_gradient():
    model = build(RANDOM, pair("outdoor/semseg")).eval().double()
    images = torch.randn(2, 3, 40, 56, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    coarse = model.head(model.backbone(images)).float()
    expected = F.interpolate(coarse, size=(40, 56), mode="bilinear", align_corners=False)
    output = model(images)
    torch.testing.assert_close(output, expected)
    weight = torch.randn(output.shape, generator=torch.Generator().manual_seed(1))
    parameter = model.head.last.weight
    (ours,) = torch.autograd.grad((output * weight).sum(), parameter, retain_graph=True)
    (theirs,) = torch.autograd.grad((expected * weight).sum(), parameter)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_the_head_is_torchvisions_deeplab_head():
    theirs, ours = DeepLabHead(24, 5, (2, 4, 6)).eval(), Head(24, 5, hidden=256, rates=(2, 4, 6)).eval()
    named = dict(zip(ours.state_dict(), theirs.state_dict().values(), strict=True))
    ours.load_state_dict(named)
    features = torch.randn(2, 24, 9, 7)
    torch.testing.assert_close(ours(features), theirs(features))


def test_voting_layers_are_the_last_3x3_convolutions_in_forward_order():
    backbone = ResNet(width=4).eval()
    expected = tuple(f"layer{s}.{b}.conv{c}.weight" for s, b, c in product((3, 4), (0, 1), (1, 2)))
    assert voting_layers(backbone, 8) == expected
    called = []
    for name, module in backbone.named_modules():
        if isinstance(module, nn.Conv2d) and module.kernel_size == (3, 3):
            module.register_forward_hook(lambda *_, name=name: called.append(f"{name}.weight"))
    backbone(torch.zeros(1, 3, 32, 32))
    assert voting_layers(backbone, 16) == tuple(called)
    assert voting_layers(ResNet("resnet50", 4), 3) == tuple(f"layer4.{b}.conv2.weight" for b in range(3))
    with pytest.raises(ValueError, match=r"voting_layers=17: choose 1\.\.16"):
        voting_layers(backbone, 17)


def test_every_voting_layer_is_a_parameter():
    for name in NETWORKS:
        with torch.device("meta"):
            backbone = ResNet(name, 8)
        parameters = dict(backbone.named_parameters())
        assert all(parameters[layer].shape[2:] == (3, 3) for layer in voting_layers(backbone, 8))


def test_random_start_follows_from_the_seed_and_leaves_the_global_generator():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first, again, other = (start_backbone(override(RANDOM, seed=seed)) for seed in (0, 0, 1))
    model = build(RANDOM, pair("outdoor/sal"))
    assert torch.equal(torch.get_rng_state(), before)
    assert equal(first, again)
    assert not torch.equal(first["conv1.weight"], other["conv1.weight"])
    assert equal(model.backbone.state_dict(), first)
    assert equal(model.head.state_dict(), start_head(RANDOM, pair("outdoor/sal")))
    spread = first["layer4.1.conv2.weight"].std()  # Kaiming, fan out
    assert spread == pytest.approx((2 / (64 * 9)) ** 0.5, rel=0.05)


def heads(policy, clients=(0, 1)):
    config = override(RANDOM, head_start=policy)
    return {(p.name, c): start_head(config, p, c) for p in pairs("scenes9") for c in clients}


def agree(a, b, name):
    return a[name].shape == b[name].shape and torch.equal(a[name], b[name])


@pytest.mark.parametrize("policy", ["shared", "per_type", "per_task", "independent"])
def test_head_start_decides_who_starts_equal(policy):
    for ((name_a, client_a), a), ((name_b, client_b), b) in combinations(heads(policy).items(), 2):
        same_task, same_type = name_a == name_b, name_a.split("/")[1] == name_b.split("/")[1]
        body = {"shared": True, "per_type": same_type, "per_task": same_task, "independent": False}[policy]
        last = {"shared": same_type, "per_type": same_type, "per_task": same_task, "independent": False}[policy]
        for name in a:
            if name.endswith((".running_mean", ".running_var", ".num_batches_tracked")) or a[name].unique().numel() < 3:
                continue
            expected = (last if name.startswith("last.") else body) and a[name].shape == b[name].shape
            assert agree(a, b, name) == expected, (policy, name_a, client_a, name_b, client_b, name)


def test_head_start_goes_by_shape_and_by_client():
    real = override(preset("paper_9"), start="random", width=8, head_channels=16)
    pascal, nyud = start_head(real, pair("pascal/semseg")), start_head(real, pair("nyud/semseg"))
    assert pascal["last.weight"].shape != nyud["last.weight"].shape  # 21 and 40 classes
    assert agree(pascal, nyud, "conv.weight")
    independent = override(RANDOM, head_start="independent")
    assert not equal(start_head(independent, pair("outdoor/sal")), start_head(independent, pair("outdoor/sal"), 0))
    assert equal(start_head(RANDOM, pair("outdoor/sal"), 3), start_head(RANDOM, pair("outdoor/sal")))
    other_seed = start_head(override(RANDOM, seed=1), pair("outdoor/sal"))
    assert not agree(other_seed, start_head(RANDOM, pair("outdoor/sal")), "conv.weight")


def test_a_head_starts_at_the_given_bias():
    state = start_head(RANDOM, pair("indoor/depth"), bias=(3.25,))
    assert state["last.bias"].tolist() == [3.25]
    drawn = start_head(RANDOM, pair("indoor/depth"))
    assert all(torch.equal(state[name], drawn[name]) for name in state if name != "last.bias")
    normals = start_head(RANDOM, pair("indoor/normals"), bias=(0.0, 0.5, 1.0))
    assert normals["last.bias"].tolist() == [0, 0.5, 1]


@pytest.fixture
def hub(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    return tmp_path / "checkpoints"


@pytest.fixture
def imagenet():
    return override(preset("paper_9"), start="imagenet")


def test_imagenet_weights_are_taken_exactly_if_they_are_torchvisions(hub, imagenet, monkeypatch):
    network = torchvision_state()
    torch.save(network.state_dict(), hub / "resnet18-f37072fd.pth")
    with pytest.raises(FileNotFoundError, match=r"is damaged .* instead of f37072fd"):
        start_backbone(imagenet)
    monkeypatch.setattr("matfl.models.resnets._check_digest", lambda path: None)
    assert equal(start_backbone(imagenet), without_classifier(network))


def test_missing_imagenet_weights_name_the_file_the_folder_and_other_starts(hub, imagenet, monkeypatch):
    def offline(*args, **kwargs):
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr(torch.hub, "urlopen", offline)
    with pytest.raises(FileNotFoundError, match=r"resnet18-f37072fd\.pth") as caught:
        start_backbone(imagenet)
    for part in (str(hub), "https://download.pytorch.org", "scenes", "random", "no route to host"):
        assert part in str(caught.value)
    assert not list(hub.iterdir())


def test_damaged_or_pickled_imagenet_weights_are_refused(hub, imagenet, monkeypatch):
    monkeypatch.setattr("matfl.models.resnets._check_digest", lambda path: None)
    file = hub / "resnet18-f37072fd.pth"
    for content in (b"not a checkpoint", pickle.dumps({"conv1.weight": print}, protocol=2)):
        file.write_bytes(content)
        with pytest.raises(FileNotFoundError, match="is damaged"):
            start_backbone(imagenet)


def test_a_file_is_checked_tensor_by_tensor(tmp_path):
    state = start_backbone(RANDOM)
    path = tmp_path / "start.safetensors"
    config = override(RANDOM, start=str(path))
    with pytest.raises(FileNotFoundError, match="no such file"):
        start_backbone(config)
    save_file(state, path)
    assert equal(start_backbone(config), state)
    faults = {
        "'layer2.0.conv1.weight' has shape": {**state, "layer2.0.conv1.weight": torch.zeros(1)},
        "'bn1.bias' is missing": {name: tensor for name, tensor in state.items() if name != "bn1.bias"},
        "'head.bias' does not belong": {**state, "head.bias": torch.zeros(1)},
        "'bn1.weight' holds NaN": {**state, "bn1.weight": state["bn1.weight"] * torch.nan},
        "'bn1.running_var' holds a negative variance": {**state, "bn1.running_var": -state["bn1.running_var"]},
    }
    for message, tensors in faults.items():
        save_file(tensors, path)
        with pytest.raises(ValueError, match=message):
            start_backbone(config)
    path.write_bytes(b"damaged")
    with pytest.raises(ValueError, match="not a readable safetensors file"):
        start_backbone(config)


TINY = pretrain.Recipe(images=24, validation=8, size=32, epochs=2, batch_size=8)


def test_scenes_start_is_made_once_and_read_afterwards(tmp_path, monkeypatch):
    made = pretrain.scenes_start(4, cache_dir=tmp_path, recipe=TINY)
    path = pretrain.scenes_file(4, tmp_path, recipe=TINY)
    assert 0 <= pretrain.accuracy_of(path) <= 1
    assert equal(made, pretrain.pretrain(4, recipe=TINY)[0])  # deterministic
    other = pretrain.scenes_file(4, tmp_path, recipe=replace(TINY, epochs=3))
    assert other != path != pretrain.scenes_file(8, tmp_path, recipe=TINY)
    content = path.read_bytes()
    for place in (20, len(content) // 2, len(content) - 1):  # in the header and among the numbers
        damaged = bytearray(content)
        damaged[place] ^= 4
        path.write_bytes(damaged)
        with pytest.warns(UserWarning, match="is damaged or has no checksum, and is made anew"):
            assert equal(pretrain.scenes_start(4, cache_dir=tmp_path, recipe=TINY), made)
        assert equal(load_file(path), made)
    monkeypatch.setattr(pretrain, "pretrain", None)
    assert equal(pretrain.scenes_start(4, cache_dir=tmp_path, recipe=TINY), made)
    assert {p.name for p in tmp_path.iterdir()} == {path.name, path.with_suffix(".lock").name}


def test_a_start_has_the_mode_that_the_umask_gives(tmp_path):
    before = os.umask(0o027)
    try:
        pretrain.scenes_start(4, cache_dir=tmp_path, recipe=TINY)
    finally:
        os.umask(before)
    assert pretrain.scenes_file(4, tmp_path, recipe=TINY).stat().st_mode & 0o777 == 0o640


def test_a_start_that_cannot_be_kept_names_the_folder_and_the_remedy(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=r"file: cannot keep the start \(.*set MATFL_CACHE"):
        pretrain.scenes_start(4, cache_dir=tmp_path / "file", recipe=TINY)

    def full(handle):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DataError, match=r"No space left on device.*free space"):
        pretrain.scenes_start(4, cache_dir=tmp_path, recipe=TINY)
    assert not list(tmp_path.glob("start-*safetensors*")) + list(tmp_path.glob("*.tmp"))


def test_scenes_start_fits_the_backbone(tmp_path, monkeypatch):
    monkeypatch.setattr(pretrain, "RECIPE", TINY)
    monkeypatch.setattr(
        pretrain.scenes_start, "__kwdefaults__", {**pretrain.scenes_start.__kwdefaults__, "recipe": TINY}
    )
    config = override(smoke(), width=4)
    state = start_backbone(config, cache_dir=tmp_path)
    assert equal(ResNet(width=4).state_dict().keys() and state, state)
    build(config, pair("outdoor/sal")).backbone.load_state_dict(state)


@pytest.mark.slow
def test_scenes_start_recognises_objects(tmp_path):
    state, accuracy = pretrain.pretrain(8)
    assert accuracy > 0.4  # chance is 1/16
    assert all(torch.isfinite(tensor).all() for tensor in state.values())
