"""Everything that people and machines get wrong: one clear error, its code, a hint, and folders as they were before.

Commands run in this process as the program would run them.  After each, the folders are compared file by file with what
they held before; only a lock, a ledger's note or the audit log's note of the command may be new.
"""

from __future__ import annotations

import errno
import functools
import hashlib
import json
import os
import resource
import shutil
import signal
import socket
import sqlite3
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from federation import small
from typer.testing import CliRunner

from commonroot.cli import app
from commonroot.client import node
from commonroot.common import canonical, parcel
from commonroot.common.charter import SignedCharter
from commonroot.common.enrolment import Token
from commonroot.common.errors import StorageFull, all_errors
from commonroot.common.messages import Offer, Refusal
from commonroot.common.parcel import Parcel
from commonroot.common.roster import Roster, SignedRoster
from commonroot.common.secure_sum.primitives import Identity
from commonroot.server.journal import Journal
from commonroot.server.pki import pin
from commonroot.server.superlink import SuperLink
from commonroot.simulations.founding import Federation, write_table
from commonroot.simulations.network import MemoryNetwork
from commonroot.simulations.processes import free_port

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


@pytest.fixture
def keep_signals() -> Iterator[None]:
    kept = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in kept.items():
        signal.signal(number, handler)


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


# -- tables ------------------------------------------------------------------------------------------------------------

X, Y = small.table(0, 60, "binary")


def _npz(**arrays: Any) -> Callable[[Path], None]:
    def write(root: Path) -> None:
        with (root / "rows.npz").open("wb") as file:
            np.savez(file, **arrays)

    return write


def _csv(text: str) -> Callable[[Path], None]:
    def write(root: Path) -> None:
        (root / "rows.csv").write_text(text)
        config = root / "department.toml"
        config.write_text(config.read_text().replace("rows.npz", "rows.csv"))

    return write


def _toml(old: str, new: str) -> Callable[[Path], None]:
    def write(root: Path) -> None:
        config = root / "department.toml"
        assert old in config.read_text()
        config.write_text(config.read_text().replace(old, new))

    return write


def _with(value: float) -> np.ndarray:
    x = X.copy()
    x[17, 3] = value
    return x


HEADER = "a,b,c,d,e,f,y\n"
ROW = "1,2,3,4,5,6,yes\n2,1,3,4,5,6,no\n"
TABLES = [
    ("no such file", lambda root: (root / "rows.npz").unlink(), "no such file"),
    ("not a table", lambda root: (root / "rows.npz").write_bytes(b"PK\x03\x04 cut short"), "unreadable"),
    ("an empty file", lambda root: (root / "rows.npz").write_bytes(b""), "unreadable"),
    ("no target", _npz(X=X), "'y'"),
    ("no features", _npz(y=Y), "X with two dimensions"),
    ("one dimension", _npz(X=X[:, 0], y=Y), "1 dimension"),
    ("another number of rows", _npz(X=X, y=Y[:-1]), "one value per row"),
    ("a column of NaN", _npz(X=X * [1, 1, np.nan, 1, 1, 1], y=Y), "no value at all"),
    ("a gap that makes a column more", _npz(X=np.where(X > 5, np.nan, X), y=Y), "feature columns, expected 6"),
    ("infinity", _npz(X=_with(np.inf), y=Y), "infinity"),
    ("text where numbers belong", _npz(X=X.astype(str), y=Y), "dtype"),
    ("Python objects", _npz(X=X, y=Y.astype(object)), "Python objects"),
    ("complex numbers", _npz(X=X.astype(complex), y=Y), "dtype"),
    ("fractions as labels", _npz(X=X, y=np.linspace(0, 1, 60)), "fraction"),
    ("one class alone", _npz(X=X, y=np.full(60, "yes")), "1 label"),
    ("three classes of two", _npz(X=X, y=np.array(["a", "b", "c"] * 20)), "3 labels"),
    ("no rows", _npz(X=X[:0], y=Y[:0]), "no rows"),
    ("three rows", _npz(X=X[:3], y=Y[:3]), "3 rows"),
    ("another width than the charter's", _npz(X=X[:, :5], y=Y), "5"),
    ("csv without the target", _csv("a,b,c,d,e,f\n" + "1,2,3,4,5,6\n" * 20), "'y'"),
    ("csv with a word for a number", _csv(HEADER + ROW * 10 + "1,2,three,4,5,6,no\n"), "row 22"),
    ("csv with a hole", _csv(HEADER + ROW * 10 + "1,2,3,4,5,6,\n"), "empty cell"),
    ("a column that is the target", _csv(HEADER + ROW * 15), "copy of the target"),
    ("csv with a short row", _csv(HEADER + ROW * 10 + "1,2,3\n"), "3 cells"),
    ("csv with a name twice", _csv("a,a,c,d,e,f,y\n" + ROW * 10), "twice"),
    ("csv of a header", _csv(HEADER), "no rows"),
    ("csv of nothing", _csv(""), "empty file"),
    (
        "a label that nobody listed",
        _toml('target = "y"', 'target = "y"\nlabels = ["accepted-0", "other"]'),
        "a label of 10 character(s)",
    ),
]


