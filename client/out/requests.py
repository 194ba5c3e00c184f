"""What ``department serve`` is asked: a model of rows made of the fitted features, and rows as a cleaned table.

The model is what OpenAPI shows; its checks name row and column, and never repeat a cell.
"""

from __future__ import annotations

import base64
import binascii
import datetime
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Final

import polars as pl
from pydantic import BaseModel, ConfigDict, Field, create_model, model_validator

from commonroot.client.data import Features, Problem, Problems
from commonroot.client.tables.cells import clean

#: As messages call a request.
REQUEST: Final = "the request"
_Number = Annotated[float, Field(allow_inf_nan=False)]
_Plain = str | int | _Number | bool
#: Kind of a column to what a cell may be; a gap is null.
_CELLS: Final[MappingProxyType[str, Any]] = MappingProxyType(
    {
        "number": _Number | None,
        "category": _Plain | None,
        "datetime": str | _Number | None,
        "text": str | None,
        "tokens": list[str] | str | None,
        "sequence": list[_Number | None] | list[list[_Number | None]] | None,
        "image": str,
    }
)
_TOLD: Final = MappingProxyType(
    {
        "number": "a number, or null for a gap",
        "category": "one value, or null for a gap",
        "datetime": "a date as text, or null for a gap",
        "text": "text, or null",
        "tokens": "a list of tokens, or text",
        "sequence": "a list of numbers, or of lists of numbers",
        "image": "an image file (PNG, JPEG …) in base64",
    }
)


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)


def request_model(features: Features, *, rows: int) -> type[BaseModel]:
    """The body of /predict: ``rows``, a list of records, or ``columns``, lists by name.

    rows  the most that one request may hold
    """
    kinds = features.kinds
    cells: dict[str, Any] = {}
    lists: dict[str, Any] = {}
    for at, name in enumerate(features.columns):
        cell, told = _CELLS[kinds[name]], _TOLD[kinds[name]]
        cells[f"column_{at}"] = (cell, Field(alias=name, description=told))
        many: Any = Annotated[list[cell], Field(max_length=rows)]  # type: ignore[valid-type]
        lists[f"column_{at}"] = (many, Field(alias=name, description=f"of each row {told}"))
    row = create_model("Row", __base__=_Strict, **cells)
    columns = create_model("Columns", __base__=_Strict, **lists)

    def one_form(self: Any) -> Any:
        if (self.rows is None) == (self.columns is None):
            raise ValueError("give either rows or columns")
        return self

    listed: Any = Annotated[list[row], Field(max_length=rows)] | None  # type: ignore[valid-type]
    named: Any = columns | None
    checks: Any = {"one_form": model_validator(mode="after")(one_form)}
    return create_model(
        "Request",
        __base__=_Strict,
        __validators__=checks,
        rows=(listed, Field(default=None, description="one object per row")),
        columns=(named, Field(default=None, description="instead: one list per column")),
    )


def table_of(body: Any, features: Features, folder: Path) -> pl.DataFrame:
    """A checked request as cleaned rows; images are laid down in ``folder`` under plain names.

    Raises DataError that lists every problem, rows counted from 1.
    """
    names, kinds = features.columns, features.kinds
    problems = Problems()
    cells: dict[str, list[Any]]
    if body.rows is not None:
        cells = {name: [getattr(row, f"column_{at}") for row in body.rows] for at, name in enumerate(names)}
    else:
        cells = {name: getattr(body.columns, f"column_{at}") for at, name in enumerate(names)}
        lengths = {name: len(values) for name, values in cells.items()}
        longest = max(lengths.values(), default=0)
        for name, length in lengths.items():
            if length != longest:
                found, expected = f"{length} values", f"{longest} as in the longest column"
                problems.add(Problem(file=REQUEST, column=name, found=found, expected=expected, fix="send all of them"))
        problems.refuse()
    series = [_series(name, kinds[name], cells[name], folder, problems) for name in names]
    problems.refuse()
    frame = clean(
        pl.DataFrame(series),
        kinds,
        missing=features.reading.missing,
        file=REQUEST,
        row_of=lambda position: position + 1,
        problems=problems,
    )
    problems.refuse()
    return frame


