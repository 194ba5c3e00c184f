"""NumPy .npz: ``X`` with rows first, the target under its own name, and optionally ``names`` of X's columns.

X (rows, columns)            numbers, one column each
X (rows, steps, channels)    one column ``X`` of sequences
X (rows, …) of images        one column ``X``: (rows, height, width), (rows, height, width, channels) or channels first
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from commonroot.client.tables.problems import Problem, Problems
from commonroot.client.tables.source import LOOK, check_header, file_digest


class NpzSource:
    """Arrays of one archive, in memory.  Rows are counted from 1."""

    first_row = 1

    def __init__(self, path: Path, frame: pl.DataFrame) -> None:
        self._path, self._frame, self._schema = path, frame, frame.schema
        self.name = path.name
        self.bytes = 0  # it is in memory already
        self.folder = path.parent

    @classmethod
    def opened(cls, path: Path, targets: tuple[str, ...], problems: Problems, *, required: bool) -> NpzSource | None:
        """With its arrays checked, or None with the problems added.  Python objects are never loaded."""
        file = path.name

        def wrong(found: str, expected: str, fix: str, column: str | None = None) -> None:
            problems.add(Problem(file=file, column=column, found=found, expected=expected, fix=fix))

        try:
            with path.open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
                wanted = [name for name in ("X", "names", *targets) if name in archive.files]
                arrays: dict[str, NDArray[Any]] = {name: archive[name] for name in wanted}
                listed = ", ".join(sorted(archive.files))[:200] or "nothing"
        # zipfile calls it a RuntimeError where a file is encrypted, or compressed in a way that it does not know
        except (ValueError, OSError, EOFError, KeyError, AttributeError, RuntimeError, zipfile.BadZipFile):
            fix = "save it with numpy.savez and plain dtypes"
            wrong("unreadable content or Python objects", "plain NumPy arrays", fix)
            return None
        x = arrays.get("X")
        if x is None or x.ndim not in (2, 3, 4):
            found = f"arrays {listed}" if x is None else f"X with {x.ndim} dimension(s)"
            wrong(found, "X with two dimensions: rows, columns (or up to four: sequences, images)", "save it as X")
            return None
        if x.dtype.kind not in "biuf":
            wrong(f"dtype {x.dtype}", "numbers", "store numbers", "X")
            return None
        columns = _columns(file, x, arrays.get("names"), problems)
        if columns is None:
            return None
        for target in targets:
            y = arrays.get(target)
            if y is None:
                if required:
                    wrong(f"arrays {listed}", f"the target as an array {target!r}", "save it or mend `target`", target)
                continue
            if y.ndim not in (1, 2) or len(y) != len(x):
                found, fix = f"shape {y.shape}", "save X and the target together"
                wrong(found, f"({len(x)},), one value per row of X", fix, target)
                continue
            if y.dtype.kind not in ("biufU" if required else "biufUM"):
                fix = "store labels as text"
                wrong(f"dtype {y.dtype}", "text or whole numbers", fix, target)
                continue
            columns[target] = pl.Series(target, np.ascontiguousarray(y))
        if problems:
            return None
        return cls(path, pl.DataFrame(list(columns.values())))

    @property
    def schema(self) -> Mapping[str, pl.DataType]:
        return self._schema

    def look(self) -> pl.DataFrame:
        return self._frame.head(LOOK)

    def read(self, columns: Mapping[str, str], *, typed: bool, size: int) -> Iterator[pl.DataFrame]:
        yield self._frame.select(list(columns))

    def fingerprint(self) -> str:
        return file_digest(self._path)


def _columns(file: str, x: NDArray[Any], names: NDArray[Any] | None, problems: Problems) -> dict[str, pl.Series] | None:
    if x.ndim > 2:
        return {"X": pl.Series("X", np.ascontiguousarray(x, dtype=np.float64 if x.dtype == np.float16 else x.dtype))}
    listed = [f"x{at}" for at in range(x.shape[1])] if names is None else [str(name) for name in np.ravel(names)]
    if len(listed) != x.shape[1]:
        expected = f"{x.shape[1]}, one per column of X"
        fix = "save one name per column"
        problems.add(Problem(file=file, found=f"{len(listed)} names", expected=expected, fix=fix))
        return None
    if not check_header(file, listed, problems):
        return None
    values = x.astype(np.float64) if x.dtype.kind == "f" else x
    return {name: pl.Series(name, np.ascontiguousarray(values[:, at])) for at, name in enumerate(listed)}
