"""All that befalls a federation, as the one thing that its rounds ask: with the whole protocol or without masks.

Who is there when a round opens, who falls silent after it, what happens to parcels, and who misbehaves:
``[network]``, ``[[events]]`` and ``[[behaviour]]`` answer together.  The answers are functions of the seed and of what
is asked, so neither kills nor processes nor the order of questions change them.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from commonroot.simulations.behaviour import events as happening
from commonroot.simulations.behaviour.base import Behaviour
from commonroot.simulations.behaviour.dice import Dice
from commonroot.simulations.behaviour.events import Event
from commonroot.simulations.behaviour.misbehaving import Act, Misbehaviour
from commonroot.simulations.behaviour.parcels import Network
from commonroot.simulations.network import Weather

#: More departments than this are told of by their number.
_NAMED: Final = 5


@dataclass(frozen=True, slots=True)
class Part:
    """One process with its dice and the departments that it concerns."""

    behaviour: Behaviour
    dice: Dice
    whom: frozenset[str]


def parts_of(behaviours: Sequence[Behaviour], names: Sequence[str], seed: int) -> list[Part]:
    """Every process with what is its own; the second of a kind throws other dice than the first."""
    seen: Counter[str] = Counter()
    found = []
    for one in behaviours:
        seen[one.kind] += 1
        dice = Dice(seed, f"{one.kind}-{seen[one.kind]}")
        found.append(Part(one, dice, frozenset(one.whom(dice, names))))
    return found


class Cast:
    """The departments of a scenario and what befalls them.

    needed  so many departments must be there for a round to open
    """

    def __init__(
        self,
        names: Sequence[str],
        seed: int,
        *,
        network: Network,
        events: Sequence[Event] = (),
        behaviours: Sequence[Behaviour] = (),
        needed: int = 0,
    ) -> None:
        self.names = tuple(names)
        self._network, self._events = network, happening.in_order(events)
        self._parts = parts_of(behaviours, names, seed)
        self._of: dict[str, list[Event]] = defaultdict(list)
        for event in self._events:
            self._of[event.department].append(event)
        #: Per department: the last of the rounds before which it comes, and the first before which it goes.
        self._comes: dict[str, int] = {}
        self._goes: dict[str, int] = {}
        for part in self._parts:
            whom = [name for name in self.names if name in part.whom]
            least = max(0, needed - (len(self.names) - len(whom)))
            for name, round in part.behaviour.arrivals(part.dice, whom, needed=least).items():
                self._comes[name] = max(round, self._comes.get(name, round))
            for name, round in part.behaviour.departures(part.dice, whom).items():
                self._goes[name] = min(round, self._goes.get(name, round))

    def present(self, version: int) -> list[str]:
        """Departments that are up when the round that makes version + 1 opens: kills before it, starts up to it."""
        return [name for name in self.names if self._here(name, version + 1) and happening.up(self._of[name], version)]

    def killed(self, round: int) -> list[str]:
        """Departments that are killed in the round that makes this version, once it has opened."""
        return [event.kill for event in self._events if event.kill is not None and event.round == round]

    def away(self, round: int, number: int) -> list[str]:
        """Departments that fall silent in this round once it has opened, and are back for the next; see ``base``."""
        parts = [part for part in self._parts if type(part.behaviour).away is not Behaviour.away]
        if not parts:
            return []
        return [
            name
            for name in self.names
            if any(
                name in part.whom and part.behaviour.away(part.dice, name, round=round, number=number) for part in parts
            )
        ]

    def weather(self) -> list[Weather]:
        """What befalls parcels, one thing after the other."""
        found = self._network.weather()
        for part in self._parts:
            found += part.behaviour.weather(part.dice, part.whom)
        return found

    def told(self) -> list[str]:
        """What is done to the federation on purpose, one sentence each."""
        found = self._network.told()
        found += [part.behaviour.told(self._words(part.whom)) for part in self._parts]
        return found + [event.told() for event in self._events]

    def misbehaving(self) -> dict[str, list[str]]:
        """What departments do that they should not, in words, by department."""
        found: dict[str, list[str]] = {}
        for name in self.names:
            if words := [act.how.word for act in self.acts(name)]:
                found[name] = words
        return found

    def acts(self, name: str) -> list[Act]:
        """What one department does to its contributions, in the scenario's order."""
        return acts_of(self._parts, name)

    def _here(self, name: str, round: int) -> bool:
        return self._comes.get(name, 0) <= round and round < self._goes.get(name, round + 1)

    def _words(self, whom: frozenset[str]) -> str:
        if len(whom) == len(self.names):
            return "all departments" if len(whom) > _NAMED else "the departments"
        if len(whom) > _NAMED:
            return f"{len(whom)} departments"
        return " and ".join(name for name in self.names if name in whom)


def acts_of(parts: Sequence[Part], name: str) -> list[Act]:
    """What one department does to its contributions."""
    return [
        Act(part.behaviour, part.dice)
        for part in parts
        if isinstance(part.behaviour, Misbehaviour) and name in part.whom
    ]
