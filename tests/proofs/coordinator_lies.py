"""What a lying coordinator forges: its own key signs everything here, unless a lie is about the signature."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from federation import small
from proofs.stage import ASH, ELM, Make, Stage, dropped, parcel_of, playing, resigned, unchecked

from commonroot.client.setup import approve, join
from commonroot.common import canonical, parcel
from commonroot.common.charter import SignedCharter
from commonroot.common.messages import Confirm, Confirmed, Offer, Open, Previous, RoundOpen, RunClose, Train
from commonroot.common.parcel import Parcel
from commonroot.common.roster import Roster, SignedRoster
from commonroot.common.secure_sum.committee import Committee
from commonroot.common.secure_sum.graph import MaskGraph
from commonroot.common.secure_sum.primitives import Identity, sha256
from commonroot.simulations.network import Crossing

KINDS = {
    parcel.TRAIN: Train,
    parcel.ROUND_OPEN: RoundOpen,
    parcel.CONFIRM: Confirm,
    parcel.OPEN: Open,
    parcel.RUN_CLOSE: RunClose,
}


def altered(change: Callable[[Stage, Any], dict[str, Any]], body: Callable[[bytes], bytes] | None = None) -> Make:
    """A message with fields changed, and its broadcast if need be, signed anew by the coordinator."""

    def make(stage: Stage, name: str, honest: Parcel) -> Parcel:
        message = KINDS[honest.kind].decode(honest.head)
        changes = change(stage, message)
        sent = honest.body if body is None else body(bytes(honest.body))
        if body is not None:
            changes = {"broadcast": sha256(sent)} | changes
        return parcel_of(resigned(message, stage.coordinator, **changes), honest, sent)

    return make


def set_to(**changes: Any) -> Make:
    """Fields set to fixed values."""
    return altered(lambda stage, message: changes)


def under_another_key(stage: Stage, name: str, honest: Parcel) -> Parcel:
    """Everything as it was, signed by a department instead."""
    if honest.kind == parcel.CHARTER:
        charter = SignedCharter.from_json(bytes(honest.body)).charter
        offer = resigned(Offer.decode(honest.head), stage.key(ELM))
        return Parcel(parcel.CHARTER, offer.encode(), SignedCharter.sign(charter, stage.key(ELM)).to_json())
    return parcel_of(resigned(KINDS[honest.kind].decode(honest.head), stage.key(ELM)), honest)


def under_another_label(stage: Stage, name: str, honest: Parcel) -> Parcel:
    """The right key, but the signature of another kind of message."""
    message = RoundOpen.decode(honest.head)
    return parcel_of(message.unsigned() + stage.coordinator.sign("open", message.unsigned()), honest)


def with_head(change: Callable[[bytes], bytes]) -> Make:
    """The head's bytes changed, nothing signed anew."""
    return lambda stage, name, honest: Parcel(honest.kind, change(honest.head), honest.body)


def with_body(change: Callable[[bytes], bytes]) -> Make:
    """The body's bytes changed, under the honest hash and signature."""
    return lambda stage, name, honest: Parcel(honest.kind, honest.head, change(bytes(honest.body)))


def another_model(body: bytes) -> bytes:
    return (np.frombuffer(body, "<f4") + np.float32(0.5)).tobytes()


def another_model_from_nothing(body: bytes) -> bytes:
    """The same, where the honest parcel leaves the broadcast out: zeros are as far from it as need be."""
    return bytes(4 * 92) if not body else another_model(body)


# -- rounds ------------------------------------------------------------------------------------------------------------


def bounds_times(factor: float) -> Make:
    return altered(lambda stage, m: {"bounds": tuple(float(np.float32(b * factor)) for b in m.bounds)})


def cohort(change: Callable[[tuple[int, ...]], Sequence[int]]) -> Make:
    return altered(lambda stage, m: {"cohort": tuple(change(m.cohort))})


