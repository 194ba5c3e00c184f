"""What a department agrees to: charters offered, approved, refused and withdrawn, by a person or by a policy.

A charter is obeyed when it lies in ``charters/`` and no later decision says otherwise.  Approving writes the decision
before the file; withdrawing takes effect with the decision, and removes the file after it.  A crash between the two
leaves a charter that is not obeyed.
"""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path
from typing import Any, Final

from commonroot.client.charter_words import differences, plain_words
from commonroot.client.folder import DepartmentFolder
from commonroot.client.policy import StoredPolicy, read_policy
from commonroot.client.shared_statistics import held
from commonroot.client.statements import MOST_OFFERED
from commonroot.client.store import DepartmentStore
from commonroot.common.charter import Charter, SignedCharter
from commonroot.common.errors import ConfigError, HasLeft, NotApproved, OutsidePolicy, StatisticsMissing
from commonroot.common.ledger import Fact
from commonroot.common.roster import Roster
from commonroot.common.secure_sum.primitives import sha256
from commonroot.files import atomic_write, keep_backbone, read_backbone, read_bytes, storage_errors
from commonroot.logs import Tell
from commonroot.strategies import build, check_roster, check_sealed
from commonroot.strategies.warm_start import first_state

__all__ = ["Desk", "approve", "differences", "listed", "plain_words", "policy_of", "read_charter", "refuse", "withdraw"]

OFFERED, APPROVED, REFUSED, WITHDRAWN = "offered", "approved", "refused", "withdrawn"
#: Where charters lie that were offered, refused or withdrawn: read by people, obeyed by nobody.
_OFFERS: Final = "offers"
#: The shortest beginning of a hash that names a charter: 64 bits, which nobody finds a second charter for by chance.
FEWEST_DIGITS: Final = 16
PERSON: Final = "person"


class Desk:
    """Decides on charters for a running daemon: what a person approved, what the policy approves by itself.

    Parameters  tell: called with a word and its facts for each decision that no person made
    """

    def __init__(
        self,
        folder: DepartmentFolder,
        store: DepartmentStore,
        roster: Roster,
        tell: Tell = lambda kind, facts: None,
    ) -> None:
        self._folder = folder
        self._store = store
        self._roster = roster
        self._tell = tell

    def consider(self, signed: SignedCharter) -> Charter:
        """The charter, if the policy approves it now.

        Parameters  signed: by the coordinator, checked
        Raises      NotApproved: it waits for a person, or a person said no; OutsidePolicy, with every rule; what
                    ``approve`` raises for a charter that nobody could approve
        """
        charter = signed.charter
        name = charter.digest.hex()
        known = self._store.consents().get(name)
        if known is not None and (known.state == WITHDRAWN or (known.state == REFUSED and known.reason == PERSON)):
            raise NotApproved(
                f"charter {name[:16]}… was {known.state} here", hint="approve it again if that has changed"
            )
        require_permitted(self._folder, charter, self._roster)
        policy = read_policy(self._folder.root)
        broken = [] if policy is None else policy.policy.broken(charter, self._roster)
        if policy is not None and broken:
            rules = ",".join(rule for rule, _ in broken)
            reason = f"policy {policy.digest} {rules}"
            if known is None or known.reason != reason:
                self._file(signed)
                self._store.decide(name, REFUSED, reason=reason, facts={"policy": policy.digest, "rules": rules})
                self._tell("outside", {"charter": name, "rules": rules})
            raise OutsidePolicy(_sentence(charter, broken))
        if policy is None or not policy.policy.automatic:
            if known is None or known.state != OFFERED:
                self._file(signed)
                self._store.decide(name, OFFERED, reason="", facts={})
                self._tell("offered", {"charter": name})
            raise NotApproved(f"charter {name[:16]}… waits for `commonroot department approve`")
        _require_usable(self._folder, charter)
        _approve(self._folder, self._store, signed.to_json(), charter, reason=f"policy {policy.digest}")
        self._tell("approved", {"charter": name, "by": "policy"})
        return charter

    def _file(self, signed: SignedCharter) -> None:
        """Keep a charter where people find it.  Raises NotApproved where too many wait already."""
        offers = self._folder.root / _OFFERS
        with storage_errors(offers):
            offers.mkdir(mode=0o700, exist_ok=True)
        path = offers / f"{signed.charter.digest.hex()}.json"
        if not path.exists() and sum(1 for _ in offers.iterdir()) >= MOST_OFFERED:
            raise NotApproved(f"{MOST_OFFERED} charters wait already; this one was not kept")
        atomic_write(path, signed.to_json(), mode=0o600)


