"""``department up``: the resident node, the session and the learner in one process, until told to stop."""

from __future__ import annotations

import math
import os
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from commonroot.client.checking import describe
from commonroot.client.consent import Desk
from commonroot.client.enrol_follow import WAITING, Membership
from commonroot.client.folder import DepartmentFolder
from commonroot.client.learner import DepartmentLearner
from commonroot.client.policy import read_policy
from commonroot.client.retention import prune
from commonroot.client.session import Session
from commonroot.client.standing import carry_out, require_to_stay, watch
from commonroot.client.store import LEAVING, LEFT, DepartmentStore
from commonroot.client.traffic import Traffic
from commonroot.common import parcel
from commonroot.common.errors import ConfigError, Unreachable
from commonroot.common.roster import Roster
from commonroot.console import event_printer, stop_on_signals

#: Told of what happens, by a word and its facts.
Tell = Callable[[str, dict[str, Any]], None]
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
    """Serve until stopped by a signal (or ``stop``), under one roster after another (``enrol_follow``).

    Raises DataError, KeyFileError, ForeignState before anything is sent; WrongAuthority or NodeRefused where the
    coordinator is not the pinned one or does not know this department.
    """
    import torch

    torch.set_num_threads(1)  # departments of one machine must not fight over its cores
    stop = stop or threading.Event()
    stop_on_signals(stop)
    folder = DepartmentFolder(root)
    tell = event_printer(as_json)
    membership = Membership(root, tell, stop)
    roster = _first_roster(folder, membership, stop)
    if roster is None:
        tell("down", {})
        return
    followed = False
    with membership:
        while True:
            gone = _serve_epoch(folder, roster, tell, membership, stop, patient=followed)
            if gone or stop.is_set():
                break
            if membership.join_offered():
                folder, followed = DepartmentFolder(root), True
                roster = folder.roster()
    tell("down", {})


def _serve_epoch(
    folder: DepartmentFolder, roster: Roster, tell: Tell, membership: Membership, stop: threading.Event, *, patient: bool
) -> bool:
    """Serve under one roster, until ``membership.over``; True once this department has left for good.

    patient  nobody is watching: wait for a hub that does not let this node in yet
    """
    from commonroot.client.node import FlowerNode

    def listen(kind: str, facts: dict[str, Any]) -> None:
        tell(kind, facts)
        if kind == "refused" and facts.get("request") in (parcel.GREET, parcel.INTRODUCE):
            membership.nudge()

    def end() -> None:
        stop.set()
        membership.over.set()

    config = folder.config
    store = DepartmentStore(folder.root, federation=config.federation, department=config.name, owner=True)
    with ExitStack() as undo:
        undo.callback(store.close)
        if store.migrated:
            tell("migrated", {"from": store.migrated[0], "to": store.migrated[1]})
        require_to_stay(folder, store, wait=_GOODBYE)
        let_go = prune(folder.root, config.retention, store.chosen(), dry_run=False, owner=True)
        if let_go["paths"]:
            tell("pruned", {"paths": len(let_go["paths"]), "bytes": let_go["bytes"]})
        session = open_session(folder, roster, store, listen)
        if not patient:
            describe(folder.data, folder.root)  # a table that cannot be read is said here and now, not in a log later
            tell("up", {"department": config.name, "coordinator": config.coordinator})
        traffic, over = Traffic(store), threading.Event()
        undo.callback(traffic.flush)
        watching = threading.Thread(target=watch, args=(store, over, end), name="commonroot-standing", daemon=True)
        watching.start()
        undo.callback(watching.join)
        undo.callback(over.set)
        node = FlowerNode(
            config.coordinator,
            folder.ca,
            folder.node_key,
            on_state=lambda state: tell("link", {"state": state}),
            on_sent=traffic.count,
            **({"patience": math.inf} if patient else {}),
        )
        node.serve(session.handle, membership.over)
        if store.standing() == LEAVING:
            carry_out(folder, store, wait=_GOODBYE, on_event=tell)
        return store.standing() == LEFT


def _first_roster(folder: DepartmentFolder, membership: Membership, stop: threading.Event) -> Roster | None:
    """The roster to begin with, waited for where this department has applied and none lists it yet; None once stopped.

    Raises ConfigError for one that has expired, KeyFileError where none was joined and nothing was applied for.
    """
    while True:
        membership.join_offered()
        joined = (folder.root / "roster.json").is_file()
        roster = folder.roster() if joined or folder.application() is None else None
        if roster is not None and roster.expires >= time.time():
            return roster
        expired = ConfigError(
            "the roster has expired", hint="ask central IT for a new one, which the daemon or `department join` takes"
        )
        try:
            membership.look()
        except Unreachable as error:
            if roster is not None:
                raise expired from error
            membership.say_once("waiting", {"for": str(error)})
        if not membership.over.is_set():
            if roster is not None and not folder.config.roster.follow:
                raise expired
            if stop.wait(WAITING):
                return None
