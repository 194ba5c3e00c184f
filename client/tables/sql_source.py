"""A database, asked one question over a connection that can only read.

sqlite:///FILE        opened with mode=ro and query_only; other files are not attached, which would make them
postgresql://…        every transaction read-only, by the server's own rule
any other dialect     refused: nobody here knows how to make it read-only

The result is fetched in batches and typed by its columns; a query whose rows come in another order each time needs an
ORDER BY to give the same split twice.
"""

from __future__ import annotations

import datetime
import decimal
import hashlib
import re
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import polars as pl
import sqlalchemy as sa
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError, SQLAlchemyError

from commonroot.client.tables.problems import Problem, Problems
from commonroot.client.tables.source import LOOK, check_header

#: Rows fetched at once.
FETCHED: Final = 50_000
_NAME: Final = "the query"
_QUOTED = re.compile(r"'(?:[^']|'')*'|\"(?:[^\"]|\"\")*\"|--[^\n]*|/\*.*?\*/|\$(\w*)\$.*?\$\1\$", re.DOTALL)
_WRITES = re.compile(
    r"\b(insert|update|delete|merge|truncate|create|alter|drop|grant|into|set|copy|call)\b", re.IGNORECASE
)
#: As SQLAlchemy finds parameters; a colon in a query is a colon.
_COLON = re.compile(r"(?<![:\w\\]):(\w+)(?!:)")


class QuerySource:
    """The rows of a query, in memory.  Rows are counted from 1."""

    first_row = 1
    name = _NAME

    def __init__(self, frame: pl.DataFrame, folder: Path) -> None:
        self._frame = frame
        self.bytes = 0  # it is in memory already
        self.folder = folder

    @property
    def schema(self) -> Mapping[str, pl.DataType]:
        return self._frame.schema

    def look(self) -> pl.DataFrame:
        return self._frame.head(LOOK)

    def read(self, columns: Mapping[str, str], *, typed: bool, size: int) -> Iterator[pl.DataFrame]:
        yield self._frame.select(list(columns))

    def fingerprint(self) -> str:
        """Of names and values in order."""
        digest = hashlib.blake2b(digest_size=32)
        for series in self._frame.iter_columns():
            digest.update(f"{series.name}\0{series.dtype}\0".encode())
            digest.update(series.is_null().to_numpy().tobytes())
            if series.dtype == pl.String:
                digest.update("\0".join(series.fill_null("").to_list()).encode())
            else:
                digest.update(series.to_physical().fill_null(0).to_numpy().tobytes())
        return digest.hexdigest()


def open_query(url: str, query: str, folder: Path, problems: Problems) -> QuerySource | None:
    """Ask and fetch; None with one precise problem added where that fails.  Nothing is written, whatever is asked.

    The URL, which may hold a password, and the database's own words, which may hold cells, are never repeated.
    """
    bare = _QUOTED.sub("", query).strip().rstrip(";").strip()
    if ";" in bare:
        _wrong(problems, "several statements", "one SELECT", "leave one")
        return None
    try:
        engine = _engine(url, folder)
    except (ArgumentError, NoSuchModuleError, ImportError, ValueError) as error:
        found = "a driver that is not installed" if isinstance(error, ImportError) else "a URL that cannot be used"
        expected = "sqlite:///FILE or postgresql://USER@HOST/DATABASE (extra: commonroot[postgres])"
        _wrong(problems, found, expected, "mend `url`")
        return None
    if engine is None:
        _wrong(problems, "another kind of database", "sqlite:/// or postgresql://", "export the table as Parquet")
        return None
    try:
        with engine.connect() as connection:
            return _fetched(connection, query, folder, problems)
    except sqlite3.Error:
        _wrong(problems, "no database that can be opened", "a database", "mend `url`")
    except DBAPIError as error:
        _explain(error, bare, problems)
    except (SQLAlchemyError, OSError, OverflowError, ValueError, pl.exceptions.PolarsError) as error:
        _wrong(problems, f"a result that cannot be read ({type(error).__name__})", "a table", "mend `query`")
    finally:
        engine.dispose()
    return None


def _engine(url: str, folder: Path) -> sa.Engine | None:
    parsed = sa.make_url(url)
    dialect = parsed.get_backend_name()
    if dialect == "sqlite":
        if not parsed.database or parsed.database == ":memory:":
            raise ValueError("a database file is needed")
        file = (folder / parsed.database).resolve()

        def connect() -> sqlite3.Connection:
            opened = sqlite3.connect(f"{file.as_uri()}?mode=ro", uri=True, check_same_thread=False)
            opened.execute("PRAGMA query_only = ON")
            opened.set_authorizer(_within_this_file)
            return opened

        return sa.create_engine("sqlite://", creator=connect, poolclass=sa.pool.NullPool)
    if dialect == "postgresql":
        reading = parsed.set(drivername="postgresql+psycopg")
        options = {"options": "-c default_transaction_read_only=on", "connect_timeout": 15}
        return sa.create_engine(reading, connect_args=options, poolclass=sa.pool.NullPool).execution_options(
            postgresql_readonly=True
        )
    return None


