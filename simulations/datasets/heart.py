"""Heart disease in four hospitals (UCI, 1988): does a patient have it?  Binary, 13 measured or one-hot columns.

Rows are filtered as FLamby does (du Terrail et al., 2022, arXiv:2210.04620): three columns that some hospitals never
filled are dropped, then rows with a missing value; 303, 261, 46 and 130 rows remain.  A stratified third tests.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from commonroot.simulations.datasets.tables import section, stratified, write_npz
from commonroot.simulations.datasets.world import Dataset, World

HOSPITALS: Final = ("cleveland", "hungarian", "switzerland", "va")
#: Hardly filled outside Cleveland: slope, vessels, thal.
_DROPPED: Final = (10, 11, 12)
#: Categories as columns: chest pain (1–4) and resting electrocardiogram (0–2), each less its first.
_CATEGORIES: Final = {2: (2.0, 3.0, 4.0), 6: (1.0, 2.0)}
_TEST: Final = 0.34
NAMES: Final = (
    "age", "sex", "pressure", "cholesterol", "sugar", "rate", "angina", "depression",
    "pain_2", "pain_3", "pain_4", "ecg_1", "ecg_2",
)  # fmt: skip
#: What measurements may be; all other columns are 0 or 1.
_RANGES: Final = {
    "age": (0, 120),
    "pressure": (0, 250),
    "cholesterol": (0, 700),
    "rate": (0, 250),
    "depression": (-4, 12),
}
#: As a charter lists them, for methods that gather from columns.
COLUMNS: Final = tuple(
    {"name": name, "kind": "number", "low": low, "high": high, "bins": 24 if name in _RANGES else 2}
    for name in NAMES
    for low, high in [_RANGES.get(name, (0, 1))]
)


def rows(source: Path, hospital: str) -> tuple[NDArray[np.float64], NDArray[np.str_]]:
    """(n, 13) columns in the order of ``NAMES`` and labels ``healthy`` or ``ill``."""
    raw = np.genfromtxt(source / f"processed.{hospital}.data", delimiter=",", missing_values="?")
    kept = np.delete(raw, _DROPPED, axis=1)
    kept = kept[~np.isnan(kept).any(axis=1)]
    plain = [at for at in range(10) if at not in _CATEGORIES]
    dummies = [(kept[:, at] == value).astype(np.float64) for at, values in _CATEGORIES.items() for value in values]
    x = np.column_stack([kept[:, plain], *dummies])
    return x, np.where(kept[:, -1] > 0, "ill", "healthy")


def write(source: Path, target: Path, *, seed: int) -> World:
    """Four hospitals, 66 % for learning."""
    departments = {}
    for hospital in HOSPITALS:
        x, y = rows(source, hospital)
        learn, test = stratified(y, share=_TEST, seed=seed)
        for part, at in (("learn", learn), ("test", test)):
            write_npz(target / f"{hospital}-{part}.npz", x[at], y[at], names=NAMES)
        departments[hospital] = section(
            target, hospital, target_column="y", task="binary", labels=["healthy", "ill"], seed=seed
        )
    charter = {
        # 30 to 200 rows in 13 columns: what comes of more passes or less decay is learned by heart
        "rounds": 10,
        "method": {
            "name": "fedper",
            "options": {"backbone_epochs": 1, "fine_tune_epochs": 3, "fine_tune_head_epochs": 5},
        },
        "training": {"learning_rate": 0.01, "weight_decay": 0.05},
        "backbone": {"family": "mlp", "inputs": len(NAMES), "widths": [16], "activation": "tanh"},
        "columns": COLUMNS,
    }
    return World(departments, charter, "four hospitals predict heart disease from 13 columns")


def boosted(source: Path, target: Path, *, seed: int) -> World:
    """The same with trees on everybody's rows: 40 of a single split each, as validation rows of other seeds chose."""
    world = write(source, target, seed=seed)
    method = {"name": "boosting", "options": {"labels": "healthy|ill", "depth": 1}}
    charter = {**world.charter, "rounds": 41, "method": method, "cohort": {"floor": len(HOSPITALS)}}
    return World(world.departments, charter, world.about)


DATASET = Dataset("heart", "uci-heart", "heart disease in four hospitals", {"flamby": write, "boosting": boosted})
