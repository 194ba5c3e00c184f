"""The journal's database: one owner, connections that break, passwords that nobody reads, refusals in clear words."""

from __future__ import annotations

import os
import sqlite3
import stat
import threading
from contextlib import closing

import pytest
import sqlalchemy as sa
from federation import small
from typer.testing import CliRunner

from commonroot.common.errors import (
    AnotherCoordinator,
    CommonrootError,
    ConfigError,
    DatabaseRefused,
    DatabaseUnreachable,
    ForeignState,
    StorageFull,
)
from commonroot.server import journal_database as module
from commonroot.server.cli import app as coordinator_cli
from commonroot.server.coordinator import serve
from commonroot.server.folder import CoordinatorFolder
from commonroot.server.journal import Journal
from commonroot.server.journal_engine import sqlite_url
from commonroot.server.run import RunDriver
from commonroot.simulations.processes import free_port

SECRET = "correct-horse-battery"


@pytest.fixture(scope="module")
def charter(tmp_path_factory):
    return small.founded(tmp_path_factory.mktemp("founded")).charter


@pytest.fixture
def opened(database, tmp_path):
    def once(**options):
        return Journal(database, federation="grove", folder=tmp_path, **options)

    return once


def cut(url, where="true"):
    """End the server's side of connections, as an administrator or a broken network would."""
    import psycopg

    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'commonroot coordinator' "
            f"AND {where}"
        )


# -- one owner ---------------------------------------------------------------------------------------------------------


def test_a_second_coordinator_on_one_journal_is_refused_and_the_first_goes_on(opened, charter, monkeypatch):
    monkeypatch.setattr(module, "_TAKING_OVER", 0.2)
    with closing(opened(owner="first")) as first:
        with pytest.raises(AnotherCoordinator):
            opened(owner="second")
        assert first.queue(charter) == 1
    with closing(opened(owner="second")) as second:
        assert [run.run for run in second.runs()] == [1]


def test_commands_may_read_and_queue_beside_the_owner(opened, charter):
    with closing(opened(owner="first")) as owner, closing(opened()) as beside:
        run = beside.queue(charter)
        assert owner.next_run().run == run


def test_an_owner_that_was_superseded_writes_nothing_more(opened, charter):
    """Its lock was lost without its process ending; whoever came after left another token."""
    with closing(opened(owner="first")) as first:
        first.queue(charter)
        with first.database.engine.begin() as db:
            db.execute(sa.text("UPDATE about SET value = 'second' WHERE name = 'owner'"))
        with pytest.raises(AnotherCoordinator, match="taken over"):
            first.set_run(1, "running")
        assert first.runs()[0].state == "queued"


