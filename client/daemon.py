"""``department up``: the resident node, the session and the learner in one process, until told to stop.

The node comes first and the learner after it (``learner_in_waiting``): a daemon that was killed is back on the hub
before its libraries are loaded and its table is read.  Rosters follow each other (``enrol_follow``), each with a
session and a node of its own.
"""

from __future__ import annotations

import math
import os
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from commonroot.client.consent import Desk
from commonroot.client.enrol_follow import WAITING, Membership
from commonroot.client.folder import DepartmentFolder
from commonroot.client.learner_in_waiting import LearnerInWaiting
from commonroot.client.policy import read_policy
from commonroot.client.retention import prune
from commonroot.client.session import Learner, OnLosses, Session
from commonroot.client.standing import carry_out, require_to_stay, watch
from commonroot.client.store import LEAVING, DepartmentStore
from commonroot.client.traffic import Traffic
from commonroot.common import parcel
from commonroot.common.errors import ConfigError, Unreachable
from commonroot.common.roster import Roster
from commonroot.console import stop_on_signals
from commonroot.logs import LogOptions, Tell, telling

#: How long a leaving daemon waits to be asked for its good-bye, in seconds.
_GOODBYE = 20.0

#: How long a daemon that is told to stop while it still loads waits for that to end, in seconds.
_LOADING = 10.0

if TYPE_CHECKING:
    from commonroot.client.terminal import Terminal


def _unseen(version: int, losses: dict[str, float]) -> None:
    """Nobody looks at this department's losses."""


def open_session(
    folder: DepartmentFolder,
    roster: Roster,
    store: DepartmentStore,
    on_event: Tell = lambda kind, facts: None,
    random: Callable[[int], bytes] = os.urandom,
    learner: Learner | None = None,
    on_losses: OnLosses = _unseen,
) -> Session:
    """The session of a folder: what the daemon runs behind a Flower node and a simulation runs in memory."""
    return Session(
        roster=roster,
        identity=folder.identity(),
        secret=folder.secret(),
        store=store,
        learner=learner or learner_of(folder),
        approved=folder.approved,
        random=random,
        on_event=on_event,
        consider=Desk(folder, store, roster, on_event).consider,
        closed_now=lambda: _outside_hours(folder.root),
        on_losses=on_losses,
    )


def learner_of(folder: DepartmentFolder) -> Learner:
    """The learner of a folder: its rows, its head, its models."""
    from commonroot.client.learner import DepartmentLearner

    return DepartmentLearner(
        folder.root,
        folder.config.name,
        folder.data,
        folder.secret(),
        leaves=folder.config.guard.early_exit,
        tells=folder.config.guard.tell_choice,
    )


def _outside_hours(root: Path) -> bool:
    """Do the hours of the policy keep this department from contributing now?"""
    stored = read_policy(root)
    return stored is not None and not stored.policy.open_at(time.time())


def serve(
    root: Path,
    *,
    as_json: bool = False,
    log: LogOptions | None = None,
    view: bool = False,
    stop: threading.Event | None = None,
) -> None:
    """Serve until stopped by a signal (or ``stop``), under one roster after another.

    Parameters  as_json: short for ``log=LogOptions("json")``; view: show a picture of what goes on instead of lines
    Raises      KeyFileError, ForeignState before anything is sent; WrongAuthority or NodeRefused where the coordinator
                is not the pinned one or does not know this department; HasLeft; DataError soon after, where the table
                cannot be read, and ConfigError, where the device is not here
    """
    stop = stop or threading.Event()
    stop_on_signals(stop)
    folder = DepartmentFolder(root)
    folder.data  # noqa: B018 - said here and now where it is missing
    with ExitStack() as undo:
        device = undo.enter_context(ExitStack())
        terminal = _terminal(folder, undo) if view else None
        tell = undo.enter_context(telling(log or LogOptions("json" if as_json else "text"), view=terminal))
        seen = _unseen if terminal is None else terminal.losses
        membership = Membership(root, tell, stop)

        def end() -> None:
            stop.set()
            membership.over.set()

        learner = LearnerInWaiting(lambda: _loaded(folder, tell, device), on_failure=end)
        roster = _first_roster(folder, membership, stop)
        followed = False
        undo.enter_context(membership)
        while roster is not None and not stop.is_set():
            _serve_epoch(folder, roster, learner, tell, membership, end, on_losses=seen, patient=followed)
            if stop.is_set():
                learner.settle(_LOADING)
            if learner.failure is not None:
                raise learner.failure
            if not stop.is_set() and membership.join_offered():
                folder, followed = DepartmentFolder(root), True
                roster = folder.roster()
        tell("down", {})


def _serve_epoch(
    folder: DepartmentFolder,
    roster: Roster,
    learner: LearnerInWaiting,
    tell: Tell,
    membership: Membership,
    end: Callable[[], None],
    *,
    on_losses: OnLosses,
    patient: bool,
) -> None:
    """Serve under one roster, until ``membership.over``.

    end        ends the daemon, once this department has left for good
    on_losses  told this department's own losses; they go nowhere else
    patient    nobody is watching: wait for a hub that does not let this node in yet
    """
    from commonroot.client.node import FlowerNode
    from commonroot.client.node_calls import LEFT

    def listen(kind: str, facts: dict[str, Any]) -> None:
        tell(kind, facts)
        if kind == "refused" and facts.get("request") in (parcel.GREET, parcel.INTRODUCE):
            membership.nudge()

    def linked(state: str) -> None:
        tell("link", {"state": state})
        if state != LEFT:
            learner.begin()

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
        session = open_session(folder, roster, store, listen, learner=learner, on_losses=on_losses)
        if not patient:
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
            on_state=linked,
            on_trouble=lambda error: tell("trouble", error.describe()),
            on_sent=traffic.count,
            patience=math.inf if patient else config.waits.first,
            give_up=config.waits.give_up,
        )
        node.serve(session.handle, membership.over)
        if store.standing() == LEAVING:
            carry_out(folder, store, wait=_GOODBYE, on_event=tell)


def _loaded(folder: DepartmentFolder, tell: Tell, device: ExitStack) -> Learner:
    """The learner, its table read once: one that cannot be read is said at the start, and not in a log later.

    device  keeps the device that it computes on
    """
    import torch

    from commonroot.client.accelerator import computing_on
    from commonroot.client.checking import describe

    torch.set_num_threads(1)  # departments of one machine must not fight over its cores
    device.enter_context(computing_on(folder.config.device))
    learner = learner_of(folder)
    describe(folder.data, folder.root)
    tell("loaded", {"department": folder.config.name})
    return learner


def _terminal(folder: DepartmentFolder, undo: ExitStack) -> Terminal:
    from commonroot.client.terminal import Terminal

    store = DepartmentStore(folder.root, federation=folder.config.federation, department=folder.config.name)
    undo.callback(store.close)
    return undo.enter_context(Terminal(folder, store))


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
