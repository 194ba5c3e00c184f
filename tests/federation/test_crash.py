"""kill -9 at every point where it could hurt, on either side; the run ends as if nothing had happened.

A point is a place before or after something that is written or sent.  ``Killed`` is raised there, which no code
catches; then everything in that process is dropped and built again from its folder, as a restarted process would.
"""

from __future__ import annotations

import functools
import inspect
import json
import os
import shutil
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from federation import small

from commonroot.client import ledger_table
from commonroot.client.store import DepartmentStore
from commonroot.common import parcel
from commonroot.common.parcel import Parcel
from commonroot.server.backbones import BackboneStore
from commonroot.server.exchange import Exchange
from commonroot.server.journal import Journal
from commonroot.server.journal_rows import Round
from commonroot.simulations.federation import SimulatedFederation
from commonroot.simulations.founding import Federation
from commonroot.simulations.network import Crossing, MemoryNetwork
from commonroot.simulations.processes import Processes, free_port, processes


class Killed(BaseException):
    """SIGKILL, for one of the federation's processes."""


class Reaper:
    """Kills whoever passes a point for the n-th time, once."""

    def __init__(self, point: str = "", nth: int = 1) -> None:
        self.point, self.nth = point, nth
        self.passed: Counter[str] = Counter()
        self.struck = 0

    def __call__(self, point: str) -> None:
        self.passed[point] += 1
        if point == self.point and self.passed[point] == self.nth:
            self.struck += 1
            raise Killed

    def around(self, patch: pytest.MonkeyPatch, owner: Any, name: str, label: str) -> None:
        """Make a point before and one after a function or method."""
        original: Callable[..., Any] = getattr(owner, name)

        @functools.wraps(original)
        def wrapped(*args: Any, **options: Any) -> Any:
            self(f"before {label}")
            result = original(*args, **options)
            self(f"after {label}")
            return result

        static = isinstance(inspect.getattr_static(owner, name), staticmethod)
        patch.setattr(owner, name, staticmethod(wrapped) if static else wrapped)

    def everywhere(self, patch: pytest.MonkeyPatch) -> None:
        """Around everything in ``WRITES``."""
        for owner, name, label in WRITES:
            self.around(patch, owner, name, label)


#: What is made durable, by whom; a point before each and one after.
WRITES = [
    (DepartmentStore, "commit_introduction", "department: introduction"),
    (DepartmentStore, "commit_upload", "department: upload"),
    (DepartmentStore, "commit_answer", "department: answer"),
    (DepartmentStore, "commit_closed", "department: closed"),
    (ledger_table, "append", "department: ledger, inside the transaction"),
    (small.ToyLearner, "train", "department: training"),
    (small.ToyLearner, "finish", "department: finishing"),
    (Journal, "set_run", "coordinator: run state"),
    (Journal, "add_version", "coordinator: first version"),
    (Journal, "keep_greeting", "coordinator: greeting"),
    (Journal, "open_round", "coordinator: open"),
    (Journal, "fix_round", "coordinator: fixed"),
    (Journal, "close_round", "coordinator: closed"),
    (Journal, "_insert_version", "coordinator: version, inside the transaction"),
    (Journal, "department_closed", "coordinator: taken over"),
    (Journal, "count_received", "coordinator: account"),
    (BackboneStore, "write", "coordinator: backbone file"),
    (MemoryNetwork, "send", "coordinator: request"),
    (Exchange, "ask", "coordinator: exchange"),
    (os, "fsync", "anybody: fsync"),
    (Path, "replace", "anybody: rename"),
]


class Mortal(small.ToyFederation):
    """A federation whose departments die of ``Killed`` and are started again at once; the coordinator too."""

    def __init__(self, root: Path, reaper: Reaper, *, everyone: bool = False) -> None:
        super().__init__(small.founded(root), MemoryNetwork(weather=[self._sending]))
        self.reaper, self.everyone = reaper, everyone
        self.front = self._mortal
        self.deaths: list[str] = []
        self.start_all()
        self.queue()

    def _mortal(self, name: str, handle: Callable[[Parcel], Parcel]) -> Callable[[Parcel], Parcel]:
        def handled(request: Parcel) -> Parcel:
            try:
                self.reaper(f"department: asked for {request.kind}")
                reply = handle(request)
                self.reaper(f"department: before sending {reply.kind}")
                return reply
            except Killed:
                self.restart(name)
                return Parcel(parcel.REFUSAL)  # never sent: the network saw this department die

        return handled

    def _sending(self, crossing: Crossing, _random: Any) -> Iterable[Crossing]:
        """On its way to the coordinator; a department that dies now has sent it all the same."""
        if crossing.direction == "to-coordinator":
            try:
                self.reaper(f"department: after sending {crossing.parcel.kind}")
            except Killed:
                self.restart(crossing.department)
        return (crossing,)

    def restart(self, name: str) -> None:
        self.deaths.append(name)
        self.kill(name)
        self.start(name)

    def run_to_the_end(self) -> None:
        """Run; where the coordinator is killed, start it again.  With ``everyone``, a power cut: all go at once."""
        for _ in range(3):
            try:
                self.run()
                return
            except Killed:
                self.deaths.append("coordinator")
                if self.everyone:
                    for name in list(self.sessions):
                        self.restart(name)
        raise AssertionError("killed more than once")


