"""One linear model of words by sums: equal to the pooled one, each fold's as if nobody had that fold, and solved."""

import gathering_cases as cases
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from commonroot.common.errors import ConfigError, DataError, SumRejected
from commonroot.strategies import build
from commonroot.strategies.shared_words import DONE, SCALE, STEP, WEIGHTS

PARTS = [cases.words(seed) for seed in range(4)]


@pytest.mark.parametrize("labels", [2, 3])
def test_four_departments_give_the_model_of_their_rows_in_one_table(labels):
    draft = cases.words_draft(labels="no|yes" if labels == 2 else cases.LABELS)
    parts = [cases.words(seed, labels=labels) for seed in range(4)]
    apart = cases.rounds_of(draft, parts)[-1]
    pooled = cases.rounds_of(draft, [cases.joined(parts)], through=cases.plain_sum)[-1]
    np.testing.assert_allclose(apart[WEIGHTS], pooled[WEIGHTS], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("fold", range(4))
def test_the_model_of_a_fold_is_that_of_rounds_to_which_nobody_gave_its_rows(fold):
    """Rows of the fold are taken out of every department; what is then the model of all rows is compared."""
    draft = cases.words_draft(rounds=40)
    whole = cases.rounds_of(draft, PARTS, through=cases.plain_sum)[-1]
    fewer = [{name: array[part["fold"] != fold] for name, array in part.items()} for part in PARTS]
    without = cases.rounds_of(draft, fewer, through=cases.plain_sum)[-1]
    # first steps differ, as the bound on the curvature is of all rows; in the end both are solved
    np.testing.assert_allclose(whole[WEIGHTS][fold], without[WEIGHTS][-1], atol=5e-3)
    assert np.abs(whole[WEIGHTS][fold] - whole[WEIGHTS][-1]).max() > 0.05


def test_its_rounds_solve_the_problem_that_it_says():
    """scikit-learn on x·s with C = 1/λ; its constant is not penalised, ours next to not."""
    draft = cases.words_draft(rounds=40)
    found = cases.rounds_of(draft, PARTS, through=cases.plain_sum)[-1]
    rows = cases.joined(PARTS)
    scale = found[SCALE][-1, 0, 1:].astype(np.float64)
    model = LogisticRegression(C=1.0, tol=1e-10, max_iter=10_000).fit(rows["x"] * scale, rows["y"])
    np.testing.assert_allclose(found[WEIGHTS][-1, 0, 1:], model.coef_[0] * scale, atol=2e-3)
    assert found[WEIGHTS][-1, 0, 0] == pytest.approx(model.intercept_[0], abs=1e-2)


def test_the_prior_is_naive_bayes_ratio_over_a_floor():
    """Two words, ten rows each way: 6 and 2 have the first, 3 and 3 the second; with a = 1
    r = log(7/11) - log(3/7) for the first and log(4/11) - log(4/7) for the second; s = √(r² + 1/2)."""
    x = np.zeros((20, 2), dtype=np.float32)
    x[:6, 0] = x[10:12, 0] = x[:3, 1] = x[10:13, 1] = 0.5
    data = {"x": x, "y": np.repeat([1, 0], 10), "fold": np.arange(20) % 2}
    draft = cases.words_draft(rounds=2, values=2, folds=2)
    state = cases.rounds_of(draft, [data], through=cases.plain_sum)[1]
    ratio = np.array([np.log(7 / 11) - np.log(3 / 7), np.log(4 / 11) - np.log(4 / 7)])
    np.testing.assert_allclose(state[SCALE][-1, 0], [1.0, *np.sqrt(ratio**2 + 0.5)], rtol=1e-6)
    squares = 0.25 * np.array([8, 6])
    curved = 0.25 * (20 + (ratio**2 + 0.5) @ squares) + 1.0
    assert state[STEP][-1, 0] == pytest.approx(1 / curved)
    assert float(state[DONE]) == 1 and not state[WEIGHTS].any()


def test_rows_beyond_the_bounds_are_refused():
    draft = cases.words_draft(most_rows=50)
    method, part = build(draft), cases.words(0)
    with pytest.raises(DataError, match="60 rows"):
        method.gather(draft, method.initial(draft), part, {})
    draft = cases.words_draft()
    with pytest.raises(DataError, match="further than 8"):
        method = build(draft)
        method.gather(draft, method.initial(draft), part | {"x": part["x"] * 100}, {})
    with pytest.raises(DataError, match="rows of 12 values; the charter's have 7"):
        other = cases.words_draft(values=7)
        build(other).gather(other, build(other).initial(other), part, {})


def test_counts_that_no_rows_give_are_refused():
    draft = cases.words_draft()
    method = build(draft)
    sums = cases.rounds_of_sums(draft, PARTS)
    sums["present"] = sums["present"] + 500.0
    with pytest.raises(SumRejected, match="more rows than there are"):
        method.combine(draft, method.initial(draft), sums)


def test_one_round_is_too_few():
    with pytest.raises(ConfigError, match="the others learn"):
        build(cases.words_draft(rounds=1)).terms(cases.words_draft(rounds=1))
