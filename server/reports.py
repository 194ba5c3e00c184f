"""What the reports of a run's closed rounds say."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any


def closed(run: Mapping[str, Any] | None) -> list[Mapping[str, Any]]:
    """Of a run as ``status`` tells it the closed rounds, oldest first; none of no run."""
    return [one for one in (run["rounds"] if run is not None else []) if one["state"] == "closed"]


def having(rounds: Iterable[Mapping[str, Any]], name: str) -> list[Mapping[str, Any]]:
    """Those whose report has a value of that name: methods differ, and not every version is scored on held-out rows."""
    return [one for one in rounds if one["report"].get(name) is not None]


def newest(reports: Sequence[Mapping[str, Any]], name: str) -> float | None:
    """The newest value of that name in reports, oldest first."""
    return next((float(one[name]) for one in reversed(reports) if one.get(name) is not None), None)
