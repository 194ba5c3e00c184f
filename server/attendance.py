"""Who takes part in a run: departments that are there, approved the charter, and have met one another."""

from __future__ import annotations

from collections.abc import Callable

from commonroot.common import parcel
from commonroot.common.errors import NotEnoughUploads, PeerError
from commonroot.common.messages import Offer
from commonroot.common.parcel import Parcel
from commonroot.common.roster import Roster
from commonroot.common.secure_sum.edges import cohort_fault, smallest_cohort
from commonroot.common.secure_sum.primitives import Identity
from commonroot.logs import Tell
from commonroot.server.exchange import Exchange
from commonroot.server.introductions import Introductions
from commonroot.server.journal import Journal
from commonroot.server.journal_rows import Run
from commonroot.server.offers import take_goodbye
from commonroot.server.round import UNWILLING, Account, code_of, expect
from commonroot.server.run_book import RunBook

#: While waiting for departments to appear, how often to look, in seconds.
_LOOK = 0.2
#: How long a department that once left the charter unanswered is waited for when it is asked again, in seconds.
_ASK_AGAIN = 2.0
#: A department that did not want to take part is asked again after so long, in seconds: people may have decided.
_UNWILLING_FOR = 15.0


class Attendance:
    """What each department of a roster, in each of its incarnations, said to a run's charter."""

    def __init__(
        self,
        run: Run,
        *,
        roster: Roster,
        identity: Identity,
        journal: Journal,
        exchange: Exchange,
        book: RunBook,
        clock: Callable[[], float],
        on_event: Tell,
    ) -> None:
        self._run = run
        self._charter = run.charter.charter
        self._roster = roster
        self._identity = identity
        self._journal = journal
        self._exchange = exchange
        self._book = book
        self._clock = clock
        self._on_event = on_event
        self._floor = smallest_cohort(roster.parameters, self._charter.cohort.floor)
        #: Departments that approved the charter and whose data fits it, with the incarnation that said so.
        self._ready: dict[int, str] = {}
        #: Departments that said no, with the incarnation that said it; asked again when they come back.
        self._refused: dict[int, str] = {}
        #: Departments that did not want to take part, and when they said so.
        self._unwilling: dict[int, float] = {}
        #: What each of them said, for the reason that a run gives when it stops.
        self._refusals: dict[int, str] = {}
        #: Departments that left the charter unanswered: asked again in every round, but hardly waited for.
        self._silent: dict[int, str] = {}
        self._introductions = Introductions(
            roster=roster,
            identity=identity,
            journal=journal,
            exchange=exchange,
            on_reply=book.count,
            on_fault=book.fault,
            on_exhibit=book.exhibit,
            on_event=on_event,
        )

    def assemble(self, *, patient: bool) -> tuple[int, ...]:
        """The cohort: every department that is present and ready.

        A run's first round gives everybody ``timing.gather`` seconds to appear, and so does one after a lost round; a
        coordinator that just came back gives them ``timing.absence``.  Otherwise the floor is enough, since one
        department's absence must not hold up the others.
        """
        began = self._clock()
        deadline = began + self._charter.timing.gather
        if not patient or not self._journal.rounds(self._run.run, newest=1):
            everyone_until = deadline
        else:
            everyone_until = began if self._ready else began + self._charter.timing.absence
        told: tuple[int, ...] | None = None
        while True:
            self._ask_newcomers(min(self._charter.timing.upload, max(1.0, deadline - self._clock())))
            introducing = self._clock()
            self._introductions.bring_together(
                self._present_and_ready(), seconds=self._charter.timing.upload, floor=self._floor
            )
            # Gathering is for appearing; what introductions take, once in an epoch, comes on top of it.
            deadline += self._clock() - introducing
            everyone_until += self._clock() - introducing
            cohort = self._introductions.cohort(self._present_and_ready())
            now = self._clock()
            if len(cohort) == len(self._roster.departments):
                return cohort
            fault = cohort_fault(self._roster, cohort, self._charter.cohort.floor)
            if now >= everyone_until and fault is None:
                return cohort
            if now >= deadline:
                lacking = fault if fault and len(cohort) >= self._floor else f"{self._floor} are needed"
                raise NotEnoughUploads(
                    f"{len(cohort)} departments are present and ready; {lacking}"
                    + "".join(f"; {self._book.name(who)!r} {self._refusals[who]}" for who in sorted(self._refused))
                )
            if cohort != told:
                self._on_event("waiting", {"ready": self._book.names(cohort), "of": len(self._roster.departments)})
                told = cohort
            self._exchange.pause(_LOOK)

    def _present_and_ready(self) -> dict[int, str]:
        present = self._exchange.present()
        return {who: life for who, life in present.items() if self._ready.get(who) == life}

    def _ask_newcomers(self, seconds: float) -> None:
        """Show the charter to whoever appeared or came back; only who answers READY joins a cohort."""
        present = self._exchange.present()
        now = self._clock()
        self._unwilling = {who: since for who, since in self._unwilling.items() if now - since < _UNWILLING_FOR}
        self._refused = {
            who: life
            for who, life in self._refused.items()
            if present.get(who) == life
            and (who in self._unwilling or not self._refusals.get(who, "").endswith(tuple(UNWILLING)))
        }
        new = {who: life for who, life in present.items() if self._ready.get(who) != life and who not in self._refused}
        if not new:
            return

        account = Account()

        def accept(who: int, reply: Parcel) -> bool:
            account.add(reply)
            name, code = self._book.name(who), code_of(reply)
            try:
                if reply.kind == parcel.GOODBYE:
                    self.farewell(who, reply)
                    return False
                expect(reply, parcel.READY)
            except PeerError as error:
                told = who in self._unwilling or self._refusals.get(who) == f"refused with {code}"
                if code in UNWILLING:
                    self._decline(who, new[who], code)
                else:
                    self._refused[who] = new[who]
                    self._refusals[who] = str(error)
                if not told:  # who is asked again and says the same again is no new fault
                    self._book.fault(name, error.code, f"the charter: {error}")
            else:
                self._ready[who] = new[who]
                self._refusals.pop(who, None)
                self._journal.consent.answered(self._run.digest, name, "ready")
                self._on_event("ready", {"department": self._book.name(who)})
            return False

        if all(self._silent.get(who) == life for who, life in new.items()):
            seconds = min(seconds, _ASK_AGAIN)
        offer = Offer.signed(
            self._identity,
            run=self._run.run,
            charter=self._charter.digest,
            roster=self._roster.digest,
            epoch=self._roster.epoch,
        )
        charter = Parcel(parcel.CHARTER, offer.encode(), self._run.charter.to_json())
        with self._book.received(account):
            unanswered = self._exchange.ask(
                dict.fromkeys(new, charter), seconds=seconds, accept=accept, on_fault=self._book.link_fault
            )
        self._silent = {who: new[who] for who in unanswered}

    def declined(self, who: int, code: str) -> None:
        """A department that was ready does not want to take part in the round; it is asked again after a while."""
        self._decline(who, self._ready.pop(who, ""), code)

    def _decline(self, who: int, life: str, code: str) -> None:
        self._refused[who] = life
        self._unwilling[who] = self._clock()
        self._refusals[who] = f"refused with {code}"
        self._journal.consent.answered(self._run.digest, self._book.name(who), code)

    def farewell(self, who: int, reply: Parcel) -> None:
        """A department leaves for good; a forged good-bye is a fault."""
        name = self._book.name(who)
        try:
            take_goodbye(self._journal, self._roster, who, reply)
        except PeerError as error:
            self._book.fault(name, error.code, f"the good-bye: {error}")
            return
        self._ready.pop(who, None)
        self._refused[who] = self._exchange.present().get(who, "")
        self._refusals[who] = "has left"
        self._on_event("left", {"department": name})
