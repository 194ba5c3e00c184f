"""Parcels as Flower messages, without a hub."""

from __future__ import annotations

import time

import pytest
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.app.message import make_message
from flwr.app.metadata import Metadata
from flwr.common.serde import message_from_proto
from flwr.proto.message_pb2 import ObjectTree
from flwr.supercore.inflatable.inflatable_object import get_object_id, iterate_object_tree
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents, validate_object_content

from commonroot.common.errors import Malformed
from commonroot.common.messages import box_bytes
from commonroot.common.parcel import TO_COORDINATOR, TO_DEPARTMENT, Parcel
from commonroot.flower import INLINE_BODY, MAX_HEAD, MESSAGE_TYPE, SHORT_PARCEL, Envelope, Sealed, unpack
from commonroot.server.gate import MAX_REQUEST

MIB = 1024 * 1024
ALL = TO_COORDINATOR | TO_DEPARTMENT


def addressed(parcel: Parcel) -> tuple[Envelope, Metadata]:
    metadata = Metadata(
        run_id=7,
        message_id="",
        src_node_id=1,
        dst_node_id=9,
        reply_to_message_id="",
        group_id="1",
        created_at=time.time(),
        ttl=60.0,
        message_type=MESSAGE_TYPE,
    )
    return Envelope(Sealed(parcel), metadata), metadata


def everything(envelope: Envelope) -> dict[str, bytes]:
    return dict(envelope.contents({node.object_id for node in iterate_object_tree(envelope.tree)}))


