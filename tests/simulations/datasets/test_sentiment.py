"""Reviews weigh their words by how few reviews have them, and departments with few labels hold half of them out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.sparse import csr_matrix

from commonroot.simulations.datasets import find, get
from commonroot.simulations.datasets.sentiment import features, rarity

DATA = Path(__file__).resolve().parents[4] / "shared" / "data"
COUNTS = csr_matrix(np.array([[1, 0, 0], [2, 1, 0], [5, 0, 0]], dtype=np.float64))


def test_a_word_weighs_by_the_share_of_reviews_that_have_it_however_often():
    """Of 3 reviews 3, 1 and 0: log(4/4) + 1 = 1, log(4/2) + 1 and log(4/1) + 1."""
    assert rarity(COUNTS) == pytest.approx([1.0, 1.0 + np.log(2.0), 1.0 + np.log(4.0)])


def test_a_review_is_a_row_of_unit_length_in_which_rare_words_count_for_more():
    """The second has counts 2 and 1: log 3 · 1 against log 2 · (1 + log 2)."""
    x = features(COUNTS, rarity(COUNTS))
    assert np.linalg.norm(x, axis=1) == pytest.approx(1.0)
    assert x[1, 1] / x[1, 0] == pytest.approx(np.log(2.0) * (1.0 + np.log(2.0)) / np.log(3.0))


def test_a_category_with_50_labels_holds_half_of_them_out_and_others_a_fifth(tmp_path):
    source = find("amazon-mdsd", DATA)
    if source is None:
        pytest.skip("amazon-mdsd is not on this machine")
    world = get("sentiment").write(source, tmp_path, seed=1, protocol="uneven")
    held = {name: section["validation"] for name, section in world.departments.items()}
    rows = {name: len(np.load(section["path"])["y"]) for name, section in world.departments.items()}
    assert sorted(rows.values()) == [50, 50, 200, 1000]
    assert held == {name: 0.5 if count == 50 else 0.2 for name, count in rows.items()}
