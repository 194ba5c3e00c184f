"""A daemon does not start on a folder that is not whole, nor where another one is."""

from __future__ import annotations

import shutil
import socket
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from federation import small
from federation.refusing import refused
from federation.wrong_files import field, other_authority

from commonroot.server.journal import Journal
from commonroot.simulations.founding import Federation
from commonroot.simulations.network import MemoryNetwork
from commonroot.simulations.processes import free_port


def _foreign(root: Path, column: str) -> None:
    db = sqlite3.connect(root / "state.db")
    db.execute("UPDATE about SET value = 'another' WHERE name = ?", (column,))
    db.commit()
    db.close()


def _foreign_journal(federation: Federation) -> None:
    Journal(
        f"sqlite:///{federation.coordinator.root / 'journal.db'}",
        federation="another",
        folder=federation.coordinator.root,
    ).close()


def _loosen(path: Path) -> None:
    path.chmod(0o644)


DAEMONS: list[tuple[str, str, Callable[[Federation, Path], Any], str]] = [
    ("no configuration", "department", lambda f, d: (d / "department.toml").unlink(), "CR10"),
    ("no roster", "department", lambda f, d: (d / "roster.json").unlink(), "CR17"),
    ("no identity", "department", lambda f, d: (d / "keys" / "identity.key").unlink(), "CR17"),
    ("an identity that others can read", "department", lambda f, d: _loosen(d / "keys" / "identity.key"), "CR17"),
    (
        "a training secret cut short",
        "department",
        lambda f, d: (d / "keys" / "training.key").write_text("ab\n"),
        "CR17",
    ),
    ("a node key that is none", "department", lambda f, d: (d / "keys" / "node.key").write_text("ab\n"), "CR17"),
    ("no CA", "department", lambda f, d: (d / "ca.pem").unlink(), "CR17"),
    ("no data section", "department", lambda f, d: field("[data]", "[extra]")(d), "CR10"),
    ("the state of another federation", "department", lambda f, d: _foreign(d, "federation"), "CR14"),
    ("the state of another department", "department", lambda f, d: _foreign(d, "department"), "CR14"),
    ("the state of another layout", "department", lambda f, d: _foreign(d, "layout"), "CR14"),
    ("another department's keys", "department", lambda f, d: _swap_keys(f), "CR14"),
    (
        "a roster of another authority",
        "department",
        lambda f, d: shutil.copy(other_authority(f), d / "roster.json"),
        "CR21",
    ),
    ("a roster that is none", "coordinator", lambda f, c: (c / "roster.json").write_bytes(b"{}"), "CR20"),
    ("no key", "coordinator", lambda f, c: (c / "keys" / "coordinator.key").unlink(), "CR17"),
    ("a certificate that is none", "coordinator", lambda f, c: (c / "tls" / "server.pem").write_text("ab\n"), "CR17"),
    ("the journal of another federation", "coordinator", lambda f, c: _foreign_journal(f), "CR14"),
    ("a wrong field", "coordinator", lambda f, c: (c / "coordinator.toml").write_text("federation = 3\n"), "CR10"),
]


def _swap_keys(federation: Federation) -> None:
    ash, birch = (federation.departments[name].root / "keys" / "identity.key" for name in ("ash", "birch"))
    birch.replace(ash)


@pytest.mark.parametrize(
    ("what", "side", "spoil", "code"), DAEMONS, ids=[f"{side}: {what}" for what, side, _, _ in DAEMONS]
)
def test_a_daemon_does_not_start_on_a_folder_that_is_not_whole(
    what, side, spoil, code, tmp_path, monkeypatch, keep_signals
):
    federation = small.founded(tmp_path)
    small.move_to_port(federation, free_port())
    folder = federation.coordinator.root if side == "coordinator" else federation.departments["ash"].root
    with small.journal_of(federation) as journal:
        journal.queue(federation.charter)
    if what == "the journal of another federation":
        (folder / "journal.db").unlink()
    spoil(federation, folder)
    refused(tmp_path, [side, "up", str(folder)], code, monkeypatch)


def test_a_second_daemon_on_one_folder_is_refused(tmp_path, monkeypatch, keep_signals):
    with small.ToyFederation(small.founded(tmp_path), MemoryNetwork()) as at_work:
        at_work.start("ash")
        folder = at_work.federation.departments["ash"].root
        assert "already runs" in refused(tmp_path, ["department", "up", str(folder)], "CR10", monkeypatch)


def test_a_port_that_is_taken_is_named(tmp_path, monkeypatch, keep_signals):
    federation = small.founded(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        small.move_to_port(federation, port)
        words = ["coordinator", "up", str(federation.coordinator.root), "--until-idle"]
        assert str(port) in refused(tmp_path, words, "CR13", monkeypatch)
