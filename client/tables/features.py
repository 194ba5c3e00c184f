"""All features of a department, fitted: raw columns in, one array of rows out, in the form that the backbone takes."""

from __future__ import annotations

from collections.abc import Sequence as Listed
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, Self

import numpy as np
import polars as pl
from numpy.typing import NDArray
from pydantic import TypeAdapter

from commonroot.client.tables.categories import Category
from commonroot.client.tables.checkpoint_tokens import CheckpointTokens
from commonroot.client.tables.dates import Date
from commonroot.client.tables.images import Image
from commonroot.client.tables.lookup import Lookup, joined
from commonroot.client.tables.numbers import Numbers, Scaler
from commonroot.client.tables.part import Arrays, Columns, Filler, Filling, Part, filled, filler_of
from commonroot.client.tables.sequences import Sequence, Window
from commonroot.client.tables.source import Reading
from commonroot.client.tables.text import Text, Tokens
from commonroot.common.backbone.inputs import Input, RowInput

PARTS: Final[MappingProxyType[str, type[Part]]] = MappingProxyType(
    {part.kind: part for part in (Numbers, Category, Date, Text, Tokens, CheckpointTokens, Image, Sequence)}
)


@dataclass(frozen=True, slots=True)
class Features:
    """Fitted features.  Frozen; what a predictor stores beside its models.

    input    form of the encoded rows
    parts    in the order of their encoded columns
    window   which rows are seen together, or None
    reading  how files are read
    """

    input: Input
    parts: tuple[Part, ...]
    window: Window | None = None
    reading: Reading = field(default_factory=Reading)

    @classmethod
    def of_numbers(cls, columns: Listed[str], scaler: Scaler) -> Self:
        """Of number columns without gaps."""
        return cls(RowInput(len(columns)), (Numbers(tuple(columns), scaler),))

    @property
    def columns(self) -> tuple[str, ...]:
        """The raw columns that are read, each once."""
        named = [name for part in self.parts for name in part.columns]
        return tuple(dict.fromkeys([*named, *(self.window.columns if self.window else ())]))

    @property
    def names(self) -> tuple[str, ...]:
        """Of the encoded columns or channels, in order."""
        return tuple(name for part in self.parts for name in part.names)

    @property
    def kinds(self) -> dict[str, str]:
        """Kind of each raw column."""
        found = self.window.kinds() if self.window else {}
        for part in self.parts:
            found |= part.kinds()
        return found

    @property
    def numbers_only(self) -> Numbers | None:
        """The one part of a department with nothing but number columns, whose raw rows may be an array."""
        only = self.parts[0] if len(self.parts) == 1 and self.window is None else None
        return only if isinstance(only, Numbers) else None

    def encode(self, frame: pl.DataFrame, folder: Path = Path()) -> NDArray[Any]:
        """Cleaned rows to (n, *input.shape), in the frame's order; a window looks at the frame's own rows alone."""
        rows = self.encode_rows(frame, folder)
        if self.window is None:
            return rows
        order, begins = self.window.sorting(frame)
        out = np.empty((len(rows), self.window.steps, rows.shape[1]), dtype=rows.dtype)
        out[order] = rows[order][self.window.positions(order, begins)]
        return out

    def encode_rows(self, frame: pl.DataFrame, folder: Path = Path()) -> NDArray[Any]:
        """What ``encode`` does before rows are seen in windows."""
        if self.vectors:
            return filled(self.filler(Columns(frame), folder), len(frame), len(self.names))
        blocks = [part.encode(frame, folder) for part in self.parts]
        return blocks[0] if len(blocks) == 1 else np.concatenate(blocks, axis=-1)

    @property
    def vectors(self) -> bool:
        """Is what ``encode_rows`` gives one vector for each row, some of it ready to be filled?"""
        rows = isinstance(self.input, RowInput) or self.window is not None
        return rows and any(isinstance(part, Filling) for part in self.parts)

    def filler(self, table: Columns, folder: Path) -> Filler:
        """The same a stretch of rows at a time, where rows are ``vectors``."""
        fillers: list[tuple[slice, Filler]] = []
        lookups: list[tuple[slice, Lookup]] = []
        end = 0
        for part in self.parts:
            begin, end = end, end + len(part.names)
            filler = filler_of(part, table, folder)
            if isinstance(filler, Lookup):
                lookups.append((slice(begin, end), filler))
            else:
                fillers.append((slice(begin, end), filler))
        first, others = joined(lookups, end)
        fillers += others

        def fill(rows: slice, out: NDArray[np.float32]) -> None:
            if first is not None:
                first(rows, out)  # whole rows, so before the columns of others
            for columns, filler in fillers:
                filler(rows, out[:, columns])

        return fill

    def to_json(self) -> dict[str, Any]:
        """All that is no array: plain JSON."""
        reading = self.reading
        decimal = {} if reading.decimal == "." else {"decimal": reading.decimal}
        return {
            "input": _INPUT.dump_python(self.input, mode="json"),
            "parts": [{"kind": part.kind} | part.to_json() for part in self.parts],
            "window": None if self.window is None else self.window.to_json(),
            "reading": {
                "separator": reading.separator,
                "encoding": reading.encoding,
                "missing": list(reading.missing),
                **decimal,
            },
        }

    def arrays(self) -> dict[str, NDArray[Any]]:
        """``0/centre`` and the like: the arrays of each part under its place."""
        return {f"{at}/{name}": array for at, part in enumerate(self.parts) for name, array in part.arrays().items()}

    @classmethod
    def from_json(cls, record: dict[str, Any], arrays: Arrays) -> Self:
        """The inverse.  Raises KeyError, TypeError or ValueError for anything else."""
        parts = tuple(
            PARTS[str(one["kind"])].from_json(one, _under(arrays, at)) for at, one in enumerate(record["parts"])
        )
        window = None if record["window"] is None else Window.from_json(record["window"])
        read = record["reading"]
        missing = tuple(map(str, read["missing"]))
        reading = Reading(str(read["separator"]), str(read["encoding"]), missing, str(read.get("decimal", ".")))
        return cls(_INPUT.validate_python(record["input"]), parts, window, reading)


_INPUT: Final[TypeAdapter[Input]] = TypeAdapter(Input)


def _under(arrays: Arrays, at: int) -> dict[str, NDArray[Any]]:
    prefix = f"{at}/"
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}
