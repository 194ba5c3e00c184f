"""How far a model's probabilities can be believed, and which rows a choice changed."""

from __future__ import annotations

import numpy as np
import pytest

from commonroot.client.reliability import changed, reliability
from commonroot.client.tasks import Classification, Multilabel, Regression

THREE = Classification(("a", "b", "c"))


def test_expected_calibration_error_worked_by_hand():
    """two rows .9 sure, one right: |.9 - .5| = .4; two rows .6 sure, both right: |.6 - 1| = .4; one .35 sure, wrong:
    .35; (2·.4 + 2·.4 + 1·.35)/5 = .39"""
    predicted = np.array([[0.9, 0.1, 0], [0.9, 0.1, 0], [0.3, 0.6, 0.1], [0.3, 0.6, 0.1], [0.35, 0.33, 0.32]])
    found = reliability(THREE, predicted, np.array([0, 1, 1, 1, 2]))
    assert found["error"] == pytest.approx(0.39)
    assert [(one["rows"], one["right"]) for one in found["bins"]] == [(1, 0.0), (2, 1.0), (2, 0.5)]


def test_a_model_that_is_as_sure_as_it_is_right_has_no_error():
    predicted = np.tile([0.75, 0.25, 0.0], (4, 1))
    assert reliability(THREE, predicted, np.array([0, 0, 0, 1]))["error"] == pytest.approx(0.0)


def test_whole_certainty_falls_into_the_last_bin():
    found = reliability(THREE, np.array([[1.0, 0.0, 0.0]]), np.array([0]))
    assert found == {"error": 0.0, "bins": [{"confidence": 1.0, "right": 1.0, "rows": 1}]}


def test_several_labels_are_asked_one_by_one():
    """.8 for a label that is there and .3 for one that is not: sure .8 and .7, both right: (.2 + .3)/2"""
    task = Multilabel(("red", "round"))
    assert reliability(task, np.array([[0.8, 0.3]]), np.array([[1.0, 0.0]]))["error"] == pytest.approx(0.25)


def test_values_and_empty_tests_have_no_probabilities():
    assert reliability(Regression(0.0, 1.0), np.zeros(3), np.zeros(3)) is None
    assert reliability(THREE, np.zeros((0, 3)), np.zeros(0, dtype=np.int64)) is None


def test_rows_that_only_one_model_got_right_are_counted():
    y = np.array([0, 1, 2, 2])
    chosen, alone = np.eye(3)[[0, 1, 2, 0]], np.eye(3)[[0, 2, 0, 2]]
    assert changed(THREE, chosen, alone, y) == {"gained": 2, "lost": 1}
    assert changed(Regression(0.0, 1.0), np.zeros(3), np.zeros(3), np.zeros(3)) is None
