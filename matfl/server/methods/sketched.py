"""MaT-FL grouped by what clients say of their updates in a few numbers, so that grouping needs nothing else of them.

Whole updates then serve for sums alone. With secure aggregation of those sums (weights from the sketches, one masked
sum a task) the server would see the sketches and nothing else of a single client; `noise` makes these private as well.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from matfl.core.streams import stream
from matfl.models.backbone import find_backbone, voting_layers
from matfl.server.grouping import friends, similarity_weights, votes
from matfl.server.kernels import product_dtype
from matfl.server.methods.base import Dispatch, Method, Round, Tensors, register
from matfl.server.mixing import Mixing
from matfl.server.sketches import Sketcher

if TYPE_CHECKING:
    from matfl.client.local import Local

__all__ = ["MatflSketches", "cosines", "private_sketch"]


def private_sketch(sketch_Ld: Tensor, *, noise: float, generator: torch.Generator) -> Tensor:
    """A client's sketch with every layer at norm 1 / sqrt(L), all of it at norm 1, and Gaussian noise on every number.

    Its norm is 1 whatever the update (0 where that is 0), so `noise` is the noise multiplier of
    `matfl.server.privacy.epsilon`.
    """
    norms_L1 = torch.linalg.vector_norm(sketch_Ld, dim=1, keepdim=True)
    sketch_Ld = torch.where(norms_L1 > 0, sketch_Ld / norms_L1.clamp(min=1e-30), 0) / len(sketch_Ld) ** 0.5
    if noise:
        draw_Ld = torch.randn(sketch_Ld.shape, generator=generator, dtype=sketch_Ld.dtype)
        sketch_Ld = sketch_Ld + noise * draw_Ld.to(sketch_Ld.device)
    return sketch_Ld


def cosines(sketches_LNd: Tensor) -> Tensor:
    """(L, N, N), float64: unbiased estimates of the cosines from `private_sketch`es; 1 on the diagonal.

    L <x, y> is one, noisy or not: noise of two clients is independent, and norms are known.
    """
    wide_LNd = sketches_LNd.double()
    found_LNN = len(wide_LNd) * (wide_LNd @ wide_LNd.transpose(1, 2))
    found_LNN.diagonal(dim1=1, dim2=2).fill_(1)
    return found_LNN.clamp(-1, 1)


@register
@dataclass(frozen=True, kw_only=True)
class MatflSketches(Method):
    """Algorithm 1 from sketches of the voting layers that clients make, and may noise, themselves."""

    name = "matfl_sketches"
    title = "MaT-FL by sketches"
    description = "dynamic grouping from short, possibly private sketches that clients send"
    source = "this package; algorithm 1 on count sketches (Charikar, Chen and Farach-Colton 2002)"
    family = "beyond"

    length: int = 64
    """Numbers a voting layer. A cosine is known to about 1 / sqrt(length)."""
    noise: float = 0.0
    """Standard deviation of Gaussian noise on every number of a sketch, whose norm is 1."""

    def __post_init__(self) -> None:
        if self.length < 1:
            raise ValueError(f"matfl_sketches.length={self.length}: choose at least 1 number a layer")
        if not 0 <= self.noise < float("inf"):
            raise ValueError(f"matfl_sketches.noise={self.noise}: choose 0 (none) or more")

    def client(self, local: Local) -> Tensors:
        local.train()
        rule = find_backbone(local.config).voters
        names = voting_layers(local.model.backbone, local.config.voting_layers, rule=rule)
        sketcher = Sketcher(length=self.length, seed=local.config.seed)
        now, before = local.model.state_dict(), local.state
        rows = [
            sketcher.of((now[f"backbone.{name}"] - before[f"backbone.{name}"]).reshape(1, -1), name)[0]
            for name in names
        ]
        draw = stream(local.config.seed, "private sketch", local.round, local.client.index)
        return {"sketch": private_sketch(torch.stack(rows), noise=self.noise, generator=draw)}

    def reply_shapes(self, before: Dispatch, client: int) -> Mapping[str, tuple[int, ...]]:
        return {"sketch": (len(before.models.layout.voting), self.length)}

    def mix(self, round: Round) -> Mixing:
        if not round.n:
            return Mixing(weights_NN=round.rows(torch.ones(0, 0)))
        sketches_LNd = torch.stack([reply.message["sketch"] for reply in round.replies], 1).to(round.updates.device)
        similarity_LNN = cosines(sketches_LNd).to(product_dtype(round.updates.dtype))
        k = max(1, min(round.config.k, round.n))
        votes_LNN = votes(similarity_LNN, k)
        friends_NN = friends(votes_LNN, k, similarity=similarity_LNN)
        groups = {"similarity": similarity_LNN, "votes": votes_LNN, "friends": friends_NN}
        return Mixing(weights_NN=similarity_weights(similarity_LNN, friends_NN), diagnostics=groups)
