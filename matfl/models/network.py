"""The network of every client: a ResNet dilated to output stride 8 and a DeepLab head (paper, section 4.1).

Parts and parameter names are torchvision's; a width factor makes the small networks of the embedded benchmark. How the
backbone and the heads start is decided here as well.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
import torchvision
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck
from torchvision.models.segmentation.deeplabv3 import ASPP, ASPPPooling

from matfl.config.run_config import RunConfig
from matfl.core.streams import stream
from matfl.tasks.task import Pair

__all__ = ["Backbone", "Head", "Model", "build", "build_head", "start_backbone", "start_head", "voting_layers"]

State = dict[str, Tensor]

_STAGES: dict[str, tuple[type[BasicBlock | Bottleneck], tuple[int, ...]]] = {
    "resnet18": (BasicBlock, (2, 2, 2, 2)),
    "resnet34": (BasicBlock, (3, 4, 6, 3)),
    "resnet50": (Bottleneck, (3, 4, 6, 3)),
}


class Backbone(nn.Module):
    """torchvision's ResNet without its classifier: images (B, 3, H, W) to features (B, `channels`, H / 8, W / 8).

    `width` is the number of channels of the first stage; at 64 the state dict is torchvision's without `fc`. With
    `dilated=False` the last two stages keep their strides (output stride 32). Both forms take the same weights, and the
    dilated one's features at every fourth position are the other's.
    """

    def __init__(self, name: str = "resnet18", width: int = 64, *, dilated: bool = True) -> None:
        super().__init__()
        block, counts = _STAGES[name]
        self.conv1 = nn.Conv2d(3, width, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        channels = width
        stages = []
        for index, count in enumerate(counts):
            planes = width * 2**index
            stages.append(_stage(block, channels, planes, count, stride=1 if index == 0 else 2))
            channels = planes * block.expansion
        self.layer1, self.layer2, self.layer3, self.layer4 = stages
        self.channels = channels
        if dilated:
            _dilate(self.layer3, 2)
            _dilate(self.layer4, 4)

    def forward(self, images: Tensor) -> Tensor:
        cpu = images.device.type == "cpu"
        if cpu:  # the pooling is many times faster in this order, the dilated convolutions' gradients in the usual one
            images = images.contiguous(memory_format=torch.channels_last)
        x = self.maxpool(self.relu(self.bn1(self.conv1(images))))
        if cpu:
            x = x.contiguous()
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = stage(x)
        return x


def _stage(block: type[BasicBlock | Bottleneck], channels: int, planes: int, count: int, stride: int) -> nn.Sequential:
    out = planes * block.expansion
    shortcut = None
    if stride != 1 or channels != out:
        shortcut = nn.Sequential(nn.Conv2d(channels, out, 1, stride=stride, bias=False), nn.BatchNorm2d(out))
    blocks = [block(channels, planes, stride, shortcut)]
    return nn.Sequential(*blocks, *(block(out, planes) for _ in range(count - 1)))


def _dilate(stage: nn.Module, rate: int) -> None:
    """Trade the stage's stride for dilation `rate`; the convolution that had the stride still sees its input's grid."""
    for module in stage.modules():
        if isinstance(module, nn.Conv2d):
            strided = module.stride == (2, 2)
            module.stride = (1, 1)
            if module.kernel_size == (3, 3):
                module.dilation = module.padding = (rate // 2,) * 2 if strided else (rate, rate)


class Head(nn.Module):
    """DeepLab head: features (B, C, h, w) to outputs (B, `channels`, h, w) through ASPP and one 3x3 convolution."""

    def __init__(self, in_channels: int, channels: int, *, hidden: int = 256, rates: tuple[int, ...] = (12, 24, 36)):
        super().__init__()
        self.aspp = ASPP(in_channels, list(rates), hidden)
        self.aspp.convs[-1] = _Pooling(in_channels, hidden)
        self.conv = nn.Conv2d(hidden, hidden, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(hidden)
        self.relu = nn.ReLU(inplace=True)
        self.last = nn.Conv2d(hidden, channels, 1)
        for module in self.aspp.modules():
            if isinstance(module, nn.ReLU):
                module.inplace = True

    def forward(self, features: Tensor) -> Tensor:
        return self.last(self.relu(self.norm(self.conv(self.aspp(features)))))


class Model(nn.Module):
    """Backbone and head; images (B, 3, H, W) to raw outputs (B, channels, H, W) in float32, upsampled bilinearly."""

    def __init__(self, backbone: Backbone, head: Head) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head

    def forward(self, images: Tensor) -> Tensor:
        height, width = images.shape[-2:]
        return _upsample(self.head(self.backbone(images)), height, width)


def _upsample(coarse_BChw: Tensor, height: int, width: int) -> Tensor:
    """Bilinear upsampling (align_corners=False) in float32 as two matrix products.

    The same numbers as F.interpolate to rounding, several times faster in training on a processor; and its gradient on
    CUDA repeats bit for bit, which F.interpolate's does not.
    """
    with torch.autocast(coarse_BChw.device.type, enabled=False):
        rows_Hh = _interpolation(coarse_BChw, coarse_BChw.shape[-2], height).T
        return rows_Hh @ (coarse_BChw.float() @ _interpolation(coarse_BChw, coarse_BChw.shape[-1], width))


def _interpolation(like: Tensor, n: int, size: int) -> Tensor:
    """Matrix (n, size) whose columns are the weights of linear interpolation from n to `size` positions."""
    return F.interpolate(torch.eye(n, device=like.device)[None], size=size, mode="linear", align_corners=False)[0]


class _Pooling(ASPPPooling):
    """The image-level branch; one pixel's bilinear upsampling is a broadcast."""

    def forward(self, x: Tensor) -> Tensor:
        pooled = x
        for module in self:
            pooled = module(pooled)
        return pooled.expand(-1, -1, *x.shape[-2:])


