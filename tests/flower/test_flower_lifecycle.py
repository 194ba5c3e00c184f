"""Processes that die and come back: departments by SIGKILL, the hub by restart, and ports that are taken."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import pytest
from flower_house import Department, House, Place, ask, until
from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatRequest, SendNodeHeartbeatResponse
from flwr.proto.message_pb2 import PushObjectRequest, PushObjectResponse
from flwr.supernode.fleet_http_client import FleetHttpClient

from commonroot.client import node
from commonroot.common.errors import ForeignState, KeyFileError, PortTaken
from commonroot.common.parcel import MASKED, Parcel
from commonroot.server import flower_links, pki
from commonroot.server.flower_links import FlowerLinks
from commonroot.server.links import Fault
from commonroot.server.superlink import SuperLink

pytestmark = pytest.mark.slow

DEPARTMENT = """
import sys, threading
from pathlib import Path
from commonroot.client.node import FlowerNode
from commonroot.common.parcel import Parcel

address, ca, key = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
def handle(parcel):
    if parcel.head == b"sleep":
        threading.Event().wait(60)
    return Parcel("masked", parcel.head)
FlowerNode(address, ca, key).serve(handle, threading.Event())
"""


def start(place: Place, port: int, name: str) -> subprocess.Popen[bytes]:
    arguments = [f"127.0.0.1:{port}", str(place.ca), str(place.node_key(name))]
    return subprocess.Popen([sys.executable, "-c", DEPARTMENT, *arguments], stdout=subprocess.DEVNULL)


def kill(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGKILL)
    process.wait(10)


def test_a_killed_department_rejoins_at_once_and_is_seen_to_be_another_incarnation(house: House) -> None:
    line, port = house.place.lines["a"], house.hub.public_port
    first = start(house.place, port, "a")
    try:
        until(lambda: line in house.links.present())
        before = house.links.present()[line]
        ticket = house.links.send(line, Parcel("open", b"sleep"))
        assert house.links.collect([ticket], 0.3) == []
        kill(first)
        died = time.monotonic()
        second = start(house.place, port, "a")
        try:
            until(lambda: house.links.present().get(line, before) != before)
            # 20 s is how long the hub would believe the dead one; what is measured is the start of an interpreter.
            assert time.monotonic() - died < 15
            house.links.forget([ticket])
            assert isinstance(ask(house.links, line, Parcel("open", b"again")), Parcel)
        finally:
            kill(second)
    finally:
        kill(first)


def test_a_department_that_is_gone_is_noticed_and_its_parcel_faulted(house: House) -> None:
    """10 s heartbeat, twice: the hub gives a silent node up 20 s after its last sign of life."""
    line = house.place.lines["b"]
    process = start(house.place, house.hub.public_port, "b")
    try:
        until(lambda: line in house.links.present())
        ticket = house.links.send(line, Parcel("open", b"sleep"))
        assert house.links.collect([ticket], 0.3) == []
        kill(process)
        gone = time.monotonic()
        answers = house.links.collect([ticket], 30)
        assert answers == [(ticket, Fault("the department is not online"))]
        assert time.monotonic() - gone < 22
        assert line not in house.links.present()
    finally:
        kill(process)


def test_a_department_that_leaves_in_the_middle_of_its_reply_is_noticed(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It announces 100 kB, uploads none of it and is gone: the hub alone would wait for three minutes."""
    line, port = house.place.lines["c"], house.hub.public_port
    began, broken = threading.Event(), threading.Event()

    def breaks(self: FleetHttpClient, request: PushObjectRequest) -> PushObjectResponse:
        began.set()
        broken.wait(10)
        raise httpx.ConnectError("the cable")

    monkeypatch.setattr(FleetHttpClient, "PushObject", breaks)
    monkeypatch.setattr(flower_links, "_STALLED", 0.1)
    with Department(house.place, port, "c"):
        until(lambda: line in house.links.present())
        ticket = house.links.send(line, Parcel("round-open", b"", bytes(100_000)))
        assert began.wait(10)
        assert house.links.collect([ticket], 0.3) == []
        node_id = house.hub.node_id(line)
        assert node_id is not None
        house.hub.state.deactivate_node(node_id)
        fault = Fault("the department left in the middle of its reply")
        assert house.links.collect([ticket], 5) == [(ticket, fault)]
        broken.set()


def test_a_department_that_is_told_to_come_back_later_signs_off_then(tmp_path: Path) -> None:
    """Its budget is spent when it stops: it is signed off when it has left, not when the hub notices after 20 s."""
    place = Place(tmp_path)
    line = place.department("a")
    with place.hub() as hub, FlowerLinks(hub) as links:
        hub.register(line, "a")
        with Department(place, hub.public_port, "a") as department:
            until(lambda: line in links.present())
            assert isinstance(ask(links, line, Parcel("open", b"1")), Parcel)
            spend(hub, line, seconds=1.5)
        assert department.states == ["joined", "left"]
        assert hub.refusals.by_reason()["node-too-fast"] > 0
        assert links.present() == {}


