"""Making a department's folder, joining an epoch, renewing its keys for the next, approving a charter.

Keys are made here and stay here.
"""

from __future__ import annotations

import json
import time
from functools import partial
from pathlib import Path
from typing import Any

from commonroot.client.folder import DepartmentConfig, DepartmentFolder
from commonroot.client.node_key import load_node_key, make_node_key, public_line
from commonroot.client.shared_statistics import held
from commonroot.client.store import DepartmentStore
from commonroot.common import canonical
from commonroot.common.charter import Charter, SignedCharter, model_from_toml
from commonroot.common.errors import (
    BadSignature,
    ConfigError,
    EpochRollback,
    NotApproved,
    SplitRoster,
    StatisticsMissing,
    WrongFederation,
)
from commonroot.common.roster import Member, Roster, SignedRoster, checked_roster
from commonroot.common.secure_sum.agreement import PRIVATE_BYTES, AgreementKey
from commonroot.common.secure_sum.epoch import EpochSetup
from commonroot.common.secure_sum.memory import DepartmentMemory
from commonroot.common.secure_sum.primitives import Identity, Random, sha256
from commonroot.files import atomic_write, erase, keep_backbone, read_backbone, read_bytes, read_secret, write_secret
from commonroot.strategies import GATHERINGS, build, check_roster, check_sealed, consent
from commonroot.strategies.evaluation import Evaluation
from commonroot.strategies.warm_start import first_state

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
    root.chmod(0o700)  # state.db holds chain keys, blobs hold heads: nobody else on this machine may look
    (root / "keys").chmod(0o700)
    identity = Identity.generate(random)
    agreement = AgreementKey.generate(random)
    write_secret(root / "keys" / "identity.key", identity.secret_bytes())
    write_secret(root / "keys" / "agreement.key", agreement.to_bytes())
    write_secret(root / "keys" / "training.key", training_secret or random(32))
    node_key = make_node_key(root / "keys" / "node.key")
    member = Member.signed(name, identity, agreement.public, node_key)
    atomic_write(root / "request.json", canonical.dumps(member.model_dump(mode="json")))
    atomic_write(root / "ca.pem", pinned)
    atomic_write(root / "department.toml", text.encode())
    return DepartmentFolder(root)


def join(folder: DepartmentFolder, path: Path, random: Random) -> Roster:
    """Pin a signed roster and begin its epoch: countersign it, make the greeting, erase the agreement key.

    The keys of an earlier epoch are erased at once; what it opened is remembered.  Can be repeated after a crash.

    Raises  BadSignature: the pinned authority did not sign it; WrongFederation: this department is not in it or stands
            there with other keys; EpochRollback: older than what was joined; SplitRoster: another one of the same
            epoch, which is kept beside the pinned one; ConfigError: it has expired
    """
    data = read_bytes(path, what="the roster")
    roster = checked_roster(data, bytes.fromhex(folder.config.authority))
    folder.require_federation(roster.federation)
    if roster.expires < time.time():
        raise ConfigError("the roster has expired", hint="ask central IT for a new one")
    identity = folder.identity()
    store = DepartmentStore(folder.root, federation=folder.config.federation, department=folder.config.name, owner=True)
    try:
        _require_newer(folder, store, roster, data)
        me = roster.index_of(identity.public)
        member = roster.departments[me]
        if member.name != folder.config.name or member.node_key != public_line(load_node_key(folder.node_key)):
            raise WrongFederation("the roster lists this department's identity with another name or node key")
        key = folder.root / "keys" / "agreement.key"
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
            )
        atomic_write(folder.root / "roster.json", data)
        if _belongs_to(key, roster, me):
            erase(key)
    finally:
        store.close()
    return roster


