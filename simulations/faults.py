"""The demo's bad day: a department's daemon and the coordinator are killed mid-round and started again."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from commonroot.client.store import DepartmentStore
from commonroot.common.secure_sum.primitives import sha256
from commonroot.server.journal_rows import Round
from commonroot.simulations.founding import Federation
from commonroot.simulations.processes import Processes

#: Seconds between a kill and the restart.
_DOWN = 1.0


@dataclass
class _Strike:
    """One planned kill: who, from which version on, and in which state of a round."""

    who: str
    version: int
    state: str
    restart_at: float = 0.0
    struck: int | None = None
    back: bool = False


class FaultScript:
    """Kills with SIGKILL when a round is in the state it waits for, restarts a second later, and keeps the evidence."""

    def __init__(self, federation: Federation, rounds: int) -> None:
        self._federation = federation
        victim = list(federation.departments)[1]
        self._strikes = [
            _Strike(victim, max(1, rounds // 4), "open"),
            _Strike("coordinator", max(2, rounds // 2), "open"),
        ]
        self._heads_before: dict[int, str] = {}
        self._heads_after: dict[int, str] = {}
        self._victim = victim

    def look(self, rounds: Sequence[Round], running: Processes) -> None:
        """Strike or restart, if it is time."""
        now = time.monotonic()
        for strike in self._strikes:
            if strike.struck is None:
                last = rounds[-1] if rounds else None
                if last is not None and last.version >= strike.version and last.state == strike.state:
                    if strike.who == self._victim:
                        self._heads_before = self._heads()
                    running.kill(strike.who)
                    strike.struck, strike.restart_at = last.round, now + _DOWN
                return
            if not strike.back:
                if now >= strike.restart_at:
                    if strike.who == self._victim:
                        self._heads_after = self._heads()
                    self._restart(strike.who, running)
                    strike.back = True
                return

    def verdict(self) -> dict[str, Any]:
        """What happened, for the report: who was killed when, and whether anything was lost or counted twice."""
        journal = self._federation.coordinator.journal()
        try:
            rounds = journal.rounds()
        finally:
            journal.close()
        made = [r.version for r in rounds if r.state == "closed"]
        newest = max(self._heads_before, default=-1)
        intact = all(
            self._heads_after.get(version) == digest
            for version, digest in self._heads_before.items()
            if version in self._heads_after or version == newest
        )
        return {
            "killed": [{"who": s.who, "in_round": s.struck, "restarted": s.back} for s in self._strikes],
            "rounds_counted_twice": len(made) - len(set(made)),
            "heads_intact": intact and bool(self._heads_before),
            "told": [
                f"{s.who} was killed (SIGKILL) in round {s.struck} and started again {_DOWN:.0f} s later"
                if s.struck is not None
                else f"{s.who} was to be killed, but the run was over before"
                for s in self._strikes
            ],
        }

    def _heads(self) -> dict[int, str]:
        """The victim's stored heads as they lie on its disk: version → hash of all its tensors."""
        folder = self._federation.departments[self._victim]
        store = DepartmentStore(folder.root, federation=folder.config.federation, department=folder.config.name)
        try:
            charter = self._federation.charter.charter.digest.hex()
            found = {}
            for version in store.head_versions(charter):
                head = store.head_before(charter, version + 1)
                if head is not None:
                    found[version] = sha256(*(head[name].tobytes() for name in sorted(head))).hex()
            return found
        finally:
            store.close()

    def _restart(self, who: str, running: Processes) -> None:
        if who == "coordinator":
            running.start_coordinator(self._federation.coordinator.root)
        else:
            running.start_department(who, self._federation.departments[who].root)
