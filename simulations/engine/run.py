"""Rounds without masks: who is there trains, words are added up, and the next version stands in the journal.

Journal, backbone store, codec, strategy and every department's learner are those of deployment; what is left out is
what hides departments from each other.  Killed at any moment and called again, it goes on from the last version that
the journal holds, and ends with the same one.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from commonroot.common.charter import Charter
from commonroot.common.enrolled import Named
from commonroot.common.errors import DataError, NotEnoughUploads, RoundLost
from commonroot.common.roster import MOST_DEPARTMENTS, Parameters
from commonroot.common.secure_sum.edges import smallest_cohort
from commonroot.common.secure_sum.primitives import sha256
from commonroot.logs import Tell
from commonroot.server.backbones import BackboneStore
from commonroot.server.closing import close_round, first_version
from commonroot.server.folder import CoordinatorFolder
from commonroot.server.journal import Journal
from commonroot.server.journal_rows import Round, Run, Version
from commonroot.simulations.engine.fates import Fates, fates
from commonroot.simulations.engine.plan import Plan
from commonroot.simulations.engine.sums import Adder
from commonroot.simulations.engine.workers import Hire, Workers, hire
from commonroot.simulations.scenario import Scenario
from commonroot.strategies.whole_roster import fewest_summed


def drive(
    coordinator: CoordinatorFolder,
    plan: Plan,
    scenario: Scenario,
    *,
    workers: int,
    finish: bool,
    memory: int,
    engine: Hire = hire,
    on_event: Tell = lambda kind, facts: None,
) -> None:
    """Carry out the plan's run to its end, from wherever the journal says it stands.

    memory  bytes of encoded rows that departments may hold, all processes together
    finish  let every department fine-tune, compare and choose at the end, which takes longer than the rounds of many
            worlds; without it there are no departments' reports, until a later call asks for them
    engine  who lets departments work

    Raises DataError where a department cannot take part in a method that must not abstain; what ``on_event`` raises.
    """
    journal = coordinator.journal()
    try:
        run = next(run for run in journal.runs() if run.digest == plan.charter.digest.hex())
        if run.state != "stopped":
            _Rounds(coordinator, plan, scenario, run, journal, on_event).drive(workers, memory, engine, finish=finish)
    finally:
        journal.close()


class _Rounds:
    def __init__(
        self,
        coordinator: CoordinatorFolder,
        plan: Plan,
        scenario: Scenario,
        run: Run,
        journal: Journal,
        on_event: Tell,
    ) -> None:
        self._plan, self._scenario, self._run, self._journal, self._on_event = plan, scenario, run, journal, on_event
        self._charter: Charter = plan.charter
        self._backbones = BackboneStore(coordinator.root / "backbones")
        self._names = list(plan.departments)
        self._numbers = {name: number for number, name in enumerate(self._names)}
        roster = Unsigned(tuple(self._names))
        self._opens_with = smallest_cohort(roster.parameters, self._charter.cohort.floor)
        # Where everybody opens, a coordinator fixes only what so many could open; a committee is drawn with the keys.
        everybody = roster.parameters.committee is None
        self._fewest = self._opens_with if everybody else fewest_summed(self._charter, roster)
        self._ready_stage = self._charter.trains_first(roster)
        self._cast = scenario.cast()
        #: The round that a killed process was in, and whether it had gone as far as to fix its survivors.
        left = journal.rounds(run.run, "open", "fixed")
        self._pending = left[-1].round if left else None
        self._last = journal.last_round()
        #: How often departments trained ahead of the next round, or of this one, and too few were heard of.
        self._in_vain = self._tried_before(left[-1]) if left else 0
        self._fixed = bool(left) and left[-1].state == "fixed"

    def drive(self, workers: int, memory: int, engine: Hire, *, finish: bool) -> None:
        over = self._run.state == "finished"
        version = self._newest() if over else self._begin()
        if over and not (finish and self._without_last_step(version)):
            return
        wrong: dict[str, list[str]] = {}

        def on_done(kind: str, facts: dict[str, Any]) -> None:
            if kind == "checked" and facts["wrong"] is not None:
                wrong.setdefault(facts["wrong"], []).append(facts["department"])
            self._on_event(kind, facts)

        crews = engine(
            self._plan,
            workers=workers,
            newest=version.version,
            memory=memory,
            on_done=on_done,
        )
        try:
            if version.version == 0:
                crews.check(range(len(self._names)))
                refuse_data(wrong)
            last = self._all_rounds(version, crews)
            if last is None:
                return
            if finish:
                self._finish(last, crews)
        finally:
            crews.close()
        if not over:
            self._journal.set_run(self._run.run, "finished")

    def _begin(self) -> Version:
        """The version that rounds go on from, in a run that is under way from here on."""
        run = self._run.run
        self._journal.set_run(run, "running")
        self._on_event("run", {"run": run, "rounds": self._charter.rounds, "charter": self._run.digest})
        if not self._journal.versions(run, newest=1):
            codec = self._adder(len(self._names)).codec
            first_version(run, self._charter, codec, journal=self._journal, backbones=self._backbones)
        return self._newest()

    def _all_rounds(self, version: Version, crews: Workers) -> Version | None:
        """The last version; None where so many rounds in a row were lost that the run has stopped."""
        lost = lost_in_a_row(self._journal, self._run.run)
        last = lost[-1].reason if lost else ""
        attempts = self._charter.timing.attempts
        many = self._in_vain + sum(1 + self._tried_before(one) for one in lost)
        while version.version < self._charter.rounds:
            if many >= attempts:
                reason = f"{many} rounds in a row came to nothing; the last: {last}"
                self._journal.set_run(self._run.run, "stopped", reason)
                self._on_event("stopped", {"why": reason})
                return None
            try:
                version, many = self._one_round(version, crews), 0
            except RoundLost as error:
                many, last = many + 1, f"{error} ({error.code})"
                self._on_event("lost", {"code": error.code, "why": str(error)})
        return version

    def _one_round(self, version: Version, crews: Workers) -> Version:
        began = time.monotonic()
        number, in_vain = self._pending or self._last + 1, self._in_vain
        found = self._fates(number, version.version, in_vain)
        if len(found.cohort) < self._opens_with:
            self._in_vain += 1
            there = "have trained" if self._ready_stage else "are present"
            raise NotEnoughUploads(f"{len(found.cohort)} departments {there}; {self._opens_with} are needed")
        self._pending, self._in_vain = None, 0
        if number > self._last:
            self._journal.open_round(number, self._run.run, version.version, b"")
            self._last = number
        self._on_event("round", {"round": number, "version": version.version, "cohort": self._told(found.cohort)})
        state = self._backbones.read(version.file, version.digest)
        bounds = np.frombuffer(version.bounds, dtype="<f4")
        adder = self._adder(len(found.cohort))
        bulk, exact = crews.train(found.trains, found.counted, state, version.version, bounds, adder)
        if len(found.counted) < self._fewest:
            error = NotEnoughUploads(
                f"{len(found.counted)} of {len(found.cohort)} contributed; {self._fewest} are needed"
            )
            self._journal.lose_round(number, f"{error} ({error.code})")
            raise error
        try:
            opened = adder.decode(bulk, exact, len(found.counted), bounds)
        except RoundLost as error:
            self._journal.lose_round(number, f"{error} ({error.code})")
            raise
        digest = sha256(bulk.view(np.uint8).data, exact.view(np.uint8).data)
        if not self._fixed:
            self._journal.fix_round(number, None)  # nothing is masked
        self._fixed = False
        try:
            made, report = close_round(
                number,
                version,
                self._charter,
                state,
                opened,
                opened_digest=digest,
                aggregate_digest=digest,
                report={
                    "cohort": self._told(found.cohort),
                    "survivors": self._told(found.counted),
                    "clipped_share": opened.clipped_share,
                    "upload_bytes": adder.codec.layout.nbytes,
                    "share_bytes": 0,
                    "seconds": time.monotonic() - began,
                },
                journal=self._journal,
                backbones=self._backbones,
            )
        except RoundLost:  # its survivors stand: it is tried again with the same, as a coordinator would
            self._pending, self._in_vain, self._fixed = number, in_vain, True
            raise
        self._on_event("closed", {"round": number, "version": made.version} | report)
        return made

    def _fates(self, number: int, version: int, in_vain: int) -> Fates:
        return fates(
            self._cast,
            self._charter,
            self._scenario.seed,
            self._numbers,
            round=number,
            version=version,
            ready_stage=self._ready_stage,
            in_vain=in_vain,
        )

    def _tried_before(self, opened: Round) -> int:
        """How often departments trained ahead of a round in vain before it was opened: the journal does not tell."""
        for in_vain in range(self._charter.timing.attempts):
            if len(self._fates(opened.round, opened.version, in_vain).cohort) >= self._opens_with:
                return in_vain
        return 0

    def _finish(self, version: Version, crews: Workers) -> None:
        left = self._without_last_step(version)
        self._on_event("closing", {"departments": self._told(tuple(left))})
        state = self._backbones.read(version.file, version.digest)
        told = self._on_event

        def closed(kind: str, facts: dict[str, Any]) -> None:
            if kind == "finished":
                self._journal.department_closed(self._run.run, facts["department"])
            told(kind, facts)

        self._on_event = closed
        crews.finish(left, state, version.version)
        self._on_event = told

    def _without_last_step(self, version: Version) -> list[int]:
        """Departments that are there at the end and have not gone through their last step."""
        done = self._journal.closed_departments(self._run.run)
        return [self._numbers[name] for name in self._cast.present(version.version) if name not in done]

    def _newest(self) -> Version:
        return self._journal.versions(self._run.run, newest=1)[-1]

    def _adder(self, cohort: int) -> Adder:
        return Adder(self._charter, self._plan.sum, enrolled=len(self._names), departments=cohort)

    def _told(self, who: tuple[int, ...]) -> list[str]:
        return [self._names[number] for number in who]


def lost_in_a_row(journal: Journal, run: int) -> list[Round]:
    """The rounds since the last that closed, oldest first: all of them came to nothing.

    A run that was stopped and that a person then resumed begins anew; when that was, the audit log tells.
    """
    closed = journal.rounds(run, "closed", newest=1)
    since = before = closed[-1].round if closed else 0
    for entry in journal.audit():
        if entry.kind == "round-lost":
            before = max(before, int(str(entry.facts["round"])))
        elif entry.kind == "run" and (entry.facts["run"], entry.facts["state"]) == (run, "queued"):
            since = before
    return [one for one in journal.rounds(run, "lost") if one.round > since]


def refuse_data(problems: Mapping[str, Sequence[str]]) -> None:
    """Raise DataError with everything that is wrong, and with whom, if anything is."""
    if problems:
        lines = [f"{', '.join(names)}: {text}" for text, names in problems.items()]
        raise DataError("\n".join(lines), hint="mend the data, or what the charter expects of it")


@dataclass(frozen=True, slots=True)
class Unsigned:
    """Departments by name, with the parameters that a roster of them would have.

    No roster has more than ``MOST_DEPARTMENTS``; more are simulated as if half of them had to contribute, as there.
    """

    names: tuple[str, ...]

    @property
    def departments(self) -> Sequence[Named]:
        """In the scenario's order."""
        return [_Name(name) for name in self.names]

    @property
    def parameters(self) -> Parameters:
        """Those of a roster of this size, or of the largest."""
        known = Parameters.for_size(min(len(self.names), MOST_DEPARTMENTS))
        if len(self.names) <= MOST_DEPARTMENTS:
            return known
        return known.model_copy(update={"survivors_min": -(-len(self.names) // 2)})


@dataclass(frozen=True, slots=True)
class _Name:
    name: str
