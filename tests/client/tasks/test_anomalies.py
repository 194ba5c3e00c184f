"""Anomalies: what is trained on, where the threshold lies, how models are compared where nobody labelled anything."""

import math

import numpy as np
import polars as pl
import pytest

from commonroot.client.data import Rows, judged, learnable
from commonroot.client.tasks import Anomaly, Where, task_config
from commonroot.client.tasks.anomaly import FEWEST_ANOMALIES, reference_rows
from commonroot.common.errors import ConfigError, DataError

TASK = Anomaly(width=2)


def tied(n=400, seed=1):
    """two columns that are nearly one"""
    first = np.random.default_rng(seed).normal(size=(n, 1))
    return np.concatenate([first, first + 0.1 * np.random.default_rng(seed + 1).normal(size=(n, 1))], axis=1)


def test_targets_mean_anomaly_normal_or_unknown():
    task = Anomaly()
    for values in ([1, 0, None, -1], [1.0, 0.0, None, -1.0], [True, False, None, None], ["1", "0", "", "-1"]):
        assert task.encode(pl.DataFrame({"a": values}), Where())[0].tolist() == [1, 0, -1, -1]
    named = Anomaly.learn(task_config({"kind": "anomaly", "anomalous": ["Leak"]}), np.array(["leak", "fine"]))
    assert named.encode(np.array([" LEAK", "fine", ""]), Where())[0].tolist() == [1, 0, -1]


def test_a_target_of_nothing_but_unknown_rows_is_no_label():
    assert not Anomaly.learn(task_config("anomaly"), np.full(5, -1)).labelled
    assert Anomaly.learn(task_config("anomaly"), np.zeros(5)).labelled
    with pytest.raises(DataError, match="every training row"):
        Anomaly.learn(task_config("anomaly"), np.ones(5))


def test_known_anomalies_are_not_trained_on():
    rows = Rows(np.arange(8.0, dtype=np.float32).reshape(4, 2), np.array([0, 1, -1, 0]))
    assert learnable(TASK, rows).x[:, 0].tolist() == [0.0, 4.0, 6.0]


def test_a_score_is_the_log_of_the_error_over_the_threshold():
    """errors (1 + 0)/2 and (9 + 9)/2 against a threshold of 1: log ½ and log 9"""
    x = np.zeros((2, 2), np.float32)
    settled = TASK.settled(np.array([[1.0, 0.0], [3.0, -3.0]]), x)
    assert TASK.predictive(settled).tolist() == pytest.approx([math.log(0.5), math.log(9.0)])


def test_the_threshold_is_the_quantile_of_normal_rows():
    outputs = np.concatenate([np.arange(101.0), [500.0]])[:, None]
    y = np.append(np.zeros(101, np.int64), 1)
    assert TASK.shift(outputs, y) == pytest.approx(99.0)
    assert Anomaly(quantile=0.9, width=2).shift(outputs, y) == pytest.approx(90.0)


def test_enough_known_anomalies_judge_by_themselves():
    y = np.repeat([0, 1, -1], FEWEST_ANOMALIES)
    rows = judged(TASK, Rows(np.arange(2.0 * len(y)).reshape(-1, 2), y), seed=1)
    assert rows.y.tolist() == [0] * FEWEST_ANOMALIES + [1] * FEWEST_ANOMALIES


def test_too_few_known_anomalies_are_joined_by_reference_rows():
    """30 normal, 10 unknown, 2 anomalies: 40 taken for normal, 2 + 40 to be told apart"""
    y = np.repeat([0, -1, 1], [30, 10, 2])
    rows = judged(TASK, Rows(tied(42), y), seed=1)
    assert (rows.y == 0).sum() == 40 and (rows.y == 1).sum() == 42
    np.testing.assert_array_equal(rows.x, judged(TASK, Rows(tied(42), y), seed=1).x)


def test_reference_rows_keep_the_marginals_and_lose_the_tie():
    """odd rows are only shuffled, column by column; even ones stretched by 2 about the mean as well"""
    x = tied()
    made = reference_rows(x, np.random.default_rng(3))
    plain = made[1::2]
    assert abs(np.corrcoef(plain.T)[0, 1]) < 0.2 < np.corrcoef(x.T)[0, 1]
    assert np.isin(plain[:, 0], x[:, 0]).all() and np.isin(plain[:, 1], x[:, 1]).all()
    assert made[::2].std() == pytest.approx(2 * x.std(), rel=0.1)


@pytest.mark.parametrize("shape", [(12, 3), (12, 8, 2), (12, 8, 1), (12, 3, 4, 4), (12, 1, 4, 4)], ids=str)
def test_reference_rows_have_the_shape_of_rows(shape):
    x = np.random.default_rng(1).normal(size=shape).astype(np.float32)
    made = reference_rows(x, np.random.default_rng(2))
    assert made.shape == shape and made.dtype == x.dtype
    assert not np.allclose(made, x)


def test_a_channel_keeps_its_course_in_time():
    """a channel of a sequence moves as a whole: its steps stay those of one row"""
    x = np.random.default_rng(1).normal(size=(20, 6, 2))
    made = reference_rows(x, np.random.default_rng(2))[1]
    for channel in range(2):
        assert any(np.array_equal(made[:, channel], row[:, channel]) for row in x)


def test_a_better_model_loses_less_against_reference_rows():
    """the direction that rows have, against a direction that they have not"""
    rows = judged(TASK, Rows(tied(), np.full(400, -1)), seed=1)
    losses = []
    for direction in (np.array([1.0, 1.0]), np.array([1.0, -1.0])):
        unit = direction / math.sqrt(2)
        settled = TASK.settled(rows.x @ unit[:, None] * unit, rows.x)
        scores = TASK.predictive(settled - TASK.shift(settled, rows.y))
        losses.append(TASK.row_losses(scores, rows.y).mean())
    assert losses[0] < 0.75 < 1.0 < losses[1]


def test_tokens_cannot_be_reconstructed():
    with pytest.raises(ConfigError, match="not tokens"):
        Anomaly().fitted_to(np.zeros((3, 4), np.int32))
    with pytest.raises(ConfigError, match="size of a row"):
        assert Anomaly().outputs
