"""Whole federations in one process: one seed, one backbone, whatever the weather and however often it is killed."""

from __future__ import annotations

import json
import signal
import subprocess
import sys

import pytest
import typer
from small_world import CHARTER, NAMES, STORM, quick_last_steps, scenario
from typer.testing import CliRunner

from commonroot.common.errors import ConfigError, DataError
from commonroot.common.secure_sum.codec import SumCodec
from commonroot.console import group
from commonroot.simulations.arms import parse_arm
from commonroot.simulations.cli import add_commands
from commonroot.simulations.comparison import save
from commonroot.simulations.scenario import read_scenario
from commonroot.simulations.simulate import simulate
from commonroot.strategies import seal


@pytest.fixture(scope="module", autouse=True)
def _quick():
    with quick_last_steps(2):
        yield


class Killed(BaseException):
    """Stands for SIGKILL: nothing of the program catches it."""


def kill_at(kind: str, number: int):
    """A listener that kills the simulation at the given occurrence of an event."""
    left = [number]

    def tell(arm, what, facts):
        left[0] -= what == kind
        if left[0] == 0:
            raise Killed

    return tell


def backbone(result) -> str:
    (report,) = result["arms"]
    assert report["state"] == "finished"
    return report["backbone"]


# -- determinism and resuming ------------------------------------------------------------------------------------------


def test_equal_seeds_give_the_identical_backbone_and_table_and_others_do_not(tmp_path):
    first = simulate(scenario(tmp_path / "a", rounds=2))
    again = simulate(scenario(tmp_path / "b", rounds=2))
    other = simulate(scenario(tmp_path / "c", rounds=2, seed=2))
    assert backbone(first) == backbone(again) != backbone(other)
    assert first["table"] == again["table"]


