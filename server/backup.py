"""Backup and restore of the coordinator: its journal as it stood at one moment, and every file that the journal names.

Kept       the journal, whichever database it is in; kept versions of backbones and what charters start from; the masked
           sum of a round whose survivor set is fixed; configuration without passwords, roster, charters, certificates
Keys       only where asked for: whoever has them is the coordinator, and can sign what departments believe
Not kept   ``links/`` (Flower's messages in flight: they are asked again), logs, locks

A restored coordinator goes on with what was under way when the backup was made, and numbers later rounds and runs from
further on (``restores.SKIPPED``), for departments answer for no number twice.  A round that was open is given up, as a
survivor set may have been signed for it since.  The audit log says all of this (``common.restores``).  Where
departments have meanwhile gone on to a newer version of a backbone, that run cannot go on: they never take an older
one.  See ``docs/keeping.md``.
"""

from __future__ import annotations

import re
import tempfile
import time
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import sqlalchemy as sa

from commonroot.archive import Packer, packing, unpacking
from commonroot.common.errors import BackupDamaged, ConfigError
from commonroot.common.restores import SKIPPED, SKIPPED_RUNS
from commonroot.files import BACKBONES, atomic_write, is_sealed, read_text
from commonroot.server import audit, journal_dump, keeping
from commonroot.server import journal_tables as tables
from commonroot.server.folder import CoordinatorFolder
from commonroot.server.journal_database import Database
from commonroot.server.journal_dump import Dumped
from commonroot.server.journal_engine import sqlite_url
from commonroot.server.migrations import NEWEST

KIND: Final = "coordinator"
_JOURNAL: Final = "journal.jsonl"
_CONFIG: Final = "coordinator.toml"
#: What is no part of a backup, or goes in by another way: first parts of paths, and ends of names.
_LEFT_OUT: Final = ("links", "logs")
_LEFT_OUT_ENDS: Final = (".lock", ".owner", ".masked", "-wal", "-shm")
#: A version's file, which is kept if the journal names it.
_OF_A_RUN: Final = re.compile(r"run-\d+-version-\d+\.safetensors")
#: Files may go and come while the journal is read: then it is read again.
_ATTEMPTS: Final = 5


def backup(folder: CoordinatorFolder, target: Path, *, with_keys: bool = False) -> dict[str, Any]:
    """Write a backup, also while the coordinator is up; what it holds.

    Raises ConfigError: the file exists; StorageFull; BackupDamaged: a backbone is not what the journal lists
    """
    journal = folder.journal()
    try:
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                return _once(folder, journal.database, target, with_keys=with_keys)
            except (ConfigError, BackupDamaged):
                if attempt == _ATTEMPTS or target.exists() or not target.parent.is_dir():
                    raise
                time.sleep(0.2)  # a round ended in between, and its file with it
        raise ConfigError("the journal changes faster than it can be read")
    finally:
        journal.close()


def _once(folder: CoordinatorFolder, database: Database, target: Path, *, with_keys: bool) -> dict[str, Any]:
    facts: dict[str, Any] = {"federation": folder.config.federation, "keys": with_keys}
    with packing(target, KIND, lambda: facts) as packer:
        dumped = _add_journal(packer, database, target.parent)
        facts |= {"layout": dumped.layout, "last_round": dumped.last_round, "rows": dumped.rows}
        for name, digest in sorted(dumped.backbones.items()):
            packer.add_file(f"{BACKBONES}/{name}", folder.root / BACKBONES / name, what="the backbone", sha256=digest)
        for number, digest in dumped.masked.items():
            name = f"round-{number}.masked"
            packer.add_file(name, folder.root / name, what="the masked sum", sha256=digest)
        packer.add(_CONFIG, _configuration(folder).encode())
        for path in _files(folder.root):
            name = path.relative_to(folder.root).as_posix()
            if with_keys or not is_key(name):
                packer.add_file(name, path, what="the file")
        facts["size"] = sum(each["bytes"] for each in packer.files.values())
    return facts | {"file": str(target), "files": len(packer.files) - 1}


def _add_journal(packer: Packer, database: Database, beside: Path) -> Dumped:
    with tempfile.NamedTemporaryFile(dir=beside, prefix=".journal.") as lines:  # 0600

        def once() -> Dumped:
            lines.seek(0)
            lines.truncate()
            return journal_dump.dump(database, lines.file)

        dumped: Dumped = database.outlast(once)
        lines.flush()
        packer.add_file(_JOURNAL, Path(lines.name), what="the journal")
    return dumped


def _configuration(folder: CoordinatorFolder) -> str:
    """``coordinator.toml`` without a password."""
    text = read_text(folder.root / _CONFIG, what="the configuration")
    return text if not folder.config.database else with_database(text, keeping.without_password(folder.config.database))


def with_database(text: str, told: str) -> str:
    """The configuration with another ``database``; everything else as it stands."""
    if '"' in told or "\\" in told or not told.isprintable():
        raise ConfigError("the database's URL holds characters that cannot be written", hint="encode them with %")
    line = f'database = "{told}"'
    changed, count = re.subn(r"(?m)^database[ \t]*=.*$", lambda _: line, text, count=1)
    if tomllib.loads(text).get("database") is None or count == 0:
        changed = f"{line}\n{text}"
    if tomllib.loads(changed).get("database") != told:
        raise ConfigError("`database` in coordinator.toml is written in a way that cannot be replaced", hint="one line")
    return changed


def is_key(name: str) -> bool:
    """Is this file of the folder a secret of the coordinator's?"""
    return name.startswith("keys/") or name.endswith((".key", ".token", ".secret"))


