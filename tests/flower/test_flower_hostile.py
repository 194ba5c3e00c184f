"""What a faulty or hostile end can send: it becomes Malformed, a fault or a dropped message, and ends nobody's process.

Objects are made by hand here, in Flower's format: ``KIND CHILD,CHILD LENGTH``, a zero byte, and the body.
"""

from __future__ import annotations

import hashlib
import json
import logging
import threading
import tracemalloc
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from federation import small
from flower_house import Department, House, ask, echo, until
from flwr.app import ConfigRecord, RecordDict
from flwr.app.metadata import Metadata
from flwr.proto.fleet_pb2 import PullMessagesResponse
from flwr.proto.message_pb2 import Message as MessageProto
from flwr.proto.message_pb2 import ObjectTree

from commonroot import flower
from commonroot.client import node as node_module
from commonroot.common.errors import Malformed
from commonroot.common.parcel import MASKED, TO_COORDINATOR, TO_DEPARTMENT, Parcel
from commonroot.flower import Envelope, unpack
from commonroot.server.coordinator import serve
from commonroot.server.links import Fault
from commonroot.server.round import Account
from commonroot.server.run import RunDriver
from commonroot.simulations.founding import Federation
from commonroot.simulations.processes import free_port

CHUNK = 5 * 1024 * 1024


def thing(kind: str, children: list[str], body: bytes) -> bytes:
    return f"{kind} {','.join(children)} {len(body)}".encode() + b"\0" + body


def name_of(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def note(**entries: Any) -> bytes:
    return ConfigRecord({"kind": MASKED, "head": b"", "size": 10, "mark": "", **entries}).deflate()


GARBAGE = thing("ConfigRecord", [], b"\xff\xff\xff\xff garbage")
WITH_NOTE = ObjectTree(object_id="m", children=[ObjectTree(object_id="d", children=[ObjectTree(object_id="note")])])
WITH_BODY = ObjectTree(
    object_id="m",
    children=[
        ObjectTree(
            object_id="d",
            children=[
                ObjectTree(object_id="note"),
                ObjectTree(object_id="arrays", children=[ObjectTree(object_id="array")]),
            ],
        )
    ],
)


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(GARBAGE, id="no-protobuf"),
        pytest.param(thing("ArrayRecord", [], b""), id="another-record"),
        pytest.param(b"", id="nothing"),
        pytest.param(b"ConfigRecord\0", id="half-a-head"),
        pytest.param(b"\xff\xfe \0", id="no-text"),
    ],
)
def test_a_note_that_cannot_be_read_is_malformed(content: bytes) -> None:
    with pytest.raises(Malformed):
        unpack(RecordDict(), WITH_NOTE, {"note": content}.__getitem__, kinds=TO_COORDINATOR)


@pytest.mark.parametrize(
    "array",
    [
        pytest.param(b'{"arraychunk_ids":' + b"[" * 200_000 + b"]" * 200_000 + b"}", id="nested-200000-deep"),
        pytest.param(b"[1]", id="a-list"),
        pytest.param(b"null", id="null"),
        pytest.param(b"{}", id="no-indices"),
        pytest.param(b"\xff\xfe\x00", id="no-text"),
        pytest.param(b'{"arraychunk_ids":[1' + b"0" * 5000 + b"]}", id="5000-digits"),
        pytest.param(b'{"arraychunk_ids":[false]}', id="a-bool"),
        pytest.param(b'{"arraychunk_ids":5}', id="a-number"),
        pytest.param(b'{"arraychunk_ids":[1]}', id="out-of-range"),
        pytest.param(b'{"arraychunk_ids":[-1]}', id="negative"),
    ],
)
def test_an_array_that_cannot_be_read_is_malformed(array: bytes) -> None:
    contents = {"note": note(), "array": thing("Array", ["c"], array), "c": thing("ArrayChunk", [], b"x" * 10)}
    with pytest.raises(Malformed):
        unpack(RecordDict(), WITH_BODY, contents.__getitem__, kinds=TO_COORDINATOR)


