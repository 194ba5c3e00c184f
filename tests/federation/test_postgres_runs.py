"""Whole runs with the journal in a real PostgreSQL: killed coordinators, cut connections, a server that restarts."""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import postgres_server
import pytest
from federation import small

from commonroot.common.errors import AnotherCoordinator
from commonroot.server.backup import with_database
from commonroot.server.folder import CoordinatorFolder
from commonroot.server.journal import Journal
from commonroot.server.journal_database import Database
from commonroot.simulations.founding import Federation
from commonroot.simulations.network import MemoryNetwork
from commonroot.simulations.processes import free_port, processes


class Killed(BaseException):
    """SIGKILL, for the coordinator."""


def use(federation: Federation, url: str) -> Federation:
    """Let the coordinator keep its journal elsewhere."""
    path = federation.coordinator.root / "coordinator.toml"
    path.write_text(with_database(path.read_text(), url))
    for unused in path.parent.glob("journal.db*"):
        unused.unlink()
    return dataclasses.replace(federation, coordinator=CoordinatorFolder(path.parent))


@pytest.fixture
def at_work(tmp_path, schema):
    """Departments that are up, a run that is queued, and the journal in a schema of its own."""
    with small.ToyFederation(use(small.founded(tmp_path), schema()), MemoryNetwork()) as made:
        made.start_all()
        made.queue()
        yield made


@pytest.fixture(scope="module")
def undisturbed(module_path: Path) -> tuple[list[str], dict[str, list[bytes]]]:
    """Versions and heads of a run that nobody disturbed, its journal in SQLite."""
    with small.running(module_path) as made:
        made.run()
        return small.versions(made.federation), small.heads(made.federation)


def ended_well(at_work: small.ToyFederation, undisturbed: Any) -> None:
    small.check_books(at_work.federation)
    with small.journal_of(at_work.federation) as journal:
        assert not journal.database.is_sqlite
        assert journal.runs()[0].state == "finished"
        assert journal.closed_departments(1) == set(at_work.federation.departments)
        assert [r.state for r in journal.rounds()] == ["closed"] * 3
    assert small.versions(at_work.federation) == undisturbed[0]
    assert small.heads(at_work.federation) == undisturbed[1]


WRITES = ("set_run", "add_version", "keep_greeting", "open_round", "fix_round", "close_round", "department_closed")


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize(("name", "nth"), [(name, 1) for name in WRITES] + [("fix_round", 2), ("close_round", 3)])
def test_a_coordinator_killed_at_any_line_of_its_journal_goes_on_from_there(
    name, nth, when, at_work, undisturbed, monkeypatch
):
    passed: Counter[str] = Counter()
    original = getattr(Journal, name)

    def mortal(self: Journal, *args: Any, **options: Any) -> Any:
        passed[name] += 1
        if when == "before" and passed[name] == nth:
            raise Killed
        result = original(self, *args, **options)
        if when == "after" and passed[name] == nth:
            raise Killed
        return result

    monkeypatch.setattr(Journal, name, mortal)
    with pytest.raises(Killed):
        at_work.run()
    at_work.run()
    monkeypatch.undo()
    ended_well(at_work, undisturbed)


@pytest.mark.parametrize("where", ["while it is open", "while it is committed", "once it is committed"])
def test_connections_that_break_in_every_third_transaction_leave_no_trace_in_the_result(
    where, at_work, undisturbed, monkeypatch
):
    """Each time the server's end is gone; nobody restarts anything."""
    commits, struck = Counter(), []
    original = Database.__init__

    def watched(self: Database, *args: Any, **options: Any) -> None:
        original(self, *args, **options)
        dialect = self.engine.dialect
        commit = dialect.do_commit

        def breaking(connection: Any) -> None:
            commits[where] += 1
            if commits[where] % 3 or connection.driver_connection.closed:
                return commit(connection)
            struck.append(commits[where])
            if where == "once it is committed":
                commit(connection)
            if where == "while it is open":
                connection.driver_connection.execute("SELECT pg_terminate_backend(pg_backend_pid())")
            connection.driver_connection.close()
            return commit(connection)

        dialect.do_commit = breaking

    monkeypatch.setattr(Database, "__init__", watched)
    at_work.run()
    monkeypatch.undo()
    assert len(struck) > 10
    ended_well(at_work, undisturbed)


# -- real processes ----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_processes_over_postgresql_outlast_sigkill_of_the_coordinator_and_a_restart_of_the_server(
    tmp_path, schema, postgres, monkeypatch
):
    """Sixteen rounds over TLS.  The coordinator is killed with SIGKILL after some; later the database loses its power.

    The URL stands in the environment alone.  A second coordinator, on a copy of the folder, is refused.
    """
    monkeypatch.setenv("GROVE_DATABASE", schema())
    federation = use(small.founded(tmp_path / "grove", rounds=16, attempts=6, widths=(12, 5)), "env:GROVE_DATABASE")
    small.move_to_port(federation, free_port())
    root = federation.coordinator.root
    with small.journal_of(federation) as journal:
        journal.queue(federation.charter)

    with processes(tmp_path / "logs") as started:

        def until(condition: Any, what: str) -> None:
            deadline = time.monotonic() + 90
            while not condition():
                started.check()
                assert time.monotonic() < deadline, f"waited in vain for {what}"
                time.sleep(0.05)

        def closed() -> int:
            with small.journal_of(federation) as journal:
                return sum(r.state == "closed" for r in journal.rounds())

        started.start_coordinator(root)
        for name, folder in federation.departments.items():
            started.start_department(name, folder.root)
        until(lambda: closed() >= 2, "two rounds")

        started.kill("coordinator")
        before = closed()
        started.start_coordinator(root)
        until(lambda: closed() > before, "a round after the coordinator was killed")

        postgres_server.restart(postgres)

        def finished() -> bool:
            with small.journal_of(federation) as journal:
                return journal.runs()[0].state in ("finished", "stopped")

        until(finished, "the end of the run")

        shutil.copytree(root, tmp_path / "copy", ignore=shutil.ignore_patterns("*.lock"))
        second = subprocess.run(
            [sys.executable, "-m", "commonroot", "coordinator", "up", str(tmp_path / "copy"), "--json"],
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert second.returncode == AnotherCoordinator.exit_code
        assert json.loads(second.stdout.splitlines()[-1])["error"]["code"] == AnotherCoordinator.code
    small.check_books(federation)
    with small.journal_of(federation) as journal:
        assert (journal.runs()[0].state, journal.runs()[0].reason) == ("finished", "")
        assert len(journal.versions(1)) == 17
    assert not (root / "journal.db").exists()
    assert '"event": "database", ' in (tmp_path / "logs" / "coordinator.log").read_text()
