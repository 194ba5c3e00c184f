"""Numbers, times and states as people read them."""

from __future__ import annotations

import time
from typing import Final

#: What a department is doing, in words for a table.
DOING: Final = {
    "absent": "absent",
    "declined": "declined the charter",
    "asked": "working",
    "answered": "answered",
    "waiting": "online",
}
#: What a stage waits for.
STAGES: Final = {
    "gathering": "waiting for departments",
    "training": "departments train",
    "uploading": "departments train and upload",
    "confirming": "the survivor set is being confirmed",
    "opening": "the sum is being opened",
    "closing": "the final backbone is handed out",
}


def clock(at: float, now: float) -> str:
    """A moment: the time of day on the same day as ``now``, else the date too.  UTC."""
    moment = time.gmtime(at)
    same_day = moment[:3] == time.gmtime(now)[:3]
    return time.strftime("%H:%M:%S" if same_day else "%Y-%m-%d %H:%M", moment)


def lasting(seconds: float) -> str:
    """A span of time, to two figures or so: 0.84 s, 12 s, 4 min, 3 h 20 min, 12 days."""
    if seconds < 0.995:
        return f"{max(seconds, 0.0):.2f} s"
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    if seconds < 119.5:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 120:
        return f"{minutes} min"
    if minutes < 48 * 60:
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{minutes // 1440} days"


def size(count: float) -> str:
    """Bytes, to three figures."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 999.5:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"


def listed(names: list[str], *, most: int = 6) -> str:
    """Names in a sentence; beyond ``most`` the rest is counted."""
    if len(names) > most:
        return f"{', '.join(names[:most])} and {len(names) - most} more"
    return " and ".join(filter(None, (", ".join(names[:-1]), *names[-1:])))
