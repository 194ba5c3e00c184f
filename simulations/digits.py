"""Five departments made from scikit-learn's handwritten digits: 1,797 real images of 8 × 8 grey values, four tasks.

No two departments hold the same image.  The split is the same for the same seed; which rows test what is drawn before
anything is trained.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from commonroot.client.data import DataConfig
from commonroot.simulations.founding import write_table


@dataclass(frozen=True, slots=True)
class Share:
    """What one department holds.

    digits  which digits occur there
    task    ``classification`` (of the digit), ``binary`` (odd or even) or ``regression`` (of the digit's value)
    learn   rows for training and validation
    test    rows for the report
    """

    name: str
    digits: tuple[int, ...]
    task: Literal["classification", "binary", "regression"]
    learn: int
    test: int


ALL = tuple(range(10))
SHARES = (
    Share("sorting", ALL, "classification", 350, 120),
    Share("parcels", (0, 1, 2, 3, 4), "classification", 150, 80),
    Share("parity", ALL, "binary", 200, 100),
    Share("amounts", ALL, "regression", 200, 100),
    Share("archive", ALL, "classification", 24, 150),
)


def write_departments(folder: Path, *, seed: int = 1, shares: tuple[Share, ...] = SHARES) -> dict[str, DataConfig]:
    """Write one .npz a department; returns each one's data section."""
    from sklearn.datasets import load_digits

    images, digits = load_digits(return_X_y=True)
    free = np.random.default_rng([0x646967697473, seed]).permutation(len(digits))
    sections: dict[str, DataConfig] = {}
    for share in shares:
        rows, free = _take(free, digits, share)
        x, y = images[rows], _target(digits[rows], share)
        learn, test = folder / f"{share.name}.npz", folder / f"{share.name}-test.npz"
        write_table(learn, x[: share.learn], y[: share.learn])
        write_table(test, x[share.learn :], y[share.learn :])
        sections[share.name] = DataConfig(
            path=learn.resolve(),
            target="y",
            task=share.task,
            labels=_labels(share),
            test_path=test.resolve(),
            seed=seed,
        )
    return sections


def _take(
    free: NDArray[np.int64], digits: NDArray[np.int64], share: Share
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows of a share, learning rows first and balanced over its digits as far as numbers allow, and what is left."""
    fitting = [row for row in free if digits[row] in share.digits]
    rank: dict[int, int] = dict.fromkeys(share.digits, 0)
    order = []
    for row in fitting:
        digit = int(digits[row])
        order.append(rank[digit] * 100 + share.digits.index(digit))
        rank[digit] += 1
    by_turns = [fitting[at] for at in np.argsort(order, kind="stable")]
    taken = np.array(by_turns[: share.learn + share.test], dtype=np.int64)
    return taken, free[~np.isin(free, taken)]


def _target(digits: NDArray[np.int64], share: Share) -> NDArray[np.generic]:
    if share.task == "binary":
        return np.where(digits % 2 == 0, "even", "odd")
    if share.task == "regression":
        return digits.astype(np.float64)
    return digits.astype(str)


def _labels(share: Share) -> tuple[str | int, ...] | None:
    if share.task == "binary":
        return ("even", "odd")
    return None if share.task == "regression" else tuple(str(digit) for digit in share.digits)