def test_two_who_ask_at_once_queue_one_run_of_a_charter(opened, charter):
    with closing(opened()) as one, closing(opened()) as other:
        told = []

        def ask(journal):
            try:
                told.append(journal.queue(charter))
            except ConfigError as error:
                told.append(str(error))

        threads = [threading.Thread(target=ask, args=(journal,)) for journal in (one, other)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(one.runs()) == 1
        assert sorted(map(str, told)) == ["1", "this charter is run 1 already"]


# -- connections that break --------------------------------------------------------------------------------------------


def test_a_connection_that_was_cut_is_made_again_and_the_step_done_once(schema, tmp_path, charter):
    url, said = schema(), []
    with closing(
        Journal(url, federation="grove", folder=tmp_path, owner="me", say=lambda *a: said.append(a))
    ) as journal:
        journal.queue(charter)
        cut(url)
        journal.open_round(1, 1, 0, b"opening")
        assert [round.round for round in journal.rounds()] == [1]
        assert said == [("database", {"state": "lost"}), ("database", {"state": "back"})]
        with pytest.raises(AnotherCoordinator):  # the owner's lock was taken again
            Journal(url, federation="grove", folder=tmp_path, owner="other")


@pytest.mark.parametrize("arrived", [True, False])
def test_a_connection_that_breaks_in_a_commit_neither_loses_nor_repeats_the_step(
    arrived, schema, tmp_path, charter, monkeypatch
):
    """The server is asked what became of the transaction: committed although nobody could say so, or not."""
    url = schema()
    with closing(Journal(url, federation="grove", folder=tmp_path)) as journal:
        journal.queue(charter)
        engine, struck = journal.database.engine, []
        original = engine.dialect.do_commit

        def breaking(connection):
            if struck:
                return original(connection)
            struck.append(True)
            if arrived:
                original(connection)
            connection.driver_connection.close()
            return original(connection)

        monkeypatch.setattr(engine.dialect, "do_commit", breaking)
        journal.count_received({"masked": (1, 100)})
        assert struck
        assert journal.received() == [{"kind": "masked", "parcels": 1, "bytes": 100}]


def test_a_database_that_stays_away_is_given_up_with_a_reason_and_nothing_is_lost(postgres, schema, tmp_path, charter):
    url = schema()
    with closing(Journal(url, federation="grove", folder=tmp_path, patience=0.3)) as journal:
        journal.queue(charter)
        engine = journal.database.engine

        @sa.event.listens_for(engine, "do_connect")
        def unplugged(dialect, record, args, options):
            options["host"], options["connect_timeout"] = str(tmp_path), 2

        engine.dispose()
        with pytest.raises(DatabaseUnreachable, match="waited for 0 s"):
            journal.open_round(1, 1, 0, b"opening")
        sa.event.remove(engine, "do_connect", unplugged)
        assert journal.rounds() == []
        journal.open_round(1, 1, 0, b"opening")


# -- refusals ----------------------------------------------------------------------------------------------------------


def folder_with(tmp_path, database):
    federation = small.founded(tmp_path / "founded")
    path = federation.coordinator.root / "coordinator.toml"
    path.write_text(path.read_text().replace('database = ""', f'database = "{database}"'))
    return path


def refused(url, tmp_path):
    """The error of opening a journal there, and everything that a user would see of it."""
    with pytest.raises(CommonrootError) as caught:
        Journal(url, federation="grove", folder=tmp_path, patience=0.2).close()
    shown = repr(caught.value) + str(caught.value.describe())
    assert SECRET not in shown
    assert caught.value.advice
    return caught.value


def test_a_wrong_password_is_said_without_the_password(postgres, schema, tmp_path):
    import psycopg

    url = schema()
    host = url.partition("host=")[2].partition("&")[0]
    with psycopg.connect(postgres, autocommit=True) as connection:
        connection.execute("CREATE ROLE clerk LOGIN PASSWORD 'another'")
        (rules,) = connection.execute("SHOW hba_file").fetchone()
        with open(rules) as file:  # noqa: PTH123
            before = file.read()
        with open(rules, "w") as file:  # noqa: PTH123
            file.write("local all clerk scram-sha-256\n" + before)
        connection.execute("SELECT pg_reload_conf()")
    error = refused(f"postgresql://clerk:{SECRET}@/postgres?host={host}", tmp_path)
    assert isinstance(error, DatabaseRefused)
    assert "password is wrong" in str(error)


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        (lambda url: url.replace("/postgres?", "/nowhere?"), DatabaseRefused),
        (lambda url: url.replace("owner@", f"nobody:{SECRET}@"), DatabaseRefused),
        (lambda url: f"postgresql://me:{SECRET}@127.0.0.1:1/journal", DatabaseUnreachable),
        (lambda url: f"postgresql://me:{SECRET}@no-such-host.invalid/journal", DatabaseUnreachable),
        (lambda url: f"postgresql://me:{SECRET}@[::1/journal", ConfigError),
        (lambda url: f"mysql://me:{SECRET}@localhost/journal", ConfigError),
        (lambda url: f"{SECRET}", ConfigError),
    ],
    ids=["no such database", "no such user", "nobody listens", "no such host", "no URL", "MySQL", "no URL at all"],
)
def test_a_database_that_cannot_be_had_is_one_clear_error(change, kind, postgres, tmp_path):
    assert isinstance(refused(change(postgres), tmp_path), kind)


