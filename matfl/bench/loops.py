"""The training loops that `python -m matfl.bench train` compares. Random images and labels: only the speed counts."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import nullcontext
from functools import cache
from itertools import product
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision.models.segmentation.deeplabv3 import ASPPPooling

from matfl.bench.record import wait
from matfl.client.training import loss_weight, train
from matfl.config.run_config import RunConfig, override
from matfl.core.streams import stream
from matfl.data.augment import MEAN, STD, augment
from matfl.data.split import network_size
from matfl.models.network import Head, Model, build
from matfl.tasks.task import Pair, pairs

__all__ = ["LOOPS", "PER_CORE", "Epoch", "Pictures", "arrays"]


def arrays(pair: Pair, n: int, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """n random images uint8 (n, 3, H, W) and targets of the pair's kind."""
    generator = stream("bench", pair.name)
    images = torch.randint(0, 256, (n, 3, *size), dtype=torch.uint8, generator=generator)
    if pair.task.target_channels:
        vectors = torch.randn(n, pair.task.target_channels, *size, generator=generator)
        return images, F.normalize(vectors, dim=1).to(pair.task.target_dtype)
    if pair.task.target_dtype == torch.uint8:
        classes = max(2, pair.channels)
        return images, torch.randint(0, classes, (n, *size), dtype=torch.uint8, generator=generator)
    return images, (1 + 5 * torch.rand(n, *size, generator=generator)).to(pair.task.target_dtype)


class Pictures(Dataset[tuple[Tensor, Tensor]]):
    """One augmented image at a time: flip, warp and normalise with Pillow and numpy."""

    def __init__(self, images: Tensor, targets: Tensor, pair: Pair) -> None:
        self.images, self.targets, self.pair = images.numpy(), targets.numpy(), pair
        self.rng = np.random.default_rng(0)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        task = self.pair.task
        image, target = np.ascontiguousarray(self.images[i].transpose(1, 2, 0)), self.targets[i]
        layers = list(target.astype(np.float32)) if target.ndim == 3 else [target.astype(np.float32)]
        if self.rng.random() < 0.5:
            image, layers = image[:, ::-1], [layer[:, ::-1] for layer in layers]
        if self.pair.domain.augmentation == "pascal":
            angle, scale = np.deg2rad(self.rng.uniform(-20, 20)), self.rng.uniform(0.75, 1.25)
        else:
            angle, scale = 0.0, self.rng.choice([1, 1.2, 1.5])
        height, width = target.shape[-2:]
        cos, sin, x, y = np.cos(angle) / scale, np.sin(angle) / scale, width / 2, height / 2
        coefficients = (cos, sin, x - cos * x - sin * y, -sin, cos, y + sin * x - cos * y)

        def moved(plane: np.ndarray, resample: Image.Resampling, fill: float = 0) -> np.ndarray:
            picture = Image.fromarray(np.ascontiguousarray(plane))
            return np.asarray(
                picture.transform(
                    (width, height),
                    Image.Transform.AFFINE,
                    coefficients,
                    resample,
                    fillcolor=fill if plane.ndim == 2 else None,
                )
            )

        order = Image.Resampling.BILINEAR if target.ndim == 3 else Image.Resampling.NEAREST
        image = moved(image, Image.Resampling.BILINEAR)
        layers = [moved(layer, order, task.unlabelled) for layer in layers]
        warped = np.stack(layers) if target.ndim == 3 else layers[0]
        if target.ndim == 3:
            warped = warped / np.maximum(np.linalg.norm(warped, axis=0), 1e-6)
        elif target.dtype != np.uint8:
            warped = warped / scale
        picture = (image.astype(np.float32) / 255 - np.array(MEAN, np.float32)) / np.array(STD, np.float32)
        return torch.from_numpy(picture.transpose(2, 0, 1).copy()), torch.from_numpy(warped.astype(target.dtype))


class _PlainModel(nn.Module):
    """The same network in torchvision's own parts, upsampled by F.interpolate."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.features = nn.Sequential(*model.backbone.children())
        assert isinstance(model.head, Head)
        self.head = model.head
        branch = model.head.aspp.convs[-1]
        branch.forward = ASPPPooling.forward.__get__(branch)

    def forward(self, images: Tensor) -> Tensor:
        coarse = self.head(self.features(images))
        return F.interpolate(coarse, size=images.shape[-2:], mode="bilinear", align_corners=False)


Epoch = Callable[[], int]
"""Trains once over a client's images and returns how many those were."""


