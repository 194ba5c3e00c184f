"""The ready stage: everyone trains, and those who are done within the time for an upload mask with each other."""

from __future__ import annotations

from commonroot.common import parcel
from commonroot.common.charter import Charter
from commonroot.common.errors import NotEnoughUploads, PeerError, UnknownRound
from commonroot.common.messages import Ready, Train
from commonroot.common.parcel import Parcel
from commonroot.common.roster import Roster
from commonroot.common.secure_sum.edges import cohort_fault
from commonroot.common.secure_sum.primitives import Identity, sha256
from commonroot.logs import Tell
from commonroot.server.exchange import Exchange
from commonroot.server.journal import Journal
from commonroot.server.journal_rows import Version
from commonroot.server.round import Account, expect
from commonroot.server.run_book import RunBook


class ReadyStage:
    """What comes before a round where the charter says that departments train first."""

    def __init__(
        self,
        *,
        charter: Charter,
        roster: Roster,
        identity: Identity,
        journal: Journal,
        exchange: Exchange,
        book: RunBook,
        on_event: Tell,
    ) -> None:
        self._charter = charter
        self._roster = roster
        self._identity = identity
        self._journal = journal
        self._exchange = exchange
        self._book = book
        self._on_event = on_event

    def train(
        self, version: Version, cohort: tuple[int, ...], broadcast: bytes
    ) -> tuple[tuple[int, ...], frozenset[int]]:
        """Returns those who are ready, and which of them were not restarted since they were asked: they still know it.

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
            name = self._book.name(who)
            try:
                expect(reply, parcel.TRAINED)
                said = Ready.decode(bytes(reply.head))
                said.check(bytes.fromhex(self._roster.departments[who].identity), who=f"department {name!r}")
                if (said.asked, said.sender) != (asked.digest, who):
                    raise UnknownRound(f"department {name!r} is ready for another request, or as another department")
            except PeerError as error:
                self._book.fault(name, error.code, f"training: {error}", asked.round)
                self._book.exhibit(name, error.code, reply, asked.round)
            else:
                ready.add(who)
                told = {"round": asked.round, "ready": len(ready), "of": len(cohort), "department": name}
                self._on_event("trained", told)
            return False

        self._on_event(
            "training", {"round": asked.round, "version": version.version, "cohort": self._book.names(cohort)}
        )
        before = self._exchange.present()
        request = Parcel(parcel.TRAIN, asked.encode(), broadcast)
        with self._book.received(account):
            self._exchange.ask(
                dict.fromkeys(cohort, request),
                seconds=self._charter.timing.upload,
                accept=accept,
                on_fault=self._book.link_fault,
            )
        left = tuple(sorted(ready))
        if fault := cohort_fault(self._roster, left, self._charter.cohort.floor):
            raise NotEnoughUploads(f"{len(left)} of {len(cohort)} departments have trained: {fault}")
        present = self._exchange.present()
        return left, frozenset(who for who in left if before.get(who) is not None and present.get(who) == before[who])
