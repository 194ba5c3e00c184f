"""Every method that trains runs as a federation of its own to its end, families and all."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import torch

from commonroot.client.baselines import GRID
from commonroot.simulations.scenario import read_scenario
from commonroot.simulations.simulate import simulate

NAMES = ("north", "east", "south", "west")
CHARTER = """
[charter]
federation = "works"
name = "tried"
rounds = 2
method = { name = "fedper" }
backbone = { family = "resmlp", inputs = 4, width = 6, blocks = 1 }
training = { batch = 8 }
"""


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    """Of what departments try alone and at the end, which is tested elsewhere, only the quickest."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    monkeypatch.setattr("commonroot.client.alone.GRID", GRID[:1])
    monkeypatch.setattr("commonroot.client.shared_models.STRENGTHS", (1.0,))
    yield
    torch.set_num_threads(threads)


def scenario(folder: Path, *, families: str = "", more: str = "") -> Path:
    """Four departments of 36 rows with the same two labels."""
    text = more + "\nseed = 1\n" + CHARTER + families
    for at, name in enumerate(NAMES):
        random = np.random.default_rng(at)
        x = random.normal(size=(36, 4))
        value = x @ [1.0, -1.0, 0.5, 0.0] + 0.3 * random.normal(size=36)
        with (folder / f"{name}.csv").open("w", newline="") as file:
            rows = csv.writer(file)
            rows.writerow([*"abcd", "target"])
            rows.writerows([*row, "yes" if y > 0 else "no"] for row, y in zip(x, value, strict=True))
        text += f'[[departments]]\nname = "{name}"\n[departments.data]\n'
        text += f'path = "{name}.csv"\ntarget = "target"\ntask = "binary"\nlabels = ["no", "yes"]\n'
    path = folder / "federation.toml"
    path.write_text(text)
    return path


ARMS = (
    "feddbe:fine_tune_epochs=1",
    "feddbe:server=adam,fine_tune_epochs=1",
    "fedavg:head=shared,outputs=1,server=momentum",
    "fedavg-ft:server=yogi,fine_tune_epochs=1",
    "fedprox:fine_tune_epochs=1",
    "fedbn:fine_tune_epochs=1",
    "ditto:finish_epochs=1",
    "reptile:fine_tune_epochs=1",
    "structure:epochs=1",
)


def test_every_method_ends_and_its_departments_choose(tmp_path):
    result = simulate(scenario(tmp_path), arms=ARMS)
    for report in result["arms"]:
        assert (report["state"], report["rounds"], report["lost_rounds"]) == ("finished", 2, 0), report["arm"]
        assert len(report["departments"]) == 4 and report["coordinator_saw"]
        assert all(one["details"]["federated"] for one in report["departments"]), report["arm"]


ALL = '[[charter.families]]\nname = "buyers"\noutputs = 1\nlabels = ["no", "yes"]\n'


def test_all_departments_may_share_a_family_head(tmp_path):
    (report,) = simulate(scenario(tmp_path, families=ALL), arms=["feddbe:fine_tune_epochs=1"])["arms"]
    assert (report["state"], report["rounds"]) == ("finished", 2)


def test_the_usual_method_is_feddbe(tmp_path):
    path = scenario(tmp_path)
    path.write_text(path.read_text().replace('method = { name = "fedper" }\n', ""))
    assert read_scenario(path).draft.method.name == "feddbe"


THREE = '[[charter.families]]\nname = "buyers"\noutputs = 1\ndepartments = ["north", "east", "south"]\n'


def test_a_family_that_could_be_summed_over_two_is_refused_before_anything_runs(tmp_path):
    """4 departments, floor 3: one may be missing, so a family of 3 could be summed over 2."""
    from commonroot.common.errors import TooFewDepartments

    with pytest.raises(TooFewDepartments, match="its sum could be over 2, and at least 3 are needed"):
        simulate(scenario(tmp_path, families=THREE), arms=["feddbe"])


def test_with_a_floor_of_everybody_the_same_family_runs(tmp_path):
    path = scenario(tmp_path, families=THREE)
    path.write_text(path.read_text().replace("rounds = 2", "rounds = 1\ncohort = { floor = 4 }"))
    (report,) = simulate(path, arms=["feddbe:fine_tune_epochs=1"])["arms"]
    assert report["state"] == "finished"
