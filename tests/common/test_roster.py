"""Who is in a federation stands under two signatures, and the numbers the secure sum rests on stand beside them."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from commonroot.common import canonical
from commonroot.common.errors import (
    BadSignature,
    CommonrootError,
    ConfigError,
    Malformed,
    TooFewDepartments,
    WrongFederation,
)
from commonroot.common.roster import MOST_COMPLETE, MOST_DEPARTMENTS, Member, Parameters, Roster, SignedRoster
from commonroot.common.secure_sum.agreement import AgreementKey
from commonroot.common.secure_sum.primitives import Identity

NODE_KEY = "ecdsa-sha2-nistp384 key-of-department-"


def bytes_of(label: str) -> bytes:
    """32 bytes that are the same on every run."""
    return hashlib.sha256(label.encode()).digest()


AUTHORITY = Identity(bytes_of("authority"))
COORDINATOR = Identity(bytes_of("coordinator"))


KEYS = [AgreementKey(*(bytes_of(f"curve {at}"), bytes_of(f"seed {at}") * 2)) for at in range(MOST_DEPARTMENTS + 1)]


def member(at: int) -> Member:
    identity = Identity(bytes_of(f"identity {at}"))
    return Member.signed(f"dept {at}", identity, KEYS[at].public, f"{NODE_KEY}{at}")


MEMBERS = [member(at) for at in range(MOST_COMPLETE + 1)]


def roster(*members: Member, parameters: Parameters | None = None, epoch: int = 1) -> Roster:
    return Roster(
        federation="works",
        epoch=epoch,
        coordinator=COORDINATOR.public.hex(),
        parameters=parameters or Parameters.for_size(len(members)),
        departments=members,
        expires=2_000_000_000,
    )


SIGNED = SignedRoster.sign(roster(*MEMBERS[:3]), AUTHORITY)


@pytest.mark.parametrize(
    ("departments", "colluders", "tau", "survivors"),
    [
        (3, 0, 2, 3),
        (3, 1, 3, 3),
        (4, 1, 3, 3),
        (5, 1, 4, 3),
        (10, 1, 6, 3),
        (10, 2, 7, 4),
        (10, 3, 7, 5),
        (32, 4, 19, 6),
        (32, 10, 22, 12),
        (100, None, 25, 50),
        (1000, None, 61, 500),
    ],
)
def test_the_parameters_are_those_of_the_protocol(departments, colluders, tau, survivors):
    """tau = ⌊(m + t_c)/2⌋ + 1, for instance ⌊(10 + 3)/2⌋ + 1 = 7, and for 100, where m = 40 and t_c = 8, 24 + 1 = 25;
    u_min = max(3, t_c + 2), for instance 3 + 2 = 5, and half of all beyond 32."""
    found = Parameters.for_size(departments, colluders)
    assert (found.opening_quorum, found.survivors_min) == (tau, survivors)


@given(st.integers(3, MOST_DEPARTMENTS), st.data())
def test_two_quorums_always_share_an_honest_department(departments, data):
    """2·tau > m + t_c: whoever gathers two quorums asked some honest department twice, and it answers once."""
    most = departments - 2 if departments <= MOST_COMPLETE else min(30, departments // 4 - 3)
    colluders = data.draw(st.integers(0, most))
    found = Parameters.for_size(departments, colluders)
    committee = found.committee or departments
    assert 2 * found.opening_quorum > committee + colluders
    assert found.opening_quorum <= committee <= min(255, departments)
    assert found.survivors_min - colluders >= 2  # at least two honest contributions in any sum


def test_nobody_colludes_among_three_and_one_may_among_four():
    assert Parameters.for_size(3).colluders == 0
    assert Parameters.for_size(4).colluders == 1


@pytest.mark.parametrize("departments", [0, 1, 2])
def test_fewer_than_three_departments_are_refused_with_the_reason(departments):
    with pytest.raises(TooFewDepartments, match="one would see the other's update"):
        Parameters.for_size(departments)


def test_a_roster_of_two_is_refused_with_the_reason_even_when_it_is_signed():
    parameters = Parameters(colluders=0, opening_quorum=2, survivors_min=3)
    with pytest.raises(TooFewDepartments, match="one would see the other's update"):
        roster(*MEMBERS[:2], parameters=parameters)
    value = canonical.loads(SIGNED.to_json(), what="x")
    value["roster"]["departments"].pop()
    with pytest.raises(TooFewDepartments):
        SignedRoster.from_json(canonical.dumps(value))


def test_the_parameters_of_large_federations_are_those_of_the_protocol():
    """t_c = ⌊4·√n/5⌋, k = max(24, 4·(t_c + 1)), m = 3·t_c + 16 up to a multiple of 8; 33: 3·4 + 16 = 28 → 32."""
    found = {n: Parameters.for_size(n) for n in (33, 100, 400, 1000)}
    assert {n: (p.colluders, p.committee, p.degree) for n, p in found.items()} == {
        33: (4, 32, 24),
        100: (8, 40, 36),
        400: (16, 64, 68),
        1000: (25, 96, 104),
    }


@given(st.integers(MOST_COMPLETE + 1, MOST_DEPARTMENTS))
def test_a_third_of_the_committee_and_all_colluders_may_be_absent(departments):
    found = Parameters.for_size(departments)
    absent = found.committee - found.opening_quorum
    assert 3 * absent >= found.committee
    assert absent >= found.colluders + 7
    assert found.degree // 2 >= 2 * (found.colluders + 1)


def test_more_departments_than_are_provided_for_are_refused():
    with pytest.raises(ConfigError, match="at most 1000"):
        Parameters.for_size(MOST_DEPARTMENTS + 1)
    for departments, colluders in ((33, 8), (100, 25), (1000, 80), (40, -1)):
        with pytest.raises(ConfigError, match="not provided for"):
            Parameters.for_size(departments, colluders)
    with pytest.raises(ConfigError, match=r"\[17, 33\]"):
        Parameters.for_size(33, survivors_min=16)


def test_beyond_the_complete_graph_a_roster_needs_a_committee_and_a_degree():
    parameters = Parameters(colluders=1, opening_quorum=18, survivors_min=17)
    with pytest.raises(ValidationError, match="need a committee and a degree"):
        roster(*MEMBERS, parameters=parameters)
    with pytest.raises(ValidationError, match="everyone masks with everyone"):
        roster(*MEMBERS[:32], parameters=Parameters.for_size(33))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"committee": 34, "opening_quorum": 20}, "a committee of 34"),
        ({"degree": 32}, "31 at most"),
        ({"degree": 8}, "filled with colluders"),
        ({"opening_quorum": 18}, "opening_quorum"),
        ({"survivors_min": 16}, "half of 33"),
    ],
)
def test_a_large_roster_whose_numbers_the_argument_does_not_cover_does_not_exist(changes, said):
    """33 departments: t_c = 4, m = 32, tau = ⌊36/2⌋ + 1 = 19, k = 24, u_min ≥ 17."""
    good = Parameters.for_size(33)
    assert roster(*MEMBERS, parameters=good).parameters == good
    with pytest.raises(ValidationError, match=said):
        roster(*MEMBERS, parameters=Parameters.model_validate(good.model_dump() | changes))


@pytest.mark.parametrize("changes", [{"degree": 25}, {"degree": 2}, {"committee": 256}, {"committee": 2}])
def test_an_odd_degree_and_a_committee_beyond_the_field_are_refused(changes):
    with pytest.raises(ValidationError):
        Parameters.model_validate(Parameters.for_size(33).model_dump() | changes)


def test_the_bytes_of_a_small_roster_say_nothing_of_what_only_large_ones_have():
    assert set(Parameters.for_size(5).model_dump()) == {"colluders", "opening_quorum", "survivors_min", "rounds_max"}
    large = roster(*MEMBERS)
    back = Roster.model_validate_json(large.model_dump_json())
    assert (back, back.digest) == (large, large.digest)


@pytest.mark.parametrize("colluders", [-1, 2, 3])
def test_colluders_who_leave_nothing_to_hide_are_refused(colluders):
    with pytest.raises(ConfigError, match="nothing to hide"):
        Parameters.for_size(3, colluders)


@pytest.mark.parametrize("least", [2, 4, 11])
def test_a_survivor_floor_outside_what_is_sound_is_refused(least):
    """10 departments, 3 colluders: at least max(3, 3 + 2) = 5 and at most 10."""
    with pytest.raises(ConfigError, match=r"\[5, 10\]"):
        Parameters.for_size(10, 3, survivors_min=least)


@pytest.mark.parametrize(
    ("tau", "survivors", "said"),
    [(3, 3, "opening_quorum"), (5, 3, "opening_quorum"), (4, 6, "survivors_min")],
)
def test_a_roster_with_unsound_parameters_does_not_exist(tau, survivors, said):
    """5 departments with 1 colluder need tau = 4 and 3 ≤ u_min ≤ 5, whatever the authority signs."""
    with pytest.raises(ValidationError, match=said):
        roster(*MEMBERS[:5], parameters=Parameters(colluders=1, opening_quorum=tau, survivors_min=survivors))


def test_a_survivor_floor_below_the_colluders_is_refused():
    """10 departments, 3 colluders: a sum of 4 could hold one honest department."""
    with pytest.raises(ValidationError, match="survivors_min"):
        roster(*MEMBERS[:10], parameters=Parameters(colluders=3, opening_quorum=7, survivors_min=4))


def test_a_signed_roster_survives_the_trip():
    back = SignedRoster.from_json(SIGNED.to_json())
    assert back == SIGNED
    assert back.check(AUTHORITY.public).digest == SIGNED.roster.digest


@given(st.integers(0, 8 * len(SIGNED.to_json()) - 1))
def test_a_roster_with_one_bit_flipped_is_refused(bit):
    data = bytearray(SIGNED.to_json())
    data[bit // 8] ^= 1 << (bit % 8)
    with pytest.raises(CommonrootError) as refused:
        SignedRoster.from_json(bytes(data)).check(AUTHORITY.public)
    assert isinstance(refused.value, Malformed | BadSignature)


def test_another_authority_is_refused():
    with pytest.raises(BadSignature, match="enrolment authority"):
        SIGNED.check(COORDINATOR.public)


@pytest.mark.parametrize("field", ["name", "agreement", "kem", "node_key"])
def test_an_authority_cannot_change_what_a_department_signed(field):
    """Even the authority's own signature does not make another's key this department's."""
    forged = MEMBERS[0].model_copy(update={field: getattr(MEMBERS[5], field)})
    with pytest.raises(BadSignature, match=f"department '{forged.name}'"):
        SignedRoster.sign(roster(forged, *MEMBERS[1:3]), AUTHORITY)
    content = roster(forged, *MEMBERS[1:3])
    smuggled = SignedRoster(roster=content, signature=AUTHORITY.sign("roster", content.digest).hex())
    with pytest.raises(BadSignature, match=f"department '{forged.name}'"):
        smuggled.check(AUTHORITY.public)


