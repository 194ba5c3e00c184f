"""The guard: a federated model is kept on evidence, and never on a hunch."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from commonroot.client.choice import FEWEST_TO_DECIDE, choose, temperature
from commonroot.client.tasks import Classification, Regression

VALUE = Regression(centre=0.0, scale=1.0)
THREE = Classification(("a", "b", "c"))


def test_the_bound_worked_by_hand():
    """20 rows, target 0: alone always 1 off, federated exact on 10 and 1 off on 10.

    advantage (10·1 + 10·0)/20 = 0.5; deviation √(20·0.25/19) = 0.513, error 0.513/√20 = 0.1147; bound 0.3853.
    Both: half-way on the first ten, loss 0.25: advantage 0.375, deviation 0.3847, error 0.0860, bound 0.2890.
    """
    alone, federated = np.ones(20), np.repeat([0.0, 1.0], 10)
    choice = choose(VALUE, alone, federated, np.zeros(20))
    assert choice.kept == "federated" and choice.rows == 20
    assert choice.evidence["federated"].advantage == pytest.approx(0.5)
    assert choice.evidence["federated"].bound == pytest.approx(0.5 - math.sqrt(5 / 19) / math.sqrt(20))
    assert choice.evidence["both"].bound == pytest.approx(0.2890, abs=1e-4)
    assert "lowers the loss by 0.500" in choice.reason


def test_errors_that_cancel_are_averaged():
    """alone 1 too high, federated 1 too low: their mean is exact"""
    assert choose(VALUE, np.ones(30), -np.ones(30), np.zeros(30)).kept == "both"


def test_a_worse_federated_model_is_not_kept():
    choice = choose(VALUE, np.zeros(50), np.ones(50), np.zeros(50))
    assert choice.kept == "alone" and "no proof of a gain" in choice.reason


def test_a_gain_within_the_noise_is_not_kept():
    """one row of 40 better by 1, one worse by 0.9: mean 0.0025, error 0.034"""
    alone, federated = np.zeros(40), np.zeros(40)
    alone[0], federated[1] = 1.0, math.sqrt(0.9)
    assert choose(VALUE, alone, federated, np.zeros(40)).kept == "alone"


def test_equal_models_stay_alone():
    assert choose(VALUE, np.ones(40), np.ones(40), np.zeros(40)).kept == "alone"


@pytest.mark.parametrize("rows", [0, 1, FEWEST_TO_DECIDE - 1])
def test_too_few_rows_average_whatever_they_say(rows):
    choice = choose(VALUE, np.zeros(rows), np.full(rows, 9.0), np.zeros(rows))
    assert choice.kept == "both" and choice.evidence == {} and "too few" in choice.reason


def test_without_a_federated_model_there_is_nothing_to_choose():
    assert choose(VALUE, np.zeros(40), None, np.zeros(40)).kept == "alone"


@given(seed=st.integers(0, 10**6), rows=st.integers(20, 60))
def test_what_is_kept_has_the_largest_positive_bound(seed, rows):
    random = np.random.default_rng(seed)
    y = random.normal(size=rows)
    choice = choose(VALUE, y + random.normal(size=rows), y + random.normal(size=rows), y)
    bounds = {name: evidence.bound for name, evidence in choice.evidence.items()}
    best = max(bounds, key=bounds.get)
    assert choice.kept == (best if bounds[best] > 0 else "alone")


def test_useless_models_are_rarely_kept():
    """federated = alone + noise of its own: truly worse; with z = 1 kept in far fewer than 16 % of 200 draws"""
    random = np.random.default_rng(7)
    kept = 0
    for _ in range(200):
        y = random.normal(size=40)
        alone = y + random.normal(size=40)
        kept += choose(VALUE, alone, alone + random.normal(0, 0.7, size=40), y).kept == "federated"
    assert kept <= 8


def test_overconfident_logits_are_cooled_and_timid_ones_heated():
    """logits right about 2 in 3: at 20 they should say so"""
    y = np.arange(90) % 3
    said = np.where(np.arange(90) % 9 < 6, y, (y + 1) % 3)
    sure = np.eye(3)[said] * 20
    assert temperature(THREE, sure, y) > 5
    assert temperature(THREE, np.eye(3)[y] * 0.5, y) < 0.2


def test_few_rows_hardly_move_the_temperature():
    """the prior holds it: six right answers would otherwise ask for the lowest there is"""
    y = np.arange(6) % 3
    assert 0.3 < temperature(THREE, np.eye(3)[y] * 4, y) <= 1.0
    assert temperature(THREE, np.zeros((0, 3)), np.zeros(0, dtype=np.int64)) == 1.0


def test_values_have_no_temperature():
    assert temperature(VALUE, np.zeros((5, 1)), np.ones(5)) == 1.0
