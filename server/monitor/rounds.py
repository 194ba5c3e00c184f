"""What a run's facts say of its closed rounds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def closed(run: Mapping[str, Any] | None) -> list[Mapping[str, Any]]:
    """Its closed rounds, oldest first; none of no run."""
    return [one for one in (run["rounds"] if run is not None else []) if one["state"] == "closed"]


def having(rounds: list[Mapping[str, Any]], name: str) -> list[Mapping[str, Any]]:
    """Those whose report has a value of that name: methods differ, and not every version is scored on held-out rows."""
    return [one for one in rounds if one["report"].get(name) is not None]


def newest(run: Mapping[str, Any] | None, name: str) -> float | None:
    """The newest value of that name in a report of the run."""
    known = having(closed(run), name)
    return float(known[-1]["report"][name]) if known else None
