"""Who may become a member, and what is said to those who may not: every lie by its name."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from commonroot.client.node_key import make_node_key
from commonroot.common.enrolment import Application, Question, Token
from commonroot.common.errors import (
    BadSignature,
    CommonrootError,
    ConfigError,
    EnrolmentRefused,
    KeyFileError,
    NameTaken,
    NotTheNextRoster,
    StaleApplication,
    TokenExpired,
    TokenRevoked,
    TokenUsed,
    WrongFederation,
    WrongName,
)
from commonroot.common.roster import Member, Roster, SignedRoster
from commonroot.common.secure_sum.agreement import AgreementKey
from commonroot.common.secure_sum.primitives import Identity
from commonroot.server import enrol_roster
from commonroot.server.enrol_book import EnrolmentBook
from commonroot.server.enrol_desk import EnrolmentDesk
from commonroot.server.folder import CoordinatorFolder
from commonroot.server.journal import Journal
from commonroot.server.limits import Budgets, origin

NOW = time.time()


@dataclass
class Dept:
    """A department's keys, as its machine has them."""

    name: str
    node_key: str
    identity: Identity = field(default_factory=lambda: Identity.generate(os.urandom))

    def entry(self, **changes: Any) -> Member:
        """With fresh agreement keys."""
        identity = changes.get("identity", self.identity)
        return Member.signed(
            changes.get("name", self.name),
            identity,
            AgreementKey.generate(os.urandom).public,
            changes.get("node_key", self.node_key),
        )


@dataclass
class Office:
    """A coordinator's folder with its journal and book, and departments that want to be in it."""

    root: Path
    folder: CoordinatorFolder
    journal: Journal
    book: EnrolmentBook

    def dept(self, name: str) -> Dept:
        return Dept(name, make_node_key(self.root / f"{name}-{os.urandom(4).hex()}.key"))

    def token(self, name: str, *, days: float = 7.0) -> Token:
        token = Token.generate(
            federation="grove",
            address="localhost:9443",
            name=name,
            expires=int(NOW + days * 86400),
            ca=bytes(32),
            authority=self.folder.authority_public(),
            random=os.urandom,
        )
        self.book.issue(token, roster=self.folder.standing(), now=NOW)
        return token

    def apply(self, application: Application, *, now: float = NOW) -> None:
        self.book.apply(application, roster=self.folder.standing(), now=now)

    def member(self, name: str) -> Dept:
        """A new one's application, which waits."""
        dept = self.dept(name)
        self.apply(Application.by_token(self.token(name), dept.entry(), made=1))
        return dept

    def sign(self) -> Roster:
        return enrol_roster.sign_here(self.folder, colluders=None, survivors_min=None)

    def renew(self, dept: Dept, *, made: int = 5, **changes: Any) -> Application:
        application = Application.by_identity(self.folder.roster(), dept.entry(**changes), dept.identity, made=made)
        self.apply(application)
        return application


@pytest.fixture
def office(tmp_path):
    folder = CoordinatorFolder.create(
        tmp_path / "hq", federation="grove", host="127.0.0.1", port=9443, names=("localhost",), random=os.urandom
    )
    journal = folder.journal()
    yield Office(tmp_path, folder, journal, EnrolmentBook(journal, federation="grove"))
    journal.close()


@pytest.fixture
def founded(office):
    """Three members in epoch 1."""
    departments = {name: office.member(name) for name in ("ash", "birch", "cedar")}
    office.sign()
    return office, departments


# -- tokens ------------------------------------------------------------------------------------------------------------


def test_a_token_is_good_for_one_application_which_may_be_repeated(office):
    token, dept = office.token("ash"), office.dept("ash")
    application = Application.by_token(token, dept.entry(), made=1)
    office.apply(application)
    office.apply(application)
    office.apply(application, now=NOW + 1e9)  # also when its days are over: it was used in time
    assert [(f.name, f.state) for f in office.book.applications(None)] == [("ash", "waiting")]
    assert [t.state(NOW) for t in office.book.tokens()][-1] == "used"
    with pytest.raises(TokenUsed):
        office.apply(Application.by_token(token, dept.entry(), made=2))
    with pytest.raises(TokenUsed):
        office.apply(Application.by_token(token, office.dept("ash").entry(), made=1))