@pytest.mark.parametrize(("what", "spoil", "named"), TABLES, ids=[what for what, _, _ in TABLES])
def test_a_table_that_cannot_be_learned_from_is_refused_by_check(what, spoil, named, tmp_path, monkeypatch):
    folder = small.founded(tmp_path).departments["ash"].root
    spoil(folder)
    assert named in refused(tmp_path, ["department", "check", str(folder)], "CR11", monkeypatch)


class _Asked:
    """A node that joins at once and is offered the charter, as by a coordinator; ends when told to."""

    offer: Parcel
    replies: ClassVar[list[Parcel]] = []

    def __init__(self, *_: object, on_state: Callable[[str], None], **__: object) -> None:
        self._on_state = on_state

    def serve(self, handle: Callable[[Parcel], Parcel], stop: threading.Event) -> None:
        self._on_state("joined")
        self.replies.append(handle(self.offer))
        assert stop.wait(20), "it goes on although its table cannot be read"


def test_a_daemon_with_a_bad_table_says_so_soon_and_ends_and_contributes_nothing(tmp_path, monkeypatch, keep_signals):
    """It joins before its table is read; whoever asks it meanwhile is refused with the same code."""
    federation = small.founded(tmp_path)
    folder, coordinator, roster = federation.departments["ash"], federation.coordinator, federation.coordinator.roster()
    _npz(X=_with(np.inf), y=Y)(folder.root)
    offer = Offer.signed(
        coordinator.identity(),
        run=1,
        charter=federation.charter.charter.digest,
        roster=roster.digest,
        epoch=roster.epoch,
    )
    monkeypatch.setattr(
        _Asked, "offer", Parcel(parcel.CHARTER, offer.encode(), federation.charter.to_json()), raising=False
    )
    monkeypatch.setattr(_Asked, "replies", [])
    monkeypatch.setattr(node, "FlowerNode", _Asked)
    refused(tmp_path, ["department", "up", str(folder.root)], "CR11", monkeypatch, at_once=False)
    assert [Refusal.decode(bytes(reply.head)).code for reply in _Asked.replies] == ["CR11", "CR11"]
    with small.store_of(folder) as store:
        assert not [entry for entry in store.ledger() if entry.kind == "sent"]


# -- folders, keys, rosters, charters ----------------------------------------------------------------------------------


def _other_authority(federation: Federation) -> Path:
    roster = federation.coordinator.roster()
    path = federation.root / "forged.json"
    path.write_bytes(SignedRoster.sign(roster, Identity(bytes(range(32)))).to_json())
    return path


def _changed_roster(federation: Federation) -> Path:
    value = canonical.loads((federation.coordinator.root / "roster.json").read_bytes(), what="it")
    value["roster"]["parameters"]["survivors_min"] = 3
    value["roster"]["expires"] += 1
    path = federation.root / "changed.json"
    path.write_bytes(canonical.dumps(value))
    return path