def test_a_sign_of_life_that_is_told_to_come_back_later_does(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """The hub gives up who misses two, so one that was refused does not wait for the next to be due."""
    at: list[float] = []

    def busy(self: FleetHttpClient, request: SendNodeHeartbeatRequest) -> SendNodeHeartbeatResponse:
        at.append(time.monotonic())
        if len(at) == 1:
            asked = httpx.Request("POST", "https://hub")
            answer = httpx.Response(429, headers={"retry-after": "1"}, request=asked)
            raise httpx.HTTPStatusError("too fast", request=asked, response=answer)
        return SendNodeHeartbeatResponse(success=True)

    monkeypatch.setattr(FleetHttpClient, "SendNodeHeartbeat", busy)
    monkeypatch.setattr(node, "_BEAT", 5.0)
    with Department(house.place, house.hub.public_port, "a"):
        until(lambda: len(at) == 2, 15)
    assert 1 <= at[1] - at[0] < 3


def spend(hub: SuperLink, line: str, *, seconds: float) -> None:
    """The department's budget of requests, so that it has none for so many seconds."""
    gate = hub._gate
    assert gate is not None
    budgets, now = gate._nodes, time.monotonic()
    budgets._left[str(hub.node_id(line))] = (1.0 - seconds * budgets._rate, now)


def test_departments_come_back_by_themselves_when_the_hub_was_restarted(tmp_path: Path) -> None:
    place = Place(tmp_path)
    line = place.department("a")
    with place.hub() as hub, FlowerLinks(hub) as links:
        hub.register(line, "a")
        port = hub.public_port
        department = Department(place, port, "a")
        department.__enter__()
        until(lambda: line in links.present())
        assert isinstance(ask(links, line, Parcel("open", b"1")), Parcel)
    try:
        until(lambda: "unreachable" in department.states)
        with place.hub(port) as hub, FlowerLinks(hub) as links:
            assert hub.registered() == [line]
            until(lambda: line in links.present())
            assert ask(links, line, Parcel("open", b"2")) == Parcel(MASKED, b"2")
            assert department.error is None
            department.__exit__()
    finally:
        department.stop.set()


def test_departments_come_back_to_a_hub_that_lost_its_books(tmp_path: Path) -> None:
    place = Place(tmp_path)
    line = place.department("a")
    with place.hub() as hub:
        hub.register(line, "a")
        port = hub.public_port
        department = Department(place, port, "a")
        department.__enter__()
        until(lambda: "joined" in department.states)
    try:
        with place.hub(port, state="another") as hub, FlowerLinks(hub) as links:
            until(lambda: "refused" in department.states)
            hub.register(line, "a")
            until(lambda: line in links.present())
            assert isinstance(ask(links, line, Parcel("open")), Parcel)
            department.__exit__()
    finally:
        department.stop.set()


def test_a_department_that_starts_before_the_hub_waits_for_it(tmp_path: Path) -> None:
    place = Place(tmp_path)
    line = place.department("a")
    with socket.create_server(("127.0.0.1", 0)) as reserved:
        port = reserved.getsockname()[1]
    with Department(place, port, "a") as department:
        until(lambda: department.states == ["unreachable"])
        with place.hub(port) as hub, FlowerLinks(hub) as links:
            hub.register(line, "a")
            until(lambda: line in links.present())


def test_a_taken_port_is_named_and_nothing_is_left_behind(tmp_path: Path) -> None:
    place = Place(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        threads = threading.active_count()
        with pytest.raises(PortTaken, match=str(port)), place.hub(port):
            pass
        assert threading.active_count() == threads
        assert not (tmp_path / "hub").exists()
    with place.hub(port) as hub:
        assert hub.public_port == port


def test_a_wrong_key_file_is_named_and_the_port_is_free_again(tmp_path: Path) -> None:
    place = Place(tmp_path)
    other_ca, other_key = pki.make_authority(tmp_path / "other", "other")
    right, place.key = place.key, other_key
    with pytest.raises(KeyFileError), place.hub() as hub:
        pass
    place.key = right
    with place.hub() as hub:
        assert hub.public_port > 0
    assert other_ca.exists()


def test_a_database_that_is_none_is_left_alone(tmp_path: Path) -> None:
    place = Place(tmp_path)
    (tmp_path / "hub").mkdir()
    (tmp_path / "hub" / "links.db").write_bytes(b"not a database at all, but long enough to be read as one" * 20)
    with pytest.raises(ForeignState), place.hub():
        pass


def test_closing_the_hub_takes_no_longer_than_a_moment_while_departments_wait(tmp_path: Path) -> None:
    place = Place(tmp_path)
    place.department("a")
    with place.hub() as hub:
        hub.register(place.lines["a"], "a")
        department = Department(place, hub.public_port, "a")
        department.__enter__()
        until(lambda: "joined" in department.states)
        closing = time.monotonic()
    assert time.monotonic() - closing < 5
    department.__exit__()
    assert (tmp_path / "hub" / "links.db").stat().st_size > 0
