"""Whole numbers with given sums both ways: nothing is lost, zeros stay zeros, and what is rounded is near."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from commonroot.common.errors import ConfigError
from commonroot.simulations.worlds.deal import _fill
from commonroot.simulations.worlds.margins import near, rounded, whole_sizes


@given(
    st.lists(st.floats(1e-6, 1e6), min_size=1, max_size=40),
    st.integers(0, 20),
    st.integers(0, 500),
)
def test_sizes_sum_to_the_total_hold_the_floor_and_follow_the_weights(weights, fewest, more):
    given = np.array(weights)
    total = len(weights) * fewest + more
    sizes = whole_sizes(given, total, fewest)
    assert sizes.sum() == total
    assert sizes.min() >= fewest
    order = np.argsort(given, kind="stable")
    assert (np.diff(sizes[order]) >= -1).all()


def test_a_floor_that_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="3 · 4 > 11"):
        whole_sizes(np.ones(3), 11, 4)


def test_a_floor_takes_from_those_above_it_by_hand():
    """weights 1, 1, 8 of 20: 2, 2, 16; with a floor of 4 the small ones have 4 and the last what is left, 12"""
    assert whole_sizes(np.array([1.0, 1.0, 8.0]), 20, 4).tolist() == [4, 4, 12]


@given(st.integers(2, 30), st.integers(1, 8), st.integers(0, 2**32 - 1), st.floats(0, 0.6))
def test_columns_are_exact_and_rows_nearly_so_whatever_the_weights(departments, kinds, seed, gone):
    """no cell that weighs nothing gets anything; where no weight is 0, rows are within one of their size"""
    random = np.random.default_rng(seed)
    weights = random.gamma(0.3, size=(departments, kinds)) + 1e-9
    weights[random.random(weights.shape) < gone] = 0
    weights[np.arange(departments), random.integers(0, kinds, departments)] = 1
    weights[random.integers(0, departments, kinds), np.arange(kinds)] = 1
    counts = random.integers(1, 60, kinds) + departments
    sizes = whole_sizes(random.random(departments) + 0.1, int(counts.sum()), 1)
    found = rounded(near(weights, sizes, counts), counts, random)
    assert (found.sum(axis=0) == counts).all()
    assert (found >= 0).all()
    assert not found[weights == 0].any()
    if not gone:
        assert np.abs(found.sum(axis=1) - sizes).max() <= 2


def test_rounding_leaves_sizes_to_the_next_whole_number():
    """300 departments by 10 kinds: columns are off by some sqrt(300) until departments trade, and no row pays for it"""
    random = np.random.default_rng(0)
    weights = random.gamma(0.3, size=(300, 10)) + 1e-9
    counts = random.integers(400, 600, 10)
    sizes = whole_sizes(random.random(300) + 0.2, int(counts.sum()), 3)
    real = near(weights, sizes, counts)
    found = rounded(real, counts, random)
    assert found.sum(axis=1).tolist() == whole_sizes(real.sum(axis=1), int(counts.sum()), 0).tolist()
    assert np.abs(found.sum(axis=1) - sizes).max() <= 1
    assert (found.sum(axis=0) == counts).all()


def test_the_nearest_table_keeps_odds_by_hand():
    """scaling rows and columns leaves the odds ratio: (2 · 3) / (1 · 1) = 6 before and after"""
    found = near(np.array([[2.0, 1.0], [1.0, 3.0]]), np.array([50, 50]), np.array([30, 70]))
    assert found[0, 0] * found[1, 1] / (found[0, 1] * found[1, 0]) == pytest.approx(6.0)
    assert found.sum(axis=0) == pytest.approx([30, 70])
    assert found.sum(axis=1) == pytest.approx([50, 50], abs=0.05)


def test_who_is_below_the_floor_is_filled_up_from_the_largest_with_what_it_may_hold():
    """department 0 has 2 rows and may hold kind 0 alone, of which 1 has 9 and 2 has 4; a floor of 5 takes 3 from 1"""
    many = np.array([[2, 0], [9, 1], [4, 8]])
    may = np.array([[True, False], [True, True], [True, True]])
    _fill(many, may, 5, "world.by.0")
    assert many.tolist() == [[5, 0], [6, 1], [4, 8]] or many.tolist() == [[5, 0], [9, 1], [1, 8]]


def test_a_floor_that_nobody_can_help_with_is_refused():
    many = np.array([[2, 0], [3, 9]])
    with pytest.raises(ConfigError, match=r"world\.by\.0: a department cannot have 6 rows"):
        _fill(many, np.array([[True, False], [True, True]]), 6, "world.by.0")
