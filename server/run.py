"""One run of one charter: rounds until all are done, or a reason in one line why it cannot go on."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from commonroot.common import parcel
from commonroot.common.errors import NotEnoughShares, PeerError, RoundLost
from commonroot.common.manifest import flatten, unflatten
from commonroot.common.messages import Previous, RoundOpen, RunClose
from commonroot.common.parcel import Parcel
from commonroot.common.roster import Roster
from commonroot.common.secure_sum.codec import SumCodec
from commonroot.common.secure_sum.primitives import Identity, sha256
from commonroot.logs import Tell
from commonroot.server.attendance import Attendance
from commonroot.server.backbones import BackboneStore
from commonroot.server.closing import close_round, first_version
from commonroot.server.exchange import Exchange
from commonroot.server.journal import Journal
from commonroot.server.journal_rows import Round, Run, Version
from commonroot.server.ready_stage import ReadyStage
from commonroot.server.round import Account, RoundDriver, RoundResult, expect
from commonroot.server.run_book import RunBook
from commonroot.server.waits import pause_after
from commonroot.strategies import check_roster


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
        on_event: Tell = lambda kind, facts: None,
        newest_roster: Callable[[], bytes] | None = None,
        retry: float = 0.0,
    ) -> None:
        """
        Parameters  newest_roster: digest of the roster that stands now; a run stops when it is another than ``roster``
                    retry: seconds to wait where a second round in a row was lost; see ``waits``
        """
        self.run = run
        self._charter = run.charter.check(bytes.fromhex(roster.coordinator))
        check_roster(self._charter, roster)
        self._roster = roster
        self._identity = identity
        self._journal = journal
        self._backbones = backbones
        self._exchange = exchange
        self._clock = clock
        self._on_event = on_event
        self._newest_roster = newest_roster or (lambda: roster.digest)
        self._book = RunBook(run, roster=roster, journal=journal, on_event=on_event)
        self._attendance = Attendance(
            run,
            roster=roster,
            identity=identity,
            journal=journal,
            exchange=exchange,
            book=self._book,
            clock=clock,
            on_event=on_event,
        )
        self._ready_stage = ReadyStage(
            charter=self._charter,
            roster=roster,
            identity=identity,
            journal=journal,
            exchange=exchange,
            book=self._book,
            on_event=on_event,
        )
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
        if not self._book.stale or self._journal.restored_at() is None:
            return ""
        names = ", ".join(sorted(self._book.stale))
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
            cohort = self._attendance.assemble(patient=patient)
            if self._charter.trains_first(self._roster):
                cohort, trained = self._ready_stage.train(version, cohort, broadcast)
            opening, snapshot = self._new_opening(version, cohort, broadcast), None
            number = opening.round
            self._journal.open_round(number, self.run.run, version.version, opening.encode())
        self._on_event(
            "round", {"round": number, "version": version.version, "cohort": self._book.names(opening.cohort)}
        )
        driver = RoundDriver(
            roster=self._roster,
            identity=self._identity,
            charter=self._charter,
            journal=self._journal,
            exchange=self._exchange,
            on_fault=lambda who, code, what: self._book.fault(who, code, what, number),
            on_exhibit=lambda who, code, reply: self._book.exhibit(who, code, reply, number),
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
                self._attendance.farewell(who, reply)
            for who, code in driver.unwilling.items():
                self._attendance.declined(who, code)

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
            name = self._book.name(who)
            try:
                expect(reply, parcel.CLOSED)
            except PeerError as error:
                self._book.fault(name, error.code, f"the closing: {error}")
            else:
                self._journal.department_closed(self.run.run, name)
                self._on_event("taken-over", {"department": name})
            return False

        self._on_event("closing", {"departments": self._book.names(sorted(departments))})
        with self._book.received(account):
            self._exchange.ask(
                dict.fromkeys(sorted(departments), request),
                seconds=seconds,
                accept=accept,
                on_fault=self._book.link_fault,
            )

    # -- small things ----------------------------------------------------------------------------------------------

    def _newest(self) -> Version:
        return self._journal.versions(self.run.run, newest=1)[-1]
