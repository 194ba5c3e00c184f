"""Epochs on real folders, stores, journal and rounds: meeting, coming late, coming and going, and what stays behind.

In a federation of five, t_c = 1 and an opening quorum is 4 = ⌊(5 + 1)/2⌋ + 1; of four, 3; of three (t_c = 0), 2.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from federation import small
from typer.testing import CliRunner

from commonroot.client import setup as joining
from commonroot.client.cli import app as department_cli
from commonroot.client.exhibits import EXHIBITS_KEPT
from commonroot.client.folder import DepartmentFolder
from commonroot.client.setup import join, renew
from commonroot.client.store import DepartmentStore
from commonroot.common import parcel
from commonroot.common.errors import ConfigError, EpochRollback, SplitRoster, WrongFederation
from commonroot.common.evidence import Exhibit
from commonroot.common.greetings import Greet, Greeting, Introduce, put_letters, take_letters
from commonroot.common.manifest import flatten
from commonroot.common.messages import Confirm, Masked, Open, Previous, Refusal, RoundOpen, Shares
from commonroot.common.parcel import Parcel
from commonroot.common.roster import Roster, SignedRoster
from commonroot.common.secure_sum.agreement import PRIVATE_BYTES, AgreementKey
from commonroot.common.secure_sum.epoch import EpochSetup
from commonroot.common.secure_sum.memory import DepartmentMemory
from commonroot.common.secure_sum.primitives import sha256
from commonroot.files import read_secret
from commonroot.server.backbones import BackboneStore
from commonroot.server.cli import app as coordinator_cli
from commonroot.simulations.founding import Federation, next_epoch
from commonroot.simulations.network import Crossing, MemoryNetwork, drop, lie


class Interrupted(Exception):
    """The coordinator stops in the middle of a run."""


def states(federation: Federation) -> tuple[str, list[str], int]:
    """State of the first run, of its rounds, and its newest version."""
    with small.journal_of(federation) as journal:
        return journal.runs()[0].state, [r.state for r in journal.rounds()], journal.versions(1)[-1].version


def cohorts(federation: Federation) -> list[list[str]]:
    """The cohort of every closed round."""
    with small.journal_of(federation) as journal:
        return [r.report["cohort"] for r in journal.rounds() if r.state == "closed"]


def bytes_of(folder: Path) -> bytes:
    """Everything that lies in a folder."""
    return b"\0".join(path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file())


def key_of(folder: DepartmentFolder) -> AgreementKey:
    return AgreementKey.from_bytes(read_secret(folder.root / "keys" / "agreement.key", length=PRIVATE_BYTES))


def occurs(secret: bytes, folder: Path) -> bool:
    """Raw or in hexadecimal."""
    found = bytes_of(folder)
    return secret in found or secret.hex().encode() in found


def setup_of(folder: DepartmentFolder, epoch: int = 1) -> EpochSetup:
    with small.store_of(folder) as store:
        return EpochSetup.from_bytes(store.setup(epoch))


def memory_of(folder: DepartmentFolder, epoch: int = 1) -> DepartmentMemory:
    with small.store_of(folder) as store:
        return DepartmentMemory.from_bytes(store.memory(epoch))


# -- coming late -------------------------------------------------------------------------------------------------------


def test_four_of_five_do_rounds_without_the_one_that_never_greeted(tmp_path):
    with small.ToyFederation(small.founded(tmp_path, departments=5), MemoryNetwork()) as at_work:
        for name in small.NAMES[:4]:
            at_work.start(name)
        at_work.queue()
        at_work.run()
        assert states(at_work.federation) == ("finished", ["closed"] * 3, 3)
        assert cohorts(at_work.federation) == [list(small.NAMES[:4])] * 3


@pytest.mark.parametrize("late", ["ash", "cedar", "elm"])
def test_one_that_comes_a_round_late_is_introduced_and_takes_part_from_then_on(late, tmp_path):
    """Lowest, middle and highest number: it encapsulates to all, some, none; every chain is in step at once."""
    with small.ToyFederation(small.founded(tmp_path, departments=5), MemoryNetwork()) as at_work:
        for name in small.NAMES:
            if name != late:
                at_work.start(name)
        at_work.queue()

        def comes(kind: str, facts: dict[str, Any]) -> None:
            if kind == "closed" and facts["round"] == 1:
                at_work.start(late)

        at_work.run(comes)
        assert states(at_work.federation) == ("finished", ["closed"] * 3, 3)
        early = [name for name in small.NAMES if name != late]
        assert cohorts(at_work.federation) == [early, list(small.NAMES), list(small.NAMES)]
        assert at_work.told("refused") == []


def test_a_greeting_that_is_withheld_from_one_department_keeps_the_two_out_of_one_cohort(tmp_path):
    """The coordinator never passes ash's greeting on to birch: birch refuses cohorts with ash, by name."""

    def withhold(crossing: Crossing) -> Parcel | None:
        if crossing.parcel.kind != parcel.INTRODUCE or crossing.department != "birch":
            return None
        told = Introduce.decode(crossing.parcel.head)
        letters = take_letters(crossing.parcel.body, len(told.who))
        kept = [(who, one) for who, one in zip(told.who, letters, strict=True) if who != 0]
        if not kept:
            return Parcel(parcel.INTRODUCE)
        body = put_letters((greeting.encode(), ciphertext) for _, (greeting, ciphertext) in kept)
        fields = {"roster": told.roster, "epoch": told.epoch, "who": tuple(who for who, _ in kept)}
        return Parcel(parcel.INTRODUCE, Introduce.signed(key, **fields, body=sha256(body)).encode(), body)

    federation = small.founded(tmp_path, departments=5)
    key = federation.coordinator.identity()
    with small.ToyFederation(federation, MemoryNetwork(weather=[lie(withhold)])) as at_work:
        at_work.start_all()
        at_work.queue()
        at_work.run()
        assert all(not {"ash", "birch"} <= set(cohort) for cohort in cohorts(federation))
        assert states(federation)[0] == "finished"
        # and had the coordinator put both into one cohort all the same:
        everybody = _opening(at_work, tuple(range(5)))
        reply = at_work.sessions["birch"].handle(everybody)
        assert Refusal.decode(reply.head).code == "CR50"


