"""Reviews weigh their words by how few reviews have them, and reach a department as they are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.sparse import csr_matrix

from commonroot.simulations.datasets import find, get
from commonroot.simulations.datasets.sentiment import LENGTH, features, rarity

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


def test_rows_have_the_length_of_texts_and_a_word_that_is_not_there_is_0(tmp_path):
    source = find("amazon-mdsd", DATA)
    if source is None:
        pytest.skip("amazon-mdsd is not on this machine")
    world = get("sentiment").write(source, tmp_path, seed=1, protocol="uneven")
    tables = [np.load(section["path"]) for section in world.departments.values()]
    assert sorted(len(table["y"]) for table in tables) == [50, 50, 200, 1000]
    for table in tables:
        assert np.linalg.norm(table["X"], axis=1) == pytest.approx(LENGTH, rel=1e-5)
        assert (table["X"] == 0).mean() > 0.9
    assert {section["scaling"] for section in world.departments.values()} == {"none"}
