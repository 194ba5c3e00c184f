"""What departments agree to, in whole runs: offers, policies, withdrawing, pausing, leaving."""

from __future__ import annotations

import os
from contextlib import closing
from pathlib import Path

import pytest
from federation import small

from commonroot.client.consent import (
    Desk,
    approve,
    approved_before,
    differences,
    listed,
    plain_words,
    read_charter,
    refuse,
    withdraw,
)
from commonroot.client.policy import FILE
from commonroot.client.setup import join
from commonroot.client.standing import carry_out, leave, pause, resume, standing_of
from commonroot.client.store import LEAVING, DepartmentStore
from commonroot.common import parcel
from commonroot.common.charter import SignedCharter
from commonroot.common.errors import ConfigError, HasLeft, NotApproved, OutsidePolicy
from commonroot.common.messages import Goodbye, Offer, Refusal
from commonroot.common.parcel import Parcel
from commonroot.server.exchange import Exchange
from commonroot.server.offers import Offers
from commonroot.simulations.network import MemoryNetwork


class Deciding(small.ToyFederation):
    """Departments that read their policies, as daemons do."""

    def start(self, name: str) -> None:
        super().start(name)
        session = self.sessions[name]
        folder = self.federation.reopen(name)
        tell = lambda kind, facts: self.events.append((name, kind, facts))  # noqa: E731
        session._consider = Desk(folder, self._stores[name], folder.roster(), tell).consider


def at_work(root: Path, **shape) -> Deciding:
    made = Deciding(small.founded(root, **shape), MemoryNetwork())
    made.start_all()
    made.queue()
    return made


@pytest.fixture
def fresh(tmp_path):
    """A federation whose departments have joined and approved nothing."""
    federation = small.founded(tmp_path, departments=4)
    for folder in federation.departments.values():
        for path in (folder.root / "charters").iterdir():
            path.unlink()
        with small.store_of(folder) as store:
            store._db.execute("DELETE FROM consents")
    return federation


def second_charter(federation, **changes) -> SignedCharter:
    """The same charter for other rounds, signed by the coordinator."""
    draft = federation.root / "second.toml"
    text = federation.charter.charter.model_copy(update=changes).to_toml()
    draft.write_text(text)
    signed, _ = federation.coordinator.sign_charter(draft)
    return signed


def states(folder) -> dict[str, str]:
    return {row["charter"]: row["state"] for row in listed(folder)}


def told(federation, *, name: str = "ash") -> list[str]:
    with small.store_of(federation.departments[name]) as store:
        return [entry.kind for entry in store.ledger()]


# -- offers and policies -----------------------------------------------------------------------------------------------


def test_a_charter_that_arrives_is_kept_to_be_read_and_not_obeyed(fresh):
    with closing(Deciding(fresh, MemoryNetwork())) as work:
        work.start_all()
        work.queue()
        work.run()
        assert {facts["code"] for facts in work.told("refused")} == {"CR12"}
        assert work.told("training") == []
    folder, name = fresh.departments["ash"], fresh.charter.charter.digest.hex()
    assert states(folder) == {name: "offered"}
    assert read_charter(folder, name[:16]).read_bytes() == fresh.charter.to_json()
    assert folder.approved(fresh.charter.charter.digest) is None
    assert told(fresh).count("offered") == 1


def test_a_person_who_approves_while_a_run_waits_is_asked_again_without_a_restart(fresh):
    """The run gathers for 20 s and asks whoever said no again after 15."""
    with closing(Deciding(fresh, MemoryNetwork())) as work:
        work.start_all()
        work.queue()

        def approve_late(kind, facts):
            if kind == "fault" and facts["department"] == "dogwood":
                for folder in fresh.departments.values():
                    if not folder.approved(fresh.charter.charter.digest):
                        approve(folder, read_charter(folder, fresh.charter.charter.digest.hex()))

        work.run(approve_late)
        with small.journal_of(fresh) as journal:
            assert journal.runs()[0].state == "finished"
            assert set(journal.consent.answers()[fresh.charter.charter.digest.hex()].values()) == {"ready"}


