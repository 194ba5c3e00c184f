"""Arms of a comparison: methods by name, each run as a federation of its own on the same data, splits and seed."""

from __future__ import annotations

import hashlib
import re
import shutil
import statistics
import tomllib
from collections.abc import Callable, Collection
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError

from commonroot.client.accelerator import where
from commonroot.client.data import DataConfig
from commonroot.client.setup import approve
from commonroot.common.charter import Draft, Method
from commonroot.common.errors import ConfigError, DeviceFailed
from commonroot.files import atomic_write
from commonroot.logs import Tell
from commonroot.server.folder import CoordinatorFolder
from commonroot.server.journal import Journal
from commonroot.simulations.behaviour import lies
from commonroot.simulations.behaviour.lies import Liar
from commonroot.simulations.engine.hosts import DealtFederation
from commonroot.simulations.engine.sums import Sum
from commonroot.simulations.federation import SimulatedFederation
from commonroot.simulations.founding import Federation, found, reopen, to_toml
from commonroot.simulations.network import Handler, MemoryNetwork
from commonroot.simulations.outcome import outcome
from commonroot.simulations.scenario import Scenario
from commonroot.simulations.weather import by_round
from commonroot.strategies import build, build_trained, seal

#: The arm that no deployed federation can run: everybody's rows in one place.
POOLED: Final = "pooled"

Report = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Arm:
    """One arm.

    label   as it was asked for
    draft   the charter it runs under
    pooled  not a federation: all rows in one place
    sum     how contributions are added (``engine.sums``)
    """

    label: str
    draft: Draft
    pooled: bool = False
    sum: Sum = "exact"

    @property
    def folder(self) -> str:
        """The name of its folder: readable, and another for every other charter."""
        words = re.sub(r"[^a-z0-9]+", "-", self.label.lower()).strip("-")[:40]
        how = "" if self.sum == "exact" else f"-{self.sum}"
        return f"{words}{how}-{seal(self.draft).digest.hex()[:8]}"


def parse_arm(text: str, charter: Draft, sum: Sum = "exact") -> Arm:
    """``NAME`` or ``NAME:OPTION=VALUE,…`` as an arm; the charter's own method by its bare name keeps its options.

    Raises ConfigError for an unknown method or naming every wrong option.
    """
    name, _, listed = text.partition(":")
    options = _options(text, listed)
    if name == POOLED:
        if options:
            raise ConfigError(f"--arm {text}: {POOLED} has no options; it trains as long as the charter's method")
        build_trained(charter)
        return Arm(text, charter, pooled=True)
    if name != charter.method.name or options:
        try:
            method = Method(name=name, options=options)
        except ValidationError as error:
            problems = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
            raise ConfigError(f"--arm {text}: {problems}", hint="NAME or NAME:OPTION=VALUE,…") from error
        charter = charter.model_copy(update={"method": method})
    try:
        build(charter)
    except ConfigError as error:
        hint = f"a method, or {POOLED!r} for all rows in one place"
        raise ConfigError(f"--arm {text}: {error}", hint=hint) from error
    return Arm(text, charter, sum=sum)


def _options(text: str, listed: str) -> dict[str, Any]:
    """``a=1,b=true,c=word`` with values as in TOML; a word needs no quotes."""
    options: dict[str, Any] = {}
    for pair in filter(None, listed.split(",")):
        key, equals, value = (part.strip() for part in pair.partition("="))
        if not equals or not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", key) or key in options:
            raise ConfigError(f"--arm {text}: {pair!r} is not a new OPTION=VALUE", hint="NAME or NAME:OPTION=VALUE,…")
        try:
            options[key] = tomllib.loads(f"value = {value}")["value"]
        except tomllib.TOMLDecodeError:
            options[key] = value
    return options


