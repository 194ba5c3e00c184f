"""Rows besides a score say who is worse off, what orders cost, and whether an exact method is exact."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from commonroot.simulations import bench_data_further
from commonroot.simulations.bench_data import CASES, Found
from commonroot.simulations.bench_data_further import (
    apart_from_pooled,
    cost_of_median_orders,
    not_better,
    order_cost,
    worse_off,
)
from commonroot.simulations.datasets.world import DATASETS
from commonroot.simulations.outcome import kept_models
from commonroot.simulations.scenario import Scenario
from commonroot.simulations.simulate import simulate


def report(alone, federated, chosen, better="higher"):
    return {"alone": alone, "federated": federated, "chosen": chosen, "details": {"better": better}}


def test_departments_are_counted_by_the_direction_of_their_own_metric():
    """of scores, b is worse off and b and c are not better; of errors, d is better and e is neither"""
    reports = {
        "a": report(0.7, 0.8, 0.8),
        "b": report(0.7, 0.6, 0.6),
        "c": report(0.7, 0.7, 0.7),
        "d": report(2.0, 1.0, 1.5, "lower"),
        "e": report(2.0, 3.0, 3.0, "lower"),
    }
    found = Found(reports, {}, {}, {})
    assert worse_off(found) == 2
    assert not_better(found) == 3


def test_orders_cost_what_is_short_and_what_is_left_of_them(tmp_path, monkeypatch):
    """sales 20 and 10 at level 10: orders of 1.5 and 1.5 levels leave 5 short at 3 and 5 over at 1: 20 of 30"""
    pl.DataFrame({"level": [10.0, 10.0], "sales": [20.0, 10.0]}).write_parquet(tmp_path / "s-levels.parquet")

    class Said:
        def predict_file(self, path):
            return {"order step 1": np.array([1.5, 1.5]), "step 1 quantile 0.5": np.array([2.0, -1.0])}

    monkeypatch.setattr(bench_data_further, "chosen_predictor", lambda folder: Said())
    section = {"test_path": str(tmp_path / "s-test.parquet"), "task": {"under_cost": 3.0, "over_cost": 1.0}}
    found = Found({"s": {}}, {"s": section}, {"s": tmp_path}, {})
    assert order_cost(found) == pytest.approx(20 / 30)
    assert cost_of_median_orders(found) == pytest.approx(3 * 10 / 30)  # nobody orders less than nothing


@pytest.mark.parametrize("how", ["exact", "ring"])
def test_federated_factors_differ_from_pooled_ones_by_rounding_alone(tmp_path, how):
    """What a film is worth is the same for all, and 30 ratings of 12 films say little of it: others' help is kept"""
    random = np.random.default_rng(3)
    sections = {}
    for name in ("north", "south", "west"):
        pairs = random.permutation(20 * 12)[:60]
        for part, some in (("learn", pairs[:30]), ("test", pairs[30:])):
            rating = 1.0 + some % 12 * 5 % 12 * 0.35 + 0.4 * random.normal(size=len(some))
            rows = {"user": some // 12, "item": some % 12 + 1, "rating": rating.clip(1, 5)}
            pl.DataFrame(rows).write_parquet(tmp_path / f"{name}-{part}.parquet")
        sections[name] = {
            "path": str(tmp_path / f"{name}-learn.parquet"),
            "test_path": str(tmp_path / f"{name}-test.parquet"),
            "target": "rating",
            "task": {"kind": "recommendation", "user": "user", "item": "item"},
            "seed": 1,
        }
    charter = {
        "rounds": 4,
        "method": {"name": "als", "options": {"strength": 2.0}},
        "backbone": {"family": "factors", "items": 12, "width": 2},
        "training": {"seed": 5},
    }
    departments = [{"name": name, "data": section} for name, section in sections.items()]
    scenario = Scenario.model_validate(
        {"seed": 5, "charter": {"federation": "f", "name": "n", **charter}, "departments": departments}
    )
    [report] = simulate(scenario, folder=tmp_path / "run", sum=how)["arms"]
    models = kept_models(next((tmp_path / "run" / "arms").iterdir()) / "departments", report["charter"])
    assert set(models) == set(sections)
    found = Found({}, sections, models, charter)
    assert 0.0 <= apart_from_pooled(found) < 1e-6
    other = Found({}, sections, models, {**charter, "training": {"seed": 6}, "rounds": 2})
    assert apart_from_pooled(other) > 1e-3


def test_every_case_names_a_dataset():
    assert {case.dataset for case in CASES} <= set(DATASETS)
