"""When a head may be shared by some departments only: whoever is lost, its sum is over enough of them.

A family's terms are opened as sums over its members that survived.  A set of survivors has at least

    f = max(survivors_min, cohort.floor)

of the roster's n departments, so at most n - f members of a family can be missing from it, and

    |family| - (n - f) ≥ max(3, t_c + 2)

keeps every family's sum as large as the roster asks of any sum, t_c being the departments that may collude.  A family
of all departments always satisfies it.

The weights of all departments are opened beside those of each family, so their difference is the weight of those who
are in none.  They are held to the same rule: none at all, or enough of them.
"""

from __future__ import annotations

from commonroot.common.charter import Draft
from commonroot.common.enrolled import Enrolled
from commonroot.common.errors import ConfigError, TooFewDepartments
from commonroot.common.roster import FEWEST_DEPARTMENTS


def check_families(charter: Draft, roster: Enrolled) -> None:
    """Raise where a family's sum could be opened over too few departments of this roster.

    Raises  ConfigError: a family lists a department that is not in the roster; TooFewDepartments: it is too small, or
            leaves too few departments over
    """
    if not charter.families:
        return
    names = {member.name for member in roster.departments}
    parameters = roster.parameters
    floor = max(parameters.survivors_min, charter.cohort.floor)
    needed = max(FEWEST_DEPARTMENTS, parameters.colluders + 2)
    missing, everybody = len(names) - floor, any(not family.departments for family in charter.families)
    for family in charter.families:
        strangers = sorted(set(family.departments) - names)
        if strangers:
            raise ConfigError(f"family {family.name!r} lists {strangers[0]!r}, which is not in the roster")
        size = len(family.departments) or len(names)
        if size - missing < needed:
            raise TooFewDepartments(
                f"family {family.name!r} has {size} of {len(names)} departments: with {missing} missing, which the "
                f"charter permits, its sum could be over {max(size - missing, 0)}, and at least {needed} are needed",
                hint=f"raise cohort.floor to {len(names) - size + needed}, enlarge the family or leave it out"
                if size >= needed
                else "enlarge the family or leave it out",
            )
    apart = len(names) - sum(len(family.departments) for family in charter.families)
    if not everybody and apart and apart - missing < needed:
        raise TooFewDepartments(
            f"{apart} of {len(names)} departments are in no family: what all weigh less what families weigh would be, "
            f"with {missing} missing, the weight of {max(apart - missing, 0)}, and at least {needed} are needed",
            hint=f"raise cohort.floor to {len(names) - apart + needed}, or change who is in a family"
            if apart >= needed
            else "take them into a family, or take others out of one",
        )
