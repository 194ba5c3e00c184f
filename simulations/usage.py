"""What a process of this machine takes, as the kernel counts it (Linux ``/proc``)."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_PAGE: Final = os.sysconf("SC_PAGE_SIZE")
_TICK: Final = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Usage:
    """Memory in bytes and processor time in seconds since the process began.

    resident  pages in memory, those shared with others included
    own       pages that only this process holds: what its end would give back
    """

    resident: int
    own: int
    seconds: float


def usage_of(pid: int) -> Usage | None:
    """What a process takes now; None where it has ended."""
    folder = Path(f"/proc/{pid}")
    try:
        resident = int((folder / "statm").read_text().split()[1]) * _PAGE
        # The command's name may hold blanks and brackets, so count from behind it.
        fields = (folder / "stat").read_text().rpartition(")")[2].split()
        rollup = (folder / "smaps_rollup").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError, IndexError):
        return None
    own = sum(int(line.split()[1]) for line in rollup if line.startswith(("Private_Clean:", "Private_Dirty:")))
    return Usage(resident, own * 1024, (int(fields[11]) + int(fields[12])) / _TICK)
