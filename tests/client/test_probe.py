"""The head fitted at once equals the regularised regression it stands for, for any labels at hand."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression, Ridge

from commonroot.client.probe import probe_head
from commonroot.client.tasks import Binary, Classification, Regression

FIVE = Classification(tuple("abcde"))
TWO = Binary(("no", "yes"))


def features(n=40, width=6, seed=1):
    return np.random.default_rng(seed).normal(2.0, 3.0, size=(n, width)).astype(np.float32)


def outputs(head, x):
    return x @ head["weight"].T + head["bias"]


def brought(x):
    return ((x - x.mean(axis=0, dtype=np.float64)) / x.std(dtype=np.float64)).astype(np.float32).astype(np.float64)


def test_it_is_logistic_regression_on_features_of_one_spread():
    x, y = features(), np.arange(40) % 5
    expected = LogisticRegression(C=0.5, max_iter=500).fit(brought(x), y).predict_proba(brought(x))
    found = FIVE.predictive(outputs(probe_head(FIVE, x, y, strength=0.5), x))
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_it_is_ridge_on_the_standardised_target():
    x = features()
    y = x[:, 0] * 3.0 + 100.0
    task = Regression.fitted(y.astype(np.float64))
    expected = Ridge(alpha=10.0).fit(brought(x), y).predict(brought(x))
    np.testing.assert_allclose(task.predictive(outputs(probe_head(task, x, y, strength=1.0), x)), expected, rtol=1e-4)


def test_two_labels_get_one_logit():
    x = features()
    y = (x[:, 0] > 2).astype(np.int64)
    head = probe_head(TWO, x, y, strength=10.0)
    assert head["weight"].shape == (1, 6) and head["bias"].shape == (1,)
    assert (TWO.predictive(outputs(head, x)).argmax(axis=1) == y).mean() > 0.9


@pytest.mark.parametrize("present", [[3], [1, 4], [0, 2, 4]], ids=str)
def test_labels_without_rows_get_a_place_of_their_own_below_the_others(present):
    x = features(30)
    y = np.array(present)[np.arange(30) % len(present)]
    head = probe_head(FIVE, x, y, strength=1.0)
    assert head["weight"].shape == (5, 6) and head["weight"].dtype == np.float32
    mean = FIVE.predictive(outputs(head, x.mean(axis=0, keepdims=True)))[0]
    assert mean[present].min() > np.delete(mean, present).max() > 0


def test_one_label_alone_is_always_said():
    x = features(5)
    for label in (0, 1):
        head = probe_head(TWO, x, np.full(5, label), strength=1.0)
        assert (TWO.predictive(outputs(head, x)).argmax(axis=1) == label).all()


def test_features_that_do_not_vary_give_the_shares_of_labels():
    """3 of 4 rows are of the first label"""
    head = probe_head(TWO, np.ones((8, 3), np.float32), np.arange(8) // 6, strength=1.0)
    assert TWO.predictive(outputs(head, np.ones((1, 3))))[0, 0] == pytest.approx(0.75, abs=1e-3)
