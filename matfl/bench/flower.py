"""What a federation costs the server: bytes on the wire, processor time and memory, without any training.

One round of the real strategy with the real messages: each is taken apart, turned to bytes and put together again as
Flower's grid does it, and clients reply at once with the model that they were sent, slightly moved.

- wire: bytes of all parts of a message, with the requests that carry them, over the numbers in it (4 bytes each in
  fp32); HTTP's headers, some 300 bytes for each of about 14 parts, are not counted.
- CPU: processor seconds of the server's process in a round: encode, hash, decode, aggregate, store.
- memory: the most that the process held above what it held before the models were made, over all replies of the round.
"""

from __future__ import annotations

import argparse
import gc
import logging
import os
import tempfile
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, cast
from uuid import uuid4

import torch

from matfl.bench.record import machine, save
from matfl.config.run_config import PRESETS, RunConfig, override, preset

__all__ = ["main", "measure"]


def measure(config: RunConfig, *, precision: str = "fp32", folder: Path) -> dict[str, float]:
    """The costs of one round of `config`, which is stored in `folder`."""
    from flwr.app import ArrayRecord, ConfigRecord

    from matfl.flower import ManyTask, Settings
    from matfl.flower.nodes import Nodes
    from matfl.flower.settings import client_pairs
    from matfl.models.starts import start_backbone
    from matfl.runs import store
    from matfl.server.server import Server

    settings = Settings(config=config, updates=precision, models=precision)  # type: ignore[arg-type]
    gc.collect()
    before = _resident(reset=True)
    server = Server(config, client_pairs(config))
    nodes = Nodes(settings=settings, clients={client: 100 + client for client in range(config.num_clients)})
    strategy = ManyTask(
        server, server.start(start_backbone(config)), store.Records(static=server.static()), nodes, folder, "bench"
    )
    grid: Any = _grid_class()(strategy)
    store.create(folder, config, {})
    began = time.process_time()
    replies = grid.send_and_receive(strategy.configure_train(1, ArrayRecord(), ConfigRecord(), grid))
    strategy.aggregate_train(1, replies)
    list(strategy.configure_evaluate(1, ArrayRecord(), ConfigRecord(), grid))
    strategy.aggregate_evaluate(1, [])
    cpu = time.process_time() - began - grid.client_seconds
    row = strategy.records.rounds[0]
    if row["excluded"]:
        raise RuntimeError(f"the bench's own clients were left out: {row['excluded']}")
    payload = sum(array for array in grid.payloads)
    exact = row["bytes_up"] // 4 * (2 if precision == "fp16" else 4)
    return {
        "clients": config.num_clients,
        "payload_per_client": exact / config.num_clients,
        "wire_up_over_payload": grid.up / exact,
        "wire_down_over_payload": grid.down / exact,
        "uploaded_over_payload": grid.uploaded / exact,
        "cpu_seconds": cpu,
        "payload_megabytes_per_cpu_second": 2 * exact / 1e6 / cpu,
        "payload_of_round": payload,
        "peak_memory_over_payload": (_peak() - before) / payload,
    }