def repeated_id(stage: Stage, name: str, honest: Parcel) -> Parcel:
    message = RoundOpen.decode(honest.head)
    return parcel_of(unchecked(message, stage.coordinator, cohort=(0, 1, 1, 2, 3)), honest)


def weaker_roster(stage: Stage, name: str, honest: Parcel) -> Parcel:
    """A round under a roster of the same departments whose floor is lower; no authority signed it."""
    value = stage.roster.model_dump()
    value["parameters"] |= {"colluders": 0, "opening_quorum": 3}
    digest = Roster.model_validate(value).digest
    assert digest != stage.roster.digest
    return parcel_of(resigned(RoundOpen.decode(honest.head), stage.coordinator, roster=digest), honest)


def earlier(kind: str) -> Make:
    """The first parcel of a kind that this department ever got, again."""
    return lambda stage, name, honest: stage.sent(kind, name)[0]


def another_result(stage: Stage, name: str, honest: Parcel) -> Parcel:
    """The right round, the hash of another survivor set."""
    message = KINDS[honest.kind].decode(honest.head)
    told = Previous(message.previous.round, sha256(b"another set"), message.previous.aggregate)
    return parcel_of(resigned(message, stage.coordinator, previous=told), honest)


def round_open_instead(change: Callable[[Stage, RoundOpen], dict[str, Any]]) -> Make:
    """A forged round-open in front of some other request."""

    def make(stage: Stage, name: str, honest: Parcel) -> Parcel:
        last = stage.sent(parcel.ROUND_OPEN, name)[-1]
        message = RoundOpen.decode(last.head)
        return parcel_of(resigned(message, stage.coordinator, **change(stage, message)), last)

    return make


def run_close_instead(change: Callable[[Stage, RoundOpen], dict[str, Any]]) -> Make:
    """A forged run-close in front of some other request."""

    def make(stage: Stage, name: str, honest: Parcel) -> Parcel:
        last = stage.sent(parcel.ROUND_OPEN, name)[-1]
        m = RoundOpen.decode(last.head)
        fields: dict[str, Any] = {
            "charter": m.charter,
            "roster": m.roster,
            "epoch": m.epoch,
            "round": m.round,
            "version": stage.charter.rounds,
            "broadcast": m.broadcast,
            "previous": Previous(),
        }
        made = RunClose.signed(stage.coordinator, **(fields | change(stage, m)))
        return Parcel(parcel.RUN_CLOSE, made.encode(), last.body)

    return make


# -- a graph, a committee, a ready stage -------------------------------------------------------------------------------


def without_a_row(stage: Stage, who: tuple[int, ...]) -> tuple[int, ...]:
    """Without ten neighbours on the ring of 34, so that twelve positions in a row hold two, where three must be."""
    row = set(MaskGraph.of(stage.roster).order[:10])
    return tuple(one for one in who if one not in row)


def without_members(stage: Stage, who: tuple[int, ...]) -> tuple[int, ...]:
    """Without fourteen of the 32 on the committee, so that 18 are left where 19 must open."""
    gone = set(Committee.of(stage.roster).members[1:15])
    return tuple(one for one in who if one not in gone)


def cohort_of(change: Callable[[Stage, tuple[int, ...]], tuple[int, ...]]) -> Make:
    return altered(lambda stage, m: {"cohort": change(stage, m.cohort)})


def survivors_of(change: Callable[[Stage, tuple[int, ...]], tuple[int, ...]]) -> Make:
    return lambda stage, name, honest: survivors(lambda who: change(stage, who))(stage, name, honest)


def bystander_asked_to_open(root: Path) -> Stage:
    """After the run, a department that is on no committee gets the opening that was sent to a member."""
    stage = Stage(root, departments=34)
    stage.run()
    members = Committee.of(stage.roster).members
    bystander = next(at for at in range(34) if at not in members)
    asked = stage.sent(parcel.OPEN, stage.names[members[0]])[-1]
    assert stage.ask(stage.names[bystander], asked).kind == parcel.REFUSAL
    return stage


