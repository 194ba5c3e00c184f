"""A family's sum is over enough departments, whichever survivor set is opened."""

from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from commonroot.common.charter import Cohort, Draft, Family
from commonroot.common.errors import ConfigError, TooFewDepartments
from commonroot.common.families import check_families
from commonroot.common.roster import Parameters

NAMES = [f"d{at}" for at in range(40)]


def roster_of(n, **options):
    parameters = Parameters.for_size(n, **options)
    return SimpleNamespace(departments=[SimpleNamespace(name=name) for name in NAMES[:n]], parameters=parameters)


def draft_of(*families, floor=3):
    return Draft(federation="bank", name="pilot", rounds=1, cohort=Cohort(floor=floor), families=families)


def family(size, name="f"):
    return Family(name=name, outputs=2, departments=tuple(NAMES[:size]))


@given(n=st.integers(3, 32), size=st.integers(1, 32), floor=st.integers(3, 32), colluders=st.integers(0, 6))
def test_what_is_let_through_leaves_enough_on_either_side_in_every_survivor_set(n, size, floor, colluders):
    """The worst survivor set leaves out as many members as it may, or as many of the others: size - (n - f) are left,
    and (n - size) - (n - f) of the others, where there are any."""
    size, floor, colluders = min(size, n), min(floor, n), min(colluders, n - 2)
    roster = roster_of(n, colluders=colluders)
    smallest = max(roster.parameters.survivors_min, floor)
    sides = [side - min(side, n - smallest) for side in (size, n - size) if side]
    try:
        check_families(draft_of(family(size), floor=floor), roster)
    except TooFewDepartments:
        assert min(sides) < max(3, colluders + 2)
    else:
        assert min(sides) >= max(3, colluders + 2)


def test_nobody_is_left_alone_outside_the_families():
    """Four of five in a family: what all weigh less what the family weighs is the fifth's weight, and so its rows."""
    five = roster_of(5)
    with pytest.raises(TooFewDepartments, match="1 of 5 departments are in no family") as caught:
        check_families(draft_of(family(4), floor=5), five)
    assert "take them into a family" in caught.value.advice
    check_families(draft_of(family(5), floor=5), five)
    halves = (family(3), Family(name="g", outputs=2, departments=tuple(NAMES[3:6])))
    check_families(draft_of(*halves, floor=6), roster_of(6))
    with pytest.raises(TooFewDepartments, match="1 of 7"):
        check_families(draft_of(*halves, floor=7), roster_of(7))


def test_the_refusal_of_who_is_left_over_says_how_it_could_be_mended():
    """n = 10, floor 8: 2 may be missing, so of 4 outside the family 2 could be left; 9 mends it."""
    with pytest.raises(TooFewDepartments, match="the weight of 2") as caught:
        check_families(draft_of(family(6), floor=8), roster_of(10))
    assert "raise cohort.floor to 9" in caught.value.advice
    check_families(draft_of(family(6), floor=9), roster_of(10))


@pytest.mark.parametrize("n", [3, 4, 10, 32, 40])
def test_a_family_of_everybody_fits_every_roster(n):
    check_families(draft_of(Family(name="f", outputs=2)), roster_of(n))


def test_the_refusal_says_how_it_could_be_mended():
    """n = 10, floor 3 (one colluder): 7 may be missing, so a family of 4 could be summed over none; 9 mends it."""
    with pytest.raises(TooFewDepartments) as caught:
        check_families(draft_of(family(4)), roster_of(10))
    assert "could be over 0, and at least 3 are needed" in str(caught.value)
    assert "raise cohort.floor to 9" in caught.value.advice
    check_families(draft_of(family(4), floor=9), roster_of(10))


def test_a_department_that_is_not_in_the_roster_is_named():
    with pytest.raises(ConfigError, match="family 'f' lists 'd3', which is not in the roster"):
        check_families(draft_of(family(4)), roster_of(3))


@pytest.mark.parametrize(
    ("families", "said"),
    [
        ((family(3), family(3, "g")), "department 'd0' is listed twice"),
        ((family(3), family(3)), "family 'f' is listed twice"),
        ((Family(name="f", outputs=2), family(3, "g")), "must be the only one"),
    ],
)
def test_nobody_is_of_two_families(families, said):
    with pytest.raises(ValidationError, match=said):
        draft_of(*families)


def test_a_charter_without_families_or_a_warm_start_has_the_bytes_it_had_before_there_were_any():
    plain = draft_of().model_dump(mode="json")
    assert "families" not in plain and not {"warm_start", "held_out_every"} & set(plain["training"])
    assert draft_of(family(3)).model_dump(mode="json")["families"][0]["departments"] == ["d0", "d1", "d2"]
