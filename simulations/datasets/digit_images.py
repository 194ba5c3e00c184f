"""Handwritten digits as images (scikit-learn; Alpaydin, Kaynak, 1998): four departments of one house tell them apart.

1,797 grey images of 8 × 8 are part of scikit-learn, so nothing is downloaded.  Departments differ in how many they have
and in which digits occur there; no two hold the same image.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from commonroot.simulations.datasets.tables import section, stratified, write_npz
from commonroot.simulations.datasets.world import Dataset, World

SIDE: Final = 8
ALL: Final = tuple(range(10))
#: Department → which digits occur there, its share of each one's images, and how many of each learn.
SHARES: Final[dict[str, tuple[tuple[int, ...], float, int]]] = {
    "sorting": (ALL, 0.40, 30),
    "parcels": ((0, 1, 2, 3, 4), 0.30, 20),
    "returns": ((5, 6, 7, 8, 9), 0.30, 10),
    "archive": (ALL, 0.30, 5),
}


def shares(y: NDArray[np.int64], *, seed: int) -> dict[str, NDArray[np.int64]]:
    """Positions of each department's images, ascending; no position occurs twice."""
    random = np.random.default_rng([0x696D616765, seed])
    found: dict[str, list[NDArray[np.int64]]] = {name: [] for name in SHARES}
    for digit in ALL:
        at = random.permutation(np.flatnonzero(y == digit))
        begin = 0
        for name, (digits, share, _) in SHARES.items():
            if digit in digits:
                end = begin + int(share * len(at))
                found[name].append(at[begin:end])
                begin = end
    return {name: np.sort(np.concatenate(parts)) for name, parts in found.items()}


def write(source: Path, target: Path, *, seed: int) -> World:
    """Four departments of 300, 100, 50 and 50 images to learn from; ``source`` is not read."""
    from sklearn.datasets import load_digits

    pixels, y = load_digits(return_X_y=True)
    images = pixels.reshape(-1, SIDE, SIDE).astype(np.uint8)
    departments = {}
    for name, rows in shares(y, seed=seed).items():
        digits, _, each = SHARES[name]
        learn, test = stratified(y[rows], per_class=each, seed=seed)
        for part, at in (("learn", learn), ("test", test)):
            write_npz(target / f"{name}-{part}.npz", images[rows[at]], y[rows[at]])
        labels = [str(digit) for digit in digits]
        departments[name] = section(target, name, target_column="y", task="classification", labels=labels, seed=seed)
    charter = {
        "rounds": 15,
        "method": {"name": "fedper"},
        "backbone": {"family": "rescnn", "channels": 1, "height": SIDE, "width": SIDE, "stages": [16, 32]},
    }
    return World(departments, charter, "four departments tell handwritten digits apart by their images")


DATASET = Dataset("digit-images", "", "handwritten digits as images in four departments", {"labels": write})
