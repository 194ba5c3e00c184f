"""Departments of two kinds sort themselves in a whole run, and each ends with its own kind's backbone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from one_thread import one_thread
from safetensors.numpy import load_file

from commonroot.client import finish
from commonroot.client.baselines import GRID
from commonroot.client.setup import plain_words
from commonroot.common.errors import TooFewDepartments
from commonroot.simulations.scenario import read_scenario
from commonroot.simulations.simulate import simulate
from commonroot.strategies import seal

NAMES = ("ash", "birch", "cedar", "elm", "fir", "holly")
#: These call everything the other way round.
TURNED = frozenset({"birch", "elm", "holly"})
CHARTER = """
seed = 1
[charter]
federation = "works"
name = "sorted"
rounds = 6
backbone = { family = "mlp", inputs = 4, widths = [6] }
training = { batch = 8 }
cohort = { floor = 6 }
[charter.method]
name = "clustered"
options = { backbones = "secret", departments = 6, sees = "labels", head = "shared", outputs = 1, common_rounds = 2 }
"""
ONE = "clustered:sees=labels,head=shared,outputs=1,fine_tune_epochs=1"
SECRET = f"{ONE},backbones=secret,departments=6,common_rounds=2"


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    """Of what departments try alone, which is tested elsewhere, only the quickest."""
    monkeypatch.setattr("commonroot.client.alone.GRID", GRID[:1])
    with one_thread():
        yield


def scenario(folder: Path) -> Path:
    """Six departments of 60 rows; the same rows would be labelled the other way round by three of them."""
    text = CHARTER
    for at, name in enumerate(NAMES):
        random = np.random.default_rng(at)
        x = random.normal(size=(60, 4))
        yes = (x @ [1.0, -1.0, 0.5, 0.0] > 0) != (name in TURNED)
        lines = [
            ",".join(f"{value:.6f}" for value in row) + (",yes" if y else ",no") for row, y in zip(x, yes, strict=True)
        ]
        (folder / f"{name}.csv").write_text("a,b,c,d,target\n" + "\n".join(lines) + "\n")
        text += f'[[departments]]\nname = "{name}"\n[departments.data]\n'
        text += f'path = "{name}.csv"\ntarget = "target"\ntask = "binary"\nlabels = ["no", "yes"]\n'
    path = folder / "federation.toml"
    path.write_text(text)
    return path


def held_out(report):
    return report["history"][-1]["held_out"]


def test_planted_groups_are_found_and_each_department_ends_with_its_own_backbone(tmp_path, monkeypatch):
    """Labels contradict each other, so that one backbone under one head stays near chance (1) and two learn."""
    concluded = {}

    def watched(draft, strategy, prepared, received, private, **rest):
        if strategy.backbones == "one":
            raise LookupError("of this arm only the rounds are looked at")
        concluded[strategy._department] = received
        return conclude(draft, strategy, prepared, received, private, **rest)

    conclude = finish.conclude
    monkeypatch.setattr(finish, "conclude", watched)
    split, common = simulate(scenario(tmp_path), arms=[SECRET, ONE], folder=tmp_path / "run")["arms"]
    assert split["history"][-1]["held_out"] < common["history"][-1]["held_out"] - 0.2
    assert {report["lost_rounds"] for report in (split, common)} == {0}
    found = {one["name"] for one in split["departments"] if one["backbone"] == "second"}
    assert found in (TURNED, set(NAMES) - TURNED)
    assert found == {one["name"] for one in split["departments"] if one["side"] == "second"}
    assert all(one["details"]["federated"] for one in split["departments"]) and concluded.keys() == set(NAMES)
    last = [load_file(file) for file in (tmp_path / "run").glob("arms/*/coordinator/backbones/run-1-version-6.*")]
    (stored,) = (state for state in last if any(name.startswith("second/") for name in state))
    for name, received in concluded.items():
        for tensor, array in received.items():
            np.testing.assert_array_equal(array, stored["second/" + tensor if name in found else tensor])


def test_two_that_would_share_a_backbone_are_refused_before_anything_runs(tmp_path):
    with pytest.raises(TooFewDepartments, match="has 2 of 6 departments at the most"):
        simulate(scenario(tmp_path), arms=["clustered:backbones=declared,second=birch elm"])


def test_whoever_approves_a_secret_split_reads_what_it_costs(tmp_path):
    words = plain_words(seal(read_scenario(scenario(tmp_path)).charter))
    assert any(line.startswith("WARNING: how many train each one") for line in words)
