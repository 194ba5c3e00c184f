"""What a simulation without masks is, as a file that its worker processes read: ``engine.json`` beside the arm.

It holds the sealed charter, how sums are made, the seed, every department's name and data section, in order, and what
departments do that they should not.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pydantic import TypeAdapter

from commonroot.client.data import DataConfig
from commonroot.common.charter import Charter
from commonroot.files import atomic_write, read_text
from commonroot.simulations.behaviour.cast import acts_of, parts_of
from commonroot.simulations.behaviour.kinds import Kind
from commonroot.simulations.engine.crew import Crew, Keeps, OnAbstained, Seat
from commonroot.simulations.engine.pages import Shards
from commonroot.simulations.engine.sums import Sum

FILE: Final = "engine.json"
PAGES: Final = "pages"
DEPARTMENTS: Final = "departments"
_KINDS: Final = TypeAdapter(tuple[Kind, ...])


@dataclass(frozen=True, slots=True)
class Plan:
    """One charter's run in an arm's folder, under ``ring`` or ``off``.

    alone  where departments keep what they found alone, for arms that come later
    """

    arm: Path
    charter: Charter
    sum: Sum
    seed: int
    departments: dict[str, DataConfig]
    alone: Path
    behaviour: tuple[Kind, ...] = ()

    def save(self) -> None:
        """Write it into its folder, with a folder for every department."""
        if (self.root / FILE).is_file():
            return
        self.root.mkdir(parents=True, exist_ok=True)
        for name in self.departments:
            (self.folder(name) / "predictors").mkdir(parents=True, exist_ok=True)
        facts = {
            "charter": self.charter.model_dump(mode="json"),
            "sum": self.sum,
            "seed": self.seed,
            "alone": str(self.alone),
            "departments": {
                name: data.model_dump(mode="json", exclude_none=True, exclude_defaults=True)
                for name, data in self.departments.items()
            },
            "behaviour": [one.model_dump(mode="json", by_alias=True) for one in self.behaviour],
        }
        atomic_write(self.root / FILE, json.dumps(facts).encode())

    @classmethod
    def read(cls, root: Path) -> Plan:
        """The plan that ``save`` wrote into its ``root``."""
        facts = json.loads(read_text(root / FILE, what="the plan of a simulation"))
        departments = {name: DataConfig.model_validate(data) for name, data in facts["departments"].items()}
        charter: Charter = Charter.model_validate(facts["charter"])
        behaviour = _KINDS.validate_python(facts.get("behaviour", []))
        seed, alone = int(facts["seed"]), Path(facts["alone"])
        return cls(root.parent.parent, charter, facts["sum"], seed, departments, alone, behaviour)

    @property
    def root(self) -> Path:
        """Where it lies, and what belongs to this charter alone."""
        return self.arm / "plan" / self.charter.digest.hex()[:16]

    def folder(self, name: str) -> Path:
        """Where a department keeps its splits, models and report."""
        return self.arm / DEPARTMENTS / name

    def states(self, shards: Iterable[int], *, newest: int) -> Shards:
        """Private states of some shards' departments.

        newest  the version that the journal ends with; what rounds on it left behind stands, even if they were lost
        """
        return Shards(self.root / PAGES, shards, len(self.departments), newest=newest)

    def crew(self, states: Keeps, *, memory: int, on_abstained: OnAbstained) -> Crew:
        """All departments, of which those may be called whose ``states`` these are.

        memory  bytes of encoded rows that may be held
        """
        parts = parts_of(self.behaviour, tuple(self.departments), self.seed)
        seats = [
            Seat(name, data, self.folder(name), tuple(acts_of(parts, name))) for name, data in self.departments.items()
        ]
        return Crew(
            self.charter, seats, states, seed=self.seed, memory=memory, alone=self.alone, on_abstained=on_abstained
        )
