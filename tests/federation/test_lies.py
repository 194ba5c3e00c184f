"""The lying network, against real sessions, stores, journal and rounds: parcels lost, late, repeated, forged.

Whatever happens, three things hold: a version that was made is the honest average of the departments that the journal
names; nobody contributes or answers twice; and the run ends within its charter's deadlines, finished or with a reason.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable, Iterable

import numpy as np
import pytest
from federation import small

from commonroot.common import parcel
from commonroot.common.canonical import dumps, loads
from commonroot.common.charter import SignedCharter
from commonroot.common.errors import all_errors
from commonroot.common.messages import Masked, Offer, Open, Refusal, RoundOpen
from commonroot.common.parcel import Parcel
from commonroot.common.secure_sum.codec import SumCodec
from commonroot.common.secure_sum.primitives import Identity, sha256
from commonroot.server.backbones import BackboneStore
from commonroot.server.exchange import _LOOK
from commonroot.simulations.network import Crossing, MemoryNetwork, delay, drop, lie, repeat
from commonroot.strategies import build

EVERY_KIND = sorted(parcel.TO_DEPARTMENT | parcel.TO_COORDINATOR)
REPLIES = {parcel.CHARTER: parcel.READY, parcel.ROUND_OPEN: parcel.MASKED, parcel.OPEN: parcel.SHARES}


def honest_versions(at_work: small.ToyFederation) -> None:
    """Recompute every version that was made, in the clear, from what the learners of its survivors contributed.

    The difference may be the codec's: for every element of the sum at most ``error_bound``, divided by the weights.
    """
    federation = at_work.federation
    charter = federation.charter.charter
    strategy = build(charter)
    store = BackboneStore(federation.coordinator.root / "backbones")
    with small.journal_of(federation) as journal:
        versions, rounds = journal.versions(1), journal.rounds()
    for made in (r for r in rounds if r.state == "closed"):
        before, after = versions[made.version], versions[made.version + 1]
        state = store.read(before.file, before.digest)
        opening = RoundOpen.decode(made.opening)
        bounds = dict(zip([t.name for t in charter.manifest.lane("fixed16")], opening.bounds, strict=True))
        given = [at_work.learners[name].contributed[made.version] for name in made.report["survivors"]]
        sums = {
            term.name: sum(
                np.clip(terms[term.name].astype(float), -bounds[term.name], bounds[term.name])
                if term.name in bounds
                else terms[term.name]
                for terms in given
            )
            for term in charter.manifest.terms
        }
        expected = strategy.combine(charter, state, sums)
        found = store.read(after.file, after.digest)
        allowed = SumCodec(charter.manifest, len(opening.cohort)).error_bound(len(given), opening.bounds)
        for name, tensor in found.items():
            off = float(np.abs(tensor - expected[name]).max())
            assert off <= allowed[f"update/{name}"] / float(sums["weight"]) + 1e-6, (
                f"version {made.version + 1}, {name}"
            )


def longest(at_work: small.ToyFederation) -> float:
    """Simulated seconds within which a run must have ended: every attempt of every round waits for each of its stages.

    Before a round the coordinator may wait ``gather`` twice over: for who is there, and once more for an answer to the
    charter that it asked for just before the deadline.  Introductions come on top: greetings, and passing them on.
    """
    charter = at_work.federation.charter.charter
    timing = charter.timing
    attempt = timing.gather + 4 * timing.upload + timing.opening + 6 * _LOOK
    return charter.rounds * timing.attempts * attempt + timing.closing


def run(at_work: small.ToyFederation) -> tuple[str, list[str]]:
    """Run to the end and check what must hold whatever the weather; the run's state and the rounds' states."""
    at_work.run()
    assert at_work.network.clock() <= longest(at_work)
    small.check_books(at_work.federation)
    honest_versions(at_work)
    with small.journal_of(at_work.federation) as journal:
        ended = journal.runs()[0]
        assert ended.state in ("finished", "stopped")
        assert (ended.state == "stopped") == bool(ended.reason)
        return ended.state, [r.state for r in journal.rounds()]


def faults(at_work: small.ToyFederation) -> list[tuple[str, str]]:
    with small.journal_of(at_work.federation) as journal:
        return [(fault["department"], fault["code"]) for fault in journal.faults.all()]


# -- a network that is merely bad ------------------------------------------------------------------------------------


def test_in_fair_weather_every_round_closes_and_nothing_is_blamed(tmp_path):
    with small.running(tmp_path) as at_work:
        assert run(at_work) == ("finished", ["closed"] * 3)
        assert faults(at_work) == []


@pytest.mark.parametrize("kind", sorted(REPLIES) + sorted(REPLIES.values()))
def test_a_third_of_one_kind_of_parcel_lost_costs_rounds_but_nothing_else(kind, tmp_path):
    network = MemoryNetwork(seed=5, weather=[drop(0.34, kinds={kind})])
    with small.running(tmp_path, network=network, departments=4, attempts=12) as at_work:
        state, rounds = run(at_work)
        assert state == "finished"
        assert rounds.count("closed") == 3


@pytest.mark.parametrize("seed", range(4))
def test_repeated_and_reordered_parcels_change_nothing_at_all(seed, tmp_path):
    """Up to 8 s late, half of all delivered twice: within the deadlines, so that every round closes with everybody."""
    network = MemoryNetwork(seed=seed, weather=[repeat(0.5), delay(8.0)])
    with small.running(tmp_path / "bad", network=network) as at_work:
        assert run(at_work) == ("finished", ["closed"] * 3)
        assert faults(at_work) == []
        bad = small.versions(at_work.federation), small.heads(at_work.federation)
    with small.running(tmp_path / "fair") as at_work:
        run(at_work)
        assert bad == (small.versions(at_work.federation), small.heads(at_work.federation))


def test_an_upload_that_comes_too_late_is_left_out_and_never_opened(tmp_path):
    """Elm's uploads take 31 s of 30.  Four others make the round; what elm sent stays sealed under its own mask."""

    def late(crossing: Crossing, _random: random.Random) -> Iterable[Crossing]:
        slow = crossing.department == "elm" and crossing.parcel.kind == parcel.MASKED
        seconds = crossing.seconds + (31 if slow else 0)
        return (Crossing(crossing.direction, crossing.department, crossing.parcel, seconds),)

    with small.running(tmp_path, network=MemoryNetwork(weather=[late]), departments=5) as at_work:
        assert run(at_work) == ("finished", ["closed"] * 3)
        with small.journal_of(at_work.federation) as journal:
            assert [r.report["survivors"] for r in journal.rounds()] == [["ash", "birch", "cedar", "dogwood"]] * 3
        # elm answered openings of the others all the same, and only of sets without itself
        assert {facts["survivors"] for facts in at_work.told("opened")} == {4}