def test_a_database_in_another_encoding_is_refused(postgres, tmp_path):
    import psycopg

    with psycopg.connect(postgres, autocommit=True) as connection:
        connection.execute("CREATE DATABASE latin ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0")
    error = refused(postgres.replace("/postgres?", "/latin?"), tmp_path)
    assert isinstance(error, DatabaseRefused)
    assert "LATIN1" in str(error)


def test_a_user_without_rights_is_told_so(postgres, schema, tmp_path):
    import psycopg

    url = schema()
    with psycopg.connect(postgres, autocommit=True) as connection:
        connection.execute("CREATE ROLE guest LOGIN")
    assert isinstance(refused(url.replace("owner@", "guest@"), tmp_path), DatabaseRefused)


@pytest.mark.parametrize(
    ("told", "kind"),
    [
        ("database or disk is full", StorageFull),
        ("disk I/O error", StorageFull),
        ("attempt to write a readonly database", ConfigError),
        ("database disk image is malformed", ForeignState),
        ("file is not a database", ForeignState),
    ],
)
def test_what_sqlite_refuses_is_said_in_words_of_ours(told, kind, tmp_path, charter, monkeypatch):
    with closing(Journal(sqlite_url(tmp_path / "journal.db"), federation="grove", folder=tmp_path)) as journal:
        journal.queue(charter)

        def broken(cursor, statement, parameters, context=None):
            raise sqlite3.OperationalError(told)

        with monkeypatch.context() as patch:
            patch.setattr(journal.database.engine.dialect, "do_execute", broken)
            with pytest.raises(kind) as caught:
                journal.open_round(1, 1, 0, b"opening")
        assert "journal.db" in str(caught.value) and caught.value.advice
        assert (len(journal.runs()), journal.rounds()) == (1, [])


@pytest.mark.parametrize(
    ("state", "text", "kind"),
    [
        ("53100", "could not extend file: No space left on device", StorageFull),
        ("25006", "cannot execute INSERT in a read-only transaction", DatabaseRefused),
        ("42501", "permission denied for table runs", DatabaseRefused),
        (None, "connection failed: FATAL: the database system is starting up", module._Lost),
        (None, "connection failed: FATAL: sorry, too many clients already", module._Lost),
        (None, "SSL SYSCALL error: EOF detected", module._Lost),
        ("57P01", "terminating connection due to administrator command", module._Lost),
        ("55P03", "canceling statement due to lock timeout", module._Lost),
        ("23505", "duplicate key value violates unique constraint", None),
    ],
)
def test_what_postgresql_refuses_is_said_tried_again_or_left_as_it_is(state, text, kind):
    class Refusal(Exception):
        sqlstate = state

    told = module._explained(sa.exc.OperationalError("INSERT", {}, Refusal(text)))
    assert told is None if kind is None else isinstance(told, kind)
    assert text not in str(told)


def test_a_journal_that_another_program_holds_is_waited_for_and_then_named(tmp_path, charter):
    path = tmp_path / "journal.db"
    with closing(Journal(sqlite_url(path), federation="grove", folder=tmp_path, patience=0.2)) as journal:
        journal.queue(charter)
        sa.event.listen(journal.database.engine, "checkout", lambda c, *_: c.execute("PRAGMA busy_timeout=100"))
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(DatabaseUnreachable, match="locked"):
                journal.open_round(1, 1, 0, b"opening")
            other.execute("ROLLBACK")
        journal.open_round(1, 1, 0, b"opening")


def test_a_file_that_is_no_database_is_refused_and_left_as_it_is(tmp_path):
    path = tmp_path / "journal.db"
    path.write_bytes(b"certainly no database" * 100)
    assert isinstance(refused(sqlite_url(path), tmp_path), ForeignState)
    assert path.read_bytes() == b"certainly no database" * 100


# -- who may read it ---------------------------------------------------------------------------------------------------


