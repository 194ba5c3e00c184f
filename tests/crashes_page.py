"""Parts of ``docs/crashes.md`` that are made from the code: the numbered points, and every wait.

Run this file to write the page anew (``make docs``).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from importlib import import_module
from pathlib import Path

from made_pages import table, write

from commonroot.client.folder import Waits as DepartmentWaits
from commonroot.common.charter import Timing
from commonroot.server.limits import Limits
from commonroot.server.waits import Waits as CoordinatorWaits
from commonroot.simulations.crash_points import POINTS

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "crashes.md"

STAGES = {
    "beginning": "before the first round",
    "ready": "training before a round opens (`ready`)",
    "round": "in every round",
    "confirm": "where somebody's upload is missing",
    "lost": "where a round is lost",
    "end": "after the last round",
}

#: Who waits for what, the module and constant that bound it, or the section and field.
WAITS = [
    ("coordinator", "for enough departments to be there and ready", "timing", "gather"),
    ("coordinator", "for training ahead, for uploads, for answers about the charter and greetings", "timing", "upload"),
    ("coordinator", "for confirmations and the opening of a survivor set", "timing", "opening"),
    ("coordinator", "for a department that the hub does not see any more", "timing", "absence"),
    ("coordinator", "for departments to take over the final backbone", "timing", "closing"),
    ("coordinator", "rounds in a row that may come to nothing", "timing", "attempts"),
    ("coordinator", "after a second lost round in a row, thrice as long after each further", "coordinator", "retry"),
    ("coordinator", "for room on a full disk", "coordinator", "storage"),
    ("coordinator", "between two looks at a full disk", "coordinator", "look"),
    ("coordinator", "for a database that went away in the middle of a run", "coordinator", "database"),
    ("coordinator", "between two looks at who is there, while something is asked", "server.exchange", "_LOOK"),
    ("coordinator", "deliveries of one request to one department, at most", "server.exchange", "_DELIVERIES"),
    ("coordinator", "between two looks while a cohort gathers", "server.attendance", "_LOOK"),
    ("coordinator", "for a department that left the charter unanswered before", "server.attendance", "_ASK_AGAIN"),
    ("coordinator", "for one that left an introduction unanswered before", "server.introductions", "_ASK_AGAIN"),
    ("coordinator", "for more answers, only to tell who lied", "server.round", "_NAMING"),
    ("coordinator", "idle, between two looks at the queue", "server.coordinator", "_IDLE_SECONDS"),
    ("hub", "holding a department's question while there is no message", "server.gate", "HOLD"),
    ("hub", "for a whole request", "limits", "body_seconds"),
    ("hub", "until an undelivered message is dropped", "server.flower_links", "TTL"),
    ("hub", "until it asks whether the sender of a half reply lives", "server.flower_links", "_STALLED"),
    ("hub", "to start and to stop", "server.listener", "PATIENCE"),
    ("department", "for a hub that refuses it as it starts", "department", "first"),
    ("department", "repeating what the hub fails over, or waiting for an announced object", "department", "give_up"),
    ("department", "told to stop, for libraries that are being loaded", "client.daemon", "_LOADING"),
    ("department", "for one answer of the hub", "client.node", "_REQUEST_TIMEOUT"),
    ("department", "between two signs of life", "client.node", "_BEAT"),
]  # fmt: skip

_SECTIONS = {
    "timing": (Timing(), "charter, `[timing] {}`"),
    "coordinator": (CoordinatorWaits(), "`coordinator.toml`, `[waits] {}`"),
    "limits": (Limits(), "`coordinator.toml`, `[limits] {}`"),
    "department": (DepartmentWaits(), "`department.toml`, `[waits] {}`"),
}


def points(side: str) -> str:
    """The points of one side, in the order of a run."""
    here = [one for one in POINTS if one.side == side]
    return table(
        ("point", "when", "place in the code", "what has happened", "on disk", "lost", "the next process"),
        [(o.number, STAGES[o.stage], o.place, o.what, o.disk, o.lost, o.restart) for o in here],
    )


def waits() -> str:
    """Every wait with its bound."""
    return table(("who", "waits", "bound", "set in"), [(who, what, *_bound(*at)) for who, what, *at in WAITS])


def _bound(where: str, name: str) -> tuple[str, str]:
    if where in _SECTIONS:
        section, place = _SECTIONS[where]
        return f"{getattr(section, name):g}", place.format(name)
    return f"{getattr(import_module(f'commonroot.{where}'), name):g}", "fixed"


MAKERS: dict[str, Callable[[], str]] = {
    "coordinator": partial(points, "coordinator"),
    "department": partial(points, "department"),
    "waits": waits,
}

if __name__ == "__main__":
    write(PAGE, MAKERS)
