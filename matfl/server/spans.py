"""Inner products of whole updates and of whole models: all that a method needs whose result lies in their span."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from matfl.server.grouping import cosine, layer_gram
from matfl.server.kernels import add_gram, add_trained_gram, full_precision, product_dtype
from matfl.server.layout import Slot
from matfl.server.mixing import Mixing
from matfl.server.updates import Updates

if TYPE_CHECKING:
    from matfl.server.methods.base import Round

__all__ = ["cross_products", "models_cosine", "models_gram", "of_models", "squared_distances", "whole_gram"]

_COLUMNS = 1 << 14
"""Columns of models that are looked at together: few enough for the rows of a federation to stay in cache."""


def whole_gram(updates: Updates) -> Tensor:
    """Inner products of the clients' updates over all parameters: (N, N), float64. One pass over the updates."""
    return layer_gram(updates, Slot(0, updates.layout.P, (updates.layout.P,)))


def models_gram(round: Round, *, buffers: bool = False) -> Tensor:
    """Inner products (N, N), float64, of the clients' trained backbones minus their mean over the clients.

    `buffers` counts the floating-point buffers (batch-norm means and variances) as well as the parameters.
    """
    gram_NN = _relative_gram(round, origin=False)
    if buffers and round.n and round.updates.layout.B:
        values_NB = round.updates.buffers_NB.double()
        add_gram(gram_NN, values_NB - values_NB[:1], torch.float64)
    centred_NN = gram_NN - gram_NN.mean(0, keepdim=True)
    return centred_NN - centred_NN.mean(1, keepdim=True)


def models_cosine(round: Round) -> Tensor:
    """Cosines (N, N), float64, of the clients' trained backbones, parameters as one vector."""
    gram_MM = _relative_gram(round, origin=True)
    with_origin_N, square = gram_MM[:-1, -1], gram_MM[-1, -1]
    return cosine(gram_MM[:-1, :-1] + with_origin_N[:, None] + with_origin_N + square)


def _relative_gram(round: Round, *, origin: bool) -> Tensor:
    """Inner products (N, N) of the trained backbones minus an origin, with `origin` also its own as the last row.

    The origin is what the first client started from: near all of them, so that small differences keep their digits.
    """
    updates, n = round.updates, round.n
    gram_NN = torch.zeros((n + origin,) * 2, dtype=torch.float64, device=updates.device)
    if n == 0:
        return gram_NN
    theta_CP, starts, P = round.models.theta_CP, list(round.starts), updates.layout.P
    for first, block_NK in updates.columns():
        start_CK = theta_CP[:, first : first + block_NK.shape[1]]
        add_trained_gram(gram_NN, start_CK, starts, block_NK, origin=origin, columns=P)
    return gram_NN


def squared_distances(gram_NN: Tensor) -> Tensor:
    """norm(x_i - x_j)^2 (N, N) from the inner products of the x."""
    squares_N = gram_NN.diagonal()
    return (squares_N[:, None] + squares_N - 2 * gram_NN).clamp(min=0).fill_diagonal_(0)


def cross_products(updates: Updates, rows_MP: Tensor) -> Tensor:
    """Inner products (M, N), float64, of other rows with the clients' updates. One pass over both."""
    products_MN = torch.zeros((len(rows_MP), len(updates)), dtype=torch.float64, device=updates.device)
    precision = product_dtype(updates.dtype)
    for low in range(0, updates.layout.P, _COLUMNS):
        for first, block_NK in updates.columns(low, min(low + _COLUMNS, updates.layout.P)):
            others_MK = rows_MP[:, first : first + block_NK.shape[1]]
            with full_precision():
                products_MN += (others_MK.to(precision) @ block_NK.to(precision).T).double()
    return products_MN


def of_models(round: Round, weights_NN: Tensor) -> Mixing:
    """The mixing that gives client i the model sum_j w_ij (theta_j + g_j), where the server keeps one a client.

    Rows sum to 1; batch-norm statistics are mixed alike. Clients that did not reply keep their models.
    """
    weights_NN = weights_NN.to(round.updates.device)
    rows = torch.tensor(round.starts, dtype=torch.long, device=weights_NN.device)
    models_CC = torch.eye(len(round.models.owners), dtype=torch.float64, device=weights_NN.device)
    models_CC[rows] = 0
    models_CC[rows[:, None], rows] = weights_NN.double()
    return Mixing(weights_NN=weights_NN.to(product_dtype(round.updates.dtype)), models_CC=models_CC)
