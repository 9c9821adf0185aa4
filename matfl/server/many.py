"""Algorithm 1 for very many clients: grouped from sketches block by block, mixed in one pass, nothing of size N x N.

    crowd = Crowd(layout, sketcher)
    for client, row_P in updates:            # as they come, from files or the network; rows are not kept
        crowd.add(client, row_P)
    groups = crowd.group(k=8)                # friends and weights (N, K); `approximate=True` beyond some 10 000
    sums = Sums(shares(groups, tasks, owners))
    for client, row_P in updates:            # again
        sums.add(client, row_P)
    theta_CP += sums.total()

Memory: the sketches (4 N L d bytes), a block of rows, the sums (4 G P bytes). Time: N P to sketch, N^2 L d to compare
(about N log N with nearest neighbours), N P to mix.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from matfl.core.extras import require
from matfl.server.hierarchy import Factors, factors
from matfl.server.layout import Layout
from matfl.server.sketches import Sketcher

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

__all__ = ["Crowd", "Groups", "Sums", "exact_groups", "nearest_groups", "shares"]

_BLOCK_BYTES = 128 << 20
"""Of the similarities of one block of clients with all others."""
_WIDER = 8
"""Nearest neighbours that are looked at, in multiples of K."""
_SAMPLE = 256
"""Clients from which the sum of a layer's positive similarities is estimated."""


class Groups(NamedTuple):
    """Friends and weights as `matfl.server.grouping` gives them, of each client its K friends alone."""

    friends_NK: Tensor
    """Positions of the friends among the clients."""
    weights_NK: Tensor
    """float32; rows sum to 1."""


class Crowd:
    """Sketches of clients' voting layers, gathered as the updates come."""

    def __init__(self, layout: Layout, sketcher: Sketcher) -> None:
        if not layout.voting:
            raise ValueError("no voting layers: name them with Layout.of(backbone, voting=...)")
        self.layout, self.sketcher = layout, sketcher
        self.clients: list[int] = []
        self._sketches: list[Tensor] = []

    def add(self, client: int, row_P: Tensor) -> None:
        """Sketch one client's update (P,)."""
        slots = [self.layout.parameters[name] for name in self.layout.voting]
        parts = [
            self.sketcher.of(row_P[None, slot.start : slot.stop], name)[0]
            for name, slot in zip(self.layout.voting, slots)
        ]
        self.clients.append(client)
        self._sketches.append(torch.stack(parts))

    def sketches(self) -> Tensor:
        """(L, N, d), in the order in which clients came."""
        return torch.stack(self._sketches, 1)

    def group(self, *, k: int, approximate: bool = False) -> Groups:
        """Friends and weights of all clients so far, by `exact_groups` or `nearest_groups`."""
        return (nearest_groups if approximate else exact_groups)(self.sketches(), k)


