"""Metrics against scikit-learn's, on rows as they are and on resampled ones."""

import numpy as np
import pytest
from sklearn import metrics as reference

from commonroot.client.tasks import (
    Anomaly,
    Binary,
    Classification,
    Fault,
    Forecast,
    Life,
    Multilabel,
    Rating,
    Regression,
    score,
    weighted,
)

RANDOM = np.random.default_rng(8)
ROWS = 60
COUNTS = RANDOM.integers(0, 4, size=(5, ROWS)).astype(np.float64)
LABELS = RANDOM.integers(0, 3, ROWS)
SHARES = RANDOM.dirichlet(np.ones(3), ROWS)
VALUES = RANDOM.normal(3.0, 1.0, ROWS)
GUESSES = np.round(VALUES + RANDOM.normal(0.0, 0.6, ROWS), 1)


def lines():
    return enumerate(COUNTS)


def test_accuracy_and_balanced_accuracy_are_scikit_learns():
    said = SHARES.argmax(axis=1)
    plain = Classification(("a", "b", "c")).scores(SHARES, LABELS, COUNTS)
    even = Fault(("a", "b", "c"), None, "balanced accuracy").scores(SHARES, LABELS, COUNTS)
    for at, line in lines():
        assert plain[at] == pytest.approx(reference.accuracy_score(LABELS, said, sample_weight=line))
        expected = reference.balanced_accuracy_score(LABELS, said, sample_weight=line)
        assert even[at] == pytest.approx(expected)


def test_always_saying_the_common_label_has_a_balanced_accuracy_of_one_in_c():
    """recall 1 for the common one of 3 labels, 0 for the others"""
    y = np.repeat([0, 1, 2], [50, 5, 5])
    task = Fault(("fine", "leak", "wear"), None, "balanced accuracy")
    assert score(task, np.tile([1.0, 0.0, 0.0], (60, 1)), y) == pytest.approx(1 / 3)


def test_a_label_missing_from_a_resampling_is_left_out_of_its_mean_recall():
    y, said = np.array([0, 0, 1]), np.eye(2)[[0, 1, 1]]
    task = Classification(("a", "b"), None, "balanced accuracy")
    assert task.scores(said, y, np.array([[1.0, 1.0, 0.0]]))[0] == pytest.approx(0.5)


def test_auc_with_ties_is_scikit_learns():
    y = LABELS > 0
    ranked = np.round(SHARES[:, 1], 1)  # many ties
    two = np.stack([1 - ranked, ranked], axis=1)
    found = Binary(("no", "yes"), None, "AUC").scores(two, y.astype(int), COUNTS)
    for at, line in lines():
        assert found[at] == pytest.approx(reference.roc_auc_score(y, ranked, sample_weight=line))


def test_auc_worked_by_hand():
    """positives 3, 1; negatives 2, 1: pairs 3>2, 3>1, 1<2, 1=1: (1 + 1 + 0 + ½)/4 = 0.625"""
    found = weighted.auc(np.array([3.0, 1.0, 2.0, 1.0]), np.array([True, True, False, False]), np.ones((1, 4)))
    assert found[0] == pytest.approx(0.625)


def test_auc_without_one_of_the_two_says_nothing():
    assert weighted.auc(np.arange(3.0), np.ones(3, dtype=bool), np.ones((1, 3)))[0] == 0.5


def test_micro_f1_is_scikit_learns():
    y = (RANDOM.random((ROWS, 4)) > 0.6).astype(float)
    said = RANDOM.random((ROWS, 4))
    task = Multilabel(tuple("abcd"))
    found = task.scores(said, y, COUNTS)
    for at, line in lines():
        expected = reference.f1_score(y, said >= 0.5, average="micro", sample_weight=line)
        assert found[at] == pytest.approx(expected)
    facts = task.facts(said, y)
    assert facts["macro_f1"] == pytest.approx(reference.f1_score(y, said >= 0.5, average="macro"))
    recalls = reference.recall_score(y, said >= 0.5, average=None)
    assert [line["recall"] for line in facts["by_label"]] == pytest.approx(recalls.tolist())


def test_nothing_to_find_and_nothing_said_is_an_f1_of_zero():
    assert weighted.f1(np.zeros(2), np.zeros(2), np.zeros(2), np.ones((1, 2)))[0] == 0.0


def test_errors_of_values_are_scikit_learns():
    tasks = {
        "R²": (Regression(0.0, 1.0), reference.r2_score),
        "RMSE": (Rating(0.0, 1.0), reference.root_mean_squared_error),
        "MAE": (Regression(0.0, 1.0, None, "MAE"), reference.mean_absolute_error),
    }
    for name, (task, expected) in tasks.items():
        assert task.metric == name
        found = task.scores(GUESSES, VALUES, COUNTS)
        for at, line in lines():
            assert found[at] == pytest.approx(expected(VALUES, GUESSES, sample_weight=line))


def test_rmse_of_lives_worked_by_hand():
    """errors 3 and 4: √((9 + 16)/2) = 3.5355"""
    assert score(Life(50.0, 10.0), np.array([53.0, 46.0]), np.array([50.0, 50.0])) == pytest.approx(3.535534)


def test_f1_at_the_threshold_is_scikit_learns_and_leaves_unknown_rows_out():
    y = RANDOM.integers(-1, 2, ROWS)
    scores = RANDOM.normal(size=ROWS)
    found = Anomaly(width=1).scores(scores, y, COUNTS)
    ranked = Anomaly(width=1, scored="AUC").scores(scores, y, COUNTS)
    known = y >= 0
    for at, line in lines():
        expected = reference.f1_score(y[known], scores[known] > 0, sample_weight=line[known])
        assert found[at] == pytest.approx(expected)
        expected = reference.roc_auc_score(y[known], scores[known], sample_weight=line[known])
        assert ranked[at] == pytest.approx(expected)


def test_mean_pinball_loss_is_scikit_learns():
    y = RANDOM.gamma(2.0, 5.0, size=(ROWS, 3))
    said = np.sort(RANDOM.gamma(2.0, 5.0, size=(ROWS, 3, 3)), axis=2)
    task = Forecast(3, (0.1, 0.5, 0.9), 0.0, 1.0, 1.0, None, "pinball")
    expected = np.mean([reference.mean_pinball_loss(y, said[:, :, at], alpha=q) for at, q in enumerate(task.quantiles)])
    assert score(task, said, y) == pytest.approx(expected)


def test_wape_worked_by_hand():
    """|10 - 8| + |20 - 25| = 7 of 30"""
    task = Forecast(2, (0.5,), 0.0, 1.0, 1.0)
    assert score(task, np.array([[[8.0], [25.0]]]), np.array([[10.0, 20.0]])) == pytest.approx(7 / 30)
    assert score(task, np.array([[[8.0], [25.0]]]), np.zeros((1, 2))) == 0.0  # of nothing
