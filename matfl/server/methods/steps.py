"""Plain averaging that corrects how far clients went: FedNova by their steps, GradNorm by their updates' lengths."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from matfl.server.kernels import product_dtype
from matfl.server.methods.base import Dispatch, Method, Round, Tensors, method, register
from matfl.server.mixing import Mixing
from matfl.server.spans import whole_gram

__all__ = ["GradNorm", "balanced", "fednova", "normalised_by_steps"]


def normalised_by_steps(steps_N: Tensor) -> Tensor:
    """FedNova's weights (N,), float64: tau_eff p_i / tau_i with p_i = 1/N and tau_eff = sum p_i tau_i.

    Clients that made equally many steps get 1/N each. Raises ValueError when one made none.
    """
    tau_N = steps_N.double()
    if not (tau_N >= 1).all():
        raise ValueError("fednova: a client reports no local steps, and its update cannot be divided by them")
    return tau_N.mean() / tau_N / max(len(tau_N), 1)


@method(
    title="FedNova",
    description="plain averaging of updates divided by each client's number of local steps",
    source="Wang et al., Tackling the Objective Inconsistency Problem in Heterogeneous Federated Optimization, NeurIPS "
    "2020",
    family="optimisation",
)
def fednova(round: Round) -> Tensor:
    """w_ij = tau_eff / (N tau_j), tau_j the local steps of client j, tau_eff their mean.

    The paper's p_j are the clients' shares of all images. They are 1/N here as in `fedavg`, so that the two differ in
    the normalisation alone. The paper divides by the sum of the local optimiser's step coefficients; Adam's steps have
    one length each, so that is their number.
    """
    weights_N = normalised_by_steps(torch.tensor([reply.steps for reply in round.replies]))
    row_N = weights_N.to(round.updates.device, product_dtype(round.updates.dtype))
    return row_N.expand(round.n, round.n).clone()


def balanced(norms_N: Tensor, progress_N: Tensor, alpha: float) -> Tensor:
    """GradNorm's factors (N,), float64: the w, with mean 1, for which w_i norm(g_i) is in proportion to r_i^alpha.

    `progress_N` is each client's loss over its first one; r_i is that over its mean. The paper follows the gradient of
    sum_i |w_i norm(g_i) - mean_j(w_j norm(g_j)) r_i^alpha| by one step a batch; these w make every term 0. A client
    whose update is zero gets 1 before the mean is taken.
    """
    relative_N = progress_N.double() / progress_N.double().mean()
    norms_N = norms_N.double()
    moving_N = norms_N > 0
    factors_N = torch.where(moving_N, relative_N**alpha / norms_N.where(moving_N, torch.ones_like(norms_N)), 0)
    factors_N = factors_N / factors_N[moving_N].mean() if moving_N.any() else factors_N
    factors_N = factors_N.where(moving_N, torch.ones_like(factors_N))
    return factors_N / factors_N.mean()


@register
@dataclass(frozen=True, kw_only=True)
class GradNorm(Method):
    """w_ij = f_j / N with f_j norm(g_j) in proportion to r_j^alpha, r_j the loss left of client j over the mean's.

    GradNorm balances the gradients that several tasks send into one shared network. Here clients send updates into one
    plain average, and what is balanced is how far each of them moves it: in proportion to the share of its first loss
    that is left. It has a meaning only where one average is shared by all; a task's own average has one loss.
    """

    name = "gradnorm"
    title = "GradNorm"
    description = "plain averaging, clients' step lengths balanced by how much of their loss is left"
    source = "Chen et al., GradNorm, ICML 2018, algorithm 1 (its balance is solved, not descended)"
    family = "optimisation"

    alpha: float = 1.5
    """How strongly clients that learn slowly are helped; 0 makes all updates equally long. The paper's own value on
    NYU-v2's dense predictions."""

    def __post_init__(self) -> None:
        if not 0 <= self.alpha < float("inf"):
            raise ValueError(f"gradnorm.alpha={self.alpha}: choose 0 (equal lengths) or more; the paper uses 0.12 to 3")

    def start(self, before: Dispatch) -> Tensors:
        return {"first_loss": torch.full((len(before.client_tasks),), torch.nan, dtype=torch.float64)}

    def mix(self, round: Round) -> Mixing:
        first_N = round.state["first_loss"].clone()
        mine = list(round.updates.clients)
        losses = torch.tensor([reply.loss for reply in round.replies], dtype=torch.float64).to(first_N)
        first_N[mine] = torch.where(first_N[mine].isnan(), losses, first_N[mine])
        progress = torch.where(first_N[mine] > 0, losses / first_N[mine], 1.0)
        norms_N = whole_gram(round.updates).diagonal().sqrt()
        factors_N = balanced(norms_N, progress.to(norms_N), self.alpha) / max(round.n, 1)
        row_N = factors_N.to(product_dtype(round.updates.dtype))
        return Mixing(weights_NN=row_N.expand(round.n, round.n).clone(), state={"first_loss": first_N})
