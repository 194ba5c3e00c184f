"""The journal's database, SQLite or PostgreSQL: one writer at a time, one owner, and errors in words of ours.

Writing.  Every transaction that writes begins by taking the one lock for writers, ``BEGIN IMMEDIATE`` or an advisory
lock that ends with the transaction.  So what it reads is what stands when it commits, on both databases alike, and
there is nothing that could fail to serialise.

Owning.  ``coordinator up`` owns its journal.  On PostgreSQL it holds an advisory lock for as long as it is connected,
on SQLite a lock on a file; either falls when its process ends.  A connection can break without its process ending, so
the owner also leaves a token in the database, and each of its transactions looks for it: one whose place was taken
writes nothing more, whatever it believes.

Losing the connection.  Nothing that was not committed has happened, so the method is called again, for ``patience``
seconds.  When the connection breaks while it commits, PostgreSQL is asked what became of that very transaction.
"""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, Final, TypeVar

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from commonroot.common.errors import (
    AnotherCoordinator,
    CommonrootError,
    ConfigError,
    DatabaseRefused,
    DatabaseUnreachable,
    ForeignState,
    StorageFull,
)
from commonroot.files import lock_file
from commonroot.server.journal_engine import engine_of

#: Seconds for which a lost connection is tried again, unless somebody says otherwise.
PATIENCE: Final = 30.0
#: Seconds for which the lock of an owner that may just have been killed is waited for.
_TAKING_OVER: Final = 2.0

#: Of advisory locks, with the hash of the schema: whoever writes now, and whoever owns the journal.
_WRITER: Final = 0x434F4D01
_OWNER: Final = 0x434F4D02

#: SQLSTATEs after which the same thing may succeed: lost connections, a server that is shut down, deadlocks, locks.
_PASSING: Final = ("08", "53300", "57P", "40001", "40P01", "55P03", "25P03")
_NO_ROOM: Final = ("53100", "58030", "54000")
_REFUSED: Final = {
    "25006": "it can only be read",
    "28000": "it lets nobody in under that name",
    "28P01": "the password is wrong or missing",
    "3D000": "there is no such database",
    "3F000": "there is no schema that this user may use",
    "42501": "this user may not do that",
}
#: What libpq says when nobody is there, or not yet; it has no codes for it, and the rest of its words hold names.
_REFUSING: Final = {
    "password": "the password is wrong or missing",
    "does not exist": "there is no such user or database",
    "pg_hba.conf": "its rules let nobody in from here under that name",
    "permission denied": "this user may not do that",
    "does not support ssl": "it has no encrypted connections (sslmode)",
}
_NOT_YET: Final = ("starting up", "shutting down", "too many", "in recovery", "not accepting")


class _Lost(Exception):
    """The connection broke, and nothing was written.  Never leaves this file: see ``outlast``."""


