"""Predictions as a table of a database: made and filled in one transaction, so whole or not at all.

An existing table is refused unless it is to be replaced, which happens in the same transaction.  The URL, which may
hold a password, and the database's own words, which may hold cells, are never repeated.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any, Final, Self

import polars as pl
import sqlalchemy as sa
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError, SQLAlchemyError

from commonroot.common.errors import ConfigError
from commonroot.files import storage_errors

#: Rows of one INSERT.
_ROWS: Final = 10_000
_EXPECTED: Final = "sqlite:///FILE or postgresql://USER@HOST/DATABASE (extra: commonroot[postgres])"


class SqlSink:
    """A new table; ``replace`` allows it to take the place of one of that name.

    In PostgreSQL, ``schema.table`` is the table of that schema, which must be there.

    Raises ConfigError for a URL that cannot be used, a table that exists, and whatever the database refuses.
    """

    def __init__(self, url: str, table: str, *, replace: bool = False) -> None:
        if not table.strip():
            raise ConfigError("--out-table: a table needs a name")
        self._replace = replace
        self._table: sa.Table | None = None
        self._made: Path | None = None
        self._engine = self._open(url)
        self._schema, self._name = _placed(table, self._engine.dialect.name)
        try:
            self._connection = self._engine.connect()
            self._transaction = self._connection.begin()
            exists = sa.inspect(self._connection).has_table(self._name, schema=self._schema)
        except (SQLAlchemyError, sqlite3.Error, OSError) as error:
            self._give_up()
            raise _refused(error) from None
        if exists and not replace:
            self.__exit__()
            raise ConfigError(
                f"the table {table!r} exists already", hint="name another with --out-table, or give --replace"
            )

    def write(self, frame: pl.DataFrame) -> None:
        try:
            table = self._table
            if table is None:
                table = self._table = self._create(frame)
            for part in frame.iter_slices(_ROWS):
                names = [column.key for column in table.columns]
                rows = [dict(zip(names, row, strict=True)) for row in part.iter_rows()]
                if rows:
                    self._connection.execute(table.insert(), rows)
        except (SQLAlchemyError, sqlite3.Error, OSError, OverflowError) as error:
            raise _refused(error) from None

    def commit(self) -> None:
        try:
            self._transaction.commit()
        except (SQLAlchemyError, sqlite3.Error, OSError) as error:
            raise _refused(error) from None
        self._made = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._transaction.is_active:
            self._transaction.rollback()
        self._connection.close()
        self._give_up()

    def _give_up(self) -> None:
        self._engine.dispose()
        if self._made is not None:
            self._made.unlink(missing_ok=True)

    def _open(self, url: str) -> sa.Engine:
        try:
            parsed = sa.make_url(url)
            dialect = parsed.get_backend_name()
            if dialect == "sqlite" and parsed.database and parsed.database != ":memory:":
                return self._sqlite(Path(parsed.database))
            if dialect == "postgresql":
                found = parsed.set(drivername="postgresql+psycopg")
                return sa.create_engine(found, connect_args={"connect_timeout": 15}, poolclass=sa.pool.NullPool)
        except (ArgumentError, NoSuchModuleError, ValueError):
            pass
        except ImportError:
            raise ConfigError("--out-url: its driver is not installed", hint=_EXPECTED) from None
        raise ConfigError("--out-url: no URL of a database that can be written to", hint=_EXPECTED)

    def _sqlite(self, file: Path) -> sa.Engine:
        if not file.parent.is_dir():
            raise ConfigError(f"--out-url: there is no folder {file.parent}", hint="make the folder first")
        if not file.exists():
            with storage_errors(file):
                file.touch(mode=0o600)  # for its owner alone, like a file of predictions
            self._made = file
        # sqlite3 would begin a transaction at the first INSERT only, after the table was made
        engine = sa.create_engine(f"sqlite:///{file}", poolclass=sa.pool.NullPool, connect_args={"timeout": 15})

        def plain(opened: Any, _: object) -> None:
            opened.isolation_level = None

        def begin(connection: sa.Connection) -> None:
            connection.exec_driver_sql("BEGIN IMMEDIATE")

        sa.event.listen(engine, "connect", plain)
        sa.event.listen(engine, "begin", begin)
        return engine

    def _create(self, frame: pl.DataFrame) -> sa.Table:
        """The columns' own names in the database, and plain ones as keys of parameters."""
        columns = [
            sa.Column(name, _type(name, dtype), key=f"c{at}") for at, (name, dtype) in enumerate(frame.schema.items())
        ]
        made = sa.Table(self._name, sa.MetaData(), *columns, schema=self._schema)
        longest = self._engine.dialect.max_identifier_length
        for name in (self._name, *frame.columns):
            if len(name.encode()) > longest:
                raise ConfigError(
                    f"the database allows names of {longest} bytes; {name[:40]!r}… is longer", hint="shorten the label"
                )
        made.drop(self._connection, checkfirst=True)
        made.create(self._connection)
        return made


def _placed(table: str, dialect: str) -> tuple[str | None, str]:
    """(schema, name): one full stop between two names parts them where the database has schemas."""
    schema, _, name = table.partition(".")
    if dialect != "postgresql" or not schema.strip() or not name.strip() or "." in name:
        return None, table
    return schema, name


def _type(name: str, dtype: pl.DataType) -> sa.types.TypeEngine[Any]:
    if dtype == pl.Boolean:
        return sa.Boolean()
    if dtype.is_integer():
        return sa.BigInteger()
    if dtype.is_float():
        return sa.Double()
    if dtype == pl.Date:
        return sa.Date()
    if isinstance(dtype, pl.Datetime):
        return sa.DateTime(timezone=dtype.time_zone is not None)
    if dtype in (pl.String, pl.Null, pl.Categorical, pl.Enum):
        return sa.Text()
    raise ConfigError(f"--keep {name}: a column of type {dtype} has no place in a database", hint="keep another column")


def _refused(error: Exception) -> ConfigError:
    """By the database's own code, without its words."""
    if isinstance(error, DBAPIError):
        state = getattr(error.orig, "sqlstate", None)
        code = f"SQLSTATE {state}" if state else type(error.orig).__name__
    else:
        code = type(error).__name__
    return ConfigError(
        f"the database refused the predictions ({code}); nothing was written", hint="check --out-url and its rights"
    )
