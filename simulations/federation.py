"""A founded federation run in one process: the same sessions, rounds and secure sum, over links in memory."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Sequence
from contextlib import closing
from functools import partial
from typing import Any

from commonroot.client.daemon import open_session
from commonroot.client.session import Session
from commonroot.client.store import DepartmentStore
from commonroot.common.secure_sum.primitives import Random
from commonroot.logs import Tell
from commonroot.server.backbones import BackboneStore
from commonroot.server.exchange import Exchange
from commonroot.server.journal import Journal
from commonroot.server.journal_rows import Run
from commonroot.server.run import RunDriver
from commonroot.simulations.behaviour.learners import learner_in
from commonroot.simulations.behaviour.misbehaving import Act
from commonroot.simulations.founding import Federation
from commonroot.simulations.network import Handler, MemoryNetwork

#: The same from inside a department: its name first.
OnDepartment = Callable[[str, str, dict[str, Any]], None]


class SimulatedFederation:
    """Coordinator and departments of one founded federation, side by side in this process.

    Departments can be killed and started again; what they find then is what their folders hold.
    """

    def __init__(
        self,
        federation: Federation,
        network: MemoryNetwork,
        *,
        random: Random = os.urandom,
        on_department: OnDepartment = lambda name, kind, facts: None,
        acts: Callable[[str], Sequence[Act]] = lambda name: (),
        front: Callable[[str, Handler], Handler] = lambda name, handle: handle,
    ) -> None:
        """
        Parameters  acts: what a department does to its contributions that it should not, by its name
                    front: what stands before a department's handler, by its name
        """
        self._acts, self._front = acts, front
        self.federation = federation
        self.network = network
        self._random = random
        self._on_department = on_department
        self._stores: dict[str, DepartmentStore] = {}
        self.sessions: dict[str, Session] = {}
        self._away: set[str] = set()
        self._roster = federation.coordinator.roster()
        self._keys = {member.name: member.node_key for member in self._roster.departments}

    def start(self, name: str) -> None:
        """Start a department's session on its folder, as its daemon would."""
        folder = self.federation.reopen(name)
        store = DepartmentStore(
            folder.root, federation=folder.config.federation, department=folder.config.name, owner=True
        )
        self._stores[name] = store
        tell = partial(self._on_department, name)
        learner = learner_in(folder, self._acts(name))
        session = open_session(folder, folder.roster(), store, tell, self._random, learner)
        self.sessions[name] = session
        self.connect(name)

    def kill(self, name: str) -> None:
        """Take a department away without a word, as SIGKILL would."""
        self.network.detach(self._keys[name])
        self._stores.pop(name).close()
        del self.sessions[name]

    def is_up(self, name: str) -> bool:
        """Has this department been started, and not been killed since?"""
        return name in self.sessions

    @property
    def up(self) -> list[str]:
        """Departments that have been started, and not been killed since."""
        return list(self.sessions)

    def gather(self, present: Collection[str]) -> None:
        """Between two rounds: who is ``present`` is up and can be reached, and nobody else is up."""
        for name in [name for name in self.up if name not in present]:
            self.kill(name)
        for name in present:
            if not self.is_up(name):
                self.start(name)
        for name in sorted(self._away.intersection(self.up)):
            self.connect(name)

    def connect(self, name: str) -> None:
        """A department that is up can be reached, for the first time or again; it is asked anew."""
        self.network.attach(self._keys[name], name, self._front(name, self.sessions[name].handle))
        self._away.discard(name)

    def disconnect(self, name: str) -> None:
        """A department is up, and nobody can reach it."""
        self.network.detach(self._keys[name])
        self._away.add(name)

    def start_all(self) -> None:
        """Start every department."""
        for name in self.federation.departments:
            self.start(name)

    def queue(self) -> int:
        """Ask for a run of the federation's charter."""
        journal = self.federation.coordinator.journal()
        try:
            return journal.queue(self.federation.charter)
        finally:
            journal.close()

    def run(self, on_event: Tell = lambda kind, facts: None) -> None:
        """Carry out the next queued or interrupted run, to its end or to an exception from ``on_event``."""
        with closing(self.federation.coordinator.journal()) as journal:
            run = journal.next_run()
            if run is not None:
                self._driver(run, journal, on_event).drive()

    def close_late(self, run: int, on_event: Tell = lambda kind, facts: None) -> None:
        """Hand the backbone of a finished run to those who are up and have not taken it over, as a coordinator does."""
        with closing(self.federation.coordinator.journal()) as journal:
            found = next(one for one in journal.runs() if one.run == run)
            driver = self._driver(found, journal, on_event)
            up = {number for number, member in enumerate(self._roster.departments) if self.is_up(member.name)}
            seconds = found.charter.charter.timing.closing
            driver.deliver_closing(driver.without_closing() & up, seconds=seconds)

    def _driver(self, run: Run, journal: Journal, on_event: Tell) -> RunDriver:
        coordinator, clock = self.federation.coordinator, self.network.clock
        return RunDriver(
            run,
            roster=self._roster,
            identity=coordinator.identity(),
            journal=journal,
            backbones=BackboneStore(coordinator.root / "backbones"),
            exchange=Exchange(self.network, self._roster, clock, absence=run.charter.charter.timing.absence),
            clock=clock,
            on_event=on_event,
            newest_roster=lambda: coordinator.roster().digest,
        )

    def close(self) -> None:
        """Stop every department."""
        for name in list(self.sessions):
            self.kill(name)
