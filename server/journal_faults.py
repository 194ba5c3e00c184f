"""What departments did wrong, in the coordinator's journal: every fault, and the signed messages that prove one."""

from __future__ import annotations

import time
from typing import Any

import sqlalchemy as sa

from commonroot.common.evidence import LARGEST_HEAD, Exhibit
from commonroot.server import audit
from commonroot.server import journal_tables as tables
from commonroot.server.journal_database import Database, outlasting, storable

#: Faulty messages kept per department, the first ones: later ones cannot push them out.
EXHIBITS_KEPT = 64


@outlasting
class Faults:
    """The journal's faults and evidence."""

    def __init__(self, database: Database) -> None:
        self.database = database

    def note(self, department: str, code: str, what: str, *, run: int | None = None, round: int | None = None) -> None:
        """Something a department did, or that happened to it."""
        told = {"run": run, "round": round, "department": storable(department), "code": code, "what": storable(what)}
        with self.database.writing() as db:
            db.execute(tables.faults.insert().values(**told, at=time.time()))
            audit.append(db, "fault", {"department": told["department"], "code": code, "run": run, "round": round})

    def keep_exhibit(
        self, department: str, exhibit: Exhibit, *, run: int | None = None, round: int | None = None
    ) -> None:
        """Keep a faulty message that a department has signed.

        Of each department the first ``EXHIBITS_KEPT`` are kept, each once, and none larger than ``LARGEST_HEAD``.
        """
        e = exhibit
        with self.database.writing() as db:
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

    def exhibits(self) -> list[tuple[str, Exhibit]]:
        """Every kept message with the name of the department that signed it, oldest first."""
        with self.database.reading() as db:
            rows = db.execute(sa.select(tables.evidence).order_by(tables.evidence.c.id)).all()
        return [(r.department, Exhibit(r.at, r.kind, r.code, r.signer, r.head, r.body, r.kind, b"")) for r in rows]

    def all(self) -> list[dict[str, Any]]:
        """All faults, oldest first."""
        with self.database.reading() as db:
            return [dict(r._mapping) for r in db.execute(sa.select(tables.faults).order_by(tables.faults.c.id)).all()]
