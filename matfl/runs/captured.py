"""The updates of a run's rounds, as methods see them, for whoever studies updates rather than what became of them."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import replace

from matfl.config.run_config import RunConfig
from matfl.data.start_bias import start_biases
from matfl.models.starts import start_backbone
from matfl.runs.engine import load_splits, pick_device, repeatable
from matfl.runs.simulation import Simulation
from matfl.server.methods import Round
from matfl.server.server import Server

__all__ = ["captured"]


def captured(config: RunConfig, rounds: Collection[int], *, device: str | None = None) -> Iterator[Round]:
    """The given rounds (1-based) of a run, ascending, with all replies that came; nothing is stored or evaluated.

    A round's updates are valid until the next is asked for. Raises ValueError for a round that the run does not have.
    """
    if wrong := [number for number in rounds if not 1 <= number <= config.rounds]:
        raise ValueError(f"round {wrong[0]}: choose 1..{config.rounds}, the run's rounds")
    where, last = pick_device(device), max(rounds)
    silent = replace(config, rounds=last + 1, evaluate_every=last + 1)
    with repeatable(where):
        simulation = Simulation(silent, where, load_splits(silent), None)
        server = Server(silent, [client.pair for client in simulation.clients], device=where)
        state = server.start(
            start_backbone(silent, device=where), biases=start_biases(simulation.clients, simulation.splits)
        )
        while state.rounds_done < last:
            collection = server.begin(state)
            simulation.train(server, state, collection, {"train": 0.0, "evaluate": 0.0})
            if state.next_round in rounds:
                yield collection.so_far()
            state, _ = collection.finish()