def approve(
    folder: DepartmentFolder,
    path: Path,
    *,
    expected: str | None = None,
    backbone: Path | None = None,
    beyond_policy: bool = False,
) -> Charter:
    """Approve a signed charter, by this department's own decision; from then on its daemon takes part in it.

    expected       a hash, or the first ``FEWEST_DIGITS`` digits of one at least: nothing else is approved
    backbone       the file that the charter's ``warm_start`` names, where it is not in this folder yet
    beyond_policy  approve it although the policy forbids it

    Raises BadSignature, OutsideCharter where the installed strategy would send anything else than the charter lists,
    TooFewDepartments where a sum could be over too few of this roster, NotApproved where the hash is another one,
    OutsidePolicy naming every rule, StatisticsMissing where it builds on statistics not held here, BackboneMissing and
    BackboneMismatch for the file that a warm start names, HasLeft.
    """
    data = read_bytes(path, what="the charter")
    roster = folder.roster()
    charter = SignedCharter.from_json(data).check(bytes.fromhex(roster.coordinator))
    require_permitted(folder, charter, roster)
    if expected is not None and not names(expected, charter.digest):
        raise NotApproved(f"{path} has hash {charter.digest.hex()}, not the expected {expected}")
    policy = read_policy(folder.root)
    broken = [] if policy is None else policy.policy.broken(charter, roster)
    if broken and not beyond_policy:
        raise OutsidePolicy(_sentence(charter, broken))
    if backbone is not None and charter.training.warm_start is not None:
        keep_backbone(folder.root, charter.training.warm_start, backbone)
    _require_usable(folder, charter)
    store = _store_of(folder)
    try:
        if store.standing() in ("leaving", "left"):
            raise HasLeft("this department has left the federation and approves nothing")
        facts: dict[str, Fact] = {"beyond": ",".join(rule for rule, _ in broken)} if broken else {}
        _approve(folder, store, data, charter, reason=PERSON, facts=facts)
    finally:
        store.close()
    return charter


def refuse(folder: DepartmentFolder, digest: str) -> str:
    """Say no to a charter for good, or until a person approves it after all.  Returns its whole hash."""
    return _end(folder, digest, REFUSED)


def withdraw(folder: DepartmentFolder, digest: str) -> str:
    """Take an approval back, before the next contribution.  Returns the charter's whole hash.

    What was contributed already stays in its sum, and the other departments may still open that sum.
    Raises NotApproved for a charter that was never approved.
    """
    return _end(folder, digest, WITHDRAWN)


def listed(folder: DepartmentFolder) -> list[dict[str, Any]]:
    """Every charter that was offered, approved, refused or withdrawn here, oldest decision first.

    charter, name (None where the file is gone), state, at, by (``person``, ``policy`` or empty), rules
    """
    store = _store_of(folder)
    try:
        decisions = store.consents()
        earlier = [e for e in store.ledger() if e.kind == APPROVED and str(e.facts.get("charter")) not in decisions]
    finally:
        store.close()
    # of folders that are older than decisions are
    legacy = [e for e in earlier if folder.charter_path(bytes.fromhex(str(e.facts["charter"]))).is_file()]
    rows = [_row(folder, str(e.facts["charter"]), APPROVED, e.at, PERSON) for e in legacy]
    return rows + [_row(folder, one.charter, one.state, one.at, one.reason) for one in decisions.values()]


def read_charter(folder: DepartmentFolder, named: str) -> Path:
    """The file of a charter, by path or by the beginning of the hash of one that is kept here.

    Raises ConfigError where there is none, or several, or too few digits were given
    """
    path = Path(named)
    if path.is_file():
        return path
    if not re.fullmatch(r"[0-9a-fA-F]{1,64}", named):
        raise ConfigError(f"{named} is neither a file nor the beginning of a charter's hash")
    if len(named) < FEWEST_DIGITS:
        raise ConfigError(f"{named}: at least {FEWEST_DIGITS} digits of a charter's hash are needed")
    found = {p.stem: p for place in (_OFFERS, "charters") for p in (folder.root / place).glob("*.json")}
    fitting = [path for name, path in sorted(found.items()) if name.startswith(named.lower())]
    if len(fitting) != 1:
        raise ConfigError(f"{len(fitting)} charters here have a hash that begins with {named}")
    return fitting[0]


