"""A pair's root is the same at both ends, and another as soon as either half of the agreement is another."""

from __future__ import annotations

import hashlib
import hmac
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from commonroot.common.errors import KeyFileError, Malformed
from commonroot.common.secure_sum.agreement import (
    CIPHERTEXT_BYTES,
    AgreementKey,
    check_public,
    ciphertext_digest,
    decapsulate,
    encapsulate,
    kem_public,
    pair_root,
)
from commonroot.common.secure_sum.primitives import agree

LOW, HIGH = AgreementKey(bytes(31) + b"\1", bytes(64)), AgreementKey(bytes(31) + b"\2", b"\1" * 64)
ROSTER = bytes(range(32))
PARTS = {
    "curve_secret": bytes([1] * 32),
    "kem_secret": bytes([2] * 32),
    "ciphertext": bytes(CIPHERTEXT_BYTES),
    "roster": ROSTER,
}


def root(lo: int = 3, hi: int = 7, **changes: bytes) -> bytes:
    parts = PARTS | changes
    return pair_root(
        parts["curve_secret"], parts["kem_secret"], parts["ciphertext"], roster=parts["roster"], lo=lo, hi=hi
    )


def test_both_ends_make_the_same_root():
    secret, ciphertext = encapsulate(HIGH.public[1])
    low = pair_root(agree(LOW.curve, HIGH.public[0]), secret, ciphertext, roster=ROSTER, lo=3, hi=7)
    told = decapsulate(HIGH.seed, ciphertext)
    high = pair_root(agree(HIGH.curve, LOW.public[0]), told, ciphertext, roster=ROSTER, lo=3, hi=7)
    assert low == high


def test_the_root_is_the_hkdf_that_the_page_names():
    """RFC 5869 written out: one block of output, so T(1) = HMAC(HMAC(salt, secret), info ‖ 1)."""
    info = b"commonroot/1/pair\0" + b"\0\3\0\7" + ciphertext_digest(PARTS["ciphertext"])
    extracted = hmac.digest(ROSTER, PARTS["curve_secret"] + PARTS["kem_secret"], hashlib.sha256)
    assert root() == hmac.digest(extracted, info + b"\1", hashlib.sha256)


@given(st.sampled_from(sorted(PARTS)), st.data())
def test_one_bit_of_either_secret_of_the_ciphertext_or_the_roster_changes_the_root(name, data):
    part = bytearray(PARTS[name])
    bit = data.draw(st.integers(0, 8 * len(part) - 1))
    part[bit // 8] ^= 1 << bit % 8
    assert root(**{name: bytes(part)}) != root()


def test_another_pair_of_departments_has_another_root():
    assert len({root(3, 7), root(3, 8), root(2, 7), root(7, 8)}) == 4


def test_the_curve_alone_or_the_lattice_alone_does_not_give_the_root():
    """Who has broken one of the two still misses 32 bytes: a guess of the other half gives another root."""
    secret, ciphertext = encapsulate(HIGH.public[1])
    curve = agree(LOW.curve, HIGH.public[0])
    whole = pair_root(curve, secret, ciphertext, roster=ROSTER, lo=0, hi=1)
    for half in ((curve, bytes(32)), (bytes(32), secret)):
        assert pair_root(*half, ciphertext, roster=ROSTER, lo=0, hi=1) != whole


def test_anothers_ciphertext_gives_a_secret_that_nobody_else_has():
    secret, ciphertext = encapsulate(LOW.public[1])
    assert decapsulate(HIGH.seed, ciphertext) != secret
    assert decapsulate(LOW.seed, ciphertext) == secret
    assert encapsulate(LOW.public[1])[0] != secret


@pytest.mark.parametrize("size", [0, CIPHERTEXT_BYTES - 1, CIPHERTEXT_BYTES + 1])
def test_a_ciphertext_of_another_size_is_refused(size):
    with pytest.raises(Malformed):
        decapsulate(LOW.seed, bytes(size))


def test_public_keys_that_nobody_can_agree_with_are_refused_and_their_owner_named():
    curve, kem = LOW.public
    check_public(curve, kem, who="department 'a'")
    for bad in ((bytes(32), kem), (curve, b"\xff" * len(kem)), (curve, kem[1:])):
        with pytest.raises(Malformed, match="department 'a'"):
            check_public(*bad, who="department 'a'")


def test_a_key_survives_its_bytes_is_fresh_each_time_and_never_shown():
    key = AgreementKey.generate(os.urandom)
    assert AgreementKey.from_bytes(key.to_bytes()) == key
    assert key != AgreementKey.generate(os.urandom)
    assert key.public == (key.public[0], kem_public(key.seed))
    assert repr(key) == "AgreementKey()"
    with pytest.raises(KeyFileError):
        AgreementKey.from_bytes(key.to_bytes()[1:])
