"""Numbered layouts of the journal: old databases are brought up to date whole or not at all, newer ones are refused."""

from __future__ import annotations

import sqlite3
import stat
from contextlib import closing
from pathlib import Path

import pytest
import sqlalchemy as sa
from typer.testing import CliRunner

from commonroot.common.errors import AnotherCoordinator, ForeignState, NewerLayout, OlderLayout, StorageFull
from commonroot.files import take_ownership
from commonroot.server import audit, journal_tables, migrations
from commonroot.server.cli import app as coordinator_cli
from commonroot.server.journal import Journal
from commonroot.server.journal_database import Database
from commonroot.server.journal_engine import sqlite_url
from commonroot.server.migrations import NEWEST, m0001, run_steps

#: The journal of a run of three rounds, as version 0.1.0 wrote it.
FIELD = Path(__file__).parent.parent / "vectors" / "layouts" / "journal-1.sql"


@pytest.fixture
def field(tmp_path):
    """A folder with a journal of layout 1."""
    path = tmp_path / "journal.db"
    with closing(sqlite3.connect(path)) as db:
        db.executescript(FIELD.read_text())
    return path


def opened(path, **options):
    return Journal(sqlite_url(path), federation="grove", folder=path.parent, **options)


def columns(engine):
    """Tables with their columns: name, kind, whether it may be empty; and what is a key or refers to one."""
    look = sa.inspect(engine)
    return {
        table: (
            sorted((c["name"], str(c["type"]), c["nullable"]) for c in look.get_columns(table)),
            sorted(look.get_pk_constraint(table)["constrained_columns"]),
            sorted(str(key["referred_table"]) for key in look.get_foreign_keys(table)),
        )
        for table in look.get_table_names()
    }


def test_the_steps_make_the_tables_that_the_journal_uses(database, request, tmp_path):
    """Whoever declares a table in ``journal_tables`` adds it to a step, or this fails."""
    stepped, at_once = Database(database), sa.create_engine("sqlite://")
    if not stepped.is_sqlite:
        at_once = Database(request.getfixturevalue("schema")()).engine
    with stepped.writing() as db:
        run_steps(db, 0, NEWEST)
    journal_tables.meta.create_all(at_once)
    assert columns(stepped.engine) == columns(at_once)
    stepped.close()
    at_once.dispose()


def test_layout_1_is_what_version_0_1_0_wrote(field, tmp_path):
    fresh = Database(sqlite_url(tmp_path / "fresh.db"))
    with fresh.writing() as db:
        m0001.up(db)
    old = sa.create_engine(sqlite_url(field))
    assert columns(fresh.engine) == columns(old)
    fresh.close()
    old.dispose()


def test_a_journal_of_the_first_layout_is_brought_up_to_date_with_all_that_it_holds(field):
    said = []
    with closing(opened(field, say=lambda kind, facts: said.append((kind, facts)))) as journal:
        assert [(r.run, r.state) for r in journal.runs()] == [(1, "finished")]
        assert [(r.round, r.state) for r in journal.rounds()] == [(1, "closed"), (2, "closed"), (3, "closed")]
        assert [v.digest.hex()[:8] for v in journal.versions(1)] == ["ecfebf4e", "9a7adf41", "52382034", "a7f337ae"]
        assert journal.closed_departments(1) == {"ash", "birch", "cedar"}
        journal.faults.note("ash", "CR21", "later")
    assert said == [("migrated", {"from": 1, "to": NEWEST})]
    copy = field.with_name("journal.db.layout-1")
    assert stat.S_IMODE(copy.stat().st_mode) == 0o600
    with closing(sqlite3.connect(copy)) as before:
        assert before.execute("SELECT value FROM about WHERE name = 'layout'").fetchone() == ("1",)
        assert before.execute("SELECT count(*) FROM rounds").fetchone() == (3,)


