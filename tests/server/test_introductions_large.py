"""Introductions among more than 32 departments: nobody is sent more greetings than it needs."""

from __future__ import annotations

import os
import types

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

N = 60


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


def test_each_department_gets_its_peers_greetings_once_enough_have_countersigned(tmp_path):
    """n = 60: t_c = 6, m = 40, k = 28; 34 = ⌊(60 + 6)/2⌋ + 1 must have countersigned, oneself included."""
    at_work = Departments()
    assert countersigners(at_work.roster) == 34
    journal = Journal(f"sqlite:///{tmp_path / 'journal.db'}", federation="f", folder=tmp_path)
    made = introductions(at_work, journal)
    present = dict.fromkeys(range(N), "life")
    some = dict.fromkeys(range(33), "life")
    made.bring_together(some, seconds=1, floor=30)
    assert at_work.told == {}  # 33 countersignatures would do for nobody
    assert made.cohort(some) == ()
    made.bring_together(present, seconds=1, floor=30)
    assert made.cohort(present) == tuple(range(N))
    for at, portions in at_work.told.items():
        (who,) = portions
        peers = set(peers_of(at_work.roster, at))
        assert peers <= set(who)
        assert len(who) == max(len(peers), 33)
    assert {len(portions[0]) for portions in at_work.told.values()} > {59}
    again = dict(at_work.told)
    made.bring_together(present, seconds=1, floor=30)
    assert at_work.told == again  # nobody lacks anything
    journal.close()


def test_who_comes_late_is_introduced_to_its_peers_alone(tmp_path):
    at_work = Departments()
    journal = Journal(f"sqlite:///{tmp_path / 'journal.db'}", federation="f", folder=tmp_path)
    made = introductions(at_work, journal)
    late = next(at for at in range(N) if len(peers_of(at_work.roster, at)) < N - 1)
    first = {at: "life" for at in range(N) if at != late}
    made.bring_together(first, seconds=1, floor=30)
    assert made.cohort(first) == tuple(sorted(first))
    at_work.told.clear()
    everyone = first | {late: "life"}
    assert made.cohort(everyone) == tuple(sorted(first))
    made.bring_together(everyone, seconds=1, floor=30)
    assert made.cohort(everyone) == tuple(range(N))
    assert set(at_work.told) == {late, *peers_of(at_work.roster, late)}
    assert {who for at, portions in at_work.told.items() if at != late for who in portions} == {(late,)}
    journal.close()


def test_others_greetings_are_added_until_as_many_as_must_have_countersigned(tmp_path):
    """n = 400: t_c = 16, m = 64, k = 68; 209 must have countersigned, and a bystander has some 120 peers."""
    identity = Identity.generate(os.urandom)
    member = Member.model_construct(identity="", name="d")
    roster = Roster.model_construct(
        federation="f",
        epoch=1,
        coordinator="",
        parameters=Parameters.for_size(400),
        departments=(member,) * 400,
        expires=0,
    )
    journal = Journal(f"sqlite:///{tmp_path / 'journal.db'}", federation="f", folder=tmp_path)
    at_work = types.SimpleNamespace(roster=roster, coordinator=identity)
    made = introductions(at_work, journal)
    made._greetings = {at: (bytes(1000 - at), b"") for at in range(400)}
    bystander = next(at for at in range(400) if len(peers_of(roster, at)) < 399)
    peers = set(peers_of(roster, bystander))
    letters = made._letters_for({bystander}, peers)
    assert len(letters) + 1 == countersigners(roster) == 209
    assert peers < set(letters)
    others = sorted(set(range(400)) - peers - {bystander})
    assert set(letters) - peers == set(others[-(208 - len(peers)) :])  # the shortest: those of the highest numbers
    some = set(sorted(peers)[:50])
    assert set(made._letters_for({bystander} | some, peers)) == set(letters) - some
    journal.close()
