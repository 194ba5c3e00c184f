"""One run of one charter: rounds until all are done, or a reason in one line why it cannot go on."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from commonroot.common import parcel
from commonroot.common.errors import (
    AnotherSurvivorSet,
    NotEnoughShares,
    NotEnoughUploads,
    PeerError,
    Refused,
    RoundLost,
    StaleRound,
    UnknownRound,
)
from commonroot.common.evidence import TELLING, Exhibit, signed_by
from commonroot.common.manifest import flatten, unflatten
from commonroot.common.messages import Offer, Previous, Ready, RoundOpen, RunClose, Train
from commonroot.common.parcel import Parcel
from commonroot.common.roster import Roster
from commonroot.common.secure_sum.codec import SumCodec
from commonroot.common.secure_sum.edges import cohort_fault, smallest_cohort
from commonroot.common.secure_sum.primitives import Identity, sha256
from commonroot.server.backbones import BackboneStore
from commonroot.server.closing import close_round, first_version
from commonroot.server.exchange import Exchange
from commonroot.server.introductions import Introductions
from commonroot.server.journal import Journal
from commonroot.server.journal_rows import Round, Run, Version
from commonroot.server.offers import take_goodbye
from commonroot.server.round import UNWILLING, Account, RoundDriver, RoundResult, code_of, expect
from commonroot.server.waits import pause_after
from commonroot.strategies import check_roster

#: Called with a word for what happened and its facts; progress displays and simulations listen.
OnEvent = Callable[[str, dict[str, Any]], None]

#: While waiting for departments to appear, how often to look, in seconds.
_LOOK = 0.2
#: What departments answer that are further on than who asks: another round, version or survivor set was theirs.
_GONE_ON = (StaleRound.code, AnotherSurvivorSet.code, UnknownRound.code)
#: How long a department that once left the charter unanswered is waited for when it is asked again, in seconds.
_ASK_AGAIN = 2.0
#: A department that did not want to take part is asked again after so long, in seconds: people may have decided.
_UNWILLING_FOR = 15.0


class RunDriver:
    """Carries one run from wherever the journal says it stands to its end."""

    def __init__(
        self,
        run: Run,
        *,
        roster: Roster,
        identity: Identity,
        journal: Journal,
        backbones: BackboneStore,
        exchange: Exchange,
        clock: Callable[[], float] = time.monotonic,
        on_event: OnEvent = lambda kind, facts: None,
        newest_roster: Callable[[], bytes] | None = None,
        retry: float = 0.0,
    ) -> None:
        """
        Parameters  newest_roster: digest of the roster that stands now; a run stops when it is another than ``roster``
                    retry: seconds to wait where a second round in a row was lost; see ``waits``
        """
        self.run = run
        self._signed = run.charter
        self._charter = run.charter.check(bytes.fromhex(roster.coordinator))
        check_roster(self._charter, roster)
        self._roster = roster
        self._identity = identity
        self._journal = journal
        self._backbones = backbones
        self._exchange = exchange
        self._clock = clock
        self._on_event = on_event
        #: Departments that approved the charter and whose data fits it, with the incarnation that said so.
        self._ready: dict[int, str] = {}
        #: Departments that said no, with the incarnation that said it; asked again when they come back.
        self._refused: dict[int, str] = {}
        #: Departments that did not want to take part, and when they said so.
        self._unwilling: dict[int, float] = {}
        #: What each of them said, for the reason that a run gives when it stops.
        self._refusals: dict[int, str] = {}
        #: Departments that refused a round because they had gone on to a later round or version.
        self._stale: set[str] = set()
        #: Departments that left the charter unanswered: asked again in every round, but hardly waited for.
        self._silent: dict[int, str] = {}
        self._newest_roster = newest_roster or (lambda: roster.digest)
        self._introductions = Introductions(
            roster=roster,
            identity=identity,
            journal=journal,
            exchange=exchange,
            on_reply=self._count,
            on_fault=lambda who, code, what: self._fault(who, code, what, None),
            on_exhibit=lambda who, code, reply: self._exhibit(who, code, reply, None),
            on_event=on_event,
        )
        self._floor = smallest_cohort(roster.parameters, self._charter.cohort.floor)
        self._retry = retry

    def drive(self) -> None:
        """Run to the end.  The run's state and reason stand in the journal afterwards."""
        self._journal.set_run(self.run.run, "running")
        self._on_event("run", {"run": self.run.run, "rounds": self._charter.rounds, "charter": self.run.digest})
        if not self._journal.versions(self.run.run, newest=1):
            codec = SumCodec(self._charter.manifest, len(self._roster.departments))
            first_version(self.run.run, self._charter, codec, journal=self._journal, backbones=self._backbones)
        self._give_up_earlier_epochs()
        lost_in_a_row = 0
        while (version := self._newest()).version < self._charter.rounds:
            if self._epoch_ended():
                return
            try:
                self._one_round(version, patient=lost_in_a_row == 0)
                lost_in_a_row = 0
            except RoundLost as lost:
                lost_in_a_row += 1
                again = pause_after(lost_in_a_row, self._retry)
                self._on_event("lost", {"code": lost.code, "why": str(lost), "again_in": again})
                if lost_in_a_row >= self._charter.timing.attempts:
                    reason = f"{lost_in_a_row} rounds in a row came to nothing; the last: {lost} ({lost.code})"
                    reason += self._behind(version)
                    self._journal.set_run(self.run.run, "stopped", reason)
                    self._on_event("stopped", {"why": reason})
                    self._journal.sign_audit(self._identity)
                    return
                self._rest(again)
        self.deliver_closing(self.without_closing(), seconds=self._charter.timing.closing)
        self._journal.set_run(self.run.run, "finished")
        self._journal.sign_audit(self._identity)
        self._on_event("finished", {"run": self.run.run})

    def _rest(self, seconds: float) -> None:
        """Before a round is tried again: what was wrong may need a while, and attempts are counted."""
        until = self._clock() + seconds
        while (left := until - self._clock()) > 0:
            self._exchange.pause(min(left, 1.0))

    # -- epochs ------------------------------------------------------------------------------------------------------

    def _epoch_ended(self) -> bool:
        """Stop, with the reason, once another roster stands: this one's keys are erased as departments join it."""
        if self._newest_roster() == self._roster.digest:
            return False
        reason = f"epoch {self._roster.epoch} has ended: another roster was signed; resume the run under it"
        self._journal.set_run(self.run.run, "stopped", reason)
        self._on_event("stopped", {"why": reason})
        return True

    def _give_up_earlier_epochs(self) -> None:
        """Rounds that another roster's departments began can never be finished: their keys are erased.

        Members that answered a fixed survivor set open this backbone for no other; see docs/adr, epochs.
        """
        for left in self._journal.rounds(self.run.run, "open", "fixed"):
            if RoundOpen.decode(left.opening).roster != self._roster.digest:
                self._journal.lose_round(left.round, "its epoch ended before it was over")
                self._on_event("lost", {"round": left.round, "why": "its epoch ended before it was over"})

    def _behind(self, version: Version) -> str:
        """Why a run from a backup may come to nothing: departments never go back to an earlier version."""
        if not self._stale or self._journal.restored_at() is None:
            return ""
        names = ", ".join(sorted(self._stale))
        return (
            f"; this journal comes from a backup, and {names} have gone on since: they take no version before theirs. "
            f"A new charter can begin where the backup ends, with warm_start = {version.digest.hex()!r}"
        )

    # -- rounds ----------------------------------------------------------------------------------------------------

    def _one_round(self, version: Version, *, patient: bool) -> None:
        pending = self._journal.rounds(self.run.run, "open", "fixed", newest=1)
        began = self._clock()
        state = self._backbones.read(version.file, version.digest)
        broadcast = flatten(state, self._charter.broadcast)
        # While the round goes on, one copy is enough: what is broadcast is the larger part of the state.
        shapes = [(name, shape) for name, shape in self._charter.broadcast if state[name].dtype == np.float32]
        if len(shapes) == len(self._charter.broadcast):
            state |= unflatten(broadcast, shapes, own=True)
        trained: frozenset[int] = frozenset()
        if pending:
            number = pending[-1].round
            snapshot = self._journal.snapshot(number)
            opening = RoundOpen.decode(pending[-1].opening)
            self._on_event("resumed", {"round": number, "state": pending[-1].state})
        else:
            cohort = self._assemble(patient=patient)
            if self._charter.trains_first(self._roster):
                cohort, trained = self._train(version, cohort, broadcast)
            opening, snapshot = self._new_opening(version, cohort, broadcast), None
            number = opening.round
            self._journal.open_round(number, self.run.run, version.version, opening.encode())
        self._on_event("round", {"round": number, "version": version.version, "cohort": self._names(opening.cohort)})
        driver = RoundDriver(
            roster=self._roster,
            identity=self._identity,
            charter=self._charter,
            journal=self._journal,
            exchange=self._exchange,
            on_fault=lambda who, code, what: self._fault(who, code, what, number),
            on_exhibit=lambda who, code, reply: self._exhibit(who, code, reply, number),
            on_progress=self._on_event,
        )
        try:
            result = self._driven(driver, opening, broadcast, snapshot, trained)
        except NotEnoughShares:
            # The survivor set is fixed for ever: nobody opens this backbone for another.  The round stays as it is, and
            # the next attempt asks for the same set again, when members may be back.
            raise
        except RoundLost as lost:
            self._journal.lose_round(number, f"{lost} ({lost.code})")
            raise
        self._close_round(number, version, state, result, seconds=self._clock() - began)

    def _driven(
        self,
        driver: RoundDriver,
        opening: RoundOpen,
        broadcast: bytes,
        snapshot: bytes | None,
        trained: frozenset[int],
    ) -> RoundResult:
        """The round, after which nobody counts as ready who did not want to take part in it."""
        try:
            return driver.drive(opening, broadcast, snapshot, trained=trained)
        finally:
            for who, reply in driver.left.items():
                self._farewell(who, reply)
            for who, code in driver.unwilling.items():
                self._decline(who, self._ready.pop(who, ""), code)

    def _decline(self, who: int, life: str, code: str) -> None:
        """A department does not want to take part now; it is asked again after a while."""
        self._refused[who] = life
        self._unwilling[who] = self._clock()
        self._refusals[who] = f"refused with {code}"
        self._journal.consent.answered(self.run.digest, self._names([who])[0], code)

    def _farewell(self, who: int, reply: Parcel) -> None:
        """A department leaves for good; a forged good-bye is a fault."""
        name = self._names([who])[0]
        try:
            take_goodbye(self._journal, self._roster, who, reply)
        except PeerError as error:
            self._fault(name, error.code, f"the good-bye: {error}", None)
            return
        self._ready.pop(who, None)
        self._refused[who] = self._exchange.present().get(who, "")
        self._refusals[who] = "has left"
        self._on_event("left", {"department": name})

    def _close_round(
        self,
        number: int,
        version: Version,
        state: dict[str, NDArray[np.float32]],
        result: RoundResult,
        *,
        seconds: float,
    ) -> None:
        made, report = close_round(
            number,
            version,
            self._charter,
            state,
            result.opened,
            opened_digest=result.opened_digest,
            aggregate_digest=result.aggregate_digest,
            report=result.report | {"seconds": seconds},
            journal=self._journal,
            backbones=self._backbones,
        )
        self._on_event("closed", {"round": number, "version": made.version} | report)

    def _new_opening(self, version: Version, cohort: tuple[int, ...], broadcast: bytes) -> RoundOpen:
        return RoundOpen.signed(
            self._identity,
            charter=self._charter.digest,
            roster=self._roster.digest,
            epoch=self._roster.epoch,
            round=self._journal.last_round() + 1,
            version=version.version,
            cohort=cohort,
            broadcast=sha256(broadcast),
            manifest=self._charter.manifest.digest,
            bounds=tuple(np.frombuffer(version.bounds, dtype="<f4").tolist()),
            upload_seconds=max(1, round(self._charter.timing.upload)),
            previous=self._previous(),
        )

    def _previous(self) -> Previous:
        """The last sum that was opened in this epoch, for the members to compare with what they answered."""
        closed = self._journal.rounds(None, "closed", newest=1)
        if not closed:
            return Previous()
        last: Round = closed[-1]
        if last.opened is None or last.aggregate is None:
            return Previous()
        return Previous(round=last.round, opened=last.opened, aggregate=last.aggregate)

    # -- who takes part --------------------------------------------------------------------------------------------

    def _assemble(self, *, patient: bool) -> tuple[int, ...]:
        """The cohort: every department that is present and ready.

        A run's first round gives everybody ``timing.gather`` seconds to appear, and so does one after a lost round; a
        coordinator that just came back gives them ``timing.absence``.  Otherwise the floor is enough, since one
        department's absence must not hold up the others.
        """
        began = self._clock()
        deadline = began + self._charter.timing.gather
        if not patient or not self._journal.rounds(self.run.run, newest=1):
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
                    + "".join(f"; {self._names([who])[0]!r} {self._refusals[who]}" for who in sorted(self._refused))
                )
            if cohort != told:
                self._on_event("waiting", {"ready": self._names(cohort), "of": len(self._roster.departments)})
                told = cohort
            self._exchange.pause(_LOOK)

    def _present_and_ready(self) -> dict[int, str]:
        present = self._exchange.present()
        return {who: life for who, life in present.items() if self._ready.get(who) == life}

    def _train(
        self, version: Version, cohort: tuple[int, ...], broadcast: bytes
    ) -> tuple[tuple[int, ...], frozenset[int]]:
        """The ready stage: everyone trains, and those who are done within the time for an upload mask with each other.

        Returns those who are, and which of them have not been restarted since they were asked, so that they still know.
        Raises NotEnoughUploads where no sum over them could be opened; nothing was journaled, and nothing masked.
        """
        asked = Train.signed(
            self._identity,
            charter=self._charter.digest,
            roster=self._roster.digest,
            epoch=self._roster.epoch,
            round=self._journal.last_round() + 1,
            version=version.version,
            broadcast=sha256(broadcast),
            seconds=max(1, round(self._charter.timing.upload)),
        )
        ready: set[int] = set()

        account = Account()

        def accept(who: int, reply: Parcel) -> bool:
            account.add(reply)
            name = self._names([who])[0]
            try:
                expect(reply, parcel.TRAINED)
                said = Ready.decode(bytes(reply.head))
                said.check(bytes.fromhex(self._roster.departments[who].identity), who=f"department {name!r}")
                if (said.asked, said.sender) != (asked.digest, who):
                    raise UnknownRound(f"department {name!r} is ready for another request, or as another department")
            except PeerError as error:
                self._fault(name, error.code, f"training: {error}", asked.round)
                self._exhibit(name, error.code, reply, asked.round)
            else:
                ready.add(who)
                told = {"round": asked.round, "ready": len(ready), "of": len(cohort), "department": name}
                self._on_event("trained", told)
            return False

        self._on_event("training", {"round": asked.round, "version": version.version, "cohort": self._names(cohort)})
        before = self._exchange.present()
        request = Parcel(parcel.TRAIN, asked.encode(), broadcast)
        with self._received(account):
            self._exchange.ask(
                dict.fromkeys(cohort, request),
                seconds=self._charter.timing.upload,
                accept=accept,
                on_fault=self._link_fault,
            )
        left = tuple(sorted(ready))
        if fault := cohort_fault(self._roster, left, self._charter.cohort.floor):
            raise NotEnoughUploads(f"{len(left)} of {len(cohort)} departments have trained: {fault}")
        present = self._exchange.present()
        return left, frozenset(who for who in left if before.get(who) is not None and present.get(who) == before[who])

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
            name, code = self._names([who])[0], code_of(reply)
            try:
                if reply.kind == parcel.GOODBYE:
                    self._farewell(who, reply)
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
                    self._fault(name, error.code, f"the charter: {error}", None)
            else:
                self._ready[who] = new[who]
                self._refusals.pop(who, None)
                self._journal.consent.answered(self.run.digest, name, "ready")
                self._on_event("ready", {"department": self._names([who])[0]})
            return False

        if all(self._silent.get(who) == life for who, life in new.items()):
            seconds = min(seconds, _ASK_AGAIN)
        offer = Offer.signed(
            self._identity,
            run=self.run.run,
            charter=self._charter.digest,
            roster=self._roster.digest,
            epoch=self._roster.epoch,
        )
        charter = Parcel(parcel.CHARTER, offer.encode(), self._signed.to_json())
        with self._received(account):
            unanswered = self._exchange.ask(
                dict.fromkeys(new, charter), seconds=seconds, accept=accept, on_fault=self._link_fault
            )
        self._silent = {who: new[who] for who in unanswered}

    # -- the end ---------------------------------------------------------------------------------------------------

    def without_closing(self) -> set[int]:
        """Departments that have not taken over the final backbone yet."""
        done, left = self._journal.closed_departments(self.run.run), self._journal.consent.farewells()
        members = enumerate(self._roster.departments)
        return {at for at, member in members if member.name not in done and member.identity not in left}

    def deliver_closing(self, departments: set[int], *, seconds: float) -> None:
        """Hand the final backbone to these departments, and wait up to ``seconds`` for them to take it over."""
        version = self._newest()
        state = self._backbones.read(version.file, version.digest)
        broadcast = flatten(state, self._charter.broadcast)
        closing = RunClose.signed(
            self._identity,
            charter=self._charter.digest,
            roster=self._roster.digest,
            epoch=self._roster.epoch,
            round=self._journal.last_round(),
            version=version.version,
            broadcast=sha256(broadcast),
            previous=self._previous(),
        )
        request = Parcel(parcel.RUN_CLOSE, closing.encode(), broadcast)

        account = Account()

        def accept(who: int, reply: Parcel) -> bool:
            account.add(reply)
            name = self._names([who])[0]
            try:
                expect(reply, parcel.CLOSED)
            except PeerError as error:
                self._fault(name, error.code, f"the closing: {error}", None)
            else:
                self._journal.department_closed(self.run.run, name)
                self._on_event("taken-over", {"department": name})
            return False

        self._on_event("closing", {"departments": self._names(sorted(departments))})
        with self._received(account):
            self._exchange.ask(
                dict.fromkeys(sorted(departments), request), seconds=seconds, accept=accept, on_fault=self._link_fault
            )

    # -- small things ----------------------------------------------------------------------------------------------

    def _newest(self) -> Version:
        return self._journal.versions(self.run.run, newest=1)[-1]

    def _names(self, numbers: tuple[int, ...] | list[int]) -> list[str]:
        return [self._roster.departments[who].name for who in numbers]

    @contextmanager
    def _received(self, account: Account) -> Iterator[None]:
        """Around an exchange: one entry for all that arrived, since each waits for the disk."""
        try:
            yield
        finally:
            self._journal.count_received(account.counts())

    def _count(self, reply: Parcel) -> None:
        if reply.kind in parcel.TO_COORDINATOR:  # a name of the department's own making is not kept
            self._journal.count_received({reply.kind: (1, len(reply))})

    def _link_fault(self, who: int, reason: str) -> None:
        self._fault(self._names([who])[0], "link", reason, None)

    def _fault(self, who: str, code: str, what: str, number: int | None) -> None:
        if code == Refused.code and any(each in what for each in _GONE_ON):
            self._stale.add(who)
        self._journal.faults.note(who, code, what, run=self.run.run, round=number)
        self._on_event("fault", {"department": who, "code": code, "what": what})

    def _exhibit(self, who: str, code: str, reply: Parcel, number: int | None) -> None:
        """Keep a reply that is somebody's lie, if the department it is blamed on has signed it."""
        identity = next((m.identity for m in self._roster.departments if m.name == who), None)
        head = bytes(reply.head)
        if code in TELLING and identity is not None and signed_by(bytes.fromhex(identity), reply.kind, head):
            exhibit = Exhibit(time.time(), reply.kind, code, identity, head, sha256(reply.body), reply.kind, b"")
            self._journal.faults.keep_exhibit(who, exhibit, run=self.run.run, round=number)
