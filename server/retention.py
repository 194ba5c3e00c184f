"""What the coordinator lets go of, and what it never does.

Let go of, where ``[retention]`` asks: files of versions of finished runs beyond the newest ones; requests of old rounds
of finished runs; old faults; old logs.  Files that neither the journal nor a charter names are litter of a crash.

Never: any version of a run that is not finished; a finished run's newest version, which late departments are given;
hashes, results and cohorts of rounds; the highest round number; messages that departments have signed; charters,
rosters and what charters start from.

A file goes after the transaction that no longer names it; where a process ends in between, it is litter.
"""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Any, Final

import sqlalchemy as sa

from commonroot.common.charter import SignedCharter
from commonroot.files import BACKBONES, read_bytes
from commonroot.server import journal_tables as tables
from commonroot.server.folder import CoordinatorFolder
from commonroot.server.journal import Journal
from commonroot.server.keeping import RetentionConfig

_DAY: Final = 86400.0
#: A file that nobody names may be one that is being written.
_SETTLED: Final = 3600.0


def prune(folder: CoordinatorFolder, *, dry_run: bool = False, journal: Journal | None = None) -> dict[str, Any]:
    """Let go of what ``[retention]`` says, or with ``dry_run`` only tell.

    Parameters  journal: where it is open already
    """
    opened = journal or folder.journal()
    try:
        return _prune(folder, opened, folder.config.retention, dry_run=dry_run)
    finally:
        if journal is None:
            opened.close()


def _prune(folder: CoordinatorFolder, journal: Journal, asked: RetentionConfig, *, dry_run: bool) -> dict[str, Any]:
    now = time.time()
    facts: dict[str, Any] = journal.database.outlast(lambda: _let_go(journal, asked, now, dry_run=dry_run))
    kept = set(journal.database.outlast(lambda: _named(journal))) - set(facts.pop("names"))
    litter = [*_backbones_beside(folder, kept, now), *_old_logs(folder.root / "logs", asked.logs_days, now)]
    files = sorted({*litter, *(folder.root / BACKBONES / name for name in facts.pop("unnamed"))})
    present = [path for path in files if path.is_file()]
    facts |= {
        "asked": asked.asks_for_anything,
        "files": [path.relative_to(folder.root).as_posix() for path in present],
        "bytes": sum(path.stat().st_size for path in present),
        "dry_run": dry_run,
    }
    if not dry_run:
        for path in present:
            path.unlink(missing_ok=True)
        if present or facts["rounds"] or facts["faults"]:
            told = {
                "files": len(present),
                "bytes": facts["bytes"],
                "rounds": facts["rounds"],
                "faults": facts["faults"],
            }
            journal.note("pruned", told)
    return facts


def _let_go(journal: Journal, asked: RetentionConfig, now: float, *, dry_run: bool) -> dict[str, Any]:
    """The journal's part, in one transaction."""
    v, r, f = tables.versions.c, tables.rounds.c, tables.faults.c
    finished = sa.select(tables.runs.c.run).where(tables.runs.c.state == "finished")
    with journal.database.writing() as db:
        names: list[str] = []
        if asked.versions:
            newer = tables.versions.alias()
            newer_ones = (
                sa.select(sa.func.count())
                .select_from(newer)
                .where(newer.c.run == v.run, newer.c.version > v.version)
                .scalar_subquery()
            )
            old = sa.and_(v.run.in_(finished), v.file != "", newer_ones >= asked.versions)
            names = list(db.execute(sa.select(v.file).where(old)).scalars())
            if not dry_run and names:
                db.execute(tables.versions.update().where(v.file.in_(names), v.run.in_(finished)).values(file=""))
        slim = sa.and_(
            r.run.in_(finished),
            r.state.in_(("closed", "lost")),
            r.ended < now - asked.rounds_days * _DAY,
            r.opening != b"",
        )
        rounds = _count(db, tables.rounds, slim) if asked.rounds_days else 0
        if rounds and not dry_run:
            db.execute(tables.rounds.update().where(slim).values(opening=b""))
        gone = f.at < now - asked.faults_days * _DAY
        faults = _count(db, tables.faults, gone) if asked.faults_days else 0
        if faults and not dry_run:
            db.execute(tables.faults.delete().where(gone))
        still = set(db.execute(sa.select(v.file).where(v.file != "")).scalars())
    unnamed = [name for name in names if dry_run or name not in still]
    return {"names": names, "unnamed": unnamed, "rounds": rounds, "faults": faults}


def _count(db: sa.Connection, table: sa.Table, where: sa.ColumnElement[bool]) -> int:
    return int(db.execute(sa.select(sa.func.count()).select_from(table).where(where)).scalar_one())


def _named(journal: Journal) -> list[str]:
    with journal.database.reading() as db:
        return list(db.execute(sa.select(tables.versions.c.file)).scalars())


def _backbones_beside(folder: CoordinatorFolder, kept: set[str], now: float) -> list[Path]:
    """Files of ``backbones/`` that neither a version nor a charter names, and that nobody is writing."""
    started_from = {f"{digest}.safetensors" for digest in _warm_starts(folder.root / "charters")}
    found = (folder.root / BACKBONES).iterdir() if (folder.root / BACKBONES).is_dir() else ()
    return [
        path
        for path in found
        if path.name not in kept | started_from and path.is_file() and path.stat().st_mtime < now - _SETTLED
    ]


def _warm_starts(charters: Path) -> set[str]:
    found = (SignedCharter.from_json(read_bytes(path, what="the charter")) for path in charters.glob("*.json"))
    return {signed.charter.training.warm_start for signed in found if signed.charter.training.warm_start}


def _old_logs(logs: Path, days: float, now: float) -> list[Path]:
    if not days or not logs.is_dir():
        return []
    return [path for path in logs.iterdir() if path.is_file() and path.stat().st_mtime < now - days * _DAY]


def disk_use(folder: CoordinatorFolder) -> dict[str, Any]:
    """Bytes by what they are for, and bytes that are free."""
    uses: dict[str, int] = {}
    for path in folder.root.rglob("*"):
        if path.is_file() and not path.is_symlink():
            first = path.relative_to(folder.root).parts[0]
            name = "journal" if first.startswith("journal.db") else first if (folder.root / first).is_dir() else "other"
            uses[name] = uses.get(name, 0) + path.stat().st_size
    return {"uses": dict(sorted(uses.items())), "free": shutil.disk_usage(folder.root).free}


class Keeper:
    """Prunes by itself, now and then, while a coordinator is idle."""

    #: Seconds between two looks.
    EVERY: Final = 3600.0

    def __init__(self, folder: CoordinatorFolder, journal: Journal) -> None:
        self._folder = folder
        self._journal = journal
        self._next = 0.0

    def look(self, now: float) -> dict[str, Any] | None:
        """What was let go of, where it was time to look and there was anything; ``now``: of a monotonic clock."""
        if not self._folder.config.retention.asks_for_anything or now < self._next:
            return None
        self._next = now + self.EVERY
        facts = prune(self._folder, journal=self._journal)
        return {"files": len(facts["files"]), "bytes": facts["bytes"]} if facts["files"] else None
