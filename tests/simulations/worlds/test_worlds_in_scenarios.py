"""Worlds in a ``federation.toml``: every wrong field at once, departments that only the data knows, a run of each."""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl
import pytest
from one_thread import one_thread
from typer.testing import CliRunner

from commonroot.cli import app
from commonroot.common.charter import Draft, model_from_toml
from commonroot.common.errors import ConfigError
from commonroot.simulations.datasets import find as find_data
from commonroot.simulations.datasets import get
from commonroot.simulations.scenario import Scenario, read_scenario
from commonroot.simulations.scenarios import find, ready
from commonroot.simulations.simulate import simulate
from commonroot.simulations.worlds import Parts, Published

DATA = Path(__file__).resolve().parents[4] / "shared" / "data"
CHARTER = """
seed = 1
sum = "ring"
[charter]
federation = "works"
name = "tried"
rounds = 2
method = { name = "fedper", options = { backbone_epochs = 1 } }
backbone = { inputs = 64, widths = [6] }
"""
PARTS = """
[world]
kind = "parts"
data = "digits"
departments = 12
[[world.by]]
kind = "dirichlet"
alpha = 2.0
"""


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    with one_thread():
        yield


def scenario(folder: Path, world: str) -> Path:
    path = folder / "federation.toml"
    path.write_text(CHARTER + world)
    return path


def test_every_wrong_field_of_a_world_is_named_at_once_as_the_file_has_it(tmp_path):
    world = """
[world]
kind = "parts"
departments = 2
fewst = 3
[world.data]
path = "stock.csv"
task = "binry"
[[world.by]]
kind = "labels"
classes = 1
[[world.by]]
kind = "dirichlett"
[network]
drop = 2
"""
    with pytest.raises(ConfigError) as caught:
        read_scenario(scenario(tmp_path, world))
    told = str(caught.value)
    for field in (
        "world.departments:",
        "world.fewst:",
        "world.data.task:",
        "world.data.target:",
        "world.by.0.classes:",
        "world.by.1: no partitioner 'dirichlett'; did you mean 'dirichlet'?",
        "network.drop:",
    ):
        assert f"  {field}" in told


@pytest.mark.parametrize(
    ("world", "said"),
    [
        ('kind = "digts"', "world: .*no world 'digts'; did you mean 'digits'"),
        ("rows = 3", "world: .*a world is a section with its kind: digits, dataset, parts"),
        ('kind = "digits"\nseed = 3', "world.seed"),
        ('kind = "dataset"\nname = "film"', "world.name: .*no dataset 'film'"),
        ('kind = "dataset"\nname = "films"\nprotocol = "x"', "world.protocol: .*known: occupations"),
        ('kind = "dataset"', "world.name: Field required"),
    ],
)
def test_a_world_that_cannot_be_is_refused_with_its_reason(tmp_path, world, said):
    with pytest.raises(ConfigError, match=said):
        read_scenario(scenario(tmp_path, f"[world]\n{world}\n"))


def test_names_are_known_at_once_where_they_can_be(tmp_path):
    found = read_scenario(scenario(tmp_path, PARTS))
    assert (found.names[0], found.names[-1], len(found.names)) == ("d01", "d12", 12)
    with pytest.raises(ConfigError, match=r"events.0: no department is called 'd13'"):
        read_scenario(scenario(tmp_path, PARTS + '[[events]]\nround = 1\nkill = "d13"\n'))


def test_events_of_departments_that_only_the_table_knows_are_checked_when_it_is_read(tmp_path):
    pl.DataFrame(
        {"plant": ["east", "west", "north"] * 20, "x": [float(at % 7) for at in range(60)], "y": ["a", "b"] * 30}
    ).write_csv(tmp_path / "plants.csv")
    world = """
[world]
kind = "parts"
[world.data]
path = "plants.csv"
target = "y"
task = "binary"
features = ["x"]
[[world.by]]
kind = "column"
column = "plant"
[[events]]
round = 1
kill = "{}"
"""
    path = scenario(tmp_path, world.format("south"))
    path.write_text(path.read_text().replace("inputs = 64", "inputs = 1"))
    assert read_scenario(path).names == ()
    with pytest.raises(ConfigError, match="no department is called 'south'") as caught:
        simulate(path, finish=False)
    assert "east, north, west" in caught.value.advice
    path.write_text(path.read_text().replace("south", "north"))
    report = simulate(path, finish=False)["arms"][0]
    assert report["state"] == "stopped"  # two of three are fewer than a sum needs
    path.write_text(path.read_text().partition("[[events]]")[0])
    assert simulate(path, finish=False)["arms"][0]["state"] == "finished"


