"""What an enrolled department may make the hub hold: the objects of one reply to each message, and nothing else."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
from flower_house import Department, House, ask, echo, until
from flwr.app import Message, RecordDict
from flwr.app.message import make_message
from flwr.app.metadata import Metadata
from flwr.proto.message_pb2 import ObjectTree

from commonroot.common.errors import Malformed
from commonroot.common.parcel import MASKED, Parcel
from commonroot.flower import Envelope, Sealed
from commonroot.server.announcements import check_announcement, most_objects
from commonroot.server.links import Fault

MIB = 1024 * 1024
CHUNK = 5 * MIB


def metadata(**changes: Any) -> Metadata:
    fields: dict[str, Any] = {
        "run_id": 7,
        "message_id": "",
        "src_node_id": 5,
        "dst_node_id": 1,
        "reply_to_message_id": "f" * 64,
        "group_id": "",
        "created_at": 1.0,
        "ttl": 60.0,
        "message_type": "query",
    }
    return Metadata(**(fields | changes))


def tree(name: str, *children: ObjectTree) -> ObjectTree:
    return ObjectTree(object_id=name, children=list(children))


def check(announced: ObjectTree, largest: int = MIB, held: dict[str, list[str]] | None = None, **told: Any) -> None:
    check_announcement(metadata(**({"message_id": "m"} | told)), announced, largest, (held or {}).get)


@pytest.mark.parametrize("size", [0, 100, 64 * 1024 + 1, 4 * MIB, 4 * MIB + 1, CHUNK, CHUNK + 1, 21 * MIB])
def test_a_reply_of_any_size_up_to_the_longest_may_be_announced_and_again(size):
    """Chunks that are alike are one object, so the body here has no two alike."""
    body = b"".join(bytes([at]) * CHUNK for at in range(size // CHUNK)) + bytes([9]) * (size % CHUNK)
    envelope = Envelope(Sealed(Parcel(MASKED, b"head", body)), metadata())
    told = metadata(message_id=envelope.message_id)
    check_announcement(told, envelope.tree, len(body), {}.get)
    held: dict[str, list[str]] = {}

    def keep(node: ObjectTree) -> None:
        held[node.object_id] = [child.object_id for child in node.children]
        for child in node.children:
            keep(child)

    keep(envelope.tree)
    assert len(held) <= most_objects(size)
    check_announcement(told, envelope.tree, len(body), held.get)


def chain(*names: str) -> ObjectTree:
    made = tree(names[-1])
    for name in reversed(names[:-1]):
        made = tree(name, made)
    return made


@pytest.mark.parametrize(
    ("announced", "held", "told", "why"),
    [
        (tree("m"), {}, {"reply_to_message_id": ""}, "replies to none"),
        (tree("x"), {}, {}, "not its own"),
        (tree("m", *(tree(str(at)) for at in range(6))), {}, {}, "more than the 6 objects"),
        (tree("m", tree("d", *(tree(str(at)) for at in range(5)))), {}, {}, "more than the 6 objects"),
        (tree("m", tree("d", *(tree("n") for _ in range(90_000)))), {}, {}, "more than the 6 objects"),
        (chain("m", "1", "2", "3", "4", "5"), {}, {}, "nested too deep"),
        (tree("m", tree("d", tree("m"))), {}, {}, "an object twice"),
        (tree("m", tree("d"), tree("d", tree("n"))), {}, {}, "an object twice"),
        (tree("m", tree("d")), {"m": []}, {}, "with other children"),
        (tree("m", tree("d", tree("n"))), {"d": ["x"]}, {}, "with other children"),
        (tree("m", tree("d", tree("n", tree("y")))), {"n": []}, {}, "with other children"),
    ],
)
def test_an_announcement_of_anything_else_is_refused(announced, held, told, why):
    with pytest.raises(Malformed, match=why):
        check(announced, held=held, **told)


def test_the_number_of_objects_follows_the_longest_reply():
    """One of 12 MiB has three chunks; message, records, note, array record and array are five more."""
    assert most_objects(12 * MIB) == 8
    check(tree("m", *(tree(str(at)) for at in range(7))), largest=12 * MIB)
    with pytest.raises(Malformed):
        check(tree("m", *(tree(str(at)) for at in range(8))), largest=12 * MIB)


# -- on a real hub -----------------------------------------------------------------------------------------------------


def hexes(count: int) -> list[str]:
    return [f"{at:064x}" for at in range(1, count + 1)]


def grown(envelope: Envelope) -> ObjectTree:
    """The honest tree, and 2,000 objects beside it."""
    return ObjectTree(
        object_id=envelope.message_id,
        children=[*envelope.tree.children, *(ObjectTree(object_id=name) for name in hexes(2000))],
    )


def deep(envelope: Envelope) -> ObjectTree:
    made = ObjectTree(object_id=hexes(1)[0])
    for name in hexes(40)[1:]:
        made = ObjectTree(object_id=name, children=[made])
    return ObjectTree(object_id=envelope.message_id, children=[*envelope.tree.children, made])


def elsewhere(envelope: Envelope) -> ObjectTree:
    """A tree that does not hang below the message at all."""
    return ObjectTree(object_id=hexes(1)[0], children=[ObjectTree(object_id=name) for name in hexes(3)[1:]])


@pytest.mark.parametrize("forged", [grown, deep, elsewhere])
def test_a_hostile_announcement_is_a_fault_of_its_department_and_leaves_nothing_behind(
    forged: Callable[[Envelope], ObjectTree], house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    line, init = house.place.lines["a"], Envelope.__init__

    def forging(envelope: Envelope, sealed: Sealed, told: Metadata) -> None:
        init(envelope, sealed, told)
        if told.reply_to_message_id:
            envelope.tree = forged(envelope)

    house.hub.allow(MIB)
    with Department(house.place, house.hub.public_port, "a"):
        until(lambda: line in house.links.present())
        before = len(house.hub.state.object_store)
        with monkeypatch.context() as patch:
            patch.setattr(Envelope, "__init__", forging)
            answer = ask(house.links, line, Parcel("open", b"head"))
        assert isinstance(answer, Fault)
        assert answer.reason.startswith("not a parcel: a reply ")
        assert len(house.hub.state.object_store) == before
        assert isinstance(ask(house.links, line, Parcel("open", b"head")), Parcel)


def announce(house: House, made: ObjectTree, **fields: Any) -> tuple[bool, list[str]]:
    """As Flower's handler does for a node."""
    state, run = house.hub.state, house.links._run
    assert run is not None
    node_id = house.hub.node_id(house.place.lines["b"])
    told = metadata(**({"run_id": run.run_id, "src_node_id": node_id, "message_id": made.object_id} | fields))
    message: Message = make_message(metadata=told, content=RecordDict())
    return state.store_message_and_object_tree(message, made, state.start_session(run.run_id))