def _signed_by(made: Federation, key: Identity, **changes: Any) -> Path:
    charter = made.charter.charter.model_copy(update=changes)
    path = made.root / "other-charter.json"
    path.write_bytes(SignedCharter.sign(type(charter).model_validate(charter.model_dump()), key).to_json())
    return path


def _wider(federation: Federation) -> Path:
    """Signed by the coordinator, but with a bound that the method as installed does not have."""
    terms = federation.charter.charter.terms
    wider = (terms[0].model_copy(update={"bound": 2 * terms[0].bound}), *terms[1:])
    return _signed_by(federation, federation.coordinator.identity(), terms=wider)


def _write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


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


FOLDERS: list[tuple[str, Callable[[Federation, Path, Path], list[str]], str]] = [
    # the three are: the federation, ash's folder, the coordinator's folder
    ("join: no such file", lambda f, d, c: ["department", "join", str(d), str(f.root / "none.json")], "CR10"),
    (
        "join: not the pinned authority",
        lambda f, d, c: ["department", "join", str(d), str(_other_authority(f))],
        "CR21",
    ),
    ("join: changed on the way", lambda f, d, c: ["department", "join", str(d), str(_changed_roster(f))], "CR21"),
    ("join: a charter", lambda f, d, c: ["department", "join", str(d), str(f.charter_path)], "CR20"),
    (
        "join: cut short",
        lambda f, d, c: [
            "department",
            "join",
            str(d),
            str(_write(f.root / "cut.json", (c / "roster.json").read_bytes()[:-9])),
        ],
        "CR20",
    ),
    (
        "approve: another hash",
        lambda f, d, c: ["department", "approve", str(d), str(f.charter_path), "--hash", "00" * 32],
        "CR12",
    ),
    (
        "approve: too little of a hash",
        lambda f, d, c: ["department", "approve", str(d), str(f.charter_path), "--hash", "00"],
        "CR10",
    ),
    (
        "approve: nobody there to be asked",
        lambda f, d, c: ["department", "approve", str(d), str(f.charter_path)],
        "CR12",
    ),
    (
        "approve: signed by somebody",
        lambda f, d, c: ["department", "approve", str(d), str(_signed_by(f, Identity(bytes(32)), rounds=9))],
        "CR21",
    ),
    ("approve: a wider bound", lambda f, d, c: ["department", "approve", str(d), str(_wider(f))], "CR26"),
    (
        "approve: another federation",
        lambda f, d, c: [
            "department",
            "approve",
            str(d),
            str(_signed_by(f, f.coordinator.identity(), federation="desert")),
        ],
        "CR10",
    ),
    ("approve: not JSON", lambda f, d, c: ["department", "approve", str(d), str(c / "coordinator.toml")], "CR20"),
    ("report: no run has ended", lambda f, d, c: ["department", "report", str(d)], "CR10"),
    ("predict: no model yet", lambda f, d, c: ["department", "predict", str(d), str(d / "rows.npz")], "CR10"),
    (
        "init: a folder that is not empty",
        lambda f, d, c: [
            "department",
            "init",
            str(d),
            "--token",
            _token(f),
            "--offline",
            "--ca",
            str(c / "tls/ca.pem"),
        ],
        "CR10",
    ),
    ("init: no token", lambda f, d, c: ["department", "init", str(f.root / "new"), "--token", "let me in"], "CR55"),
    (
        "init: a token cut short",
        lambda f, d, c: ["department", "init", str(f.root / "new"), "--token", _token(f)[:-1]],
        "CR55",
    ),
    (
        "init: a token that has expired",
        lambda f, d, c: ["department", "init", str(f.root / "new"), "--token", _token(f, expires=1_000_000_000)],
        "CR57",
    ),
    (
        "init: a CA that is none",
        lambda f, d, c: [
            *["department", "init", str(f.root / "new"), "--token", _token(f), "--offline"],
            *["--ca", str(c / "coordinator.toml")],
        ],
        "CR61",
    ),
    (
        "init: a CA that is not the token's",
        lambda f, d, c: [
            *["department", "init", str(f.root / "new"), "--token", _token(f, ca=bytes(32)), "--offline"],
            *["--ca", str(c / "tls" / "ca.pem")],
        ],
        "CR61",
    ),
    (
        "init: offline without a CA",
        lambda f, d, c: ["department", "init", str(f.root / "new"), "--token", _token(f), "--offline"],
        "CR10",
    ),
    (
        "init: nobody at the address",
        lambda f, d, c: [
            *["department", "init", str(f.root / "new"), "--token", _token(f, address="127.0.0.1:1"), "--wait", "0"],
        ],
        "CR63",
    ),
    ("enrol: a member", lambda f, d, c: ["coordinator", "enrol", str(c), "ash"], "CR10"),
    ("enrol: a name that is a path", lambda f, d, c: ["coordinator", "enrol", str(c), "../oak"], "CR10"),
    (
        "enrol: an address that the certificate does not name",
        lambda f, d, c: ["coordinator", "enrol", str(c), "oak", "--address", "elsewhere:9443"],
        "CR10",
    ),
    ("revoke: nobody", lambda f, d, c: ["coordinator", "revoke", str(c), "oak"], "CR10"),
    ("admit: not a request", lambda f, d, c: ["coordinator", "admit", str(c), str(c / "coordinator.toml")], "CR20"),
    (
        "admit: a request that nothing vouches for",
        lambda f, d, c: ["coordinator", "admit", str(c), str(d / "request.json")],
        "CR20",
    ),
    ("roster: nothing to sign", lambda f, d, c: ["coordinator", "roster", str(c), "--sign"], "CR10"),
    (
        "roster: signed by somebody",
        lambda f, d, c: ["coordinator", "roster", str(c), "--signed", str(_other_authority(f))],
        "CR21",
    ),
    (
        "roster: changed on the way",
        lambda f, d, c: ["coordinator", "roster", str(c), "--signed", str(_changed_roster(f))],
        "CR21",
    ),
    (
        "roster: another one of this epoch",
        lambda f, d, c: ["coordinator", "roster", str(c), "--signed", str(_second(f))],
        "CR104",
    ),
    (
        "roster: two wishes",
        lambda f, d, c: ["coordinator", "roster", str(c), "--sign", "--draft", str(f.root / "draft.json")],
        "CR10",
    ),
    (
        "authority: no draft",
        lambda f, d, c: [
            *["authority", "sign", str(f.charter_path), "--yes"],
            *["--key", str(c / "authority" / "authority.key")],
        ],
        "CR20",
    ),
    ("seal: under nothing", lambda f, d, c: ["department", "seal", str(d)], "CR10"),
    ("charter: no such file", lambda f, d, c: ["coordinator", "charter", str(c), str(f.root / "none.toml")], "CR10"),
    (
        "charter: three wrong fields",
        lambda f, d, c: ["coordinator", "charter", str(c), str(_draft(f, "rounds = 3", "rounds = 0\nx = 1"))],
        "CR10",
    ),
    (
        "charter: an unknown method",
        lambda f, d, c: ["coordinator", "charter", str(c), str(_draft(f, "fedper", "fedmagic"))],
        "CR10",
    ),
    (
        "charter: another federation",
        lambda f, d, c: ["coordinator", "charter", str(c), str(_draft(f, '"grove"', '"desert"'))],
        "CR10",
    ),
    (
        "run: a charter that somebody signed",
        lambda f, d, c: ["coordinator", "run", str(c), str(_signed_by(f, Identity(bytes(32))))],
        "CR21",
    ),
    ("run: no such charter", lambda f, d, c: ["coordinator", "run", str(c), str(f.root / "none.json")], "CR10"),
    (
        "init: a coordinator's folder again",
        lambda f, d, c: ["coordinator", "init", str(c), "--federation", "grove"],
        "CR10",
    ),
    ("status: not a coordinator's folder", lambda f, d, c: ["coordinator", "status", str(d)], "CR10"),
    ("resume: no such run", lambda f, d, c: ["coordinator", "resume", str(c), "7"], "CR10"),
]


