"""``[[events]]``: a department goes or comes, by name, in a round of its own."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from typing import Self

from pydantic import model_validator

from commonroot.common.roster import Name
from commonroot.simulations.behaviour.base import Frozen, Round


class Event(Frozen):
    """A department goes or comes.

    round  the round that makes this version of the backbone, from 1; lost rounds are not counted
    kill   the department that is killed after this round opened: it is in the cohort, and answers no more
    start  the department that starts before this round opens; one whose first event this is was not there before
    """

    round: Round
    kill: Name | None = None
    start: Name | None = None

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.kill is None) == (self.start is None):
            raise ValueError("give kill or start")
        return self

    @property
    def department(self) -> str:
        """Whom it concerns."""
        return self.kill or self.start or ""

    def problems(self, names: Sequence[str], rounds: int) -> list[str]:
        """What does not fit a federation of these departments and so many rounds."""
        found = [] if self.department in names else [f"no department is called {self.department!r}"]
        return found + ([f"round {self.round} comes after the last, {rounds}"] if self.round > rounds else [])

    def told(self) -> str:
        """The event for people."""
        return f"round {self.round}: {self.department} {'is killed' if self.kill else 'starts'}"


def in_order(events: Iterable[Event]) -> list[Event]:
    """By round; within one, who starts does so before the round opens and who is killed, after."""
    return sorted(events, key=lambda event: (event.round, event.kill is not None))


def up(events: Sequence[Event], version: int) -> bool:
    """Is the department of these events, in order, up when the round that makes version + 1 opens?"""
    here = not events or events[0].kill is not None
    for event in events:
        if event.round <= version or (event.start and event.round == version + 1):
            here = event.start is not None
    return here


def twice_in_a_row(events: Sequence[Event]) -> list[str]:
    """Departments that are killed while they are down or started while they are up."""
    found = []
    for name in sorted({event.department for event in events}):
        those = in_order(event for event in events if event.department == name)
        if any((a.kill is None) == (b.kill is None) for a, b in itertools.pairwise(those)):
            found.append(name)
    return found
