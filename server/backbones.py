"""The coordinator's store of backbone versions: safetensors files, named by run and version, checked by hash."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from commonroot.common.errors import ForeignState
from commonroot.common.secure_sum.primitives import sha256
from commonroot.files import atomic_write, read_bytes

State = dict[str, NDArray[np.float32]]


class BackboneStore:
    """Versions of the shared state (what is broadcast, plus whatever the strategy keeps at the coordinator)."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def write(self, run: int, version: int, state: Mapping[str, NDArray[np.float32]]) -> tuple[str, bytes]:
        """Store a version durably; returns its file name and the SHA-256 of the file."""
        name = f"run-{run}-version-{version}.safetensors"
        data = save({key: np.asarray(value, order="C") for key, value in state.items()})
        atomic_write(self.folder / name, data)
        return name, sha256(data)

    def read(self, name: str, digest: bytes) -> State:
        """A stored version; ForeignState where the file is not the one that was written."""
        data = read_bytes(self.folder / name, what="the backbone")
        if sha256(data) != digest:
            raise ForeignState(f"{self.folder / name} is not the file that the journal lists: its hash differs")
        try:
            return dict(load(data))
        except SafetensorError as error:
            raise ForeignState(f"{self.folder / name} is not a safetensors file") from error
