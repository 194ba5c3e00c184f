"""A folder of images: one folder per label, or an ``index.csv`` whose cells name the files.

The columns of a folder of folders are ``image`` (the file, relative to the folder) and ``label`` (its folder's name).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

import polars as pl

from commonroot.client.tables.csv_source import CsvSource
from commonroot.client.tables.problems import Problem, Problems
from commonroot.client.tables.source import LOOK, Reading, Source, file_digest

#: Endings that count as images.
ENDINGS: Final = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp"})


class ImageFolder:
    """Images in one folder per label, in the order of their names.  Rows are counted from 1."""

    first_row = 1

    def __init__(self, path: Path, frame: pl.DataFrame) -> None:
        self._frame = frame
        self.name = path.name
        self.bytes = 0  # names only; pixels are read when they are encoded
        self.folder = path

    @property
    def schema(self) -> Mapping[str, pl.DataType]:
        return self._frame.schema

    def look(self) -> pl.DataFrame:
        return self._frame.head(LOOK)

    def read(self, columns: Mapping[str, str], *, typed: bool, size: int) -> Iterator[pl.DataFrame]:
        yield self._frame.select(list(columns))

    def fingerprint(self) -> str:
        """Names and contents of every file."""
        digest = hashlib.blake2b(digest_size=32)
        for name in self._frame["image"].to_list():
            digest.update(f"{name}\0{file_digest(self.folder / name)}\n".encode())
        return digest.hexdigest()


def open_folder(path: Path, reading: Reading, problems: Problems) -> Source | None:
    """By its index where it has one; None with a problem added where it holds no images."""
    index = path / "index.csv"
    if index.is_file():
        return CsvSource.opened(index, reading, problems)
    try:
        files = sorted(
            one.relative_to(path).as_posix()
            for one in path.glob("*/*")
            if one.suffix.lower() in ENDINGS and one.is_file()
        )
    except OSError:
        files = []
    if not files:
        expected = "one folder of images per label, or an index.csv"
        fix = "put each image into a folder named as its label"
        problems.add(Problem(file=path.name, found="no images", expected=expected, fix=fix))
        return None
    labels = [name.split("/")[0] for name in files]
    return ImageFolder(path, pl.DataFrame({"image": files, "label": labels}))
