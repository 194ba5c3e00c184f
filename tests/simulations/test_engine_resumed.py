"""Simulations without masks that lost rounds before they were killed: they go on as if nothing had happened."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from small_world import NAMES, quick_last_steps, scenario

from commonroot.server.folder import CoordinatorFolder
from commonroot.simulations.simulate import simulate

#: Half of the departments are away in every round, so that many are lost, others being there each time.
COMING_AND_GOING = '[charter.timing]\nattempts = {attempts}\n[[behaviour]]\nkind = "dropout"\nshare = 0.5\n'


@pytest.fixture(scope="module", autouse=True)
def _quick():
    with quick_last_steps(2):
        yield


class Killed(BaseException):
    """Stands for SIGKILL: nothing of the program catches it."""


def arm(path: Path, **options):
    return simulate(path, **options)["arms"][0]


def killed_at(path: Path, kind: str, nth: int, **options) -> None:
    """Simulate up to an event, counted from the call's beginning."""
    seen: Counter[str] = Counter()

    def tell(_arm, event, _facts):
        seen[event] += 1
        if (event, seen[event]) == (kind, nth):
            raise Killed

    with pytest.raises(Killed):
        simulate(path, tell=tell, **options)


# -- what lost rounds leave behind -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "nth"), [("run-lost", 1), ("run-lost", 4), ("trained", 6), ("run-round", 9)])
def test_heads_that_were_trained_in_a_lost_round_alone_are_there_after_a_kill(tmp_path, kind, nth):
    path = scenario(tmp_path, seed=3, more=COMING_AND_GOING.format(attempts=50))
    undisturbed = arm(path, sum="ring", finish=False)
    assert undisturbed["lost_rounds"] > 4
    options = {"sum": "ring", "finish": False, "folder": tmp_path / "kept"}
    killed_at(path, kind, nth, **options)
    killed_at(path, "run-round", 2, **options)
    assert arm(path, **options)["backbone"] == undisturbed["backbone"]


def test_heads_of_lost_rounds_are_those_of_the_whole_protocol(tmp_path):
    path = scenario(tmp_path, seed=3, more=COMING_AND_GOING.format(attempts=50))
    assert arm(path, sum="ring", finish=False)["backbone"] == arm(path, sum="exact", finish=False)["backbone"]


# -- how many rounds in a row were lost --------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["run-lost", "run-round"])
def test_a_kill_does_not_make_anybody_forget_how_many_rounds_in_a_row_were_lost(tmp_path, kind):
    path = scenario(tmp_path, seed=5, more=COMING_AND_GOING.format(attempts=2))
    undisturbed = arm(path, sum="ring", finish=False)
    assert undisturbed["state"] == "stopped"
    options = {"sum": "ring", "finish": False, "folder": tmp_path / "kept"}
    killed_at(path, kind, 2, **options)
    found = arm(path, **options)
    same = ("state", "reason", "backbone", "lost_rounds")
    assert [found[key] for key in same] == [undisturbed[key] for key in same]


def test_a_run_that_a_person_resumes_begins_to_count_anew(tmp_path):
    path = scenario(tmp_path, more=COMING_AND_GOING.format(attempts=3).replace("0.5", "1.0"))
    options = {"sum": "ring", "finish": False, "folder": tmp_path / "kept"}
    assert arm(path, **options)["lost_rounds"] == 3
    assert arm(path, **options)["lost_rounds"] == 3  # it stays stopped
    (coordinator,) = (tmp_path / "kept").glob("arms/*/coordinator")
    journal = CoordinatorFolder(coordinator).journal()
    journal.resume(1)
    journal.close()
    killed_at(path, "run-lost", 2, **options)
    found = arm(path, **options)
    assert (found["state"], found["lost_rounds"]) == ("stopped", 6)
    assert found["reason"].startswith("3 rounds in a row")


# -- a last step that was left out -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["ring", "exact"])
def test_a_last_step_that_was_left_out_is_made_up_for(tmp_path, kind):
    path = scenario(tmp_path, rounds=2, more='[[events]]\nround = 2\nkill = "east"\n')
    whole = arm(path, sum=kind)
    quick = arm(path, sum=kind, finish=False, folder=tmp_path / "kept")
    assert (quick["state"], quick["departments"]) == ("finished", [])
    for _ in range(2):  # and once is enough
        found = arm(path, sum=kind, folder=tmp_path / "kept")
        assert [row["name"] for row in found["departments"]] == ["north", "south", "west"]
        assert found["departments"] == whole["departments"]
        assert (found["backbone"], found["state"]) == (whole["backbone"], "finished")
    assert arm(path, sum=kind, finish=False, folder=tmp_path / "kept")["departments"] == whole["departments"]


@pytest.mark.parametrize(("kind", "told"), [("ring", "finished"), ("exact", "finishing")])
def test_a_last_step_that_is_made_up_for_may_be_killed_too(tmp_path, kind, told):
    path = scenario(tmp_path, rounds=1)
    options = {"sum": kind, "folder": tmp_path / "kept"}
    arm(path, finish=False, **options)
    killed_at(path, "finished", 2, **options)
    again: list[str] = []

    def tell(_arm, event, facts):
        if event == told:
            again.append(facts["department"])

    assert len(arm(path, tell=tell, **options)["departments"]) == len(NAMES)
    assert 0 < len(again) < len(NAMES)
