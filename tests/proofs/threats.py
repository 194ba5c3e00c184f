"""What ``docs/threats.md`` takes from the tables of lies; ``python tests/proofs/threats.py`` writes it.

Every row of that page is played by ``test_named_lies`` against real sessions, stores and rounds.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[1] / "common" / "secure_sum")]

from made_pages import ROOT, table, write
from proofs.test_named_lies import LIES, OUTCOMES

from commonroot.common.errors import all_errors

PAGE = ROOT / "docs" / "threats.md"

#: Where the other side is when something is refused, by the kind of parcel or the command.
STEPS = {
    "charter": "when the charter is shown",
    "join": "when a roster is joined",
    "approve": "when a charter is approved",
}


def _refused(lie: Any) -> tuple[str, str]:
    if lie.refused is None:
        return "nobody", ""
    by, step, code = lie.refused
    return f"{by}, {STEPS.get(step, f'at `{step}`')}", f"{code} `{all_errors()[code].__name__}`"


def lies(who: str) -> str:
    """All lies that somebody tells, in the order of the table."""
    rows = [(f"`{lie.name}`", lie.forged, *_refused(lie), lie.outcome) for lie in LIES if lie.who == who]
    return table(("lie", "what is forged", "refused by", "with", "the round"), rows)


def outcomes() -> str:
    """What the last column means, and how often it stands there."""
    told = [lie for lie in LIES if lie.who != "nobody"]
    return table(
        ("the round", "means", "lies"),
        [(word, meaning, sum(lie.outcome == word for lie in told)) for word, meaning in OUTCOMES.items()],
    )


MAKERS: dict[str, Callable[[], str]] = {
    "outcomes": outcomes,
    **{f"lies-{who}": partial(lies, who) for who in dict.fromkeys(lie.who for lie in LIES) if who != "nobody"},
}

if __name__ == "__main__":
    write(PAGE, MAKERS)
