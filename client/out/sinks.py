"""Where predictions go, whole or not at all: a CSV or Parquet file, a table of a database, the terminal.

Every sink takes batches and becomes visible in ``commit`` alone; leaving it without one leaves what was there before
and no litter.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Final, Protocol, Self

import polars as pl

from commonroot.common.errors import ConfigError
from commonroot.files import storage_errors, sync_folder

#: Digits of numbers in text, more than a model trained in single precision has.
DIGITS: Final = 9
#: Bytes of text for the terminal that are held in memory before they are spooled to a file.
_HELD: Final = 8 << 20


class Sink(Protocol):
    """Takes batches with the same columns each."""

    def write(self, frame: pl.DataFrame) -> None:
        """One more batch.  Raises StorageFull or ConfigError where it cannot be taken."""

    def commit(self) -> None:
        """Everything written appears at once, durably."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


def open_file(path: Path) -> Sink:
    """A sink by the file's ending.  Raises ConfigError for another one, or where there is no such folder."""
    ending = path.suffix.lower()
    if ending not in (".csv", ".parquet"):
        raise ConfigError(f"--out {path.name}: the ending {ending!r} is neither .csv nor .parquet", hint="name it so")
    if not path.parent.is_dir():
        raise ConfigError(f"--out {path}: there is no folder {path.parent}", hint="make the folder first")
    return CsvSink(path) if ending == ".csv" else ParquetSink(path)


class CsvSink:
    """A CSV file, or text for a stream where no path is given."""

    def __init__(self, path: Path | None = None, stream: IO[str] | None = None) -> None:
        self._path, self._stream = path, stream
        self._temporary: Path | None = None
        self._headed = False
        self._file: IO[bytes]
        if path is None:
            self._file = tempfile.SpooledTemporaryFile(max_size=_HELD)  # noqa: SIM115, closed by __exit__
            return
        with storage_errors(path):
            handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
            os.fchmod(handle, 0o600)
            self._temporary, self._file = Path(name), os.fdopen(handle, "wb")

    def write(self, frame: pl.DataFrame) -> None:
        floats = pl.selectors.float()
        with storage_errors(self._path or Path()):
            frame.with_columns(floats.round_sig_figs(DIGITS)).write_csv(self._file, include_header=not self._headed)
        self._headed = True

    def commit(self) -> None:
        if self._temporary is None or self._path is None:
            self._file.seek(0)
            stream = self._stream or sys.stdout
            while part := self._file.read(1 << 20):
                stream.write(part.decode())
            stream.flush()
            return
        with storage_errors(self._path):
            self._file.flush()
            os.fsync(self._file.fileno())
            self._temporary.replace(self._path)
            self._temporary = None
        sync_folder(self._path.parent)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):  # a full disk was told already
            self._file.close()
        if self._temporary is not None:
            self._temporary.unlink(missing_ok=True)


class ParquetSink:
    """A Parquet file: batches as files of their own, joined without ever holding all of them."""

    def __init__(self, path: Path) -> None:
        self._path = path
        with storage_errors(path):
            self._folder: Path | None = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
        self._parts: list[Path] = []

    def write(self, frame: pl.DataFrame) -> None:
        if self._folder is None:
            raise ConfigError("this file is written already")
        part = self._folder / f"{len(self._parts):08}.parquet"
        with storage_errors(self._path):
            frame.write_parquet(part)
        self._parts.append(part)

    def commit(self) -> None:
        if self._folder is None:
            raise ConfigError("this file is written already")
        whole = self._folder / "whole"
        with storage_errors(self._path):
            if len(self._parts) == 1:
                self._parts[0].replace(whole)
            else:
                pl.scan_parquet(self._parts, glob=False).sink_parquet(whole)
            with whole.open("rb") as file:
                os.fchmod(file.fileno(), 0o600)
                os.fsync(file.fileno())
            whole.replace(self._path)
        sync_folder(self._path.parent)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None


class ListSink:
    """Columns as lists, for JSON; all of it is held in memory."""

    def __init__(self) -> None:
        self._frames: list[pl.DataFrame] = []

    def write(self, frame: pl.DataFrame) -> None:
        self._frames.append(frame)

    def commit(self) -> None:
        """Nothing appears but ``columns``."""

    @property
    def columns(self) -> dict[str, list[Any]]:
        """What was written, by name."""
        return pl.concat(self._frames).to_dict(as_series=False) if self._frames else {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass


def as_frame(predicted: dict[str, Any], kept: pl.DataFrame, names: Sequence[str]) -> pl.DataFrame:
    """Columns carried along, then the predicted ones.  Raises ConfigError where both have a name."""
    double = [name for name in names if name in predicted]
    if double:
        raise ConfigError(f"--keep {double[0]}: a predicted column has the same name", hint="rename it in the source")
    columns = [pl.Series(name, values) for name, values in predicted.items()]
    return pl.DataFrame([*kept.select(names).get_columns(), *columns])