def run_federated(
    folder: Path,
    arm: Arm,
    scenario: Scenario,
    sections: dict[str, DataConfig],
    tell: Tell,
    *,
    workers: int = 1,
    finish: bool = True,
    pause_at: int | None = None,
) -> Report:
    """Run an arm in ``folder`` to its end, from wherever its journal stands; its report.

    workers   processes that hold the departments' sessions; the result is the same for any number
    finish    let departments fine-tune, compare and choose at the end; also where an earlier call left that out
    pause_at  leave off once this version of the backbone is made; called again, the arm goes on from there

    The report is ``outcome``'s, and besides: arm, method, backbone (SHA-256 of the final version's file),
    bytes_received; where there were any, faults, misbehaving (what departments do that they should not, by name; it
    stands in their rows as ``misbehaves``) and lies (``behaviour.lies.heard``).  In its history ``seconds`` are those
    a round took on this machine, interruptions included, and ``simulated_seconds`` those of the network's clock, for
    which computing takes no time.
    """
    federation, cast = _founded(folder, arm, scenario, sections), scenario.cast()
    weather = cast.weather()
    network = MemoryNetwork(seed=scenario.seed, weather=[by_round(scenario.seed, weather)] if weather else [])
    version = newest = _version(federation, arm)
    making = version + 1
    fixed = False
    last = None if finish else arm.draft.rounds

    def on_department(name: str, kind: str, facts: dict[str, Any]) -> None:
        if facts.get("code") == DeviceFailed.code:  # in deployment it would give zeros, and nobody could tell
            raise _DeviceGone
        tell(kind, facts | {"department": name})

    def on_event(kind: str, facts: dict[str, Any]) -> None:
        nonlocal making, newest, fixed
        if kind == "resumed":
            fixed = facts["state"] == "fixed"
        elif kind == "round":
            making = facts["version"] + 1
            for name in cast.killed(making):
                if simulated.is_up(name):
                    simulated.kill(name)
            if not fixed:  # who fell silent in this round is back when the same sum is asked for again
                for name in cast.away(making, facts["round"]):
                    if simulated.is_up(name):
                        simulated.disconnect(name)
        elif kind in ("closed", "lost"):
            fixed, newest = False, facts.get("version", newest)
            simulated.gather(cast.present(newest))
        tell(f"run-{kind}", facts | {"making": making})
        if kind == "closed" and facts["version"] in (pause_at, last):
            raise Paused

    if version == last:  # it was killed just before it was written down
        _finished(federation, arm)
    if version == last or (pause_at is not None and version >= pause_at):
        return report_of(federation.coordinator, _roots(federation), arm, scenario)
    tell("stands", {"version": version})
    late = _left_out(federation, arm, cast.present(version))
    workers = min(workers, len(sections))
    if workers == 1 or scenario.coordinator is not None:  # a liar hears every answer before its next lie
        front = _front(federation, scenario, folder)
        simulated = SimulatedFederation(federation, network, on_department=on_department, acts=cast.acts, front=front)
    else:
        simulated = DealtFederation(federation, network, workers=workers, on_department=on_department, acts=cast.acts)
    try:
        simulated.gather(cast.present(version))
        if late is None:
            simulated.run(on_event)
        else:
            simulated.close_late(late, on_event)
    except Paused:
        if _version(federation, arm) == last:
            _finished(federation, arm)
    except _DeviceGone:
        hint = f"{DeviceFailed.hint}; with --sum ring the message says at what it failed"
        raise DeviceFailed(f"{where()} failed while a department trained", hint=hint) from None
    finally:
        simulated.close()
    return report_of(federation.coordinator, _roots(federation), arm, scenario)


def _front(federation: Federation, scenario: Scenario, folder: Path) -> Callable[[str, Handler], Handler]:
    """What stands between the coordinator and a department: nothing, or the coordinator's lies."""
    if scenario.coordinator is None:
        return lambda name, handle: handle
    coordinator = federation.coordinator
    names = [member.name for member in coordinator.roster().departments]
    return Liar(scenario.coordinator, coordinator.identity(), names, folder / lies.FILE).around


def _finished(federation: Federation, arm: Arm) -> None:
    """The run is over, though no department was asked for its last step."""
    journal = federation.coordinator.journal()
    try:
        number = _run_of(journal, arm)
        if next(run.state for run in journal.runs() if run.run == number) != "finished":
            journal.set_run(number, "finished")
    finally:
        journal.close()


def _left_out(federation: Federation, arm: Arm, present: Collection[str]) -> int | None:
    """The arm's run, if it is over and somebody of those ``present`` has not gone through the last step; else None."""
    with closing(federation.coordinator.journal()) as journal:
        number = _run_of(journal, arm)
        over = next(run.state for run in journal.runs() if run.run == number) == "finished"
        return number if over and not journal.closed_departments(number).issuperset(present) else None


