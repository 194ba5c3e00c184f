"""Answers about different survivor sets, put together: the one attack that a quorum for one set does not rule out.

A share is the same whatever survivor set it is given for.  So a coordinator may ask every member about another set,
each with the victim in it, and collect the victim's own secret from all of them, and each of its pairwise secrets from
those whose set leaves the other end out.  Members therefore confirm a set before any of them gives shares of pairwise
secrets, and want to see a quorum's confirmations (docs/adr/0012).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from large_federation import LargeFederation
from proofs.pooling import freed, secrets_of
from sum_federation import Federation, confirmations, forged_open

from commonroot.common.errors import NotConfirmed, PeerError, SecondSurvivorSet
from commonroot.common.messages import Confirm, Confirmed, Shares, opened_digest
from commonroot.common.roster import Parameters
from commonroot.common.secure_sum import department
from commonroot.common.secure_sum.masks import add_streams, sign
from commonroot.common.secure_sum.shares import interpolate

VICTIM = 0
Words = tuple[list[int], list[int]]


class Coordinator:
    """Has everybody's upload, asks whom it likes for what it likes, and keeps all that it is given.

    colluders  departments whose identities it holds too: they sign every confirmation that it needs
    """

    def __init__(
        self,
        federation: Federation,
        *,
        colluders: Iterable[int] = (),
        neighbours: Callable[[int], Iterable[int]] | None = None,
    ) -> None:
        self.federation, self.colluders, self.neighbours = federation, set(colluders), neighbours
        self.opening = federation.opening()
        self.cohort = self.opening.cohort
        self.uploads = {who: federation.upload(who, self.opening) for who in self.cohort}
        self.at_work = federation.round(self.opening)
        for who, upload in self.uploads.items():
            self.at_work.upload(who, *upload)
        #: Signatures under survivor sets, by the set.
        self.confirmed: dict[tuple[int, ...], dict[int, bytes]] = {}
        #: Shares by secret and member.
        self.found: dict[tuple[int, int], dict[int, bytes]] = {}

    def confirm(self, member: int, survivors: Iterable[int]) -> None:
        """Ask a member to confirm a set."""
        chosen = tuple(sorted(survivors))
        fields = {"transcript": self.opening.transcript, "round": self.opening.round, "survivors": chosen}
        asked = Confirm.signed(self.federation.coordinator, **fields)
        reply, _ = self.federation.machines[member].confirm(asked.encode())
        self.confirmed.setdefault(chosen, {})[member] = Confirmed.decode(reply).signature

    def open(self, member: int, survivors: Iterable[int], signed: dict[int, bytes] | None = None) -> None:
        """Ask a member for its shares for a set, with all confirmations there are of it."""
        chosen = tuple(sorted(survivors))
        if signed is None:
            bought = confirmations(
                self.federation, opened_digest(self.opening.transcript, chosen), sorted(self.colluders)
            )
            signed = dict(zip(bought["confirmed_by"], bought["confirmations"], strict=True))
            signed |= self.confirmed.get(chosen, {})
        by = tuple(sorted(signed))
        asked = forged_open(
            self.federation,
            self.at_work,
            member,
            chosen,
            confirmed_by=by,
            confirmations=tuple(signed[who] for who in by),
        )
        reply, _ = self.federation.machines[member].answer(asked)
        wanted = secrets_of(chosen, self.cohort, self.neighbours)
        for secret, share in zip(wanted, Shares.decode(reply).shares, strict=True):
            self.found.setdefault(secret, {})[member] = share

    def reads(self, partners: Iterable[int]) -> Words | None:
        """The victim's words, if each of its secrets got as many shares as the quorum, for whatever set each."""
        quorum = self.federation.roster.parameters.opening_quorum
        points = dict(zip(self.at_work.members, self.at_work._edges.points, strict=True))
        masks = []
        for other in (VICTIM, *partners):
            shares = sorted(self.found.get((VICTIM, other), {}).items())[:quorum]
            if len(shares) < quorum:
                return None
            rows = np.frombuffer(b"".join(share for _, share in shares), dtype=np.uint8).reshape(quorum, 1, 32)
            secret = interpolate([points[member] for member, _ in shares], rows)[0].tobytes()
            masks.append((-1 if other == VICTIM else -sign(VICTIM, other), secret))
        words = [part.copy() for part in self.federation.codec.layout.split(self.uploads[VICTIM][1])]
        add_streams(*words, masks)
        return words[0].tolist(), words[1].tolist()

    def freed(self) -> list[frozenset[int]]:
        """Sets of honest departments whose sums follow from all shares that it was given and all it holds itself."""
        honest = [who for who in self.cohort if who not in self.colluders]
        given = {secret: {*shares, *self.colluders} for secret, shares in self.found.items()}
        quorum = self.federation.roster.parameters.opening_quorum
        return freed(honest, self.uploads, given, quorum, self.neighbours)


