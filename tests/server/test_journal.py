"""The coordinator's journal: one transaction a step, what was written is there again, and nobody else's."""

from __future__ import annotations

from contextlib import closing

import pytest
import sqlalchemy as sa
from federation import small

from commonroot.common.charter import Charter, SignedCharter
from commonroot.common.errors import ConfigError, ForeignState, StorageFull, UsageError
from commonroot.common.secure_sum.primitives import Identity
from commonroot.server.journal import Journal
from commonroot.server.journal_engine import sqlite_url
from commonroot.server.journal_rows import Version


@pytest.fixture(scope="module")
def charter(tmp_path_factory):
    return small.founded(tmp_path_factory.mktemp("founded")).charter


@pytest.fixture(scope="module")
def charters(charter):
    """Three charters that differ in their number of rounds, under somebody's signature."""
    each = [charter.charter.model_copy(update={"rounds": rounds}) for rounds in (1, 2, 3)]
    return [SignedCharter.sign(Charter.model_validate(one.model_dump()), Identity(bytes(32))) for one in each]


@pytest.fixture
def opened(database, tmp_path):
    """Opens the journal of this test: in SQLite, and again in PostgreSQL."""

    def once(federation="grove", **options):
        return Journal(database, federation=federation, folder=tmp_path, **options)

    return once


@pytest.fixture
def journal(opened):
    with closing(opened()) as made:
        yield made


def version(number, run=1):
    return Version(run, number, f"v{number}", bytes([number]) * 32, b"\0\0\x80?", 1.5)


def closed(journal, number, made):
    journal.close_round(number, opened=b"o" * 32, aggregate=b"a" * 32, report={"loss": 0.5}, version=made)


def ended(journal, run):
    journal.set_run(run, "running")
    journal.set_run(run, "finished")


def test_a_rounds_whole_life_is_there_after_a_restart(opened, tmp_path, charter):
    with closing(opened()) as journal:
        run = journal.queue(charter)
        journal.add_version(version(0))
        journal.open_round(1, run, 0, b"opening")
        journal.fix_round(1, b"snapshot")
    with closing(opened()) as again:
        (one,) = again.rounds(run)
        assert (one.round, one.version, one.state, one.opening) == (1, 0, "fixed", b"opening")
        assert again.snapshot(1) == b"snapshot"
        closed(again, 1, version(1))
    with closing(opened()) as again:
        (one,) = again.rounds()
        assert (one.state, one.opened, one.aggregate) == ("closed", b"o" * 32, b"a" * 32)
        assert again.snapshot(1) is None
        assert not list(tmp_path.glob("round-*"))
        assert one.report == {"loss": 0.5}
        assert [v.version for v in again.versions(run)] == [0, 1]
        assert again.versions(run)[1] == version(1)


def test_a_round_is_closed_together_with_its_version_or_not_at_all(journal, charter):
    journal.queue(charter)
    journal.add_version(version(0))
    journal.open_round(1, 1, 0, b"opening")
    journal.fix_round(1, b"snapshot")
    with pytest.raises(sa.exc.IntegrityError):
        closed(journal, 1, version(0))  # a version that exists
    assert journal.rounds()[0].state == "fixed"
    assert len(journal.versions(1)) == 1


def test_a_round_number_is_used_once(journal, charter):
    journal.queue(charter)
    assert journal.last_round() == 0
    journal.open_round(7, 1, 0, b"opening")
    with pytest.raises(sa.exc.IntegrityError):
        journal.open_round(7, 1, 0, b"another")
    assert journal.last_round() == 7
    assert journal.rounds()[0].opening == b"opening"


def test_a_lost_round_keeps_its_reason_and_no_masked_sum(journal, charter, tmp_path):
    journal.queue(charter)
    journal.open_round(1, 1, 0, b"opening")
    journal.fix_round(1, b"snapshot")
    journal.lose_round(1, "nobody answered")
    (one,) = journal.rounds()
    assert (one.state, one.reason, journal.snapshot(1)) == ("lost", "nobody answered", None)
    assert not list(tmp_path.glob("round-*"))


