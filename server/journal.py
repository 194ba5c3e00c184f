"""What the coordinator must remember to survive a crash: runs, rounds, survivor sets, versions, faults.

One SQL database (SQLite by default, any SQLAlchemy URL), and beside it the masked sum of the round that is opened,
in a file: a database takes many times as long for so much.  Every change of a round's state is one committed
transaction, made before the step it announces: ``open`` before the first message of a round leaves, ``fixed`` (with the
survivor set and the accumulated masked sum) before anybody is asked to open it, ``closed`` (with the new version)
before the next round.  So a coordinator that is killed anywhere goes on from the last line it wrote.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import sqlalchemy as sa
from sqlalchemy.exc import OperationalError

from commonroot.common.charter import SignedCharter
from commonroot.common.errors import ConfigError, ForeignState, StorageFull
from commonroot.common.evidence import LARGEST_HEAD, Exhibit
from commonroot.common.secure_sum.primitives import sha256
from commonroot.files import atomic_write, read_bytes
from commonroot.server import journal_tables as tables
from commonroot.server import states

RunState = Literal["queued", "running", "finished", "stopped"]
RoundState = Literal["open", "fixed", "closed", "lost"]

LAYOUT = "1"

#: Faulty messages kept per department, the first ones: later ones cannot push them out.
EXHIBITS_KEPT = 64


@dataclass(frozen=True, slots=True)
class Run:
    """One run of one charter."""

    run: int
    charter: SignedCharter
    digest: str
    state: RunState
    reason: str
    at: float


@dataclass(frozen=True, slots=True)
class Round:
    """One attempt at one sum.  ``opening`` is the signed RoundOpen."""

    round: int
    run: int
    version: int
    state: RoundState
    opening: bytes
    opened: bytes | None
    aggregate: bytes | None
    report: dict[str, Any]
    reason: str
    began: float
    ended: float | None


@dataclass(frozen=True, slots=True)
class Version:
    """One state of the backbone: version 0 is the seed's, version v the result of the v-th sum of its run."""

    run: int
    version: int
    file: str
    digest: bytes
    bounds: bytes
    at: float