def test_a_world_in_parts_runs_alike_for_any_number_of_processes_and_goes_on_in_its_folder(tmp_path):
    path = scenario(tmp_path, PARTS + "[network]\ndrop = 0.3\n")
    once = simulate(path, finish=False, folder=tmp_path / "kept")["arms"][0]
    again = simulate(path, finish=False, folder=tmp_path / "kept")["arms"][0]
    other = simulate(path, finish=False, workers=2)["arms"][0]
    assert once["backbone"] == again["backbone"] == other["backbone"]
    path.write_text(path.read_text().replace("alpha = 2.0", "alpha = 3.0"))
    with pytest.raises(ConfigError, match="holds another simulation"):
        simulate(path, finish=False, folder=tmp_path / "kept")


# -- published datasets ------------------------------------------------------------------------------------------------


def test_a_dataset_that_comes_with_the_program_needs_no_files(tmp_path):
    path = scenario(tmp_path, '[world]\nkind = "dataset"\nname = "digits"\nprotocol = "skew"\n')
    report = simulate(path, finish=False)
    assert len(report["table"]) == 8
    assert report["arms"][0]["state"] == "finished"


def test_a_dataset_that_is_not_here_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.delenv("COMMONROOT_DATA", raising=False)
    monkeypatch.setattr("commonroot.simulations.datasets.world.downloads", lambda: tmp_path / "nothing")
    path = scenario(tmp_path, '[world]\nkind = "dataset"\nname = "films"\n')
    with pytest.raises(ConfigError, match="the files of 'films' are not on this machine") as caught:
        simulate(path, finish=False)
    assert caught.value.advice == "commonroot download films"


def test_published_data_is_looked_for_where_the_caller_the_section_or_the_environment_says(tmp_path, monkeypatch):
    """The caller's folder before the section's; both before $COMMONROOT_DATA."""
    monkeypatch.setattr("commonroot.simulations.datasets.world.downloads", lambda: tmp_path / "nothing")
    for name in ("caller", "section", "environment"):
        (tmp_path / name / "movielens-100k").mkdir(parents=True)
    monkeypatch.setenv("COMMONROOT_DATA", str(tmp_path / "environment"))

    def lacking(caller: Path | None, **fields: str) -> str:
        world = Published.model_validate({"kind": "dataset", "name": "films", **fields})
        with pytest.raises(ConfigError, match=r"lacks u\.") as caught:
            world.write(tmp_path / "out", seed=1, beside=tmp_path, data=caller)
        return str(caught.value)

    assert str(tmp_path / "caller") in lacking(tmp_path / "caller", data="section")
    assert str(tmp_path / "section") in lacking(None, data="section")
    assert str(tmp_path / "environment") in lacking(None)


# -- ready scenarios ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("one", ready(), ids=lambda one: one.name)
def test_a_ready_scenario_says_what_it_shows_in_a_line_and_holds_a_charter(one):
    assert 20 < len(one.shows) < 130
    found = model_from_toml(Scenario, one.text, path=one.name)
    assert isinstance(Draft.model_validate(found.charter), Draft)
    assert isinstance(found.world, Parts | Published)


@pytest.mark.parametrize("one", ready(), ids=lambda one: one.name)
def test_the_charter_of_a_ready_scenario_is_the_one_that_is_measured(one, tmp_path):
    """What ``bench transfer`` measures on that dataset, field by field."""
    found = model_from_toml(Scenario, one.text, path=one.name)
    if not isinstance(found.world, Published):
        return
    dataset = get(found.world.name)
    source = find_data(dataset.folder, DATA) if dataset.folder else tmp_path
    if source is None:
        pytest.skip(f"{dataset.folder} is not on this machine; `commonroot download {dataset.name}` fetches it")
    measured = dataset.write(source, tmp_path, seed=1, protocol=found.world.protocol).charter
    ours = {key: found.charter.model_dump()[key] for key in ("rounds", "method", "training", "cohort", "backbone")}
    told = {"federation": found.charter.federation, "name": found.charter.name, **measured}
    theirs = {key: Draft.model_validate(told).model_dump()[key] for key in ours}
    assert ours == theirs


def test_the_five_business_settings_are_there():
    assert {"ratings", "text", "images", "equipment", "sales"} <= {one.name for one in ready()}
    assert find("images").download is None
    assert find("ratings").download == "films"
    with pytest.raises(ConfigError, match="no scenario 'imags'") as caught:
        find("imags")
    assert caught.value.advice == "did you mean 'images'?"


def test_scenarios_are_listed_and_copied_once(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    listed = json.loads(CliRunner().invoke(app, ["scenarios", "--json"]).stdout)["scenarios"]
    assert [one["name"] for one in listed] == sorted(one.name for one in ready())
    assert CliRunner().invoke(app, ["scenarios", "copy", "images"]).exit_code == 0
    assert (tmp_path / "images.toml").read_text() == find("images").text
    assert CliRunner().invoke(app, ["scenarios", "copy", "images"]).exit_code == 2
    (tmp_path / "folder").mkdir()
    assert CliRunner().invoke(app, ["scenarios", "copy", "images", "folder"]).exit_code == 0
    assert (tmp_path / "folder" / "images.toml").is_file()
    assert CliRunner().invoke(app, ["scenarios", "copy", "nothing"]).exit_code == 2
