"""Every state of the protocol and every step between two of them, as tables: no step is taken that is not in one.

``docs/protocol.md`` draws its diagrams from these tables, and tests walk the machines through every pair of a state and
an event.  A table says *when* something may happen; what a message must hold besides is checked by the machine itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Generic, TypeVar

from commonroot.common.errors import UsageError

S = TypeVar("S", bound=StrEnum)
E = TypeVar("E", bound=StrEnum)


@dataclass(frozen=True)
class Table(Generic[S, E]):
    """One machine.

    name   of what is in these states
    start  where it begins
    steps  state → event → the state after it; what is not listed does not happen
    """

    name: str
    start: S
    steps: Mapping[S, Mapping[E, S]]

    def allows(self, state: S, event: E) -> bool:
        """May this happen now?"""
        return event in self.steps[state]

    def after(self, state: S, event: E) -> S:
        """The state that follows.  Raises UsageError for what may not happen now."""
        if not self.allows(state, event):
            raise UsageError(f"{self.name} in the state {state.value!r} cannot {event.value}")
        return self.steps[state][event]

    def require(self, before: S, after: S, *events: E) -> None:
        """Raise UsageError unless one of these events leads from the one state to the other; any event without any."""
        chosen = events or tuple(self.steps[before])
        if after not in [self.steps[before][event] for event in chosen if self.allows(before, event)]:
            raise UsageError(f"{self.name} does not go from {before.value!r} to {after.value!r} by {[*events]}")


# -- a department, at the beginning of an epoch (``epoch.EpochSetup``) -------------------------------------------------


class EpochState(StrEnum):
    """How far a department has come in meeting the others."""

    WAITING = "greeted"  # no quorum yet: there is no chain that anything could be masked with
    MEETING = "begun"  # a quorum has countersigned; some whom a chain is needed with have not greeted
    MET = "all met"  # a chain with everybody it needs one with; no agreement key is left


class EpochEvent(StrEnum):
    """What an introduction brings."""

    FEW = "meet too few for a quorum"
    QUORUM = "meet a quorum"
    EVERYBODY = "meet the last one"
    MORE = "meet some more"
    REPEAT = "greet or be introduced again"


EPOCH: Table[EpochState, EpochEvent] = Table(
    "an epoch",
    EpochState.WAITING,
    {
        EpochState.WAITING: {
            EpochEvent.FEW: EpochState.WAITING,
            EpochEvent.QUORUM: EpochState.MEETING,
            EpochEvent.EVERYBODY: EpochState.MET,
            EpochEvent.REPEAT: EpochState.WAITING,
        },
        EpochState.MEETING: {
            EpochEvent.MORE: EpochState.MEETING,
            EpochEvent.EVERYBODY: EpochState.MET,
            EpochEvent.REPEAT: EpochState.MEETING,
        },
        EpochState.MET: {EpochEvent.REPEAT: EpochState.MET, EpochEvent.MORE: EpochState.MET},
    },
)

# -- a department, in rounds (``memory.DepartmentMemory``) -------------------------------------------------------------


class KeyState(StrEnum):
    """What a department's durable memory holds of the round it masked for last."""

    UNUSED = "nothing masked"  # in this epoch
    MASKED = "masked"  # the round's keys are held: one survivor set may be opened with them
    CONFIRMED = "confirmed"  # the keys are held, for this one survivor set
    ERASED = "keys erased"  # the round was answered, or is not this department's to open


class KeyEvent(StrEnum):
    """What changes or leaves that memory; each is durable before anything is sent."""

    MASK = "mask for a new round"
    MASK_OUTSIDE = "mask, not on the committee"
    UPLOAD_AGAIN = "send the same upload again"
    CONFIRM = "confirm one survivor set"
    CONFIRM_AGAIN = "confirm the same set again"
    ANSWER = "answer one survivor set"
    ANSWER_AGAIN = "give the same answer again"


