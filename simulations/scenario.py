"""``federation.toml``: a whole simulated federation as a person writes it down.

seed = 1                     # of splits, training, weather; wherever nothing below has a seed of its own
warm_start = "FILE"          # a backbone in safetensors that every arm starts from; left out, the seed gives one
[charter]                    # exactly a charter's fields; a charter.toml can be pasted here
[statistics]                 # likewise, of a charter whose statistics are summed first, for the other to build on
[world]                      # departments that nobody has to bring along (``worlds``) …
[[departments]]              # … or your own: a name and the [data] section of its department.toml
[network]                    # what is lost, late or delivered twice
[[events]]                   # who is killed, and who starts, in which round
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator, model_validator

from commonroot.client.data import DataConfig
from commonroot.common.charter import Draft, NotNegative, model_from_toml
from commonroot.common.errors import ConfigError
from commonroot.common.roster import FEWEST_DEPARTMENTS, Name
from commonroot.common.secure_sum.primitives import sha256
from commonroot.files import read_bytes, read_text
from commonroot.simulations.engine.sums import Sum
from commonroot.simulations.network import Weather, delay, drop, repeat
from commonroot.simulations.weather import by_round
from commonroot.simulations.worlds import World
from commonroot.strategies import seal
from commonroot.strategies.statistics import Statistics

#: Beyond ``MOST_DEPARTMENTS`` there is no roster, and sums must be made without masks.
MOST_SIMULATED: Final = 100_000

Share = Annotated[float, Field(ge=0, le=1)]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Department(_Frozen):
    """One department: its name and what would be the ``[data]`` section of its ``department.toml``.

    Paths in ``data`` are relative to the file they stand in.
    """

    name: Name
    data: DataConfig


class Network(_Frozen):
    """What befalls parcels on their way.

    drop     share that is lost
    delay    seconds that a parcel is held back at most; they are simulated, so waiting takes no time
    repeat   share that arrives a second time, a second later
    parcels  kinds that this concerns: ``train``, ``round-open``, ``confirm`` and ``open`` go to departments,
             ``trained``, ``masked`` (an upload), ``confirmed`` and ``shares`` (its opening) come from them
    """

    drop: Share = 0.0
    delay: NotNegative = 0.0
    repeat: Share = 0.0
    parcels: Annotated[
        tuple[Literal["train", "trained", "round-open", "masked", "confirm", "confirmed", "open", "shares"], ...],
        Field(min_length=1),
    ] = ("masked",)

    def weather(self, seed: int) -> list[Weather]:
        """The weather of ``simulations.network``; the same fates for the same seed, whenever the process began."""
        found = self.faults()
        return [by_round(seed, found)] if found else []

    def faults(self) -> list[Weather]:
        """The same, one by one."""
        kinds = frozenset(self.parcels)
        found = [drop(self.drop, kinds=kinds)] if self.drop else []
        found += [delay(self.delay, kinds=kinds)] if self.delay else []
        return found + ([repeat(self.repeat, kinds=kinds)] if self.repeat else [])

    def told(self) -> list[str]:
        """The same for people, one sentence each."""
        those = "/".join(self.parcels)
        sentences = [f"{100 * self.drop:g} % of {those} parcels are lost"] if self.drop else []
        sentences += [f"{those} parcels are up to {self.delay:g} s late"] if self.delay else []
        return sentences + ([f"{100 * self.repeat:g} % of {those} parcels arrive twice"] if self.repeat else [])


class Event(_Frozen):
    """A department goes or comes.

    round  the round that makes this version of the backbone, from 1; lost rounds are not counted
    kill   the department that is killed after this round opened: it is in the cohort, and answers no more
    start  the department that starts before this round opens; one whose first event this is was not there before
    """

    round: Annotated[int, Field(ge=1)]
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

    def told(self) -> str:
        """The event for people."""
        return f"round {self.round}: {self.department} {'is killed' if self.kill else 'starts'}"


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
    events: tuple[Event, ...] = ()

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
    def _happen(cls, events: tuple[Event, ...], info: ValidationInfo) -> tuple[Event, ...]:
        known = _names_of(info.data.get("world"), info.data.get("departments", ()))
        charter: Draft | None = info.data.get("charter")
        problems = [f"no department is called {e.department!r}" for e in events if known and e.department not in known]
        if charter is not None:
            last = charter.rounds
            problems += [f"round {e.round} comes after the last, {last}" for e in events if e.round > last]
        for name in {event.department for event in events}:
            those = sorted((e for e in events if e.department == name), key=_order)
            if any((a.kill is None) == (b.kill is None) for a, b in itertools.pairwise(those)):
                problems.append(f"{name!r} is killed or started twice in a row")
        if problems:
            raise ValueError("; ".join(problems))
        return events

    @model_validator(mode="after")
    def _departments_from_somewhere(self) -> Self:
        if (self.world is None) == (not self.departments):
            raise ValueError("give [world] or [[departments]], one of the two")
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

    def present(self, version: int) -> list[str]:
        """Departments that are up while version + 1 is about to be made from ``version``: kills before, starts up to
        the round that makes it."""
        up = []
        for name in self.names:
            those = sorted((event for event in self.events if event.department == name), key=_order)
            here = not those or those[0].kill is not None
            for event in those:
                if event.round <= version or (event.start and event.round == version + 1):
                    here = event.start is not None
            if here:
                up.append(name)
        return up

    def killed(self, version: int) -> list[str]:
        """Departments that are killed in the round that makes ``version``, once it has opened."""
        return [event.kill for event in self.events if event.kill is not None and event.round == version]

    def told(self) -> list[str]:
        """What is done to the federation on purpose, one sentence each."""
        return self.network.told() + [event.told() for event in sorted(self.events, key=_order)]

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
    """A scenario from a file.  Raises ConfigError that names the file and every wrong field at once."""
    if not path.exists():
        raise ConfigError(f"the scenario {path} does not exist", hint="`commonroot scenarios` lists ready ones to copy")
    found = model_from_toml(Scenario, read_text(path, what="the scenario"), path=str(path))
    if found.warm_start is None:
        return found
    return found.model_copy(update={"warm_start": (path.resolve().parent / found.warm_start).resolve()})


def _names_of(world: World | None, departments: tuple[Department, ...]) -> tuple[str, ...]:
    return world.names if world is not None else tuple(department.name for department in departments)


def _some(names: list[str]) -> str:
    return ", ".join(names[:8]) + (f", … {names[-1]}" if len(names) > 8 else "")


def _order(event: Event) -> tuple[int, bool]:
    """By round; within one, who starts does so before the round opens and who is killed, after."""
    return event.round, event.kill is not None
