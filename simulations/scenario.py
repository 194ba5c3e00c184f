"""``federation.toml``: a whole simulated federation as a person writes it down.

seed = 1                     # of splits, training, weather; wherever nothing below has a seed of its own
warm_start = "FILE"          # a backbone in safetensors that every arm starts from; left out, the seed gives one
[charter]                    # exactly a charter's fields; a charter.toml can be pasted here
[statistics]                 # likewise, of a charter whose statistics are summed first, for the other to build on
[world]                      # departments that nobody has to bring along (``worlds``) …
[[departments]]              # … or your own: a name and the [data] section of its department.toml
[network]                    # what is lost, late or delivered twice
[[events]]                   # who is killed, and who starts, in which round
[[behaviour]]                # who drops out, comes, goes, is slow or misbehaves (behaviour/)
[coordinator]                # lies that it tells
include = ["FILE"]           # fragments that hold some of the last four
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Self, TypeVar, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from commonroot.client.data import DataConfig
from commonroot.common.charter import Draft
from commonroot.common.errors import ConfigError
from commonroot.common.roster import FEWEST_DEPARTMENTS, MOST_DEPARTMENTS, Name, Parameters
from commonroot.common.secure_sum.edges import smallest_cohort
from commonroot.common.secure_sum.primitives import sha256
from commonroot.files import read_bytes
from commonroot.simulations.behaviour import events as happening
from commonroot.simulations.behaviour.arrival import Arrival
from commonroot.simulations.behaviour.base import Behaviour
from commonroot.simulations.behaviour.cast import Cast
from commonroot.simulations.behaviour.events import Event
from commonroot.simulations.behaviour.includes import read_with_includes
from commonroot.simulations.behaviour.kinds import Kind
from commonroot.simulations.behaviour.lies import LyingCoordinator
from commonroot.simulations.behaviour.parcels import Network
from commonroot.simulations.engine.sums import Sum
from commonroot.simulations.worlds import World
from commonroot.strategies import seal
from commonroot.strategies.statistics import Statistics

#: Beyond ``MOST_DEPARTMENTS`` there is no roster, and sums must be made without masks.
MOST_SIMULATED: Final = 100_000


Section = TypeVar("Section", bound=Event | Behaviour | LyingCoordinator | None)


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Department(_Frozen):
    """One department: its name and what would be the ``[data]`` section of its ``department.toml``.

    Paths in ``data`` are relative to the file they stand in.
    """

    name: Name
    data: DataConfig


def _fits(one: Section, info: ValidationInfo) -> Section:
    """Refuse departments that there are not and rounds that never come, where the scenario's own are right."""
    known = _names_of(info.data.get("world"), info.data.get("departments", ()))
    charter: Draft | None = info.data.get("charter")
    if one is not None and known and charter is not None and (found := one.problems(known, charter.rounds)):
        raise ValueError("; ".join(found))
    return one


