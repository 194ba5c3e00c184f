"""A small federation of real processes over TLS that may be mistreated, and what its folders say afterwards.

Benchmarks of crashes and of endurance begin here: tables of a few rows, a network of a few neurons, and everything else
as it is deployed.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from commonroot.client.data import DataConfig
from commonroot.client.folder import DepartmentFolder
from commonroot.client.store import DepartmentStore
from commonroot.common.errors import CommonrootError, RunStopped
from commonroot.common.ledger import Entry, verify
from commonroot.common.secure_sum.primitives import sha256
from commonroot.server.folder import CoordinatorFolder
from commonroot.server.journal import Journal
from commonroot.server.journal_rows import Round
from commonroot.simulations.federation import SimulatedFederation
from commonroot.simulations.founding import Federation, found, reopen, write_table
from commonroot.simulations.network import MemoryNetwork, Weather
from commonroot.simulations.processes import Processes

NAMES: Final = ("ash", "birch", "cedar", "dogwood", "elm")
COORDINATOR: Final = "coordinator"
#: How often folders and processes are looked at, in seconds.
_LOOK: Final = 0.05
_INPUTS: Final = 6

_CHARTER: Final = """\
federation = "trial"
name = "trial"
rounds = {rounds}
ready = "{ready}"

[method]
name = "fedper"

[backbone]
inputs = {inputs}
widths = [8, 4]

[timing]
gather = {gather}
upload = {upload}
opening = {opening}
absence = {absence}
closing = {closing}
attempts = {attempts}
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """What a trial's charter says; times in seconds."""

    departments: int = 3
    rounds: int = 3
    ready: str = "off"
    gather: float = 120.0
    upload: float = 60.0
    opening: float = 60.0
    absence: float = 40.0
    closing: float = 120.0
    attempts: int = 50


def plant(root: Path, shape: Shape, *, port: int, queued: bool = True) -> Federation:
    """A founded federation under ``root`` whose coordinator listens on ``port`` of this machine, a run queued."""
    names = NAMES[: shape.departments] if shape.departments <= len(NAMES) else numbered(shape.departments)
    sections = {name: _table(root / "tables" / f"{name}.npz", at) for at, name in enumerate(names)}
    charter = _CHARTER.format(
        rounds=shape.rounds,
        ready=shape.ready,
        inputs=_INPUTS,
        gather=shape.gather,
        upload=shape.upload,
        opening=shape.opening,
        absence=shape.absence,
        closing=shape.closing,
        attempts=shape.attempts,
    )
    made = found(root, federation="trial", charter_toml=charter, departments=sections, port=port)
    if queued:
        queue(made)
    return made


def queue(federation: Federation) -> None:
    """Ask for a run of the federation's charter."""
    with books(federation) as journal:
        journal.queue(federation.charter)


def numbered(count: int) -> tuple[str, ...]:
    """Names for more departments than there are trees."""
    return tuple(f"site-{at:02}" for at in range(1, count + 1))


def _table(path: Path, seed: int) -> DataConfig:
    random = np.random.default_rng([20, seed])
    x = random.normal(size=(40 + seed % 7, _INPUTS))
    write_table(path, x, np.where(x @ random.normal(size=_INPUTS) > 0, "up", "down"))
    return DataConfig(path=path, target="y", task="binary", seed=7)


