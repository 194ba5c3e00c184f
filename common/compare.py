"""Finding a coordinator's lie in what several departments were told.

A department's export holds what the coordinator signed and sent there.  Whatever two of these statements say that no
honest coordinator says, whatever crashes, is proven by the coordinator's own signatures, and nobody else could have
made them up.  What rests on somebody's word alone is a suspicion.

An honest coordinator signs one RoundOpen for a round, whoever asks and however often; one survivor set for a round; one
result; one broadcast and one set of bounds for a version of a charter's backbone; one charter for a run; one roster for
an epoch.  Versions and results never go back, unless the coordinator was restored from a backup and its audit log says
so (``restores``).  One that was put back without saying so breaks that rule, and why cannot be told from here.

The rules that take a single statement are the ones that a department refuses by, so they need the charter or the roster
and no second department.
"""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from commonroot.common import audited, parcel
from commonroot.common.charter import Charter, SignedCharter
from commonroot.common.contradictions import Finding, Spoken
from commonroot.common.errors import CommonrootError, ConfigError, Malformed
from commonroot.common.evidence import decoded, is_signed
from commonroot.common.greetings import Greet, Introduce, take_letters
from commonroot.common.messages import Confirm, Offer, Open, RoundOpen, RunClose, Train
from commonroot.common.records import Record
from commonroot.common.restores import against_restores
from commonroot.common.roster import Roster
from commonroot.common.secure_sum.agreement import ciphertext_digest
from commonroot.common.secure_sum.codec import SumCodec
from commonroot.common.secure_sum.confirmations import require_confirmed
from commonroot.common.secure_sum.edges import RoundEdges, cohort_fault
from commonroot.common.secure_sum.primitives import sha256

__all__ = ["Finding", "Spoken", "compare"]


def compare(ledgers: Sequence[Record], audits: Sequence[Record] = ()) -> list[Finding]:
    """Every contradiction between these departments' ledgers, and between them and the coordinator's audit log.

    Proven ones come first, then by round.  Raises ConfigError for files of different federations or authorities, or of
    the wrong kind.
    """
    if not ledgers or any(one.what != "ledger" for one in ledgers) or any(one.what != "audit" for one in audits):
        raise ConfigError("ledgers of departments are compared, and with --coordinator its audit log")
    for name in ("federation", "authority"):
        found = {getattr(one, name) for one in (*ledgers, *audits)}
        if len(found) > 1:
            raise ConfigError(f"these files are of different federations: {name} {', '.join(sorted(found))}")
    told = _Told(ledgers)
    rules = (
        _no_messages, _rosters, _epochs, _openings, _versions, _steps, _sets, _results, _twice_improved, _runs,
        _outside_roster, _outside_charter, _letters, _replaced_bodies,
    )  # fmt: skip
    findings = [one for rule in rules for one in rule(told)]
    findings += audited.against(told.spoken, audits)
    findings = list(against_restores(findings, audits, _received(ledgers)))
    return sorted(_distinct(findings), key=lambda one: (not one.proven, one.round or 0, one.rule))


@dataclass(frozen=True, slots=True)
class _Said:
    """One decoded statement."""

    spoken: Spoken
    message: Any


class _Told:
    """Everything that the coordinator said, each statement once, with who holds it."""

    def __init__(self, ledgers: Sequence[Record]) -> None:
        self.ledgers = ledgers
        holders: dict[tuple[str, bytes], list[str]] = defaultdict(list)
        bodies: dict[tuple[str, bytes], bytes] = {}
        for record in ledgers:
            for one in record.statements:
                key = (one.kind, one.head)
                holders[key] += [record.name] if record.name not in holders[key] else []
                if one.body:
                    bodies[key] = one.body
        self.rosters: dict[bytes, Roster] = {r.digest: r for record in ledgers for r in record.rosters}
        keys = sorted({roster.coordinator for roster in self.rosters.values()})
        self.spoken = [
            Spoken(kind, head, bodies.get((kind, head), b""), tuple(names), _signer(keys, kind, head))
            for (kind, head), names in holders.items()
        ]
        self.charters = dict(_charters(self.spoken))
        self._said = [_Said(one, decoded(one.kind, one.head)) for one in self.spoken]

    def of(self, *kinds: type) -> list[_Said]:
        """Statements that are messages of these classes, in the order of their rounds where they have one."""
        found = [said for said in self._said if isinstance(said.message, kinds)]
        return sorted(found, key=lambda said: getattr(said.message, "round", 0))

    def by_round(self, *kinds: type) -> dict[int, list[_Said]]:
        """The same, by round."""
        found: dict[int, list[_Said]] = defaultdict(list)
        for said in self.of(*kinds):
            found[said.message.round].append(said)
        return found


