"""Every lie by name: who tells it, what is forged, where and with which code it is refused, and what becomes of it.

The lies are told to the real sessions, stores, journal and rounds of five departments (t_c = 1, quorum 4, at least 3
survivors).  ``ash`` is the one that is lied to, and ``elm`` the one that lies, unless a row says otherwise.
``docs/threats.md`` is made from this table; ``lies.rows()`` gives it in plain words.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from federation.small import MANY
from proofs import coordinator_lies as c
from proofs import department_lies as d
from proofs import meeting_lies as m
from proofs.stage import ASH, BIRCH, CEDAR, DOGWOOD, ELM, Refusal, Stage, dropping, playing

from commonroot.common import parcel
from commonroot.common.errors import all_errors
from commonroot.common.parcel import (
    CHARTER,
    CONFIRM,
    CONFIRMED,
    MASKED,
    OPEN,
    ROUND_OPEN,
    RUN_CLOSE,
    SHARES,
    TRAIN,
    TRAINED,
    Parcel,
)

#: What a refusal elsewhere brings with it, and says nothing of its own: the coordinator hears of it, and whoever did
#: not take part in a round knows nothing of it when it is opened.
CONSEQUENCES = frozenset(
    {("coordinator", step, "CR37") for step in (CHARTER, TRAINED, MASKED, CONFIRMED, SHARES, "closed")}
) | {("department", OPEN, "CR33"), ("department", CONFIRM, "CR33")}
OUTCOMES: dict[str, str] = {
    "unharmed": "the round is opened for the others and is exactly theirs",
    "lost": "the round is lost; nothing is opened and the backbone stays as it was",
    "spoiled": "the round is opened, with the lie in it",
    "nothing began": "nothing was sent",
}


@dataclass(frozen=True)
class Lie:
    """One row.

    who       ``coordinator``, ``department`` or ``nobody``
    forged    in words, for the page that people read
    refused   by whom, at which step (a kind of parcel, ``join`` or ``approve``), with which code; None: by nobody
    outcome   one of ``OUTCOMES``
    play      plays it
    also      further refusals that the same lie brings about
    """

    who: str
    name: str
    forged: str
    refused: Refusal | None
    outcome: str
    play: Callable[[Path], Stage | d.Machines]
    also: frozenset[Refusal] = frozenset()


def coordinator(name: str, forged: str, step: str, code: str, play: Callable, outcome: str = "unharmed", **more) -> Lie:
    return Lie("coordinator", name, forged, ("department", step, code), outcome, play, **more)


def department(name: str, forged: str, step: str, code: str, play: Callable, outcome: str = "unharmed", **more) -> Lie:
    return Lie("department", name, forged, ("coordinator", step, code), outcome, play, **more)


#: The same while departments are introduced to one another.
WHILE_MEETING = frozenset({("coordinator", step, "CR37") for step in (parcel.GREETING, parcel.INTRODUCED)})
EVERYONE = (ASH, BIRCH, CEDAR, DOGWOOD, ELM)
#: Rows about a mask graph and a committee are told to the first of 34 departments.
FIRST, LAST = MANY[0], MANY[-1]
READY = {"ready": "on"}
NOISE = Parcel(parcel.CLOSED, b"with a head", b"and a body")

LIES = [
    Lie("nobody", "nobody-lies", "nothing: the control", None, "unharmed", playing(OPEN, lambda s, n, p: p)),
    # -- the coordinator, about who speaks ---------------------------------------------------------------------------
    coordinator("charter-under-another-key", "a charter signed by a department", CHARTER, "CR21",
                playing(CHARTER, c.under_another_key)),
    coordinator("round-under-another-key", "a round-open signed by a department", ROUND_OPEN, "CR21",
                playing(ROUND_OPEN, c.under_another_key)),
    coordinator("opening-under-another-key", "an opening signed by a department", OPEN, "CR21",
                playing(OPEN, c.under_another_key)),
    coordinator("close-under-another-key", "the end of a run signed by a department", RUN_CLOSE, "CR21",
                playing(RUN_CLOSE, c.under_another_key)),
    coordinator("signature-of-another-kind", "a round-open under the coordinator's signature for openings",
                ROUND_OPEN, "CR21", playing(ROUND_OPEN, c.under_another_label)),
    coordinator("bytes-that-are-no-message", "noise instead of a round-open", ROUND_OPEN, "CR20",
                playing(ROUND_OPEN, c.with_head(lambda head: head[:1] + bytes(40)))),
    coordinator("another-protocol-version", "a round-open of a protocol version not spoken here", ROUND_OPEN, "CR22",
                playing(ROUND_OPEN, c.with_head(lambda head: b"\x63" + head[1:]))),
    coordinator("unknown-kind-of-request", "a request to send everything", "send-everything", "CR20",
                playing(OPEN, lambda s, n, p: Parcel("send-everything", p.head), before=True)),
    # -- the coordinator, about the roster ---------------------------------------------------------------------------
    coordinator("roster-of-another-authority", "a roster signed by a key of the coordinator's own", "join", "CR21",
                c.joining(c.signed_by_another_authority), "nothing began"),
    coordinator("roster-with-an-exchanged-key", "a member's agreement key exchanged, even under the authority's "
                "signature", "join", "CR21", c.joining(c.a_members_key_exchanged), "nothing began"),
    coordinator("roster-with-a-member-dropped", "a member left out, under the old signature", "join", "CR21",
                c.joining(c.a_member_dropped), "nothing began"),
    coordinator("roster-with-a-lower-quorum", "an opening quorum below ⌊(n + t_c)/2⌋ + 1", "join", "CR20",
                c.joining(c.parameters(opening_quorum=2)), "nothing began"),
    coordinator("roster-with-a-lower-floor", "fewer survivors than max(3, t_c + 2)", "join", "CR20",
                c.joining(c.parameters(survivors_min=2)), "nothing began"),
    coordinator("roster-with-fewer-colluders", "another t_c with the quorum that fits it, under the old signature",
                "join", "CR21", c.joining(c.parameters(colluders=0, opening_quorum=3)), "nothing began"),
    coordinator("weaker-parameters-at-run-time", "a round under a roster with a lower quorum that nobody joined",
                ROUND_OPEN, "CR23", playing(ROUND_OPEN, c.weaker_roster)),
    coordinator("stale-epoch", "a round of another epoch", ROUND_OPEN, "CR23",
                playing(ROUND_OPEN, c.set_to(epoch=0))),
    Lie("coordinator", "older-roster", "the roster of an epoch that is over", ("department", "join", "CR53"),
        "nothing began", m.older_roster),
    Lie("coordinator", "second-roster-of-one-epoch", "another roster for the same epoch, even under the authority's "
        "signature", ("department", "join", "CR52"), "nothing began", m.second_roster),
    coordinator("round-before-countersigned", "a round to one who has seen no other department sign this roster",
                ROUND_OPEN, "CR51", m.before_countersigned),
    # -- the coordinator, about introductions ------------------------------------------------------------------------
    coordinator("greet-under-another-key", "a request to greet, signed by a department", parcel.GREET, "CR21",
                playing(parcel.GREET, m.under_another_key)),
    coordinator("greet-for-another-roster", "a request to greet under a roster of its own, for this epoch",
                parcel.GREET, "CR52", playing(parcel.GREET, m.set_to(roster=bytes(32)))),
    coordinator("greet-for-another-epoch", "a request to greet in an epoch that was not joined", parcel.GREET, "CR23",
                playing(parcel.GREET, m.set_to(epoch=2))),
    coordinator("greeting-changed", "one bit of another department's greeting, signed for", parcel.INTRODUCE, "CR21",
                playing(parcel.INTRODUCE, m.letters(m.greeting_flipped), of=(ELM,))),
    coordinator("greeting-swapped", "ash's greeting as birch's", parcel.INTRODUCE, "CR21",
                playing(parcel.INTRODUCE, m.letters(m.greetings_swapped), of=(ELM,))),
    coordinator("ciphertext-changed", "a ciphertext of its own under another department's greeting", parcel.INTRODUCE,
                "CR54", playing(parcel.INTRODUCE, m.letters(m.ciphertext_flipped), of=(ELM,))),
    coordinator("other-letters-than-signed", "one set of greetings under the hash of another", parcel.INTRODUCE, "CR34",
                playing(parcel.INTRODUCE, c.with_body(lambda body: body[:-1] + bytes([body[-1] ^ 1])), of=(ELM,))),
    coordinator("cohort-of-strangers", "birch, from whom ash's greeting was withheld, in a cohort with ash", ROUND_OPEN,
                "CR50", m.strangers, "lost", also=frozenset({("coordinator", MASKED, "CR40")})),
    # -- the coordinator, about the charter --------------------------------------------------------------------------
    coordinator("charter-not-approved", "a charter with one number changed, under a good signature", CHARTER, "CR12",
                playing(CHARTER, c.other_charter(c.more_clip))),
    coordinator("round-of-another-charter", "a round under a charter that was not approved", ROUND_OPEN, "CR12",
                playing(ROUND_OPEN, c.set_to(charter=bytes(32)))),
    coordinator("charter-with-another-term", "a term that the named method does not send", "approve", "CR26",
                c.approving(c.one_more_term), "nothing began"),
    coordinator("charter-with-a-wider-bound", "a term's bound a thousandfold", "approve", "CR26",
                c.approving(c.wider_bound), "nothing began"),
    coordinator("charter-with-another-broadcast", "a tensor that the named method does not need", "approve", "CR26",
                c.approving(c.one_more_broadcast), "nothing began"),
    coordinator("another-manifest", "the hash of other terms", ROUND_OPEN, "CR26",
                playing(ROUND_OPEN, c.set_to(manifest=bytes(32)))),
    coordinator("bounds-too-wide", "bounds twice the charter's", ROUND_OPEN, "CR26",
                playing(ROUND_OPEN, c.bounds_times(2.0))),
    coordinator("bounds-too-narrow", "bounds so narrow that a sum shows single bits", ROUND_OPEN, "CR26",
                playing(ROUND_OPEN, c.bounds_times(1e-9))),
    coordinator("one-bound-too-many", "more bounds than terms", ROUND_OPEN, "CR26",
                playing(ROUND_OPEN, c.altered(lambda s, m: {"bounds": (*m.bounds, 1.0)}))),
    coordinator("deadline-too-long", "more time for an upload than the charter gives", ROUND_OPEN, "CR26",
                playing(ROUND_OPEN, c.altered(lambda s, m: {"upload_seconds": m.upload_seconds + 1}))),
    coordinator("broadcast-too-long", "a broadcast four bytes too long, signed for", ROUND_OPEN, "CR36",
                playing(ROUND_OPEN, c.altered(lambda s, m: {}, lambda body: body + bytes(4)))),
    coordinator("broadcast-too-short", "a broadcast four bytes too short, signed for", ROUND_OPEN, "CR36",
                playing(ROUND_OPEN, c.altered(lambda s, m: {}, lambda body: body[:-4]))),
    coordinator("broadcast-enormous", "sixteen megabytes of broadcast", ROUND_OPEN, "CR36",
                playing(ROUND_OPEN, c.altered(lambda s, m: {}, lambda body: bytes(1 << 24)))),
    coordinator("another-broadcast-than-signed", "one broadcast under the hash of another", ROUND_OPEN, "CR34",
                playing(ROUND_OPEN, c.with_body(c.another_model))),
    coordinator("round-beyond-the-roster", "a round number above the roster's last", ROUND_OPEN, "CR24",
                playing(ROUND_OPEN, c.altered(lambda s, m: {"round": s.roster.parameters.rounds_max + 1}))),
    coordinator("version-beyond-the-charter", "one more round than the charter has", ROUND_OPEN, "CR26",
                playing(ROUND_OPEN, c.altered(lambda s, m: {"version": s.charter.rounds}))),
    # -- the coordinator, about the cohort ---------------------------------------------------------------------------
    coordinator("cohort-without-the-one-asked", "a cohort that leaves out whom it is sent to", ROUND_OPEN, "CR25",
                playing(ROUND_OPEN, c.cohort(lambda who: who[1:]))),
    coordinator("cohort-outside-the-roster", "a department that does not exist", ROUND_OPEN, "CR25",
                playing(ROUND_OPEN, c.cohort(lambda who: (*who, 9)))),
    coordinator("cohort-with-one-twice", "a department counted twice", ROUND_OPEN, "CR20",
                playing(ROUND_OPEN, c.repeated_id)),
    coordinator("cohort-too-small", "fewer than the opening quorum", ROUND_OPEN, "CR25",
                playing(ROUND_OPEN, c.cohort(lambda who: who[:3]))),
    # -- the coordinator, with split views ---------------------------------------------------------------------------
    coordinator("another-model-to-one", "another backbone to ash, signed, too far from what rounds can make",
                ROUND_OPEN, "CR26", playing(ROUND_OPEN, c.altered(lambda s, m: {}, c.another_model))),
    coordinator("another-cohort-to-one", "a cohort without elm to ash, signed", OPEN, "CR33",
                playing(ROUND_OPEN, c.cohort(lambda who: who[:4])),
                also=frozenset({("coordinator", MASKED, "CR33"), ("coordinator", MASKED, "CR36")})),
    coordinator("other-bounds-to-one", "bounds half as wide to ash, signed", OPEN, "CR33",
                playing(ROUND_OPEN, c.bounds_times(0.5)), also=frozenset({("coordinator", MASKED, "CR33")})),
    coordinator("two-models", "one backbone to two departments, another to the other three: neither has a quorum",
                ROUND_OPEN, "CR26", playing(ROUND_OPEN, c.altered(lambda s, m: {}, c.another_model), of=(ASH, BIRCH)),
                "lost", also=frozenset({("coordinator", MASKED, x) for x in ("CR33", "CR40")})),
    coordinator("split-survivor-set", "all five to three departments, and to two a survivor set that nobody confirmed",
                OPEN, "CR38", playing(OPEN, c.survivors(lambda who: who[:4]), of=(ASH, BIRCH)), "lost",
                also=frozenset({("coordinator", SHARES, "CR41")})),
    # -- the coordinator, about confirmations (elm is lost, so the other four are to be confirmed) ---------------------
    coordinator("opening-without-confirmations", "an opening without elm, and without confirmations", OPEN, "CR38",
                c.without_elm(OPEN, c.no_confirmations, before=True)),
    coordinator("too-few-confirmations", "the same with one less than the quorum", OPEN, "CR38",
                c.without_elm(OPEN, c.one_confirmation_less, silent=[(CONFIRM, ASH)], before=True)),
    coordinator("one-confirmation-twice", "one member's confirmation in the place of another's", OPEN, "CR38",
                c.without_elm(OPEN, c.one_confirmation_twice, silent=[(CONFIRM, ASH)], before=True)),
    coordinator("confirmation-of-its-own", "a confirmation that the coordinator signed itself", OPEN, "CR38",
                c.without_elm(OPEN, c.one_of_its_own, before=True)),
    coordinator("confirmations-of-another-round", "the confirmations of round 1 in round 2", OPEN, "CR38",
                c.without_elm(OPEN, c.of_the_round_before, round=2, before=True, rounds=2)),
    coordinator("confirmations-of-another-set", "three survivors, under confirmations of four", OPEN, "CR38",
                c.without_elm(OPEN, c.survivors(lambda who: who[:3]), silent=[(CONFIRM, ASH)], before=True)),
    coordinator("two-sets-to-confirm", "a second survivor set to confirm, after the first", CONFIRM, "CR27",
                c.without_elm(CONFIRM, c.another_set_to_confirm(lambda who: who[:3]), after=True)),
    coordinator("confirmed-then-everybody", "an opening of all five after four were confirmed", OPEN, "CR27",
                c.without_elm(OPEN, c.the_whole_cohort, before=True)),
    coordinator("everybody-then-confirmed", "four to confirm after all five were opened", CONFIRM, "CR27",
                playing(OPEN, c.another_set_to_confirm(lambda who: who[:4]), after=True)),
    coordinator("too-few-to-confirm", "two survivors to confirm", CONFIRM, "CR28",
                c.without_elm(CONFIRM, c.another_set_to_confirm(lambda who: who[:2]), before=True)),
    coordinator("confirm-under-another-key", "a request to confirm, signed by a department", CONFIRM, "CR21",
                c.without_elm(CONFIRM, c.under_another_key, before=True)),
    coordinator("confirm-of-no-round", "a request to confirm for a round that never was", CONFIRM, "CR33",
                c.without_elm(CONFIRM, c.set_to(round=9), before=True)),
    # -- the coordinator, about survivors ----------------------------------------------------------------------------
    coordinator("second-survivor-set", "the sum without elm, after the sum with it", OPEN, "CR27",
                playing(OPEN, c.survivors(lambda who: who[:4]), after=True)),
    coordinator("second-survivor-set-first", "the sum without elm, unconfirmed, and only then the one with it",
                OPEN, "CR38", playing(OPEN, c.survivors(lambda who: who[:4]), before=True)),
    coordinator("both-kinds-of-share", "elm's own mask from everybody, then its pairwise masks from everybody", OPEN,
                "CR27", playing(OPEN, c.survivors(lambda who: who[:4]), of=EVERYONE, after=True)),
    coordinator("claimed-dropped", "elm's upload arrived and is said not to have; later its own mask is asked for too",
                OPEN, "CR27", c.claimed_dropped),
    coordinator("second-set-after-forgetting", "the journal put back, and the round opened again without elm",
                CONFIRM, "CR27", c.forgetful(pass_over=False), "lost",
                also=frozenset({("coordinator", CONFIRMED, "CR41")})),
    coordinator("second-set-for-one-backbone", "another round on a backbone that was opened, for other survivors",
                CONFIRM, "CR32", c.forgetful(pass_over=True), "lost",
                also=frozenset({("coordinator", CONFIRMED, "CR41")})),
    coordinator("one-set-as-another", "the same survivors in another order", OPEN, "CR20",
                playing(OPEN, c.survivors(lambda who: who[::-1]), after=True)),
    coordinator("survivor-counted-twice", "one of the survivors twice, to reach the floor", OPEN, "CR20",
                playing(OPEN, c.survivors(lambda who: (0, 1, 1)), before=True)),
    coordinator("too-few-survivors", "two survivors", OPEN, "CR28",
                playing(OPEN, c.survivors(lambda who: who[:2]), before=True)),
    coordinator("survivors-outside-the-cohort", "a survivor who was never asked", OPEN, "CR28",
                playing(OPEN, c.survivors(lambda who: (*who, 7)), before=True)),
    coordinator("boxes-of-another-member", "birch gets the boxes that were sealed for ash", OPEN, "CR29",
                playing(OPEN, c.boxes_of_another, of=(BIRCH,))),
    coordinator("boxes-changed", "one bit of every box", OPEN, "CR29",
                playing(OPEN, c.boxes(lambda box: box[:-1] + bytes([box[-1] ^ 1])))),
    coordinator("boxes-cut-short", "boxes of another size", OPEN, "CR29", playing(OPEN, c.boxes(lambda box: box[:-1]))),
    Lie("coordinator", "other-boxes-for-the-same-set", "the same survivors with boxes of noise: the first answer is "
        "given again, byte for byte", None, "unharmed", c.other_boxes_for_the_same_set),
    # -- the coordinator, with old messages --------------------------------------------------------------------------
    Lie("coordinator", "replayed-last-round", "the round-open of round 1 in round 2: the upload made for it is given "
        "again as it was, and nothing new is masked", ("coordinator", MASKED, "CR33"), "unharmed",
        playing(ROUND_OPEN, c.earlier(ROUND_OPEN), round=2, rounds=2)),
    coordinator("replayed-round", "the round-open of round 1 in round 3", ROUND_OPEN, "CR24",
                playing(ROUND_OPEN, c.earlier(ROUND_OPEN), round=3, rounds=3)),
    coordinator("one-number-two-rounds", "a round's number again, with other contents", ROUND_OPEN, "CR24",
                playing(ROUND_OPEN, c.bounds_times(0.5), after=True)),
    coordinator("replayed-opening", "the opening of round 1 for the first time in round 2", OPEN, "CR33",
                c.late_opening),
    coordinator("opening-of-no-round", "an opening of a round that never was", OPEN, "CR33",
                playing(OPEN, c.set_to(round=9), before=True)),
    coordinator("opening-of-another-transcript", "an opening of this round under another transcript", OPEN, "CR33",
                playing(OPEN, c.set_to(transcript=bytes(32)), before=True)),
    coordinator("replayed-close", "the end of a run at a round that is past", RUN_CLOSE, "CR24",
                playing(OPEN, c.run_close_instead(lambda s, m: {"round": 1}), round=2, before=True, rounds=2)),
    coordinator("close-before-the-end", "the end of a run one version too early", RUN_CLOSE, "CR33",
                playing(OPEN, c.run_close_instead(lambda s, m: {"version": 1}), before=True, rounds=2)),
    coordinator("close-with-another-backbone", "a final backbone under the hash of another", RUN_CLOSE, "CR34",
                playing(RUN_CLOSE, c.with_body(c.another_model))),
    coordinator("version-going-back", "version 0 again after version 1", ROUND_OPEN, "CR24",
                playing(OPEN, c.round_open_instead(lambda s, m: {"round": 3, "version": 0}), round=2, before=True,
                        rounds=2)),
    coordinator("result-of-another-set", "a last result that is not of the set that was opened", ROUND_OPEN, "CR35",
                playing(ROUND_OPEN, c.another_result, round=2, rounds=2)),
    coordinator("final-result-of-another-set", "the same at the end of the run", RUN_CLOSE, "CR35",
                playing(RUN_CLOSE, c.another_result)),
    # -- the coordinator, about the mask graph and the committee of 34 departments -----------------------------------
    coordinator("cohort-with-a-thin-row", "a cohort in which twelve neighbours on the ring are two", ROUND_OPEN, "CR25",
                playing(ROUND_OPEN, c.cohort_of(c.without_a_row), of=(LAST,), departments=34)),
    coordinator("cohort-without-its-committee", "a cohort with fewer committee members than must open", ROUND_OPEN,
                "CR25", playing(ROUND_OPEN, c.cohort_of(c.without_members), of=(FIRST,), departments=34)),
    coordinator("survivors-with-a-thin-row", "survivors that colluders could split, against the window rule", OPEN,
                "CR28", playing(OPEN, c.survivors_of(c.without_a_row), of=MANY[:3], before=True,
                        departments=34)),
    coordinator("opening-to-a-bystander", "an opening for a department that is not on the committee", OPEN, "CR33",
                c.bystander_asked_to_open),
    coordinator("roster-with-a-thinner-graph", "a degree below 2·(t_c + 1)", "join", "CR20",
                c.joining(c.parameters(degree=8), departments=34), "nothing began"),
    coordinator("roster-with-a-complete-graph", "34 departments without a graph or committee", "join", "CR20",
                c.joining(c.parameters(degree=None, committee=None), departments=34), "nothing began"),
    coordinator("roster-with-a-smaller-committee", "a committee of another size with the quorum that fits it, under "
                "the old signature", "join", "CR21",
                c.joining(c.parameters(committee=30, opening_quorum=18), departments=34), "nothing began"),
    coordinator("roster-with-a-lower-floor-for-many", "fewer survivors than half of 34", "join", "CR20",
                c.joining(c.parameters(survivors_min=16), departments=34), "nothing began"),
    # -- the coordinator, at the ready stage -------------------------------------------------------------------------
    coordinator("train-under-another-key", "a request to train signed by a department", TRAIN, "CR21",
                playing(TRAIN, c.under_another_key, **READY)),
    coordinator("train-on-another-model", "another backbone to train on, signed, too far from what rounds can make",
                TRAIN, "CR26", playing(TRAIN, c.altered(lambda s, m: {}, c.another_model), **READY)),
    coordinator("train-on-what-was-not-signed", "a backbone under the hash of another", TRAIN, "CR34",
                playing(TRAIN, c.with_body(c.another_model), **READY)),
    coordinator("train-without-a-ready-stage", "a request to train where the charter has no ready stage", TRAIN, "CR26",
                playing(OPEN, c.train_instead(lambda s, m: {}), before=True)),
    coordinator("train-for-a-round-that-is-past", "a request to train for a round that was masked for", TRAIN, "CR24",
                playing(OPEN, c.train_instead(lambda s, m: {"round": m.round}), before=True, **READY)),
    coordinator("train-on-a-version-going-back", "version 0 again, to train on, after version 1", TRAIN, "CR24",
                playing(OPEN, c.train_instead(lambda s, m: {"version": 0}), round=2, before=True, rounds=2, **READY)),
    coordinator("train-beyond-the-roster", "a request to train in another epoch", TRAIN, "CR23",
                playing(TRAIN, c.set_to(epoch=2), **READY)),
    coordinator("another-model-after-training", "another backbone in the round-open than was trained on", ROUND_OPEN,
                "CR26", playing(ROUND_OPEN, c.altered(lambda s, m: {}, c.another_model_from_nothing), **READY)),
    coordinator("round-without-a-broadcast", "a round-open without a broadcast where there is no ready stage",
                ROUND_OPEN, "CR36", playing(ROUND_OPEN, c.with_body(lambda body: b""))),
    # -- a department, at the ready stage ----------------------------------------------------------------------------
    department("ready-under-another-key", "a readiness under a signature that is not elm's", TRAINED, "CR21",
               playing(TRAINED, d.under_another_key, of=(ELM,), **READY)),
    department("ready-in-anothers-name", "elm says that birch is ready", TRAINED, "CR33",
               playing(TRAINED, d.in_the_name_of_birch, of=(ELM,), **READY)),
    department("replayed-readiness", "the readiness of round 1 in round 2", TRAINED, "CR33",
               playing(TRAINED, d.earlier(TRAINED), of=(ELM,), round=2, rounds=2, **READY)),
    department("ready-for-something-else", "a readiness for a request that never was", TRAINED, "CR33",
               playing(TRAINED, d.set_to(asked=bytes(32)), of=(ELM,), **READY)),
    department("something-else-for-a-readiness", "a parcel of another kind", TRAINED, "CR37",
               playing(TRAINED, d.with_something_else(NOISE), of=(ELM,), **READY)),
    Lie("department", "never-ready-to-mask", "silence when asked to train: the round opens without elm", None,
        "unharmed", dropping(TRAINED, of={ELM}, **READY)),
    department("two-never-ready-to-mask", "silence of two of five when asked to train: nothing is masked", TRAINED,
               "CR40", dropping(TRAINED, of={ASH, ELM}, **READY), "lost"),
    Lie("department", "ready-but-never-uploads", "readiness, and silence instead of an upload", None, "unharmed",
        dropping(MASKED, of={ELM}, **READY)),
    department("upload-as-in-a-complete-graph", "boxes for all of 34 and commitments with all of them", MASKED, "CR36",
               playing(MASKED, d.as_in_a_complete_graph, of=(LAST,), departments=34)),
    department("mismatched-commitments-among-many", "the last of 34 commits to another secret with a neighbour", MASKED,
               "CR31", playing(MASKED, d.commitments(1), of=(LAST,), departments=34)),
    department("bad-shares-by-four-of-many", "noise instead of shares by t_c of 34", SHARES, "CR30",
               playing(SHARES, d.noise_for_shares, of=MANY[:4], departments=34),
               also=frozenset({("coordinator", SHARES, "CR41")})),
    # -- a department, about who it is -------------------------------------------------------------------------------
    department("upload-under-another-key", "an upload under a signature that is not elm's", MASKED, "CR21",
               playing(MASKED, d.under_another_key, of=(ELM,))),
    department("upload-in-anothers-name", "elm says it is birch", MASKED, "CR33",
               playing(MASKED, d.in_the_name_of_birch, of=(ELM,))),
    department("answer-under-another-key", "shares under a signature that is not ash's", SHARES, "CR21",
               playing(SHARES, d.under_another_key)),
    department("answer-in-anothers-name", "ash answers for birch", SHARES, "CR33",
               playing(SHARES, d.in_the_name_of_birch)),
    # -- a department, about its greeting ----------------------------------------------------------------------------
    department("greeting-under-another-key", "a greeting under a signature that is not elm's", parcel.GREETING, "CR21",
               playing(parcel.GREETING, m.under_another_key, of=(ELM,))),
    department("greeting-in-anothers-name", "elm greets as birch", parcel.GREETING, "CR54",
               playing(parcel.GREETING, m.in_the_name_of_birch, of=(ELM,))),
    department("greeting-under-another-roster", "elm countersigns another roster of this epoch", parcel.GREETING,
               "CR52", playing(parcel.GREETING, m.set_to(roster=bytes(32)), of=(ELM,))),
    department("greeting-without-countersignature", "a greeting whose countersignature is noise", parcel.GREETING,
               "CR21", playing(parcel.GREETING, m.set_to(countersignature=bytes(64)), of=(ELM,))),
    department("other-ciphertexts-than-signed", "ciphertexts that are not the ones of ash's greeting", parcel.GREETING,
               "CR54", playing(parcel.GREETING, d.with_body(d.noise))),
    department("introduced-under-another-key", "an answer to an introduction under a signature that is not elm's",
               parcel.INTRODUCED, "CR21", playing(parcel.INTRODUCED, m.under_another_key, of=(ELM,))),
    department("introduced-in-anothers-name", "elm says what birch has met", parcel.INTRODUCED, "CR54",
               playing(parcel.INTRODUCED, m.in_the_name_of_birch, of=(ELM,))),
    # -- a department, about its vector ------------------------------------------------------------------------------
    department("garbage-vector", "noise, signed for", SHARES, "CR42",
               playing(MASKED, d.with_signed_body(d.noise), of=(ELM,)), "lost"),
    department("garbage-scalar", "one scalar far beyond its range", SHARES, "CR42",
               playing(MASKED, d.with_signed_body(d.add_to_last_lane(1 << 62)), of=(ELM,)), "lost"),
    Lie("department", "garbage-within-the-range", "an update that is wrong but within its bound", None, "spoiled",
        playing(MASKED, d.with_signed_body(d.add_to_first_lane(1500)), of=(ELM,))),
    department("vector-too-long", "eight bytes too many, signed for", MASKED, "CR36",
               playing(MASKED, d.with_signed_body(lambda body: body + bytes(8)), of=(ELM,))),
    department("vector-too-short", "eight bytes too few, signed for", MASKED, "CR36",
               playing(MASKED, d.with_signed_body(lambda body: body[:-8]), of=(ELM,))),
    department("vector-enormous", "sixteen megabytes, signed for", MASKED, "CR36",
               playing(MASKED, d.with_signed_body(lambda body: bytes(1 << 24)), of=(ELM,))),
    department("another-vector-than-signed", "one vector under the hash of another", MASKED, "CR34",
               playing(MASKED, d.with_body(d.noise), of=(ELM,))),
    department("two-uploads", "a second, different upload: the first stands", MASKED, "CR24", d.two_uploads),
    department("replayed-upload", "the upload of round 1 in round 2", MASKED, "CR33",
               playing(MASKED, d.earlier(MASKED), of=(ELM,), round=2, rounds=2)),
    department("upload-for-another-transcript", "an upload for a round nobody announced", MASKED, "CR33",
               playing(MASKED, d.set_to(transcript=bytes(32)), of=(ELM,))),
    department("upload-with-a-tail", "one byte after the signature", MASKED, "CR20",
               playing(MASKED, d.with_head(lambda head: head + b"\0"), of=(ELM,))),
    department("upload-of-another-version", "another protocol version", MASKED, "CR22",
               playing(MASKED, d.with_head(lambda head: b"\x63" + head[1:]), of=(ELM,))),
    # -- a department, about its secrets -----------------------------------------------------------------------------
    Lie("department", "noise-in-one-box", "noise where ash's box should be", ("department", OPEN, "CR29"), "unharmed",
        playing(MASKED, d.noise_in_boxes(0), of=(ELM,))),
    Lie("department", "noise-in-all-boxes", "noise where all boxes should be", ("department", OPEN, "CR29"), "lost",
        playing(MASKED, d.noise_in_boxes(0, 1, 2, 3, 4), of=(ELM,)), frozenset({("coordinator", SHARES, "CR41")})),
    department("boxes-for-another-cohort", "boxes and commitments as for three departments", MASKED, "CR36",
               playing(MASKED, d.fewer_boxes, of=(ELM,))),
    department("mismatched-commitments", "elm, the last to upload, commits to another secret with ash", MASKED, "CR31",
               playing(MASKED, d.commitments(1), of=(ELM,))),
    department("mismatched-commitments-first", "ash, the first to upload, does so with everybody: who comes later is "
               "left out", MASKED, "CR31", playing(MASKED, d.commitments(1, 2, 3, 4)), "lost",
               also=frozenset({("coordinator", MASKED, "CR40")})),
    department("false-own-commitment", "a commitment that is not to elm's own mask", SHARES, "CR30",
               playing(MASKED, d.commitments(0), of=(ELM,)), "lost",
               also=frozenset({("coordinator", SHARES, "CR41")})),
    department("bad-shares", "noise instead of shares, by one of five", SHARES, "CR30",
               playing(SHARES, d.noise_for_shares), also=frozenset({("coordinator", SHARES, "CR41")})),
    department("bad-shares-by-two", "the same by two of five, one more than can be told apart", SHARES, "CR30",
               playing(SHARES, d.noise_for_shares, of=(ASH, ELM)), "lost",
               also=frozenset({("coordinator", SHARES, "CR41")})),
    department("one-share-less", "fewer shares than were asked for", SHARES, "CR30",
               playing(SHARES, d.one_share_less)),
    department("answer-for-another-set", "shares said to be of another survivor set", SHARES, "CR33",
               playing(SHARES, d.of_another_set)),
    department("replayed-answer", "the answer of round 1 in round 2", SHARES, "CR33",
               playing(SHARES, d.earlier(SHARES), round=2, rounds=2)),
    department("two-answers", "a second, different answer: the first stands", SHARES, "CR30", d.two_answers),
    # -- a department, about what it confirms (elm's upload is lost) ---------------------------------------------
    department("confirmation-under-another-key", "a confirmation under a signature that is not ash's", CONFIRMED,
               "CR21", c.without_elm(CONFIRMED, d.under_another_key)),
    department("confirmation-in-anothers-name", "ash confirms as birch", CONFIRMED, "CR33",
               c.without_elm(CONFIRMED, d.in_the_name_of_birch)),
    department("confirmation-of-another-set", "a confirmation of a set that nobody asked about", CONFIRMED, "CR33",
               c.without_elm(CONFIRMED, d.set_to(opened=bytes(32)))),
    department("replayed-confirmation", "the confirmation of round 1 in round 2", CONFIRMED, "CR33",
               c.without_elm(CONFIRMED, d.earlier(CONFIRMED), round=2, rounds=2)),
    department("something-else-for-a-confirmation", "a parcel of another kind", CONFIRMED, "CR37",
               c.without_elm(CONFIRMED, d.with_something_else(NOISE))),
    Lie("department", "never-confirms", "silence when asked to confirm: the other four do", None, "unharmed",
        c.without_elm(OPEN, lambda s, n, p: p, silent=[(CONFIRMED, ASH)])),
    department("two-never-confirm", "silence of two of five, one more than may be absent", CONFIRMED, "CR41",
               c.without_elm(OPEN, lambda s, n, p: p, silent=[(CONFIRMED, ASH), (CONFIRMED, BIRCH)]), "lost"),
    # -- a department that says nothing, or something else -----------------------------------------------------------
    Lie("department", "never-ready", "silence when the charter is shown", None, "unharmed",
        dropping(parcel.READY, of={ELM})),
    Lie("department", "never-greets", "silence when asked for its greeting", None, "unharmed",
        dropping(parcel.GREETING, of={ELM})),
    Lie("department", "never-introduced", "silence when others are introduced to it", None, "unharmed",
        dropping(parcel.INTRODUCED, of={ELM})),
    Lie("department", "never-uploads", "silence instead of an upload", None, "unharmed", dropping(MASKED, of={ELM})),
    department("never-uploads-among-three", "the same where three are the least", MASKED, "CR40",
               dropping(MASKED, of={CEDAR}, departments=3), "lost"),
    Lie("department", "never-answers", "silence instead of shares", None, "unharmed", dropping(SHARES, of={ELM})),
    Lie("department", "never-takes-over", "silence at the end of the run", None, "unharmed",
        dropping(parcel.CLOSED, of={ELM})),
    department("two-never-answer", "silence of two of five, one more than may be absent", SHARES, "CR41",
               dropping(SHARES, of={ASH, ELM}), "lost"),
    department("something-else-for-an-upload", "a parcel of another kind", MASKED, "CR37",
               playing(MASKED, d.with_something_else(NOISE), of=(ELM,))),
    department("something-else-for-shares", "a parcel of another kind", SHARES, "CR37",
               playing(SHARES, d.with_something_else(NOISE))),
    department("refusal-without-a-code", "a refusal that names no code", MASKED, "CR20",
               playing(MASKED, d.with_something_else(Parcel(parcel.REFUSAL, b"\x01\0\0\0\0oops")), of=(ELM,))),
]  # fmt: skip


@pytest.mark.parametrize("lie", LIES, ids=lambda lie: lie.name)
def test_a_lie_is_refused_where_and_as_the_table_says(lie, tmp_path):
    stage = lie.play(tmp_path)
    try:
        if lie.refused is not None:
            assert lie.refused in stage.refusals, f"refused were {sorted(stage.refusals)}"
        unexpected = (
            stage.refusals - {lie.refused} - lie.also - (CONSEQUENCES | WHILE_MEETING if lie.who != "nobody" else set())
        )
        assert unexpected == set()
        assert stage.outcome() == lie.outcome
    finally:
        if isinstance(stage, Stage):
            stage.at_work.close()


def test_every_lie_has_a_name_of_its_own_and_codes_that_exist():
    names = [lie.name for lie in LIES]
    assert len(names) == len(set(names))
    for lie in LIES:
        assert lie.outcome in OUTCOMES
        assert lie.refused is None or lie.refused[2] in all_errors()


def test_a_stage_sees_a_lie_that_the_table_does_not_name(tmp_path):
    """A row would fail if its lie were refused otherwise, or elsewhere, or if the sum were not the honest one."""
    stage = playing(OPEN, c.boxes(lambda box: box[:-1]))(tmp_path)
    assert stage.refusals - CONSEQUENCES == {("department", OPEN, "CR29")}
    assert stage.outcome() == "unharmed"
    terms = stage.at_work.learners[ASH].contributed[0]
    stage.at_work.learners[ASH].contributed[0] = {name: 1.5 * value for name, value in terms.items()}
    assert stage.outcome() == "spoiled"
    stage.at_work.close()


#: What must stand in the table, and by which rows it does.
MUST: dict[str, dict[str, tuple[str, ...]]] = {
    "coordinator": {
        "split view": ("another-cohort-to-one", "other-bounds-to-one", "two-models", "split-survivor-set"),
        "a second survivor set": (
            "second-survivor-set",
            "second-survivor-set-first",
            "second-set-after-forgetting",
            "second-set-for-one-backbone",
        ),
        "shares for a set that no quorum confirmed": (
            "split-survivor-set",
            "opening-without-confirmations",
            "too-few-confirmations",
            "one-confirmation-twice",
            "confirmation-of-its-own",
            "confirmations-of-another-round",
            "confirmations-of-another-set",
        ),
        "two sets to confirm": ("two-sets-to-confirm", "confirmed-then-everybody", "everybody-then-confirmed"),
        "both kinds of share": ("both-kinds-of-share",),
        "an honest department excluded": ("claimed-dropped", "cohort-without-the-one-asked"),
        "a wrong cohort": (
            "cohort-outside-the-roster",
            "cohort-with-one-twice",
            "cohort-too-small",
            "cohort-of-strangers",
        ),
        "a replay": ("replayed-last-round", "replayed-round", "replayed-opening", "replayed-close"),
        "another model to some": ("another-model-to-one", "two-models"),
        "a lowered quorum": ("roster-with-a-lower-quorum", "weaker-parameters-at-run-time"),
        "a forged roster": (
            "roster-of-another-authority",
            "roster-with-an-exchanged-key",
            "second-roster-of-one-epoch",
        ),
        "a stale epoch": ("stale-epoch", "older-roster", "greet-for-another-epoch"),
        "oversize": ("broadcast-too-long", "broadcast-enormous"),
        "undersize": ("broadcast-too-short", "boxes-cut-short"),
    },
    "department": {
        "a garbage vector": ("garbage-vector", "garbage-scalar", "garbage-within-the-range"),
        "bad shares": ("bad-shares", "bad-shares-by-two", "one-share-less"),
        "bad boxes": ("noise-in-one-box", "noise-in-all-boxes", "boxes-for-another-cohort"),
        "mismatched commitments": ("mismatched-commitments", "mismatched-commitments-first", "false-own-commitment"),
        "a wrong key": ("upload-under-another-key", "answer-under-another-key", "greeting-under-another-key"),
        "a replay": ("replayed-upload", "replayed-answer"),
        "silence at each stage": (
            "never-greets",
            "never-introduced",
            "never-ready",
            "never-uploads",
            "never-answers",
            "never-takes-over",
        ),
    },
}


def test_every_lie_that_must_be_in_the_table_is():
    held = {(lie.who, lie.name) for lie in LIES}
    wanted = {(who, name) for who, kinds in MUST.items() for names in kinds.values() for name in names}
    assert wanted <= held, f"missing: {sorted(wanted - held)}"


def test_every_error_that_says_a_peer_lied_is_met_in_the_table():
    """But for the base class, and CR37, which hands on what another refused."""
    met = {lie.refused[2] for lie in LIES if lie.refused} | {code for lie in LIES for _, _, code in lie.also}
    lying = {code for code, kind in all_errors().items() if issubclass(kind, all_errors()["CR02"])}
    assert lying - met == {"CR02", "CR37"} - met
