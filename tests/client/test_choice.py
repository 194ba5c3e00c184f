"""The guard: a federated model is kept on evidence, and never on a hunch."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from commonroot.client.choice import choose, temperature
from commonroot.client.tasks import Classification, Regression

VALUE = Regression(centre=0.0, scale=1.0)
THREE = Classification(("a", "b", "c"))


def between(alone, federated, y, **options):
    return choose(VALUE, alone, {"federated": federated}, y, **options)


def test_the_evidence_worked_by_hand():
    """20 rows, target 0: alone always 1 off, federated exact on 10 and 1 off on 10.

    advantage (10·1 + 10·0)/20 = 0.5; deviation √(20·0.25/19) = 0.513, error 0.513/√20 = 0.1147; bound 0.3853.
    Both: half-way on the first ten, loss 0.25: advantage 0.375, deviation 0.3847, error 0.0860, bound 0.2890.
    """
    choice = between(np.ones(20), np.repeat([0.0, 1.0], 10), np.zeros(20))
    assert choice.rows == 20 and choice.kept == "stack" and choice.weights["federated"] > 0.5
    assert choice.evidence["federated"].advantage == pytest.approx(0.5)
    assert choice.evidence["federated"].bound == pytest.approx(0.5 - math.sqrt(5 / 19) / math.sqrt(20))
    assert choice.evidence["both"].bound == pytest.approx(0.2890, abs=1e-4)
    assert "lowers the loss by" in choice.reason and "% the federated model" in choice.reason


def test_errors_that_cancel_are_averaged():
    """alone 1 too high, federated 1 too low: their mean is exact"""
    choice = between(np.ones(30), -np.ones(30), np.zeros(30))
    assert choice.kept == "both" and choice.weights == {"alone": 0.5, "federated": 0.5}


def test_with_enough_rows_the_better_model_is_kept_alone():
    choice = between(np.full(500, 1.0), np.zeros(500), np.zeros(500))
    assert choice.kept == "federated" and choice.weights == {"federated": 1.0}
    family = choose(VALUE, np.ones(500), {"federated": np.ones(500), "family": np.zeros(500)}, np.zeros(500))
    assert family.kept == "family" and "family's head" in family.reason


def test_a_worse_federated_model_is_not_kept():
    choice = between(np.zeros(50), np.ones(50), np.zeros(50))
    assert choice.kept == "alone" and choice.weights == {"alone": 1.0} and "alone" in choice.reason


def test_a_gain_within_the_noise_is_not_kept():
    """one row of 40 better by 1, one worse by 0.9: mean 0.0025, error 0.034; and no mixture cancels anything"""
    alone, federated = np.zeros(40), np.zeros(40)
    alone[0], federated[1] = 1.0, math.sqrt(0.9)
    choice = between(alone, federated, np.zeros(40))
    assert choice.evidence["federated"].bound < 0 and choice.kept in ("alone", "both", "stack")
    assert choice.kept == "alone" or choice.evidence["stack"].bound > 0


def test_equal_models_stay_alone():
    assert between(np.ones(40), np.ones(40), np.zeros(40)).kept == "alone"


@pytest.mark.parametrize("rows", [0, 1])
def test_too_few_rows_stay_alone_whatever_they_say(rows):
    choice = between(np.ones(rows), np.zeros(rows), np.zeros(rows))
    assert choice.kept == "alone" and choice.evidence == {} and "cannot tell" in choice.reason


def test_training_rows_that_disagree_are_named_in_the_reason():
    """validation rows like the federated model, training rows, which flatter it, do not"""
    seen = np.arange(60) >= 20
    alone, federated = np.where(seen, 0.0, 1.0 + np.arange(60) / 100), np.where(seen, 1.0, 0.0)
    choice = between(alone, federated, np.zeros(60), seen=seen)
    assert choice.kept == "alone" and choice.rows == 20 and "training rows, which flatter it" in choice.reason
    assert choice.evidence["training"].bound < 0 < choice.evidence["stack"].bound


def test_without_a_federated_model_there_is_nothing_to_choose():
    choice = choose(VALUE, np.zeros(40), {}, np.zeros(40))
    assert choice.kept == "alone" and "no federated model" in choice.reason


@given(seed=st.integers(0, 10**6), rows=st.integers(2, 60))
def test_what_is_kept_has_a_name_and_weights_that_sum_to_one(seed, rows):
    random = np.random.default_rng(seed)
    y = random.normal(size=rows)
    choice = between(y + random.normal(size=rows), y + random.normal(size=rows), y)
    assert sum(choice.weights.values()) == pytest.approx(1) and min(choice.weights.values()) > 0
    assert (choice.kept == "alone") == (choice.evidence["stack"].bound <= 0 or choice.weights == {"alone": 1.0})
    assert choice.reason


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