def test_a_charter_within_the_policy_approves_itself_and_the_ledger_says_by_which_policy(fresh):
    for folder in fresh.departments.values():
        (folder.root / FILE).write_text('automatic = true\nmethods = ["fedper"]\nrounds = 3\n')
    with closing(Deciding(fresh, MemoryNetwork())) as work:
        work.start_all()
        work.queue()
        work.run()
        assert work.told("refused") == []
    with small.journal_of(fresh) as journal:
        assert journal.runs()[0].state == "finished"
    folder = fresh.departments["ash"]
    ((row),) = listed(folder)
    assert (row["state"], row["by"]) == ("approved", "policy")
    with small.store_of(folder) as store:
        (entry,) = [e for e in store.ledger() if e.kind == "approved" and "policy" in str(e.facts.get("by"))]
    assert entry.facts["by"] == f"policy {row['policy']}"


def test_a_charter_outside_the_policy_is_refused_with_every_rule_named_here_and_a_code_there(fresh):
    folder = fresh.departments["ash"]
    (folder.root / FILE).write_text('automatic = true\nmethods = ["fedavg"]\nrounds = 2\n')
    name = fresh.charter.charter.digest.hex()
    with closing(Deciding(fresh, MemoryNetwork())) as work:
        for other in list(fresh.departments)[1:]:
            approve(fresh.departments[other], fresh.charter_path)
        work.start_all()
        work.queue()
        work.run()
        refused = {(facts["request"], facts["code"]) for facts in work.told("refused")}
        assert refused == {("charter", "CR110"), ("run-close", "CR12")}
    with small.journal_of(fresh) as journal:
        assert journal.runs()[0].state == "finished", "the other three go on"
        assert journal.consent.answers()[name]["ash"] == "CR110"
        said = " ".join(str(fault["what"]) for fault in journal.faults.all())
    assert "rounds" not in said and "fedavg" not in said
    (row,) = listed(folder)
    assert (row["state"], row["rules"]) == ("refused", ["methods", "rounds"])
    with small.store_of(folder) as store:
        assert "methods,rounds" in [entry.facts.get("rules") for entry in store.ledger()]
    with pytest.raises(OutsidePolicy, match=r"methods: .*\n.*rounds: "):
        approve(folder, fresh.charter_path)
    approve(folder, fresh.charter_path, beyond_policy=True)
    assert folder.approved(fresh.charter.charter.digest) is not None


def test_a_policy_that_cannot_be_read_approves_nothing(fresh):
    (fresh.departments["ash"].root / FILE).write_text("automatic = yes\n")
    with closing(Deciding(fresh, MemoryNetwork())) as work:
        work.start("ash")
        request = offer(fresh)
        assert code(work.sessions["ash"].handle(request)) == "CR10"
    assert states(fresh.departments["ash"]) == {}


def offer(federation, signed: SignedCharter | None = None, *, run: int = 1, **changes) -> Parcel:
    signed = signed or federation.charter
    key, roster = federation.coordinator.identity(), federation.coordinator.roster()
    fields = {"run": run, "charter": signed.charter.digest, "roster": roster.digest, "epoch": roster.epoch}
    return Parcel(parcel.CHARTER, Offer.signed(key, **(fields | changes)).encode(), signed.to_json())


def code(reply: Parcel) -> str:
    assert reply.kind == parcel.REFUSAL
    return Refusal.decode(reply.head).code


def test_an_offer_must_name_the_charter_that_comes_with_it(tmp_path):
    with closing(at_work(tmp_path)) as work:
        assert code(work.sessions["ash"].handle(offer(work.federation, charter=bytes(32)))) == "CR23"


def test_a_flood_of_offers_is_kept_within_bounds(fresh, monkeypatch):
    monkeypatch.setattr("commonroot.client.consent.MOST_OFFERED", 3)
    with closing(Deciding(fresh, MemoryNetwork())) as work:
        work.start("ash")
        for rounds in range(4, 12):
            assert code(work.sessions["ash"].handle(offer(fresh, second_charter(fresh, rounds=rounds)))) == "CR12"
    assert len(list((fresh.departments["ash"].root / "offers").iterdir())) == 3


