"""The enrolment route of a real hub over TLS, from a department's own code and from strangers'."""

from __future__ import annotations

import os
import ssl
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from commonroot.client import enrol_link
from commonroot.client.enrol import ask_standing, init_with_token, send
from commonroot.client.enrol_follow import OFFERED, Membership
from commonroot.client.folder import DepartmentFolder
from commonroot.client.setup import join, renew
from commonroot.common.enrolment import MAX_QUESTION, ROUTE, Answer, Question, Token
from commonroot.common.errors import (
    ConfigError,
    EnrolmentRefused,
    SplitRoster,
    TokenExpired,
    TokenRevoked,
    TokenUsed,
    Unreachable,
    WrongAuthority,
)
from commonroot.common.roster import Roster, SignedRoster
from commonroot.server import enrol_roster
from commonroot.server.enrol_book import EnrolmentBook
from commonroot.server.enrol_desk import EnrolmentDesk
from commonroot.server.enrol_watch import Doorkeeper
from commonroot.server.folder import CoordinatorFolder
from commonroot.server.journal import Journal
from commonroot.server.superlink import SuperLink
from commonroot.simulations.processes import free_port


@dataclass
class Centre:
    """A coordinator's hub and desk at work, and departments' folders beside it."""

    root: Path
    folder: CoordinatorFolder
    journal: Journal
    book: EnrolmentBook
    hub: SuperLink
    door: Doorkeeper

    def token(self, name: str, **options: Any) -> Token:
        return enrol_roster.issue(self.folder, name, **({"days": 7, "address": None} | options))

    def department(self, name: str, token: Token | None = None, **options: Any) -> DepartmentFolder:
        fields: dict[str, Any] = {"data": "", "random": os.urandom, "patience": 0.0}
        return init_with_token(self.root / name, token or self.token(name), **(fields | options))

    def sign(self) -> Roster:
        return enrol_roster.sign_here(self.folder, colluders=None, survivors_min=None)

    def client(self) -> httpx.Client:
        """A stranger's, who holds the CA certificate."""
        context = ssl.create_default_context(cafile=str(self.folder.ca))
        return httpx.Client(base_url=f"https://localhost:{self.hub.public_port}", verify=context, trust_env=False)


@pytest.fixture
def centre(tmp_path) -> Iterator[Centre]:
    folder = CoordinatorFolder.create(
        tmp_path / "hq",
        federation="grove",
        host="127.0.0.1",
        port=free_port(),
        names=("localhost", "127.0.0.1"),
        random=os.urandom,
    )
    journal = folder.journal()
    book = EnrolmentBook(journal, federation="grove")
    desk = EnrolmentDesk(folder, journal, book)
    hub = SuperLink(
        tmp_path / "hub",
        "127.0.0.1",
        folder.config.port,
        folder.server_certificate,
        folder.server_key,
        enrolment=desk.answer,
    )
    door = Doorkeeper(hub, book, folder.standing, lambda kind, facts: None)
    with hub:
        yield Centre(tmp_path, folder, journal, book, hub, door)
    journal.close()


def test_three_departments_apply_over_the_network_and_join_what_is_signed(centre):
    made = [centre.department(name) for name in ("ash", "birch", "cedar")]
    assert made[0].ca.read_text() == centre.folder.ca.read_text()
    assert ask_standing(made[0]).state == "waiting"
    roster = centre.sign()
    centre.door.look()
    assert sorted(centre.hub.registered()) == sorted(m.node_key for m in roster.departments)
    standing = ask_standing(made[0])
    assert (standing.state, standing.renew) == ("member", False)
    (made[0].root / OFFERED).write_bytes(standing.roster)
    assert join(made[0], made[0].root / OFFERED, os.urandom).digest == roster.digest
    assert ask_standing(made[0]).roster is None


def test_the_same_command_again_sends_the_same_request_and_another_folder_does_not_get_in(centre):
    token = centre.token("ash")
    first = centre.department("ash", token)
    request = (first.root / "request.json").read_bytes()
    again = centre.department("ash", token)
    assert (again.root / "request.json").read_bytes() == request
    with pytest.raises(TokenUsed):
        centre.department("copy", token)
    with pytest.raises(ConfigError, match="not made with this token"):
        centre.department("ash", centre.token("oak"))
    assert [f.name for f in centre.book.applications(None)] == ["ash"]


def test_a_department_killed_before_the_reply_goes_on_with_the_same_request(centre, monkeypatch):
    """The coordinator has used the token; the department has never heard so."""

    class Killed(BaseException):
        pass

    original = enrol_link._understood

    def killed(status: int, body: bytes, address: str) -> Answer:
        answer = original(status, body, address)
        if answer.state is not None:
            raise Killed
        return answer

    token = centre.token("ash")
    with monkeypatch.context() as patch:
        patch.setattr(enrol_link, "_understood", killed)
        with pytest.raises(Killed):
            centre.department("ash", token)
    assert [t.state(0) for t in centre.book.tokens()] == ["used"]
    centre.department("ash", token)
    assert len(centre.book.applications(None)) == 1