def test_a_masked_sum_that_is_gone_or_another_is_not_gone_on_from(journal, charter, tmp_path):
    journal.queue(charter)
    journal.open_round(1, 1, 0, b"opening")
    assert journal.snapshot(1) is None
    journal.fix_round(1, b"snapshot")
    (kept,) = tmp_path.glob("round-*")
    kept.write_bytes(b"another!")
    with pytest.raises(ForeignState, match="hash differs"):
        journal.snapshot(1)
    kept.unlink()
    with pytest.raises(ConfigError, match="does not exist"):
        journal.snapshot(1)


def test_a_survivor_set_that_was_not_recorded_leaves_a_file_that_the_next_one_replaces(journal, charter, tmp_path):
    """Killed between the file and the transaction: the round is open, and is fixed again, or another one is."""
    journal.queue(charter)
    journal.open_round(1, 1, 0, b"opening")
    (tmp_path / "round-1.masked").write_bytes(b"never recorded")
    assert journal.snapshot(1) is None
    journal.lose_round(1, "nobody answered")
    (tmp_path / "round-1.masked").write_bytes(b"left by a process that was killed")
    journal.open_round(2, 1, 0, b"another")
    journal.fix_round(2, b"snapshot")
    assert [path.name for path in tmp_path.glob("round-*")] == ["round-2.masked"]
    assert journal.snapshot(2) == b"snapshot"


def test_a_charter_is_run_once(journal, charters):
    run = journal.queue(charters[0])
    with pytest.raises(ConfigError, match=f"run {run} already"):
        journal.queue(charters[0])
    assert [one.run for one in journal.runs()] == [run]


def test_an_interrupted_run_goes_before_queued_ones_and_those_in_order(journal, charters):
    first, second, third = (journal.queue(charter) for charter in charters)
    assert journal.next_run().run == first
    ended(journal, first)
    journal.set_run(third, "running")
    assert journal.next_run().run == third
    journal.set_run(third, "stopped", "a reason")
    assert journal.next_run().run == second
    ended(journal, second)
    assert journal.next_run() is None
    assert {run.run: run.reason for run in journal.runs()} == {first: "", second: "", third: "a reason"}


def test_only_a_stopped_run_can_be_resumed(journal, charter):
    run = journal.queue(charter)
    with pytest.raises(ConfigError, match="unknown"):
        journal.resume(99)
    with pytest.raises(ConfigError, match="queued"):
        journal.resume(run)
    journal.set_run(run, "stopped", "why")
    journal.resume(run)
    assert (journal.next_run().run, journal.next_run().reason) == (run, "")
    for state in ("running", "finished"):
        journal.set_run(run, state)
        with pytest.raises(ConfigError, match=state):
            journal.resume(run)


def test_what_fails_after_a_run_was_finished_does_not_stop_it(journal, charter):
    run = journal.queue(charter)
    ended(journal, run)
    journal.set_run(run, "stopped", "a listener fell over")
    assert (journal.runs()[0].state, journal.runs()[0].reason) == ("finished", "")


def test_a_round_is_closed_only_once_its_survivor_set_was_fixed(journal, charter):
    journal.queue(charter)
    journal.add_version(version(0))
    journal.open_round(1, 1, 0, b"opening")
    with pytest.raises(UsageError, match="'open' cannot store"):
        closed(journal, 1, version(1))
    journal.fix_round(1, b"snapshot")
    with pytest.raises(UsageError, match="'fixed' cannot fix"):
        journal.fix_round(1, b"another set")
    closed(journal, 1, version(1))
    with pytest.raises(UsageError, match="'closed' cannot give up"):
        journal.lose_round(1, "too late")
    assert (journal.rounds()[0].state, len(journal.versions(1))) == ("closed", 2)


def test_a_runs_charter_comes_back_signed_as_it_was(journal, charter):
    journal.queue(charter)
    (run,) = journal.runs()
    assert run.charter == charter
    assert run.digest == charter.charter.digest.hex()


