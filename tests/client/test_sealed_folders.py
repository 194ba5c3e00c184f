"""Folders whose keys are sealed: made so, opened from wherever the passphrase is given, and unsealed again."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from typer.testing import CliRunner

from commonroot import files
from commonroot.cli import app
from commonroot.client.folder import DepartmentFolder
from commonroot.client.node_key import load_node_key
from commonroot.client.setup import create, join, renew
from commonroot.common.errors import ConfigError, KeyFileError, SealedKey
from commonroot.common.secure_sum.at_rest import Cost
from commonroot.files import Lock, is_sealed, read_secret
from commonroot.server.folder import CoordinatorFolder
from commonroot.server.superlink import SuperLink


@pytest.fixture(autouse=True)
def _cheap_and_unlit(monkeypatch):
    """scrypt at no cost, and no passphrase of whoever runs the tests."""
    monkeypatch.setattr(Lock, "cost", Cost(n=2, r=1, p=1))
    for name in (files.PASSPHRASE, files.PASSPHRASE_FILE, files.KEY_FILE, "CREDENTIALS_DIRECTORY"):
        monkeypatch.delenv(name, raising=False)


def founded(root: Path, lock: Lock | None) -> tuple[CoordinatorFolder, list[DepartmentFolder]]:
    hq = CoordinatorFolder.create(
        root / "hq",
        federation="grove",
        host="127.0.0.1",
        port=9443,
        names=("localhost",),
        random=os.urandom,
        lock=lock,
    )
    made = [
        create(
            root / name,
            federation="grove",
            name=name,
            coordinator="localhost:9443",
            authority=hq.authority_public().hex(),
            ca=hq.ca,
            data="",
            random=os.urandom,
            lock=lock,
        )
        for name in ("ash", "birch", "cedar")
    ]
    return hq, made


def test_a_federation_of_sealed_folders_is_founded_joined_and_renewed(tmp_path, monkeypatch):
    lock = Lock.passphrase("open sesame")
    monkeypatch.setenv(files.PASSPHRASE, "open sesame")
    hq, departments = founded(tmp_path, lock)
    hq.sign_roster([d.root / "request.json" for d in departments], colluders=None, survivors_min=None)
    for path in [*hq.private_files, *departments[0].private_files]:
        assert is_sealed(path), path
    join(departments[0], hq.root / "roster.json", os.urandom)
    renew(departments[0], os.urandom, rotate=True)
    names = {path.name for path in departments[0].private_files}
    assert names == {"identity.key", "training.key", "node.key", "agreement.key", "identity.key.next", "node.key.next"}
    assert all(is_sealed(path) for path in departments[0].private_files)  # what was made later as well
    with SuperLink(hq.root / "links", "127.0.0.1", 0, hq.server_certificate, hq.server_key) as hub:
        assert hub.public_port  # TLS with a sealed key, which lies open on no disk
    monkeypatch.setenv(files.PASSPHRASE, "open barley")
    for refused in (hq.identity, hq.authority, departments[1].identity, lambda: load_node_key(departments[1].node_key)):
        with pytest.raises(SealedKey, match="the passphrase is another one"):
            refused()
    monkeypatch.delenv(files.PASSPHRASE)
    with pytest.raises(SealedKey, match="none was given"):
        hq.identity()


@pytest.mark.parametrize("where", ["environment", "file", "credential"])
def test_a_passphrase_is_taken_from_wherever_a_service_keeps_it(where, tmp_path, monkeypatch):
    path = tmp_path / "some.key"
    files.write_secret(path, bytes(32), lock=Lock.passphrase("open sesame"))
    (tmp_path / files.CREDENTIAL).write_text("open sesame\n")
    name, value = {
        "environment": (files.PASSPHRASE, "open sesame"),
        "file": (files.PASSPHRASE_FILE, str(tmp_path / files.CREDENTIAL)),
        "credential": ("CREDENTIALS_DIRECTORY", str(tmp_path)),
    }[where]
    monkeypatch.setenv(name, value)
    assert read_secret(path) == bytes(32)


def test_a_key_file_is_made_once_and_found_again(tmp_path, monkeypatch):
    lock = Lock.key_file(tmp_path / "unlock", make=True)
    assert Lock.key_file(tmp_path / "unlock", make=True) == lock
    files.write_secret(tmp_path / "some.key", bytes(32), lock=lock)
    assert read_secret(tmp_path / "some.key") == bytes(32)
    moved = (tmp_path / "unlock").replace(tmp_path / "elsewhere")
    with pytest.raises(SealedKey):
        read_secret(tmp_path / "some.key")
    monkeypatch.setenv(files.KEY_FILE, str(moved))
    assert read_secret(tmp_path / "some.key") == bytes(32)
    moved.write_bytes(bytes(40))
    with pytest.raises(SealedKey, match="the key file is another one"):
        read_secret(tmp_path / "some.key")
    moved.write_bytes(b"short")
    with pytest.raises(KeyFileError, match="5 bytes"):
        read_secret(tmp_path / "some.key")
    moved.chmod(0o644)
    with pytest.raises(KeyFileError, match="read by others"):
        read_secret(tmp_path / "some.key")


def test_existing_folders_are_sealed_and_unsealed_by_command(tmp_path, monkeypatch):
    hq, departments = founded(tmp_path, None)
    ash = departments[0]
    before = {path: path.read_bytes() for path in [*hq.private_files, *ash.private_files]}
    monkeypatch.setenv(files.PASSPHRASE, "open sesame")
    for side, root in (("coordinator", hq.root), ("department", ash.root)):
        done = CliRunner().invoke(app, [side, "seal", str(root), "--passphrase"])
        assert done.output == "4 private keys sealed\n"
    assert all(is_sealed(path) and path.stat().st_mode & 0o077 == 0 for path in before)
    assert ash.identity().public == DepartmentFolder(ash.root).identity().public
    for side, root in (("coordinator", hq.root), ("department", ash.root)):
        assert CliRunner().invoke(app, [side, "unseal", str(root)]).exit_code == 0
    assert {path: path.read_bytes() for path in before} == before


def test_a_wrong_passphrase_is_one_clear_error_and_changes_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv(files.PASSPHRASE, "open sesame")
    _, departments = founded(tmp_path, Lock.passphrase("open sesame"))
    before = {path: path.read_bytes() for path in departments[0].private_files}
    monkeypatch.setenv(files.PASSPHRASE, "open barley")
    done = CliRunner().invoke(app, ["department", "unseal", str(departments[0].root)])
    assert done.exit_code == 2
    assert done.stderr.startswith("error CR103: ")
    assert {path: path.read_bytes() for path in before} == before


def test_somebody_at_a_terminal_is_asked_once_and_twice_for_a_new_passphrase(tmp_path, monkeypatch):
    asked: list[str] = []
    monkeypatch.setattr(files, "_typed", [])
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("getpass.getpass", lambda prompt: asked.append(prompt) or "open sesame")
    founded(tmp_path, files.chosen_lock(True, None))
    assert DepartmentFolder(tmp_path / "ash").identity()
    assert asked == ["New passphrase: ", "Once more: "]


def test_an_empty_passphrase_seals_nothing():
    with pytest.raises(ConfigError):
        Lock.passphrase("")


def test_a_lock_does_not_show_what_opens_it():
    assert "sesame" not in repr(Lock.passphrase("open sesame"))
