"""A grid of Flower's in this process: messages go straight to the ClientApp, as any of its workers would run it."""

from __future__ import annotations

import random
from collections.abc import Iterable

from flwr.app import Context, Message, RecordDict
from flwr.app.error import Error
from flwr.serverapp import Grid

from commonroot.simulations.flower_app import client


class GridHere(Grid):
    """As many nodes as asked for; replies come in another order than messages went.

    forgets  every message finds a worker that was just started
    """

    def __init__(self, nodes: int, *, forgets: bool = False, fails: bool = False) -> None:
        self._nodes = list(range(101, 101 + nodes))
        self._forgets, self._fails = forgets, fails
        self._replies: dict[str, Message] = {}
        self._dice = random.Random(1)
        self.sent = 0

    def set_run(self, run: object) -> None: ...

    @property
    def run(self) -> object:
        raise AssertionError("no round asks for this")

    def get_node_ids(self) -> Iterable[int]:
        return self._nodes

    def get_nodes(self) -> Iterable[object]:
        raise AssertionError("no round asks for this")

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        ids = []
        for message in messages:
            self.sent += 1
            name = f"message {self.sent}"
            message.metadata.__dict__["_message_id"] = name
            context = Context(1, message.metadata.dst_node_id, {}, RecordDict(), {})
            if self._forgets:
                client._home.clear()
            if self._fails:
                self._replies[name] = Message(Error(code=0, reason="out of memory"), reply_to=message)
            else:
                self._replies[name] = client.app(message, context)
            ids.append(name)
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        ready = [name for name in message_ids if name in self._replies]
        return [self._replies.pop(self._dice.choice(ready))] if ready else []

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        raise AssertionError("no round asks for this")

    def create_message(self, *args: object, **kwargs: object) -> Message:
        raise AssertionError("no round asks for this")
