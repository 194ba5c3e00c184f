"""Who there is, as far as a method minds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from commonroot.common.roster import Name, Parameters


class Named(Protocol):
    """Somebody with a name."""

    @property
    def name(self) -> Name:
        """Unique in the federation."""


class Enrolled(Protocol):
    """Who there is and what protects them, as far as a method minds: a roster, or one that nobody has signed."""

    @property
    def departments(self) -> Sequence[Named]:
        """In the roster's order."""

    @property
    def parameters(self) -> Parameters:
        """Of the secure sum."""