@pytest.mark.parametrize("field", ["name", "identity", "agreement", "kem", "node_key"])
def test_two_departments_never_share_a_name_or_a_key(field):
    twin = MEMBERS[1].model_copy(update={field: getattr(MEMBERS[0], field)})
    with pytest.raises(ValidationError, match=f"share one {field.replace('_', ' ')}"):
        roster(MEMBERS[0], twin, MEMBERS[2])


def test_the_digest_names_the_roster_and_no_other():
    base = roster(*MEMBERS[:4])
    others = [
        roster(*MEMBERS[:4], epoch=2),
        roster(*MEMBERS[:5]),
        roster(MEMBERS[1], MEMBERS[0], *MEMBERS[2:4]),
        roster(*MEMBERS[:4], parameters=Parameters.for_size(4, 0)),
        base.model_copy(update={"expires": base.expires + 1}),
        base.model_copy(update={"federation": "works 2"}),
        base.model_copy(update={"coordinator": AUTHORITY.public.hex()}),
    ]
    assert roster(*MEMBERS[:4]).digest == base.digest
    assert base.digest not in {Roster.model_validate(other.model_dump()).digest for other in others}


def test_a_department_finds_itself_by_its_identity():
    found = SIGNED.roster.index_of(Identity(bytes_of("identity 2")).public)
    assert found == 2


def test_a_stranger_is_not_in_the_roster():
    with pytest.raises(WrongFederation, match="epoch 1 of 'works'"):
        SIGNED.roster.index_of(AUTHORITY.public)


@pytest.mark.parametrize("text", [b"{}", b"[]", b'{"roster":{},"signature":"00"}', b"null"])
def test_json_that_is_no_roster_is_malformed_and_names_fields(text):
    with pytest.raises(Malformed, match="the roster is not valid"):
        SignedRoster.from_json(text)


def test_an_unknown_field_is_refused():
    value = canonical.loads(SIGNED.to_json(), what="x")
    value["roster"]["discount"] = 1
    with pytest.raises(Malformed, match=r"roster\.discount"):
        SignedRoster.from_json(canonical.dumps(value))
