"""The one place where the coordinator waits: never longer than was said, and nobody is forgotten or asked in vain."""

from __future__ import annotations

import threading
from collections.abc import Collection
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from commonroot.common.parcel import Parcel
from commonroot.server.exchange import _DELIVERIES, _LOOK, Exchange, Stopped
from commonroot.server.links import Fault
from commonroot.simulations.network import MemoryNetwork, delay, drop

ROSTER = SimpleNamespace(departments=[SimpleNamespace(node_key=f"key-{n}") for n in range(3)])
ASK = {n: Parcel("ask", bytes([n])) for n in range(3)}


def town(*weather, silent: Collection[int] = ()) -> MemoryNetwork:
    network = MemoryNetwork(weather=[*weather, drop(1.0, departments={f"d{n}" for n in silent})])
    for n in range(3):
        network.attach(f"key-{n}", f"d{n}", lambda request: Parcel("answer", request.head))
    return network


def exchange(network, absence=10.0, stop=None) -> Exchange:
    return Exchange(network, ROSTER, network.clock, absence=absence, stop=stop)


class Answers(list):
    """Takes down who said what; has enough after ``enough`` answers."""

    def __init__(self, enough: int = 99) -> None:
        self.enough = enough

    def __call__(self, who: int, reply: Parcel) -> bool:
        self.append((who, reply.head))
        return len(self) >= self.enough


def test_everybody_is_asked_and_heard_once():
    answers = Answers()
    assert exchange(town()).ask(ASK, seconds=30, accept=answers) == set()
    assert sorted(answers) == [(0, b"\0"), (1, b"\1"), (2, b"\2")]


def test_it_ends_as_soon_as_there_is_enough():
    network, answers = town(delay(5.0)), Answers(enough=2)
    missing = exchange(network).ask(ASK, seconds=30, accept=answers)
    assert (len(answers), len(missing)) == (2, 1)
    assert network.clock() < 10


def test_who_is_silent_is_waited_for_until_the_deadline_and_named():
    network, answers = town(silent=[1]), Answers()
    assert exchange(network).ask(ASK, seconds=30, accept=answers) == {1}
    assert network.clock() == pytest.approx(30.0)
    assert len(answers) == 2


def test_who_is_gone_is_given_up_after_its_absence():
    network = town()
    network.detach("key-1")
    assert exchange(network, absence=7).ask(ASK, seconds=30, accept=Answers()) == {1}
    assert 7 <= network.clock() <= 7 + 2 * _LOOK


def test_who_comes_back_is_asked_again_and_only_then():
    """Department 1 dies with the request in its hands and is back 3 s later."""
    network, handled = town(), []

    def dies(request: Parcel) -> Parcel:
        handled.append(network.clock())
        network.detach("key-1")
        return request

    network.attach("key-1", "d1", dies)
    answers, waiting = Answers(), exchange(network)
    present = network.present

    def returns():
        if handled and network.clock() > 3 and "key-1" not in present():
            network.attach("key-1", "d1", lambda request: Parcel("answer", b"back"))
        return present()

    network.present = returns
    assert waiting.ask(ASK, seconds=30, accept=answers) == set()
    assert (len(handled), answers[-1]) == (1, (1, b"back"))
    assert 3 <= network.clock() <= 3 + 3 * _LOOK


def test_a_department_that_keeps_coming_back_is_asked_a_few_times_and_not_for_ever():
    network, asked = town(), []

    def restarts(request: Parcel) -> Parcel:
        asked.append(request)
        network.detach("key-1")
        network.attach("key-1", "d1", restarts)
        return request

    network.attach("key-1", "d1", restarts)
    assert exchange(network).ask(ASK, seconds=30, accept=Answers()) == {1}
    assert len(asked) == _DELIVERIES


class FaultyLinks:
    """Links that can deliver nothing; time passes as it is waited for."""

    def __init__(self) -> None:
        self.now, self.sent = 0.0, 0

    def present(self):
        return {f"key-{n}": "1" for n in range(3)}

    def send(self, node_key, parcel):
        self.sent += 1
        return str(self.sent)

    def collect(self, tickets, timeout):
        self.now += min(timeout, 0.1)
        return [(ticket, Fault("no way")) for ticket in tickets]

    def forget(self, tickets):
        pass


def test_a_link_that_fails_is_tried_a_few_times_and_then_given_up():
    links, faults = FaultyLinks(), []
    waiting = Exchange(links, ROSTER, lambda: links.now, absence=10)
    missing = waiting.ask(ASK, seconds=30, accept=Answers(), on_fault=lambda who, why: faults.append((who, why)))
    assert missing == {0, 1, 2}
    assert links.sent == len(faults) == 3 * _DELIVERIES
    assert links.now < 30


def test_what_comes_after_the_end_is_not_taken():
    """Answers that take 8 s of 5: nobody is heard, and the next exchange hears only what it asked."""
    network = town(delay(0.0))
    slow = [True]

    def weather(crossing, _random):
        late = 8.0 if slow[0] and crossing.direction == "to-coordinator" else 0.0
        return (type(crossing)(crossing.direction, crossing.department, crossing.parcel, late),)

    network._weather.append(weather)
    waiting, first, second = exchange(network), Answers(), Answers()
    assert waiting.ask(ASK, seconds=5, accept=first) == {0, 1, 2}
    slow[0] = False
    waiting.ask({n: Parcel("ask", b"second") for n in range(3)}, seconds=30, accept=second)
    assert first == []
    assert [said for _, said in second] == [b"second"] * 3


def test_a_coordinator_that_is_told_to_stop_stops_waiting():
    stop = threading.Event()
    stop.set()
    waiting = exchange(town(), stop=stop)
    with pytest.raises(Stopped):
        waiting.ask(ASK, seconds=30, accept=Answers())
    with pytest.raises(Stopped):
        waiting.pause(1.0)


def test_asking_nobody_takes_no_time():
    network = town()
    assert exchange(network).ask({}, seconds=30, accept=Answers()) == set()
    assert network.clock() == 0


def test_presence_is_by_number_with_the_incarnation():
    network = town()
    network.detach("key-0")
    network.attach("key-0", "d0", lambda request: request)
    network.detach("key-2")
    network.attach("a stranger", "x", lambda request: request)
    assert exchange(network).present() == {0: "1", 1: "0"}


@given(
    share=st.floats(0, 1),
    late=st.floats(0, 60),
    seconds=st.floats(0.1, 40),
    absence=st.floats(0.1, 40),
    seed=st.integers(),
)
def test_an_exchange_never_lasts_longer_than_was_said(share, late, seconds, absence, seed):
    network = MemoryNetwork(seed=seed, weather=[drop(share), delay(late)])
    for n in range(3):
        network.attach(f"key-{n}", f"d{n}", lambda request: request)
    answers = Answers()
    missing = exchange(network, absence).ask(ASK, seconds=seconds, accept=answers)
    assert network.clock() <= seconds + 1e-9
    assert {who for who, _ in answers} | missing == {0, 1, 2}
    assert len(answers) + len(missing) == 3