def few_others(n: int) -> dict[int, set[int]]:
    """By member: the victim and two others, in turn.

    n = 10, quorum 6: each of nine others stands in 2 or 3 of ten sets, so 7 or 8 members give their share of its
    pairwise secret, and 6 are enough.
    """
    others = list(range(1, n))
    return {
        member: {VICTIM, others[2 * member % len(others)], others[(2 * member + 1) % len(others)]}
        for member in range(n)
    }


def around_the_ring(federation: LargeFederation) -> dict[int, set[int]]:
    """By member: all but the victim's neighbours, and every third of these.

    That is 6 of any 18 in a row, where 5 must be.  Of 40 members 26 or 27 leave a given neighbour out, and 25 are
    enough.
    """
    neighbours = set(federation.graph.neighbours(VICTIM))
    place = {who: at for at, who in enumerate(federation.graph.order)}
    in_a_row = sorted(neighbours, key=lambda who: (place[who] - place[VICTIM]) % federation.n)
    far = set(range(federation.n)) - neighbours
    return {member: far | set(in_a_row[at % 3 :: 3]) for at, member in enumerate(federation.committee)}


def attack(n: int) -> tuple[Coordinator, dict[int, set[int]], list[int]]:
    """A coordinator without any colluder, the set for each member, and the victim's neighbours."""
    if n <= 32:
        return Coordinator(Federation(n)), few_others(n), list(range(1, n))
    federation = LargeFederation(n)
    lying = Coordinator(federation, neighbours=federation.graph.neighbours)
    return lying, around_the_ring(federation), list(federation.graph.neighbours(VICTIM))


@pytest.mark.parametrize("n", [8, 10, 16, 100])
def test_without_confirmations_a_coordinator_alone_reads_one_department(n, monkeypatch):
    """The attack is real: where members do not ask for confirmations it yields the victim's encoded vector, exactly."""
    monkeypatch.setattr(department, "require_confirmed", lambda *asked: None)
    lying, sets, neighbours = attack(n)
    for member, survivors in sets.items():
        lying.open(member, survivors)
    assert lying.reads(neighbours) == lying.federation.ring_sum([VICTIM], lying.opening)
    assert frozenset({VICTIM}) in lying.freed()


@pytest.mark.parametrize("n", [8, 10, 16, 100])
def test_with_them_it_gets_no_share_at_all(n):
    """Each member confirms the set that it is asked about, and not one of these sets has a quorum's confirmations."""
    lying, sets, neighbours = attack(n)
    for member, survivors in sets.items():
        lying.confirm(member, survivors)
    everybodys = {member: one for signed in lying.confirmed.values() for member, one in signed.items()}
    assert len(everybodys) >= lying.federation.roster.parameters.opening_quorum
    for member, survivors in sets.items():
        with pytest.raises(NotConfirmed):
            lying.open(member, survivors)
        with pytest.raises(NotConfirmed):  # everybody's, which are of other sets
            lying.open(member, survivors, everybodys)
        with pytest.raises(SecondSurvivorSet):
            lying.open(member, lying.cohort)
    assert lying.found == {}
    assert lying.reads(neighbours) is None


