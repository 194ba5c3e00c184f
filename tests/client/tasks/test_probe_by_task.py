"""A head fitted at once, for tasks of several outputs, of tokens, and of the rows themselves."""

import numpy as np
from sklearn.linear_model import LogisticRegression, Ridge

from commonroot.client.probe import probe_head
from commonroot.client.tasks import Anomaly, Forecast, Life, Multilabel, Tagging, score, task_config

RANDOM = np.random.default_rng(4)
X = RANDOM.normal(1.0, 2.0, size=(80, 6)).astype(np.float32)


def outputs(head, x):
    return x @ head["weight"].T + head["bias"]


def brought(x):
    return (x - x.mean(axis=0, dtype=np.float64)) / x.std(dtype=np.float64)


def test_each_label_gets_its_own_line():
    y = np.stack([X[:, 0] > 1, X[:, 1] + X[:, 2] > 2, np.ones(80)], axis=1).astype(float)
    task = Multilabel(("a", "b", "c"))
    found = task.predictive(outputs(probe_head(task, X, y, strength=1.0), X))
    expected = LogisticRegression(C=1.0, max_iter=500).fit(brought(X), y[:, 1]).predict_proba(brought(X))[:, 1]
    np.testing.assert_allclose(found[:, 1], expected, atol=1e-4)
    assert (found[:, 2] > 0.9).all()


def test_each_step_gets_a_line_and_each_quantile_its_height():
    """quantiles of one step run side by side: one direction, three offsets"""
    y = 5.0 + 3.0 * X[:, :2].astype(np.float64) + RANDOM.normal(0, 0.5, size=(80, 2))
    task = Forecast.learn(task_config("forecast"), y)
    head = probe_head(task, X, y, strength=10.0)
    assert head["weight"].shape == (6, 6) and head["bias"].shape == (6,)
    np.testing.assert_array_equal(head["weight"][0], head["weight"][2])
    predicted = task.predictive(outputs(head, X))
    assert score(task, predicted, y) < 0.15 and (np.diff(predicted, axis=2) > 0).all()


def test_tokens_are_told_apart_by_their_own_representation():
    """unlabelled tokens play no part, and a tag without tokens stays possible"""
    task = Tagging(("O", "B-X", "I-X"), 4)
    represented = X.reshape(20, 4, 6)
    y = (represented[:, :, 0] > 1).astype(np.int64)
    y[:, 3] = -1
    spoilt = represented.copy()
    spoilt[:, 3] = 1e6
    head = probe_head(task, spoilt, y, strength=10.0)
    assert head["weight"].shape == (3, 6)
    predicted = task.predictive(outputs(head, represented))
    assert score(task, predicted, y) > 0.9 and predicted[:, :, 2].max() < 0.2


def test_rows_are_put_together_again():
    rows = (X @ RANDOM.normal(size=(6, 9))).astype(np.float32)
    task = Anomaly().fitted_to(rows)
    head = probe_head(task, X, rows, strength=1.0)
    expected = Ridge(alpha=10.0).fit(brought(X), rows).predict(brought(X))
    np.testing.assert_allclose(outputs(head, X), expected, atol=1e-3)


def test_a_life_is_probed_as_a_value():
    task = Life(60.0, 20.0)
    y = np.clip(60.0 + 8.0 * X[:, 0].astype(np.float64), 0, 125)
    found = task.predictive(outputs(probe_head(task, X, y, strength=10.0), X))
    assert score(task, found, y) < 6.0
