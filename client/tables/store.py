"""Encoded rows that do not fit into memory: arrays in private files, mapped where they are used.

    tables/KEY/train-x.npy …    owner only; KEY is a hash of source, configuration and input
    tables/KEY/prepared.json    written last: a folder without it is no cache

An array is mapped copy-on-write: reading pages it in and out, and nothing can write to the file.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import DTypeLike, NDArray
from safetensors.numpy import load_file, save

from commonroot.client.tables.features import Features
from commonroot.client.tables.rows import Prepared, Rows
from commonroot.client.tasks import task_from_json
from commonroot.common.errors import ForeignState
from commonroot.files import atomic_write, storage_errors

FOLDER: Final = "tables"
VERSION: Final = 1
#: That many caches are kept; older ones are of sources or configurations that have gone.
KEPT: Final = 2
_RECORD: Final = "prepared.json"
_ARRAYS: Final = "features.safetensors"
PARTS: Final = ("train", "validation", "test")


def cache_key(*facts: str) -> str:
    """Hex of a hash of everything that decides the encoded rows."""
    return hashlib.blake2b(json.dumps([VERSION, *facts]).encode(), digest_size=16).hexdigest()


class Shelf:
    """Where arrays of encoded rows are made: in memory, or in files of one private folder."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._made: list[Path] = []
        if folder is not None:
            with storage_errors(folder):
                folder.parent.mkdir(mode=0o700, exist_ok=True)
                shutil.rmtree(folder, ignore_errors=True)  # half a cache, of a process that was stopped
                folder.mkdir(mode=0o700)

    def empty(self, name: str, shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
        """A writable array; its values are not set.  Raises StorageFull where the disk is too small for it."""
        if self._folder is None or not np.prod(shape):
            return np.empty(shape, dtype=dtype)
        path = self._folder / f"{name}.npy"
        with storage_errors(path):
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
            mapped = np.lib.format.open_memmap(path, mode="w+", dtype=np.dtype(dtype), shape=shape)
            with path.open("r+b") as file:  # take the room now: a full disk must not end in a bus error
                os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
        self._made.append(path)
        return mapped

    def drop(self, name: str) -> None:
        """Remove an array that was only a step on the way."""
        if self._folder is not None:
            (self._folder / f"{name}.npy").unlink(missing_ok=True)

    def discard(self) -> None:
        """Remove everything that was made."""
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

    def finish(self, prepared: Prepared) -> Prepared:
        """Make the cache complete and hand out its arrays mapped from their files."""
        if self._folder is None:
            return prepared
        for name, rows in zip(PARTS, _parts(prepared), strict=True):
            for side, array in (("x", rows.x), ("y", rows.y)):
                path = self._folder / f"{name}-{side}.npy"
                if isinstance(array, np.memmap):
                    array.flush()
                else:
                    atomic_write(path, b"", mode=0o600)
                    np.save(path, array, allow_pickle=False)
        record = {
            "version": VERSION,
            "task": prepared.task.to_json(),
            "features": prepared.features.to_json(),
            "notes": list(prepared.notes),
            "labelled": prepared.labelled,
        }
        arrays = {name: np.asarray(array, order="C") for name, array in prepared.features.arrays().items()}
        atomic_write(self._folder / _ARRAYS, save(arrays), mode=0o600)
        text = json.dumps(record, ensure_ascii=False, allow_nan=False)
        atomic_write(self._folder / _RECORD, text.encode(), mode=0o600)
        _forget(self._folder)
        found = cached(self._folder)
        if found is None:
            raise ForeignState(f"{self._folder.name} was written and cannot be read")
        return found


def cached(folder: Path) -> Prepared | None:
    """What an earlier preparation left, or None where there is nothing whole."""
    try:
        record = json.loads((folder / _RECORD).read_bytes())
        if record["version"] != VERSION:
            return None
        arrays = load_file(folder / _ARRAYS) if (folder / _ARRAYS).is_file() else {}
        features = Features.from_json(record["features"], arrays)
        rows = [Rows(*(_mapped(folder / f"{name}-{side}.npy") for side in ("x", "y"))) for name in PARTS]
        notes = tuple(map(str, record["notes"]))
        labelled = bool(record.get("labelled", True))
        return Prepared(task_from_json(record["task"]), features, rows[0], rows[1], rows[2], notes, labelled)
    except (OSError, ValueError, KeyError, TypeError, ForeignState):
        return None


def _mapped(path: Path) -> NDArray[Any]:
    if path.name.endswith("-x.npy"):
        try:
            return np.asanyarray(np.lib.format.open_memmap(path, mode="c"))
        except ValueError:  # an array of no rows cannot be mapped
            pass
    with path.open("rb") as file:
        return np.asarray(np.load(file, allow_pickle=False))


def _parts(prepared: Prepared) -> tuple[Rows, Rows, Rows]:
    return prepared.train, prepared.validation, prepared.test


def _forget(kept: Path) -> None:
    """Older caches take room and are of no use; one that is still mapped stays readable until it is let go."""
    others = [one for one in kept.parent.iterdir() if one.is_dir() and one != kept]
    others.sort(key=lambda one: one.stat().st_mtime, reverse=True)
    for old in others[KEPT - 1 :]:
        shutil.rmtree(old, ignore_errors=True)
