"""A department's folder: its configuration, keys, roster and approved charters, each in its one place.

department.toml         who this is, which coordinator, which data
ca.pem                  the federation's certificate authority, as handed over by central IT
keys/                   identity, node and training secrets (0600); the agreement key until the epoch is joined
request.json            what this department applied with last; holds public keys only
roster.json             the signed roster this department joined; rosters/: every one it ever did
policy.toml             which charters may be approved without a person, and which never
charters/HASH.json      approved charters
offers/HASH.json        charters that were offered, refused or withdrawn; obeyed by nobody
ledger.head             the newest signed head of the ledger
state.db, blobs/        protocol state, heads, ledger
backbones/SHA256…       files that charters start from
predictors/             chosen models, newest last
splits/CHARTER…         part of each row, as a run began
tables/KEY/             encoded rows that do not fit into memory
evaluations/HASH.json   validation losses that a run ended with, and what an evaluation of it summed
report.json             alone against federated, for this department's eyes
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from commonroot.client.node_key import make_node_key
from commonroot.client.retention import RetentionConfig
from commonroot.client.tables.config import DataConfig
from commonroot.common.charter import Charter, SignedCharter, model_from_toml
from commonroot.common.enrolment import Application
from commonroot.common.errors import ConfigError, KeyFileError
from commonroot.common.roster import Hex32, Name, Roster, checked_roster
from commonroot.common.secure_sum.primitives import Identity, Random
from commonroot.files import as_it_is, read_bytes, read_secret, read_text, sync_folder, write_secret


class GuardConfig(BaseModel):
    """``[guard]``.

    early_exit   stop giving, silently, once the rounds are seen to do harm (``leaving``)
    tell_choice  let an evaluation that counts choices count this department's, deniably (``strategies.evaluation``)
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    early_exit: bool = False
    tell_choice: bool = True


class RosterConfig(BaseModel):
    """``[roster]``.

    follow  join rosters under the pinned authority's signature, and send fresh keys for them, without being told to
    every   seconds between two looks for a new one
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    follow: bool = True
    every: Annotated[float, Field(ge=1, le=86_400)] = 30.0


class Waits(BaseModel):
    """``[waits]``; in seconds.  What a run waits for stands in its charter.

    first    how long a hub may refuse a daemon that starts: one that was killed elsewhere keeps its place for 20 s
    give_up  how long a request that the hub fails over is repeated before its message is dropped
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    first: Annotated[float, Field(ge=0)] = 30.0
    give_up: Annotated[float, Field(gt=0)] = 60.0