def _token(federation: Federation, **changes: Any) -> str:
    """One that nobody gave out."""
    fields = {
        "federation": "grove",
        "address": "127.0.0.1:9443",
        "name": "oak",
        "number": bytes(8),
        "secret": bytes(16),
        "expires": 2**40,
        "ca": pin(federation.coordinator.ca.read_bytes()),
        "authority": federation.coordinator.authority_public(),
    }
    return Token(**(fields | changes)).encode()


def _second(federation: Federation) -> Path:
    """Another roster of the epoch that stands, under the same authority."""
    standing = federation.coordinator.roster()
    other = Roster.model_validate(standing.model_dump(mode="json") | {"expires": standing.expires + 1})
    signed = SignedRoster.sign(other, federation.coordinator.authority())
    return _write(federation.root / "second.json", signed.to_json())


def _draft(federation: Federation, old: str, new: str) -> Path:
    text = (federation.root / "charter.toml").read_text()
    assert old in text
    return _write(federation.root / "draft.toml", text.replace(old, new).encode())


@pytest.mark.parametrize(("what", "words", "code"), FOLDERS, ids=[what for what, _, _ in FOLDERS])
def test_a_wrong_file_or_option_is_refused_by_name(what, words, code, tmp_path, monkeypatch):
    federation = small.founded(tmp_path)
    line = words(federation, federation.departments["ash"].root, federation.coordinator.root)
    assert refused(tmp_path, line, code, monkeypatch)
    assert not (tmp_path / "new").exists()


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
    ("no data section", "department", lambda f, d: _toml("[data]", "[extra]")(d), "CR10"),
    ("the state of another federation", "department", lambda f, d: _foreign(d, "federation"), "CR14"),
    ("the state of another department", "department", lambda f, d: _foreign(d, "department"), "CR14"),
    ("the state of another layout", "department", lambda f, d: _foreign(d, "layout"), "CR14"),
    ("another department's keys", "department", lambda f, d: _swap_keys(f), "CR14"),
    (
        "a roster of another authority",
        "department",
        lambda f, d: shutil.copy(_other_authority(f), d / "roster.json"),
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


# -- links -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def hub(module_path: Path) -> Iterator[tuple[Federation, Path]]:
    """A hub that knows ash and cedar, and nobody else."""
    federation = small.founded(module_path)
    small.move_to_port(federation, free_port())
    folder = small.opened(module_path).coordinator
    with SuperLink(
        module_path / "links", "127.0.0.1", folder.config.port, folder.server_certificate, folder.server_key
    ) as running:
        for member in federation.coordinator.roster().departments:
            if member.name != "birch":
                running.register(member.node_key, member.name)
        yield federation, module_path


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch, keep_signals: None) -> None:
    """A node that gives up after half a second of being refused."""
    monkeypatch.setattr(node, "FlowerNode", functools.partial(node.FlowerNode, patience=0.5))


