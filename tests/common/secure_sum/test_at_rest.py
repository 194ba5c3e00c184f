"""Keys sealed at rest open with what they were sealed under, in their own place, and not otherwise."""

from __future__ import annotations

import json

import pytest

from commonroot.common.errors import KeyFileError, SealedKey
from commonroot.common.secure_sum.at_rest import MAGIC, Cost, header_of, is_sealed, seal_content, unseal_content

CONTENT = b"the key itself\n"
CHEAP = Cost(n=2, r=1, p=1)


def dice(length: int) -> bytes:
    return bytes(range(length))


def sealed(**changes: object) -> bytes:
    fields = {"secret": b"xyzzy", "under": "passphrase", "path": "", "salt": bytes(16), "label": "identity.key"}
    return seal_content(CONTENT, **(fields | {"random": dice, "cost": CHEAP} | changes))


def test_what_was_sealed_opens_with_the_same_secret_under_the_same_name():
    assert unseal_content(sealed(), secret=b"xyzzy", label="identity.key", who="it") == CONTENT
    assert is_sealed(sealed())
    assert not is_sealed(CONTENT)
    assert CONTENT.strip() not in sealed()
    assert CONTENT.hex().encode() not in sealed()


@pytest.mark.parametrize(
    ("secret", "label"), [(b"xyzzz", "identity.key"), (b"", "identity.key"), (b"xyzzy", "training.key")]
)
def test_another_secret_or_another_name_opens_nothing(secret, label):
    with pytest.raises(SealedKey, match="it does not open"):
        unseal_content(sealed(), secret=secret, label=label, who="it")


def test_two_files_of_one_secret_and_salt_have_two_keys():
    """Each has 16 bytes of its own in the derivation, so the fixed nonce serves one box."""
    other = sealed(random=lambda length: bytes(length))
    assert sealed().split(b"\n")[2] != other.split(b"\n")[2]


@pytest.mark.parametrize("at", range(0, 400, 7))
def test_a_file_with_one_byte_changed_does_not_open(at):
    content = sealed()
    if at < len(MAGIC) or at >= len(content):
        return
    changed = content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]
    with pytest.raises((SealedKey, KeyFileError)):
        unseal_content(changed, secret=b"xyzzy", label="identity.key", who="it")


def test_a_header_cannot_ask_for_the_whole_memory():
    header = json.loads(sealed().split(b"\n")[1])
    for change in ({"n": 2**30}, {"r": 1024}, {"p": 1000}, {"version": 2}, {"kdf": "none"}):
        told = json.dumps(header | change, sort_keys=True, separators=(",", ":")).encode()
        with pytest.raises(KeyFileError, match="header"):
            header_of(MAGIC + told + b"\n00\n", who="it")


def test_parameters_that_scrypt_does_not_know_are_an_error_and_no_crash():
    header = json.loads(sealed().split(b"\n")[1]) | {"n": 3}
    told = json.dumps(header, sort_keys=True, separators=(",", ":")).encode()
    with pytest.raises(KeyFileError, match="scrypt"):
        unseal_content(MAGIC + told + b"\n00\n", secret=b"", label="", who="it")