def train_instead(change: Callable[[Stage, RoundOpen], dict[str, Any]]) -> Make:
    """A request to train, made from the round-open that came last, in front of some other request."""

    def make(stage: Stage, name: str, honest: Parcel) -> Parcel:
        last = stage.sent(parcel.ROUND_OPEN, name)[-1]
        m = RoundOpen.decode(last.head)
        fields: dict[str, Any] = {
            "charter": m.charter,
            "roster": m.roster,
            "epoch": m.epoch,
            "round": m.round + 1,
            "version": m.version,
            "broadcast": m.broadcast,
            "seconds": m.upload_seconds,
        }
        made = Train.signed(stage.coordinator, **(fields | change(stage, m)))
        return Parcel(parcel.TRAIN, made.encode(), last.body)

    return make


# -- openings ----------------------------------------------------------------------------------------------------------


def survivors(change: Callable[[tuple[int, ...]], Sequence[int]]) -> Make:
    """Another survivor set, with the right box of every survivor that has one."""

    def make(stage: Stage, name: str, honest: Parcel) -> Parcel:
        message = Open.decode(honest.head)
        chosen = tuple(change(message.survivors))
        by_sender = dict(zip(message.survivors, message.boxes, strict=True))
        boxes = tuple(by_sender.get(who, message.boxes[0]) for who in chosen)
        return parcel_of(unchecked(message, stage.coordinator, survivors=chosen, boxes=boxes), honest)

    return make


def boxes(change: Callable[[bytes], bytes]) -> Make:
    """Every box changed."""
    return altered(lambda stage, m: {"boxes": tuple(map(change, m.boxes))})


def boxes_of_another(stage: Stage, name: str, honest: Parcel) -> Parcel:
    """The boxes that were sealed for ash."""
    theirs = Open.decode(stage.sent(parcel.OPEN, ASH)[-1].head).boxes
    return parcel_of(resigned(Open.decode(honest.head), stage.coordinator, boxes=theirs), honest)


def late_opening(root: Path) -> Stage:
    """Elm gets the opening of round 1 only after it has masked for round 2."""
    stage = Stage(root, rounds=2)

    def forge(stage: Stage, crossing: Crossing) -> Iterable[Parcel] | None:
        if crossing.department != ELM or crossing.direction != "to-department":
            return None
        openings = stage.sent(parcel.OPEN, ELM)
        if crossing.parcel.kind == parcel.OPEN and len(openings) == 1:
            return ()
        if crossing.parcel.kind == parcel.ROUND_OPEN and openings:
            return (crossing.parcel, openings[0])
        return None

    stage.forge = forge
    stage.run()
    return stage


def other_boxes_for_the_same_set(root: Path) -> Stage:
    """After the honest opening the same set again, with boxes of noise: the answer must be the same bytes."""
    stage = playing(parcel.OPEN, boxes(lambda box: os.urandom(len(box))), after=True)(root)
    answers = stage.sent(parcel.SHARES, ASH)
    assert len(answers) == 2
    assert answers[0].head == answers[1].head
    return stage


def claimed_dropped(root: Path) -> Stage:
    """Elm's upload arrives, and the coordinator says it did not.  When the others were opened, it asks for elm too."""
    stage = Stage(root)
    stage.forge = dropped(parcel.MASKED, {ELM})
    stage.run()
    assert len(stage.sent(parcel.MASKED, ELM)) == 1
    for name in stage.names:
        asked = Open.decode(stage.sent(parcel.OPEN, name)[-1].head)
        assert stage.number(ELM) not in asked.survivors
        everyone = tuple(range(len(stage.names)))
        forged = resigned(asked, stage.coordinator, survivors=everyone, boxes=(*asked.boxes, asked.boxes[0]))
        assert stage.ask(name, Parcel(parcel.OPEN, forged.encode())).kind == parcel.REFUSAL
    return stage