@pytest.mark.slow
def test_a_coordinator_under_another_authority_is_refused_at_once(hub, hasty, monkeypatch, tmp_path):
    federation, _ = hub
    copy = tmp_path / "ash"
    shutil.copytree(federation.departments["ash"].root, copy)
    from commonroot.server.pki import make_authority

    certificate, _ = make_authority(tmp_path / "tls", "desert")
    shutil.copy(certificate, copy / "ca.pem")
    refused(tmp_path, ["department", "up", str(copy)], "CR61", monkeypatch)


@pytest.mark.slow
def test_a_department_that_the_hub_does_not_know_is_told_so(hub, hasty, monkeypatch):
    federation, root = hub
    refused(root, ["department", "up", str(federation.departments["birch"].root)], "CR60", monkeypatch)


@pytest.mark.slow
def test_a_copied_folder_cannot_join_beside_the_original(hub, hasty, monkeypatch, tmp_path):
    federation, _ = hub
    copy = tmp_path / "copy"
    shutil.copytree(federation.departments["cedar"].root, copy)
    joined, stop = threading.Event(), threading.Event()
    folder = small.opened(federation.root).departments["cedar"]
    original = node.FlowerNode.func(  # type: ignore[attr-defined]
        folder.config.coordinator, folder.ca, folder.node_key, on_state=lambda state: state == "joined" and joined.set()
    )
    thread = threading.Thread(target=original.serve, args=(lambda parcel: parcel, stop))
    thread.start()
    try:
        assert joined.wait(20)
        refused(tmp_path, ["department", "up", str(copy)], "CR60", monkeypatch)
    finally:
        stop.set()
        thread.join(20)


