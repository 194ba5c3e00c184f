"""Tokens, applications and drafts: what was changed on the way is not what was signed."""

from __future__ import annotations

import dataclasses
import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from commonroot.common.enrolment import (
    MAX_QUESTION,
    Answer,
    Application,
    Question,
    RosterDraft,
    Token,
    changes,
    check_next,
    fingerprint,
)
from commonroot.common.errors import BadSignature, BadToken, Malformed, NotTheNextRoster
from commonroot.common.roster import Member, Parameters, Roster, SignedRoster
from commonroot.common.secure_sum.agreement import AgreementKey
from commonroot.common.secure_sum.primitives import Identity


def bytes_of(label: str, length: int = 32) -> bytes:
    """Bytes that are the same on every run."""
    return hashlib.shake_128(label.encode()).digest(length)


AUTHORITY = Identity(bytes_of("authority"))
TOKEN = Token(
    federation="works",
    address="hq.example:9443",
    name="sales",
    number=bytes_of("number", 8),
    secret=bytes_of("secret", 16),
    expires=2_000_000_000,
    ca=bytes_of("ca"),
    authority=AUTHORITY.public,
)
LINE = TOKEN.encode()


def member(name: str, *, keys: str = "", identity: str = "", node: str = "") -> Member:
    agreement = AgreementKey(bytes_of(f"curve {keys or name}"), bytes_of(f"seed {keys or name}", 64))
    return Member.signed(
        name,
        Identity(bytes_of(f"identity {identity or name}")),
        agreement.public,
        f"ecdsa-sha2-nistp384 {node or name}",
    )


def roster(*names: str, epoch: int = 1, previous: Roster | None = None, keys: str = "", **fields: object) -> Roster:
    return Roster(
        **{
            "federation": "works",
            "epoch": epoch,
            "coordinator": Identity(bytes_of("coordinator")).public.hex(),
            "parameters": Parameters.for_size(len(names)),
            "departments": tuple(member(name, keys=f"{name} {keys}") for name in names),
            "expires": 2_000_000_000,
            "previous": previous.digest.hex() if previous else None,
        }
        | fields
    )


# -- tokens ------------------------------------------------------------------------------------------------------------


def test_a_token_is_one_line_that_can_be_read_back():
    assert Token.decode(LINE) == TOKEN
    assert LINE.startswith("commonroot1_")
    assert len(LINE.split()) == 1
    assert len(LINE) < 256


def test_blanks_and_line_breaks_from_copying_do_not_count():
    assert Token.decode(f"  {LINE[:40]}\n  {LINE[40:]}\n") == TOKEN


@given(at=st.integers(0, len(LINE) - 1), other=st.sampled_from("ABab01-_"))
def test_a_token_with_one_character_changed_is_refused(at, other):
    """Bits past the last byte are checked too: the same bytes are written in one way only."""
    changed = LINE[:at] + other + LINE[at + 1 :]
    if changed != LINE:
        with pytest.raises(BadToken):
            Token.decode(changed)


@pytest.mark.parametrize("text", ["", "commonroot1_", "commonroot1_AAAA", LINE[:-1], LINE + "A", LINE[12:], "é" * 40])
def test_what_is_no_token_is_refused(text):
    with pytest.raises(BadToken):
        Token.decode(text)