@pytest.mark.parametrize("seed", range(6))
def test_a_storm_of_everything_at_once_never_makes_a_wrong_version(seed, tmp_path):
    network = MemoryNetwork(seed=seed, weather=[drop(0.1), repeat(0.2), delay(12.0), lie(_flipper(seed, 0.15))])
    with small.running(tmp_path, network=network, departments=5, attempts=6) as at_work:
        run(at_work)


# -- silence ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", sorted(REPLIES))
def test_one_of_three_departments_silent_at_a_stage_ends_the_run_in_time_with_a_reason(kind, tmp_path):
    """Three can lose none before the survivor set; at the opening, two of three are a quorum."""
    network = MemoryNetwork(weather=[drop(1.0, kinds={kind}, departments={"birch"})])
    with small.running(tmp_path, network=network) as at_work:
        state, rounds = run(at_work)
        if kind == parcel.OPEN:
            assert (state, rounds) == ("finished", ["closed"] * 3)
            return
        assert state == "stopped"
        assert "closed" not in rounds
        with small.journal_of(at_work.federation) as journal:
            assert "CR40" in journal.runs()[0].reason


@pytest.mark.parametrize("kind", sorted(REPLIES))
def test_one_of_four_departments_silent_at_a_stage_does_not_stop_the_others(kind, tmp_path):
    network = MemoryNetwork(weather=[drop(1.0, kinds={kind}, departments={"birch"})])
    with small.running(tmp_path, network=network, departments=4) as at_work:
        assert run(at_work) == ("finished", ["closed"] * 3)