def test_expired_revoked_and_tampered_tokens_are_told_apart(centre):
    old = centre.token("ash", days=0)
    with pytest.raises(TokenExpired):
        centre.department("ash", old)
    with pytest.raises(TokenExpired):  # also for a department whose clock is behind
        centre.department("ash", old, clock=lambda: 0.0)
    revoked = centre.token("birch")
    centre.book.revoke("birch", roster=None, now=1.0)
    with pytest.raises(TokenRevoked):
        centre.department("birch", revoked)
    honest = centre.token("cedar")
    fields = {name: getattr(honest, name) for name in honest.__dataclass_fields__}
    with pytest.raises(EnrolmentRefused):
        centre.department("mallory", Token(**(fields | {"name": "mallory"})))
    with pytest.raises(EnrolmentRefused):
        centre.department("guess", Token(**(fields | {"secret": bytes(16)})))


def test_a_ca_that_is_not_the_pinned_one_is_not_taken_and_nothing_is_made(centre):
    honest = centre.token("ash")
    fields = {name: getattr(honest, name) for name in honest.__dataclass_fields__}
    with pytest.raises(WrongAuthority, match="another CA certificate"):
        centre.department("ash", Token(**(fields | {"ca": bytes(32)})))
    assert not (centre.root / "ash").exists()
    assert [t.state(0) for t in centre.book.tokens()] == ["open"]


def test_a_certificate_of_another_authority_is_refused_before_a_request_leaves(centre, tmp_path):
    """The CA that is asked for comes from the right coordinator; then somebody else answers there."""
    department = centre.department("ash")
    other = CoordinatorFolder.create(
        tmp_path / "other", federation="grove", host="127.0.0.1", port=1, names=("localhost",), random=os.urandom
    )
    (department.root / "ca.pem").write_bytes(other.ca.read_bytes())
    with pytest.raises(WrongAuthority, match="certificate"):
        send(department)


def test_a_pinned_ca_brings_no_other_certificate_along(centre, tmp_path):
    other = CoordinatorFolder.create(
        tmp_path / "other", federation="grove", host="127.0.0.1", port=1, names=("localhost",), random=os.urandom
    )
    mine, theirs, pin = centre.folder.ca.read_bytes(), other.ca.read_bytes(), centre.token("ash").ca
    assert enrol_link.pinned_ca(mine + theirs, pin, who="somebody").split() == mine.split()
    for pem in (theirs, theirs + mine, b"", b"-----BEGIN CERTIFICATE-----"):
        with pytest.raises(WrongAuthority):
            enrol_link.pinned_ca(pem, pin, who="somebody")


def test_nobody_at_the_address_is_said_so(tmp_path):
    with pytest.raises(Unreachable):
        enrol_link.fetch_ca("127.0.0.1:1", bytes(32))


# -- what strangers may do ---------------------------------------------------------------------------------------------


def test_the_route_takes_small_bodies_by_post_and_nothing_else(centre):
    with centre.client() as client:
        assert client.get(ROUTE).status_code == 404
        assert client.put(ROUTE, content=b"{}").status_code == 404
        assert client.post(ROUTE + "/", content=b"{}").status_code == 404
        assert client.post(ROUTE, content=b"x" * (MAX_QUESTION + 1)).status_code == 413
        assert client.post(ROUTE, content=iter([b"x"])).status_code == 411  # in pieces, of no announced length
        assert client.post(ROUTE, content=b"x" * MAX_QUESTION).content == b'{"refused":"CR20"}'
        ca = client.post(ROUTE, content=Question(ask="ca").to_json())
        assert ca.json() == {"ca": centre.folder.ca.read_text()}


def test_without_a_desk_there_is_no_such_route(centre, tmp_path):
    folder = centre.folder
    hub = SuperLink(tmp_path / "bare", "127.0.0.1", 0, folder.server_certificate, folder.server_key)
    with hub, httpx.Client(verify=ssl.create_default_context(cafile=str(folder.ca)), trust_env=False) as client:
        answer = client.post(f"https://localhost:{hub.public_port}{ROUTE}", content=b'{"ask":"ca"}')
    assert answer.status_code == 404


def test_an_address_that_asks_too_much_is_told_to_wait(centre, tmp_path):
    desk = EnrolmentDesk(centre.folder, centre.journal, centre.book)
    folder = centre.folder
    hub = SuperLink(
        tmp_path / "busy", "127.0.0.1", 0, folder.server_certificate, folder.server_key, enrolment=desk.answer
    )
    with hub, httpx.Client(verify=ssl.create_default_context(cafile=str(folder.ca)), trust_env=False) as client:
        url = f"https://localhost:{hub.public_port}{ROUTE}"
        statuses = {client.post(url, content=b"x" * (MAX_QUESTION + 1)).status_code for _ in range(75)}
        assert statuses == {413, 429}
        assert client.get(f"https://localhost:{hub.public_port}/health").status_code == 200


