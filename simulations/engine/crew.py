"""A share of the departments: each is woken, trains on the broadcast, and its words are added to one sum.

A department that waits is a name, the section that describes its data, and a state on disk.  Awake it holds its encoded
rows too, and it stays awake as long as the crew's memory allows, so that small worlds read their tables once.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from commonroot.client import contribution
from commonroot.client.contribution import Tensors
from commonroot.client.data import DataConfig
from commonroot.common.charter import Charter
from commonroot.common.errors import CommonrootError, ConfigError, DataError, DeviceFailed, StorageFull
from commonroot.common.secure_sum.codec import Bounds
from commonroot.common.secure_sum.lanes import Words, Words64
from commonroot.simulations.behaviour.learners import learner_for
from commonroot.simulations.behaviour.misbehaving import Act, Learns
from commonroot.simulations.engine.sums import Adder
from commonroot.simulations.founding import training_secret

_log = logging.getLogger(__name__)

#: Bytes that a learner takes beside its rows: features, task, and what belongs to them.
_LEARNER: Final = 64 * 1024

#: Called with a department's name and an error's code, when its training failed and zeros were added.
OnAbstained = Callable[[str, str], None]


@dataclass(frozen=True, slots=True)
class Seat:
    """A department that waits.

    folder  where it keeps its splits, models and report
    acts    what it does to its contributions that it should not
    """

    name: str
    data: DataConfig
    folder: Path
    acts: tuple[Act, ...] = ()


class Keeps(Protocol):
    """Where private states lie while departments wait, by department number: ``pages``, or files of their own."""

    def before(self, department: int, version: int) -> dict[str, NDArray[Any]] | None:
        """The newest state that was put under a version below this one; None before the first."""

    def put(self, department: int, version: int, state: Mapping[str, NDArray[Any]]) -> None:
        """Keep what a department has after a round on this version; again where the round is tried again."""


class Crew:
    """Departments by their number in the federation.

    memory  bytes of encoded rows that may stay awake; one department always may
    """

    def __init__(
        self,
        charter: Charter,
        seats: Sequence[Seat],
        states: Keeps,
        *,
        seed: int,
        memory: int,
        alone: Path | None = None,
        on_abstained: OnAbstained = lambda name, code: None,
    ) -> None:
        self._charter = charter
        self._seats = seats
        self._states = states
        self._seed = seed
        self._memory = memory
        self._alone = alone
        self._on_abstained = on_abstained
        self._awake: OrderedDict[int, tuple[Learns, int]] = OrderedDict()
        self._held = 0

    def check(self, number: int) -> str | None:
        """Wake a department and hold its data against the charter: everything that is wrong, or None."""
        try:
            self._wake(number).check(self._charter)
        except (ConfigError, DataError) as error:
            return str(error)
        return None

    def train(
        self,
        who: Sequence[int],
        counted: frozenset[int],
        received: Tensors,
        version: int,
        bounds: Bounds,
        adder: Adder,
        *,
        on_trained: Callable[[], None] = lambda: None,
    ) -> tuple[Words, Words64]:
        """Let these departments train, and add up the words of those that are counted; the others' are lost.

        Raises DataError where a method that must not abstain fails.
        """
        bulk, exact = adder.codec.layout.empty()
        bulk[:], exact[:] = 0, 0
        for number in who:
            seat = self._seats[number]

            def failed(error: Exception, name: str = seat.name) -> str:
                if isinstance(error, StorageFull | DeviceFailed):
                    raise error
                code = error.code if isinstance(error, CommonrootError) else type(error).__name__
                self._on_abstained(name, code)
                return code

            learner = self._wake(number)
            local = self._states.before(number, version)
            trained = contribution.train(learner, self._charter, received, version, local, failed)
            self._states.put(number, version, trained.local)
            if number in counted:
                words, words64 = adder.encode(
                    version, trained.terms, bounds, secret=training_secret(self._seed, seat.name), on_failure=failed
                )
                np.add(bulk, words, out=bulk)
                np.add(exact, words64, out=exact)
            on_trained()
        return bulk, exact

    def finish(self, number: int, received: Tensors, version: int) -> None:
        """A department's last step: fine-tune, choose, store, report.  Again after a kill gives the same."""
        learner = self._wake(number)
        learner.finish(self._charter, received, version, self._states.before(number, version))

    def _wake(self, number: int) -> Learns:
        if number in self._awake:
            self._awake.move_to_end(number)
            return self._awake[number][0]
        seat = self._seats[number]
        if self._awake and self._held >= self._memory:
            self._let_go()  # before the next one is read
        secret = training_secret(self._seed, seat.name)
        learner = learner_for(
            seat.name, seat.acts, lambda kind: kind(seat.folder, seat.name, seat.data, secret, memory=self._alone)
        )
        size = _LEARNER + learner.rows_bytes(self._charter)
        self._awake[number] = (learner, size)
        self._held += size
        while self._held > self._memory and len(self._awake) > 1:
            self._let_go()
        return learner

    def _let_go(self) -> None:
        _, (_, size) = self._awake.popitem(last=False)
        self._held -= size
