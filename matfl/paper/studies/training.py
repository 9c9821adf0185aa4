"""Training without a federation: single models for Figure 2, centralised multi-task models, constant predictions."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from matfl.client.training import learning_rate, loss_weight, measure, measure_answers, resolve_precision, train
from matfl.config.run_config import RunConfig
from matfl.core.streams import derive, stream
from matfl.data import load_split, partition
from matfl.data.augment import augment
from matfl.models.backbone import find_backbone, voting_layers
from matfl.models.network import Model, build, start_heads
from matfl.models.starts import start_backbone
from matfl.paper.studies.store import Arrays
from matfl.tasks.joint import Packed, Targets
from matfl.tasks.meters import Meter
from matfl.tasks.task import Pair, Task, pair, pairs, parts_of

__all__ = ["constant_scores", "single_update", "train_centrally"]


def _start(config: RunConfig, chosen: Pair, targets: Targets, device: torch.device, client: int | None = None) -> Model:
    """The pair's model at round 0."""
    model = build(config, chosen).to(device)
    model.backbone.load_state_dict(start_backbone(config, device=device))
    biases = {}
    for part, its in zip(chosen.parts, targets.parts if isinstance(targets, Packed) else (targets,), strict=True):
        sums = part.task.sums(its.cpu().numpy())
        if sums and (bias := part.task.start_bias(sums, part.channels)):
            biases[part.plain] = bias
    model.head.load_state_dict(start_heads(config, chosen, client, biases=biases))
    return model


def _device(name: str | None) -> torch.device:
    from matfl.runs.engine import pick_device

    return pick_device(name)


def single_update(
    config: RunConfig, chosen: Pair, subset: int, share: float, *, device: str | None = None
) -> tuple[dict[str, Any], Arrays]:
    """Train one model of `chosen` on the `subset`-th random `share` of its domain's training images.

    Returns the loss, number of images and cosine of the update with the starting weights; and the arrays `update` (P,),
    all of the backbone's parameters after minus before, scaled to a mean square of 1 in half precision (only directions
    are compared), and `voting` (P,), which of them vote.
    """
    target_device = _device(device)
    split = load_split(config, chosen.domain, "train")
    generator = np.random.default_rng(derive(config.seed, "update", chosen.name, subset))
    indices = np.sort(generator.permutation(len(split))[: max(2, round(share * len(split)))])
    indices = indices[split.counting(chosen.task.name, indices)]
    images, targets = split.tensors_of(chosen, indices, target_device)
    client = derive(chosen.name, subset) % 2**31
    model = _start(config, chosen, targets, target_device, client)
    before = {name: tensor.detach().clone() for name, tensor in model.backbone.named_parameters()}
    result = train(model, images, targets, chosen, config, round=1, client=client)
    rule = find_backbone(config).voters
    voters = set(voting_layers(model.backbone, config.voting_layers, rule=rule))
    start_P = torch.cat([tensor.reshape(-1) for tensor in before.values()])
    update_P = torch.cat(
        [(tensor.detach() - before[name]).reshape(-1) for name, tensor in model.backbone.named_parameters()]
    )
    voting_P = np.concatenate([np.full(tensor.numel(), name in voters) for name, tensor in before.items()])
    cosine = torch.nn.functional.cosine_similarity(update_P.double(), start_P.double(), dim=0)
    scale = update_P.square().mean().sqrt().clamp(min=torch.finfo(torch.float32).tiny)
    return (
        {"loss": result.loss, "images": len(indices), "cos_start": float(cosine)},
        {"update": (update_P / scale).half().cpu().numpy(), "voting": voting_P},
    )


def _tie(models: Sequence[Model]) -> None:
    """Let all backbones use the first one's parameters; batch-norm statistics stay each model's own."""
    shared = dict(models[0].backbone.named_parameters())
    for model in models[1:]:
        for name, parameter in shared.items():
            owner, _, leaf = name.rpartition(".")
            setattr(model.backbone.get_submodule(owner), leaf, parameter)


