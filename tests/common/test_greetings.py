"""Greetings and introductions have one encoding each, and what does not fit is refused."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from commonroot.common.errors import BadSignature, CommonrootError, Malformed, WrongVersion
from commonroot.common.greetings import Greet, Greeting, Introduce, Introduced, put_letters, take_letters
from commonroot.common.secure_sum.primitives import Identity

ME = Identity(bytes(31) + b"\7")
EPOCH = {"roster": bytes(range(32)), "epoch": 3}
MESSAGES = {
    "greet": Greet.signed(ME, **EPOCH),
    "greeting": Greeting.signed(
        ME, **EPOCH, sender=2, countersignature=bytes([5] * 64), to=(3, 6), sealed=(bytes(32), bytes([1] * 32))
    ),
    "greeting to nobody": Greeting.signed(ME, **EPOCH, sender=6, countersignature=bytes([5] * 64), to=(), sealed=()),
    "introduce": Introduce.signed(ME, **EPOCH, who=(0, 4), body=bytes([9] * 32)),
    "introduced": Introduced.signed(ME, **EPOCH, sender=1, met=(0, 1, 4)),
}
each = pytest.mark.parametrize("name", sorted(MESSAGES))


@each
def test_a_message_survives_the_trip_and_its_signature_holds(name):
    message = MESSAGES[name]
    back = type(message).decode(message.encode())
    assert back == message
    back.check(ME.public, who="it")


@each
@given(data=st.data())
def test_one_bit_flipped_is_refused(name, data):
    raw = bytearray(MESSAGES[name].encode())
    bit = data.draw(st.integers(0, 8 * len(raw) - 1))
    raw[bit // 8] ^= 1 << bit % 8
    with pytest.raises(CommonrootError) as refused:
        type(MESSAGES[name]).decode(bytes(raw)).check(ME.public, who="it")
    assert isinstance(refused.value, Malformed | WrongVersion | BadSignature)


@each
@pytest.mark.parametrize("change", [lambda raw: raw[:-1], lambda raw: raw + b"\0", lambda raw: b""])
def test_cut_short_longer_or_empty_is_malformed(name, change):
    with pytest.raises(Malformed):
        type(MESSAGES[name]).decode(change(MESSAGES[name].encode()))


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("greeting", {"to": (6, 3)}),
        ("greeting", {"to": (3, 3)}),
        ("greeting", {"to": (2, 6)}),  # not above the sender
        ("greeting", {"to": (3,)}),
        ("greeting", {"sealed": (bytes(32), bytes(31))}),
        ("greeting", {"countersignature": bytes(63)}),
        ("greeting", {"sender": 1 << 16}),
        ("introduce", {"who": ()}),
        ("introduce", {"who": (4, 0)}),
        ("introduce", {"body": bytes(31)}),
        ("introduced", {"met": (1, 0)}),
        ("greet", {"epoch": 1 << 32}),
        ("greet", {"roster": bytes(31)}),
    ],
)
def test_fields_that_do_not_fit_are_malformed(name, changes):
    with pytest.raises(Malformed):
        dataclasses.replace(MESSAGES[name], **changes)


def test_no_two_kinds_share_a_label():
    """A signature under one kind is void for every other."""
    labels = [type(message).label for message in MESSAGES.values()]
    assert len(set(labels)) == len(labels) - 1  # the greeting is there twice


def test_letters_survive_the_trip_and_a_missing_or_surplus_one_is_malformed():
    greetings = [MESSAGES["greeting"], MESSAGES["greeting to nobody"]]
    body = put_letters([(greetings[0].encode(), bytes(1088)), (greetings[1].encode(), b"")])
    assert take_letters(body, 2) == [(greetings[0], bytes(1088)), (greetings[1], b"")]
    for count in (1, 3):
        with pytest.raises(Malformed):
            take_letters(body, count)
