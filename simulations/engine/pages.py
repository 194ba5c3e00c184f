"""Private states of all departments in one file, so that those who wait take no memory.

Each department has two slots, and a state goes into the one that holds the older version.  So the state from before a
round is there until the round after the next begins, whatever happens in between: that is what a killed simulation
goes on from.  Only the process may be killed, not the machine: nothing is forced to the disk.

    FOLDER/states.bin     the slots, as large as what they first held, at the end of the file where it no longer fits
    FOLDER/slots.npy      per department and slot: version, layout, offset, room; a version of -1 is empty
    FOLDER/layouts.jsonl  names, shapes and types of arrays; departments that are alike share one
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from commonroot.files import storage_errors

Arrays = Mapping[str, NDArray[Any]]
_Layout = tuple[tuple[str, tuple[int, ...], str], ...]
_VERSION, _LAYOUT, _OFFSET, _ROOM = range(4)
_EMPTY: Final = -1
#: Departments are dealt out to so many files of states, whatever the number of processes.
SHARDS: Final = 16


class Pages:
    """States by department number.

    newest  the version that the journal ends with: no round can have put anything under a later one, and what is found
            there counts as nothing
    """

    def __init__(self, folder: Path, departments: int, *, newest: int) -> None:
        with storage_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
            self._file = os.open(folder / "states.bin", os.O_RDWR | os.O_CREAT, 0o600)
        self._slots = _slots(folder / "slots.npy", departments)
        self._layouts: list[_Layout] = []
        self._numbers: dict[_Layout, int] = {}
        self._list = folder / "layouts.jsonl"
        self._folder = folder
        for layout in _read_layouts(self._list):
            self._numbers[layout] = len(self._layouts)
            self._layouts.append(layout)
        self._end = os.fstat(self._file).st_size
        versions = self._slots[:, :, _VERSION]
        versions[versions > newest] = _EMPTY

    def close(self) -> None:
        """Let go of the files."""
        os.close(self._file)

    def before(self, department: int, version: int) -> dict[str, NDArray[Any]] | None:
        """The newest state that was put under a version below this one; None before the first.  Read only."""
        slots = [slot for slot in self._slots[department].tolist() if _EMPTY < slot[_VERSION] < version]
        if not slots:
            return None
        slot = max(slots, key=lambda one: one[_VERSION])
        layout = self._layouts[slot[_LAYOUT]]
        data = os.pread(self._file, _size(layout), slot[_OFFSET])
        found, at = {}, 0
        for name, shape, kind in layout:
            count = math.prod(shape)
            found[name] = np.frombuffer(data, dtype=kind, count=count, offset=at).reshape(shape)
            at += count * np.dtype(kind).itemsize
        return found

    def put(self, department: int, version: int, state: Arrays) -> None:
        """Keep what a department has after a round on this version, even a lost one; again where it is tried again.

        A round reads versions below its own, so what it puts never changes what it finds when it is tried again.
        """
        arrays = {name: np.ascontiguousarray(array) for name, array in state.items()}
        layout = tuple((name, array.shape, array.dtype.str) for name, array in arrays.items())
        data = b"".join(array.tobytes() for array in arrays.values())
        versions = self._slots[department, :, _VERSION].tolist()
        again = [at for at, one in enumerate(versions) if one >= version]
        slot = self._slots[department, again[0] if again else versions.index(min(versions))]
        with storage_errors(self._folder):
            number = self._number(layout)
            slot[_VERSION] = _EMPTY
            if slot[_ROOM] < len(data):
                slot[_OFFSET], slot[_ROOM] = self._end, len(data)
                self._end += len(data)
            os.pwrite(self._file, data, int(slot[_OFFSET]))
        slot[_LAYOUT] = number
        slot[_VERSION] = version

    def _number(self, layout: _Layout) -> int:
        if layout not in self._numbers:
            with self._list.open("ab") as file:
                file.write(json.dumps(layout).encode() + b"\n")
            self._numbers[layout] = len(self._layouts)
            self._layouts.append(layout)
        return self._numbers[layout]


class Shards:
    """Pages of some shards of all departments, by a department's number in the federation."""

    def __init__(self, folder: Path, shards: Iterable[int], departments: int, *, newest: int) -> None:
        room = -(-departments // SHARDS)
        self._pages = {shard: Pages(folder / str(shard), room, newest=newest) for shard in shards}

    def before(self, department: int, version: int) -> dict[str, NDArray[Any]] | None:
        """See ``Pages``."""
        return self._pages[department % SHARDS].before(department // SHARDS, version)

    def put(self, department: int, version: int, state: Arrays) -> None:
        """See ``Pages``."""
        self._pages[department % SHARDS].put(department // SHARDS, version, state)


def _slots(path: Path, departments: int) -> NDArray[np.int64]:
    """(departments, 2, 4), kept in the file."""
    with storage_errors(path):
        if not path.exists():
            fresh = np.zeros((departments, 2, 4), dtype=np.int64)
            fresh[:, :, _VERSION] = _EMPTY
            with path.with_suffix(".new").open("wb") as file:
                np.save(file, fresh)
            path.with_suffix(".new").replace(path)
        found: NDArray[np.int64] = np.lib.format.open_memmap(path, mode="r+")
    return found


def _read_layouts(path: Path) -> list[_Layout]:
    """A last line that was cut short belongs to a state that was never put; it is cut off the file as well."""
    if not path.exists():
        return []
    data = path.read_bytes()
    whole = data[: data.rfind(b"\n") + 1]
    if len(whole) < len(data):
        os.truncate(path, len(whole))
    return [
        tuple((str(name), tuple(shape), str(kind)) for name, shape, kind in json.loads(line))
        for line in whole.splitlines()
    ]


def _size(layout: _Layout) -> int:
    return sum(math.prod(shape) * np.dtype(kind).itemsize for _, shape, kind in layout)
