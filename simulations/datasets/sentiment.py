"""Amazon product reviews in four categories (Blitzer, Dredze, Pereira, ACL 2007): was the reviewer pleased?

even        each category labels 200 reviews
uneven      1,000, 200, 50 and 50
unlabelled  three categories label all of their 2,000, the fourth, another for every seed, none of its 2,000

Rows are 5,000 counts of words and pairs of words as published with DANN (Ganin et al., 2016, arXiv:1505.07818), here as
log(1 + count) · rarity, of one length.  Each category takes the rarity of its words from all 2,000 reviews of its own
training file: what is scarce is labels, not reviews.  In ``unlabelled`` all words count alike.  Published test files
test.
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
#: Length of a row, as that of a column of kind ``text``.
LENGTH: Final = 8.0
#: One round counts, the others learn.
ROUNDS: Final = 16
#: All words count alike: the charter of ``unlabelled`` was found on such rows.
_EVEN: Final = np.ones(WORDS)
#: Test reviews used per category; the estimate of an accuracy has a standard error below 0.8 points.
TESTED: Final = 2000


def labels(path: Path) -> tuple[Any, NDArray[np.str_]]:
    """Counts (n, 5,000), sparse, and labels of one published file."""
    from sklearn.datasets import load_svmlight_file

    counts, y = load_svmlight_file(str(path), n_features=WORDS, zero_based=True)
    return counts, np.where(y > 0, "pleased", "displeased")


def rarity(counts: Any) -> NDArray[np.float64]:
    """(5,000,) log of the inverse share of these reviews that have a word, plus 1."""
    return np.asarray(np.log((1.0 + counts.shape[0]) / (1.0 + np.diff(counts.tocsc().indptr))) + 1.0)


def features(counts: Any, rare: NDArray[np.float64], *, length: float = 1.0) -> NDArray[np.float32]:
    """Sparse counts as dense rows of log(1 + count) · rarity, of one length."""
    x = np.log1p(counts.toarray()) * rare
    x *= length / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
    return np.asarray(x, dtype=np.float32)


def write(source: Path, target: Path, *, seed: int, protocol: str) -> World:
    """Four categories with so many labelled reviews each; which of them lead is drawn for each seed."""
    departments = {}
    labelled = LABELLED[protocol]
    turn = seed % len(CATEGORIES)
    for at, name in enumerate(CATEGORIES):
        many = labelled[(at - turn) % len(CATEGORIES)]
        counts, y = labels(source / f"{name}_train.svmlight")
        rare = rarity(counts)
        learn, _ = stratified(y, per_class=many // 2, seed=seed)
        write_npz(target / f"{name}-learn.npz", features(counts[learn], rare, length=LENGTH), y[learn])
        counts, y = labels(source / f"{name}_test.svmlight")
        _, held = stratified(y, share=TESTED / len(y), seed=seed)
        write_npz(target / f"{name}-test.npz", features(counts[held], rare, length=LENGTH), y[held])
        departments[name] = section(
            target,
            name,
            target_column="y",
            task="binary",
            labels=["displeased", "pleased"],
            # a word that is not there is 0, and words weigh what their rarity says
            scaling="none",
            seed=seed,
        )
    charter = {
        "rounds": ROUNDS,
        "method": {"name": "shared-words", "options": {"labels": "displeased|pleased", "most_rows": 2000}},
        "cohort": {"floor": len(CATEGORIES)},
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
            write_npz(target / f"{name}-learn.npz", features(counts, _EVEN), y)
        else:
            np.savez(target / f"{name}-learn.npz", X=features(counts, _EVEN))
        counts, y = labels(source / f"{name}_test.svmlight")
        _, held = stratified(y, share=TESTED / len(y), seed=seed)
        write_npz(target / f"{name}-test.npz", features(counts[held], _EVEN), y[held])
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
    {**{name: partial(write, protocol=name) for name in LABELLED}, "unlabelled": write_unlabelled},
)
