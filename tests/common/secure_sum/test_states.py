"""The tables of states: whole, reachable, and what the machines do in every state for every event."""

from __future__ import annotations

from random import Random

import pytest
from sum_federation import Federation

from commonroot.common.errors import NotCountersigned, UsageError
from commonroot.common.roster import Member, Parameters, Roster
from commonroot.common.secure_sum.agreement import AgreementKey
from commonroot.common.secure_sum.epoch import EpochSetup, introduction
from commonroot.common.secure_sum.memory import DepartmentMemory
from commonroot.common.secure_sum.primitives import Identity
from commonroot.common.secure_sum.states import (
    DEPARTMENT,
    EPOCH,
    SUM,
    EpochState,
    KeyEvent,
    KeyState,
    SumEvent,
    SumState,
    Table,
)
from commonroot.server.states import ROUNDS, RUNS

TABLES = [EPOCH, DEPARTMENT, SUM, ROUNDS, RUNS]


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.name)
def test_every_state_stands_in_its_table_and_can_be_reached(table: Table):
    states = type(table.start)
    assert set(table.steps) == set(states)
    reached, todo = set(), [table.start]
    while todo:
        state = todo.pop()
        if state not in reached:
            reached.add(state)
            todo.extend(table.steps[state].values())
    assert reached == set(states)


def test_a_step_that_is_in_no_table_is_refused():
    with pytest.raises(UsageError, match="'nothing masked' cannot answer"):
        DEPARTMENT.after(KeyState.UNUSED, KeyEvent.ANSWER)
    with pytest.raises(UsageError, match="does not go from"):
        DEPARTMENT.require(KeyState.ERASED, KeyState.MASKED, KeyEvent.ANSWER)
    with pytest.raises(UsageError, match="does not go from"):
        EPOCH.require(EpochState.MET, EpochState.WAITING)


def test_once_answered_a_round_is_never_answered_for_another_set():
    """From ``keys erased`` only masking for a new round leads back to a state that can answer."""
    back = {event for event, state in DEPARTMENT.steps[KeyState.ERASED].items() if state is KeyState.MASKED}
    assert back == {KeyEvent.MASK}
    assert not DEPARTMENT.allows(KeyState.ERASED, KeyEvent.ANSWER)
    assert not DEPARTMENT.allows(KeyState.UNUSED, KeyEvent.ANSWER)


def test_a_fixed_survivor_set_is_never_added_to():
    """No event leads from any later state back to ``uploading``."""
    for state in (SumState.CONFIRMING, SumState.OPENING, SumState.DONE):
        assert SumState.UPLOADING not in SUM.steps[state].values()
        assert not SUM.allows(state, SumEvent.ADD)


def test_fewer_than_the_whole_cohort_are_never_opened_before_a_quorum_confirmed_them():
    """Whichever way leads from a smaller set to ``opening`` goes through the last confirmation needed."""
    assert SUM.after(SumState.UPLOADING, SumEvent.FIX_FEWER) is SumState.CONFIRMING
    left = {event for event, state in SUM.steps[SumState.CONFIRMING].items() if state is not SumState.CONFIRMING}
    assert left == {SumEvent.CONFIRM_ENOUGH}
    assert not {SumEvent.ASK, SumEvent.TAKE, SumEvent.UNMASK} & set(SUM.steps[SumState.CONFIRMING])


#: Where each event brings everybody's uploads, or only four of five: four where it says nothing.
_WHOLE = {SumEvent.FIX_ALL}


@pytest.mark.parametrize("state", list(SumState))
@pytest.mark.parametrize("event", list(SumEvent))
def test_the_coordinators_round_does_what_its_table_says(state: SumState, event: SumEvent):
    """Each event in each state: allowed ones lead where the table says, others are refused or change nothing.

    n = 5, tau = 4: three confirmations are one too few.
    """
    if state is SumState.CONFIRMING and event in _WHOLE:
        assert not SUM.allows(state, event)  # the whole cohort is never confirmed: there is no such state to try it in
        return
    federation = Federation(5)
    opening = federation.opening()
    there = range(5 if event in _WHOLE else 4)
    uploads = {who: federation.upload(who, opening) for who in range(5)}
    other = federation.round(opening)
    for who in there:
        other.upload(who, *uploads[who])
    other.fix()
    confirmed = [federation.machines[who].confirm(other.confirm_request)[0] for who in range(5)]
    for who in range(5):
        other.confirmation(who, confirmed[who])
    answers = [federation.machines[who].answer(other.open_for(who))[0] for who in range(5)]
    machine = federation.round(opening)
    for who in there:
        machine.upload(who, *uploads[who])
    if state is not SumState.UPLOADING:
        machine.fix()
        for who in range(3):
            machine.confirmation(who, confirmed[who])
    if state in (SumState.OPENING, SumState.DONE):
        machine.confirmation(3, confirmed[3])
        for who in range(4):
            machine.shares(who, answers[who])
    if state is SumState.DONE:
        machine.finish()
    assert machine.state is state

    if event in (SumEvent.ADD, SumEvent.LATE):
        assert machine.upload(4, *uploads[4]) is (event is SumEvent.ADD) or not SUM.allows(state, event)
        assert (4 in machine.uploaded) is SUM.allows(state, SumEvent.ADD)
        assert machine.state is state
        return
    act = {
        SumEvent.FIX_ALL: machine.fix,
        SumEvent.FIX_FEWER: machine.fix,
        SumEvent.STORE: machine.snapshot,
        SumEvent.ASK_CONFIRM: lambda: machine.confirm_request,
        SumEvent.CONFIRM: lambda: machine.confirmation(0, confirmed[0]),
        SumEvent.CONFIRM_ENOUGH: lambda: machine.confirmation(4, confirmed[4]),
        SumEvent.ASK: lambda: machine.open_for(4),
        SumEvent.TAKE: lambda: machine.shares(4, answers[4]),
        SumEvent.UNMASK: machine.finish,
    }[event]
    if SUM.allows(state, event):
        act()
        assert machine.state is SUM.after(state, event)
    elif event is SumEvent.CONFIRM_ENOUGH and state is not SumState.UPLOADING:
        assert act() is False  # one that was under way and is needed no more
        assert machine.state is state
    else:
        with pytest.raises(UsageError):
            act()
        assert machine.state is state


