"""``department up``: the resident node, the session and the learner in one process, until told to stop."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from commonroot.client.checking import describe
from commonroot.client.consent import Desk
from commonroot.client.folder import DepartmentFolder
from commonroot.client.learner import DepartmentLearner
from commonroot.client.policy import read_policy
from commonroot.client.retention import prune
from commonroot.client.session import Session
from commonroot.client.standing import carry_out, require_to_stay, watch
from commonroot.client.store import LEAVING, DepartmentStore
from commonroot.client.traffic import Traffic
from commonroot.common.errors import ConfigError
from commonroot.common.roster import Roster
from commonroot.console import event_printer, stop_on_signals

#: How long a leaving daemon waits to be asked for its good-bye, in seconds.
_GOODBYE = 20.0


def open_session(
    folder: DepartmentFolder,
    roster: Roster,
    store: DepartmentStore,
    on_event: Callable[[str, dict[str, Any]], None] = lambda kind, facts: None,
    random: Callable[[int], bytes] = os.urandom,
) -> Session:
    """The session of a folder: what the daemon runs behind a Flower node and a simulation runs in memory."""
    secret = folder.secret()
    return Session(
        roster=roster,
        identity=folder.identity(),
        secret=secret,
        store=store,
        learner=DepartmentLearner(
            folder.root,
            folder.config.name,
            folder.data,
            secret,
            leaves=folder.config.guard.early_exit,
            tells=folder.config.guard.tell_choice,
        ),
        approved=folder.approved,
        random=random,
        on_event=on_event,
        consider=Desk(folder, store, roster, on_event).consider,
        closed_now=lambda: _outside_hours(folder.root),
    )


def _outside_hours(root: Path) -> bool:
    """Do the hours of the policy keep this department from contributing now?"""
    stored = read_policy(root)
    return stored is not None and not stored.policy.open_at(time.time())


def serve(root: Path, *, as_json: bool = False, stop: threading.Event | None = None) -> None:
    """Serve until stopped by a signal (or ``stop``).

    Raises DataError, KeyFileError, ForeignState before anything is sent; WrongAuthority or NodeRefused where the
    coordinator is not the pinned one or does not know this department.
    """
    import torch

    from commonroot.client.node import FlowerNode

    torch.set_num_threads(1)  # departments of one machine must not fight over its cores
    stop = stop or threading.Event()
    stop_on_signals(stop)
    folder = DepartmentFolder(root)
    roster = folder.roster()
    if roster.expires < time.time():
        raise ConfigError("the roster has expired", hint="ask central IT for a new one and `department join` it")
    store = DepartmentStore(root, federation=folder.config.federation, department=folder.config.name, owner=True)
    tell = event_printer(as_json)
    if store.migrated:
        tell("migrated", {"from": store.migrated[0], "to": store.migrated[1]})
    traffic, over = Traffic(store), threading.Event()
    watching = threading.Thread(target=watch, args=(store, over, stop.set), name="commonroot-standing", daemon=True)
    try:
        require_to_stay(folder, store, wait=_GOODBYE)
        let_go = prune(root, folder.config.retention, store.chosen(), dry_run=False, owner=True)
        if let_go["paths"]:
            tell("pruned", {"paths": len(let_go["paths"]), "bytes": let_go["bytes"]})
        session = open_session(folder, roster, store, tell)
        describe(folder.data, root)  # a table that cannot be read is said here and now, and not in a log later
        tell("up", {"department": folder.config.name, "coordinator": folder.config.coordinator})
        node = FlowerNode(
            folder.config.coordinator,
            folder.ca,
            folder.node_key,
            on_state=lambda state: tell("link", {"state": state}),
            on_sent=traffic.count,
        )
        watching.start()
        node.serve(session.handle, stop)
        if store.standing() == LEAVING:
            carry_out(folder, store, wait=_GOODBYE, on_event=tell)
    finally:
        over.set()
        if watching.is_alive():
            watching.join()
        traffic.flush()
        store.close()
    tell("down", {})
