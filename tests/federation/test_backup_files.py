"""What a backup holds, and that one which was changed, cut short or is another's is refused."""

from __future__ import annotations

import stat
import tarfile
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from federation import small
from federation.restoring import repacked, use

from commonroot.client.backup import backup as backup_department
from commonroot.client.backup import restore as restore_department
from commonroot.common.errors import (
    BackupDamaged,
    ConfigError,
    KeyFileError,
    StorageFull,
)
from commonroot.server.backup import backup, restore, with_database
from commonroot.server.folder import CoordinatorFolder

SECRET = "correct-horse-battery"


def test_keys_are_in_a_backup_only_where_asked_for_and_it_is_its_owners_alone_anyway(tmp_path):
    federation = small.founded(tmp_path)
    secret = (federation.coordinator.root / "keys" / "coordinator.key").read_bytes().strip()
    for name, with_keys in (("without.tar", False), ("with.tar", True)):
        backup(federation.coordinator, tmp_path / name, with_keys=with_keys)
        with tarfile.open(tmp_path / name) as tar:
            keys = {member for member in tar.getnames() if member.endswith(".key")}
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o600
        assert (secret in (tmp_path / name).read_bytes()) is with_keys
        assert ("keys/coordinator.key" in keys, "authority/authority.key" in keys) == (with_keys, with_keys)
        facts = restore(tmp_path / name, tmp_path / f"restored-{name}")
        assert facts["missing_keys"] == ([] if with_keys else ["keys/coordinator.key", "tls/server.key"])
        private = list((tmp_path / f"restored-{name}").rglob("*.key"))
        assert {stat.S_IMODE(path.stat().st_mode) for path in private} <= {0o600}
    restored = CoordinatorFolder(tmp_path / "restored-without.tar")
    with pytest.raises(KeyFileError):
        restored.identity()


def test_no_backup_holds_the_databases_password(tmp_path, schema):
    federation = small.founded(tmp_path)
    url = schema().replace("owner@", f"owner:{SECRET}@")  # trusted without one
    (federation.coordinator.root / "coordinator.toml").chmod(0o600)
    federation = use(federation, url)
    (federation.coordinator.root / "coordinator.toml").chmod(0o600)
    backup(federation.coordinator, tmp_path / "backup.tar", with_keys=True)
    assert SECRET.encode() not in (tmp_path / "backup.tar").read_bytes()


