"""Runs and rounds as the journal has them: who takes part, what is written when, how a run ends."""

from __future__ import annotations

import random as seeded
from collections.abc import Iterable

import numpy as np
import pytest
from federation import small

from commonroot.client.setup import approve
from commonroot.common import parcel
from commonroot.common.errors import ForeignState, Refused
from commonroot.common.messages import Refusal, RoundOpen
from commonroot.common.parcel import Parcel
from commonroot.common.secure_sum.primitives import sha256
from commonroot.server.backbones import BackboneStore
from commonroot.server.round import expect
from commonroot.server.status import status_of
from commonroot.simulations.network import Crossing, MemoryNetwork, drop


def journal_view(at_work):
    with small.journal_of(at_work.federation) as journal:
        return journal.runs(), journal.rounds(), journal.versions(1)


def test_a_run_makes_one_version_a_round_and_ends_finished(tmp_path):
    with small.running(tmp_path) as at_work:
        told = []
        at_work.run(lambda kind, facts: told.append(kind))
        runs, rounds, versions = journal_view(at_work)
        assert (runs[0].state, [r.round for r in rounds], [v.version for v in versions]) == (
            "finished",
            [1, 2, 3],
            [0, 1, 2, 3],
        )
        assert (told[0], told[-1], told.count("closed"), told.count("taken-over")) == ("run", "finished", 3, 3)


def test_each_round_names_the_result_of_the_one_before(tmp_path):
    with small.running(tmp_path) as at_work:
        at_work.run()
        _, rounds, _ = journal_view(at_work)
        openings = [RoundOpen.decode(r.opening) for r in rounds]
        assert openings[0].previous.round == 0
        for before, opening in zip(rounds, openings[1:], strict=False):
            told = opening.previous
            assert (told.round, told.opened, told.aggregate) == (before.round, before.opened, before.aggregate)


def test_a_second_run_counts_rounds_on_and_versions_anew(tmp_path):
    with small.running(tmp_path) as at_work:
        at_work.run()
        federation = at_work.federation
        draft = tmp_path / "second.toml"
        draft.write_text((tmp_path / "charter.toml").read_text().replace("rounds = 3", "rounds = 2"))
        second, path = federation.coordinator.sign_charter(draft)
        for folder in federation.departments.values():
            approve(folder, path)
        with small.journal_of(federation) as journal:
            journal.queue(second)
        at_work.run()
        with small.journal_of(federation) as journal:
            assert [r.round for r in journal.rounds(2)] == [4, 5]
            assert [v.version for v in journal.versions(2)] == [0, 1, 2]
            assert journal.runs()[1].state == "finished"


def test_a_department_that_comes_late_joins_the_next_round(tmp_path):
    """Four enrolled, elm's place empty at first: the run starts without it after ``gather`` and takes it in later."""
    with small.ToyFederation(small.founded(tmp_path, departments=4), MemoryNetwork()) as at_work:
        for name in ("ash", "birch", "cedar"):
            at_work.start(name)
        at_work.queue()

        def listen(kind, facts):
            if kind == "closed" and facts["round"] == 1:
                at_work.start("dogwood")

        at_work.run(listen)
        _, rounds, _ = journal_view(at_work)
        assert [len(r.report["survivors"]) for r in rounds] == [3, 4, 4]
        assert at_work.network.clock() == pytest.approx(20, abs=1)


def test_a_department_that_refused_and_came_back_approving_is_asked_again(tmp_path):
    federation = small.founded(tmp_path, departments=4)
    charters = federation.departments["birch"].root / "charters"
    charters.rename(charters.with_name("later"))
    charters.mkdir()
    with small.ToyFederation(federation, MemoryNetwork()) as at_work:
        at_work.start_all()
        at_work.queue()

        def listen(kind, facts):
            if kind == "closed" and facts["round"] == 1:
                charters.rmdir()
                charters.with_name("later").rename(charters)
                at_work.kill("birch")
                at_work.start("birch")

        at_work.run(listen)
        _, rounds, _ = journal_view(at_work)
        assert ["birch" in r.report["survivors"] for r in rounds] == [False, True, True]
        # refused once, and not asked again before it came back
        assert {facts["code"] for facts in at_work.told("refused")} == {"CR12"}


def test_the_reports_numbers_are_of_the_wire(tmp_path):
    with small.running(tmp_path) as at_work:
        at_work.network.keep_sent = True
        at_work.run()
        sent = [one.parcel for one in at_work.network.sent_by_departments]
        _, rounds, _ = journal_view(at_work)
        masked = {len(one) for one in sent if one.kind == parcel.MASKED}
        shares = {len(one) for one in sent if one.kind == parcel.SHARES}
        assert {r.report["upload_bytes"] for r in rounds} == masked
        assert {r.report["share_bytes"] for r in rounds} == shares
        with small.journal_of(at_work.federation) as journal:
            received = {row["kind"]: (row["parcels"], row["bytes"]) for row in journal.received()}
        assert received["masked"] == (9, 9 * masked.pop())
        assert received["ready"] == received["closed"] == (3, 0)


