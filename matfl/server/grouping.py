"""Dynamic grouping: whom each client takes as friends (paper, section 3.4, step 1), and how much of each (step 2).

Shapes: N clients that replied, L voting layers. Everything after the one pass over the updates is N x N and cheap.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from matfl.server.kernels import add_gram, product_dtype
from matfl.server.layout import Slot
from matfl.server.updates import Updates

__all__ = [
    "clusters",
    "cosine",
    "friends",
    "gram",
    "layer_gram",
    "normalise",
    "similarity",
    "similarity_weights",
    "votes",
    "whole_updates",
]

_SAFE = (1e-30, 1e30)
"""Sums of squares that float32 products represent well; beyond them products are repeated in float64."""


def gram(updates: Updates, layers: Sequence[str]) -> Tensor:
    """Inner products of the clients' updates in each layer: (L, N, N), float64. Reads each layer's columns once.

    Products are taken in float32 or better whatever the updates' own precision (see `add_gram`) and added in float64. A
    layer in which an update's square leaves float32's range is taken again in float64.

    >>> import matfl, torch
    >>> from matfl.server.updates import ClientUpdate, Layout
    >>> layout = Layout.of({"w": torch.zeros(2)}, parameters=["w"], voting=["w"])
    >>> zero_P = torch.zeros(2)
    >>> trained = [torch.tensor([3.0, 4.0]), torch.tensor([4.0, 3.0])]
    >>> replies = [ClientUpdate(client=n, state={"w": w}, start_P=zero_P) for n, w in enumerate(trained)]
    >>> matfl.gram(matfl.Updates.of(layout, replies), ["w"])
    tensor([[[25., 24.],
             [24., 25.]]], dtype=torch.float64)
    """
    if not layers:
        raise ValueError("no voting layers: name them with Layout.of(backbone, voting=voting_layers(backbone, 8))")
    if unknown := [name for name in layers if name not in updates.layout.parameters]:
        raise ValueError(
            f"layer {unknown[0]!r} is not a parameter of the backbone: choose voting layers with "
            "matfl.models.backbone.voting_layers"
        )
    return torch.stack([layer_gram(updates, updates.layout.parameters[name]) for name in layers])


def layer_gram(updates: Updates, slot: Slot) -> Tensor:
    """Inner products (N, N), float64, of the clients' updates in the columns of `slot`."""
    gram_NN = torch.zeros((len(updates),) * 2, dtype=torch.float64, device=updates.device)
    for dtype in (product_dtype(updates.dtype), torch.float64):
        gram_NN.zero_()
        for _, block_NK in updates.columns(slot.start, slot.stop):
            add_gram(gram_NN, block_NK, dtype, columns=slot.stop - slot.start)
        squares_N = gram_NN.diagonal()
        if ((squares_N > _SAFE[0]) & (squares_N < _SAFE[1])).all():
            break
    return gram_NN


def cosine(gram_NN: Tensor) -> Tensor:
    """Cosines (..., N, N) from inner products; a client's with itself is 1, a zero update's with any other 0.

    >>> import matfl, torch
    >>> matfl.cosine(torch.tensor([[25.0, 24.0], [24.0, 25.0]]))
    tensor([[1.0000, 0.9600],
            [0.9600, 1.0000]])
    """
    squares_N = gram_NN.diagonal(dim1=-2, dim2=-1)
    inverse_N = torch.where(squares_N > 0, squares_N.clamp(min=torch.finfo(gram_NN.dtype).tiny).rsqrt(), 0)
    cosine_NN = (gram_NN * inverse_N.unsqueeze(-1) * inverse_N.unsqueeze(-2)).clamp(-1, 1)
    cosine_NN.diagonal(dim1=-2, dim2=-1).fill_(1)
    return cosine_NN