class Trial:
    """The processes of one federation; each can be killed and started again.

    ``mortal`` starts them so that they obey orders (``simulations.mortal``), one file each under ``ORDERS``.
    """

    def __init__(self, federation: Federation, processes: Processes, *, mortal: bool = False) -> None:
        self.federation = federation
        self.processes = processes
        self._mortal = mortal
        self._orders: dict[str, dict[str, Any]] = {}
        self._journal = federation.coordinator.journal()

    def close(self) -> None:
        """Let go of the journal, which is read while the coordinator writes it."""
        self._journal.close()

    def __enter__(self) -> Trial:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def names(self) -> tuple[str, ...]:
        """Departments in the roster's order."""
        return tuple(self.federation.departments)

    def start(self, name: str) -> None:
        """Start the coordinator or a department on its folder."""
        folder = self.folder(name)
        words = ["coordinator" if name == COORDINATOR else "department", "up", str(folder), "--json"]
        if self._mortal:
            module = "commonroot.simulations.mortal"
            self.processes.start(name, str(self.orders_of(name)), *words, module=module)
        else:
            self.processes.start(name, *words)

    def start_all(self) -> None:
        """Start the coordinator and every department."""
        for name in (COORDINATOR, *self.names):
            self.start(name)

    def folder(self, name: str) -> Path:
        """Where the coordinator or a department keeps everything."""
        return self.federation.coordinator.root if name == COORDINATOR else self.federation.departments[name].root

    def moved(self, name: str, folder: Path) -> None:
        """From now on this is the folder of the coordinator or of a department, which is down."""
        if name == COORDINATOR:
            self._journal.close()
            self.federation = replace(self.federation, coordinator=CoordinatorFolder(folder))
            self._journal = self.federation.coordinator.journal()
        else:
            departments = self.federation.departments | {name: DepartmentFolder(folder)}
            self.federation = replace(self.federation, departments=departments)

    def orders_of(self, name: str) -> Path:
        """The file of orders for one process, outside its folder."""
        folder = self.federation.root / "orders"
        folder.mkdir(exist_ok=True)
        return folder / f"{name}.json"

    def order(
        self, name: str, *, strike: Sequence[str] = (), lose: Sequence[str] | None = None, ahead: float | None = None
    ) -> None:
        """Add points to strike at, in this order; say which kinds of replies are lost and how wrong the clock is."""
        orders = self._orders.setdefault(name, {"strike": [], "lose": []})
        orders["strike"].extend(strike)
        if lose is not None:
            orders["lose"] = list(lose)
        if ahead is not None:
            orders["ahead"] = ahead
        path = self.orders_of(name)
        new = path.with_suffix(".new")
        new.write_text(json.dumps(orders))
        new.replace(path)

    def ordered(self, name: str) -> int:
        """How many points a process was told to strike at so far."""
        return len(self._orders.get(name, {"strike": []})["strike"])

    def skip(self, name: str, number: str) -> None:
        """Count a point as struck that was never passed, so that the process looks for the next one."""
        path = self.orders_of(name)
        with path.with_name(path.name + ".struck").open("a") as file:
            file.write(f"{number}, not passed\n")
        self.order(name)

    def until(self, holds: Callable[[], Any], what: str, *, seconds: float, check: bool = True) -> None:
        """Look often until something holds.  Raises RunStopped after ``seconds``, ProcessDied with ``check``."""
        deadline = time.monotonic() + seconds
        while not holds():
            if check:
                self.processes.check()
            if time.monotonic() > deadline:
                raise RunStopped(f"waited {seconds:.0f} s in vain for {what}")
            time.sleep(_LOOK)

    def state(self) -> str:
        """The run's state in the journal, with its reason."""
        run = self._journal.runs()[0]
        return f"{run.state}: {run.reason}" if run.reason else run.state

    def version(self) -> int:
        """The newest version of the backbone, -1 before the first."""
        found = self._journal.versions(1, newest=1)
        return found[0].version if found else -1


class books:
    """A federation's journal, closed after the block."""

    def __init__(self, federation: Federation) -> None:
        self._federation = federation

    def __enter__(self) -> Journal:
        self._journal = self._federation.coordinator.journal()
        return self._journal

    def __exit__(self, *_: object) -> None:
        self._journal.close()


def ledger_of(federation: Federation, name: str) -> list[Entry]:
    """A department's ledger, read beside its daemon."""
    store = _store(federation, name)
    try:
        return store.ledger()
    finally:
        store.close()


def _store(federation: Federation, name: str) -> DepartmentStore:
    folder = federation.departments[name]
    return DepartmentStore(folder.root, federation=folder.config.federation, department=folder.config.name)


# -- what is compared --------------------------------------------------------------------------------------------------


def versions(federation: Federation) -> list[str]:
    """SHA-256 of every version of the first run's backbone."""
    with books(federation) as journal:
        return [version.digest.hex() for version in journal.versions(1)]


def heads(federation: Federation) -> dict[str, dict[int, str]]:
    """Hashes of the heads that each department still keeps, by the version they were trained on."""
    charter = federation.charter.charter.digest.hex()
    out = {}
    for name in federation.departments:
        store = _store(federation, name)
        try:
            kept = {v: store.head_before(charter, v + 1) for v in store.head_versions(charter)}
        finally:
            store.close()
        out[name] = {v: _hash(head) for v, head in kept.items() if head is not None}
    return out


