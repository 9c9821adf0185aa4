"""The 'scenes' start: a small backbone pre-trained to classify rendered objects, in ImageNet's role.

It is trained as ImageNet's networks are, undilated and with a linear classifier on averaged features, and takes no part
in any domain's images. The result is kept in the cache under a name that holds everything it depends on.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from matfl import scenes
from matfl.core.files import replace_file
from matfl.core.locks import locked
from matfl.core.streams import stream
from matfl.data.augment import normalise
from matfl.data.cache import DataError, cache_folder, key_hash
from matfl.models.resnet import ResNet, randomise

__all__ = ["RECIPE", "Recipe", "pretrain", "scenes_file", "scenes_start"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """How the start is trained; any change makes another start."""

    images: int = 4096
    validation: int = 512
    """Held-out images on which the accuracy is measured."""
    size: int = 64
    """Side of the rendered pictures in pixels."""
    epochs: int = 6
    batch_size: int = 32
    lr: float = 4e-3
    """Peak of the one-cycle schedule of AdamW."""
    weight_decay: float = 1e-2
    seed: int = 0


RECIPE = Recipe()


def scenes_file(width: int, cache_dir: str | Path | None = None, *, recipe: Recipe = RECIPE) -> Path:
    """Where the start of this width lies: `<cache>/start-scenes-w<width>-<hash of width, renderer and recipe>`."""
    key = key_hash({"width": width, "scenes": scenes.VERSION, **asdict(recipe)})
    return cache_folder(cache_dir) / f"start-scenes-w{width}-{key}.safetensors"


def scenes_start(
    width: int, *, cache_dir: str | Path | None = None, device: torch.device | str = "cpu", recipe: Recipe = RECIPE
) -> dict[str, Tensor]:
    """The pre-trained backbone's state: read from `cache_dir` (default $MATFL_CACHE, then ~/.cache/matfl) or made now.

    Processes that need it at once wait for the one that makes it. A file whose checksum does not hold is made anew,
    with a warning. The file's metadata holds the held-out accuracy (`accuracy`).

    Raises DataError when the cache cannot be written.
    """
    path = scenes_file(width, cache_dir, recipe=recipe)
    if (state := _read(path)) is not None:
        return state
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with locked(path.with_suffix(".lock")):
            if (state := _read(path)) is not None:
                return state
            if path.exists():
                warnings.warn(f"{path} is damaged or has no checksum, and is made anew", stacklevel=2)
            state, accuracy = pretrain(width, device=device, recipe=recipe)
            metadata = {"accuracy": f"{accuracy:.4f}", "sha256": _digest(state)}
            replace_file(path, save(state, metadata=metadata))
            return state
    except OSError as error:
        raise DataError(
            f"{path.parent}: cannot keep the start ({error}); free space, or set MATFL_CACHE (or cache_dir) to a "
            "folder that can hold it"
        ) from error


def accuracy_of(path: Path) -> float:
    """The held-out accuracy that was measured when the start in `path` was made."""
    with safe_open(path, framework="pt") as file:
        return float(file.metadata()["accuracy"])


def pretrain(
    width: int, *, device: torch.device | str = "cpu", recipe: Recipe = RECIPE
) -> tuple[dict[str, Tensor], float]:
    """Train a ResNet18 of `width` on rendered objects; (its state on the CPU, accuracy on held-out objects).

    Depends on the arguments alone (and on the processor's arithmetic): every draw comes from `recipe.seed`.
    """
    generator = stream(recipe.seed, "pretrain", width)
    network = nn.Sequential(
        ResNet(width=width, stride=32),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8 * width, scenes.OBJECT_CLASSES),
    )
    randomise(network[0], generator)  # type: ignore[arg-type]
    nn.init.normal_(network[3].weight, std=0.01, generator=generator)  # type: ignore[arg-type]
    nn.init.zeros_(network[3].bias)  # type: ignore[arg-type]
    network.to(device)
    total = recipe.images + recipe.validation
    images, classes = scenes.render_objects(range(total), seed=recipe.seed, size=recipe.size, device=device)
    steps = recipe.epochs * (recipe.images // recipe.batch_size)
    optimizer = torch.optim.AdamW(network.parameters(), lr=recipe.lr, weight_decay=recipe.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.lr, total_steps=steps)
    network.train()
    for _ in range(recipe.epochs):
        order = torch.randperm(recipe.images, generator=generator).to(images.device)
        for batch in order[: recipe.images // recipe.batch_size * recipe.batch_size].split(recipe.batch_size):
            flip = torch.rand(len(batch), generator=generator).to(images.device) < 0.5
            picture = normalise(images[batch])
            picture = torch.where(flip[:, None, None, None], picture.flip(3), picture)
            optimizer.zero_grad()
            F.cross_entropy(network(picture), classes[batch].long()).backward()
            optimizer.step()
            schedule.step()
    network.eval()
    with torch.no_grad():
        held_out = range(recipe.images, total)
        right = sum(
            (network(normalise(images[i : i + 64])).argmax(1) == classes[i : i + 64]).sum().item()
            for i in held_out[::64]
        )
    return {name: tensor.cpu() for name, tensor in network[0].state_dict().items()}, right / len(held_out)


def _read(path: Path) -> dict[str, Tensor] | None:
    """The state in the file, or None where that is missing, damaged, or from before there were checksums."""
    try:
        with safe_open(path, framework="pt") as file:
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (not a mapping)
            expected = (file.metadata() or {}).get("sha256")
    except (OSError, SafetensorError):
        return None
    return state if expected == _digest(state) else None


def _digest(state: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, types, shapes and contents of the tensors, in the order of their names."""
    sha = hashlib.sha256()
    for name, tensor in sorted(state.items()):
        sha.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        sha.update(tensor.contiguous().numpy().tobytes())
    return sha.hexdigest()
