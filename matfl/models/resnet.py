"""The paper's backbone: a ResNet dilated to output stride 8 (section 4.1), with a width factor for small networks.

Parts and parameter names are torchvision's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from torchvision.models.resnet import BasicBlock, Bottleneck

__all__ = ["STAGES", "ResNet", "Stages", "randomise"]


class Stages(NamedTuple):
    """What a network is built of."""

    block: str
    """torchvision's class."""
    expansion: int
    """Its channels out for each of its planes."""
    counts: tuple[int, ...]
    """Blocks of each stage."""


STAGES = {
    "resnet18": Stages("BasicBlock", 1, (2, 2, 2, 2)),
    "resnet34": Stages("BasicBlock", 1, (3, 4, 6, 3)),
    "resnet50": Stages("Bottleneck", 4, (3, 4, 6, 3)),
}
"""By the network's name."""


class ResNet(nn.Module):
    """torchvision's ResNet without its classifier: images (B, 3, H, W) to features (B, `channels`, h, w).

    `width` is the number of channels of the first stage; at 64 the state dict is torchvision's without `fc`. `stride`
    is that of the output: h is H / 8 where the last two stages' strides are traded for dilation, H / 16 with the last
    one's, H / 32 with none. All three take the same weights, and share the features at every position of the coarser.
    """

    def __init__(self, name: str = "resnet18", width: int = 64, *, stride: int = 8) -> None:
        from torchvision.models import resnet  # takes a second that drawing figures has no use for

        super().__init__()
        kind, expansion, counts = STAGES[name]
        block = getattr(resnet, kind)
        self.conv1 = nn.Conv2d(3, width, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        channels = width
        stages = []
        for index, count in enumerate(counts):
            planes = width * 2**index
            stages.append(_stage(block, channels, planes, count, stride=1 if index == 0 else 2))
            channels = planes * expansion
        self.layer1, self.layer2, self.layer3, self.layer4 = stages
        self.channels = channels
        rate = 1
        for stage, natural in ((self.layer3, 16), (self.layer4, 32)):
            if natural > stride:
                rate *= 2
                _dilate(stage, rate)

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


def randomise(network: ResNet, generator: torch.Generator) -> None:
    """Draw the weights as torchvision does for a ResNet that is trained from nothing, but from `generator`."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu", generator=generator)
        elif isinstance(module, nn.BatchNorm2d):
            module.reset_parameters()
