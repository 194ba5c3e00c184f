"""Who trains for a department: an honest learner, or one around it that spoils what it contributes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from pydantic import TypeAdapter

from commonroot.client.folder import DepartmentFolder
from commonroot.client.learner import DepartmentLearner
from commonroot.simulations.behaviour.dice import Dice
from commonroot.simulations.behaviour.kinds import Kind
from commonroot.simulations.behaviour.labels import FlippedLearner
from commonroot.simulations.behaviour.misbehaving import Act, Learns, Misbehaving, Misbehaviour

_KIND: Final[TypeAdapter[Any]] = TypeAdapter(Kind)


def learner_for(name: str, acts: Sequence[Act], make: Callable[[type[DepartmentLearner]], DepartmentLearner]) -> Learns:
    """The learner of a department that does this to its contributions.

    make  builds the department's learner, of the class it is given
    """
    honest = make(DepartmentLearner)
    if not acts:
        return honest
    flipped = make(FlippedLearner) if any(act.how.flips for act in acts) else None
    return Misbehaving(name, honest, acts, flipped)


def learner_in(folder: DepartmentFolder, acts: Sequence[Act]) -> Learns:
    """The same from a folder, as its daemon would have it."""
    name, guard = folder.config.name, folder.config.guard

    def make(kind: type[DepartmentLearner]) -> DepartmentLearner:
        return kind(folder.root, name, folder.data, folder.secret(), leaves=guard.early_exit, tells=guard.tell_choice)

    return learner_for(name, acts, make)


def acts_as_json(acts: Sequence[Act]) -> list[dict[str, Any]]:
    """For another process."""
    return [
        {"how": act.how.model_dump(mode="json", by_alias=True), "seed": act.dice.seed, "key": act.dice.key}
        for act in acts
    ]


def acts_from_json(values: Sequence[dict[str, Any]]) -> tuple[Act, ...]:
    """The inverse."""
    found = [(_KIND.validate_python(one["how"]), Dice(one["seed"], one["key"])) for one in values]
    return tuple(Act(how, dice) for how, dice in found if isinstance(how, Misbehaviour))