def test_what_the_link_raises_while_fetching_passes_through() -> None:
    """It says that an upload goes on, or that the node is to stop; it is no word about the parcel."""

    class NotYet(Exception):
        pass

    def fetch(object_id: str) -> bytes:
        raise NotYet

    with pytest.raises(NotYet):
        unpack(RecordDict(), WITH_NOTE, fetch, kinds=TO_COORDINATOR)


def chunked(order: list[int], names: list[str], size: int) -> dict[str, bytes]:
    array = thing("Array", names, json.dumps({"arraychunk_ids": order}).encode())
    chunks = {name: thing("ArrayChunk", [], bytes(CHUNK)) for name in names}
    return {"note": note(size=size), "array": array} | chunks


@pytest.mark.parametrize(
    ("order", "names"),
    [
        pytest.param([0] * 20, ["x"], id="one-index-repeated"),
        pytest.param(list(range(20)), ["x"] * 20, id="one-name-repeated"),
        pytest.param([1, 0], ["x", "y"], id="out-of-order"),
        pytest.param([0], ["x", "y"], id="names-left-over"),
        pytest.param(list(range(3)), ["x", "y"], id="more-than-there-are"),
    ],
)
def test_an_upload_takes_no_more_memory_than_was_sent_for_it(order: list[int], names: list[str]) -> None:
    """One 5 MiB chunk named 20 times would make 100 MiB; refused, it makes less than the 5 MiB of the chunk."""
    contents = chunked(order, names, len(order) * CHUNK)
    tracemalloc.start()
    try:
        with pytest.raises(Malformed):
            unpack(RecordDict(), WITH_BODY, contents.__getitem__, kinds=TO_COORDINATOR)
        assert tracemalloc.get_traced_memory()[1] < CHUNK
    finally:
        tracemalloc.stop()


def test_a_size_without_the_chunks_for_it_reserves_nothing() -> None:
    """800 chunks of 5 MiB are promised, 3.9 GiB; the first is already too short."""
    names = [f"c{at}" for at in range(800)]
    array = thing("Array", names, json.dumps({"arraychunk_ids": list(range(800))}).encode())
    contents = {"note": note(size=800 * CHUNK), "array": array, "c0": thing("ArrayChunk", [], b"x")}
    tracemalloc.start()
    try:
        with pytest.raises(Malformed):
            unpack(RecordDict(), WITH_BODY, contents.__getitem__, kinds=TO_COORDINATOR)
        assert tracemalloc.get_traced_memory()[1] < CHUNK
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("kind", ["", "Masked", "x" * 3_000_000, "\x1b[2J", "round-open"])
def test_a_kind_that_the_receiver_does_not_know_is_refused_without_repeating_it(kind: str) -> None:
    with pytest.raises(Malformed) as refused:
        unpack(RecordDict(), WITH_NOTE, {"note": note(kind=kind, size=0, body=b"")}.__getitem__, kinds=TO_COORDINATOR)
    assert str(refused.value) == "a parcel of unknown kind"


def test_each_end_takes_exactly_the_kinds_that_are_meant_for_it() -> None:
    for kinds in (TO_COORDINATOR, TO_DEPARTMENT):
        for kind in kinds:
            content = {"note": note(kind=kind, size=0, body=b"")}
            assert unpack(RecordDict(), WITH_NOTE, content.__getitem__, kinds=kinds).kind == kind
    assert not TO_COORDINATOR & TO_DEPARTMENT


def test_the_account_of_what_arrived_has_no_kinds_of_a_departments_making() -> None:
    account = Account()
    account.add(Parcel("\x1b[2J" + "k" * 100_000))
    account.add(Parcel(MASKED, b"head", b"body"))
    assert account.counts() == {MASKED: (1, 8)}