def test_a_department_that_never_answers_anything_at_all_costs_time_and_nothing_else(tmp_path):
    """20 s of gathering and 40 s of closing once, 2 s in each of two later rounds; all else takes no time in memory."""
    network = MemoryNetwork(weather=[drop(1.0, departments={"birch"})])
    with small.running(tmp_path, network=network, departments=4) as at_work:
        assert run(at_work) == ("finished", ["closed"] * 3)
        assert at_work.network.clock() == pytest.approx(20 + 2 * 2 + 40, abs=1.5)
        with small.journal_of(at_work.federation) as journal:
            assert journal.closed_departments(1) == {"ash", "cedar", "dogwood"}


def test_when_nobody_answers_the_run_stops_with_a_reason(tmp_path):
    with small.running(tmp_path, network=MemoryNetwork(weather=[drop(1.0)])) as at_work:
        assert run(at_work) == ("stopped", [])
        with small.journal_of(at_work.federation) as journal:
            assert "0 departments are present and ready; 3 are needed" in journal.runs()[0].reason


def test_when_nobody_is_there_the_run_stops_with_a_reason(tmp_path):
    with small.running(tmp_path) as at_work:
        at_work.close()
        assert run(at_work) == ("stopped", [])


def test_a_department_that_leaves_in_the_middle_is_given_up_after_its_absence_and_not_after_the_deadline(tmp_path):
    """Absence is 10 s, an upload may take 30: a round of the four that are left is over within 11 s."""
    gone: list[float] = []

    def leave(crossing: Crossing, _random: random.Random) -> Iterable[Crossing]:
        if crossing.parcel.kind == parcel.ROUND_OPEN and crossing.department == "birch" and not gone:
            gone.append(at_work.network.clock())
            at_work.kill("birch")
        return (crossing,)

    with small.running(tmp_path, network=MemoryNetwork(weather=[leave]), departments=4) as at_work:
        ends: list[float] = []
        at_work.run(lambda kind, facts: ends.append(at_work.network.clock()) if kind == "closed" else None)
        assert len(ends) == 3
        assert 10 <= ends[0] - gone[0] <= 11
        honest_versions(at_work)


def test_an_opening_without_a_quorum_is_asked_for_again_with_the_same_survivor_set(tmp_path):
    """Two of three silent at the first opening: quorum 2 is missed; the second attempt opens the very same set."""
    asked: list[Parcel] = []

    def once(crossing: Crossing, _random: random.Random) -> Iterable[Crossing]:
        if crossing.parcel.kind == parcel.OPEN and crossing.department != "ash":
            asked.append(crossing.parcel)
            return () if len(asked) <= 2 else (crossing,)
        return (crossing,)

    with small.running(tmp_path, network=MemoryNetwork(weather=[once])) as at_work:
        lost: list[str] = []
        at_work.run(lambda kind, facts: lost.append(facts["code"]) if kind == "lost" else None)
        assert lost == ["CR41"]
        assert [asked[0].head, asked[1].head] == [asked[2].head, asked[3].head]
        honest_versions(at_work)
        small.check_books(at_work.federation)


def test_a_stopped_run_whose_survivor_set_is_fixed_goes_on_from_it_when_resumed(tmp_path):
    silent = [True]

    def weather(crossing: Crossing, _random: random.Random) -> Iterable[Crossing]:
        return () if silent[0] and crossing.parcel.kind == parcel.OPEN else (crossing,)

    with small.running(tmp_path, network=MemoryNetwork(weather=[weather])) as at_work:
        assert run(at_work) == ("stopped", ["fixed"])
        silent[0] = False
        with small.journal_of(at_work.federation) as journal:
            journal.resume(1)
        assert run(at_work) == ("finished", ["closed"] * 3)


# -- lies ------------------------------------------------------------------------------------------------------------