@pytest.mark.parametrize("failure", [KeyboardInterrupt(), StorageFull("no room")])
def test_a_migration_that_ends_in_the_middle_leaves_the_old_layout_and_begins_again(failure, field, monkeypatch):
    before = sorted(sqlite3.connect(field).iterdump())

    def half(db):
        migrations.m0002.up(db)
        raise failure

    with monkeypatch.context() as patch:
        patch.setattr(migrations, "STEPS", (migrations.STEPS[0], (half, "half")))
        with pytest.raises(type(failure)):
            opened(field)
    assert sorted(sqlite3.connect(field).iterdump()) == before
    opened(field).close()
    with closing(sqlite3.connect(field)) as after:
        assert after.execute("SELECT value FROM about WHERE name = 'layout'").fetchone() == (str(NEWEST),)


def test_in_postgresql_too_a_migration_that_ends_in_the_middle_leaves_nothing(schema, tmp_path, monkeypatch):
    url = schema()

    def half(db):
        migrations.m0002.up(db)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(migrations, "STEPS", (migrations.STEPS[0], (half, "half")))
        with pytest.raises(KeyboardInterrupt):
            Journal(url, federation="grove", folder=tmp_path)
    database = Database(url)
    assert columns(database.engine) == {}
    database.close()
    Journal(url, federation="grove", folder=tmp_path).close()


def test_in_postgresql_too_the_coordinator_that_brings_a_journal_up_to_date_then_owns_it(schema, tmp_path):
    url = schema()
    database = Database(url)
    with database.writing() as db:
        run_steps(db, 0, 1)
        for name, value in (("federation", "grove"), ("layout", "1")):
            db.execute(journal_tables.about.insert().values(name=name, value=value))
    database.close()
    said = []
    options = {"federation": "grove", "folder": tmp_path}
    with closing(Journal(url, **options, owner="me", say=lambda *told: said.append(told))) as journal:
        assert said == [("migrated", {"from": 1, "to": NEWEST})]
        journal.faults.note("ash", "CR21", "first")
        with pytest.raises(AnotherCoordinator):
            Journal(url, **options, owner="other")
    Journal(url, **options, owner="other").close()


def test_a_journal_of_a_newer_version_is_one_clear_error(database, tmp_path):
    with closing(Journal(database, federation="grove", folder=tmp_path)) as journal, journal._writing() as db:
        db.execute(sa.text(f"UPDATE about SET value = '{NEWEST + 1}' WHERE name = 'layout'"))
    with pytest.raises(NewerLayout, match=f"layout {NEWEST + 1}; this version knows layouts up to {NEWEST}") as caught:
        Journal(database, federation="grove", folder=tmp_path)
    assert "install" in caught.value.advice


def test_a_layout_that_is_no_number_is_foreign(field):
    with closing(sqlite3.connect(field)) as db, db:
        db.execute("UPDATE about SET value = 'blue' WHERE name = 'layout'")
    with pytest.raises(ForeignState, match="blue"):
        opened(field)


def test_a_command_does_not_migrate_under_a_daemon_of_the_earlier_version(field):
    with closing(take_ownership(field.parent)):
        with pytest.raises(OlderLayout, match="runs on it"):
            opened(field)
        assert not field.with_name("journal.db.layout-1").exists()
        opened(field, owner="the daemon itself").close()


def test_a_process_killed_between_tables_and_their_claim_leaves_a_journal_that_can_be_used(tmp_path):
    """Version 0.1.0 made its tables in one transaction and claimed them in another."""
    path = tmp_path / "journal.db"
    engine = sa.create_engine(sqlite_url(path))
    m0001.meta.create_all(engine)
    engine.dispose()
    with closing(opened(path)) as journal:
        assert journal.runs() == []


def test_migrate_says_what_it_would_do_and_does_it(field, monkeypatch):
    (field.parent / "coordinator.toml").write_text('federation = "grove"\n')
    run = CliRunner()
    told = run.invoke(coordinator_cli, ["migrate", str(field.parent), "--check"])
    assert told.exit_code == 0
    assert "layout 1" in told.output and "0002" in told.output
    assert not field.with_name("journal.db.layout-1").exists()
    done = run.invoke(coordinator_cli, ["migrate", str(field.parent)])
    assert f"to layout {NEWEST}" in done.output
    again = run.invoke(coordinator_cli, ["migrate", str(field.parent)])
    assert "nothing to do" in again.output
    with closing(opened(field)) as journal, journal.reading() as db:
        assert [entry.facts["command"] for entry in audit.entries(db)] == ["migrate", "migrate"]