def test_a_kind_of_a_departments_making_never_reaches_the_journal(tmp_path: Path) -> None:
    """Over links that do not look at kinds: readiness, round and closing each leave it out."""
    with small.running(tmp_path, departments=4, rounds=1) as at_work:
        at_work.kill("cedar")
        at_work.front = lambda name, handle: (
            (lambda request: Parcel("\x1b[2J" + "k" * 1000)) if name == "cedar" else handle
        )
        at_work.start("cedar")
        at_work.run()
        with small.journal_of(at_work.federation) as journal:
            assert {row["kind"] for row in journal.received()} <= TO_COORDINATOR
            assert all("\x1b" not in fault["what"] and len(fault["what"]) < 200 for fault in journal.faults.all())


# -- over real sockets ---------------------------------------------------------------------------------------------


@dataclass
class Forger:
    """Makes whatever one end sends into what it should not be."""

    from_hub: bool = False

    def install(self, patch: pytest.MonkeyPatch) -> None:
        records = thing("RecordDict", [name_of(GARBAGE)], b"{}")
        init, contents = Envelope.__init__, Envelope.contents

        def forged_init(envelope: Envelope, sealed: flower.Sealed, metadata: Metadata) -> None:
            init(envelope, sealed, metadata)
            if (metadata.src_node_id == 1) is not self.from_hub:
                return
            tree = ObjectTree(object_id=name_of(records), children=[ObjectTree(object_id=name_of(GARBAGE))])
            envelope.tree = ObjectTree(object_id=envelope.message_id, children=[tree])
            envelope.__dict__["forged"] = True

        def forged_contents(envelope: Envelope, wanted: set[str]) -> Iterator[tuple[str, bytes]]:
            if "forged" not in envelope.__dict__:
                yield from contents(envelope, wanted)
                return
            for content in (envelope._root, records, GARBAGE):
                object_id = envelope.message_id if content is envelope._root else name_of(content)
                if object_id in wanted:
                    yield object_id, content

        patch.setattr(Envelope, "__init__", forged_init)
        patch.setattr(Envelope, "contents", forged_contents)


