"""Coordinator and departments over Flower: who gets in, what gets through, and what is said when it does not.

These are the contract tests of the two adapters: a new version of Flower that passes them can be used.
"""

from __future__ import annotations

import datetime
import email.utils
import logging
import os
import re
import shutil
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import flwr.supernode.node_auth_http_interceptor as flower_signs
import httpx
import pytest
from flower_house import Department, House, Place, ask, until
from flwr.supercore.date import now as flower_now

from commonroot.client import node_calls
from commonroot.common.errors import ClockSkew, KeyFileError, NodeRefused, WrongAuthority
from commonroot.common.parcel import MASKED, REFUSAL, Parcel
from commonroot.server import pki
from commonroot.server.links import Fault, Links
from commonroot.simulations.relay import Relay


def test_registered_departments_join_answer_and_leave(house: House) -> None:
    lines = house.place.lines
    port = house.hub.public_port
    with Department(house.place, port, "a") as a, Department(house.place, port, "b"):
        until(lambda: set(house.links.present()) == {lines["a"], lines["b"]})
        tickets = {house.links.send(lines[name], Parcel("open", name.encode())): name for name in "ab"}
        answers: dict[str, bytes] = {}
        while len(answers) < 2:
            for ticket, answer in house.links.collect(tickets, 10):
                assert isinstance(answer, Parcel)
                assert answer.kind == MASKED
                answers[tickets[ticket]] = answer.head
        assert answers == {"a": b"a", "b": b"b"}
    assert house.links.present() == {}
    assert a.states == ["joined", "left"]
    assert a.error is None


def test_flower_links_are_links(house: House) -> None:
    links: Links = house.links
    assert links.collect([], 0) == []


@pytest.mark.parametrize("size", [0, 1_000, 100_000, 5 * 1024 * 1024, 20_000_000])
def test_bodies_of_any_size_make_the_round_trip(house: House, size: int) -> None:
    body = os.urandom(size)
    with Department(house.place, house.hub.public_port, "a"):
        until(lambda: bool(house.links.present()))
        answer = ask(house.links, house.place.lines["a"], Parcel("round-open", b"h", body))
    assert isinstance(answer, Parcel)
    assert (answer.head, bytes(answer.body)) == (b"h", body)


def test_a_comment_behind_a_key_does_not_matter(house: House) -> None:
    with Department(house.place, house.hub.public_port, "a"):
        until(lambda: bool(house.links.present()))
        assert isinstance(ask(house.links, house.place.lines["a"] + " a@acme", Parcel("open")), Parcel)


def test_a_broadcast_is_stored_once_and_everything_is_freed_after_it(house: House) -> None:
    """Body of 12 MiB: 3 chunks + array + array record + note + record dictionary, and one message per department.

    Three departments: 7 shared objects + 3 messages = 10, not 24.
    """
    parcel = Parcel("round-open", b"", os.urandom(12 * 1024 * 1024))
    store = house.hub.state.object_store
    names = "abc"
    for name in names:  # the hub takes messages only for a department that was online once
        with Department(house.place, house.hub.public_port, name):
            until(lambda: bool(house.links.present()))
    before = len(store)
    tickets = [house.links.send(house.place.lines[name], parcel) for name in names]
    assert len(store) - before == 10
    house.links.forget(tickets)
    assert len(store) == before


def test_an_unregistered_key_is_refused_at_the_first_connection(house: House) -> None:
    house.place.department("stranger")
    with Department(house.place, house.hub.public_port, "stranger", patience=0.5) as stranger:
        assert isinstance(stranger.ended(), NodeRefused)
    assert stranger.states == ["refused"]
    assert isinstance(ask(house.links, house.place.lines["stranger"], Parcel("open")), Fault)


def test_a_department_that_is_registered_later_gets_in_by_itself(house: House) -> None:
    line = house.place.department("late")
    with Department(house.place, house.hub.public_port, "late") as late:
        until(lambda: late.states == ["refused"])
        house.hub.register(line, "late")
        until(lambda: line in house.links.present())


def test_an_unregistered_department_is_out_at_once(house: House) -> None:
    line = house.place.department("leaver")
    house.hub.register(line, "leaver")
    with Department(house.place, house.hub.public_port, "leaver") as leaver:
        until(lambda: line in house.links.present())
        house.hub.unregister(line)
        assert line not in house.links.present()
        assert line not in house.hub.registered()
        until(lambda: "refused" in leaver.states)
        assert isinstance(ask(house.links, line, Parcel("open")), Fault)


