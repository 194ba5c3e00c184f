"""The target that departments predict in common where a method gathers from their rows: what it is and its scale."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator


class CommonTarget(BaseModel):
    """Options of every method that fits one target of all departments.

    loss       ``logistic`` for labels, ``squared`` for a value
    labels     of ``logistic``: all of them in order, parted by ``|``; every department's must be these
    low, high  of ``squared``: the range of the target
    most_rows  a department with more training rows cannot take part; bounds the sums
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    loss: Literal["logistic", "squared"]
    labels: str = ""
    low: Annotated[float, Field(allow_inf_nan=False)] = 0.0
    high: Annotated[float, Field(allow_inf_nan=False)] = 1.0
    most_rows: Annotated[int, Field(ge=1, le=1 << 30)] = 100_000

    @model_validator(mode="after")
    def _target_fits(self) -> Self:
        if self.loss == "logistic":
            named = self.named
            if len(named) < 2 or len(set(named)) != len(named) or not all(named):
                raise ValueError("name two labels or more, all different, as in labels = 'no|yes'")
        elif not self.low < self.high:
            raise ValueError("low must be below high")
        return self

    @property
    def named(self) -> tuple[str, ...]:
        """The labels."""
        return tuple(label.strip() for label in self.labels.split("|"))

    @property
    def outputs(self) -> int:
        """One, or one per label where there are more than two."""
        return len(self.named) if self.loss == "logistic" and len(self.named) > 2 else 1

    @property
    def middle(self) -> float:
        """Values are told as distances from here …"""
        return (self.low + self.high) / 2

    @property
    def half(self) -> float:
        """… in these."""
        return (self.high - self.low) / 2
