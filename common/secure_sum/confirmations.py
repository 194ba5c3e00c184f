"""Confirmations of a survivor set: who may give one, and whether a quorum has.

A share does not show for which survivor set it was given, so shares that members gave for different sets could be put
together.  Hence no share of a pairwise secret is given for a set that an opening quorum has not confirmed, and a member
confirms one set per round: two quorums share an honest member, so at most one set is ever confirmed (docs/adr/0012).
"""

from __future__ import annotations

from collections.abc import Collection

from commonroot.common.errors import NotConfirmed
from commonroot.common.messages import Confirmed, Open
from commonroot.common.roster import Roster


def require_confirmed(roster: Roster, asked: Open, members: Collection[int]) -> None:
    """Refuse an opening unless an opening quorum has confirmed exactly this transcript and survivor set.

    Parameters  members: of the committee, those in the round's cohort; they stand in ``asked`` at most once each
    Raises      NotConfirmed: too few, somebody else's, or a signature that is not that member's or of another set
    """
    quorum = roster.parameters.opening_quorum
    if len(asked.confirmed_by) < quorum:
        raise NotConfirmed(f"{len(asked.confirmed_by)} members confirmed the survivor set, {quorum} must")
    inside = frozenset(members)
    for member, signature in zip(asked.confirmed_by, asked.confirmations, strict=True):
        if member not in inside:
            raise NotConfirmed(f"a confirmation of department {member}, which does not open this round")
        public = bytes.fromhex(roster.departments[member].identity)
        if not Confirmed(asked.opened, member, signature).is_by(public):
            raise NotConfirmed(f"department {member} has not signed that it confirms this survivor set")
