"""``department doctor``: is everything here as a round will need it?  Looks, asks the coordinator once, writes nothing.

A check that cannot be made because an earlier one failed is left out, and so is whatever a round would need once the
department has left.
"""

from __future__ import annotations

import sqlite3
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Final

from commonroot import __version__, machine
from commonroot.client.folder import DepartmentFolder
from commonroot.client.standing import KEYS_OF_THE_LINK
from commonroot.client.store import ACTIVE, LEAVING, LEFT, PAUSED
from commonroot.common.charter import Charter, SignedCharter
from commonroot.common.errors import CommonrootError, SealedKey
from commonroot.common.findings import Finding, clocks_apart, days_left
from commonroot.common.roster import Roster
from commonroot.files import read_bytes

#: Days before an expiry from which on it is told.
_SOON: Final = 30.0


def examine(root: Path, *, clock: Callable[[], float] = time.time, data: bool = True) -> list[Finding]:
    """Everything, in the order in which to mend it.  ``data`` reads the table as well, which may take a while."""
    found = [machine.packages(__version__)]
    try:
        folder = DepartmentFolder(root)
    except CommonrootError as error:
        return [*found, Finding("configuration", "fail", str(error), error.advice)]
    found.append(Finding("configuration", "ok", f"department {folder.config.name!r} of {folder.config.federation!r}"))
    found += [machine.writable(root), machine.disk(root)]
    found.append(machine.private(root, (".", "keys"), ("keys/*.key",)))
    standing = _standing(root)
    if standing == LEFT:
        return [*found, *_after_leaving(folder)]
    found.append(_told_of(standing, root))
    found += _keys(folder)
    found += _link(folder, clock)
    found += _roster(folder, clock())
    found += _charters(folder)
    if data:
        found.append(_data(folder))
    return found


def _standing(root: Path) -> str:
    """As ``DepartmentStore.standing``, from a database that is only read."""
    path = root / "state.db"
    if not path.is_file():
        return ACTIVE
    try:
        with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True, timeout=30)) as db:
            row = db.execute("SELECT value FROM about WHERE name = 'standing'").fetchone()
    except sqlite3.Error:
        return ACTIVE  # whatever opens it next says what is wrong with it
    return ACTIVE if row is None else str(row[0])


def _told_of(standing: str, root: Path) -> Finding:
    if standing == PAUSED:
        fix = f"`commonroot department resume {root}`, once it is to take part again"
        return Finding("standing", "warn", "paused: it answers no charter and no round", fix)
    if standing == LEAVING:
        fix = f"`commonroot department leave {root} --yes` finishes it; starting the daemon does too"
        return Finding("standing", "fail", "leaving was begun and is not finished; its keys are not erased yet", fix)
    return Finding("standing", "ok", "takes part")


def _after_leaving(folder: DepartmentFolder) -> Iterator[Finding]:
    """What is left to look at: nothing is run any more, and nobody is asked."""
    told = "has left for good: predict, export, report and ledger go on working, and no daemon is needed"
    yield Finding("standing", "ok", told)
    fix = f"`commonroot department leave {folder.root} --yes` erases them"
    if remain := [path.name for name in KEYS_OF_THE_LINK if (path := folder.root / "keys" / name).exists()]:
        yield Finding("keys", "fail", f"keys of rounds are still here: {', '.join(remain)}", fix)
        return
    try:
        folder.identity()
    except SealedKey as error:
        yield Finding("keys", "warn", str(error), error.advice)
        return
    except CommonrootError as error:
        fix = "put it back from a backup made --with-keys; without it the ledger can be read, and not signed anew"
        yield Finding("keys", "warn", f"{error}: the ledger's exports are signed with it", fix)
        return
    yield Finding("keys", "ok", "those of rounds are erased; the identity, which signs the ledger, can be read")


def _keys(folder: DepartmentFolder) -> Iterator[Finding]:
    from commonroot.client.node_key import load_node_key

    def trial(read: Callable[[], object]) -> str:
        try:
            read()
        except SealedKey:
            raise
        except CommonrootError as error:
            return str(error)
        return ""

    try:
        wrong = [*filter(None, map(trial, (folder.identity, folder.secret, lambda: load_node_key(folder.node_key))))]
    except SealedKey as error:
        yield Finding("keys", "fail", str(error), error.advice)
        return
    fix = "put the keys back from your backup; without one, make a new folder with `commonroot department init`"
    if wrong:
        yield Finding("keys", "fail", "; ".join(wrong), fix)
    else:
        yield Finding("keys", "ok", "identity, node and training key can be read")


