"""Baselines: what is stored predicts what scikit-learn predicts, on any rows that a department may have."""

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.svm import SVC, SVR
from threadpoolctl import threadpool_limits

from commonroot.client.baselines import GRID, Recipe, fit
from commonroot.client.data import Rows
from commonroot.client.models import Model, one_against_rest, spread
from commonroot.client.tasks import Binary, Classification, Regression, score
from commonroot.common.errors import ForeignState

TEN = Classification(tuple("0123456789"))
TWO = Binary(("even", "odd"))


@pytest.fixture(autouse=True)
def one_thread():
    """scikit-learn's own fits, here for comparison, on one thread like ours"""
    with threadpool_limits(limits=1):
        yield


def digits():
    images, y = load_digits(return_X_y=True)
    x = ((images - 8) / 6).astype(np.float32)
    return Rows(x[:300], y[:300].astype(np.int64)), x[300:450]


def gamma(recipe, x):
    return recipe.width / (x.shape[1] * x.astype(np.float64).var())


def test_logistic_regression_is_scikit_learns():
    rows, unseen = digits()
    found = fit(Recipe("linear", 0.1), TEN, rows).predict(TEN, unseen)
    expected = LogisticRegression(C=0.1, max_iter=500).fit(rows.x.astype(np.float64), rows.y).predict_proba(unseen)
    np.testing.assert_allclose(found, expected, atol=1e-9)


def test_two_classes_of_logistic_regression_are_scikit_learns():
    rows, unseen = digits()
    y = rows.y % 2
    found = fit(Recipe("linear", 1.0), TWO, Rows(rows.x, y)).predict(TWO, unseen)
    expected = LogisticRegression(C=1.0, max_iter=500).fit(rows.x.astype(np.float64), y).predict_proba(unseen)
    np.testing.assert_allclose(found, expected, atol=1e-9)


def test_ridge_is_scikit_learns():
    rows, unseen = digits()
    value = Rows(rows.x, rows.y.astype(np.float64))
    task = Regression.fitted(value.y)
    found = fit(Recipe("linear", 1.0), task, value).predict(task, unseen)
    x = rows.x.astype(np.float64)
    np.testing.assert_allclose(found, Ridge(alpha=10.0).fit(x, value.y).predict(unseen.astype(np.float64)), atol=1e-4)


def test_support_vectors_decide_every_pair_as_scikit_learn_does():
    rows, unseen = digits()
    recipe = Recipe("rbf", 10.0, 1.0)
    kept = fit(recipe, TEN, rows).arrays
    x = rows.x.astype(np.float64)
    model = SVC(C=10.0, gamma=gamma(recipe, x), decision_function_shape="ovo").fit(x, rows.y)
    far = np.square(unseen.astype(np.float64)[:, None] - kept["support"]).sum(axis=2)
    decision = np.exp(-kept["gamma"] * far) @ kept["dual"].T + kept["bias"]
    np.testing.assert_allclose(decision, model.decision_function(unseen.astype(np.float64)), atol=1e-9)


def test_support_vectors_name_the_class_that_scikit_learn_names():
    """but where several classes win as many pairs, which votes alone do not settle"""
    rows, unseen = digits()
    recipe = Recipe("rbf", 10.0, 1.0)
    x = rows.x.astype(np.float64)
    expected = SVC(C=10.0, gamma=gamma(recipe, x)).fit(x, rows.y).predict(unseen.astype(np.float64))
    found = fit(recipe, TEN, rows).predict(TEN, unseen).argmax(axis=1)
    assert (found == expected).mean() >= 0.97


def test_two_classes_of_support_vectors_are_scikit_learns():
    rows, unseen = digits()
    recipe, y = Recipe("rbf", 1.0, 0.3), rows.y % 2
    x = rows.x.astype(np.float64)
    expected = SVC(C=1.0, gamma=gamma(recipe, x)).fit(x, y).decision_function(unseen.astype(np.float64))
    found = fit(recipe, TWO, Rows(rows.x, y)).outputs(TWO, unseen)
    np.testing.assert_allclose(found[:, 0], expected, atol=1e-9)


def test_support_vector_regression_is_scikit_learns():
    rows, unseen = digits()
    value = Rows(rows.x, rows.y.astype(np.float64))
    task, recipe = Regression.fitted(value.y), Recipe("rbf", 10.0, 1.0)
    x = rows.x.astype(np.float64)
    model = SVR(C=10.0, gamma=gamma(recipe, x)).fit(x, task.targets(value.y).astype(np.float64))
    expected = model.predict(unseen.astype(np.float64)) * task.scale + task.centre
    np.testing.assert_allclose(fit(recipe, task, value).predict(task, unseen), expected, atol=1e-9)


SAME = {"learning_rate": 0.1, "max_leaf_nodes": 15, "early_stopping": False, "random_state": 0}


@pytest.mark.parametrize("classes", [2, 10])
def test_boosted_trees_are_scikit_learns(classes):
    rows, unseen = digits()
    task, y = (TEN, rows.y) if classes == 10 else (TWO, rows.y % 2)
    iterations = 60 if classes == 10 else 100
    model = HistGradientBoostingClassifier(max_iter=iterations, min_samples_leaf=20, **SAME).fit(rows.x, y)
    found = fit(Recipe("trees", 0.1, 20), task, Rows(rows.x, y)).predict(task, unseen)
    np.testing.assert_allclose(found, model.predict_proba(unseen), atol=1e-9)


