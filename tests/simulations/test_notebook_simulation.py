"""``commonroot.simulate``: frames, arrays and files become one scenario; what comes out is what the command says."""

from __future__ import annotations

import asyncio
import csv
import gc
import io
import re
import tomllib
import xml.etree.ElementTree as xml
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from rich.console import Console
from small_world import NAMES, few_recipes, scenario

import commonroot
from commonroot import simulate
from commonroot.client.data import DataConfig
from commonroot.common.charter import Draft
from commonroot.common.errors import ConfigError, DataError
from commonroot.simulations import notebook, scenarios
from commonroot.simulations.given import absolute, scenario_of, values_of
from commonroot.simulations.pictures import Picture
from commonroot.simulations.scenario import Scenario, read_scenario
from commonroot.simulations.simulate import simulate as run_file

READY = Path(scenarios.__file__).parent
CHARTER = {
    "rounds": 2,
    "method": {"name": "fedper", "options": {"fine_tune_head_epochs": 1, "fine_tune_epochs": 1}},
    "backbone": {"inputs": 3, "widths": [4]},
}


@pytest.fixture(scope="module", autouse=True)
def _quick():
    with few_recipes(1):
        yield


def arrays(seed: int) -> tuple[np.ndarray, np.ndarray]:
    x = np.random.default_rng(seed).normal(size=(40, 3))
    return x, np.where(x[:, 0] > x[:, 1], "yes", "no")


def frame(seed: int) -> pl.DataFrame:
    x, y = arrays(seed)
    return pl.DataFrame(x, schema=["x0", "x1", "x2"]).with_columns(y=pl.Series(y))