def _link(folder: DepartmentFolder, clock: Callable[[], float]) -> Iterator[Finding]:
    """Name, port, certificate, clock, enrolment and version, with one request."""
    address = folder.config.coordinator
    host, _, port = address.rpartition(":")
    try:
        state, told = days_left(machine.authority(folder.ca), clock(), soon=_SOON)
        yield Finding(
            "authority", state, f"the federation's CA certificate: {told}", "ask central IT for the new ca.pem"
        )
    except ValueError:
        fix = f"ask central IT for the federation's ca.pem and put it at {folder.ca}"
        yield Finding("authority", "fail", f"{folder.ca} is no CA certificate", fix)
        return
    name = machine.resolves(host.strip("[]"))
    yield name
    if name.state == "fail":
        return
    try:
        answer = machine.ask_health(address, folder.ca, clock(), _signature(folder))
    except ssl.SSLCertVerificationError as error:
        fix = "ask central IT whether its certificate was renewed under another CA, or names this host"
        yield Finding("certificate", "fail", f"{address}: {error.verify_message}", fix)
        return
    except OSError as error:
        fix = f"ask central IT whether `coordinator up` runs, and your network whether TCP {port} to {host} is let out"
        yield Finding("coordinator", "fail", f"{address}: {error.strerror or error}", fix)
        return
    yield Finding("coordinator", "ok", f"{address} answers")
    state, told = days_left(ssl.cert_time_to_seconds(answer.certificate["notAfter"]), clock(), soon=_SOON)
    fix = "ask central IT to run `commonroot coordinator renew-certificate`"
    yield Finding("certificate", state, f"of the federation's CA, names {host}, {told}", fix)
    state, told = clocks_apart(answer.ahead)
    yield Finding("clock", state, told, "let a time service set the clock: `timedatectl set-ntp true`")
    if answer.status == 429:
        yield Finding("enrolment", "warn", "the coordinator asks for patience", "try again in a minute")
    elif answer.status != 200:
        fix = f"send {folder.root / 'request.json'} to central IT, and ask for a roster with it"
        why = "its clock is too far off" if state == "fail" else "its node key is not in the coordinator's roster"
        yield Finding("enrolment", "fail", f"the coordinator does not know this department: {why}", fix)
    else:
        yield Finding("enrolment", "ok", "the coordinator knows this department's node key")
        yield _other_version(answer.headers.get("commonroot-version", ""))


def _signature(folder: DepartmentFolder) -> dict[str, str]:
    from commonroot.client.node import signed_headers

    try:
        return signed_headers(folder.node_key)
    except CommonrootError:
        return {}  # told under "keys"


def _other_version(theirs: str) -> Finding:
    if theirs == __version__:
        return Finding("program", "ok", f"both sides run commonroot {theirs}")
    told = f"commonroot {__version__} here, {theirs or 'an unknown one'} at the coordinator"
    return Finding("program", "warn", told, "install the same version on both sides; see docs/upgrading.md")


def _roster(folder: DepartmentFolder, now: float) -> Iterator[Finding]:
    try:
        roster: Roster = folder.roster()
        roster.index_of(folder.identity().public)
    except CommonrootError as error:
        yield Finding("roster", "fail", str(error), error.advice)
        return
    state, told = days_left(roster.expires, now, soon=_SOON)
    about = f"epoch {roster.epoch}, {len(roster.departments)} departments, {told}"
    yield Finding("roster", state, about, "`commonroot department renew`, and ask central IT for the next roster")


def _charters(folder: DepartmentFolder) -> Iterator[Finding]:
    from commonroot.strategies import check_sealed

    good: list[Charter] = []
    for path in sorted((folder.root / "charters").glob("*.json")):
        try:
            charter = SignedCharter.from_json(read_bytes(path, what="the charter")).check(
                bytes.fromhex(folder.roster().coordinator)
            )
            check_sealed(charter)
            good.append(charter)
        except CommonrootError as error:
            fix = f"remove {path} and approve the charter again"
            yield Finding("charters", "fail", f"{path.name[:16]}…: {error}", fix)
    if good:
        yield Finding("charters", "ok", f"{len(good)} approved: " + ", ".join(sorted({c.name for c in good})))
    else:
        yield Finding(
            "charters", "warn", "none is approved, so nothing is run", "`commonroot department approve DIR FILE`"
        )


def _data(folder: DepartmentFolder) -> Finding:
    from commonroot.client.checking import check_folder

    try:
        facts = check_folder(folder.root)
    except CommonrootError as error:
        fix = f"`commonroot department check {folder.root}` names every problem"
        return Finding("data", "fail", str(error).splitlines()[0], fix)
    if "train" not in facts:
        return Finding("data", "ok", "can be read")
    rows = facts["train"] + facts["validation"] + facts["test"]
    return Finding("data", "ok", f"{rows} rows, {facts['columns']} columns; fits {len(facts['charters'])} charters")
