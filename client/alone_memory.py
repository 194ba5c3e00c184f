"""What was found alone, kept for whoever asks again: other methods on the same rows need not fit the same models anew.

A file is named by a hash of all that decides its content: the rows, the task, what was fitted and how, the versions of
program and libraries.  In simulations, whose arms share their departments; a deployed department keeps nothing of it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from commonroot import __version__
from commonroot.client.data import DataConfig
from commonroot.files import atomic_write, storage_errors

_LIBRARIES: Final = ("numpy", "scikit-learn", "torch")


class AloneMemory:
    """Arrays by what they were computed from.

    folder  may be shared by departments and by processes; equal questions have equal answers
    data    the department's section; where its tables lie says nothing about what is in them
    """

    def __init__(self, folder: Path, data: DataConfig) -> None:
        self._folder = folder
        section = data.model_dump(mode="json", exclude={"path", "test_path", "catalogue"})
        self._common = {"section": section, "versions": _versions()}

    def recall(
        self, asked: Mapping[str, Any], rows: Sequence[NDArray[Any]], compute: Callable[[], Sequence[NDArray[Any]]]
    ) -> list[NDArray[Any]]:
        """What ``compute`` gives for these rows, from the folder where it stands there.

        asked  JSON values that say what is computed, besides the rows
        """
        path = self._folder / f"{self._key(asked, rows)}.safetensors"
        if path.is_file():
            try:
                found = load_file(path)
            except (OSError, SafetensorError):  # another disk's fault; it is found again
                found = {}
            if found:
                return [found[str(at)] for at in range(len(found))]
        computed = [np.ascontiguousarray(array) for array in compute()]
        with storage_errors(self._folder):
            self._folder.mkdir(parents=True, exist_ok=True)
        atomic_write(path, save({str(at): array for at, array in enumerate(computed)}))
        return computed

    def _key(self, asked: Mapping[str, Any], rows: Sequence[NDArray[Any]]) -> str:
        digest = hashlib.sha256(json.dumps(self._common | {"asked": dict(asked)}, sort_keys=True).encode())
        for array in rows:
            digest.update(f"{array.dtype.str} {array.shape} ".encode())
            digest.update(np.ascontiguousarray(array).data if array.size else b"")
        return digest.hexdigest()[:40]


@dataclass(frozen=True, slots=True)
class Basis:
    """What training alone rests on, besides the rows.

    secret  the department's own seed for it, the same under every charter
    memory  where outputs are kept for other charters on the same rows, or None
    """

    secret: int = field(repr=False)
    memory: AloneMemory | None = field(default=None, repr=False)

    def recall(
        self, asked: Mapping[str, Any], rows: Sequence[NDArray[Any]], compute: Callable[[], Sequence[NDArray[Any]]]
    ) -> Sequence[NDArray[Any]]:
        """As ``AloneMemory.recall``; without one everything is computed."""
        return compute() if self.memory is None else self.memory.recall(asked, rows, compute)


@cache
def _versions() -> dict[str, str]:
    return {"commonroot": __version__} | {name: version(name) for name in _LIBRARIES}