def one_of_each(folder: Path) -> dict[str, object]:
    """The same kind of table in every form that a department may be given in."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("table", "section"):
        with (folder / f"{name}.csv").open("w", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(frame(2).columns)
            rows.writerows(frame(2).rows())
    (folder / "department.toml").write_text(
        '[department]\nname = "x"\n[data]\npath = "section.csv"\ntarget = "y"\ntask = "binary"\n'
    )
    return {
        "array": arrays(1),
        "frame": frame(2),
        "rows": {"rows": frame(3).to_dict(as_series=False), "target": "y", "task": "binary", "validation": 0.3},
        "file": str(folder / "table.csv"),
        "section": {"path": str(folder / "table.csv"), "target": "y", "task": "binary"},
        "config": DataConfig(path=folder / "table.csv", target="y", task="binary"),
        "toml": folder / "department.toml",
    }


COMMON = {"target": "y", "task": "binary"}


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    folder = tmp_path_factory.mktemp("result")
    return simulate(
        CHARTER, one_of_each(folder / "given"), common=COMMON, arms=["fedper", "pooled"], folder=folder / "kept"
    )


# -- what it takes -----------------------------------------------------------------------------------------------------


def test_every_form_of_a_department_takes_part(result):
    assert result.table["department"].unique(maintain_order=True).to_list() == [
        "array", "frame", "rows", "file", "section", "config", "toml"
    ]  # fmt: skip
    assert result.report["sum"] == "ring"
    rows = {one["name"]: one["n_train"] for one in result.report["arms"][0]["departments"]}
    assert rows == dict.fromkeys(result.departments, 32)


def test_a_file_alone_gives_what_the_command_gives(tmp_path):
    path = scenario(tmp_path, rounds=2)
    ours = simulate(str(path), sum="exact")
    theirs = run_file(path)
    for report in (ours.report, theirs):
        for arm in report["arms"]:
            del arm["wall_seconds"], arm["seconds_per_round"], arm["history"]
    assert ours.report == theirs


def test_sections_stand_over_those_of_the_file(tmp_path):
    path = scenario(tmp_path, rounds=2, more="[network]\ndrop = 0.9\n")
    found = simulate(path, seed=5, network={"drop": 0.0}, quick=True, events=[{"round": 2, "kill": "west"}])
    assert found.report["seed"] == 5
    assert found.rounds["survivors"].to_list() == [4, 3]
    assert found.table.height == 0


@pytest.mark.parametrize("form", ["path", "mapping", "scenario"])
def test_a_world_stands_over_the_departments_of_a_scenario(form, tmp_path):
    path = scenario(tmp_path, rounds=1)
    path.write_text(path.read_text().replace("inputs = 4", "inputs = 64"))
    whole = {"path": path, "mapping": tomllib.loads(path.read_text()), "scenario": read_scenario(path)}[form]
    found = simulate(whole, world={"kind": "parts", "data": "digits", "departments": 3}, quick=True)
    assert found.rounds["survivors"].to_list() == [3]
    assert found.report["federation"] == "works"


@pytest.mark.parametrize("inside", [True, False])
def test_fragments_are_included_by_files_alone(inside, tmp_path):
    whole = tomllib.loads(scenario(tmp_path).read_text())
    include = {"include": ["dropout-30.toml"]}
    with pytest.raises(ConfigError, match="include: only a file includes others"):
        simulate(whole | include if inside else whole, quick=True, **({} if inside else include))


def test_a_charter_is_a_path_a_draft_or_a_mapping(tmp_path):
    whole = {"federation": "simulated", "name": "tried", **CHARTER}
    (tmp_path / "charter.toml").write_text(Draft.model_validate(whole).to_toml())
    given = {"charter": {"path": tmp_path / "charter.toml", "draft": Draft.model_validate(whole), "mapping": CHARTER}}
    made = [
        scenario_of(charter, None, common=None, sections={"world": {"kind": "digits"}}, tables=Path).draft
        for charter in given["charter"].values()
    ]
    assert made[0] == made[1] == made[2]


def test_tables_in_memory_are_files_under_their_hash_and_never_written_over(tmp_path):
    def made(rows):
        found = scenario_of(
            CHARTER,
            dict.fromkeys("abc", rows),
            common=COMMON,
            sections={},
            tables=lambda: tmp_path,
        )
        return [one.data.path for one in found.departments]

    first, again, other = made(arrays(1)), made(arrays(1)), made(arrays(2))
    assert first == again and set(first).isdisjoint(other)
    assert len(list(tmp_path.iterdir())) == 6  # two tables for each of three departments
    written = np.load(first[0], allow_pickle=False)
    assert (written["X"] == arrays(1)[0]).all() and (written["y"] == arrays(1)[1]).all()


def test_the_values_of_a_scenario_make_it_again(tmp_path):
    found = read_scenario(scenario(tmp_path, more="[network]\ndrop = 0.5\n"))
    assert Scenario.model_validate(values_of(found)) == found


# -- what it refuses ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "named", "text"),
    [
        ((CHARTER,), {}, "makes no federation"),
        ((CHARTER, {"a": frame(1)}), {}, "does not say what is to be predicted"),
        ((CHARTER, {"a": {"rows": frame(1), "path": "x.csv", **COMMON}}), {}, "has rows and path"),
        ((CHARTER, {"a": object()}), {"common": COMMON}, "department 'a': rows of type object"),
        ((CHARTER, {"a": (np.ones((3, 2)), np.array([1, object(), 2], dtype=object))}), {"common": COMMON}, "objects"),
        ((CHARTER, {"a": (np.ones(3),)}), {"common": COMMON}, "is \\(X, y\\)"),
        ((CHARTER, {n: frame(1) for n in "ab"}), {"common": COMMON}, "departments: .*2 departments"),
        (
            (CHARTER | {"rounds": 0}, {n: {"rows": frame(1), "tusk": 1, **COMMON} for n in "abc"}),
            {"network": {"drop": 2}},
            "(?s)5 wrong field.*charter.rounds.*departments.a.data.tusk.*departments.c.data.tusk.*network.drop",
        ),
        (("nowhere.toml",), {}, "the scenario nowhere.toml does not exist"),
        ((CHARTER, {n: frame(1) for n in "abc"}), {"common": COMMON, "arms": ["fedprr"]}, "did you mean 'fedper'"),
        ((CHARTER, {n: frame(1) for n in "abc"}), {"common": COMMON, "track": "paper:x"}, "not a place to track"),
        ((CHARTER, {n: frame(1) for n in "abc"}), {"common": COMMON, "wether": 1}, "wether: Extra inputs"),
        ((CHARTER, {n: frame(1) for n in "abc"}), {"common": COMMON, "sum": "ring", "workers": 1, "seed": -1}, "seed"),
    ],
)
def test_what_is_wrong_is_said_in_one_error(arguments, named, text):
    with pytest.raises(ConfigError, match=text):
        simulate(*arguments, **named)


def test_what_is_wrong_with_data_is_said_for_all_departments():
    with pytest.raises(DataError, match=r"(?s)^a: .*'demand'.*no such column.*\nc: .*'demand'"):
        simulate(
            CHARTER,
            {"a": frame(1), "b": {"rows": frame(2), "target": "y"}, "c": frame(3)},
            common={"target": "demand", "task": "binary"},
        )


def test_tables_that_are_not_there_are_told_for_all_departments(tmp_path):
    with pytest.raises(DataError, match=r"(?s)a: .*gone.csv does not exist\nc: .*lost.csv does not exist"):
        simulate(CHARTER, {"a": tmp_path / "gone.csv", "b": frame(1), "c": tmp_path / "lost.csv"}, common=COMMON)


@pytest.mark.parametrize("path", sorted(READY.glob("*.toml")), ids=lambda path: path.stem)
def test_ready_scenarios_are_the_same_once_their_paths_are_absolute(path):
    found = read_scenario(path)
    again = absolute(found, path.parent)
    assert values_of(again).keys() == values_of(found).keys()
    assert (again.names, again.draft, again.behaviour) == (found.names, found.draft, found.behaviour)


def test_behaviours_and_lies_are_written_down_as_their_file_says_them(tmp_path):
    more = """[[behaviour]]
