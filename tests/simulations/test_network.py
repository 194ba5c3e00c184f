"""The network in memory: its own clock, and weather that does what it says and nothing more."""

from __future__ import annotations

import random

import pytest

from commonroot.common.parcel import Parcel
from commonroot.simulations.network import Crossing, MemoryNetwork, delay, drop, lie, repeat


def echo(parcel: Parcel) -> Parcel:
    return Parcel("reply", b"re: " + parcel.head)


def network(*weather, seed=0, departments=("a", "b")):
    made = MemoryNetwork(seed=seed, weather=weather)
    for name in departments:
        made.attach(f"key-{name}", name, echo)
    return made


def test_a_parcel_goes_there_and_its_reply_comes_back_in_no_time():
    net = network()
    ticket = net.send("key-a", Parcel("request", b"hello"))
    assert net.collect([ticket], 5.0) == [(ticket, Parcel("reply", b"re: hello"))]
    assert net.clock() == 0.0


def test_waiting_in_vain_takes_exactly_the_time_that_was_given():
    net = network(drop(1.0))
    ticket = net.send("key-a", Parcel("request"))
    assert net.collect([ticket], 5.0) == []
    assert net.clock() == 5.0
    assert net.collect([], 1.5) == []
    assert net.clock() == 6.5


def test_each_ticket_is_answered_once():
    net = network()
    ticket = net.send("key-a", Parcel("request"))
    assert len(net.collect([ticket], 1.0)) == 1
    assert net.collect([ticket], 1.0) == []


def test_only_the_tickets_that_were_asked_for_are_handed_over():
    net = network()
    first, second = net.send("key-a", Parcel("request", b"1")), net.send("key-b", Parcel("request", b"2"))
    assert [t for t, _ in net.collect([second], 1.0)] == [second]
    assert [t for t, _ in net.collect([first], 1.0)] == [first]


def test_what_was_forgotten_never_arrives():
    net = network()
    ticket = net.send("key-a", Parcel("request"))
    net.forget([ticket])
    assert net.collect([ticket], 1.0) == []


def test_a_department_that_is_gone_is_not_present_and_what_is_on_its_way_is_lost():
    net = network(delay(1.0))
    ticket = net.send("key-a", Parcel("request"))
    net.detach("key-a")
    assert set(net.present()) == {"key-b"}
    assert net.collect([ticket], 10.0) == []


def test_a_department_that_comes_back_is_another_incarnation_and_gets_nothing_meant_for_the_first():
    net = network(delay(1.0))
    before = net.present()["key-a"]
    ticket = net.send("key-a", Parcel("request"))
    net.detach("key-a")
    net.attach("key-a", "a", echo)
    assert net.present()["key-a"] != before
    assert net.collect([ticket], 10.0) == []
    again = net.send("key-a", Parcel("request"))
    assert [t for t, _ in net.collect([again], 10.0)] == [again]


def test_a_department_that_dies_while_it_works_sends_nothing():
    net = network()
    net.keep_sent = True

    def dies(parcel: Parcel) -> Parcel:
        net.detach("key-a")
        return echo(parcel)

    net.attach("key-a", "a", dies)
    assert net.collect([net.send("key-a", Parcel("request"))], 5.0) == []
    assert net.sent_by_departments == []


def test_everything_that_departments_send_is_kept_for_audits_before_the_weather_touches_it():
    net = network(drop(1.0, kinds={"reply"}))
    net.keep_sent = True
    net.collect([net.send("key-a", Parcel("request", b"x"))], 1.0)
    assert [(c.department, c.parcel.head) for c in net.sent_by_departments] == [("a", b"re: x")]


def test_a_delay_is_bounded_and_reorders():
    """Twenty parcels, up to 10 s each way: all there within 20 s, and not in the order of sending."""
    net = network(delay(10.0))
    tickets = [net.send("key-a", Parcel("request", bytes([n]))) for n in range(20)]
    arrived = []
    while len(arrived) < 20 and net.clock() < 20:
        arrived += [ticket for ticket, _ in net.collect(tickets, 20 - net.clock())]
    assert sorted(arrived) == sorted(tickets)
    assert arrived != tickets


def test_a_repeated_request_is_handled_twice_and_answered_once():
    handled = []

    def count(parcel: Parcel) -> Parcel:
        handled.append(parcel.head)
        return echo(parcel)

    net = MemoryNetwork(weather=[repeat(1.0, kinds={"request"})])
    net.attach("key-a", "a", count)
    ticket = net.send("key-a", Parcel("request", b"x"))
    assert len(net.collect([ticket], 0.5)) == 1
    assert net.collect([ticket], 5.0) != [] or len(handled) == 2
    assert handled == [b"x", b"x"]


@pytest.mark.parametrize("make", [lambda: drop(1.0, departments={"a"}), lambda: drop(1.0, kinds={"secret"})])
def test_weather_touches_only_what_it_was_meant_for(make):
    net = network(make())
    ticket = net.send("key-b", Parcel("request"))
    assert len(net.collect([ticket], 1.0)) == 1


def test_about_the_share_is_dropped_that_was_asked_for():
    """400 parcels, each lost with 1/4: mean 100, standard deviation √(400·1/4·3/4) = 8.7;140 is 4.6 of them."""
    rain, dice = drop(0.25), random.Random(3)
    crossing = Crossing("to-department", "a", Parcel("request"))
    lost = sum(1 for _ in range(400) if not list(rain(crossing, dice)))
    assert 60 < lost < 140


def test_a_lie_replaces_a_parcel_and_leaves_the_rest_alone():
    net = network(lie(lambda c: Parcel("request", b"forged") if c.parcel.head == b"true" else None))
    first, second = net.send("key-a", Parcel("request", b"true")), net.send("key-b", Parcel("request", b"plain"))
    replies: dict[str, Parcel] = {}
    while len(replies) < 2:
        replies.update(net.collect([first, second], 1.0))
    assert [replies[first].head, replies[second].head] == [b"re: forged", b"re: plain"]


def test_the_same_seed_gives_the_same_storm():
    def storm(seed: int) -> list[tuple[float, str]]:
        net = network(drop(0.3), repeat(0.3), delay(5.0), seed=seed)
        tickets = [net.send(f"key-{'ab'[n % 2]}", Parcel("request", bytes([n]))) for n in range(30)]
        seen = []
        while net.clock() < 30:
            seen += [(net.clock(), ticket) for ticket, _ in net.collect(tickets, 30 - net.clock())]
        return seen

    assert storm(1) == storm(1)
    assert storm(1) != storm(2)
