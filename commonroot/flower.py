"""Parcels as Flower messages: the one piece of Flower that both ends must have alike.

A parcel is one Flower message of ordinary records.  Every object that Flower stores costs a request to push and one to
pull, a few milliseconds each whatever its size, so there are as few of them as the size allows:

* short parcels travel whole inside the message, as a ``ConfigRecord`` with kind, head and body;
* up to 4 MiB that ``ConfigRecord`` is an object of its own;
* a longer body is one flat ``Array`` beside it, in Flower's chunks of 5 MiB, and never one array per tensor.

Objects are content-addressed: the same body sent to every department is stored once.  Only what is needed is fetched:
message, record dictionary and array record merely name what is below them.  The ``ConfigRecord`` is pushed last, so
whoever finds it finds the rest too.
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Final

import httpx
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict
from flwr.app.message.arraychunk import ArrayChunk
from flwr.app.message_type import MessageType
from flwr.app.metadata import Metadata
from flwr.common.serde import recorddict_to_proto
from flwr.common.serde_utils import metadata_to_proto
from flwr.proto.message_pb2 import Message as MessageProto
from flwr.proto.message_pb2 import ObjectTree
from flwr.supercore.constant import HEAD_BODY_DIVIDER, HEAD_VALUE_DIVIDER
from flwr.supercore.inflatable.inflatable_object import (
    InflatableObject,
    get_all_nested_objects,
    get_object_body,
    get_object_children_ids_from_object_content,
    get_object_id,
    get_object_tree,
    no_object_id_recompute,
)
from flwr.supercore.protobuf.client import ProtobufCall, ProtobufRequestContext
from flwr.supercore.runtime_version_compatibility import RuntimeVersionMetadata

from commonroot.common.errors import Malformed
from commonroot.common.parcel import Parcel
from commonroot.common.secure_sum.pieces import PIECE_BYTES, cut, digests, piece_header

#: Parcels up to this many bytes, head and body, ride inside the message itself.
SHORT_PARCEL: Final = 64 * 1024
#: Bodies up to this many bytes ride inside the record.  One object must stay below the gate's limit for a request.
INLINE_BODY: Final = 4 * 1024 * 1024
#: The longest body taken from a peer, in bytes.
MAX_BODY: Final = 4 * 1024**3
#: The longest head taken from a peer, in bytes: an opening among 1,000 departments has 3.4 MB.
MAX_HEAD: Final = 4 * 1024 * 1024
#: A record holds at most this many bytes of head and body together.
_MOST_INLINE: Final = 5 * 1024 * 1024
#: Flower's type of all our messages; the kind of a parcel travels inside.
MESSAGE_TYPE: Final = MessageType.QUERY

_NOTE, _BODY = "parcel", "body"

#: Fetches one object by its id.  Raises whatever the link raises when it is not to be had.
Fetch = Callable[[str], bytes]


def quiet() -> None:
    """Let Flower's log speak through the program's own handlers, and only of what is unexpected."""
    log = logging.getLogger("flwr")
    for handler in list(log.handlers):
        log.removeHandler(handler)
    log.addHandler(logging.NullHandler())
    if not any(isinstance(known, _OnlyTheUnexpected) for known in log.filters):
        log.addFilter(_OnlyTheUnexpected())
    log.setLevel(logging.ERROR)
    log.propagate = True
    # What it stands on is as talkative: a line per request, a line per migration.
    for name in ("httpx", "httpcore", "alembic", "uvicorn"):
        logging.getLogger(name).setLevel(logging.WARNING)


class _OnlyTheUnexpected(logging.Filter):
    """What Flower logs as an error and is none: requests it refuses (a refused node asks again and says so itself), and
    pieces of replies that came after the quorum, when nobody waits for them any more."""

    def filter(self, record: logging.LogRecord) -> bool:
        told = record.getMessage()
        return "[ApiError:" not in told and "was not pre-registered" not in told


class VersionStamp:
    """Names Flower's version on every request, as its own clients do, but never ends the process over the answer.

    ``program`` is the version of ours, for the other side's ``doctor``.
    """

    def __init__(self, component: str, program: str = "") -> None:
        self._headers = dict(RuntimeVersionMetadata.from_local_component(component).as_metadata())
        if program:
            self._headers["commonroot-version"] = program

    def intercept(self, context: ProtobufRequestContext, call_next: ProtobufCall) -> httpx.Response:
        """Add the headers and pass on."""
        context.request.headers.update(self._headers)
        return call_next(context)


class Counted:
    """Counts the bytes of each HTTP request before it leaves: its first line, its headers and its body, before TLS."""

    def __init__(self, on_sent: Callable[[str, int], None]) -> None:
        self._on_sent = on_sent

    def intercept(self, context: ProtobufRequestContext, call_next: ProtobufCall) -> httpx.Response:
        """Count and pass on.  The kind is the last part of the route, such as ``push-object`` or ``heartbeat``."""
        request = context.request
        target = request.url.raw_path
        line = len(request.method) + 1 + len(target) + len(b" HTTP/1.1\r\n")
        headers = sum(len(name) + len(value) + len(b": \r\n") for name, value in request.headers.raw)
        self._on_sent(target.decode().rsplit("/", 1)[-1], line + headers + len(b"\r\n") + len(request.content))
        return call_next(context)


class _Chunk(ArrayChunk):
    """Flower's array chunk, byte for byte: hashed once where its data lie, and copied once, when it is sent."""

    def __init__(self, data: memoryview, digest: bytes) -> None:
        super().__init__(data)
        self._digest = digest.hex()

    @property
    def object_id(self) -> str:
        """SHA-256 of ``deflate()``: the digest of the piece."""
        return self._digest

    def deflate(self) -> bytes:
        """Flower's form of the chunk."""
        return b"".join((piece_header(len(self.data)), self.data))


