"""Making a department's folder, joining an epoch, renewing its keys for the next.

Keys are made here and stay here.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from commonroot.client.consent import approve as approve
from commonroot.client.consent import plain_words as plain_words
from commonroot.client.folder import DepartmentConfig, DepartmentFolder
from commonroot.client.node_key import load_node_key, make_node_key, public_line
from commonroot.client.policy import FILE as POLICY_FILE
from commonroot.client.policy import TEMPLATE as POLICY_TEMPLATE
from commonroot.client.store import LEAVING, LEFT, DepartmentStore
from commonroot.common import canonical
from commonroot.common.charter import model_from_toml
from commonroot.common.enrolment import Application
from commonroot.common.errors import (
    BadSignature,
    ConfigError,
    EpochRollback,
    HasLeft,
    Malformed,
    RestoredFolder,
    SplitRoster,
    WrongFederation,
)
from commonroot.common.roster import Member, Roster, SignedRoster, checked_roster
from commonroot.common.secure_sum.agreement import PRIVATE_BYTES, AgreementKey
from commonroot.common.secure_sum.epoch import EpochSetup
from commonroot.common.secure_sum.memory import DepartmentMemory
from commonroot.common.secure_sum.primitives import Identity, Random, sha256
from commonroot.files import (
    Lock,
    atomic_write,
    erase,
    keep_roster,
    read_bytes,
    read_secret,
    write_secret,
)

_TEMPLATE = """\
# Commonroot department. Every field is explained here; `commonroot department check` names every wrong one.

federation = "{federation}"
name = "{name}"

# host:port of central IT's coordinator. This department opens no port of its own.
coordinator = "{coordinator}"

# The enrolment authority's public key. Only rosters under its signature are believed.
authority = "{authority}"

# Where networks are trained: the processor, or a GPU ("cuda"), for which torch must be a build that knows it.
#device = "cpu"
"""

_DATA_TEMPLATE = """
# This department's table. Relative paths start at this folder. Nothing of it ever leaves.
#[data]
#path = "data.csv"               # .csv, .parquet, .npz (arrays X and y), or a folder with a folder of images per label
#url = "postgresql://me@db/sales"    # or, instead of a path, a database: sqlite:///FILE or postgresql://…; only read
#query = "SELECT * FROM reviews ORDER BY id"
#target = "label"                # the column to predict
#task = "classification"         # classification, binary or regression
#features = "all but target"     # or a list: names, or tables with column and kind (number, category, datetime, text …)
#split = "stratified"            # random, stratified; or { kind = "grouped", column = "…" }; or kind = "time"
#expected = "even"               # if labels will come in other shares than in the table; or { yes = 0.7, no = 0.3 }
#seed = 0                        # of the private split; choose one and keep it to yourself

# Once the rounds are seen to do harm here, contribute zeros that look like anything else, and keep receiving.
#[guard]
#early_exit = false
#tell_choice = true              # may be counted in an evaluation that asks, with a random answer half the time