class Scenario(_Frozen):
    """``federation.toml``."""

    seed: Annotated[int, Field(ge=0, le=2**63 - 1)] = 1
    sum: Sum = "exact"
    charter: Draft
    statistics: Draft | None = None
    warm_start: Path | None = None
    world: World | None = None
    departments: tuple[Department, ...] = ()
    network: Network = Network()
    events: tuple[Annotated[Event, AfterValidator(_fits)], ...] = ()
    behaviour: tuple[Annotated[Kind, AfterValidator(_fits)], ...] = ()
    coordinator: Annotated[LyingCoordinator | None, AfterValidator(_fits)] = None

    @field_validator("charter")
    @classmethod
    def _warm_by_path(cls, charter: Draft) -> Draft:
        if charter.training.warm_start is not None:
            raise ValueError("training.warm_start is taken from the scenario's own warm_start, the path of a file")
        return charter

    @field_validator("statistics")
    @classmethod
    def _of_the_same(cls, statistics: Draft | None, info: ValidationInfo) -> Draft | None:
        charter: Draft | None = info.data.get("charter")
        if statistics is not None and statistics.method.name != Statistics.name:
            raise ValueError(f"its method is {statistics.method.name!r}, not {Statistics.name!r}")
        if statistics is not None and charter is not None:
            if statistics.federation != charter.federation:
                raise ValueError(f"it is of federation {statistics.federation!r}, not {charter.federation!r}")
            if charter.statistics is not None:
                raise ValueError("the charter names statistics of its own; leave that to the simulation")
        return statistics

    @field_validator("departments")
    @classmethod
    def _names(cls, departments: tuple[Department, ...]) -> tuple[Department, ...]:
        names = [department.name for department in departments]
        twice = sorted(name for name, times in Counter(names).items() if times > 1)
        if twice:
            raise ValueError(f"{', '.join(twice)}: a name stands twice")
        if departments and not FEWEST_DEPARTMENTS <= len(names) <= MOST_SIMULATED:
            raise ValueError(f"{len(names)} departments; {FEWEST_DEPARTMENTS} to {MOST_SIMULATED} can be simulated")
        return departments

    @field_validator("events")
    @classmethod
    def _in_turn(cls, events: tuple[Event, ...]) -> tuple[Event, ...]:
        if twice := happening.twice_in_a_row(events):
            raise ValueError("; ".join(f"{name!r} is killed or started twice in a row" for name in twice))
        return events

    @model_validator(mode="after")
    def _departments_from_somewhere(self) -> Self:
        if (self.world is None) == (not self.departments):
            raise ValueError("give [world] or [[departments]], one of the two")
        return self

    @model_validator(mode="after")
    def _may_begin(self) -> Self:
        if not self.names or not any(isinstance(one, Arrival) for one in self.behaviour):
            return self  # of a world that is not written yet nobody is known
        if (here := len(self.cast().present(0))) < self.opens_with:
            raise ValueError(f"{here} departments are there before the first round, which opens with {self.opens_with}")
        return self

    # -- what is asked of it ---------------------------------------------------------------------------------------

    @property
    def names(self) -> tuple[str, ...]:
        """Every department, in order."""
        return _names_of(self.world, self.departments)

    @property
    def draft(self) -> Draft:
        """The charter; its first backbone is of this scenario's seed unless it names a seed of its own.

        With statistics to sum first, it names their charter.
        """
        changes: dict[str, Any] = {}
        training: dict[str, Any] = {}
        if "seed" not in self.charter.training.model_fields_set:
            training["seed"] = self.seed
        if self.warm_start is not None:
            training["warm_start"] = sha256(read_bytes(self.warm_start, what="the backbone")).hex()
        if training:
            changes["training"] = self.charter.training.model_copy(update=training)
        if self.statistics is not None:
            changes["statistics"] = seal(self.statistics).digest.hex()
        return self.charter.model_copy(update=changes)

    def summed(self, sum: str | None) -> Scenario:
        """The same with contributions added in another way; None leaves it as it is.  Raises ConfigError."""
        if sum is None:
            return self
        if sum not in get_args(Sum):
            raise ConfigError(f"--sum {sum}: not a way to add contributions", hint=f"one of {', '.join(get_args(Sum))}")
        return self.model_copy(update={"sum": sum})

    def require_protocol(self) -> None:
        """Raise ConfigError where the coordinator lies and there is no protocol to refuse it."""
        if self.coordinator is not None and self.sum != "exact":
            raise ConfigError(
                f"[coordinator] lies, and with {self.sum} sums there are no messages to lie in",
                hint='sum = "exact", or leave [coordinator] out',
            )

    @property
    def opens_with(self) -> int:
        """The fewest departments that a round may open with."""
        many = len(self.names)
        least = smallest_cohort(Parameters.for_size(min(many, MOST_DEPARTMENTS)), self.charter.cohort.floor)
        return least if many <= MOST_DEPARTMENTS else max(least, -(-many // 2))

    def cast(self) -> Cast:
        """All that befalls the departments."""
        return Cast(
            self.names,
            self.seed,
            network=self.network,
            events=self.events,
            behaviours=self.behaviour,
            needed=self.opens_with,
        )

    def calm(self) -> Scenario:
        """The same where nothing befalls anybody."""
        return self.model_copy(update={"network": Network(), "events": (), "behaviour": (), "coordinator": None})

    def told(self) -> list[str]:
        """What is done to the federation on purpose, one sentence each."""
        return self.cast().told() + ([] if self.coordinator is None else self.coordinator.told())

    def settled(self, sections: Mapping[str, DataConfig]) -> Scenario:
        """The same with the departments that its world turned out to have, as ``sections`` wrote them.

        Raises ConfigError for events of departments that are not among them.
        """
        if self.world is None:
            return self
        own: dict[str, Any] = {name: getattr(self, name) for name in self.model_fields_set - {"world"}}
        own["departments"] = tuple(Department(name=name, data=data) for name, data in sections.items())
        try:
            return Scenario.model_validate(own)
        except ValidationError as error:
            told = "; ".join(one["msg"].removeprefix("Value error, ") for one in error.errors())
            raise ConfigError(told, hint="the world's departments: " + _some(list(sections))) from error

    def sections(self, beside: Path, world: Path, data: Path | None = None) -> dict[str, DataConfig]:
        """Each department's data section, with absolute paths and a seed.

        beside  the folder that relative paths start at
        world   where the files of a world are written
        data    where published data is looked for first
        """
        if self.world is not None:
            return self.world.write(world, seed=self.seed, beside=beside, data=data)
        return {one.name: self._section(one.data, beside) for one in self.departments}

    def _section(self, data: DataConfig, beside: Path) -> DataConfig:
        changes: dict[str, Any] = {}
        for name in ("path", "test_path", "catalogue"):
            if (other := getattr(data, name)) is not None:
                changes[name] = (beside / other).resolve()
        if "seed" not in data.model_fields_set:
            changes["seed"] = self.seed
        return data.model_copy(update=changes)


def read_scenario(path: Path) -> Scenario:
    """A scenario from a file and what it includes.  Raises ConfigError that names every wrong field and its file."""
    if not path.exists():
        raise ConfigError(f"the scenario {path} does not exist", hint="`commonroot scenarios` lists ready ones to copy")
    found = read_with_includes(Scenario, path)
    if found.warm_start is None:
        return found
    return found.model_copy(update={"warm_start": (path.resolve().parent / found.warm_start).resolve()})


def _names_of(world: World | None, departments: tuple[Department, ...]) -> tuple[str, ...]:
    return world.names if world is not None else tuple(department.name for department in departments)


def _some(names: list[str]) -> str:
    return ", ".join(names[:8]) + (f", … {names[-1]}" if len(names) > 8 else "")