def test_one_set_is_confirmed_and_who_confirmed_it_gives_nothing_away_about_who_is_outside():
    """n = 10, t_c = 1, quorum 6: five honest members and a colluder confirm all but the victim.

    They give shares of what the victim shares with the others; the four that are left give its own secret, for the
    whole cohort.  With the colluder's that is five shares of it, one too few.
    """
    lying = Coordinator(Federation(10), colluders=[9])
    without = set(range(1, 10))
    for member in range(1, 6):
        lying.confirm(member, without)
    for member in range(1, 6):
        lying.open(member, without)
    for member in (0, 6, 7, 8):
        lying.open(member, lying.cohort)
    assert len(lying.found[VICTIM, VICTIM]) == 4
    assert lying.freed() == [frozenset(range(1, 9))]  # the honest ones of the set that was confirmed, and no other
    assert lying.reads(range(1, 10)) is None


@pytest.mark.parametrize("how", ["too few", "one twice", "a bystander", "noise", "of the whole cohort", "nobody's"])
def test_confirmations_that_are_not_a_quorum_of_members_on_this_very_set_open_nothing(how):
    lying = Coordinator(Federation(5))
    chosen = (0, 1, 2, 3)
    opened = opened_digest(lying.opening.transcript, chosen)
    good = confirmations(lying.federation, opened, range(4))
    signed = dict(zip(range(4), good["confirmations"], strict=True))
    other = confirmations(lying.federation, opened_digest(lying.opening.transcript, lying.cohort), range(4))
    wrong: dict[str, dict[int, bytes]] = {
        "too few": {who: signed[who] for who in range(3)},
        "one twice": signed | {3: signed[2]},
        "a bystander": {who: signed[who] for who in range(3)} | {7: signed[3]},
        "noise": signed | {2: bytes(64)},
        "of the whole cohort": dict(zip(range(4), other["confirmations"], strict=True)),
        "nobody's": {},
    }
    with pytest.raises(NotConfirmed):
        lying.open(0, chosen, wrong[how])
    before = lying.federation.machines[0].memory
    assert before.commitments == ()
    lying.open(0, chosen, signed)
    assert lying.federation.machines[0].memory.commitments != ()


SUBSETS = st.sets(st.integers(0, 5), min_size=3, max_size=6)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    seed=st.integers(0, 3),
    chosen=st.lists(SUBSETS, min_size=1, max_size=3),
    asked=st.lists(st.tuples(st.sampled_from(["confirm", "open"]), st.integers(0, 5), st.integers(0, 3)), max_size=60),
    colluder=st.sampled_from([None, 5]),
)
def test_whatever_is_asked_of_whom_at_most_one_set_is_freed_and_it_is_large_enough(seed, chosen, asked, colluder):
    """Six departments, quorum 4, three survivors at least, with one colluder or none: any order of any requests."""
    lying = Coordinator(Federation(6, seed=seed), colluders=[] if colluder is None else [colluder])
    sets = [set(lying.cohort), *chosen]
    for what, member, which in asked:
        if member in lying.colluders:
            continue
        with suppress(PeerError):
            (lying.confirm if what == "confirm" else lying.open)(member, sets[which % len(sets)])
    found = lying.freed()
    event(f"{len(found)} set(s) freed")
    assert len(found) <= 1
    assert all(len(one) >= 3 - len(lying.colluders) for one in found)
    assert all(one | lying.colluders in [set(s) | lying.colluders for s in sets] for one in found)


@given(n=st.integers(3, 1000), data=st.data())
def test_two_quorums_of_confirmations_share_an_honest_member_and_leave_too_few_for_another_set(n: int, data: Any):
    """For every size and number of colluders: q = tau - t_c honest members confirm a set, and fewer than q are left."""
    p = Parameters.for_size(n, data.draw(st.integers(0, min(n - 2, 25))) if n <= 32 else None)
    m = p.committee or n
    q = p.opening_quorum - p.colluders
    honest = m - p.colluders
    assert q >= 1
    assert honest - q < q
