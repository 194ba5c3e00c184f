"""What the coordinator must remember to survive a crash: runs, rounds, survivor sets, versions.

One SQL database (SQLite by default, PostgreSQL by URL; see ``journal_database``), and beside it the masked sum of the
round that is opened, in a file: a database takes many times as long for so much.  Every change of a round's state is
one committed transaction, made before the step it announces: ``open`` before the first message of a round leaves,
``fixed`` (with the survivor set and the accumulated masked sum) before anybody is asked to open it, ``closed`` (with
the new version) before the next round.  So a coordinator that is killed anywhere goes on from the last line it wrote.
"""

from __future__ import annotations

import json
import time
from contextlib import AbstractContextManager
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import sqlalchemy as sa

from commonroot.common import restores
from commonroot.common.charter import SignedCharter
from commonroot.common.errors import ConfigError, ForeignState
from commonroot.common.ledger import CHECKPOINT, Entry, Fact, Head, owner_of_audit
from commonroot.common.secure_sum.primitives import Identity, sha256
from commonroot.files import atomic_write, read_bytes
from commonroot.logs import Tell
from commonroot.server import audit, states
from commonroot.server import journal_tables as tables
from commonroot.server.journal_consent import Consent
from commonroot.server.journal_database import PATIENCE, Database, outlasting, storable
from commonroot.server.journal_dump import highest, mark
from commonroot.server.journal_faults import Faults
from commonroot.server.journal_rows import Round, RoundState, Run, RunState, Version
from commonroot.server.migrations import migrate

# What every round asks for is made once.
_STATE: Final = sa.select(tables.rounds.c.state).where(tables.rounds.c.round == sa.bindparam("number"))
_ADD_ROUND: Final = tables.rounds.insert()
_MOVE_ROUND: Final = tables.rounds.update().where(tables.rounds.c.round == sa.bindparam("number"))
_ADD_VERSION: Final = tables.versions.insert()


