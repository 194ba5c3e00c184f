"""Layout 2: the audit log, offers and answers, farewells, enrolment.

Its tables are declared in ``journal_tables``; a version that adds a step 3 copies them here.
"""

from __future__ import annotations

from typing import Final

import sqlalchemy as sa

from commonroot.server import journal_tables

#: Tables of layout 2 that layout 1 has not.
TABLES: Final = (
    "audit", "offers", "answers", "farewells",
    "enrolment_tokens", "applications", "renewals", "shut_out",
)  # fmt: skip


def up(db: sa.Connection) -> None:
    """From layout 1 to 2."""
    journal_tables.meta.create_all(db, tables=[journal_tables.meta.tables[name] for name in TABLES])
