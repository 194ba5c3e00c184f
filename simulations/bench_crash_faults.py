"""Faults that kill nobody: slow and cut lines, full disks, wrong clocks, folders that move.

One federation meets them one after the other in the middle of a run.  Each must leave the run able to go on by itself
once the fault is over, and at the end every version must be that of the run which met none.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final

from rich.console import Console

from commonroot.common.errors import ClockSkew, ProcessDied, RunStopped, StorageFull
from commonroot.server.folder import CoordinatorFolder
from commonroot.server.status import status_of
from commonroot.simulations.bench import Row
from commonroot.simulations.founding import Federation
from commonroot.simulations.processes import Processes, free_port, processes
from commonroot.simulations.relay import Relay
from commonroot.simulations.trial import (
    COORDINATOR,
    Shape,
    Trial,
    audit,
    copied,
    plant,
    undisturbed,
    versions,
)

_ROUNDS: Final = 120
#: How long a fault lasts, and how long the run may take to go on after it, in seconds.
_LASTS: Final = 4.0
_GOES_ON: Final = 120.0
_DISK: Final = 24 * 2**20


@dataclass(slots=True)
class Fault:
    """One fault and what came of it: the version at its end, seconds from there to the next, or why there is none."""

    what: str
    version: int = -1
    seconds: float | None = None
    why: str = ""
    skipped: str = ""
    told: dict[str, bool] = field(default_factory=dict)


class Ground:
    """A federation in the middle of its run, whose departments reach it over relays."""

    def __init__(self, root: Path, federation: Federation, running: Processes, relays: dict[str, Relay]) -> None:
        self.root = root
        self.trial = Trial(federation, running, mortal=True)
        self.relays = relays
        self.faults: list[Fault] = []

    def during(self, what: str, fault: Callable[[], dict[str, bool] | None], *, mended: Callable[[], None]) -> None:
        """Have a fault, wait, mend it, and see whether the run goes on."""
        found = Fault(what)
        self.faults.append(found)
        try:
            found.told = fault() or {}
        except OSError as error:
            found.skipped = error.strerror or type(error).__name__
            return
        finally:
            mended()
        self.goes_on(found)

    def goes_on(self, found: Fault) -> None:
        """Wait for two more versions: the first may have been on its way already."""
        found.version, since = self.trial.version(), time.monotonic()
        try:
            self.trial.until(lambda: self.trial.version() >= found.version + 2, "a version", seconds=_GOES_ON)
            found.seconds = time.monotonic() - since
        except (RunStopped, ProcessDied) as error:
            found.why = f"{error} ({self.trial.state()})"

    def told(self, name: str, event: str, **facts: Any) -> bool:
        """Whether a process said so in its log."""
        lines = (self.root / "logs" / f"{name}.log").read_text().splitlines()
        said = [json.loads(line) for line in lines if line.startswith("{")]
        return any(one.get("event") == event and facts.items() <= one.items() for one in said)


def run(root: Path, console: Console) -> list[Row]:
    """All faults, one after the other."""
    console.print("slow and cut lines, full disks, wrong clocks, folders that move …")
    port = free_port()
    shape = Shape(rounds=_ROUNDS, attempts=50, closing=20)
    federation = plant(root / "federation", shape, port=port)
    _patient(federation)
    copy = copied(federation, root / "undisturbed")
    with contextlib.ExitStack() as stack:
        disks = {name: stack.enter_context(_small_disk(root, federation, name)) for name in (COORDINATOR, "birch")}
        relays = {name: stack.enter_context(Relay(port)) for name in federation.departments}
        for name, relay in relays.items():
            _readdress(federation.departments[name].root / "department.toml", port, relay.port)
        running = stack.enter_context(processes(root / "logs"))
        ground = Ground(root, federation, running, relays)
        stack.callback(ground.trial.close)
        ground.trial.start_all()
        ground.trial.until(lambda: ground.trial.version() >= 1, "a first version", seconds=_GOES_ON)
        _lines(ground)
        _disks(ground, disks)
        _clocks(ground)
        _moves(ground, port)
        reached = ground.trial.version()
        refused = _late_clock(ground)
        federation = ground.trial.federation
    quiet = undisturbed(copy, reached)
    return _rows(
        ground.faults, versions(federation), versions(quiet), audit(federation, reached), refused
    ) + _namespace(root, console)


# -- lines -------------------------------------------------------------------------------------------------------------


def _lines(ground: Ground) -> None:
    relays = ground.relays.values()

    def slow(delay: float, rate: float) -> None:
        for relay in relays:
            relay.delay, relay.rate = delay, rate

    def slowly() -> None:
        slow(0.1, 32_000)
        before = ground.trial.version()
        ground.trial.until(lambda: ground.trial.version() > before + 1, "two versions over slow lines", seconds=120)

    ground.during("every line 100 ms late and 32 kB/s, for two rounds", slowly, mended=lambda: slow(0.0, 0.0))

    def cut(*names: str) -> None:
        for name in names:
            ground.relays[name].cut()
        time.sleep(_LASTS)

    def mend() -> None:
        for relay in relays:
            relay.mend()

    ground.during(f"one department's line cut for {_LASTS:.0f} s", lambda: cut("ash"), mended=mend)
    ground.during(f"every line cut for {_LASTS:.0f} s", lambda: cut(*ground.relays), mended=mend)


# -- disks -------------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _small_disk(root: Path, federation: Federation, name: str) -> Iterator[str]:
    """Move a folder to a disk of a few megabytes; yields why that cannot be had, or nothing."""
    folder = federation.coordinator.root if name == COORDINATOR else federation.departments[name].root
    if os.geteuid() != 0:
        yield "mounting a small disk needs root"
        return
    aside = root / f"{name}-aside"
    shutil.move(folder, aside)
    folder.mkdir(mode=0o700)
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={_DISK},mode=0700", "tmpfs", str(folder)],
        capture_output=True,
        check=False,
    )
    shutil.copytree(aside, folder, dirs_exist_ok=True)
    try:
        yield "" if made.returncode == 0 else "no small disk may be mounted here"
    finally:
        if made.returncode == 0:
            shutil.rmtree(aside)
            shutil.copytree(folder, aside)
            subprocess.run(["umount", "--lazy", str(folder)], check=True)
            shutil.copytree(aside, folder, dirs_exist_ok=True)


def _disks(ground: Ground, disks: dict[str, str]) -> None:
    for name, why in disks.items():
        folder = ground.trial.folder(name)
        ballast = folder / "ballast"

        def full(why: str = why, ballast: Path = ballast, name: str = name) -> dict[str, bool]:
            if why:
                raise OSError(errno.EPERM, why)
            _fill(ballast)
            time.sleep(_LASTS)
            if name != COORDINATOR:
                return {"refuses with CR15": ground.told(name, "refused", code=StorageFull.code)}
            trouble = status_of(CoordinatorFolder(ground.trial.folder(name)))["trouble"]
            return {
                "says so in one line": ground.told(name, "storage-full", code=StorageFull.code),
                "and in status": any("full" in line for line in trouble),
            }

        whose = "the coordinator's" if name == COORDINATOR else "a department's"
        ground.during(
            f"{whose} disk full for {_LASTS:.0f} s",
            full,
            mended=partial(ballast.unlink, missing_ok=True),
        )


def _fill(ballast: Path) -> None:
    """Write until nothing more fits."""
    with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
        for size in (65536, 4096, 512, 1):
            with contextlib.suppress(OSError):
                while True:
                    file.write(bytes(size))


# -- clocks ------------------------------------------------------------------------------------------------------------


def _clocks(ground: Ground) -> None:
    def wrong(name: str, ahead: float) -> Callable[[], dict[str, bool]]:
        def jump() -> dict[str, bool]:
            ground.trial.order(name, ahead=ahead)
            time.sleep(2 * _LASTS)
            if name == COORDINATOR:
                return {}
            return {"says CR62": ground.told(name, "trouble", code=ClockSkew.code)}

        return jump

    for name, ahead, what in (
        ("cedar", 60.0, "a department's clock set a minute ahead"),
        (COORDINATOR, 3600.0, "the coordinator's clock set an hour ahead"),
        (COORDINATOR, -60.0, "the coordinator's clock set a minute back"),
    ):
        ground.during(what, wrong(name, ahead), mended=partial(ground.trial.order, name, ahead=0.0))


def _late_clock(ground: Ground) -> bool:
    """Whether a daemon that starts with a clock ahead ends with CR62."""
    trial = ground.trial
    trial.processes.kill("ash")
    trial.order("ash", ahead=60.0)
    trial.start("ash")
    with contextlib.suppress(RunStopped):
        trial.until(lambda: trial.processes.ended("ash"), "a daemon to end", seconds=60, check=False)
    return ClockSkew.code in trial.processes.last_words("ash")


# -- moves -------------------------------------------------------------------------------------------------------------


def _moves(ground: Ground, port: int) -> None:
    trial = ground.trial
    moved = free_port()

    def coordinator() -> None:
        trial.processes.kill(COORDINATOR)
        root = _carried(trial.folder(COORDINATOR))
        config = root / "coordinator.toml"
        config.write_text(config.read_text().replace(f"port = {port}", f"port = {moved}"))
        for relay in ground.relays.values():
            relay.to = moved
        trial.moved(COORDINATOR, root)
        trial.start(COORDINATOR)

    ground.during("the coordinator killed, its folder moved, another port", coordinator, mended=lambda: None)

    def department() -> None:
        trial.processes.kill("cedar")
        trial.moved("cedar", _carried(trial.folder("cedar")))
        trial.start("cedar")

    ground.during("a department killed and its folder moved", department, mended=lambda: None)


def _carried(folder: Path) -> Path:
    """A copy of a folder beside it; what stays behind is not looked at again."""
    new = folder.with_name(f"{folder.name}-moved")
    shutil.copytree(folder, new)
    return new


def _readdress(path: Path, old: int, new: int) -> None:
    path.write_text(path.read_text().replace(f"127.0.0.1:{old}", f"127.0.0.1:{new}"))


def _patient(federation: Federation) -> None:
    """A short rest between lost rounds, so that a full disk costs seconds and not a minute."""
    with (federation.coordinator.root / "coordinator.toml").open("a") as file:
        file.write("\n[waits]\nretry = 0.5\nlook = 0.5\n")


# -- a network of its own ----------------------------------------------------------------------------------------------


def _namespace(root: Path, console: Console) -> list[Row]:
    """The whole federation in a network namespace whose only interface is slowed down and taken down."""
    name = f"commonroot-{os.getpid()}"
    what = "in a network namespace: 1 Mbit/s, then no network for 4 s: rounds completed"
    shape = Shape(rounds=8)
    try:
        _ip("netns", "add", name)
    except (OSError, subprocess.CalledProcessError):
        return [Row(f"{what} (skipped: making a namespace needs root)", 0.0)]
    try:
        _ip("netns", "exec", name, "ip", "link", "set", "lo", "up")
        slowed = _slowed(name)
        console.print("… and in a network namespace" + ("" if slowed else " (this kernel cannot slow a line down)"))
        federation = plant(root / "namespace", shape, port=9443)
        copy = copied(federation, root / "namespace-undisturbed")
        prefix = ["ip", "netns", "exec", name]
        with processes(root / "logs-namespace", prefix) as running, Trial(federation, running) as trial:
            trial.start_all()
            trial.until(lambda: trial.version() >= 2, "two versions", seconds=_GOES_ON)
            _ip("netns", "exec", name, "ip", "link", "set", "lo", "down")
            time.sleep(_LASTS)
            _ip("netns", "exec", name, "ip", "link", "set", "lo", "up")
            with contextlib.suppress(RunStopped):
                trial.until(lambda: trial.version() >= shape.rounds, "the last version", seconds=_GOES_ON)
            reached = trial.version()
    finally:
        _ip("netns", "del", name)
    wrong = sum(a != b for a, b in zip(versions(federation), versions(undisturbed(copy, reached)), strict=True))
    return [
        Row(what if slowed else what.replace("1 Mbit/s, then ", ""), reached, ">=", shape.rounds),
        Row("the same: versions that differ from the undisturbed run", wrong, "<=", 0),
    ]


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


def _slowed(name: str) -> bool:
    """Whether the namespace's loopback could be slowed down."""
    shaper = [
        "tc",
        "qdisc",
        "replace",
        "dev",
        "lo",
        "root",
        "tbf",
        "rate",
        "1mbit",
        "burst",
        "64kb",
        "latency",
        "400ms",
    ]
    return subprocess.run(["ip", "netns", "exec", name, *shaper], capture_output=True, check=False).returncode == 0


# -- rows --------------------------------------------------------------------------------------------------------------


def _rows(faults: list[Fault], made: list[str], expected: list[str], books: Any, refused: bool) -> list[Row]:
    right = next((v for v, (a, b) in enumerate(zip(made, expected, strict=False)) if a != b), len(made))
    rows = []
    for one in faults:
        if one.skipped:
            rows.append(Row(f"{one.what} (skipped: {one.skipped})", 0.0))
            continue
        well = one.seconds is not None and one.version + 2 < right + 1
        rows.append(Row(f"{one.what}: goes on by itself, and nothing differs", float(well), ">=", 1, why=one.why))
        rows += [Row(f"  {told}", float(said), ">=", 1) for told, said in one.told.items()]
        if one.seconds is not None:
            rows.append(Row("  seconds from its end to the second version after", one.seconds))
    rows.append(Row("a daemon that starts with a clock a minute ahead ends with CR62", float(refused), ">=", 1))
    found = books.rounds_twice + books.sets_changed + books.answers_changed + books.chains_broken
    rows.append(Row("after all that: versions twice, sets or answers changed, chains broken", found, "<=", 0))
    rows.append(Row("versions that differ from the undisturbed run", len(expected) - right, "<=", 0))
    return rows
