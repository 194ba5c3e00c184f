"""What signed messages have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar, Self

from commonroot.common.errors import BadSignature
from commonroot.common.secure_sum.primitives import SIGNATURE_BYTES, Identity, verify
from commonroot.common.secure_sum.wire import PROTOCOL


class Signed(ABC):
    """What all signed messages share: bytes, then a signature over them under the message's own label."""

    __slots__ = ()
    label: ClassVar[str]
    signature: bytes

    @abstractmethod
    def unsigned(self) -> bytes:
        """The encoding without its signature: what is signed."""

    def encode(self) -> bytes:
        """The message's one encoding."""
        return self.unsigned() + self.signature

    @classmethod
    def signed(cls, identity: Identity, **fields: Any) -> Self:
        """A message with these fields, under ``identity``'s signature."""
        blank = cls(**(fields | {"signature": bytes(SIGNATURE_BYTES)}))
        return cls(**(fields | {"signature": identity.sign(cls.label, blank.unsigned())}))

    def check(self, public: bytes, *, who: str) -> None:
        """Raise BadSignature, naming ``who``, unless the signature is ``public``'s."""
        verify(public, self.label, self.unsigned(), self.signature, who=who)

    def is_by(self, public: bytes) -> bool:
        """Is the signature ``public``'s?"""
        try:
            self.check(public, who="the sender")
        except BadSignature:
            return False
        return True


def version_byte() -> bytes:
    """What every message starts with."""
    return bytes([PROTOCOL])