@pytest.mark.parametrize("size", [0, 1, SHORT_PARCEL - 3, SHORT_PARCEL, INLINE_BODY, INLINE_BODY + 1, 12 * MIB + 5])
def test_a_parcel_comes_out_as_it_went_in(size: int) -> None:
    body = bytes(range(251)) * (size // 251 + 1)
    parcel = Parcel("masked", b"hea\x00d", body[:size])
    envelope, _ = addressed(parcel)
    content = message_from_proto(envelope.announcement).content
    again = unpack(content, envelope.tree, everything(envelope).__getitem__, kinds=ALL)
    assert (again.kind, again.head, bytes(again.body)) == ("masked", b"hea\x00d", body[:size])


@pytest.mark.parametrize(("size", "objects"), [(1000, 1), (2 * MIB, 3), (12 * MIB, 8)])
def test_a_parcel_is_as_few_objects_as_its_size_allows(size: int, objects: int) -> None:
    """Short: the message.  Inline: + records + note.  12 MiB: + array record + array + 3 chunks of 5, 5 and 2 MiB."""
    body = bytes(range(256)) * (size // 256)
    envelope, _ = addressed(Parcel("round-open", b"", b"!" + body))
    assert len(everything(envelope)) == objects


def test_repeated_chunks_are_sent_once_and_put_back_in_their_places() -> None:
    body = bytes(5 * MIB) + b"x" * (5 * MIB) + bytes(5 * MIB) + b"end"
    envelope, _ = addressed(Parcel("round-open", b"", body))
    contents = everything(envelope)
    assert sum(content.startswith(b"ArrayChunk") for content in contents.values()) == 3
    assert bytes(unpack(RecordDict(), envelope.tree, contents.__getitem__, kinds=ALL, repeats=True).body) == body


def test_body_may_be_any_contiguous_buffer() -> None:
    import numpy as np

    numbers = np.arange(1_000_000, dtype=np.int64)
    envelope, _ = addressed(Parcel("masked", b"", memoryview(numbers)))  # 8 MB, items of 8 bytes
    contents = everything(envelope)
    assert bytes(unpack(RecordDict(), envelope.tree, contents.__getitem__, kinds=ALL).body) == numbers.tobytes()


@pytest.mark.parametrize("size", [10, 100_000, 6 * MIB])
def test_message_ids_are_flowers_own(size: int) -> None:
    parcel = Parcel("masked", b"head", b"y" * size)
    envelope, metadata = addressed(parcel)
    contents = everything(envelope)
    for object_id, content in contents.items():
        assert get_object_id(content) == object_id
        validate_object_content(content)
    if size > SHORT_PARCEL:  # as an object of Flower's the whole message can be read by Flower
        message = inflate_object_from_contents(envelope.message_id, contents)
        assert isinstance(message, Message)
        assert message.content["parcel"]["kind"] == "masked"
        assert make_message(metadata=metadata, content=message.content).object_id == envelope.message_id
    else:
        assert message_from_proto(envelope.announcement).content["parcel"]["body"] == b"y" * size


def test_the_note_is_pushed_last() -> None:
    """Whoever finds it must find the rest too."""
    envelope, _ = addressed(Parcel("masked", b"", bytes(6 * MIB)))
    assert list(everything(envelope).values())[-1].startswith(b"ConfigRecord")


NOTE = {"kind": "masked", "head": b"", "size": 3, "body": b"abc", "mark": ""}


@pytest.mark.parametrize(
    "note",
    [
        pytest.param({**NOTE, "size": 4}, id="size-and-body-disagree"),
        pytest.param({**NOTE, "kind": 5}, id="kind-is-a-number"),
        pytest.param({**NOTE, "head": "text"}, id="head-is-text"),
        pytest.param({k: v for k, v in NOTE.items() if k != "body"}, id="no-body-anywhere"),
        pytest.param({}, id="empty"),
    ],
)
def test_a_strange_note_is_refused(note: dict[str, int | str | bytes]) -> None:
    content = RecordDict({"parcel": ConfigRecord(note)})
    with pytest.raises(Malformed):
        unpack(content, ObjectTree(object_id="0" * 64), dict[str, bytes]().__getitem__, kinds=ALL)


def test_a_message_of_other_records_is_refused() -> None:
    with pytest.raises(Malformed):
        unpack(
            RecordDict({"config": ConfigRecord({"a": 1})}), ObjectTree(object_id="0" * 64), {}.__getitem__, kinds=ALL
        )


@pytest.mark.parametrize("fault", ["array-missing-chunk", "longer", "no-chunk", "not-an-array"])
def test_a_body_that_does_not_fit_its_note_is_refused(fault: str) -> None:
    envelope, _ = addressed(Parcel("round-open", b"", b"a" * (5 * MIB) + b"b" * (5 * MIB)))
    contents = everything(envelope)
    array_id = next(i for i, c in contents.items() if c.startswith(b"Array "))
    chunk_ids = [i for i, c in contents.items() if c.startswith(b"ArrayChunk ")]
    if fault == "array-missing-chunk":
        contents[array_id] = contents[array_id].replace(b'"arraychunk_ids": [0, 1]', b'"arraychunk_ids": [0]')
    elif fault == "longer":
        contents[chunk_ids[1]] += b"more"
    elif fault == "no-chunk":
        contents[chunk_ids[0]] = b"ConfigRecord  0\x00"
    else:
        contents[array_id] = b"ConfigRecord  2\x00{}"
    with pytest.raises(Malformed):
        unpack(RecordDict(), envelope.tree, contents.__getitem__, kinds=ALL)


@pytest.mark.parametrize("size", [0, 1 * MIB, 2 * MIB, 4 * MIB])
def test_the_longest_head_there_can_be_passes_the_gate_beside_any_body(size: int) -> None:
    """An opening among 1,000 departments with everybody in the sum: 1,000 boxes of 16 + 32·105 + 16 bytes."""
    head = bytes(range(250)) * (1000 * box_bytes(105) // 250 + 1)
    assert 3_000_000 < len(head) <= MAX_HEAD
    envelope, _ = addressed(Parcel("open", head, b"!" * size))
    contents = everything(envelope)
    assert max(map(len, contents.values())) < MAX_REQUEST - 1000
    again = unpack(RecordDict(), envelope.tree, contents.__getitem__, kinds=ALL, repeats=True)
    assert (again.head, len(again.body)) == (head, size)
    longer, _ = addressed(Parcel("open", bytes(MAX_HEAD + 1), b""))
    with pytest.raises(Malformed):
        unpack(RecordDict(), longer.tree, everything(longer).__getitem__, kinds=ALL)
