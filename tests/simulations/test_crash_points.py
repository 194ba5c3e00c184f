"""The numbered points: one list for the page, the matrix and the code, and no point that is never passed."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable
from typing import Any

import pytest
from federation import small

from commonroot.common import parcel
from commonroot.simulations import bench_crash
from commonroot.simulations.bench_crash_matrix import Outcome, Scenario, Step, Strike, run_scenario, scenarios
from commonroot.simulations.crash_points import COORDINATOR, DEPARTMENT, POINTS, Point, install, point
from commonroot.simulations.mortal import Orders, struck
from commonroot.simulations.network import Crossing, MemoryNetwork
from commonroot.simulations.trial import Findings, Shape

#: Passed only where a federation is deployed: the hub, a node, and the learner that is loaded behind it.
DEPLOYED = ("FlowerLinks", "FlowerNode", "FleetHttpClient", "LearnerInWaiting")


def test_points_are_numbered_in_order_and_each_is_another_place():
    assert [one.number for one in COORDINATOR] == [f"C{at}" for at in range(1, len(COORDINATOR) + 1)]
    assert [one.number for one in DEPARTMENT] == [f"D{at}" for at in range(1, len(DEPARTMENT) + 1)]
    # A version is stored, and a run's state set, at more than one point of a run.
    places = Counter((one.when, one.where, one.word, one.stage) for one in POINTS)
    assert [place for place, count in places.items() if count > 1] == []


def test_the_matrix_strikes_at_every_point():
    planned = {number for scenario in scenarios() for number in scenario.points}
    assert planned == {one.number for one in POINTS}
    for scenario in scenarios():
        for step in scenario.steps:
            for who, numbers in step.orders.items():
                assert all((point(number).side == "coordinator") == (who == "coordinator") for number in numbers)


def test_every_point_that_is_not_of_the_links_is_passed_by_a_run_in_one_process(tmp_path, monkeypatch):
    """Four departments that train first.  In version 1 an upload is lost, in version 2 two are, once."""
    passed: Counter[str] = Counter()
    lost: Counter[int] = Counter()

    def weather(crossing: Crossing, _random: Any) -> Iterable[Crossing]:
        if crossing.parcel.kind != parcel.MASKED:
            return (crossing,)
        number = max(entry["round"] for entry in federation.told("uploaded"))
        gone = (number == 2 and crossing.department == "ash") or (
            number == 3 and crossing.department in ("ash", "birch")
        )
        lost[number] += gone
        return () if gone else (crossing,)

    install([one for one in POINTS if not _deployed(one)], lambda one: passed.update([one.number]), monkeypatch.setattr)
    shape = {"departments": 4, "rounds": 3, "ready": "on"}
    with small.running(tmp_path, network=MemoryNetwork(weather=[weather]), **shape) as federation:
        federation.run()
    monkeypatch.undo()
    assert (lost[2], lost[3]) == (1, 2)
    assert [one.number for one in POINTS if not _deployed(one) and not passed[one.number]] == []


def _deployed(one: Point) -> bool:
    return one.where.rpartition(":")[2].split(".")[0] in DEPLOYED


def test_points_of_the_links_are_places_in_the_code(monkeypatch):
    install([one for one in POINTS if _deployed(one)], lambda one: None, monkeypatch.setattr)


def test_a_process_strikes_at_its_orders_one_after_the_other_and_no_other(tmp_path):
    """A child that passes C9, C10 and C11 again and again, under orders to die at C10 and then at C9."""
    orders = tmp_path / "orders.json"
    orders.write_text(json.dumps({"strike": ["C10", "C9"]}))
    code = (
        "import sys; from pathlib import Path; from commonroot.simulations.crash_points import point; "
        "from commonroot.simulations.mortal import Orders; orders = Orders(Path(sys.argv[1])); "
        "[orders.passing(point(n)) for n in ('C9', 'C10', 'C11')]"
    )
    for so_far in (1, 2):
        died = subprocess.run([sys.executable, "-c", code, str(orders)], check=False)
        assert died.returncode == -signal.SIGKILL
        assert struck(orders) == so_far
    assert (tmp_path / "orders.json.struck").read_text().split() == ["C10", "C9"]
    assert subprocess.run([sys.executable, "-c", code, str(orders)], check=False).returncode == 0


def test_orders_may_change_while_a_process_runs(tmp_path):
    path = tmp_path / "orders.json"
    orders = Orders(path)
    assert not orders.loses("masked")
    assert orders.ahead() == 0
    path.write_text(json.dumps({"lose": ["masked"], "ahead": 7}))
    assert orders.loses("masked")
    assert orders.ahead() == 7


@pytest.mark.parametrize(
    "change", [{"happened": False, "identical": False}, {"identical": False, "why": "waited in vain"}]
)
def test_one_strike_that_left_a_trace_spoils_the_matrix(change):
    def outcome(spoilt: bool) -> Outcome:
        strikes = [Strike(one.number, "ash", 3, happened=True, identical=True) for one in POINTS]
        if spoilt:
            for name, value in change.items():
                setattr(strikes[40], name, value)
        return Outcome("all", strikes, Findings(0, 0, 0, 0, 0), 0, True, 1.0)

    assert all(row.holds for row in bench_crash.matrix_rows([outcome(False)]))
    spoilt = bench_crash.matrix_rows([outcome(True)])
    assert [row.holds for row in spoilt].count(False) == 2
    assert not spoilt[0].holds
    assert POINTS[40].number in spoilt[0].why


@pytest.mark.slow
def test_real_processes_struck_on_both_sides_end_where_an_undisturbed_run_ends(tmp_path):
    """One point of each kind: signed and not sent, fixed and not opened, stored and not sent, answered and not sent."""
    named = {(one.when, one.place): one.number for one in POINTS}
    wanted = [
        ("coordinator", named["after", "after `Journal.open_round`"]),
        ("ash", named["after", "after `DepartmentStore.commit_upload`"]),
        ("coordinator", named["after", "after `Journal.fix_round`"]),
        ("birch", named["after", "after `DepartmentStore.commit_answer` (open)"]),
    ]
    steps = tuple(Step({who: [number]}, settles=True) for who, number in wanted)
    outcome = run_scenario(tmp_path, Scenario("small", Shape(rounds=40), steps), lambda strike: None)
    assert outcome.trouble == []
    assert [(one.number, one.happened, one.why, one.identical) for one in outcome.strikes] == [
        (number, True, "", True) for _, number in wanted
    ]
    assert outcome.findings.sound
    assert outcome.heads_changed == 0
