"""CSV: a header row, one row per record, quotes doubled inside quotes; streamed, columns parsed straight to numbers.

The fast reader takes what it is given; whatever it could have misread (short rows, blank lines, a wrong encoding, an
open quote) is found by a second, slower one that knows the row, and only where there is a sign of it.
"""

from __future__ import annotations

import csv
import io
import os
import tempfile
import weakref
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

import polars as pl

from commonroot.client.tables.decimals import are_written_with_commas, with_points
from commonroot.client.tables.problems import Problem, Problems
from commonroot.client.tables.source import LOOK, UNNAMED, UNREADABLE, CellsNotTyped, Reading, check_header, file_digest

#: A field longer than this is an open quote.
_FIELD: Final = 4 << 20
#: Bytes that mostly hold the rows of a look.
_GLANCE: Final = 1 << 20
#: Bytes of one stretch of rows.
_STRETCH: Final = 16 << 20
_BOMS = {b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}


class CsvSource:
    """A CSV file.  Row 1 is its header; what is wrong with its form is told when its rows are read."""

    first_row = 2

    def __init__(self, path: Path, name: str, names: tuple[str, ...], reading: Reading, original: Path) -> None:
        self._path, self._names, self._reading, self._original = path, names, reading, original
        self._blank = False
        self.name = name
        self.bytes = path.stat().st_size
        self._inspected = False
        self.folder = original.parent

    @classmethod
    def opened(cls, path: Path, reading: Reading, problems: Problems) -> CsvSource | None:
        """With its header checked, or None with the problems added."""
        plain = path
        try:
            encoding = _encoding(path, reading.encoding)
            if encoding not in ("utf-8", "utf-8-sig"):
                handle, name = tempfile.mkstemp(prefix="commonroot-", suffix=".csv")  # owner only
                os.close(handle)
                plain = Path(name)
                _transcode(path, plain, encoding)
            names = _header(plain, reading.separator)
            source = cls(plain, path.name, names, reading, path)
            if plain is not path:
                weakref.finalize(source, plain.unlink, missing_ok=True)
                plain = path
        except (UnicodeDecodeError, UnicodeError):
            problems.add(_encoding_problem(path.name, reading.encoding, None))
            return None
        except LookupError:
            fix = "utf-8, latin-1, cp1252 and utf-16 are common"
            problems.add(Problem(file=path.name, found="an encoding nobody knows", expected="a known one", fix=fix))
            return None
        except (csv.Error, OSError) as error:
            found, fix = f"unreadable content ({type(error).__name__})", "export the table again"
            problems.add(Problem(file=path.name, found=found, expected="a CSV table", fix=fix))
            return None
        finally:
            if plain is not path:
                plain.unlink(missing_ok=True)
        if not names:
            fix = "write the column names into row 1"
            problems.add(Problem(file=path.name, found="an empty file", expected="a header row", fix=fix))
            return None
        if not check_header(path.name, names, problems):
            return None
        return source

    @property
    def schema(self) -> Mapping[str, pl.DataType]:
        return {name: pl.String() for name in self._names}

    def look(self) -> pl.DataFrame:
        for again in (False, True):
            try:
                found = self._first()
            except UNREADABLE:
                self._inspect(suspicious=True)
                self._refuse()
            if again or not found[self._names[-1]].null_count():
                break
            self._inspect(suspicious=True)  # perhaps a short row: better told now than as a gap
        if self._reading.decimal == ",":
            return found.with_columns(with_points(name) for name in self._names if are_written_with_commas(found[name]))
        return found

    def _first(self) -> pl.DataFrame:
        """The first rows, from no more of the file than it takes."""
        size = _GLANCE
        while size < self.bytes:
            part = next(_stretches(self._path, size), None)
            found = None if part is None else self._scan({}, typed=False, of=part).head(LOOK).collect()
            if found is not None and len(found) == LOOK:
                return found
            size *= 8
        return self._scan({}, typed=False).head(LOOK).collect()

    def read(self, columns: Mapping[str, str], *, typed: bool, size: int) -> Iterator[pl.DataFrame]:
        try:
            if size == 0:
                yield self._whole(columns, typed=typed)
                return
            self._inspect()
            for part in _stretches(self._path):
                yield from self._scan(columns, typed=typed, of=part).select(list(columns)).collect().iter_slices(size)
        except UNREADABLE as error:
            if typed:
                raise CellsNotTyped from error
            self._inspect(suspicious=True)
            self._refuse()

    def _refuse(self) -> None:
        """What the fast reader cannot read and the careful one can: quotes in the middle of a cell, mostly."""
        found, expected = "quotes that do not match", "a CSV table with quotes doubled inside quotes"
        problems = Problems()
        problems.add(Problem(file=self.name, found=found, expected=expected, fix="export the table again"))
        problems.refuse()

    def _whole(self, columns: Mapping[str, str], *, typed: bool) -> pl.DataFrame:
        """Every row at once, with the last column as a witness of short rows."""
        last = self._names[-1]
        frame = self._scan(columns, typed=typed).select(list(dict.fromkeys([*columns, last]))).collect()
        if not self._inspected and frame[last].null_count():
            self._inspect(suspicious=True)
            if self._blank:
                frame = self._scan(columns, typed=typed).select(list(columns)).collect()
        return frame.select(list(columns))

    def fingerprint(self) -> str:
        return file_digest(self._original)

    def _scan(self, columns: Mapping[str, str], *, typed: bool, of: bytes | None = None) -> pl.LazyFrame:
        """The whole file, or some of its rows without the header."""
        typed &= self._reading.decimal == "."  # where it is a comma, the library takes a point for one too
        numbers = {name for name, kind in columns.items() if typed and kind in ("number", "value")}
        schema = {name: pl.Float64() if name in numbers else pl.String() for name in self._names}
        source, above = (self._path, 1) if of is None else (io.BytesIO(of), 0)
        lazy = pl.scan_csv(source, has_header=False, skip_rows=above, schema=schema, separator=self._reading.separator)
        if self._blank:
            lazy = lazy.filter(~pl.all_horizontal(pl.all().is_null()))
        return lazy

    def _inspect(self, *, suspicious: bool = False) -> None:
        """Once: a short or a blank row ends in a gap, and anything else that is wrong stops the fast reader.

        Raises DataError that lists what is wrong with the form of the file.
        """
        if self._inspected:
            return
        last = pl.col(self._names[-1])
        try:
            if not suspicious:
                gaps = self._scan({}, typed=False).select(last.is_null().any()).collect(engine="streaming").item()
                suspicious = bool(gaps)
        except UNREADABLE:
            suspicious = True
        problems = Problems()
        if suspicious:
            self._blank = _careful(self._path, self.name, len(self._names), self._reading, problems)
        problems.refuse()
        self._inspected = True