def build(config: RunConfig, pair: Pair) -> Model:
    """A model for `pair` with random weights that follow from the config alone; load a start or task model into it."""
    backbone = _empty_backbone(config)
    backbone.load_state_dict(_random_backbone(config))
    return Model(backbone, build_head(config, pair))


def build_head(config: RunConfig, pair: Pair) -> Head:
    """A head for `pair` as `start_head` draws it."""
    head = _empty_head(config, pair)
    head.load_state_dict(start_head(config, pair))
    return head


def voting_layers(backbone: nn.Module, n: int) -> tuple[str, ...]:
    """Parameter names of the last `n` 3x3 convolutions of `backbone`, from shallow to deep (section 5.2).

    Layers are chosen by module type: neither 1x1 shortcuts nor the 7x7 stem vote. ValueError when there are fewer.
    """
    names = [
        f"{name}.weight"
        for name, module in backbone.named_modules()
        if isinstance(module, nn.Conv2d) and module.kernel_size == (3, 3)
    ]
    if not 1 <= n <= len(names):
        raise ValueError(f"voting_layers={n}: choose 1..{len(names)}, the number of 3x3 convolutions")
    return tuple(names[-n:])


def start_backbone(
    config: RunConfig, *, cache_dir: str | Path | None = None, device: torch.device | str = "cpu"
) -> State:
    """The backbone's state at round 0, the same for every client and task, on `device`.

    `config.start` chooses: 'imagenet' (torchvision's weights from torch hub's folder, fetched when missing), 'random'
    (drawn from `config.seed`), 'scenes' (pre-trained on rendered objects by `matfl.models.pretrain`, kept in
    `cache_dir`), or a safetensors file with torchvision's names. Raises FileNotFoundError or ValueError with the
    remedy.
    """
    if config.start == "random":
        state = _random_backbone(config)
    elif config.start == "imagenet":
        state = _fitting(_imagenet(config.backbone), config, "torchvision's ImageNet weights")
    elif config.start == "scenes":
        from matfl.models.pretrain import scenes_start

        state = scenes_start(config.width, cache_dir=cache_dir, device=device)
    else:
        path = Path(config.start).expanduser()
        if not path.is_file():
            raise FileNotFoundError(
                f"start={config.start!r}: no such file; give the path of a safetensors file with the backbone's "
                "weights, or choose 'imagenet', 'random' or 'scenes'"
            )
        try:
            stored = load_file(path)
        except SafetensorError as error:
            raise ValueError(f"start={config.start!r} is not a readable safetensors file ({error})") from error
        state = _fitting(stored, config, str(path))
    return {name: tensor.to(device) for name, tensor in state.items()}


def _imagenet(name: str) -> Mapping[str, Tensor]:
    weights = torchvision.models.get_model_weights(name).IMAGENET1K_V1  # type: ignore[attr-defined]
    path = Path(torch.hub.get_dir(), "checkpoints", Path(weights.url).name)
    try:
        return weights.get_state_dict(progress=False, check_hash=not path.exists(), weights_only=True)
    except Exception as error:  # urllib, socket, ssl, zip and unpickling errors alike end the same way for the user
        known = "is damaged" if path.exists() else "is missing and could not be fetched"
        raise FileNotFoundError(
            f"start='imagenet': {path} {known} ({type(error).__name__}: {error}). Download {weights.url} on a machine "
            f"with internet access and put the file {path.name} into {path.parent}, or choose another start: "
            "'scenes', 'random' or a .safetensors file"
        ) from error


