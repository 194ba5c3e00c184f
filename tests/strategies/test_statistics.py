"""Shared statistics equal those of one table with everybody's rows: whole numbers to the last bit, means to 1e-9."""

import gathering_cases as cases
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from commonroot.client.shared_statistics import SharedStatistics
from commonroot.common.errors import ConfigError, DataError, OutsideCharter, SumRejected
from commonroot.common.schema import bucket_of, words
from commonroot.strategies import build, seal
from commonroot.strategies.statistics import (
    BITS,
    digits_of,
    fixed,
    mean_and_scale,
    parts_of,
    value_of,
    whole,
)

DRAFT = cases.statistics_draft()


def result_of(parts):
    return cases.rounds_of(DRAFT, parts)[-1]


def read(state):
    return SharedStatistics.received(seal(DRAFT), state)


@given(st.lists(st.integers(1, 40), min_size=3, max_size=6), st.integers(0, 1000))
def test_however_rows_are_spread_the_sums_are_the_same_bits(sizes, seed):
    parts = [cases.statistics_rows(seed + at, rows) for at, rows in enumerate(sizes)]
    federated, pooled = (
        result_of(parts),
        cases.rounds_of(DRAFT, [cases.pooled_rows(parts)], through=cases.plain_sum)[-1],
    )
    for name in pooled:
        assert federated[name].tobytes() == pooled[name].tobytes(), name


@pytest.fixture(scope="module")
def shared():
    parts = [cases.statistics_rows(seed, 50 + 30 * seed) for seed in range(5)]
    return read(result_of(parts)), cases.pooled_rows(parts)


@pytest.mark.parametrize(("column", "at"), [("age", "0"), ("joined", "1"), ("income", "5")])
def test_means_and_deviations_are_numpys_to_one_part_in_a_billion(shared, column, at):
    found, rows = shared
    values = rows[at][~np.isnan(rows[at])]
    assert found.known(column) == len(values)
    assert found.standardise(column) == pytest.approx((values.mean(), values.std()), rel=1e-9, abs=0)


def test_a_mean_of_whole_numbers_is_the_exact_one(shared):
    found, rows = shared
    age = rows["0"][~np.isnan(rows["0"])]
    assert found.standardise("age")[0] == pytest.approx(float(sum(map(int, age))) / len(age), rel=1e-15)


def test_counts_are_those_of_all_rows(shared):
    found, rows = shared
    assert found.count == 50 + 80 + 110 + 140 + 170
    slots = rows["2"][rows["2"] >= 0]
    retail, business, other = np.bincount(slots, minlength=3)
    assert dict(found.categories("segment")) == {"retail": retail, "business": business, "other": other}
    np.testing.assert_array_equal(found.counts("town"), np.bincount(rows["3"], minlength=16))
    np.testing.assert_array_equal(found.counts("review"), np.bincount(rows["4"][:, 1], minlength=32))


def test_inverse_document_frequencies_are_the_smooth_ones(shared):
    """ln((1 + n) / (1 + df)) + 1"""
    found, rows = shared
    df = np.bincount(rows["4"][:, 1], minlength=32)
    n = len(np.unique(rows["4"][:, 0]))
    np.testing.assert_allclose(found.idf("review"), np.log((1 + n) / (1 + df)) + 1, rtol=1e-15)
    word = "excellent"
    assert found.idf_of("review", word) == found.idf("review")[bucket_of(word, 32)]


def test_quantiles_are_within_a_bin_of_the_true_ones_and_exact_at_edges(shared):
    found, rows = shared
    age = rows["0"][~np.isnan(rows["0"])]
    levels = np.linspace(0.01, 0.99, 25)
    np.testing.assert_allclose(found.quantiles("age", levels), np.quantile(age, levels), atol=10.0)
    _edges, counts = found.histogram("age")
    below = np.cumsum(counts)[4] / counts.sum()  # the share of rows below 50
    assert found.quantiles("age", [below])[0] == pytest.approx(50.0)
    assert below == pytest.approx((age < 50).mean())


def test_a_quantile_by_hand():
    """Values 1, 2, 3 and 11 in two bins of ten: the median lies at 2/3 of the first, the end in the second."""
    draft = cases.statistics_draft(columns=[{"name": "x", "kind": "number", "low": 0, "high": 20, "bins": 2}])
    rows = {"count": np.asarray(4), "0": np.array([1.0, 2, 3, 11])}
    state = cases.rounds_of(draft, [rows], through=cases.plain_sum)[-1]
    found = SharedStatistics.received(seal(draft), state)
    np.testing.assert_allclose(found.quantiles("x", [0.0, 0.5, 0.75, 1.0]), [0, 20 / 3, 10, 20])
    assert found.standardise("x") == (4.25, pytest.approx(np.std([1, 2, 3, 11]), rel=1e-15))


