"""What lies in the folders of an epoch: rounds, keys, and what can be read from them."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from federation import small

from commonroot.client.folder import DepartmentFolder
from commonroot.common import parcel
from commonroot.common.manifest import flatten
from commonroot.common.messages import RoundOpen
from commonroot.common.parcel import Parcel
from commonroot.common.secure_sum.agreement import PRIVATE_BYTES, AgreementKey
from commonroot.common.secure_sum.epoch import EpochSetup
from commonroot.common.secure_sum.memory import DepartmentMemory
from commonroot.files import read_secret
from commonroot.server.backbones import BackboneStore
from commonroot.simulations.founding import Federation


def states(federation: Federation) -> tuple[str, list[str], int]:
    """State of the first run, of its rounds, and its newest version."""
    with small.journal_of(federation) as journal:
        return journal.runs()[0].state, [r.state for r in journal.rounds()], journal.versions(1)[-1].version


def cohorts(federation: Federation) -> list[list[str]]:
    """The cohort of every closed round."""
    with small.journal_of(federation) as journal:
        return [r.report["cohort"] for r in journal.rounds() if r.state == "closed"]


def bytes_of(folder: Path) -> bytes:
    """Everything that lies in a folder."""
    return b"\0".join(path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file())


def key_of(folder: DepartmentFolder) -> AgreementKey:
    return AgreementKey.from_bytes(read_secret(folder.root / "keys" / "agreement.key", length=PRIVATE_BYTES))


def occurs(secret: bytes, folder: Path) -> bool:
    """Raw or in hexadecimal."""
    found = bytes_of(folder)
    return secret in found or secret.hex().encode() in found


def setup_of(folder: DepartmentFolder, epoch: int = 1) -> EpochSetup:
    with small.store_of(folder) as store:
        return EpochSetup.from_bytes(store.setup(epoch))


def memory_of(folder: DepartmentFolder, epoch: int = 1) -> DepartmentMemory:
    with small.store_of(folder) as store:
        return DepartmentMemory.from_bytes(store.memory(epoch))


def opening_of(at_work: small.ToyFederation, cohort: tuple[int, ...], round_number: int = 50) -> Parcel:
    """A round-open under the coordinator's good signature, like the last one but for its round and cohort."""
    with small.journal_of(at_work.federation) as journal:
        last = RoundOpen.decode(journal.rounds()[-1].opening)
        version = journal.versions(1)[last.version]
    state = BackboneStore(at_work.federation.coordinator.root / "backbones").read(version.file, version.digest)
    body = flatten(state, at_work.federation.charter.charter.broadcast)
    fields = {field.name: getattr(last, field.name) for field in dataclasses.fields(last)}
    fields |= {"round": round_number, "cohort": cohort}
    key = at_work.federation.coordinator.identity()
    return Parcel(parcel.ROUND_OPEN, RoundOpen.signed(key, **fields).encode(), body)


def flipped(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
