"""Simulations without masks that lost rounds before they were killed: they go on as if nothing had happened."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from small_world import quick_last_steps, scenario

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
