"""``department up``: the resident node, the session and the learner in one process, until told to stop.

The node comes first and the learner after it (``learner_in_waiting``): a daemon that was killed is back on the hub
before its libraries are loaded and its table is read.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from commonroot.client.folder import DepartmentFolder
from commonroot.client.learner_in_waiting import LearnerInWaiting
from commonroot.client.session import Learner, Session
from commonroot.client.store import DepartmentStore
from commonroot.common.errors import ConfigError
from commonroot.common.roster import Roster
from commonroot.console import event_printer, stop_on_signals

#: How long a daemon that is told to stop while it still loads waits for that to end, in seconds.
_LOADING = 10.0


def open_session(
    folder: DepartmentFolder,
    roster: Roster,
    store: DepartmentStore,
    on_event: Callable[[str, dict[str, Any]], None] = lambda kind, facts: None,
    random: Callable[[int], bytes] = os.urandom,
    learner: Learner | None = None,
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


def serve(root: Path, *, as_json: bool = False, stop: threading.Event | None = None) -> None:
    """Serve until stopped by a signal (or ``stop``).

    Raises KeyFileError, ForeignState before anything is sent; WrongAuthority or NodeRefused where the coordinator is
    not the pinned one or does not know this department; DataError soon after, where the table cannot be read.
    """
    from commonroot.client.node import LEFT, FlowerNode

    stop = stop or threading.Event()
    stop_on_signals(stop)
    folder = DepartmentFolder(root)
    roster = folder.roster()
    if roster.expires < time.time():
        raise ConfigError("the roster has expired", hint="ask central IT for a new one and `department join` it")
    store = DepartmentStore(root, federation=folder.config.federation, department=folder.config.name, owner=True)
    tell = event_printer(as_json)
    try:
        folder.data  # noqa: B018 - said here and now where it is missing
        learner = LearnerInWaiting(lambda: _loaded(folder, tell), on_failure=stop.set)
        session = open_session(folder, roster, store, tell, learner=learner)
        tell("up", {"department": folder.config.name, "coordinator": folder.config.coordinator})

        def linked(state: str) -> None:
            tell("link", {"state": state})
            if state != LEFT:
                learner.begin()

        node = FlowerNode(
            folder.config.coordinator,
            folder.ca,
            folder.node_key,
            on_state=linked,
            on_trouble=lambda error: tell("trouble", error.describe()),
            patience=folder.config.waits.first,
            give_up=folder.config.waits.give_up,
        )
        node.serve(session.handle, stop)
        learner.settle(_LOADING)
        if learner.failure is not None:
            raise learner.failure
    finally:
        store.close()
    tell("down", {})


def _loaded(folder: DepartmentFolder, tell: Callable[[str, dict[str, Any]], None]) -> Learner:
    """The learner, its table read once: one that cannot be read is said at the start, and not in a log later."""
    import torch

    from commonroot.client.checking import describe

    torch.set_num_threads(1)  # departments of one machine must not fight over its cores
    learner = learner_of(folder)
    describe(folder.data, folder.root)
    tell("loaded", {"department": folder.config.name})
    return learner
