"""One preparation: what is asked, and what is found on the way."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import polars as pl

from commonroot.client.shared_statistics import SharedStatistics
from commonroot.client.tables.config import DataConfig
from commonroot.client.tables.pinned import Pin
from commonroot.client.tables.problems import Problem, Problems
from commonroot.client.tables.source import MEMORY, Reading, Source
from commonroot.client.tables.target import Targets
from commonroot.common.backbone import PretrainedSpec
from commonroot.common.backbone.inputs import Input


@dataclass(slots=True, kw_only=True)
class Job:
    """What ``prepare`` is asked, field by field as there, then what its steps find.

    slow      read cell by cell, so that each wrong one can be named
    problems  everything that is wrong so far
    notes     what is no fault, yet worth knowing
    look      the first rows of the source, once it is open
    """

    config: DataConfig
    folder: Path
    slow: bool
    goal: Input | None = None
    adapter: bool = False
    shared: SharedStatistics | None = None
    checkpoint: PretrainedSpec | None = None
    root: Path | None = None
    pin: Pin | None = None
    memory: int = MEMORY
    problems: Problems = field(default_factory=Problems)
    notes: list[str] = field(default_factory=list)
    look: pl.DataFrame = field(default_factory=pl.DataFrame)
    targets: Targets = field(init=False)

    def __post_init__(self) -> None:
        self.targets = Targets(self.config)

    @property
    def reading(self) -> Reading:
        """How files are read."""
        return Reading.of(self.config)

    def wrong(self, source: Source, found: str, expected: str, fix: str, *, column: str | None = None) -> None:
        """One more problem."""
        self.problems.add(Problem(file=source.name, column=column, found=found, expected=expected, fix=fix))
