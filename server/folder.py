"""Central IT's folder: configuration, keys, certificates, roster, journal, backbones, each in its one place.

coordinator.toml        federation, public address, database
keys/coordinator.key    signs rounds and charters (0600)
keys/monitor.token      opens the page for central IT (0600); made when it is first served
authority/              the enrolment authority: signs rosters.  Move it to a machine of its own if departments
                        should not have to trust the coordinator with it
tls/                    the federation's CA and the listener's certificate
roster.json             the current signed roster; rosters/: every one there was
charters/               sealed and signed charters
journal.db              runs, rounds, survivor sets, versions, faults, unless `database` says that they are elsewhere
journal.db.owner        locked by the one coordinator that owns the journal
journal.db.layout-N     as it was before a newer version took it over
round-N.masked          the masked sum of the round that is being opened
backbones/              versions of the shared state; SHA256.safetensors: what a charter starts from
links/                  Flower's own database
"""

from __future__ import annotations

import ipaddress
import re
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from commonroot.common.charter import Draft, SignedCharter, model_from_toml, plainly
from commonroot.common.enrolment import Application, check_next
from commonroot.common.errors import ConfigError, KeyFileError, NotTheNextRoster
from commonroot.common.ledger import Fact
from commonroot.common.roster import Member, Name, Parameters, Roster, SignedRoster, checked_roster, parse
from commonroot.common.secure_sum.primitives import Identity, Random
from commonroot.files import (
    Lock,
    atomic_write,
    keep_backbone,
    keep_roster,
    read_backbone,
    read_bytes,
    read_secret,
    read_text,
    write_secret,
)
from commonroot.logs import Tell
from commonroot.server import keeping
from commonroot.server.journal import Journal
from commonroot.server.journal_engine import sqlite_url
from commonroot.server.limits import TEMPLATE as LIMITS_TEMPLATE
from commonroot.server.limits import Limits
from commonroot.server.monitor.settings import TEMPLATE as MONITOR
from commonroot.server.monitor.settings import MonitorSettings
from commonroot.server.waits import Waits

ROSTER_DAYS = 366

_TEMPLATE = """\
# Commonroot coordinator. Every field is explained here; a wrong one is named when the coordinator starts.

federation = "{federation}"

# Where departments reach this coordinator: one TLS port, node routes only. Everything else stays on loopback.
host = "{host}"
port = {port}

# Names and addresses that departments may use for it; they are written into its certificate.
names = [{names}]

"""
_TEMPLATE += LIMITS_TEMPLATE

_LABEL: Final = r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_HOST: Final = re.compile(rf"(?:\*\.)?{_LABEL}(?:\.{_LABEL})*\.?")


