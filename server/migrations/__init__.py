"""The journal's layout, in numbered steps, alike for SQLite and PostgreSQL.

``about`` says which layout a database has; a new database goes through every step, an old one through those it lacks.
All of them and the new number are one transaction: a process that is killed in the middle leaves the old layout, and
the next one begins again.  SQLite's file is copied first, to ``journal.db.layout-N``; PostgreSQL's administrators have
means of their own, and ``coordinator backup``.

To add a step: a module ``mNNNN`` with ``up(db)``, and a line in ``STEPS``.  A step is never changed once a version with
it was published: it then has to hold what it makes, as ``m0001`` does, and not look it up in ``journal_tables``.
"""

from __future__ import annotations

import os
import sqlite3
import tempfile
from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any, Final

import sqlalchemy as sa

from commonroot.common.errors import AnotherCoordinator, ForeignState, NewerLayout, OlderLayout
from commonroot.files import lock_file, storage_errors, sync_folder
from commonroot.server.journal_database import Database
from commonroot.server.migrations import m0001, m0002

#: What leads to layout 1, 2, …, and what it is for.
STEPS: Final[tuple[tuple[Callable[[sa.Connection], None], str], ...]] = (
    (m0001.up, "runs, rounds, versions, faults, greetings, evidence"),
    (m0002.up, "the audit log, offers, answers, farewells, enrolment"),
)
NEWEST: Final = len(STEPS)


def layout_of(db: sa.Connection, *, federation: str) -> int:
    """Which layout a database has; 0 for one that is empty.

    Raises ForeignState: another federation's, or somebody else's tables; NewerLayout
    """
    if not sa.inspect(db).has_table("about"):
        return 0
    about = {row.name: row.value for row in db.execute(sa.text("SELECT name, value FROM about"))}
    if not about:  # made and not claimed, by a process that was killed in between
        return 0
    if about.get("federation") != federation:
        raise ForeignState(f"this journal belongs to federation {about.get('federation')!r}, not {federation!r}")
    told = str(about.get("layout", ""))
    if not told.isdecimal() or int(told) == 0:
        raise ForeignState(f"this journal has layout {told!r}, which no version wrote")
    if int(told) > NEWEST:
        raise NewerLayout(f"this journal has layout {told}; this version knows layouts up to {NEWEST}")
    return int(told)


def pending(database: Database, *, federation: str) -> dict[str, Any]:
    """Where a database stands and which steps it lacks; changes nothing."""
    with database.reading() as db:
        layout = layout_of(db, federation=federation)
    return {"layout": layout, "newest": NEWEST, "steps": [f"{n:04}: {STEPS[n - 1][1]}" for n in _lacking(layout)]}


def migrate(database: Database, *, federation: str, folder: Path, owner: str = "") -> tuple[int, int] | None:
    """Bring a database to the newest layout; (from, to) where that was an older one.

    Parameters  folder: the coordinator's, whose daemon must not run meanwhile; owner: not empty in the daemon itself
    Raises      as ``layout_of``; OlderLayout: somebody uses it in the old layout; StorageFull: nothing was changed
    """
    with database.reading() as db:
        layout = layout_of(db, federation=federation)
    if layout == NEWEST:
        return None
    with ExitStack() as alone:
        if layout:
            _be_alone(alone, database, folder, owner, layout)
            if database.file is not None:
                copy_sqlite(database.file, Path(f"{database.file}.layout-{layout}"))
        with database.writing() as db:
            layout = layout_of(db, federation=federation)  # somebody may have been quicker
            run_steps(db, layout, NEWEST)
            if layout == 0:
                insert = sa.text("INSERT INTO about (name, value) VALUES (:name, :value)")
                db.execute(insert, [{"name": "federation", "value": federation}])
                db.execute(insert, [{"name": "layout", "value": str(NEWEST)}])
            else:
                db.execute(sa.text("UPDATE about SET value = :new WHERE name = 'layout'"), {"new": str(NEWEST)})
    return (layout, NEWEST) if 0 < layout < NEWEST else None


def run_steps(db: sa.Connection, after: int, last: int) -> None:
    """The steps after layout ``after`` up to layout ``last``, in the transaction that is open."""
    for number in range(after + 1, last + 1):
        STEPS[number - 1][0](db)


def copy_sqlite(source: Path, target: Path) -> None:
    """A consistent copy of an SQLite file, also one in use; whole or not at all, its owner's alone."""
    with storage_errors(target):
        handle, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)  # 0600
        os.close(handle)
        try:
            with closing(sqlite3.connect(source)) as old, closing(sqlite3.connect(name)) as new:
                old.backup(new)
            with Path(name).open("rb") as file:
                os.fsync(file.fileno())
            Path(name).replace(target)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
        sync_folder(target.parent)


def _lacking(layout: int) -> range:
    return range(layout + 1, NEWEST + 1)


def _be_alone(alone: ExitStack, database: Database, folder: Path, owner: str, layout: int) -> None:
    """Nobody else may have the journal open for writing: earlier versions lock their folder alone."""
    told = f"this journal has layout {layout}, this version needs {NEWEST}, and a coordinator runs on it"
    if not owner:
        lock = lock_file(folder / "daemon.lock")
        if lock is None:
            raise OlderLayout(told)
        alone.callback(lock.close)
    try:
        alone.enter_context(database.held())
    except AnotherCoordinator:
        raise OlderLayout(told) from None
