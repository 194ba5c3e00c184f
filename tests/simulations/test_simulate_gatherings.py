"""Gatherings by ``commonroot simulate``: recommenders, and statistics that are summed before training."""

from __future__ import annotations

import csv
from pathlib import Path

import gathering_cases as cases
import numpy as np
import pytest

from commonroot.client.predictor import Predictor
from commonroot.client.shared_statistics import load
from commonroot.common.errors import ConfigError
from commonroot.simulations.scenario import read_scenario
from commonroot.simulations.simulate import simulate

FILMS = f"""
[charter]
federation = "films"
name = "stars"
rounds = 4
method = {{ name = "als", options = {{ strength = 2.0 }} }}
backbone = {{ family = "factors", items = {cases.ITEMS}, width = 2 }}
"""
COUNTED = """
[charter]
federation = "works"
name = "tried"
rounds = 1
method = { name = "fedper", options = { fine_tune_head_epochs = 1, fine_tune_epochs = 1 } }
backbone = { inputs = 2, widths = [4] }

[statistics]
federation = "works"
name = "counts"
rounds = 1
method = { name = "statistics" }
columns = [{ name = "a", kind = "number", low = -100, high = 100 }]
"""


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr("commonroot.client.alone.GRID", ())
    monkeypatch.setattr("commonroot.client.shared_models.STRENGTHS", (1.0,))


def films(folder: Path) -> Path:
    text = FILMS
    for at, name in enumerate(("north", "east", "south")):
        made = cases.ratings(at, users=16)
        with (folder / f"{name}.csv").open("w", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(["user", "film", "stars"])
            rows.writerows(zip(made["user"], made["item"] + 1, made["rating"], strict=True))
        text += f'[[departments]]\nname = "{name}"\n[departments.data]\npath = "{name}.csv"\ntarget = "stars"\n'
        text += 'task = "recommendation"\nuser = "user"\nitem = "film"\n'
    (folder / "federation.toml").write_text(text)
    return folder / "federation.toml"


def works(folder: Path, charter: str = COUNTED) -> Path:
    text = charter
    for at, name in enumerate(("north", "east", "south")):
        random = np.random.default_rng(at)
        x = random.normal(20.0 * at, 1.0, size=(40, 2))
        with (folder / f"{name}.csv").open("w", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(["a", "b", "target"])
            rows.writerows([*row, "yes" if row[0] > 20 * at else "no"] for row in x)
        text += f'[[departments]]\nname = "{name}"\n[departments.data]\n'
        text += f'path = "{name}.csv"\ntarget = "target"\ntask = "binary"\n'
    (folder / "federation.toml").write_text(text)
    return folder / "federation.toml"


def test_a_recommender_is_simulated_like_any_method(tmp_path):
    result = simulate(films(tmp_path))
    assert result["arms"][0]["state"] == "finished"
    assert [row["metric"] for row in result["table"]] == ["RMSE"] * 3
    assert all(row["federated"] < 2 for row in result["table"])


@pytest.mark.parametrize("write", [films, works], ids=["recommender", "counted-first"])
def test_without_masks_the_same_comes_out(tmp_path, write):
    path = write(tmp_path)
    exact, ring = (simulate(path, sum=kind)["arms"][0] for kind in ("exact", "ring"))
    assert ring["backbone"] == exact["backbone"]
    assert ring["departments"] == exact["departments"]


def test_one_seed_gives_one_set_of_items(tmp_path):
    one, again = (simulate(films(tmp_path))["arms"][0]["backbone"] for _ in range(2))
    assert one == again


def test_a_gathering_has_no_pooled_arm(tmp_path):
    with pytest.raises(ConfigError, match="trains nothing"):
        simulate(films(tmp_path), arms=["pooled"])


def test_statistics_are_summed_before_every_arm_and_used_by_it(tmp_path):
    """Column a lies around 0, 20 and 40; standardised together its deviation is about √(800/3) = 16.3 everywhere."""
    result = simulate(works(tmp_path), arms=["fedper", "pooled"], folder=tmp_path / "kept")
    assert [arm["state"] for arm in result["arms"]] == ["finished", "finished"]
    digest = read_scenario(tmp_path / "federation.toml").draft.statistics
    (arm,) = [path for path in (tmp_path / "kept" / "arms").iterdir() if (path / "departments").is_dir()]
    for folder in (arm / "departments").iterdir():
        centre, scale = load(folder, str(digest)).standardise("a")
        assert (centre, scale) == pytest.approx((20.0, 16.3), abs=0.5)
        scaler = Predictor.load(next((folder / "predictors").iterdir())).features.numbers_only.scaler
        assert (scaler.centre[0], scaler.scale[0]) == (centre, scale)
        assert scaler.scale[1] < 2, "a column that the statistics do not list goes by the department's own rows"


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        (COUNTED.replace('"works"\nname = "counts"', '"other"\nname = "counts"'), "of federation 'other'"),
        (COUNTED.replace('{ name = "statistics" }', '{ name = "local" }'), "its method is 'local'"),
        (COUNTED.replace("rounds = 1\n", f'rounds = 1\nstatistics = "{"0" * 64}"\n', 1), "of its own"),
    ],
)
def test_statistics_that_do_not_belong_to_the_charter_are_refused(tmp_path, wrong, told):
    with pytest.raises(ConfigError, match=told):
        simulate(works(tmp_path, wrong))