def _opening(at_work: small.ToyFederation, cohort: tuple[int, ...], round_number: int = 50) -> Parcel:
    """A round-open under the coordinator's good signature, like the last one but for its round and cohort."""
    with small.journal_of(at_work.federation) as journal:
        last = RoundOpen.decode(journal.rounds()[-1].opening)
        version = journal.versions(1)[last.version]
    state = BackboneStore(at_work.federation.coordinator.root / "backbones").read(version.file, version.digest)
    body = flatten(state, at_work.federation.charter.charter.broadcast)
    fields = {field.name: getattr(last, field.name) for field in dataclasses.fields(last)}
    fields |= {"round": round_number, "cohort": cohort}
    key = at_work.federation.coordinator.identity()
    return Parcel(parcel.ROUND_OPEN, RoundOpen.signed(key, **fields).encode(), body)


def test_before_a_quorum_countersigned_nothing_is_sent_under_a_roster(tmp_path):
    with small.running(tmp_path / "one", departments=4) as at_work:
        at_work.run()
        opening = _opening(at_work, (0, 1, 2, 3))
    fresh = tmp_path / "two"
    shutil.copytree(small._template(small.NAMES[:4], 3, 3, (8, 4), "auto"), fresh, dirs_exist_ok=True)
    with small.ToyFederation(small.opened(fresh), MemoryNetwork()) as at_work:
        at_work.start("ash")
        assert Refusal.decode(at_work.sessions["ash"].handle(opening).head).code == "CR51"
        assert at_work.told("training") == []


# -- the coordinator lies about greetings ------------------------------------------------------------------------------


