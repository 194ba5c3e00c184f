"""``coordinator doctor``: is everything here as a run will need it?  Looks and asks, and writes nothing."""

from __future__ import annotations

import resource
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

from commonroot import __version__, machine
from commonroot.common.errors import CommonrootError, SealedKey
from commonroot.common.findings import Finding, clocks_apart, days_left
from commonroot.files import runs_here
from commonroot.server.folder import CoordinatorFolder
from commonroot.server.status import at_the_gate

#: Days before an expiry from which on it is told.
_SOON: Final = 30.0
#: Connections that a department may need at once.
_CONNECTIONS_EACH: Final = 4


def examine(root: Path, *, clock: Callable[[], float] = time.time) -> list[Finding]:
    """Everything, in the order in which to mend it."""
    found = [machine.packages(__version__, without=("torch",))]
    try:
        folder = CoordinatorFolder(root)
    except CommonrootError as error:
        return [*found, Finding("configuration", "fail", str(error), error.advice)]
    found.append(Finding("configuration", "ok", f"coordinator of {folder.config.federation!r}"))
    found += [machine.writable(root), machine.disk(root)]
    secrets = ("keys/*.key", "authority/*.key", "tls/*.key", "journal.db", "links/*")
    found.append(machine.private(root, ("keys", "authority", "links", "backbones"), secrets))
    found += _keys(folder)
    found += _certificate(folder, clock())
    found += _names(folder)
    found += _port(folder, clock)
    found.append(_database(folder))
    found += _roster(folder, clock())
    found += _charters(folder)
    found += _departments(folder)
    return found


def _keys(folder: CoordinatorFolder) -> Iterator[Finding]:
    try:
        folder.identity()
        folder.authority_public()
        yield Finding("keys", "ok", "the coordinator's key and the authority's public key can be read")
    except SealedKey as error:
        yield Finding("keys", "fail", str(error), error.advice)
    except (CommonrootError, ValueError) as error:
        yield Finding("keys", "fail", str(error), "put the keys back from your backup")


def _certificate(folder: CoordinatorFolder, now: float) -> Iterator[Finding]:
    from commonroot.server import pki

    renew = f"`commonroot coordinator renew-certificate {folder.root}`, then restart the coordinator"
    try:
        ca_ends = pki.expires(folder.ca).timestamp()
        why = pki.mismatch(folder.server_certificate, folder.server_key, folder.ca)
        ends = pki.expires(folder.server_certificate).timestamp()
        names = pki.certificate_names(folder.server_certificate)
    except SealedKey:
        return  # told under "keys"
    except CommonrootError as error:
        yield Finding("certificate", "fail", str(error), renew)
        return
    state, told = days_left(ca_ends, now, soon=180.0)
    yield Finding("authority", state, f"the federation's CA: {told}", "plan a new federation; see docs/operating.md")
    lacking = [name for name in folder.config.names if name not in names]
    state, told = days_left(ends, now, soon=_SOON)
    if why:
        yield Finding("certificate", "fail", why, renew)
    elif lacking:
        yield Finding("certificate", "fail", f"it does not name {', '.join(lacking)}", renew)
    else:
        yield Finding("certificate", state, f"for {', '.join(names)}; {told}", renew)


def _names(folder: CoordinatorFolder) -> Iterator[Finding]:
    for name in folder.config.names:
        found = machine.resolves(name)
        if found.state == "fail":  # it may be known where departments are, and not here
            yield Finding("dns", "warn", found.told, found.fix)
            return
    yield Finding("dns", "ok", f"{', '.join(folder.config.names)} can be resolved")