def _grid_class() -> type:
    """Flower is imported only where it is used."""
    from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict
    from flwr.proto.message_pb2 import PushObjectRequest
    from flwr.serverapp import Grid
    from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, no_object_id_recompute
    from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents
    from flwr.supercore.task_identity import TaskIdentity

    from matfl.flower.arrays import size

    class EchoGrid(Grid):
        """Nodes that reply with what they were sent, and bytes that are counted."""

        def __init__(self, strategy: Any) -> None:
            TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, 1, 1
            self.strategy = strategy
            self.up = self.down = self.uploaded = 0
            self.client_seconds = 0.0
            self.payloads: list[int] = []

        run: Any = None

        def set_run(self, run: Any) -> None:
            raise NotImplementedError

        def create_message(self, *args: Any, **kwargs: Any) -> Message:
            raise NotImplementedError

        def get_node_ids(self) -> Iterable[int]:
            return list(self.strategy.nodes.clients.values())

        def push_messages(self, messages: Iterable[Message]) -> list[str]:
            return []

        def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
            return []

        def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
            messages = list(messages)
            seen: set[str] = set()
            with no_object_id_recompute():
                for message in messages:
                    message.metadata.__dict__["_message_id"] = str(uuid4())
                    for name, part in get_all_nested_objects(message).items():
                        length = _request(name, part.deflate())
                        self.down += length
                        self.uploaded += 0 if name in seen else length
                        seen.add(name)
            return [self.reply(message) for message in messages]

        def reply(self, message: Message) -> Message:
            began = time.process_time()
            settings = self.strategy.nodes.settings
            record = ArrayRecord()
            for name, array in cast(ArrayRecord, message.content["model"]).items():
                record[name] = (
                    array if name.endswith(".buffers") else moved(array, settings.updates, len(self.payloads))
                )
            result = MetricRecord({"loss": 1.0, "images": 1, "seconds": 0.0, "steps": 1})
            reply = Message(RecordDict({"model": record, "result": result}), reply_to=message)
            self.payloads.append(size(record))
            with no_object_id_recompute():
                contents = {name: part.deflate() for name, part in get_all_nested_objects(reply).items()}
                self.up += sum(_request(name, content) for name, content in contents.items())
                name = reply.object_id
            del record, reply
            self.client_seconds += time.process_time() - began
            return cast(Message, inflate_object_from_contents(name, contents))

    def moved(array: Array, precision: str, client: int) -> Array:
        numbers = array.numpy()
        if precision == "fp16":  # differences travel, not values
            numbers[:] = 0
        numbers[client % 97 :: 97] += 1e-3
        return Array(numbers)

    def _request(name: str, content: bytes) -> int:
        return PushObjectRequest(run_id=1 << 62, object_id=name, object_content=content).ByteSize()

    return EchoGrid


def _status(key: str) -> int:
    """Bytes from Linux's account of this process."""
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/self/status has no {key}")


def _resident(*, reset: bool) -> int:
    """Memory in use now; `reset` lets the peak start from here."""
    if reset:
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
    return _status("VmRSS")


def _peak() -> int:
    return _status("VmHWM")


def main(argv: Sequence[str] | None = None) -> int:
    """`python -m matfl.bench flower`: prints the costs of a round; `--json FILE` keeps the record. Linux only."""
    parser = argparse.ArgumentParser(
        prog="python -m matfl.bench flower", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--preset", choices=sorted(PRESETS), default="full", help="whose network (default: %(default)s)"
    )
    parser.add_argument("--tasks", default="outdoor/semseg,outdoor/edge,indoor/depth", help="task set or pairs")
    parser.add_argument("--clients-per-task", type=int, default=2)
    parser.add_argument("--method", default="matfl")
    parser.add_argument("--precision", choices=("fp32", "fp16"), default="fp32", help="of models and updates")
    parser.add_argument("--json", type=Path, help="file for the record")
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    logging.getLogger("flwr").setLevel(logging.WARNING)
    config = override(
        preset(options.preset),
        tasks=options.tasks,
        clients_per_task=options.clients_per_task,
        method=options.method,
        start="random",
        k=2,
        rounds=2,
        evaluate_every=2,
    )
    with tempfile.TemporaryDirectory() as folder:
        found = measure(config, precision=options.precision, folder=Path(folder))
    print(
        f"{found['clients']} clients, {found['payload_per_client'] / 1e6:.2f} MB a client each way "
        f"({options.precision}, method {options.method}), load {os.getloadavg()[0]:.1f}"
    )
    print(
        f"wire over payload      {found['wire_up_over_payload']:.4f} up, {found['wire_down_over_payload']:.4f} down "
        f"({found['uploaded_over_payload']:.2f} from the server, equal parts once)"
    )
    print(f"server CPU a round     {found['cpu_seconds']:.2f} s, {found['payload_megabytes_per_cpu_second']:.0f} MB/s")
    print(
        f"peak memory / payload  {found['peak_memory_over_payload']:.2f} (all replies of the round: "
        f"{found['payload_of_round'] / 1e6:.0f} MB)"
    )
    save(
        options.json,
        {
            "bench": "flower",
            "options": {
                "preset": options.preset,
                "tasks": config.tasks,
                "method": options.method,
                "precision": options.precision,
            },
            "machine": machine(),
            "round": found,
        },
    )
    return 0
