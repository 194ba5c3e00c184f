"""A federation at work while somebody lies: real sessions, stores, journal and rounds, and a network that forges.

A lie is played on a ``Stage``.  What the stage has seen afterwards (who refused what, at which step, with which code,
and what became of the rounds) is compared with a row of the table in ``test_named_lies``.
"""

from __future__ import annotations

import dataclasses
import random
import shutil
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import Any

from federation import small
from federation.test_lies import honest_versions

from commonroot.common import parcel
from commonroot.common.errors import CommonrootError
from commonroot.common.messages import RoundOpen, Train
from commonroot.common.parcel import Parcel
from commonroot.common.secure_sum.primitives import Identity
from commonroot.simulations.network import Crossing, MemoryNetwork

#: (who refused, at which step, with which code): steps are kinds of parcels, or ``join`` and ``approve``.
Refusal = tuple[str, str, str]
#: What arrives instead of a parcel: these, in this order; None for the parcel itself.
Forge = Callable[["Stage", Crossing], Iterable[Parcel] | None]
#: One forged parcel made from an honest one.
Make = Callable[["Stage", str, Parcel], Parcel]

ASH, BIRCH, CEDAR, DOGWOOD, ELM = small.NAMES


class Stage:
    """``departments`` sessions and a coordinator about to begin a run of ``rounds``; ``ready`` as in a charter."""

    def __init__(
        self, root: Path, *, departments: int = 5, rounds: int = 1, attempts: int = 1, ready: str = "auto"
    ) -> None:
        self.root = root
        self.federation = small.founded(
            root / "at-work", departments=departments, rounds=rounds, attempts=attempts, ready=ready
        )
        self.coordinator = self.federation.coordinator.identity()
        self.charter = self.federation.charter.charter
        self.roster = self.federation.coordinator.roster()
        self.names = [member.name for member in self.roster.departments]
        self.forge: Forge = lambda stage, crossing: None
        #: Everything that set out, before anybody changed it.
        self.seen: list[Crossing] = []
        self.refusals: set[Refusal] = set()
        #: Events of the coordinator, by word.
        self.events: list[tuple[str, dict[str, Any]]] = []
        self.at_work = small.ToyFederation(self.federation, MemoryNetwork(weather=[self._weather]))
        self.at_work.start_all()
        self.at_work.queue()
        self._step = parcel.CHARTER

    def key(self, name: str) -> Identity:
        """A department's identity: what it can sign with if it lies."""
        return self.federation.departments[name].identity()

    def number(self, name: str) -> int:
        return self.names.index(name)

    def run(self) -> None:
        """The run to its end, whatever that is."""
        self.at_work.run(self._on_event)
        for _, kind, facts in self.at_work.events:
            if kind == "refused":
                self.refusals.add(("department", facts["request"][:32], facts["code"]))

    def ask(self, name: str, request: Parcel) -> Parcel:
        """One more request by the coordinator, after or beside a run."""
        before = len(self.at_work.events)
        reply = self.at_work.sessions[name].handle(request)
        for _, kind, facts in self.at_work.events[before:]:
            if kind == "refused":
                self.refusals.add(("department", facts["request"], facts["code"]))
        return reply

    def try_to(self, step: str, work: Callable[[], object]) -> None:
        """Something a department does by hand, such as joining; the refusal is noted."""
        try:
            work()
        except CommonrootError as error:
            self.refusals.add(("department", step, error.code))

    def backup(self) -> None:
        """Keep the coordinator's folder as it is now."""
        shutil.copytree(self.federation.coordinator.root, self.root / "backup")

    def restore(self) -> None:
        """Put the coordinator's folder back to the backup."""
        shutil.rmtree(self.federation.coordinator.root)
        shutil.copytree(self.root / "backup", self.federation.coordinator.root)

    def sent(self, kind: str, name: str) -> list[Parcel]:
        """Every parcel of a kind that honestly set out to or from a department, in order."""
        return [one.parcel for one in self.seen if (one.parcel.kind, one.department) == (kind, name)]

    # -- what became of it -------------------------------------------------------------------------------------------

    def outcome(self) -> str:
        """``unharmed``, ``lost``, ``spoiled`` or ``nothing began``; every version made must be the honest one."""
        with small.journal_of(self.federation) as journal:
            run, rounds, versions = journal.runs()[0], journal.rounds(), journal.versions(1)
        if run.state == "queued":
            assert not [one for one in self.seen if one.direction == "to-coordinator"]
            return "nothing began"
        small.check_books(self.federation)
        try:
            honest_versions(self.at_work)
        except AssertionError:
            return "spoiled"
        if run.state == "finished" and all(r.state == "closed" for r in rounds):
            return "unharmed"
        made = [r for r in rounds if r.state == "closed"]
        assert len(versions) == len(made) + 1, "a version that no closed round made"
        return "lost"

    # -- inside ------------------------------------------------------------------------------------------------------

    def _weather(self, crossing: Crossing, _random: random.Random) -> Iterable[Crossing]:
        self.seen.append(crossing)
        made = self.forge(self, crossing)
        if made is None:
            return (crossing,)
        return [Crossing(crossing.direction, crossing.department, one, crossing.seconds) for one in made]

    def _on_event(self, kind: str, facts: dict[str, Any]) -> None:
        self.events.append((kind, facts))
        self._step = {
            "training": parcel.TRAINED,
            "round": parcel.MASKED,
            "confirming": parcel.CONFIRMED,
            "opening": parcel.SHARES,
            "closed": parcel.CHARTER,
            "closing": parcel.CLOSED,
        }.get(kind, self._step)
        if kind in ("fault", "lost") and facts["code"].startswith("CR"):
            self.refusals.add(("coordinator", self._step_of(facts), facts["code"]))

    def _step_of(self, facts: dict[str, Any]) -> str:
        """Introductions go on between other things; what was asked for last says which of their two steps it was."""
        if not facts.get("reason", facts.get("what", "")).startswith("the introduction: "):
            return self._step
        asked = {parcel.GREET: parcel.GREETING, parcel.INTRODUCE: parcel.INTRODUCED}
        to_it = [one.parcel.kind for one in self.seen if one.department == facts["department"]]
        return asked[[kind for kind in to_it if kind in asked][-1]]


