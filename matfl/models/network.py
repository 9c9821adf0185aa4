"""The network of every client: a backbone and a DeepLab head a task (paper, section 4.1), and how the head starts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from matfl.config.run_config import RunConfig
from matfl.core.streams import stream
from matfl.models.backbone import State, build_backbone, find_backbone
from matfl.tasks.joint import head_prefixes
from matfl.tasks.task import Pair

__all__ = ["Head", "Heads", "Model", "build", "build_head", "start_head", "start_heads"]


class Head(nn.Module):
    """DeepLab head: features (B, C, h, w) to outputs (B, `channels`, h, w) through ASPP and one 3x3 convolution."""

    def __init__(self, in_channels: int, channels: int, *, hidden: int = 256, rates: tuple[int, ...] = (12, 24, 36)):
        from torchvision.models.segmentation.deeplabv3 import ASPP  # takes a second that drawing figures has no use for

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


class Heads(nn.ModuleDict):
    """The heads of a client with several tasks, by task name; their outputs one after the other in the channels."""

    def forward(self, features: Tensor) -> Tensor:
        return torch.cat([head(features) for head in self.values()], 1)


class Model(nn.Module):
    """Backbone and head; images (B, 3, H, W) to raw outputs (B, channels, H, W) in float32, upsampled bilinearly."""

    def __init__(self, backbone: nn.Module, head: Head | Heads) -> None:
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


class _Pooling(nn.Sequential):
    """torchvision's image-level branch, where one pixel's bilinear upsampling is a broadcast."""

    def __init__(self, in_channels: int, channels: int) -> None:
        convolution = nn.Conv2d(in_channels, channels, 1, bias=False)
        super().__init__(nn.AdaptiveAvgPool2d(1), convolution, nn.BatchNorm2d(channels), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        pooled = x
        for module in self:
            pooled = module(pooled)
        return pooled.expand(-1, -1, *x.shape[-2:])


def build(config: RunConfig, pair: Pair) -> Model:
    """A model for `pair` with random weights that follow from the config alone; load a start or task model into it."""
    return Model(build_backbone(config), build_head(config, pair))


def build_head(config: RunConfig, pair: Pair) -> Head | Heads:
    """A head for `pair` as `start_heads` draws it: one for each of its parts where it joins several tasks."""
    if pair.parts != (pair,):
        return Heads({part.task.name: build_head(config, part) for part in pair.parts})
    head = _empty_head(config, pair)
    head.load_state_dict(start_head(config, pair))
    return head


def start_heads(
    config: RunConfig, pair: Pair, client: int | None = None, *, biases: Mapping[str, Sequence[float]] | None = None
) -> State:
    """The state at round 0 of a pair's head, or of the heads of all its parts: each as `start_head` draws it.

    `biases`: where last biases start, by plain pair name (`matfl.data.start_bias`).
    """
    state: State = {}
    for part, prefix in zip(pair.parts, head_prefixes(pair.name), strict=True):
        own = start_head(config, part, client, bias=(biases or {}).get(part.plain))
        state |= {f"{prefix}{name}": tensor for name, tensor in own.items()}
    return state


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
        "per_task": ((pair.plain,),) * 2,
        "independent": ((pair.plain, -1 if client is None else client),) * 2,
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


def _empty_head(config: RunConfig, pair: Pair) -> Head:
    in_channels = find_backbone(config).channels(config)
    with torch.device("meta"):  # no draws from the global generator, no time spent on weights that are replaced
        head = Head(in_channels, pair.channels, hidden=config.head_channels, rates=config.aspp_rates)
    return head.to_empty(device="cpu")