def _require_newer(folder: DepartmentFolder, store: DepartmentStore, roster: Roster, data: bytes) -> None:
    """Only a later epoch takes the place of the pinned one; the same roster again is a repeat."""
    pinned = store.newest_epoch()
    if pinned is None:
        return
    epoch, digest = pinned
    if roster.epoch < epoch:
        raise EpochRollback(f"epoch {roster.epoch} was offered, but this department has joined epoch {epoch}")
    if roster.epoch == epoch and roster.digest != digest:
        atomic_write(folder.root / f"roster-{epoch}-other.json", data)
        store.record("refused", {"what": "roster", "code": SplitRoster.code, "digest": roster.digest.hex()})
        raise SplitRoster(
            f"this is another roster of epoch {epoch} than the one that was joined, and under the same authority"
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
    left = folder.roster() if (folder.root / "roster.json").is_file() else None
    return memory.follow(before, left=left if left and left.digest == before.roster else None, roster=roster)


def _belongs_to(key: Path, roster: Roster, me: int) -> bool:
    """Is this the agreement key of that roster, and not one already made for the next?"""
    if not key.exists():
        return False
    curve, kem = AgreementKey.from_bytes(read_secret(key, length=PRIVATE_BYTES)).public
    return (curve.hex(), kem.hex()) == (roster.departments[me].agreement, roster.departments[me].kem)


def renew(folder: DepartmentFolder, random: Random) -> Path:
    """Fresh agreement keys and a request for the next epoch; identity, node key, training secret and data stay.

    Asked again before the next epoch is joined, it makes the same request.  The current epoch goes on meanwhile.
    Returns where the request lies.  Raises ConfigError where a join was interrupted: its key is spent.
    """
    key, identity = folder.root / "keys" / "agreement.key", folder.identity()
    roster = folder.roster() if (folder.root / "roster.json").is_file() else None
    store = DepartmentStore(folder.root, federation=folder.config.federation, department=folder.config.name)
    try:
        pinned = store.newest_epoch()
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
    member = Member.signed(folder.config.name, identity, agreement.public, public_line(load_node_key(folder.node_key)))
    request = folder.root / "request.json"
    atomic_write(request, canonical.dumps(member.model_dump(mode="json")))
    return request


def approve(
    folder: DepartmentFolder, path: Path, *, expected: str | None = None, backbone: Path | None = None
) -> Charter:
    """Approve a signed charter, by this department's own decision; from then on its daemon takes part in it.

    backbone  the file that the charter's ``warm_start`` names, where it is not in this folder yet

    Raises BadSignature, OutsideCharter where the installed strategy would send anything else than the charter lists,
    TooFewDepartments where a sum could be over too few of this roster, NotApproved where the hash is another one,
    StatisticsMissing where it builds on statistics not held here, BackboneMissing and BackboneMismatch for the file
    that a warm start names.
    """
    data = read_bytes(path, what="the charter")
    roster = folder.roster()
    charter = SignedCharter.from_json(data).check(bytes.fromhex(roster.coordinator))
    folder.require_federation(charter.federation)
    check_sealed(charter)
    check_roster(charter, roster)
    if charter.statistics is not None and not held(folder.root, charter.statistics):
        raise StatisticsMissing(f"charter {charter.name!r} builds on the statistics of charter {charter.statistics}")
    if expected is not None and charter.digest.hex() != expected.lower():
        raise NotApproved(f"{path} has hash {charter.digest.hex()}, not the expected {expected}")
    if backbone is not None and charter.training.warm_start is not None:
        keep_backbone(folder.root, charter.training.warm_start, backbone)
    first_state(build(charter), charter, partial(read_backbone, folder.root))
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
    if charter.method.name in GATHERINGS:
        return _plain_words_of_gathering(charter)
    return [
        f"Charter {charter.name!r} of federation {charter.federation!r}, hash {charter.digest.hex()}.",
        f"Method {charter.method.name!r} for {charter.rounds} rounds.",
        *(
            [f"The first backbone is the file with SHA-256 {charter.training.warm_start}."]
            if charter.training.warm_start
            else []
        ),
        (
            f"Each round this department adds {manifest.length('fixed16')} numbers of model update and the quantities "
            f"{scalars} to an encrypted sum."
        ),
        f"No sum over fewer than {charter.cohort.floor} departments is ever opened.",
        f"Your update is clipped to length {charter.training.update_clip} before it is weighted and masked.",
        *(
            f"Departments of family {family.name!r} share a head: {', '.join(family.departments) or 'all of them'}."
            for family in charter.families
        ),
        *consent(charter),
        *(
            [f"Columns are standardised with the statistics of charter {charter.statistics}."]
            if charter.statistics
            else []
        ),
        "Rows, labels, heads, counts and scores stay in your folder.",
    ]


def _plain_words_of_gathering(charter: Charter) -> list[str]:
    manifest = charter.manifest
    if charter.method.name == Evaluation.name:
        return _plain_words_of_evaluation(charter)
    sent = ", ".join(f"{term.name} ({term.size:,})" for term in manifest.terms)
    lines = [
        f"Charter {charter.name!r} of federation {charter.federation!r}, hash {charter.digest.hex()}.",
        f"Method {charter.method.name!r}, rounds: {charter.rounds}; no network is trained.",
        f"Each round this department adds exact sums over its rows to an encrypted sum: {sent}.",
        f"No sum over fewer than {charter.cohort.floor} departments is ever opened.",
    ]
    if charter.columns:
        lines.append("Columns: " + ", ".join(f"{column.name} ({column.kind})" for column in charter.columns) + ".")
        lines.append("What few rows share, a rare label or word or a lonely bin, shows in such a sum; see SECURITY.md.")
    else:
        lines.append("What only one user rated shows in such a sum; see SECURITY.md.")
    return [*lines, "Rows, names and scores stay in your folder."]


def _plain_words_of_evaluation(charter: Charter) -> list[str]:
    """Never more than the charter asks for: it says what is not asked for as well."""
    options = charter.method.options
    counted = (
        "What you keep is counted, and half the time a random answer stands in its place; "
        "`tell_choice = false` under [guard] says nothing."
        if options.get("counts")
        else "What you keep is not counted."
    )
    return [
        f"Charter {charter.name!r} of federation {charter.federation!r}, hash {charter.digest.hex()}.",
        f"It evaluates the run of charter {options.get('of')}; nothing is trained.",
        "Once, this department adds its weight and weighted mean losses on validation rows to an encrypted sum:",
        "of its best model trained alone, of the federated one, and the squared standard error of their difference.",
        counted,
        f"No sum over fewer than {charter.cohort.floor} departments is ever opened.",
        "Test rows are not read. Rows, labels, heads and scores stay in your folder.",
    ]
