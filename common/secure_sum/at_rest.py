"""Secrets at rest: a few bytes sealed under a passphrase, or under the contents of a key file.

    file  = "commonroot sealed key\n" | header, canonical JSON | "\n" | box, hex | "\n"
    key   = derive(scrypt(secret, salt; n, r, p), "at-rest", own ‖ label)
    box   = AES-256-GCM under that key, bound to the header

scrypt is RFC 7914.  Its salt may serve several files of one folder, so that they cost it once; ``own`` is fresh for
each file, so a key seals one box.  The label is the file's name, so that files cannot be exchanged for one another.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from commonroot.common import canonical
from commonroot.common.errors import BadBox, KeyFileError, Malformed, SealedKey
from commonroot.common.roster import parse
from commonroot.common.secure_sum.primitives import Random, derive, seal, unseal

MAGIC: Final = b"commonroot sealed key\n"
_SALT_BYTES: Final = 16

HexSalt = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]


class Header(BaseModel):
    """What stands in the open in a sealed file.

    under  what it is sealed under: a ``passphrase`` or a ``key-file``
    path   where that key file was, as a hint
    n, r, p, salt  of scrypt; bounded, so that a file cannot ask for the whole memory
    own    16 bytes, this file's
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: Literal[1] = 1
    under: Literal["passphrase", "key-file"]
    path: Annotated[str, Field(max_length=4096)] = ""
    n: Annotated[int, Field(ge=2, le=2**20)]
    r: Annotated[int, Field(ge=1, le=16)]
    p: Annotated[int, Field(ge=1, le=8)]
    salt: HexSalt
    own: HexSalt

    def to_json(self) -> bytes:
        """Canonical JSON."""
        return canonical.dumps(self.model_dump(mode="json"))


@dataclass(frozen=True)
class Cost:
    """scrypt's parameters: 64 MiB and a good quarter of a second."""

    n: int = 2**16
    r: int = 8
    p: int = 1


def is_sealed(content: bytes) -> bool:
    """Does a file's content begin like a sealed one?"""
    return content.startswith(MAGIC)


def header_of(content: bytes, *, who: str) -> Header:
    """The header of a sealed file.  Raises KeyFileError, naming ``who``, where there is none that can be read."""
    try:
        return parse(Header, content.removeprefix(MAGIC).split(b"\n", 1)[0], what=who)
    except Malformed as error:
        raise KeyFileError(f"{who} is damaged: its header cannot be read") from error


def seal_content(
    content: bytes,
    *,
    secret: bytes,
    under: Literal["passphrase", "key-file"],
    path: str,
    salt: bytes,
    label: str,
    random: Random,
    cost: Cost,
) -> bytes:
    """A sealed file's content.

    Parameters  secret: the passphrase or the key file's bytes; salt: 16 bytes of scrypt's; label: the file's name
    """
    header = Header(
        under=under, path=path, n=cost.n, r=cost.r, p=cost.p, salt=salt.hex(), own=random(_SALT_BYTES).hex()
    )
    told = header.to_json()
    return MAGIC + told + b"\n" + seal(_key(header, secret, label), content, told).hex().encode() + b"\n"


def unseal_content(content: bytes, *, secret: bytes, label: str, who: str) -> bytes:
    """What was sealed.

    Raises  SealedKey: another secret, or another file; KeyFileError: no sealed file that can be read
    """
    header = header_of(content, who=who)
    lines = content.removeprefix(MAGIC).split(b"\n")
    try:
        box = bytes.fromhex(lines[1].decode("ascii"))
    except (IndexError, ValueError) as error:
        raise KeyFileError(f"{who} is damaged: its box cannot be read") from error
    try:
        return unseal(_key(header, secret, label), box, lines[0], who=who)
    except BadBox as error:
        raise SealedKey(f"{who} does not open: the {header.under.replace('-', ' ')} is another one") from error


def fresh_salt(random: Random) -> bytes:
    """16 bytes for scrypt."""
    return random(_SALT_BYTES)


def _key(header: Header, secret: bytes, label: str) -> bytes:
    stretched = _stretch(secret, bytes.fromhex(header.salt), header.n, header.r, header.p)
    return derive(stretched, "at-rest", bytes.fromhex(header.own) + label.encode())


@lru_cache(maxsize=8)
def _stretch(secret: bytes, salt: bytes, n: int, r: int, p: int) -> bytes:
    try:
        return hashlib.scrypt(secret, salt=salt, n=n, r=r, p=p, maxmem=256 * n * r + (1 << 20), dklen=32)
    except ValueError as error:
        raise KeyFileError("a sealed key asks for parameters of scrypt that cannot be") from error