class Journal:
    """The coordinator's memory.  Raises ForeignState for another federation's, StorageFull for a full disk.

    Parameters  url: of the database; federation: its name; folder: where the masked sum of an open round is kept
    """

    def __init__(self, url: str, *, federation: str, folder: Path) -> None:
        self._folder = folder
        try:
            self._engine = sa.create_engine(url)
            if self._engine.dialect.name == "sqlite":
                sa.event.listen(self._engine, "connect", _durable_sqlite)
            with self._writing():
                tables.meta.create_all(self._engine)
        except (OperationalError, sa.exc.ArgumentError) as error:
            raise ConfigError(f"the journal cannot be opened: {error}") from error
        try:
            self._claim(federation)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Release the database."""
        self._engine.dispose()

    @contextmanager
    def reading(self) -> Iterator[sa.Connection]:
        """A connection for those who look: nothing is written through it.  Safe to ask for from any thread."""
        with self._engine.connect() as db:
            yield db

    # -- runs ------------------------------------------------------------------------------------------------------

    def queue(self, charter: SignedCharter) -> int:
        """Ask for a run of a charter; the coordinator takes queued runs in order.

        Raises ConfigError for a charter that was queued before: departments open each of its backbones for one survivor
        set only, so it can be resumed but not begun again.
        """
        earlier = [r.run for r in self.runs() if r.digest == charter.charter.digest.hex()]
        if earlier:
            raise ConfigError(
                f"this charter is run {earlier[0]} already",
                hint="resume that run, or sign a charter with another name or seed",
            )
        with self._writing() as db:
            row = db.execute(
                tables.runs.insert().values(
                    charter=charter.to_json(),
                    digest=charter.charter.digest.hex(),
                    state="queued",
                    reason="",
                    at=time.time(),
                )
            )
            assigned = row.inserted_primary_key
        return int(assigned[0]) if assigned else 0

    def set_run(self, run: int, state: RunState, reason: str = "") -> None:
        """Move a run on, as ``states.RUNS`` permits; UsageError otherwise."""
        with self._writing() as db:
            found = db.execute(sa.select(tables.runs.c.state).where(tables.runs.c.run == run)).scalar_one()
            after = states.RUNS.after(states.RunState(found), states.RUN_EVENTS[state])
            if after == state:  # what fails after the end of a run does not change how it ended
                db.execute(tables.runs.update().where(tables.runs.c.run == run).values(state=state, reason=reason))

    def resume(self, run: int) -> None:
        """Queue a stopped run again; it goes on where it stood.  ConfigError where there is no such run to resume."""
        states = {r.run: r.state for r in self.runs()}
        if states.get(run) != "stopped":
            raise ConfigError(
                f"run {run} is {states.get(run, 'unknown')}, not stopped", hint="`commonroot coordinator status`"
            )
        self.set_run(run, "queued")

    def runs(self) -> list[Run]:
        """All runs, oldest first."""
        with self._engine.connect() as db:
            rows = db.execute(sa.select(tables.runs).order_by(tables.runs.c.run)).all()
        return [Run(r.run, SignedCharter.from_json(r.charter), r.digest, r.state, r.reason, r.at) for r in rows]

    def next_run(self) -> Run | None:
        """The run to go on with: the one that was running, else the oldest queued."""
        waiting = [r for r in self.runs() if r.state in ("running", "queued")]
        return min(waiting, key=lambda r: (r.state != "running", r.run), default=None)

    # -- rounds ----------------------------------------------------------------------------------------------------

    def open_round(self, number: int, run: int, version: int, opening: bytes) -> None:
        """A round is about to open: written before its first message leaves."""
        with self._writing() as db:
            db.execute(
                tables.rounds.insert().values(
                    round=number,
                    run=run,
                    version=version,
                    state="open",
                    opening=opening,
                    began=time.time(),
                    report="{}",
                    reason="",
                )
            )

    def fix_round(self, number: int, snapshot: bytes) -> None:
        """The survivor set is fixed, for ever: written before anybody is asked to open it."""
        self._forget_snapshots()  # of a round whose end was recorded by a process that then ended
        atomic_write(self._snapshot(number), snapshot, mode=0o600)
        digest = sha256(snapshot)
        with self._writing() as db:
            self._move_round(db, number, states.RoundEvent.FIX, snapshot=digest)

    def snapshot(self, number: int) -> bytes | None:
        """The machine as ``fix_round`` was given it; None where the survivor set was not fixed, or the round is over.

        Raises ConfigError where the file is gone, ForeignState where it is another
        """
        with self._engine.connect() as db:
            digest = db.execute(sa.select(tables.rounds.c.snapshot).where(tables.rounds.c.round == number)).scalar()
        if digest is None:
            return None
        found = read_bytes(self._snapshot(number), what="the masked sum of the open round")
        if sha256(found) != digest:
            raise ForeignState(f"{self._snapshot(number)} is not the file that the journal lists: its hash differs")
        return found

    def _snapshot(self, number: int) -> Path:
        return self._folder / f"round-{number}.masked"

    def _forget_snapshots(self) -> None:
        for path in self._folder.glob("round-*.masked"):
            path.unlink(missing_ok=True)

    def close_round(
        self, number: int, *, opened: bytes, aggregate: bytes, report: dict[str, Any], version: Version
    ) -> None:
        """The sum is opened and there is a new version of the backbone; one transaction."""
        with self._writing() as db:
            self._move_round(
                db,
                number,
                states.RoundEvent.CLOSE,
                snapshot=None,
                opened=opened,
                aggregate=aggregate,
                report=json.dumps(report),
                ended=time.time(),
            )
            self._insert_version(db, version)
        self._forget_snapshots()

    def lose_round(self, number: int, reason: str) -> None:
        """The round came to nothing; nothing was learned and nothing changes."""
        with self._writing() as db:
            self._move_round(db, number, states.RoundEvent.LOSE, snapshot=None, reason=reason, ended=time.time())
        self._forget_snapshots()

    def rounds(self, run: int | None = None) -> list[Round]:
        """Rounds in order, of one run or of all."""
        query = sa.select(tables.rounds).order_by(tables.rounds.c.round)
        if run is not None:
            query = query.where(tables.rounds.c.run == run)
        with self._engine.connect() as db:
            rows = db.execute(query).all()
        return [
            Round(
                r.round,
                r.run,
                r.version,
                r.state,
                r.opening,
                r.opened,
                r.aggregate,
                json.loads(r.report),
                r.reason,
                r.began,
                r.ended,
            )
            for r in rows
        ]

    def last_round(self) -> int:
        """The highest round number ever used, in any epoch; 0 before the first."""
        with self._engine.connect() as db:
            return int(db.execute(sa.select(sa.func.max(tables.rounds.c.round))).scalar() or 0)

    # -- versions --------------------------------------------------------------------------------------------------

    def add_version(self, version: Version) -> None:
        """Record a version that no round made: the seed's."""
        with self._writing() as db:
            self._insert_version(db, version)

    def versions(self, run: int) -> list[Version]:
        """Versions of a run's backbone, oldest first."""
        query = sa.select(tables.versions).where(tables.versions.c.run == run).order_by(tables.versions.c.version)
        with self._engine.connect() as db:
            rows = db.execute(query).all()
        return [Version(r.run, r.version, r.file, r.digest, r.bounds, r.at) for r in rows]

    # -- the beginning of an epoch -------------------------------------------------------------------------------

    def greetings(self, roster: bytes) -> dict[int, tuple[bytes, bytes]]:
        """Head and body of every greeting under a roster, by department's number."""
        query = sa.select(tables.greetings).where(tables.greetings.c.roster == roster.hex())
        with self._engine.connect() as db:
            return {r.department: (r.head, r.body) for r in db.execute(query).all()}

    def keep_greeting(self, roster: bytes, department: int, head: bytes, body: bytes) -> None:
        """A department's greeting, checked; the first one stands.  Those of other rosters are forgotten."""
        with self._writing() as db:
            db.execute(tables.greetings.delete().where(tables.greetings.c.roster != roster.hex()))
            db.execute(
                tables.greetings.insert().values(roster=roster.hex(), department=department, head=head, body=body)
            )

    # -- evidence --------------------------------------------------------------------------------------------------

    def fault(self, department: str, code: str, what: str, *, run: int | None = None, round: int | None = None) -> None:
        """Something a department did, or that happened to it."""
        with self._writing() as db:
            db.execute(
                tables.faults.insert().values(
                    run=run, round=round, department=department, code=code, what=what, at=time.time()
                )
            )

    def keep_exhibit(
        self, department: str, exhibit: Exhibit, *, run: int | None = None, round: int | None = None
    ) -> None:
        """Keep a faulty message that a department has signed.

        Of each department the first ``EXHIBITS_KEPT`` are kept, each once, and none larger than ``LARGEST_HEAD``.
        """
        e = exhibit
        with self._writing() as db:
            theirs = (
                db.execute(sa.select(tables.evidence.c.head).where(tables.evidence.c.signer == e.signer))
                .scalars()
                .all()
            )
            if len(theirs) < EXHIBITS_KEPT and len(e.head) <= LARGEST_HEAD and e.head not in theirs:
                db.execute(
                    tables.evidence.insert().values(
                        run=run,
                        round=round,
                        department=department,
                        code=e.code,
                        kind=e.kind,
                        signer=e.signer,
                        head=e.head,
                        body=e.body,
                        at=e.at,
                    )
                )

    def evidence(self) -> list[tuple[str, Exhibit]]:
        """Every kept message with the name of the department that signed it, oldest first."""
        with self._engine.connect() as db:
            rows = db.execute(sa.select(tables.evidence).order_by(tables.evidence.c.id)).all()
        return [(r.department, Exhibit(r.at, r.kind, r.code, r.signer, r.head, r.body, r.kind, b"")) for r in rows]

    def faults(self) -> list[dict[str, Any]]:
        """All faults, oldest first."""
        with self._engine.connect() as db:
            return [dict(r._mapping) for r in db.execute(sa.select(tables.faults).order_by(tables.faults.c.id)).all()]

    def count_received(self, counts: dict[str, tuple[int, int]]) -> None:
        """Add to the account of what the coordinator received: kind → (parcels, bytes)."""
        with self._writing() as db:
            for kind, (parcels, size) in sorted(counts.items()):
                changed = db.execute(
                    tables.received.update()
                    .where(tables.received.c.kind == kind)
                    .values(parcels=tables.received.c.parcels + parcels, bytes=tables.received.c.bytes + size)
                )
                if changed.rowcount == 0:
                    db.execute(tables.received.insert().values(kind=kind, parcels=parcels, bytes=size))

    def received(self) -> list[dict[str, Any]]:
        """Every kind of byte the coordinator ever received from departments."""
        with self._engine.connect() as db:
            return [
                dict(r._mapping) for r in db.execute(sa.select(tables.received).order_by(tables.received.c.kind)).all()
            ]

    def department_closed(self, run: int, department: str) -> None:
        """A department has taken over the final backbone of a run."""
        if department not in self.closed_departments(run):
            with self._writing() as db:
                db.execute(tables.closings.insert().values(run=run, department=department, at=time.time()))

    def closed_departments(self, run: int) -> set[str]:
        """Departments that have taken over the final backbone of a run."""
        with self._engine.connect() as db:
            return set(
                db.execute(sa.select(tables.closings.c.department).where(tables.closings.c.run == run)).scalars()
            )

    # -- inside ----------------------------------------------------------------------------------------------------

    @staticmethod
    def _move_round(db: sa.Connection, number: int, event: states.RoundEvent, **values: Any) -> None:
        """Change a round's state together with what belongs to it; UsageError for a step not in ``states.ROUNDS``."""
        found = db.execute(sa.select(tables.rounds.c.state).where(tables.rounds.c.round == number)).scalar_one()
        after = states.ROUNDS.after(states.RoundState(found), event)
        db.execute(tables.rounds.update().where(tables.rounds.c.round == number).values(state=after.value, **values))

    @contextmanager
    def _writing(self) -> Iterator[sa.Connection]:
        try:
            with self._engine.begin() as db:
                yield db
        except OperationalError as error:
            if "full" in str(error.orig) or "disk I/O" in str(error.orig):
                raise StorageFull("no room to write the coordinator's journal") from error
            raise

    def _claim(self, federation: str) -> None:
        with self._writing() as db:
            about = {r.name: r.value for r in db.execute(sa.select(tables.about)).all()}
            if not about:
                db.execute(tables.about.insert(), [{"name": "federation", "value": federation}])
                db.execute(tables.about.insert(), [{"name": "layout", "value": LAYOUT}])
                return
        if about.get("federation") != federation:
            raise ForeignState(f"this journal belongs to federation {about.get('federation')!r}, not {federation!r}")
        if about.get("layout") != LAYOUT:
            raise ForeignState(f"this journal has layout {about.get('layout')}, this version writes {LAYOUT}")

    @staticmethod
    def _insert_version(db: sa.Connection, version: Version) -> None:
        db.execute(
            tables.versions.insert().values(
                run=version.run,
                version=version.version,
                file=version.file,
                digest=version.digest,
                bounds=version.bounds,
                at=version.at,
            )
        )


def sqlite_url(path: Path) -> str:
    """The SQLAlchemy URL of an SQLite file."""
    return f"sqlite:///{path}"


def _durable_sqlite(connection: Any, _record: Any) -> None:
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=FULL")
    cursor.execute("PRAGMA busy_timeout=30000")
    cursor.execute("PRAGMA foreign_keys=ON")
    cursor.close()