def _chunks(body: memoryview, known: tuple[bytes, ...]) -> list[tuple[str, _Chunk]]:
    """A body as chunks by name: its pieces, which are as long as Flower's chunks."""
    made = zip(cut(body), known or digests(body), strict=True)
    return [(digest.hex(), _Chunk(piece, digest)) for piece, digest in made]


class Unpacked:
    """An object as it lies in its parcel; its bytes, a second copy, are made when they are wanted."""

    def __init__(self, thing: InflatableObject) -> None:
        self._thing = thing

    def made(self) -> bytes:
        """Flower's form of the object."""
        return self._thing.deflate()


class Sealed:
    """A parcel as Flower objects, hashed once however many departments it goes to.

    ``mark`` makes the note differ from any other, so that it is uploaded even if somebody else's was the same.
    """

    def __init__(self, parcel: Parcel, mark: str = "") -> None:
        view = memoryview(parcel.body)
        # len() of a view counts its items, which need not be bytes.
        body = view.cast("B") if view.nbytes else memoryview(b"")
        note: dict[str, str | bytes | int] = {
            "kind": parcel.kind,
            "head": parcel.head,
            "size": len(body),
            "mark": mark,
        }
        record = RecordDict()
        self.short: RecordDict | None = None
        self.tree: ObjectTree | None = None
        self.objects: dict[str, InflatableObject] = {}
        self.note_id = ""
        if len(body) <= INLINE_BODY and len(parcel.head) + len(body) <= _MOST_INLINE:
            note["body"] = bytes(body)
        else:
            # Straight from the buffer: Array(ndarray) would copy it through np.save first.
            array = Array(dtype="uint8", shape=(len(body),), stype="commonroot.bytes", data=b"")
            array.data = body  # type: ignore[assignment]
            # Array.slice_array would make these itself, and copy each of them to hash it.
            array.__dict__["_chunks"] = _chunks(body, parcel.pieces)
            # Item by item: ArrayRecord({...}) would copy the array and check that its data are bytes.
            arrays = ArrayRecord()
            arrays[_BODY] = array
            record[_BODY] = arrays
        record[_NOTE] = ConfigRecord(note)  # type: ignore[arg-type]
        if len(parcel.head) + len(body) <= SHORT_PARCEL:
            self.short = record
            return
        with no_object_id_recompute():
            self.objects = get_all_nested_objects(record)
            self.tree = get_object_tree(record)
            self.note_id = record[_NOTE].object_id


class Envelope:
    """One sealed parcel addressed with one message's metadata: what is announced, and what is pushed."""

    def __init__(self, sealed: Sealed, metadata: Metadata) -> None:
        proto = metadata_to_proto(metadata)
        proto.message_id = ""
        body = MessageProto(metadata=proto).SerializeToString(deterministic=True)
        # What flwr.app.Message.deflate writes, without hashing the whole body again for every addressee.
        child = "" if sealed.tree is None else sealed.tree.object_id
        head = HEAD_VALUE_DIVIDER.join(("Message", child, str(len(body))))
        self._root = head.encode() + HEAD_BODY_DIVIDER + body
        self._sealed = sealed
        self.message_id = get_object_id(self._root)
        self.content = sealed.short if sealed.short is not None else RecordDict()
        proto.message_id = self.message_id
        self.announcement = MessageProto(metadata=proto, content=recorddict_to_proto(self.content))
        self.tree = ObjectTree(object_id=self.message_id, children=[] if sealed.tree is None else [sealed.tree])

    def unpacked(self, wanted: set[str]) -> Iterator[tuple[str, bytes | Unpacked]]:
        """As ``contents``, but chunks of the body are left where they lie: the parcel must outlive them."""
        chunks = {name for name, thing in self._sealed.objects.items() if isinstance(thing, _Chunk)} & wanted
        yield from ((name, Unpacked(self._sealed.objects[name])) for name in chunks)
        yield from self.contents(wanted - chunks)

    def contents(self, wanted: set[str]) -> Iterator[tuple[str, bytes]]:
        """The wanted objects, one at a time, the note last of all."""
        if self.message_id in wanted:
            yield self.message_id, self._root
        note_id = self._sealed.note_id
        for object_id, thing in self._sealed.objects.items():
            if object_id in wanted and object_id != note_id:
                yield object_id, thing.deflate()
        if note_id in wanted:
            yield note_id, self._sealed.objects[note_id].deflate()