class CoordinatorConfig(BaseModel):
    """``coordinator.toml``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    federation: Name
    host: str = "0.0.0.0"
    port: Annotated[int, Field(ge=1, le=65535)] = 9443
    names: tuple[str, ...] = ("localhost", "127.0.0.1")
    database: Annotated[str, Field(repr=False)] = ""
    waits: Waits = Waits()
    retention: keeping.RetentionConfig = keeping.RetentionConfig()
    limits: Limits = Limits()
    monitor: MonitorSettings = MonitorSettings()

    @field_validator("names")
    @classmethod
    def _are_names(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        """Each must be one that a certificate can hold and a department can look up."""
        for name in names:
            try:
                ipaddress.ip_address(name)
            except ValueError:
                if len(name) > 253 or not _HOST.fullmatch(name):
                    raise ValueError(f"{name!r} is neither a host's name nor an address") from None
        if not names:
            raise ValueError("departments need one name at least")
        return names


class CoordinatorFolder:
    """Paths and checked readers.  Raises ConfigError, KeyFileError, Malformed or BadSignature naming the file."""

    def __init__(self, root: Path) -> None:
        self.root = root
        #: The roster's file as it was last read, and what it says: its many signatures are checked once.
        if not (root / "coordinator.toml").is_file():
            raise ConfigError(
                f"{root} is not a coordinator's folder: it has no coordinator.toml",
                hint="make one with `commonroot coordinator init`",
            )
        text = read_text(root / "coordinator.toml", what="the configuration")
        self.config: CoordinatorConfig = model_from_toml(CoordinatorConfig, text, path=str(root / "coordinator.toml"))

    @classmethod
    def create(
        cls,
        root: Path,
        *,
        federation: str,
        host: str,
        port: int,
        names: tuple[str, ...],
        random: Random,
        authority: str | None = None,
        lock: Lock | None = None,
        monitor: bool = True,
    ) -> CoordinatorFolder:
        """A fresh folder with keys, sealed under ``lock``, and certificates.  Refuses one that is not empty.

        authority  public key, hex, of an enrolment authority that is kept elsewhere; without it, one is made here
        monitor    whether ``coordinator up`` serves the page for central IT
        """
        from commonroot.server.pki import make_authority, make_server_certificate

        if root.exists() and any(root.iterdir()):
            raise ConfigError(f"{root} exists and is not empty", hint="choose a new folder")
        text = _TEMPLATE.format(
            federation=federation, host=host, port=port, names=", ".join(f'"{name}"' for name in names)
        )
        text += keeping.TEMPLATE + MONITOR.format(enabled=str(monitor).lower())
        model_from_toml(CoordinatorConfig, text, path="what was given")  # before anything is written
        if authority is not None and not re.fullmatch("[0-9a-f]{64}", authority):
            raise ConfigError(
                "the authority's public key is 64 hex digits", hint="`commonroot authority init` prints it"
            )
        for name in ("keys", "authority", "charters", "backbones", "links"):
            (root / name).mkdir(parents=True, exist_ok=True)
        for private in ("keys", "authority", "links", "backbones"):  # secrets, messages in flight, learned weights
            (root / private).chmod(0o700)
        write_secret(root / "keys" / "coordinator.key", Identity.generate(random).secret_bytes(), lock=lock)
        if authority is None:
            made = Identity.generate(random)
            write_secret(root / "authority" / "authority.key", made.secret_bytes(), lock=lock)
            authority = made.public.hex()
        atomic_write(root / "authority" / "authority.pub", authority.encode() + b"\n")
        ca_certificate, ca_key = make_authority(root / "tls", federation, lock=lock)
        make_server_certificate(root / "tls", names, ca_certificate=ca_certificate, ca_key=ca_key)
        atomic_write(root / "coordinator.toml", text.encode())
        return cls(root)

    # -- certificates ----------------------------------------------------------------------------------------------

    @property
    def ca(self) -> Path:
        """The federation's CA certificate, which every department pins."""
        return self.root / "tls" / "ca.pem"

    @property
    def server_certificate(self) -> Path:
        """The public listener's certificate."""
        return self.root / "tls" / "server.pem"

    @property
    def server_key(self) -> Path:
        """The public listener's key."""
        return self.root / "tls" / "server.key"

    @property
    def private_files(self) -> list[Path]:
        """Every private key, as ``seal`` and ``unseal`` take them."""
        names = ("keys/coordinator.key", "authority/authority.key", "tls/ca.key", "tls/server.key")
        return [self.root / name for name in names]

    # -- keys ------------------------------------------------------------------------------------------------------

    def identity(self) -> Identity:
        """The key that signs rounds and charters."""
        return Identity(read_secret(self.root / "keys" / "coordinator.key"))

    def authority_public(self) -> bytes:
        """The enrolment authority's public key."""
        text = read_text(self.root / "authority" / "authority.pub", what="the authority's public key")
        return bytes.fromhex(text.strip())

    def authority(self) -> Identity:
        """The enrolment authority's key; KeyFileError where it was moved elsewhere, as it may be."""
        return Identity(read_secret(self.root / "authority" / "authority.key"))

    # -- roster ----------------------------------------------------------------------------------------------------

    def sign_roster(self, requests: list[Path], *, colluders: int | None, survivors_min: int | None) -> SignedRoster:
        """Sign a roster over enrolment requests in files and let it stand, as the next epoch's.

        For whoever owns all folders, as simulations do; ``enrol_roster`` takes what departments applied with.
        Raises ConfigError, naming departments, for requests that belong to the current epoch.
        """
        members = tuple(_entry(path) for path in requests)
        roster = self.next_roster(members, colluders=colluders, survivors_min=survivors_min)
        return self.install(SignedRoster.sign(roster, self.authority()))

    def next_roster(self, members: Sequence[Member], *, colluders: int | None, survivors_min: int | None) -> Roster:
        """The roster of the next epoch, unsigned.  Raises ConfigError where these entries make none."""
        for member in members:
            member.check()
        parameters = Parameters.for_size(len(members), colluders, survivors_min=survivors_min)
        before = self.standing()
        used = {key for m in (before.departments if before else ()) for key in (m.agreement, m.kem)}
        stale = [member.name for member in members if member.agreement in used or member.kem in used]
        if stale:
            raise ConfigError(
                f"requests of the current epoch, whose keys are erased: {', '.join(stale)}",
                hint="each department that stays runs `commonroot department renew DIR`",
            )
        try:
            return Roster(
                federation=self.config.federation,
                epoch=before.epoch + 1 if before else 1,
                coordinator=self.identity().public.hex(),
                parameters=parameters,
                departments=tuple(members),
                expires=int(time.time()) + ROSTER_DAYS * 86400,
                previous=before.digest.hex() if before else None,
            )
        except ValidationError as error:
            told = "; ".join(plainly(problem) for problem in error.errors())
            raise ConfigError(f"no roster over these requests: {told}", hint="one request a department") from error

    def install(self, signed: SignedRoster) -> SignedRoster:
        """Let a signed roster stand.  Raises BadSignature, NotTheNextRoster; the very same one again is a repeat."""
        roster, before = signed.check(self.authority_public()), self.standing()
        if before is not None and roster.digest == before.digest:
            return signed
        check_next(roster, before)
        mine = (self.config.federation, self.identity().public.hex())
        if (roster.federation, roster.coordinator) != mine:
            raise NotTheNextRoster("the roster is of another federation, or names another coordinator's key")
        self._note("roster", {"epoch": roster.epoch, "roster": roster.digest.hex()})
        keep_roster(self.root, roster.epoch, roster.digest, signed.to_json())
        atomic_write(self.root / "roster.json", signed.to_json())
        return signed

    def standing(self) -> Roster | None:
        """The stored roster, checked; None before the first."""
        return self.roster() if (self.root / "roster.json").is_file() else None

    def roster(self) -> Roster:
        """The stored roster, checked."""
        path = self.root / "roster.json"
        if not path.is_file():
            raise KeyFileError(f"{path} is missing", hint="`commonroot coordinator roster DIR --sign`")
        return checked_roster(read_bytes(path, what="the roster"), self.authority_public())

    # -- charters --------------------------------------------------------------------------------------------------

    def sign_charter(self, draft_path: Path, *, backbone: Path | None = None) -> tuple[SignedCharter, Path]:
        """Seal and sign a draft in TOML; returns it and where it lies.

        backbone  the file that the charter's ``warm_start`` names, where it is not in this folder yet

        Raises ConfigError naming every wrong field; BackboneMissing and BackboneMismatch for the file of a warm start.
        """
        from commonroot.strategies import build, seal
        from commonroot.strategies.warm_start import first_state

        text = read_text(draft_path, what="the charter")
        draft: Draft = Draft.from_toml(text, path=str(draft_path))
        if draft.federation != self.config.federation:
            raise ConfigError(f"{draft_path} is for federation {draft.federation!r}, not {self.config.federation!r}")
        if backbone is not None and draft.training.warm_start is not None:
            keep_backbone(self.root, draft.training.warm_start, backbone)
        first_state(build(draft), draft, partial(read_backbone, self.root))
        signed = SignedCharter.sign(seal(draft), self.identity())
        path = self.root / "charters" / f"{signed.charter.digest.hex()}.json"
        if not path.is_file():
            self._note("charter", {"charter": signed.charter.digest.hex(), "name": signed.charter.name})
        atomic_write(path, signed.to_json())
        return signed, path

    def charter(self, path: Path) -> SignedCharter:
        """A signed charter from a file, its signature checked."""
        signed = SignedCharter.from_json(read_bytes(path, what="the charter"))
        signed.check(self.identity().public)
        return signed

    # -- state -----------------------------------------------------------------------------------------------------

    def _note(self, kind: str, facts: dict[str, Fact]) -> None:
        """Into the audit log, before it is done: what was signed there stands there."""
        journal = self.journal()
        try:
            journal.note(kind, facts)
        finally:
            journal.close()

    @property
    def database(self) -> str:
        """The URL of the journal's database, with its password if it has one; ConfigError where that is missing."""
        if not self.config.database:
            return sqlite_url(self.root / "journal.db")
        return keeping.database_url(self.config.database, self.root / "coordinator.toml")

    def journal(self, *, owner: str = "", say: Tell = lambda kind, facts: None) -> Journal:
        """The coordinator's journal; with ``owner``, that of the one process which carries out runs."""
        patience = self.config.waits.database if owner else min(5.0, self.config.waits.database)
        return Journal(
            self.database,
            federation=self.config.federation,
            folder=self.root,
            owner=owner,
            patience=patience,
            say=say,
        )


def _entry(path: Path) -> Member:
    """The entry that a request file asks for: an application's, or one that nothing vouches for."""
    data = read_bytes(path, what="the enrolment request").strip()
    if b'"proof":' in data:
        return Application.from_json(data).member
    return parse(Member, data, what=str(path))
