"""Tables that come with the program: scikit-learn's handwritten digits (Alpaydin, Kaynak, 1998), 1,797 of 8 × 8."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import numpy as np

from commonroot.client.data import DataConfig
from commonroot.simulations.worlds.table import Arrays, Table

_TEN: Final = tuple(str(digit) for digit in range(10))
_SIDE: Final = 8


@dataclass(frozen=True, slots=True)
class BuiltIn:
    """section: with a path that is replaced; read: the table"""

    section: DataConfig
    read: Callable[[], Table]


def _section(**fields: Any) -> DataConfig:
    return DataConfig(path=Path("digits.npz"), target="y", task="classification", labels=_TEN, **fields)


def _digits() -> Table:
    """64 columns of 0 … 16."""
    from sklearn.datasets import load_digits

    pixels, y = load_digits(return_X_y=True)
    return Arrays(pixels.astype(np.uint8), {"y": y.astype(np.int64)})


def _digit_images() -> Table:
    """(1,797, 8, 8)."""
    from sklearn.datasets import load_digits

    pixels, y = load_digits(return_X_y=True)
    return Arrays(pixels.reshape(-1, _SIDE, _SIDE).astype(np.uint8), {"y": y.astype(np.int64)})


BUILT_IN: Final[Mapping[str, BuiltIn]] = MappingProxyType(
    {
        "digits": BuiltIn(_section(scaling="table"), _digits),
        "digit-images": BuiltIn(_section(), _digit_images),
    }
)
