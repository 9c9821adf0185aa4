"""Flower's server app: begin or go on with the run in the run store, wait for the clients, run the rounds."""

from __future__ import annotations

from pathlib import Path

import flwr
from flwr.app import ArrayRecord, Context
from flwr.serverapp import Grid, ServerApp

from matfl.flower import memory
from matfl.flower.nodes import Nodes
from matfl.flower.settings import Settings, client_pairs
from matfl.flower.strategy import ManyTask
from matfl.models.starts import start_backbone
from matfl.runs import store
from matfl.runs.engine import begin, pick_device, provenance, repeatable
from matfl.runs.workspace import Workspace
from matfl.server.server import Server, ServerState

__all__ = ["app", "federation"]

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """The server's part of `flwr run`."""
    federation(grid, Settings.of(context.run_config))


def federation(grid: Grid, settings: Settings) -> Path:
    """Run all rounds that are not stored yet, with the clients on `grid`; the run's folder.

    Raises TimeoutError when too few clients come, RunError when the folder holds another run or is in use.
    """
    config, device = settings.config, pick_device(settings.device or None)
    server = Server(config, client_pairs(config), device=device)
    path = Workspace(settings.runs_dir or None).runs / settings.folder
    with store.locked(path), repeatable(device):
        made_by = provenance(config, device)
        begin(
            path,
            config,
            {**made_by, "flower": flwr.__version__, "models": settings.models, "updates": settings.updates},
        )
        stored = store.stored_round(path, config)
        if stored == config.rounds:
            store.mark(path, config, config.rounds)
            return path
        nodes = Nodes(settings=settings)
        nodes.wait(grid, settings.needed_at_start)
        run = memory.run_name(config, store.read_provenance(path))
        strategy = ManyTask(server, *_state(server, nodes, path, stored), nodes, path, run)
        strategy.start(grid, ArrayRecord(), num_rounds=config.rounds - stored, timeout=settings.round_timeout)
    return path


def _state(server: Server, nodes: Nodes, path: Path, stored: int) -> tuple[ServerState, store.Records]:
    """What the next round starts from."""
    config, settings = server.config, nodes.settings
    if stored:
        tensors, records = store.load_checkpoint(path, config)
        return server.unpack(tensors, stored), records
    start = start_backbone(config, cache_dir=settings.cache_dir or None, device=server.device)
    return server.start(start, biases=nodes.start_biases()), store.Records(static=server.static())
