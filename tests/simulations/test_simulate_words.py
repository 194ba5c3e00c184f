"""``shared-words`` by ``commonroot simulate``: texts in, cross-fitted rounds, a guard that hears every row."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from commonroot.client.baselines import LINEAR
from commonroot.client.data import DataConfig, prepare
from commonroot.client.predictor import Predictor
from commonroot.common.errors import DataError
from commonroot.simulations.scenario import Scenario
from commonroot.simulations.simulate import simulate

GOOD, BAD, REST = ("fine", "warm", "light"), ("torn", "dull", "heavy"), tuple(f"word{at}" for at in range(20))


def scenario(folder, **data):
    departments = []
    for at, name in enumerate(("north", "east", "south")):
        random = np.random.default_rng(at)
        pleased = random.random(60) < 0.5
        texts = [
            " ".join([*random.choice(GOOD if one else BAD, 1 + at % 2), *random.choice(REST, 4)]) for one in pleased
        ]
        frame = {"text": texts, "label": np.where(pleased, "yes", "no"), "length": random.normal(size=60)}
        pl.DataFrame(frame).write_csv(folder / f"{name}.csv")
        said = {"path": str(folder / f"{name}.csv"), "target": "label", "task": "binary", "labels": ["no", "yes"]}
        usual = {"features": [{"column": "text", "kind": "text", "width": 64, "ngrams": 1}]}
        departments.append({"name": name, "data": {**said, **usual, **data}})
    charter = {
        "federation": "works",
        "name": "reviews",
        "rounds": 8,
        "method": {"name": "shared-words", "options": {"labels": "no|yes", "most_rows": 100}},
        "cohort": {"floor": 3},
        "backbone": {"family": "mlp", "inputs": 64, "widths": [4]},
    }
    return Scenario.model_validate({"seed": 1, "charter": charter, "departments": departments})


def test_every_row_that_learns_judges_models_that_never_saw_it(tmp_path, monkeypatch):
    monkeypatch.setattr("commonroot.client.alone.GRID", LINEAR[:1])
    made = scenario(tmp_path)
    result = simulate(made, folder=tmp_path / "kept")
    [arm] = result["arms"]
    assert arm["state"] == "finished" and len(arm["departments"]) == 3
    for row in arm["departments"]:
        assert f"on {row['n_train']} validation rows" in row["why"]
        assert "training" not in row["details"]["evidence"]
        assert row["federated"] >= 0.8  # six words decide
    [folder] = (tmp_path / "kept" / "arms").iterdir()
    for row in arm["departments"]:
        department = folder / "departments" / row["name"]
        predictor = Predictor.load(next((department / "predictors").iterdir()))
        data = next(one.data for one in made.departments if one.name == row["name"])
        prepared = prepare(DataConfig.model_validate(data.model_dump()))
        assert len(predictor.predict_file(tmp_path / f"{row['name']}.csv")["class"]) == 60
        assert row["n_train"] == len(prepared.train) + len(prepared.validation)


def test_standardised_numbers_are_refused(tmp_path):
    with pytest.raises(DataError, match="no 0 for a word"):
        simulate(scenario(tmp_path, features=["length", {"column": "text", "kind": "text", "width": 63}]))
