"""Signed messages that contradict each other are kept, and nothing else is."""

from __future__ import annotations

import dataclasses
import json

from federation import small
from federation.epochs import flipped, opening_of
from typer.testing import CliRunner

from commonroot.client.cli import app as department_cli
from commonroot.client.exhibits import EXHIBITS_KEPT
from commonroot.client.store import DepartmentStore
from commonroot.common import parcel
from commonroot.common.evidence import Exhibit
from commonroot.common.messages import Confirm, Masked, Open, Previous, RoundOpen
from commonroot.common.parcel import Parcel
from commonroot.server.cli import app as coordinator_cli
from commonroot.simulations.network import Crossing, MemoryNetwork, lie


def test_both_signed_openings_of_a_second_survivor_set_are_kept(tmp_path):
    seen, watch = small.last_seen(parcel.OPEN)
    with small.running(tmp_path, network=MemoryNetwork(weather=[watch]), departments=4) as at_work:
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
        opening = opening_of(at_work, (0, 1, 2, 3))
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
            session.handle(Parcel(request.kind, flipped(request.head, 12), request.body))
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
    with small.ToyFederation(federation, MemoryNetwork(weather=[small.undealt_shares(federation)])) as at_work:
        at_work.start_all()
        at_work.queue()
        at_work.run()
        with small.journal_of(federation) as journal:
            kept = journal.faults.exhibits()
        assert {(name, exhibit.code, exhibit.kind) for name, exhibit in kept} == {("ash", "CR30", parcel.SHARES)}
        shown = CliRunner().invoke(coordinator_cli, ["evidence", str(federation.coordinator.root), "--json"])
        assert all(one["signed"] for one in json.loads(shown.stdout)["exhibits"])
