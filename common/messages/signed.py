"""What signed messages have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import lru_cache
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
        message = cls(**(fields | {"signature": bytes(SIGNATURE_BYTES)}))
        # nobody else has it yet, and its other fields need no second check
        object.__setattr__(message, "signature", identity.sign(cls.label, message.unsigned()))
        return message

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


class SignedToMany(Signed):
    """A signed message that everybody who is asked gets in the same bytes, and reads several times.

    What it says and whether its signature holds follow from the bytes alone, so a process works them out once.
    """

    @classmethod
    @abstractmethod
    def decoded(cls, data: bytes) -> Self:
        """The inverse of ``encode``."""

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """The inverse of ``encode``; the same object for the same bytes."""
        found: Self = _decoded(cls, bytes(data))
        return found

    def check(self, public: bytes, *, who: str) -> None:
        """Raise BadSignature, naming ``who``, unless the signature is ``public``'s."""
        _checked(self, public, who)


@lru_cache(maxsize=4)
def _decoded(kind: type[SignedToMany], data: bytes) -> Any:
    return kind.decoded(data)


@lru_cache(maxsize=4)
def _checked(message: SignedToMany, public: bytes, who: str) -> None:
    """Only what passes is remembered."""
    verify(public, message.label, message.unsigned(), message.signature, who=who)


def version_byte() -> bytes:
    """What every message starts with."""
    return bytes([PROTOCOL])