def test_a_reply_that_cannot_be_read_is_a_fault_of_its_department_alone(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = house.place.lines["a"]
    with Department(house.place, house.hub.public_port, "a"):
        until(lambda: line in house.links.present())
        with monkeypatch.context() as patch:
            Forger().install(patch)
            answer = ask(house.links, line, Parcel("open"))
        assert isinstance(answer, Fault)
        assert answer.reason.startswith("not a parcel: a note that is no config record")
        assert isinstance(ask(house.links, line, Parcel("open")), Parcel)


def test_a_reply_of_unknown_kind_is_a_fault(house: House) -> None:
    line = house.place.lines["a"]
    with Department(house.place, house.hub.public_port, "a", lambda parcel: Parcel("\x1b[2J" + "k" * 1000)):
        until(lambda: line in house.links.present())
        assert ask(house.links, line, Parcel("open")) == Fault("not a parcel: a parcel of unknown kind")


def test_a_reply_whose_tree_has_no_end_is_a_fault(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    line = house.place.lines["a"]
    asked, go_on = threading.Event(), threading.Event()

    def answers_late(parcel: Parcel) -> Parcel:
        asked.set()
        go_on.wait(10)
        return Parcel(MASKED)

    def endless(object_id: str) -> ObjectTree:
        raise RecursionError

    with Department(house.place, house.hub.public_port, "a", answers_late):
        until(lambda: line in house.links.present())
        ticket = house.links.send(line, Parcel("open"))
        assert asked.wait(10)
        with monkeypatch.context() as patch:
            patch.setattr(house.hub.state.object_store, "get_object_tree", endless)
            go_on.set()
            assert house.links.collect([ticket], 10) == [(ticket, Fault("not a parcel: RecursionError"))]
        assert isinstance(ask(house.links, line, Parcel("open")), Parcel)


def test_a_message_from_the_hub_that_cannot_be_read_is_refused_and_the_daemon_goes_on(
    house: House, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    line = house.place.lines["a"]
    with caplog.at_level(logging.WARNING), Department(house.place, house.hub.public_port, "a") as a:
        until(lambda: line in house.links.present())
        with monkeypatch.context() as patch:
            Forger(from_hub=True).install(patch)
            answer = ask(house.links, line, Parcel("open", b"", b"x" * 100_000))
        assert answer == Parcel("refusal")
        assert isinstance(ask(house.links, line, Parcel("open")), Parcel)
        assert a.error is None
    assert "a message that is no parcel: DecodeError" in caplog.text


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(PullMessagesResponse(messages_list=[MessageProto()]), id="no-tree"),
        pytest.param(
            PullMessagesResponse(messages_list=[MessageProto()], message_object_trees=[ObjectTree()]), id="empty"
        ),
    ],
)
def test_whatever_the_hub_answers_a_department_drops_it_and_asks_on(
    house: House, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, answer: PullMessagesResponse
) -> None:
    line = house.place.lines["a"]
    pull = node_module.FleetHttpClient.PullMessages
    forged = [answer, answer]

    def forging(client: Any, request: Any) -> PullMessagesResponse:
        return forged.pop() if forged else pull(client, request)

    monkeypatch.setattr(node_module.FleetHttpClient, "PullMessages", forging)
    with caplog.at_level(logging.INFO), Department(house.place, house.hub.public_port, "a") as a:
        until(lambda: not forged and line in house.links.present())
        assert isinstance(ask(house.links, line, Parcel("open")), Parcel)
        assert a.error is None


# -- the coordinator's process -------------------------------------------------------------------------------------


def test_an_unexpected_error_stops_its_run_and_not_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The run fails in a way that nobody foresaw; the hub goes on, finds nothing more to do, and ends in order."""
    federation = queued(tmp_path)

    def fails(driver: RunDriver) -> None:
        raise ZeroDivisionError("somewhere deep")

    monkeypatch.setattr(RunDriver, "drive", fails)
    serve(federation.coordinator.root, until_idle=True, as_json=True)
    with small.journal_of(federation) as journal:
        (run,) = journal.runs()
    assert (run.state, run.reason) == ("stopped", "internal error ZeroDivisionError")
    assert "somewhere deep" in caplog.text  # the traceback is in the log


def test_a_department_that_answers_garbage_is_recorded_and_the_coordinator_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The real coordinator, and the real node of one enrolled department, turned hostile."""
    federation = queued(tmp_path)
    Forger().install(monkeypatch)
    ended: list[BaseException | None] = []
    stop = threading.Event()

    def coordinate() -> None:
        try:
            serve(federation.coordinator.root, as_json=True, stop=stop)
            ended.append(None)
        except BaseException as error:
            ended.append(error)

    ash = federation.departments["ash"]
    node = node_module.FlowerNode(f"127.0.0.1:{federation.coordinator.config.port}", ash.ca, ash.node_key)
    threads = [
        threading.Thread(target=coordinate, daemon=True),
        threading.Thread(target=node.serve, args=(echo, stop), daemon=True),
    ]
    for thread in threads:
        thread.start()

    def faults() -> list[dict[str, Any]]:
        with small.journal_of(federation) as journal:
            return journal.faults.all()

    try:
        until(lambda: bool(ended) or bool(faults()), 20)
        assert not ended
        assert {(fault["department"], fault["code"]) for fault in faults()} == {("ash", "link")}
    finally:
        stop.set()
        for thread in threads:
            thread.join(15)
    assert ended == [None]


def queued(root: Path) -> Federation:
    """A founded federation on a port of its own, with one run to do."""
    federation = small.founded(root, departments=3, rounds=1)
    small.move_to_port(federation, free_port())
    federation = small.opened(root)
    with small.journal_of(federation) as journal:
        journal.queue(federation.charter)
    return federation
