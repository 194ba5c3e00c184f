"""Flower's link state and object store as this hub needs them: one writer, payloads in memory, long replies in turn."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from flwr.app import Message
from flwr.common.constant import (
    FLWR_PRIVATE_MAX_ARRAY_CHUNK_SIZE,
)
from flwr.proto.message_pb2 import ObjectTree
from flwr.server.superlink.linkstate.sql_linkstate import SqlLinkState
from flwr.supercore.inflatable.inflatable_object import iterate_object_tree
from flwr.supercore.object_store.in_memory_object_store import InMemoryObjectStore
from flwr.supercore.utils import int64_to_uint64
from flwr.superlink.federation import NoOpFederationManager
from sqlalchemy.orm import Session

from commonroot.common.errors import Malformed
from commonroot.flower import MAX_BODY, MAX_HEAD, Unpacked
from commonroot.server.announcements import check_announcement
from commonroot.server.belongings import Belongings
from commonroot.server.limits import Limits

#: For how long a long reply that does not arrive counts among those on their way, in seconds.
_LONG_PATIENCE: Final = 120.0
#: For how long room is kept for one that may come and has not announced itself, in seconds.
_ANNOUNCING: Final = 10.0


def _long_bytes(tree: ObjectTree) -> int:
    """At most so many bytes has a reply's body that does not fit into its record; 0 where it fits."""
    arrays = [array for child in tree.children for record in child.children for array in record.children]
    return sum(len(array.children) for array in arrays) * FLWR_PRIVATE_MAX_ARRAY_CHUNK_SIZE


class Payloads(InMemoryObjectStore):
    """Flower's object store in memory, with registering as one step.

    Departments share the objects of one broadcast.  Flower looks whether a shared object is there and counts the
    reference to it in two steps; a department that confirms its copy in between would delete it under the other's feet.
    """

    def preregister(self, run_id: int, object_tree: ObjectTree) -> list[str]:
        """Note which objects of a message are missing."""
        with self.lock_store:
            return super().preregister(run_id, object_tree)

    def put(self, object_id: str, object_content: bytes | Unpacked) -> None:
        """Store what a node pushes, compared with its name; what we send is made when it is asked for."""
        if not isinstance(object_content, Unpacked):
            super().put(object_id, object_content)
            return
        with self.lock_store:
            entry = self.store[object_id]
            if not entry.is_available:
                entry.content = object_content  # type: ignore[assignment]
                entry.is_available = True

    def get(self, object_id: str) -> bytes | None:
        """An object; None for one that is not registered, empty for one that has not arrived."""
        content: bytes | Unpacked | None = super().get(object_id)
        return content.made() if isinstance(content, Unpacked) else content

    def complete(self, object_ids: Iterable[str]) -> bool:
        """Whether all of these have arrived."""
        with self.lock_store:
            return all(object_id in self.store and self.store[object_id].is_available for object_id in object_ids)

    def take(self, object_id: str) -> None:
        """Let go of an object's content, unless another message has it too; it stays registered."""
        with self.lock_store:
            entry = self.store.get(object_id)
            if entry is not None and entry.ref_count <= 1:
                entry.content = b""

    def children_of(self, object_id: str) -> list[str] | None:
        """The children under which an object was registered; None for one that was not."""
        with self.lock_store:
            entry = self.store.get(object_id)
            return None if entry is None else entry.child_object_ids


