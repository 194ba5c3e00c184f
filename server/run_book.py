"""What a run writes down of its departments: their faults, the signed messages that prove one, and what arrived."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from commonroot.common import parcel
from commonroot.common.errors import AnotherSurvivorSet, Refused, StaleRound, UnknownRound
from commonroot.common.evidence import TELLING, Exhibit, signed_by
from commonroot.common.parcel import Parcel
from commonroot.common.roster import Roster
from commonroot.common.secure_sum.primitives import sha256
from commonroot.logs import Tell
from commonroot.server.journal import Journal
from commonroot.server.journal_rows import Run
from commonroot.server.round import Account

#: What departments answer that are further on than who asks: another round, version or survivor set was theirs.
_GONE_ON = (StaleRound.code, AnotherSurvivorSet.code, UnknownRound.code)


class RunBook:
    """The journal, for one run under one roster, with departments' numbers turned into names."""

    def __init__(self, run: Run, *, roster: Roster, journal: Journal, on_event: Tell) -> None:
        self._run = run
        self._roster = roster
        self._journal = journal
        self._on_event = on_event
        #: Departments that refused a round because they had gone on to a later round or version.
        self.stale: set[str] = set()

    def name(self, who: int) -> str:
        """A department's name, by its number."""
        return self._roster.departments[who].name

    def names(self, numbers: Iterable[int]) -> list[str]:
        """The same for several, in the order given."""
        return [self.name(who) for who in numbers]

    @contextmanager
    def received(self, account: Account) -> Iterator[None]:
        """Around an exchange: one entry for all that arrived, since each waits for the disk."""
        try:
            yield
        finally:
            self._journal.count_received(account.counts())

    def count(self, reply: Parcel) -> None:
        """One entry for one reply."""
        if reply.kind in parcel.TO_COORDINATOR:  # a name of the department's own making is not kept
            self._journal.count_received({reply.kind: (1, len(reply))})

    def link_fault(self, who: int, reason: str) -> None:
        """Something that went wrong on the way to a department."""
        self.fault(self.name(who), "link", reason)

    def fault(self, who: str, code: str, what: str, number: int | None = None) -> None:
        """Something that the department of this name did or said, in round ``number`` if in any."""
        if code == Refused.code and any(each in what for each in _GONE_ON):
            self.stale.add(who)
        self._journal.faults.note(who, code, what, run=self._run.run, round=number)
        self._on_event("fault", {"department": who, "code": code, "what": what})

    def exhibit(self, who: str, code: str, reply: Parcel, number: int | None = None) -> None:
        """Keep a reply that is somebody's lie, if the department it is blamed on has signed it."""
        identity = next((m.identity for m in self._roster.departments if m.name == who), None)
        head = bytes(reply.head)
        if code in TELLING and identity is not None and signed_by(bytes.fromhex(identity), reply.kind, head):
            exhibit = Exhibit(time.time(), reply.kind, code, identity, head, sha256(reply.body), reply.kind, b"")
            self._journal.faults.keep_exhibit(who, exhibit, run=self._run.run, round=number)
