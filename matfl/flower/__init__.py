"""The same rounds on Flower: clients in processes or machines of their own (extra `matfl[flower]`).

`flwr run flower_app` starts `server_app`, which sends messages to the `client_app` of each node. What a server does is
`matfl.server.server`, what a client does `matfl.runs.clients.client_round`: a federation ends as the local run of its
config.
"""

from __future__ import annotations

try:
    import flwr  # noqa: F401
except ModuleNotFoundError as error:
    if error.name != "flwr":
        raise
    raise ModuleNotFoundError("matfl.flower needs Flower: pip install 'matfl[flower]'", name="flwr") from error

from matfl.flower import client, federate
from matfl.flower.federate import federation
from matfl.flower.settings import NodeSettings, Settings
from matfl.flower.strategy import ManyTask

__all__ = ["ManyTask", "NodeSettings", "Settings", "client_app", "federation", "server_app"]

server_app = federate.app
"""Flower's `serverapp`; see docs/flower.md for its config."""

client_app = client.app
"""Flower's `clientapp`."""
