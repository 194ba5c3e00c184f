"""The last step for every kind of task: a model, a guard's choice, a report, and the same predictions after storing."""

import json
from dataclasses import replace

import numpy as np
import pytest

from commonroot.client import alone
from commonroot.client.alone_memory import Basis
from commonroot.client.data import Features, Prepared, Rows, Scaler
from commonroot.client.finish import conclude
from commonroot.client.learner import summary
from commonroot.client.predictor import Predictor
from commonroot.client.tasks import Where, score, task_class, task_config
from commonroot.client.trainer import Trainer
from commonroot.common.backbone import BackboneSpec
from commonroot.common.charter import Draft, Method
from commonroot.strategies import build

COLUMNS = 6
SIZES = {"train": 60, "validation": 30, "test": 40}


class Charter(Draft):
    """enough of a signed one for a report"""

    @property
    def digest(self):
        return bytes(32)


def draft_of(method="fedper"):
    backbone = BackboneSpec(inputs=COLUMNS, widths=(8,))
    return Charter(federation="works", name="pilot", rounds=1, method=Method(name=method), backbone=backbone)


def target_of(kind, x, random):
    first, second = x[:, 0].astype(np.float64), x[:, 1].astype(np.float64)
    if kind == "binary":
        return (first > 0.5).astype(np.int64)
    if kind in ("classification", "fault"):
        return np.where(first > 1.0, 2, np.where(second > 0.5, 1, 0))
    if kind == "multilabel":
        return np.stack([first > 0, second > 0, first + second > 1], axis=1).astype(float)
    if kind == "forecast":
        return 50.0 + 10.0 * first[:, None] + np.arange(3) + random.normal(size=(len(x), 3))
    if kind == "life":
        return np.clip(80.0 + 60.0 * first, 0.0, None)
    if kind == "rating":
        return np.clip(np.round(3.0 + first), 1, 5)
    if kind == "anomaly":
        return (np.abs(x[:, 4] - x[:, 5]) > 1.5).astype(np.int64)
    return 4.0 * first + second


def rows_of(kind, n, random, *, shifted=0):
    x = random.normal(size=(n, COLUMNS)).astype(np.float32)
    x[:, 5] = x[:, 4] + 0.1 * x[:, 5]
    if shifted:
        x[:shifted, 5] = -x[:shifted, 4] + 3.0
    return x, target_of(kind, x, random)


def prepared_of(kind, *, anomalies=0, **fields):
    random = np.random.default_rng([7, *kind.encode()])
    parts = {name: rows_of(kind, n, random, shifted=0 if name == "train" else anomalies) for name, n in SIZES.items()}
    config = task_config({"kind": kind, **fields})
    target = parts["train"][1]
    task = task_class(kind).learn(config.seen(target), target).fitted_to(parts["train"][0])
    encoded = {}
    for name, (x, given) in parts.items():
        y, problems = task.encode(given, task_where())
        assert not problems
        encoded[name] = Rows(x, y)
    features = Features.of_numbers(tuple("abcdef"), Scaler(np.zeros(COLUMNS), np.ones(COLUMNS)))
    return Prepared(task, features, **encoded)


def task_where():
    return Where("rows.npz", 1)


def concluded(prepared, method="fedper"):
    draft = draft_of(method)
    strategy = build(draft)
    private = Trainer(draft, prepared.task, 7, strategy.shares_head).start()
    return conclude(draft, strategy, prepared, strategy.initial(draft), private, secret=7, basis=Basis(7), version=1)


CASES = [
    ("binary", {"metric": "AUC"}),
    ("classification", {"weights": "balanced"}),
    ("fault", {"healthy": 0}),
    ("multilabel", {}),
    ("regression", {"metric": "RMSE"}),
    ("rating", {"lowest": 1, "highest": 5}),
    ("life", {}),
    ("forecast", {"under_cost": 3, "over_cost": 1, "metric": "cost"}),
    ("forecast", {}),
    ("anomaly", {"quantile": 0.9}),
    ("anomaly", {"quantile": 0.9, "anomalies": 0}),
]