class Database:
    """One database, opened by URL.  No error of it ever holds a password.

    Raises  ConfigError: a URL that is none, a file that cannot be opened; DatabaseUnreachable; DatabaseRefused;
            ForeignState: a file that is no database
    """

    def __init__(self, url: str, *, patience: float = PATIENCE) -> None:
        self.patience = patience
        self._token = ""
        self._holder: sa.Connection | IO[bytes] | None = None
        self._nested = threading.local()
        self._owning = threading.Lock()
        #: Called with a word when a connection was lost and again when it is back.
        self.on_link: Callable[[str], None] = lambda state: None
        self._engine, self.file = engine_of(url)
        if not self.is_sqlite:
            try:
                self.outlast(self._require_encoding)
            except BaseException:
                self.close()
                raise

    @property
    def is_sqlite(self) -> bool:
        """SQLite or PostgreSQL?"""
        return self._engine.dialect.name == "sqlite"

    @property
    def engine(self) -> sa.Engine:
        """For what needs SQLAlchemy itself."""
        return self._engine

    def close(self) -> None:
        """Let go of everything; the owner too."""
        self._release()
        self._engine.dispose()

    def _release(self) -> None:
        """Let go of the owner's lock, with the connection that has it: in the pool it would have it still."""
        with suppress(SQLAlchemyError, OSError):
            if isinstance(self._holder, sa.Connection):
                self._holder.invalidate()
            if self._holder is not None:
                self._holder.close()
        self._holder = None

    # -- transactions ----------------------------------------------------------------------------------------------

    @contextmanager
    def reading(self, *, snapshot: bool = False) -> Iterator[sa.Connection]:
        """A connection to read with.  ``snapshot``: everything read is as it stood at one moment."""
        with self._in_our_words(), self._engine.connect() as db:
            if snapshot and not self.is_sqlite:  # in SQLite every transaction reads one state
                db.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
            yield db
            db.rollback()

    @contextmanager
    def writing(self) -> Iterator[sa.Connection]:
        """One transaction, alone in writing, durable when the block is over.

        Raises  StorageFull: no room, nothing was written; AnotherCoordinator: this owner was superseded; _Lost
        """
        number: int | None = None
        committing = False
        try:
            with self._in_our_words(), self._engine.connect() as db:
                db.execution_options(commonroot_writing=True)
                if not self.is_sqlite:
                    db.execute(
                        sa.text("SELECT pg_advisory_xact_lock(:key, hashtext(current_schema()))"), {"key": _WRITER}
                    )
                    number = int(db.execute(sa.text("SELECT txid_current()")).scalar_one())
                if self._token:
                    self._require_token(db)
                yield db
                committing = True
                db.commit()
        except _Lost:
            if number is None or not committing or not self._committed(number):
                raise

    def _require_token(self, db: sa.Connection) -> None:
        found = db.execute(sa.text("SELECT value FROM about WHERE name = 'owner'")).scalar()
        if found != self._token:
            raise AnotherCoordinator("another coordinator has taken over this journal; this one writes nothing more")

    def _committed(self, number: int) -> bool:
        """Was that transaction committed, although nobody could say so?  Asked until the server knows."""
        deadline = time.monotonic() + self.patience
        while True:
            try:
                with self.reading() as db:
                    status = db.execute(sa.text("SELECT txid_status(:number)"), {"number": number}).scalar()
            except _Lost:
                status = "in progress"
            if status in ("committed", "aborted"):
                return bool(status == "committed")
            if status is None or time.monotonic() > deadline:
                raise DatabaseUnreachable("the connection broke in a commit, and whether it was made cannot be told")
            time.sleep(0.1)

    # -- owning ----------------------------------------------------------------------------------------------------

    def own(self, token: str) -> None:
        """Become the one owner; AnotherCoordinator where there is one.  ``token``: of this process alone."""
        deadline = time.monotonic() + _TAKING_OVER
        while not self._hold():
            if time.monotonic() > deadline:
                raise AnotherCoordinator("another coordinator runs on this journal")
            time.sleep(0.1)
        with self.writing() as db:
            changed = db.execute(sa.text("UPDATE about SET value = :token WHERE name = 'owner'"), {"token": token})
            if changed.rowcount == 0:
                db.execute(sa.text("INSERT INTO about (name, value) VALUES ('owner', :token)"), {"token": token})
        self._token = token

    @contextmanager
    def held(self) -> Iterator[None]:
        """Nobody else owns the journal while the block runs; AnotherCoordinator where somebody does."""
        before = self._holder
        if before is None and not self._hold():
            raise AnotherCoordinator("a coordinator runs on this journal")
        try:
            yield
        finally:
            if before is None:
                self._release()

    def _hold(self) -> bool:
        """Take the owner's lock if it is free."""
        if self.is_sqlite:
            self._holder = lock_file(Path(f"{self.file}.owner")) if self.file else None
            return self._holder is not None or self.file is None
        with self._in_our_words():
            connection = self._engine.connect().execution_options(isolation_level="AUTOCOMMIT")
            query = sa.text("SELECT pg_try_advisory_lock(:key, hashtext(current_schema()))")
            if not connection.execute(query, {"key": _OWNER}).scalar():
                connection.invalidate()  # so that no lock can ever wander into the pool
                connection.close()
                return False
        self._holder = connection
        return True

    def _own_again(self) -> None:
        """After a lost connection: the lock again, or what is wrong with that."""
        if not self._token or self.is_sqlite:
            return
        if isinstance(self._holder, sa.Connection):
            with suppress(SQLAlchemyError):
                self._holder.execute(sa.text("SELECT 1"))
                self._holder.rollback()
                return
            self._release()
        if not self._hold():
            with self.reading() as db:
                self._require_token(db)
            raise _Lost("the database has not let go of the connection that was lost")

    # -- outlasting ------------------------------------------------------------------------------------------------

    def outlast(self, step: Callable[[], Any]) -> Any:
        """Do something that has not happened where it raises ``_Lost``; again and again while patience lasts."""
        if getattr(self._nested, "at_work", False):
            return step()
        self._nested.at_work = True
        began, pause, away = time.monotonic(), 0.05, False
        try:
            while True:
                try:
                    if away:
                        with self._owning:
                            self._own_again()
                    result = step()
                    if away:
                        self.on_link("back")
                    return result
                except _Lost as error:
                    if time.monotonic() - began + pause > self.patience:
                        raise DatabaseUnreachable(f"{error}; it was waited for {self.patience:.0f} s") from None
                    if not away:
                        self.on_link("lost")
                    away = True
                time.sleep(pause)
                pause = min(2 * pause, 2.0)
        finally:
            self._nested.at_work = False

    def _require_encoding(self) -> None:
        with self.reading() as db:
            found = db.execute(sa.text("SHOW server_encoding")).scalar_one()
        if found != "UTF8":
            raise DatabaseRefused(
                f"the database is encoded in {found}, and names need UTF8",
                hint="make another one: CREATE DATABASE … ENCODING 'UTF8' TEMPLATE template0",
            )

    # -- errors ----------------------------------------------------------------------------------------------------

    @contextmanager
    def _in_our_words(self) -> Iterator[None]:
        told: CommonrootError | _Lost | None
        try:
            yield
        except DBAPIError as error:
            told = self._sqlite_error(error) if self.is_sqlite else _explained(error)
            if told is None:
                raise
            if isinstance(told, _Lost):
                self._engine.dispose()  # the pool's other connections are no better
                if not getattr(self._nested, "at_work", False):
                    raise DatabaseUnreachable(str(told)) from None
            raise told from None
        except PoolTimeout:
            raise DatabaseUnreachable("every connection to the database is in use") from None

    def _sqlite_error(self, error: DBAPIError) -> CommonrootError | None:
        if isinstance(error, sa.exc.IntegrityError | sa.exc.ProgrammingError):
            return None
        text, file = str(error.orig), self.file or "the journal"
        if "full" in text or "disk I/O" in text:
            return StorageFull(f"no room to write {file}")
        if "locked" in text or "busy" in text:
            return DatabaseUnreachable(f"{file} is locked", hint="another program holds it open: close it")
        if "readonly" in text or "read-only" in text:
            return ConfigError(f"{file} cannot be written", hint="check who owns the folder, and how it is mounted")
        if "malformed" in text or "not a database" in text or "corrupt" in text:
            return ForeignState(f"{file} is damaged or no database", hint="restore the newest backup")
        if "unable to open" in text:
            return ConfigError(f"the journal cannot be opened: {file}", hint="does the folder exist, and whose is it?")
        return None