def test_registering_twice_changes_nothing(house: House) -> None:
    before = house.hub.registered()
    house.hub.register(house.place.lines["a"], "a")
    assert house.hub.registered() == before


@pytest.mark.parametrize("line", ["", "ssh-ed25519 AAAA", "nonsense", "ecdsa-sha2-nistp384 AAAA"])
def test_what_is_no_node_key_is_not_registered(house: House, line: str) -> None:
    with pytest.raises(KeyFileError):
        house.hub.register(line, "x")


def test_the_same_identity_runs_once_on_a_machine(house: House) -> None:
    port = house.hub.public_port
    with Department(house.place, port, "a") as first, Department(house.place, port, "a") as second:
        ended = [department for department in (first, second) if _ends(department, NodeRefused)]
        assert len(ended) == 1


def test_a_copied_identity_does_not_get_in_and_does_not_disturb_the_original(house: House) -> None:
    """The whole folder is copied, session note included: the note names the place it was written for."""
    line, port = house.place.lines["a"], house.hub.public_port
    with Department(house.place, port, "a"):
        until(lambda: line in house.links.present())
        incarnation = house.links.present()[line]
        shutil.copytree(house.place.node_key("a").parent, house.place.node_key("copy").parent)
        with Department(house.place, port, "copy", patience=0.5) as copy:
            assert isinstance(copy.ended(), NodeRefused)
        assert house.links.present()[line] == incarnation
        assert isinstance(ask(house.links, line, Parcel("open")), Parcel)


def test_another_authority_is_not_trusted(house: House, tmp_path: Path) -> None:
    other, _ = pki.make_authority(tmp_path, "other")
    with Department(house.place, house.hub.public_port, "a", ca=other) as a:
        assert isinstance(a.ended(), WrongAuthority)


def test_a_certificate_for_another_name_is_not_trusted(tmp_path: Path) -> None:
    place = Place(tmp_path)
    place.certificate, place.key = pki.make_server_certificate(
        tmp_path / "other", ["elsewhere.example"], ca_certificate=place.ca, ca_key=tmp_path / "pki" / pki.CA_KEY
    )
    with place.hub() as hub:
        hub.register(place.department("a"), "a")
        with Department(place, hub.public_port, "a") as a:
            assert isinstance(a.ended(), WrongAuthority)