DEPARTMENT: Table[KeyState, KeyEvent] = Table(
    "a department",
    KeyState.UNUSED,
    {
        KeyState.UNUSED: {KeyEvent.MASK: KeyState.MASKED, KeyEvent.MASK_OUTSIDE: KeyState.ERASED},
        KeyState.MASKED: {
            KeyEvent.MASK: KeyState.MASKED,
            KeyEvent.UPLOAD_AGAIN: KeyState.MASKED,
            KeyEvent.CONFIRM: KeyState.CONFIRMED,
            KeyEvent.ANSWER: KeyState.ERASED,  # the whole cohort, or a set that a quorum of others confirmed
            KeyEvent.ANSWER_AGAIN: KeyState.MASKED,  # of an earlier round
        },
        KeyState.CONFIRMED: {
            KeyEvent.MASK: KeyState.MASKED,
            KeyEvent.UPLOAD_AGAIN: KeyState.CONFIRMED,
            KeyEvent.CONFIRM_AGAIN: KeyState.CONFIRMED,
            KeyEvent.ANSWER: KeyState.ERASED,  # the same set
            KeyEvent.ANSWER_AGAIN: KeyState.CONFIRMED,  # of an earlier round
        },
        KeyState.ERASED: {
            KeyEvent.MASK: KeyState.MASKED,
            KeyEvent.MASK_OUTSIDE: KeyState.ERASED,
            KeyEvent.UPLOAD_AGAIN: KeyState.ERASED,
            KeyEvent.CONFIRM_AGAIN: KeyState.ERASED,  # the set that was answered
            KeyEvent.ANSWER_AGAIN: KeyState.ERASED,
        },
    },
)

# -- the coordinator, in one round (``coordinator.CoordinatorRound``) --------------------------------------------------


class SumState(StrEnum):
    """How far a round has come in the coordinator's memory."""

    UPLOADING = "uploading"
    CONFIRMING = "confirming"  # the survivor set is fixed, for ever, and is not the whole cohort
    OPENING = "opening"  # it is fixed, and the whole cohort or confirmed by a quorum
    DONE = "done"  # the sum is unmasked


class SumEvent(StrEnum):
    """What is done with it."""

    ADD = "add an upload"
    LATE = "leave out a late upload"
    FIX_ALL = "fix the whole cohort"
    FIX_FEWER = "fix a smaller survivor set"
    STORE = "store a snapshot"
    ASK_CONFIRM = "ask a member to confirm"
    CONFIRM = "take a confirmation"
    CONFIRM_ENOUGH = "take the last confirmation needed"
    ASK = "ask a member to open"
    TAKE = "take an answer"
    UNMASK = "unmask the sum"


SUM: Table[SumState, SumEvent] = Table(
    "a round",
    SumState.UPLOADING,
    {
        SumState.UPLOADING: {
            SumEvent.ADD: SumState.UPLOADING,
            SumEvent.FIX_ALL: SumState.OPENING,
            SumEvent.FIX_FEWER: SumState.CONFIRMING,
        },
        SumState.CONFIRMING: {
            SumEvent.LATE: SumState.CONFIRMING,
            SumEvent.FIX_FEWER: SumState.CONFIRMING,  # the same set
            SumEvent.STORE: SumState.CONFIRMING,
            SumEvent.ASK_CONFIRM: SumState.CONFIRMING,
            SumEvent.CONFIRM: SumState.CONFIRMING,
            SumEvent.CONFIRM_ENOUGH: SumState.OPENING,
        },
        SumState.OPENING: {
            SumEvent.LATE: SumState.OPENING,
            SumEvent.FIX_ALL: SumState.OPENING,  # the same set
            SumEvent.FIX_FEWER: SumState.OPENING,
            SumEvent.STORE: SumState.OPENING,
            SumEvent.ASK_CONFIRM: SumState.OPENING,
            SumEvent.CONFIRM: SumState.OPENING,  # one that was under way
            SumEvent.ASK: SumState.OPENING,
            SumEvent.TAKE: SumState.OPENING,
            SumEvent.UNMASK: SumState.DONE,
        },
        SumState.DONE: {
            SumEvent.LATE: SumState.DONE,
            SumEvent.FIX_ALL: SumState.DONE,
            SumEvent.FIX_FEWER: SumState.DONE,
            SumEvent.ASK_CONFIRM: SumState.DONE,
            SumEvent.CONFIRM: SumState.DONE,
            SumEvent.ASK: SumState.DONE,
            SumEvent.TAKE: SumState.DONE,  # one that was under way
            SumEvent.UNMASK: SumState.DONE,  # the same sum
        },
    },
)
