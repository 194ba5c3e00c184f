"""A coordinator that stops in the middle of a run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class Interrupted(Exception):
    """The coordinator stops in the middle of a run."""


def stop_at(kind: str, nth: int = 1) -> Callable[[str, dict[str, Any]], None]:
    """Stops the coordinator at the n-th event of a kind."""
    left = [nth]

    def listen(told: str, _facts: dict[str, Any]) -> None:
        left[0] -= told == kind
        if told == kind and left[0] == 0:
            raise Interrupted

    return listen
