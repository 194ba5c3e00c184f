"""Statistics of gains against numbers worked out by hand."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from commonroot.simulations.statistics_of_gain import (
    Series,
    below_by_bootstrap,
    cluster_bootstrap,
    findings,
    holm,
    interval_over_seeds,
    margin,
    mcnemar,
    p_no_worse,
    p_worse,
)


def test_a_paired_t_test_worked_by_hand():
    """gains -3, -1, -2 and margin 0: mean -2, sd 1, t = -2/(1/√3) = -3.4641; with 2 degrees of freedom
    P(T ≤ t) = ½ + t/(2√(2 + t²)) = ½ - 3.4641/(2√14) = 0.03709"""
    by_hand = 0.5 - 2 * math.sqrt(3) / (2 * math.sqrt(2 + 12))
    assert p_worse([-3, -1, -2], 0.0) == pytest.approx(by_hand)
    assert by_hand == pytest.approx(0.0371, abs=1e-4)


def test_the_margin_moves_the_test_and_the_other_side_is_the_rest():
    """gains -3, -1, -2 and margin 1: mean -2 + 1 = -1, t = -√3, P = ½ - √3/(2√5) = 0.1127"""
    assert p_worse([-3, -1, -2], 1.0) == pytest.approx(0.5 - math.sqrt(3) / (2 * math.sqrt(5)))
    assert p_no_worse([-3, -1, -2], 1.0) == pytest.approx(1 - p_worse([-3, -1, -2], 1.0))


@pytest.mark.parametrize(("gains", "expected"), [([0, 0, 0], 1.0), ([-2, -2, -2], 0.0), ([-1, -1], 1.0)])
def test_without_spread_the_sign_decides(gains, expected):
    """margin 1: 0 + 1 > 0 and -1 + 1 = 0 are not worse, -2 + 1 < 0 is"""
    assert p_worse(gains, 1.0) == expected


def test_one_seed_has_no_t_test():
    with pytest.raises(ValueError, match="two seeds"):
        p_worse([1.0], 1.0)


def test_mcnemar_worked_by_hand():
    """1 gained and 7 lost: (C(8,0) + C(8,1))/2⁸ = 9/256; never different: 1"""
    assert mcnemar(1, 7) == 9 / 256
    assert mcnemar(0, 0) == 1.0
    assert mcnemar(7, 1) == 255 / 256


def test_holm_worked_by_hand():
    """sorted .01 .02 .04: times 3, 2, 1 is .03 .04 .04; a later one is never below an earlier one"""
    assert holm([0.04, 0.01, 0.02]) == pytest.approx([0.04, 0.03, 0.04])
    assert holm([0.03, 0.02, 0.5]) == pytest.approx([0.06, 0.06, 0.5])
    assert holm([0.6, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_never_lowers_and_keeps_the_order(chances):
    adjusted = holm(chances)
    assert all(after >= before for before, after in zip(chances, adjusted, strict=True))
    order = np.argsort(chances, kind="stable")
    assert all(adjusted[a] <= adjusted[b] for a, b in itertools.pairwise(order))


def test_margins_worked_by_hand():
    """scores .80 and .90: sd .0707, its error .05, half of it 2.5 points; .80 and .81 give ¼ point, so 1 holds"""
    assert margin([0.80, 0.90], "points") == pytest.approx(2.5)
    assert margin([0.80, 0.81], "points") == 1.0
    assert margin([17.0, 30.0], "%") == 1.0
    assert margin([0.8], "points") == 1.0


def test_a_bootstrap_interval_as_a_chance():
    """gain -5 in [-8.92, -1.08]: error 2; margin 1 makes -4/2 = -2 standard errors, P = 0.02275"""
    half = 1.959963984540054 * 2
    assert below_by_bootstrap(-5.0, -5 - half, -5 + half, 1.0) == pytest.approx(0.022750, abs=1e-6)
    assert below_by_bootstrap(0.0, 0.0, 0.0, 1.0) == 1.0


def test_the_mean_gives_each_department_the_same_weight():
    """(mean of 1, 3) = 2 and (mean of 10) = 10: 6, whoever has more seeds"""
    assert cluster_bootstrap([[1, 3], [10]], seed=1).mean == 6.0


def test_two_departments_resampled_by_hand():
    """departments at 0 and 8 without noise: means 0, 4, 8 with chances ¼, ½, ¼; the 95 % interval is [0, 8]"""
    found = cluster_bootstrap([[0, 0], [8, 8]], seed=1)
    assert (found.mean, found.low, found.high) == (4.0, 0.0, 8.0)
    inner = cluster_bootstrap([[0, 0], [8, 8]], seed=1, level=0.4)
    assert (inner.low, inner.high) == (4.0, 4.0)


def test_seeds_are_resampled_inside_a_department():
    """one department with seeds 0 and 8: means 0, 4, 8 again, from its seeds alone"""
    found = cluster_bootstrap([[0, 8]], seed=1)
    assert (found.low, found.high) == (0.0, 8.0)


def test_departments_vary_more_than_rows_of_one():
    """ten departments that differ, five seeds that do not: the interval is that of ten values, not of fifty"""
    gains = [[float(at)] * 5 for at in range(10)]
    found = cluster_bootstrap(gains, seed=2)
    of_ten = 1.96 * float(np.std(range(10))) / math.sqrt(10)
    assert found.high - found.low == pytest.approx(2 * of_ten, rel=0.1)


def test_the_same_seed_gives_the_same_interval():
    gains = [[1.0, 2.5], [0.3, -1.0], [4.0]]
    assert cluster_bootstrap(gains, seed=3) == cluster_bootstrap(gains, seed=3)


@pytest.mark.parametrize("nothing", [[], [[1.0], []]])
def test_nothing_has_no_mean(nothing):
    with pytest.raises(ValueError, match="at least one seed"):
        cluster_bootstrap(nothing, seed=1)


def test_a_harmed_department_is_found_among_sound_ones():
    found = findings(
        {
            "sound": Series([0.5, 0.4, 0.6, 0.5, 0.4], [0.8, 0.81, 0.8, 0.79, 0.8]),
            "harmed": Series([-6, -7, -5, -6, -6.5], [0.8, 0.81, 0.8, 0.79, 0.8]),
            "noisy": Series([-9, 8, -2, 4, -3], [0.8, 0.81, 0.8, 0.79, 0.8]),
        }
    )
    assert {name: one.verdict for name, one in found.items()} == {
        "sound": "no worse",
        "harmed": "worse",
        "noisy": "no evidence of harm",
    }


def test_many_departments_make_the_test_stricter():
    """p = .0371 - margin aside - is worse alone, and not among ten"""
    one = Series([-4, -2, -3], [0.8, 0.8, 0.8])
    fine = Series([1, 1, 2], [0.8, 0.8, 0.8])
    assert findings({"a": one})["a"].verdict == "worse"
    assert findings({"a": one} | {f"b{at}": fine for at in range(9)})["a"].verdict == "no evidence of harm"


def test_one_seed_never_shows_safety_and_uses_rows():
    found = findings(
        {
            "rows": Series([-6.0], [0.8], changed=(1, 13)),
            "interval": Series([-6.0], [20.0], unit="%", interval=(-7.0, -5.0)),
            "fine": Series([4.0], [0.8], interval=(1.0, 7.0)),
            "silent": Series([-4.0], [0.8]),
        }
    )
    assert {name: one.verdict for name, one in found.items()} == {
        "rows": "worse",
        "interval": "worse",
        "fine": "no evidence of harm",
        "silent": "no evidence of harm",
    }
    assert all(one.safe is None for one in found.values())


def test_an_interval_over_seeds_worked_by_hand():
    """gains 1, 2, 3: mean 2, sd 1, t of 97.5 % with 2 degrees of freedom 4.3027: 2 ± 4.3027/√3 = 2 ± 2.4842"""
    assert interval_over_seeds([1, 2, 3]) == pytest.approx((-0.4842, 4.4842), abs=1e-4)
