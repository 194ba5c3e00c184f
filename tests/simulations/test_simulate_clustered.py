"""Departments of two kinds sort themselves in a whole run, and each ends with its own kind's backbone."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

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
ONE = "clustered:sees=labels,head=shared,outputs=1"
SECRET = f"{ONE},backbones=secret,departments=6,common_rounds=2"
DECLARED = "clustered:backbones=declared,second=birch elm holly,head=shared,outputs=1,common_rounds=2"


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    """Of what departments try alone, which is tested elsewhere, only the quickest."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    monkeypatch.setattr("commonroot.client.alone.GRID", GRID[:1])
    yield
    torch.set_num_threads(threads)


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


def test_planted_groups_are_found_and_two_backbones_beat_one(tmp_path):
    """Labels contradict each other, so that one backbone with one head stays at chance (1) and two learn."""
    path = scenario(tmp_path)
    result = simulate(path, arms=[SECRET, DECLARED, ONE], folder=tmp_path / "run")
    secret, declared, common = result["arms"]
    assert {report["state"] for report in result["arms"]} == {"finished"}
    for report in (secret, declared, common):
        assert report["lost_rounds"] == 0 and len(report["departments"]) == len(NAMES)
    for report in (secret, common):
        sides = {one["name"]: one["side"] for one in report["departments"]}
        assert {sides[name] for name in TURNED} != {sides[name] for name in set(NAMES) - TURNED}
        assert len({sides[name] for name in TURNED}) == len(set(sides.values())) - 1 == 1
    assert {one["backbone"] for one in common["departments"]} == {"first"}
    assert {one["name"] for one in declared["departments"] if one["backbone"] == "second"} == TURNED
    assert held_out(secret) < held_out(common) - 0.2 and held_out(declared) < held_out(common) - 0.2
    for folder in (tmp_path / "run" / "arms").iterdir():
        for name in NAMES:
            report = json.loads((folder / "departments" / name / "report.json").read_text())
            assert report["details"]["federated"], report["name"]


def test_the_model_a_department_ends_with_comes_from_its_own_backbone(tmp_path, monkeypatch):
    seen = {}
    from commonroot.client import finish

    conclude = finish.conclude

    def watched(draft, strategy, prepared, received, private, **rest):
        seen[strategy._department] = received
        return conclude(draft, strategy, prepared, received, private, **rest)

    monkeypatch.setattr(finish, "conclude", watched)
    simulate(scenario(tmp_path), arms=[DECLARED], folder=tmp_path / "run")
    (file,) = (tmp_path / "run").glob("arms/*/coordinator/backbones/run-1-version-6.safetensors")
    stored = load_file(file)
    for name, received in seen.items():
        for tensor, array in received.items():
            np.testing.assert_array_equal(array, stored["second/" + tensor if name in TURNED else tensor])
    assert seen.keys() == set(NAMES)


def test_two_that_would_share_a_backbone_are_refused_before_anything_runs(tmp_path):
    with pytest.raises(TooFewDepartments, match="has 2 of 6 departments at the most"):
        simulate(scenario(tmp_path), arms=["clustered:backbones=declared,second=birch elm"])


def test_whoever_approves_a_secret_split_reads_what_it_costs(tmp_path):
    words = plain_words(seal(read_scenario(scenario(tmp_path)).charter))
    assert any(line.startswith("WARNING: how many train each one") for line in words)
