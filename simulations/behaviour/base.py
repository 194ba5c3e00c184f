"""What every process of ``[[behaviour]]`` is: a kind, whom it concerns, and when; and what rounds ask of it.

Two numbers tell the time.  ``round`` is the round that makes this version of the backbone, as people count and as
``from`` and ``until`` mean it; rounds that come to nothing are not counted.  ``number`` counts those too, so who was
away in a lost round need not be away when it is tried again.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from commonroot.common.roster import Name
from commonroot.simulations.behaviour.dice import Dice
from commonroot.simulations.network import Weather

Share = Annotated[float, Field(ge=0, le=1)]
Round = Annotated[int, Field(ge=1)]


class Frozen(BaseModel):
    """A section of a scenario."""

    model_config = ConfigDict(frozen=True, extra="forbid", serialize_by_alias=True)


class Behaviour(Frozen):
    """A process, which concerns all departments unless one of these says whom.

    departments  by name
    count        so many, drawn by the seed
    fraction     such a share of all, drawn by the seed; at least one
    """

    kind: str
    departments: Annotated[tuple[Name, ...], Field(min_length=1)] | None = None
    count: Annotated[int, Field(ge=1)] | None = None
    fraction: Annotated[float, Field(gt=0, le=1)] | None = None

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if sum(one is not None for one in (self.departments, self.count, self.fraction)) > 1:
            raise ValueError("give departments, count or fraction, one of them")
        return self

    def whom(self, dice: Dice, names: Sequence[str]) -> tuple[str, ...]:
        """The departments that it concerns, in the scenario's order."""
        if self.departments is not None:
            return tuple(name for name in names if name in self.departments)
        if self.count is None and self.fraction is None:
            return tuple(names)
        many = self.count if self.count is not None else max(1, round(len(names) * (self.fraction or 0.0)))
        drawn = set(sorted(names, key=lambda name: dice.uniform("whom", name))[:many])
        return tuple(name for name in names if name in drawn)

    def problems(self, names: Sequence[str], rounds: int) -> list[str]:
        """What does not fit a federation of these departments and so many rounds."""
        known = frozenset(names)
        found = [f"no department is called {name!r}" for name in self.departments or () if name not in known]
        if self.count is not None and self.count > len(names):
            found.append(f"count = {self.count}: there are {len(names)} departments")
        return found

    @abstractmethod
    def told(self, whom: str) -> str:
        """The same for people: one sentence, of ``whom`` it concerns."""

    # -- what rounds ask; each kind answers what it is about -------------------------------------------------------

    def arrivals(self, dice: Dice, whom: Sequence[str], *, needed: int) -> Mapping[str, int]:
        """The rounds before which departments come, of those that were not there from the start.

        needed  so many of ``whom`` must be there from the start, or no round could open
        """
        return {}

    def departures(self, dice: Dice, whom: Sequence[str]) -> Mapping[str, int]:
        """The rounds before which departments go for good."""
        return {}

    def away(self, dice: Dice, name: str, *, round: int, number: int) -> bool:
        """Does this department fall silent once the round has opened?"""
        return False

    def weather(self, dice: Dice, whom: frozenset[str]) -> list[Weather]:
        """What befalls parcels."""
        return []


class Timed(Behaviour):
    """A process that has a beginning and an end.

    from   the first round it concerns
    until  the last one; without, the run's last
    """

    since: Round = Field(default=1, alias="from")
    until: Round | None = None

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.until is not None and self.until < self.since:
            raise ValueError(f"until = {self.until} is before from = {self.since}")
        return self

    def during(self, round: int) -> bool:
        """Does it concern this round?"""
        return self.since <= round and (self.until is None or round <= self.until)

    def problems(self, names: Sequence[str], rounds: int) -> list[str]:
        """See ``Behaviour``; a beginning after the last round is one."""
        late = [f"from = {self.since} comes after the last round, {rounds}"] if self.since > rounds else []
        return super().problems(names, rounds) + late

    @property
    def when(self) -> str:
        """For people: empty where it is always."""
        if self.until is not None:
            return f" (rounds {self.since} to {self.until})"
        return f" (from round {self.since})" if self.since > 1 else ""
