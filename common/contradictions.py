"""What a comparison of ledgers finds: who said what, whose signature proves it, and what is mere suspicion."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from commonroot.common.secure_sum.primitives import sha256


@dataclass(frozen=True, slots=True)
class Spoken:
    """One statement of the coordinator's.

    kind    of its parcel
    head    the signed message
    body    what the signature covers besides; empty where it was not kept
    held_by names of the departments that hold it
    signer  public key that it is signed with, hex
    """

    kind: str
    head: bytes
    body: bytes
    held_by: tuple[str, ...]
    signer: str

    def describe(self) -> dict[str, Any]:
        """As a flat record that shows the whole proof."""
        return {
            "kind": self.kind,
            "held_by": list(self.held_by),
            "signed_by": self.signer,
            "sha256": sha256(self.head).hex(),
            "head": self.head.hex(),
        }


@dataclass(frozen=True, slots=True)
class Finding:
    """One contradiction.

    rule        its name; names never change meaning
    round       it is about, if any
    proven      whether signatures alone prove it; otherwise it rests on a department's word, or on what is missing
    what        in a sentence
    statements  that say so
    signed_by   whose signatures they are: ``coordinator`` or ``authority``
    restored_at when the coordinator's log says that it was restored, where that explains it; seconds since 1970
    """

    rule: str
    round: int | None
    proven: bool
    what: str
    statements: tuple[Spoken, ...]
    signed_by: str = "coordinator"
    restored_at: float | None = None

    def describe(self) -> dict[str, Any]:
        """As a record for ``--json``."""
        return {
            "rule": self.rule,
            "round": self.round,
            "proven": self.proven,
            "what": self.what,
            "signed_by": self.signed_by,
            "restored_at": self.restored_at,
            "statements": [one.describe() for one in self.statements],
        }