@pytest.fixture(scope="module")
def undisturbed(module_path: Path) -> tuple[list[str], dict[str, list[bytes]], Counter[str]]:
    """Versions and heads of a run that nobody disturbed, and how often it passed each point."""
    reaper = Reaper()
    with Mortal(module_path, reaper) as federation, pytest.MonkeyPatch.context() as patch:
        reaper.everywhere(patch)
        federation.run_to_the_end()
        patch.undo()
        return small.versions(federation.federation), small.heads(federation.federation), reaper.passed


def ended_well(federation: Mortal, undisturbed: Any) -> None:
    """Finished, nothing twice, heads and every version of the backbone as in the undisturbed run."""
    small.check_books(federation.federation)
    with small.journal_of(federation.federation) as journal:
        assert journal.runs()[0].state == "finished"
        assert journal.closed_departments(1) == set(federation.federation.departments)
    assert small.versions(federation.federation) == undisturbed[0]
    assert small.heads(federation.federation) == undisturbed[1]


#: point, and at which passing of it: the first, one in the middle of the run, one late.
POINTS = [
    *[
        (f"{when} department: {what}", nth)
        for what in ("upload", "answer")
        for when in ("before", "after")
        for nth in (1, 5, 9)
    ],
    *[(f"{when} department: introduction", nth) for when in ("before", "after") for nth in (1, 3)],
    *[(f"{when} coordinator: greeting", nth) for when in ("before", "after") for nth in (1, 3)],
    *[(f"department: {when} sending {kind}", 2) for when in ("before", "after") for kind in ("greeting", "introduced")],
    *[(f"{when} department: closed", nth) for when in ("before", "after") for nth in (1, 3)],
    ("after department: ledger, inside the transaction", 2),
    ("after department: ledger, inside the transaction", 5),
    ("before department: training", 4),
    ("after department: training", 5),
    ("after department: finishing", 2),
    *[(f"department: asked for {kind}", 2) for kind in sorted(parcel.TO_DEPARTMENT - {parcel.TRAIN, parcel.CONFIRM})],
    *[(f"department: before sending {kind}", 3) for kind in ("ready", "masked", "shares", "closed")],
    *[(f"department: after sending {kind}", 2) for kind in ("ready", "masked", "shares", "closed")],
    *[
        (f"{when} coordinator: {what}", nth)
        for what in ("open", "fixed", "closed")
        for when in ("before", "after")
        for nth in (1, 3)
    ],
    *[(f"{when} coordinator: {what}", 1) for what in ("run state", "first version") for when in ("before", "after")],
    ("before coordinator: run state", 2),
    ("after coordinator: version, inside the transaction", 2),
    ("before coordinator: backbone file", 1),
    ("after coordinator: backbone file", 3),
    ("after coordinator: taken over", 2),
    ("before coordinator: account", 5),
    *[("after coordinator: request", nth) for nth in (2, 5, 8, 20)],
    *[(f"{when} coordinator: exchange", nth) for when in ("before", "after") for nth in (1, 2, 3, 6)],
    *[("before anybody: fsync", nth) for nth in (1, 3, 4, 5, 6, 7, 16, 17, 18)],
    *[("after anybody: rename", nth) for nth in (1, 2, 3, 8, 9)],
]