def test_what_was_received_adds_up(journal):
    journal.count_received({"masked": (2, 100), "ready": (1, 0)})
    journal.count_received({"masked": (1, 50)})
    journal.count_received({})
    assert journal.received() == [
        {"kind": "masked", "parcels": 3, "bytes": 150},
        {"kind": "ready", "parcels": 1, "bytes": 0},
    ]


def test_a_department_closes_a_run_once_however_often_it_says_so(journal, charter):
    run = journal.queue(charter)
    journal.department_closed(run, "ash")
    journal.department_closed(run, "ash")
    assert journal.closed_departments(run) == {"ash"}
    assert journal.closed_departments(run + 1) == set()


def test_faults_keep_their_order_and_where_they_belong(journal):
    journal.faults.note("ash", "CR21", "first", run=1, round=2)
    journal.faults.note("", "CR30", "second")
    told = [(f["department"], f["code"], f["what"], f["run"], f["round"]) for f in journal.faults.all()]
    assert told == [("ash", "CR21", "first", 1, 2), ("", "CR30", "second", None, None)]


def test_whatever_a_text_holds_is_kept_in_a_form_that_both_databases_take(journal):
    journal.faults.note("ash", "CR21", "nul \0, half a character \udc80, snow ☃")
    assert journal.faults.all()[0]["what"] == "nul \\0, half a character \\udc80, snow ☃"


def test_another_federations_journal_is_refused_and_stays_usable(opened):
    opened().close()
    with pytest.raises(ForeignState, match="grove"):
        opened("desert")
    opened().close()


def test_another_layout_is_refused(opened):
    with closing(opened()) as journal, journal._writing() as db:
        db.execute(sa.text("UPDATE about SET value = '99' WHERE name = 'layout'"))
    with pytest.raises(ForeignState, match="layout 99"):
        opened()


@pytest.mark.parametrize("url", ["nonsense", "sqlite:////no/such/folder/journal.db", "mysql://me:pw@db/x"])
def test_a_database_that_cannot_be_opened_is_a_configuration_error(url, tmp_path):
    with pytest.raises(ConfigError, match="cannot be opened"):
        Journal(url, federation="grove", folder=tmp_path)


def test_a_full_disk_is_named_and_keeps_what_was_there(tmp_path, charter):
    journal = Journal(sqlite_url(tmp_path / "journal.db"), federation="grove", folder=tmp_path)
    run = journal.queue(charter)
    journal.open_round(1, run, 0, b"opening")
    with journal.database.engine.connect() as db:
        pages = db.execute(sa.text("PRAGMA page_count")).scalar()
    sa.event.listen(
        journal.database.engine, "checkout", lambda c, *_: c.execute(f"PRAGMA max_page_count = {pages}").close()
    )
    with pytest.raises(StorageFull):
        journal.open_round(2, run, 0, bytes(1_000_000))
    assert [round.round for round in journal.rounds()] == [1]
    journal.close()


def test_a_full_disk_leaves_the_survivor_set_open(journal, charter, monkeypatch):
    journal.open_round(1, journal.queue(charter), 0, b"opening")

    def full(*_: object, **__: object) -> None:
        raise StorageFull("no room")

    monkeypatch.setattr("commonroot.server.journal.atomic_write", full)
    with pytest.raises(StorageFull):
        journal.fix_round(1, bytes(1_000_000))
    assert (journal.rounds()[0].state, journal.snapshot(1)) == ("open", None)


def test_the_database_syncs_at_every_commit(journal):
    with journal.database.engine.connect() as db:
        if journal.database.is_sqlite:
            assert db.execute(sa.text("PRAGMA synchronous")).scalar() == 2  # FULL
            assert db.execute(sa.text("PRAGMA journal_mode")).scalar() == "wal"
            assert db.execute(sa.text("PRAGMA foreign_keys")).scalar() == 1
        else:
            assert db.execute(sa.text("SHOW synchronous_commit")).scalar() == "on"
            assert db.execute(sa.text("SHOW transaction_isolation")).scalar() == "read committed"
