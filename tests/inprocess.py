"""A Flower grid in this process: the real client app and real message bytes, without Ray, sockets or a SuperLink."""

import random
from collections.abc import Callable, Iterable
from typing import Any
from uuid import uuid4

from flwr.app import Context, Error, Message, RecordDict
from flwr.serverapp import Grid
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, no_object_id_recompute
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents
from flwr.supercore.task_identity import TaskIdentity

__all__ = ["InProcessGrid", "travel", "wire_bytes"]

SERVER = 1


def travel(message: Message) -> Message:
    """The message as its receiver sees it: every part of it turned to bytes and back."""
    with no_object_id_recompute():
        contents = {name: part.deflate() for name, part in get_all_nested_objects(message).items()}
        received = inflate_object_from_contents(message.object_id, contents)
    received.metadata.__dict__["_message_id"] = message.metadata.message_id
    return received


def wire_bytes(message: Message) -> int:
    """Of all parts of the message as Flower sends them, each part that occurs twice counted once."""
    with no_object_id_recompute():
        return sum(len(part.deflate()) for part in get_all_nested_objects(message).values())


class InProcessGrid(Grid):
    """One node for each client; `fault(kind, round, client, reply)` returns the replies that arrive instead of `reply`.

    Replies arrive in a shuffled order; `order` seeds it.
    """

    def __init__(
        self,
        app: Callable[[Message, Context], Message],
        run_config: dict[str, Any],
        nodes: Iterable[dict[str, Any]],
        *,
        fault: Callable[..., list[Message]] | None = None,
        order: int = 0,
    ) -> None:
        # Outside of Flower's own processes nothing says which run messages belong to.
        TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, SERVER, 1
        self.app, self.random = app, random.Random(order)
        self.fault = fault or (lambda kind, round, client, reply: [reply])
        self.contexts = {self.random.getrandbits(60): Context(1, 0, node, RecordDict(), run_config) for node in nodes}
        self.waiting: dict[str, list[Message]] = {}
        self.sent: list[Message] = []

    @property
    def run(self) -> Any:
        return None

    def set_run(self, run: Any) -> None:
        raise NotImplementedError

    def create_message(self, *args: Any, **kwargs: Any) -> Message:
        raise NotImplementedError

    def get_node_ids(self) -> list[int]:
        return list(self.contexts)

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        pushed = []
        for message in messages:
            message.metadata.__dict__["_message_id"] = str(uuid4())
            self.sent.append(message)
            pushed.append(message.metadata.message_id)
            context = self.contexts[message.metadata.dst_node_id]
            try:
                reply = self.app(travel(message), context)
            except Exception as error:
                reply = Message(Error(2, f"{type(error)}:<'{error}'>"), reply_to=message)
            kind, round = message.metadata.message_type, int(message.metadata.group_id or 0)
            client = context.node_config.get("partition-id")
            self.waiting[pushed[-1]] = [travel(r) for r in self.fault(kind, round, client, reply)]
        return pushed

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        replies = [reply for name in message_ids for reply in self.waiting.pop(name, [])]
        self.random.shuffle(replies)
        return replies

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        return self.pull_messages(self.push_messages(messages))
