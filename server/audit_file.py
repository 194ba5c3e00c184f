"""The coordinator's audit log, verified where it lies, and as a file for others (``common.records``)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from commonroot.common import records
from commonroot.common.errors import ConfigError, Malformed
from commonroot.common.ledger import owner_of_audit, verify_signed
from commonroot.common.records import Record
from commonroot.common.roster import SignedRoster
from commonroot.files import atomic_write, kept_rosters, read_bytes
from commonroot.server.folder import CoordinatorFolder


def export_audit(folder: CoordinatorFolder, path: Path) -> dict[str, Any]:
    """Sign the log as it stands and write it.  Raises KeyFileError before the first roster."""
    folder.roster()
    identity, journal = folder.identity(), folder.journal()
    try:
        head = journal.sign_audit(identity)
        entries = journal.audit()[: head.entries + 1]
    finally:
        journal.close()
    made = records.write(
        identity,
        what="audit",
        federation=folder.config.federation,
        name="coordinator",
        authority=folder.authority_public(),
        rosters=[SignedRoster.from_json(data) for data in kept_rosters(folder.root)],
        entries=entries,
    )
    records.read(made)
    atomic_write(path, made)
    return {"file": str(path), "entries": len(entries), "bytes": len(made)}


def verify_audit(folder: CoordinatorFolder, *, against: Path | None = None) -> dict[str, Any]:
    """Check chain and signed heads of the log in a folder's journal.

    Parameters  against: an export made earlier, which the log must continue
    Raises      Malformed: an entry was changed, dropped or inserted, or the log was written anew; BadSignature
    """
    journal = folder.journal()
    try:
        entries = journal.audit()
    finally:
        journal.close()
    owner = owner_of_audit(folder.config.federation)
    verified = verify_signed(entries, owner)
    if against is not None:
        earlier = read_audit(against)
        last = earlier.entries[-1]
        if earlier.owner != owner:
            raise ConfigError(f"the export is of {earlier.owner}, not of {owner}")
        if len(entries) <= last.sequence or entries[last.sequence].hash != last.hash:
            raise Malformed(f"the audit log does not continue {against}: it was cut short or written anew")
    return {"entries": verified.entries, "signed": verified.signed, "since": verified.since}


def read_audit(path: Path) -> Record:
    """A verified export; see ``records.read``."""
    return records.read(read_bytes(path, what="the export"))