def _fitting(state: Mapping[str, Tensor], config: RunConfig, source: str) -> State:
    """`state` without the classifier, checked against the backbone of `config`; a ValueError names what differs."""
    expected = _empty_backbone(config, device="meta").state_dict()
    found = {name: tensor for name, tensor in state.items() if not name.startswith("fc.")}
    network = f"{config.backbone} of width {config.width}"
    for name, tensor in expected.items():
        if name not in found:
            if name.endswith("num_batches_tracked"):  # absent from files older than the counter, which is not used
                found[name] = torch.zeros((), dtype=torch.int64)
                continue
            raise ValueError(f"{source}: tensor {name!r} is missing; a start for {network} needs it")
        if found[name].shape != tensor.shape:
            raise ValueError(
                f"{source}: tensor {name!r} has shape {tuple(found[name].shape)}, but {network} needs "
                f"{tuple(tensor.shape)}; change backbone or width, or choose another file"
            )
    if unknown := sorted(set(found) - set(expected)):
        raise ValueError(f"{source}: tensor {unknown[0]!r} does not belong to {network}; use torchvision's names")
    return {name: found[name].to(tensor.dtype) for name, tensor in expected.items()}


def start_head(
    config: RunConfig, pair: Pair, client: int | None = None, *, bias: Sequence[float] | None = None
) -> State:
    """The head's state at round 0 (on the CPU) by the policy `config.head_start`.

    'shared': every tensor is drawn from the seed and its own name, the last layer also from its task type, so heads are
    equal wherever their shapes agree. 'per_type': all tensors from the task type, equal across domains up to the last
    layer's shape. 'per_task': from the (domain, task) pair. 'independent': from the client, by its index; `client=None`
    then stands for the task model, drawn from the pair.

    `bias`, one number a channel, is where the last layer's bias starts: `Task.start_bias` of the training labels of all
    the pair's clients, so that same-task heads start equal; a depth head learns slowly from 0. None leaves it as drawn.
    """
    body, last = {
        "shared": ((), (pair.task.name,)),
        "per_type": ((pair.task.name,),) * 2,
        "per_task": ((pair.name,),) * 2,
        "independent": ((pair.name, -1 if client is None else client),) * 2,
    }[config.head_start]
    head = _empty_head(config, pair)
    for name, module in head.named_modules():
        if isinstance(module, nn.Conv2d):
            generator = stream(config.seed, "head", name, *(last if name == "last" else body))
            bound = 1 / math.sqrt(module.weight[0].numel())
            nn.init.uniform_(module.weight, -bound, bound, generator=generator)  # torch's default for convolutions
            if module.bias is not None:
                nn.init.uniform_(module.bias, -bound, bound, generator=generator)
        elif isinstance(module, nn.BatchNorm2d):
            module.reset_parameters()
    if bias is not None:
        with torch.no_grad():
            head.last.bias.copy_(torch.tensor(bias))  # type: ignore[union-attr]
    return head.state_dict()


def _empty_backbone(config: RunConfig, device: str = "cpu") -> Backbone:
    with torch.device("meta"):  # no draws from the global generator, no time spent on weights that are replaced
        backbone = Backbone(config.backbone, config.width)
    return backbone if device == "meta" else backbone.to_empty(device=device)


def _empty_head(config: RunConfig, pair: Pair) -> Head:
    block, _ = _STAGES[config.backbone]
    with torch.device("meta"):
        in_channels = 8 * config.width * block.expansion
        head = Head(in_channels, pair.channels, hidden=config.head_channels, rates=config.aspp_rates)
    return head.to_empty(device="cpu")


def _random_backbone(config: RunConfig) -> State:
    backbone = _empty_backbone(config)
    randomise(backbone, stream(config.seed, "backbone"))
    return backbone.state_dict()


def randomise(backbone: Backbone, generator: torch.Generator) -> None:
    """Draw the weights as torchvision does for a ResNet that is trained from nothing, but from `generator`."""
    for module in backbone.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu", generator=generator)
        elif isinstance(module, nn.BatchNorm2d):
            module.reset_parameters()
