"""Intervals, lives, forecasts and the orders that follow from them, worked by hand."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from commonroot.client.tasks import Forecast, Inventory, Life, Rating, Regression, score, task_config
from commonroot.client.tasks.life import phm08
from commonroot.client.tasks.regression import conformal
from commonroot.common.errors import ConfigError, DataError

Y = np.random.default_rng(2).gamma(3.0, 10.0, size=(80, 4))


def forecast(target=Y, **fields):
    return Forecast.learn(task_config({"kind": "forecast", **fields}), target)


# -- intervals ---------------------------------------------------------------------------------------------------------


def test_nineteen_residuals_are_the_fewest_for_ninety_per_cent():
    """(19 + 1)·0.05 = 1: the smallest and the largest"""
    assert conformal(np.arange(18.0)) is None
    assert conformal(np.arange(19.0)[::-1]) == (0.0, 18.0)
    assert conformal(np.arange(39.0)) == (1.0, 37.0)  # 40·0.05 = 2: the second of each end


def test_intervals_hold_their_share_of_new_rows():
    """39 residuals, 4,000 draws of one new row: 90 % ± 4·√(0.9·0.1/4000) = 2 %"""
    random = np.random.default_rng(3)
    held = 0
    for _ in range(4000):
        residuals = random.exponential(size=40)
        low, high = conformal(residuals[:39])
        held += low <= residuals[39] <= high
    assert held / 4000 == pytest.approx(0.9, abs=0.02)


def test_an_interval_is_the_prediction_plus_its_offsets():
    task = Regression(0.0, 1.0).calibrated(np.zeros(19), np.arange(19.0))
    columns = task.columns(np.array([100.0]))
    assert {name: values.tolist() for name, values in columns.items()} == {
        "value": [100.0],
        "low": [100.0],
        "high": [118.0],
    }
    assert task.facts(np.zeros(19), np.arange(19.0))["interval"] == {"meant": 0.9, "held": 1.0}
    assert task.predictive(np.array([[2.0]])).tolist() == [2.0]  # predictions are not moved


def test_intervals_of_ratings_and_lives_stay_where_values_can_be():
    residuals = np.linspace(-9.0, 9.0, 19)
    rating = Rating(3.0, 1.0, None, 1.0, 5.0).calibrated(np.zeros(19), residuals)
    assert [v.tolist() for v in rating.columns(np.array([4.0])).values()] == [[4.0], [1.0], [5.0]]
    life = Life(50.0, 10.0, cap=125.0).calibrated(np.zeros(19), residuals)
    assert [v.tolist() for v in life.columns(np.array([120.0])).values()] == [[120.0], [111.0], [125.0]]


def test_too_few_rows_give_no_interval():
    assert list(Regression(0.0, 1.0).calibrated(np.zeros(5), np.ones(5)).columns(np.zeros(2))) == ["value"]


# -- remaining life ----------------------------------------------------------------------------------------------------


def test_late_costs_more_than_early():
    """10 late: e^(10/10) - 1 = 1.71828; 13 early: e^(13/13) - 1 = 1.71828; 10 early: e^(10/13) - 1 = 1.15811"""
    assert phm08(np.array([10.0, -13.0, -10.0, 0.0])) == pytest.approx(
        [math.e - 1, math.e - 1, 1.158106, 0.0], abs=1e-6
    )
    assert np.isfinite(phm08(np.array([1e9, -1e9]))).all()
    facts = Life(50.0, 10.0).facts(np.array([60.0, 37.0]), np.array([50.0, 50.0]))
    assert facts["phm08"] == pytest.approx(2 * (math.e - 1)) and facts["late"] == 0.5


# -- forecasts ---------------------------------------------------------------------------------------------------------


def test_the_median_and_the_critical_ratio_are_always_learned():
    """c_u 3, c_o 1: 3/4"""
    assert forecast(quantiles=[0.1]).quantiles == (0.1, 0.5)
    assert forecast(quantiles=[0.9], under_cost=3, over_cost=1).quantiles == (0.5, 0.75, 0.9)
    assert forecast(quantiles=[0.75], under_cost=3, over_cost=1).quantiles == (0.5, 0.75)


def test_a_horizon_that_differs_from_the_target_is_refused():
    assert forecast().horizon == 4
    with pytest.raises(DataError, match="4 value"):
        forecast(horizon=3)


def test_pinball_loss_of_tensors_worked_by_hand():
    """y 1 in units of the scale, quantiles .1 .5 .9 all at 0: (0.1 + 0.5 + 0.9)/3 = 0.5; y -1: (0.9 + 0.5 + 0.1)/3"""
    task = Forecast(1, (0.1, 0.5, 0.9), 0.0, 1.0, 1.0)
    zeros = torch.zeros(1, 3)
    for y in (1.0, -1.0):
        assert float(task.loss(zeros, torch.tensor([[y]]))) == pytest.approx(0.5)


@given(seed=st.integers(0, 10**6))
def test_predicted_quantiles_never_cross_and_sorting_never_costs(seed):
    task = forecast()
    random = np.random.default_rng(seed)
    outputs, y = random.normal(size=(6, task.outputs)), random.normal(30.0, 20.0, size=(6, 4))
    predicted = task.predictive(outputs)
    assert (np.diff(predicted, axis=2) >= 0).all()
    raw = float(task.loss(torch.from_numpy(outputs), torch.from_numpy(task.targets(y)))) / task.chance
    assert task.row_losses(predicted, y).mean() <= raw + 1e-5


def test_the_first_outputs_are_the_first_steps():
    """head outputs are step by step, quantiles within: two steps of two quantiles"""
    task = Forecast(2, (0.5, 0.9), 10.0, 2.0, 1.0)
    assert task.predictive(np.array([[0.0, 1.0, 2.0, 3.0]])).tolist() == [[[10.0, 12.0], [14.0, 16.0]]]
    names = ["step 1 quantile 0.5", "step 1 quantile 0.9", "step 2 quantile 0.5", "step 2 quantile 0.9"]
    columns = task.columns(np.array([[[10.0, 12.0], [14.0, 16.0]]]))
    assert list(columns) == names and [v[0] for v in columns.values()] == [10.0, 12.0, 14.0, 16.0]


# -- orders ------------------------------------------------------------------------------------------------------------


def test_the_cost_of_an_order_worked_by_hand():
    """c_u 3, c_o 1: 2 short cost 6, 4 left cost 4, none cost 0"""
    cost = Inventory(3.0, 1.0).cost(np.array([8.0, 14.0, 10.0]), np.array([10.0, 10.0, 10.0]))
    assert cost.tolist() == [6.0, 4.0, 0.0]


@given(
    demand=st.lists(st.integers(0, 40), min_size=1, max_size=30),
    under=st.integers(1, 9),
    over=st.integers(1, 9),
)
def test_no_order_costs_less_than_the_critical_quantile(demand, under, over):
    """of all whole orders on observed demand, the smallest with P(demand ≤ q) ≥ c_u/(c_u + c_o) is cheapest"""
    y, decision = np.array(demand, dtype=np.float64), Inventory(float(under), float(over))
    best = np.quantile(y, decision.quantile, method="inverted_cdf")
    costs = [decision.cost(np.full(len(y), q), y).mean() for q in range(41)]
    assert decision.cost(np.full(len(y), best), y).mean() == pytest.approx(min(costs))


def test_the_cost_is_the_pinball_loss_times_both_costs():
    task = forecast(under_cost=4, over_cost=1, metric="cost")
    said = np.sort(np.random.default_rng(4).gamma(3.0, 10.0, size=(*Y.shape, len(task.quantiles))), axis=2)
    order, missed = task.at(said, 0.8), Y - task.at(said, 0.8)
    pinball = np.maximum(0.8 * missed, -0.2 * missed)
    assert score(task, said, Y) == pytest.approx(5 * pinball.mean()) and task.metric == "cost"
    np.testing.assert_array_equal(task.orders(said), order)


def test_nobody_orders_less_than_nothing():
    task = forecast(under_cost=4, over_cost=1)
    assert (task.orders(np.full((2, 4, 4), -3.0)) == 0).all()


def test_ordering_the_right_quantile_is_told_beside_ordering_the_median():
    """with demand as forecast, covering the dearer side is cheaper"""
    task = forecast(under_cost=9, over_cost=1, quantiles=[0.1, 0.9])
    said = np.broadcast_to(np.quantile(Y, task.quantiles, axis=0).T[None], (len(Y), 4, len(task.quantiles)))
    told = task.facts(said, Y)["inventory"]
    assert told["quantile"] == 0.9 and told["cost_per_step"] < told["cost_per_step_of_ordering_the_median"]
    held = {line["quantile"]: line["held"] for line in task.facts(said, Y)["below"]}
    assert held[0.9] == pytest.approx(0.9, abs=0.02)


def test_without_costs_there_is_no_order():
    task = forecast()
    assert not any(name.startswith("order") for name in task.columns(np.zeros((1, 4, 3))))
    with pytest.raises(ConfigError, match="under_cost"):
        task.orders(np.zeros((1, 4, 3)))
