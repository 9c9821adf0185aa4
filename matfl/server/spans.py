"""Inner products of whole updates and of whole models: all that a method needs whose result lies in their span."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from matfl.server.grouping import layer_gram
from matfl.server.kernels import add_gram, full_precision, product_dtype
from matfl.server.layout import Slot
from matfl.server.mixing import Mixing
from matfl.server.updates import Updates

if TYPE_CHECKING:
    from matfl.server.methods.base import Round

__all__ = ["cross_products", "deviations", "models_gram", "of_models", "squared_distances", "whole_gram"]

_COLUMNS = 1 << 16
"""Columns of models that are looked at together."""


def whole_gram(updates: Updates) -> Tensor:
    """Inner products of the clients' updates over all parameters: (N, N), float64. One pass over the updates."""
    return layer_gram(updates, Slot(0, updates.layout.P, (updates.layout.P,)))


def deviations(round: Round) -> Iterator[tuple[int, Tensor, Tensor]]:
    """(first column, trained - mean (N, K), mean (K,)) of the clients' trained backbones, over all columns.

    The mean is that of the clients; differences are formed before any product is, which keeps their digits.
    """
    updates, starts = round.updates, list(round.starts)
    for low in range(0, updates.layout.P, _COLUMNS):
        for first, block_NK in updates.columns(low, min(low + _COLUMNS, updates.layout.P)):
            start_CK = round.models.theta_CP[:, first : first + block_NK.shape[1]]
            trained_NK = start_CK[starts].to(product_dtype(updates.dtype)) + block_NK
            mean_K = trained_NK.mean(0)
            yield first, trained_NK - mean_K, mean_K


def models_gram(round: Round, *, mean: bool = False, buffers: bool = False) -> Tensor:
    """Inner products (N, N), float64, of the clients' trained backbones minus their mean over the clients.

    `mean` adds the mean itself as row and column N. `buffers` counts the floating-point buffers (batch-norm means and
    variances) as well as the parameters.
    """
    updates, n = round.updates, round.n
    size = n + mean
    gram_NN = torch.zeros((size, size), dtype=torch.float64, device=updates.device)
    if n == 0:
        return gram_NN
    precision = product_dtype(updates.dtype)
    for _, deviation_NK, mean_K in deviations(round):
        add_gram(gram_NN, torch.cat([deviation_NK, mean_K[None]]) if mean else deviation_NK, precision)
    if buffers and updates.layout.B:
        values_NB = updates.buffers_NB.double()
        mean_B = values_NB.mean(0)
        values_NB = values_NB - mean_B
        add_gram(gram_NN, torch.cat([values_NB, mean_B[None]]) if mean else values_NB, torch.float64)
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
