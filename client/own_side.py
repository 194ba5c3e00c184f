"""Which backbone of a broadcast is a department's own, and what it remembers of the split that decides it.

A direction is taken once.  What was received first stays beside the head, so that neither a restart nor a coordinator
with a better question gets a second answer out of the same rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from commonroot.common.charter import Draft
from commonroot.common.errors import OutsideCharter
from commonroot.strategies.base import Strategy, Tensors
from commonroot.strategies.clustered import Clustered
from commonroot.strategies.two_sum import CENTRE, DIRECTION, MEMBERS, STAGE, stage_of

#: Names beside the head that are not of the network.
SPLIT: Final = "split/"


def own_backbone(draft: Draft, strategy: Strategy, received: Tensors, kept: Mapping[str, NDArray[Any]]) -> Tensors:
    """What the department trains, fine-tunes and keeps; the broadcast itself where there is one backbone for all.

    kept  what ``seen_split`` gave in the round before

    Raises OutsideCharter where the split is another one than the department has seen.
    """
    if not isinstance(strategy, Clustered):
        return received
    if strategy.signed and STAGE in kept:
        before = int(np.ravel(kept[STAGE])[0])
        taken = ((DIRECTION, CENTRE) if before >= 1 else ()) + ((MEMBERS,) if before >= 2 else ())
        if stage_of(received) < before or any((received[name] != kept[name]).any() for name in taken):
            raise OutsideCharter("the split of departments is another one than this department has seen before")
    return strategy.own(draft, received)


def seen_split(strategy: Strategy, received: Tensors) -> dict[str, NDArray[np.float32]]:
    """To keep until the next round; never leaves."""
    if not isinstance(strategy, Clustered) or not strategy.signed or stage_of(received) == 0:
        return {}
    return {name: np.asarray(received[name]) for name in (STAGE, DIRECTION, CENTRE, MEMBERS)}


def side_of(draft: Draft, strategy: Strategy, received: Tensors) -> dict[str, Any]:
    """For the department's own report: its side of the split, and whether it trained the second backbone."""
    if not isinstance(strategy, Clustered):
        return {}
    second = strategy.trains_second(draft, received)
    return {"side": strategy.side(received), "backbone": "second" if second else "first"}