@contextmanager
def reading(what: str) -> Iterator[None]:
    """Whatever goes wrong while somebody else's bytes are read is Malformed, with no word of theirs in it.

    Protobuf, JSON and Flower's records raise a dozen classes between them, ``RecursionError`` among them.  Nothing that
    waits or fetches may happen inside.
    """
    try:
        yield
    except Malformed:
        raise
    except Exception as error:
        raise Malformed(f"{what} ({type(error).__name__})") from error


def unpack(
    content: RecordDict,
    tree: ObjectTree,
    fetch: Fetch,
    *,
    kinds: Collection[str],
    repeats: bool = False,
    checked: bool = False,
) -> Parcel:
    """The parcel of an announced message: from its own content if it is short, else fetched by the tree.

    ``kinds`` are those that the receiver knows; no other kind ever leaves this function.  A long body is fetched chunk
    by chunk into a buffer that grows with what arrives, so a body takes no more memory than was sent for it.  With
    ``repeats`` it may name a chunk twice, as broadcasts do (zeros of a first backbone); masked vectors never repeat.
    ``checked`` says that whatever ``fetch`` returns was compared with the hash it is asked for by; the parcel then
    knows its pieces.
    Raises  Malformed: not what :class:`Sealed` makes; and whatever ``fetch`` raises
    """
    if not tree.children:
        with reading("a message without its note"):
            note, array = content.get(_NOTE), None
        if not isinstance(note, ConfigRecord):
            raise Malformed("a message without its note")
    else:
        note_id, array = _branches(tree)
        note = _read_note(fetch(note_id))
    kind, head, size, inline = note.get("kind"), note.get("head"), note.get("size"), note.get("body")
    if not isinstance(kind, str) or not isinstance(head, bytes) or not isinstance(size, int) or len(head) > MAX_HEAD:
        raise Malformed("a note that is not of a parcel")
    if kind not in kinds:
        raise Malformed("a parcel of unknown kind")
    if isinstance(inline, bytes):
        if array is not None or len(inline) != size:
            raise Malformed("a note and its body disagree")
        return Parcel(kind, head, inline)
    if array is None or not 0 <= size <= MAX_BODY:
        raise Malformed("a note without its body")
    body, names = _read_body(array.object_id, size, fetch, repeats=repeats)
    if not checked:
        return Parcel(kind, head, body)
    with reading("chunks that are not named by their digests"):
        return Parcel(kind, head, body, tuple(map(bytes.fromhex, names)))


def _branches(tree: ObjectTree) -> tuple[str, ObjectTree | None]:
    """The id of the note, and the tree of the array if there is one."""
    note, array = "", None
    for record in tree.children[0].children:
        if not record.children:
            note = record.object_id
        elif len(record.children) == 1:
            array = record.children[0]
    if not note:
        raise Malformed("a message without its note")
    return note, array


def _read_note(content: bytes) -> ConfigRecord:
    with reading("a note that is no config record"):
        return ConfigRecord.inflate(content)


def _read_body(array_id: str, size: int, fetch: Fetch, *, repeats: bool) -> tuple[bytearray, list[str]]:
    """Assemble the array named by ``array_id``, exactly ``size`` bytes; each chunk is dropped once it is copied.

    With the body, the names by which its chunks were asked for, in order.
    """
    content = fetch(array_id)
    with reading("a body that is no array"):
        names = get_object_children_ids_from_object_content(content)
        order = _chunk_order(get_object_body(content, Array), names)
    if len(order) != -(-size // PIECE_BYTES):
        raise Malformed("a body whose chunks do not make up its size")
    if len(order) != len(names) and not repeats:
        raise Malformed("a body that names a chunk twice")
    # A chunk that occurs twice (zeros, mostly) is listed twice and was uploaded once: keep it until its last use.
    uses = Counter(order)
    kept: dict[int, memoryview] = {}
    body = bytearray()
    for index in order:
        chunk = kept.pop(index, None)
        if chunk is None:
            chunk = _chunk_bytes(fetch(names[index]))
        uses[index] -= 1
        if uses[index]:
            kept[index] = chunk
        if len(chunk) != min(PIECE_BYTES, size - len(body)):
            raise Malformed("a chunk of another size than its place in the body")
        body += chunk
    if len(body) != size:
        raise Malformed("a body shorter than its note says")
    return body, [names[index] for index in order]


def _chunk_order(body: bytes, names: list[str]) -> list[int]:
    """Indices into ``names``, as Flower writes them: each new one is the next, and all names are used, none twice."""
    order = json.loads(body)["arraychunk_ids"]
    if not isinstance(order, list) or not all(type(index) is int for index in order):
        raise Malformed("chunk indices that are no numbers")
    if list(dict.fromkeys(order)) != list(range(len(names))) or len(set(names)) != len(names):
        raise Malformed("chunk indices out of order")
    return order


def _chunk_bytes(content: bytes) -> memoryview:
    at = content.find(HEAD_BODY_DIVIDER) + 1
    if content[:at] != piece_header(len(content) - at):
        raise Malformed("a chunk that is no array chunk")
    return memoryview(content)[at:]