def _signer(keys: Iterable[str], kind: str, head: bytes) -> str:
    return next((key for key in keys if is_signed(bytes.fromhex(key), kind, head)), "")


def _charters(spoken: Iterable[Spoken]) -> Iterator[tuple[bytes, Charter]]:
    """Charters that came with a signed offer, by hash; others cannot be judged by."""
    for one in spoken:
        if one.kind == parcel.CHARTER and one.body:
            offer = decoded(one.kind, one.head)
            try:
                charter = SignedCharter.from_json(one.body).charter
            except CommonrootError:
                continue
            if isinstance(offer, Offer) and charter.digest == offer.charter:
                yield charter.digest, charter


def _received(ledgers: Sequence[Record]) -> dict[bytes, list[tuple[str, float]]]:
    """Head → which departments' ledgers name it, and when they did so first."""
    found: dict[bytes, list[tuple[str, float]]] = defaultdict(list)
    for record in ledgers:
        named: dict[str, float] = {}
        for entry in record.entries:
            for name in ("asked", "digest"):
                if isinstance(digest := entry.facts.get(name), str):
                    named.setdefault(digest, entry.at)
        for one in record.statements:
            if (at := named.get(sha256(one.head).hex())) is not None:
                found[one.head].append((record.name, at))
    return found


# -- what cannot be said at all ----------------------------------------------------------------------------------------


def _no_messages(told: _Told) -> Iterator[Finding]:
    for one in told.spoken:
        if decoded(one.kind, one.head) is None:
            yield Finding("no-message", None, True, f"signed bytes that are no {one.kind}", (one,))


# -- rosters and epochs ------------------------------------------------------------------------------------------------


def _rosters(told: _Told) -> Iterator[Finding]:
    by_epoch: dict[int, list[bytes]] = defaultdict(list)
    for digest, roster in told.rosters.items():
        by_epoch[roster.epoch].append(digest)
    for epoch, digests in by_epoch.items():
        if len(digests) > 1:
            told_by = ", ".join(digest.hex()[:16] + "…" for digest in digests)
            what = f"the enrolment authority signed {len(digests)} rosters of epoch {epoch}: {told_by}"
            yield Finding("two-signed-rosters", None, True, what, (), signed_by="authority")


def _epochs(told: _Told) -> Iterator[Finding]:
    said = told.of(RoundOpen, Train, RunClose, Offer, Greet, Introduce)
    yield from _differ(
        said, "two-rosters-of-one-epoch", lambda m: m.epoch, lambda m: m.roster, "epoch {} is under two rosters"
    )
    known = {roster.epoch for roster in told.rosters.values()}
    for one in said:
        m = one.message
        if m.roster not in told.rosters and m.epoch in known:
            what = (
                f"a {one.spoken.kind} of epoch {m.epoch} stands under another roster than the authority signed for it"
            )
            yield Finding("roster-nobody-signed", getattr(m, "round", None), True, what, (one.spoken,))
    yield from _differ(
        said,
        "two-epochs-of-one-roster",
        lambda m: m.roster,
        lambda m: m.epoch,
        "one roster is said to be of two epochs",
    )


# -- rounds and versions -----------------------------------------------------------------------------------------------


def _openings(told: _Told) -> Iterator[Finding]:
    for number, group in itertools.groupby(told.of(RoundOpen), key=lambda said: said.message.round):
        first, *others = list(group)
        for other in others:
            names = [n for n in first.message.__slots__ if getattr(first.message, n) != getattr(other.message, n)]
            fields = ", ".join(name for name in names if name != "signature") or "only the signature"
            what = f"round {number} was opened in two ways, which differ in: {fields}"
            yield Finding("two-openings-of-one-round", number, True, what, (first.spoken, other.spoken))


def _versions(told: _Told) -> Iterator[Finding]:
    def version(message: Any) -> tuple[bytes, int]:
        return (message.charter, message.version)

    yield from _differ(
        told.of(RoundOpen, Train, RunClose),
        "two-broadcasts-of-one-version",
        version,
        lambda m: m.broadcast,
        "one version of a charter's backbone was sent with two contents",
    )
    yield from _differ(
        told.of(RoundOpen),
        "two-bounds-of-one-version",
        version,
        lambda m: m.bounds,
        "one version of a charter's backbone was asked about under two sets of bounds",
    )


def _steps(told: _Told) -> Iterator[Finding]:
    """Over rounds in order, neither a charter's versions nor the announced results may go back."""
    newest: dict[bytes, _Said] = {}
    announced: _Said | None = None
    for said in told.of(RoundOpen):
        m = said.message
        before = newest.get(m.charter)
        if before is not None and before.message.round < m.round and before.message.version > m.version:
            was = before.message
            what = (
                f"round {m.round} is about version {m.version}, and round {was.round} before it was about {was.version}"
            )
            yield Finding("version-went-back", m.round, True, what, (before.spoken, said.spoken))
        if before is None or m.version >= before.message.version:
            newest[m.charter] = said
        if announced is not None and m.previous.round < announced.message.previous.round:
            was = announced.message
            what = (
                f"round {m.round} announces the result of round {m.previous.round}, and round {was.round} before it "
                f"that of round {was.previous.round}"
            )
            if was.round < m.round:
                yield Finding("result-went-back", m.round, True, what, (announced.spoken, said.spoken))
        else:
            announced = said