_C = TypeVar("_C", bound=type)


def outlasting(cls: _C) -> _C:
    """Class decorator: every public method is called again while the connection of ``self.database`` is lost.

    So each must be all done or not at all: one transaction, and before it only what may be done twice.
    """
    for name, method in list(vars(cls).items()):
        if name.startswith("_") or name == "close" or not callable(method) or isinstance(method, type):
            continue

        @functools.wraps(method)
        def again(self: Any, *args: Any, _method: Callable[..., Any] = method, **options: Any) -> Any:
            return self.database.outlast(lambda: _method(self, *args, **options))

        setattr(cls, name, again)
    return cls


def storable(text: str) -> str:
    """Text as both databases take it: PostgreSQL has no NUL in text, and neither takes half a character."""
    return text.encode("utf-8", "backslashreplace").decode().replace("\0", "\\0")


def _explained(error: DBAPIError) -> CommonrootError | _Lost | None:
    """PostgreSQL's refusals by its codes, or by libpq's words where nobody is connected; none of them is repeated."""
    state, text = str(getattr(error.orig, "sqlstate", None) or ""), str(error.orig).lower()
    if state.startswith(_NO_ROOM):
        return StorageFull("the database has no room to write the coordinator's journal")
    if state.startswith(_PASSING):
        return _Lost("the database's connection was lost")
    if state in _REFUSED:
        return DatabaseRefused(f"the journal's database refuses: {_REFUSED[state]}")
    if state:
        return None
    for words, why in () if any(word in text for word in _NOT_YET) else _REFUSING.items():
        if words in text:
            return DatabaseRefused(f"the journal's database refuses: {why}")
    if isinstance(error, sa.exc.OperationalError | sa.exc.InterfaceError) or error.connection_invalidated:
        return _Lost("the journal's database does not answer")
    return None
