"""Backup and restore of a department: its heads, models, ledger and approvals; keys only where asked for.

What no backup holds is an epoch's keys: chains, shared secrets, the agreement key, masked uploads.  Rounds that were
over would be closed no longer if old keys lay about, and a folder that was rolled back could answer twice for one
round.  So a restored folder takes no part in the epoch of its backup (``RestoredFolder``): it renews and joins the next
one, with its identity, its heads and its models.

It may also have forgotten, between backup and loss, what it had opened.  Of charters it had approved, the first
backbone that it is shown in its new epoch is closed to it for good, as are all before; it contributes from the next
version on.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from commonroot.archive import Packer, packing, unpacking
from commonroot.client.folder import DepartmentFolder
from commonroot.client.store import LEFT, NOTHING_PRIVATE, DepartmentStore
from commonroot.client.store_layout import NEWEST
from commonroot.common.errors import BackupDamaged, ConfigError
from commonroot.common.secure_sum.chains import STRANGER, Chains
from commonroot.common.secure_sum.memory import DepartmentMemory
from commonroot.files import private_file

KIND: Final = "department"
_STATE: Final = "state.db"
_ATTEMPTS: Final = 5
#: Files and folders that go in as they are.  Tables do not: they are the department's own data.
KEPT: Final = (
    "*.toml",
    "ca.pem",
    "roster.json",
    "roster-*-other.json",
    "report.json",
    "charters/**/*",
    "backbones/**/*",
    "predictors/**/*",
    "splits/**/*",
    "statistics/**/*",
    "evaluations/**/*",
)
#: An epoch's key: it is erased when the epoch is joined, and is no part of any backup.
_OF_AN_EPOCH: Final = "agreement"


def backup(folder: DepartmentFolder, target: Path, *, with_keys: bool = False) -> dict[str, Any]:
    """Write a backup, also while the daemon is up; what it holds.

    Raises ConfigError: the file exists; StorageFull; ForeignState: the state is damaged
    """
    DepartmentStore(folder.root, federation=folder.config.federation, department=folder.config.name).close()  # layout
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            return _once(folder, target, with_keys=with_keys)
        except ConfigError:
            if attempt == _ATTEMPTS or target.exists() or not target.parent.is_dir():
                raise
            time.sleep(0.2)  # a round ended in between, and took a head's file with it
    raise ConfigError("the department's state changes faster than it can be read")


def _once(folder: DepartmentFolder, target: Path, *, with_keys: bool) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "federation": folder.config.federation,
        "department": folder.config.name,
        "keys": with_keys,
        "layout": NEWEST,
    }
    with packing(target, KIND, lambda: facts) as packer:
        state, blobs = _without_keys(folder.root / _STATE)
        packer.add(_STATE, state)
        for name in blobs:
            packer.add_file(f"blobs/{name}", folder.root / "blobs" / name, what="the stored head")
        for path in _files(folder.root, with_keys):
            packer.add_file(path.relative_to(folder.root).as_posix(), path, what="the file")
        facts["size"] = _size(packer)
    return facts | {"file": str(target), "files": len(packer.files) - 1}


def _size(packer: Packer) -> int:
    return sum(int(each["bytes"]) for each in packer.files.values())


def _files(root: Path, with_keys: bool) -> Iterator[Path]:
    patterns = (*KEPT, "keys/*") if with_keys else KEPT
    for path in sorted({path for pattern in patterns for path in root.glob(pattern)}):
        private = any(part.startswith(".") for part in path.relative_to(root).parts)
        epochs = path.parent.name == "keys" and _OF_AN_EPOCH in path.name
        if path.is_file() and not path.is_symlink() and not private and not epochs:
            yield path


def _without_keys(path: Path) -> tuple[bytes, list[str]]:
    """The state as it stands at one moment, rules without keys, and the heads it names.  The disk sees no copy."""
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as db:
        with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True, timeout=30)) as source:
            source.backup(db)
        for epoch, value in db.execute("SELECT epoch, value FROM memory").fetchall():
            db.execute("UPDATE memory SET value = ? WHERE epoch = ?", (_rules(value), epoch))
        db.execute("UPDATE epochs SET setup = X''")
        db.execute("DELETE FROM uploads")
        db.execute("INSERT OR REPLACE INTO about VALUES ('restored', ?)", (f"{time.time():.0f}",))
        blobs = [str(row[0]) for row in db.execute("SELECT blob FROM heads WHERE blob != ?", (NOTHING_PRIVATE,))]
        db.execute("VACUUM")  # what was replaced is not among free pages either
        return db.serialize(), blobs


def _rules(value: bytes) -> bytes:
    """What a memory must not forget: which backbones were opened for whom.  Without chains, boxes and answers."""
    memory = DepartmentMemory.from_bytes(value)
    strangers = (STRANGER,) * len(memory.chains.rounds)
    return replace(
        memory,
        chains=Chains(memory.chains.at, strangers, strangers),
        commitments=tuple(replace(one, answer=b"") for one in memory.commitments),
    ).to_bytes()


def restore(source: Path, root: Path) -> dict[str, Any]:
    """Make a department's folder from a backup, whole or not at all.

    Raises ConfigError: the folder is not empty; BackupDamaged; StorageFull; ForeignState, NewerLayout
    """
    with unpacking(source, root, KIND) as (folder, about):
        for name in ("keys", "charters", "predictors", "blobs"):
            (folder / name).mkdir(mode=0o700, exist_ok=True)
        private_file(folder / _STATE)
        opened = DepartmentFolder(folder)
        config = opened.config
        if (config.federation, config.name) != (about.get("federation"), about.get("department")):
            raise BackupDamaged(f"{source} is of another department than its list says")
        store = DepartmentStore(folder, federation=config.federation, department=config.name, owner=True)
        try:
            if not store.restored:
                raise BackupDamaged(f"{source} holds a state that was never prepared for a backup")
            entries = store.ledger()
            store.record("restored", {"entries": len(entries), "made_at": round(float(about["at"]))})
            epoch = store.newest_epoch()
            standing = store.standing()
        finally:
            store.close()
        (folder / "daemon.lock").unlink(missing_ok=True)
        needed = KEYS[:1] if standing == LEFT else KEYS
        missing = [f"keys/{name}" for name in needed if not list((folder / "keys").glob(f"{name}*"))]
        charters = sorted(path.stem for path in (folder / "charters").glob("*.json"))
    return {
        "folder": str(root),
        "federation": config.federation,
        "department": config.name,
        "made_at": about["at"],
        "epoch": None if epoch is None else epoch[0],
        "ledger_entries": len(entries),
        "charters": charters,
        "missing_keys": missing,
        "standing": standing,
    }


#: Without these a department is nobody; each may be sealed, with another ending.  Whoever has left needs the first.
KEYS: Final = ("identity", "node", "training")
