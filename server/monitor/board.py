"""What is going on right now: the events of the run, kept as a picture of this moment.

The journal has what is settled; it says nothing of who is being waited for.  The run driver tells that as it goes, and
this remembers the last of it.  It is called from the thread that drives rounds, so it only ever writes down.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from commonroot.common.charter import Timing

#: Events remembered for those who look later.
EVENTS_KEPT: Final = 60

#: What a stage is called, and which of the charter's waits bounds it; confirming has half of the time for opening.
STAGES: Final[Mapping[str, Callable[[Timing], float]]] = {
    "gathering": lambda timing: timing.gather,
    "training": lambda timing: timing.upload,
    "uploading": lambda timing: timing.upload,
    "confirming": lambda timing: timing.opening / 2,
    "opening": lambda timing: timing.opening,
    "closing": lambda timing: timing.closing,
}


@dataclass(slots=True)
class Moment:
    """The state of the run in progress.

    stage   one of ``STAGES``, or empty between runs
    since   when it began; until: when it ends at the latest; seconds since 1970
    asked   departments that something is asked of, by name; done: those that have answered
    """

    run: int | None = None
    stage: str = ""
    round: int | None = None
    since: float = 0.0
    until: float | None = None
    asked: list[str] = field(default_factory=list)
    done: list[str] = field(default_factory=list)


class Board:
    """Listens to a coordinator's events.  Safe to write and to read from any thread."""

    def __init__(self, *, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._moment = Moment()
        self._timing = Timing()
        self._everybody: list[str] = []
        #: What each department said no to, last: its code, and when.
        self._declined: dict[str, tuple[str, float]] = {}
        self._events: deque[tuple[float, str, dict[str, Any]]] = deque(maxlen=EVENTS_KEPT)
        self.began = clock()

    def expect(self, departments: list[str]) -> None:
        """The roster that stands now."""
        with self._lock:
            self._everybody = list(departments)

    def run_begins(self, timing: Timing) -> None:
        """The waits of the run that begins."""
        with self._lock:
            self._timing = timing

    def tell(self, kind: str, facts: Mapping[str, Any]) -> None:
        """Take note of one event; an unknown one is only remembered."""
        with self._lock:
            self._events.append((self._clock(), kind, dict(facts)))
            note = getattr(self, "_on_" + kind.replace("-", "_"), None)
            if note is not None:
                note(facts)

    def moment(self) -> dict[str, Any]:
        """The state of the run in progress, as a record of its own; see :class:`Moment`."""
        with self._lock:
            now = self._moment
            return {
                "run": now.run,
                "stage": now.stage,
                "round": now.round,
                "since": now.since,
                "until": now.until,
                "asked": list(now.asked),
                "done": list(now.done),
            }

    def declined(self) -> dict[str, tuple[str, float]]:
        """Departments that said no to the charter and have not said yes since: name → (code, when)."""
        with self._lock:
            return dict(self._declined)

    def events(self) -> list[dict[str, Any]]:
        """The last events, oldest first."""
        with self._lock:
            return [{"at": at, "event": kind, "facts": dict(facts)} for at, kind, facts in self._events]

    # -- what each event changes; called with the lock held ----------------------------------------------------------

    def _stage(self, stage: str, asked: list[str]) -> None:
        now = self._clock()
        self._moment.stage = stage
        self._moment.since = now
        self._moment.until = now + STAGES[stage](self._timing)
        self._moment.asked = list(asked)
        self._moment.done = []

    def _between(self) -> None:
        self._moment = Moment(run=self._moment.run)

    def _on_run(self, facts: Mapping[str, Any]) -> None:
        self._moment = Moment(run=facts.get("run"))
        self._declined.clear()
        self._stage("gathering", self._everybody)

    def _on_waiting(self, facts: Mapping[str, Any]) -> None:
        if self._moment.stage != "gathering":
            self._stage("gathering", self._everybody)
        self._moment.done = list(facts.get("ready", []))

    def _on_ready(self, facts: Mapping[str, Any]) -> None:
        name = str(facts.get("department", ""))
        self._declined.pop(name, None)
        self._answered(name, "gathering")

    def _on_fault(self, facts: Mapping[str, Any]) -> None:
        what = str(facts.get("what", ""))
        if what.startswith("the charter: "):
            code = what.rpartition("refused with ")[2] if "refused with " in what else str(facts.get("code", ""))
            self._declined[str(facts.get("department", ""))] = (code, self._clock())

    def _on_training(self, facts: Mapping[str, Any]) -> None:
        self._stage("training", list(facts.get("cohort", [])))
        self._moment.round = facts.get("round")

    def _on_trained(self, facts: Mapping[str, Any]) -> None:
        self._answered(str(facts.get("department", "")), "training")

    def _on_round(self, facts: Mapping[str, Any]) -> None:
        self._stage("uploading", list(facts.get("cohort", [])))
        self._moment.round = facts.get("round")

    def _on_uploaded(self, facts: Mapping[str, Any]) -> None:
        self._answered(str(facts.get("department", "")), "uploading")

    def _on_confirming(self, facts: Mapping[str, Any]) -> None:
        self._stage("confirming", self._survivors(facts))

    def _on_opening(self, facts: Mapping[str, Any]) -> None:
        self._stage("opening", self._survivors(facts))

    def _on_closed(self, _facts: Mapping[str, Any]) -> None:
        self._between()

    def _on_lost(self, _facts: Mapping[str, Any]) -> None:
        self._between()

    def _on_stopped(self, _facts: Mapping[str, Any]) -> None:
        self._moment = Moment()

    def _on_finished(self, _facts: Mapping[str, Any]) -> None:
        self._moment = Moment()

    def _on_closing(self, facts: Mapping[str, Any]) -> None:
        self._stage("closing", list(facts.get("departments", [])))

    def _on_taken_over(self, facts: Mapping[str, Any]) -> None:
        self._answered(str(facts.get("department", "")), "closing")

    def _survivors(self, facts: Mapping[str, Any]) -> list[str]:
        numbers = [int(who) for who in facts.get("survivors", [])]
        return [self._everybody[who] for who in numbers if who < len(self._everybody)]

    def _answered(self, name: str, stage: str) -> None:
        if self._moment.stage == stage and name and name not in self._moment.done:
            self._moment.done.append(name)