def _flipper(seed: int, share: float, kinds: Iterable[str] = EVERY_KIND) -> Callable[[Crossing], Parcel | None]:
    """Flips one bit of the head or the body of some parcels."""
    dice, wanted = random.Random(seed), set(kinds)

    def flip(crossing: Crossing) -> Parcel | None:
        original = crossing.parcel
        if original.kind not in wanted or not len(original) or dice.random() >= share:
            return None
        data = bytearray(original.head + bytes(original.body))
        data[dice.randrange(len(data))] ^= 1 << dice.randrange(8)
        return Parcel(original.kind, bytes(data[: len(original.head)]), bytes(data[len(original.head) :]))

    return flip


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("kind", [parcel.CHARTER, parcel.ROUND_OPEN, parcel.MASKED, parcel.OPEN, parcel.SHARES])
def test_a_flipped_bit_is_refused_by_name_or_loses_the_round(kind, seed, tmp_path):
    network = MemoryNetwork(seed=seed, weather=[lie(_flipper(seed, 0.3, {kind}))])
    with small.running(tmp_path, network=network, departments=4, attempts=6) as at_work:
        run(at_work)
        seen = {code for _, code in faults(at_work)}
        assert seen <= set(all_errors())
        refused = at_work.told("refused")
        if kind in parcel.TO_DEPARTMENT:
            # who refused to open a round is asked to open its sum all the same, and knows of no such round
            mine = [facts["code"] for facts in refused if facts["request"] == kind]
            assert mine, "nothing was forged: the test would prove nothing"
            assert {facts["code"] for facts in refused if facts["request"] != kind} <= {"CR33"}
        else:
            assert seen, "nothing was forged: the test would prove nothing"
            assert not refused


@pytest.mark.parametrize("kind", [parcel.ROUND_OPEN, parcel.OPEN, parcel.CHARTER, parcel.RUN_CLOSE])
@pytest.mark.parametrize("change", ["cut", "longer", "version", "empty"])
def test_a_request_cut_short_or_of_another_version_is_refused_and_the_department_goes_on(kind, change, tmp_path):
    first: list[str] = []

    def forge(crossing: Crossing) -> Parcel | None:
        if crossing.parcel.kind != kind or first:
            return None
        first.append(crossing.department)
        return Parcel(kind, _changed(crossing.parcel.head, change), crossing.parcel.body)

    with small.running(tmp_path, network=MemoryNetwork(weather=[lie(forge)])) as at_work:
        at_work.run()
        small.check_books(at_work.federation)
        honest_versions(at_work)
        (refusal,) = at_work.told("refused")
        assert refusal["request"] == kind
        expected = "CR22" if change == "version" else "CR20"
        assert refusal["code"] == expected
        assert ("CR37" in {code for _, code in faults(at_work)}) and first


@pytest.mark.parametrize("kind", [parcel.MASKED, parcel.SHARES])
@pytest.mark.parametrize(
    ("change", "code"), [("cut", "CR20"), ("longer", "CR20"), ("version", "CR22"), ("empty", "CR20")]
)
def test_a_reply_cut_short_or_of_another_version_is_blamed_on_its_sender(kind, change, code, tmp_path):
    def forge(crossing: Crossing) -> Parcel | None:
        if crossing.parcel.kind != kind or crossing.department != "birch":
            return None
        return Parcel(kind, _changed(crossing.parcel.head, change), crossing.parcel.body)

    with small.running(tmp_path, network=MemoryNetwork(weather=[lie(forge)]), departments=4) as at_work:
        assert run(at_work)[0] == "finished"
        assert set(faults(at_work)) == {("birch", code)}


def _changed(head: bytes, change: str) -> bytes:
    return {"cut": head[:-1], "longer": head + b"\0", "version": bytes([head[0] ^ 2]) + head[1:], "empty": b""}[change]


def test_another_broadcast_than_the_signed_one_is_refused_by_name(tmp_path):
    def other(crossing: Crossing) -> Parcel | None:
        if crossing.parcel.kind != parcel.ROUND_OPEN or crossing.department != "cedar":
            return None
        return Parcel(parcel.ROUND_OPEN, crossing.parcel.head, bytes(len(crossing.parcel.body)))

    with small.running(tmp_path, network=MemoryNetwork(weather=[lie(other)]), departments=4) as at_work:
        assert run(at_work)[0] == "finished"
        # and it is not asked to open a round that it refused
        assert {(facts["request"], facts["code"]) for facts in at_work.told("refused")} == {(parcel.ROUND_OPEN, "CR34")}
        assert all("cedar" not in _survivors(at_work, at) for at in range(3))


