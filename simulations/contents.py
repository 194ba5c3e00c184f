"""What the files of a scenario hold, as hashes: its tables, and the images that their cells name."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

import polars as pl

from commonroot.client.data import DataConfig, ImageInput, Problems, Reading
from commonroot.client.tables.source import KEPT, open_source
from commonroot.common.backbone import BackboneSpec
from commonroot.common.charter import Draft
from commonroot.common.errors import ConfigError, DataError
from commonroot.simulations.provenance import content_digest

#: Stands for an image that is not there, which is told when it is read.
_ABSENT: Final = "-"


def tables_of(data: DataConfig) -> list[Path]:
    """The files that a section names itself."""
    return [path for path in (data.path, data.test_path, data.catalogue) if path is not None]


class Contents:
    """Hashes of files and folders, each read once."""

    def __init__(self) -> None:
        self._files: dict[Path, str] = {}
        self._images: dict[str, str | None] = {}

    def of(self, path: Path) -> str:
        """SHA-256 of a file, or of all that lies in a folder.  Raises ConfigError where there is none."""
        if path not in self._files:
            if not path.exists():
                raise ConfigError(f"{path} does not exist")
            self._files[path] = content_digest(path)
        return self._files[path]

    def of_images(self, data: DataConfig, charter: Draft) -> str | None:
        """SHA-256 over the images that cells of a section's tables name, with what the cells say.

        None where they name none: a charter's backbone may read no images, and a folder's own are in its hash.  What a
        query names is not looked at, as its rows are not.

        data  its paths are absolute
        """
        if not (isinstance(charter.backbone, BackboneSpec) and isinstance(charter.backbone.input, ImageInput)):
            return None
        key = data.model_dump_json()
        if key not in self._images:
            named = sorted({found for path in tables_of(data) for found in _named_images(data, path)})
            lines = "".join(f"{name}\0{self._of_image(path)}\n" for name, path in named)
            self._images[key] = hashlib.sha256(lines.encode()).hexdigest() if named else None
        return self._images[key]

    def _of_image(self, path: Path) -> str:
        return self.of(path) if path.is_file() else _ABSENT


def _named_images(data: DataConfig, path: Path) -> Iterator[tuple[str, Path]]:
    """What the cells of a table say, and the files that are meant; of a folder, those outside it."""
    with suppress(DataError):  # what is wrong with a table is told when it is read
        problems = Problems()
        source = open_source(path, Reading.of(data), problems, targets=data.targets, required=False)
        if source is None:
            return
        listed = source.schema if data.listed is None else [one.column for one in data.listed]
        for column in listed:
            if column in data.targets or not isinstance(source.schema.get(column), pl.String):
                continue
            for frame in source.read({column: KEPT}, typed=False, size=0):
                for name in frame[column].drop_nulls().unique().to_list():
                    image = Path(os.path.normpath(source.folder / name))
                    if not (path.is_dir() and image.is_relative_to(path)):
                        yield name, image