def similarity(updates: Updates, layers: Sequence[str]) -> Tensor:
    """Cosine similarity of the clients' updates in each layer (equation 5): (L, N, N) on the updates' device.

    The dtype is float64 for float64 updates and float32 otherwise. A client's similarity with itself is 1; a zero
    update's with any other is 0. ValueError when a layer is not among the parameters.

    >>> import matfl, torch
    >>> from matfl.server.updates import ClientUpdate, Layout
    >>> layout = Layout.of({"w": torch.zeros(2)}, parameters=["w"], voting=["w"])
    >>> zero_P = torch.zeros(2)
    >>> trained = [torch.tensor([3.0, 4.0]), torch.tensor([4.0, 3.0])]
    >>> replies = [ClientUpdate(client=n, state={"w": w}, start_P=zero_P) for n, w in enumerate(trained)]
    >>> matfl.similarity(matfl.Updates.of(layout, replies), ["w"])
    tensor([[[1.0000, 0.9600],
             [0.9600, 1.0000]]])
    """
    return cosine(gram(updates, layers)).to(product_dtype(updates.dtype))


def votes(similarity_LNN: Tensor, k: int) -> Tensor:
    """Each layer's votes (section 3.4): in row i the K most similar clients get K, K-1, ..., 1, the others 0; int64.

    A client leads its own vote, also before another whose update is identical. Other ties go to the lower index.

    >>> import matfl, torch
    >>> s_LNN = torch.tensor([[[1.0, 0.8, 0.1], [0.8, 1.0, 0.2], [0.1, 0.2, 1.0]]])
    >>> matfl.votes(s_LNN, k=2)
    tensor([[[2, 1, 0],
             [1, 2, 0],
             [0, 1, 2]]])
    """
    n = _clients(similarity_LNN, k)
    own_first_LNN = similarity_LNN.clone()
    own_first_LNN.diagonal(dim1=-2, dim2=-1).fill_(torch.inf)
    order_LNN = own_first_LNN.sort(dim=-1, descending=True, stable=True).indices
    ballot_N = (k - torch.arange(n, device=similarity_LNN.device)).clamp(min=0)
    return torch.zeros_like(order_LNN).scatter_(-1, order_LNN, ballot_N.expand_as(order_LNN))


def friends(votes_LNN: Tensor, k: int, *, similarity: Tensor | None = None) -> Tensor:
    """The K clients with the most votes over all layers (section 3.4): bool (N, N), row i the friends of client i.

    Ties go to the higher similarity summed over layers, when `similarity` (L, N, N) is given, then to the lower index.

    >>> import matfl, torch
    >>> s_LNN = torch.tensor([[[1.0, 0.8, 0.1], [0.8, 1.0, 0.2], [0.1, 0.2, 1.0]]])
    >>> matfl.friends(matfl.votes(s_LNN, k=2), k=2, similarity=s_LNN)
    tensor([[ True,  True, False],
            [ True,  True, False],
            [False,  True,  True]])
    """
    _clients(votes_LNN, k)
    total_NN = votes_LNN.sum(0)
    closeness_NN = torch.zeros_like(total_NN) if similarity is None else similarity.double().sum(0)
    order_NN = closeness_NN.sort(dim=-1, descending=True, stable=True).indices
    ranked_NN = total_NN.gather(-1, order_NN).sort(dim=-1, descending=True, stable=True).indices
    chosen_NK = order_NN.gather(-1, ranked_NN)[:, :k]
    return torch.zeros_like(total_NN, dtype=torch.bool).scatter_(-1, chosen_NK, True)


def _clients(tensor_LNN: Tensor, k: int) -> int:
    n = tensor_LNN.shape[-1]
    if not 1 <= k <= max(n, 1):
        raise ValueError(f"k={k}: choose 1..{n}, the number of clients that replied")
    return n


