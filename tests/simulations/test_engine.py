"""Sums without masks: the very backbone of the whole protocol, for any number of processes, whatever is killed."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from small_world import NAMES, STORM, quick_last_steps, scenario, started

from commonroot.common.errors import ConfigError, DataError, ProcessDied
from commonroot.simulations.engine import workers as engine_workers
from commonroot.simulations.engine.crew import Crew
from commonroot.simulations.engine.pages import Pages
from commonroot.simulations.engine.plan import Plan
from commonroot.simulations.scenario import read_scenario
from commonroot.simulations.simulate import simulate
from commonroot.strategies import seal

QUIET = "[network]\ndrop = 0.25\n"


@pytest.fixture(scope="module", autouse=True)
def _quick():
    with quick_last_steps(2):
        yield


def arm(path: Path, **options):
    return simulate(path, **options)["arms"][0]


# -- what comes out ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("more", ["", QUIET, STORM], ids=["calm", "losses", "storm"])
def test_a_ring_sum_gives_the_backbone_of_the_whole_protocol_bit_for_bit(tmp_path, more):
    path = scenario(tmp_path, more=more)
    exact, ring = arm(path, sum="exact"), arm(path, sum="ring", finish=False)
    assert ring["backbone"] == exact["backbone"]
    told = ("version", "cohort", "survivors", "loss", "held_out", "clipped_share")
    assert [[row[key] for key in told] for row in ring["history"]] == [
        [row[key] for key in told] for row in exact["history"]
    ]


def test_what_was_not_scored_is_told_by_nobody(tmp_path):
    path = scenario(tmp_path)
    text = path.read_text()
    assert text.count("{ batch = 8 }") == 1
    path.write_text(text.replace("{ batch = 8 }", "{ batch = 8, held_out_every = 3 }"))
    exact, ring = arm(path, sum="exact"), arm(path, sum="ring", finish=False)
    assert ring["backbone"] == exact["backbone"]
    assert [row["held_out"] for row in ring["history"]] == [row["held_out"] for row in exact["history"]]
    assert [row["held_out"] is not None for row in ring["history"]] == [True, False, False, True]
    assert all(row["loss"] is not None for row in ring["history"])


def test_events_befall_departments_alike(tmp_path):
    more = '[[events]]\nround = 2\nkill = "east"\n[[events]]\nround = 4\nstart = "east"\n'
    path = scenario(tmp_path, more=more)
    exact, ring = arm(path, sum="exact"), arm(path, sum="ring", finish=False)
    assert [row["survivors"] for row in ring["history"]] == [4, 3, 3, 4]
    assert ring["backbone"] == exact["backbone"]


def test_departments_end_with_the_reports_of_the_whole_protocol(tmp_path):
    path = scenario(tmp_path, rounds=2)
    exact, ring = arm(path, sum="exact"), arm(path, sum="ring")
    assert [row["name"] for row in ring["departments"]] == list(NAMES)
    assert ring["departments"] == exact["departments"]


@pytest.mark.parametrize("more", [QUIET, STORM], ids=["losses", "storm"])
@pytest.mark.parametrize("kind", ["ring", "off"])
def test_the_number_of_processes_changes_nothing(tmp_path, kind, more):
    path = scenario(tmp_path, more=more)
    found = {arm(path, sum=kind, workers=workers, finish=False)["backbone"] for workers in (1, 3)}
    assert len(found) == 1


def test_without_rounding_the_sum_is_near_and_not_the_same(tmp_path):
    path = scenario(tmp_path)
    ring, off = (arm(path, sum=kind, finish=False) for kind in ("ring", "off"))
    assert ring["backbone"] != off["backbone"]
    assert [row["loss"] for row in off["history"]] == pytest.approx([row["loss"] for row in ring["history"]], rel=0.05)


# -- killed ------------------------------------------------------------------------------------------------------------


class Killed(BaseException):
    """Stands for SIGKILL: nothing of the program catches it."""


@pytest.mark.parametrize("kind", ["round", "trained", "closed", "checked"])
def test_a_simulation_killed_at_any_event_goes_on_to_the_same_backbone(tmp_path, kind):
    path = scenario(tmp_path, more=QUIET)
    undisturbed = arm(path, sum="ring", finish=False)["backbone"]
    deaths = 0
    while True:
        seen = 0

        def tell(_arm, event, _facts, nth=deaths + 1):
            nonlocal seen
            seen += event in (kind, f"run-{kind}")
            if seen == nth and event in (kind, f"run-{kind}"):
                raise Killed

        try:
            found = arm(path, sum="ring", finish=False, folder=tmp_path / "kept", tell=tell)
        except Killed:
            deaths += 1
            assert deaths < 40
            continue
        break
    assert deaths >= 2
    assert found["backbone"] == undisturbed


def test_the_last_step_goes_on_where_it_was_killed(tmp_path):
    path = scenario(tmp_path, rounds=1)
    finished: list[str] = []

    def tell(_arm, event, facts):
        if event == "finished":
            finished.append(facts["department"])
            if len(finished) == 2:
                raise Killed

    with pytest.raises(Killed):
        simulate(path, sum="ring", folder=tmp_path / "kept", tell=tell)
    found = arm(path, sum="ring", folder=tmp_path / "kept", tell=tell)
    assert sorted(set(finished)) == sorted(NAMES)
    assert len(found["departments"]) == len(NAMES)


def _made(kept: Path) -> bool:
    """Has any arm come to its second version?  Its folder is renamed while it is founded."""
    try:
        return any(kept.glob("arms/*/coordinator/backbones/run-1-version-[2-9].*"))
    except FileNotFoundError:
        return False


@pytest.mark.slow
def test_a_killed_process_with_workers_resumes_to_the_same_hash(tmp_path):
    path = scenario(tmp_path, rounds=30)
    undisturbed = arm(path, sum="ring", finish=False)["backbone"]
    kept = tmp_path / "kept"
    command = [sys.executable, "-m", "commonroot", "simulate", str(path), "--sum", "ring", "--workers", "2", "--quick"]
    command += ["--folder", str(kept), "--json"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while process.poll() is None and not _made(kept):
            time.sleep(0.02)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert json.loads(done.stdout)["arms"][0]["backbone"] == undisturbed


# -- what is refused ---------------------------------------------------------------------------------------------------


def test_wrong_data_of_all_departments_is_told_at_once_and_nothing_runs(tmp_path):
    path = scenario(tmp_path)
    for name in ("north", "south"):
        (tmp_path / f"{name}.csv").write_text("a,b,c,d,target\n1,2,3,4,yes\n")
    with pytest.raises(DataError) as found:
        simulate(path, sum="ring", folder=tmp_path / "kept")
    assert "north" in str(found.value) and "south" in str(found.value) and "east.csv" not in str(found.value)
    path = scenario(tmp_path)  # mended: the same folder goes on
    assert arm(path, sum="ring", finish=False, folder=tmp_path / "other")["state"] == "finished"


def test_an_unknown_sum_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="ring"):
        simulate(scenario(tmp_path), sum="rings")


def test_a_round_that_too_few_contribute_to_is_lost_and_the_run_stops_in_the_end(tmp_path):
    path = scenario(tmp_path, more="[network]\ndrop = 1.0\n")
    found = arm(path, sum="ring", finish=False)
    assert found["state"] == "stopped"
    assert "0 of 4 contributed" in found["reason"]


# -- memory ------------------------------------------------------------------------------------------------------------


def test_departments_that_wait_hold_no_rows_and_nothing_changes(tmp_path, monkeypatch):
    path = scenario(tmp_path, more=QUIET)
    undisturbed = arm(path, sum="ring", finish=False)["backbone"]
    held: list[int] = []
    wake = Crew._wake

    def watched(self, number):
        learner = wake(self, number)
        held.append(len(self._awake))
        return learner

    monkeypatch.setattr(Crew, "_wake", watched)
    monkeypatch.setattr("commonroot.simulations.engine.arm.MEMORY", 1)
    found = arm(path, sum="ring", finish=False)
    assert max(held) == 1
    assert found["backbone"] == undisturbed


def states(value: float) -> dict[str, np.ndarray]:
    return {"head/weight": np.full((2, 3), value, np.float32), "head/bias": np.full(3, value, np.float32)}


def test_a_page_gives_the_state_before_a_version(tmp_path):
    pages = Pages(tmp_path, 2, newest=-1)
    assert pages.before(1, 0) is None
    pages.put(1, 0, states(0.0))
    pages.put(1, 1, states(1.0))
    assert pages.before(1, 0) is None
    assert pages.before(1, 1)["head/bias"].tolist() == [0.0] * 3
    assert pages.before(1, 2)["head/weight"].tolist() == [[1.0] * 3] * 2
    assert pages.before(0, 9) is None


def test_a_round_that_is_tried_again_finds_the_state_from_before_it(tmp_path):
    pages = Pages(tmp_path, 1, newest=-1)
    for version in range(3):
        pages.put(0, version, states(version))
    pages.put(0, 2, states(20.0))
    assert pages.before(0, 2)["head/bias"][0] == 1.0
    assert pages.before(0, 3)["head/bias"][0] == 20.0


def test_states_beyond_the_journal_count_as_nothing(tmp_path):
    pages = Pages(tmp_path, 1, newest=-1)
    for version in (0, 4):  # it was away in between
        pages.put(0, version, states(version))
    pages.close()
    again = Pages(tmp_path, 1, newest=3)
    assert again.before(0, 9)["head/bias"][0] == 0.0
    again.put(0, 4, states(5.0))
    assert again.before(0, 5)["head/bias"][0] == 5.0
    assert again.before(0, 4)["head/bias"][0] == 0.0


def test_a_state_may_grow_and_a_layout_cut_short_is_forgotten(tmp_path):
    pages = Pages(tmp_path, 1, newest=-1)
    pages.put(0, 0, {"head/bias": np.zeros(2, np.float32)})
    pages.put(0, 1, states(1.0))
    pages.put(0, 2, {"head/bias": np.arange(99, dtype=np.float32), "count": np.array([7])})
    assert pages.before(0, 3)["head/bias"][-1] == 98.0
    assert pages.before(0, 3)["count"].tolist() == [7]
    pages.close()
    with (tmp_path / "layouts.jsonl").open("ab") as file:
        file.write(b'[["head/')
    again = Pages(tmp_path, 1, newest=2)
    assert again.before(0, 3)["count"].tolist() == [7]
    again.put(0, 3, states(3.0))
    assert Pages(tmp_path, 1, newest=3).before(0, 4)["head/bias"].tolist() == [3.0] * 3


@pytest.mark.parametrize("moment", ["trained", "closed"])
def test_a_worker_that_is_gone_is_told_with_its_log(tmp_path, monkeypatch, moment):
    """In the middle of what it was asked, and before it is asked."""
    processes = started(monkeypatch)

    def tell(_arm, kind, _facts):
        if kind in (moment, f"run-{moment}"):
            processes[0].kill()
            processes[0].wait()

    with pytest.raises(ProcessDied, match=r"status -9; see worker-\*\.log in .*work"):
        arm(scenario(tmp_path), sum="ring", workers=2, tell=tell)
    assert [process.poll() is None for process in processes] == [False, False]


def test_words_of_workers_may_arrive_in_pieces(tmp_path, monkeypatch):
    path = scenario(tmp_path)
    whole = arm(path, sum="ring", workers=2)
    monkeypatch.setattr(engine_workers, "_AT_ONCE", 3)
    again = arm(path, sum="ring", workers=2)
    assert (again["backbone"], again["departments"]) == (whole["backbone"], whole["departments"])


def test_a_plan_is_what_a_worker_reads(tmp_path):
    found = read_scenario(scenario(tmp_path / "world"))
    sections = found.sections(tmp_path / "world", tmp_path)
    plan = Plan(tmp_path / "arm", seal(found.draft), "ring", 5, sections, tmp_path / "alone")
    plan.save()
    assert Plan.read(plan.root) == plan