# -- runs --------------------------------------------------------------------------------------------------------------


def test_a_charter_that_a_department_did_not_approve_is_refused_there_and_named_in_the_runs_reason(tmp_path):
    federation = small.founded(tmp_path)
    for path in (federation.departments["birch"].root / "charters").iterdir():
        path.unlink()
    with small.ToyFederation(federation, MemoryNetwork()) as at_work:
        at_work.start_all()
        at_work.queue()
        at_work.run()
        # People may decide meanwhile, so birch is asked again and again; that it says the same is told once.
        assert {facts["code"] for facts in at_work.told("refused")} == {"CR12"}
        with small.journal_of(federation) as journal:
            assert journal.runs()[0].state == "stopped"
            assert "'birch' refused with CR12" in journal.runs()[0].reason
            assert journal.rounds() == []
            (fault,) = journal.faults.all()
            assert fault["department"] == "birch" and "refused with CR12" in fault["what"]


def test_a_department_whose_data_does_not_fit_is_left_out_and_named(tmp_path):
    """The real learner: birch's table lost a column after the charter was approved."""
    from commonroot.simulations.federation import SimulatedFederation

    federation = small.founded(tmp_path)
    x, y = small.table(1, 83, "binary")
    write_table(federation.departments["birch"].root / "rows.npz", x[:, :5], y)
    at_work = SimulatedFederation(federation, MemoryNetwork())
    at_work.start_all()
    at_work.queue()
    at_work.run()
    at_work.close()
    with small.journal_of(federation) as journal:
        assert "'birch' refused with CR11" in journal.runs()[0].reason


# -- a full disk -------------------------------------------------------------------------------------------------------


class _Full:
    """``os.fsync`` on a disk that is full from the n-th time on, until somebody frees space."""

    def __init__(self, nth: int) -> None:
        self.left, self.free = nth, False
        self._sync = os.fsync

    def __call__(self, handle: int) -> None:
        self.left -= 1
        if self.left < 0 and not self.free:
            raise OSError(errno.ENOSPC, "No space left on device")
        self._sync(handle)


@pytest.mark.parametrize("nth", range(8))
def test_a_department_whose_disk_is_full_sends_nothing_and_goes_on_when_there_is_room(nth, tmp_path, monkeypatch):
    """Two blobs a round, four fsyncs; whichever fails first, the next try is as if nothing had been."""
    federation = small.founded(tmp_path / "full", attempts=2)
    with small.ToyFederation(federation, MemoryNetwork()) as at_work:
        full = _Full(nth)
        honest: dict[str, Any] = {}

        def front(name: str, handle: Any) -> Any:
            honest[name] = handle

            def handled(request: Any) -> Any:
                if name != "ash":
                    return handle(request)
                with monkeypatch.context() as patch:
                    patch.setattr(os, "fsync", full)
                    return handle(request)

            return handled

        at_work.front = front
        at_work.start_all()
        at_work.queue()
        before = contents(federation.departments["ash"].root)
        at_work.run()
        with small.journal_of(federation) as journal:
            assert journal.runs()[0].state == "stopped"
            journal.resume(1)
        assert {facts["code"] for facts in at_work.told("refused") if facts["request"] == "round-open"} == {"CR15"}
        litter = [name for name in contents(federation.departments["ash"].root) if "/." in name]
        assert litter == []
        assert set(before) <= set(contents(federation.departments["ash"].root))
        full.free = True
        at_work.run()
        small.check_books(federation)
        assert small.versions(federation) == _undisturbed(tmp_path)


