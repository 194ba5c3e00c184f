"""The journal as one record: for ``coordinator status``, for the page and for Prometheus.

This is the one place where they read, so what none of them may say cannot be found here: sums, membership, timing,
sizes and codes, and nothing of a single department beyond that (SECURITY.md).
"""

from __future__ import annotations

import json
import re
import shutil
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import sqlalchemy as sa

from commonroot import __version__
from commonroot.common.charter import Charter, SignedCharter
from commonroot.common.errors import CommonrootError, RoundLost, all_errors
from commonroot.files import owner_of
from commonroot.server import journal_tables as tables
from commonroot.server.folder import CoordinatorFolder
from commonroot.server.journal import Journal

#: What can be said of privacy in this version: it is a promise about sums, and not a number.
PRIVACY: Final = (
    "only sums over at least the floor of departments are opened, one for each version; "
    "no noise is added and no differential-privacy budget is accounted for"
)
_OVER: Final = ("closed", "lost")
_REFUSED: Final = re.compile(r"'([^']+)' refused with (CR\d{2,3})\b")
_CODE: Final = re.compile(r"\b(CR\d{2,3})\b")

#: With less than this many bytes left a journal cannot be written for long.
_LITTLE: Final = 4 * 2**20


def status_of(folder: CoordinatorFolder) -> dict[str, Any]:
    """Runs with their rounds, faults, and the account of received bytes.  Holds only what the coordinator may know."""
    journal = folder.journal()
    try:
        found = Books(journal).read()
        return {
            "federation": folder.config.federation,
            "program": __version__,
            "trouble": troubles(folder, [str(run["state"]) for run in found["runs"]]),
            **found,
            "restored_at": journal.restored_at(),
            "restored": journal.restored(),
            "gate": at_the_gate(folder),
        }
    finally:
        journal.close()


def troubles(folder: CoordinatorFolder, states: Sequence[str]) -> list[str]:
    """Why a run does not go on that the journal itself cannot tell: a full disk, or no process; a line each."""
    found = []
    free = shutil.disk_usage(folder.root).free
    if free < _LITTLE:
        found.append(f"the disk of {folder.root} is full: {free} bytes are left; runs go on once there is room")
    if owner_of(folder.root) is None and any(state in ("queued", "running") for state in states):
        found.append(f"no coordinator is up on {folder.root}: `commonroot coordinator up {folder.root}`")
    return found