def test_a_clock_that_is_ahead_is_named(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    real = time.time
    monkeypatch.setattr(flower_signs, "now", lambda: flower_now() + datetime.timedelta(seconds=60))
    # Only the node's clock: the hub runs in this process too, and tells its own time in the answers.
    ahead = SimpleNamespace(**{**vars(time), "time": lambda: real() + 60})
    monkeypatch.setattr(node_calls, "time", ahead)
    with Department(house.place, house.hub.public_port, "a") as a:
        error = a.ended()
    assert isinstance(error, ClockSkew)
    assert re.search(r"(59|6\d) s ahead", str(error))  # the date in an answer is to the second, and a little old


def test_an_answer_that_was_long_on_its_way_says_nothing_about_clocks() -> None:
    """Dated between the question and its arrival, 7 s apart: the clocks may be the same."""

    def refused(took: float, dated: float) -> Any:
        response = httpx.Response(401, headers={"date": email.utils.formatdate(time.time() - dated, usegmt=True)})
        response.elapsed = datetime.timedelta(seconds=took)
        refusal = node_calls.Rejected()
        refusal.__cause__ = httpx.HTTPStatusError("", request=httpx.Request("POST", "https://hub"), response=response)
        return node_calls.clock_skew(refusal)

    assert refused(took=7, dated=6) is None
    assert "ahead" in str(refused(took=0.1, dated=6))
    assert "behind" in str(refused(took=0.1, dated=-400))
    assert refused(took=0.1, dated=0) is None


def test_a_clock_that_is_set_while_a_node_runs_is_named_once_and_the_node_is_back_when_it_is_right(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = time.time
    with Department(house.place, house.hub.public_port, "a") as a:
        until(lambda: a.states == ["joined"])
        with monkeypatch.context() as wrong:
            wrong.setattr(flower_signs, "now", lambda: flower_now() + datetime.timedelta(seconds=60))
            ahead = SimpleNamespace(**{**vars(time), "time": lambda: real() + 60})
            wrong.setattr(node_calls, "time", ahead)
            until(lambda: "refused" in a.states, 30)
            until(lambda: bool(a.troubles), 10)
        until(lambda: a.states[-1] == "joined", 30)
        assert isinstance(ask(house.links, house.place.lines["a"], Parcel("open")), Parcel)
    assert [type(trouble) for trouble in a.troubles] == [ClockSkew]


def test_a_message_that_was_lost_with_the_line_is_had_again_by_joining_anew(house: House) -> None:
    """The line breaks while the hub holds the node's question; the answer to it would go nowhere.

    The node joins anew, which the coordinator sees, and the message is sent to it again.
    """
    line = house.place.lines["a"]
    with Relay(house.hub.public_port) as relay, Department(house.place, relay.port, "a") as a:
        until(lambda: house.hub.node_id(line) in house.hub.bell._waiting)  # the hub holds its question
        before = house.links.present()[line]
        relay.cut()
        until(lambda: "unreachable" in a.states)
        relay.mend()
        until(lambda: house.links.present().get(line, before) != before, 30)
        assert isinstance(ask(house.links, line, Parcel("open")), Parcel)
    assert a.states[:2] == ["joined", "unreachable"]
    assert a.states[-2:] == ["joined", "left"]


def test_nothing_of_a_handlers_failure_travels(house: House, caplog: pytest.LogCaptureFixture) -> None:
    def fails(parcel: Parcel) -> Parcel:
        raise ValueError("row 17 of patients.csv: Smith")

    with caplog.at_level(logging.DEBUG), Department(house.place, house.hub.public_port, "a", fails):
        until(lambda: bool(house.links.present()))
        answer = ask(house.links, house.place.lines["a"], Parcel("open"))
    assert answer == Parcel(REFUSAL)
    assert "Smith" not in caplog.text
    assert "ValueError" in caplog.text


def test_a_department_outlives_its_handlers_failure(house: House) -> None:
    calls: list[bytes] = []

    def fails_once(parcel: Parcel) -> Parcel:
        calls.append(parcel.head)
        if len(calls) == 1:
            raise RuntimeError
        return Parcel(MASKED)

    with Department(house.place, house.hub.public_port, "a", fails_once):
        until(lambda: bool(house.links.present()))
        kinds = [ask(house.links, house.place.lines["a"], Parcel("open")) for _ in range(2)]
    assert kinds == [Parcel(REFUSAL), Parcel(MASKED)]


def test_a_forgotten_parcel_is_never_delivered(house: House) -> None:
    line = house.place.lines["a"]
    seen: list[bytes] = []

    def note(parcel: Parcel) -> Parcel:
        seen.append(parcel.head)
        return Parcel(MASKED)

    with Department(house.place, house.hub.public_port, "a"):
        until(lambda: line in house.links.present())
    house.links.forget([house.links.send(line, Parcel("open", b"old"))])
    with Department(house.place, house.hub.public_port, "a", note):
        until(lambda: line in house.links.present())
        assert isinstance(ask(house.links, line, Parcel("open", b"new")), Parcel)
    assert seen == [b"new"]


def test_the_run_is_opened_anew_when_it_is_lost(house: House) -> None:
    line = house.place.lines["b"]
    started, go_on = threading.Event(), threading.Event()

    def slow(parcel: Parcel) -> Parcel:
        started.set()
        go_on.wait(10)
        return Parcel(MASKED)

    with Department(house.place, house.hub.public_port, "b", slow):
        until(lambda: line in house.links.present())
        ticket = house.links.send(line, Parcel("open"))
        assert started.wait(10)
        run = house.links._run
        assert run is not None
        house.hub.state.stop_run(run.run_id)
        run.lost.set()  # what its next heartbeat would find
        assert [answer for _, answer in house.links.collect([ticket], 5)] == [Fault("the flower run was lost")]
        go_on.set()
        assert ask(house.links, line, Parcel("open")) == Parcel(MASKED)


def test_collect_returns_in_time_when_nobody_answers(house: House) -> None:
    line = house.place.lines["a"]
    hold = threading.Event()

    def waits(parcel: Parcel) -> Parcel:
        hold.wait(10)
        return Parcel(MASKED)

    with Department(house.place, house.hub.public_port, "a", waits):
        until(lambda: line in house.links.present())
        ticket = house.links.send(line, Parcel("open"))
        started = time.monotonic()
        assert house.links.collect([ticket], 0.2) == []
        assert time.monotonic() - started < 2
        hold.set()
        assert house.links.collect([ticket], 10) == [(ticket, Parcel(MASKED))]


def _ends(department: Department, kind: type[Exception]) -> bool:
    department._thread.join(1.0)
    return isinstance(department.error, kind)