# What is let go of by itself; 0 keeps it for ever. Never heads, the model in use, the ledger or evidence.
#[retention]
#predictors = 0                  # chosen models kept, the newest ones
#tables_days = 0                 # encoded tables that nobody has read for so long; they are made again when needed
#logs_days = 0                   # files in logs/
# Whether the daemon joins rosters under the authority's signature, and sends fresh keys for them, by itself. With false
# it says that one is there, and `commonroot department renew` and `department join` are for somebody to run.
#[roster]
#follow = true
#every = 30                      # seconds between two looks
# How long the daemon waits where no charter says so, in seconds.
#[waits]
#first = 30.0                    # for a hub that refuses it as it starts: one killed elsewhere keeps its place for 20 s
#give_up = 60.0                  # repeating a request that the hub fails over, before its message is dropped
"""


def data_section(path: Path, *, target: str, task: str) -> str:
    """A ``[data]`` section for a table that nobody has looked at."""
    return f"\n[data]\npath = {json.dumps(str(path))}\ntarget = {json.dumps(target)}\ntask = {json.dumps(task)}\n"


def create(
    root: Path,
    *,
    federation: str,
    name: str,
    coordinator: str,
    authority: str,
    ca: Path | bytes,
    data: str,
    random: Random,
    training_secret: bytes | None = None,
    vouch: Callable[[Member], bytes] | None = None,
    lock: Lock | None = None,
) -> DepartmentFolder:
    """A fresh folder with keys of its own and an enrolment request.  Refuses one that exists and is not empty.

    ca               its file, or its contents (PEM)
    training_secret  32 bytes that fix the department's training randomness, for runs that must be repeatable
    vouch            makes the request of the entry; without it, the request is the entry, and nothing vouches for it
    lock             what the keys are sealed under; without it, they lie open for their owner
    """
    if root.exists() and any(root.iterdir()):
        raise ConfigError(f"{root} exists and is not empty", hint="choose a new folder")
    text = _TEMPLATE.format(federation=federation, name=name, coordinator=coordinator, authority=authority)
    text += data or _DATA_TEMPLATE
    model_from_toml(DepartmentConfig, text, path="what was given")  # before anything is written
    pinned = ca if isinstance(ca, bytes) else read_bytes(ca, what="the certificate authority")
    if b"BEGIN CERTIFICATE" not in pinned:
        raise ConfigError(f"{ca if isinstance(ca, Path) else 'the CA'} is not a PEM certificate")
    for folder in ("keys", "charters", "predictors"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    root.chmod(0o700)  # state.db holds chain keys, blobs hold heads: nobody else on this machine may look
    (root / "keys").chmod(0o700)
    identity = Identity.generate(random)
    agreement = AgreementKey.generate(random)
    write_secret(root / "keys" / "identity.key", identity.secret_bytes(), lock=lock)
    write_secret(root / "keys" / "agreement.key", agreement.to_bytes(), lock=lock)
    write_secret(root / "keys" / "training.key", training_secret or random(32), lock=lock)
    node_key = make_node_key(root / "keys" / "node.key", lock=lock)
    member = Member.signed(name, identity, agreement.public, node_key)
    request = canonical.dumps(member.model_dump(mode="json")) if vouch is None else vouch(member)
    atomic_write(root / "request.json", request)
    atomic_write(root / "ca.pem", pinned)
    atomic_write(root / POLICY_FILE, POLICY_TEMPLATE.encode())
    atomic_write(root / "department.toml", text.encode())
    return DepartmentFolder(root)


def join(folder: DepartmentFolder, path: Path, random: Random) -> Roster:
    """Pin a signed roster and begin its epoch: countersign it, make the greeting, erase the agreement key.

    The keys of an earlier epoch are erased at once; what it opened is remembered.  Can be repeated after a crash.

    A department that rotates its keys takes the new ones into use with the first roster that lists them.

    Raises  BadSignature: the pinned authority did not sign it; WrongFederation: this department is not in it or stands
            there with other keys; EpochRollback: older than what was joined; SplitRoster: another one of the same
            epoch, or one that was not made from the pinned one, which is kept beside it; ConfigError: it has expired;
            HasLeft
    """
    data = read_bytes(path, what="the roster")
    try:
        roster = checked_roster(data, bytes.fromhex(folder.config.authority))
    except Malformed as error:
        hint = "it is roster.json in the coordinator's folder: ask central IT for that file"
        raise Malformed(f"{path} is no roster: {error}", hint=hint) from error
    folder.require_federation(roster.federation)
    if roster.expires < time.time():
        raise ConfigError("the roster has expired", hint="ask central IT for a new one")
    store = DepartmentStore(folder.root, federation=folder.config.federation, department=folder.config.name, owner=True)
    try:
        _require_to_stay(store)  # before its keys are read: whoever has left has none
        identity, node_key = _keys_in(folder, roster)
        _require_newer(folder, store, roster, data)
        me = roster.index_of(identity.public)
        member = roster.departments[me]
        if (member.name, member.node_key) != (folder.config.name, node_key):
            raise WrongFederation("the roster lists this department's identity with another name or node key")
        key = folder.root / "keys" / "agreement.key"
        if store.restored and roster.epoch == (store.newest_epoch() or (0,))[0]:
            raise RestoredFolder(f"this folder comes from a backup and has no keys of epoch {roster.epoch}")
        if store.setup(roster.epoch) is None:
            agreement = AgreementKey.from_bytes(read_secret(key, length=PRIVATE_BYTES))
            if agreement.public != (bytes.fromhex(member.agreement), bytes.fromhex(member.kem)):
                raise WrongFederation(
                    "the roster lists other agreement keys than the ones made in this folder",
                    hint="each epoch needs fresh ones: `commonroot department renew DIR`, then send request.json",
                )
            setup = EpochSetup.begin(roster, identity, agreement)
            store.begin_epoch(
                roster.epoch,
                roster=roster.digest,
                setup=setup.to_bytes(),
                memory=_first_memory(folder, store, roster, me, random).to_bytes(),
                facts={
                    "epoch": roster.epoch,
                    "roster": roster.digest.hex(),
                    "greeting": sha256(setup.greeting, setup.ciphertexts).hex(),
                    "bytes": len(setup.greeting) + len(setup.ciphertexts),
                },
                forgotten=_charters(folder) if store.restored else (),
            )
        keep_roster(folder.root, roster.epoch, roster.digest, data)
        atomic_write(folder.root / "roster.json", data)
        folder.take_next_keys(identity.public)
        if _belongs_to(key, roster, me):
            erase(key)
    finally:
        store.close()
    return roster


def _require_to_stay(store: DepartmentStore) -> None:
    if store.standing() in (LEAVING, LEFT):
        raise HasLeft("this department has left the federation; it joins again with a new folder and new keys")


def _keys_in(folder: DepartmentFolder, roster: Roster) -> tuple[Identity, str]:
    """The identity and the node key's public line under which this department stands in a roster: those it has, or
    those that it made to take their place."""
    listed = {member.identity for member in roster.departments}
    following = folder.next_identity()
    if following is not None and following.public.hex() in listed:
        waits = folder.next_node_key.is_file()  # or it took its place before a crash
        return following, public_line(load_node_key(folder.next_node_key if waits else folder.node_key))
    return folder.identity(), public_line(load_node_key(folder.node_key))


def _require_newer(folder: DepartmentFolder, store: DepartmentStore, roster: Roster, data: bytes) -> None:
    """Only a later epoch takes the place of the pinned one; the same roster again is a repeat."""
    pinned = store.newest_epoch()
    if pinned is None:
        return
    epoch, digest = pinned
    if roster.epoch < epoch:
        raise EpochRollback(f"epoch {roster.epoch} was offered, but this department has joined epoch {epoch}")
    other = roster.epoch == epoch and roster.digest != digest
    torn = roster.epoch == epoch + 1 and roster.previous != digest.hex()
    if other or torn:
        atomic_write(folder.root / f"roster-{roster.epoch}-other.json", data)
        store.record("refused", {"what": "roster", "code": SplitRoster.code, "digest": roster.digest.hex()})
    if other:
        raise SplitRoster(
            f"this is another roster of epoch {epoch} than the one that was joined, and under the same authority"
        )
    if torn:
        raise SplitRoster(
            f"this roster of epoch {roster.epoch} was made from another one of epoch {epoch} than the joined one"
        )


def other_rosters(folder: DepartmentFolder) -> list[dict[str, Any]]:
    """Second rosters of an epoch that were refused and kept, each with a check of the authority's signature."""
    found: list[dict[str, Any]] = []
    for path in sorted(folder.root.glob("roster-*-other.json")):
        signed = SignedRoster.from_json(read_bytes(path, what="the other roster"))
        try:
            signed.check(bytes.fromhex(folder.config.authority))
        except BadSignature:
            holds = False
        else:
            holds = True
        about = {"epoch": signed.roster.epoch, "file": str(path), "roster": signed.roster.digest.hex()}
        found.append(about | {"signed": holds})
    return found


