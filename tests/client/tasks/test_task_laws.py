"""What holds for every kind of task: records, chance, losses that mean the same to the network and to the guard."""

import json
import math

import numpy as np
import pytest
import torch

from commonroot.client.tasks import (
    TASKS,
    Anomaly,
    Binary,
    Classification,
    Fault,
    Forecast,
    Inventory,
    Life,
    Multilabel,
    Rating,
    Recommendation,
    Regression,
    Tagging,
    score,
    task_from_json,
)

RANDOM = np.random.default_rng(11)
LENGTH = 7


def examples():
    """(task, y) of every kind, twelve rows each"""
    forecast = Forecast.learn(
        Forecast.Config(kind="forecast", under_cost=3, over_cost=1), RANDOM.normal(20.0, 4.0, size=(40, 3))
    )
    weights = (0.5, 3.0, 1.0)
    tags = np.array(RANDOM.integers(0, 5, size=(12, LENGTH)))
    tags[:, 5:] = -1
    return [
        (Binary(("no", "yes")), np.arange(12) % 2),
        (Binary(("no", "yes"), (0.6, 3.0), "AUC"), np.arange(12) % 2),
        (Classification(("a", "b", "c")), np.arange(12) % 3),
        (Classification(("a", "b", "c"), weights, "balanced accuracy"), np.arange(12) % 3),
        (Fault(("fine", "leak", "wear"), weights, "balanced accuracy", "fine"), np.arange(12) % 3),
        (Multilabel(("x", "y")), (RANDOM.random((12, 2)) > 0.5).astype(float)),
        (Multilabel(("x", "y"), ",", ((0.5, 5.0), (1.0, 1.0))), (RANDOM.random((12, 2)) > 0.5).astype(float)),
        (Regression(10.0, 2.0), RANDOM.normal(10.0, 2.0, 12)),
        (Regression(10.0, 2.0, (-1.0, 2.0), "RMSE"), RANDOM.normal(10.0, 2.0, 12)),
        (Rating(3.5, 1.0, None, 1.0, 5.0, (True, True)), RANDOM.uniform(1, 5, 12)),
        (Recommendation(3.5, 1.0, None, 1.0, 5.0, (True, True)), RANDOM.uniform(1, 5, 12)),
        (Life(80.0, 40.0), RANDOM.uniform(0, 125, 12)),
        (forecast, RANDOM.normal(20.0, 4.0, size=(12, 3))),
        (Anomaly(width=4, spread=2.0), np.arange(12) % 2),
        (Tagging(("O", "B-PER", "I-PER", "B-LOC", "I-LOC"), LENGTH), tags),
    ]


EXAMPLES = examples()
NAMES = [f"{task.kind}-{at}" for at, (task, _) in enumerate(EXAMPLES)]
every = pytest.mark.parametrize(("task", "y"), EXAMPLES, ids=NAMES)
each_that_reads_y = pytest.mark.parametrize(
    ("task", "y"), [one for one in EXAMPLES if not one[0].reconstructs], ids=[n for n in NAMES if "anomaly" not in n]
)


def outputs_of(task, n=12, seed=3):
    shape = (n, LENGTH, task.outputs) if task.per_token else (n, task.outputs)
    return (0.3 * np.random.default_rng(seed).normal(size=shape)).astype(np.float32)


def predicted_of(task, seed=3):
    outputs = outputs_of(task, seed=seed)
    return task.predictive(outputs[:, :1] if task.reconstructs else outputs)


def test_every_kind_is_among_the_examples():
    assert {task.kind for task, _ in EXAMPLES} == set(TASKS)


@every
def test_a_task_comes_back_from_its_record(task, y):
    record = json.loads(json.dumps(task.to_json(), allow_nan=False))
    assert task_from_json(record) == task and TASKS[task.kind] is type(task)


@each_that_reads_y
def test_the_mean_of_row_losses_is_the_training_loss_over_chance(task, y):
    """so the guard compares what training lowers; clipping of predictions apart, which cannot raise a loss"""
    outputs = outputs_of(task)
    if isinstance(task, Forecast):  # ascending, as predicted ones are
        outputs = np.sort(outputs.reshape(12, 3, -1), axis=2).reshape(12, -1)
    trained = float(task.loss(torch.from_numpy(outputs), torch.from_numpy(task.targets(y)))) / task.chance
    assert task.row_losses(task.predictive(outputs), y).mean() == pytest.approx(trained, rel=1e-5)


@every
def test_a_loss_has_a_gradient_for_every_output(task, y):
    outputs = torch.from_numpy(outputs_of(task)).requires_grad_()
    goal = RANDOM.normal(size=(12, 4)).astype(np.float32) if task.reconstructs else y
    (found,) = torch.autograd.grad(task.loss(outputs, torch.from_numpy(task.targets(goal))), [outputs])
    assert torch.isfinite(found).all() and float(found.abs().sum()) > 0


