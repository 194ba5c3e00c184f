"""What a department may announce to the hub: one reply to a message it was sent, of no more objects than that needs.

Flower takes whatever tree of objects a node announces, as often as it announces one, and keeps what is then pushed for
it; so an enrolled department could fill the hub's memory long before a round looks at its upload.  Here an announcement
is refused unless everything in it hangs below the one message, which frees it all when it is taken or given up.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from flwr.app.metadata import Metadata
from flwr.common.constant import FLWR_PRIVATE_MAX_ARRAY_CHUNK_SIZE
from flwr.proto.message_pb2 import ObjectTree

from commonroot.common.errors import Malformed

#: Message, records, note, array record, array: what there is of a parcel beside the chunks of its body.
_BESIDE_CHUNKS: Final = 5
#: How deep that is, the chunks included.
_DEEPEST: Final = 5

#: The children that an object is known to have; None for one that was never announced.
Known = Callable[[str], Sequence[str] | None]


def most_objects(largest: int) -> int:
    """How many objects a reply of up to ``largest`` bytes is made of; each is at most one request long."""
    return _BESIDE_CHUNKS + -(-largest // FLWR_PRIVATE_MAX_ARRAY_CHUNK_SIZE)


def check_announcement(announced: Metadata, tree: ObjectTree, largest: int, known: Known) -> None:
    """Raise Malformed unless a node may announce this tree.

    Parameters  announced: of the message; tree: of its objects; largest: bytes of the longest reply that is expected;
                known: of the objects that the hub holds already
    An object that is named twice, or again with other children, would leave objects behind that nothing refers to.
    """
    if not announced.reply_to_message_id:
        raise Malformed("a message that replies to none")
    if tree.object_id != announced.message_id:
        raise Malformed("a reply whose objects are not its own")
    most, seen = most_objects(largest), set[str]()
    level = [tree]
    for _ in range(_DEEPEST):
        for node in level:
            if node.object_id in seen:
                raise Malformed("a reply that names an object twice")
            seen.add(node.object_id)
            if len(seen) + len(node.children) > most:
                raise Malformed(f"a reply of more than the {most} objects that one of {largest} bytes has")
            held = known(node.object_id)
            if held is not None and list(held) != [child.object_id for child in node.children]:
                raise Malformed("a reply that names an object again, with other children")
        level = [child for node in level for child in node.children]
        if not level:
            return
    raise Malformed("a reply whose objects are nested too deep")
