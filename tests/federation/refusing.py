"""A refused command: one clear error, its code, a hint, and folders as they were before.

Commands run in this process as the program would run them.  After each, the folders are compared file by file with what
they held before; only a lock, a ledger's note or the audit log's note of the command may be new.
"""

from __future__ import annotations

import hashlib
import json
import resource
import sqlite3
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from commonroot.cli import app
from commonroot.common.errors import all_errors

#: What a command may leave behind although it failed: locks, and the database's own working files.
_MAY_CHANGE = {
    "daemon.lock",
    "state.db",
    "state.db-wal",
    "state.db-shm",
    "node.key.session",
    "journal.db-wal",
    "journal.db-shm",
    "journal.db.owner",
}


def contents(root: Path) -> dict[str, str]:
    """Path → hash of everything under a folder, but for what may change."""
    return {
        str(path.relative_to(root)): hashlib.sha256(_content(path)).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file() and path.name not in _MAY_CHANGE and "links" not in path.parts
    }


def _content(path: Path) -> bytes:
    """A file's bytes; of a journal every row but two kinds: which coordinator held it last, which is a lock, and that
    a command was given, which the audit log notes of any command and on which the places in its chain depend."""
    if path.name != "journal.db":
        return path.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limits[1], limits[1]))  # a reader keeps a file of its own for a moment
    db = sqlite3.connect(path)
    try:
        names = [name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name")]
        rows = {name: sorted(map(repr, db.execute(f"SELECT * FROM {name}"))) for name in names if name != "audit"}
        rows["about"] = [row for row in rows["about"] if not row.startswith("('owner', ")]
        told = [*db.execute("SELECT at, kind, facts FROM audit WHERE kind <> 'command' ORDER BY sequence")]
    finally:
        db.close()
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    return repr((rows, told)).encode()


def refused(root: Path, words: list[str], code: str, monkeypatch: pytest.MonkeyPatch, *, at_once: bool = True) -> str:
    """Run a command twice, for people and for machines; both must refuse with this code and change nothing.

    ``at_once``: nothing else is said before it.
    """
    before = contents(root)
    kind = all_errors()[code]
    monkeypatch.setattr(sys, "argv", ["commonroot", *words])
    plain = CliRunner().invoke(app, words)
    assert plain.exit_code == kind.exit_code, plain.output
    assert isinstance(plain.exception, SystemExit)
    lines = plain.stderr.splitlines()
    said = [at for at, line in enumerate(lines) if line.startswith("error ")]
    assert len(said) == 1 and lines[said[0]].startswith(f"error {code}: ")
    assert said == [0] or not at_once
    assert lines[-1].startswith("  hint: ")
    assert "Traceback" not in plain.output
    monkeypatch.setattr(sys, "argv", ["commonroot", *words, "--json"])
    machine = CliRunner().invoke(app, [*words, "--json"])
    assert machine.exit_code == kind.exit_code
    error = json.loads(machine.stdout.splitlines()[-1])["error"]
    assert (error["code"], error["error"]) == (code, kind.__name__)
    assert contents(root) == before, "something was lost or half-written"
    return str(error["message"])