def train_centrally(config: RunConfig, names: Sequence[str], *, device: str | None = None) -> dict[str, Meter]:
    """Train the named pairs with one backbone for all of them, and measure each; one name is single-task training.

    In every step each task takes a batch of its own images through the shared backbone and its own head; the weighted
    losses' gradients add up and one Adam (as the clients', kept over all passes) moves everything. A task's images
    are those of all its clients. The order of a task's batches depends on (seed, task) alone, so every arrangement
    shows a task the same pictures.
    """
    target_device = _device(device)
    chosen = [pair(name) for name in names]
    domains = dict.fromkeys(p.domain.name for p in pairs(config.tasks))
    splits = {domain: load_split(config, domain, "train") for domain in domains}
    clients = partition(config, splits)
    data = {}
    for p in chosen:
        indices = sorted(i for client in clients if p in client.pair.parts for i in client.images)
        data[p.name] = splits[p.domain.name].tensors(p.task.name, indices, target_device)
    models = [_start(config, p, data[p.name][1], target_device) for p in chosen]
    _tie(models)
    parameters = list(dict.fromkeys(parameter for model in models for parameter in model.parameters()))
    optimizer = torch.optim.Adam(parameters, lr=config.lr, weight_decay=config.weight_decay, amsgrad=True)
    dtype = resolve_precision(config, target_device)
    generators = [stream(config.seed, "central", p.name) for p in chosen]
    with torch.random.fork_rng([target_device] if target_device.type == "cuda" else []):
        torch.manual_seed(derive(config.seed, "central dropout"))
        for number in range(config.rounds * config.local_epochs):
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(config, number // config.local_epochs + 1)
            orders = [
                _batches(len(data[p.name][0]), config.batch_size, generator) for p, generator in zip(chosen, generators)
            ]
            for step in range(max(map(len, orders))):
                optimizer.zero_grad()
                for p, model, order, generator in zip(chosen, models, orders, generators):
                    if step >= len(order):
                        continue
                    images, targets = data[p.name]
                    batch = order[step].to(target_device)
                    picture, target = augment(images[batch], targets[batch], p, generator=generator)
                    model.train()
                    with torch.autocast(target_device.type, dtype=dtype, enabled=dtype != torch.float32):
                        prediction = model(picture)
                    (loss_weight(config, p) * p.task.loss(prediction, target)).backward()
                optimizer.step()
    return {
        p.name: measure(model, load_split(config, p.domain, "val"), p, config, device=target_device)[p]
        for p, model in zip(chosen, models)
    }


def _batches(n: int, size: int, generator: torch.Generator) -> list[Tensor]:
    """Random batches of one pass; a last batch of one image is left out, as in the clients' training."""
    return [batch for batch in torch.randperm(n, generator=generator).split(size) if len(batch) > 1]


def constant_scores(config: RunConfig) -> dict[str, float]:
    """Main metric of each pair for the answer that never looks at the picture, measured as a model's answers are.

    At every pixel the best such answer for the metric (`Task.constant`), found on the training images: the class map of
    greatest mIoU, the frequency (saliency, edges), the direction of least mean angle, the mean (depth).
    """
    found = {}
    for p in parts_of(config.tasks):
        train_split, val = (load_split(config, p.domain, name) for name in ("train", "val"))
        constant = p.task.constant(np.asarray(train_split.labels[p.task.name]), p.channels)
        always = partial(_always, p.task, constant)
        found[p.name] = measure_answers(always, val, p, config, device="cpu")[p].compute()[p.task.main_metric]
    return found


def _always(task: Task, constant: Tensor, images: Tensor, size: tuple[int, int]) -> tuple[Tensor]:
    """The same answer on all images."""
    answer = task.answer(constant, size)
    return (answer.expand(len(images), *answer.shape[1:]),)
