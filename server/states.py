"""What the journal may write after what: states of rounds and of runs, as tables."""

from __future__ import annotations

from enum import StrEnum

from commonroot.common.secure_sum.states import Table


class RoundState(StrEnum):
    """A round in the journal.  Each is committed before the step that it announces."""

    OPEN = "open"  # before the first message of the round leaves
    FIXED = "fixed"  # with the survivor set and the masked sum, before anybody is asked to open
    CLOSED = "closed"  # with the new version of the backbone
    LOST = "lost"


class RoundEvent(StrEnum):
    """What moves it."""

    FIX = "fix the survivor set"
    CLOSE = "store the new version"
    LOSE = "give up"


ROUNDS: Table[RoundState, RoundEvent] = Table(
    "a journaled round",
    RoundState.OPEN,
    {
        RoundState.OPEN: {RoundEvent.FIX: RoundState.FIXED, RoundEvent.LOSE: RoundState.LOST},
        RoundState.FIXED: {RoundEvent.CLOSE: RoundState.CLOSED, RoundEvent.LOSE: RoundState.LOST},
        RoundState.CLOSED: {},
        RoundState.LOST: {},
    },
)


class RunState(StrEnum):
    """A run in the journal."""

    QUEUED = "queued"
    RUNNING = "running"
    FINISHED = "finished"
    STOPPED = "stopped"  # with its reason


class RunEvent(StrEnum):
    """What moves it."""

    START = "start"
    FINISH = "reach the charter's last version"
    STOP = "stop with a reason"
    RESUME = "be resumed by a person"


RUNS: Table[RunState, RunEvent] = Table(
    "a run",
    RunState.QUEUED,
    {
        RunState.QUEUED: {RunEvent.START: RunState.RUNNING, RunEvent.STOP: RunState.STOPPED},
        RunState.RUNNING: {
            RunEvent.START: RunState.RUNNING,  # after a crash
            RunEvent.FINISH: RunState.FINISHED,
            RunEvent.STOP: RunState.STOPPED,
        },
        RunState.STOPPED: {RunEvent.RESUME: RunState.QUEUED},
        RunState.FINISHED: {RunEvent.STOP: RunState.FINISHED},  # what fails afterwards changes nothing
    },
)

#: By the state that a caller names.
RUN_EVENTS = {
    "running": RunEvent.START,
    "finished": RunEvent.FINISH,
    "stopped": RunEvent.STOP,
    "queued": RunEvent.RESUME,
}