def _stretches(path: Path, size: int | None = None) -> Iterator[bytes]:
    """The rows below the header, in stretches of whole rows: cut at a line end outside quotes.

    The library's own batches run ahead of whoever is slower than the disk, and hold what they have read.
    """
    with path.open("rb") as file:
        kept, header = b"", True
        while part := file.read(size or _STRETCH):
            kept += part
            if header:
                start = _line_end(kept, first=True)
                if start < 0:
                    continue
                kept, header = kept[start + 1 :], False
            end = _line_end(kept, first=False)
            if end >= 0:
                yield kept[: end + 1]
                kept = kept[end + 1 :]
        if kept.strip() and not header:
            yield kept


def _line_end(content: bytes, *, first: bool) -> int:
    """Position of the first or last line end before which all quotes are closed; -1 where there is none."""
    if first:
        at, closed = -1, 0
        while (following := content.find(b"\n", at + 1)) >= 0:
            closed += content.count(b'"', at + 1, following)
            at = following
            if closed % 2 == 0:
                return at
        return -1
    at = content.rfind(b"\n")
    opened = content.count(b'"', 0, at + 1)
    while at >= 0 and opened % 2:
        before = content.rfind(b"\n", 0, at)
        opened -= content.count(b'"', before + 1, at + 1)
        at = before
    return at


def _encoding(path: Path, asked: str) -> str:
    """What the file is written in: a byte order mark says more than the configuration."""
    "".encode(asked)  # LookupError for an unknown one
    with path.open("rb") as file:
        start = file.read(4)
    return next((name for mark, name in _BOMS.items() if start.startswith(mark)), asked.lower().replace("_", "-"))


def _transcode(path: Path, to: Path, encoding: str) -> None:
    with path.open(encoding=encoding, newline="") as source, to.open("w", encoding="utf-8", newline="") as target:
        while part := source.read(1 << 20):
            target.write(part)


def _header(path: Path, separator: str) -> tuple[str, ...]:
    with path.open(encoding="utf-8-sig", newline="") as stream:
        names = [name.strip() for name in next(csv.reader(stream, delimiter=separator), [])]
    return tuple(name or f"{UNNAMED}{at}" for at, name in enumerate(names, start=1))


def _encoding_problem(file: str, encoding: str, row: int | None) -> Problem:
    expected = "UTF-8" if encoding.lower() in ("utf-8", "utf8") else encoding
    fix = 'save the file as UTF-8, or name what it is written in: encoding = "cp1252"'
    return Problem(file=file, row=row, found="another encoding", expected=expected, fix=fix)


def _careful(path: Path, file: str, width: int, reading: Reading, problems: Problems) -> bool:
    """Go through the file row by row, adding what is wrong with its form; whether blank lines are to be left out."""
    blank = False
    before = csv.field_size_limit(_FIELD)
    number = 1
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            rows = csv.reader(stream, delimiter=reading.separator, strict=True)
            next(rows, None)
            for number, row in enumerate(rows, start=2):
                if not row:
                    blank = True
                elif len(row) != width:
                    found, expected = f"{len(row)} cells", f"{width} as in the header"
                    fix = f"quote cells that hold {reading.separator!r}"
                    problems.add(Problem(file=file, row=number, found=found, expected=expected, fix=fix))
    except UnicodeDecodeError:
        problems.add(_encoding_problem(file, reading.encoding, number + 1))
    except csv.Error as error:
        long = "field limit" in str(error)
        found = f"a cell of more than {_FIELD} characters" if long else "quotes that do not match"
        fix = "close the quote, and double quotes inside quotes"
        problems.add(Problem(file=file, row=number + 1, found=found, expected="a CSV row", fix=fix))
    finally:
        csv.field_size_limit(before)
    return blank