def approved_before(folder: DepartmentFolder, charter: Charter) -> Charter | None:
    """The charter approved last, other than this one: of the same name if there is such, else of the same method."""
    rows = [r for r in listed(folder) if r["state"] in (APPROVED, WITHDRAWN) and r["charter"] != charter.digest.hex()]
    paths = (_path_of(folder, r["charter"]) for r in reversed(rows))
    earlier = [SignedCharter.from_json(path.read_bytes()).charter for path in paths if path is not None]
    for alike in ("name", "method"):
        for one in earlier:
            mine, theirs = getattr(charter, alike), getattr(one, alike)
            if (mine, theirs) == (theirs, mine) or (alike == "method" and mine.name == theirs.name):
                return one
    return None


def policy_of(folder: DepartmentFolder) -> StoredPolicy | None:
    """The department's policy; see ``policy.read_policy``."""
    return read_policy(folder.root)


def require_permitted(folder: DepartmentFolder, charter: Charter, roster: Roster) -> None:
    """Raise what ``approve`` raises for a charter that nobody here could approve, whatever they wished."""
    folder.require_federation(charter.federation)
    check_sealed(charter)
    check_roster(charter, roster)


def names(beginning: str, digest: bytes) -> bool:
    """Is this a charter's hash, or enough of its beginning?  ConfigError for fewer than ``FEWEST_DIGITS`` digits."""
    if len(beginning) < FEWEST_DIGITS:
        raise ConfigError(f"--hash {beginning}: at least {FEWEST_DIGITS} digits of the hash are needed")
    return digest.hex().startswith(beginning.lower())


# -- inside ------------------------------------------------------------------------------------------------------------


def _require_usable(folder: DepartmentFolder, charter: Charter) -> None:
    if charter.statistics is not None and not held(folder.root, charter.statistics):
        raise StatisticsMissing(f"charter {charter.name!r} builds on the statistics of charter {charter.statistics}")
    first_state(build(charter), charter, partial(read_backbone, folder.root))


def _approve(
    folder: DepartmentFolder,
    store: DepartmentStore,
    data: bytes,
    charter: Charter,
    *,
    reason: str,
    facts: dict[str, Fact] | None = None,
) -> None:
    told: dict[str, Fact] = {"file": sha256(data).hex(), "by": reason}
    store.decide(charter.digest.hex(), APPROVED, reason=reason, facts=told | (facts or {}))
    atomic_write(folder.charter_path(charter.digest), data)
    (folder.root / _OFFERS / f"{charter.digest.hex()}.json").unlink(missing_ok=True)


def _end(folder: DepartmentFolder, named: str, state: str) -> str:
    path = read_charter(folder, named)
    data = read_bytes(path, what="the charter")
    charter = SignedCharter.from_json(data).check(bytes.fromhex(folder.roster().coordinator))
    name = charter.digest.hex()
    store = _store_of(folder)
    try:
        if state == WITHDRAWN and folder.approved(charter.digest) is None:
            raise NotApproved(f"charter {name[:16]}… is not approved here, so nothing is to be withdrawn")
        store.decide(name, state, reason=PERSON, facts={"by": PERSON})
    finally:
        store.close()
    offers = folder.root / _OFFERS
    with storage_errors(offers):
        offers.mkdir(mode=0o700, exist_ok=True)
    atomic_write(offers / f"{name}.json", data, mode=0o600)
    folder.charter_path(charter.digest).unlink(missing_ok=True)
    return name


def _row(folder: DepartmentFolder, charter: str, state: str, at: float, reason: str) -> dict[str, Any]:
    path = _path_of(folder, charter)
    words = reason.split(" ")
    return {
        "charter": charter,
        "name": None if path is None else SignedCharter.from_json(path.read_bytes()).charter.name,
        "state": state,
        "at": at,
        "by": words[0],
        "policy": words[1] if len(words) > 1 else None,
        "rules": words[2].split(",") if len(words) > 2 else [],
    }


def _path_of(folder: DepartmentFolder, charter: str) -> Path | None:
    places = (folder.root / place / f"{charter}.json" for place in ("charters", _OFFERS))
    return next((path for path in places if path.is_file()), None)


def _sentence(charter: Charter, broken: list[tuple[str, str]]) -> str:
    told = "".join(f"\n  {rule}: {why}" for rule, why in broken)
    return f"charter {charter.digest.hex()[:16]}… lies outside {len(broken)} rule(s) of policy.toml:{told}"


def _store_of(folder: DepartmentFolder) -> DepartmentStore:
    return DepartmentStore(folder.root, federation=folder.config.federation, department=folder.config.name)
