"""The paper's backbones as registered values: how one is built, what it can start from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from matfl.config.run_config import RunConfig
from matfl.core.files import file_digest
from matfl.core.streams import stream
from matfl.models.backbone import Backbone, Start
from matfl.models.pretrain import scenes_file, scenes_start
from matfl.models.resnet import STAGES, ResNet, randomise

__all__ = ["RESNETS", "ResNetBackbone"]


@dataclass(frozen=True)
class ResNetBackbone(Backbone):
    """One of torchvision's ResNets at `RunConfig.width`."""

    name: str
    title: str

    @property
    def starts(self) -> Mapping[str, Start]:
        imagenet = Start(source="torchvision's ImageNet weights", load=_imagenet)
        if self.name != "resnet18":
            return {"imagenet": imagenet}
        return {
            "imagenet": imagenet,
            "scenes": Start(source="the 'scenes' start", load=_scenes, version=_scenes_version),
        }

    def build(self, config: RunConfig) -> ResNet:
        with torch.device("meta"):  # torch's own draws would be replaced: no time is spent on them
            network = ResNet(self.name, config.width, stride=config.output_stride)
        network.to_empty(device="cpu")
        randomise(network, stream(config.seed, "backbone"))
        return network

    def channels(self, config: RunConfig) -> int:
        return 8 * config.width * STAGES[self.name].expansion

    def bf16_pays(self, config: RunConfig) -> bool:
        """Narrower networks spend their time elsewhere."""
        return config.width >= 16


RESNETS = tuple(
    ResNetBackbone(name, f"torchvision's {name.replace('resnet', 'ResNet-')}, dilated to output stride 8 (section 4.1)")
    for name in STAGES
)


def _scenes(config: RunConfig, cache_dir: str | Path | None, device: torch.device | str) -> Mapping[str, Tensor]:
    return scenes_start(config.width, cache_dir=cache_dir, device=device)


def _scenes_version(config: RunConfig) -> str:
    return scenes_file(config.width).stem


def _imagenet(config: RunConfig, cache_dir: str | Path | None, device: torch.device | str) -> Mapping[str, Tensor]:
    """torchvision's weights from torch hub's folder, fetched when missing; without the classifier."""
    from torchvision.models import get_model_weights

    weights = get_model_weights(config.backbone).IMAGENET1K_V1  # type: ignore[attr-defined]
    path = Path(torch.hub.get_dir(), "checkpoints", Path(weights.url).name)
    try:
        if path.exists():
            _check_digest(path)
        state = weights.get_state_dict(progress=False, check_hash=True, weights_only=True)
    except Exception as error:  # urllib, socket, ssl, zip and unpickling errors alike end the same way for the user
        known = "is damaged" if path.exists() else "is missing and could not be fetched"
        raise FileNotFoundError(
            f"start='imagenet': {path} {known} ({type(error).__name__}: {error}). Download {weights.url} on a machine "
            f"with internet access and put the file {path.name} into {path.parent}, or choose another start: "
            "'scenes', 'random' or a .safetensors file"
        ) from error
    return {name: tensor for name, tensor in state.items() if not name.startswith("fc.")}


def _check_digest(path: Path) -> None:
    """The name of a torch hub file holds the beginning of its SHA-256, which the hub compares after a download only."""
    expected = path.stem.rpartition("-")[2]
    if not (found := file_digest(path)).startswith(expected):
        raise ValueError(f"its SHA-256 begins with {found[:8]} instead of {expected}")