def test_a_column_far_from_zero_keeps_its_spread():
    """Squares around zero would lose a deviation of 1e-3 at 2·10^9 altogether; around the middle nothing cancels.

    A value is held to 2^-48 of the range, its square too: a deviation of 1/5000 of the range keeps seven digits.
    """
    draft = cases.statistics_draft(columns=[{"name": "x", "kind": "number", "low": 2e9, "high": 2e9 + 10}])
    x = 2e9 + 5 + np.random.default_rng(3).normal(0, 1e-3, 500)
    state = cases.rounds_of(draft, [{"count": np.asarray(500), "0": x}], through=cases.plain_sum)[-1]
    found = SharedStatistics.received(seal(draft), state)
    assert found.standardise("x")[1] == pytest.approx((x - 2e9).std(), rel=1e-7)


@given(st.lists(st.floats(-1, 1), min_size=1, max_size=50))
def test_digits_hold_every_bit_of_a_sum(values):
    exact = fixed(np.array(values))
    assert value_of(digits_of(exact)) == sum(map(int, exact))
    assert np.abs(exact - np.array(values) * 2.0**BITS).max() <= 0.5


@given(st.lists(st.integers(-(2**52), 2**52), min_size=1, max_size=20))
def test_three_float32_hold_a_whole_number(values):
    totals = np.array(values, dtype=np.float64)
    np.testing.assert_array_equal(whole(parts_of(totals)), totals)


def test_the_mean_of_nothing_is_the_middle_of_the_range():
    assert mean_and_scale(DRAFT.columns[0], 0, 0, 0) == (60.0, 0.0)


# -- what is refused ---------------------------------------------------------------------------------------------------


def test_values_beyond_the_charters_range_stay_where_they_are():
    rows = cases.statistics_rows(1)
    rows["0"] = rows["0"] + 100
    with pytest.raises(DataError, match=r"'age': .* outside the charter's range"):
        build(DRAFT).gather(DRAFT, build(DRAFT).initial(DRAFT), rows, {})


def test_more_rows_than_the_charter_admits_are_refused():
    rows = cases.statistics_rows(1, 1001)
    with pytest.raises(DataError, match="1001 rows; the charter admits 1000"):
        build(DRAFT).gather(DRAFT, build(DRAFT).initial(DRAFT), rows, {})


def test_a_second_round_is_refused_because_it_would_repeat_the_first():
    with pytest.raises(ConfigError, match="one round"):
        seal(cases.statistics_draft(rounds=2))


def test_statistics_of_no_columns_are_refused():
    with pytest.raises(ConfigError, match="columns"):
        seal(cases.statistics_draft(columns=[]))


def test_what_is_contributed_does_not_depend_on_what_was_received():
    method, rows = build(DRAFT), cases.statistics_rows(4)
    one = method.gather(DRAFT, method.initial(DRAFT), rows, {}).terms
    other = method.gather(DRAFT, result_of([rows] * 3), rows, {"x": np.ones(3)}).terms
    assert all(one[name].tobytes() == other[name].tobytes() for name in one)


LIES = {
    "a negative count": ("categories", lambda a: a - 40.0),
    "more values than rows": ("present", lambda a: a + 1e6),
    "counts that do not add up": ("histogram", lambda a: a + 1.0),
    "squares below the mean's": ("squares", lambda a: 0 * a),
    "a sum beyond the range": ("sum", lambda a: a + 1e5),
    "more documents than texts": ("documents", lambda a: a + 400.0),
}


@pytest.mark.parametrize("lie", LIES)
def test_sums_of_no_rows_are_rejected_and_as_a_broadcast_refused(lie):
    method = build(DRAFT)
    parts = [cases.statistics_rows(seed) for seed in range(3)]
    state = method.initial(DRAFT)
    sums = cases.opened_sum(DRAFT, [method.gather(DRAFT, state, part, {}).terms for part in parts])
    name, change = LIES[lie]
    wrong = sums | {name: change(sums[name])}
    with pytest.raises(SumRejected):
        method.combine(DRAFT, state, wrong)
    sent = method.combine(DRAFT, state, sums) | {name: parts_of(wrong[name])}
    with pytest.raises(OutsideCharter):
        method.check_received(DRAFT, sent, 1, state, 0)


def test_words_are_lower_case_in_any_alphabet_and_buckets_are_fixed():
    """`printf good | b2sum -l 64` modulo 4096 is 1328."""
    assert words("Größe XL, naïve—日本 2x") == ["größe", "xl", "naïve", "日本", "2x"]
    assert [bucket_of(word, 4096) for word in ("good", "bad")] == [1328, 3155]