def test_an_idle_coordinator_shows_offered_charters_to_whoever_comes(fresh):
    roster = fresh.coordinator.roster()
    with closing(Deciding(fresh, MemoryNetwork())) as work, small.journal_of(fresh) as journal:
        work.start_all()
        journal.consent.offer(fresh.charter)
        exchange = Exchange(work.network, roster, work.network.clock, absence=5)
        offers = Offers(journal, fresh.coordinator.identity())
        offers.look(roster, exchange)
        name = fresh.charter.charter.digest.hex()
        assert journal.consent.answers()[name] == dict.fromkeys(fresh.departments, "CR12")
        asked = len(work.told("refused"))
        offers.look(roster, exchange)
        assert len(work.told("refused")) == asked, "nobody is asked twice in one incarnation"
        approve(fresh.departments["ash"], read_charter(fresh.departments["ash"], name))
        work.kill("ash")
        work.start("ash")
        offers.look(roster, exchange)
        assert journal.consent.answers()[name]["ash"] == "ready"


# -- a person's decisions ----------------------------------------------------------------------------------------------


def test_a_charter_that_is_withdrawn_while_training_goes_on_contributes_nothing(tmp_path):
    with closing(at_work(tmp_path, departments=4, rounds=2)) as work:
        folder = work.federation.departments["ash"]
        honest = work.learners["ash"].train

        def withdrawn(charter, *given):
            if work.learners["ash"].contributed == {}:
                withdraw(folder, charter.digest.hex())
            return honest(charter, *given)

        work.learners["ash"].train = withdrawn
        work.run()
        with small.store_of(folder) as store:
            sent = [e.facts["what"] for e in store.ledger() if e.kind == "sent"]
        assert "masked" not in sent
        with small.journal_of(work.federation) as journal:
            assert journal.runs()[0].state == "finished"
            assert all("ash" not in r.report["survivors"] for r in journal.rounds())
        assert states(folder) == {work.federation.charter.charter.digest.hex(): "withdrawn"}
        assert folder.approved(work.federation.charter.charter.digest) is None


def test_what_was_withdrawn_or_refused_can_be_approved_again(tmp_path):
    federation = small.founded(tmp_path)
    folder, digest = federation.departments["ash"], federation.charter.charter.digest
    withdraw(folder, digest.hex()[:16])
    with pytest.raises(NotApproved, match="nothing is to be withdrawn"):
        withdraw(folder, digest.hex())
    refuse(folder, digest.hex())
    assert states(folder) == {digest.hex(): "refused"}
    approve(folder, read_charter(folder, digest.hex()))
    assert states(folder) == {digest.hex(): "approved"}
    assert [kind for kind in told(federation) if kind != "joined"] == ["approved", "withdrawn", "refused", "approved"]


def test_a_refusal_by_a_person_stands_against_an_automatic_policy(fresh):
    folder, name = fresh.departments["ash"], fresh.charter.charter.digest.hex()
    with closing(Deciding(fresh, MemoryNetwork())) as work:
        work.start("ash")
        work.sessions["ash"].handle(offer(fresh))
        refuse(folder, name)
        (folder.root / FILE).write_text("automatic = true\n")
        assert code(work.sessions["ash"].handle(offer(fresh))) == "CR12"


def test_a_hash_is_named_by_sixteen_digits_or_more(tmp_path):
    federation = small.founded(tmp_path)
    folder, name = federation.departments["ash"], federation.charter.charter.digest.hex()
    with pytest.raises(ConfigError, match="at least 16"):
        approve(folder, federation.charter_path, expected=name[:15])
    with pytest.raises(ConfigError, match="at least 16"):
        read_charter(folder, name[:15])
    approve(folder, federation.charter_path, expected=name[:16])
    with pytest.raises(NotApproved):
        approve(folder, federation.charter_path, expected="0" * 16)