def at_the_gate(folder: CoordinatorFolder) -> dict[str, Any]:
    """What the public port held and had refused when the coordinator last wrote it down; empty before it was up.

    open         connections, and those of strangers among them
    refused      reason → how often since it came up
    departments  of each that came: what it runs, how far its clock is ahead in seconds, what it was refused
    at           when that was, in seconds since 1970
    """
    try:
        found = json.loads((folder.root / "links" / "gate.json").read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


@dataclass(slots=True)
class _Known:
    """What of a run does not change any more."""

    charter: Charter
    rounds: list[dict[str, Any]] = field(default_factory=list)
    #: Every round up to this one is in ``rounds``.
    upto: int = 0


class Books:
    """Reads a journal again and again at little cost: charters and rounds that are over are read once.

    Safe to call from any thread; what it returns is not to be changed.
    """

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._known: dict[int, _Known] = {}
        self._lock = threading.Lock()

    def read(self, *, newest_faults: int | None = None) -> dict[str, Any]:
        """The keys ``runs``, ``faults`` (all, or so many of the newest), ``fault_counts`` and ``received``."""
        with self._lock, self._journal.reading() as db:
            return {
                "runs": self._runs(db),
                "faults": _faults(db, newest_faults),
                "fault_counts": _fault_counts(db),
                "received": _received(db),
            }

    def _runs(self, db: sa.Connection) -> list[dict[str, Any]]:
        """Every run, oldest first.

        run, name, method, charter (its hash), state, reason, queued   of the run; ``queued`` in seconds since 1970
        advice              what to do about a stopped one
        version, versions   newest version of its backbone; all of them with hash, file and time
        rounds, rounds_wanted, closed, lost   all rounds with their reports; how many are wanted, closed and lost
        privacy             sums opened, and how many this charter can open at most
        """
        t = tables.runs.c
        found = db.execute(sa.select(t.run, t.digest, t.state, t.reason, t.at).order_by(t.run)).all()
        versions = _versions(db)
        closings = _closings(db)
        out = []
        for row in found:
            known = self._known.get(row.run)
            if known is None:
                text = db.execute(sa.select(t.charter).where(t.run == row.run)).scalar_one()
                known = self._known[row.run] = _Known(SignedCharter.from_json(text).charter)
            rounds = self._rounds(db, row.run, known)
            closed = sum(one["state"] == "closed" for one in rounds)
            stored = versions.get(row.run, [])
            out.append(
                {
                    "run": row.run,
                    "name": known.charter.name,
                    "method": known.charter.method.name,
                    "charter": row.digest,
                    "state": row.state,
                    "reason": row.reason,
                    "advice": advice(row.run, row.state, row.reason),
                    "queued": row.at,
                    "floor": known.charter.cohort.floor,
                    "version": stored[-1]["version"] if stored else 0,
                    "versions": stored,
                    "rounds_wanted": known.charter.rounds,
                    "closed": closed,
                    "lost": sum(one["state"] == "lost" for one in rounds),
                    "closed_departments": sorted(closings.get(row.run, [])),
                    "privacy": {"noise": False, "sums_opened": closed, "sums_at_most": known.charter.rounds},
                    "rounds": rounds,
                }
            )
        return out

    def _rounds(self, db: sa.Connection, run: int, known: _Known) -> list[dict[str, Any]]:
        t = tables.rounds.c
        columns = (t.round, t.version, t.state, t.reason, t.report, t.began, t.ended)
        query = sa.select(*columns).where(t.run == run, t.round > known.upto).order_by(t.round)
        fresh = []
        settled = True
        for r in db.execute(query):
            one = {
                "round": r.round,
                "version": r.version,
                "state": r.state,
                "reason": r.reason,
                "report": json.loads(r.report),
                "began": r.began,
                "ended": r.ended,
            }
            settled = settled and r.state in _OVER
            if settled:
                known.rounds.append(one)
                known.upto = r.round
            else:
                fresh.append(one)
        return known.rounds + fresh


def advice(run: int, state: str, reason: str) -> str:
    """What a person can do about a stopped run, from the codes in its reason; empty for any other run."""
    if state != "stopped":
        return ""
    kinds = all_errors()
    refused: dict[str, list[str]] = {}
    for name, code in _REFUSED.findall(reason):
        refused.setdefault(code, []).append(repr(name))
    refusals = [f"{', '.join(names)} {_hint(kinds[code])}" for code, names in refused.items() if code in kinds]
    codes = _CODE.findall(reason)
    last = kinds.get(codes[-1]) if codes else None
    if refusals:
        first = "; ".join(refusals)
    elif last is not None and issubclass(last, RoundLost):
        first = "see who is absent or was lost, and bring them back"
    elif last is not None:
        first = last.hint or last.__name__
    elif reason.startswith("internal error"):
        first = "the coordinator's log has the details"
    else:
        return f"`commonroot coordinator resume DIR {run}` lets it go on from its last backbone"
    return f"{first}; then `commonroot coordinator resume DIR {run}` lets it go on from its last backbone"


def _hint(kind: type[CommonrootError]) -> str:
    return f"({kind.__name__}): {kind.hint}" if kind.hint else f"({kind.__name__})"


def _versions(db: sa.Connection) -> dict[int, list[dict[str, Any]]]:
    t = tables.versions.c
    out: dict[int, list[dict[str, Any]]] = {}
    for r in db.execute(sa.select(t.run, t.version, t.file, t.digest, t.at).order_by(t.run, t.version)):
        one = {"version": r.version, "file": r.file, "sha256": bytes(r.digest).hex(), "at": r.at}
        out.setdefault(r.run, []).append(one)
    return out


def _closings(db: sa.Connection) -> dict[int, list[str]]:
    out: dict[int, list[str]] = {}
    for r in db.execute(sa.select(tables.closings.c.run, tables.closings.c.department)):
        out.setdefault(r.run, []).append(r.department)
    return out


def _faults(db: sa.Connection, newest: int | None) -> list[dict[str, Any]]:
    """Faults, oldest first: run, round, department (empty for the sum's), code, what, at."""
    query = sa.select(tables.faults).order_by(tables.faults.c.id.desc()).limit(newest)
    return [dict(r._mapping) for r in db.execute(query)][::-1]


def _fault_counts(db: sa.Connection) -> dict[str, int]:
    """Code → how many."""
    t = tables.faults.c
    return {
        r.code: int(r.times) for r in db.execute(sa.select(t.code, sa.func.count().label("times")).group_by(t.code))
    }


def _received(db: sa.Connection) -> list[dict[str, Any]]:
    """Every kind of byte that ever came from departments: kind, parcels, bytes."""
    return [dict(r._mapping) for r in db.execute(sa.select(tables.received).order_by(tables.received.c.kind))]