@every
def test_counting_a_row_twice_is_having_it_twice(task, y):
    predicted = predicted_of(task)
    counts = RANDOM.integers(0, 3, size=(4, 12)).astype(np.float64)
    counts[:, :2] = 1.0  # never empty
    found = task.scores(predicted, y, counts)
    for line, value in zip(counts, found, strict=True):
        at = np.repeat(np.arange(12), line.astype(int))
        assert value == pytest.approx(score(task, predicted[at], y[at]), abs=1e-12)


@every
def test_columns_have_a_cell_for_every_row_and_facts_are_json(task, y):
    predicted = predicted_of(task)
    fitted = task.calibrated(np.repeat(predicted, 4, axis=0), np.repeat(y, 4, axis=0))
    for columns in (task.columns(predicted), fitted.columns(predicted)):
        assert columns and all(len(values) == 12 for values in columns.values())
    for told in (fitted.facts(predicted, y), fitted.plot(predicted, y), fitted.to_json()):
        json.dumps(told, allow_nan=False)
    assert fitted.plot(predicted, y)["kind"]


@every
def test_averages_of_predictions_are_predictions(task, y):
    one, other = predicted_of(task, 3), predicted_of(task, 4)
    mean = (one + other) / 2
    assert np.isfinite(task.row_losses(mean, y)).all() and np.isfinite(score(task, mean, y))


@every
def test_the_truth_scores_best_and_in_the_right_direction(task, y):
    random = predicted_of(task)
    truth = true_prediction(task, y)
    if task.better == "higher":
        assert score(task, truth, y) == pytest.approx(1.0) and task.unit == "points"
    else:
        assert score(task, truth, y) == pytest.approx(0.0, abs=1e-9) and task.unit == "%"
    assert task.row_losses(truth, y).mean() < task.row_losses(random, y).mean()


def true_prediction(task, y):
    if task.learns == "label":
        return np.eye(len(task.labels))[y]
    if task.learns == "tokens":
        return np.eye(task.outputs)[np.maximum(y, 0)]
    if task.learns == "values":
        return np.repeat(y[:, :, None], len(task.quantiles), axis=2)
    return np.where(y == 1, 5.0, -5.0) if task.learns == "itself" else np.asarray(y, dtype=np.float64)


def test_knowing_nothing_costs_the_chance_loss():
    """logit 0 of each label: log 2; uniform over 5 tags: log 5 whatever is masked; the mean of values: 1"""
    flags, y = Multilabel(("x", "y", "z")), np.eye(3)
    assert float(flags.loss(torch.zeros(3, 3), torch.from_numpy(flags.targets(y)))) == pytest.approx(math.log(2))
    tags = Tagging(("O", "B-A", "I-A", "B-B", "I-B"), 2)
    marked = torch.from_numpy(np.array([[0, 1], [4, -1]]))
    assert float(tags.loss(torch.zeros(2, 2, 5), marked)) == pytest.approx(math.log(5)) == tags.chance
    values = np.array([0.0, 50.0, 100.0])
    life = Life.learn(Life.Config(kind="life"), values)
    assert float(life.loss(torch.zeros(3, 1), torch.from_numpy(life.targets(values)))) == pytest.approx(1.0)


def test_the_chance_of_an_anomaly_task_is_the_loss_of_the_mean():
    """columns of deviation 1 and 3: mean square (1 + 9)/2 = 5 about their mean"""
    x = np.array([[1.0, 5.0], [-1.0, -1.0]], np.float32)  # means 0 and 2
    task = Anomaly().fitted_to(x)
    mean = torch.tensor([[0.0, 2.0], [0.0, 2.0]])
    assert task.chance == pytest.approx(5.0)
    assert float(task.loss(mean, torch.from_numpy(task.targets(x)))) == pytest.approx(task.chance)


def test_the_chance_of_a_forecast_is_the_loss_of_each_steps_quantiles():
    """the training quantiles of each step, told for every row, lose exactly chance"""
    y = np.random.default_rng(5).gamma(2.0, 10.0, size=(60, 4)) * np.array([1, 2, 3, 4])
    task = Forecast.learn(Forecast.Config(kind="forecast"), y)
    guess = np.broadcast_to(np.quantile(y, task.quantiles, axis=0).T[None], (60, 4, 3))
    assert task.row_losses(guess, y).mean() == pytest.approx(1.0)
    worse = guess + 5.0
    assert task.row_losses(worse, y).mean() > 1.0


def test_a_row_without_labelled_tokens_costs_nothing_and_divides_by_nothing():
    task = Tagging(("O", "B-A"), 3)
    y = np.full((2, 3), -1)
    assert float(task.loss(torch.zeros(2, 3, 2), torch.from_numpy(y))) == 0.0
    assert task.row_losses(np.full((2, 3, 2), 0.5), y).tolist() == [0.0, 0.0]


def test_the_order_of_costs_in_a_record_is_under_then_over():
    task = next(task for task, _ in EXAMPLES if task.kind == "forecast")
    assert task.to_json()["costs"] == [3.0, 1.0] and task.inventory == Inventory(3.0, 1.0)
