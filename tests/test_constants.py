"""The best constant answers are better, by the metric, than those that one would take first."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from matfl.tasks.constants import best_classes, middle_direction
from matfl.tasks.task import pair, unit


def labels(n: int = 40, size: int = 12, classes: int = 4) -> torch.Tensor:
    """Mostly class 0; in one corner often class 1 or 2, and 3 rarely anywhere."""
    generator = torch.Generator().manual_seed(0)
    chance = torch.rand(n, size, size, generator=generator)
    corner = torch.zeros(size, size)
    corner[: size // 2, : size // 2] = 0.45
    found = torch.zeros(n, size, size, dtype=torch.uint8)
    found[chance < corner] = 1
    found[chance > 0.93] = 3
    side = torch.zeros(size, size)
    side[size // 2 :, : size // 3] = 0.4
    found[(chance < side) & (found == 0)] = 2
    return found


def score(name: str, output: torch.Tensor, target: torch.Tensor) -> float:
    """Main metric of one answer for all pictures."""
    p = pair(name)
    meter = p.meter()
    answer = p.task.answer(output)
    meter.update(answer.expand(len(target), *answer.shape[1:]), target)
    return meter.compute()[p.task.main_metric]


def test_the_best_class_map_beats_the_commonest_class() -> None:
    target = labels()
    counts = torch.stack([(target == c).sum(0) for c in range(13)])
    commonest = torch.nn.functional.one_hot(counts.argmax(0), 13).permute(2, 0, 1)[None].float()
    found = pair("outdoor/semseg").task.constant(target.numpy(), 13)
    assert score("outdoor/semseg", found, target) > 1.2 * score("outdoor/semseg", commonest, target)


def test_where_one_class_is_everything_it_is_the_answer() -> None:
    counts = torch.zeros(3, 4, 4)
    counts[1] = 5
    assert (best_classes(counts) == 1).all()
    split = torch.zeros(3, 2, 2)
    split[0, 0], split[2, 1] = 4, 4
    assert best_classes(split).tolist() == [[0, 0], [2, 2]]


def test_hardly_any_class_map_is_better() -> None:
    """Brute force over a small map: every class map, by the mIoU of its counts. The ascent ends near the best."""
    generator = torch.Generator().manual_seed(1)
    counts = torch.randint(0, 9, (3, 2, 2), generator=generator).float()
    total, each = counts.sum(0), counts.flatten(1).sum(1)

    def iou(chosen: torch.Tensor) -> float:
        value = 0.0
        for c in range(3):
            mask = chosen == c
            hits = counts[c][mask].sum()
            value += float(hits / (each[c] + (total - counts[c])[mask].sum()))
        return value

    every = [torch.tensor(code).view(2, 2) for code in np.ndindex(3, 3, 3, 3)]
    assert iou(best_classes(counts)) >= 0.9 * max(map(iou, every))


def test_the_mean_is_best_for_rmse() -> None:
    generator = torch.Generator().manual_seed(0)
    depth = (torch.rand(60, 6, 6, generator=generator) ** 3 * 8 + 0.5).half()
    depth[:5, 0] = 0
    task = pair("indoor/depth").task
    found = task.constant(depth.numpy(), 1)
    median = depth.float().masked_fill(depth == 0, float("nan")).nanmedian(0).values[None, None]
    assert score("indoor/depth", found, depth) < score("indoor/depth", median, depth)
    for shift in (-0.05, 0.05):
        assert score("indoor/depth", found, depth) < score("indoor/depth", found + shift, depth)


def test_the_middle_direction_has_the_least_mean_angle() -> None:
    generator = torch.Generator().manual_seed(0)
    spread = torch.randn(50, 3, 5, 5, generator=generator) * torch.tensor([1.5, 0.3, 0.1]).view(3, 1, 1)
    target = unit(spread + torch.tensor([0.0, 0.4, 1.0]).view(3, 1, 1))
    target[:10, :, 0] = 0
    found = middle_direction(target)
    assert torch.linalg.vector_norm(found, dim=0) == pytest.approx(np.ones((5, 5)), abs=1e-5)
    mean = target.mean(0, keepdim=True)
    best = score("outdoor/normals", found[None], target)
    assert best < score("outdoor/normals", mean, target)
    for _ in range(20):
        near = found + 0.05 * torch.randn(3, 5, 5, generator=generator)
        assert best <= score("outdoor/normals", near[None], target) + 1e-3
    assert (middle_direction(torch.zeros(4, 3, 2, 2)) == 0).all()