def test_losses_in_the_report_are_weighted_means_of_what_departments_said(tmp_path):
    with small.running(tmp_path, rounds=1) as at_work:
        at_work.run()
        _, (made,), _ = journal_view(at_work)
        given = [learner.contributed[0] for learner in at_work.learners.values()]
        weight = sum(float(terms["weight"]) for terms in given)
        for name in ("loss", "held_out"):
            assert made.report[name] == pytest.approx(sum(float(terms[name]) for terms in given) / weight)


def test_a_department_that_missed_the_end_is_left_out_of_the_list_of_those_that_took_it_over(tmp_path):
    network = MemoryNetwork(weather=[drop(1.0, kinds={parcel.RUN_CLOSE}, departments={"cedar"})])
    with small.running(tmp_path, network=network) as at_work:
        at_work.run()
        with small.journal_of(at_work.federation) as journal:
            assert journal.closed_departments(1) == {"ash", "birch"}
            assert journal.runs()[0].state == "finished"


def test_the_backbone_is_stored_before_the_round_is_closed(tmp_path, monkeypatch):
    order = []
    from commonroot.server.journal import Journal

    write, close = BackboneStore.write, Journal.close_round
    monkeypatch.setattr(BackboneStore, "write", lambda self, *a: order.append("file") or write(self, *a))
    monkeypatch.setattr(Journal, "close_round", lambda self, *a, **k: order.append("journal") or close(self, *a, **k))
    with small.running(tmp_path) as at_work:
        at_work.run()
    assert order == ["file"] + ["file", "journal"] * 3


def test_a_backbone_file_that_was_changed_is_never_broadcast(tmp_path):
    with small.running(tmp_path) as at_work:

        def listen(kind, facts):
            if kind == "closed":
                path = (
                    at_work.federation.coordinator.root / "backbones" / f"run-1-version-{facts['version']}.safetensors"
                )
                data = bytearray(path.read_bytes())
                data[-1] ^= 1
                path.write_bytes(data)

        with pytest.raises(ForeignState, match="hash differs"):
            at_work.run(listen)
        _, rounds, versions = journal_view(at_work)
        assert (len(rounds), len(versions)) == (1, 2)


def test_a_stored_backbone_comes_back_as_it_was_or_not_at_all(tmp_path):
    store = BackboneStore(tmp_path / "backbones")
    state = {
        "layers.0.weight": np.arange(6, dtype=np.float32).reshape(2, 3)[:, ::-1],
        "server/momentum": np.zeros(2, np.float32),
    }
    file, digest = store.write(1, 0, state)
    found = store.read(file, digest)
    assert set(found) == set(state)
    np.testing.assert_array_equal(found["layers.0.weight"], state["layers.0.weight"])
    with pytest.raises(ForeignState):
        store.read(file, bytes(32))
    broken = tmp_path / "backbones" / "broken"
    broken.write_bytes(b"nothing of the kind")
    with pytest.raises(ForeignState, match="not a safetensors file"):
        store.read("broken", sha256(b"nothing of the kind"))


def test_status_holds_rounds_faults_and_bytes(tmp_path):
    lost: list[str] = []

    def once(crossing: Crossing, _random: seeded.Random) -> Iterable[Crossing]:
        if crossing.parcel.kind == parcel.MASKED and not lost:
            lost.append(crossing.department)
            return (Crossing(crossing.direction, crossing.department, Parcel(parcel.MASKED), crossing.seconds),)
        return (crossing,)

    with small.running(tmp_path, network=MemoryNetwork(weather=[once])) as at_work:
        at_work.run()
        facts = status_of(at_work.federation.coordinator)
        (run,) = facts["runs"]
        assert (run["state"], run["version"], run["rounds_wanted"]) == ("finished", 3, 3)
        assert [r["state"] for r in run["rounds"]] == ["lost", "closed", "closed", "closed"]
        assert "CR40" in run["rounds"][0]["reason"]
        assert [(f["department"], f["code"]) for f in facts["faults"]] == [(lost[0], "CR20")]


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        (Parcel(parcel.REFUSAL, Refusal(0, "CR12").encode()), "refused with CR12"),
        (Parcel(parcel.REFUSAL), "its log says more"),
        (Parcel(parcel.CLOSED), "'closed' where 'ready'"),
        (Parcel("x" * 1000), "x" * 32 + "'"),
    ],
)
def test_an_unexpected_reply_is_named_in_a_few_words(reply, said):
    with pytest.raises(Refused) as refused:
        expect(reply, parcel.READY)
    assert said in str(refused.value)
    assert len(str(refused.value)) < 120
