"""Layout 2: the audit log, what was offered, who answered what and who has left.

Its tables are declared in ``journal_tables``; a version that adds a step 3 copies them here.
"""

from __future__ import annotations

from typing import Final

import sqlalchemy as sa

from commonroot.server import journal_tables

#: Tables of layout 2 that layout 1 has not.
TABLES: Final = ("audit", "offers", "answers", "farewells")


def up(db: sa.Connection) -> None:
    """From layout 1 to 2."""
    journal_tables.meta.create_all(db, tables=[journal_tables.meta.tables[name] for name in TABLES])
