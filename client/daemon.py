"""``department up``: the resident node, the session and the learner in one process, until told to stop."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from commonroot.client.checking import describe
from commonroot.client.folder import DepartmentFolder
from commonroot.client.learner import DepartmentLearner
from commonroot.client.session import OnLosses, Session
from commonroot.client.store import DepartmentStore
from commonroot.common.errors import ConfigError
from commonroot.common.roster import Roster
from commonroot.console import stop_on_signals
from commonroot.logs import LogOptions, telling

if TYPE_CHECKING:
    from commonroot.client.terminal import Terminal


def _unseen(version: int, losses: dict[str, float]) -> None:
    """Nobody looks at this department's losses."""


def open_session(
    folder: DepartmentFolder,
    roster: Roster,
    store: DepartmentStore,
    on_event: Callable[[str, dict[str, Any]], None] = lambda kind, facts: None,
    random: Callable[[int], bytes] = os.urandom,
    on_losses: OnLosses = _unseen,
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
        on_losses=on_losses,
    )


def serve(
    root: Path,
    *,
    as_json: bool = False,
    log: LogOptions | None = None,
    view: bool = False,
    stop: threading.Event | None = None,
) -> None:
    """Serve until stopped by a signal (or ``stop``).

    Parameters  as_json: short for ``log=LogOptions("json")``; view: show a picture of what goes on instead of lines
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
    with ExitStack() as undo:
        undo.callback(store.close)
        terminal = _terminal(folder, store, undo) if view else None
        tell = undo.enter_context(telling(log or LogOptions("json" if as_json else "text"), view=terminal))
        seen = _unseen if terminal is None else terminal.losses
        session = open_session(folder, roster, store, tell, on_losses=seen)
        describe(folder.data, root)  # a table that cannot be read is said here and now, and not in a log later
        tell("up", {"department": folder.config.name, "coordinator": folder.config.coordinator})
        node = FlowerNode(
            folder.config.coordinator,
            folder.ca,
            folder.node_key,
            on_state=lambda state: tell("link", {"state": state}),
        )
        node.serve(session.handle, stop)
        tell("down", {})


def _terminal(folder: DepartmentFolder, store: DepartmentStore, undo: ExitStack) -> Terminal:
    from commonroot.client.terminal import Terminal

    return undo.enter_context(Terminal(folder, store))
