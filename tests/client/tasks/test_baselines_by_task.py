"""Baselines of every kind of task: as strong as scikit-learn's own, as arrays, on rows of any shape and number."""

import numpy as np
import pytest
from sklearn.covariance import LedoitWolf
from sklearn.decomposition import PCA
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor, IsolationForest
from sklearn.feature_extraction.text import TfidfTransformer
from sklearn.linear_model import LogisticRegression, Ridge
from threadpoolctl import threadpool_limits

from commonroot.client import baselines
from commonroot.client.baselines import GRID, Recipe, bounded, fit, recipes
from commonroot.client.data import Rows
from commonroot.client.models import Model
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
    Tagging,
    score,
    task_config,
)

RANDOM = np.random.default_rng(21)


@pytest.fixture(autouse=True)
def one_thread():
    with threadpool_limits(limits=1):
        yield


def texts(n=120, length=12, seed=1):
    """ids 1 … 9 are noise; 10 speaks for the second label, 11 for the third"""
    random = np.random.default_rng(seed)
    x = random.integers(1, 10, size=(n, length)).astype(np.int32)
    y = np.arange(n) % 3
    x[:, -1] = np.where(y > 0, 9 + y, x[:, -1])
    x[:, : length // 3] = np.where(random.random((n, 1)) < 0.5, 0, x[:, : length // 3])  # padding
    return Rows(x, y.astype(np.int64))


def series(n=90, steps=8, season=4, seed=2):
    """a period of four, rising, in the second of two channels; the next five values follow"""
    random = np.random.default_rng(seed)
    time = np.arange(n)[:, None] + np.arange(steps + 5)
    whole = 10.0 + 4.0 * (time % season) + random.normal(0, 0.3, size=time.shape)
    x = np.stack([random.normal(size=(n, steps)), (whole[:, :steps] - 16.0) / 4.5], axis=2).astype(np.float32)
    return Rows(x, whole[:, steps:])


def forecast(rows, **fields):
    return Forecast.learn(task_config({"kind": "forecast", "season": 4, "channel": 1, **fields}), rows.y)


# -- ordinary rows -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("recipe", [GRID[1], GRID[5], GRID[-1]], ids=str)
def test_balanced_weights_reach_every_recipe(recipe):
    """19 of 20 rows are of one label; unweighted, nobody says the other"""
    x = RANDOM.normal(size=(200, 2)).astype(np.float32)
    y = (np.arange(200) % 20 == 0).astype(np.int64)
    x[y == 1] += 0.8
    plain, even = Binary(("no", "yes")), Binary(("no", "yes"), (200 / 380, 10.0), "balanced accuracy")
    said = [fit(recipe, task, Rows(x, y)).predict(task, x)[:, 1].mean() for task in (plain, even)]
    assert said[1] > 1.25 * said[0]


def test_rows_of_any_shape_are_flattened():
    images = RANDOM.normal(size=(40, 1, 4, 4)).astype(np.float32)
    y = (images.mean(axis=(1, 2, 3)) > 0).astype(np.int64)
    task = Binary(("no", "yes"))
    flat = fit(GRID[2], task, Rows(images.reshape(40, 16), y)).predict(task, images.reshape(40, 16))
    np.testing.assert_array_equal(fit(GRID[2], task, Rows(images, y)).predict(task, images), flat)


def test_many_rows_are_thinned_and_wide_rows_more():
    rows = Rows(np.arange(60_000.0, dtype=np.float32)[:, None], np.arange(60_000))
    kept = bounded(rows)
    assert len(kept) == baselines.MOST_ROWS and (np.diff(kept.y) > 0).all()
    assert (
        bounded(Rows(rows.x[:100], rows.y[:100])).y is not None
        and len(bounded(Rows(rows.x[:100], rows.y[:100]))) == 100
    )
    wide = Rows(np.zeros((300, 10, 10_000), np.float32), np.arange(300))
    assert len(bounded(wide)) == baselines.MOST_NUMBERS // 100_000
    np.testing.assert_array_equal(bounded(rows).y, kept.y)


def test_boosted_trees_are_tried_where_they_can_grow_and_be_done():
    """leaves of 20 need 40 rows; 64 rows allow 8 · 64 columns, and 2,048 are too many for any"""

    def leaves(*shape):
        return {recipe.width for recipe in recipes(Regression(0.0, 1.0), np.zeros(shape)) if recipe.kind == "trees"}

    assert leaves(40, 13) == {5, 20} and leaves(39, 13) == {5} and leaves(9, 13) == set()
    assert leaves(64, 512) == leaves(64, 8, 8, 8) == {5, 20} and leaves(64, 513) == set()
    assert leaves(300, 2048) == {5, 20} and leaves(300, 2049) == set()


def test_ratings_and_lives_are_also_held_against_the_mean():
    x = np.zeros((40, 2), np.float32)
    for task in (Rating(3.0, 1.0), Life(50.0, 10.0)):
        assert recipes(task, x)[-1].kind == "constant" and recipes(task, x)[:-1] == GRID
    task = Rating(3.0, 2.0, None, 1.0, 5.0)
    model = fit(Recipe("constant"), task, Rows(x[:4], np.array([1.0, 2.0, 4.0, 5.0])))
    assert model.predict(task, x[:4]).tolist() == [3.0] * 4
    assert recipes(Regression(0.0, 1.0), x) == GRID == recipes(Fault(("a", "b")), x)


# -- texts -------------------------------------------------------------------------------------------------------------


def test_words_are_weighted_as_scikit_learn_does_on_roots_of_counts():
    rows = texts()
    task = Classification(("a", "b", "c"))
    assert {recipe.kind for recipe in recipes(task, rows.x)} == {"bag", "constant"}
    model = fit(Recipe("bag", 0.1), task, rows)
    counts = np.stack([np.bincount(row, minlength=12) for row in rows.x]).astype(float)
    counts[:, 0] = 0
    spread = np.log(121 / (1 + (counts > 0).sum(axis=0))) + 1
    x = np.sqrt(counts) * spread
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    weighted = TfidfTransformer(smooth_idf=True).fit(counts)
    np.testing.assert_allclose(weighted.idf_[1:], spread[1:])
    expected = LogisticRegression(C=1.0, max_iter=500).fit(x, rows.y).predict_proba(x)
    np.testing.assert_allclose(model.predict(task, rows.x), expected, atol=1e-3)
    assert score(task, fit(Recipe("bag", 10.0), task, rows).predict(task, texts(seed=5).x), texts(seed=5).y) > 0.95


def test_unknown_words_and_empty_texts_get_an_answer():
    task = Classification(("a", "b", "c"))
    model = fit(Recipe("bag", 1.0), task, texts())
    strange = np.array([[999, 10**6, 5, 0], [0, 0, 0, 0]], np.int32)
    predicted = model.predict(task, strange)
    np.testing.assert_allclose(predicted.sum(axis=1), 1.0)
    bias = np.asarray(model.arrays["bias"])
    np.testing.assert_allclose(predicted[1], np.exp(bias) / np.exp(bias).sum(), rtol=1e-6)


def test_words_tell_values_and_several_labels_too():
    rows = texts()
    value = Rows(rows.x, rows.y * 2.0 + 1.0)
    task = Rating(3.0, np.sqrt(8 / 3), None, 1.0, 5.0)
    found = fit(Recipe("bag", 10.0), task, value).predict(task, rows.x)
    assert score(Regression(3.0, 1.0), found, value.y) > 0.9
    flags = Multilabel(("second", "third", "never"))
    y = np.stack([rows.y == 1, rows.y == 2, np.zeros(len(rows))], axis=1).astype(float)
    model = fit(Recipe("bag", 10.0), flags, Rows(rows.x, y))
    assert model.kind == "bag" and score(flags, model.predict(flags, rows.x), y) == 1.0


def test_a_token_is_tagged_by_its_neighbours():
    """the token after 7 is an entity and goes on where 8 follows; only neighbours say so"""
    random = np.random.default_rng(3)
    x = random.integers(1, 7, size=(80, 10)).astype(np.int32)
    y = np.zeros((80, 10), np.int64)
    at = random.integers(0, 7, 80)
    rows = np.arange(80)
    x[rows, at], y[rows, at + 1] = 7, 1
    longer = rows % 2 == 0
    x[rows[longer], at[longer] + 2], y[rows[longer], at[longer] + 2] = 8, 2
    y[:, 9], x[:, 9] = -1, 0
    task = Tagging(("O", "B-X", "I-X", "B-Y"), 10)
    model = fit(recipes(task, x)[-1], task, Rows(x, y))
    predicted = model.predict(task, x)
    assert predicted.shape == (80, 10, 4) and score(task, predicted, y) > 0.99
    assert 0 < predicted[:, :9, 3].max() < 0.2  # a tag without any token is possible and unlikely
    floats = np.eye(9, dtype=np.float32)[x]
    dense = fit(Recipe("window", 10.0), task, Rows(floats, y)).predict(task, floats)
    assert score(task, dense, y) > 0.99


@pytest.mark.parametrize("tags", [np.zeros((6, 4), np.int64), np.full((6, 4), -1)], ids=["one tag", "none"])
def test_texts_of_one_tag_or_none_are_learned_as_such(tags):
    task = Tagging(("O", "B-X"), 4)
    x = np.ones((6, 4), np.int32)
    predicted = fit(Recipe("window", 1.0), task, Rows(x, tags)).predict(task, x)
    assert predicted.shape == (6, 4, 2) and (predicted[..., 0] >= 0.5).all()


def test_two_tags_are_two_lines():
    x = np.tile(np.array([[1, 2, 1, 2]], np.int32), (20, 1))
    task = Tagging(("O", "B-X"), 4)
    y = np.where(x == 2, 1, 0)
    assert score(task, fit(Recipe("window", 10.0), task, Rows(x, y)).predict(task, x), y) == 1.0


# -- several labels ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("recipe", [Recipe("linear", 1.0), Recipe("trees", 0.1, 5)], ids=str)
def test_each_label_is_scikit_learns_own_model(recipe):
    x = RANDOM.normal(size=(80, 3)).astype(np.float32)
    y = np.stack([x[:, 0] > 0, np.ones(80), x[:, 1] + x[:, 2] > 0, np.zeros(80)], axis=1).astype(float)
    task = Multilabel(tuple("abcd"))
    found = fit(recipe, task, Rows(x, y)).predict(task, x)
    for at in (0, 2):
        if recipe.kind == "linear":
            model = LogisticRegression(C=1.0, max_iter=500).fit(x.astype(float), y[:, at])
        else:
            options = {"learning_rate": 0.1, "max_iter": 100, "max_leaf_nodes": 15, "min_samples_leaf": 5}
            model = HistGradientBoostingClassifier(early_stopping=False, random_state=0, **options).fit(x, y[:, at])
        np.testing.assert_allclose(found[:, at], model.predict_proba(x)[:, 1], atol=1e-6)
    assert (found[:, 1] > 0.9).all() and (found[:, 3] < 0.1).all()


# -- forecasts ---------------------------------------------------------------------------------------------------------


def test_the_seasonal_baseline_repeats_the_period():
    """x is standardised, so the value one season before is read through a slope and an offset: 4.5 and 16"""
    rows = series()
    task = forecast(rows)
    model = fit(Recipe("seasonal"), task, rows)
    weight = np.asarray(model.arrays["weight"])
    assert [int(np.flatnonzero(line)[0]) for line in weight] == [9, 11, 13, 15, 9]  # channel 1 of steps 4 5 6 7 4
    assert weight.max() * task.scale == pytest.approx(4.5, rel=0.02)
    median = task.at(model.predict(task, rows.x), 0.5)
    assert np.abs(median - rows.y).mean() < 0.5


def test_quantiles_of_a_point_forecast_are_those_of_held_out_residuals():
    rows = series(n=400)
    task = forecast(rows)
    for recipe in (Recipe("seasonal"), Recipe("linear", 1.0), Recipe("trees", 0.1, 20)):
        held = series(n=400, seed=9)
        facts = task.facts(fit(recipe, task, rows).predict(task, held.x), held.y)
        for line in facts["below"]:
            assert line["held"] == pytest.approx(line["quantile"], abs=0.12)


def test_linear_and_boosted_steps_are_scikit_learns():
    rows = series(n=60)
    task = forecast(rows)
    flat, goal = rows.x.reshape(60, -1).astype(float), task.targets(rows.y).astype(float)
    for recipe, model in (
        (Recipe("linear", 1.0), Ridge(alpha=10.0)),
        (
            Recipe("trees", 0.1, 20),
            HistGradientBoostingRegressor(
                learning_rate=0.1, max_leaf_nodes=15, min_samples_leaf=20, early_stopping=False, random_state=0
            ),
        ),
    ):
        stored = fit(recipe, task, rows)
        plain = Model(stored.kind, {**stored.arrays, "residual": np.zeros((5, 3))})
        found = plain.outputs(task, rows.x).reshape(60, 5, 3)[:, :, 0]
        for step in range(5):
            expected = model.fit(flat, goal[:, step]).predict(flat)
            np.testing.assert_allclose(found[:, step], expected, atol=1e-8)


def test_a_series_too_short_for_a_season_has_no_seasonal_baseline():
    rows = series()
    kinds = [recipe.kind for recipe in recipes(forecast(rows, season=9), rows.x)]
    assert "seasonal" not in kinds and kinds.count("linear") == 4 and "trees" in kinds
    assert "seasonal" not in [recipe.kind for recipe in recipes(forecast(rows, channel=2), rows.x)]
    assert [recipe.kind for recipe in recipes(forecast(rows), rows.x.astype(np.int32))] == ["constant"]


def test_the_constant_forecast_is_the_training_quantiles():
    rows = series()
    task = forecast(rows)
    said = fit(Recipe("constant"), task, rows).predict(task, rows.x[:1])
    np.testing.assert_allclose(said[0], np.quantile(rows.y, task.quantiles, axis=0).T, rtol=1e-5)


# -- anomalies ---------------------------------------------------------------------------------------------------------


def normal_rows(n=300):
    hidden = RANDOM.normal(size=(n, 2))
    return (hidden @ RANDOM.normal(size=(2, 6)) + 0.05 * RANDOM.normal(size=(n, 6))).astype(np.float32)


def test_principal_components_are_scikit_learns():
    x = normal_rows()
    task = Anomaly().fitted_to(x)
    model = fit(Recipe("projection", 0.95), task, Rows(x, np.zeros(300, np.int64)))
    assert len(model.arrays["directions"]) == 2
    pca = PCA(n_components=2).fit(x.astype(float))
    back = pca.inverse_transform(pca.transform(x.astype(float)))
    expected = np.log(np.square(back - x).mean(axis=1))
    np.testing.assert_allclose(model.outputs(task, x)[:, 0], expected, atol=1e-5)


def test_one_column_is_held_against_its_mean():
    """no direction may explain everything"""
    x = RANDOM.normal(size=(50, 1)).astype(np.float32)
    task = Anomaly().fitted_to(x)
    model = fit(Recipe("projection", 0.95), task, Rows(x, np.zeros(50, np.int64)))
    expected = np.log(np.square(x[:, 0] - x.mean()))
    np.testing.assert_allclose(model.outputs(task, x)[:, 0], expected, atol=1e-4)


def test_the_distance_by_covariance_is_scikit_learns():
    x = normal_rows()
    task = Anomaly().fitted_to(x)
    model = fit(Recipe("distance"), task, Rows(x, np.zeros(300, np.int64)))
    expected = np.log(LedoitWolf().fit(x.astype(float)).mahalanobis(x.astype(float)))
    np.testing.assert_allclose(model.outputs(task, x)[:, 0], expected, atol=1e-6)


def test_a_column_that_never_varied_may_vary_later():
    """(0.1 / 1e-6)², floored by the least share of the greatest variance: far away, and finite"""
    x = np.concatenate([normal_rows(), np.ones((300, 1), np.float32)], axis=1)
    task = Anomaly().fitted_to(x)
    model = fit(Recipe("distance"), task, Rows(x, np.zeros(300, np.int64)))
    moved = x.copy()
    moved[:, -1] += 1.0
    assert (model.outputs(task, moved) > model.outputs(task, x)).all()
    assert np.isfinite(model.outputs(task, moved)).all()


def test_rows_too_wide_for_a_covariance_are_not_measured_by_one():
    task = Anomaly().fitted_to(np.zeros((2, 2000), np.float32))
    assert "distance" not in {recipe.kind for recipe in recipes(task, np.zeros((2, 2000), np.float32))}
    assert "distance" in {recipe.kind for recipe in recipes(task, np.zeros((2, 10, 8), np.float32))}


def test_the_isolation_forest_is_scikit_learns():
    x = normal_rows()
    task = Anomaly().fitted_to(x)
    model = fit(Recipe("isolation", 100, 256), task, Rows(x, np.zeros(300, np.int64)))
    expected = IsolationForest(n_estimators=100, max_samples=256, random_state=0).fit(x).score_samples(x)
    np.testing.assert_allclose(model.outputs(task, x)[:, 0], np.log(-expected), atol=1e-9)


def test_known_anomalies_do_not_move_a_baseline():
    x = normal_rows(100)
    task = Anomaly().fitted_to(x)
    spoilt = np.concatenate([x, np.full((20, 6), 50.0, np.float32)])
    y = np.repeat([0, 1], [100, 20])
    for recipe in recipes(task, x):
        clean = fit(recipe, task, Rows(x, np.zeros(100, np.int64))).outputs(task, x)
        np.testing.assert_array_equal(fit(recipe, task, Rows(spoilt, y)).outputs(task, x), clean)
