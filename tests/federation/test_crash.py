"""kill -9 at every point where it could hurt, on either side; the run ends as if nothing had happened.

A point is a place before or after something that is written or sent.  ``Killed`` is raised there, which no code
catches; then everything in that process is dropped and built again from its folder, as a restarted process would.
"""

from __future__ import annotations

import functools
import inspect
import os
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from federation import small

from commonroot.client.store import DepartmentStore
from commonroot.common import parcel
from commonroot.common.parcel import Parcel
from commonroot.server.backbones import BackboneStore
from commonroot.server.exchange import Exchange
from commonroot.server.journal import Journal
from commonroot.simulations.network import Crossing, MemoryNetwork


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
    (DepartmentStore, "commit_upload", "department: upload"),
    (DepartmentStore, "commit_answer", "department: answer"),
    (DepartmentStore, "commit_closed", "department: closed"),
    (DepartmentStore, "_append", "department: ledger, inside the transaction"),
    (small.ToyLearner, "train", "department: training"),
    (small.ToyLearner, "finish", "department: finishing"),
    (Journal, "set_run", "coordinator: run state"),
    (Journal, "add_version", "coordinator: first version"),
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
    *[(f"{when} department: closed", nth) for when in ("before", "after") for nth in (1, 3)],
    ("after department: ledger, inside the transaction", 2),
    ("after department: ledger, inside the transaction", 5),
    ("before department: training", 4),
    ("after department: training", 5),
    ("after department: finishing", 2),
    *[(f"department: asked for {kind}", 2) for kind in sorted(parcel.TO_DEPARTMENT - {parcel.TRAIN})],
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