def _files(root: Path) -> Iterator[Path]:
    """Files of the folder that go in as they are."""
    for path in sorted(root.rglob("*")):
        name = path.relative_to(root).as_posix()
        parts = name.split("/")
        if not path.is_file() or path.is_symlink() or any(part.startswith(".") for part in parts):
            continue
        if parts[0] in _LEFT_OUT or name == _CONFIG or name.endswith(_LEFT_OUT_ENDS):
            continue
        if name.startswith("journal.db") or (parts[0] == BACKBONES and _OF_A_RUN.fullmatch(parts[-1])):
            continue
        if _is_database(path):
            continue
        yield path


def _is_database(path: Path) -> bool:
    """A journal under another name lies in the folder: it goes in as rows."""
    with path.open("rb") as file:
        return file.read(16) == b"SQLite format 3\0"


# -- restore -------------------------------------------------------------------------------------------------------


def restore(source: Path, root: Path, *, database: str = "", after_round: int = 0) -> dict[str, Any]:
    """Make a coordinator's folder from a backup, whole or not at all.

    Parameters  database: as in coordinator.toml; empty for journal.db in the folder, wherever the journal was before
                after_round: number rounds from beyond this one, where that is more than ``SKIPPED`` beyond the backup's
    Raises      ConfigError: the folder or the database is not empty; BackupDamaged; StorageFull; and what opening a
                database raises
    """
    with unpacking(source, root, KIND) as (folder, about):
        layout = _number(about, "layout")
        if not 0 < layout <= NEWEST:
            raise BackupDamaged(f"{source} is of layout {layout}; this version knows layouts up to {NEWEST}")
        config = folder / _CONFIG
        text = with_database(read_text(config, what="the configuration"), database)
        atomic_write(config, text.encode(), mode=0o600 if "@" in database else 0o644)
        for name in ("keys", "authority", "charters", BACKBONES, "links"):
            (folder / name).mkdir(mode=0o700, exist_ok=True)
        federation = CoordinatorFolder(folder).config.federation
        url = keeping.database_url(database, config) if database else sqlite_url(folder / "journal.db")
        last_round = _number(about, "last_round")
        forgets = _Forgets(float(about["at"]), (last_round, max(last_round + SKIPPED, after_round)))
        held = _fill(url, folder, layout, forgets.marks(federation), forgets.write)
        (folder / _JOURNAL).unlink()
        missing = [name for name in KEYS if not (folder / name).is_file()]
        signed = _signed(CoordinatorFolder(folder))
    return {
        "folder": str(root),
        "federation": federation,
        "made_at": about["at"],
        "program": about.get("program", ""),
        "rows": held,
        "rounds_from": forgets.rounds[1] + 1,
        "given_up": forgets.given_up,
        "signed": signed,
        "database": keeping.without_password(database) or "journal.db",
        "missing_keys": missing,
    }


#: Without these a coordinator cannot be up; the authority's may be kept elsewhere.
KEYS: Final = ("keys/coordinator.key", "tls/server.key")


@dataclass(slots=True)
class _Forgets:
    """What a restored coordinator does not know any more, written down in the transaction that fills its journal."""

    made_at: float
    rounds: tuple[int, int]
    given_up: list[int] = field(default_factory=list)

    def marks(self, federation: str) -> dict[str, str]:
        """For ``about``, before anything else is looked up there."""
        made = f"{self.made_at:.0f}"
        return {"federation": federation, "rounds_from": str(self.rounds[1]), "restored": made}

    def write(self, db: sa.Connection) -> None:
        """The entry in the audit log, where run numbers go on, and the rounds that are given up."""
        last_run = max(journal_dump.highest(db, tables.runs.c.run), journal_dump.mark(db, "runs_from"))
        runs = (last_run, last_run + SKIPPED_RUNS)
        db.execute(tables.about.delete().where(tables.about.c.name == "runs_from"))
        db.execute(tables.about.insert().values(name="runs_from", value=str(runs[1])))
        still_open = sa.select(tables.rounds.c.round).where(tables.rounds.c.state == "open")
        self.given_up = sorted(int(number) for number in db.execute(still_open).scalars())
        audit.restored(db, made_at=self.made_at, rounds=self.rounds, runs=runs, given_up=self.given_up)
        for number in self.given_up:
            reason = "it was open when the backup was made, and its survivor set may have been fixed since"
            row = tables.rounds.update().where(tables.rounds.c.round == number)
            db.execute(row.values(state="lost", reason=reason, ended=time.time()))
            audit.append(db, "round-lost", {"round": number})


def _signed(folder: CoordinatorFolder) -> bool:
    """Sign what the audit log says of the restore, if the key is here and lies open; else ``coordinator up`` does."""
    key = folder.root / "keys" / "coordinator.key"
    if not key.is_file() or is_sealed(key):
        return False
    journal = folder.journal()
    try:
        journal.sign_restore(folder.identity())
    finally:
        journal.close()
    return True


def _fill(
    url: str, folder: Path, layout: int, marks: dict[str, str], then: Callable[[sa.Connection], None]
) -> dict[str, int]:
    opened = Database(url)
    try:
        with opened.held():
            rows: dict[str, int] = opened.outlast(
                lambda: journal_dump.load(opened, folder / _JOURNAL, layout=layout, about=marks, then=then)
            )
    except sa.exc.SQLAlchemyError as error:
        raise BackupDamaged(f"the backup's journal cannot be loaded ({type(error).__name__})") from None
    finally:
        opened.close()
    return rows


def _number(about: dict[str, Any], name: str) -> int:
    value = about.get(name)
    if not isinstance(value, int) or isinstance(value, bool):
        raise BackupDamaged(f"the backup's list says no {name}")
    return value
