"""One direction for all clients that spares each of them: PCGrad and CAGrad over their updates.

The rules themselves, functions of inner products, are in `matfl.core.conflicts`. Every client takes the same
combination, so all tasks' backbones stay one, as with plain averaging.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from matfl.core.conflicts import conflict_averse, projected
from matfl.server.kernels import product_dtype
from matfl.server.methods.base import Method, Round, method, register
from matfl.server.mixing import Mixing
from matfl.server.spans import whole_gram

__all__ = ["CAGrad", "pcgrad"]


def _for_all(round: Round, coefficients_N: Tensor) -> Mixing:
    row_N = coefficients_N.to(round.updates.device, product_dtype(round.updates.dtype))
    return Mixing(weights_NN=row_N.expand(round.n, round.n).clone())


@method(
    title="PCGrad",
    description="plain averaging of updates that are first projected off each other's conflicts",
    source="Yu et al., Gradient Surgery for Multi-Task Learning, NeurIPS 2020, algorithm 1",
    family="conflict",
)
def pcgrad(round: Round) -> Mixing:
    """w_i = the mean over j of p_j's coefficients, p_j <- p_j - <p_j, g_k> / <g_k, g_k> g_k wherever <p_j, g_k> < 0.

    The order of the k is drawn from (seed, method, round).
    """
    return _for_all(round, projected(whole_gram(round.updates), generator=round.generator("order")).mean(0))


@register
@dataclass(frozen=True, kw_only=True)
class CAGrad(Method):
    """w_i = 1/N + c norm(g_0) / norm(g_w) w: the best worst improvement within c norm(g_0) of the mean update g_0."""

    name = "cagrad"
    title = "CAGrad"
    description = "the direction near the mean update that helps the worst-off client most"
    source = "Liu et al., Conflict-Averse Gradient Descent for Multi-task Learning, NeurIPS 2021, algorithm 1"
    family = "conflict"

    c: float = 0.4
    """Radius of the ball round the mean, in units of the mean's length; 0 is plain averaging, and from 1 on the ball
    holds 0. The paper's own choice where tasks are dense predictions (NYU-v2)."""
    rescale: bool = False
    """Divide by 1 + c^2, which keeps the step's length nearer the mean's; the paper's algorithm does not."""

    def __post_init__(self) -> None:
        if not 0 <= self.c < float("inf"):
            raise ValueError(f"cagrad.c={self.c}: choose 0 (plain averaging) or more; the paper uses 0.2 to 0.8")

    def mix(self, round: Round) -> Mixing:
        return _for_all(round, conflict_averse(whole_gram(round.updates), self.c, rescale=self.rescale))
