"""What each method's server step costs beside plain averaging: deciding the weights and applying them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch

from matfl.bench.record import race
from matfl.bench.rounds import layout_of, models_of, round_of, updates_of
from matfl.config.run_config import override
from matfl.server.methods import METHODS, Dispatch, Result, Round
from matfl.server.mixing import mix

__all__ = ["measure_methods"]


def measure_methods(
    clients: int,
    *,
    width: int = 64,
    device: torch.device | str = "cpu",
    repeats: int = 3,
    names: Sequence[str] = (),
) -> list[dict[str, Any]]:
    """A row a method (default: all): `step_s`, best of `repeats`, and what it is over the step of 'fedavg' in the same
    run (`times_fedavg`) and of 'matfl' (`times_matfl`); by processor time as well (`cpu_`).

    Updates are in memory and without heads. Methods take turns with 'fedavg' and 'matfl', so that load hits all alike.
    What clients send beside their models is zeros of the announced shapes.
    """
    layout = layout_of(width)
    updates = updates_of(layout, clients, device)
    rows = []
    for name in names or METHODS:
        ways = {other: _step(_round(other, updates, device)) for other in dict.fromkeys((name, "fedavg", "matfl"))}
        found = race(ways, seconds=0, repeats=repeats, device=device)
        row: dict[str, Any] = {"method": name, "clients": clients, "parameters": layout.P}
        row["step_s"] = 1 / found[name].per_second
        for other in ("fedavg", "matfl"):
            row[f"times_{other}"] = found[other].per_second / found[name].per_second
            row[f"cpu_times_{other}"] = found[other].per_cpu_second / found[name].per_cpu_second
        rows.append(row)
    return rows


def _round(name: str, updates: Any, device: torch.device | str) -> Round:
    method = METHODS[name]
    models = models_of(updates.layout, device, clients=len(updates) if method.scope == "client" else 0)
    round = round_of(models, updates, number=2)
    config = override(round.config, method=name)
    before = Dispatch(number=0, config=config, models=models, client_tasks=round.client_tasks)
    state = method.start(before)
    shapes = method.reply_shapes(round_of(models, updates, config=config, state=state), 0)
    replies = tuple(
        Result(
            client=client,
            loss=1.0,
            images=100,
            seconds=0.0,
            steps=10,
            message={name: torch.zeros(shape, device=device) for name, shape in shapes.items()},
        )
        for client in updates.clients
    )
    return round_of(models, updates, number=2, config=config, state=state, replies=replies)


def _step(round: Round) -> Callable[[], int]:
    return partial(_mixed, round, METHODS[round.config.method].scope)


def _mixed(round: Round, scope: Any) -> int:
    mixing = METHODS[round.config.method].mix(round)
    mix(round.models, round.updates, mixing, round.tasks, scope=scope)
    return 1
