"""``leave``: departments that go for good."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

from pydantic import Field

from commonroot.simulations.behaviour.base import Timed
from commonroot.simulations.behaviour.dice import Dice


class Leave(Timed):
    """Before every round a department that is left goes with the probability ``share``, and never comes back."""

    kind: Literal["leave"]
    share: Annotated[float, Field(gt=0, lt=1)]

    def departures(self, dice: Dice, whom: Sequence[str]) -> Mapping[str, int]:
        """Geometric in the number of rounds stayed; who would go after ``until`` stays."""
        found = {}
        for name in whom:
            stayed = math.floor(math.log(dice.uniform("stays", name)) / math.log1p(-self.share))
            if self.during(self.since + stayed):
                found[name] = self.since + stayed
        return found

    def told(self, whom: str) -> str:
        """See ``Behaviour``."""
        return f"before every round {100 * self.share:g} % of those left go for good{self.when}: {whom}"
