"""When a sum may be opened over all departments of the roster alone.

Exact sums of the same rows come again round after round.  Were one of them over all departments and the next over all
but one, the difference of both would be that one's numbers, exactly: its rows in every slot of every column.  So
where a method repeats itself, nothing less than everybody is ever summed; a run waits for whoever is missing.
"""

from __future__ import annotations

from commonroot.common.charter import Draft
from commonroot.common.enrolled import Enrolled
from commonroot.common.errors import TooFewDepartments


def fewest_summed(draft: Draft, roster: Enrolled) -> int:
    """The fewest departments that a sum under this charter and roster may be over."""
    return max(roster.parameters.survivors_min, draft.cohort.floor)


def require_everybody(draft: Draft, roster: Enrolled, what: str) -> None:
    """Raise TooFewDepartments where a sum could be over fewer than all departments.  ``what`` is repeated."""
    everybody = len(roster.departments)
    if fewest_summed(draft, roster) < everybody:
        raise TooFewDepartments(
            f"method {draft.method.name!r} sums {what} in every round: of two sums over different departments the "
            f"difference is one department's, and the charter permits sums over {fewest_summed(draft, roster)} of "
            f"{everybody}",
            hint=f"cohort.floor = {everybody}, so that no sum is opened without everybody",
        )