def _within_this_file(action: int, *_: object) -> int:
    """SQLite's authorizer: attaching a file that is not there makes it, and so does ``VACUUM INTO``."""
    return sqlite3.SQLITE_DENY if action in (sqlite3.SQLITE_ATTACH, sqlite3.SQLITE_DETACH) else sqlite3.SQLITE_OK


def _fetched(connection: sa.Connection, query: str, folder: Path, problems: Problems) -> QuerySource | None:
    plain = _COLON.sub(r"\\:\1", query.strip().rstrip(";"))
    result = connection.execution_options(stream_results=True, max_row_buffer=FETCHED).execute(sa.text(plain))
    if not result.returns_rows:
        _wrong(problems, "a statement that returns no rows", "one SELECT", "mend `query`")
        return None
    names = [str(name) for name in tuple(result.keys())]
    if not check_header(_NAME, names, problems):
        return None
    batches: list[list[pl.Series]] = []
    while rows := result.fetchmany(FETCHED):
        batches.append([_typed(name, cells) for name, cells in zip(names, zip(*rows, strict=True), strict=True)])
    connection.rollback()
    columns = [_joined(name, [batch[at] for batch in batches]) for at, name in enumerate(names)]
    return QuerySource(pl.DataFrame(columns), folder)


def _typed(name: str, cells: Sequence[Any]) -> pl.Series:
    """A batch's column in the narrowest of Boolean, Int64, Float64, Datetime, Binary, String that holds it."""
    kinds = {type(cell) for cell in cells if cell is not None}
    if not kinds:
        return pl.Series(name, cells, dtype=pl.Null)
    if kinds == {bool}:
        return pl.Series(name, cells, dtype=pl.Boolean)
    if kinds <= {int, bool}:
        return pl.Series(name, cells, dtype=pl.Int64, strict=False)
    if kinds <= {int, bool, float, decimal.Decimal}:
        return pl.Series(name, [None if cell is None else float(cell) for cell in cells], dtype=pl.Float64)
    if kinds <= {datetime.date, datetime.datetime}:
        return pl.Series(name, [_moment(cell) for cell in cells], dtype=pl.Datetime("us"))
    if all(issubclass(kind, list) for kind in kinds):
        return pl.Series(name, cells, strict=False)
    texts = [None if cell is None else "" if isinstance(cell, bytes) else str(cell) for cell in cells]
    return pl.Series(name, texts, dtype=pl.String)


def _moment(cell: datetime.date | None) -> datetime.datetime | None:
    if cell is None:
        return None
    if not isinstance(cell, datetime.datetime):
        return datetime.datetime(cell.year, cell.month, cell.day)
    return cell if cell.tzinfo is None else cell.astimezone(datetime.UTC).replace(tzinfo=None)


def _joined(name: str, parts: list[pl.Series]) -> pl.Series:
    """Batches under their common type; text where they have none."""
    if not parts:
        return pl.Series(name, [], dtype=pl.String)
    types = {part.dtype for part in parts} - {pl.Null()}
    if not types:
        return pl.concat(parts).cast(pl.String)
    if len(types) == 1:
        (only,) = types
    elif all(one.is_numeric() or one == pl.Boolean for one in types):
        only = pl.Float64() if pl.Float64() in types else pl.Int64()
    else:
        only = pl.String()
    return pl.concat([part.cast(only) for part in parts])


def _explain(error: DBAPIError, query: str, problems: Problems) -> None:
    """What went wrong by the database's own code, without the words that may hold cells."""
    original = error.orig
    state = str(getattr(original, "sqlstate", None) or "")
    text = str(original) if isinstance(original, sqlite3.Error) else ""
    # a cursor over anything but a SELECT is a syntax error, or a feature that does not exist
    kept_out = state in ("42601", "0A000") and _WRITES.search(query) is not None
    denied = getattr(original, "sqlite_errorcode", None) == sqlite3.SQLITE_AUTH
    if state == "25006" or "readonly database" in text or denied or kept_out:
        _wrong(problems, "a statement that writes", "one SELECT", "this connection can only read")
    elif "unable to open" in text or "not a database" in text:
        _wrong(problems, "no database that can be opened", "a database", "mend `url`")
    elif state.startswith(("28", "3D")):
        _wrong(problems, f"a refusal to log in (SQLSTATE {state})", "access", "mend `url` or ask the administrator")
    elif state == "42P01" or "no such table" in text:
        _wrong(problems, "a table that does not exist", "one that does", "mend `query`")
    elif state == "42703" or "no such column" in text:
        _wrong(problems, "a column that does not exist", "one that does", "mend `query`")
    elif state == "42601" or "syntax error" in text or "incomplete input" in text:
        _wrong(problems, "no valid SQL", "one SELECT", "mend `query`")
    elif not state and not text:
        _wrong(problems, "no connection", "a database that answers", "mend `url` or start the database")
    else:
        code = f"SQLSTATE {state}" if state else type(original).__name__
        _wrong(problems, f"a query that failed ({code})", "a result", "try it in the database's own client")


def _wrong(problems: Problems, found: str, expected: str, fix: str) -> None:
    problems.add(Problem(file=_NAME, found=found, expected=expected, fix=fix))