def _survivors(at_work: small.ToyFederation, at: int) -> list[str]:
    with small.journal_of(at_work.federation) as journal:
        return journal.rounds()[at].report["survivors"]


def test_a_coordinator_that_signs_two_models_for_one_round_gets_no_sum_of_either(tmp_path):
    """Ash sees one model, the others another, each under a good signature: no transcript has a quorum of uploads."""
    federation = small.founded(tmp_path)
    key = federation.coordinator.identity()

    def split(crossing: Crossing) -> Parcel | None:
        if crossing.parcel.kind != parcel.ROUND_OPEN or crossing.department != "ash":
            return None
        if RoundOpen.decode(crossing.parcel.head).version == 0:
            return None  # everybody can compute version 0, so a lie must wait for the next
        body = np.frombuffer(crossing.parcel.body, "<f4") + np.float32(0.01)
        return _resigned(crossing.parcel, key, body.tobytes())

    with small.ToyFederation(federation, MemoryNetwork(weather=[lie(split)])) as at_work:
        at_work.start_all()
        at_work.queue()
        state, rounds = run(at_work)
        assert state == "stopped"
        assert rounds[0] == "closed"
        assert set(rounds[1:]) == {"lost"}
        assert ("ash", "CR33") in faults(at_work)


def _resigned(original: Parcel, key: Identity, body: bytes) -> Parcel:
    opening = RoundOpen.decode(original.head)
    fields = {field.name: getattr(opening, field.name) for field in dataclasses.fields(opening)}
    fields["broadcast"] = sha256(body)
    return Parcel(original.kind, RoundOpen.signed(key, **fields).encode(), body)


def test_a_charter_with_one_number_changed_is_refused_although_it_is_signed(tmp_path):
    federation = small.founded(tmp_path)
    key = federation.coordinator.identity()

    def other(crossing: Crossing) -> Parcel | None:
        if crossing.parcel.kind != parcel.CHARTER:
            return None
        value = loads(bytes(crossing.parcel.body), what="the charter")
        value["charter"]["training"]["update_clip"] = 500.0
        changed = SignedCharter.sign(SignedCharter.from_json(dumps(value)).charter, key)
        honest = Offer.decode(crossing.parcel.head)
        offer = Offer.signed(
            key, run=honest.run, charter=changed.charter.digest, roster=honest.roster, epoch=honest.epoch
        )
        return Parcel(parcel.CHARTER, offer.encode(), changed.to_json())

    with small.ToyFederation(federation, MemoryNetwork(weather=[lie(other)])) as at_work:
        at_work.start_all()
        at_work.queue()
        assert run(at_work) == ("stopped", [])
        assert {facts["code"] for facts in at_work.told("refused")} == {"CR12"}
        assert at_work.told("training") == []


@pytest.mark.parametrize("kind", ["pull-everything", "", "x" * 10_000, parcel.MASKED])
def test_a_request_of_a_kind_that_does_not_exist_is_refused(kind, tmp_path):
    def other(crossing: Crossing) -> Parcel | None:
        return Parcel(kind) if crossing.parcel.kind == parcel.CHARTER else None

    with small.running(tmp_path, network=MemoryNetwork(weather=[lie(other)])) as at_work:
        assert run(at_work) == ("stopped", [])
        assert {facts["code"] for facts in at_work.told("refused")} == {"CR20"}


@pytest.mark.parametrize("stage", sorted(REPLIES))
def test_a_department_that_answers_with_something_else_is_blamed_and_left_out(stage, tmp_path):
    def other(crossing: Crossing) -> Parcel | None:
        if crossing.parcel.kind == REPLIES[stage] and crossing.department == "ash":
            return Parcel(parcel.CLOSED, b"with a head", b"and a body")
        return None

    with small.running(tmp_path, network=MemoryNetwork(weather=[lie(other)]), departments=4) as at_work:
        assert run(at_work) == ("finished", ["closed"] * 3)
        assert set(faults(at_work)) == {("ash", "CR37")}