def _hash(head: Mapping[str, np.ndarray[Any, Any]]) -> str:
    return sha256(*(name.encode() + np.ascontiguousarray(head[name]).tobytes() for name in sorted(head))).hex()


def copied(federation: Federation, root: Path) -> Path:
    """A copy of a federation's folders, for a run that is to be compared; taken before its first process starts."""
    shutil.copytree(federation.root, root)
    return root


def undisturbed(root: Path, version: int, weather: Iterable[Weather] = ()) -> Federation:
    """The run of copied folders in this process up to a version, over a network that does no more than ``weather``.

    Everything but keys and masks is as in the copied federation.  Raises RunStopped where that version is not made.
    """
    import torch

    class _Enough(Exception):
        pass

    def listen(kind: str, facts: dict[str, Any]) -> None:
        if kind == "closing" or (kind == "closed" and facts["version"] >= version):
            raise _Enough

    copy = reopen(root)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as daemons do: sums of floats depend on it
    at_work = SimulatedFederation(copy, MemoryNetwork(weather=weather))
    try:
        at_work.start_all()
        at_work.run(listen)
    except _Enough:
        pass
    finally:
        at_work.close()
        torch.set_num_threads(threads)
    made = len(versions(copy)) - 1
    if made != version:
        raise RunStopped(f"the undisturbed run made {made} of {version} versions")
    return copy


def heads_changed(ours: Federation, theirs: Federation, version: int) -> list[str]:
    """Departments whose heads differ in two federations, up to those that a version was made with."""
    here, there = heads(ours), heads(theirs)
    changed = []
    for name, kept in here.items():
        common = {v for v in kept.keys() & there[name].keys() if v < version}
        if version - 1 not in common or any(kept[v] != there[name][v] for v in common):
            changed.append(name)
    return changed


@dataclass(frozen=True, slots=True)
class Findings:
    """What a federation's books say about a run, as numbers that should be zero."""

    rounds_twice: int
    sets_changed: int
    answers_changed: int
    chains_broken: int
    versions_missing: int

    @property
    def sound(self) -> bool:
        """Whether nothing was found."""
        return not any((self.rounds_twice, self.sets_changed, self.answers_changed, self.chains_broken,
                        self.versions_missing))  # fmt: skip


def audit(federation: Federation, rounds: int) -> Findings:
    """Go through the journal and every ledger.

    rounds_twice      versions that more than one closed round made
    sets_changed      rounds that departments opened for different survivor sets, or for another one than was closed
    answers_changed   rounds for which a department made two uploads or gave two answers
    chains_broken     ledgers that do not verify
    versions_missing  of 0 … ``rounds``
    """
    with books(federation) as journal:
        done, made = journal.rounds(1), [v.version for v in journal.versions(1)]
    closed = [r for r in done if r.state == "closed"]
    twice = len(closed) - len({r.version for r in closed})
    sets: dict[int, set[tuple[int, ...]]] = {r.round: {_survivors(federation, r)} for r in closed}
    changed, broken = 0, 0
    for name in federation.departments:
        entries = ledger_of(federation, name)
        try:
            verify(entries)
        except CommonrootError:
            broken += 1
        said: dict[tuple[int, str], set[Any]] = {}
        for entry in entries:
            what = entry.facts.get("what")
            if entry.kind != "sent" or what not in ("masked", "shares", "confirmed"):
                continue
            number = int(entry.facts["round"])  # type: ignore[arg-type]
            said.setdefault((number, str(what)), set()).add(entry.facts["digest"])
            if what != "masked":
                sets.setdefault(number, set()).add(tuple(entry.facts["survivors"]))  # type: ignore[arg-type]
        changed += sum(len(each) > 1 for each in said.values())
    return Findings(
        rounds_twice=twice,
        sets_changed=sum(len(each) > 1 for each in sets.values()),
        answers_changed=changed,
        chains_broken=broken,
        versions_missing=len(set(range(rounds + 1)) - set(made)),
    )


def _survivors(federation: Federation, closed: Round) -> tuple[int, ...]:
    order = {name: at for at, name in enumerate(federation.departments)}
    return tuple(sorted(order[name] for name in closed.report["survivors"]))
