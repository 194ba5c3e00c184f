"""``kind = "parts"``: one table cut into departments that differ in the ways that partitioners say.

    [world]
    kind = "parts"
    departments = 100
    data = "digits"                    # or [world.data]: what a department.toml's [data] section says
    [[world.by]]
    kind = "dirichlet"                 # one or more; see ``by``
    alpha = 0.3

Every row goes to exactly one department, or to ``copies`` different ones.  The same seed makes the same files.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

from commonroot.client.data import DataConfig
from commonroot.common.roster import FEWEST_DEPARTMENTS
from commonroot.simulations.worlds.built_in import BUILT_IN
from commonroot.simulations.worlds.by import PARTITIONERS, Column, Dirichlet, Even, Labels, Quantity, Shift
from commonroot.simulations.worlds.choice import chosen
from commonroot.simulations.worlds.cut import Cut, numbered
from commonroot.simulations.worlds.table import read_table

#: Beyond this nothing was tried.
MOST_PARTS: Final = 100_000

Partitioner = Annotated[
    Labels | Dirichlet | Quantity | Shift | Column | Even, BeforeValidator(chosen(PARTITIONERS, "partitioner"))
]


def _data(value: Any) -> Any:
    if isinstance(value, str):
        if value not in BUILT_IN:
            raise ValueError(f"no table {value!r} comes with the program; there are: {', '.join(BUILT_IN)}")
        return value
    return value if isinstance(value, DataConfig) else DataConfig.model_validate(value)


class Parts(BaseModel):
    """A table in parts.

    data         ``digits`` or ``digit-images``, which come with the program, or a ``[data]`` section
    departments  how many; one for each value where a ``column`` says what they are
    by           how they differ; nothing is the same as ``even``
    copies       times that every row is dealt, to as many different departments: for more departments than a table has
                 rows for
    fewest       rows that every department has at least, or groups of rows where some stay together
    together     rows with the same value of this column stay together; by default those of a window's group, of a
                 grouped split, of a user
    labels       ``all``: every department lists each label there is; ``own``: those in its rows
    seed         of everything drawn; the scenario's own where not given
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["parts"]
    data: Annotated[str | DataConfig, BeforeValidator(_data)]
    departments: Annotated[int, Field(ge=FEWEST_DEPARTMENTS, le=MOST_PARTS)] | None = None
    by: tuple[Partitioner, ...] = ()
    copies: Annotated[int, Field(ge=1, le=MOST_PARTS)] = 1
    fewest: Annotated[int, Field(ge=1)] | None = None
    together: Annotated[str, Field(min_length=1)] | None = None
    labels: Literal["all", "own"] = "all"
    seed: Annotated[int, Field(ge=0, le=2**63 - 1)] | None = None

    @field_validator("data")
    @classmethod
    def _can_be_cut(cls, data: str | DataConfig) -> str | DataConfig:
        if isinstance(data, str):
            return data
        if data.path is None:
            raise ValueError("a query cannot be cut; export the table")
        if data.test_path is not None:
            raise ValueError("leave test_path out: every department keeps test rows of its own part")
        if not data.labelled:
            raise ValueError("rows without labels cannot be cut")
        if data.window is not None and data.window.group is None:
            raise ValueError("rows that a window sees together belong to one department: name the window's group")
        return data

    @field_validator("by")
    @classmethod
    def _go_together(cls, by: tuple[Any, ...]) -> tuple[Any, ...]:
        names = [one.kind for one in by]
        problems = [f"{kind} stands twice" for kind in ("even", "column") if names.count(kind) > 1]
        if "even" in names and {"labels", "dirichlet", "quantity"} & set(names):
            problems.append("even stands beside what makes departments uneven")
        if problems:
            raise ValueError("; ".join(problems))
        return by

    @model_validator(mode="after")
    def _as_many(self) -> Self:
        if self.departments is None and self.column is None:
            raise ValueError("say how many departments there are, or cut by a column")
        if self.departments is not None and self.copies * FEWEST_DEPARTMENTS > self.departments:
            raise ValueError(f"copies: {self.copies} need at least {self.copies * FEWEST_DEPARTMENTS} departments")
        if self.departments is None and self.copies > 1:
            raise ValueError("copies: give the number of departments too")
        return self

    @property
    def column(self) -> Column | None:
        """The partitioner that says what departments there are."""
        return next((one for one in self.by if isinstance(one, Column)), None)

    @property
    def names(self) -> tuple[str, ...]:
        """The departments, or none while only the table knows them."""
        return () if self.column is not None or self.departments is None else numbered("d", self.departments)

    def write(self, folder: Path, *, seed: int, beside: Path, data: Path | None = None) -> dict[str, DataConfig]:
        """Write every department's file below ``folder``; each one's data section, in order.

        Raises ConfigError for what the table does not allow, DataError for a table that cannot be read.
        """
        section = BUILT_IN[self.data].section if isinstance(self.data, str) else _absolute(self.data, beside)
        table = BUILT_IN[self.data].read() if isinstance(self.data, str) else read_table(section)
        return Cut(self, section, table, seed if self.seed is None else self.seed).write(folder, seed)


def _absolute(data: DataConfig, beside: Path) -> DataConfig:
    named = {name: getattr(data, name) for name in ("path", "catalogue")}
    return data.model_copy(update={name: (beside / one).resolve() for name, one in named.items() if one is not None})