kind = "label-flip"
departments = ["west"]
[[behaviour]]
kind = "dropout"
share = 0.2
from = 2
"""
    path = scenario(tmp_path, more=more)
    found = read_scenario(path)
    assert absolute(found, tmp_path).cast().told() == found.cast().told() != []


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(ConfigError, match="no simulation made it"):
        simulate(CHARTER, {n: frame(1) for n in "abc"}, common=COMMON, folder=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


# -- what comes out ----------------------------------------------------------------------------------------------------


def test_tables_hold_what_the_report_holds(result):
    rows = [row for row in result.report["table"] if row["arm"] == "fedper"]
    table = result.table.filter(arm="fedper")
    assert table["federated"].to_list() == [row["federated"] for row in rows]
    assert table["gain_low"].to_list() == [row["interval"][0] for row in rows]
    assert table["choice"].to_list() == [row["kept"] for row in rows]
    assert result.rounds["arm"].to_list() == ["fedper", "fedper"]
    assert result.rounds["held_out"].null_count() == 0
    assert result.costs["arm"].to_list() == ["fedper", "pooled"]
    assert result.costs["backbone"][0] == result.report["arms"][0]["backbone"]


def test_the_backbone_is_that_of_the_journal_and_version_0_what_training_began_with(result):
    last, first = result.backbone("fedper"), result.backbone("fedper", version=0)
    assert (last.version, first.version) == (2, 0)
    assert last.tensors["layers.0.weight"].shape == (4, 3)
    assert not np.array_equal(last.tensors["layers.0.weight"], first.tensors["layers.0.weight"])
    with pytest.raises(ConfigError, match="no version 3"):
        result.backbone("fedper", version=3)


def test_the_predictor_is_the_model_that_the_department_chose(result):
    model = result.predictor("fedper", "frame")
    assert set(model.predict(frame(9))["class"]) <= {"yes", "no"}
    with pytest.raises(ConfigError, match="no department 'fram'"):
        result.predictor("fedper", "fram")
    for ask in (result.backbone, result.predictor):
        with pytest.raises(ConfigError, match="say which arm"):
            ask()
        with pytest.raises(ConfigError, match="is no federation"):
            ask("pooled")


def test_pictures_are_whole_documents_that_bring_their_style(result, tmp_path):
    drawn = [result.plot_gains(), result.plot_gains("fedper"), result.plot_rounds(), result.plot_rounds(what="seconds")]
    for picture in drawn:
        assert isinstance(picture, Picture)
        root = xml.fromstring(picture._repr_svg_())
        names = [one.get("id") for one in root.iter() if one.get("id")]
        assert root.tag.endswith("svg") and len(names) == len(set(names))
    assert drawn[0].save(tmp_path / "gains.svg").read_text() == drawn[0].svg
    assert "<svg" in drawn[0].save(tmp_path / "gains.html").read_text()
    with pytest.raises(ConfigError, match=r"\.svg or \.html"):
        drawn[0].save(tmp_path / "gains.png")


def test_the_summary_names_every_department_and_shows_plots(result, tmp_path):
    text = result._repr_html_()
    assert all(name in text for name in result.departments)
    assert len(re.findall("data:image/svg", text)) == 2
    assert [path.name for path in result.save(tmp_path / "new")] == ["report.json", "report.html"]


def test_a_quick_simulation_has_rounds_and_says_why_there_is_no_more(tmp_path):
    found = simulate(CHARTER, {n: frame(k) for k, n in enumerate("abc")}, common=COMMON, quick=True)
    assert found.rounds.height == 2 and found.table.height == 0
    assert "data:image/svg" in found._repr_html_()
    for ask in (found.plot_gains, lambda: found.predictor(department="a")):
        with pytest.raises(ConfigError, match=r"no gains|chose no model"):
            ask()


def test_it_runs_inside_an_event_loop_says_nothing_and_leaves_torch_and_the_disk_as_they_were():
    async def cell():
        return simulate(CHARTER, {n: frame(k) for k, n in enumerate("abc")}, common=COMMON, quick=True)

    threads = torch.get_num_threads()
    out, aside = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(aside):
        found = asyncio.run(cell())
    assert (out.getvalue(), aside.getvalue()) == ("", "")
    assert torch.get_num_threads() == threads
    folder = found.folder
    assert found.backbone().version == 2 and folder.is_dir()
    del found
    gc.collect()
    assert not folder.exists()


def test_the_same_call_goes_on_in_its_folder_and_another_one_is_refused(tmp_path):
    departments = {n: frame(k) for k, n in enumerate("abc")}
    first = simulate(CHARTER, departments, common=COMMON, quick=True, folder=tmp_path / "kept")
    again = simulate(CHARTER, departments, common=COMMON, quick=True, folder=tmp_path / "kept")
    assert again.backbone().tensors.keys() == first.backbone().tensors.keys()
    assert again.costs["backbone"].to_list() == first.costs["backbone"].to_list()
    with pytest.raises(ConfigError, match="department a"):
        simulate(CHARTER, departments | {"a": frame(9)}, common=COMMON, quick=True, folder=tmp_path / "kept")


@pytest.mark.parametrize(
    ("where", "widgets", "drawn"),
    [
        ({"force_terminal": True}, False, True),
        ({"force_terminal": False}, True, False),
        ({"force_jupyter": True}, True, True),
        ({"force_jupyter": True}, False, False),  # every step of a bar would be another output
    ],
)
def test_bars_are_drawn_where_they_are_seen_to_move(where, widgets, drawn, monkeypatch):
    monkeypatch.setattr(notebook, "Console", lambda **_: Console(file=io.StringIO(), **where))
    monkeypatch.setattr(notebook, "find_spec", lambda name: object() if widgets else None)
    assert (notebook.seen_console(True) is not None) is drawn
    assert notebook.seen_console(False) is None


def test_the_public_names_are_there():
    assert {"Result", "Sweep", "simulate", "sweep"} <= set(commonroot.__all__)
    assert NAMES  # the small world's
