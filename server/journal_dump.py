"""The journal as lines of JSON, from either database into either: what a backup holds of it.

One read transaction sees one moment (SQLite's snapshot, PostgreSQL's repeatable read), also while rounds go on.  A
dump says its layout; it is loaded into tables of that layout, which are then brought up to date like any others.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final

import sqlalchemy as sa

from commonroot.common.errors import BackupDamaged, ConfigError
from commonroot.server import journal_tables as tables
from commonroot.server.journal_database import Database
from commonroot.server.migrations import NEWEST, run_steps

#: Rows of ``about`` that belong to one process or one database.
_OF_THE_PLACE: Final = ("owner", "layout")
_BATCH: Final = 200


@dataclass(frozen=True, slots=True)
class Dumped:
    """What a dump holds, and which files belong to it.

    layout      of the tables
    last_round  the highest round number that may have been used
    backbones   file name → SHA-256 of every version that was kept
    masked      number → SHA-256 of the masked sum of a round whose survivor set is fixed
    rows        table → how many
    """

    layout: int
    last_round: int
    backbones: dict[str, str]
    masked: dict[int, str]
    rows: dict[str, int]


def dump(database: Database, out: IO[bytes]) -> Dumped:
    """Write every row."""
    rows: dict[str, int] = {}
    with database.reading(snapshot=True) as db:
        for table in tables.meta.sorted_tables:
            rows[table.name] = 0
            order = [*table.primary_key.columns]
            query = sa.select(table).order_by(*order).execution_options(yield_per=_BATCH)
            for row in db.execute(query).mappings():
                if table.name == "about" and row["name"] in _OF_THE_PLACE:
                    continue
                out.write(
                    json.dumps({"table": table.name, "row": {k: _put(v) for k, v in row.items()}}).encode() + b"\n"
                )
                rows[table.name] += 1
        versions = db.execute(sa.select(tables.versions.c.file, tables.versions.c.digest)).all()
        fixed = sa.select(tables.rounds.c.round, tables.rounds.c.snapshot).where(tables.rounds.c.snapshot.is_not(None))
        masked = {int(r.round): bytes(r.snapshot).hex() for r in db.execute(fixed)}
        last = max(highest(db, tables.rounds.c.round), mark(db, "rounds_from"))
    return Dumped(NEWEST, last, {v.file: bytes(v.digest).hex() for v in versions if v.file}, masked, rows)


def highest(db: sa.Connection, column: sa.Column[int]) -> int:
    """The highest number in a column; 0 where there is none."""
    return int(db.execute(sa.select(sa.func.max(column))).scalar() or 0)


def mark(db: sa.Connection, name: str) -> int:
    """A number in ``about``, such as where an earlier restore had numbers go on; 0 where there is none."""
    return int(db.execute(sa.select(tables.about.c.value).where(tables.about.c.name == name)).scalar() or 0)


def load(
    database: Database, source: Path, *, layout: int, about: dict[str, str], then: Callable[[sa.Connection], None]
) -> dict[str, int]:
    """Fill an empty database, in one transaction.

    Parameters  layout: of the dump; about: rows of that table that are set or replaced; then: what else is done in it
    Returns     table → rows
    Raises      ConfigError: it holds a journal already; BackupDamaged
    """
    rows: dict[str, int] = {}
    with database.writing() as db:
        if sa.inspect(db).has_table("about"):
            raise ConfigError("this database holds a journal already", hint="give one that is empty")
        run_steps(db, 0, layout)
        meta = sa.MetaData()
        meta.reflect(
            db, only=[table.name for table in tables.meta.sorted_tables if sa.inspect(db).has_table(table.name)]
        )
        for name, batch in _batches(source):
            table = meta.tables.get(name)
            if table is None or any(set(row) - set(table.columns.keys()) for row in batch):
                raise BackupDamaged(f"the backup's journal has rows for {name!r} that layout {layout} has not")
            db.execute(table.insert(), batch)
            rows[name] = rows.get(name, 0) + len(batch)
        run_steps(db, layout, NEWEST)
        for name, value in (about | {"layout": str(NEWEST)}).items():
            db.execute(tables.about.delete().where(tables.about.c.name == name))
            db.execute(tables.about.insert().values(name=name, value=value))
        if not database.is_sqlite:
            _set_sequences(db)
        then(db)
    return rows


def _set_sequences(db: sa.Connection) -> None:
    """PostgreSQL counts numbers of its own, and rows that bring theirs do not move it on."""
    for table in tables.meta.sorted_tables:
        column = table.autoincrement_column
        if column is None:
            continue
        name = {"table": table.name, "column": column.name}
        if db.execute(sa.text("SELECT pg_get_serial_sequence(:table, :column)"), name).scalar() is None:
            continue
        highest = db.execute(sa.select(sa.func.max(column))).scalar()
        if highest is not None:
            db.execute(
                sa.text("SELECT setval(pg_get_serial_sequence(:table, :column), :highest)"), name | {"highest": highest}
            )


def _batches(source: Path) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Rows of one table at a time, in the order of the dump."""
    name, batch = "", list[dict[str, Any]]()
    try:
        with source.open("rb") as file:
            for line in file:
                one = json.loads(line)
                if batch and (one["table"] != name or len(batch) == _BATCH):
                    yield name, batch
                    batch = []
                name = one["table"]
                batch.append({key: _take(value) for key, value in one["row"].items()})
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BackupDamaged("the backup's journal cannot be read") from error
    if batch:
        yield name, batch


def _put(value: Any) -> Any:
    return {"bytes": base64.b64encode(value).decode()} if isinstance(value, bytes | memoryview) else value


def _take(value: Any) -> Any:
    return base64.b64decode(value["bytes"], validate=True) if isinstance(value, dict) else value
