"""The rule: validation rows weigh, training rows may only speak against, and few rows prove nothing."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from commonroot.client.guard import EFFECT, FEWEST_ROWS, Bench, mixed, mixtures, weigh
from commonroot.client.tasks import Regression

VALUE = Regression(centre=0.0, scale=1.0)


def fresh(n):
    return np.zeros(n, dtype=np.bool_)


def test_mixtures_are_every_tenth_once_and_sum_to_one():
    """k candidates share ten tenths: C(10 + k - 1, k - 1) ways; 11 for two, 66 for three; quarters for four: 35"""
    for candidates, ways in ((1, 1), (2, 11), (3, 66), (4, math.comb(7, 3))):
        found = mixtures(candidates)
        assert len(set(found)) == len(found) == ways
        assert all(sum(weights) == pytest.approx(1) and min(weights) >= 0 for weights in found)


def test_few_rows_mix_evenly_and_many_choose():
    """others exact, alone 1 off: with w on the others a row gains 1 - (1 - w)², at a cost of 10·2·(w - 1/2)².

    6 rows: w = 0.6 gains 6·0.84 = 5.04 for 0.2, w = 0.7 gains 6·0.91 = 5.46 for 0.8.  1000 rows: all of it.
    """
    for rows, expected in ((6, 0.6), (1000, 1.0)):
        alone = np.ones(rows) + np.linspace(0, 0.01, rows)  # a spread, so that there is an error
        verdict = weigh(VALUE, (alone, np.zeros(rows)), np.zeros(rows), fresh(rows))
        assert verdict.weights[1] == pytest.approx(expected)


def test_validation_rows_alone_must_show_a_whole_standard_error():
    """20 rows: on 13 alone is 1 off and others exact, on 7 the other way round.

    w on the others gains 13·(1 - (1 - w)²) - 7·w² for 20·(w - 1/2)²: 0.5 gives 8.0, 0.6 gives 8.2, 0.7 gives 7.6.
    With 0.6, d is 0.84 on 13 and -0.36 on 7: mean 0.42, deviation 1.2·√(0.65·0.35·20/19) = 0.5872, error 0.1313.
    """
    alone, others = np.repeat([1.0, 0.0], [13, 7]), np.repeat([0.0, 1.0], [13, 7])
    verdict = weigh(VALUE, (alone, others), np.zeros(20), fresh(20))
    assert verdict.weights == verdict.proposed == pytest.approx((0.4, 0.6))
    assert verdict.evidence.advantage == pytest.approx(0.42)
    assert verdict.evidence.bound == pytest.approx(0.42 - 0.1313, abs=1e-4)


@pytest.mark.parametrize("rows", range(FEWEST_ROWS))
def test_no_standard_error_no_proof(rows):
    verdict = weigh(VALUE, (np.ones(rows + 9), np.zeros(rows + 9)), np.zeros(rows + 9), np.arange(rows + 9) >= rows)
    assert verdict.weights == (1.0, 0.0) and verdict.evidence is None


def test_training_rows_that_do_not_gain_forbid_what_validation_rows_like():
    """on 10 validation rows the others are exact and alone is 1 off; on 40 training rows it is the other way round"""
    seen = np.arange(50) >= 10
    y = np.zeros(50)
    alone, others = np.where(seen, 0.0, 1.0 + 0.01 * np.arange(50)), np.where(seen, 1.0, 0.0)
    assert weigh(VALUE, (alone, others), y, seen).weights == (1.0, 0.0)
    assert weigh(VALUE, (alone[~seen], others[~seen]), y[~seen], seen[~seen]).weights[1] > 0.5


def test_training_rows_never_speak_for_what_validation_rows_do_not_like():
    """ten thousand training rows that adore the others against 10 validation rows that do not"""
    seen = np.arange(10_010) >= 10
    alone, others = np.where(seen, 1.0, 0.0), np.where(seen, 0.0, 1.0)
    verdict = weigh(VALUE, (alone, others), np.zeros(10_010), seen)
    assert verdict.weights == (1.0, 0.0)


def test_training_rows_change_no_weight_only_the_verdict():
    random = np.random.default_rng(1)
    y = random.normal(size=60)
    seen = np.arange(60) >= 20
    alone, others = y + random.normal(size=60), y + 0.5 * random.normal(size=60)
    with_training = weigh(VALUE, (alone, others), y, seen)
    without = weigh(VALUE, (alone[~seen], others[~seen]), y[~seen], seen[~seen])
    assert with_training.proposed == without.proposed


def test_flattered_rows_are_measured_in_deviations_of_one_row():
    """d = 1 ± 2: mean 1, deviation 2·√(n/(n-1)); 1 - 0.3·2 = 0.4 however many rows there are"""
    for rows in (10, 10_000):
        alone, others = np.full(rows, 2.0), np.where(np.arange(rows) % 2 == 0, 1.0, math.sqrt(5.0))
        bench = Bench(VALUE, (alone, others), np.zeros(rows), np.ones(rows, dtype=bool))
        expected = 1 - EFFECT * 2 * math.sqrt(rows / (rows - 1))
        assert bench.hear_flattered((0.0, 1.0)).bound == pytest.approx(expected)


@given(seed=st.integers(0, 10**6), rows=st.integers(4, 40), others=st.integers(1, 3))
def test_neither_the_order_of_rows_nor_of_the_others_matters(seed, rows, others):
    random = np.random.default_rng(seed)
    y = random.normal(size=rows)
    said = [y + random.normal(size=rows) for _ in range(others + 1)]
    seen = random.random(rows) < 0.5
    one = weigh(VALUE, said, y, seen)
    order, turn = random.permutation(rows), random.permutation(others) + 1
    two = weigh(VALUE, [said[at][order] for at in (0, *turn)], y[order], seen[order])
    np.testing.assert_allclose(two.weights, np.array(one.weights)[[0, *turn]])
    assert sum(one.weights) == pytest.approx(1)


@given(seed=st.integers(0, 10**6), rows=st.integers(4, 40))
def test_whatever_is_kept_gains_on_validation_rows(seed, rows):
    random = np.random.default_rng(seed)
    y = random.normal(size=rows)
    said = [y + random.normal(size=rows) for _ in range(3)]
    seen = np.arange(rows) >= rows // 2
    verdict = weigh(VALUE, said, y, seen)
    gained = VALUE.row_losses(said[0], y) - VALUE.row_losses(mixed(said, verdict.weights), y)
    assert verdict.weights == (1.0, 0.0, 0.0) or gained[~seen].mean() > 0


def test_useless_models_are_rarely_kept():
    """others = alone + noise of their own, so every mixture is truly worse: kept in few of 300 draws of 10 + 40 rows"""
    random = np.random.default_rng(7)
    kept = 0
    for _ in range(300):
        y = random.normal(size=50)
        alone = y + random.normal(size=50)
        verdict = weigh(VALUE, (alone, alone + random.normal(0, 0.7, size=50)), y, np.arange(50) >= 10)
        kept += verdict.weights[0] < 1
    assert kept <= 6
