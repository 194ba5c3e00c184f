"""Images: files named by cells, or arrays, brought to one size and to values about -1 … 1, channels first."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Final, Self

import numpy as np
import polars as pl
from numpy.typing import NDArray
from PIL import Image as Pictures
from PIL import UnidentifiedImageError

from commonroot.client.tables.part import Arrays, Picked
from commonroot.client.tables.problems import Problem, Problems

#: Pixels of a file beyond which it is refused instead of unpacked.
PIXELS: Final = 100_000_000
UNREADABLE = (OSError, UnidentifiedImageError, ValueError, SyntaxError, Pictures.DecompressionBombError)


@dataclass(frozen=True, slots=True)
class Image:
    """An image column as (n, channels, height, width) float32.

    low, high  of the training pixels, which become -1 and 1
    """

    kind: ClassVar[str] = "image"

    column: str
    channels: int
    height: int
    width: int
    low: float = 0.0
    high: float = 255.0

    @property
    def columns(self) -> tuple[str, ...]:
        return (self.column,)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(f"{self.column} channel {at}" for at in range(self.channels))

    def kinds(self) -> dict[str, str]:
        return {self.column: "image"}

    def encode(self, frame: pl.DataFrame, folder: Path) -> NDArray[np.float32]:
        series = frame[self.column]
        if series.dtype.is_nested():
            pixels = self._of_arrays(channels_first(series.to_numpy(), self.channels))
        else:
            pixels = np.empty((len(series), self.channels, self.height, self.width), dtype=np.float32)
            problems = Problems()
            for at, name in enumerate(series.to_list()):
                loaded = load(folder, name, self, problems)
                if loaded is not None:
                    pixels[at] = loaded
            problems.refuse()
        middle, half = (self.high + self.low) / 2, (self.high - self.low) / 2
        return (pixels - np.float32(middle)) / np.float32(half)

    def _of_arrays(self, pixels: NDArray[Any]) -> NDArray[np.float32]:
        found = pixels.astype(np.float32)
        if found.shape[2:] == (self.height, self.width):
            return found
        out = np.empty((len(found), self.channels, self.height, self.width), dtype=np.float32)
        for at, image in enumerate(found):
            for channel, plane in enumerate(image):
                fitted = Pictures.fromarray(plane).resize((self.width, self.height), Pictures.Resampling.BILINEAR)
                out[at, channel] = np.asarray(fitted)
        return out

    def to_json(self) -> dict[str, Any]:
        return {
            "column": self.column,
            "channels": self.channels,
            "height": self.height,
            "width": self.width,
            "low": self.low,
            "high": self.high,
        }

    def arrays(self) -> dict[str, NDArray[Any]]:
        return {}

    @classmethod
    def from_json(cls, record: dict[str, Any], arrays: Arrays) -> Self:
        size = (int(record["channels"]), int(record["height"]), int(record["width"]))
        return cls(str(record["column"]), *size, float(record["low"]), float(record["high"]))


def load(folder: Path, name: str | None, shape: Image, problems: Problems) -> NDArray[np.float32] | None:
    """(channels, height, width) values 0 … 255 of one file, or None with the problem added."""
    if name is None:
        problems.add(_fault(folder.name, shape.column, "an empty cell", "the path of an image"))
        return None
    path = folder / name
    try:
        with Pictures.open(path) as image:
            if image.width * image.height > PIXELS:
                problems.add(_fault(path.name, shape.column, "too many pixels", f"at most {PIXELS}"))
                return None
            plain = image.convert("L" if shape.channels == 1 else "RGB")
            plain = plain.resize((shape.width, shape.height), Pictures.Resampling.BILINEAR)
            pixels = np.asarray(plain, dtype=np.float32)
    except FileNotFoundError:
        problems.add(_fault(path.name, shape.column, "no such file", "an image"))
        return None
    except UNREADABLE:
        problems.add(_fault(path.name, shape.column, "content that is no image", "an image"))
        return None
    return pixels[None] if shape.channels == 1 else pixels.transpose(2, 0, 1)


def _fault(file: str, column: str, found: str, expected: str) -> Problem:
    return Problem(file=file, column=column, found=found, expected=expected, fix="mend the file or drop the row")


def channels_first(pixels: NDArray[Any], channels: int) -> NDArray[Any]:
    """(n, height, width), (n, height, width, channels) or (n, channels, height, width) to the last."""
    if pixels.ndim == 3:
        return np.repeat(pixels[:, None], channels, axis=1)
    if pixels.shape[1] == channels and pixels.shape[3] != channels:
        return pixels
    return pixels.transpose(0, 3, 1, 2) if pixels.shape[3] == channels else pixels


class ImageFitter:
    """Range of arrays' pixels; files have one already.  Files are opened once, so that a broken one is told early."""

    def __init__(self, shape: Image, folder: Path) -> None:
        self._shape, self._folder = shape, folder
        self._low, self._high = np.inf, -np.inf
        self._files = False
        self._faults: list[tuple[str, str, str, str]] = []

    def add(self, frame: pl.DataFrame | Picked) -> None:
        series = frame[self._shape.column]
        if not series.dtype.is_nested():
            self._files = True
            return
        pixels = series.to_numpy()
        if pixels.dtype.kind not in "biuf" or (len(pixels) and not np.isfinite(pixels.astype(np.float64)).all()):
            self._faults = [(self._shape.column, "values that are no finite numbers", "pixels", "mend the array")]
        elif channels_first(pixels[:1], self._shape.channels).shape[1:2] not in ((self._shape.channels,), (0,)):
            found = f"images of shape {pixels.shape[1:]}"
            self._faults = [(self._shape.column, found, f"{self._shape.channels} channel(s)", "mend `channels`")]
        elif len(pixels):
            self._low = min(self._low, float(pixels.min()))
            self._high = max(self._high, float(pixels.max()))

    def faults(self) -> list[tuple[str, str, str, str]]:
        return self._faults

    def notes(self) -> list[str]:
        return []

    def done(self) -> Image:
        shape = self._shape
        if self._files or not np.isfinite(self._low):
            return shape
        high = self._high if self._high > self._low else self._low + 1.0
        return Image(shape.column, shape.channels, shape.height, shape.width, self._low, high)


def size_of(folder: Path, name: str | None) -> tuple[int, int] | None:
    """(height, width) of a file, or None where it cannot be read."""
    if name is None:
        return None
    try:
        with Pictures.open(folder / name) as image:
            return image.height, image.width
    except UNREADABLE:
        return None
