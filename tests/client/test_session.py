"""A department's session: what it answers, what it refuses, and what it has written down before it answers."""

from __future__ import annotations

import errno
import logging
import os
from typing import Any

import numpy as np
import pytest
from federation import small

from commonroot.client.statements import sealed_as
from commonroot.client.store import DepartmentStore
from commonroot.common import parcel
from commonroot.common.errors import TrainingDiverged
from commonroot.common.manifest import flatten
from commonroot.common.messages import Masked, Offer, Open, Previous, Refusal, RoundOpen, RunClose
from commonroot.common.parcel import Parcel
from commonroot.common.secure_sum.codec import SumCodec
from commonroot.common.secure_sum.coordinator import CoordinatorRound
from commonroot.common.secure_sum.primitives import Identity, sha256
from commonroot.simulations.network import MemoryNetwork


class Desk:
    """Three departments' sessions and a coordinator's pen: any request, rightly signed."""

    def __init__(self, root: Any) -> None:
        self.at_work = small.ToyFederation(small.founded(root), MemoryNetwork())
        self.at_work.start_all()
        small.introduce(self.at_work)
        self.federation = self.at_work.federation
        self.key = self.federation.coordinator.identity()
        self.charter = self.federation.charter.charter
        self.roster = self.federation.coordinator.roster()
        self.codec = SumCodec(self.charter.manifest, 3)

    def __getitem__(self, name: str) -> Any:
        return self.at_work.sessions[name]

    def broadcast(self, version: int = 0) -> bytes:
        """The charter's first backbone, and from there a little way a version."""
        first = self.charter.backbone.initial(self.charter.training.seed)
        arrays = {n: first[n] + np.float32(0.1 * version) for n, _ in self.charter.broadcast}
        return flatten(arrays, self.charter.broadcast)

    def round_open(self, number: int = 1, version: int = 0, **changes: Any) -> Parcel:
        body = self.broadcast(version)
        fields: dict[str, Any] = {
            "charter": self.charter.digest,
            "roster": self.roster.digest,
            "epoch": 1,
            "round": number,
            "version": version,
            "cohort": (0, 1, 2),
            "broadcast": sha256(body),
            "manifest": self.charter.manifest.digest,
            "bounds": tuple(self.codec.initial_bounds().tolist()),
            "upload_seconds": 30,
            "previous": Previous(),
        }
        return Parcel(parcel.ROUND_OPEN, RoundOpen.signed(self.key, **(fields | changes)).encode(), body)

    def offer(self, **changes: Any) -> Parcel:
        """The federation's charter, offered for run 1."""
        fields = {"run": 1, "charter": self.charter.digest, "roster": self.roster.digest, "epoch": 1}
        head = Offer.signed(self.key, **(fields | changes)).encode()
        return Parcel(parcel.CHARTER, head, self.federation.charter.to_json())

    def run_close(self, version: int = 3, number: int = 3, **changes: Any) -> Parcel:
        body = self.broadcast(version)
        fields: dict[str, Any] = {
            "charter": self.charter.digest,
            "roster": self.roster.digest,
            "epoch": 1,
            "round": number,
            "version": version,
            "broadcast": sha256(body),
            "previous": Previous(),
        }
        return Parcel(parcel.RUN_CLOSE, RunClose.signed(self.key, **(fields | changes)).encode(), body)

    def gathered(self, request: Parcel) -> CoordinatorRound:
        """Everybody's upload for a request, and the survivor set fixed."""
        opening = RoundOpen.decode(request.head)
        machine = CoordinatorRound(self.roster, self.key, opening, self.codec.layout, floor=3)
        for at, member in enumerate(self.roster.departments):
            reply = self[member.name].handle(request)
            machine.upload(at, reply.head, reply.body)
        machine.fix()
        return machine

    def ledger(self, name: str) -> list[Any]:
        with small.store_of(self.federation.departments[name]) as store:
            entries: list[Any] = store.ledger()
            return entries


@pytest.fixture
def desk(tmp_path):
    made = Desk(tmp_path)
    yield made
    made.at_work.close()


def code(reply: Parcel) -> str:
    assert reply.kind == parcel.REFUSAL
    return Refusal.decode(reply.head).code


def test_a_round_is_answered_with_an_upload_that_is_written_down(desk):
    reply = desk["ash"].handle(desk.round_open())
    assert reply.kind == parcel.MASKED
    assert Masked.decode(reply.head).sender == 0
    last = desk.ledger("ash")[-1]
    assert (last.kind, last.facts["what"], last.facts["round"]) == ("sent", "masked", 1)
    assert last.facts["bytes"] == len(reply)
    assert last.facts["digest"] == sha256(reply.head).hex()  # the head holds the hash of the body


def test_the_upload_is_durable_before_it_is_returned(desk, monkeypatch):
    seen = []
    original = DepartmentStore.commit_upload
    monkeypatch.setattr(
        DepartmentStore, "commit_upload", lambda self, **f: (seen.append(f["round"]), original(self, **f))
    )
    desk["ash"].handle(desk.round_open())
    assert seen == [1]
    with small.store_of(desk.federation.departments["ash"]) as store:
        assert store.upload(1, 1) is not None


