"""Every method that trains runs as a federation of its own to its end, families and all."""

from __future__ import annotations

import csv
import hashlib
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save
from small_world import quick_last_steps

from commonroot.client.setup import approve
from commonroot.common.errors import BackboneMismatch, BackboneMissing, TooFewDepartments
from commonroot.simulations.federation import SimulatedFederation
from commonroot.simulations.founding import found, to_toml
from commonroot.simulations.network import MemoryNetwork
from commonroot.simulations.report import render_table, write_html
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


@pytest.fixture(scope="module", autouse=True)
def _quick():
    with quick_last_steps(1):
        yield


def scenario(folder: Path, *, families: str = "", more: str = "", names: tuple[str, ...] = NAMES) -> Path:
    """Departments of 36 rows with the same two labels."""
    text = more + "\nseed = 1\n" + CHARTER + families
    for at, name in enumerate(names):
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


@pytest.mark.parametrize("arm", ["dann:outputs=1,trust=1.0", "self-training:outputs=1", "fedavg:head=shared,outputs=1"])
def test_a_department_without_labels_takes_part_and_keeps_the_common_model(tmp_path, arm):
    path = scenario(tmp_path)
    labelled, _, last = path.read_text().rpartition('target = "target"\n')
    path.write_text(f'{labelled}labelled = false\nfeatures = ["a", "b", "c", "d"]\n{last}')
    (report,) = simulate(path, arms=[arm])["arms"]
    assert (report["state"], report["rounds"], report["lost_rounds"]) == ("finished", 2, 0)
    kept = {one["name"]: one["details"].get("labelled", True) for one in report["departments"]}
    assert kept == {"north": True, "east": True, "south": True, "west": False}
    assert [one["gain"] for one in report["departments"] if one["name"] == "west"] == [None]
    render_table(report)
    write_html(report, tmp_path / "report.html")


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
    with pytest.raises(TooFewDepartments, match="its sum could be over 2, and at least 3 are needed"):
        simulate(scenario(tmp_path, families=THREE), arms=["feddbe"])


def test_with_a_floor_of_everybody_and_enough_others_the_same_family_runs(tmp_path):
    path = scenario(tmp_path, families=THREE, names=(*NAMES, "hill", "dale"))
    path.write_text(path.read_text().replace("rounds = 2", "rounds = 1\ncohort = { floor = 6 }"))
    (report,) = simulate(path, arms=["feddbe:fine_tune_epochs=1"])["arms"]
    assert report["state"] == "finished"


def test_a_family_of_all_but_one_is_refused_for_the_one(tmp_path):
    path = scenario(tmp_path, families=THREE)
    path.write_text(path.read_text().replace("rounds = 2", "rounds = 1\ncohort = { floor = 4 }"))
    with pytest.raises(TooFewDepartments, match="1 of 4 departments are in no family"):
        simulate(path, arms=["feddbe"])


def test_a_run_that_starts_from_the_last_version_of_another_begins_where_that_ended(tmp_path):
    """Its first held-out loss is that of a trained backbone, and version 0 is the file's, in every folder."""
    first = simulate(scenario(tmp_path), arms=["fedper:fine_tune_epochs=1"], folder=tmp_path / "cold")
    (stored,) = (tmp_path / "cold").glob("arms/*/coordinator/backbones/run-1-version-2.safetensors")
    assert hashlib.sha256(stored.read_bytes()).hexdigest() == first["arms"][0]["backbone"]
    path = scenario(tmp_path, more=f"warm_start = '{stored}'")
    arms = ["fedper:fine_tune_epochs=1", "structure:epochs=1"]
    warm = simulate(path, arms=arms, folder=tmp_path / "warm")
    assert [report["state"] for report in warm["arms"]] == ["finished", "finished"]
    (began,) = (tmp_path / "warm").glob("arms/fedper*/coordinator/backbones/run-1-version-0.safetensors")
    (fresh,) = (tmp_path / "warm").glob("arms/structure*/coordinator/backbones/run-1-version-0.safetensors")
    np.testing.assert_array_equal(load_file(began)["entry.weight"], load_file(stored)["entry.weight"])
    assert not np.array_equal(load_file(fresh)["entry.weight"], load_file(stored)["entry.weight"])


@pytest.mark.parametrize("where", ["coordinator", "departments/west"])
def test_nothing_runs_where_the_file_of_a_warm_start_is_missing_or_another(tmp_path, where):
    path = scenario(tmp_path, more="warm_start = 'start.safetensors'")
    backbone = read_scenario(scenario(tmp_path)).draft.network.initial(7)
    (tmp_path / "start.safetensors").write_bytes(save(backbone))
    path = scenario(tmp_path, more="warm_start = 'start.safetensors'")
    draft = read_scenario(path).draft
    digest = draft.training.warm_start
    sections = read_scenario(path).sections(tmp_path, tmp_path)
    toml = to_toml(draft.model_dump(mode="json", exclude_none=True))
    made = found(
        tmp_path / "federation",
        federation="works",
        charter_toml=toml,
        departments=sections,
        backbone=tmp_path / "start.safetensors",
    )
    kept = made.root / where / "backbones" / f"{digest}.safetensors"
    kept.write_bytes(save({**backbone, "entry.bias": backbone["entry.bias"] + 1}))
    with pytest.raises(BackboneMismatch, match="its SHA-256 differs"):
        _again(made, where, tmp_path)
    kept.unlink()
    with pytest.raises(BackboneMissing, match="not here"):
        _again(made, where, tmp_path)
    kept.write_bytes((tmp_path / "start.safetensors").read_bytes())
    _again(made, where, tmp_path)


def _again(made, where, folder):
    if where == "coordinator":
        made.coordinator.sign_charter(made.root / "charter.toml")
    else:
        approve(made.departments["west"], made.charter_path)


def test_a_department_whose_file_is_gone_takes_no_part(tmp_path):
    """The others go on: three of four are enough."""
    backbone = read_scenario(scenario(tmp_path)).draft.network.initial(7)
    (tmp_path / "start.safetensors").write_bytes(save(backbone))
    draft = read_scenario(scenario(tmp_path, more="warm_start = 'start.safetensors'")).draft
    made = found(
        tmp_path / "federation",
        federation="works",
        charter_toml=to_toml(draft.model_dump(mode="json", exclude_none=True)),
        departments=read_scenario(tmp_path / "federation.toml").sections(tmp_path, tmp_path),
        backbone=tmp_path / "start.safetensors",
    )
    (made.departments["west"].root / "backbones" / f"{draft.training.warm_start}.safetensors").unlink()
    simulated = SimulatedFederation(made, MemoryNetwork())
    cohorts = []
    try:
        simulated.start_all()
        simulated.queue()
        simulated.run(lambda kind, facts: cohorts.append(facts["cohort"]) if kind == "round" else None)
    finally:
        simulated.close()
    assert cohorts == [["north", "east", "south"]] * 2