def _first_memory(
    folder: DepartmentFolder, store: DepartmentStore, roster: Roster, me: int, random: Random
) -> DepartmentMemory:
    """The new epoch's memory, with what was opened in the last one."""
    memory = DepartmentMemory.begin(roster, me, random)
    pinned = store.newest_epoch()
    stored = None if pinned is None else store.memory(pinned[0])
    if stored is None:
        return memory
    before = DepartmentMemory.from_bytes(stored)
    # A folder from a backup does not know what else was opened under the roster it left: as if that were lost.
    known = (folder.root / "roster.json").is_file() and not store.restored
    left = folder.roster() if known else None
    return memory.follow(before, left=left if left and left.digest == before.roster else None, roster=roster)


def _charters(folder: DepartmentFolder) -> list[str]:
    """Hashes of every charter that was ever approved in this folder."""
    return sorted(path.stem for path in (folder.root / "charters").glob("*.json"))


def _belongs_to(key: Path, roster: Roster, me: int) -> bool:
    """Is this the agreement key of that roster, and not one already made for the next?"""
    if not key.exists():
        return False
    curve, kem = AgreementKey.from_bytes(read_secret(key, length=PRIVATE_BYTES)).public
    return (curve.hex(), kem.hex()) == (roster.departments[me].agreement, roster.departments[me].kem)


