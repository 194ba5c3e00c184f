"""Pausing, resuming, and leaving for good: what a department may always do, whatever the coordinator thinks of it.

Leaving has four steps, each durable before the next, so that a crash between any two is finished by the next start:

1. the store says ``leaving``                  from here on nothing is contributed, by whichever process
2. a signed good-bye, if the coordinator asks  a courtesy; it may be lost, and leaving goes on without it
3. the store says ``left``                     in one commit with the erasure of the epoch's keys, masks and uploads
4. key files are overwritten and removed       agreement and node key; repeated at every later look until they are gone

What stays is the department's: identity (it signs the ledger), ledger, charters, heads, predictors, report.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any, Final

from commonroot.client.folder import DepartmentFolder
from commonroot.client.store import ACTIVE, LEAVING, LEFT, PAUSED, DepartmentStore
from commonroot.common import parcel
from commonroot.common.errors import CommonrootError, ConfigError, HasLeft
from commonroot.common.ledger import owner_of_ledger
from commonroot.common.parcel import Parcel
from commonroot.files import erase
from commonroot.logs import Tell

#: Keys of the epoch and of the link; the identity stays, for the ledger is signed with it.
KEYS_OF_THE_LINK: Final = ("agreement.key", "node.key", "node.key.session", "node.key.next")
#: How often a daemon looks whether its people want it to leave, in seconds.
_LOOK: Final = 1.0


def pause(folder: DepartmentFolder) -> None:
    """Contribute nothing until ``resume``; the daemon goes on running, and sees it at once.  Raises HasLeft."""
    _set(folder, PAUSED)


def resume(folder: DepartmentFolder) -> None:
    """Take part again.  Raises HasLeft."""
    _set(folder, ACTIVE)


def standing_of(folder: DepartmentFolder) -> str:
    """``active``, ``paused``, ``leaving`` or ``left``."""
    store = _open(folder)
    try:
        return store.standing()
    finally:
        store.close()


def leave(
    folder: DepartmentFolder,
    *,
    wait: float,
    daemon: float = 60.0,
    on_event: Tell = lambda kind, facts: None,
) -> dict[str, Any]:
    """Leave for good; whatever was begun before is finished.

    Parameters  wait: seconds to be asked for the good-bye in; daemon: seconds for a running daemon to end
    Returns     ``goodbye``: whether the coordinator has taken it; ``head``: of the last signed ledger, its entries
    Raises      ConfigError where a daemon goes on running: it will leave by itself, or the command is given again
    """
    store = _open(folder)
    try:
        if store.standing() in (ACTIVE, PAUSED):
            store.set_standing(LEAVING)
    finally:
        store.close()
    owned = _take_over(folder, daemon)
    try:
        said = carry_out(folder, owned, wait=wait, on_event=on_event)
        head = owned.newest_head(_owner(folder))
        return {"goodbye": said, "entries": head.entries if head else 0}
    finally:
        owned.close()


def carry_out(
    folder: DepartmentFolder,
    store: DepartmentStore,
    *,
    wait: float,
    on_event: Tell = lambda kind, facts: None,
) -> bool:
    """Steps 2 to 4, from wherever they stand.  ``store`` is the owner's.  Returns whether a good-bye was sent, ever."""
    said = _has_said(store)
    if store.standing() == LEAVING:
        said = _say_goodbye(folder, store, wait, on_event)
        store.set_standing(LEFT)
        store.checkpoint(_owner(folder), folder.identity())
    for name in KEYS_OF_THE_LINK:
        erase(folder.root / "keys" / name)
    on_event("left", {"goodbye": said})
    return said


def require_to_stay(folder: DepartmentFolder, store: DepartmentStore, *, wait: float) -> None:
    """At a daemon's start: finish a leaving that was begun, and raise HasLeft once it is."""
    if store.standing() in (LEAVING, LEFT):
        carry_out(folder, store, wait=wait)
        raise HasLeft("this department has left the federation; its daemon has nothing to do")


def watch(store: DepartmentStore, stop: threading.Event, leaves: Callable[[], None]) -> None:
    """Look until ``stop`` whether the department is to leave, and then call ``leaves``.  For a thread of its own."""
    while not stop.wait(_LOOK):
        try:
            if store.standing() == LEAVING:
                leaves()
                return
        except CommonrootError:
            continue  # a full or locked disk for a moment; requests look for themselves


def _has_said(store: DepartmentStore) -> bool:
    return any(e.kind == "sent" and e.facts.get("what") == parcel.GOODBYE for e in store.ledger())


def _say_goodbye(folder: DepartmentFolder, store: DepartmentStore, wait: float, on_event: Tell) -> bool:
    """Come to the hub anew, be asked something, and answer with the good-bye.  Never raises: it is a courtesy."""
    if _has_said(store):
        return True  # the daemon said it before it ended
    if wait <= 0 or store.newest_epoch() is None or not folder.node_key.is_file():
        return False
    from commonroot.client.daemon import open_session
    from commonroot.client.node import FlowerNode

    said, stop = threading.Event(), threading.Event()
    timer = threading.Timer(wait, stop.set)
    timer.daemon = True
    try:
        session = open_session(folder, folder.roster(), store)

        def handle(request: Parcel) -> Parcel:
            reply = session.handle(request)
            if reply.kind == parcel.GOODBYE:
                said.set()
                threading.Timer(1.0, stop.set).start()  # the reply leaves after this returns
            return reply

        node = FlowerNode(folder.config.coordinator, folder.ca, folder.node_key, patience=wait)
        timer.start()
        node.serve(handle, stop)
    except (CommonrootError, OSError) as error:
        on_event("no-goodbye", {"why": type(error).__name__})
    finally:
        timer.cancel()
    return said.is_set()


def _take_over(folder: DepartmentFolder, seconds: float) -> DepartmentStore:
    """The store as its owner, once a running daemon has seen that it is to leave and ended."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            return _open(folder, owner=True)
        except ConfigError as error:
            if time.monotonic() >= deadline:
                raise ConfigError(
                    f"{folder.root} is marked as leaving, and its daemon is still busy",
                    hint="nothing is contributed any more; stop the daemon and give the command again",
                ) from error
            time.sleep(0.2)


def _set(folder: DepartmentFolder, standing: str) -> None:
    store = _open(folder)
    try:
        store.set_standing(standing)
    finally:
        store.close()


def _open(folder: DepartmentFolder, *, owner: bool = False) -> DepartmentStore:
    config = folder.config
    return DepartmentStore(folder.root, federation=config.federation, department=config.name, owner=owner)


def _owner(folder: DepartmentFolder) -> str:
    return owner_of_ledger(folder.config.federation, folder.config.name)