def _flipped(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


LIES: dict[str, tuple[str, Callable[[bytes, bytes], tuple[bytes, bytes]]]] = {
    "head": ("CR21", lambda head, body: (_flipped(head, 10), body)),
    "body": ("CR34", lambda head, body: (head, _flipped(bytes(body), len(body) // 2))),
    "short": ("CR20", lambda head, body: (head[:-1], body)),
}


@pytest.mark.parametrize("what", sorted(LIES))
def test_an_introduction_that_was_tampered_with_is_refused_and_the_others_go_on(what, tmp_path):
    code, change = LIES[what]

    def tamper(crossing: Crossing) -> Parcel | None:
        if crossing.parcel.kind != parcel.INTRODUCE or crossing.department != "birch":
            return None
        return Parcel(parcel.INTRODUCE, *change(crossing.parcel.head, bytes(crossing.parcel.body)))

    with small.running(tmp_path, network=MemoryNetwork(weather=[lie(tamper)]), departments=5) as at_work:
        at_work.run()
        assert states(at_work.federation)[0] == "finished"
        assert all("birch" not in cohort for cohort in cohorts(at_work.federation))
        assert {facts["code"] for facts in at_work.told("refused")} == {code}


def test_a_department_whose_greeting_is_garbage_is_blamed_and_left_out_and_kept_as_evidence(tmp_path):
    def garbage(crossing: Crossing) -> Parcel | None:
        if crossing.parcel.kind != parcel.GREETING or crossing.department != "birch":
            return None
        return Parcel(parcel.GREETING, crossing.parcel.head, bytes(len(crossing.parcel.body)))

    with small.running(tmp_path, network=MemoryNetwork(weather=[lie(garbage)]), departments=5) as at_work:
        at_work.run()
        with small.journal_of(at_work.federation) as journal:
            assert {(f["department"], f["code"]) for f in journal.faults()} == {("birch", "CR54")}
            ((name, exhibit),) = journal.evidence()
        assert (name, exhibit.kind, exhibit.describe()["signed"]) == ("birch", parcel.GREETING, True)
        assert all("birch" not in cohort for cohort in cohorts(at_work.federation))


@pytest.mark.parametrize("kind", [parcel.GREET, parcel.GREETING, parcel.INTRODUCE, parcel.INTRODUCED])
def test_a_third_of_one_kind_of_parcel_lost_costs_time_and_nothing_else(kind, tmp_path):
    network = MemoryNetwork(seed=3, weather=[drop(0.34, kinds={kind})])
    with small.running(tmp_path, network=network, departments=4, attempts=12) as at_work:
        at_work.run()
        state, rounds, _ = states(at_work.federation)
        assert (state, rounds.count("closed")) == ("finished", 3)
        small.check_books(at_work.federation)


# -- keys are erased ---------------------------------------------------------------------------------------------------


def test_no_private_key_and_no_root_is_left_on_disk_once_all_have_met(tmp_path, monkeypatch):
    """Every byte of every department's folder is searched, write-ahead logs included, raw and in hexadecimal."""
    keys: dict[str, AgreementKey] = {}
    secrets: list[bytes] = []
    made = EpochSetup.begin.__func__
    real = EpochSetup._meet

    def begin(cls: type, roster: Roster, identity: Any, key: AgreementKey, peers: Any = None) -> EpochSetup:
        keys[roster.departments[roster.index_of(identity.public)].name] = key
        setup = made(cls, roster, identity, key, peers)
        secrets.extend((*setup.curve.values(), *setup.roots.values()))
        return setup

    def meet(self: EpochSetup, *about: Any) -> EpochSetup:
        after = real(self, *about)
        secrets.extend(after.roots.values())
        return after

    monkeypatch.setattr(EpochSetup, "begin", classmethod(begin))
    monkeypatch.setattr(EpochSetup, "_meet", meet)
    federation = next_epoch(small.founded(tmp_path, departments=4))
    assert set(keys) == set(small.NAMES[:4])
    for name, folder in federation.departments.items():
        assert not occurs(keys[name].curve, folder.root)
        assert occurs(keys[name].seed, folder.root) == (name != "ash")  # ash awaits nobody's ciphertext
    with small.ToyFederation(federation, MemoryNetwork()) as at_work:
        at_work.start_all()
        small.introduce(at_work)
        for name, folder in federation.departments.items():
            assert not occurs(keys[name].seed, folder.root)
            assert not any(occurs(secret, folder.root) for secret in set(secrets))
    assert len(set(secrets)) == 6 + 6  # for each pair what its higher end agreed on the curve, and the root


def test_the_chains_of_a_round_are_gone_from_disk_once_it_was_answered(tmp_path):
    with small.running(tmp_path, departments=3) as at_work:
        held: dict[str, list[bytes]] = {name: [] for name in at_work.sessions}

        def note(kind: str, facts: dict[str, Any]) -> None:
            if kind == "opening":
                for name, session in at_work.sessions.items():
                    held[name] += session._machine.memory.chains.rounds

        at_work.run(note)
        for name, folder in at_work.federation.departments.items():
            assert len(set(held[name])) == 9
            assert not any(occurs(key, folder.root) for key in held[name])


def test_joining_the_next_epoch_erases_the_chains_of_the_last(tmp_path):
    with small.running(tmp_path, departments=3) as at_work:
        at_work.run()
        chains = {name: session._machine.memory.chains for name, session in at_work.sessions.items()}
    for name, folder in at_work.federation.departments.items():
        assert all(occurs(key, folder.root) for key in chains[name].rounds)
    later = next_epoch(at_work.federation)
    for name, folder in later.departments.items():
        assert not any(occurs(key, folder.root) for key in (*chains[name].rounds, *chains[name].blocks))
        with small.store_of(folder) as store:
            assert (store.memory(1), store.setup(1)) == (None, None)


# -- coming and going --------------------------------------------------------------------------------------------------


def run_until(at_work: small.ToyFederation, closed: int) -> None:
    """Run until so many rounds are closed; then the coordinator is gone."""

    def stop(kind: str, facts: dict[str, Any]) -> None:
        if kind == "closed" and facts["round"] == closed:
            raise Interrupted

    with pytest.raises(Interrupted):
        at_work.run(stop)


def second_epoch(federation: Federation, **moves: Any) -> Federation:
    later = next_epoch(federation, **moves)
    for at, name in enumerate(moves.get("coming", {})):
        section = small.data_section(name)
        small.write_table(later.departments[name].root / "rows.npz", *small.table(9 + at, 30, section.task))
    return later


@pytest.fixture
def moved(tmp_path: Path) -> Iterator[tuple[small.ToyFederation, Federation, list[Parcel]]]:
    """Ash, birch, cedar and dogwood did two rounds of three; then ash left and elm came."""
    seen: list[Parcel] = []

    def watch(crossing: Crossing) -> Parcel | None:
        if crossing.department == "birch":
            seen.append(crossing.parcel)
        return None

    with small.running(tmp_path, network=MemoryNetwork(weather=[lie(watch)]), departments=4) as at_work:
        run_until(at_work, 2)
    later = second_epoch(at_work.federation, leaving={"ash"}, coming={"elm": small.data_section("elm")})
    with small.ToyFederation(later, MemoryNetwork()) as after:
        after.start_all()
        yield after, at_work.federation, seen


def test_a_run_goes_on_in_the_next_epoch_with_who_stayed_and_who_came(moved):
    """Version and round numbers continue; numbers of departments do not: birch was 1 and is 0."""
    after, _, _ = moved
    after.run()
    assert states(after.federation) == ("finished", ["closed"] * 3, 3)
    assert cohorts(after.federation) == [["ash", "birch", "cedar", "dogwood"]] * 2 + [
        ["birch", "cedar", "dogwood", "elm"]
    ]
    with small.journal_of(after.federation) as journal:
        assert [r.round for r in journal.rounds()] == [1, 2, 3]
        assert [RoundOpen.decode(r.opening).epoch for r in journal.rounds()] == [1, 1, 2]
    assert after.told("refused") == []


def test_messages_of_the_last_epoch_are_refused(moved):
    after, _, seen = moved
    replayed = [p for p in seen if p.kind in (parcel.GREET, parcel.INTRODUCE, parcel.ROUND_OPEN, parcel.OPEN)]
    assert {p.kind for p in replayed} == {parcel.GREET, parcel.INTRODUCE, parcel.ROUND_OPEN, parcel.OPEN}
    small.introduce(after)
    for request in replayed:
        reply = after.sessions["birch"].handle(request)
        code = Refusal.decode(reply.head).code
        assert code == ("CR33" if request.kind == parcel.OPEN else "CR23"), request.kind


def test_one_that_left_is_refused_by_those_that_stayed_and_joins_no_more(moved, tmp_path):
    after, before, _ = moved
    ash = before.departments["ash"]
    with pytest.raises(WrongFederation, match="not in epoch 2"):
        join(ash, after.federation.coordinator.root / "roster.json", os.urandom)
    greeting = setup_of(ash)
    key = after.federation.coordinator.identity()
    roster = after.federation.coordinator.roster()
    body = put_letters([(greeting.greeting, b"")])
    told = Introduce.signed(key, roster=roster.digest, epoch=2, who=(1,), body=sha256(body))
    reply = after.sessions["birch"].handle(Parcel(parcel.INTRODUCE, told.encode(), body))
    assert Refusal.decode(reply.head).code == "CR21"  # it is not cedar's signature


def test_a_run_stops_with_a_reason_when_another_roster_is_signed_and_is_resumed_under_it(tmp_path):
    with small.running(tmp_path, departments=4) as at_work:
        coordinator = at_work.federation.coordinator

        def signs(kind: str, facts: dict[str, Any]) -> None:
            if kind == "closed" and facts["round"] == 1:
                for folder in at_work.federation.departments.values():
                    renew(folder, os.urandom)
                requests = [folder.root / "request.json" for folder in at_work.federation.departments.values()]
                coordinator.sign_roster(requests, colluders=None, survivors_min=None)

        at_work.run(signs)
        assert states(at_work.federation) == ("stopped", ["closed"], 1)
        with small.journal_of(at_work.federation) as journal:
            assert "epoch 1 has ended" in journal.runs()[0].reason
            journal.resume(1)
    # departments that have not joined yet refuse the new epoch, and the run waits for them in vain
    with small.ToyFederation(at_work.federation, MemoryNetwork()) as early:
        early.start_all()
        early.run()
        assert states(at_work.federation)[0] == "stopped"
        assert {facts["code"] for facts in early.told("refused")} == {"CR23"}
    with small.journal_of(at_work.federation) as journal:
        journal.resume(1)
    for folder in at_work.federation.departments.values():
        join(folder, coordinator.root / "roster.json", os.urandom)
    with small.ToyFederation(at_work.federation, MemoryNetwork()) as later:
        later.start_all()
        later.run()
        assert states(at_work.federation) == ("finished", ["closed"] * 3, 3)


def test_a_backbone_opened_for_one_survivor_set_is_opened_for_no_other_in_the_next_epoch_either(tmp_path):
    """Round 1 is fixed and answered by all, but no answer arrives.  Then ash leaves: the others answered for a set with
    ash and contribute to version 0 for no set without it.  The sums' difference would be ash's update.
    """
    silence = drop(1.0, kinds={parcel.SHARES})
    with small.running(tmp_path, network=MemoryNetwork(weather=[silence]), departments=4) as at_work:
        at_work.run()
        assert states(at_work.federation) == ("stopped", ["fixed"], 0)
    later = second_epoch(at_work.federation, leaving={"ash"})
    with small.journal_of(later) as journal:
        journal.resume(1)
    with small.ToyFederation(later, MemoryNetwork()) as after:
        after.start_all()
        after.run()
        assert states(later)[0] == "stopped"
        assert states(later)[2] == 0
        codes = {facts["code"] for facts in after.told("refused") if facts["request"] == parcel.ROUND_OPEN}
        assert codes == {"CR32"}
        assert after.told("training") == []
        with small.journal_of(later) as journal:
            assert journal.rounds()[0].reason == "its epoch ended before it was over"


@pytest.mark.parametrize(("departments", "goes_on"), [(5, True), (4, False)])
def test_a_version_begun_in_the_last_epoch_is_taken_up_only_if_quorums_meet(departments, goes_on, tmp_path):
    """Uploads of round 1 are lost; then ash leaves.  5 → 4: (4 - 1) + 3 > 4 + 1, quorums share an honest department.
    4 → 3: (3 - 1) + 2 = 3 + 1: others might have opened version 0 unseen, so who masked for it does so no more.
    """
    silence = drop(1.0, kinds={parcel.MASKED})
    with small.running(tmp_path, network=MemoryNetwork(weather=[silence]), departments=departments) as at_work:
        at_work.run()
        assert states(at_work.federation) == ("stopped", ["lost"] * 3, 0)
    later = second_epoch(at_work.federation, leaving={"ash"})
    with small.journal_of(later) as journal:
        journal.resume(1)
    with small.ToyFederation(later, MemoryNetwork()) as after:
        after.start_all()
        after.run()
        assert states(later)[0] == ("finished" if goes_on else "stopped")
        assert {facts["code"] for facts in after.told("refused") if facts["request"] == parcel.ROUND_OPEN} == (
            set() if goes_on else {"CR32"}
        )


def test_the_same_survivor_set_may_be_opened_again_in_the_next_epoch(tmp_path):
    """As before, but nobody leaves: the set is the same by identity, though every key is another."""
    silence = drop(1.0, kinds={parcel.SHARES})
    with small.running(tmp_path, network=MemoryNetwork(weather=[silence]), departments=4) as at_work:
        at_work.run()
    later = second_epoch(at_work.federation)
    with small.journal_of(later) as journal:
        journal.resume(1)
    with small.ToyFederation(later, MemoryNetwork()) as after:
        after.start_all()
        after.run()
        assert states(later) == ("finished", ["lost", "closed", "closed", "closed"], 3)


# -- rosters -----------------------------------------------------------------------------------------------------------


def test_an_older_roster_is_refused_and_the_same_one_is_a_repeat(tmp_path):
    federation = small.founded(tmp_path, departments=3)
    old = tmp_path / "old.json"
    old.write_bytes((federation.coordinator.root / "roster.json").read_bytes())
    later = next_epoch(federation)
    ash = later.departments["ash"]
    with pytest.raises(EpochRollback, match="epoch 1 was offered, but this department has joined epoch 2"):
        join(ash, old, os.urandom)
    greeting = setup_of(ash, 2).greeting
    join(ash, later.coordinator.root / "roster.json", os.urandom)
    assert setup_of(ash, 2).greeting == greeting


def test_a_second_roster_of_one_epoch_is_refused_and_kept(tmp_path):
    federation = small.founded(tmp_path, departments=3)
    roster = federation.coordinator.roster()
    other = Roster.model_validate(roster.model_dump() | {"expires": roster.expires + 1})
    path = tmp_path / "other.json"
    path.write_bytes(SignedRoster.sign(other, federation.coordinator.authority()).to_json())
    ash = federation.departments["ash"]
    with pytest.raises(SplitRoster):
        join(ash, path, os.urandom)
    assert ash.roster().digest == roster.digest
    assert (ash.root / "roster-1-other.json").read_bytes() == path.read_bytes()
    with small.store_of(ash) as store:
        assert store.ledger()[-1].facts["code"] == "CR52"
    shown = json.loads(CliRunner().invoke(department_cli, ["evidence", str(ash.root), "--json"]).stdout)
    assert shown["rosters"] == [
        {"epoch": 1, "file": str(ash.root / "roster-1-other.json"), "roster": other.digest.hex(), "signed": True}
    ]


def test_a_roster_that_expired_or_was_made_of_spent_keys_is_refused(tmp_path, monkeypatch):
    federation = small.founded(tmp_path, departments=3)
    requests = [folder.root / "request.json" for folder in federation.departments.values()]
    with pytest.raises(ConfigError, match="keys are erased: ash, birch, cedar"):
        federation.coordinator.sign_roster(requests, colluders=None, survivors_min=None)
    monkeypatch.setattr("commonroot.client.setup.time.time", lambda: 1e11)
    with pytest.raises(ConfigError, match="expired"):
        join(federation.departments["ash"], federation.coordinator.root / "roster.json", os.urandom)


def test_renewing_twice_makes_the_same_request_and_leaves_the_epoch_alone(tmp_path):
    with small.running(tmp_path, departments=3) as at_work:
        ash = at_work.federation.departments["ash"]
        first = renew(ash, os.urandom).read_bytes()
        key = key_of(ash)
        assert renew(ash, os.urandom).read_bytes() == first
        assert key_of(ash) == key
        roster = at_work.federation.coordinator.root / "roster.json"
        at_work.kill("ash")
        join(ash, roster, os.urandom)  # a repeat for the current epoch
        assert key_of(ash) == key  # does not touch the next one's
        at_work.start("ash")
        at_work.run()
        assert states(at_work.federation)[0] == "finished"


# -- crashes -----------------------------------------------------------------------------------------------------------


class Killed(BaseException):
    """SIGKILL."""


@pytest.mark.parametrize(
    "point",
    ["store.begin_epoch", "setup.atomic_write", "setup.erase", "store._forget_replaced", "store._append"],
)
@pytest.mark.parametrize("when", ["before", "after"])
def test_joining_that_is_killed_anywhere_is_finished_by_joining_again(point, when, tmp_path, monkeypatch):
    federation = small.founded(tmp_path, departments=3)
    for folder in federation.departments.values():
        renew(folder, os.urandom)
    requests = [folder.root / "request.json" for folder in federation.departments.values()]
    federation.coordinator.sign_roster(requests, colluders=None, survivors_min=None)
    roster = federation.coordinator.root / "roster.json"
    ash = federation.departments["ash"]
    key = key_of(ash)
    owner, name = point.split(".")
    target: Any = DepartmentStore if owner == "store" else joining

    def mortal(original: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*args: Any, **fields: Any) -> Any:
            if when == "after":
                original(*args, **fields)
            raise Killed

        return wrapped

    with monkeypatch.context() as patch:
        patch.setattr(target, name, mortal(getattr(target, name)))
        with pytest.raises(Killed):
            join(ash, roster, os.urandom)
    if setup_is_there := _has_begun(ash):
        before = setup_of(ash, 2).greeting
        if ash.roster().epoch == 1:
            with pytest.raises(ConfigError, match="interrupted"):
                renew(ash, os.urandom)
    join(ash, roster, os.urandom)
    if setup_is_there:
        assert setup_of(ash, 2).greeting == before
    assert not (ash.root / "keys" / "agreement.key").exists()
    assert not occurs(key.curve, ash.root)
    assert ash.roster().epoch == 2


def _has_begun(folder: DepartmentFolder) -> bool:
    with small.store_of(folder) as store:
        return store.setup(2) is not None


# -- evidence ----------------------------------------------------------------------------------------------------------


def test_both_signed_openings_of_a_second_survivor_set_are_kept(tmp_path):
    seen: dict[str, Parcel] = {}

    def watch(crossing: Crossing) -> Parcel | None:
        if crossing.parcel.kind == parcel.OPEN:
            seen[crossing.department] = crossing.parcel
        return None

    with small.running(tmp_path, network=MemoryNetwork(weather=[lie(watch)]), departments=4) as at_work:
        at_work.run()
        asked = Open.decode(seen["ash"].head)
        key = at_work.federation.coordinator.identity()
        fields = {"transcript": asked.transcript, "round": asked.round, "confirmed_by": (), "confirmations": ()}
        fewer = Open.signed(key, **fields, survivors=asked.survivors[:3], boxes=asked.boxes[:3]).encode()
        for _ in range(2):
            at_work.sessions["ash"].handle(Parcel(parcel.OPEN, fewer))
        folder = at_work.federation.departments["ash"]
        with small.store_of(folder) as store:
            (exhibit,) = store.evidence()
        assert (exhibit.code, exhibit.head, exhibit.accepted) == ("CR27", fewer, seen["ash"].head)
        shown = CliRunner().invoke(department_cli, ["evidence", str(folder.root), "--json"])
        (one,) = json.loads(shown.stdout)["exhibits"]
        assert (one["round"], one["signed"], one["contradicts_signed"]) == (asked.round, True, True)
        told = CliRunner().invoke(department_cli, ["evidence", str(folder.root)]).stdout
        assert "CR27  open round 3: signed by" in told


def test_a_second_opening_of_one_backbone_and_a_false_result_are_kept_beside_what_they_contradict(tmp_path):
    with small.running(tmp_path, departments=4) as at_work:
        at_work.run()
        folder, session = at_work.federation.departments["ash"], at_work.sessions["ash"]
        opening = _opening(at_work, (0, 1, 2, 3))
        first = RoundOpen.decode(opening.head)
        key = at_work.federation.coordinator.identity()
        fields = {field.name: getattr(first, field.name) for field in dataclasses.fields(first)}
        result = RoundOpen.signed(key, **(fields | {"previous": Previous(3, bytes(32), bytes(32))}))
        session.handle(Parcel(parcel.ROUND_OPEN, result.encode(), opening.body))
        # the version of round 3 again, in round 50, and then another survivor set for it
        uploads = {name: one.handle(opening) for name, one in at_work.sessions.items()}
        assert {reply.kind for reply in uploads.values()} == {parcel.MASKED}
        boxes = tuple(Masked.decode(uploads[name].head).boxes[0] for name in small.NAMES[:3])
        fields = {"transcript": first.transcript, "round": 50, "survivors": (0, 1, 2)}
        other = Open.signed(key, **fields, boxes=boxes, confirmed_by=(), confirmations=()).encode()
        session.handle(Parcel(parcel.OPEN, other))
        session.handle(Parcel(parcel.CONFIRM, Confirm.signed(key, **fields).encode()))
        with small.store_of(folder) as store:
            exhibits = store.evidence()
        kinds = [(exhibit.code, exhibit.kind) for exhibit in exhibits]
        assert kinds == [("CR35", parcel.ROUND_OPEN), ("CR32", parcel.OPEN), ("CR32", parcel.CONFIRM)]
        for exhibit in exhibits:
            shown = exhibit.describe()
            assert (shown["signed"], shown["contradicts_signed"]) == (True, True)
            assert Open.decode(exhibit.accepted).round == 3


def test_what_the_coordinator_did_not_sign_is_not_kept_and_neither_is_a_repeat(tmp_path):
    seen: list[Parcel] = []

    def watch(crossing: Crossing) -> Parcel | None:
        if crossing.department == "ash" and crossing.direction == "to-department":
            seen.append(crossing.parcel)
        return None

    with small.running(tmp_path, network=MemoryNetwork(weather=[lie(watch)]), departments=3) as at_work:
        at_work.run()
        session = at_work.sessions["ash"]
        for request in seen:
            session.handle(request)
            session.handle(Parcel(request.kind, _flipped(request.head, 12), request.body))
        with small.store_of(at_work.federation.departments["ash"]) as store:
            assert store.evidence() == []
        assert at_work.told("refused")


def test_evidence_is_bounded_and_the_first_exhibits_stay(tmp_path):
    store = DepartmentStore(tmp_path, federation="f", department="d")
    for at in range(EXHIBITS_KEPT + 5):
        kept = store.keep_exhibit(Exhibit(0.0, "open", "CR27", "00", bytes([at]), b"", "open", b""))
        assert kept == (at < EXHIBITS_KEPT)
    assert store.keep_exhibit(Exhibit(0.0, "open", "CR32", "00", b"\0", b"", "open", b""))
    assert not store.keep_exhibit(Exhibit(0.0, "open", "CR35", "00", bytes((1 << 20) + 1), b"", "open", b""))
    assert [exhibit.head for exhibit in store.evidence()][:3] == [b"\0", b"\1", b"\2"]
    store.close()


def test_signed_shares_that_were_never_dealt_are_kept_by_the_coordinator(tmp_path):
    federation = small.founded(tmp_path, departments=5)
    key = federation.departments["ash"].identity()

    def other(crossing: Crossing) -> Parcel | None:
        if crossing.parcel.kind != parcel.SHARES or crossing.department != "ash":
            return None
        told = Shares.decode(crossing.parcel.head)
        wrong = tuple(bytes(b ^ 0x55 for b in share) for share in told.shares)
        fields = {"transcript": told.transcript, "member": told.member, "opened": told.opened, "shares": wrong}
        return Parcel(parcel.SHARES, Shares.signed(key, **fields).encode())

    with small.ToyFederation(federation, MemoryNetwork(weather=[lie(other)])) as at_work:
        at_work.start_all()
        at_work.queue()
        at_work.run()
        with small.journal_of(federation) as journal:
            kept = journal.evidence()
        assert {(name, exhibit.code, exhibit.kind) for name, exhibit in kept} == {("ash", "CR30", parcel.SHARES)}
        shown = CliRunner().invoke(coordinator_cli, ["evidence", str(federation.coordinator.root), "--json"])
        assert all(one["signed"] for one in json.loads(shown.stdout)["exhibits"])


def test_a_greeting_is_the_same_each_time_it_is_asked_for(tmp_path):
    with small.ToyFederation(small.founded(tmp_path, departments=3), MemoryNetwork()) as at_work:
        at_work.start("birch")
        roster = at_work.federation.coordinator.roster()
        key = at_work.federation.coordinator.identity()
        asked = Parcel(parcel.GREET, Greet.signed(key, roster=roster.digest, epoch=1).encode())
        first = at_work.sessions["birch"].handle(asked)
        at_work.kill("birch")
        at_work.start("birch")
        assert at_work.sessions["birch"].handle(asked) == first
        greeting = Greeting.decode(first.head)
        assert (greeting.sender, greeting.to, len(first.body)) == (1, (2,), 1088)