def test_an_approval_that_crashed_before_its_file_was_written_is_none(fresh, monkeypatch):
    folder = fresh.departments["ash"]

    def crash(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("commonroot.client.consent.atomic_write", crash)
        with pytest.raises(KeyboardInterrupt):
            approve(folder, fresh.charter_path)
    assert folder.approved(fresh.charter.charter.digest) is None
    approve(folder, fresh.charter_path)
    assert folder.approved(fresh.charter.charter.digest) is not None


def test_a_withdrawal_that_crashed_before_its_file_was_removed_holds(tmp_path, monkeypatch):
    with closing(at_work(tmp_path)) as work:
        folder = work.federation.departments["ash"]

        def crash(*_: object, **__: object) -> None:
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr("commonroot.client.consent.atomic_write", crash)
            with pytest.raises(KeyboardInterrupt):
                withdraw(folder, work.federation.charter.charter.digest.hex())
        assert folder.approved(work.federation.charter.charter.digest) is not None, "the file is still there"
        assert code(work.sessions["ash"].handle(offer(work.federation))) == "CR12"


def test_a_new_charter_is_shown_beside_the_one_approved_before(tmp_path):
    federation = small.founded(tmp_path)
    folder = federation.departments["ash"]
    training = federation.charter.charter.training.model_copy(update={"update_clip": 500.0})
    later = second_charter(federation, rounds=50, training=training).charter
    before = approved_before(folder, later)
    assert before == federation.charter.charter
    assert differences(before, later) == ["rounds: 3 → 50", "training.update_clip: 5.0 → 500.0"]
    assert differences(later, later) == []
    words = " ".join(plain_words(later, roster=folder.roster()))
    for needed in ("95 numbers leave in a round", "at most 50 different", "No sum over fewer than 3", "no noise"):
        assert needed in words


# -- pausing -----------------------------------------------------------------------------------------------------------


def test_a_paused_department_contributes_nothing_and_the_others_go_on_without_it(tmp_path):
    with closing(at_work(tmp_path, departments=4, rounds=2)) as work:
        folder = work.federation.departments["ash"]
        pause(folder)
        work.kill("ash")
        work.start("ash")  # a restart changes nothing
        work.run()
        assert standing_of(folder) == "paused"
        assert {facts["code"] for facts in work.told("refused")} == {"CR111"}
        assert work.learners["ash"].contributed == {}
        with small.journal_of(work.federation) as journal:
            assert journal.runs()[0].state == "finished"
            assert [r.report["survivors"] for r in journal.rounds()] == [["birch", "cedar", "dogwood"]] * 2
        resume(folder)
        assert work.sessions["ash"].handle(offer(work.federation)).kind == parcel.READY
        assert [kind for kind in told(work.federation) if kind in ("paused", "resumed")] == ["paused", "resumed"]


def test_pausing_while_a_round_trains_sends_nothing_and_while_it_opens_helps_to_open_it(tmp_path):
    """The upload of round 1 was sent before; of round 2 nothing is."""
    with closing(at_work(tmp_path, departments=4, rounds=2)) as work:
        folder = work.federation.departments["ash"]

        def when_opening(kind, facts):
            if kind == "opening" and facts["round"] == 1:
                pause(folder)

        work.run(when_opening)
        with small.store_of(folder) as store:
            sent = [(e.facts["what"], e.facts.get("round")) for e in store.ledger() if e.kind == "sent"]
        assert ("shares", 1) in sent
        assert [what for what in sent if what[0] == "masked"] == [("masked", 1)]
        with small.journal_of(work.federation) as journal:
            assert journal.runs()[0].state == "finished"


def test_outside_its_hours_a_department_says_the_same_as_when_it_is_paused(tmp_path):
    with closing(at_work(tmp_path)) as work:
        session = work.sessions["ash"]
        session._closed_now = lambda: True
        assert code(session.handle(offer(work.federation))) == "CR111"
        session._closed_now = lambda: False
        assert session.handle(offer(work.federation)).kind == parcel.READY


# -- leaving -----------------------------------------------------------------------------------------------------------


KEYS = ("agreement.key", "node.key")


def test_whoever_leaves_says_goodbye_and_is_not_waited_for_again(tmp_path):
    with closing(at_work(tmp_path, departments=4)) as work:
        folder = work.federation.departments["ash"]
        work._stores["ash"].set_standing(LEAVING)
        work.run()
        with small.journal_of(work.federation) as journal:
            assert list(journal.consent.farewells().values()) == ["ash"]
            assert journal.runs()[0].state == "finished"
            assert "goodbye" in [entry.kind for entry in journal.audit()]
            assert [fault["code"] for fault in journal.faults.all()] == []
        assert work.learners["ash"].contributed == {}
        assert told(work.federation).count("leaving") == 1
        assert standing_of(folder) == "leaving"


def test_leaving_erases_the_epochs_keys_and_keeps_what_is_the_departments(tmp_path):
    with closing(at_work(tmp_path)) as work:
        work.run()
        folder = work.federation.departments["ash"]
        with small.store_of(folder) as store:
            predictor, memory = store.latest_predictor(), store.memory(1)
        assert predictor is not None and memory is not None
        heads = small.heads(work.federation)["ash"]
        work.kill("ash")
        assert leave(folder, wait=0)["goodbye"] is False
        with small.store_of(folder) as store:
            assert (store.memory(1), store.setup(1), store.upload(1, 3)) == (None, None, None)
            assert store.latest_predictor() == predictor
        assert small.heads(work.federation)["ash"] == heads
        assert not [name for name in KEYS if (folder.root / "keys" / name).exists()]
        assert (folder.root / "keys" / "identity.key").exists(), "the ledger is signed with it"
        everything = b"".join(path.read_bytes() for path in folder.root.rglob("*") if path.is_file())
        assert memory[200:400] not in everything
        for again in (resume, pause):
            with pytest.raises(HasLeft):
                again(folder)
        with pytest.raises(HasLeft):
            join(folder, work.federation.coordinator.root / "roster.json", os.urandom)
        with pytest.raises(HasLeft):
            approve(folder, work.federation.charter_path)


@pytest.mark.parametrize("step", ["goodbye", "left", "checkpoint", "erase"])
def test_leaving_that_is_killed_at_any_step_is_finished_by_the_next_one(step, tmp_path, monkeypatch):
    federation = small.founded(tmp_path)
    folder = federation.departments["ash"]

    def crash(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    places = {
        "goodbye": "commonroot.client.standing._say_goodbye",
        "left": "commonroot.client.store.DepartmentStore._sweep",
        "checkpoint": "commonroot.client.store.DepartmentStore.checkpoint",
        "erase": "commonroot.client.standing.erase",
    }
    with small.store_of(folder) as store:
        store.set_standing(LEAVING)
    owned = DepartmentStore(folder.root, federation="grove", department="ash", owner=True)
    with monkeypatch.context() as patch:
        patch.setattr(places[step], crash)
        with pytest.raises(KeyboardInterrupt):
            carry_out(folder, owned, wait=0)
    owned.close()
    assert leave(folder, wait=0)["goodbye"] is False
    assert standing_of(folder) == "left"
    assert not [name for name in KEYS if (folder.root / "keys" / name).exists()]
    with small.store_of(folder) as store:
        assert store.memory(1) is None
        assert [entry.kind for entry in store.ledger()].count("left") == 1


def test_a_forged_goodbye_is_a_fault_and_nobody_has_left(tmp_path):
    with closing(at_work(tmp_path, departments=4)) as work:
        roster = work.federation.coordinator.roster()
        theirs = work.federation.departments["birch"].identity()
        said = Goodbye.signed(theirs, roster=roster.digest, epoch=1, sender=0).encode()

        def lying(name, handle):
            return (lambda request: Parcel(parcel.GOODBYE, said)) if name == "ash" else handle

        work.front = lying
        work.kill("ash")
        work.start("ash")
        work.run()
        with small.journal_of(work.federation) as journal:
            assert journal.consent.farewells() == {}
            assert "CR21" in {fault["code"] for fault in journal.faults.all()}
