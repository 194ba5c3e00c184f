"""What the coordinator answers to a question about membership: see ``common.enrolment`` and docs/adr/0016.

It is asked by whoever reaches the public port.  What is refused travels as a code; why stands in the log and, for as
many as are worth reading, among the journal's faults.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Final

from commonroot.common.enrolment import SKEW, Answer, Question
from commonroot.common.errors import (
    BadSignature,
    ClockSkew,
    CommonrootError,
    EnrolmentRefused,
    StorageFull,
    WrongFederation,
)
from commonroot.common.roster import SignedRoster
from commonroot.files import read_bytes, read_text
from commonroot.logs import Tell
from commonroot.server.enrol_book import EnrolmentBook
from commonroot.server.folder import CoordinatorFolder
from commonroot.server.journal import Journal

_log = logging.getLogger(__name__)

#: Refusals that are written down within an hour; a flood of them fills no disk.
_NOTED_PER_HOUR: Final = 120


class EnrolmentDesk:
    """Answers questions; may be asked from several threads.

    Parameters  clock: seconds since 1970
    """

    def __init__(
        self,
        folder: CoordinatorFolder,
        journal: Journal,
        book: EnrolmentBook,
        *,
        on_event: Tell = lambda kind, facts: None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._folder = folder
        self._journal = journal
        self._book = book
        self._on_event = on_event
        self._clock = clock
        self._lock = threading.Lock()
        self._hour, self._noted = 0, 0

    def answer(self, body: bytes, address: str) -> tuple[int, bytes]:
        """HTTP status and body for a question from an address.  Never raises for anything a stranger sends."""
        try:
            return 200, self._answer(Question.from_json(body), address).to_json()
        except StorageFull:
            _log.exception("an enrolment question could not be answered")
            return 503, b""
        except CommonrootError as error:
            self._note(error, address)
            return 403, Answer(refused=error.code).to_json()

    def _answer(self, question: Question, address: str) -> Answer:
        if question.ask == "ca":
            return Answer(ca=read_text(self._folder.ca, what="the CA certificate"))
        if question.application is not None:
            application, roster = question.application, self._folder.standing()
            self._book.apply(application, roster=roster, now=self._clock())
            how = "token" if application.token is not None else "renewal"
            self._on_event("applied", {"department": application.member.name, "how": how, "from": address})
            return Answer(state="waiting")
        return self._about_roster(question)

    def _about_roster(self, question: Question) -> Answer:
        roster = self._folder.standing()
        identity = question.identity or ""
        state = self._book.state_of(identity, roster)
        try:
            question.check()
        except BadSignature as error:
            raise EnrolmentRefused("somebody asked for the roster under a signature that does not hold") from error
        if state is None:
            raise EnrolmentRefused(f"identity {identity[:16]}… asked for the roster and is unknown")
        if question.federation != self._folder.config.federation:
            raise WrongFederation(f"identity {identity[:16]}… asked about federation {question.federation!r}")
        if abs(self._clock() - (question.at or 0)) > SKEW:
            raise ClockSkew(f"identity {identity[:16]}… asked for the roster with a clock far from this one's")
        if roster is None:
            return Answer(state=state, renew=False)
        newer = None
        if state == "member" and roster.epoch > (question.epoch or 0):
            data = read_bytes(self._folder.root / "roster.json", what="the roster")
            newer = SignedRoster.from_json(data)
        return Answer(
            state=state, renew=state == "member" and self._book.wants_renewal(roster, now=self._clock()), roster=newer
        )

    def _note(self, error: CommonrootError, address: str) -> None:
        """Where somebody looks for it, unless there is too much of it to look at."""
        with self._lock:
            hour = int(self._clock() // 3600)
            self._hour, self._noted = hour, (self._noted if hour == self._hour else 0) + 1
            noted = self._noted
        if noted > _NOTED_PER_HOUR:
            return
        more = "; further refusals of this hour are not noted" if noted == _NOTED_PER_HOUR else ""
        _log.warning("enrolment, from %s: %s (%s)%s", address, error, error.code, more)
        self._on_event("refused", {"what": "enrolment", "code": error.code, "from": address})
        try:
            self._journal.faults.note("", error.code, f"enrolment, from {address}: {error}{more}")
        except CommonrootError:
            _log.exception("the refusal could not be noted")