def _roots(federation: Federation) -> dict[str, Path]:
    return {name: department.root for name, department in federation.departments.items()}


def _founded(folder: Path, arm: Arm, scenario: Scenario, sections: dict[str, DataConfig]) -> Federation:
    """The arm's federation, its run queued; one that was half founded when the process was killed is founded anew."""
    if not folder.exists():
        fresh = folder.with_name(f".{folder.name}")
        shutil.rmtree(fresh, ignore_errors=True)
        first = scenario.statistics or arm.draft
        made = found(
            fresh,
            federation=arm.draft.federation,
            charter_toml=to_toml(first.model_dump(mode="json", exclude_none=True)),
            departments=sections,
            seed=scenario.seed,
            backbone=scenario.warm_start,
        )
        if scenario.statistics is not None:
            made = _counted(made, arm, scenario.warm_start)
        journal = made.coordinator.journal()
        try:
            journal.queue(made.charter)
        finally:
            journal.close()
        fresh.rename(folder)
    return reopen(folder)


def _counted(federation: Federation, arm: Arm, backbone: Path | None) -> Federation:
    """The same once its statistics are summed and the arm's charter, which builds on them, is signed and approved."""
    simulated = SimulatedFederation(federation, MemoryNetwork())
    try:
        simulated.start_all()
        simulated.queue()
        simulated.run()
    finally:
        simulated.close()
    draft = federation.root / "training.toml"
    atomic_write(draft, to_toml(arm.draft.model_dump(mode="json", exclude_none=True)).encode())
    signed, path = federation.coordinator.sign_charter(draft, backbone=backbone)
    for folder in federation.departments.values():
        approve(folder, path, backbone=backbone)
    return Federation(federation.root, federation.coordinator, federation.departments, signed, path)


class Paused(Exception):
    """An arm is left off on purpose."""


class _DeviceGone(Exception):
    """A department could not train, for no fault of its data: none of the errors that a session answers by itself."""


def _run_of(journal: Journal, arm: Arm) -> int:
    """The number of the arm's own run: statistics may have run before it, and an evaluation after it."""
    digest = seal(arm.draft).digest.hex()
    return next(run.run for run in journal.runs() if run.digest == digest)


def _version(federation: Federation, arm: Arm) -> int:
    """The newest version of the run's backbone; 0 before it began."""
    journal = federation.coordinator.journal()
    try:
        versions = journal.versions(_run_of(journal, arm))
        return versions[-1].version if versions else 0
    finally:
        journal.close()


def report_of(coordinator: CoordinatorFolder, folders: dict[str, Path], arm: Arm, scenario: Scenario) -> Report:
    """The report of an arm that has come as far as its journal says; see ``run_federated``."""
    report = outcome(coordinator.root, folders, charter=seal(arm.draft).digest.hex())
    journal = coordinator.journal()
    try:
        run = _run_of(journal, arm)
        newest = journal.versions(run)[-1]
        took = {r.round: r.ended - r.began for r in journal.rounds(run) if r.ended is not None}
    finally:
        journal.close()
    for row in report["history"]:
        row["simulated_seconds"] = row["seconds"]
        row["seconds"] = took[row["round"]]
    report["seconds_per_round"] = statistics.median(row["seconds"] for row in report["history"] or [{"seconds": 0.0}])
    received = sum(row["bytes"] for row in report["coordinator_saw"])
    if arm.sum != "exact":  # nothing was sent; what would have been, but for confirmations and openings
        survivors = sum(row["survivors"] for row in report["history"])
        received = report["bytes_per_department_per_round"] * survivors
    about = {"arm": arm.label, "method": arm.draft.method.model_dump(mode="json"), "sum": arm.sum}
    found: Report = about | report | {"backbone": newest.digest.hex(), "bytes_received": received}
    told = scenario.cast().told()
    if scenario.coordinator is not None:
        found["lies"] = lies.heard(coordinator.root.parent / lies.FILE)
        told += lies.in_words(found["lies"]) or scenario.coordinator.told()
    if misbehaving := scenario.cast().misbehaving():
        found["misbehaving"] = misbehaving
        for row in found["departments"]:
            if row["name"] in misbehaving:
                row["misbehaves"] = misbehaving[row["name"]]
    return found | ({"faults": {"told": told}} if told else {})


def fingerprint(path: Path) -> str:
    """SHA-256 of a data file, hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