def _twice_improved(told: _Told) -> Iterator[Finding]:
    """A round whose result was announced has made a new version: no later round may be about the old one."""
    announced: dict[int, _Said] = {}
    for said in told.of(RoundOpen, RunClose):
        announced.setdefault(said.message.previous.round, said)
    done: dict[bytes, _Said] = {}
    for said in told.of(RoundOpen):
        m = said.message
        before = done.get(m.charter)
        if before is not None and m.round > before.message.round and m.version <= before.message.version:
            was = before.message
            what = (
                f"round {m.round} asks about version {m.version} again, after the result of round {was.round} on "
                f"version {was.version} was announced"
            )
            proof = (before.spoken, announced[was.round].spoken, said.spoken)
            yield Finding("version-improved-twice", m.round, True, what, proof)
        if m.round in announced and (before is None or m.version > before.message.version):
            done[m.charter] = said


# -- survivor sets and results -----------------------------------------------------------------------------------------


def _sets(told: _Told) -> Iterator[Finding]:
    openings = told.by_round(RoundOpen)
    transcripts = {said.message.transcript: said for said in told.of(RoundOpen)}
    asked = told.of(Confirm, Open)
    yield from _differ(
        asked, "two-sets-of-one-round", lambda m: m.round, lambda m: m.opened, "round {} was to be opened for two sets"
    )
    for said in asked:
        m, known = said.message, transcripts.get(said.message.transcript)
        if m.round not in openings and known is None:
            continue
        if known is None or known.message.round != m.round:
            opening = known or openings[m.round][0]
            what = f"a survivor set of round {m.round} is asked about under another transcript than it was opened with"
            yield Finding("opening-of-another-transcript", m.round, True, what, (opening.spoken, said.spoken))
            continue
        cohort, both = known.message.cohort, (known.spoken, said.spoken)
        roster, charter = told.rosters.get(known.message.roster), told.charters.get(known.message.charter)
        floor = charter.cohort.floor if charter is not None else 0
        if not set(m.survivors) <= set(cohort):
            what = f"the survivor set of round {m.round} holds departments that its cohort does not"
            yield Finding("survivors-outside-the-cohort", m.round, True, what, both)
        elif roster is not None and len(m.survivors) < max(floor, roster.parameters.survivors_min):
            what = f"round {m.round} was to be opened for {len(m.survivors)} departments, fewer than is permitted"
            yield Finding("too-few-survivors", m.round, True, what, both)
        elif isinstance(m, Open) and m.survivors != cohort and roster is not None:
            try:
                require_confirmed(roster, m, RoundEdges(roster, cohort).members)
            except (CommonrootError, IndexError) as error:
                yield Finding("not-confirmed", m.round, True, f"round {m.round} was to be opened: {error}", both)


def _results(told: _Told) -> Iterator[Finding]:
    announced = [one for one in told.of(RoundOpen, RunClose) if one.message.previous.round]
    yield from _differ(
        announced,
        "two-results-of-one-round",
        lambda m: m.previous.round,
        lambda m: (m.previous.opened, m.previous.aggregate),
        "round {} was said to have two results",
    )
    asked_for = told.by_round(Confirm, Open)
    for said in announced:
        result = said.message.previous
        for asked in asked_for.get(result.round, ()):
            if asked.message.opened != result.opened:
                what = f"the result of round {result.round} is not of the survivor set that was asked for"
                yield Finding("result-of-another-set", result.round, True, what, (asked.spoken, said.spoken))


# -- runs and charters -------------------------------------------------------------------------------------------------


def _runs(told: _Told) -> Iterator[Finding]:
    offers = [one for one in told.of(Offer) if one.message.run]
    yield from _differ(
        offers, "two-charters-of-one-run", lambda m: m.run, lambda m: m.charter, "run {} was offered under two charters"
    )


def _outside_roster(told: _Told) -> Iterator[Finding]:
    for said in told.of(RoundOpen):
        m, roster = said.message, told.rosters.get(said.message.roster)
        if roster is None:
            continue
        charter = told.charters.get(m.charter)
        floor = charter.cohort.floor if charter is not None else 0
        if m.round > roster.parameters.rounds_max:
            fault: str | None = f"the roster ends with round {roster.parameters.rounds_max}"
        elif m.cohort[-1] >= len(roster.departments):
            fault = f"the cohort names department {m.cohort[-1]}, which the roster does not"
        else:
            fault = cohort_fault(roster, m.cohort, floor)
        if fault:
            yield Finding("outside-the-roster", m.round, True, f"round {m.round}: {fault}", (said.spoken,))