@pytest.mark.parametrize(("point", "nth"), POINTS, ids=[f"{point}, #{nth}" for point, nth in POINTS])
def test_a_kill_at_any_point_leaves_no_trace_in_the_result(point, nth, undisturbed, tmp_path, monkeypatch):
    assert undisturbed[2][point] >= nth, "this point is never passed: the test would prove nothing"
    reaper = Reaper(point, nth)
    with Mortal(tmp_path, reaper) as federation:
        reaper.everywhere(monkeypatch)
        federation.run_to_the_end()
        monkeypatch.undo()
        assert reaper.struck == 1
        assert len(federation.deaths) == 1
        ended_well(federation, undisturbed)


@pytest.mark.parametrize(
    "point",
    [
        "after coordinator: open",
        "before coordinator: fixed",
        "after coordinator: fixed",
        "after coordinator: backbone file",
    ],
)
def test_a_power_cut_that_takes_everybody_leaves_no_trace_in_the_result(point, undisturbed, tmp_path, monkeypatch):
    reaper = Reaper(point, 2)
    with Mortal(tmp_path, reaper, everyone=True) as federation:
        reaper.everywhere(monkeypatch)
        federation.run_to_the_end()
        monkeypatch.undo()
        assert sorted(federation.deaths) == ["ash", "birch", "cedar", "coordinator"]
        ended_well(federation, undisturbed)


def test_a_coordinator_killed_while_members_answer_asks_for_the_same_survivor_set_although_more_could_be_had(tmp_path):
    """Dogwood's upload is lost, so three are fixed; ash answers, the coordinator dies; now dogwood could be heard."""
    lost: list[str] = []
    died: list[str] = []

    def weather(crossing: Crossing, _random: Any) -> Iterable[Crossing]:
        if crossing.parcel.kind == parcel.MASKED and crossing.department == "dogwood" and not lost:
            lost.append("dogwood")
            return ()
        if crossing.parcel.kind == parcel.SHARES and not died:
            died.append("coordinator")
            raise Killed
        return (crossing,)

    with small.running(tmp_path, network=MemoryNetwork(weather=[weather]), departments=4) as federation:
        with pytest.raises(Killed):
            federation.run()
        federation.run()
        small.check_books(federation.federation)
        assert federation.told("refused") == []
        with small.journal_of(federation.federation) as journal:
            assert [len(r.report["survivors"]) for r in journal.rounds()] == [3, 4, 4]


def test_every_kind_of_point_is_passed_in_an_undisturbed_run(undisturbed):
    passed = undisturbed[2]
    never = [label for _, _, label in WRITES if not passed[f"before {label}"]]
    assert never == []
    # 3 rounds of 3 departments
    assert passed["after department: upload"] == passed["after department: answer"] == 9
    assert passed["after coordinator: fixed"] == passed["after coordinator: closed"] == 3


def test_a_head_that_was_trained_twice_would_be_seen(undisturbed, tmp_path, monkeypatch):
    """The comparison can fail: a store that forgets to look before the version gives other heads from round 2 on."""
    with Mortal(tmp_path, Reaper()) as federation:
        original = DepartmentStore.head_before
        monkeypatch.setattr(DepartmentStore, "head_before", lambda self, c, v: original(self, c, v - 1))
        federation.run_to_the_end()
        monkeypatch.undo()
        assert small.heads(federation.federation) != undisturbed[1]


# -- real processes ----------------------------------------------------------------------------------------------------


class Deployed:
    """Coordinator and daemons as processes over TLS, and what their folders say while they run."""

    def __init__(self, federation: Federation, processes: Processes, logs: Path) -> None:
        self.federation, self.processes = federation, processes
        self.log, self.log_from = logs / "coordinator.log", 0
        processes.start_coordinator(federation.coordinator.root)
        for name, folder in federation.departments.items():
            processes.start_department(name, folder.root)

    def signal(self, name: str, number: int) -> None:
        self.processes._running[name].send_signal(number)

    def restart(self, name: str) -> None:
        """SIGKILL, and a new process on the same folder."""
        self.processes.kill(name)
        if name == "coordinator":
            self.log_from = self.log.stat().st_size
            self.processes.start_coordinator(self.federation.coordinator.root)
        else:
            self.processes.start_department(name, self.federation.departments[name].root)

    def rounds(self) -> list[Round]:
        with small.journal_of(self.federation) as journal:
            found: list[Round] = journal.rounds()
            return found

    def uploads(self, number: int) -> int:
        """How many uploads the coordinator that runs now has taken in a round, by its own words."""
        lines = self.log.read_bytes()[self.log_from :].decode().splitlines()
        told = [json.loads(line) for line in lines if line.startswith('{"event": "uploaded"')]
        return max((event["uploads"] for event in told if event["round"] == number), default=0)

    def until(self, condition: Callable[[], Any], what: str) -> Any:
        """Look often, for a minute at the most."""
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            self.processes.check()
            found = condition()
            if found:
                return found
            time.sleep(0.02)
        seen = [(r.round, r.state, r.reason) for r in self.rounds()]
        raise AssertionError(f"waited in vain for {what}; rounds: {seen}")

    def held_by(self, name: str, *, after: int = 0) -> int:
        """The number of a later round that only waits for the upload of ``name``, a daemon stopped by SIGSTOP."""

        def waits() -> int:
            last = self.rounds()[-1]
            held = last.round > after and last.state == "open" and self.uploads(last.round) == 2
            return last.round if held else 0

        number: int = self.until(waits, f"a round that only waits for {name}")
        return number

    def over(self) -> bool:
        with small.journal_of(self.federation) as journal:
            return journal.runs()[0].state in ("finished", "stopped")


