"""The whole protocol over several processes: what one process would have done, in its order."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from small_world import STORM, quick_last_steps, scenario, started

from commonroot.common.errors import ProcessDied
from commonroot.common.parcel import Parcel
from commonroot.simulations.network import MemoryNetwork, delay
from commonroot.simulations.simulate import simulate

LEAVES = '[[events]]\nround = 2\nkill = "east"\n[[events]]\nround = 4\nstart = "east"\n'


@pytest.fixture(scope="module", autouse=True)
def _quick():
    with quick_last_steps(2):
        yield


def arm(path: Path, **options):
    return simulate(path, sum="exact", **options)["arms"][0]


def test_the_number_of_processes_changes_nothing(tmp_path):
    """Neither what is summed nor the order in which departments tell what they do."""
    path = scenario(tmp_path, more=STORM + LEAVES)
    seen: dict[int, list[tuple[str, str]]] = {1: [], 2: []}

    def run(workers):
        def tell(_arm, kind, facts):
            if "department" in facts:
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


def asked(weather=()):
    """Two departments asked at once: what happened, in order."""
    network, seen = MemoryNetwork(seed=1, weather=weather), []
    for name in "ab":
        network.attach(
            name,
            name,
            lambda request, name=name: seen.append(("handled", name)) or request,
            begin=lambda request, name=name: seen.append(("begun", name)),
        )
    tickets = [network.send(name, Parcel("train")) for name in "ab"]
    while tickets:
        for ticket, _ in network.collect(tickets, 60.0):
            tickets.remove(ticket)
    return seen


def test_what_is_asked_at_one_moment_is_begun_at_once_and_taken_in_order():
    assert asked() == [("begun", "a"), ("begun", "b"), ("handled", "a"), ("handled", "b")]


def test_nothing_is_begun_that_an_earlier_reply_could_change():
    """Late requests: the second department might be killed in between."""
    found = asked([delay(5.0)])
    first, second = found[0][1], found[2][1]
    assert found == [("begun", first), ("handled", first), ("begun", second), ("handled", second)]


def test_nothing_is_begun_by_a_department_that_is_gone():
    network, seen = MemoryNetwork(), []
    network.attach("a", "a", lambda request: request, begin=lambda request: seen.append(request))
    ticket = network.send("a", Parcel("train"))
    network.detach("a")
    assert network.collect([ticket], 1.0) == []
    assert seen == []
