"""Answers about different survivor sets, put together: the one attack that a quorum for one set does not rule out.

A share of b_i is the same whatever survivor set it is given for.  So a coordinator may ask every member about another
set, each with the victim in it, and collect the victim's own secret from all of them, and each of its pairwise secrets
from those whose set leaves the other end out.  ``fewest_survivors`` makes the sets so large that this cannot be had.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sum_federation import Federation, forged_open

from commonroot.common import roster
from commonroot.common.messages import Shares
from commonroot.common.roster import Parameters, fewest_survivors
from commonroot.common.secure_sum.masks import add_streams, sign
from commonroot.common.secure_sum.shares import interpolate

VICTIM = 0
Words = tuple[list[int], list[int]]


def collect(federation: Federation, sets: dict[int, set[int]], neighbours: dict[int, list[int]]) -> tuple[Any, Any]:
    """Everybody uploads, and each member is asked for its own set; (victim's upload, shares by secret and member).

    Parameters  sets: by member; neighbours: of every department, in order
    """
    opening = federation.opening()
    uploads = {who: federation.upload(who, opening) for who in range(federation.n)}
    at_work = federation.round(opening)
    for who, upload in uploads.items():
        at_work.upload(who, *upload)
    found: dict[tuple[int, int], dict[int, bytes]] = {}
    for member, asked in sets.items():
        survivors = sorted(asked)
        reply, _ = federation.machines[member].answer(forged_open(federation, at_work, member, survivors))
        secrets = [(i, j) for i in survivors for j in (i, *(k for k in neighbours[i] if k not in asked))]
        for secret, share in zip(secrets, Shares.decode(reply).shares, strict=True):
            found.setdefault(secret, {})[member] = share
    return uploads[VICTIM][1], found


def freed(federation: Federation, body: bytes, found: Any, partners: list[int], points: dict[int, int]) -> Words | None:
    """The victim's words, if each of its secrets got as many shares as the quorum, whatever set each was given for."""
    quorum = federation.roster.parameters.opening_quorum
    masks = []
    for other in (VICTIM, *partners):
        shares = sorted(found.get((VICTIM, other), {}).items())[:quorum]
        if len(shares) < quorum:
            return None
        rows = np.frombuffer(b"".join(share for _, share in shares), dtype=np.uint8).reshape(quorum, 1, 32)
        secret = interpolate([points[member] for member, _ in shares], rows)[0].tobytes()
        masks.append((-1 if other == VICTIM else -sign(VICTIM, other), secret))
    words = [part.copy() for part in federation.codec.layout.split(body)]
    add_streams(*words, masks)
    return words[0].tolist(), words[1].tolist()


def mixed(federation: Federation) -> Words | None:
    """Ask each member about the victim and as few others as it insists on, in turn; the victim's words if it works."""
    n, others = federation.n, [who for who in range(federation.n) if who != VICTIM]
    beside = federation.roster.parameters.survivors_min - 1
    sets = {
        member: {VICTIM, *(others[(member * beside + step) % len(others)] for step in range(beside))}
        for member in range(n)
    }
    everybody = {who: [other for other in range(n) if other != who] for who in range(n)}
    body, found = collect(federation, sets, everybody)
    return freed(federation, body, found, others, {member: member + 1 for member in range(n)})


@pytest.mark.parametrize("n", [8, 10, 16])
def test_with_a_floor_of_three_a_coordinator_alone_could_read_one_department(n: int, monkeypatch):
    """The attack is real: without the larger floor it yields the victim's encoded vector, exactly.  No colluder helps.

    n = 10: quorum 6, three survivors a set; each of nine others stands in 2 or 3 of ten sets, so 7 or 8 members give
    their share of its pairwise secret, and 6 are enough.
    """
    monkeypatch.setattr(roster, "fewest_survivors", lambda departments, colluders: max(3, colluders + 2))
    federation = Federation(n)
    assert federation.roster.parameters.survivors_min == 3
    assert mixed(federation) == federation.ring_sum([VICTIM], federation.opening())


@pytest.mark.parametrize("n", range(3, 17))
def test_with_the_rosters_floor_it_yields_nothing(n: int):
    assert mixed(Federation(n)) is None


def possible(members: int, quorum: int, floor: int, colluders: int) -> bool:
    """Could one honest department be alone in what different sets open?  Counting, for the best choice of sets.

    Of ``members``, ``colluders`` help in everything, so quorum - colluders honest answers free a secret.  If all honest
    members are asked, another honest department may stand in as many of their sets as still leave that many without it.
    """
    honest, needed = members - colluders, quorum - colluders
    room = (honest - 1) * (honest - needed)
    return room >= honest * (floor - 1 - colluders)


@given(n=st.integers(3, 32), data=st.data())
def test_no_assignment_of_survivor_sets_leaves_one_honest_department_alone(n: int, data):
    """For every size, every number of colluders and every cohort that may open: there is not enough room."""
    t_c = data.draw(st.integers(0, n - 2))
    parameters = Parameters.for_size(n, t_c)
    cohort = data.draw(st.integers(max(parameters.opening_quorum, parameters.survivors_min), n))
    colluders = data.draw(st.integers(0, min(t_c, parameters.opening_quorum - 1)))
    assert not possible(cohort, parameters.opening_quorum, parameters.survivors_min, colluders)


def test_the_floor_is_the_least_that_leaves_no_room():
    """One survivor fewer leaves room wherever the floor is not one that 3 or t_c + 2 set anyway, all members asked."""
    tight = [
        n
        for n in range(3, 33)
        if fewest_survivors(n, 1) > 3 and possible(n, (n + 1) // 2 + 1, fewest_survivors(n, 1) - 1, 1)
    ]
    assert tight == [n for n in range(3, 33) if fewest_survivors(n, 1) > 3]


def test_on_a_ring_no_floor_helps_and_a_coordinator_alone_frees_one_of_a_hundred():
    """Every set has all but the victim's neighbours, and every third of these: 6 of any 18 in a row, where 5 must be.

    Of 40 members 26 or 27 leave a given neighbour out, and 25 are enough.  docs/protocol.md says so; it is what a round
    in which members agree on the survivor set would end.
    """
    large = pytest.importorskip("large_federation", reason="this version has no sparse graphs")
    federation = large.LargeFederation(100)
    graph = federation.graph
    neighbours = {who: list(graph.neighbours(who)) for who in range(100)}
    place = {who: at for at, who in enumerate(graph.order)}
    in_a_row = sorted(neighbours[VICTIM], key=lambda who: (place[who] - place[VICTIM]) % 100)
    far = {who for who in range(100) if who not in neighbours[VICTIM]}
    members = federation.committee
    sets = {member: far | set(in_a_row[at % 3 :: 3]) for at, member in enumerate(members)}
    body, found = collect(federation, sets, neighbours)
    points = {member: at + 1 for at, member in enumerate(members)}
    assert freed(federation, body, found, neighbours[VICTIM], points) == federation.ring_sum(
        [VICTIM], federation.opening()
    )
