"""Every command that central IT gives, in the audit log before it is carried out, with the login name of who gave it.

Commands that only look are not noted; ``init`` makes the log and cannot be.  ``migrate`` is noted once it is done, for
noting opens the journal, which brings it to the newest layout.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any, Final

import click

from commonroot.console import Commands

#: Commands that change nothing.
LOOKING: Final = frozenset({"status", "results", "models", "evidence", "charters", "audit", "doctor", "runs", "init"})

#: Commands that must see the journal as they find it: noted afterwards, and with ``--check`` not at all.
AFTERWARDS: Final = frozenset({"migrate"})


class Noted(Commands):
    """A group of commands on a coordinator's folder."""

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command, which first notes itself."""
        command = super().get_command(ctx, cmd_name)
        if command is not None and command.callback is not None and cmd_name not in LOOKING:
            command.callback = _noting(cmd_name, command.callback)
        return command


def _noting(name: str, callback: Any) -> Any:
    if getattr(callback, "notes_itself", False):
        return callback

    @functools.wraps(callback)
    def noted(*args: Any, **given: Any) -> Any:
        root = _coordinators(given.get("folder"))
        if root is not None and name not in AFTERWARDS:
            _note(root, name)
        out = callback(*args, **given)
        if root is not None and name in AFTERWARDS and not given.get("check"):
            _note(root, name)
        return out

    noted.notes_itself = True  # type: ignore[attr-defined]
    return noted


def _coordinators(folder: object) -> Path | None:
    """A coordinator's folder, from what the command line said."""
    if isinstance(folder, str | Path) and (Path(folder) / "coordinator.toml").is_file():
        return Path(folder)
    return None


def _note(root: Path, name: str) -> None:
    from commonroot.server.audit import who
    from commonroot.server.folder import CoordinatorFolder

    journal = CoordinatorFolder(root).journal()
    try:
        journal.note("command", {"command": name, "by": who()})
    finally:
        journal.close()