def forgetful(*, pass_over: bool) -> Callable[[Path], Stage]:
    """A round is opened for all; the coordinator puts its journal back to before that and leaves elm out.

    pass_over   the round's number is given up as if the round had been lost, and its backbone tried under the next
    """

    def play(root: Path) -> Stage:
        stage = Stage(root)

        def keep_a_copy(stage: Stage, crossing: Crossing) -> None:
            if crossing.parcel.kind == parcel.ROUND_OPEN and not (root / "backup").exists():
                stage.backup()

        stage.forge = keep_a_copy
        stage.run()
        assert stage.outcome() == "unharmed"
        stage.restore()
        if pass_over:
            with small.journal_of(stage.federation) as journal:
                journal.lose_round(1, "so it says")
        stage.forge = dropped(parcel.MASKED, {ELM})
        stage.run()
        return stage

    return play


# -- confirmations -----------------------------------------------------------------------------------------------------


def without_elm(
    kind: str, make: Make, *, silent: Sequence[tuple[str, str]] = (), **when: Any
) -> Callable[[Path], Stage]:
    """``playing``, but elm's upload never arrives, so that the set of the other four is to be confirmed.

    silent   (kind, department) of further parcels that never arrive
    """
    lost = {(parcel.MASKED, ELM), *silent}

    def play(root: Path) -> Stage:
        return playing(kind, make, gone=lambda one: (one.parcel.kind, one.department) in lost, **when)(root)

    return play


def confirmations(change: Callable[[Stage, str, Open], dict[str, Any]]) -> Make:
    """An opening with other confirmations."""
    return lambda stage, name, honest: parcel_of(
        resigned(Open.decode(honest.head), stage.coordinator, **change(stage, name, Open.decode(honest.head))),
        honest,
    )


no_confirmations = confirmations(lambda stage, name, m: {"confirmed_by": (), "confirmations": ()})
one_confirmation_less = confirmations(
    lambda stage, name, m: {"confirmed_by": m.confirmed_by[:-1], "confirmations": m.confirmations[:-1]}
)
one_confirmation_twice = confirmations(
    lambda stage, name, m: {"confirmations": (*m.confirmations[:-1], m.confirmations[0])}
)
one_of_its_own = confirmations(
    lambda stage, name, m: {
        "confirmations": (
            *m.confirmations[:-1],
            resigned(Confirmed(m.opened, m.confirmed_by[-1], bytes(64)), stage.coordinator).signature,
        )
    }
)


def of_the_round_before(stage: Stage, name: str, honest: Parcel) -> Parcel:
    """The confirmations that belonged to round 1, of the same departments."""
    message, before = Open.decode(honest.head), Open.decode(stage.sent(parcel.OPEN, name)[0].head)
    changes = {"confirmed_by": before.confirmed_by, "confirmations": before.confirmations}
    return parcel_of(resigned(message, stage.coordinator, **changes), honest)


def another_set_to_confirm(change: Callable[[tuple[int, ...]], Sequence[int]]) -> Make:
    """A request to confirm another set, made from a request to confirm or to open."""

    def make(stage: Stage, name: str, honest: Parcel) -> Parcel:
        m = KINDS[honest.kind].decode(honest.head)
        fields = {"transcript": m.transcript, "round": m.round, "survivors": tuple(change(m.survivors))}
        return Parcel(parcel.CONFIRM, Confirm.signed(stage.coordinator, **fields).encode())

    return make


def the_whole_cohort(stage: Stage, name: str, honest: Parcel) -> Parcel:
    """An opening of everybody, elm too, in the place of one without elm: no confirmation is asked for then."""
    m = Open.decode(honest.head)
    everyone = tuple(range(len(stage.names)))
    changes = {"survivors": everyone, "boxes": (*m.boxes, m.boxes[0]), "confirmed_by": (), "confirmations": ()}
    return parcel_of(resigned(m, stage.coordinator, **changes), honest)


