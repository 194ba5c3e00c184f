"""One run of one charter: rounds until all are done, or a reason in one line why it cannot go on."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
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
from commonroot.common.manifest import flatten
from commonroot.common.messages import Previous, Ready, RoundOpen, RunClose, Train
from commonroot.common.parcel import Parcel
from commonroot.common.roster import Roster
from commonroot.common.secure_sum.codec import SumCodec
from commonroot.common.secure_sum.edges import cohort_fault, smallest_cohort
from commonroot.common.secure_sum.primitives import Identity, sha256
from commonroot.files import read_backbone
from commonroot.server.backbones import BackboneStore
from commonroot.server.exchange import Exchange
from commonroot.server.introductions import Introductions
from commonroot.server.journal import Journal, Round, Run, Version
from commonroot.server.round import RoundDriver, RoundResult, expect
from commonroot.strategies import build, check_roster
from commonroot.strategies.averaging import mean_losses
from commonroot.strategies.warm_start import first_state

#: Called with a word for what happened and its facts; progress displays and simulations listen.
OnEvent = Callable[[str, dict[str, Any]], None]

#: While waiting for departments to appear, how often to look, in seconds.
_LOOK = 0.2
#: What departments answer that are further on than who asks: another round, version or survivor set was theirs.
_GONE_ON = (StaleRound.code, AnotherSurvivorSet.code, UnknownRound.code)
#: How long a department that once left the charter unanswered is waited for when it is asked again, in seconds.
_ASK_AGAIN = 2.0


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
    ) -> None:
        """``newest_roster``: digest of the roster that stands now; a run stops when it is another than ``roster``."""
        self.run = run
        self._signed = run.charter
        self._charter = run.charter.check(bytes.fromhex(roster.coordinator))
        self._strategy = build(self._charter)
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

    def drive(self) -> None:
        """Run to the end.  The run's state and reason stand in the journal afterwards."""
        self._journal.set_run(self.run.run, "running")
        self._on_event("run", {"run": self.run.run, "rounds": self._charter.rounds, "charter": self.run.digest})
        if not self._journal.versions(self.run.run):
            self._store_first_version()
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
                self._on_event("lost", {"code": lost.code, "why": str(lost)})
                if lost_in_a_row >= self._charter.timing.attempts:
                    reason = f"{lost_in_a_row} rounds in a row came to nothing; the last: {lost} ({lost.code})"
                    reason += self._behind(version)
                    self._journal.set_run(self.run.run, "stopped", reason)
                    self._on_event("stopped", {"why": reason})
                    return
        self.deliver_closing(self.without_closing(), seconds=self._charter.timing.closing)
        self._journal.set_run(self.run.run, "finished")
        self._on_event("finished", {"run": self.run.run})

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
        for left in self._journal.rounds(self.run.run):
            if left.state in ("open", "fixed") and RoundOpen.decode(left.opening).roster != self._roster.digest:
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
        pending = [r for r in self._journal.rounds(self.run.run) if r.state in ("open", "fixed")]
        began = self._clock()
        state = self._backbones.read(version.file, version.digest)
        broadcast = flatten(state, self._charter.broadcast)
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
            result = driver.drive(opening, broadcast, snapshot, trained=trained)
        except NotEnoughShares:
            # The survivor set is fixed for ever: nobody opens this backbone for another.  The round stays as it is, and
            # the next attempt asks for the same set again, when members may be back.
            raise
        except RoundLost as lost:
            self._journal.lose_round(number, f"{lost} ({lost.code})")
            raise
        self._close_round(number, version, state, result, seconds=self._clock() - began)

    def _close_round(
        self,
        number: int,
        version: Version,
        state: dict[str, NDArray[np.float32]],
        result: RoundResult,
        *,
        seconds: float,
    ) -> None:
        values = result.opened.values
        following = self._strategy.combine(self._charter, state, values)
        report = result.report | {"seconds": seconds} | mean_losses(values)
        file, digest = self._backbones.write(self.run.run, version.version + 1, following)
        bounds = np.asarray(result.opened.next_bounds, dtype="<f4").tobytes()
        made = Version(self.run.run, version.version + 1, file, digest, bounds, time.time())
        self._journal.close_round(
            number, opened=result.opened_digest, aggregate=result.aggregate_digest, report=report, version=made
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
        closed = [r for r in self._journal.rounds() if r.state == "closed"]
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
        if not patient or not self._journal.rounds(self.run.run):
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

        def accept(who: int, reply: Parcel) -> bool:
            self._count(reply)
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
                self._on_event("trained", {"round": asked.round, "ready": len(ready), "of": len(cohort)})
            return False

        self._on_event("training", {"round": asked.round, "version": version.version, "cohort": self._names(cohort)})
        before = self._exchange.present()
        request = Parcel(parcel.TRAIN, asked.encode(), broadcast)
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
        self._refused = {who: life for who, life in self._refused.items() if present.get(who) == life}
        new = {who: life for who, life in present.items() if self._ready.get(who) != life and who not in self._refused}
        if not new:
            return

        def accept(who: int, reply: Parcel) -> bool:
            self._count(reply)
            try:
                expect(reply, parcel.READY)
            except PeerError as error:
                self._refused[who] = new[who]
                self._refusals[who] = str(error)
                self._fault(self._names([who])[0], error.code, f"the charter: {error}", None)
            else:
                self._ready[who] = new[who]
                self._on_event("ready", {"department": self._names([who])[0]})
            return False

        if all(self._silent.get(who) == life for who, life in new.items()):
            seconds = min(seconds, _ASK_AGAIN)
        charter = Parcel(parcel.CHARTER, self._signed.to_json())
        unanswered = self._exchange.ask(
            dict.fromkeys(new, charter), seconds=seconds, accept=accept, on_fault=self._link_fault
        )
        self._silent = {who: new[who] for who in unanswered}

    # -- the end ---------------------------------------------------------------------------------------------------

    def without_closing(self) -> set[int]:
        """Departments that have not taken over the final backbone yet."""
        done = self._journal.closed_departments(self.run.run)
        return {at for at, member in enumerate(self._roster.departments) if member.name not in done}

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

        def accept(who: int, reply: Parcel) -> bool:
            self._count(reply)
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
        self._exchange.ask(
            dict.fromkeys(sorted(departments), request), seconds=seconds, accept=accept, on_fault=self._link_fault
        )

    # -- small things ----------------------------------------------------------------------------------------------

    def _store_first_version(self) -> None:
        state = first_state(self._strategy, self._charter, partial(read_backbone, self._backbones.folder.parent))
        file, digest = self._backbones.write(self.run.run, 0, state)
        codec = SumCodec(self._charter.manifest, len(self._roster.departments))
        bounds = np.asarray(codec.initial_bounds(), dtype="<f4").tobytes()
        self._journal.add_version(Version(self.run.run, 0, file, digest, bounds, time.time()))

    def _newest(self) -> Version:
        return self._journal.versions(self.run.run)[-1]

    def _names(self, numbers: tuple[int, ...] | list[int]) -> list[str]:
        return [self._roster.departments[who].name for who in numbers]

    def _count(self, reply: Parcel) -> None:
        if reply.kind in parcel.TO_COORDINATOR:  # a name of the department's own making is not kept
            self._journal.count_received({reply.kind: (1, len(reply))})

    def _link_fault(self, who: int, reason: str) -> None:
        self._fault(self._names([who])[0], "link", reason, None)

    def _fault(self, who: str, code: str, what: str, number: int | None) -> None:
        if code == Refused.code and any(each in what for each in _GONE_ON):
            self._stale.add(who)
        self._journal.fault(who, code, what, run=self.run.run, round=number)
        self._on_event("fault", {"department": who, "code": code, "what": what})

    def _exhibit(self, who: str, code: str, reply: Parcel, number: int | None) -> None:
        """Keep a reply that is somebody's lie, if the department it is blamed on has signed it."""
        identity = next((m.identity for m in self._roster.departments if m.name == who), None)
        head = bytes(reply.head)
        if code in TELLING and identity is not None and signed_by(bytes.fromhex(identity), reply.kind, head):
            exhibit = Exhibit(time.time(), reply.kind, code, identity, head, sha256(reply.body), reply.kind, b"")
            self._journal.keep_exhibit(who, exhibit, run=self.run.run, round=number)
