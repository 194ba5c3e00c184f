"""A split never changes under a run: at first use under a charter it is stored with its source's fingerprint.

splits/CHARTER.safetensors    part of each row; metadata: fingerprint of the source, hash of the configuration
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from commonroot.client.tables.config import DataConfig
from commonroot.common.errors import ForeignState, SourceChanged
from commonroot.files import atomic_write, storage_errors

FOLDER: Final = "splits"
#: What decides rows and their split, beside the source; the rest may be changed under a run.
_DECIDES: Final = (
    "target", "features", "labels", "validation", "test", "test_rows", "split", "window", "task", "seed",
    "missing", "balance", "scaling", "separator", "encoding", "query",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Pin:
    """Where the split of a charter is kept.

    write  whether a first use stores it; a mere check does not
    """

    path: Path
    write: bool = True

    @classmethod
    def of(cls, root: Path, charter: str, *, write: bool) -> Pin:
        """In a department's folder, for the charter with that hash."""
        return cls(root / FOLDER / f"{charter[:32]}.safetensors", write)


def config_digest(config: DataConfig) -> str:
    """Hex of a hash of everything in the configuration that decides rows and their split."""
    plain = config.model_dump(mode="json", include=set(_DECIDES))
    if not config.labelled:
        plain["labelled"] = False
    if config.decimal != ".":
        plain["decimal"] = config.decimal
    return hashlib.blake2b(json.dumps(plain, sort_keys=True).encode(), digest_size=16).hexdigest()


def pinned_split(pin: Pin, *, fingerprint: str, config: DataConfig, rows: int) -> NDArray[np.uint8] | None:
    """(rows,) part of each row as first used, or None at first use.

    Raises SourceChanged where the source or what decides the split is another one; ForeignState for an unreadable file.
    """
    if not pin.path.is_file():
        return None
    try:
        with safe_open(pin.path, framework="numpy") as file:
            about = file.metadata() or {}
            where = file.get_tensor("where")
    except (OSError, SafetensorError, ValueError) as error:
        raise ForeignState(f"{pin.path.name} holds no split that this version can read") from error
    if about.get("source") != fingerprint or len(where) != rows:
        raise SourceChanged(f"{config.source_name} is not what it was when this run began")
    if about.get("config") != config_digest(config):
        raise SourceChanged("the [data] section is not what it was when this run began")
    return np.asarray(where, dtype=np.uint8)


def pin_split(pin: Pin, where: NDArray[np.uint8], *, fingerprint: str, config: DataConfig) -> None:
    """Store the split, for the owner's eyes only.  Raises StorageFull or ConfigError where the disk refuses."""
    if not pin.write:
        return
    with storage_errors(pin.path):
        pin.path.parent.mkdir(mode=0o700, exist_ok=True)
    about = {"source": fingerprint, "config": config_digest(config)}
    atomic_write(pin.path, save({"where": where}, metadata=about), mode=0o600)
