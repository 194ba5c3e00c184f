"""A whole federation in one folder: coordinator, departments, roster, charter, through the same code as deployment.

The demo, simulations and tests begin here.  It stands for what central IT and the departments' data teams do on their
own machines; only because one person owns all the folders may one function write them all.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from commonroot.client.data import DataConfig
from commonroot.client.folder import DepartmentFolder
from commonroot.client.setup import approve, create, join, renew
from commonroot.common.charter import SignedCharter
from commonroot.common.secure_sum.primitives import Random
from commonroot.common.toml_text import to_toml as to_toml
from commonroot.files import atomic_write
from commonroot.server.folder import CoordinatorFolder


@dataclass(frozen=True, slots=True)
class Federation:
    """Folders of a founded federation, ready to be run deployed or in memory."""

    root: Path
    coordinator: CoordinatorFolder
    departments: dict[str, DepartmentFolder]
    charter: SignedCharter
    charter_path: Path

    def reopen(self, name: str) -> DepartmentFolder:
        """A department's folder, read again from disk."""
        return DepartmentFolder(self.departments[name].root)


def found(
    root: Path,
    *,
    federation: str,
    charter_toml: str,
    departments: dict[str, DataConfig],
    port: int = 9443,
    seed: int = 1,
    colluders: int | None = None,
    backbone: Path | None = None,
    monitor: bool = False,
    random: Random = os.urandom,
) -> Federation:
    """Make keys, certificates, roster and charter, have every department join and approve.

    ``seed`` fixes each department's training randomness, so that runs of one seed can be compared; keys and masks are
    random all the same.  ``backbone`` is the file of the charter's warm start; ``monitor`` is whether the coordinator
    serves its page.

    Raises what the single steps raise, such as TooFewDepartments and ConfigError.
    """
    coordinator = CoordinatorFolder.create(
        root / "coordinator",
        federation=federation,
        host="127.0.0.1",
        port=port,
        names=("localhost", "127.0.0.1"),
        random=random,
        monitor=monitor,
    )
    folders: dict[str, DepartmentFolder] = {}
    for name, data in departments.items():
        folders[name] = create(
            root / "departments" / name,
            federation=federation,
            name=name,
            coordinator=f"127.0.0.1:{port}",
            authority=coordinator.authority_public().hex(),
            ca=coordinator.ca,
            data="\n" + to_toml({"data": data.model_dump(mode="json", exclude_none=True, exclude_defaults=True)}),
            random=random,
            training_secret=training_secret(seed, name),
        )
    coordinator.sign_roster(
        [folder.root / "request.json" for folder in folders.values()], colluders=colluders, survivors_min=None
    )
    draft = root / "charter.toml"
    atomic_write(draft, charter_toml.encode())
    signed, path = coordinator.sign_charter(draft, backbone=backbone)
    for folder in folders.values():
        join(folder, coordinator.root / "roster.json", random)
        approve(folder, path, backbone=backbone)
    return Federation(root, coordinator, folders, signed, path)


def next_epoch(
    federation: Federation,
    *,
    leaving: Collection[str] = (),
    coming: Mapping[str, DataConfig] | None = None,
    seed: int = 1,
    random: Random = os.urandom,
) -> Federation:
    """The same federation one epoch later: who stays renews, who comes is made, all join the new roster and approve.

    Departments that leave keep their folders, which nobody listens to any more.  No daemon may be up.
    """
    coordinator = federation.coordinator
    folders = {name: folder for name, folder in federation.departments.items() if name not in leaving}
    for folder in folders.values():
        renew(folder, random)
    for name, data in (coming or {}).items():
        folders[name] = create(
            federation.root / "departments" / name,
            federation=coordinator.config.federation,
            name=name,
            coordinator=f"127.0.0.1:{coordinator.config.port}",
            authority=coordinator.authority_public().hex(),
            ca=coordinator.ca,
            data="\n" + to_toml({"data": data.model_dump(mode="json", exclude_none=True, exclude_defaults=True)}),
            random=random,
            training_secret=training_secret(seed, name),
        )
    requests = [folder.root / "request.json" for folder in folders.values()]
    coordinator.sign_roster(requests, colluders=None, survivors_min=None)
    for folder in folders.values():
        join(folder, coordinator.root / "roster.json", random)
        approve(folder, federation.charter_path)
    return Federation(federation.root, coordinator, folders, federation.charter, federation.charter_path)


def reopen(root: Path) -> Federation:
    """A federation that ``found`` made in ``root``, read again from disk; departments in the roster's order.

    Raises what reading its files raises, such as ConfigError and BadSignature.
    """
    coordinator = CoordinatorFolder(root / "coordinator")
    names = [member.name for member in coordinator.roster().departments]
    path = next((root / "coordinator" / "charters").glob("*.json"), root / "coordinator" / "charters")
    departments = {name: DepartmentFolder(root / "departments" / name) for name in names}
    return Federation(root, coordinator, departments, coordinator.charter(path), path)


def training_secret(seed: int, name: str) -> bytes:
    """The 32 bytes from which department ``name`` of a federation of this seed draws its training randomness."""
    return hashlib.sha256(f"{seed}/{name}".encode()).digest()


def write_table(path: Path, x: np.ndarray, y: np.ndarray) -> None:
    """A department's rows as a .npz file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        np.savez(file, X=x, y=y)
