"""Mixing as sums of sums: every update is added once for each group of models that takes it alike.

theta += A @ updates costs C N P. Where columns of A (C, N), which say how much of one client's update each model takes,
are multiples of few vectors, the updates of their clients are added up first and the sums are dealt out:
A = basis_CG @ factors_GN with about one entry in each column of the factors, for N P + C G P. Plain averaging has one
such vector; single-task averaging and grouping by tasks have C; in MaT-FL with many clients most updates go to their
own task's model alone. A column that is like no other is split into the models that take some of it. The product is
exact.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from scipy.sparse import csc_matrix, csr_matrix

__all__ = ["Factors", "add_by_sums", "factors"]

_COLUMNS = 1 << 16
"""Columns that are summed at a time: the sums stay in cache."""
_ALIKE = 1e-9
"""Greatest difference between two columns of unit norm that count as one."""


@dataclass(frozen=True)
class Factors:
    """A = basis_CG @ factors_GN."""

    basis_CG: np.ndarray
    factors_GN: csc_matrix

    def saves(self) -> bool:
        """Whether adding updates one by one is faster than multiplying: about where C is above 16 additions each."""
        return 16 * self.additions < self.basis_CG.shape[0] * self.factors_GN.shape[1]

    @property
    def additions(self) -> int:
        """Updates that are added, counted as often as they are: between N and C N."""
        return int(self.factors_GN.nnz)

    def of(self, position: int) -> list[tuple[int, float]]:
        """(sum, factor) of one client's update."""
        first, last = self.factors_GN.indptr[position : position + 2]
        return [
            (int(g), float(f)) for g, f in zip(self.factors_GN.indices[first:last], self.factors_GN.data[first:last])
        ]


def factors(weights_CN: csr_matrix | np.ndarray) -> Factors:
    """The factors of a matrix of weights: a sum for every direction that two columns share, else one a model."""
    from scipy.sparse import csc_matrix

    weights = csc_matrix(weights_CN, dtype=np.float64)
    weights.eliminate_zeros()
    models, n = weights.shape
    basis = np.eye(models)
    seen: dict[bytes, list[tuple[int, float]]] = {}
    directions: dict[bytes, np.ndarray] = {}
    alone: list[tuple[int, int, float]] = []
    for client in range(n):
        places = weights.indices[weights.indptr[client] : weights.indptr[client + 1]]
        values = weights.data[weights.indptr[client] : weights.indptr[client + 1]]
        if len(places) == 1:
            alone.append((int(places[0]), client, float(values[0])))
        elif len(places):
            column = np.zeros(models)
            column[places] = values
            length = float(np.linalg.norm(column)) * (1 if values[0] > 0 else -1)
            key = np.round(column / length / _ALIKE).astype(np.int64).tobytes()
            directions.setdefault(key, column / length)
            seen.setdefault(key, []).append((client, length))
    shared = {key: members for key, members in seen.items() if len(members) > 1}
    for key, members in seen.items():
        if key not in shared:
            client, length = members[0]
            alone += [(int(c), client, float(length * directions[key][c])) for c in np.flatnonzero(directions[key])]
    entries = list(alone)
    for number, (_, members) in enumerate(shared.items()):
        entries += [(models + number, client, length) for client, length in members]
    if shared:
        basis = np.concatenate([basis, np.stack([directions[key] for key in shared], 1)], 1)
    rows, columns, values = (np.array(part) for part in zip(*entries)) if entries else ([], [], [])
    return Factors(basis, csc_matrix((values, (rows, columns)), shape=(basis.shape[1], n)))


def add_by_sums(out_CK: Tensor, found: Factors, block_NK: Tensor, step: float = 1.0) -> None:
    """out_CK += step A @ block_NK by the factors of A, in place, in float32 or better."""
    wide = torch.promote_types(block_NK.dtype, torch.float32)
    groups = found.basis_CG.shape[1]
    sums_GK = torch.zeros((groups, block_NK.shape[1]), dtype=wide, device=block_NK.device)
    for first in range(0, block_NK.shape[1], _COLUMNS):
        columns = slice(first, first + _COLUMNS)
        for position, row_K in enumerate(block_NK[:, columns]):
            for group, factor in found.of(position):
                sums_GK[group, columns].add_(row_K, alpha=factor)
    out_CK.add_((torch.from_numpy(found.basis_CG).to(sums_GK) @ sums_GK).to(out_CK), alpha=step)
