"""Private states as files, for workers of which any may be given any department, on any machine that sees the folder.

    FOLDER/DEPARTMENT/VERSION.safetensors    the two newest versions

A state is renamed into place, so a worker that is killed leaves the one before.  As with the engine's pages only
processes may be killed, not the machine: nothing is forced to the disk.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load, save

from commonroot.files import storage_errors

_SUFFIX: Final = ".safetensors"
#: In the file's own words: the order in which the arrays stood, which safetensors does not keep.
_ORDER: Final = "order"


class States:
    """States by department number; see ``engine.pages.Pages``, which is for workers that keep their departments."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def before(self, department: int, version: int) -> dict[str, NDArray[Any]] | None:
        """The newest state that was put under a version below this one; None before the first."""
        older = [one for one in self._versions(department) if one < version]
        if not older:
            return None
        with storage_errors(self._folder):
            data = self._path(department, max(older)).read_bytes()
        arrays = load(data)
        return {name: arrays[name] for name in _order(data)}

    def put(self, department: int, version: int, state: Mapping[str, NDArray[Any]]) -> None:
        """Keep what a department has after a round on this version; again where the round is tried again.

        Raises StorageFull, or what ``storage_errors`` makes of other failures.
        """
        path = self._path(department, version)
        fresh = path.with_suffix(f".{os.getpid()}.new")
        arrays = {name: np.asarray(array, order="C") for name, array in state.items()}
        data = save(arrays, metadata={_ORDER: json.dumps(list(arrays))})
        with storage_errors(self._folder):
            path.parent.mkdir(parents=True, exist_ok=True)
            fresh.write_bytes(data)
            fresh.replace(path)
            others = sorted(one for one in self._versions(department) if one != version)
            keep = max((one for one in others if one < version), default=None)
            for one in others:
                if one != keep:
                    self._path(department, one).unlink(missing_ok=True)

    def _versions(self, department: int) -> list[int]:
        try:
            names = [path.name for path in (self._folder / str(department)).iterdir()]
        except FileNotFoundError:
            return []
        return [int(name.removesuffix(_SUFFIX)) for name in names if name.endswith(_SUFFIX)]

    def _path(self, department: int, version: int) -> Path:
        return self._folder / str(department) / f"{version}{_SUFFIX}"


def _order(data: bytes) -> list[str]:
    """From the head of a safetensors file: eight bytes of its length, and JSON."""
    head = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    names: list[str] = json.loads(head["__metadata__"][_ORDER])
    return names