def test_a_federation_that_loses_30_percent_of_uploads_still_ends(tmp_path):
    result = simulate(scenario(tmp_path, rounds=8, more="[network]\ndrop = 0.3\n"))
    (report,) = result["arms"]
    assert (report["state"], report["rounds"]) == ("finished", 8)
    missing = sum(row["cohort"] - row["survivors"] for row in report["history"])
    assert missing + report["lost_rounds"] > 0
    assert len(report["departments"]) == len(NAMES)
    assert report["faults"]["told"] == ["30 % of masked parcels are lost"]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The backbone of a stormy simulation that nobody killed."""
    result = simulate(scenario(tmp_path_factory.mktemp("undisturbed"), more=STORM))
    assert sum(row["cohort"] - row["survivors"] for row in result["arms"][0]["history"]) > 0  # it was stormy
    return backbone(result)


@pytest.mark.parametrize(
    ("kind", "number"),
    [
        ("stands", 1),  # nothing has happened yet
        ("run-ready", 2),  # half of the departments have approved
        ("run-round", 1),
        ("training", 3),  # inside a department
        ("uploaded", 6),  # written ahead, not yet sent
        ("run-opening", 2),  # the survivor set is fixed, nobody has opened it
        ("opened", 7),
        ("run-closed", 3),
        ("finishing", 2),
        ("run-taken-over", 2),
    ],
)
def test_a_killed_simulation_resumes_to_the_same_backbone(kind, number, undisturbed, tmp_path):
    path = scenario(tmp_path / "data", more=STORM)
    with pytest.raises(Killed):
        simulate(path, folder=tmp_path / "kept", tell=kill_at(kind, number))
    assert backbone(simulate(path, folder=tmp_path / "kept")) == undisturbed


def test_a_simulation_that_is_killed_again_and_again_arrives_all_the_same(undisturbed, tmp_path):
    path = scenario(tmp_path / "data", more=STORM)
    for _ in range(4):
        with pytest.raises(Killed):
            simulate(path, folder=tmp_path / "kept", tell=kill_at("run-closed", 1))
    assert backbone(simulate(path, folder=tmp_path / "kept")) == undisturbed


def test_one_killed_while_its_keys_were_made_begins_anew(tmp_path, monkeypatch):
    path = scenario(tmp_path / "data", rounds=2)
    whole = backbone(simulate(path))

    def die(*_arguments, **_named):
        raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr("commonroot.simulations.founding.join", die)
        simulate(path, folder=tmp_path / "kept")
    assert backbone(simulate(path, folder=tmp_path / "kept")) == whole


@pytest.mark.slow
def test_a_process_that_is_killed_for_good_is_taken_up_by_the_next(undisturbed, tmp_path):
    path = scenario(tmp_path / "data", more=STORM)
    code = (
        "import os, signal, sys; from pathlib import Path; from commonroot.simulations.simulate import simulate\n"
        "def tell(arm, kind, facts):\n"
        "    if kind == 'run-opening' and facts['making'] == 3: os.kill(os.getpid(), signal.SIGKILL)\n"
        "simulate(Path(sys.argv[1]), folder=Path(sys.argv[2]), tell=tell)"
    )
    done = subprocess.run([sys.executable, "-c", code, path, tmp_path / "kept"], timeout=120, check=False)
    assert done.returncode == -signal.SIGKILL
    assert backbone(simulate(path, folder=tmp_path / "kept")) == undisturbed


def test_a_finished_simulation_is_read_and_not_run_again(tmp_path):
    path, heard = scenario(tmp_path / "data", rounds=2), []
    arms = ["fedper", "pooled"]
    first = simulate(path, folder=tmp_path / "kept", arms=arms)
    again = simulate(path, folder=tmp_path / "kept", arms=arms, tell=lambda arm, kind, facts: heard.append(kind))
    assert set(heard) == {"stands", "done"}
    for result in (first, again):
        for report in result["arms"]:
            del report["wall_seconds"]
    assert again == first


# -- who comes and goes ------------------------------------------------------------------------------------------------


def test_a_killed_department_is_missing_from_the_sum_until_it_starts_again(tmp_path):
    """West is killed in the round that makes version 2 (in its cohort, not in its sum), absent from the cohort of 3 and
    back in that of 4."""
    more = '[[events]]\nround = 2\nkill = "west"\n[[events]]\nround = 4\nstart = "west"\n'
    (report,) = simulate(scenario(tmp_path, rounds=5, more=more))["arms"]
    assert [(row["cohort"], row["survivors"]) for row in report["history"]] == [(4, 4), (4, 3), (3, 3), (4, 4), (4, 4)]
    assert {row["name"] for row in report["departments"]} == set(NAMES)


def test_a_department_whose_first_event_is_a_start_joins_then(tmp_path):
    (report,) = simulate(scenario(tmp_path, rounds=3, more='[[events]]\nround = 3\nstart = "west"\n'))["arms"]
    assert [(row["cohort"], row["survivors"]) for row in report["history"]] == [(3, 3), (3, 3), (4, 4)]


@pytest.mark.parametrize("number", [2, 3])
@pytest.mark.parametrize("kind", ["run-opening", "run-closed"])
def test_events_happen_the_same_after_a_kill(kind, number, eventful, tmp_path):
    path = scenario(tmp_path / "data", rounds=4, more=EVENTS)
    with pytest.raises(Killed):
        simulate(path, folder=tmp_path / "kept", tell=kill_at(kind, number))
    assert backbone(simulate(path, folder=tmp_path / "kept")) == eventful


EVENTS = '[[events]]\nround = 2\nkill = "west"\n[[events]]\nround = 4\nstart = "west"\n'


@pytest.fixture(scope="module")
def eventful(tmp_path_factory):
    """The backbone of a simulation with events that nobody killed."""
    return backbone(simulate(scenario(tmp_path_factory.mktemp("eventful"), rounds=4, more=EVENTS)))


def test_a_department_that_never_came_back_has_a_row_without_results(tmp_path):
    result = simulate(scenario(tmp_path, rounds=2, more='[[events]]\nround = 1\nkill = "west"\n'))
    rows = {row["department"]: row for row in result["table"]}
    assert (rows["west"]["alone"], rows["west"]["gain"], rows["west"]["kept"]) == (None, None, None)
    assert rows["north"]["alone"] is not None


# -- arms --------------------------------------------------------------------------------------------------------------

ALL = ["fedavg", "fedavg-ft", "fedper", "fedrep", "local", "pooled"]


@pytest.fixture(scope="module")
def on_digits(tmp_path_factory):
    """Every method and the pooled reference on the five departments with four kinds of task, two rounds."""
    folder = tmp_path_factory.mktemp("digits")
    text = CHARTER.format(rounds=2).replace("inputs = 4, widths = [6, 5]", "inputs = 64, widths = [16]")
    (folder / "federation.toml").write_text(text + '[world]\nkind = "digits"\n')
    return simulate(folder / "federation.toml", arms=ALL, folder=folder / "kept")


def test_every_method_runs_where_departments_have_different_tasks(on_digits):
    assert [report["arm"] for report in on_digits["arms"]] == ALL
    assert {report["state"] for report in on_digits["arms"]} == {"finished"}
    tasks = {row["department"]: row["task"] for row in on_digits["table"]}
    assert set(tasks.values()) == {"classification", "binary", "regression"}
    assert len(on_digits["table"]) == 5 * len(ALL)
    assert all(row["alone"] is not None for row in on_digits["table"])
    for row in on_digits["table"]:
        assert (row["federated"] is None) == (row["arm"] == "local")


def test_arms_learn_different_backbones_and_local_none(on_digits):
    hashes = {report["arm"]: report["backbone"] for report in on_digits["arms"]}
    assert hashes["pooled"] is None
    assert hashes["fedavg"] != hashes["fedrep"] != hashes["local"]
    losses = next(report["history"] for report in on_digits["arms"] if report["arm"] == "local")
    assert losses[0]["held_out"] == pytest.approx(losses[1]["held_out"], abs=1e-6)


def test_the_pooled_arm_says_that_it_protects_nobody_and_sends_nothing(on_digits):
    pooled = on_digits["arms"][-1]
    assert "no privacy" in pooled["note"]
    assert (pooled["bytes_received"], pooled["coordinator_saw"], pooled["rounds"]) == (None, [], 0)


def test_the_pooled_arm_is_compared_with_the_same_models_trained_alone_as_the_charters_method(on_digits):
    alone = {arm: [row["alone"] for row in on_digits["table"] if row["arm"] == arm] for arm in ("fedper", "pooled")}
    assert alone["pooled"] == alone["fedper"]


def test_an_arm_gives_the_same_alone_and_among_others(tmp_path):
    path = scenario(tmp_path, rounds=2)
    single = backbone(simulate(path, arms=["fedrep"]))
    among = simulate(path, arms=["fedavg", "fedrep", "fedrep:head_epochs=1"])["arms"]
    assert among[1]["backbone"] == single
    assert len({report["backbone"] for report in among}) == 3


def test_an_upload_is_as_long_as_its_manifest_and_all_else_is_alike(tmp_path):
    """Under local an upload holds the participation scalars alone, under fedper the backbone's change besides; both
    are sent by 4 departments in 2 rounds.  Heads of messages do not depend on the method."""
    path = scenario(tmp_path, rounds=2)
    reports = simulate(path, arms=["local", "fedper"])["arms"]
    seen = [{row["kind"]: row["bytes"] for row in report["coordinator_saw"]} for report in reports]
    bodies = []
    for arm in ("local", "fedper"):
        codec = SumCodec(seal(parse_arm(arm, read_scenario(path).draft).draft).manifest, 4)
        bodies.append(codec.layout.nbytes)
    assert seen[1].pop("masked") - seen[0].pop("masked") == 4 * 2 * (bodies[1] - bodies[0]) > 0
    assert seen[0] == seen[1]
    assert all(r["bytes_received"] == sum(row["bytes"] for row in r["coordinator_saw"]) for r in reports)


# -- what is refused ---------------------------------------------------------------------------------------------------


def test_data_that_does_not_fit_is_told_for_all_departments_before_anything_runs(tmp_path):
    path = scenario(tmp_path / "data")
    path.write_text(path.read_text().replace("inputs = 4", "inputs = 3"))
    (tmp_path / "data" / "east.csv").write_text("a,b,c,target\n1,2,x,yes\n")
    with pytest.raises(DataError) as caught:
        simulate(path, folder=tmp_path / "kept")
    assert all(f"{name}: " in str(caught.value) for name in NAMES)
    assert list((tmp_path / "kept" / "arms").iterdir()) == []
    simulate(scenario(tmp_path / "data", rounds=1), folder=tmp_path / "kept", arms=["local"])  # mended


def test_a_folder_is_of_one_simulation(tmp_path):
    path = scenario(tmp_path / "data", rounds=1)
    simulate(path, folder=tmp_path / "kept", arms=["local"])
    path.write_text(path.read_text().replace("seed = 1", "seed = 2"))
    with pytest.raises(ConfigError, match="holds another simulation; what differs: charter, department east"):
        simulate(path, folder=tmp_path / "kept", arms=["local"])
    scenario(tmp_path / "data", rounds=1)
    with (tmp_path / "data" / "north.csv").open("a") as file:
        file.write("0,0,0,0,yes\n")
    with pytest.raises(ConfigError, match=r"what differs: department north$"):
        simulate(path, folder=tmp_path / "kept", arms=["local"])


@pytest.mark.parametrize("sum", ["ring", "exact"])
def test_a_folder_keeps_the_order_of_its_departments(sum, tmp_path):
    """What departments keep lies under their numbers."""
    path = scenario(tmp_path / "data", rounds=1)
    simulate(path, folder=tmp_path / "kept", sum=sum, finish=False)
    head, *departments = path.read_text().split("[[departments]]")
    path.write_text("[[departments]]".join([head, *reversed(departments)]))
    with pytest.raises(ConfigError, match=r"what differs: the order of departments$") as caught:
        simulate(path, folder=tmp_path / "kept", sum=sum, finish=False)
    assert "bring the old file" in str(caught.value.advice)


def test_a_folder_that_no_simulation_made_is_left_alone(tmp_path):
    path = scenario(tmp_path / "data")
    with pytest.raises(ConfigError, match="no simulation made it"):
        simulate(path, folder=tmp_path / "data")
    assert not (tmp_path / "data" / "arms").exists()


def test_the_same_arm_twice_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="the same arm stands twice: fedavg"):
        simulate(scenario(tmp_path), arms=["fedavg", "fedavg"])


@pytest.mark.parametrize("sum", ["exact", "ring"])
def test_fewer_than_one_worker_is_refused(sum, tmp_path):
    with pytest.raises(ConfigError, match="workers: 0; at least 1"):
        simulate(scenario(tmp_path / "data"), folder=tmp_path / "kept", sum=sum, workers=0)
    assert not (tmp_path / "kept").exists()


def test_exact_sums_of_more_departments_than_a_roster_has_are_refused_before_anything_is_written(tmp_path):
    path = tmp_path / "federation.toml"
    world = '[world]\nkind = "parts"\ndata = "digits"\ndepartments = 1001\ncopies = 20\n'
    path.write_text(CHARTER.format(rounds=1) + world)
    with pytest.raises(ConfigError, match="1,001 departments: exact sums are over 1,000 at most") as caught:
        simulate(path, folder=tmp_path / "kept")
    assert "--sum ring" in str(caught.value.advice)
    assert not (tmp_path / "kept").exists()


# -- the command -------------------------------------------------------------------------------------------------------


@pytest.fixture
def program() -> typer.Typer:
    app = group("The program.")
    add_commands(app)
    return app


def test_the_command_prints_one_json_document_and_writes_what_it_printed(program, tmp_path):
    path = scenario(tmp_path, rounds=2)
    done = CliRunner().invoke(program, ["simulate", str(path), "--out", str(tmp_path / "out"), "--json"])
    assert done.exit_code == 0, done.output
    printed = json.loads(done.stdout)
    assert printed == json.loads((tmp_path / "out" / "report.json").read_text())
    assert "Did it help?" in (tmp_path / "out" / "report.html").read_text()


def test_the_command_shows_departments_and_arms(program, tmp_path):
    path = scenario(tmp_path, rounds=1)
    arms = ["--arm", "local", "--arm", "fedavg", "--arm", "pooled"]
    done = CliRunner().invoke(program, ["simulate", str(path), *arms, "--out", str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    for word in (*NAMES, "local", "fedavg", "no privacy"):
        assert word in done.stdout
    page = (tmp_path / "out" / "report.html").read_text()
    assert page.count('<th scope="row">') == 4 * 3 + 3
    assert "no privacy" in page


def test_a_run_that_comes_to_nothing_is_reported_and_ends_the_command_with_4(program, tmp_path):
    path = scenario(tmp_path, more="[network]\ndrop = 1.0\n")
    done = CliRunner().invoke(program, ["simulate", str(path), "--json", "--out", str(tmp_path / "out")])
    assert done.exit_code == 4
    (report,) = json.loads(done.stdout)["arms"]
    assert (report["state"], report["rounds"], report["lost_rounds"]) == ("stopped", 0, 5)
    assert "came to nothing" in report["reason"]


def test_every_word_of_a_comparison_page_is_escaped(on_digits, tmp_path):
    hostile = "</title><script>alert('x')</script>"
    result = json.loads(json.dumps(on_digits))
    result["federation"] = result["charter"] = hostile
    result["table"][0].update(department=hostile, metric=hostile, kept=hostile)
    result["arms"][0].update(arm=hostile, state="stopped", reason=hostile, faults={"told": [hostile]})
    save(result, tmp_path)
    assert "<script" not in (tmp_path / "report.html").read_text()