def normalise(weights_NN: Tensor) -> Tensor:
    """Negative entries set to 0 and rows scaled to sum to 1; a row without one keeps its own client.

    >>> import matfl, torch
    >>> matfl.normalise(torch.tensor([[3.0, 1.0], [-1.0, 0.0]]))
    tensor([[0.7500, 0.2500],
            [0.0000, 1.0000]])
    """
    positive_NN = weights_NN.clamp(min=0)
    sums_N1 = positive_NN.sum(-1, keepdim=True)
    own_NN = torch.eye(weights_NN.shape[-1], device=weights_NN.device, dtype=weights_NN.dtype)
    return torch.where(sums_N1 > 0, positive_NN / sums_N1, own_NN)


def similarity_weights(similarity_LNN: Tensor, friends_NN: Tensor | None = None) -> Tensor:
    """Mixing weights (equation 6): (N, N), rows sum to 1, in the dtype of `similarity_LNN`.

    Negative similarities count as 0; each layer's row is normalised to 1; layers are averaged; rows are restricted to
    friends (all clients by default) and normalised again. A row without a positive entry keeps the client's own update.

    >>> import matfl, torch
    >>> s_LNN = torch.tensor([[[1.0, 0.25, -0.5], [0.25, 1.0, 0.25], [-0.5, 0.25, 1.0]]])
    >>> matfl.similarity_weights(s_LNN)[0]
    tensor([0.8000, 0.2000, 0.0000])
    >>> matfl.similarity_weights(s_LNN, torch.eye(3, dtype=torch.bool))[1]
    tensor([0., 1., 0.])
    """
    positive_LNN = similarity_LNN.double().clamp(min=0)
    sums_LN1 = positive_LNN.sum(-1, keepdim=True)
    weights_NN = torch.where(sums_LN1 > 0, positive_LNN / sums_LN1, 0).mean(0)
    if friends_NN is not None:
        weights_NN = weights_NN * friends_NN
    return normalise(weights_NN).to(similarity_LNN.dtype)


def whole_updates(updates: Updates, theta_CP: Tensor, rows: Sequence[int]) -> tuple[Tensor, Tensor]:
    """(cosine (N,) of each update with what it started from, inner products (N, N) of all updates), in one pass.

    Over all parameters of the backbone, not the voting layers alone. What client n started from is row `rows[n]` of
    `theta_CP`: near -1 the update is mostly weight decay, and its similarity to others says little about the task; 0
    for a zero update. The products are float64.
    """
    index = torch.as_tensor(rows, device=theta_CP.device, dtype=torch.long)
    dots_N, updates_N, starts_C = (
        torch.zeros(size, dtype=torch.float64, device=updates.device)
        for size in (len(updates), len(updates), len(theta_CP))
    )
    gram_NN = torch.zeros((len(updates),) * 2, dtype=torch.float64, device=updates.device)
    for first, block_NK in updates.columns():
        start_CK = theta_CP[:, first : first + block_NK.shape[1]]
        add_gram(gram_NN, block_NK, product_dtype(updates.dtype))
        # Row by row: a norm in float64 copies what it is of.
        for c, start_K in enumerate(start_CK):
            starts_C[c] += torch.linalg.vector_norm(start_K, dtype=torch.float64) ** 2
        for n, row in enumerate(block_NK):
            updates_N[n] += torch.linalg.vector_norm(row, dtype=torch.float64) ** 2
            dots_N[n] += row.to(start_CK.dtype) @ start_CK[rows[n]]
    scale_N = (updates_N * starts_C[index]).sqrt()
    return torch.where(scale_N > 0, dots_N / scale_N, 0).to(product_dtype(updates.dtype)), gram_NN


def clusters(cosine_NN: Tensor, count: int) -> list[int]:
    """Each client's cluster: agglomerative, by the distance 1 - cosine, average linkage, cut at so many clusters."""
    from scipy.cluster.hierarchy import cut_tree, linkage
    from scipy.spatial.distance import squareform

    if len(cosine_NN) <= count:
        return list(range(len(cosine_NN)))
    tree = linkage(squareform(1 - cosine_NN.cpu().numpy(), checks=False), method="average")
    return cut_tree(tree, n_clusters=[count])[:, 0].tolist()
