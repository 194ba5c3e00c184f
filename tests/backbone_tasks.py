"""Small tasks of three classes that each family of backbones can learn, and cannot guess."""

from __future__ import annotations

import numpy as np

from commonroot.client.data import Rows
from commonroot.client.tasks import Classification
from commonroot.common.backbone import (
    MlpSpec,
    NgramsSpec,
    RescnnSpec,
    ResmlpSpec,
    TcnSpec,
    TransformerSpec,
)

THREE = Classification(("a", "b", "c"))


def rows(n: int, seed: int) -> Rows:
    """The class is the sign of a product, unless a third column is large: no linear rule."""
    random = np.random.default_rng(seed)
    x = random.normal(size=(n, 6))
    y = np.where(x[:, 2] > 0.8, 2, (x[:, 0] * x[:, 1] > 0).astype(np.int64))
    return Rows(x.astype(np.float32), y.astype(np.int64))


def windows(n: int, seed: int) -> Rows:
    """Three frequencies at random phases, in noise, on two channels."""
    random = np.random.default_rng(seed)
    y = np.arange(n) % 3
    wave = np.sin(np.arange(16) * (0.4 + 0.5 * y[:, None]) + random.uniform(0, 6.28, size=(n, 1)))
    x = wave[:, :, None] + 0.3 * random.normal(size=(n, 16, 2))
    return Rows(x.astype(np.float32), y.astype(np.int64))


def images(n: int, seed: int) -> Rows:
    """A horizontal, vertical or slanted line somewhere in noise."""
    random = np.random.default_rng(seed)
    y = np.arange(n) % 3
    x = 0.3 * random.normal(size=(n, 1, 8, 8))
    for at, kind in enumerate(y):
        where = int(random.integers(8))
        line = np.zeros((8, 8))
        line[where] = 1
        x[at, 0] += (line, line.T, np.roll(np.eye(8), where, axis=1))[kind]
    return Rows(x.astype(np.float32), y.astype(np.int64))


def texts(n: int, seed: int) -> Rows:
    """6 to 12 tokens, three of which are of the class's own three words; padded to 12."""
    random = np.random.default_rng(seed)
    y = np.arange(n) % 3
    x = random.integers(10, 200, size=(n, 12)).astype(np.int32)
    for at, kind in enumerate(y):
        length = int(random.integers(6, 13))
        x[at, length:] = 0
        for place in random.choice(length, 3, replace=False):
            x[at, place] = 1 + 3 * kind + random.integers(3)
    return Rows(x, y.astype(np.int64))


#: By family: a small backbone and the task it learns.
CASES = {
    "mlp": (MlpSpec(inputs=6, widths=(32, 16)), rows),
    "resmlp": (ResmlpSpec(inputs=6, width=32, dropout=0.1), rows),
    "ngrams": (NgramsSpec(vocabulary=256, length=12, width=16), texts),
    "transformer": (TransformerSpec(vocabulary=256, length=12, width=32, heads=4, layers=2), texts),
    "tcn": (TcnSpec(steps=16, channels=2, width=16, layers=3), windows),
    "rescnn": (RescnnSpec(channels=1, height=8, width=8, stages=(8, 16)), images),
}
