"""The closing sum of a run: equal to the same means in one place, bounded, and deniable where choices are counted."""

import math

import gathering_cases as cases
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from commonroot.common.errors import ConfigError, DataError, OutsideCharter, SumRejected
from commonroot.strategies import build, seal
from commonroot.strategies.evaluation import CHOICES, counted_choices, outcome_of, told_choice

DRAFT = cases.evaluation_draft()
losses = st.floats(0.0, 2.0)


def figures(weight, alone, federated, error=0.0, choice=-1):
    found = {"weight": weight, "alone": alone, "federated": federated, "error": error, "choice": choice}
    return {name: np.asarray(value) for name, value in found.items()}


def opened(draft, parts):
    method = build(draft)
    return cases.opened_sum(draft, [method.gather(draft, method.initial(draft), part, {}).terms for part in parts])


def test_an_evaluation_of_three_departments_worked_by_hand():
    """Weights 1, 1/2, 1/2; alone (1·0.8 + 0.5·0.6 + 0.5·0.4)/2 = 0.65; federated (0.6 + 0.35 + 0.15)/2 = 0.55.

    The gain is 0.1, its error √(0.04² + (0.5·0.06)² + 0²)/2 = 0.05/2 = 0.025.
    """
    parts = [figures(1, 0.8, 0.6, error=0.04), figures(0.5, 0.6, 0.7, error=0.06), figures(0.5, 0.4, 0.3)]
    said = outcome_of(opened(DRAFT, parts))
    assert said["weight"] == 2
    assert said["alone"] == pytest.approx(0.65, abs=1e-12)
    assert said["federated"] == pytest.approx(0.55, abs=1e-12)
    assert (said["gain"], said["error"]) == pytest.approx((0.1, 0.025), abs=1e-9)


@given(st.lists(st.tuples(st.integers(1, 64), losses, losses, losses), min_size=3, max_size=9))
def test_sums_say_what_all_figures_in_one_place_would(found):
    w = np.array([one[0] / 64 for one in found])
    alone, federated, error = (np.array([one[at] for one in found]) for at in (1, 2, 3))
    said = outcome_of(opened(DRAFT, [figures(one[0] / 64, *one[1:]) for one in found]))
    assert said["gain"] == pytest.approx(np.average(alone - federated, weights=w), abs=1e-9)
    assert said["error"] == pytest.approx(math.sqrt(np.square(w * error).sum()) / w.sum(), abs=1e-6)


def test_one_departments_hopeless_loss_counts_no_more_than_the_limit():
    for hopeless in (1e9, math.inf, math.nan):
        said = outcome_of(opened(DRAFT, [figures(1, 0.5, hopeless), figures(1, 0.5, 0.5), figures(1, 0.5, 0.5)]))
        assert said["federated"] == pytest.approx((2 + 0.5 + 0.5) / 3, abs=1e-9)


def test_a_department_without_figures_adds_nothing():
    nothing = figures(0, 0, 0)
    parts = [figures(0.25, 0.9, 0.5), figures(1, 0.7, 0.7)]
    one, other = (outcome_of(opened(DRAFT, [*parts, *more])) for more in ([nothing], [nothing, nothing]))
    assert one == other
    assert outcome_of(opened(DRAFT, [nothing] * 3)) == {}


def test_choices_leave_only_where_the_charter_counts_them():
    assert "choices" not in {term.name for term in seal(DRAFT).manifest.terms}
    assert "choices" in {term.name for term in seal(cases.counting_draft()).manifest.terms}


def test_a_choice_is_told_truly_two_times_in_three_and_as_each_other_one_time_in_six():
    random = np.random.default_rng(3)
    for kept, at in (("alone", 0), ("family", 1), ("stack", 2), ("both", 2)):
        told = np.bincount([told_choice(kept, random) for _ in range(6000)], minlength=3) / 6000
        expected = np.full(3, 1 / 6)
        expected[at] = 2 / 3
        np.testing.assert_allclose(told, expected, atol=0.03)


def test_no_count_is_more_than_four_times_as_likely_under_another_choice_of_one_department():
    """Three departments; the first keeps its own or the federated model, the others anything: ratios are at most 4."""
    tell = np.full((3, 3), 1 / 6) + np.eye(3) / 2  # P(told | true)

    def chances(true):
        out = {}
        for told in np.ndindex(3, 3, 3):
            counts = tuple(np.bincount(told, minlength=3))
            out[counts] = out.get(counts, 0) + math.prod(tell[one, said] for one, said in zip(true, told, strict=True))
        return out

    for others in np.ndindex(3, 3):
        one, other = chances((0, *others)), chances((1, *others))
        assert max(one[counts] / other[counts] for counts in one) <= 4 + 1e-9


def test_counted_choices_are_right_in_the_mean():
    """30 departments, 12 alone, 12 federated, 6 mixtures: 200 counts come out within 3 standard errors of a mean."""
    random = np.random.default_rng(5)
    true = ["alone"] * 12 + ["federated"] * 12 + ["stack"] * 6
    found = []
    for _ in range(200):
        told = np.bincount([told_choice(one, random) for one in true], minlength=3)
        found.append([counted_choices(told)[name] for name in CHOICES])
    mean, error = np.mean(found, axis=0).T
    np.testing.assert_allclose(mean, [12, 12, 6], atol=3 * error.max() / math.sqrt(200))
    assert error.max() < 6


@pytest.mark.parametrize(
    ("changes", "told"),
    [({"rounds": 2}, "one round"), ({"method": {"name": "evaluation", "options": {"of": "a3"}}}, "wrong option")],
)
def test_a_charter_that_makes_no_sense_is_refused(changes, told):
    with pytest.raises(ConfigError, match=told):
        seal(type(DRAFT).model_validate(DRAFT.model_dump() | changes))


def test_a_weight_beyond_one_is_refused():
    method = build(DRAFT)
    with pytest.raises(DataError, match="between 0 and 1"):
        method.gather(DRAFT, method.initial(DRAFT), figures(1.5, 0.5, 0.5), {})


@pytest.mark.parametrize("name", ["alone", "federated", "error"])
def test_sums_beyond_what_the_weight_admits_are_neither_made_nor_received(name):
    method = build(DRAFT)
    sums = dict(opened(DRAFT, [figures(0.5, 0.8, 0.6, error=0.1)] * 3))
    sums[f"figures/{name}"] = np.asarray(1.5 * 4.1)
    with pytest.raises(SumRejected, match=name):
        method.combine(DRAFT, method.initial(DRAFT), sums)
    received = method.initial(DRAFT) | {key: np.asarray(array, np.float32) for key, array in sums.items()}
    with pytest.raises(OutsideCharter, match=name):
        method.check_received(DRAFT, received, 1, method.initial(DRAFT), 0)


def test_no_two_evaluations_begin_with_the_same_broadcast():
    """Departments open one broadcast for one survivor set ever; all others would be bound to that of the first."""
    drafts = [cases.evaluation_draft(of=of * 32) for of in ("ab", "ac", "ff")]
    begins = [build(draft).initial(draft)["of"] for draft in drafts]
    assert len({begin.tobytes() for begin in begins}) == 3
    for of, begin in zip(("ab", "ac", "ff"), begins, strict=True):
        assert sum(int(digit) << 24 * at for at, digit in enumerate(begin)) == int(of * 32, 16)
    with pytest.raises(OutsideCharter, match="another evaluation"):
        build(drafts[0]).check_received(
            drafts[0], build(drafts[1]).initial(drafts[1]), 0, build(drafts[0]).initial(drafts[0]), 0
        )
