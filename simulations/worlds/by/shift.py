"""``shift``: the same things look different from department to department; labels stay.

Feature skew as Kairouz et al., 2021, arXiv:1912.04977, section 3.1 call it; noise as in Li, Diao, Chen, He, 2022,
arXiv:2102.02079.  Every department draws its own change once, and all of its rows go through it:

    columns   x ← R (spread · offset + centre + scale · (x - centre)) + spread · noise · N(0, 1)
    images    x ← turned (blurred (range · offset + centre + scale · (x - centre))) + range · noise · N(0, 1), clipped

scale is log-normal, offset and the angle of R are normal; blur and the noise's level are half-normal.  Centre and
spread are those of a column in the whole table; of images, the middle and the extent of the range of their pixels.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from commonroot.common.errors import ConfigError
from commonroot.simulations.worlds.by.base import Codes, Config, Random

_Amount = Annotated[float, Field(ge=0, le=10)]
_FIELDS: Final = ("scale", "offset", "rotation", "noise", "blur")
#: Images that are turned at once.
_BATCH: Final = 4096


class Shift(Config):
    """How much departments differ; each is the deviation over departments, and 0 leaves that out.

    scale     of the logarithm of the factor; of images, contrast
    offset    in spreads of the column; of images, brightness, in ranges
    rotation  degrees: columns in random pairs are turned into each other, images in their plane
    noise     in spreads, or ranges
    blur      of images alone: pixels
    """

    kind: Literal["shift"]
    scale: _Amount = 0.0
    offset: _Amount = 0.0
    rotation: Annotated[float, Field(ge=0, le=360)] = 0.0
    noise: _Amount = 0.0
    blur: _Amount = 0.0

    @model_validator(mode="after")
    def _something(self) -> Self:
        if not any(getattr(self, name) for name in _FIELDS):
            raise ValueError(f"nothing is shifted: give one of {', '.join(_FIELDS)}")
        return self

    def columns(
        self, values: NDArray[np.float64], owner: Codes, departments: int, random: Random
    ) -> NDArray[np.float64]:
        """A gap stays a gap; where columns are turned into each other, a gap counts as the column's mean."""
        if self.blur:
            raise ConfigError("blur is of images alone", hint="leave blur out")
        width = values.shape[1]
        known = np.isfinite(values)
        count = np.maximum(known.sum(axis=0), 1)
        centre = np.where(known, values, 0.0).sum(axis=0) / count
        spread = np.sqrt(np.where(known, (values - centre) ** 2, 0.0).sum(axis=0) / count)
        spread[spread == 0] = 1.0
        scale = np.exp(self.scale * random.standard_normal((departments, width)))
        offset = self.offset * random.standard_normal((departments, width))
        pairs = random.permutation(width)[: width // 2 * 2].reshape(-1, 2)
        angle = np.deg2rad(self.rotation * random.standard_normal((departments, len(pairs))))
        level = self.noise * np.abs(random.standard_normal(departments))
        # in spreads around the centre, where a gap is 0
        x = np.where(known, (values - centre) / spread, 0.0) * scale[owner] + offset[owner]
        if self.rotation:
            one, other = x[:, pairs[:, 0]], x[:, pairs[:, 1]]
            cos, sin = np.cos(angle)[owner], np.sin(angle)[owner]
            x[:, pairs[:, 0]], x[:, pairs[:, 1]] = cos * one - sin * other, sin * one + cos * other
        x += level[owner][:, None] * random.standard_normal(x.shape)
        out: NDArray[np.float64] = np.where(known, x * spread + centre, np.nan)
        return out

    def images(self, values: NDArray[Any], owner: Codes, departments: int, random: Random) -> NDArray[np.float32]:
        """Height and width are the second and third axis."""
        low, high = float(values.min()), float(values.max())
        extent, middle = (high - low) or 1.0, (high + low) / 2
        draws = random.standard_normal((5, departments))
        scale, offset = np.exp(self.scale * draws[0]), self.offset * extent * draws[1]
        blur, angle = self.blur * np.abs(draws[2]), np.deg2rad(self.rotation * draws[3])
        level = self.noise * extent * np.abs(draws[4])
        out = np.empty(values.shape, dtype=np.float32)
        begins = np.searchsorted(owner, np.arange(departments + 1))
        for begin in range(0, len(values), _BATCH):
            some = slice(begin, begin + _BATCH)
            who = owner[some]
            wide = (-1, *[1] * (values.ndim - 1))
            x = (values[some] - middle) * scale[who].reshape(wide) + middle + offset[who].reshape(wide)
            out[some] = x
        if self.blur:
            _blur(out, begins, blur)
        for begin in range(0, len(values), _BATCH):
            some = slice(begin, begin + _BATCH)
            x = _turned(out[some], angle[owner[some]]) if self.rotation else out[some]
            noise = random.standard_normal(x.shape, dtype=np.float32) if self.noise else np.float32(0)
            x = x + level[owner[some]].reshape(-1, *[1] * (values.ndim - 1)).astype(np.float32) * noise
            out[some] = np.clip(x, low, high)
        return out


def _blur(images: NDArray[np.float32], begins: Codes, width: NDArray[np.float64]) -> None:
    """Each department's images through a Gaussian of its own width, in place."""
    from scipy.ndimage import gaussian_filter1d

    for at in np.flatnonzero((np.diff(begins) > 0) & (width > 1e-3)):
        own = images[begins[at] : begins[at + 1]]
        own[:] = gaussian_filter1d(gaussian_filter1d(own, width[at], axis=1, mode="nearest"), width[at], axis=2)


def _turned(images: NDArray[np.float32], angle: NDArray[np.float64]) -> NDArray[np.float32]:
    """(n, height, width, …) each turned about its middle by its angle, bilinear; beyond the edge is the edge."""
    n, height, width = images.shape[:3]
    y, x = np.mgrid[:height, :width].astype(np.float64)
    y, x = y - (height - 1) / 2, x - (width - 1) / 2
    cos, sin = np.cos(angle)[:, None, None], np.sin(angle)[:, None, None]
    from_y = np.clip(cos * y - sin * x + (height - 1) / 2, 0, height - 1)
    from_x = np.clip(sin * y + cos * x + (width - 1) / 2, 0, width - 1)
    top, left = from_y.astype(np.int64), from_x.astype(np.int64)
    bottom, beside = np.minimum(top + 1, height - 1), np.minimum(left + 1, width - 1)
    deep = (-1, height, width, *[1] * (images.ndim - 3))
    down, right = (from_y - top).reshape(deep), (from_x - left).reshape(deep)
    who = np.arange(n)[:, None, None]
    above = images[who, top, left] * (1 - right) + images[who, top, beside] * right
    below = images[who, bottom, left] * (1 - right) + images[who, bottom, beside] * right
    out: NDArray[np.float32] = (above * (1 - down) + below * down).astype(np.float32)
    return out