def renew(
    folder: DepartmentFolder, random: Random, *, rotate: bool = False, clock: Callable[[], float] = time.time
) -> Path:
    """Fresh agreement keys and a request for the next epoch; training secret and data stay.

    rotate  a new identity and a new node key as well, taken into use with the roster that lists them

    The identity under which this department stands vouches for the request.  Asked again before the next epoch is
    joined, it makes the same one.  The current epoch goes on meanwhile.
    Returns where the request lies.  Raises ConfigError where a join was interrupted, its key being spent, and for a
    folder from a backup that was made before the first roster was joined; HasLeft.
    """
    key, identity = folder.root / "keys" / "agreement.key", folder.identity()
    roster = folder.roster() if (folder.root / "roster.json").is_file() else None
    store = DepartmentStore(folder.root, federation=folder.config.federation, department=folder.config.name)
    try:
        _require_to_stay(store)
        pinned, restored = store.newest_epoch(), store.restored
    finally:
        store.close()
    if pinned is not None and (roster is None or roster.digest != pinned[1]):
        raise ConfigError(f"joining epoch {pinned[0]} was interrupted", hint="`commonroot department join` it again")
    if roster is not None and _belongs_to(key, roster, roster.index_of(identity.public)):
        erase(key)  # a crash kept `join` from doing it
    if key.exists():
        agreement = AgreementKey.from_bytes(read_secret(key, length=PRIVATE_BYTES))
    else:
        agreement = AgreementKey.generate(random)
        write_secret(key, agreement.to_bytes())
    if rotate:
        if roster is None:
            raise ConfigError("there is nothing to rotate before a roster was joined")
        folder.make_next_keys(random)
    following = folder.next_identity()
    node_key = folder.node_key if following is None else folder.next_node_key
    member = Member.signed(
        folder.config.name, following or identity, agreement.public, public_line(load_node_key(node_key))
    )
    request = folder.root / "request.json"
    last = folder.application()
    if last is not None and last.member == member and last.roster == (roster and roster.digest.hex()):
        return request  # as it was made before, which may be on its way
    if roster is None:
        if restored or (last is not None and last.token is not None):
            raise ConfigError("the keys of the first request are gone", hint="ask for a new token and a new folder")
        atomic_write(request, canonical.dumps(member.model_dump(mode="json")))
        return request
    made = max(int(clock()), 0 if last is None else last.made + 1)
    atomic_write(request, Application.by_identity(roster, member, identity, made=made).to_json())
    return request