def _plainly(config: RunConfig, pair: Pair, device: torch.device, batches: Callable[[], Any], *, read: bool) -> Epoch:
    model = _PlainModel(build(config, pair).to(device)).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=config.lr, weight_decay=config.weight_decay, amsgrad=True)

    def epoch() -> int:
        images = 0
        for image, target in batches():
            optimizer.zero_grad()
            loss = loss_weight(config, pair) * pair.task.loss(model(image.to(device)), target.to(device))
            loss.backward()
            optimizer.step()
            images += len(image)
            if read:
                loss.item()
        return images

    return epoch


def _reference(config: RunConfig, pair: Pair, device: torch.device, images: Tensor, targets: Tensor) -> Epoch:
    workers = 0 if device.type == "cpu" else min(4, os.cpu_count() or 1)  # on a CPU they would take the network's cores
    loader = DataLoader(
        Pictures(images, targets, pair),
        batch_size=config.batch_size,
        shuffle=True,
        drop_last=True,
        num_workers=workers,
        persistent_workers=workers > 0,
    )
    return _plainly(config, pair, device, lambda: loader, read=True)


def _plain(config: RunConfig, pair: Pair, device: torch.device, images: Tensor, targets: Tensor) -> Epoch:
    generator = stream("bench", "plain")
    images, targets = images.to(device), targets.to(device)

    def batches() -> Any:
        for batch in torch.randperm(len(images), generator=generator).to(device).split(config.batch_size):
            if len(batch) > 1:
                yield augment(images[batch], targets[batch], pair, generator=generator)

    return _plainly(config, pair, device, batches, read=False)


def _matfl(config: RunConfig, pair: Pair, device: torch.device, images: Tensor, targets: Tensor) -> Epoch:
    model = build(config, pair).to(device)
    images, targets = images.to(device), targets.to(device)
    config = override(config, local_epochs=1)
    return lambda: train(model, images, targets, pair, config, round=1, client=0).images


def _floor(config: RunConfig, pair: Pair, device: torch.device, images: Tensor, targets: Tensor) -> Epoch:
    batch = min(config.batch_size, len(images))
    ready = augment(images[:batch].to(device), targets[:batch].to(device), pair, generator=stream("bench"))
    dtype, layout = _fastest(config, pair.task.name, device)
    return _resident(config, pair, *ready, dtype, layout, len(images) // batch)


@cache
def _fastest(config: RunConfig, task: str, device: torch.device) -> tuple[torch.dtype, torch.memory_format]:
    """Precision and memory format in which three steps of the task's first pair take least time."""
    chosen = next(p for p in pairs(config.tasks) if p.task.name == task)
    images, targets = arrays(chosen, config.batch_size, network_size(config, chosen.domain))
    ready = augment(images.to(device), targets.to(device), chosen, generator=stream("bench"))
    forms = list(product((torch.float32, torch.bfloat16), (torch.contiguous_format, torch.channels_last)))
    if device.type == "cpu":  # torch 2.14 crashes in its gradient on processors without AVX-512
        forms.remove((torch.float32, torch.channels_last))
    seconds = []
    for dtype, layout in forms:
        epoch = _resident(config, chosen, *ready, dtype, layout, steps=3)
        epoch()
        wait(device)
        turns = []
        for _ in range(3):
            began = time.perf_counter()
            epoch()
            wait(device)
            turns.append(time.perf_counter() - began)
        seconds.append(min(turns))
    return forms[seconds.index(min(seconds))]


def _resident(
    config: RunConfig,
    pair: Pair,
    image: Tensor,
    target: Tensor,
    dtype: torch.dtype,
    layout: torch.memory_format,
    steps: int,
) -> Epoch:
    device = image.device
    model = build(config, pair).to(device, memory_format=layout).train()  # type: ignore[call-overload]
    image = image.contiguous(memory_format=layout)
    optimizer = torch.optim.Adam(
        model.parameters(), lr=config.lr, weight_decay=config.weight_decay, amsgrad=True, fused=True
    )

    def epoch() -> int:
        for _ in range(steps):
            with torch.autocast(device.type, dtype=dtype) if dtype != torch.float32 else nullcontext():
                prediction = model(image)
            optimizer.zero_grad()
            pair.task.loss(prediction, target).backward()
            optimizer.step()
        return steps * len(image)

    return epoch


LOOPS: dict[str, Callable[[RunConfig, Pair, torch.device, Tensor, Tensor], Epoch]] = {
    "reference": _reference,
    "plain": _plain,
    "plain_per_core": _plain,
    "matfl": _matfl,
    "floor": _floor,
}
"""Name -> what makes one client's epoch of that loop."""

PER_CORE = ("plain_per_core", "matfl", "floor")
"""Loops that run as one single-threaded process per core on a CPU."""
