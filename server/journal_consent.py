"""What departments agreed to, in the coordinator's journal: charters on offer, answers to them, and good-byes."""

from __future__ import annotations

import time

import sqlalchemy as sa

from commonroot.common.charter import SignedCharter
from commonroot.server import audit
from commonroot.server import journal_tables as tables
from commonroot.server.journal_database import Database, outlasting


@outlasting
class Consent:
    """The journal's offers, answers and farewells."""

    def __init__(self, database: Database) -> None:
        self.database = database

    def offer(self, charter: SignedCharter) -> None:
        """Show this charter to departments from now on, whether or not a run of it is queued."""
        name = charter.charter.digest.hex()
        with self.database.writing() as db:
            if not db.execute(sa.select(tables.offers.c.charter).where(tables.offers.c.charter == name)).first():
                db.execute(tables.offers.insert().values(charter=name, signed=charter.to_json(), at=time.time()))

    def retract(self, charter: str) -> bool:
        """Show it no more; False where it was not offered."""
        with self.database.writing() as db:
            return db.execute(tables.offers.delete().where(tables.offers.c.charter == charter)).rowcount == 1

    def offers(self) -> list[SignedCharter]:
        """Charters that are shown to departments beside runs, oldest first."""
        with self.database.reading() as db:
            rows = db.execute(sa.select(tables.offers.c.signed).order_by(tables.offers.c.at)).scalars().all()
        return [SignedCharter.from_json(signed) for signed in rows]

    def answered(self, charter: str, department: str, answer: str) -> None:
        """A department's answer to a charter: ``ready``, or the code of its refusal.  A repeated one is not noted."""
        key = (tables.answers.c.charter == charter) & (tables.answers.c.department == department)
        with self.database.writing() as db:
            before = db.execute(sa.select(tables.answers.c.answer).where(key)).scalar()
            if before == answer:
                return
            db.execute(tables.answers.delete().where(key))
            row = {"charter": charter, "department": department, "answer": answer}
            db.execute(tables.answers.insert().values(**row, at=time.time()))
            audit.append(db, "offered", {"charter": charter, "department": department, "answer": answer})

    def answers(self) -> dict[str, dict[str, str]]:
        """Charter → department → its newest answer."""
        found: dict[str, dict[str, str]] = {}
        with self.database.reading() as db:
            for row in db.execute(sa.select(tables.answers).order_by(tables.answers.c.department)).all():
                found.setdefault(row.charter, {})[row.department] = row.answer
        return found

    def left(self, department: str, identity: str, head: bytes) -> None:
        """A department has said good-bye, under its signature; once."""
        with self.database.writing() as db:
            known = sa.select(tables.farewells.c.identity).where(tables.farewells.c.identity == identity)
            if db.execute(known).first() is None:
                row = {"identity": identity, "department": department, "head": head}
                db.execute(tables.farewells.insert().values(**row, at=time.time()))
                audit.append(db, "goodbye", {"department": department, "identity": identity})

    def farewells(self) -> dict[str, str]:
        """Identity → name of each department that has said good-bye."""
        with self.database.reading() as db:
            return {r.identity: r.department for r in db.execute(sa.select(tables.farewells)).all()}
