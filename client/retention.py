"""What a department lets go of, and what it never does.

Let go of, where ``[retention]`` asks: models that were chosen earlier than the newest ones; encoded tables that nobody
has read for long, which are made again from the source; old logs.

Never: the model in use, heads, protocol memory, approvals, evidence, any entry of the ledger: its chain needs all.
"""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Annotated, Any, Final

from pydantic import BaseModel, ConfigDict, Field

from commonroot.files import lock_file

_DAY: Final = 86400.0


class RetentionConfig(BaseModel):
    """``[retention]`` of ``department.toml``; 0 keeps everything.

    predictors   models kept, the ones chosen last
    tables_days  encoded tables that were not read for so long
    logs_days    files in ``logs/``
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    predictors: Annotated[int, Field(ge=0)] = 0
    tables_days: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0
    logs_days: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0


def prune(root: Path, asked: RetentionConfig, chosen: list[str], *, dry_run: bool, owner: bool) -> dict[str, Any]:
    """Let go of what ``[retention]`` says, or with ``dry_run`` only tell.

    Parameters  chosen: names of chosen models, the newest last; owner: is this the daemon, when nobody reads a table?
    """
    now = time.time()
    old = [root / "predictors" / name for name in _earlier(chosen, asked.predictors)]
    old += _untouched(root / "logs", asked.logs_days, now, folders=False)
    lock = None if owner else lock_file(root / "daemon.lock")
    try:
        if owner or lock is not None:  # a daemon may be training on them
            old += _untouched(root / "tables", asked.tables_days, now, folders=True)
        present = [path for path in old if path.exists()]
        facts = {
            "asked": any((asked.predictors, asked.tables_days, asked.logs_days)),
            "paths": [path.relative_to(root).as_posix() for path in present],
            "bytes": sum(map(size_of, present)),
            "dry_run": dry_run,
        }
        for path in () if dry_run else present:
            if path.is_dir():
                hidden = path.with_name(f".{path.name}.gone")  # a name that nobody looks for, before it is half there
                path.replace(hidden)
                shutil.rmtree(hidden, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
        return facts
    finally:
        if lock is not None:
            lock.close()


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files in a folder."""
    return path.stat().st_size if path.is_file() else sum(p.stat().st_size for p in path.rglob("*") if p.is_file())


def disk_use(root: Path) -> dict[str, Any]:
    """Bytes by what they are for, and bytes that are free."""
    uses: dict[str, int] = {}
    for path in root.iterdir():
        name = "state.db" if path.name.startswith("state.db") else path.name if path.is_dir() else "other"
        uses[name] = uses.get(name, 0) + size_of(path)
    return {"uses": dict(sorted(uses.items())), "free": shutil.disk_usage(root).free}


def _earlier(chosen: list[str], kept: int) -> list[str]:
    """Names beyond the newest ``kept``; a name that is chosen again is as new as its last time."""
    newest_first = list(dict.fromkeys(name for name in reversed(chosen) if name))
    return newest_first[kept:] if kept else []


def _untouched(folder: Path, days: float, now: float, *, folders: bool) -> list[Path]:
    if not days or not folder.is_dir():
        return []
    inside = [path for path in folder.iterdir() if path.is_dir() == folders]
    return [path for path in inside if max(_times(path), default=now) < now - days * _DAY]


def _times(path: Path) -> list[float]:
    files = [path] if path.is_file() else [path, *path.rglob("*")]
    return [
        max(each.stat().st_mtime, each.stat().st_atime) if each.is_file() else each.stat().st_mtime for each in files
    ]
