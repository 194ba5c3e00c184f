"""Every message has one encoding, and everything else is refused."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from commonroot.common import errors, messages
from commonroot.common.errors import BadSignature, Malformed, WrongVersion
from commonroot.common.messages import (
    Confirm,
    Confirmed,
    Goodbye,
    Masked,
    Offer,
    Open,
    Previous,
    Ready,
    Refusal,
    RoundOpen,
    RunClose,
    Shares,
    Train,
    box_bytes,
    opened_digest,
    signed,
)
from commonroot.common.secure_sum.primitives import Identity

VECTORS = sorted((Path(__file__).parents[1] / "vectors").glob("messages/*/*.json"))
KINDS = {
    kind.__name__: kind
    for kind in (Train, Ready, RoundOpen, Masked, Open, Shares, RunClose, Refusal, Confirm, Confirmed, Offer, Goodbye)
}

digests = st.binary(min_size=32, max_size=32)
u16, u32 = st.integers(0, 2**16 - 1), st.integers(0, 2**32 - 1)
id_lists = st.sets(u16, min_size=1, max_size=8).map(sorted).map(tuple)
signatures = st.binary(min_size=64, max_size=64)
bounds = st.lists(st.floats(2.0**-100, 2.0**100, width=32), max_size=5).map(tuple)


@st.composite
def previous(draw, below):
    number = draw(st.integers(0, below))
    return Previous(number, draw(digests), draw(digests)) if number else Previous()


@st.composite
def any_message(draw):
    kind = draw(st.sampled_from(list(KINDS)))
    if kind == "Train":
        head = (draw(digests), draw(digests), draw(u32), draw(st.integers(1, 2**32 - 1)), draw(u32))
        return Train(*head, draw(digests), draw(u32), draw(signatures))
    if kind == "Ready":
        return Ready(draw(digests), draw(u16), draw(signatures))
    if kind == "RoundOpen":
        number = draw(st.integers(1, 2**32 - 1))
        head = (draw(digests), draw(digests), draw(u32), number, draw(u32), draw(id_lists))
        return RoundOpen(
            *head, draw(digests), draw(digests), draw(bounds), draw(u32), draw(previous(number - 1)), draw(signatures)
        )
    if kind == "Masked":
        n, size = draw(st.integers(1, 4)), box_bytes(committed := draw(st.integers(1, 4)))
        boxes = tuple(draw(st.binary(min_size=size, max_size=size)) for _ in range(n))
        commitments = tuple(draw(digests) for _ in range(committed))
        return Masked(draw(digests), draw(u16), draw(digests), boxes, commitments, draw(signatures))
    if kind == "Open":
        ids, most = draw(id_lists), draw(st.integers(0, 50))
        least = draw(st.sampled_from((most, 0)))
        boxes = tuple(draw(st.binary(min_size=least, max_size=most)) for _ in ids)
        confirmed_by = draw(st.one_of(st.just(()), id_lists))
        confirmations = tuple(draw(signatures) for _ in confirmed_by)
        return Open(draw(digests), draw(u32), ids, boxes, confirmed_by, confirmations, draw(signatures))
    if kind == "Confirm":
        return Confirm(draw(digests), draw(u32), draw(id_lists), draw(signatures))
    if kind == "Confirmed":
        return Confirmed(draw(digests), draw(u16), draw(signatures))
    if kind == "Shares":
        shares = tuple(draw(st.lists(digests, min_size=1, max_size=5)))
        return Shares(draw(digests), draw(u16), draw(digests), shares, draw(signatures))
    if kind == "RunClose":
        number = draw(u32)
        head = (draw(digests), draw(digests), draw(u32), number, draw(u32), draw(digests))
        return RunClose(*head, draw(previous(number)), draw(signatures))
    if kind == "Offer":
        return Offer(draw(u32), draw(digests), draw(digests), draw(u32), draw(signatures))
    if kind == "Goodbye":
        return Goodbye(draw(digests), draw(u32), draw(u16), draw(signatures))
    return Refusal(draw(u32), f"CR{draw(st.integers(0, 999)):02}")


@given(any_message())
def test_a_message_is_what_its_encoding_says(message):
    assert type(message).decode(message.encode()) == message


@given(any_message(), st.data())
def test_a_message_cut_short_or_with_a_tail_is_refused(message, data):
    encoded = message.encode()
    with pytest.raises(Malformed):
        type(message).decode(encoded[: data.draw(st.integers(0, len(encoded) - 1))])
    with pytest.raises(Malformed):
        type(message).decode(encoded + data.draw(st.binary(min_size=1, max_size=9)))


@given(any_message(), st.integers(0, 255).filter(lambda version: version != 1))
def test_another_version_is_refused_by_its_own_name(message, version):
    with pytest.raises(WrongVersion):
        type(message).decode(bytes([version]) + message.encode()[1:])


@given(st.sampled_from(list(KINDS.values())), st.binary(max_size=400))
def test_arbitrary_bytes_are_refused_or_are_the_encoding_of_what_they_decode_to(kind, data):
    for candidate in (data, b"\1" + data):
        try:
            message = kind.decode(candidate)
        except (Malformed, WrongVersion):
            continue
        assert message.encode() == candidate


@given(any_message(), st.data())
def test_every_changed_byte_is_refused_or_changes_the_message(message, data):
    """No two encodings mean the same: the decoder has no slack."""
    encoded = bytearray(message.encode())
    encoded[data.draw(st.integers(0, len(encoded) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        other = type(message).decode(bytes(encoded))
    except (Malformed, WrongVersion):
        return
    assert other != message
    assert other.encode() == bytes(encoded)


@pytest.mark.parametrize("path", VECTORS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_vector(path):
    """good-*: decodes, re-encodes to the same bytes, and has the digests listed; bad-*: refused by the error listed."""
    vector = json.loads(path.read_text())
    kind, data = KINDS[vector["message"]], bytes.fromhex(vector["hex"])
    assert path.stem.startswith("good-" if vector["expect"] == "accept" else "bad-")
    if vector["expect"] != "accept":
        with pytest.raises(getattr(errors, vector["expect"])):
            kind.decode(data)
        return
    message = kind.decode(data)
    assert message.encode() == data
    if "signer" in vector:
        message.check(bytes.fromhex(vector["signer"]), who="the signer")
    for name in ("transcript", "opened", "digest"):
        if name in vector:
            assert getattr(message, name).hex() == vector[name]


def test_there_are_vectors_for_every_message():
    names = {json.loads(path.read_text())["message"] for path in VECTORS if path.stem.startswith("good-")}
    assert names == set(KINDS)
    assert sum(path.stem.startswith("bad-") for path in VECTORS) >= 20


@pytest.mark.parametrize("path", [p for p in VECTORS if p.stem.startswith("good-")], ids=lambda p: p.parent.name)
def test_a_good_vector_cut_at_any_byte_is_refused(path):
    vector = json.loads(path.read_text())
    data = bytes.fromhex(vector["hex"])
    for length in range(len(data)):
        with pytest.raises(Malformed):
            KINDS[vector["message"]].decode(data[:length])


def test_the_transcript_covers_every_field_but_the_signature():
    good = json.loads(next(path for path in VECTORS if path.match("round-open/good-*")).read_text())
    opening = RoundOpen.decode(bytes.fromhex(good["hex"]))
    changed = {
        "charter": bytes(32),
        "roster": bytes(32),
        "epoch": opening.epoch + 1,
        "round": opening.round + 1,
        "version": opening.version + 1,
        "cohort": opening.cohort[:-1],
        "broadcast": bytes(32),
        "manifest": bytes(32),
        "bounds": opening.bounds[:-1],
        "upload_seconds": opening.upload_seconds + 1,
        "previous": Previous(),
    }
    seen = {opening.transcript}
    for name, value in changed.items():
        seen.add(dataclasses.replace(opening, **{name: value}).transcript)
    assert len(seen) == 1 + len(changed)
    assert set(changed) | {"signature"} == {field.name for field in dataclasses.fields(RoundOpen)}
    assert dataclasses.replace(opening, signature=bytes(64)).transcript == opening.transcript


def test_a_signature_for_one_kind_of_message_is_void_for_every_other():
    signer = Identity(bytes(32))
    labels = [kind.label for kind in KINDS.values() if kind is not Refusal]
    assert len(set(labels)) == len(labels)
    mine = RunClose.signed(
        signer,
        charter=bytes(32),
        roster=bytes(32),
        epoch=1,
        round=1,
        version=1,
        broadcast=bytes(32),
        previous=Previous(),
    )
    mine.check(signer.public, who="me")
    moved = dataclasses.replace(mine, signature=signer.sign("round-open", mine.unsigned()))
    with pytest.raises(BadSignature):
        moved.check(signer.public, who="me")


def an_opening(signer: Identity) -> RoundOpen:
    return RoundOpen.signed(
        signer,
        charter=bytes(32),
        roster=bytes(32),
        epoch=1,
        round=1,
        version=0,
        cohort=(0, 1, 2),
        broadcast=bytes(32),
        manifest=bytes(32),
        bounds=(1.0,),
        upload_seconds=60,
        previous=Previous(),
    )


def test_what_many_are_asked_alike_is_checked_once_and_refused_every_time(monkeypatch):
    signer, other = Identity(b"1" * 32), Identity(b"2" * 32)
    asked, verifications = an_opening(signer).encode(), []
    verify = signed.verify
    monkeypatch.setattr(signed, "verify", lambda *a, **k: (verifications.append(a[0]), verify(*a, **k)))
    for _ in range(3):
        RoundOpen.decode(bytes(bytearray(asked))).check(signer.public, who="the coordinator")
        with pytest.raises(BadSignature, match="coordinator"):
            RoundOpen.decode(asked).check(other.public, who="the coordinator")
    assert verifications == [signer.public, *[other.public] * 3]


def test_another_signature_under_the_same_words_is_another_message():
    good = an_opening(Identity(b"1" * 32))
    good.check(Identity(b"1" * 32).public, who="the coordinator")
    forged = RoundOpen.decode(good.unsigned() + bytes(64))
    assert (forged.transcript, forged == good) == (good.transcript, False)
    with pytest.raises(BadSignature):
        forged.check(Identity(b"1" * 32).public, who="the coordinator")


def test_of_many_fields_the_one_of_another_size_is_named():
    boxes = (bytes(box_bytes(2)), bytes(box_bytes(2) + 1))
    with pytest.raises(Malformed, match=f"a box must be {box_bytes(2)} bytes, not {box_bytes(2) + 1}"):
        Masked(bytes(32), 0, bytes(32), boxes, (bytes(32),) * 2, bytes(64))
    with pytest.raises(Malformed, match="a commitment must be 32 bytes, not 0"):
        Masked(bytes(32), 0, bytes(32), boxes[:1], (bytes(32), b""), bytes(64))


def test_h_of_t_and_u_differs_for_every_transcript_and_set():
    sets = [(0,), (0, 1), (1,), (256,), (0, 256)]
    assert len({opened_digest(bytes([t]) * 32, u) for t in range(3) for u in sets}) == 15


@pytest.mark.parametrize("code", ["", "CR1", "CR011", "CR1111", "cr11", "XX11", "CR1x", "CR١١"])
def test_a_refusal_carries_a_code_and_nothing_else(code):
    with pytest.raises(Malformed):
        Refusal(1, code)


def test_what_members_are_sent_never_shows_in_a_representation():
    assert "boxes" not in repr(Open(bytes(32), 1, (0,), (b"secret",), (), (), bytes(64)))
    assert "shares=" not in repr(Shares(bytes(32), 1, bytes(32), (bytes(32),), bytes(64)))
    assert messages.SHARE_BYTES == 32
