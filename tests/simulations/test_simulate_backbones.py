"""Whole federations of three departments on every family of backbones, with the secure sum in the loop."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from backbone_tasks import CASES, rows
from small_world import quick_last_steps

from commonroot.simulations.simulate import simulate

NAMES = ("north", "east", "south")
CHARTER = """
seed = 1
[charter]
federation = "works"
name = "tried"
rounds = {rounds}
method = {{ name = "fedper", options = {{ backbone_epochs = 2, fine_tune_head_epochs = 2, fine_tune_epochs = 2 }} }}
{section}
"""


@pytest.fixture(scope="module", autouse=True)
def _quick():
    with quick_last_steps(1):
        yield


def scenario(folder: Path, spec, make, *, rounds: int = 3, columns: dict[str, int] | None = None) -> Path:
    """Departments of 180 rows, of which each keeps as many columns as ``columns`` says; token ids become words."""
    values = spec.model_dump(mode="json")
    inline = ", ".join(f"{key} = {json.dumps(value)}" for key, value in values.items())
    text = CHARTER.format(rounds=rounds, section=f"backbone = {{ {inline} }}")
    for at, name in enumerate(NAMES):
        data = make(180, 10 + at)
        target = np.array(["abc"[label] for label in data.y])
        if data.x.dtype == np.int32:
            words = [" ".join(f"w{token}" for token in row if token) for row in data.x]
            file = f"{name}.parquet"
            pl.DataFrame({"text": words, "target": target}).write_parquet(folder / file)
        else:
            file = f"{name}.npz"
            kept = (columns or {}).get(name, data.x.shape[-1])
            np.savez(folder / file, X=data.x[..., :kept], target=target)
        text += f'[[departments]]\nname = "{name}"\n[departments.data]\n'
        text += f'path = "{file}"\ntarget = "target"\ntask = "classification"\nvalidation = 0.35\n'
    path = folder / "federation.toml"
    path.write_text(text)
    return path


@pytest.mark.parametrize("family", [name for name in CASES if name != "mlp"])
def test_a_federation_of_three_ends_better_than_chance(family, tmp_path):
    """a third is chance; every number crossed the secure sum"""
    spec, make = CASES[family]
    found = simulate(scenario(tmp_path, spec, make), folder=tmp_path / "here")
    arm = found["arms"][0]
    assert arm["state"] == "finished" and arm["rounds"] == 3 and arm["lost_rounds"] == 0
    assert np.mean([department["federated"] for department in arm["departments"]]) > 0.5
    assert arm["history"][-1]["loss"] < arm["history"][0]["loss"]


def test_departments_of_different_columns_meet_behind_their_adapters(tmp_path):
    """6, 5 and 4 columns into one backbone of 6 inputs; and pooled, each with an adapter of its own"""
    spec = CASES["resmlp"][0].model_copy(update={"adapter": True, "dropout": 0.0})
    path = scenario(tmp_path, spec, rows, columns={"east": 5, "south": 4})
    found = simulate(path, arms=["fedper", "pooled"], folder=tmp_path / "here")
    assert [arm["state"] for arm in found["arms"]] == ["finished"] * 2
    for arm in found["arms"]:
        assert np.mean([department["federated"] for department in arm["departments"]]) > 0.45