def test_a_departments_memory_goes_through_its_table():
    federation = Federation(5)
    machine = federation.machines[0]
    assert machine.memory.state is DEPARTMENT.start
    first = federation.opening()
    uploads = [federation.upload(who, first) for who in range(5)]
    assert machine.memory.state is KeyState.MASKED
    at_work = federation.round(first)
    for who, upload in enumerate(uploads):
        at_work.upload(who, *upload)
    at_work.fix()
    answer, _ = machine.answer(at_work.open_for(0))
    assert machine.memory.state is KeyState.ERASED
    assert machine.answer(at_work.open_for(0))[0] == answer
    assert machine.memory.state is KeyState.ERASED


def test_a_memory_that_confirmed_goes_on_to_answer_or_to_the_next_round():
    federation = Federation(5)
    opening = federation.opening()
    uploads = [federation.upload(who, opening) for who in range(5)]
    at_work = federation.round(opening)
    for who in range(4):
        at_work.upload(who, *uploads[who])
    at_work.fix()
    federation.confirm(at_work)
    assert [machine.memory.state for machine in federation.machines] == [KeyState.CONFIRMED] * 4 + [KeyState.MASKED]
    federation.machines[0].confirm(at_work.confirm_request)
    assert federation.machines[0].memory.state is KeyState.CONFIRMED
    federation.machines[0].answer(at_work.open_for(0))
    federation.machines[4].answer(at_work.open_for(4))  # it never got the request to confirm
    assert federation.machines[0].memory.state is federation.machines[4].memory.state is KeyState.ERASED
    first, again = (federation.machines[0].confirm(at_work.confirm_request)[0] for _ in range(2))
    assert first == again
    assert federation.machines[0].memory.state is KeyState.ERASED
    federation.upload(1, federation.opening(2))
    assert federation.machines[1].memory.state is KeyState.MASKED
    assert federation.machines[1].memory.committed(1) is not None


def test_a_memory_that_was_answered_takes_no_second_answer():
    """Even a program that forgot to ask could not write one down."""
    federation = Federation(5)
    opening = federation.opening()
    at_work = federation.round(opening)
    for who in range(5):
        at_work.upload(who, *federation.upload(who, opening))
    at_work.fix()
    federation.machines[0].answer(at_work.open_for(0))
    memory = federation.machines[0].memory
    with pytest.raises(UsageError, match="does not go from 'keys erased' to 'keys erased'"):
        memory.with_answer(memory.commitments[-1], memory.upload, (0, 1, 2))


def test_an_epoch_goes_through_its_table_and_rounds_wait_for_the_quorum():
    """Five departments, quorum 4: the last one needs three others' countersignatures beside its own."""
    random = Random(1).randbytes
    coordinator = Identity.generate(random)
    identities = [Identity.generate(random) for _ in range(5)]
    keys = [AgreementKey.generate(random) for _ in range(5)]
    roster = Roster(
        federation="f",
        epoch=1,
        coordinator=coordinator.public.hex(),
        parameters=Parameters.for_size(5),
        departments=tuple(
            Member.signed(f"d{at}", identity, key.public, f"node-{at}")
            for at, (identity, key) in enumerate(zip(identities, keys, strict=True))
        ),
        expires=2**40,
    )
    setups = [EpochSetup.begin(roster, identity, key) for identity, key in zip(identities, keys, strict=True)]
    greetings = {at: (setup.greeting, setup.ciphertexts) for at, setup in enumerate(setups)}
    setup, memory = setups[4], DepartmentMemory.begin(roster, 4, random)
    assert setup.state(roster) is EPOCH.start
    seen = []
    for told in ({0, 1}, {0, 1}, {2}, {3}, {3}):
        head, body = introduction(coordinator, roster, 4, {at: greetings[at] for at in told})
        setup, memory = setup.introduce(roster, head, body, memory)
        seen.append(setup.state(roster))
        if seen[-1] is EpochState.WAITING:
            with pytest.raises(NotCountersigned):
                setup.require_begun(roster)
            assert not memory.chains.holds(0)
        else:
            setup.require_begun(roster)
            assert memory.chains.holds(0)
    assert seen == [EpochState.WAITING, EpochState.WAITING, EpochState.MEETING, EpochState.MET, EpochState.MET]
    assert (setup.seed, dict(setup.curve), dict(setup.roots)) == (b"", {}, {})
