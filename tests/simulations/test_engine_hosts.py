"""The whole protocol over several processes: what one process would have done, in its order."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from queue import SimpleQueue

import pytest
from small_world import STORM, quick_last_steps, scenario, started

from commonroot.common.errors import DataError, ProcessDied
from commonroot.common.parcel import Parcel
from commonroot.simulations.engine.hosts import _Elsewhere, _Host
from commonroot.simulations.network import MemoryNetwork, delay, drop
from commonroot.simulations.simulate import simulate

LEAVES = '[[events]]\nround = 2\nkill = "east"\n[[events]]\nround = 4\nstart = "east"\n'


@pytest.fixture(scope="module", autouse=True)
def _quick():
    with quick_last_steps(2):
        yield


def arm(path: Path, **options):
    return simulate(path, sum="exact", **options)["arms"][0]


@pytest.mark.parametrize("weather", [STORM, ""], ids=["storm", "clear"])
def test_the_number_of_processes_changes_nothing(tmp_path, weather):
    """Neither what is summed nor the order in which departments tell what they do.

    Under a clear sky the coordinator takes what they send while others still work, and tells of it meanwhile.
    """
    path = scenario(tmp_path, more=weather + LEAVES)
    seen: dict[int, list[tuple[str, str]]] = {1: [], 2: []}

    def run(workers):
        def tell(_arm, kind, facts):
            if "department" in facts and (weather or not kind.startswith("run-")):
                seen[workers].append((kind, facts["department"]))

        return arm(path, finish=False, workers=workers, tell=tell)

    one, two = run(1), run(2)
    assert two["backbone"] == one["backbone"]
    told = ("version", "cohort", "survivors", "loss", "simulated_seconds")
    assert [[row[key] for key in told] for row in two["history"]] == [
        [row[key] for key in told] for row in one["history"]
    ]
    assert seen[2] == seen[1]
    assert ("uploaded", "west") in seen[1]


class Killed(BaseException):
    """Stands for SIGKILL: nothing of the program catches it."""


def test_without_a_last_step_the_run_is_over_with_its_last_round(tmp_path):
    """And stays so where it was killed just before that was written down, and when it is run again."""
    path = scenario(tmp_path, rounds=2)

    def tell(_arm, kind, facts):
        if kind == "run-closed" and facts["version"] == 2:
            raise Killed

    with pytest.raises(Killed):
        arm(path, finish=False, folder=tmp_path / "kept", tell=tell)
    found = [arm(path, finish=False, folder=tmp_path / "kept") for _ in range(2)]
    assert [(one["state"], one["departments"]) for one in found] == [("finished", [])] * 2


def test_a_process_that_is_gone_is_told_with_its_log(tmp_path, monkeypatch):
    path = scenario(tmp_path)
    processes = started(monkeypatch)

    def tell(_arm, kind, facts):
        if kind == "run-closed" and facts["version"] == 1:
            os.kill(processes[0].pid, signal.SIGKILL)

    with pytest.raises(ProcessDied, match=r"status -9; see .*sessions-1\.log"):
        arm(path, workers=2, tell=tell)


def _made(kept: Path) -> bool:
    """Has the arm come to its second version?  Its folder is renamed while it is founded."""
    try:
        return any(kept.glob("arms/*/coordinator/backbones/run-1-version-[2-9].*"))
    except FileNotFoundError:
        return False


@pytest.mark.slow
def test_a_killed_process_with_workers_resumes_to_the_same_hash(tmp_path):
    path = scenario(tmp_path, rounds=12)
    undisturbed = arm(path, finish=False)["backbone"]
    kept = tmp_path / "kept"
    command = [sys.executable, "-m", "commonroot", "simulate", str(path), "--sum", "exact", "--workers", "2", "--quick"]
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


# -- the network -------------------------------------------------------------------------------------------------------


def asked(weather=(), *, enough=2):
    """Two departments asked at once: what happened, in order, until ``enough`` were heard."""
    network, seen = MemoryNetwork(seed=1, weather=weather), []
    for name in "ab":
        network.attach(
            name,
            name,
            lambda request, name=name: seen.append(("handled", name)) or request,
            begin=lambda request, name=name: seen.append(("begun", name)),
        )
    tickets = {network.send(name, Parcel("train")): name for name in "ab"}
    while tickets and enough:
        for ticket, _ in network.collect(list(tickets), 60.0):
            seen.append(("heard", tickets.pop(ticket)))
            enough -= 1
    network.forget(list(tickets))
    return seen


def test_what_is_asked_at_one_moment_is_begun_at_once_and_heard_in_order_while_others_work():
    in_turn = [(what, name) for name in "ab" for what in ("handled", "heard")]
    assert asked() == [("begun", "a"), ("begun", "b"), *in_turn]


def test_who_was_asked_at_one_moment_has_worked_before_anything_else_happens():
    """The first reply is enough: the second department has answered all the same, and may be killed now."""
    assert asked(enough=1) == [("begun", "a"), ("begun", "b"), ("handled", "a"), ("heard", "a"), ("handled", "b")]


def test_under_weather_replies_are_heard_once_all_of_a_moment_have_worked():
    """What the coordinator sends in between would throw the dice in another order."""
    found = asked([drop(0.0)])
    assert [what for what, _ in found] == ["begun", "begun", "handled", "handled", "heard", "heard"]


def test_nothing_is_begun_that_an_earlier_reply_could_change():
    """Late requests: the second department might be killed in between."""
    found = [one for one in asked([delay(5.0)]) if one[0] != "heard"]
    first, second = found[0][1], found[2][1]
    assert found == [("begun", first), ("handled", first), ("begun", second), ("handled", second)]


@pytest.mark.parametrize("weather", [[], [drop(0.0)]], ids=["clear", "weather"])
def test_nothing_is_begun_by_a_department_that_is_gone(weather):
    network, seen = MemoryNetwork(weather=weather), []
    network.attach("a", "a", lambda request: request, begin=lambda request: seen.append(request))
    network.detach("a")
    ticket = network.send("a", Parcel("train"))
    assert network.collect([ticket], 1.0) == []
    assert seen == []


@pytest.mark.parametrize("weather", [[], [drop(0.0)]], ids=["clear", "weather"])
def test_whoever_fails_is_heard_before_the_others_of_its_moment_work(weather):
    network, seen = MemoryNetwork(weather=weather), []

    def fail(request):
        raise KeyboardInterrupt

    network.attach("a", "a", fail, begin=lambda request: None)
    network.attach("b", "b", lambda request: seen.append("b") or request, begin=lambda request: None)
    tickets = [network.send(name, Parcel("train")) for name in "ab"]
    with pytest.raises(KeyboardInterrupt):
        network.collect(tickets, 1.0)
    network.forget(tickets)
    assert not seen


def test_a_department_that_could_not_be_started_is_heard_and_not_what_its_process_makes_of_it(tmp_path):
    """Its request is on its way already, and the process goes on for the others."""
    host = _Host(tmp_path / "log")
    told = []
    sessions = [_Elsewhere(host, name, tmp_path / name, [], lambda *one: told.append(one)) for name in "ab"]
    try:
        for session in sessions:
            session.begin(Parcel("train"))
        for session in sessions:
            with pytest.raises(DataError, match="is not a department's folder"):
                session.handle(Parcel("train"))
        with pytest.raises(DataError, match="is not a department's folder"):
            _Elsewhere(host, "c", tmp_path / "c", [], lambda *one: told.append(one)).handle(Parcel("train"))
    finally:
        host.close()
    assert not told


class Replying:
    """The near end of a process that answers whatever it is asked at once, with what it was asked."""

    def __init__(self):
        self.replies = {"a": SimpleQueue()}

    def ask(self, facts, request=None):
        head = b"" if request is None else request.head
        self.replies["a"].put(({"name": "a", "told": [], "reply": "trained"}, [head, b""]))


def test_a_reply_to_what_was_lost_on_its_way_is_not_taken_for_the_next_one(tmp_path):
    """Begun when it was sent; the department was away when it should have come, and is asked something else now."""
    session = _Elsewhere(Replying(), "a", tmp_path, [], lambda *_: None)
    network = MemoryNetwork()
    network.attach("a", "a", session.handle, begin=session.begin)
    lost = network.send("a", Parcel("train", b"first"))
    network.detach("a")
    assert network.collect([lost], 1.0) == []
    network.attach("a", "a", session.handle, begin=session.begin)
    again = network.send("a", Parcel("train", b"second"))
    assert [(ticket, bytes(reply.head)) for ticket, reply in network.collect([again], 1.0)] == [(again, b"second")]
