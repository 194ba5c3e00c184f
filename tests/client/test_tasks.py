"""Tasks: what they predict, lose, score and show."""

import math

import numpy as np
import pytest
import torch

from commonroot.client.tasks import (
    TASKS,
    Binary,
    Classification,
    Regression,
    score,
    softmax,
    sort_labels,
    task_from_json,
)
from commonroot.common.errors import ConfigError, ForeignState

THREE = Classification(("ham", "spam", "unsure"))
TWO = Binary(("no", "yes"))
VALUE = Regression(centre=10.0, scale=2.0)


@pytest.mark.parametrize("task", [THREE, TWO, VALUE], ids=lambda task: task.kind)
def test_a_task_comes_back_from_its_record(task):
    assert task_from_json(task.to_json()) == task
    assert TASKS[task.kind] is type(task)


@pytest.mark.parametrize("record", [{}, {"kind": "ranking"}, {"kind": "binary"}, {"kind": "regression", "centre": "x"}])
def test_an_unreadable_record_is_foreign_state(record):
    with pytest.raises(ForeignState):
        task_from_json(record)


@pytest.mark.parametrize("labels", [(), ("one",), ("a", "a")])
def test_a_classification_needs_two_different_labels(labels):
    with pytest.raises(ConfigError):
        Classification(labels)


def test_a_binary_task_has_exactly_two_labels():
    with pytest.raises(ConfigError):
        Binary(("a", "b", "c"))


def test_knowing_nothing_costs_the_chance_loss():
    """uniform over 3: log 3; logit 0: log 2; predicting the mean of a standardised target: its variance, 1"""
    y3, y2 = np.array([0, 1, 2]), np.array([0, 1])
    assert float(THREE.loss(torch.zeros(3, 3), torch.from_numpy(THREE.targets(y3)))) == pytest.approx(math.log(3))
    assert float(TWO.loss(torch.zeros(2, 1), torch.from_numpy(TWO.targets(y2)))) == pytest.approx(math.log(2))
    values = np.array([8.0, 12.0])
    assert float(VALUE.loss(torch.zeros(2, 1), torch.from_numpy(VALUE.targets(values)))) == pytest.approx(1.0)
    for task, loss in ((THREE, math.log(3)), (TWO, math.log(2)), (VALUE, 1.0)):
        assert task.chance == pytest.approx(loss)


@pytest.mark.parametrize(
    ("task", "y"),
    [(THREE, np.array([0, 2, 1, 1])), (TWO, np.array([0, 1, 1, 0])), (VALUE, np.array([7.0, 9.0, 10.0, 14.0]))],
    ids=lambda value: getattr(value, "kind", ""),
)
def test_row_losses_average_to_the_training_loss(task, y):
    outputs = np.random.default_rng(1).normal(size=(4, task.outputs)).astype(np.float32)
    trained = float(task.loss(torch.from_numpy(outputs), torch.from_numpy(task.targets(y)))) / task.chance
    assert task.row_losses(task.predictive(outputs), y).mean() == pytest.approx(trained, rel=1e-5)


def test_one_confident_error_stays_finite():
    """-log(1e-4) / log 2 = 13.29"""
    certain = np.array([[1.0, 0.0]])
    assert TWO.row_losses(certain, np.array([1]))[0] == pytest.approx(13.2877, rel=1e-4)


def test_a_regression_target_is_standardised_with_training_statistics():
    """values 1, 3, 5: mean 3, deviation √(8/3)"""
    task = Regression.fitted(np.array([1.0, 3.0, 5.0]))
    assert (task.centre, task.scale) == pytest.approx((3.0, math.sqrt(8 / 3)))
    assert task.targets(np.array([3.0]))[0] == 0.0
    assert task.predictive(np.array([[1.0]]))[0] == pytest.approx(3.0 + math.sqrt(8 / 3))


def test_a_constant_target_has_scale_one():
    assert Regression.fitted(np.full(4, 7.0)).scale == 1.0


def test_r2_is_zero_for_the_mean_and_one_for_the_truth():
    y = np.array([1.0, 2.0, 6.0])
    assert score(VALUE, np.full(3, 3.0), y) == pytest.approx(0.0)
    assert score(VALUE, y, y) == pytest.approx(1.0)


def test_r2_worked_by_hand():
    """y 0, 2, 4 about 2: total 8; errors 1, 0, 1: 1 - 2/8 = 0.75"""
    assert score(VALUE, np.array([1.0, 2.0, 3.0]), np.array([0.0, 2.0, 4.0])) == pytest.approx(0.75)


def test_r2_of_rows_that_do_not_vary_is_zero():
    assert score(VALUE, np.array([1.0, 2.0]), np.array([5.0, 5.0])) == 0.0


def test_counting_a_row_twice_is_having_it_twice():
    """the same for labels and values"""
    predicted, y = softmax(np.random.default_rng(2).normal(size=(5, 3))), np.array([0, 1, 2, 0, 1])
    counts = np.array([[2.0, 0.0, 1.0, 1.0, 1.0]])
    at = np.array([0, 0, 2, 3, 4])
    assert THREE.scores(predicted, y, counts)[0] == pytest.approx(score(THREE, predicted[at], y[at]))
    values, target = predicted[:, 0], np.array([1.0, 4.0, 2.0, 0.0, 3.0])
    assert VALUE.scores(values, target, counts)[0] == pytest.approx(score(VALUE, values[at], target[at]))


def test_columns_name_the_class_and_every_probability():
    columns = THREE.columns(np.array([[0.2, 0.7, 0.1], [0.5, 0.25, 0.25]]))
    assert list(columns) == ["class", *(f"probability of {name}" for name in ("ham", "spam", "unsure"))]
    assert columns["class"].tolist() == ["spam", "ham"]
    assert list(VALUE.columns(np.array([1.5]))) == ["value"]


def test_the_binary_logit_speaks_for_the_second_label():
    predicted = TWO.predictive(np.array([[3.0], [-3.0]]))
    assert TWO.columns(predicted)["class"].tolist() == ["yes", "no"]
    np.testing.assert_allclose(predicted.sum(axis=1), 1.0)


def test_labels_are_sorted_by_value_where_they_are_numbers():
    assert sort_labels(["10", "9", "2", "9"]) == ("2", "9", "10")
    assert sort_labels(["b", "10", "a"]) == ("10", "a", "b")
