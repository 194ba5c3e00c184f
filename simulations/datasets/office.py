"""Ten kinds of objects photographed at several sites (Office-Caltech10), as published features.

surf       800 visual words, four sites (Gong, Shi, Sha, Grauman, CVPR 2012), as square roots of shares, which suits
           histograms (Arandjelović, Zisserman, CVPR 2012)
googlenet  1,024 activations, three sites

Three images of each class learn, the others test.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from commonroot.simulations.datasets.tables import section, stratified, write_npz
from commonroot.simulations.datasets.world import Dataset, World

SITES: Final = {
    "surf": ("Caltech10", "amazon", "webcam", "dslr"),
    "googlenet": ("amazon", "webcam", "dslr"),
}
CLASSES: Final = 10
SHOTS: Final = 3
ROUNDS: Final = {"surf": 40, "googlenet": 12}


def rows(source: Path, kind: str, site: str) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """(n, 800 or 1,024) features and labels 1 … 10 of a site."""
    from scipy.io import loadmat

    path = f"surf/{site}_SURF_L10.mat" if kind == "surf" else f"googlenet1024/{site}.mat"
    cells: dict[str, Any] = loadmat(str(source / path))
    x = cells["fts"].astype(np.float64)
    if kind == "surf":
        x = np.sqrt(x / np.maximum(x.sum(axis=1, keepdims=True), 1.0))
    return x, cells["labels"].ravel().astype(np.int64)


def write(source: Path, target: Path, *, seed: int, kind: str) -> World:
    """One department a site, three images of each class for learning."""
    departments = {}
    width = 0
    for site in SITES[kind]:
        name = site.lower()
        x, y = rows(source, kind, site)
        width = x.shape[1]
        learn, test = stratified(y, per_class=SHOTS, seed=seed)
        for part, at in (("learn", learn), ("test", test)):
            write_npz(target / f"{name}-{part}.npz", x[at], y[at])
        labels = [str(label + 1) for label in range(CLASSES)]
        departments[name] = section(
            target, name, target_column="y", task="classification", labels=labels, scaling="table", seed=seed
        )
    charter = {
        "rounds": ROUNDS[kind],
        "method": {
            "name": "fedavg-ft",
            "options": {"epochs": 2, "head": "shared", "outputs": CLASSES, "fine_tune_epochs": 5},
        },
        # 30 rows of 800 columns and more: decay keeps the network nearly linear
        "training": {"learning_rate": 0.04, "weight_decay": 0.05 if kind == "surf" else 0.02},
        "backbone": {
            "family": "mlp",
            "inputs": width,
            "widths": [256],
            "activation": "tanh",
        },
    }
    return World(departments, charter, f"{len(departments)} sites tell ten kinds of objects apart ({kind} features)")


DATASET = Dataset(
    "office",
    "office-caltech10",
    "ten kinds of objects at several sites",
    {kind: partial(write, kind=kind) for kind in SITES},
)
