"""Examination scores of 15,362 students in 139 London schools (Goldstein, 1991): regression on 27 columns.

The classic set of many small departments: 25 columns are 0 or 1, two are shares in per cent.  A quarter of
each school's students test.  The usual protocol has one linear model for all schools and one of each school's own on
top; another trains a network.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np

from commonroot.simulations.datasets.tables import section, shuffled, write_npz
from commonroot.simulations.datasets.world import Dataset, World

SCHOOLS: Final = 139
COLUMNS: Final = 27
_TEST: Final = 0.25
#: Of those that train a network.
BACKBONE: Final = {"family": "mlp", "inputs": COLUMNS, "widths": [32], "activation": "tanh"}
#: Two shares in per cent; all other columns are 0 or 1.
_SHARES: Final = (3, 4)
#: As a charter lists the columns, for methods that gather from them.
LISTED: Final = tuple(
    {
        "name": f"x{at}",
        "kind": "number",
        "low": 0,
        "high": 100 if at in _SHARES else 1,
        "bins": 20 if at in _SHARES else 2,
    }
    for at in range(COLUMNS)
)


def write(source: Path, target: Path, *, seed: int) -> World:
    """139 schools, 75 % of each for learning."""
    from scipy.io import loadmat

    cells = loadmat(str(source / "school.mat"))
    departments = {}
    for at in range(SCHOOLS):
        # the last column is a constant 1
        x = cells["X"][0, at][:, :COLUMNS].astype(np.float64)
        y = cells["Y"][0, at].ravel().astype(np.float64)
        name = f"school-{at + 1:03d}"
        learn, test = shuffled(len(y), share=_TEST, seed=seed * 1000 + at)
        for part, rows in (("learn", learn), ("test", test)):
            write_npz(target / f"{name}-{part}.npz", x[rows], y[rows])
        departments[name] = section(target, name, target_column="y", task="regression", seed=seed)
    charter = {
        "rounds": 2,
        "method": {
            "name": "shared-linear",
            "options": {"loss": "squared", "low": 0.0, "high": 100.0, "strengths": "10 30 100 300 1000"},
        },
        "cohort": {"floor": SCHOOLS},
        "backbone": BACKBONE,
        "columns": LISTED,
    }
    return World(departments, charter, "139 schools predict examination scores")


def network(source: Path, target: Path, *, seed: int) -> World:
    """The same with a small network whose head is everybody's."""
    world = write(source, target, seed=seed)
    charter = {
        # scores are standardised by school, which is what schools differ in; the rest is said by one head for all
        "rounds": 8,
        "method": {
            "name": "fedavg-ft",
            "options": {"epochs": 2, "head": "shared", "outputs": 1, "fine_tune_epochs": 2, "fine_tune_rate": 0.2},
        },
        "training": {"weight_decay": 0.01},
        "backbone": BACKBONE,
        "columns": LISTED,
    }
    return World(world.departments, charter, world.about)


DATASET = Dataset("school", "school", "examination scores in 139 schools", {"quarter": write, "network": network})