@pytest.mark.slow
def test_processes_killed_with_sigkill_in_every_state_of_a_round_end_where_an_undisturbed_run_ends(tmp_path):
    """Ten rounds over TLS with real training.  In four of them somebody is killed, each time at a known point:

    a daemon before its upload has arrived, the round being open
    a daemon after its upload, before the survivor set
    the coordinator while the round is open and two uploads have been made
    the coordinator while the survivor set is fixed and the quorum has not answered

    SIGSTOP holds a round in the state that is wanted, so nothing depends on being quick.  A daemon that is stopped
    after its upload holds the round after: two of three answers open a sum, and the next one waits for its upload.
    """
    shape = {"rounds": 10, "attempts": 6, "widths": (12, 5)}
    quiet = small.founded(tmp_path / "undisturbed", **shape)
    shutil.copytree(tmp_path / "undisturbed", tmp_path / "killed")
    expected = undisturbed_versions(quiet)

    federation = small.opened(tmp_path / "killed")
    small.move_to_port(federation, free_port())
    with small.journal_of(federation) as journal:
        journal.queue(federation.charter)
    with processes(tmp_path / "logs") as started:
        at_work = Deployed(federation, started, tmp_path / "logs")
        at_work.until(at_work.rounds, "a first round")

        at_work.signal("birch", signal.SIGSTOP)
        killed = [at_work.held_by("birch")]
        at_work.signal("ash", signal.SIGSTOP)
        at_work.restart("birch")

        killed.append(at_work.held_by("ash", after=killed[-1]))
        at_work.signal("birch", signal.SIGSTOP)
        at_work.restart("cedar")
        at_work.signal("ash", signal.SIGCONT)

        killed.append(at_work.held_by("birch", after=killed[-1]))
        at_work.restart("coordinator")
        at_work.signal("birch", signal.SIGCONT)
        at_work.until(lambda: at_work.rounds()[-1].round > killed[-1], "the round after, for which all were asked anew")

        at_work.signal("ash", signal.SIGSTOP)
        killed.append(at_work.held_by("ash", after=killed[-1]))
        at_work.signal("birch", signal.SIGSTOP)
        at_work.signal("cedar", signal.SIGSTOP)
        at_work.signal("ash", signal.SIGCONT)
        at_work.until(lambda: at_work.rounds()[-1].state == "fixed", "a survivor set that waits for its opening")
        assert at_work.rounds()[-1].round == killed[-1]
        at_work.restart("coordinator")
        at_work.signal("birch", signal.SIGCONT)
        at_work.signal("cedar", signal.SIGCONT)

        at_work.until(at_work.over, "the end of the run")
    small.check_books(federation)
    with small.journal_of(federation) as journal:
        assert journal.runs()[0].state == "finished"
        assert journal.closed_departments(1) == set(federation.departments)
    assert small.versions(federation) == expected
    assert small.heads(federation) == small.heads(quiet)


def undisturbed_versions(federation: Federation) -> list[str]:
    """The backbone's versions of the same folders' run in this process, without the closing."""

    class Enough(Exception):
        pass

    def listen(kind: str, _facts: dict[str, Any]) -> None:
        if kind == "closing":
            raise Enough

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as daemons do: sums of floats depend on it
    at_work = SimulatedFederation(federation, MemoryNetwork())
    try:
        at_work.start_all()
        at_work.queue()
        with pytest.raises(Enough):
            at_work.run(listen)
    finally:
        at_work.close()
        torch.set_num_threads(threads)
    return small.versions(federation)
