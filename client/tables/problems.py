"""What is wrong with a department's data, told all at once: file, row, column, found, expected, fix.

A problem says what kind of thing was found, never the thing: no label, no cell and no text of the data stands in it.
Rows are counted as a spreadsheet does: the header of a CSV is row 1.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final

from commonroot.common.errors import DataError

#: A message lists this many problems and counts the rest.
SHOWN: Final = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One thing that is wrong with a source."""

    file: str
    found: str
    expected: str
    fix: str
    row: int | None = None
    column: str | None = None

    def __str__(self) -> str:
        row = "" if self.row is None else f", row {self.row}"
        column = "" if self.column is None else f", column {self.column[:60]!r}"
        return f"{self.file}{row}{column}: found {self.found}, expected {self.expected}; {self.fix}"


@dataclass(slots=True)
class Problems:
    """A list that keeps what a message can show and counts the rest, so that a broken column costs no memory."""

    kept: list[Problem] = field(default_factory=list)
    count: int = 0

    def add(self, problem: Problem) -> None:
        """One more."""
        self.count += 1
        if len(self.kept) < SHOWN:
            self.kept.append(problem)

    def more(self, count: int) -> None:
        """That many more, of which nothing will be shown."""
        self.count += count

    def extend(self, problems: Iterable[Problem]) -> None:
        """Several more."""
        for problem in problems:
            self.add(problem)

    @property
    def room(self) -> int:
        """How many more would be shown."""
        return SHOWN - len(self.kept)

    def __bool__(self) -> bool:
        return self.count > 0

    def __iter__(self) -> Iterator[Problem]:
        return iter(self.kept)

    def refuse(self) -> None:
        """Raise one DataError that lists them; return where there is none."""
        if not self.count:
            return
        lines = [f"  {problem}" for problem in self.kept]
        if self.count > len(self.kept):
            lines.append(f"  … and {self.count - len(self.kept)} more")
        raise DataError(f"{self.count} problem(s) in the data:\n" + "\n".join(lines))


def refuse(problems: Iterable[Problem]) -> None:
    """Raise one DataError that lists every problem; return where there is none."""
    found = Problems()
    found.extend(problems)
    found.refuse()
