"""Introductions among more than 32 departments: nobody is sent more greetings than it needs."""

from __future__ import annotations

import os

from commonroot.common import parcel
from commonroot.common.greetings import Introduce
from commonroot.common.parcel import Parcel
from commonroot.common.roster import Member, Parameters, Roster
from commonroot.common.secure_sum.agreement import AgreementKey
from commonroot.common.secure_sum.committee import peers_of
from commonroot.common.secure_sum.epoch import EpochSetup, countersigners
from commonroot.common.secure_sum.memory import DepartmentMemory
from commonroot.common.secure_sum.primitives import Identity
from commonroot.server.introductions import Introductions
from commonroot.server.journal import Journal

N = 100


class Departments:
    """Setups of all departments behind an exchange that reaches those who are up."""

    def __init__(self) -> None:
        self.coordinator = Identity.generate(os.urandom)
        self.identities = [Identity.generate(os.urandom) for _ in range(N)]
        keys = [AgreementKey.generate(os.urandom) for _ in range(N)]
        self.roster = Roster(
            federation="f",
            epoch=1,
            coordinator=self.coordinator.public.hex(),
            parameters=Parameters.for_size(N),
            departments=tuple(
                Member.signed(f"d{at}", identity, key.public, f"node-{at}")
                for at, (identity, key) in enumerate(zip(self.identities, keys, strict=True))
            ),
            expires=2**40,
        )
        pairs = zip(self.identities, keys, strict=True)
        self.setups = [EpochSetup.begin(self.roster, identity, key) for identity, key in pairs]
        self.memories = [DepartmentMemory.begin(self.roster, at, os.urandom) for at in range(N)]
        #: Whose greetings each introduction held, by whom it was sent to.
        self.told: dict[int, list[tuple[int, ...]]] = {}

    def ask(self, parcels, *, seconds, accept, on_fault=None):
        for who, request in parcels.items():
            if request.kind == parcel.GREET:
                reply = Parcel(parcel.GREETING, *self.setups[who].greet(self.roster, request.head))
            else:
                self.told.setdefault(who, []).append(Introduce.decode(request.head).who)
                self.setups[who], self.memories[who] = self.setups[who].introduce(
                    self.roster, request.head, request.body, self.memories[who]
                )
                reply = Parcel(parcel.INTRODUCED, self.setups[who].introduced(self.identities[who]))
            accept(who, reply)
        return set()


def refused(*about: object) -> None:
    raise AssertionError(about)


def introductions(at_work: Departments, journal: Journal) -> Introductions:
    return Introductions(
        roster=at_work.roster,
        identity=at_work.coordinator,
        journal=journal,
        exchange=at_work,
        on_reply=lambda reply: None,
        on_fault=refused,
        on_exhibit=refused,
        on_event=lambda kind, facts: None,
    )


def test_each_department_gets_its_peers_greetings_and_as_many_others_as_must_have_countersigned(tmp_path):
    """n = 100: t_c = 8, m = 40, k = 36; 55 = ⌊(100 + 8)/2⌋ + 1 must have countersigned, oneself included."""
    at_work = Departments()
    assert countersigners(at_work.roster) == 55
    journal = Journal(f"sqlite:///{tmp_path / 'journal.db'}", federation="f")
    made = introductions(at_work, journal)
    present = dict.fromkeys(range(N), "life")
    some = dict.fromkeys(range(54), "life")
    made.bring_together(some, seconds=1, floor=50)
    assert at_work.told == {}  # 54 countersignatures would do for nobody
    assert made.cohort(some) == ()
    made.bring_together(present, seconds=1, floor=50)
    assert made.cohort(present) == tuple(range(N))
    for at, portions in at_work.told.items():
        (who,) = portions
        peers = set(peers_of(at_work.roster, at))
        assert peers <= set(who)
        assert len(who) == max(len(peers), 54)
    assert {len(portions[0]) for portions in at_work.told.values()} > {99}
    again = dict(at_work.told)
    made.bring_together(present, seconds=1, floor=50)
    assert at_work.told == again  # nobody lacks anything
    journal.close()


def test_who_comes_late_is_introduced_to_its_peers_alone(tmp_path):
    at_work = Departments()
    journal = Journal(f"sqlite:///{tmp_path / 'journal.db'}", federation="f")
    made = introductions(at_work, journal)
    late = next(at for at in range(N) if len(peers_of(at_work.roster, at)) < N - 1)
    first = {at: "life" for at in range(N) if at != late}
    made.bring_together(first, seconds=1, floor=50)
    assert made.cohort(first) == tuple(sorted(first))
    at_work.told.clear()
    everyone = first | {late: "life"}
    assert made.cohort(everyone) == tuple(sorted(first))
    made.bring_together(everyone, seconds=1, floor=50)
    assert made.cohort(everyone) == tuple(range(N))
    assert set(at_work.told) == {late, *peers_of(at_work.roster, late)}
    assert {who for at, portions in at_work.told.items() if at != late for who in portions} == {(late,)}
    journal.close()
