"""How the journal's database is opened: SQLite or PostgreSQL by URL, durable, private."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import ArgumentError

from commonroot.common.errors import ConfigError
from commonroot.files import private_file, sqlite_synchronous


def engine_of(url: str) -> tuple[sa.Engine, Path | None]:
    """An engine for an SQLAlchemy URL, and SQLite's file.

    Raises ConfigError: a URL that is none, a place where no file can be, no driver
    """
    try:
        parsed = sa.make_url(url)
        backend = parsed.get_backend_name()
        if backend == "sqlite":
            return _sqlite(parsed)
        if backend != "postgresql":
            raise ConfigError(f"the journal cannot be opened: {backend} is neither SQLite nor PostgreSQL")
        ours: dict[str, str | int] = {
            "connect_timeout": 10,
            "application_name": "commonroot coordinator",
            "keepalives_idle": 10,
            "keepalives_interval": 5,
            "keepalives_count": 3,
            "tcp_user_timeout": 20_000,
            # What the server notices by itself: whose host died lets go of its locks within half a minute.
            "options": "-c synchronous_commit=on -c lock_timeout=30s -c idle_in_transaction_session_timeout=60s "
            "-c tcp_keepalives_idle=15 -c tcp_keepalives_interval=5 -c tcp_keepalives_count=3",
        }
        theirs = parsed.query.get("options", ())
        ours["options"] = " ".join((str(ours["options"]), *([theirs] if isinstance(theirs, str) else theirs)))
        return sa.create_engine(
            parsed.set(drivername="postgresql+psycopg"),
            hide_parameters=True,
            isolation_level="READ COMMITTED",  # under the lock for writers, see ``journal_database``
            connect_args={key: value for key, value in ours.items() if key == "options" or key not in parsed.query},
        ), None
    except (ArgumentError, ValueError):
        raise ConfigError(
            "the journal cannot be opened: its URL is none",
            hint="sqlite:///FILE or postgresql://USER:PASSWORD@HOST/DATABASE",
        ) from None
    except ImportError:
        raise ConfigError(
            "the journal cannot be opened: there is no driver for PostgreSQL here",
            hint="pip install 'commonroot[postgres]'",
        ) from None


def _sqlite(parsed: sa.URL) -> tuple[sa.Engine, Path | None]:
    file = Path(parsed.database) if parsed.database and parsed.database != ":memory:" else None
    if file is not None:
        if not file.parent.is_dir() or file.is_dir():
            raise ConfigError(f"the journal cannot be opened: {file} is no place for a file")
        for each in (file, Path(f"{file}-wal"), Path(f"{file}-shm")):
            private_file(each, make=each is file)  # SQLite makes its other files with the first one's permissions
    engine = sa.create_engine(parsed, hide_parameters=True, connect_args={"isolation_level": None})
    sa.event.listen(engine, "connect", _durable)
    sa.event.listen(engine, "begin", _begin)
    return engine, file


def _durable(connection: Any, _record: Any) -> None:
    cursor = connection.cursor()
    cursor.execute("PRAGMA busy_timeout=30000")
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute(f"PRAGMA synchronous={sqlite_synchronous()}")
    cursor.execute("PRAGMA foreign_keys=ON")
    cursor.close()


def _begin(db: sa.Connection) -> None:
    """The driver would begin a transaction only at the first change, and none for a change of tables."""
    db.exec_driver_sql("BEGIN IMMEDIATE" if db.get_execution_options().get("commonroot_writing") else "BEGIN")


def sqlite_url(path: Path) -> str:
    """The SQLAlchemy URL of an SQLite file."""
    return f"sqlite:///{path}"