def _outside_charter(told: _Told) -> Iterator[Finding]:
    for said in told.of(RoundOpen, Train, RunClose):
        m, charter = said.message, told.charters.get(said.message.charter)
        roster = told.rosters.get(m.roster)
        if charter is not None and roster is not None and (fault := _breach(m, charter, roster)):
            yield Finding("outside-the-charter", m.round, True, f"round {m.round}: {fault}", (said.spoken,))


def _breach(m: RoundOpen | Train | RunClose, charter: Charter, roster: Roster) -> str | None:
    """What a request asks for that its charter does not permit."""
    if isinstance(m, RunClose):
        return (
            None if m.version == charter.rounds else f"the charter ends with version {charter.rounds}, not {m.version}"
        )
    if m.version >= charter.rounds:
        return f"version {m.version} was to be improved; the charter ends with {charter.rounds}"
    seconds = m.seconds if isinstance(m, Train) else m.upload_seconds
    if seconds > max(1, math.ceil(charter.timing.upload)):
        return f"{seconds} s for an upload; the charter has {charter.timing.upload:g} s"
    if isinstance(m, Train):
        return None if charter.trains_first(roster) else "a request to train ahead, which the charter does not have"
    if m.manifest != charter.manifest.digest:
        return "the manifest is not the charter's"
    try:
        SumCodec.of_round(charter, roster, len(m.cohort)).check_bounds(m.bounds)
    except CommonrootError as error:
        return str(error)
    return None


# -- introductions, and bodies -----------------------------------------------------------------------------------------


def _letters(told: _Told) -> Iterator[Finding]:
    """Letters of an introduction that the coordinator signed for, and that their senders did not write."""
    for said in told.of(Introduce):
        m, body, roster = said.message, said.spoken.body, told.rosters.get(said.message.roster)
        if not body or sha256(body) != m.body or roster is None:
            continue
        for fault in _forged(m, body, roster):
            what = f"letters for the beginning of epoch {m.epoch}: {fault}"
            yield Finding("letters-forged", None, True, what, (said.spoken,))


def _forged(m: Introduce, body: bytes, roster: Roster) -> Iterator[str]:
    try:
        letters = take_letters(body, len(m.who))
    except Malformed as error:
        yield str(error)
        return
    for who, (greeting, ciphertext) in zip(m.who, letters, strict=True):
        if who >= len(roster.departments):
            yield f"department {who} is not in the roster"
            continue
        member = roster.departments[who]
        if greeting.sender != who or not greeting.is_by(bytes.fromhex(member.identity)):
            yield f"{member.name!r} has not signed the greeting that bears its name"
            continue
        try:
            greeting.check_countersignature(bytes.fromhex(member.identity), who=f"department {member.name!r}")
        except CommonrootError as error:
            yield str(error)
            continue
        if ciphertext and ciphertext_digest(ciphertext) not in greeting.sealed:
            yield f"the ciphertext beside {member.name!r}'s greeting is not one that it sealed"


def _replaced_bodies(told: _Told) -> Iterator[Finding]:
    """A body under the hash of another is not signed by anybody: the department's word, and perhaps the network's."""
    for record in told.ledgers:
        for entry in record.entries:
            if entry.kind == "refused" and entry.facts.get("code") == "CR34":
                what = f"{record.name} says that a {entry.facts.get('what')} came with another body than was signed"
                yield Finding("another-body", None, False, what, _named(told, entry.facts.get("digest")))


def _named(told: _Told, digest: object) -> tuple[Spoken, ...]:
    return tuple(one for one in told.spoken if sha256(one.head).hex() == digest)


# -- small things ------------------------------------------------------------------------------------------------------


def _differ(said: Iterable[_Said], rule: str, key: Any, value: Any, what: str) -> Iterator[Finding]:
    """One finding for each key under which two statements give two values."""
    first: dict[Any, _Said] = {}
    for one in said:
        name = key(one.message)
        before = first.setdefault(name, one)
        if value(before.message) != value(one.message):
            number = getattr(one.message, "round", None) or getattr(before.message, "round", None)
            shown = name if isinstance(name, int) else ""
            yield Finding(rule, number, True, what.format(shown), (before.spoken, one.spoken))


def _distinct(findings: Iterable[Finding]) -> list[Finding]:
    """Each pair of statements once for each rule."""
    found: dict[tuple[Any, ...], Finding] = {}
    for one in findings:
        found.setdefault((one.rule, one.round, one.what, frozenset(s.head for s in one.statements)), one)
    return list(found.values())