def test_a_repeated_request_gets_the_identical_reply_without_training_again(desk):
    request = desk.round_open()
    first = desk["ash"].handle(request)
    again = desk["ash"].handle(request)
    assert (again.head, bytes(again.body)) == (first.head, bytes(first.body))
    assert len(desk.at_work.told("training")) == 1
    assert len(desk.at_work.told("repeated")) == 1


def test_after_a_restart_the_repeated_request_still_gets_the_identical_reply(desk):
    request = desk.round_open()
    first = desk["ash"].handle(request)
    desk.at_work.kill("ash")
    desk.at_work.start("ash")
    again = desk["ash"].handle(request)
    assert (again.head, bytes(again.body)) == (first.head, bytes(first.body))


def test_an_opening_is_answered_alike_after_a_restart_and_never_for_another_set(desk):
    machine = desk.gathered(desk.round_open())
    asked = Parcel(parcel.OPEN, machine.open_for(0))
    first = desk["ash"].handle(asked)
    desk.at_work.kill("ash")
    desk.at_work.start("ash")
    assert desk["ash"].handle(asked) == first
    other = Open.decode(asked.head)
    fields = {"survivors": other.survivors, "boxes": other.boxes, "confirmed_by": (), "confirmations": ()}
    forged = Open.signed(desk.key, transcript=bytes(32), round=1, **fields)
    assert code(desk["ash"].handle(Parcel(parcel.OPEN, forged.encode()))) == "CR27"


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"charter": bytes(32)}, "CR12"),
        ({"roster": bytes(32)}, "CR23"),
        ({"epoch": 2}, "CR23"),
        ({"cohort": (1, 2)}, "CR25"),
        ({"cohort": (0, 1)}, "CR25"),
        ({"cohort": (0, 1, 2, 3)}, "CR25"),
        ({"manifest": bytes(32)}, "CR26"),
        ({"bounds": (1e9, 1.0, 1.0, 1.0)}, "CR26"),
        ({"bounds": (1.0,)}, "CR26"),
        ({"upload_seconds": 31}, "CR26"),
        ({"broadcast": bytes(32)}, "CR34"),
        ({"round": 100_001}, "CR24"),
        ({"version": 3}, "CR26"),
    ],
)
def test_a_round_outside_what_was_agreed_is_refused_before_anything_is_trained(desk, changes, expected):
    others = {name: value for name, value in changes.items() if name != "round"}
    assert code(desk["ash"].handle(desk.round_open(changes.get("round", 1), **others))) == expected
    assert desk.at_work.told("training") == []
    last = desk.ledger("ash")[-1]
    assert (last.kind, last.facts["code"]) == ("refused", expected)


def test_a_round_number_is_used_once(desk):
    desk["ash"].handle(desk.round_open(5))
    assert code(desk["ash"].handle(desk.round_open(5, version=1))) == "CR24"
    assert code(desk["ash"].handle(desk.round_open(4))) == "CR24"
    assert desk["ash"].handle(desk.round_open(6)).kind == parcel.MASKED


def test_a_request_under_another_key_is_refused(desk):
    desk.key = Identity(bytes(32))
    for request in (desk.round_open(), desk.run_close()):
        assert code(desk["ash"].handle(request)) == "CR21"


def test_a_charter_is_ready_once_it_was_approved_and_only_then(desk):
    offer = desk.offer()
    assert desk["ash"].handle(offer) == Parcel(parcel.READY)
    for path in (desk.federation.departments["ash"].root / "charters").iterdir():
        path.unlink()
    assert code(desk["ash"].handle(offer)) == "CR12"
    assert code(desk["ash"].handle(desk.round_open())) == "CR12"


def test_a_disk_that_is_full_sends_nothing_and_the_machine_goes_back_to_what_is_on_disk(desk, monkeypatch):
    def full(_handle: int) -> None:
        raise OSError(errno.ENOSPC, "full")

    request = desk.round_open()
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        assert code(desk["ash"].handle(request)) == "CR15"
    assert desk.at_work.told("uploaded") == []
    assert desk["ash"].handle(request).kind == parcel.MASKED
    assert len(desk.at_work.told("training")) == 2


@pytest.mark.parametrize("error", [TrainingDiverged("the loss of row 17 was 3.14159e300"), ValueError("row 17")])
def test_training_that_fails_cannot_be_told_from_training_that_does_not(desk, error):
    """A refusal would answer a question about rows that costs the asker no round: zeros are masked instead."""

    def fail(*_: Any) -> Any:
        raise error

    desk.at_work.learners["ash"].train = fail
    replies = {name: desk[name].handle(desk.round_open()) for name in ("ash", "birch")}
    assert replies["ash"].kind == parcel.MASKED
    assert len(replies["ash"].head) == len(replies["birch"].head)
    assert len(replies["ash"].body) == len(replies["birch"].body)
    with small.store_of(desk.federation.departments["ash"]) as store:
        last, sealed = store.ledger()[-1], store.sealed()
    assert (last.kind, last.facts["what"]) == ("sent", "masked")
    salt, private = sealed[last.sequence]
    assert sealed_as(salt, private).hex() == last.facts["sealed"]
    assert private["abstained"] in ("CR19", "ValueError")
    assert desk.at_work.told("abstained") != []