def test_a_backup_is_never_written_over_and_a_folder_never_restored_into(tmp_path):
    federation = small.founded(tmp_path)
    (tmp_path / "precious").write_text("two years of work")
    with pytest.raises(ConfigError, match="exists already"):
        backup(federation.coordinator, tmp_path / "precious")
    assert (tmp_path / "precious").read_text() == "two years of work"
    backup(federation.coordinator, tmp_path / "backup.tar")
    with pytest.raises(ConfigError, match="not empty"):
        restore(tmp_path / "backup.tar", federation.coordinator.root)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda name, data: [(name, data.replace(b"grove", b"grave"))], "changed, missing or added"),
        (lambda name, data: [] if name == "roster.json" else [(name, data)], r"added: roster\.json"),
        (lambda name, data: [(name, data)] + [("extra", b"x")] * (name == "roster.json"), "added: extra"),
        (lambda name, data: [("../" + name if name == "roster.json" else name, data)], "which no backup holds"),
        (lambda name, data: [("/" + name if name == "roster.json" else name, data)], "which no backup holds"),
        (lambda name, data: [(name, data)] * 2, "which no backup holds"),
        (lambda name, data: [] if name == "backup.json" else [(name, data)], "no list of its files"),
        (lambda name, data: [(name, b"[]" if name == "backup.json" else data)], "cannot be read"),
        (lambda name, data: [(name, data.replace(b'"format": 1', b'"format": 9'))], "format 9"),
        (lambda name, data: [(name, data.replace(b'"layout": 2', b'"layout": 7'))], "layout 7"),
    ],
    ids=["changed", "missing", "added", "upwards", "absolute", "twice", "no list", "list", "format", "layout"],
)
def test_a_backup_that_was_changed_is_refused_and_nothing_of_it_is_there(change, told, tmp_path):
    federation = small.founded(tmp_path / "founded")
    backup(federation.coordinator, tmp_path / "good.tar")
    bad = repacked(tmp_path / "good.tar", tmp_path / "bad.tar", change)
    before = {path.name for path in tmp_path.iterdir()}
    with pytest.raises(BackupDamaged, match=told):
        restore(bad, tmp_path / "elsewhere")
    assert {path.name for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize("part", [0, 0.2, 0.5, 0.99])
def test_a_backup_that_was_cut_short_is_refused(part, tmp_path):
    federation = small.founded(tmp_path / "founded")
    backup(federation.coordinator, tmp_path / "good.tar")
    data = (tmp_path / "good.tar").read_bytes().rstrip(b"\0")
    (tmp_path / "bad.tar").write_bytes(data[: int(part * len(data))])
    with pytest.raises(BackupDamaged):
        restore(tmp_path / "bad.tar", tmp_path / "elsewhere")
    assert not (tmp_path / "elsewhere").exists()


def test_a_link_in_a_backup_is_refused(tmp_path):
    with tarfile.open(tmp_path / "bad.tar", "w") as tar:
        info = tarfile.TarInfo("keys")
        info.type, info.linkname = tarfile.SYMTYPE, "/etc"
        tar.addfile(info)
    with pytest.raises(BackupDamaged, match="which no backup holds"):
        restore(tmp_path / "bad.tar", tmp_path / "elsewhere")


def test_a_backbone_that_was_changed_on_disk_is_not_backed_up_as_good(tmp_path, monkeypatch):
    monkeypatch.setattr("commonroot.server.backup._ATTEMPTS", 1)
    with small.running(tmp_path) as at_work:
        at_work.run()
        path = at_work.federation.coordinator.root / "backbones" / "run-1-version-2.safetensors"
        path.write_bytes(path.read_bytes()[:-1] + b"!")
        with pytest.raises(BackupDamaged, match="run-1-version-2"):
            backup(at_work.federation.coordinator, tmp_path / "backup.tar")
    assert not list(tmp_path.glob("*backup*"))


def test_a_full_disk_leaves_no_half_backup(tmp_path, monkeypatch):
    federation = small.founded(tmp_path)

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tarfile.TarFile, "addfile", full)
    with pytest.raises(StorageFull):
        backup(federation.coordinator, tmp_path / "backup.tar")
    assert not list(tmp_path.glob("*backup*"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('database = ""\n', 'database = "env:X"\n'),
        ("federation = 'g'\n", "database = \"env:X\"\nfederation = 'g'\n"),
        ('a = 1\ndatabase="old"  # note\nb = 2\n', 'a = 1\ndatabase = "env:X"\nb = 2\n'),
        ("a = 1\n[waits]\ndatabase = 30\n", 'database = "env:X"\na = 1\n[waits]\ndatabase = 30\n'),
    ],
)
def test_only_the_database_of_a_configuration_is_replaced(text, expected):
    assert with_database(text, "env:X") == expected


def test_one_sides_backup_is_not_the_others(tmp_path):
    federation = small.founded(tmp_path / "founded")
    backup(federation.coordinator, tmp_path / "coordinator.tar")
    backup_department(federation.departments["ash"], tmp_path / "ash.tar")
    with pytest.raises(BackupDamaged, match="a backup of a department"):
        restore(tmp_path / "ash.tar", tmp_path / "x")
    with pytest.raises(BackupDamaged, match="a backup of a coordinator"):
        restore_department(tmp_path / "coordinator.tar", tmp_path / "x")


def test_the_whole_journal_is_in_a_dump(tmp_path):
    """Row by row, table by table: what is restored is what was there, and two entries that say so under a signature."""
    with small.running(tmp_path) as at_work:
        at_work.run()
        federation = at_work.federation
    backup(federation.coordinator, tmp_path / "backup.tar")
    restore(tmp_path / "backup.tar", tmp_path / "elsewhere")
    restored, before = _rows(tmp_path / "elsewhere"), _rows(federation.coordinator.root)
    assert [row[2] for row in restored["audit"][len(before["audit"]) :]] == ["restored"]
    restored["audit"] = restored["audit"][: len(before["audit"])]
    assert restored == before


def _rows(root: Path) -> dict[str, list[tuple[Any, ...]]]:
    engine = sa.create_engine(f"sqlite:///{root / 'journal.db'}")
    with engine.connect() as db:
        names = [name for name in sa.inspect(db).get_table_names() if name not in ("about",)]
        found = {name: sorted(map(tuple, db.execute(sa.text(f"SELECT * FROM {name}")))) for name in names}
    engine.dispose()
    return found
