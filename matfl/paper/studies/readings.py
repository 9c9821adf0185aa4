"""How much each reading of Algorithm 1's open points would change a task's step, from stored similarities.

The paper leaves points open (which clients count among the K, what is normalised, what becomes of negative cosines).
Each reading gives another matrix A_CN: how much of each client's update a task's model takes. The L1 distance between
two rows of it is 0 when they agree and 2 when they take disjoint clients.

    python -m matfl.paper.studies.readings figures/scenes/runs      # the table of docs/paper.md
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from matfl.runs.run import Run, list_runs
from matfl.server.grouping import friends, normalise, similarity_weights, votes

__all__ = ["READINGS", "k_is_2", "readings", "stored", "table"]


def _ours(similarity_LNN: Tensor, k: int) -> Tensor:
    chosen = friends(votes(similarity_LNN, k), k, similarity=similarity_LNN)
    return similarity_weights(similarity_LNN, chosen)


def _k_others(similarity_LNN: Tensor, k: int) -> Tensor:
    return _ours(similarity_LNN, min(k + 1, similarity_LNN.shape[-1]))


def _without_self(similarity_LNN: Tensor, k: int) -> Tensor:
    weights_NN = _k_others(similarity_LNN, k).clone()
    weights_NN.fill_diagonal_(0)
    return weights_NN / weights_NN.sum(-1, keepdim=True).clamp(min=1e-12)


def _negatives_kept(similarity_LNN: Tensor, k: int) -> Tensor:
    chosen = friends(votes(similarity_LNN, k), k, similarity=similarity_LNN)
    weights_NN = (similarity_LNN / similarity_LNN.sum(-1, keepdim=True)).mean(0) * chosen
    return weights_NN / weights_NN.sum(-1, keepdim=True)


def _over_friends_only(similarity_LNN: Tensor, k: int) -> Tensor:
    chosen = friends(votes(similarity_LNN, k), k, similarity=similarity_LNN)
    rows_LNN = similarity_LNN.clamp(min=0) * chosen
    return normalise((rows_LNN / rows_LNN.sum(-1, keepdim=True)).mean(0))


def _raw_cosines(similarity_LNN: Tensor, k: int) -> Tensor:
    chosen = friends(votes(similarity_LNN, k), k, similarity=similarity_LNN)
    return normalise(similarity_LNN.mean(0) * chosen)


def _ties_by_number(similarity_LNN: Tensor, k: int) -> Tensor:
    return similarity_weights(similarity_LNN, friends(votes(similarity_LNN, k), k))


def _last_half(similarity_LNN: Tensor) -> Tensor:
    return similarity_LNN[-max(1, len(similarity_LNN) // 2) :]


def _last_half_votes(similarity_LNN: Tensor, k: int) -> Tensor:
    voting_LNN = _last_half(similarity_LNN)
    return similarity_weights(similarity_LNN, friends(votes(voting_LNN, k), k, similarity=voting_LNN))


def _last_half_alone(similarity_LNN: Tensor, k: int) -> Tensor:
    return _ours(_last_half(similarity_LNN), k)


READINGS: dict[str, Callable[[Tensor, int], Tensor]] = {
    "K others beside oneself": _k_others,
    "self excluded": _without_self,
    "negative similarities kept": _negatives_kept,
    "each layer normalised over friends only": _over_friends_only,
    "cosines averaged without normalising each layer": _raw_cosines,
    "ties in votes to the lower number, whatever its similarity": _ties_by_number,
    "votes of the later half of the voting layers alone": _last_half_votes,
    "votes and weights of the later half alone": _last_half_alone,
}
"""Reading -> weights_NN from (similarity (L, N, N), K). Ours: a client counts among its K, negatives are 0, each
layer's row is normalised over all clients, then layers are averaged and rows restricted to friends."""


def readings(runs: Iterable[Run]) -> pd.DataFrame:
    """Mean and 95th percentile, over all rounds and tasks, of the L1 change of a task's step: one row a reading.

    `runs` need stored similarities; rounds in which a client is missing are left out. ValueError when none is left.
    """
    changes: dict[str, list[float]] = {name: [] for name in READINGS}
    for share_CN, similarity_LNN, k in _rounds(runs):
        ours_CN = share_CN @ _ours(similarity_LNN, k).double()
        for name, weigh in READINGS.items():
            changes[name] += (share_CN @ weigh(similarity_LNN, k).double() - ours_CN).abs().sum(1).tolist()
    if not any(changes.values()):
        raise ValueError("no round with all clients and their similarities: give runs whose records keep them")
    table = {name: (np.mean(values), np.quantile(values, 0.95)) for name, values in changes.items()}
    return pd.DataFrame.from_dict(table, orient="index", columns=["mean", "95 %"]).rename_axis("reading")


def k_is_2(runs: Iterable[Run]) -> tuple[float, float]:
    """Mean and 95th percentile of the L1 distance between a task's step at K = 2 and single-task FL's, for tasks whose
    two clients have chosen each other: 0 but for similarities that are normalised by rows which differ.
    """
    changes: list[float] = []
    for share_CN, similarity_LNN, _ in _rounds(runs):
        mixed_CN = share_CN @ _ours(similarity_LNN, 2).double()
        alone = (mixed_CN * (share_CN == 0)).sum(1) == 0
        changes += (mixed_CN - share_CN)[alone].abs().sum(1).tolist()
    return float(np.mean(changes)), float(np.quantile(changes, 0.95))


def _rounds(runs: Iterable[Run]) -> Iterator[tuple[Tensor, Tensor, int]]:
    """(shares (C, N), similarity (L, N, N), K) of every round in which all clients are there."""
    for run in runs:
        stored = run.diagnostics
        share_CN = _shares(stored["client_pairs"].tolist())
        whole = stored["participants"].all(1)
        for similarity_LNN in torch.from_numpy(stored["similarity"][whole].astype(np.float64)):
            yield share_CN, similarity_LNN, run.config.k


def _shares(pairs: Sequence[str]) -> Tensor:
    """(C, N): 1 / (clients of the task) at a task's clients."""
    owns_CN = torch.tensor([[pair == task for pair in pairs] for task in dict.fromkeys(pairs)], dtype=torch.float64)
    return owns_CN / owns_CN.sum(1, keepdim=True)


def stored(folder: str | Path, tasks: str = "scenes9") -> list[Run]:
    """The records in `folder` that keep similarities, of MaT-FL on `tasks` with the settings that most of them have."""
    found = [
        run
        for run in list_runs(folder)
        if (run.config.method, run.config.tasks) == ("matfl", tasks) and "similarity" in run.diagnostics
    ]
    common = [(run.config.k, run.config.voting_layers, run.config.server_lr) for run in found]
    usual = max(common, key=common.count, default=None)
    return [run for run, its in zip(found, common, strict=True) if its == usual]


def table(frame: pd.DataFrame) -> str:
    """The frame as a Markdown table with three digits."""
    rows = [f"| {name} | {row['mean']:.3f} | {row['95 %']:.3f} |" for name, row in frame.iterrows()]
    return "\n".join(
        ["| reading | mean L1 change of a task's step | 95 % of the steps change less |", "|---|---|---|", *rows]
    )


if __name__ == "__main__":
    found = stored(sys.argv[1])
    print(table(readings(found)))
    print(
        "K = 2, where partners chose each other, against single-task FL: {:.3f}, 95 % below {:.3f}".format(
            *k_is_2(found)
        )
    )
