"""Reading a department's file into typed arrays, or saying everything that is wrong with it at once.

CSV    UTF-8 (with or without a byte order mark), a header row, one row per line
.npz   NumPy arrays: ``X`` (rows, columns), the target under its own name, and optionally ``names`` of the columns

Problems name file, row, column, what was found (its kind, not the value), what was expected, and how to mend it.  Rows
are counted as a spreadsheet does: the header is row 1.
"""

from __future__ import annotations

import csv
import zipfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from commonroot.common.errors import DataError

Features = Sequence[str] | Literal["all but target"]
#: Beyond this, squares of values are no longer numbers.
LARGEST = 1e100
#: A message lists this many problems and counts the rest.
SHOWN = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One thing that is wrong with a file."""

    file: str
    found: str
    expected: str
    fix: str
    row: int | None = None
    column: str | None = None

    def __str__(self) -> str:
        row = "" if self.row is None else f", row {self.row}"
        column = "" if self.column is None else f", column {self.column!r}"
        return f"{self.file}{row}{column}: found {self.found}, expected {self.expected}; {self.fix}"


@dataclass(frozen=True, slots=True)
class Table:
    """A file's rows.

    names   of the columns
    x       (rows, columns) float64, finite
    y       (rows,) labels as text or float64 values; None where only features were asked for
    """

    names: tuple[str, ...]
    x: NDArray[np.float64] = field(repr=False)
    y: NDArray[Any] | None = field(default=None, repr=False)


def refuse(problems: Sequence[Problem]) -> None:
    """Raise one DataError that lists every problem; return where there is none."""
    if problems:
        lines = [f"  {problem}" for problem in problems[:SHOWN]]
        if len(problems) > SHOWN:
            lines.append(f"  … and {len(problems) - SHOWN} more")
        raise DataError(f"{len(problems)} problem(s) in the data:\n" + "\n".join(lines))


def read_table(
    path: Path, features: Features, *, target: str | None, numeric_target: bool
) -> tuple[Table | None, list[Problem]]:
    """The table at ``path`` and every problem met; the table is None where it could not be read whole.

    target          name of the target column or array; None reads features alone
    numeric_target  a regression's target: finite numbers instead of labels
    """
    problems: list[Problem] = []
    file = path.name
    if not path.is_file():
        problems.append(Problem(file=file, found="no such file", expected="a .csv or .npz file", fix="mend the path"))
        return None, problems
    raw: _Raw | None
    if path.suffix.lower() == ".npz":
        raw = _open_npz(path, target, problems)
    elif path.suffix.lower() == ".csv":
        raw = _open_csv(path, problems)
    else:
        found = f"the ending {path.suffix!r}"
        problems.append(Problem(file=file, found=found, expected=".csv or .npz", fix="export the table as CSV"))
        return None, problems
    if raw is None:
        return None, problems
    chosen = _choose(file, raw, features, target, problems)
    if not raw.rows:
        problems.append(Problem(file=file, found="no rows", expected="at least one row", fix="fill the table"))
    if problems:
        return None, problems
    x = raw.numbers(file, chosen, problems)
    y: NDArray[Any] | None = None
    if target is not None:
        y = raw.numbers(file, (target,), problems)[:, 0] if numeric_target else raw.labels(file, target, problems)
    if problems:
        return None, problems
    return Table(chosen, x, y), problems


def read_cells(path: Path, names: Sequence[str]) -> tuple[dict[str, NDArray[Any]] | None, list[Problem]]:
    """Columns as they stand, by name: text without blanks around it, or a .npz's numbers.  Problems as in
    ``read_table``; empty cells are none."""
    problems: list[Problem] = []
    file = path.name
    if not path.is_file() or path.suffix.lower() not in (".csv", ".npz"):
        problems.append(Problem(file=file, found="no such table", expected="a .csv or .npz file", fix="mend the path"))
        return None, problems
    if path.suffix.lower() == ".csv":
        raw = _open_csv(path, problems)
        if raw is not None:
            _choose(file, raw, tuple(names), None, problems)
        if raw is None or problems:
            return None, problems
        return {name: raw.cells_of(name) for name in names}, problems
    found: dict[str, NDArray[Any]] = {}
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
            listed = [str(one) for one in archive["names"]] if "names" in archive.files else []
            x = archive["X"] if "X" in archive.files else np.zeros((0, 0))
            listed = listed or [f"x{at}" for at in range(x.shape[1] if x.ndim == 2 else 0)]
            for name in names:
                if name in archive.files:
                    found[name] = archive[name]
                elif name in listed and x.ndim == 2 and len(listed) == x.shape[1]:
                    found[name] = x[:, listed.index(name)]
                else:
                    fix = "save it under this name"
                    expected = "an array or a column of X"
                    problems.append(Problem(file=file, column=name, found="nothing", expected=expected, fix=fix))
    except (ValueError, OSError, EOFError, KeyError, AttributeError, zipfile.BadZipFile):
        fix = "save it with numpy.savez and plain dtypes"
        problems.append(Problem(file=file, found="unreadable content", expected="plain NumPy arrays", fix=fix))
    for name, array in found.items():
        if array.ndim != 1 or len(array) != len(next(iter(found.values()))):
            expected, fix = "one value per row", "save columns of one length"
            problems.append(Problem(file=file, column=name, found=f"shape {array.shape}", expected=expected, fix=fix))
    return (None if problems else found), problems


class _Raw:
    """Columns by name before they have types."""

    def __init__(self, header: Sequence[str], rows: int) -> None:
        self.header = tuple(header)
        self.rows = rows

    def numbers(self, file: str, names: Sequence[str], problems: list[Problem]) -> NDArray[np.float64]:
        """(rows, names) float64; a problem for every cell that is no finite number."""
        raise NotImplementedError

    def labels(self, file: str, name: str, problems: list[Problem]) -> NDArray[Any]:
        """(rows,) text; a problem for every empty label."""
        raise NotImplementedError


class _RawCsv(_Raw):
    def __init__(self, header: Sequence[str], cells: list[list[str]]) -> None:
        super().__init__(header, len(cells))
        self.cells = cells

    def cells_of(self, name: str) -> NDArray[Any]:
        """(rows,) text as it stands, without blanks around it."""
        at = self.header.index(name)
        return np.array([row[at].strip() for row in self.cells], dtype=np.str_)

    def numbers(self, file: str, names: Sequence[str], problems: list[Problem]) -> NDArray[np.float64]:
        at = [self.header.index(name) for name in names]
        try:
            values = np.array([[float(row[i]) for i in at] for row in self.cells], dtype=np.float64)
        except ValueError:  # some cell is no number: go through them one by one to name each
            values = np.array([[_number(row[i]) for i in at] for row in self.cells], dtype=np.float64)
        for row, column in np.argwhere(~(np.abs(values) <= LARGEST)):
            found = _kind(self.cells[row][at[column]])
            problems.append(_not_a_number(file, found, int(row) + 2, names[column]))
        return values.reshape(self.rows, len(at))

    def labels(self, file: str, name: str, problems: list[Problem]) -> NDArray[Any]:
        at = self.header.index(name)
        found = [row[at].strip() for row in self.cells]
        problems += [_no_label(file, row + 2, name) for row, label in enumerate(found) if not label]
        return np.array(found, dtype=np.str_)


class _RawNpz(_Raw):
    def __init__(self, header: Sequence[str], x: NDArray[Any], target: str | None, y: NDArray[Any] | None) -> None:
        super().__init__(header, len(x))
        self.x, self.target, self.y = x, target, y

    def numbers(self, file: str, names: Sequence[str], problems: list[Problem]) -> NDArray[np.float64]:
        columns: NDArray[Any]
        if self.y is not None and tuple(names) == (self.target,):
            columns = self.y[:, None]
        elif tuple(names) == self.header:
            columns = self.x
        else:
            columns = self.x[:, [self.header.index(name) for name in names]]
        if columns.dtype.kind not in "biuf":
            fix = "store numbers"
            problems.append(Problem(file=file, column=names[0], found=_dtype(columns), expected="numbers", fix=fix))
            return np.zeros((self.rows, len(names)))
        values = columns.astype(np.float64)
        for row, column in np.argwhere(~(np.abs(values) <= LARGEST)):
            found = _size(float(values[row, column]))
            problems.append(_not_a_number(file, found, int(row) + 1, names[column]))
        return values

    def labels(self, file: str, name: str, problems: list[Problem]) -> NDArray[Any]:
        y = self.y
        if y is None or y.dtype.kind not in "biufU":
            found = "nothing" if y is None else _dtype(y)
            expected = "text or whole numbers"
            problems.append(Problem(file=file, column=name, found=found, expected=expected, fix="store labels as text"))
            return np.array([], dtype=np.str_)
        if y.dtype.kind == "f":
            wrong = ~np.isfinite(y) | (y != np.round(y))
            for row in np.flatnonzero(wrong):
                fix = "store labels as text or whole numbers"
                expected = "a whole number as label"
                problems.append(
                    Problem(file=file, row=int(row) + 1, column=name, found="a fraction", expected=expected, fix=fix)
                )
            y = np.where(wrong, 0, y).astype(np.int64)
        labels = np.char.strip(y.astype(np.str_))
        problems += [_no_label(file, int(row) + 1, name) for row in np.flatnonzero(labels == "")]
        return labels


def _open_csv(path: Path, problems: list[Problem]) -> _RawCsv | None:
    file = path.name
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.reader(stream)
            header = [name.strip() for name in next(reader, [])]
            cells = []
            for number, row in enumerate(reader, start=2):
                if not row:
                    continue  # a blank line, as editors leave at the end
                if len(row) != len(header):
                    found, expected = f"{len(row)} cells", f"{len(header)} as in the header"
                    fix = "quote cells that hold commas"
                    problems.append(Problem(file=file, row=number, found=found, expected=expected, fix=fix))
                cells.append(row)
    except UnicodeDecodeError:
        problems.append(Problem(file=file, found="another encoding", expected="UTF-8", fix="save the file as UTF-8"))
        return None
    except (csv.Error, OSError) as error:
        found = f"unreadable content ({type(error).__name__})"
        problems.append(Problem(file=file, found=found, expected="a CSV table", fix="export the table again"))
        return None
    if not header:
        fix = "write the column names into row 1"
        problems.append(Problem(file=file, found="an empty file", expected="a header row", fix=fix))
        return None
    return _RawCsv(header, cells)


def _open_npz(path: Path, target: str | None, problems: list[Problem]) -> _Raw | None:
    file = path.name

    def wrong(found: str, expected: str, fix: str, column: str | None = None) -> None:
        problems.append(Problem(file=file, column=column, found=found, expected=expected, fix=fix))

    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
            wanted = [name for name in ("X", "names", target) if name is not None and name in archive.files]
            arrays = {name: archive[name] for name in wanted}
            listed = ", ".join(sorted(archive.files)) or "nothing"
    except (ValueError, OSError, EOFError, KeyError, AttributeError, zipfile.BadZipFile):
        wrong("unreadable content or Python objects", "plain NumPy arrays", "save it with numpy.savez and plain dtypes")
        return None
    x = arrays.get("X")
    if x is None or x.ndim != 2:
        found = f"arrays {listed}" if x is None else f"X with {x.ndim} dimension(s)"
        wrong(found, "X with two dimensions: rows, columns", "save the features as X")
        return None
    names = arrays.get("names")
    header = [f"x{at}" for at in range(x.shape[1])] if names is None else [str(name) for name in np.ravel(names)]
    if len(header) != x.shape[1]:
        wrong(f"{len(header)} names", f"{x.shape[1]}, one per column of X", "save one name per column")
        return None
    y = None
    if target is not None:
        y = arrays.get(target)
        if y is None:
            wrong(f"arrays {listed}", f"the target as an array {target!r}", "save it or mend `target`", target)
            return None
        if y.shape != (len(x),):
            wrong(f"shape {y.shape}", f"({len(x)},), one value per row of X", "save X and the target together", target)
            return None
    return _RawNpz(header, x, target, y)


def _choose(file: str, raw: _Raw, features: Features, target: str | None, problems: list[Problem]) -> tuple[str, ...]:
    twice = sorted(name for name, times in Counter(raw.header).items() if times > 1)
    for name in twice:
        problems.append(
            Problem(file=file, column=name, found="the name twice", expected="one column of a name", fix="rename one")
        )
    chosen = tuple(name for name in raw.header if name != target) if isinstance(features, str) else tuple(features)
    needed = list(chosen)
    if target is not None and isinstance(raw, _RawCsv):
        needed.append(target)
    for name in needed:
        if name not in raw.header:
            fix = "add the column or mend the configuration"
            problems.append(Problem(file=file, column=name, found="no such column", expected="it in row 1", fix=fix))
    if not chosen and isinstance(features, str):
        problems.append(
            Problem(file=file, found="no feature columns", expected="at least one", fix="list them in `features`")
        )
    return chosen


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return float("nan")


def _kind(text: str) -> str:
    stripped = text.strip()
    if not stripped:
        return "an empty cell"
    value = _number(stripped)
    return "text" if np.isnan(value) and stripped.lower().lstrip("+-") != "nan" else _size(value)


def _size(value: float) -> str:
    if np.isnan(value):
        return "not a number (NaN)"
    return "infinity" if np.isinf(value) else f"a number beyond ±{LARGEST:g}"


def _dtype(array: NDArray[Any]) -> str:
    return f"dtype {array.dtype}"


def _not_a_number(file: str, found: str, row: int, column: str) -> Problem:
    fix = "fill the cell or drop the row"
    return Problem(file=file, row=row, column=column, found=found, expected="a finite number", fix=fix)


def _no_label(file: str, row: int, column: str) -> Problem:
    return Problem(file=file, row=row, column=column, found="an empty cell", expected="a label", fix="drop the row")
