"""What an audit log says of backups that its coordinator was restored from, and what that explains.

A restored coordinator has forgotten what it signed after its backup was made.  It says so in its log: the entry
``restored`` stands where the backup's log ended, so it forks from any export that was made in between.  From then on it
numbers rounds from ``SKIPPED`` further on, and runs alike, and it gives up rounds that were open, so it never signs
anything about one number in two ways.  What remains to be explained is little:

* statements about forgotten rounds and runs are not in the log
* a round after the restore may be about an earlier version, or announce an earlier result, than a forgotten one
* an export from before the restore and one from after it share their beginning alone

Nothing else is explained by a restore, however often the log says that there was one.  Whoever signs two openings, two
survivor sets, two results, two broadcasts or two charters of a run has lied.  And the three above give a liar nothing:
forgotten statements are held against one another as before, and no department goes back to an earlier version.

A restore cannot be made up afterwards where numbers did not jump when it is said to have been.  Whether one was made
up *beforehand*, nobody can know from files.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from commonroot.common.contradictions import Finding
from commonroot.common.evidence import decoded
from commonroot.common.ledger import GENESIS, Entry, Fact
from commonroot.common.messages import RoundOpen
from commonroot.common.records import Record

KIND: Final = "restored"
#: How far numbers of rounds, and of runs, skip ahead after a restore.  Departments may have gone on since the backup
#: was made, and answer for no number twice.  A skip costs them at most 260 derivations a pair; a roster permits 100,000
#: numbers.
SKIPPED: Final = 1000
SKIPPED_RUNS: Final = 100
#: Rules that a restore may explain, by the numbers in their statements.
STEPS: Final = frozenset({"version-went-back", "version-improved-twice", "result-went-back"})
#: What clocks of different machines, and a restore that takes a while, may differ by, in seconds.
_SLACK: Final = 600.0


@dataclass(frozen=True, slots=True)
class Restore:
    """One entry ``restored``.

    sequence          its place in the log; at: when it was written, seconds since 1970
    made_at           when the backup was made
    rounds, runs      (last number in the backup, last number before those that came after the restore)
    given_up          rounds of the backup that were open and whose end the coordinator does not know
    """

    sequence: int
    at: float
    made_at: float
    rounds: tuple[int, int]
    runs: tuple[int, int]
    given_up: tuple[int, ...]

    def forgot_round(self, number: int) -> bool:
        """May this round have gone on between backup and restore?"""
        return self.rounds[0] < number <= self.rounds[1] or number in self.given_up

    def forgot_run(self, number: int) -> bool:
        """May this run have been queued between backup and restore?"""
        return self.runs[0] < number <= self.runs[1]

    def describe(self) -> str:
        """In words, without a full stop."""
        first, last = self.rounds[0] + 1, self.rounds[1]
        open_ones = f", and how round {', '.join(map(str, self.given_up))} ended," if self.given_up else ""
        return (
            f"the coordinator was restored on {_day(self.at)} from a backup of {_day(self.made_at)}: rounds {first} to "
            f"{last}{open_ones} were forgotten by it"
        )


def facts_of(
    last: Entry | None,
    *,
    made_at: float,
    rounds: tuple[int, int],
    runs: tuple[int, int],
    given_up: Iterable[int],
) -> dict[str, Fact]:
    """What the entry says.  ``last``: of the backup's log; its length and hash are named in the entry itself, too."""
    return {
        "made_at": round(made_at),
        "entries": 0 if last is None else last.sequence + 1,
        "head": (GENESIS if last is None else last.hash).hex(),
        "last_round": rounds[0],
        "rounds_from": rounds[1] + 1,
        "last_run": runs[0],
        "runs_from": runs[1] + 1,
        "given_up": sorted(given_up),
    }


def restores_of(entries: Sequence[Entry]) -> tuple[list[Restore], list[str]]:
    """Restores that a log tells of and that its own entries bear out; and why others are none, in words."""
    good: list[Restore] = []
    wrong = []
    for at, entry in enumerate(entries):
        if entry.kind == KIND:
            told = _read(entry)
            fault = "it cannot be read" if told is None else _fault(told, entry, entries, at)
            if told is None or fault:
                wrong.append(f"entry {entry.sequence} of the audit log says that there was a restore, and {fault}")
            else:
                good.append(told)
    return good, wrong


def _read(entry: Entry) -> Restore | None:
    f = entry.facts
    try:
        numbers = [f[name] for name in ("last_round", "rounds_from", "last_run", "runs_from", "made_at")]
        given_up = f["given_up"]
    except KeyError:
        return None
    if not all(isinstance(one, int) and not isinstance(one, bool) for one in numbers) or not isinstance(given_up, list):
        return None
    last_round, rounds_from, last_run, runs_from, made_at = (int(one) for one in numbers)  # type: ignore[arg-type]
    rounds, runs = (last_round, rounds_from - 1), (last_run, runs_from - 1)
    return Restore(entry.sequence, entry.at, made_at, rounds, runs, tuple(given_up))