# -- what daemons do by themselves -------------------------------------------------------------------------------------


def grown(centre: Centre) -> dict[str, DepartmentFolder]:
    """Three departments that have joined epoch 1."""
    made = {name: centre.department(name) for name in ("ash", "birch", "cedar")}
    centre.sign()
    for folder in made.values():
        join(folder, centre.folder.root / "roster.json", os.urandom)
    return made


def membership(folder: DepartmentFolder, told: list[str]) -> Membership:
    return Membership(folder.root, lambda kind, facts: told.append(kind), threading.Event())


def test_daemons_renew_and_join_the_next_epoch_by_themselves(centre):
    """One rotates, one is new, and one is revoked after that; nobody types a command at the others'."""
    made = grown(centre)
    told: list[str] = []
    renew(made["ash"], os.urandom, rotate=True)
    old = made["ash"].identity().public
    send(made["ash"])
    made["elm"] = centre.department("elm")
    followers = {name: membership(folder, told) for name, folder in made.items()}
    for follower in followers.values():
        follower.look()
    assert sorted(told) == ["renewed", "renewed", "renewed", "waiting"]
    second = centre.sign()
    for follower in followers.values():
        follower.look()
        assert follower.over.is_set()
        assert follower.join_offered()
    assert {folder.roster().digest for folder in made.values()} == {second.digest}
    assert made["ash"].identity().public != old
    assert made["ash"].next_identity() is None
    assert sorted(path.name for path in (made["ash"].root / "keys").glob("*.next")) == []
    assert second.index_of(made["ash"].identity().public) == 0
    assert told.count("joined") == 4

    centre.door.look()
    centre.book.revoke("birch", roster=second, now=1.0)
    centre.door.look()
    assert made["birch"].roster().departments[1].node_key not in centre.hub.registered()
    with pytest.raises(TokenRevoked):
        followers["birch"].look()
    for name in ("ash", "cedar", "elm"):
        followers[name].look()
    third = centre.sign()
    assert [m.name for m in third.departments] == ["ash", "cedar", "elm"]
    for name in ("ash", "cedar", "elm"):
        followers[name].look()
        assert followers[name].join_offered()


def test_a_department_that_wants_to_look_first_is_told_and_does_nothing(centre):
    made = grown(centre)
    for folder in made.values():
        path = folder.root / "department.toml"
        path.write_text(path.read_text() + "\n[roster]\nfollow = false\n")
    centre.department("elm")
    told: list[str] = []
    followers = [membership(folder, told) for folder in made.values()]
    for follower in followers * 2:
        follower.look()
    assert told == ["renewal-wanted"] * 3
    for folder in made.values():
        renew(folder, os.urandom)
        send(folder)
    centre.sign()
    for follower in followers * 2:
        follower.look()
        assert not follower.over.is_set()
        assert not follower.join_offered()
    assert told[3:] == ["roster"] * 3
    assert {folder.roster().epoch for folder in made.values()} == {1}


def test_a_roster_that_was_not_made_from_the_joined_one_is_refused_and_kept(centre):
    """Under the authority's signature all the same: somebody has shown others another epoch 1."""
    made = grown(centre)
    for folder in made.values():
        send(DepartmentFolder(renew(folder, os.urandom).parent))
    second = centre.sign()
    torn = Roster.model_validate(second.model_dump(mode="json") | {"previous": "00" * 32})
    signed = SignedRoster.sign(torn, centre.folder.authority())
    (centre.folder.root / "roster.json").write_bytes(signed.to_json())
    told: list[str] = []
    follower = membership(made["ash"], told)
    follower.look()
    assert not follower.join_offered()
    assert told == ["refused"]
    assert (made["ash"].root / "roster-2-other.json").read_bytes() == signed.to_json()
    assert made["ash"].roster().epoch == 1
    follower.look()  # it is not offered again
    assert not (made["ash"].root / OFFERED).exists()
    with pytest.raises(SplitRoster):
        join(made["birch"], centre.folder.root / "roster.json", os.urandom)


def test_rotating_that_is_killed_between_its_renames_is_finished_by_joining_again(centre, monkeypatch):
    made = grown(centre)
    for name, folder in made.items():
        renew(folder, os.urandom, rotate=name == "ash")
        send(folder)
    second = centre.sign()
    ash = made["ash"]

    class Killed(BaseException):
        pass

    original = Path.replace

    def killed(path: Path, target: Path) -> Path:
        if path.name == "identity.key.next":
            raise Killed
        return original(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", killed)
        with pytest.raises(Killed):
            join(ash, centre.folder.root / "roster.json", os.urandom)
    assert not ash.next_node_key.exists()
    assert ash.next_identity() is not None
    join(ash, centre.folder.root / "roster.json", os.urandom)
    assert second.index_of(ash.identity().public) == 0
