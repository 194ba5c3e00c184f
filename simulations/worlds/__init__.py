"""Worlds: departments that nobody has to bring along, by the ``kind`` of a scenario's ``[world]``.

digits   five departments made from scikit-learn's handwritten digits, with four kinds of task
dataset  a published dataset (``published``)
parts    one table cut by partitioners (``parts``)
"""

from __future__ import annotations

from typing import Annotated, Final

from pydantic import BaseModel, BeforeValidator

from commonroot.simulations.worlds.choice import chosen
from commonroot.simulations.worlds.five import Five
from commonroot.simulations.worlds.parts import Parts
from commonroot.simulations.worlds.published import Published

#: By the name that ``kind`` gives them.
WORLDS: Final[dict[str, type[BaseModel]]] = {"digits": Five, "dataset": Published, "parts": Parts}

#: What stands in ``[world]``.  Each has ``names``, empty while only its data knows them, and ``write``.
World = Annotated[Five | Published | Parts, BeforeValidator(chosen(WORLDS, "world"))]

__all__ = ["WORLDS", "Five", "Parts", "Published", "World"]
