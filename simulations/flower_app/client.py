"""The ClientApp: what some departments do in a round, in whichever of Flower's workers gets the message.

A worker remembers nothing that matters: which departments are meant stands in the message, rows are read again where
they are not in memory, and private states are files (``states``).  So the result is the same for any number of workers
and of Flower's nodes.

    ask    ConfigRecord: plan, who, and of a round: counted, version, cohort;  ArrayRecord: broadcast, bounds
    told   ConfigRecord: wrong, abstained, or failed with a code and why;      ArrayRecord: words, the share's sum
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, cast

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

from commonroot.client import contribution
from commonroot.client.contribution import Tensors
from commonroot.common.errors import CommonrootError, ConfigError, DataError, StorageFull
from commonroot.common.manifest import unflatten
from commonroot.simulations.behaviour.cast import acts_of, parts_of
from commonroot.simulations.behaviour.learners import learner_for
from commonroot.simulations.behaviour.misbehaving import Learns
from commonroot.simulations.engine.plan import Plan
from commonroot.simulations.engine.sums import Adder
from commonroot.simulations.flower_app.states import States
from commonroot.simulations.founding import training_secret

#: Bytes of encoded rows that a worker keeps, so that small worlds are read once; one department always may.
ROWS: Final = 1 << 30
#: Bytes that a learner takes beside its rows.
_LEARNER: Final = 64 * 1024
#: Of a plan's folder: where private states lie.
STATES: Final = "states"

ASK, BROADCAST, BOUNDS, TOLD, WORDS = "ask", "broadcast", "bounds", "told", "words"
#: What is asked, in Flower's terms a category and an action.
CHECK, TRAIN, FINISH = "query.check", "train.share", "train.finish"

app = ClientApp()


class _Home:
    """One simulation, as this worker process knows it."""

    def __init__(self, root: Path) -> None:
        # as everywhere in a simulation: the result depends on it, and there is a worker a core
        torch.set_num_threads(1)
        self.root = root
        self.plan = Plan.read(root)
        self.names = list(self.plan.departments)
        self.states = States(root / STATES)
        self._parts = parts_of(self.plan.behaviour, tuple(self.names), self.plan.seed)
        self._awake: OrderedDict[int, tuple[Learns, int]] = OrderedDict()
        self._held = 0

    def secret(self, number: int) -> bytes:
        return training_secret(self.plan.seed, self.names[number])

    def wake(self, number: int) -> Learns:
        if number in self._awake:
            self._awake.move_to_end(number)
            return self._awake[number][0]
        name, plan, secret = self.names[number], self.plan, self.secret(number)
        learner = learner_for(
            name,
            acts_of(self._parts, name),
            lambda kind: kind(plan.folder(name), name, plan.departments[name], secret, memory=plan.alone),
        )
        size = _LEARNER + learner.rows_bytes(self.plan.charter)
        self._awake[number] = (learner, size)
        self._held += size
        while self._held > ROWS and len(self._awake) > 1:
            _, (_, gone) = self._awake.popitem(last=False)
            self._held -= gone
        return learner


#: The newest one; a worker has one simulation at a time.
_home: list[_Home] = []


def _home_of(root: Path) -> _Home:
    if not _home or _home[0].root != root:
        _home[:] = [_Home(root)]
    return _home[0]


def _answer(message: Message, work: Callable[[_Home, ConfigRecord, Message], RecordDict]) -> Message:
    """Do it; an error of ours goes back as what it says, and any other is for Flower to tell."""
    ask = message.content.config_records[ASK]
    try:
        content = work(_home_of(Path(str(ask["plan"]))), ask, message)
    except CommonrootError as error:
        content = RecordDict({TOLD: ConfigRecord({"failed": error.code, "why": str(error)})})
    return Message(content, reply_to=message)


def _numbers(ask: ConfigRecord, key: str) -> list[int]:
    return cast(list[int], ask[key])


def _received(home: _Home, message: Message) -> Tensors:
    return unflatten(message.content.array_records[BROADCAST][BROADCAST].data, home.plan.charter.broadcast)


@app.query("check")
def check(message: Message, context: Context) -> Message:
    """Hold departments' data against the charter: what is wrong with each, or an empty text."""

    def work(home: _Home, ask: ConfigRecord, message: Message) -> RecordDict:
        return RecordDict({TOLD: ConfigRecord({"wrong": [_wrong(home, number) for number in _numbers(ask, "who")]})})

    return _answer(message, work)


def _wrong(home: _Home, number: int) -> str:
    try:
        home.wake(number).check(home.plan.charter)
    except (ConfigError, DataError) as error:
        return str(error)
    return ""


@app.train("share")
def share(message: Message, context: Context) -> Message:
    """Let departments train, and add up the words of those that are counted; see ``engine.crew.Crew.train``."""
    return _answer(message, _share)


def _share(home: _Home, ask: ConfigRecord, message: Message) -> RecordDict:
    plan, version, counted = home.plan, int(cast(int, ask["version"])), frozenset(_numbers(ask, "counted"))
    received = _received(home, message)
    bounds = np.frombuffer(message.content.array_records[BROADCAST][BOUNDS].data, dtype="<f4")
    adder = Adder(plan.charter, plan.sum, enrolled=len(plan.departments), departments=int(cast(int, ask["cohort"])))
    bulk, exact = adder.codec.layout.empty()
    bulk[:], exact[:] = 0, 0
    abstained: list[str] = []
    for number in _numbers(ask, "who"):
        name = home.names[number]

        def failed(error: Exception, name: str = name) -> str:
            if isinstance(error, StorageFull):
                raise error
            code = error.code if isinstance(error, CommonrootError) else type(error).__name__
            abstained.append(f"{name} {code}")
            return code

        local = home.states.before(number, version)
        trained = contribution.train(home.wake(number), plan.charter, received, version, local, failed)
        home.states.put(number, version, trained.local)
        if number in counted:
            words, words64 = adder.encode(version, trained.terms, bounds, secret=home.secret(number), on_failure=failed)
            np.add(bulk, words, out=bulk)
            np.add(exact, words64, out=exact)
    sum_ = bulk.tobytes() + exact.tobytes()
    return RecordDict({TOLD: ConfigRecord({"abstained": abstained}), WORDS: ArrayRecord({WORDS: flat(sum_)})})


@app.train("finish")
def finish(message: Message, context: Context) -> Message:
    """Departments' last step: fine-tune, choose, store, report.  Again after a kill gives the same."""

    def work(home: _Home, ask: ConfigRecord, message: Message) -> RecordDict:
        version, received = int(cast(int, ask["version"])), _received(home, message)
        for number in _numbers(ask, "who"):
            local = home.states.before(number, version)
            home.wake(number).finish(home.plan.charter, received, version, local)
        return RecordDict({TOLD: ConfigRecord({})})

    return _answer(message, work)


def flat(data: bytes) -> Array:
    """Bytes as one array of Flower's, as they are."""
    return Array(dtype="uint8", shape=(len(data),), stype="bytes", data=data)


def share_of(ask: dict[str, Any], arrays: dict[str, bytes] | None) -> RecordDict:
    """What is asked of a share of departments."""
    content = RecordDict({ASK: ConfigRecord(ask)})
    if arrays is not None:
        content[BROADCAST] = ArrayRecord({name: flat(data) for name, data in arrays.items()})
    return content