def exact_groups(sketches_LNd: Tensor, k: int) -> Groups:
    """What votes, friends and weights over all similarities give, some clients' rows at a time."""
    unit_LNd = _unit(sketches_LNd)
    layers, n, _ = unit_LNd.shape
    k = _checked(k, n)
    rows = max(1, _BLOCK_BYTES // (4 * layers * n))
    found = [_rows(unit_LNd, slice(first, min(first + rows, n)), k) for first in range(0, n, rows)]
    return Groups(*(torch.cat(parts) for parts in zip(*found)))


def _rows(unit_LNd: Tensor, block: slice, k: int) -> tuple[Tensor, Tensor]:
    similar_LBN = unit_LNd[:, block] @ unit_LNd.transpose(1, 2)
    own_B = torch.arange(block.start, block.stop)
    here_B = torch.arange(len(own_B))
    similar_LBN[:, here_B, own_B] = torch.inf
    ballot_k = torch.arange(k, 0, -1)
    votes_BN = torch.zeros(similar_LBN.shape[1:], dtype=torch.float64)
    for similar_BN in similar_LBN:
        chosen_Bk = similar_BN.topk(k).indices
        votes_BN.scatter_add_(1, chosen_Bk, ballot_k.double().expand_as(chosen_Bk))
    similar_LBN[:, here_B, own_B] = 1
    # Votes are whole numbers, and the mean similarity lies within 1: a quarter of it decides among equals alone.
    friends_Bk = (votes_BN + similar_LBN.mean(0) / 4).topk(k).indices
    positive_LBN = similar_LBN.clamp_(min=0)
    rows_LBk = torch.stack([layer_BN.gather(1, friends_Bk) for layer_BN in positive_LBN])
    return friends_Bk, _normalised(rows_LBk, positive_LBN.sum(2))


def nearest_groups(sketches_LNd: Tensor, k: int, *, seed: int = 0) -> Groups:
    """`exact_groups` among each client's nearest neighbours alone (faiss, extra `matfl[neighbours]`).

    The neighbours are those of highest mean similarity, by a graph search (HNSW, Malkov and Yashunin 2018); they vote
    and are weighed among themselves. What a layer's row sums to over all clients is estimated from a sample of them.
    """
    faiss = require("faiss", extra="neighbours", what="grouping by nearest neighbours")
    unit_LNd = _unit(sketches_LNd)
    layers, n, d = unit_LNd.shape
    k = _checked(k, n)
    several = min(n, max(_WIDER * k, 2 * k))
    flat = np.ascontiguousarray(unit_LNd.transpose(0, 1).reshape(n, layers * d).numpy())
    index = faiss.IndexHNSWFlat(layers * d, 32, faiss.METRIC_INNER_PRODUCT)
    index.hnsw.efSearch = 2 * several
    index.add(flat)
    sample = torch.from_numpy(np.random.default_rng(seed).choice(n, min(_SAMPLE, n), replace=False))
    rows = max(1, _BLOCK_BYTES // (4 * layers * d * several))
    found = []
    for first in range(0, n, rows):
        own_B = torch.arange(first, min(first + rows, n))
        near_BM = torch.from_numpy(index.search(flat[first : first + len(own_B)], several)[1])
        found.append(_among(unit_LNd, own_B, near_BM, sample, k))
    return Groups(*(torch.cat(parts) for parts in zip(*found)))


def _among(unit_LNd: Tensor, own_B: Tensor, near_BM: Tensor, sample: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Friends and weights of some clients among given neighbours; -1 stands for none found."""
    missing_BM = (near_BM < 0) | (near_BM == own_B[:, None])
    near_BM = torch.cat([own_B[:, None], near_BM.where(~missing_BM, 0)], 1)
    missing_BM = torch.cat([torch.zeros_like(missing_BM[:, :1]), missing_BM], 1)
    similar_LBM = torch.einsum("lbd,lbmd->lbm", unit_LNd[:, own_B], unit_LNd[:, near_BM])
    similar_LBM[:, :, 0] = torch.inf
    similar_LBM.masked_fill_(missing_BM, -torch.inf)
    ballot_k = torch.arange(k, 0, -1).double()
    votes_BM = torch.zeros(near_BM.shape, dtype=torch.float64)
    for similar_BM in similar_LBM:
        chosen_Bk = similar_BM.topk(k).indices
        votes_BM.scatter_add_(1, chosen_Bk, ballot_k.expand_as(chosen_Bk))
    similar_LBM[:, :, 0] = 1
    places_Bk = (votes_BM + similar_LBM.mean(0).clamp(min=-1) / 4).masked_fill(missing_BM, -1.0).topk(k).indices
    positive_LBM = similar_LBM.clamp(min=0)
    sampled_LBS = (unit_LNd[:, own_B] @ unit_LNd[:, sample].transpose(1, 2)).clamp(min=0)
    known_B = (~missing_BM).sum(1)
    rest_LB = sampled_LBS.mean(2) * (unit_LNd.shape[1] - known_B)
    sums_LB = positive_LBM.sum(2) + rest_LB
    rows_LBk = torch.stack([layer_BM.gather(1, places_Bk) for layer_BM in positive_LBM])
    return near_BM.gather(1, places_Bk), _normalised(rows_LBk, sums_LB)


def _normalised(rows_LBk: Tensor, sums_LB: Tensor) -> Tensor:
    weights_Bk = (rows_LBk.double() / sums_LB.double()[:, :, None]).mean(0)
    return (weights_Bk / weights_Bk.sum(1, keepdim=True)).float()


def _unit(sketches_LNd: Tensor) -> Tensor:
    norms_LN1 = torch.linalg.vector_norm(sketches_LNd, dim=2, keepdim=True)
    return torch.where(norms_LN1 > 0, sketches_LNd / norms_LN1.clamp(min=1e-30), 0).float()


def _checked(k: int, n: int) -> int:
    if not 1 <= k <= n:
        raise ValueError(f"k={k}: choose 1..{n}, the number of clients")
    return k


def shares(groups: Groups, tasks: Sequence[Hashable], owners: Sequence[Hashable]) -> csr_matrix:
    """A (C, N), sparse: how much of each client's update each task's model moves by, the mean of its clients' rows."""
    from scipy.sparse import csr_matrix

    n, k = groups.friends_NK.shape
    place = {owner: row for row, owner in enumerate(owners)}
    if unknown := [task for task in tasks if task not in place]:
        raise ValueError(f"no model belongs to {unknown[0]!r}: the models' owners are {', '.join(map(str, owners))}")
    rows = np.array([place[task] for task in tasks])
    counts = np.bincount(rows, minlength=len(owners))
    values = (groups.weights_NK.double().numpy() / counts[rows][:, None]).ravel()
    where = (np.repeat(rows, k), groups.friends_NK.numpy().ravel())
    return csr_matrix((values, where), shape=(len(owners), n))


@dataclass
class Sums:
    """What the models move by, added up as updates come for the second time."""

    weights_CN: csr_matrix | np.ndarray

    def __post_init__(self) -> None:
        self.factors: Factors = factors(self.weights_CN)
        self._sums_GP: Tensor | None = None

    def add(self, position: int, row_P: Tensor) -> None:
        """Add the update of the client at a position among all: once for each sum that it belongs to."""
        if self._sums_GP is None:
            self._sums_GP = torch.zeros(self.factors.basis_CG.shape[1], len(row_P))
        for group, factor in self.factors.of(position):
            self._sums_GP[group].add_(row_P, alpha=factor)

    def total(self) -> Tensor:
        """(C, P) float32."""
        if self._sums_GP is None:
            raise ValueError("no update was added: add each client's before asking for the total")
        return torch.from_numpy(self.factors.basis_CG).float() @ self._sums_GP
