"""What an enrolled node may name in its requests: messages that were sent to it, their objects, and itself.

Flower checks that a node is who it says it is, and not much more: it hands out any object by its hash, lets any node
put any message away, and stores a reply under whichever sender the reply names.  Hashes are hard to guess, but a
department that learns one, or is told it, should have no use for it.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterable
from typing import Final

from flwr.proto.fleet_pb2 import PushMessagesRequest
from flwr.proto.message_pb2 import ConfirmMessageReceivedRequest, ObjectTree, PullObjectRequest
from google.protobuf.message import DecodeError

PULL: Final = "/v1/fleet/pull-object"
CONFIRM: Final = "/v1/fleet/confirm-message-received"
REPLY: Final = "/v1/fleet/push-messages"


class Belongings:
    """Which messages and objects are whose.  For any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        #: Message → its addressee and the objects it is made of.
        self._messages: dict[str, tuple[int, tuple[str, ...]]] = {}
        self._objects: Counter[tuple[int, str]] = Counter()

    def given(self, message_id: str, node_id: int, tree: ObjectTree) -> None:
        """A message is on its way to a node."""
        objects = tuple(_names(tree))
        with self._lock:
            self._drop(message_id)
            self._messages[message_id] = (node_id, objects)
            self._objects.update((node_id, name) for name in objects)

    def taken(self, message_ids: Iterable[str]) -> None:
        """These messages are answered or withdrawn."""
        with self._lock:
            for message_id in message_ids:
                self._drop(message_id)

    def may(self, path: str, node_id: int, body: bytes | bytearray) -> bool:
        """Whether this node may make this request."""
        try:
            if path not in (PULL, CONFIRM, REPLY):
                return True
            body = bytes(body)  # these are short
            if path == PULL:
                return (node_id, PullObjectRequest.FromString(body).object_id) in self._objects
            if path == CONFIRM:
                return self._is_its(ConfirmMessageReceivedRequest.FromString(body).message_object_id, node_id)
            if path == REPLY:
                return all(
                    reply.metadata.src_node_id == node_id and self._is_its(reply.metadata.reply_to_message_id, node_id)
                    for reply in PushMessagesRequest.FromString(body).messages_list
                )
        except DecodeError:
            return path not in (PULL, CONFIRM, REPLY)
        return True

    def _is_its(self, message_id: str, node_id: int) -> bool:
        with self._lock:
            return message_id in self._messages and self._messages[message_id][0] == node_id

    def _drop(self, message_id: str) -> None:
        node_id, objects = self._messages.pop(message_id, (0, ()))
        for name in objects:
            self._objects[node_id, name] -= 1
            if not self._objects[node_id, name]:
                del self._objects[node_id, name]


def _names(tree: ObjectTree) -> Iterable[str]:
    waiting, seen = [tree], set[str]()
    while waiting:
        node = waiting.pop()
        if node.object_id not in seen:
            seen.add(node.object_id)
            waiting.extend(node.children)
    return seen