def test_garbage_under_a_good_signature_loses_the_round_and_not_the_model(tmp_path):
    """A faulty department encodes lanes beyond their range: the range check rejects the sum."""
    with small.running(tmp_path) as at_work:
        machine = at_work.sessions["birch"]._machine
        honest = machine.mask

        def faulty(opened, lanes16, lanes64, dice):
            lanes16 += np.uint16(0x8000)
            return honest(opened, lanes16, lanes64, dice)

        machine.mask = faulty
        state, rounds = run(at_work)
        assert (state, rounds) == ("stopped", ["lost"] * 3)
        with small.journal_of(at_work.federation) as journal:
            assert "CR42" in journal.runs()[0].reason
            assert len(journal.versions(1)) == 1


def test_shares_that_were_never_dealt_are_found_out_and_their_sender_named(tmp_path):
    """Five departments, quorum 4, one liar: with a fifth answer the sum opens, right, and the liar is named."""
    federation = small.founded(tmp_path, departments=5)
    with small.ToyFederation(federation, MemoryNetwork(weather=[small.undealt_shares(federation)])) as at_work:
        at_work.start_all()
        at_work.queue()
        assert run(at_work) == ("finished", ["closed"] * 3)
        assert ("ash", "CR30") in faults(at_work)


def test_a_second_survivor_set_for_one_round_is_refused_and_kept_as_evidence(tmp_path):
    """First {1,2,3,4}, then {1,2,3}, both under good signatures: their difference would be a department."""
    seen, watch = small.last_seen(parcel.OPEN)
    with small.running(tmp_path, network=MemoryNetwork(weather=[watch]), departments=4) as at_work:
        run(at_work)
        key = at_work.federation.coordinator.identity()
        for name, session in at_work.sessions.items():
            asked = Open.decode(seen[name].head)
            fewer = Open.signed(
                key,
                transcript=asked.transcript,
                round=asked.round,
                survivors=asked.survivors[:3],
                boxes=asked.boxes[:3],
                confirmed_by=(),
                confirmations=(),
            )
            reply = session.handle(Parcel(parcel.OPEN, fewer.encode()))
            assert Refusal.decode(reply.head).code == "CR27"
            with small.store_of(at_work.federation.departments[name]) as store:
                assert store.ledger()[-1].facts["code"] == "CR27"
            # the first question still gets its answer, byte for byte
            again = session.handle(seen[name])
            assert again.kind == parcel.SHARES
            assert again == session.handle(seen[name])


@pytest.mark.parametrize("seed", range(40))
def test_no_bytes_at_all_make_a_session_raise_or_say_more_than_a_code(seed, trampled):
    """Real requests with bytes cut out and put in: the reply is a refusal of nine bytes or the honest answer."""
    session, requests, honest = trampled
    dice = random.Random(seed)
    for _ in range(25):
        request = dice.choice(requests)
        head = bytearray(request.head)
        for _ in range(dice.randrange(1, 4)):
            at = dice.randrange(len(head) + 1)
            head[at : at + dice.randrange(3)] = dice.randbytes(dice.randrange(3))
        reply = session.handle(Parcel(dice.choice([request.kind, *parcel.TO_DEPARTMENT]), bytes(head), request.body))
        if reply.kind == parcel.REFUSAL:
            assert len(reply.head) == 9
            assert Refusal.decode(reply.head).code in all_errors()
        else:
            assert reply in honest or reply.kind in (parcel.READY, parcel.CLOSED)


@pytest.fixture(scope="module")
def trampled(module_path):
    """A session after a whole run, every request it got in it, and what it answered."""
    requests: list[Parcel] = []
    honest: list[Parcel] = []

    def watch(crossing: Crossing) -> Parcel | None:
        if crossing.department == "ash":
            (requests if crossing.direction == "to-department" else honest).append(crossing.parcel)
        return None

    with small.running(module_path, network=MemoryNetwork(weather=[lie(watch)])) as at_work:
        at_work.run()
        yield at_work.sessions["ash"], requests, honest


def test_what_the_fuzzer_starts_from_is_accepted_as_it_is(trampled):
    session, requests, _ = trampled
    last_round = [r for r in requests if r.kind in (parcel.ROUND_OPEN, parcel.OPEN)][-2:]
    assert [session.handle(request).kind for request in last_round] == [parcel.MASKED, parcel.SHARES]
    assert Masked.decode(session.handle(last_round[0]).head).sender == 0
