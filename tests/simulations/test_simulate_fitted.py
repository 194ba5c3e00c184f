"""Boosting and shared linear parts by ``commonroot simulate``: checked, run, guarded and stored like any method."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from commonroot.client import boosting, fitted
from commonroot.client.baselines import LINEAR
from commonroot.client.common_columns import CommonColumns
from commonroot.client.data import DataConfig, prepare
from commonroot.client.predictor import Predictor
from commonroot.common.charter import Timing
from commonroot.common.errors import DataError
from commonroot.simulations.scenario import Scenario
from commonroot.simulations.simulate import simulate
from commonroot.strategies.booster import LEAF, SPLIT, Boosting, grown

COLUMNS = [
    {"name": "a", "kind": "number", "low": -6, "high": 6, "bins": 16},
    {"name": "b", "kind": "number", "low": -6, "high": 6, "bins": 16},
]
METHODS = {
    "boosting": (7, {"labels": "no|yes", "depth": 2, "least_rows": 5}),
    "shared-linear": (3, {"loss": "logistic", "labels": "no|yes", "strengths": "10"}),
}


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr("commonroot.client.alone.GRID", LINEAR[:1])


def scenario(folder: Path, method: str, **changes) -> Scenario:
    rounds, options = METHODS[method]
    departments = []
    for at, name in enumerate(("north", "east", "south")):
        random = np.random.default_rng(at)
        x = np.clip(random.normal(0.5 * at, 1.5, size=(90, 2)), -6, 6)
        label = np.where(x[:, 0] + 0.3 * random.normal(size=90) > 0, "yes", "no")
        pl.DataFrame({"a": x[:, 0], "b": x[:, 1], "label": label}).write_csv(folder / f"{name}.csv")
        data = {"path": str(folder / f"{name}.csv"), "target": "label", "task": "binary", "labels": ["no", "yes"]}
        departments.append({"name": name, "data": data})
    charter = {
        "federation": "works",
        "name": "tried",
        "rounds": rounds,
        "method": {"name": method, "options": options | changes},
        "columns": COLUMNS,
    }
    return Scenario.model_validate({"seed": 1, "charter": charter, "departments": departments})


@pytest.mark.parametrize("method", METHODS)
def test_it_runs_and_every_department_keeps_a_model(method, tmp_path):
    result = simulate(scenario(tmp_path, method), folder=tmp_path / "kept")
    (arm,) = result["arms"]
    assert arm["state"] == "finished"
    assert all(row["federated"] > 0.7 for row in arm["departments"])
    (kept,) = (tmp_path / "kept" / "arms").iterdir()
    for folder in (kept / "departments").iterdir():
        report = json.loads((folder / "report.json").read_text())
        predictor = Predictor.load(next((folder / "predictors").iterdir()))
        assert predictor.about["method"] == method
        assert report["choice"] in report["details"]["scores"]


def test_the_trees_of_a_simulated_run_are_those_of_the_pooled_rows(tmp_path, monkeypatch):
    """Through sessions, masks and fixed point; the departments' own levels stand beside their rows."""
    made, received = {}, []

    def note(booster, prepared):
        received.append(booster.state)
        return shared(booster, prepared)

    shared = boosting.shared_trees
    monkeypatch.setattr(boosting, "shared_trees", note)
    monkeypatch.setattr(fitted, "decide", lambda *args, **options: (_ for _ in ()).throw(DataError("enough")))
    given = scenario(tmp_path, "boosting")
    simulate(given)
    method = Boosting.model_validate(given.draft.method.options)
    for name, section in given.sections(tmp_path, tmp_path).items():
        prepared = prepare(DataConfig.model_validate(section.model_dump()))
        columns = CommonColumns.of(given.draft, prepared.features, None)
        made[name] = boosting.gathered(method, columns, prepared.train)
    whole = {key: np.concatenate([one[key] for one in made.values()]) for key in ("codes", "target", "base")}
    pooled = grown(given.draft, whole)
    assert len(received) == 3
    for state in received:
        assert state[SPLIT].tobytes() == pooled[SPLIT].tobytes()
        assert state[LEAF].tobytes() == pooled[LEAF].tobytes()


def test_a_department_with_other_labels_is_told_before_anything_runs(tmp_path):
    with pytest.raises(DataError, match="not the charter's"):
        simulate(scenario(tmp_path, "boosting", labels="yes|no"))


def test_a_department_that_fails_between_two_trees_adds_no_zeros(tmp_path, monkeypatch):
    """Its histogram would be the difference between the sum before and the one without it: no such sum is opened."""
    gather, combine, calls, opened = Boosting.gather, Boosting.combine, [], []

    def failing(self, draft, state, data, private):
        if int(state["grown"]) == 3:
            calls.append(len(data["target"]))
            if len(calls) % 3 == 0:
                raise OSError("the rows are gone")
        return gather(self, draft, state, data, private)

    def noted(self, draft, state, sums):
        opened.append(int(sums["count"].sum()))
        return combine(self, draft, state, sums)

    monkeypatch.setattr(Boosting, "gather", failing)
    monkeypatch.setattr(Boosting, "combine", noted)
    given = scenario(tmp_path, "boosting")
    draft = given.charter.model_copy(update={"timing": Timing(upload=5.0, attempts=2)})
    (arm,) = simulate(given.model_copy(update={"charter": draft}))["arms"]
    assert arm["state"] == "stopped"
    assert calls and len(set(opened)) == 1
