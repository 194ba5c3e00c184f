"""Gains in points, with an interval that resamples rows in pairs."""

import numpy as np
import pytest

from commonroot.client import metrics
from commonroot.client.metrics import gain
from commonroot.client.tasks import Classification, Life, Regression

TWO = Classification(("a", "b"))
VALUE = Regression(centre=0.0, scale=1.0)


def sure(labels):
    return np.eye(2)[labels]


def test_a_gain_is_told_in_points():
    """right on 8 of 10 against 5 of 10: 30 points"""
    y = np.zeros(10, dtype=np.int64)
    found = gain(TWO, sure(np.repeat([0, 1], [8, 2])), sure(np.repeat([0, 1], [5, 5])), y, seed=1)
    assert found.points == pytest.approx(30.0)
    assert found.low <= found.points <= found.high


def test_a_model_against_itself_gains_exactly_nothing():
    y = np.random.default_rng(1).normal(size=40)
    found = gain(VALUE, y * 0.5, y * 0.5, y, seed=1)
    assert (found.points, found.low, found.high) == (0.0, 0.0, 0.0)


def test_the_interval_is_that_of_a_paired_binomial():
    """400 rows, one model better on 80 of them and worse on none: 20 ± 1.96·√(0.2·0.8/400)·100 = 20 ± 3.92"""
    y = np.zeros(400, dtype=np.int64)
    found = gain(TWO, sure(y), sure((np.arange(400) % 5 == 0).astype(np.int64)), y, seed=3)
    assert found.low == pytest.approx(20 - 3.92, abs=0.8) and found.high == pytest.approx(20 + 3.92, abs=0.8)


def test_pairing_ignores_what_both_get_wrong():
    """both wrong on half of the rows, alike on all: no width at all"""
    y = np.zeros(100, dtype=np.int64)
    same = sure(np.arange(100) % 2)
    assert gain(TWO, same, same.copy(), y, seed=3).high == 0.0


def test_the_same_seed_gives_the_same_interval_however_it_is_cut_into_blocks(monkeypatch):
    random = np.random.default_rng(2)
    y = random.normal(size=60)
    one, other = y + random.normal(size=60), y + random.normal(size=60)
    whole = gain(VALUE, one, other, y, seed=5)
    assert gain(VALUE, one, other, y, seed=5) == whole
    assert gain(VALUE, one, other, y, seed=6) != whole
    monkeypatch.setattr(metrics, "_BLOCK", 6000)
    assert gain(VALUE, one, other, y, seed=5) == pytest.approx(whole) or gain(VALUE, one, other, y, seed=5) == whole


def test_one_row_has_a_gain_and_no_width():
    found = gain(TWO, sure([0]), sure([1]), np.array([0]), seed=1)
    assert (found.points, found.low, found.high) == (100.0, 100.0, 100.0)


def test_a_gain_of_an_error_is_the_share_of_it_that_is_gone():
    """errors of 3 on every row against 4: RMSE 3 instead of 4, 25 % gone, in every resampling"""
    task, y = Life(50.0, 10.0), np.full(30, 50.0)
    found = gain(task, y + 3.0, y - 4.0, y, seed=1)
    assert (found.points, found.low, found.high) == pytest.approx((25.0, 25.0, 25.0))
    worse = gain(task, y + 4.0, y + 3.0, y, seed=1)
    assert worse.points == pytest.approx(-100 / 3) and task.unit == "%"


def test_an_error_of_nothing_cannot_shrink():
    task, y = Life(50.0, 10.0), np.full(5, 50.0)
    assert gain(task, y, y, y, seed=1).points == 0.0
    assert gain(task, y + 1.0, y, y, seed=1).points == -100.0


def test_very_many_rows_are_resampled_less_often(monkeypatch):
    monkeypatch.setattr(metrics, "_MOST_DRAWS", 30 * 300)
    seen = []

    class Counting(Regression):
        __slots__ = ()

        def scores(self, predicted, y, counts):
            seen.append(len(counts))
            return Regression.scores(self, predicted, y, counts)

    y = np.random.default_rng(1).normal(size=30)
    gain(Counting(0.0, 1.0), y, y * 0.5, y, seed=1)
    assert sum(seen) == 2 * 300 + 2
