"""Departments' ledgers against the coordinator's audit log: what was signed and sent, and is not in it, or otherwise.

What a restored coordinator has forgotten is not proven against it: see ``restores``.

The log's export is itself signed by the coordinator, so a statement that the log contradicts is proven against it.  The
log may have been exported before something happened: that a round is missing is proven only where the log knows of a
later one, for numbers are given in order.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

from commonroot.common import restores
from commonroot.common.contradictions import Finding, Spoken
from commonroot.common.evidence import decoded
from commonroot.common.messages import Confirm, Offer, Open, RoundOpen, RunClose
from commonroot.common.records import Record
from commonroot.common.secure_sum.primitives import sha256


def against(spoken: Sequence[Spoken], audits: Sequence[Record]) -> Iterator[Finding]:
    """Contradictions between statements and logs, and between two exports of one log."""
    for left, right in itertools.combinations(audits, 2):
        shared = min(len(left.entries), len(right.entries))
        if shared and left.entries[shared - 1].hash != right.entries[shared - 1].hash:
            what = "two exports of the audit log tell two stories: neither is the beginning of the other"
            differ, fork = Finding("two-audit-logs", None, True, what, ()), restores.forked(left.entries, right.entries)
            yield differ if fork is None else restores.forgotten(differ, fork)
    for record in audits:
        log = _Log(record)
        for one in spoken:
            message = decoded(one.kind, one.head)
            if isinstance(message, RoundOpen):
                yield from log.opening(message, one)
            if isinstance(message, Confirm | Open):
                yield from log.survivors(message, one)
            if isinstance(message, RoundOpen | RunClose):
                yield from log.result(message, one)
            if isinstance(message, Offer):
                yield from log.offer(message, one)
            if isinstance(epoch := getattr(message, "epoch", None), int):
                yield from log.roster(message, epoch, one)


class _Log:
    """An audit log by what its entries are about."""

    def __init__(self, record: Record) -> None:
        self.opened: dict[int, dict[str, Any]] = {}
        self.fixed: dict[int, dict[str, Any]] = {}
        self.closed: dict[int, dict[str, Any]] = {}
        self.ended: set[int] = set()
        self.runs: dict[int, str] = {}
        self.rosters: dict[int, str] = {}
        places = {"round-open": self.opened, "survivors": self.fixed, "round-closed": self.closed}
        for entry in record.entries:
            facts: dict[str, Any] = entry.facts
            if entry.kind in places and "round" in facts:
                places[entry.kind][facts["round"]] = facts
            if entry.kind in ("round-closed", "round-lost"):
                self.ended.add(facts["round"])
            if entry.kind == "queued":
                self.runs[facts["run"]] = facts["charter"]
            if entry.kind == "roster":
                self.rosters[facts["epoch"]] = facts["roster"]
        self.restores = restores.restores_of(record.entries)[0]
        self.newest = max(self.opened, default=0)
        self.newest_run = max(self.runs, default=0)

    def opening(self, m: RoundOpen, one: Spoken) -> Iterator[Finding]:
        facts = self.opened.get(m.round)
        if facts is None:
            yield self._missing("round-not-in-the-log", m.round, f"round {m.round} was opened", one)
        elif facts["opening"] != sha256(one.head).hex():
            what = f"round {m.round} was opened otherwise than the audit log says"
            yield Finding("another-opening-in-the-log", m.round, True, what, (one,))

    def survivors(self, m: Confirm | Open, one: Spoken) -> Iterator[Finding]:
        facts = self.fixed.get(m.round)
        if facts is None:
            said = f"a survivor set of round {m.round} was asked for"
            late = m.round in self.ended or m.round < self.newest
            yield self._missing("set-not-in-the-log", m.round, said, one, proven=late)
        elif facts["opened"] != m.opened.hex():
            what = f"round {m.round} was to be opened for another set than the audit log says"
            yield Finding("another-set-in-the-log", m.round, True, what, (one,))

    def result(self, m: RoundOpen | RunClose, one: Spoken) -> Iterator[Finding]:
        told = m.previous
        if not told.round:
            return
        facts = self.closed.get(told.round)
        if facts is None:
            late = told.round in self.ended or told.round < self.newest
            said = f"a result of round {told.round} was announced"
            yield self._missing("result-not-in-the-log", told.round, said, one, proven=late)
        elif (facts["opened"], facts["aggregate"]) != (told.opened.hex(), told.aggregate.hex()):
            what = f"round {told.round} was said to have another result than the audit log says"
            yield Finding("another-result-in-the-log", told.round, True, what, (one,))

    def offer(self, m: Offer, one: Spoken) -> Iterator[Finding]:
        if not m.run:
            return
        charter = self.runs.get(m.run)
        if charter is None:
            late = m.run < self.newest_run
            yield self._missing("run-not-in-the-log", None, f"run {m.run} was offered", one, proven=late, run=m.run)
        elif charter != m.charter.hex():
            what = f"run {m.run} was offered under another charter than the audit log says"
            yield Finding("another-charter-in-the-log", None, True, what, (one,))

    def roster(self, m: Any, epoch: int, one: Spoken) -> Iterator[Finding]:
        known = self.rosters.get(epoch)
        if known is not None and known != m.roster.hex():
            what = f"something was asked in epoch {epoch} under another roster than the audit log says"
            yield Finding("another-roster-in-the-log", getattr(m, "round", None), True, what, (one,))

    def _missing(
        self, rule: str, number: int | None, said: str, one: Spoken, *, proven: bool | None = None, run: int = 0
    ) -> Finding:
        sure = number is not None and number < self.newest if proven is None else proven
        why = "the audit log knows of later ones, and not of this" if sure else "the audit log may be older than that"
        found = Finding(rule, number, sure, f"{said}: {why}", (one,))
        for restore in self.restores:
            if restore.forgot_run(run) if number is None else restore.forgot_round(number):
                return restores.forgotten(found, restore)
        return found
