"""Amazon product reviews in four categories (Blitzer, Dredze, Pereira, ACL 2007): was the reviewer pleased?

even        each category labels 200 reviews
uneven      1,000, 200, 50 and 50
unlabelled  three categories label all of their 2,000, the fourth, another for every seed, none of its 2,000

Rows are 5,000 counts of words and pairs of words as published with DANN (Ganin et al., 2016, arXiv:1505.07818), here as
log(1 + count) of unit length.  The published test files test.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from commonroot.simulations.datasets.tables import section, stratified, write_npz
from commonroot.simulations.datasets.world import Dataset, World

CATEGORIES: Final = ("books", "dvd", "electronics", "kitchen")
WORDS: Final = 5000
LABELLED: Final = {"even": (200, 200, 200, 200), "uneven": (1000, 200, 50, 50)}
#: Test reviews used per category; the estimate of an accuracy has a standard error below 0.8 points.
TESTED: Final = 2000


def labels(path: Path) -> tuple[Any, NDArray[np.str_]]:
    """Counts (n, 5,000), sparse, and labels of one published file."""
    from sklearn.datasets import load_svmlight_file

    counts, y = load_svmlight_file(str(path), n_features=WORDS, zero_based=True)
    return counts, np.where(y > 0, "pleased", "displeased")


def features(counts: Any) -> NDArray[np.float32]:
    """Sparse counts as dense rows of log(1 + count), of unit length."""
    x = np.log1p(counts.toarray())
    x /= np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
    return np.asarray(x, dtype=np.float32)


def write(source: Path, target: Path, *, seed: int, labelled: tuple[int, ...]) -> World:
    """Four categories with so many labelled reviews each; which of them lead is drawn for each seed."""
    departments = {}
    turn = seed % len(CATEGORIES)
    for at, name in enumerate(CATEGORIES):
        many = labelled[(at - turn) % len(CATEGORIES)]
        counts, y = labels(source / f"{name}_train.svmlight")
        learn, _ = stratified(y, per_class=many // 2, seed=seed)
        write_npz(target / f"{name}-learn.npz", features(counts[learn]), y[learn])
        counts, y = labels(source / f"{name}_test.svmlight")
        _, held = stratified(y, share=TESTED / len(y), seed=seed)
        write_npz(target / f"{name}-test.npz", features(counts[held]), y[held])
        departments[name] = section(
            target, name, target_column="y", task="binary", labels=["displeased", "pleased"], scaling="table", seed=seed
        )
    charter = {
        # what pleases is said alike everywhere, so one head serves all; thousands of words invite learning by heart
        "rounds": 6,
        "method": {
            "name": "fedavg-ft",
            "options": {"epochs": 1, "head": "shared", "outputs": 1, "fine_tune_epochs": 2},
        },
        "training": {"learning_rate": 0.02, "weight_decay": 0.05},
        "backbone": {"family": "mlp", "inputs": WORDS, "widths": [32], "activation": "tanh"},
    }
    return World(departments, charter, "four product categories tell pleased reviews from displeased ones")


def write_unlabelled(source: Path, target: Path, *, seed: int) -> World:
    """Three categories with all their labels; the fourth has reviews to read, and labels only to be tested on."""
    departments = {}
    for name in CATEGORIES:
        labelled = name != unlabelled(seed)
        counts, y = labels(source / f"{name}_train.svmlight")
        if labelled:
            write_npz(target / f"{name}-learn.npz", features(counts), y)
        else:
            np.savez(target / f"{name}-learn.npz", X=features(counts))
        counts, y = labels(source / f"{name}_test.svmlight")
        _, held = stratified(y, share=TESTED / len(y), seed=seed)
        write_npz(target / f"{name}-test.npz", features(counts[held]), y[held])
        own: dict[str, Any] = {} if labelled else {"labelled": False}
        departments[name] = section(
            target,
            name,
            target_column="y",
            task="binary",
            labels=["displeased", "pleased"],
            scaling="table",
            seed=seed,
            **own,
        )
    charter = {
        # found where each category in turn played the one without labels among the others that have some
        "rounds": 16,
        "method": {"name": "dann", "options": {"epochs": 1, "outputs": 1, "trust": 1.0, "confusion": 0.03}},
        "training": {"learning_rate": 0.01, "weight_decay": 0.03, "batch": 32},
        "backbone": {"family": "mlp", "inputs": WORDS, "widths": [32], "activation": "tanh"},
    }
    return World(departments, charter, "three product categories with labels, and one that has none to learn from")


def unlabelled(seed: int) -> str:
    """The category without labels."""
    return CATEGORIES[seed % len(CATEGORIES)]


DATASET = Dataset(
    "sentiment",
    "amazon-mdsd",
    "sentiment of reviews in four product categories",
    {
        **{name: partial(write, labelled=labelled) for name, labelled in LABELLED.items()},
        "unlabelled": write_unlabelled,
    },
)