def test_a_department_sends_messages_to_nobody_not_even_in_the_hubs_name(house: House) -> None:
    node_id = house.hub.node_id(house.place.lines["b"])
    before = len(house.hub.state.object_store)
    told = {"reply_to_message_id": "", "src_node_id": 1, "dst_node_id": node_id}
    assert announce(house, tree(hexes(1)[0]), **told) == (False, [])
    assert len(house.hub.state.object_store) == before


def test_a_reply_announced_a_hundred_times_with_other_objects_each_time_holds_those_of_the_first(house: House) -> None:
    line = house.place.lines["b"]
    with Department(house.place, house.hub.public_port, "b", echo):
        until(lambda: line in house.links.present())
    ticket = house.links.send(line, Parcel("open", b"head"))
    state = house.hub.state
    before = len(state.object_store)
    names = hexes(300)
    created = {"reply_to_message_id": ticket, "created_at": time.time(), "ttl": 30.0}
    root = "e" * 64
    first = announce(house, tree(root, tree(names[0])), **created)
    assert first == (True, [names[0], root])
    for name in names[1:100]:
        assert announce(house, tree(root, tree(name)), **created) == (False, [])
        assert announce(house, tree(root, tree(names[0], tree(name))), **created) == (False, [])
    assert announce(house, tree(root, tree(names[0])), **created) == first, "the same again is a repeat"
    assert len(state.object_store) == before + 2
    house.links.forget([ticket])
    house.hub.discard([root])
    assert len(state.object_store) <= before