def test_the_journals_files_are_their_owners_alone_whatever_the_umask(tmp_path, charter):
    before = os.umask(0)
    try:
        path = tmp_path / "elsewhere.db"
        path.touch()
        assert stat.S_IMODE(path.stat().st_mode) == 0o666
        with closing(Journal(sqlite_url(path), federation="grove", folder=tmp_path, owner="me")) as journal:
            journal.queue(charter)
            journal.open_round(1, 1, 0, b"opening")
            journal.fix_round(1, b"masked")
            files = {file.name: stat.S_IMODE(file.stat().st_mode) for file in tmp_path.iterdir()}
    finally:
        os.umask(before)
    assert {"elsewhere.db", "elsewhere.db-wal", "elsewhere.db-shm", "elsewhere.db.owner", "round-1.masked"} == set(
        files
    )
    assert set(files.values()) == {0o600}


def test_the_url_may_stand_in_the_environment_and_its_absence_is_no_second_journal(tmp_path, monkeypatch):
    path = folder_with(tmp_path, "env:GROVE_DATABASE")
    monkeypatch.delenv("GROVE_DATABASE", raising=False)
    with pytest.raises(ConfigError, match="'GROVE_DATABASE', which is not set"):
        CoordinatorFolder(path.parent).journal()
    monkeypatch.setenv("GROVE_DATABASE", sqlite_url(tmp_path / "elsewhere.db"))
    CoordinatorFolder(path.parent).journal().close()
    assert (tmp_path / "elsewhere.db").is_file()


def test_a_password_in_a_file_that_others_can_read_is_refused(tmp_path):
    path = folder_with(tmp_path, f"postgresql://me:{SECRET}@127.0.0.1:1/journal")
    path.chmod(0o644)
    with pytest.raises(ConfigError, match="can be read by others") as caught:
        CoordinatorFolder(path.parent).journal()
    assert SECRET not in str(caught.value.describe())


@pytest.mark.parametrize("arguments", [["status"], ["status", "--json"], ["models"], ["resume", "1"]], ids=str)
def test_no_command_ever_shows_the_password(arguments, tmp_path, caplog):
    path = folder_with(tmp_path, f"postgresql://me:{SECRET}@127.0.0.1:1/journal")
    path.write_text(path.read_text() + "\n[waits]\ndatabase = 0.1\n")
    path.chmod(0o600)
    command, *rest = arguments
    shown = CliRunner().invoke(coordinator_cli, [command, str(path.parent), *rest])
    assert shown.exit_code == DatabaseUnreachable.exit_code
    assert SECRET not in shown.output + shown.stderr + caplog.text
    assert SECRET not in repr(CoordinatorFolder(path.parent).config)


def test_a_coordinator_whose_journal_went_away_ends_with_the_reason_and_its_run_goes_on_later(tmp_path, monkeypatch):
    """Nowhere to write down that it stopped: the run stands as it stood, and the folder is free for the next `up`."""
    federation = small.founded(tmp_path)
    small.move_to_port(federation, free_port())
    with small.journal_of(federation) as journal:
        journal.queue(federation.charter)
    root, drive = federation.coordinator.root, RunDriver.drive

    def away(self):
        self._journal.set_run(self.run.run, "running")
        raise DatabaseUnreachable("the journal's database does not answer; it was waited for 30 s")

    monkeypatch.setattr(RunDriver, "drive", away)
    with pytest.raises(DatabaseUnreachable, match="waited for 30 s"):
        serve(root, until_idle=True, as_json=True)
    with small.journal_of(federation) as journal:
        assert (journal.runs()[0].state, journal.runs()[0].reason) == ("running", "")
    resumed = []
    monkeypatch.setattr(
        RunDriver, "drive", lambda self: (resumed.append(self.run.run), self._journal.set_run(1, "finished"))
    )
    serve(root, until_idle=True, as_json=True)
    assert resumed == [1]
    monkeypatch.setattr(RunDriver, "drive", drive)