def _fault(told: Restore, entry: Entry, entries: Sequence[Entry], at: int) -> str:
    """Why no honest program writes this entry here; empty where it might."""
    before = entries[at - 1].hash if at else GENESIS
    if (entry.facts.get("entries"), entry.facts.get("head")) != (at, before.hex()):
        return "it does not stand where the backup's log ended"
    if told.rounds[1] - told.rounds[0] < SKIPPED or told.runs[1] - told.runs[0] < SKIPPED_RUNS:
        return "the numbers of rounds and runs do not jump"
    opened = {int(str(e.facts["round"])) for e in entries[:at] if e.kind == "round-open" and "round" in e.facts}
    over = {e.facts.get("round") for e in entries[:at] if e.kind in ("round-closed", "round-lost", "survivors")}
    if opened and max(opened) > told.rounds[0]:
        return "the log before it knows of later rounds than it says"
    if over & set(told.given_up) or (opened and not opened >= set(told.given_up)):  # earlier versions kept no log
        return "it gives up rounds that were not open"
    for later in entries[at + 1 :]:
        number = later.facts.get("round")
        if later.kind in ("round-open", "survivors") and isinstance(number, int) and told.forgot_round(number):
            return f"the log goes on with round {number}, which it forgot"
    return ""


def against_restores(
    findings: Iterable[Finding], audits: Sequence[Record], received: Mapping[bytes, Sequence[tuple[str, float]]]
) -> Iterator[Finding]:
    """The findings, those that a restore explains gathered into one for each restore.

    Parameters  received: head → who has it in its ledger, and since when
    """
    restores: dict[tuple[float, tuple[int, int]], Restore] = {}
    for audit in audits:
        good, wrong = restores_of(audit.entries)
        restores |= {(one.at, one.rounds): one for one in good}
        for what in wrong:
            yield Finding("restored-otherwise", None, True, what, ())
    explained: dict[Restore, list[Finding]] = {one: [] for one in restores.values()}
    for finding in findings:
        by = next((one for one in explained if _explains(one, finding)), None)
        if by is None:
            yield finding
        else:
            explained[by].append(finding)
    for restore, some in explained.items():
        if some:
            yield _gathered(restore, some)
            yield from _at_another_time(restore, some, received)


def _explains(restore: Restore, finding: Finding) -> bool:
    if finding.restored_at is not None:
        return finding.restored_at == restore.at
    if finding.rule not in STEPS:
        return False
    first, last = (decoded(one.kind, one.head) for one in (finding.statements[0], finding.statements[-1]))
    both = isinstance(first, RoundOpen) and isinstance(last, RoundOpen)
    return both and restore.forgot_round(first.round) and last.round > restore.rounds[1]


def _gathered(restore: Restore, some: Sequence[Finding]) -> Finding:
    statements = {one.head: one for finding in some for one in finding.statements}
    messages = [decoded(one.kind, one.head) for one in statements.values()]
    held = sorted({m.round for m in messages if isinstance(m, RoundOpen) and restore.forgot_round(m.round)})
    again = sorted({m.round for m in messages if isinstance(m, RoundOpen) and m.round > restore.rounds[1]})
    what = restore.describe()
    if held:
        what += f"; of these, ledgers hold {_numbers(held)}"
    if again:
        what += f"; since then it has gone back to before them in {_numbers(again)}"
    return Finding("since-a-restore", None, False, what, tuple(statements.values()), restored_at=restore.at)


def _at_another_time(
    restore: Restore, some: Sequence[Finding], received: Mapping[bytes, Sequence[tuple[str, float]]]
) -> Iterator[Finding]:
    """By departments' clocks, what was forgotten must have come before the restore, and what follows it after."""
    statements = {one.head: one for finding in some for one in finding.statements}
    for one in statements.values():
        message = decoded(one.kind, one.head)
        if not isinstance(message, RoundOpen):
            continue
        for name, at in received.get(one.head, ()):
            late = restore.forgot_round(message.round) and at > restore.at + _SLACK
            early = message.round > restore.rounds[1] and at < restore.at - _SLACK
            if late or early:
                when = "after" if late else "before"
                what = f"{name} was asked about round {message.round} {when} the restore of {_day(restore.at)}"
                yield Finding("restored-at-another-time", message.round, False, what, (one,))


def forked(left: Sequence[Entry], right: Sequence[Entry]) -> Restore | None:
    """The restore at which one of two logs leaves the other; None where they differ otherwise."""
    at = next((n for n, (a, b) in enumerate(zip(left, right, strict=False)) if a.hash != b.hash), None)
    if at is None:
        return None
    found = [one for log in (left, right) for one in restores_of(log)[0] if one.sequence == at]
    return max(found, key=lambda one: one.at, default=None)


def forgotten(finding: Finding, restore: Restore) -> Finding:
    """A finding about what is missing, which this restore explains."""
    return replace(finding, proven=False, restored_at=restore.at)


def _numbers(found: Sequence[int]) -> str:
    shown = ", ".join(map(str, found[:6])) + (f" and {len(found) - 6} more" if len(found) > 6 else "")
    return f"round{'s' if len(found) > 1 else ''} {shown}"


def _day(at: float) -> str:
    return np.datetime_as_string(np.datetime64(int(at), "s"), unit="m").item().replace("T", " ") + " UTC"