@outlasting
class Journal:
    """The coordinator's memory, on which ``database`` says what outlasts what.

    Parameters  url: of the database; federation: its name; folder: where the masked sum of an open round is kept;
                owner: token of the one coordinator that carries out runs, empty for commands beside it;
                patience: seconds for which a lost database is waited for; say: told of a change of layout
    Raises      ForeignState: another federation's, or damaged; NewerLayout; OlderLayout: where it is in use by an
                earlier version; AnotherCoordinator; DatabaseUnreachable; DatabaseRefused; StorageFull
    """

    def __init__(
        self,
        url: str,
        *,
        federation: str,
        folder: Path,
        owner: str = "",
        patience: float = PATIENCE,
        say: Tell = lambda kind, facts: None,
    ) -> None:
        self._folder = folder
        self.database = Database(url, patience=patience)
        self.database.on_link = lambda state: say("database", {"state": state})
        self._federation = federation
        #: What departments agreed to, and what they did wrong: chapters of the same memory.
        self.consent, self.faults = Consent(self.database), Faults(self.database)
        try:
            moved = self.database.outlast(
                lambda: migrate(self.database, federation=federation, folder=folder, owner=owner)
            )
            if moved:
                say("migrated", {"from": moved[0], "to": moved[1]})
            if owner:
                self.database.outlast(lambda: self.database.own(owner))
        except BaseException:
            self.database.close()
            raise

    def close(self) -> None:
        """Release the database."""
        self.database.close()

    def transaction(self) -> AbstractContextManager[sa.Connection]:
        """One transaction, committed at the block's end, for those whose tables stand beside these."""
        return self._writing()

    def reading(self) -> AbstractContextManager[sa.Connection]:
        """A connection for those who look: nothing is written through it.  Safe to ask for from any thread."""
        return self.database.reading(snapshot=True)

    # -- runs ------------------------------------------------------------------------------------------------------

    def queue(self, charter: SignedCharter) -> int:
        """Ask for a run of a charter; the coordinator takes queued runs in order.

        Raises ConfigError for a charter that was queued before: departments open each of its backbones for one survivor
        set only, so it can be resumed but not begun again.
        """
        digest = charter.charter.digest.hex()
        with self._writing() as db:
            earlier = db.execute(sa.select(tables.runs.c.run).where(tables.runs.c.digest == digest)).scalar()
            if earlier is not None:
                raise ConfigError(
                    f"this charter is run {earlier} already",
                    hint="resume that run, or sign a charter with another name or seed",
                )
            values: dict[str, Any] = {
                "charter": charter.to_json(),
                "digest": digest,
                "state": "queued",
                "reason": "",
                "at": time.time(),
            }
            if restored_to := mark(db, "runs_from"):  # after a restore: runs may have been queued since the backup
                values["run"] = 1 + max(highest(db, tables.runs.c.run), restored_to)
            assigned = db.execute(tables.runs.insert().values(**values)).inserted_primary_key
            number = int(assigned[0]) if assigned else 0
            audit.append(db, "queued", {"run": number, "charter": digest})
        return number

    def set_run(self, run: int, state: RunState, reason: str = "") -> None:
        """Move a run on, as ``states.RUNS`` permits; UsageError otherwise."""
        with self._writing() as db:
            row = db.execute(sa.select(tables.runs.c.state, tables.runs.c.digest).where(tables.runs.c.run == run)).one()
            found, digest = row.state, row.digest
            after = states.RUNS.after(states.RunState(found), states.RUN_EVENTS[state])
            if after == state:  # what fails after the end of a run does not change how it ended
                audit.append(db, "run", {"run": run, "charter": digest, "state": state})
                db.execute(
                    tables.runs.update().where(tables.runs.c.run == run).values(state=state, reason=storable(reason))
                )

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
        with self.database.reading() as db:
            rows = db.execute(sa.select(tables.runs).order_by(tables.runs.c.run)).all()
        return [Run(r.run, SignedCharter.from_json(r.charter), r.digest, r.state, r.reason, r.at) for r in rows]

    def next_run(self) -> Run | None:
        """The run to go on with: the one that was running, else the oldest queued."""
        waiting = [r for r in self.runs() if r.state in ("running", "queued")]
        return min(waiting, key=lambda r: (r.state != "running", r.run), default=None)

    def department_closed(self, run: int, department: str) -> None:
        """A department has taken over the final backbone of a run."""
        found = sa.select(tables.closings.c.run).filter_by(run=run, department=department)
        with self._writing() as db:
            if db.execute(found).first() is None:
                db.execute(tables.closings.insert().values(run=run, department=department, at=time.time()))
                audit.append(db, "taken-over", {"run": run, "department": department})

    def closed_departments(self, run: int) -> set[str]:
        """Departments that have taken over the final backbone of a run."""
        with self.database.reading() as db:
            return set(
                db.execute(sa.select(tables.closings.c.department).where(tables.closings.c.run == run)).scalars()
            )

    # -- rounds ----------------------------------------------------------------------------------------------------

    def open_round(self, number: int, run: int, version: int, opening: bytes) -> None:
        """A round is about to open: written before its first message leaves."""
        with self._writing() as db:
            audit.append(db, "round-open", audit.of_opening(run, opening))
            row = {"round": number, "run": run, "version": version, "state": "open", "opening": opening}
            db.execute(_ADD_ROUND, row | {"began": time.time(), "report": "{}", "reason": ""})

    def fix_round(
        self, number: int, snapshot: bytes | None, *, survivors: tuple[int, ...] = (), opened: bytes = b""
    ) -> None:
        """The survivor set is fixed, for ever: written before anybody is asked to open it.

        ``survivors`` and ``opened``, H(T, U), are for the audit log; the snapshot holds them too.  There is none where
        nothing is masked.
        """
        self._forget_snapshots()  # of a round whose end was recorded by a process that then ended
        digest = None
        if snapshot is not None:
            atomic_write(self._snapshot(number), snapshot, mode=0o600)
            digest = sha256(snapshot)
        with self._writing() as db:
            self._move_round(db, number, states.RoundEvent.FIX, snapshot=digest)
            told: dict[str, Fact] = {"round": number, "survivors": list(survivors), "opened": opened.hex()}
            audit.append(db, "survivors", told)

    def snapshot(self, number: int) -> bytes | None:
        """The machine as ``fix_round`` was given it; None where the survivor set was not fixed, nothing
        was masked, or the round is over.

        Raises ConfigError where the file is gone, ForeignState where it is another
        """
        with self.database.reading() as db:
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
            result: dict[str, Fact] = {"round": number, "opened": opened.hex(), "aggregate": aggregate.hex()}
            made: dict[str, Fact] = {"version": version.version, "backbone": version.digest.hex()}
            audit.append(db, "round-closed", result | made)
        self._forget_snapshots()

    def lose_round(self, number: int, reason: str) -> None:
        """The round came to nothing; nothing was learned and nothing changes."""
        with self._writing() as db:
            self._move_round(
                db, number, states.RoundEvent.LOSE, snapshot=None, reason=storable(reason), ended=time.time()
            )
            audit.append(db, "round-lost", {"round": number})
        self._forget_snapshots()

    def rounds(self, run: int | None = None, *states: RoundState, newest: int | None = None) -> list[Round]:
        """Rounds in order, of one run or of all.

        Parameters  states: only rounds in these; newest: only as many, counted from the end.  A run of a year has very
        many rounds, so whoever asks in every round says which ones it needs.
        """
        query = sa.select(tables.rounds).order_by(tables.rounds.c.round.desc()).limit(newest)
        if run is not None:
            query = query.where(tables.rounds.c.run == run)
        if states:
            query = query.where(tables.rounds.c.state.in_(states))
        with self.database.reading() as db:
            rows = db.execute(query).all()[::-1]
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
        """The highest round number that may have been used, in any epoch; 0 before the first.

        In a journal from a backup it is further on than the backup's: departments may have gone on meanwhile.
        """
        with self.database.reading() as db:
            used = int(db.execute(sa.select(sa.func.max(tables.rounds.c.round))).scalar() or 0)
        return max(used, int(self._about("rounds_from") or 0))

    def restored_at(self) -> float | None:
        """When the backup was made that this journal comes from, in seconds since 1970; None where from none."""
        told = self._about("restored")
        return None if told is None else float(told)

    def _about(self, name: str) -> str | None:
        with self.database.reading() as db:
            found = db.execute(sa.select(tables.about.c.value).where(tables.about.c.name == name)).scalar()
        return None if found is None else str(found)

    # -- versions --------------------------------------------------------------------------------------------------

    def add_version(self, version: Version) -> None:
        """Record a version that no round made: the seed's."""
        with self._writing() as db:
            self._insert_version(db, version)
            told: dict[str, Fact] = {"run": version.run, "version": version.version, "backbone": version.digest.hex()}
            audit.append(db, "version", told)

    def versions(self, run: int, *, newest: int | None = None) -> list[Version]:
        """Versions of a run's backbone, oldest first; only the ``newest`` so many where that is given."""
        query = sa.select(tables.versions).where(tables.versions.c.run == run)
        query = query.order_by(tables.versions.c.version.desc()).limit(newest)
        with self.database.reading() as db:
            rows = db.execute(query).all()[::-1]
        return [Version(r.run, r.version, r.file, r.digest, r.bounds, r.at) for r in rows]

    # -- the beginning of an epoch -------------------------------------------------------------------------------

    def greetings(self, roster: bytes) -> dict[int, tuple[bytes, bytes]]:
        """Head and body of every greeting under a roster, by department's number."""
        query = sa.select(tables.greetings).where(tables.greetings.c.roster == roster.hex())
        with self.database.reading() as db:
            return {r.department: (r.head, r.body) for r in db.execute(query).all()}

    def keep_greeting(self, roster: bytes, department: int, head: bytes, body: bytes) -> None:
        """A department's greeting, checked; the first one stands.  Those of other rosters are forgotten."""
        with self._writing() as db:
            db.execute(tables.greetings.delete().where(tables.greetings.c.roster != roster.hex()))
            db.execute(
                tables.greetings.insert().values(roster=roster.hex(), department=department, head=head, body=body)
            )
            audit.append(
                db, "greeted", {"roster": roster.hex(), "department": department, "greeting": sha256(head).hex()}
            )

    # -- the account --------------------------------------------------------------------------------------------------

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
        with self.database.reading() as db:
            return [
                dict(r._mapping) for r in db.execute(sa.select(tables.received).order_by(tables.received.c.kind)).all()
            ]

    # -- the audit log -----------------------------------------------------------------------------------------------

    def note(self, kind: str, facts: dict[str, Fact]) -> None:
        """Append to the audit log what no other method of this journal does."""
        with self._writing() as db:
            audit.append(db, kind, facts)

    def sign_audit(self, identity: Identity) -> Head:
        """Sign the audit log as it stands."""
        with self._writing() as db:
            return audit.checkpoint(db, owner_of_audit(self._federation), identity)

    def sign_restore(self, identity: Identity) -> None:
        """Sign the audit log if it tells of a restore that no signed head covers yet."""
        with self._writing() as db:
            told, signed = audit.newest(db, restores.KIND), audit.newest(db, CHECKPOINT)
            if told is not None and (signed is None or signed.sequence < told.sequence):
                audit.checkpoint(db, owner_of_audit(self._federation), identity)

    def restored(self) -> dict[str, Any] | None:
        """What the audit log says of the last restore: ``at``, and the facts of ``restores.facts_of``; None without."""
        with self.database.reading() as db:
            found = audit.newest(db, restores.KIND)
        return None if found is None else {"at": found.at, **found.facts}

    def audit(self) -> list[Entry]:
        """The audit log, oldest first."""
        with self.database.reading() as db:
            return audit.entries(db)

    # -- inside ----------------------------------------------------------------------------------------------------

    @staticmethod
    def _move_round(db: sa.Connection, number: int, event: states.RoundEvent, **values: Any) -> None:
        """Change a round's state together with what belongs to it; UsageError for a step not in ``states.ROUNDS``."""
        found = db.execute(_STATE, {"number": number}).scalar_one()
        after = states.ROUNDS.after(states.RoundState(found), event)
        db.execute(_MOVE_ROUND, {"number": number, "state": after.value} | values)

    def _writing(self) -> AbstractContextManager[sa.Connection]:
        return self.database.writing()

    @staticmethod
    def _insert_version(db: sa.Connection, version: Version) -> None:
        db.execute(_ADD_VERSION, asdict(version))
