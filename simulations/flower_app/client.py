"""The ClientApp: what some departments do in a round, in whichever of Flower's workers gets the message.

A worker remembers nothing that matters: which departments are meant stands in the message, rows are read again where
they are not in memory, and private states are files (``states``).  So the result is the same for any number of workers
and of Flower's nodes.

    ask    ConfigRecord: plan, who, and of a round: counted, version, cohort;  ArrayRecord: broadcast, bounds
    told   ConfigRecord: wrong, abstained, or failed with a code and why;      ArrayRecord: words, the share's sum
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, cast

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

from commonroot.client.contribution import Tensors
from commonroot.common.errors import CommonrootError
from commonroot.common.manifest import unflatten
from commonroot.simulations.engine.plan import Plan
from commonroot.simulations.engine.sums import Adder
from commonroot.simulations.flower_app.states import States

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
        self.abstained: list[str] = []
        self.crew = self.plan.crew(
            States(root / STATES),
            memory=ROWS,
            on_abstained=lambda name, code: self.abstained.append(f"{name} {code}"),
        )


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
        wrong = [home.crew.check(number) or "" for number in _numbers(ask, "who")]
        return RecordDict({TOLD: ConfigRecord({"wrong": wrong})})

    return _answer(message, work)


@app.train("share")
def share(message: Message, context: Context) -> Message:
    """Let departments train, and add up the words of those that are counted; see ``engine.crew.Crew.train``."""
    return _answer(message, _share)


def _share(home: _Home, ask: ConfigRecord, message: Message) -> RecordDict:
    plan, version = home.plan, int(cast(int, ask["version"]))
    bounds = np.frombuffer(message.content.array_records[BROADCAST][BOUNDS].data, dtype="<f4")
    adder = Adder(plan.charter, plan.sum, enrolled=len(plan.departments), departments=int(cast(int, ask["cohort"])))
    home.abstained.clear()
    bulk, exact = home.crew.train(
        _numbers(ask, "who"),
        frozenset(_numbers(ask, "counted")),
        _received(home, message),
        version,
        bounds,
        adder,
    )
    told = ConfigRecord({"abstained": list(home.abstained)})
    return RecordDict({TOLD: told, WORDS: ArrayRecord({WORDS: flat(bulk.tobytes() + exact.tobytes())})})


@app.train("finish")
def finish(message: Message, context: Context) -> Message:
    """Departments' last step: fine-tune, choose, store, report.  Again after a kill gives the same."""

    def work(home: _Home, ask: ConfigRecord, message: Message) -> RecordDict:
        version, received = int(cast(int, ask["version"])), _received(home, message)
        for number in _numbers(ask, "who"):
            home.crew.finish(number, received, version)
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
