"""What a federation is told: the app's config (`flwr run -c ...`) on both sides, and each node's own config."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from matfl.config.run_config import RunConfig, override, preset
from matfl.core.settings import parse_settings
from matfl.flower.arrays import DTYPES, Precision
from matfl.runs.engine import data_version
from matfl.server.spool import Spool
from matfl.tasks.task import Pair, pairs

__all__ = ["NodeSettings", "Settings", "agreed_data", "client_pairs", "run_config"]

_CONFIG_KEYS = ("preset", "method", "settings")
_NODE_KEYS = ("task", "partition-id", "num-partitions", "data-dir", "cache-dir", "device", "own-data", "threads")


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """The app's config as the server uses it; `runs_dir` is the key `runs-dir`, and so on."""

    config: RunConfig
    """From the keys `preset`, `method` and `settings`, the last as in "rounds=3; lr=1e-3"."""
    runs_dir: str = ""
    """The run store; default $MATFL_RUNS, else ./runs of the server's process: give an absolute path."""
    run_name: str = ""
    """The run's folder in it; default the config's name, with '-updates-fp16' or '-models-fp16' where these are."""
    cache_dir: str = ""
    """Of the server, which needs only the backbone's start from it."""
    device: str = ""
    """Of the server; default a GPU if there is one."""
    updates: Precision = "fp32"
    """How parameters travel to the server; in fp16 as their difference from those that the client was sent."""
    models: Precision = "fp32"
    """How parameters travel to the clients."""
    memory: int = 0
    """Megabytes of updates that the server holds; where a round's need more they go to files. 0: all are held."""
    round_timeout: float = 3600.0
    """Seconds to wait for the replies of a round, and again for those of its evaluation."""
    discovery_timeout: float = 600.0
    """Seconds to wait for enough clients before the federation fails."""
    min_clients_start: int = 0
    """Clients that must have come before the first round; 0 means all."""
    min_clients: int = 1
    """Clients that must be there at the start of any later round."""
    poll_interval: float = field(default=1.0, repr=False)
    """Seconds between looks for new nodes."""

    def __post_init__(self) -> None:
        for name in ("updates", "models"):
            if getattr(self, name) not in DTYPES:
                raise ValueError(f"{name}={getattr(self, name)!r}: choose from {', '.join(DTYPES)}")
        if self.updates != "fp32" and self.config.codec != "none":
            raise ValueError(f"updates={self.updates!r} with codec={self.config.codec!r}: choose one of the two")
        for name in ("round_timeout", "discovery_timeout", "poll_interval"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{_key(name)}={getattr(self, name)}: give a positive number of seconds")
        if self.memory < 0:
            raise ValueError(f"memory={self.memory}: give megabytes, or 0 to hold all replies")
        n = self.config.num_clients
        if not 0 <= self.min_clients_start <= n:
            raise ValueError(f"min-clients-start={self.min_clients_start}: choose 1..{n}, or 0 for all {n} clients")
        if not 1 <= self.min_clients <= n:
            raise ValueError(f"min-clients={self.min_clients}: choose 1..{n}, the number of clients")

    @classmethod
    def of(cls, app_config: Mapping[str, Any]) -> Settings:
        """From Flower's run config. Raises ValueError or TypeError naming the key."""
        values: dict[str, Any] = {"config": run_config(app_config)}
        known = {_key(item.name): item for item in fields(cls) if item.name != "config"}
        for key, value in app_config.items():
            if key in _CONFIG_KEYS:
                continue
            if key not in known:
                raise ValueError(
                    f"unknown key {key!r} in the app's config: the keys are {', '.join((*_CONFIG_KEYS, *known))}"
                )
            kind: Any = {"int": int, "float": (int, float)}.get(str(known[key].type), str)
            if not isinstance(value, kind) or isinstance(value, bool):
                raise TypeError(f"{key}={value!r} in the app's config: expected {known[key].type}")
            values[known[key].name] = value
        return cls(**values)

    @property
    def folder(self) -> str:
        """The run's folder in the run store."""
        rough = [f"-{name}-fp16" for name in ("updates", "models") if getattr(self, name) == "fp16"]
        return self.run_name or "".join([self.config.name, *rough])

    def spool(self, path: Path) -> Spool | None:
        """Where replies of the run in `path` go when they do not fit into `memory`."""
        return Spool(folder=path / "replies", memory=self.memory * 10**6) if self.memory else None

    @property
    def needed_at_start(self) -> int:
        """Clients that must have come before the first round."""
        return self.min_clients_start or self.config.num_clients


def _key(name: str) -> str:
    return name.replace("_", "-")


def run_config(app_config: Mapping[str, Any]) -> RunConfig:
    """The run that the app's config describes; the same on the server and on every client."""
    changes: dict[str, object] = {}
    if app_config.get("method"):
        changes["method"] = app_config["method"]
    changes |= parse_settings(str(app_config.get("settings", "")), where="settings")
    return override(preset(app_config.get("preset") or "quick"), **changes)


def agreed_data(config: RunConfig, *, own_data: bool) -> str:
    """What server and node must agree on beside the config (`matfl.runs.engine.data_version`), as JSON: but for the
    contents of a domain's data where each node has its own."""
    version = data_version(config)
    return json.dumps({key: value for key, value in version.items() if not (own_data and key.startswith("domain "))})


def client_pairs(config: RunConfig) -> tuple[Pair, ...]:
    """The pair of each client, by client number."""
    return tuple(pair for pair in pairs(config.tasks) for _ in range(config.clients_per_task))


@dataclass(frozen=True, kw_only=True, slots=True)
class NodeSettings:
    """A node's own config (`flower-supernode --node-config`), which stays with it but for its task and number."""

    client: int
    """`partition-id`: the client's number, counted over all tasks."""
    pair: Pair
    """`task`: checked against that of the client with this number; simulated nodes do not say."""
    data_dir: str | None = None
    """Folder of the real data sets; default $MATFL_DATA."""
    cache_dir: str | None = None
    """Default $MATFL_CACHE, else ~/.cache/matfl."""
    device: str | None = None
    """Default a GPU if there is one."""
    own_data: bool = False
    """Whether all training images in `data_dir` are this client's; else it takes its share of them."""
    threads: int = 1
    """That train on a CPU. Numbers are those of the local engine with one."""

    @classmethod
    def of(cls, node_config: Mapping[str, Any], config: RunConfig) -> NodeSettings:
        """From Flower's node config. Raises ValueError or TypeError naming the key and the remedy."""
        if unknown := [key for key in node_config if key not in _NODE_KEYS]:
            raise ValueError(f"unknown key {unknown[0]!r} in the node config: the keys are {', '.join(_NODE_KEYS)}")
        number, n = _whole(node_config, "partition-id"), config.num_clients
        if not 0 <= number < n:
            raise ValueError(f"partition-id={number}: choose 0..{n - 1}, one for each of the {n} clients")
        if "num-partitions" in node_config and _whole(node_config, "num-partitions") != n:
            raise ValueError(
                f"num-partitions={node_config['num-partitions']}: this federation has {n} clients (in "
                f"simulation set num-supernodes={n})"
            )
        chosen = client_pairs(config)
        pair = chosen[number]
        task = node_config.get("task", pair.name)
        if task != pair.name:
            its = [str(index) for index, other in enumerate(chosen) if other.name == task]
            remedy = (
                f"the clients of {task} are {', '.join(its)}"
                if its
                else (f"choose a task from {', '.join(dict.fromkeys(other.name for other in chosen))}")
            )
            raise ValueError(f"task={task!r} with partition-id={number}: client {number} trains {pair.name}; {remedy}")
        own = node_config.get("own-data", False)
        if not isinstance(own, bool):
            raise TypeError(f"own-data={own!r}: expected true or false")
        if own and pair.domain.rendered:
            raise ValueError(f"own-data=true: {pair.name} is rendered; only folders of real data can be a client's own")
        threads = _whole(node_config, "threads") if "threads" in node_config else 1
        if threads < 1:
            raise ValueError(f"threads={threads}: must be at least 1")
        places = {
            name: str(node_config[_key(name)]) if node_config.get(_key(name)) else None
            for name in ("data_dir", "cache_dir", "device")
        }
        return cls(client=number, pair=pair, own_data=own, threads=threads, **places)  # type: ignore[arg-type]


def _whole(node_config: Mapping[str, Any], key: str) -> int:
    if key not in node_config:
        raise ValueError(
            f'the node config lacks {key!r}: start the node with --node-config \'task="outdoor/semseg" '
            "partition-id=0 num-partitions=18', its number among all clients"
        )
    value = node_config[key]
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{key}={value!r} in the node config: expected a whole number")
    return value
