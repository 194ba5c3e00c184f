"""Folders that are lost, moved and come back from a backup."""

from __future__ import annotations

import dataclasses
import io
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

from federation import small

from commonroot.server.backup import with_database
from commonroot.server.folder import CoordinatorFolder
from commonroot.simulations.founding import Federation


def moved(at_work: small.ToyFederation, root: Path) -> None:
    """From now on the coordinator is the one in another folder."""
    at_work.federation = dataclasses.replace(at_work.federation, coordinator=CoordinatorFolder(root))


def use(federation: Federation, url: str) -> Federation:
    """Let the coordinator keep its journal elsewhere."""
    path = federation.coordinator.root / "coordinator.toml"
    path.write_text(with_database(path.read_text(), url))
    return dataclasses.replace(federation, coordinator=CoordinatorFolder(path.parent))


def wipe(folder: Path) -> None:
    shutil.rmtree(folder)


def journaled(federation: Federation) -> tuple[str, str, list[tuple[int, str]]]:
    with small.journal_of(federation) as journal:
        run = journal.runs()[0]
        return run.state, run.reason, [(r.round, r.state) for r in journal.rounds()]


def repacked(source: Path, target: Path, change: Callable[[str, bytes], list[tuple[str, bytes]]]) -> Path:
    """The same backup with some of its files changed."""
    with tarfile.open(source) as old, tarfile.open(target, "w") as new:
        for member in old:
            for name, data in change(member.name, old.extractfile(member).read()):
                info = tarfile.TarInfo(name)
                info.size = len(data)
                new.addfile(info, io.BytesIO(data))
    return target
