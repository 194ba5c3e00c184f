"""The journal as one record, for ``coordinator status`` and for whoever watches a run."""

from __future__ import annotations

from typing import Any

from commonroot.server.folder import CoordinatorFolder


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
            "runs": runs,
            "faults": journal.faults(),
            "received": journal.received(),
            "restored_at": journal.restored_at(),
            "kept": journal.notes()[-20:],
        }
    finally:
        journal.close()
