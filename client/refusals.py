"""What a department keeps of a request that it refused: that it was refused, and the coordinator's lie, if it was one.

A lie is what the coordinator signed and an honest one would not have; beside it lies what this department accepted
before and the lie contradicts, so that anybody can tell (``common.evidence``).
"""

from __future__ import annotations

import logging
import time
from typing import Any

from commonroot.client.statements import Statement
from commonroot.client.store import DepartmentStore
from commonroot.common import parcel
from commonroot.common.errors import AnotherSurvivorSet, CommonrootError, ResultMismatch, SecondSurvivorSet
from commonroot.common.evidence import TELLING, Exhibit, is_signed, previous_of, round_of, signed_by
from commonroot.common.parcel import Parcel
from commonroot.common.roster import Roster
from commonroot.common.secure_sum.memory import DepartmentMemory
from commonroot.common.secure_sum.primitives import sha256

_log = logging.getLogger(__name__)

#: Requests whose body the signature covers, and that is kept when they are refused.
_SIGNED_BODIES = frozenset({parcel.CHARTER, parcel.INTRODUCE})


def note(
    store: DepartmentStore, memory: DepartmentMemory, roster: Roster, request: Parcel, error: CommonrootError, size: int
) -> None:
    """Evidence: what was refused, by hash, with the code; and whatever of it the coordinator signed, as it came.

    Parameters  memory: of the protocol, as it stands; size: of the refusal, in bytes
    """
    head, public = bytes(request.head), bytes.fromhex(roster.coordinator)
    statement = None
    if is_signed(public, request.kind, head):
        body = bytes(request.body) if request.kind in _SIGNED_BODIES else b""
        statement = Statement(request.kind, head, body, False)
    try:
        store.record(
            "refused",
            {
                "what": request.kind[:32],
                "code": error.code,
                "bytes": size,
                "digest": sha256(head).hex(),
                "kept": error.code in TELLING and _keep_lie(store, memory, public, request, error.code),
            },
            statement=statement,
        )
    except CommonrootError as failure:
        _log.error("the refusal could not be recorded: %s (%s)", failure, failure.code)


def _keep_lie(store: DepartmentStore, memory: DepartmentMemory, public: bytes, request: Parcel, code: str) -> bool:
    """Keep a refused request if the coordinator signed it and it is no mere repeat of one that was accepted."""
    head, kind = bytes(request.head), request.kind
    if not signed_by(public, kind, head) or store.was_accepted(kind, head):
        return False
    if code == AnotherSurvivorSet.code and kind in (parcel.ROUND_OPEN, parcel.TRAIN):
        return False  # closed for good, by an epoch or a restore: the coordinator may ask in good faith
    about: dict[str, Any] = {"round": round_of(kind, head)}
    kinds = [kind]
    if code == AnotherSurvivorSet.code:
        about = {"backbone": backbone_of(memory, round_of(kind, head))}
    elif code == ResultMismatch.code:  # the result contradicts an opening
        about = {"round": previous_of(kind, head)}
    if code in (SecondSurvivorSet.code, AnotherSurvivorSet.code, ResultMismatch.code):  # asked for either way
        kinds = [parcel.OPEN, parcel.CONFIRM]
    found = [(k, one) for k in kinds if (one := store.accepted(k, **about)) is not None]
    against, accepted = found[0] if found else (kind, b"")
    body = sha256(request.body)
    return store.keep_exhibit(Exhibit(time.time(), kind, code, public.hex(), head, body, against, accepted))


def backbone_of(memory: DepartmentMemory, number: int | None) -> str | None:
    """The name of the backbone that this department last masked for, if that was in this round."""
    last = memory.upload
    if last is None or last.round != number:
        return None
    return f"charter {last.charter.hex()} version {last.version}"
