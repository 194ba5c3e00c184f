"""Many rounds of five departments in real processes, with or without random kills, and what came of them."""

from __future__ import annotations

import itertools
import json
import random
import shutil
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from commonroot.common.errors import RunStopped
from commonroot.simulations.founding import Federation, reopen
from commonroot.simulations.processes import free_port, processes
from commonroot.simulations.trial import (
    COORDINATOR,
    Findings,
    Shape,
    Trial,
    audit,
    books,
    copied,
    heads_changed,
    plant,
    undisturbed,
    versions,
)
from commonroot.simulations.usage import usage_of

_SEED: Final = 6
#: Rounds from one kill to the next, at least and at most.
_GAP: Final = (4, 20)
#: How long a run may make no version, in seconds.
_STUCK: Final = 240.0
#: Seconds between two looks at the processes' memory.
_SAMPLE: Final = 1.0

#: Called with the newest version and a word.
Tell = Callable[[int, str], None]


@dataclass(frozen=True, slots=True)
class Soaked:
    """What many rounds came to.  Memory in bytes; growth and together are the last tenth over the second."""

    rounds: int
    versions: int
    findings: Findings
    kills: list[str]
    restarts: int
    different: int
    heads_changed: int
    growth: dict[str, float]
    together: float
    last: dict[str, float]
    journal_bytes: int
    ledger_bytes: float
    seconds_per_round: float
    slowest: float


def soak(root: Path, rounds: int, *, kills: bool, tell: Tell) -> Soaked:
    """Run to the end, or go on with what an interrupted soak left in ``root``.  Raises RunStopped where it is stuck."""
    federation = _federation(root, rounds)
    with (
        (root / "samples.jsonl").open("a") as file,
        processes(root / "logs") as running,
        Trial(federation, running) as trial,
    ):
        trial.start_all()
        _Watch(trial, rounds, kills, file.write, tell).to_the_end()
    tell(rounds, "comparing")
    different, heads = 0, 0
    if kills:
        quiet = undisturbed(_fresh_copy(root), rounds)
        different = sum(a != b for a, b in itertools.zip_longest(versions(federation), versions(quiet)))
        heads = len(heads_changed(federation, quiet, rounds))
    found = _summary(root, federation, rounds, different, heads)
    (root / "done.json").write_text(json.dumps(asdict(found), indent=2))
    return found


def _federation(root: Path, rounds: int) -> Federation:
    if (root / "done.json").exists():
        shutil.rmtree(root)
    if (root / "planted").exists():
        return reopen(root / "federation")
    shutil.rmtree(root, ignore_errors=True)
    federation = plant(root / "federation", Shape(departments=5, rounds=rounds), port=free_port())
    copied(federation, root / "untouched")
    (root / "planted").touch()
    return federation


def _fresh_copy(root: Path) -> Path:
    """Untouched folders: an interrupted comparison must not be taken for one that is half done."""
    shutil.rmtree(root / "undisturbed", ignore_errors=True)
    shutil.copytree(root / "untouched", root / "undisturbed")
    return root / "undisturbed"


class _Watch:
    """Looks at a run until its last version: takes samples, kills, starts again."""

    def __init__(self, trial: Trial, rounds: int, kills: bool, write: Callable[[str], Any], tell: Tell) -> None:
        self._trial = trial
        self._rounds = rounds
        self._kills = kills
        self._write = write
        self._tell = tell
        self._version = trial.version()
        # Another seed after an interruption: the kills that were before it have happened.
        self._random = random.Random(_SEED * 1_000_003 + max(0, self._version))
        self._next_kill = self._version + self._random.randint(*_GAP)
        self._sampled = 0.0

    def to_the_end(self) -> None:
        """Raises RunStopped where no version is made for a long time, ProcessDied where somebody ends by itself."""
        moved = time.monotonic()
        while self._version < self._rounds:
            self._trial.processes.check()
            now = time.monotonic()
            if (version := self._trial.version()) > self._version:
                self._version, moved = version, now
                self._tell(version, "")
            if now - moved > _STUCK:
                raise RunStopped(f"no version for {_STUCK:.0f} s after {self._version} ({self._trial.state()})")
            if now - self._sampled >= _SAMPLE:
                self._sampled = now
                self._sample()
            if self._kills and self._next_kill <= self._version < self._rounds:
                self._kill()
            time.sleep(0.1)

    def _kill(self) -> None:
        """At a random moment of a round, and back after another."""
        who = self._random.choice((COORDINATOR, COORDINATOR, *self._trial.names))
        time.sleep(self._random.uniform(0, 1))
        self._trial.processes.kill(who)
        self._note({"killed": who, "version": self._version})
        self._tell(self._version, f"killed {who}")
        time.sleep(self._random.uniform(0, 0.5))
        self._trial.start(who)
        self._next_kill = self._version + self._random.randint(*_GAP)

    def _sample(self) -> None:
        for name in (COORDINATOR, *self._trial.names):
            pid = self._trial.processes.pid(name)
            used = usage_of(pid)
            if used is not None:
                facts = {"name": name, "pid": pid, "version": self._version}
                self._note(facts | {"resident": used.resident, "own": used.own})

    def _note(self, facts: dict[str, Any]) -> None:
        self._write(json.dumps({"at": time.time()} | facts) + "\n")


def _samples(root: Path) -> Iterator[dict[str, Any]]:
    for line in (root / "samples.jsonl").read_text().splitlines():
        if line.endswith("}"):  # the last one of an interrupted soak may be cut short
            yield json.loads(line)


def _summary(root: Path, federation: Federation, rounds: int, different: int, heads: int) -> Soaked:
    samples = list(_samples(root))
    kills = [one["killed"] for one in samples if "killed" in one]
    taken = [one for one in samples if "pid" in one]
    second, last = _tenth(taken, rounds, 1), _tenth(taken, rounds, 9)
    names = sorted({one["name"] for one in taken})
    lives = {name: len({one["pid"] for one in taken if one["name"] == name}) for name in names}
    with books(federation) as journal:
        ended = [r.ended for r in journal.rounds(1) if r.state == "closed" and r.ended is not None]
        made = len(journal.versions(1)) - 1
    gaps = [after - before for before, after in itertools.pairwise(ended)]
    sizes = [_size(folder.root / "state.db") for folder in federation.departments.values()]
    return Soaked(
        rounds=rounds,
        versions=made,
        findings=audit(federation, rounds),
        kills=kills,
        restarts=sum(lives.values()) - len(lives),
        different=different,
        heads_changed=heads,
        growth={name: last[name] / second[name] for name in names},
        together=sum(last.values()) / sum(second.values()),
        last=last,
        journal_bytes=_size(federation.coordinator.root / "journal.db"),
        ledger_bytes=statistics.median(sizes),
        seconds_per_round=statistics.median(gaps),
        slowest=max(gaps),
    )


def _tenth(samples: list[dict[str, Any]], rounds: int, number: int) -> dict[str, float]:
    """Median resident memory of every process in a tenth of the rounds, counted from 0."""
    low, high = rounds * number / 10, rounds * (number + 1) / 10
    found: dict[str, list[int]] = defaultdict(list)
    for one in samples:
        if low <= one["version"] < high:
            found[one["name"]].append(one["resident"])
    if not found:
        raise RunStopped(f"no sample was taken from round {low:.0f} to {high:.0f}")
    return {name: statistics.median(values) for name, values in found.items()}


def _size(path: Path) -> int:
    """Bytes of a database with its log."""
    return sum(p.stat().st_size for p in path.parent.glob(f"{path.name}*"))