# -- forging -----------------------------------------------------------------------------------------------------------


def resigned(message: Any, key: Identity, **changes: Any) -> Any:
    """The same message with some fields changed, under ``key``'s signature."""
    fields = {f.name: getattr(message, f.name) for f in dataclasses.fields(message) if f.name != "signature"}
    return type(message).signed(key, **(fields | changes))


def unchecked(message: Any, key: Identity, **changes: Any) -> bytes:
    """The encoding of a message that no honest program could even make, under a good signature."""
    forged = object.__new__(type(message))
    for field in dataclasses.fields(message):
        object.__setattr__(forged, field.name, changes.get(field.name, getattr(message, field.name)))
    object.__setattr__(forged, "signature", key.sign(type(message).label, forged.unsigned()))
    return forged.encode()


def parcel_of(message: Any, like: Parcel, body: Any = None) -> Parcel:
    """A parcel of the same kind with another message in it."""
    head = message if isinstance(message, bytes) else message.encode()
    return Parcel(like.kind, head, like.body if body is None else body)


def round_of(crossing: Crossing, stage: Stage) -> int:
    """The round that is going on while a parcel crosses, or that is trained for."""
    kinds = {parcel.ROUND_OPEN: RoundOpen, parcel.TRAIN: Train}
    last = next((one.parcel for one in reversed(stage.seen) if one.parcel.kind in kinds), None)
    return kinds[last.kind].decode(last.head).round if last else 0


def playing(
    kind: str,
    make: Make,
    *,
    of: Collection[str] = (ASH,),
    round: int = 1,
    before: bool = False,
    after: bool = False,
    gone: Callable[[Crossing], bool] = lambda crossing: False,
    **shape: Any,
) -> Callable[[Path], Stage]:
    """A whole run in which ``make`` changes the parcels of one kind to or from some departments in one round.

    The forged parcel comes instead of the honest one, before it or after it; ``gone`` parcels never arrive.
    """

    def forge(stage: Stage, crossing: Crossing) -> Iterable[Parcel] | None:
        honest = crossing.parcel
        if gone(crossing):
            return ()
        if honest.kind != kind or crossing.department not in of or round_of(crossing, stage) not in (0, round):
            return None
        forged = make(stage, crossing.department, honest)
        return [forged, honest] if before else [honest, forged] if after else [forged]

    def play(root: Path) -> Stage:
        stage = Stage(root, **shape)
        stage.forge = forge
        stage.run()
        return stage

    return play


def dropped(kind: str, of: Collection[str]) -> Forge:
    """Parcels of one kind to or from some departments never arrive."""
    return lambda stage, crossing: () if crossing.parcel.kind == kind and crossing.department in of else None


def dropping(kind: str, *, of: Collection[str], **shape: Any) -> Callable[[Path], Stage]:
    """A whole run in which they never do."""

    def play(root: Path) -> Stage:
        stage = Stage(root, **shape)
        stage.forge = dropped(kind, of)
        stage.run()
        return stage

    return play
