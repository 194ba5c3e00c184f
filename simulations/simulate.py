"""``commonroot simulate``: a whole federation on one machine, method by method, on the same data.

What runs is what is deployed: sessions, rounds, secure sum, write-ahead files.  Only the links are in memory and their
clock is simulated.  A simulation that keeps its folder can be killed at any moment; run again, it goes on from what the
journals hold and ends with the same backbone.  One exception: with delays beyond the charter's deadlines, parcels can
be under way when the process is killed, and are then lost.

    FOLDER/simulation.json     what is simulated there: scenario and data, by hash
    FOLDER/data/               files of a built-in world
    FOLDER/arms/NAME-HASH/     one federation: coordinator/, departments/
    FOLDER/alone/              what departments found alone, by hash: the same for every arm
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from commonroot.client.accelerator import PROCESSOR, computing_on, failing_plainly, kind_of, named, where
from commonroot.client.data import DataConfig
from commonroot.client.learner import DepartmentLearner
from commonroot.common.charter import Draft
from commonroot.common.errors import ConfigError, DataError
from commonroot.common.roster import MOST_DEPARTMENTS
from commonroot.files import atomic_write, read_text, storage_errors, take_ownership, unforced
from commonroot.simulations.arms import Arm, Report, parse_arm, run_federated
from commonroot.simulations.behaviour.misbehaving import Misbehaviour
from commonroot.simulations.comparison import table_rows
from commonroot.simulations.contents import Contents, tables_of
from commonroot.simulations.engine.arm import run_unmasked
from commonroot.simulations.engine.run import refuse_data
from commonroot.simulations.engine.workers import Hire, hire
from commonroot.simulations.pooled import pooled_statistics, run_pooled
from commonroot.simulations.scenario import Scenario, read_scenario
from commonroot.strategies import build, gathers, seal

MARK: Final = "simulation.json"
ALONE: Final = "alone"
#: Before a department's name in the mark, which holds them in their order.
_DEPARTMENT: Final = "department "
#: What a folder may hold besides, before the mark is written: a simulation whose data was refused goes that far.
_OURS: Final = frozenset({"arms", "alone", "data", "daemon.lock"})

#: Who lets departments work: this program's processes, or Flower's simulation.
OWN, FLOWER = "own", "flower"
ENGINES: Final = (OWN, FLOWER)

#: Called with the arm's label, what happened and its facts.
TellArm = Callable[[str, str, dict[str, Any]], None]


def simulate(
    path: Path | Scenario,
    *,
    arms: Sequence[str] = (),
    folder: Path | None = None,
    sum: str | None = None,
    workers: int = 1,
    finish: bool = True,
    alone: Path | None = None,
    data: Path | None = None,
    engine: str | Hire = OWN,
    device: str = "cpu",
    tell: TellArm = lambda arm, kind, facts: None,
) -> dict[str, Any]:
    """Run every arm of a scenario; the result as JSON values.

    path    a ``federation.toml``, or a scenario whose paths are absolute
    arms    method names with options, or ``pooled`` (see ``arms.parse_arm``); by default the charter's own method
    folder  where the federations live; a temporary one by default, and nothing is kept
    sum     ``exact``, ``ring`` or ``off`` (``engine.sums``) instead of the scenario's own
    workers processes that departments are dealt out to; the result is the same for any number
    finish  let departments fine-tune, compare and choose at the end
    alone   where departments keep what they found alone, so that other arms and simulations of them need not find it
            again; under ``folder`` by default, and not used where sums are ``exact``
    data    where published data is looked for first
    engine  ``own``, or ``flower`` to let departments work under Flower's simulation (``flower_app``), where sums are
            not ``exact`` and are ``ring`` if nobody says; or workers that are there.  The result is the same
    device  where networks are computed: ``cpu`` as in deployment, or a GPU, ``cuda``.  The result is the same each time
            and for any number of workers, but not that of another device, nor of a deployment (see ADR 0023)

    The result holds ``federation``, ``charter`` (its name), ``seed``, ``device``, ``rounds_wanted``, ``table`` (see
    ``comparison.table_rows``) and ``arms``, one report each (see ``arms.run_federated``) with ``wall_seconds``, what
    this call spent on it.  An arm whose run was stopped says so in ``state`` and ``reason``.

    Raises ConfigError for a scenario, arm or folder that does not fit, DataError that lists what is wrong with all
    departments' data, before anything runs.
    """
    if engine not in ENGINES and isinstance(engine, str):
        raise ConfigError(f"--engine {engine}: no such engine", hint=f"one of {', '.join(ENGINES)}")
    require_workers(workers)
    if engine == FLOWER:
        from commonroot.simulations.flower_app.here import refuse_without_ray

        refuse_without_ray()
    if engine != OWN and named(device) != PROCESSOR:
        raise ConfigError(
            f"--device {device}: departments under Flower's engine compute on processors", hint="leave one of them out"
        )
    with (
        computing_on(device),
        failing_plainly(),
        prepared(path, arms=arms, folder=folder, sum=sum, data=data, unmasked=engine != OWN) as ready,
    ):
        scenario = ready.scenario

        def run_all(hired: Hire) -> list[Report]:
            return [
                _run(ready, arm, tell, workers=workers, finish=finish, alone=alone, engine=hired) for arm in ready.arms
            ]

        reports, on = _under(engine, run_all, departments=len(scenario.names), workers=workers), str(where())
    return {
        "federation": scenario.charter.federation,
        "charter": scenario.charter.name,
        "seed": scenario.seed,
        "sum": scenario.sum,
        "device": on,
        "rounds_wanted": scenario.charter.rounds,
        "table": table_rows(scenario.names, reports),
        "arms": reports,
    }


def _under(
    engine: str | Hire, run_all: Callable[[Hire], list[Report]], *, departments: int, workers: int
) -> list[Report]:
    if engine == FLOWER:
        from commonroot.simulations.flower_app.here import under_flower

        return under_flower(run_all, departments=departments, workers=workers)
    return run_all(hire if isinstance(engine, str) else engine)


@dataclass(frozen=True, slots=True)
class Ready:
    """A simulation whose data fits every arm, in a folder that is its own.

    root      the folder
    sections  each department's data, with absolute paths
    """

    root: Path
    scenario: Scenario
    arms: Sequence[Arm]
    sections: dict[str, DataConfig]


@contextmanager
def prepared(
    path: Path | Scenario,
    *,
    arms: Sequence[str],
    folder: Path | None,
    sum: str | None = None,
    data: Path | None = None,
    unmasked: bool = False,
) -> Iterator[Ready]:
    """Everything before the first round; see ``simulate`` for the arguments and for what it raises.

    unmasked  sums cannot be ``exact``, and are ``ring`` where nobody says how they are made
    """
    scenario = path if isinstance(path, Scenario) else read_scenario(path)
    if unmasked and sum is None and "sum" not in scenario.model_fields_set:
        sum = "ring"
    scenario = scenario.summed(sum)
    if unmasked and scenario.sum == "exact":
        raise ConfigError("Flower's engine has no exact sums", hint="--sum ring gives the very same backbone")
    beside = Path() if isinstance(path, Scenario) else path.resolve().parent
    chosen = [parse_arm(text, scenario.draft, scenario.sum) for text in arms or [scenario.draft.method.name]]
    require_fitting(scenario, chosen)
    twice = sorted({arm.label for arm in chosen if [other.folder for other in chosen].count(arm.folder) > 1})
    if twice:
        raise ConfigError(f"the same arm stands twice: {', '.join(twice)}")
    keeping = tempfile.TemporaryDirectory(prefix="commonroot-") if folder is None else nullcontext(str(folder))
    with keeping as name:
        root = Path(name).resolve()
        claim(root)
        with take_ownership(root), unforced():
            sections = scenario.sections(beside, root / "data", data)
            scenario = scenario.settled(sections)
            require_fitting(scenario, chosen)  # only now are the departments of some worlds known
            if scenario.sum == "exact":  # where not, departments are read by whoever trains them, and once
                _check(chosen, scenario.statistics, sections)
            _same_simulation(root, scenario, sections, engine=FLOWER if unmasked else OWN)
            yield Ready(root, scenario, chosen, sections)


def require_fitting(scenario: Scenario, arms: Sequence[Arm]) -> None:
    """Raise ConfigError where a scenario asks something of an arm that it cannot do, as far as no data has to say."""
    scenario.require_protocol()
    flips = any(isinstance(one, Misbehaviour) and one.flips for one in scenario.behaviour)
    gathering = [arm.label for arm in arms if not arm.pooled and gathers(build(arm.draft))]
    if flips and gathering:
        raise ConfigError(
            f"label-flip: {gathering[0]} trains on no labels",
            hint="a method that trains a network, or another kind of [[behaviour]]",
        )
    many = len(scenario.names)
    if many > MOST_DEPARTMENTS and any(not arm.pooled and arm.sum == "exact" for arm in arms):
        raise ConfigError(
            f"{many:,} departments: exact sums are over {MOST_DEPARTMENTS:,} at most",
            hint="--sum ring gives the very same backbone",
        )


def require_workers(workers: int) -> None:
    """Raise ConfigError for fewer than one."""
    if workers < 1:
        raise ConfigError(f"workers: {workers}; at least 1 does the work", hint="--workers 1, or workers=1")


def _run(
    ready: Ready, arm: Arm, tell: TellArm, *, workers: int, finish: bool, alone: Path | None, engine: Hire
) -> Report:
    root, scenario, sections = ready.root, ready.scenario, ready.sections

    def tell_arm(kind: str, facts: dict[str, Any]) -> None:
        tell(arm.label, kind, facts)

    began = time.perf_counter()
    if arm.pooled:
        shared = None if scenario.statistics is None else pooled_statistics(seal(scenario.statistics), sections)
        report = run_pooled(root / "arms" / arm.folder, arm, sections, seed=scenario.seed, tell=tell_arm, shared=shared)
    elif arm.sum != "exact":
        report = run_unmasked(
            root / "arms" / arm.folder,
            arm,
            scenario,
            sections,
            tell_arm,
            alone=alone or root / ALONE,
            workers=workers,
            finish=finish,
            engine=engine,
        )
    else:
        report = run_federated(
            root / "arms" / arm.folder, arm, scenario, sections, tell_arm, workers=workers, finish=finish
        )
    report["wall_seconds"] = time.perf_counter() - began
    tell_arm("done", {"state": report["state"]})
    return report


def claim(root: Path) -> None:
    """Make the folder, or find one that an earlier simulation made; anything else is left alone."""
    if root.exists() and not root.is_dir():
        raise ConfigError(f"{root} is not a folder", hint="choose another one with --folder")
    found = {path.name for path in root.iterdir()} if root.exists() else set()
    begun = "arms" in found and found <= _OURS
    if found and MARK not in found and not begun:
        raise ConfigError(f"{root} is not empty and no simulation made it", hint="choose another one with --folder")
    with storage_errors(root):
        (root / "arms").mkdir(parents=True, exist_ok=True)


def _same_simulation(root: Path, scenario: Scenario, sections: dict[str, DataConfig], *, engine: str) -> None:
    """Write down what is simulated in this folder, or refuse to go on with something else."""
    ours: dict[str, Any] = {
        "seed": scenario.seed,
        "charter": scenario.draft.model_dump(mode="json"),
        "network": scenario.network.model_dump(mode="json"),
        "events": [event.model_dump(mode="json") for event in scenario.events],
    }
    if scenario.behaviour:
        ours["behaviour"] = [one.model_dump(mode="json", by_alias=True) for one in scenario.behaviour]
    if scenario.coordinator is not None:
        ours["coordinator"] = scenario.coordinator.model_dump(mode="json", by_alias=True)
    if missing := [
        f"{name}: {path} does not exist"
        for name, data in sections.items()
        for path in tables_of(data)
        if not path.exists()
    ]:
        raise DataError("\n".join(missing), hint="paths start at the file they stand in")
    if engine != OWN:
        ours["engine"] = engine  # each keeps private states in its own way
    if where() != PROCESSOR:
        ours["device"] = kind_of(where())  # a run that goes on elsewhere would end like neither
    contents = Contents()
    for name, data in sections.items():
        record = {"data": data.model_dump(mode="json"), "sha256": [contents.of(path) for path in tables_of(data)]}
        if (images := contents.of_images(data, scenario.charter)) is not None:
            record["images"] = images
        ours[_DEPARTMENT + name] = record
    if not (root / MARK).is_file():
        atomic_write(root / MARK, json.dumps(ours, indent=1).encode())
        return
    theirs = json.loads(read_text(root / MARK, what="the mark of a simulation"))
    differing = sorted(key for key in ours.keys() | theirs.keys() if ours.get(key) != theirs.get(key))
    if not differing and _in_order(ours) != _in_order(theirs):  # what they keep lies under their numbers
        differing = ["the order of departments"]
    if differing:
        raise ConfigError(
            f"{root} holds another simulation; what differs: {', '.join(differing)}",
            hint="choose another folder with --folder, or bring the old file and data back",
        )


def _in_order(mark: Mapping[str, Any]) -> list[str]:
    return [key for key in mark if key.startswith(_DEPARTMENT)]


def _check(arms: Sequence[Arm], statistics: Draft | None, sections: dict[str, DataConfig]) -> None:
    """Every department's data against every arm, as each would check its own; DataError tells all of it at once."""
    # what an arm builds on is not there yet, and says nothing about whether the data fits
    charters = {arm.folder: seal(arm.draft.model_copy(update={"statistics": None})) for arm in arms}
    charters |= {} if statistics is None else {"statistics": seal(statistics)}
    problems: dict[str, list[str]] = {}
    for name, data in sections.items():
        learner = DepartmentLearner(None, name, data, bytes(32))  # nothing is trained or stored
        for charter in charters.values():
            try:
                learner.check(charter)
            except (ConfigError, DataError) as error:
                told = problems.setdefault(str(error), [])
                told += [name] if name not in told else []
    refuse_data(problems)
