"""The journal as one record, for ``coordinator status`` and for whoever watches a run."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from typing import Any, Final

from commonroot.files import owner_of
from commonroot.server.folder import CoordinatorFolder

#: With less than this many bytes left a journal cannot be written for long.
_LITTLE: Final = 4 * 2**20


def status_of(folder: CoordinatorFolder) -> dict[str, Any]:
    """Runs with their rounds, faults, and the account of received bytes.  Holds only what the coordinator may know."""
    journal = folder.journal()
    try:
        runs = []
        for run in journal.runs():
            versions = journal.versions(run.run)
            runs.append(
                {
                    "run": run.run,
                    "state": run.state,
                    "reason": run.reason,
                    "charter": run.digest,
                    "version": versions[-1].version if versions else 0,
                    "rounds_wanted": run.charter.charter.rounds,
                    "closed_departments": sorted(journal.closed_departments(run.run)),
                    "rounds": [
                        {
                            "round": r.round,
                            "version": r.version,
                            "state": r.state,
                            "reason": r.reason,
                            "report": r.report,
                        }
                        for r in journal.rounds(run.run)
                    ],
                }
            )
        return {
            "federation": folder.config.federation,
            "trouble": troubles(folder, [str(run["state"]) for run in runs]),
            "runs": runs,
            "faults": journal.faults(),
            "received": journal.received(),
            "gate": at_the_gate(folder),
        }
    finally:
        journal.close()


def troubles(folder: CoordinatorFolder, states: Sequence[str]) -> list[str]:
    """Why a run does not go on that the journal itself cannot tell: a full disk, or no process; a line each."""
    found = []
    free = shutil.disk_usage(folder.root).free
    if free < _LITTLE:
        found.append(f"the disk of {folder.root} is full: {free} bytes are left; runs go on once there is room")
    if owner_of(folder.root) is None and any(state in ("queued", "running") for state in states):
        found.append(f"no coordinator is up on {folder.root}: `commonroot coordinator up {folder.root}`")
    return found
def at_the_gate(folder: CoordinatorFolder) -> dict[str, Any]:
    """What the public port held and had refused when the coordinator last wrote it down; empty before it was up.

    open         connections, and those of strangers among them
    refused      reason → how often since it came up
    departments  of each that came: what it runs, how far its clock is ahead in seconds, what it was refused
    at           when that was, in seconds since 1970
    """
    try:
        found = json.loads((folder.root / "links" / "gate.json").read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