@pytest.mark.parametrize(
    "change",
    [
        {"federation": "other"},
        {"address": "evil.example:9443"},
        {"name": "finance"},
        {"number": bytes(8)},
        {"expires": 2_100_000_000},
        {"ca": bytes(32)},
        {"authority": bytes(32)},
        {"secret": bytes(16)},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_token_that_was_changed_and_checked_anew_holds_another_key(change):
    """So what somebody applies with has no proof that the coordinator knows."""
    changed = dataclasses.replace(TOKEN, **change)
    assert Token.decode(changed.encode()) == changed
    assert changed.key.public != TOKEN.key.public


def test_a_token_does_not_show_its_secret():
    assert TOKEN.secret.hex() not in repr(TOKEN)
    assert repr(TOKEN.secret) not in repr(TOKEN)


# -- applications ------------------------------------------------------------------------------------------------------

APPLICATION = Application.by_token(TOKEN, member("sales"), made=7)


def test_an_application_is_under_the_tokens_signature():
    read = Application.from_json(APPLICATION.to_json())
    read.check_proof(TOKEN.key.public)
    assert read == APPLICATION
    assert read.digest == APPLICATION.digest


@pytest.mark.parametrize(
    "change",
    [
        {"federation": "other"},
        {"made": 8},
        {"token": "00" * 8},
        {"member": member("sales", keys="mine")},
        {"member": member("sales", identity="mine")},
        {"member": member("sales", node="mine")},
    ],
    ids=["federation", "made", "token", "agreement keys", "identity", "node key"],
)
def test_an_application_with_anything_exchanged_is_not(change):
    with pytest.raises(BadSignature):
        APPLICATION.model_copy(update=change).check_proof(TOKEN.key.public)


def test_a_token_and_a_roster_cannot_both_vouch_nor_neither():
    value = APPLICATION.to_json()
    for changed in (
        value.replace(b'"token"', b'"taken"'),
        value.replace(b'"token"', b'"roster":"' + b"0" * 64 + b'","token"'),
    ):
        with pytest.raises(Malformed):
            Application.from_json(changed)


def test_a_question_about_an_application_of_a_department_fits_into_the_largest_one():
    question = Question(ask="enrol", application=APPLICATION)
    assert Question.from_json(question.to_json()) == question
    assert len(question.to_json()) < MAX_QUESTION / 2
    with pytest.raises(Malformed):
        Question.from_json(b" " * (MAX_QUESTION + 1))


def test_a_question_about_the_roster_is_signed_whole():
    question = Question.about_roster("works", Identity(bytes_of("me")), epoch=3, at=5)
    question.check()
    for change in (
        {"epoch": 4},
        {"at": 6},
        {"federation": "other"},
        {"identity": Identity(bytes_of("you")).public.hex()},
    ):
        with pytest.raises(BadSignature):
            question.model_copy(update=change).check()


@pytest.mark.parametrize(
    "text", [b'{"ask":"roster"}', b'{"ask":"enrol"}', b'{"ask":"ca","epoch":1}', b'{"ask":"x"}', b"[]"]
)
def test_a_question_that_asks_for_something_else_is_refused(text):
    with pytest.raises(Malformed):
        Question.from_json(text)


def test_an_answer_leaves_out_what_it_does_not_say():
    assert Answer(refused="CR59").to_json() == b'{"refused":"CR59"}'
    assert Answer.from_json(b'{"refused":"CR100"}').refused == "CR100"


# -- drafts ------------------------------------------------------------------------------------------------------------

FIRST = roster("ash", "birch", "cedar")
SECOND = roster("ash", "birch", "cedar", "elm", epoch=2, previous=FIRST, keys="2")


def test_a_roster_follows_the_one_that_it_was_made_from():
    check_next(FIRST, None)
    check_next(SECOND, FIRST)
    assert b"previous" not in SignedRoster.sign(FIRST, AUTHORITY).to_json()


@pytest.mark.parametrize(
    ("after", "before"),
    [
        (SECOND, None),
        (FIRST, FIRST),
        (roster("ash", "birch", "cedar", epoch=3, previous=FIRST, keys="2"), FIRST),
        (roster("ash", "birch", "cedar", epoch=2, keys="2"), FIRST),
        (roster("ash", "birch", "cedar", epoch=2, previous=SECOND, keys="2"), FIRST),
        (roster("ash", "birch", "cedar", epoch=2, previous=FIRST), FIRST),
        (roster("ash", "birch", "cedar", epoch=2, previous=FIRST, keys="2", federation="other"), FIRST),
        (roster("ash", "birch", "cedar", epoch=2, previous=FIRST, keys="2", coordinator="00" * 32), FIRST),
    ],
    ids=[
        "a later one first",
        "again",
        "one left out",
        "no chain",
        "another chain",
        "spent keys",
        "federation",
        "coordinator",
    ],
)
def test_a_roster_that_is_not_the_next_one_is_refused(after, before):
    with pytest.raises(NotTheNextRoster):
        check_next(after, before)


def test_changes_are_named():
    other = roster("ash", "birch", "cedar", epoch=2, previous=FIRST, keys="2").departments
    new = (member("ash", keys="3", identity="other"), member("birch", keys="4", node="other"), member("elm"), other[2])
    after = roster(*"abcd", epoch=2, departments=new)
    assert [(c.name, c.what) for c in changes(FIRST, after)] == [
        ("ash", "new identity"),
        ("birch", "new node key"),
        ("elm", "added"),
        ("cedar", "stays"),
    ]
    assert [(c.name, c.what) for c in changes(SECOND, FIRST)][-1] == ("elm", "removed")
    assert {c.what for c in changes(None, FIRST)} == {"added"}


def test_a_draft_shows_the_roster_before_under_the_authoritys_own_signature():
    draft = RosterDraft(before=SignedRoster.sign(FIRST, AUTHORITY), roster=SECOND)
    RosterDraft.from_json(draft.to_json()).check(AUTHORITY.public)
    forged = RosterDraft(before=SignedRoster.sign(FIRST, Identity(bytes(32))), roster=SECOND)
    with pytest.raises(BadSignature):
        forged.check(AUTHORITY.public)


def test_fingerprints_are_short_and_differ():
    """32 hexadecimal digits in eight groups."""
    one, other = (fingerprint(Identity(bytes_of(name)).public) for name in "ab")
    assert len(one.split()) == 8
    assert one != other
    assert fingerprint(Identity(bytes_of("a")).public.hex()) == one