def _undisturbed(tmp_path: Path, **shape: int) -> list[str]:
    with small.running(tmp_path / "undisturbed", **{"attempts": 2, **shape}) as at_work:
        at_work.run()
        return small.versions(at_work.federation)


@pytest.mark.parametrize("pages", range(3))
def test_a_department_whose_database_cannot_grow_sends_nothing_and_goes_on_when_there_is_room(pages, tmp_path):
    """Twelve rounds fill more than two pages of 4 KiB with answers and ledger entries."""
    shape = {"attempts": 2, "rounds": 12}
    federation = small.founded(tmp_path / "full", **shape)
    with small.ToyFederation(federation, MemoryNetwork()) as at_work:
        at_work.start_all()
        at_work.queue()
        db = at_work._stores["ash"]._db
        (now,) = db.execute("PRAGMA page_count").fetchone()
        db.execute(f"PRAGMA max_page_count = {now + pages}")
        at_work.run()
        assert {facts["code"] for facts in at_work.told("refused")} == {"CR15"}
        small.check_books(federation)
        with small.journal_of(federation) as journal:
            assert journal.runs()[0].state == "stopped"
            journal.resume(1)
        db.execute("PRAGMA max_page_count = 1000000")
        at_work.run()
        small.check_books(federation)
        assert small.versions(federation) == _undisturbed(tmp_path, **shape)


@pytest.mark.parametrize("nth", range(8))
def test_a_coordinator_whose_disk_is_full_stops_with_one_error_and_goes_on_when_there_is_room(
    nth, tmp_path, monkeypatch
):
    """Two fsyncs for each version of the backbone; departments keep writing, for their disks are others."""
    federation = small.founded(tmp_path / "full", attempts=2)
    with small.ToyFederation(federation, MemoryNetwork()) as at_work:
        full, sync = _Full(nth), os.fsync

        def front(name: str, handle: Any) -> Any:
            def handled(request: Any) -> Any:
                with monkeypatch.context() as patch:
                    patch.setattr(os, "fsync", sync)
                    return handle(request)

            return handled

        at_work.front = front
        at_work.start_all()
        at_work.queue()
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", full)
            with pytest.raises(StorageFull):
                at_work.run()
            assert not [name for name in contents(federation.coordinator.root) if "/." in name]
            full.free = True
            at_work.run()
        small.check_books(federation)
        assert small.versions(federation) == _undisturbed(tmp_path)


@pytest.mark.parametrize(
    ("words", "limit"),
    [
        (lambda f: ["coordinator", "charter", str(f.coordinator.root), str(_draft(f, "rounds = 3", "rounds = 4"))], 64),
        (lambda f: ["department", "join", str(f.departments["ash"].root), str(f.coordinator.root / "roster.json")], 64),
        (lambda f: ["coordinator", "run", str(f.coordinator.root), str(f.charter_path)], 64),
        (
            lambda f: [
                *["department", "approve", str(f.departments["ash"].root), str(f.charter_path)],
                *["--hash", f.charter.charter.digest.hex()],
            ],
            64,
        ),
    ],
    ids=["charter", "join", "run", "approve"],
)
def test_a_command_on_a_full_disk_says_so_and_keeps_what_was_there(words, limit, tmp_path, monkeypatch):
    """The kernel refuses to let any file grow beyond a few bytes (RLIMIT_FSIZE)."""
    federation = small.founded(tmp_path)
    line = words(federation)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    kept = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        refused(tmp_path, line, "CR15", monkeypatch)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, kept)