def test_boosted_trees_of_a_value_are_scikit_learns():
    rows, unseen = digits()
    value = Rows(rows.x, rows.y.astype(np.float64))
    task = Regression.fitted(value.y)
    model = HistGradientBoostingRegressor(max_iter=100, min_samples_leaf=5, **SAME)
    model.fit(rows.x, task.targets(value.y).astype(np.float64))
    expected = model.predict(unseen) * task.scale + task.centre
    np.testing.assert_allclose(fit(Recipe("trees", 0.1, 5), task, value).predict(task, unseen), expected, atol=1e-9)


@pytest.mark.parametrize("recipe", GRID, ids=str)
def test_every_recipe_fits_twenty_rows_of_ten_classes_some_with_one_row(recipe):
    """warnings are errors here"""
    random = np.random.default_rng(3)
    y = np.array([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, *[8] * 3, *[9] * 7], dtype=np.int64)
    model = fit(recipe, TEN, Rows(random.normal(size=(20, 64)).astype(np.float32), y))
    predicted = model.predict(TEN, random.normal(size=(5, 64)).astype(np.float32))
    assert predicted.shape == (5, 10)
    np.testing.assert_allclose(predicted.sum(axis=1), 1.0)


@pytest.mark.parametrize("recipe", GRID, ids=str)
@pytest.mark.parametrize("present", [[4], [2, 7], [1, 5, 8]], ids=str)
def test_labels_that_fitting_never_saw_are_possible_and_unlikely(recipe, present):
    random = np.random.default_rng(4)
    y = np.array(present * 8, dtype=np.int64)
    x = (random.normal(size=(len(y), 6)) + 2 * y[:, None]).astype(np.float32)
    predicted = fit(recipe, TEN, Rows(x, y)).predict(TEN, x)
    others = np.delete(predicted, present, axis=1)
    assert (others > 0).all() and (others.max(axis=1) < predicted[:, present].max(axis=1)).all()


@pytest.mark.parametrize("recipe", GRID, ids=str)
def test_rows_of_one_label_or_value_are_learned_as_such(recipe):
    x = np.random.default_rng(5).normal(size=(12, 3)).astype(np.float32)
    for label in (0, 1):
        rows = Rows(x, np.full(12, label))
        assert score(TWO, fit(recipe, TWO, rows).predict(TWO, x), rows.y) == 1.0
    constant = Rows(x, np.full(12, 7.5))
    task = Regression.fitted(constant.y)
    np.testing.assert_allclose(fit(recipe, task, constant).predict(task, x), 7.5)


@pytest.mark.parametrize("recipe", GRID, ids=str)
def test_constant_columns_do_no_harm(recipe):
    rows = Rows(np.zeros((12, 3), np.float32), np.arange(12) % 2)
    assert np.isfinite(fit(recipe, TWO, rows).predict(TWO, rows.x)).all()


def test_a_value_on_the_threshold_goes_left():
    """one tree: x ≤ 2 gives 10, else 20; plus the offset 1"""
    arrays = {
        "feature": np.zeros((1, 3), np.int32),
        "threshold": np.array([[2.0, 0.0, 0.0]]),
        "left": np.array([[1, 1, 2]], np.int32),
        "right": np.array([[2, 1, 2]], np.int32),
        "value": np.array([[0.0, 10.0, 20.0]]),
        "offset": np.array([1.0]),
    }
    x = np.array([[1.0], [2.0], [2.5]], np.float32)
    assert Model("trees", arrays).predict(Regression(0.0, 1.0), x).tolist() == [11.0, 11.0, 21.0]


def test_votes_of_clear_margins_rank_classes_by_pairs_won():
    """three classes, pairs (0,1), (0,2), (1,2): 0 beats both, 1 beats 2"""
    scores = one_against_rest(np.array([[2.0, 2.0, 2.0]]))
    assert scores.argsort(axis=1).tolist() == [[2, 1, 0]]


def test_one_logit_of_two_labels_among_many_stands_for_the_second():
    full = spread(Classification(("a", "b", "c")), np.array([[1.5]]), np.array([0, 2]))
    np.testing.assert_allclose(full, [[0.0, -3.0, 1.5]])


def test_an_unknown_or_foreign_model_is_refused():
    with pytest.raises(ForeignState, match="unknown kind"):
        Model("oracle", {}).outputs(TWO, np.zeros((1, 2), np.float32))
    with pytest.raises(ForeignState, match="does not fit"):
        Model("linear", {"weight": np.zeros((1, 3)), "bias": np.zeros(1)}).outputs(TWO, np.zeros((1, 2), np.float32))


def test_temperature_softens_labels_and_leaves_values_alone():
    rows = Rows(np.array([[1.0], [-1.0]], np.float32), np.array([0, 1]))
    model = fit(Recipe("linear", 10.0), TWO, rows)
    soft = Model(model.kind, model.arrays, 4.0)
    np.testing.assert_allclose(soft.outputs(TWO, rows.x) * 4, model.outputs(TWO, rows.x))
    task = Regression(0.0, 1.0)
    value = Model("constant", {"values": np.array([3.0])}, 4.0)
    assert value.predict(task, rows.x).tolist() == [3.0, 3.0]


def test_many_rows_are_predicted_in_blocks_and_no_rows_as_none():
    model = Model("constant", {"values": np.array([3.0])})
    task = Regression(0.0, 1.0)
    assert model.predict(task, np.zeros((10_000, 1), np.float32)).shape == (10_000,)
    assert model.predict(task, np.zeros((0, 1), np.float32)).shape == (0,)