def _port(folder: CoordinatorFolder, clock: Callable[[], float]) -> Iterator[Finding]:
    host, port = folder.config.host, folder.config.port
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < folder.config.limits.connections + 128:
        told = f"{soft} open files are allowed, and {folder.config.limits.connections} connections"
        yield Finding("limits", "warn", told, "`ulimit -n 65536`, or LimitNOFILE=65536 in the unit")
    if not runs_here(folder.root):
        try:
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            socket.create_server((host, port), family=family).close()
            yield Finding("port", "ok", f"{host} port {port} is free; the coordinator is not up")
        except OSError as error:
            fix = f"stop what listens there (`ss -ltnp 'sport = :{port}'`), or choose another port in coordinator.toml"
            yield Finding("port", "fail", f"{host} port {port}: {error.strerror or error}", fix)
        return
    reach = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)
    try:
        answer = machine.ask_health(f"{reach}:{port}", folder.ca, clock())
    except ssl.SSLCertVerificationError as error:
        if "mismatch" in error.verify_message or "not valid for" in error.verify_message:
            yield Finding("port", "ok", f"{host} port {port}: the coordinator is up")
            return  # it answers under names that departments use, and not under this address
        yield Finding("port", "fail", f"port {port}: {error.verify_message}", "restart the coordinator")
    except OSError as error:
        fix = "look at the coordinator's log: `journalctl -u commonroot-coordinator`"
        yield Finding("port", "fail", f"the coordinator is up, but port {port}: {error.strerror or error}", fix)
    else:
        told = f"{host} port {port}: the coordinator is up and answered {answer.status}"
        yield Finding("port", "ok" if answer.status in (200, 429) else "fail", told, "look at the coordinator's log")


def _database(folder: CoordinatorFolder) -> Finding:
    import sqlalchemy as sa

    path = folder.root / "journal.db"
    url = folder.config.database
    if not url and not path.exists():
        return Finding("database", "ok", "journal.db will be made when it is needed first")
    try:
        # Nothing is made or mended by looking; a database that nobody has open would get a log of its own otherwise.
        how = "mode=ro" if path.with_name("journal.db-wal").exists() else "immutable=1"
        engine = sa.create_engine(url or f"sqlite:///file:{path.resolve()}?{how}&uri=true")
        with engine.connect() as connection:
            about: dict[Any, Any] = {r[0]: r[1] for r in connection.execute(sa.text("SELECT name, value FROM about"))}
        engine.dispose()
    except (sa.exc.SQLAlchemyError, ImportError) as error:
        told = str(getattr(error, "orig", None) or error).splitlines()[0]
        fix = "check `database` in coordinator.toml, and that the server runs and lets this user in"
        return Finding("database", "fail", told, fix)
    if about.get("federation") not in (None, folder.config.federation):
        told = f"it is of federation {about['federation']!r}"
        return Finding("database", "fail", told, "check `database` in coordinator.toml")
    return Finding("database", "ok", "the journal can be read")


def _roster(folder: CoordinatorFolder, now: float) -> Iterator[Finding]:
    if not (folder.root / "roster.json").is_file():
        fix = f"`commonroot coordinator enrol {folder.root} NAME` for each, then `coordinator roster DIR --sign`"
        yield Finding("roster", "warn", "no department is enrolled yet", fix)
        return
    try:
        roster = folder.roster()
    except CommonrootError as error:
        yield Finding("roster", "fail", str(error), error.advice)
        return
    state, told = days_left(roster.expires, now, soon=_SOON)
    fix = "departments `renew`, then sign the next one with `commonroot coordinator roster`"
    yield Finding("roster", state, f"epoch {roster.epoch}, {len(roster.departments)} departments, {told}", fix)
    wanted = _CONNECTIONS_EACH * len(roster.departments)
    if wanted > folder.config.limits.connections:
        told = f"{folder.config.limits.connections} connections for {len(roster.departments)} departments"
        yield Finding("limits", "warn", told, f"[limits] connections = {wanted} in coordinator.toml")


def _charters(folder: CoordinatorFolder) -> Iterator[Finding]:
    good = 0
    for path in sorted((folder.root / "charters").glob("*.json")):
        try:
            folder.charter(path)
            good += 1
        except CommonrootError as error:
            fix = f"remove it, and sign its draft again with `commonroot coordinator charter {folder.root} DRAFT.toml`"
            yield Finding("charters", "fail", f"{path.name[:16]}…: {error}", fix)
    yield Finding("charters", "ok", f"{good} signed")


def _departments(folder: CoordinatorFolder) -> Iterator[Finding]:
    """What departments said of themselves when they last asked: their clocks and programs."""
    for name, about in sorted(at_the_gate(folder).get("departments", {}).items()):
        if about.get("clock_ahead") is not None:
            state, _ = clocks_apart(about["clock_ahead"])
            told = f"{name}'s is {about['clock_ahead']} s ahead of this one"
            if state != "ok":
                yield Finding("clock", state, told, "let a time service set both: `timedatectl set-ntp true`")
        if about.get("version") and about["version"] != __version__:
            told = f"{name} runs commonroot {about['version']}, and this is {__version__}"
            yield Finding("program", "warn", told, "install the same version on both sides; see docs/upgrading.md")