def test_zeros_of_an_abstaining_department_change_no_sum(desk):
    def fail(*_: Any) -> Any:
        raise ValueError

    desk.at_work.learners["ash"].train = fail
    request = desk.round_open()
    machine = desk.gathered(request)
    for at, name in enumerate(("ash", "birch", "cedar")):
        machine.shares(at, desk[name].handle(Parcel(parcel.OPEN, machine.open_for(at))).head)
    bounds = RoundOpen.decode(request.head).bounds
    opened = desk.codec.decode(*machine.finish(), 3, np.array(bounds, np.float32))
    given = [desk.at_work.learners[name].contributed[0] for name in ("birch", "cedar")]
    assert float(opened.values["weight"]) == pytest.approx(sum(float(terms["weight"]) for terms in given))


def test_a_learner_that_fails_at_the_end_still_lets_the_run_close(desk):
    def fail(*_: Any) -> Any:
        raise ValueError("Input X contains NaN")

    desk.at_work.learners["ash"].finish = fail
    assert desk["ash"].handle(desk.run_close()) == Parcel(parcel.CLOSED)
    with small.store_of(desk.federation.departments["ash"]) as store:
        assert store.latest_predictor() is None


@pytest.mark.parametrize(("version", "shift"), [(0, 1e-3), (1, 50.0), (2, 3e38)])
def test_a_backbone_that_no_rounds_can_have_led_to_is_refused_before_anything_is_trained(desk, version, shift):
    """Version 0 is the seed's, and a round moves the backbone by its clip at the most."""
    first = desk.charter.backbone.initial(desk.charter.training.seed)
    arrays = {n: np.minimum(first[n] + np.float64(shift), 3e38).astype(np.float32) for n, _ in desk.charter.broadcast}
    body = flatten(arrays, desk.charter.broadcast)
    request = desk.round_open(1, version, broadcast=sha256(body))
    assert code(desk["ash"].handle(Parcel(parcel.ROUND_OPEN, request.head, body))) == "CR26"
    assert desk.at_work.told("training") == []


def test_the_final_backbone_is_taken_over_once_and_confirmed_as_often_as_asked(desk):
    assert desk["ash"].handle(desk.run_close()) == Parcel(parcel.CLOSED)
    assert desk["ash"].handle(desk.run_close()) == Parcel(parcel.CLOSED)
    assert desk.at_work.learners["ash"].finished == 1
    with small.store_of(desk.federation.departments["ash"]) as store:
        assert store.latest_predictor() is not None


@pytest.mark.parametrize("version", [0, 2, 4])
def test_a_backbone_that_is_not_the_charters_last_is_not_taken_for_it(desk, version):
    assert code(desk["ash"].handle(desk.run_close(version))) == "CR33"
    assert desk.at_work.learners["ash"].finished == 0


def test_a_closing_that_lies_before_the_last_round_is_stale(desk):
    desk["ash"].handle(desk.round_open(9))
    assert code(desk["ash"].handle(desk.run_close(number=8))) == "CR24"


@pytest.mark.parametrize("kind", ["", "learn", parcel.MASKED, parcel.REFUSAL])
def test_a_kind_that_is_no_request_is_refused(desk, kind):
    assert code(desk["ash"].handle(Parcel(kind, b"x" * 99))) == "CR20"


def test_neither_events_nor_logs_nor_the_ledger_hold_a_secret_or_a_number_of_a_head(desk, caplog):
    """Everything a department says about itself, beside everything it keeps."""
    with caplog.at_level(logging.DEBUG):
        machine = desk.gathered(desk.round_open())
        for at, member in enumerate(desk.roster.departments):
            desk[member.name].handle(Parcel(parcel.OPEN, machine.open_for(at)))
            desk[member.name].handle(desk.round_open(1, version=1))
            desk[member.name].handle(desk.run_close())
    said = caplog.text + repr(desk.at_work.events)
    for name in desk.federation.departments:
        said += "".join(repr(entry.facts) for entry in desk.ledger(name))
    for folder in desk.federation.departments.values():
        for key in ("identity", "training"):
            secret = (folder.root / "keys" / f"{key}.key").read_text().strip()
            assert secret not in said
            assert repr(bytes.fromhex(secret))[2:-1] not in said
        with small.store_of(folder) as store:
            for value in store.head_before(desk.charter.digest.hex(), 1)["head/weight"]:
                assert repr(float(value))[:9] not in said
    assert "memory" not in said
    assert "'round': 1" in said, "the search is not of nothing"