class DepartmentConfig(BaseModel):
    """``department.toml``.

    authority    the enrolment authority's Ed25519 public key, 32 bytes hex; signs every roster
    coordinator  host:port of the public listener
    device       where the daemon computes networks: the processor, or a GPU
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    federation: Name
    name: Name
    coordinator: Annotated[str, Field(pattern=r"^[^\s/]+:\d{1,5}$")]
    authority: Hex32
    device: Annotated[str, Field(min_length=1)] = "cpu"
    data: DataConfig | None = None
    guard: GuardConfig = GuardConfig()
    retention: RetentionConfig = RetentionConfig()
    roster: RosterConfig = RosterConfig()
    waits: Waits = Waits()


class DepartmentFolder:
    """Paths and checked readers.  Raises ConfigError, KeyFileError, Malformed or BadSignature naming the file."""

    def __init__(self, root: Path) -> None:
        self.root = root
        if not (root / "department.toml").is_file():
            raise ConfigError(
                f"{root} is not a department's folder: it has no department.toml",
                hint="make one with `commonroot department init`",
            )
        text = read_text(root / "department.toml", what="the configuration")
        self.config: DepartmentConfig = model_from_toml(DepartmentConfig, text, path=str(root / "department.toml"))

    @property
    def ca(self) -> Path:
        """The pinned certificate authority."""
        return self.root / "ca.pem"

    @property
    def node_key(self) -> Path:
        """The Flower node's private key."""
        return self.root / "keys" / "node.key"

    @property
    def data(self) -> DataConfig:
        """The data section; its paths are relative to the folder.  ConfigError where it is missing."""
        if self.config.data is None:
            raise ConfigError(f"{self.root / 'department.toml'} has no [data] section")
        return self.config.data

    def identity(self) -> Identity:
        """The signing identity."""
        return Identity(read_secret(self.root / "keys" / "identity.key"))

    # -- keys that wait to take the others' place ------------------------------------------------------------------

    @property
    def next_node_key(self) -> Path:
        """The node key that a rotation made."""
        return self.root / "keys" / "node.key.next"

    @property
    def _next_identity(self) -> Path:
        return self.root / "keys" / "identity.key.next"

    def next_identity(self) -> Identity | None:
        """The identity that a rotation made, until a roster lists it."""
        path = self._next_identity
        return Identity(read_secret(path)) if path.is_file() else None

    def make_next_keys(self, random: Random) -> None:
        """A new identity and node key beside the present ones; those of an earlier rotation that still waits stay."""
        if not self.next_node_key.is_file():
            make_node_key(self.next_node_key)
        if not self._next_identity.is_file():  # last, for it is what says that there are any
            write_secret(self._next_identity, Identity.generate(random).secret_bytes())

    def take_next_keys(self, public: bytes) -> None:
        """Let them take the others' place, if that identity is theirs.  Can be repeated after a crash."""
        following = self.next_identity()
        if following is None or following.public != public:
            return
        if self.next_node_key.is_file():
            self.next_node_key.replace(self.node_key)
        self._next_identity.replace(self.root / "keys" / "identity.key")
        sync_folder(self.root / "keys")

    @property
    def private_files(self) -> list[Path]:
        """Every private key, as ``seal`` and ``unseal`` take them."""
        return sorted((self.root / "keys").glob("*.key")) + sorted((self.root / "keys").glob("*.key.next"))

    def application(self) -> Application | None:
        """What this department applied with last, if something vouches for it."""
        path = self.root / "request.json"
        if not path.is_file() or b'"proof":' not in (data := read_bytes(path, what="the request")):
            return None
        return Application.from_json(data.strip())

    def secret(self) -> bytes:
        """32 bytes that only this department holds: all its training randomness comes from them."""
        return read_secret(self.root / "keys" / "training.key")

    def roster(self) -> Roster:
        """The roster this department joined, its signatures checked again."""
        path = self.root / "roster.json"
        if not path.is_file():
            raise KeyFileError(f"{path} is missing", hint="`commonroot department join DIR ROSTER.json`")
        roster = checked_roster(read_bytes(path, what="the roster"), bytes.fromhex(self.config.authority))
        self.require_federation(roster.federation)
        return roster

    def require_federation(self, name: str) -> None:
        """Raise ConfigError where something is of another federation than this folder."""
        if name != self.config.federation:
            raise ConfigError(f"{self.root} is of federation {self.config.federation!r}, not {name!r}")

    def charter_path(self, digest: bytes) -> Path:
        """Where an approved charter lies."""
        return self.root / "charters" / f"{digest.hex()}.json"

    def approved(self, digest: bytes) -> Charter | None:
        """The approved charter of that hash, or None."""
        path = self.charter_path(digest)
        found = as_it_is(path)
        return None if found is None else _charter(path, found)


@lru_cache(maxsize=1024)
def _charter(path: Path, _as_it_is: tuple[int, ...]) -> Charter:
    """Read once as long as the file stays as it is: it is asked for with every request."""
    return _parsed(read_bytes(path, what="the charter"))


@lru_cache(maxsize=8)
def _parsed(data: bytes) -> Charter:
    """One charter for all departments that one process holds."""
    return SignedCharter.from_json(data).charter
