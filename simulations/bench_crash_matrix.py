"""kill -9 at every numbered point of a run, in real processes over TLS, compared with the run that nobody disturbed.

Three federations are enough for all points: one whose run is struck once in every round, from its beginning to its end;
one where an upload is lost in every round, so that survivor sets must be confirmed; one whose departments train before
a round opens.  After each kill the process is started again on its folder, and nothing else is done.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from random import Random
from typing import Any, Final

from commonroot.common import parcel
from commonroot.common.errors import ProcessDied, RunStopped
from commonroot.simulations.crash_points import POINTS, Stage
from commonroot.simulations.mortal import struck
from commonroot.simulations.network import Crossing, Weather
from commonroot.simulations.processes import free_port, processes
from commonroot.simulations.trial import (
    COORDINATOR,
    Findings,
    Shape,
    Trial,
    audit,
    copied,
    heads_changed,
    plant,
    undisturbed,
    versions,
)

#: In seconds: how long a point may take to be passed while no version is made, and the next version after it.
_PASSING: Final = 60.0
_SETTLING: Final = 90.0

#: Called with every point that was struck and what came of it.
Tell = Callable[["Strike"], None]


@dataclass(slots=True)
class Strike:
    """One kill: the point, who died, the version that was being made, and what came of it."""

    number: str
    who: str
    version: int
    happened: bool = False
    #: Seconds from the kill until the next version was made; None before the first round and after the last.
    seconds: float | None = None
    why: str = ""
    #: Whether everybody else was killed in the same moment.
    everybody: bool = False
    identical: bool = False

    @property
    def label(self) -> str:
        """The point, and that it was a power cut if it was."""
        return f"{self.number} (everybody)" if self.everybody else self.number


@dataclass(frozen=True, slots=True)
class Step:
    """Points to strike at by whom, and whether a new version must follow before the next step.

    lose  departments whose uploads are lost from this step on
    """

    orders: Mapping[str, Sequence[str]]
    settles: bool = False
    everybody: bool = False
    lose: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Scenario:
    """One federation and what is done to it."""

    name: str
    shape: Shape
    steps: tuple[Step, ...]
    lossy: tuple[str, ...] = ()
    to_the_end: bool = False

    @property
    def points(self) -> list[str]:
        """All points of all steps, in order."""
        return [number for step in self.steps for numbers in step.orders.values() for number in numbers]


@dataclass(slots=True)
class Outcome:
    """What a scenario came to."""

    scenario: str
    strikes: list[Strike]
    findings: Findings
    heads_changed: int
    ended: bool
    seconds: float
    trouble: list[str] = field(default_factory=list)


def numbers(stage: Stage, side: str = "") -> list[str]:
    """The points of a stage, of one side or of both."""
    return [one.number for one in POINTS if one.stage == stage and side in ("", one.side)]


def _one_by_one(stage: Stage, departments: Sequence[str], lose: tuple[str, ...] = ()) -> list[Step]:
    """Every point of a stage in a step of its own; departments take turns."""
    steps = []
    for at, number in enumerate(numbers(stage)):
        who = COORDINATOR if number.startswith("C") else departments[at % len(departments)]
        steps.append(Step({who: [number]}, settles=True, lose=lose))
    return steps


def scenarios() -> list[Scenario]:
    """The whole matrix."""
    three = ("ash", "birch", "cedar")
    dealt: dict[str, list[str]] = {name: [] for name in three}
    for at, number in enumerate(numbers("beginning", "department")):
        dealt[three[at * 3 // len(numbers("beginning", "department"))]].append(number)
    closing: dict[str, list[str]] = {name: [] for name in three}
    for at, number in enumerate(numbers("end", "department")):
        closing[three[at % 3]].append(number)
    cuts = [Step({COORDINATOR: [n]}, settles=True, everybody=True) for n in _power_cuts()]
    plain = [
        Step({COORDINATOR: numbers("beginning", "coordinator")} | dealt, settles=True),
        *_one_by_one("round", three),
        *cuts,
        Step({COORDINATOR: numbers("end", "coordinator")} | closing),
    ]
    confirm = _one_by_one("confirm", three, lose=("dogwood",))
    lost = [Step({COORDINATOR: [n]}, settles=True, lose=("dogwood", "cedar")) for n in numbers("lost")]
    ready = _one_by_one("ready", three)
    return [
        Scenario("struck in every round", Shape(rounds=_rounds(plain)), tuple(plain), to_the_end=True),
        Scenario(
            "an upload is lost in every round",
            Shape(departments=4, rounds=_rounds([*confirm, *lost]), upload=2.5, gather=20),
            (*confirm, *lost),
            lossy=("dogwood",),
        ),
        Scenario("departments train first", Shape(rounds=_rounds(ready), ready="on"), tuple(ready)),
    ]


def _rounds(steps: Sequence[Step]) -> int:
    """Rounds enough for a run that goes on while a process is looked for that has just come back."""
    return 5 * sum(step.settles for step in steps) // 2


def _power_cuts() -> list[str]:
    """Where everybody is killed at once: a round is journaled, its survivors are, its version is."""
    wanted = {("after", "open_round"), ("after", "fix_round"), ("after", "_insert_version")}
    return [p.number for p in POINTS if (p.when, p.where.rpartition(".")[2]) in wanted]


def run_scenario(root: Path, scenario: Scenario, tell: Tell) -> Outcome:
    """Strike at every point of a scenario, and compare with the same run undisturbed."""
    began = time.monotonic()
    federation = plant(root / "struck", scenario.shape, port=free_port())
    copy = copied(federation, root / "undisturbed")
    trouble: list[str] = []
    with processes(root / "logs") as running, Trial(federation, running, mortal=True) as trial:
        strikes = _strike_all(trial, scenario, tell, trouble)
        if scenario.to_the_end:
            try:
                trial.until(partial(_over, trial), "the end of the run", seconds=2 * _SETTLING)
            except (RunStopped, ProcessDied) as error:
                trouble.append(f"{error} ({trial.state()})")
        state = trial.state()
    reached = scenario.shape.rounds if scenario.to_the_end else trial.version()
    quiet = undisturbed(copy, reached, [_losing(scenario.lossy)])
    made, expected = versions(federation), versions(quiet)
    right = next((v for v, (a, b) in enumerate(zip(made, expected, strict=False)) if a != b), len(made))
    ended = made == expected and (state == "finished" or not scenario.to_the_end)
    for strike in strikes:
        following = strike.version + 1 < right if strike.version + 1 < len(expected) else ended
        strike.identical = strike.happened and not strike.why and following
    return Outcome(
        scenario.name,
        strikes,
        audit(federation, reached),
        len(heads_changed(federation, quiet, reached)),
        ended,
        time.monotonic() - began,
        trouble,
    )


def _over(trial: Trial) -> bool:
    state = trial.state()
    if state.startswith("stopped"):
        raise RunStopped(state)
    return state == "finished"


def _strike_all(trial: Trial, scenario: Scenario, tell: Tell, trouble: list[str]) -> list[Strike]:
    strikes: list[Strike] = []
    for at, step in enumerate(scenario.steps):
        _lose(trial, (*scenario.lossy, *step.lose))
        for who, points in step.orders.items():
            trial.order(who, strike=points)
        if at == 0:
            trial.start_all()
        made, version, killed_at = _strike_step(trial, step, trouble)
        _lose(trial, scenario.lossy)
        if step.settles:
            _settle(trial, made, version, killed_at)
        strikes += made
        for strike in made:
            tell(strike)
    return strikes


def _lose(trial: Trial, departments: Sequence[str]) -> None:
    for name in trial.names:
        trial.order(name, lose=[parcel.MASKED] if name in departments else [])


def _strike_step(trial: Trial, step: Step, trouble: list[str]) -> tuple[list[Strike], int, float]:
    """Wait until each process died of each of its points, starting it again each time.

    Returns the strikes, and for the last one the version that was the newest then and the time.
    """
    todo = {who: list(points) for who, points in step.orders.items()}
    found: list[Strike] = []
    since = time.monotonic()
    killed_at, version = since, trial.version()
    newest = version
    while any(todo.values()):
        if trial.version() > newest:  # points after the last round are passed once the rounds before are over
            newest, since = trial.version(), time.monotonic()
        for who in (COORDINATOR, *trial.names):
            if not trial.processes.ended(who):
                continue
            version, killed_at = trial.version(), time.monotonic()
            if not todo.get(who) or struck(trial.orders_of(who)) < trial.ordered(who) - len(todo[who]) + 1:
                trouble.append(f"{who} ended by itself: {trial.processes.last_words(who)}")
                trial.start(who)
                continue
            found.append(Strike(todo[who].pop(0), who, version, happened=True, everybody=step.everybody))
            since = killed_at
            if step.everybody:
                for other in {COORDINATOR, *trial.names} - {who}:
                    trial.processes.kill(other)
                trial.start_all()
                break
            trial.start(who)
        if time.monotonic() - since > _PASSING:
            for who, points in todo.items():
                for number in points:
                    found.append(Strike(number, who, trial.version(), why=f"not passed in {_PASSING:.0f} s"))
                    trial.skip(who, number)
            break
        time.sleep(0.02)
    return found, version, killed_at


def _settle(trial: Trial, found: Iterable[Strike], version: int, killed_at: float) -> None:
    """Wait for the next version, which the strikes of a step must not have prevented."""
    why = ""
    try:
        trial.until(lambda: trial.version() > version, "the next version", seconds=_SETTLING)
    except (RunStopped, ProcessDied) as error:
        why = f"{error} ({trial.state()})"
    for strike in found:
        strike.why = strike.why or why
        strike.seconds = None if why else time.monotonic() - killed_at


def _losing(departments: Sequence[str]) -> Weather:
    """Uploads of these departments never arrive."""

    def weather(crossing: Crossing, _random: Random) -> Iterable[Crossing]:
        return () if crossing.department in departments and crossing.parcel.kind == parcel.MASKED else (crossing,)

    return weather


def as_record(outcome: Outcome) -> dict[str, Any]:
    """An outcome for a file."""
    return {
        "scenario": outcome.scenario,
        "ended": outcome.ended,
        "seconds": outcome.seconds,
        "trouble": outcome.trouble,
        "strikes": [
            {
                "point": s.label,
                "who": s.who,
                "version": s.version,
                "happened": s.happened,
                "identical": s.identical,
                "seconds": s.seconds,
                "why": s.why,
            }
            for s in outcome.strikes
        ],
    }
