"""Leaving as it is deployed: processes, TLS, and a good-bye that the coordinator has checked and keeps."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from federation import small
from typer.testing import CliRunner

from commonroot.cli import app
from commonroot.client.standing import standing_of
from commonroot.common.messages import Goodbye
from commonroot.server import journal_tables as tables
from commonroot.simulations.founding import Federation
from commonroot.simulations.processes import free_port, processes


def until(fact: Callable[[], Any], what: str, seconds: float = 60.0) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := fact()):
        assert time.monotonic() < deadline, f"{what} did not come in time"
        time.sleep(0.05)
    return found


def events(log: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")] if log.exists() else []


def leave(federation: Federation, name: str, wait: float) -> dict[str, Any]:
    done = CliRunner().invoke(
        app, ["department", "leave", str(federation.departments[name].root), "--yes", "--wait", str(wait), "--json"]
    )
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def test_goodbyes_are_said_over_the_link_by_daemon_or_command_and_leaving_goes_on_without_anybody_to_hear(tmp_path):
    """Ash's daemon is up and says it; birch has none, so the command does; cedar leaves when no coordinator is up."""
    federation = small.founded(tmp_path / "grove", departments=4)
    small.move_to_port(federation, free_port())
    logs = tmp_path / "logs"
    with processes(logs) as started:
        started.start_coordinator(federation.coordinator.root)
        started.start_department("ash", federation.departments["ash"].root)

        def told(event: str, log: str) -> list[dict[str, Any]]:
            started.check()
            return [one for one in events(logs / f"{log}.log") if one["event"] == event]

        until(lambda: any(one["state"] == "joined" for one in told("link", "ash")), "ash's link")
        assert leave(federation, "ash", 0)["goodbye"] is True, "its daemon had said it before the command took over"
        until(lambda: started.ended("ash"), "the end of ash's daemon")
        assert [one["goodbye"] for one in events(logs / "ash.log") if one["event"] == "left"] == [True]

        assert leave(federation, "birch", 30)["goodbye"] is True
        until(lambda: len(told("left", "coordinator")) == 2, "the second good-bye")
        assert [one["department"] for one in told("left", "coordinator")] == ["ash", "birch"]
    assert leave(federation, "cedar", 0.5)["goodbye"] is False
    for name in ("ash", "birch", "cedar"):
        folder = federation.departments[name]
        assert standing_of(folder) == "left"
        assert sorted(path.name for path in (folder.root / "keys").iterdir()) == ["identity.key", "training.key"]

    roster = federation.coordinator.roster()
    with small.journal_of(federation) as journal:
        assert sorted(journal.consent.farewells().values()) == ["ash", "birch"]
        assert [e.facts["department"] for e in journal.audit() if e.kind == "goodbye"] == ["ash", "birch"]
        assert journal.faults.all() == []
        with journal.reading() as db:
            kept = {row.department: row.head for row in db.execute(tables.farewells.select()).all()}
    for name, head in kept.items():
        said = Goodbye.decode(head)
        member = roster.departments[said.sender]
        assert (member.name, said.roster) == (name, roster.digest)
        said.check(bytes.fromhex(member.identity), who=name)