class Links(SqlLinkState):
    """Flower's link state in SQLite, one transaction at a time.

    SQLite has one writer.  Left to itself it turns a second one away ("database is locked", HTTP 500) or makes it sleep
    and try again; all of ours are threads of one process and can simply queue.
    """

    def __init__(self, database: Path, payloads: Payloads) -> None:
        super().__init__(str(database), NoOpFederationManager(), payloads)
        self._turn = threading.RLock()
        self._payloads = payloads
        self.belongings = Belongings()
        #: Replies that were announced, by what they answer; and of the long ones, by their root, when, and their bytes.
        self._replies: dict[str, str] = {}
        self._long: dict[str, tuple[float, int]] = {}
        #: The same of those that were told to come and are not announced yet.
        self._let_in: dict[str, tuple[float, int]] = {}
        #: Bytes of long replies that may be on their way at once.
        self.most_on_their_way = Limits().replies_mib * 1024 * 1024
        #: Bytes of the longest reply that is expected.
        self.largest = MAX_HEAD + MAX_BODY
        #: Why the reply to a message was refused when it was announced, by that message.
        self.refused: dict[str, str] = {}

    def store_message_and_object_tree(
        self, message: Message, object_tree: ObjectTree, session_id: str
    ) -> tuple[bool, list[str]]:
        """What a node announces, if it may; see ``announcements``."""
        told = message.metadata
        with self._turn:
            try:
                check_announcement(told, object_tree, self.largest, self._payloads.children_of)
            except Malformed as error:
                asked = self.get_valid_message_ins(told.reply_to_message_id)
                if asked is not None and int64_to_uint64(asked["dst_node_id"]) == told.src_node_id:
                    self.refused[told.reply_to_message_id] = str(error)
                return False, []
            stored, missing = super().store_message_and_object_tree(message, object_tree, session_id)
            if stored:
                self._replies[told.reply_to_message_id] = object_tree.object_id
                if size := _long_bytes(object_tree):
                    self._long.setdefault(object_tree.object_id, (time.monotonic(), size))
                    self._let_in.pop(object_tree.object_id, None)
            return stored, missing

    def has_room(self, tree: ObjectTree) -> bool:
        """Whether a reply may be announced now: long ones come a few at a time, so that memory does not depend on how
        many departments there are.  One that does not get on keeps others out for a while only."""
        with self._turn:
            now = time.monotonic()
            self._long = {name: told for name, told in self._long.items() if name in self._payloads}
            self._let_in = {name: told for name, told in self._let_in.items() if now - told[0] < _ANNOUNCING}
            busy = sum(size for at, size in self._long.values() if now - at < _LONG_PATIENCE)
            busy += sum(size for name, (_, size) in self._let_in.items() if name not in self._long)
            wanted = _long_bytes(tree)
            known = tree.object_id in self._long or tree.object_id in self._let_in
            if wanted and not known and busy and busy + wanted > self.most_on_their_way:
                return False
            if wanted:  # until it is announced, which others may ask about in between
                self._let_in[tree.object_id] = (now, wanted)
            return True

    def settle(self, message_ids: Iterable[str], *, withdrawn: bool) -> None:
        """Nobody waits for replies to these any more; what was announced of withdrawn ones is freed."""
        with self._turn:
            roots = [self._replies.pop(name) for name in message_ids if name in self._replies]
        for root in roots if withdrawn else ():
            self._payloads.delete(root)

    def complete(self, tree: ObjectTree) -> bool:
        """Whether every object of a reply has arrived."""
        return self._payloads.complete(node.object_id for node in iterate_object_tree(tree))

    def take(self, object_id: str) -> None:
        """An object was copied out of the store, and need not be there any more."""
        self._payloads.take(object_id)

    def post(self, message: Message, object_tree: ObjectTree, session_id: str) -> tuple[bool, list[str]]:
        """What the coordinator sends: stored without asking, and from now on its addressee may ask for it."""
        told = message.metadata
        self.belongings.given(told.message_id, told.dst_node_id, object_tree)
        stored, missing = super().store_message_and_object_tree(message, object_tree, session_id)
        if not stored:
            self.belongings.taken([told.message_id])
        return stored, missing

    @contextlib.contextmanager
    def session(self) -> Iterator[Session]:
        """One transaction; nested calls in the same thread join it."""
        with self._turn, super().session() as session:
            yield session

    def close(self) -> None:
        """Let go of the file."""
        if self._engine is not None:
            self._engine.dispose()
