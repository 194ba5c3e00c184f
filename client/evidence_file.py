"""A department's ledger, verified where it lies, and as a file for others (``common.records``)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from commonroot.client.folder import DepartmentFolder
from commonroot.client.setup import other_rosters
from commonroot.client.statements import sealed_as
from commonroot.client.store import DepartmentStore
from commonroot.common import ledger, records
from commonroot.common.errors import ConfigError, Malformed
from commonroot.common.ledger import Entry, owner_of_ledger, require_continues, verify_signed
from commonroot.common.records import Record, Stated
from commonroot.common.roster import SignedRoster
from commonroot.common.secure_sum.primitives import sha256
from commonroot.files import atomic_write, kept_rosters, read_bytes


def export_ledger(folder: DepartmentFolder, path: Path) -> dict[str, Any]:
    """Sign the ledger as it stands and write it, with what was signed by others and named in it.

    Nothing that is sealed in the ledger is written.  Raises KeyFileError where no roster was ever joined.
    """
    folder.roster()  # whoever has none is nobody to others
    store, identity, config = _open(folder), folder.identity(), folder.config
    try:
        head = store.checkpoint(owner_of_ledger(config.federation, config.name), identity)
        entries = store.ledger()[: head.entries + 1]  # a daemon may have gone on meanwhile
        named = ledger.named(entries)
        kept = [s for s in store.statements() if sha256(s.head).hex() in named]
    finally:
        store.close()
    signed = [SignedRoster.from_json(data) for data in kept_rosters(folder.root)]
    others = [Path(one["file"]) for one in other_rosters(folder) if one["signed"]]
    signed += [SignedRoster.from_json(other.read_bytes()) for other in others]
    made = records.write(
        identity,
        what="ledger",
        federation=config.federation,
        name=config.name,
        authority=bytes.fromhex(config.authority),
        rosters=signed,
        entries=entries,
        statements=[Stated(s.kind, s.head, s.body, s.accepted) for s in kept],
    )
    records.read(made)  # what others could not verify is not handed out
    atomic_write(path, made)
    return {"file": str(path), "entries": len(entries), "statements": len(kept), "bytes": len(made)}


def verify_folder(folder: DepartmentFolder, *, against: Path | None = None) -> dict[str, Any]:
    """Check the ledger in a folder: its chain, its signed heads, what it commits to, and what others saw of it.

    Parameters  against: an export made earlier, which the ledger must continue
    Raises      Malformed: an entry was changed, dropped or inserted, the ledger was cut short or written anew, or what
                it commits to is another thing; BadSignature
    """
    config, owner = folder.config, owner_of_ledger(folder.config.federation, folder.config.name)
    store = _open(folder)
    try:
        head = store.newest_head(owner)  # before the entries: a daemon may sign another one in between
        entries, sealed, statements = store.ledger(), store.sealed(), store.statements()
    finally:
        store.close()
    verified = verify_signed(entries, owner)
    if head is not None:
        require_continues(entries, head)
    elif verified.signed:
        raise Malformed(f"{folder.root / 'ledger.head'} is gone, and the ledger holds signed heads")
    for entry in entries:
        if (said := entry.facts.get("sealed")) is not None:
            salt, facts = sealed.get(entry.sequence, (b"", {}))
            if sealed_as(salt, facts).hex() != said:
                raise Malformed(f"ledger entry {entry.sequence} commits to something else than is kept beside it")
    named = ledger.named(entries)
    for one in statements:
        if sha256(one.head).hex() not in named:
            raise Malformed(f"a {one.kind} is kept that no entry of the ledger names")
    if against is not None:
        require_prefix(read_record(against), entries, owner)
    return {
        "department": config.name,
        "entries": verified.entries,
        "signed": verified.signed,
        "since": verified.since,
        "statements": len(statements),
    }


def require_prefix(earlier: Record, entries: list[Entry], owner: str) -> None:
    """Raise Malformed unless these entries begin with those of an export; ConfigError where it is of somebody else."""
    if earlier.owner != owner:
        raise ConfigError(f"the export is of {earlier.owner}, not of {owner}")
    last = earlier.entries[-1]
    if len(entries) <= last.sequence:
        raise Malformed(f"the ledger was cut short: {len(entries)} entries, and the export has {len(earlier.entries)}")
    if entries[last.sequence].hash != last.hash:
        raise Malformed(f"the ledger was written anew: entry {last.sequence} is not the one that was exported")


def read_record(path: Path) -> Record:
    """A verified export; see ``records.read``."""
    return records.read(read_bytes(path, what="the export"))


def account(folder: DepartmentFolder) -> dict[str, Any]:
    """Every entry with what it seals, and the account of what left: parcels by kind, and what the link added.

    entries  sequence, at, kind, facts, private (what only this folder knows)
    parcels  kind → {messages, bytes}: each was in the ledger before it left
    link     route → {requests, bytes}: HTTP requests that carried them, heartbeats and questions, before TLS
    """
    store = _open(folder)
    try:
        entries, sealed, link = store.ledger(), store.sealed(), store.traffic()
    finally:
        store.close()
    parcels: dict[str, dict[str, int]] = {}
    for entry in entries:
        size = entry.facts.get("bytes")
        if entry.kind in ("sent", "refused") and isinstance(size, int):
            kind = str(entry.facts["what"]) if entry.kind == "sent" else "refusal"
            row = parcels.setdefault(kind, {"messages": 0, "bytes": 0})
            row["messages"] += 1
            row["bytes"] += size
    return {
        "entries": [
            {"sequence": e.sequence, "at": e.at, "kind": e.kind, "facts": e.facts}
            | ({"private": sealed[e.sequence][1]} if e.sequence in sealed else {})
            for e in entries
        ],
        "parcels": parcels,
        "link": {kind: {"requests": requests, "bytes": size} for kind, (requests, size) in link.items()},
    }


def _open(folder: DepartmentFolder) -> DepartmentStore:
    config = folder.config
    return DepartmentStore(folder.root, federation=config.federation, department=config.name)
