"""Making a department's folder, joining an epoch, approving a charter.  Keys are made here and stay here."""

from __future__ import annotations

import json
from pathlib import Path

from commonroot.client.folder import DepartmentConfig, DepartmentFolder
from commonroot.client.node_key import load_node_key, make_node_key, public_line
from commonroot.client.store import DepartmentStore
from commonroot.common import canonical
from commonroot.common.charter import Charter, SignedCharter, model_from_toml
from commonroot.common.errors import ConfigError, NotApproved, WrongFederation
from commonroot.common.roster import Member, Roster, SignedRoster
from commonroot.common.secure_sum.memory import DepartmentMemory
from commonroot.common.secure_sum.primitives import Identity, Random, agreement_public, sha256
from commonroot.files import atomic_write, erase, read_bytes, read_secret, write_secret
from commonroot.strategies import check_sealed

_TEMPLATE = """\
# Commonroot department. Every field is explained here; `commonroot department check` names every wrong one.

federation = "{federation}"
name = "{name}"

# host:port of central IT's coordinator. This department opens no port of its own.
coordinator = "{coordinator}"

# The enrolment authority's public key. Only rosters under its signature are believed.
authority = "{authority}"
"""

_DATA_TEMPLATE = """
# This department's table: a CSV file with a header, or a NumPy .npz file with arrays X and y.
# Relative paths start at this folder. Nothing of it ever leaves.
#[data]
#path = "data.csv"
#target = "label"                # the column to predict
#task = "classification"         # classification, binary or regression
"""


def data_section(path: Path, *, target: str, task: str) -> str:
    """A ``[data]`` section for a table."""
    return f"\n[data]\npath = {json.dumps(str(path))}\ntarget = {json.dumps(target)}\ntask = {json.dumps(task)}\n"


def create(
    root: Path,
    *,
    federation: str,
    name: str,
    coordinator: str,
    authority: str,
    ca: Path,
    data: str,
    random: Random,
    training_secret: bytes | None = None,
) -> DepartmentFolder:
    """A fresh folder with keys of its own and an enrolment request.  Refuses one that exists and is not empty.

    ``training_secret`` (32 bytes) fixes the department's training randomness, for runs that must be repeatable.
    """
    if root.exists() and any(root.iterdir()):
        raise ConfigError(f"{root} exists and is not empty", hint="choose a new folder")
    text = _TEMPLATE.format(federation=federation, name=name, coordinator=coordinator, authority=authority)
    text += data or _DATA_TEMPLATE
    model_from_toml(DepartmentConfig, text, path="the options")  # before anything is written
    pinned = read_bytes(ca, what="the certificate authority")
    if b"BEGIN CERTIFICATE" not in pinned:
        raise ConfigError(f"{ca} is not a PEM certificate")
    for folder in ("keys", "charters", "predictors"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    (root / "keys").chmod(0o700)
    identity = Identity.generate(random)
    agreement = random(32)
    write_secret(root / "keys" / "identity.key", identity.secret_bytes())
    write_secret(root / "keys" / "agreement.key", agreement)
    write_secret(root / "keys" / "training.key", training_secret or random(32))
    node_key = make_node_key(root / "keys" / "node.key")
    member = Member.signed(name, identity, agreement_public(agreement), node_key)
    atomic_write(root / "request.json", canonical.dumps(member.model_dump(mode="json")))
    atomic_write(root / "ca.pem", pinned)
    atomic_write(root / "department.toml", text.encode())
    return DepartmentFolder(root)


def join(folder: DepartmentFolder, path: Path, random: Random) -> Roster:
    """Pin a signed roster and set up its epoch: agree with every other department, then erase the agreement key.

    Can be repeated after a crash.  Raises BadSignature for a roster that the pinned authority did not sign,
    WrongFederation where this department is not in it or stands there with other keys.
    """
    data = read_bytes(path, what="the roster")
    roster = SignedRoster.from_json(data).check(bytes.fromhex(folder.config.authority))
    folder.require_federation(roster.federation)
    identity = folder.identity()
    me = roster.index_of(identity.public)
    member = roster.departments[me]
    if member.name != folder.config.name or member.node_key != public_line(load_node_key(folder.node_key)):
        raise WrongFederation("the roster lists this department's identity with another name or node key")
    store = DepartmentStore(folder.root, federation=folder.config.federation, department=folder.config.name, owner=True)
    try:
        key = folder.root / "keys" / "agreement.key"
        if store.memory(roster.epoch) is None:
            agreement = read_secret(key)
            if agreement_public(agreement).hex() != member.agreement:
                raise WrongFederation("the roster lists another agreement key than the one made in this folder")
            memory = DepartmentMemory.begin(roster, me, agreement, random)
            store.begin_epoch(roster.epoch, memory.to_bytes())
        store.record("joined", {"epoch": roster.epoch, "roster": roster.digest.hex()})
        atomic_write(folder.root / "roster.json", data)
        erase(key)
    finally:
        store.close()
    return roster


def approve(folder: DepartmentFolder, path: Path, *, expected: str | None = None) -> Charter:
    """Approve a signed charter, by this department's own decision; from then on its daemon takes part in it.

    Raises BadSignature, OutsideCharter where the installed strategy would send anything else than the charter lists,
    NotApproved where the hash is not the expected one.
    """
    data = read_bytes(path, what="the charter")
    roster = folder.roster()
    charter = SignedCharter.from_json(data).check(bytes.fromhex(roster.coordinator))
    folder.require_federation(charter.federation)
    check_sealed(charter)
    if expected is not None and charter.digest.hex() != expected.lower():
        raise NotApproved(f"{path} has hash {charter.digest.hex()}, not the expected {expected}")
    atomic_write(folder.charter_path(charter.digest), data)
    store = DepartmentStore(folder.root, federation=folder.config.federation, department=folder.config.name)
    try:
        store.record("approved", {"charter": charter.digest.hex(), "file": sha256(data).hex()})
    finally:
        store.close()
    return charter


def plain_words(charter: Charter) -> list[str]:
    """What approving a charter means, one sentence a line."""
    manifest = charter.manifest
    scalars = ", ".join(term.name for term in manifest.lane("fixed64"))
    return [
        f"Charter {charter.name!r} of federation {charter.federation!r}, hash {charter.digest.hex()}.",
        f"Method {charter.method.name!r} for {charter.rounds} rounds.",
        (
            f"Each round this department adds {manifest.length('fixed16')} numbers of model update and the quantities "
            f"{scalars} to an encrypted sum."
        ),
        f"No sum over fewer than {charter.cohort.floor} departments is ever opened.",
        f"Your update is clipped to length {charter.training.update_clip} before it is weighted and masked.",
        "Rows, labels, heads, counts and scores stay in your folder.",
    ]
