"""The coordinator's side of the links to the departments: the seam that rounds are written against.

Whatever carries parcels (Flower here, a network in memory in simulations) implements :class:`Links`.  A link may lose,
repeat or delay; what that means for a round is decided above it, and a department answers a repeated parcel alike.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Protocol

from commonroot.common.parcel import Parcel


@dataclass(frozen=True, slots=True)
class Fault:
    """Instead of a reply: the link knows that none will come.  The reason is for logs, not for decisions."""

    reason: str


class Links(Protocol):
    """Parcels to departments and back.  A department is named by its node key, one OpenSSH line as in the roster."""

    def present(self) -> dict[str, str]:
        """Who is online now, and each one's incarnation.

        The incarnation changes when that node joined anew, so a parcel it was given before is lost and is to be sent
        again.
        """
        ...

    def send(self, node_key: str, parcel: Parcel) -> str:
        """Send a parcel and return the ticket of its reply.  That nobody is there shows as a :class:`Fault`, later."""
        ...

    def collect(self, tickets: Collection[str], timeout: float) -> list[tuple[str, Parcel | Fault]]:
        """Wait at most ``timeout`` seconds, and return as soon as at least one of these tickets has its reply.

        Without tickets it waits the whole time.  Each ticket is answered once.  Replies with large bodies are handed
        over one at a time.
        """
        ...

    def forget(self, tickets: Collection[str]) -> None:
        """These replies are not wanted any more; parcels that nobody fetched yet are withdrawn."""
        ...