def test_the_book_holds_nothing_that_an_application_could_be_made_of(office):
    token = office.token("ash")
    office.journal.close()
    for path in office.folder.root.glob("journal.db*"):
        content = path.read_bytes()
        assert token.secret not in content
        assert token.secret.hex().encode() not in content
        assert token.key.secret_bytes() not in content
        assert token.key.secret_bytes().hex().encode() not in content
        assert path.stat().st_mode & 0o077 == 0


def stranger(token: Token) -> Token:
    """One who knows all but the secret."""
    fields = {name: getattr(token, name) for name in token.__dataclass_fields__}
    return Token(**(fields | {"secret": bytes(16)}))


def changed(token: Token, **changes: Any) -> Token:
    fields = {name: getattr(token, name) for name in token.__dataclass_fields__}
    return Token(**(fields | changes))


LIES: dict[str, tuple[Any, type[CommonrootError]]] = {
    "a token that was never given out": (
        lambda o, t, d: Application.by_token(changed(t, number=bytes(8)), d.entry(), made=1),
        EnrolmentRefused,
    ),
    "a token's number without its secret": (
        lambda o, t, d: Application.by_token(stranger(t), d.entry(), made=1),
        EnrolmentRefused,
    ),
    "a token whose name was changed": (
        lambda o, t, d: Application.by_token(changed(t, name="oak"), d.entry(name="oak"), made=1),
        EnrolmentRefused,
    ),
    "a token whose days were changed": (
        lambda o, t, d: Application.by_token(changed(t, expires=t.expires + 1), d.entry(), made=1),
        EnrolmentRefused,
    ),
    "a copied application with other agreement keys": (
        lambda o, t, d: Application.by_token(t, d.entry(), made=1).model_copy(update={"member": d.entry()}),
        EnrolmentRefused,
    ),
    "an honest token for another name": (
        lambda o, t, d: Application.by_token(t, d.entry(name="oak"), made=1),
        WrongName,
    ),
    "an entry that somebody else signed": (
        lambda o, t, d: Application.by_token(
            t, d.entry().model_copy(update={"identity": Identity(bytes(32)).public.hex()}), made=1
        ),
        BadSignature,
    ),
    "a node key that is none": (
        lambda o, t, d: Application.by_token(t, d.entry(node_key="ecdsa-sha2-nistp384 nonsense"), made=1),
        KeyFileError,
    ),
    "a node key with a comment": (
        lambda o, t, d: Application.by_token(t, d.entry(node_key=d.node_key + " me@home"), made=1),
        KeyFileError,
    ),
    "another federation": (
        lambda o, t, d: Application._signed(
            {"federation": "desert", "token": t.number.hex(), "made": 1}, d.entry(), t.key
        ),
        WrongFederation,
    ),
    "a member's renewal where there is no roster": (
        lambda o, t, d: Application._signed(
            {"federation": "grove", "roster": "00" * 32, "made": 1}, d.entry(), d.identity
        ),
        EnrolmentRefused,
    ),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_newcomers_lie_is_refused(office, lie):
    make, kind = LIES[lie]
    token, dept = office.token("ash"), office.dept("ash")
    with pytest.raises(kind):
        office.apply(make(office, token, dept))
    assert office.book.applications(None) == []
    office.apply(Application.by_token(token, dept.entry(), made=1))  # and the token is as good as before


def test_an_expired_and_a_revoked_token_are_told_apart_by_who_holds_them_alone(office):
    dept, late = office.dept("ash"), office.token("ash", days=-1)
    with pytest.raises(TokenExpired):
        office.apply(Application.by_token(late, dept.entry(), made=1))
    with pytest.raises(EnrolmentRefused):
        office.apply(Application.by_token(stranger(late), dept.entry(), made=1))
    replaced = office.token("ash")
    office.token("ash")  # a second one takes the first one's place
    with pytest.raises(TokenRevoked):
        office.apply(Application.by_token(replaced, dept.entry(), made=1))
    with pytest.raises(EnrolmentRefused):
        office.apply(Application.by_token(stranger(replaced), dept.entry(), made=1))
    assert office.book.revoke("ash", roster=None, now=NOW)["tokens"] >= 1
    assert {t.state(NOW) for t in office.book.tokens()} == {"revoked"}


def test_a_crash_between_a_tokens_use_and_the_reply_leaves_both_or_neither(office, monkeypatch):
    """Killed inside the transaction, neither is there; killed after it, the same request is answered as at first."""
    token, dept = office.token("ash"), office.dept("ash")
    application = Application.by_token(token, dept.entry(), made=1)

    class Killed(BaseException):
        pass

    def killed(*_: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(EnrolmentBook, "_file", staticmethod(killed))
        with pytest.raises(Killed):
            office.apply(application)
    assert [t.state(NOW) for t in office.book.tokens() if t.number == token.number.hex()] == ["open"]
    assert office.book.applications(None) == []
    office.apply(application)
    reopened = office.folder.journal()
    book = EnrolmentBook(reopened, federation="grove")
    book.apply(application, roster=None, now=NOW)
    assert len(book.applications(None)) == 1
    reopened.close()


# -- members -----------------------------------------------------------------------------------------------------------


def test_members_renew_and_a_newcomer_comes_with_the_next_roster(founded):
    office, depts = founded
    first = office.folder.roster()
    assert not office.book.wants_renewal(first, now=NOW)
    office.member("elm")
    assert office.book.wants_renewal(first, now=NOW)
    with pytest.raises(ConfigError, match="no fresh keys for the next epoch yet from: ash, birch, cedar"):
        office.sign()
    for dept in depts.values():
        office.renew(dept)
    second = office.sign()
    assert [m.name for m in second.departments] == ["ash", "birch", "cedar", "elm"]
    assert (second.epoch, second.previous) == (2, first.digest.hex())
    assert {f.state for f in office.book.applications(second)} == {"approved", "past"}


def test_one_department_rotates_its_keys_and_the_others_only_renew(founded):
    office, depts = founded
    ash = depts["ash"]
    after = office.dept("ash")
    office.renew(ash, identity=after.identity, node_key=after.node_key)
    for name in ("birch", "cedar"):
        office.renew(depts[name])
    second = office.sign()
    assert [m.name for m in second.departments] == ["ash", "birch", "cedar"]
    assert second.departments[0].identity == after.identity.public.hex()
    assert second.departments[0].node_key == after.node_key
    with pytest.raises(EnrolmentRefused):  # the old identity vouches for nothing any more
        office.renew(ash)


def test_a_revoked_department_is_out_and_comes_back_with_a_token_and_new_keys_alone(founded):
    office, depts = founded
    first = office.folder.roster()
    done = office.book.revoke("birch", roster=first, now=NOW)
    assert done == {"member": True, "requests": 0, "tokens": 0}
    assert set(office.book.shut_out()) == {depts["birch"].node_key}
    assert office.book.state_of(depts["birch"].identity.public.hex(), first) == "out"
    with pytest.raises(TokenRevoked):
        office.renew(depts["birch"])
    with pytest.raises(TokenRevoked, match="shut out"):
        office.apply(Application.by_token(office.token("birch"), depts["birch"].entry(), made=1))
    office.member("birch")  # a new folder
    office.renew(depts["ash"])
    office.renew(depts["cedar"])
    assert [m.name for m in office.sign().departments] == ["ash", "birch", "cedar"]


MEMBER_LIES: dict[str, tuple[Any, type[CommonrootError]]] = {
    "an enrolled name with another identity": (
        lambda o, d: Application.by_identity(o.folder.roster(), o.dept("ash").entry(), Identity(bytes(32)), made=9),
        EnrolmentRefused,
    ),
    "another member's signature": (
        lambda o, d: Application.by_identity(o.folder.roster(), d["ash"].entry(), d["birch"].identity, made=9),
        EnrolmentRefused,
    ),
    "a copied request with other agreement keys": (
        lambda o, d: Application.by_identity(o.folder.roster(), d["ash"].entry(), d["ash"].identity, made=9).model_copy(
            update={"member": d["ash"].entry()}
        ),
        EnrolmentRefused,
    ),
    "a name that is not enrolled": (
        lambda o, d: Application.by_identity(o.folder.roster(), o.dept("oak").entry(), d["ash"].identity, made=9),
        EnrolmentRefused,
    ),
    "another member's identity": (
        lambda o, d: Application.by_identity(
            o.folder.roster(), d["ash"].entry(identity=d["birch"].identity), d["ash"].identity, made=9
        ),
        NameTaken,
    ),
    "another member's node key": (
        lambda o, d: Application.by_identity(
            o.folder.roster(), d["ash"].entry(node_key=d["birch"].node_key), d["ash"].identity, made=9
        ),
        NameTaken,
    ),
    "keys of this epoch": (
        lambda o, d: Application.by_identity(
            o.folder.roster(), o.folder.roster().departments[0], d["ash"].identity, made=9
        ),
        StaleApplication,
    ),
    "a request for an earlier epoch": (
        lambda o, d: Application.by_identity(
            Roster.model_validate(o.folder.roster().model_dump(mode="json") | {"expires": 1}),
            d["ash"].entry(),
            d["ash"].identity,
            made=9,
        ),
        StaleApplication,
    ),
}


@pytest.mark.parametrize("lie", MEMBER_LIES)
def test_a_members_lie_is_refused(founded, lie):
    office, depts = founded
    make, kind = MEMBER_LIES[lie]
    with pytest.raises(kind):
        office.apply(make(office, depts))
    assert {f.state for f in office.book.applications(office.folder.roster())} == {"approved"}


def test_a_replayed_request_does_not_take_a_later_ones_place(founded):
    office, depts = founded
    first = office.renew(depts["ash"], made=5)
    later = office.renew(depts["ash"], made=6)
    with pytest.raises(StaleApplication):
        office.apply(first)
    with pytest.raises(StaleApplication):
        office.renew(depts["ash"], made=6)  # another one of the same moment
    office.apply(later)
    waiting = office.book.waiting(office.folder.roster())
    assert [office.book.entry(one).agreement for one in waiting] == [later.member.agreement]


def test_a_token_for_a_member_is_not_given_out(founded):
    office, _ = founded
    with pytest.raises(ConfigError, match="is enrolled"):
        office.token("ash")


def test_a_roster_soon_to_expire_is_renewed_by_itself(founded):
    office, _ = founded
    roster = office.folder.roster()
    assert office.book.wants_renewal(roster, now=roster.expires - 29 * 86400)
    assert not office.book.wants_renewal(roster, now=roster.expires - 31 * 86400)


# -- the authority's machine -------------------------------------------------------------------------------------------


def test_a_roster_is_drafted_here_signed_there_and_taken_back(founded, tmp_path):
    office, depts = founded
    key = office.folder.root / "authority" / "authority.key"
    away = key.replace(tmp_path / "authority.key")
    for dept in depts.values():
        office.renew(dept)
    draft = tmp_path / "draft.json"
    drafted = enrol_roster.write_draft(office.folder, draft, colluders=None, survivors_min=None)
    authority = enrol_roster.authority_key(away)
    read = enrol_roster.read_draft(draft, authority)
    assert sum("stays" in line for line in enrol_roster.in_words(read)) == 3
    signed = enrol_roster.sign_draft(read, authority, record=tmp_path / "record")
    back = tmp_path / "signed.json"
    back.write_bytes(signed.to_json())
    assert enrol_roster.take_signed(office.folder, back).digest == drafted.digest
    enrol_roster.take_signed(office.folder, back)  # again is a repeat
    assert office.folder.roster().epoch == 2
    assert {f.state for f in office.book.applications(office.folder.roster())} == {"approved", "past"}


def test_the_authority_signs_one_roster_for_an_epoch(founded, tmp_path):
    office, depts = founded
    for dept in depts.values():
        office.renew(dept)
    authority, record = office.folder.authority(), tmp_path / "record"
    drafts = []
    for survivors in (3, None):
        enrol_roster.write_draft(office.folder, tmp_path / "draft", colluders=1, survivors_min=survivors)
        drafts.append(enrol_roster.read_draft(tmp_path / "draft", authority))
    other = drafts[1].model_copy(
        update={"roster": Roster.model_validate(drafts[1].roster.model_dump(mode="json") | {"expires": 2_000_000_000})}
    )
    signed = enrol_roster.sign_draft(drafts[0], authority, record=record)
    assert enrol_roster.sign_draft(drafts[0], authority, record=record) == signed
    with pytest.raises(NotTheNextRoster, match="another roster of epoch 2"):
        enrol_roster.sign_draft(other, authority, record=record)
    enrol_roster.sign_draft(other, authority, record=record, again=True)


def test_a_signed_roster_that_was_drafted_from_an_earlier_one_is_not_taken(founded, tmp_path):
    office, depts = founded
    for dept in depts.values():
        office.renew(dept)
    enrol_roster.write_draft(office.folder, tmp_path / "draft", colluders=1, survivors_min=None)
    draft = enrol_roster.read_draft(tmp_path / "draft", office.folder.authority())
    office.sign()  # meanwhile
    (tmp_path / "late").write_bytes(SignedRoster.sign(draft.roster, office.folder.authority()).to_json())
    with pytest.raises(NotTheNextRoster):
        enrol_roster.take_signed(office.folder, tmp_path / "late")


# -- the desk ----------------------------------------------------------------------------------------------------------


def desk_of(office: Office, **options: Any) -> EnrolmentDesk:
    return EnrolmentDesk(office.folder, office.journal, office.book, clock=lambda: NOW, **options)


def test_the_roster_is_shown_to_its_members_alone(founded):
    office, depts = founded
    desk = desk_of(office)

    def asked(identity: Identity, **changes: Any) -> tuple[int, bytes]:
        fields = {"federation": "grove", "epoch": 0, "at": int(NOW)} | changes
        return desk.answer(Question.about_roster(fields.pop("federation"), identity, **fields).to_json(), "192.0.2.1")

    status, body = asked(depts["ash"].identity)
    assert status == 200
    assert b"birch" in body
    assert asked(depts["ash"].identity, epoch=1) == (200, b'{"renew":false,"state":"member"}')
    assert asked(Identity(bytes(32))) == (403, b'{"refused":"CR56"}')
    forged = Question.about_roster("grove", Identity(bytes(32)), epoch=0, at=int(NOW))
    forged = forged.model_copy(update={"identity": depts["ash"].identity.public.hex()})
    assert desk.answer(forged.to_json(), "192.0.2.1") == (403, b'{"refused":"CR56"}')
    assert asked(depts["ash"].identity, at=int(NOW) - 301) == (403, b'{"refused":"CR62"}')
    assert asked(depts["ash"].identity, federation="desert") == (403, b'{"refused":"CR23"}')
    office.book.revoke("ash", roster=office.folder.roster(), now=NOW)
    assert asked(depts["ash"].identity) == (200, b'{"renew":false,"state":"out"}')


def test_a_refusal_travels_as_a_code_and_its_reason_stays_in_the_journal(founded):
    office, depts = founded
    desk = desk_of(office)
    question = Question(ask="enrol", application=MEMBER_LIES["another member's signature"][0](office, depts))
    assert desk.answer(question.to_json(), "192.0.2.7") == (403, b'{"refused":"CR56"}')
    assert desk.answer(b"\xff", "192.0.2.7") == (403, b'{"refused":"CR20"}')
    said = [fault["what"] for fault in office.journal.faults.all()]
    assert "192.0.2.7" in said[0]
    assert "not under the signature of the identity of 'ash'" in said[0]


def test_a_flood_of_refusals_fills_no_journal(office):
    desk = desk_of(office)
    for _ in range(300):
        desk.answer(b"", "192.0.2.7")
    assert len(office.journal.faults.all()) == 120


def test_an_address_has_an_allowance_that_comes_back_with_time():
    """3 at once, then one every 2 seconds; an IPv6 network counts as one."""
    budgets = Budgets(0.5, most=3)

    def may(address: str, now: float) -> bool:
        return budgets.take(origin(address), now) == 0

    assert [may("192.0.2.1", 0.0) for _ in range(4)] == [True, True, True, False]
    assert may("192.0.2.2", 0.0)
    assert [may("192.0.2.1", 2.0) for _ in range(2)] == [True, False]
    assert [may(f"2001:db8::{at}", 2.0) for at in range(4)] == [True, True, True, False]
    assert may("2001:db8:0:1::1", 2.0)