@pytest.mark.parametrize(("kind", "fields"), CASES, ids=[f"{kind}-{at}" for at, (kind, _) in enumerate(CASES)])
def test_every_kind_ends_with_a_model_and_a_report(kind, fields, monkeypatch, tmp_path):
    monkeypatch.setattr(alone, "GRID", (alone.GRID[2], alone.GRID[5]))
    prepared = prepared_of(kind, **({"anomalies": 12} if kind == "anomaly" else {}) | fields)
    found = concluded(prepared)
    report = json.loads(json.dumps(found.report, allow_nan=False))
    assert report["rows"] == SIZES and set(report["scores"]) - {"stack"} == {"alone", "federated", "both"}
    assert report["unit"] == ("points" if report["better"] == "higher" else "%")
    assert report["facts"] and report["plot"]["kind"] and report["contenders"]

    told = summary("east", draft_of(), report)
    test = prepared.test
    raw = test.x.astype(np.float64)
    predicted = found.predictor.predictive(raw)
    if found.predictor.task.labelled:
        assert score(prepared.task, predicted, test.y) == pytest.approx(told["chosen"], rel=1e-6)
    sign = 1.0 if told["better"] == "higher" else -1.0
    if told["choice"] != "alone":
        assert np.sign(told["gain"]) == np.sign(sign * (told["chosen"] - told["alone"]))
    assert told["interval"][0] <= told["gain"] <= told["interval"][1]

    found.predictor.save(tmp_path / "kept")
    again = Predictor.load(tmp_path / "kept")
    assert again.task == found.predictor.task
    np.testing.assert_array_equal(again.predictive(raw), predicted)
    columns = again.predict(raw)
    assert columns and all(len(values) == len(raw) for values in columns.values())
    if prepared.task.learns == "value":
        assert {"low", "high"} <= set(columns) and report["facts"]["interval"]["meant"] == 0.9


def test_models_of_every_kind_learn_what_there_is_to_learn(monkeypatch):
    """far from chance on test rows: an R² above 0.9, an error at most half of the spread, and the like"""
    monkeypatch.setattr(alone, "GRID", (alone.GRID[3], alone.GRID[5]))
    least = {"regression": 0.9, "binary": 0.85, "multilabel": 0.85}
    for kind, wanted in least.items():
        prepared = prepared_of(kind)
        report = concluded(prepared, "local").report
        assert report["scores"]["alone"] / 100 > wanted, kind
    prepared = prepared_of("life")
    assert concluded(prepared, "local").report["scores"]["alone"] < 0.5 * prepared.task.scale


def test_anomalies_are_found_with_and_without_labels():
    """a broken tie of two columns in 12 of 40 test rows"""
    labelled = concluded(prepared_of("anomaly", quantile=0.95, anomalies=12)).report
    assert labelled["metric"] == "F1" and labelled["facts"]["auc"] > 0.9
    prepared = prepared_of("anomaly", quantile=0.95)
    blind = Prepared(
        replace(prepared.task, known=False),
        prepared.features,
        *(Rows(rows.x, np.full(len(rows), -1)) for rows in (prepared.train, prepared.validation, prepared.test)),
    )
    report = concluded(blind).report
    assert report["metric"] == "F1 against shuffled rows" and report["rows"]["test"] == 40
    assert report["scores"]["alone"] > 50


def test_a_guard_keeps_nothing_federated_that_loses(monkeypatch):
    """the same for an error as for a fraction: what is kept has the largest bound"""
    monkeypatch.setattr(alone, "GRID", (alone.GRID[3],))
    for kind in ("forecast", "anomaly"):
        report = concluded(prepared_of(kind)).report
        bounds = {name: one["bound"] for name, one in report["evidence"].items()}
        best = max(bounds, key=bounds.get)
        assert report["kept"] == (best if bounds[best] > 0 else "alone")