def _series(name: str, kind: str, cells: Sequence[Any], folder: Path, problems: Problems) -> pl.Series:
    if kind == "number":
        return pl.Series(name, cells, dtype=pl.Float64)
    if kind == "image":
        return pl.Series(name, _images(name, cells, folder, problems), dtype=pl.String)
    if kind == "datetime" and any(isinstance(cell, float | int) for cell in cells):
        return pl.Series(name, [_moment(cell) for cell in cells], dtype=pl.String)
    if kind in ("category", "datetime", "text"):
        return pl.Series(name, [None if cell is None else _text(cell) for cell in cells], dtype=pl.String)
    try:
        dtype = pl.List(pl.List(pl.Float64)) if _nested(cells) else pl.List(pl.Float64)
        if kind == "tokens":
            if all(cell is None or isinstance(cell, str) for cell in cells):
                return pl.Series(name, cells, dtype=pl.String)
            split = [cell.split() if isinstance(cell, str) else cell for cell in cells]
            return pl.Series(name, split, dtype=pl.List(pl.String))
        return pl.Series(name, cells, dtype=dtype)
    except (TypeError, ValueError, pl.exceptions.PolarsError):
        found, expected = "lists of different forms", _TOLD[kind]
        problems.add(Problem(file=REQUEST, column=name, found=found, expected=expected, fix="send one form"))
        return pl.Series(name, [None] * len(cells), dtype=pl.List(pl.Float64))


def _nested(cells: Sequence[Any]) -> bool:
    return any(isinstance(item, list) for cell in cells if cell is not None for item in cell)


def _text(cell: Any) -> str:
    """As the cell would stand in a CSV: 3.0 is 3, True is true."""
    if isinstance(cell, bool):
        return "true" if cell else "false"
    if isinstance(cell, float) and cell.is_integer() and abs(cell) < 1e15:
        return str(int(cell))
    return str(cell)


def _moment(cell: Any) -> str | None:
    """Seconds since 1970 as text; nothing where no calendar has them."""
    if cell is None or isinstance(cell, str):
        return cell
    try:
        return (datetime.datetime(1970, 1, 1) + datetime.timedelta(seconds=float(cell))).isoformat(" ", "seconds")
    except OverflowError:
        return None


def _images(name: str, cells: Sequence[str], folder: Path, problems: Problems) -> list[str]:
    """Each image as a file of its own, named by its row: what a client sends is never a path."""
    out = []
    for at, cell in enumerate(cells):
        file = f"{name.encode().hex()[:40]}-{at}"
        try:
            (folder / file).write_bytes(base64.b64decode(cell, validate=True))
        except (binascii.Error, ValueError):
            expected, fix = _TOLD["image"], "encode the file's bytes"
            problems.add(Problem(file=REQUEST, row=at + 1, column=name, found="no base64", expected=expected, fix=fix))
        out.append(file)
    return out


def told_errors(errors: Sequence[Mapping[str, Any]], names: Sequence[str]) -> list[dict[str, Any]]:
    """Errors of the model as row (from 1), column and what is wrong, without what was sent."""
    out = []
    known = set(names)
    for error in errors:
        place = [part for part in error["loc"] if part != "body"]
        row = next((part + 1 for part in place if isinstance(part, int)), None)
        column = next((part for part in place[1:] if isinstance(part, str) and part in known), None)
        said = {"row": row, "column": column, "detail": _what(error)}
        found = {key: value for key, value in said.items() if value is not None}
        if found not in out:
            out.append(found)
    return out


def _what(error: Mapping[str, Any]) -> str:
    """pydantic's words, but for those that would repeat a name or a value that was sent."""
    kind = str(error.get("type", ""))
    if kind == "extra_forbidden":
        return "the model reads no such column or field"
    if kind == "json_invalid":
        return "the body is no JSON"
    if kind == "missing":
        return "it is missing"
    return str(error.get("msg", "it cannot be read")).removeprefix("Value error, ")