# -- rosters and charters ----------------------------------------------------------------------------------------------


def joining(change: Callable[[Stage, dict[str, Any]], bytes], **shape: Any) -> Callable[[Path], Stage]:
    """Ash, or the first of many, is handed a roster made by ``change`` from the real one as JSON."""

    def play(root: Path) -> Stage:
        stage = Stage(root, **shape)
        asked = stage.names[0]
        path = root / "forged.json"
        real = (stage.federation.coordinator.root / "roster.json").read_bytes()
        path.write_bytes(change(stage, canonical.loads(real, what="the roster")))
        stage.at_work.kill(asked)
        stage.try_to("join", lambda: join(stage.federation.reopen(asked), path, os.urandom))
        stage.at_work.start(asked)
        return stage

    return play


def signed_by_another_authority(stage: Stage, value: dict[str, Any]) -> bytes:
    roster = SignedRoster.from_json(canonical.dumps(value)).roster
    return SignedRoster.sign(roster, Identity(bytes(range(32)))).to_json()


def a_members_key_exchanged(stage: Stage, value: dict[str, Any]) -> bytes:
    """Even the real authority cannot: the department itself has not signed that key."""
    value["roster"]["departments"][1]["agreement"] = sha256(b"the coordinator's own").hex()
    forged = SignedRoster.from_json(canonical.dumps(value)).roster
    authority = stage.federation.coordinator.authority()
    return canonical.dumps(
        {"roster": forged.model_dump(mode="json"), "signature": authority.sign("roster", forged.digest).hex()}
    )


def a_member_dropped(stage: Stage, value: dict[str, Any]) -> bytes:
    value["roster"]["departments"].pop()
    value["roster"]["parameters"]["opening_quorum"] = 3
    return canonical.dumps(value)


def parameters(**changes: int | None) -> Callable[[Stage, dict[str, Any]], bytes]:
    """Other numbers under the old signature."""

    def change(stage: Stage, value: dict[str, Any]) -> bytes:
        value["roster"]["parameters"].update(changes)
        return canonical.dumps(value)

    return change


def other_charter(change: Callable[[dict[str, Any]], None]) -> Make:
    """A charter that nobody approved, under the coordinator's good signature."""

    def make(stage: Stage, name: str, honest: Parcel) -> Parcel:
        changed = _changed(stage, change)
        offer = resigned(Offer.decode(honest.head), stage.coordinator, charter=changed.charter.digest)
        return Parcel(parcel.CHARTER, offer.encode(), changed.to_json())

    return make


def approving(change: Callable[[dict[str, Any]], None]) -> Callable[[Path], Stage]:
    """Ash is asked to approve a charter whose terms are not those of the method installed with it."""

    def play(root: Path) -> Stage:
        stage = Stage(root)
        path = root / "forged.json"
        path.write_bytes(_changed(stage, change).to_json())
        stage.try_to("approve", lambda: approve(stage.federation.reopen(ASH), path))
        return stage

    return play


def _changed(stage: Stage, change: Callable[[dict[str, Any]], None]) -> SignedCharter:
    value = stage.federation.charter.model_dump(mode="json")
    change(value["charter"])
    return SignedCharter.sign(SignedCharter.model_validate(value).charter, stage.coordinator)


def more_clip(charter: dict[str, Any]) -> None:
    charter["training"]["update_clip"] = 500.0


def one_more_term(charter: dict[str, Any]) -> None:
    charter["terms"].append({"name": "rows_seen", "shape": [], "lane": "fixed64", "bound": 1e6})


def wider_bound(charter: dict[str, Any]) -> None:
    charter["terms"][0]["bound"] *= 1000


def one_more_broadcast(charter: dict[str, Any]) -> None:
    charter["broadcast"].append(["extra", [3]])
