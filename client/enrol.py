"""A department's membership: applying with a token, asking for rosters, sending fresh keys.

Keys are made here and stay here.  What the coordinator says is believed as far as a signature goes: the CA by the
token's pin, a roster by the pinned authority's key.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from commonroot.client import enrol_link
from commonroot.client.folder import DepartmentFolder
from commonroot.client.setup import create
from commonroot.common.enrolment import Answer, Application, Question, Token
from commonroot.common.errors import ConfigError, EnrolmentRefused, TokenExpired
from commonroot.common.roster import Member, SignedRoster
from commonroot.common.secure_sum.primitives import Identity, Random
from commonroot.files import Lock, read_bytes


def init_with_token(
    root: Path,
    token: Token,
    *,
    data: str,
    random: Random,
    offline: bool = False,
    ca: Path | None = None,
    lock: Lock | None = None,
    patience: float = 20.0,
    clock: Callable[[], float] = time.time,
) -> DepartmentFolder:
    """Make a folder and keys, and apply with a token; the same token and folder again send the same request again.

    Parameters  data: the ``[data]`` section; offline: only write request.json, with the CA from a file;
                patience: seconds for which a coordinator that does not answer is asked again

    Raises  TokenExpired, TokenUsed, TokenRevoked and the like; WrongAuthority: the CA is not the pinned one;
            Unreachable: then the folder is made, and the same command sends the request later; ConfigError
    """
    if offline and ca is None:
        raise ConfigError("--offline needs --ca FILE", hint="it is tls/ca.pem in the coordinator's folder")
    folder = _begun(root, token)
    if folder is None:
        if token.expires <= clock():
            raise TokenExpired("the token's days are over")
        if ca is not None:
            pem = enrol_link.pinned_ca(read_bytes(ca, what="the CA certificate"), token.ca, who=str(ca))
        else:
            pem = enrol_link.fetch_ca(token.address, token.ca, patience=patience)

        def vouch(member: Member) -> bytes:
            return Application.by_token(token, member, made=int(clock())).to_json()

        folder = create(
            root,
            federation=token.federation,
            name=token.name,
            coordinator=token.address,
            authority=token.authority.hex(),
            ca=pem,
            data=data,
            random=random,
            vouch=vouch,
            lock=lock,
        )
    if not offline:
        send(folder, patience=patience)
    return folder


def _begun(root: Path, token: Token) -> DepartmentFolder | None:
    """The folder that an earlier call with this token made, or None.  Raises ConfigError for another one's."""
    if not (root / "department.toml").is_file():
        return None
    folder = DepartmentFolder(root)
    application = folder.application()
    if application is None or application.token != token.number.hex():
        raise ConfigError(f"{root} exists and was not made with this token", hint="choose a new folder")
    return folder


def send(folder: DepartmentFolder, *, patience: float = 0.0) -> None:
    """Send request.json to the coordinator; again is as good as once.  Raises what ``enrol_link.ask`` raises."""
    application = folder.application()
    if application is None:
        raise ConfigError(f"{folder.root / 'request.json'} is no request that something vouches for")
    question = Question(ask="enrol", application=application)
    enrol_link.ask(folder.config.coordinator, folder.ca, question, patience=patience)


@dataclass(frozen=True, slots=True)
class Standing:
    """What the coordinator says about this department.

    state   see ``enrolment.Answer``
    renew   fresh keys are wanted
    roster  the file of a roster that lists this department and is later than the one it joined
    """

    state: Literal["waiting", "member", "out"]
    renew: bool
    roster: bytes | None


def ask_standing(
    folder: DepartmentFolder, *, patience: float = 0.0, clock: Callable[[], float] = time.time
) -> Standing:
    """Ask, under the identity that a rotation made where there is one, and under the present one.

    The roster is under the authority's signature, or BadSignature is raised; all else is for ``setup.join`` to check.
    Raises what ``enrol_link.ask`` raises.
    """
    epoch = folder.roster().epoch if (folder.root / "roster.json").is_file() else 0

    def asked(identity: Identity) -> Answer:
        question = Question.about_roster(folder.config.federation, identity, epoch=epoch, at=int(clock()))
        return enrol_link.ask(folder.config.coordinator, folder.ca, question, patience=patience)

    following = folder.next_identity()
    answer = None
    if following is not None and _was_sent(folder, following):
        with suppress(EnrolmentRefused):  # it never arrived
            answer = asked(following)
    if answer is None or answer.state != "member":
        answer = asked(folder.identity())
    if answer.roster is None:
        return Standing(answer.state or "out", bool(answer.renew), None)
    answer.roster.check(bytes.fromhex(folder.config.authority))
    return Standing(answer.state or "out", bool(answer.renew), SignedRoster.to_json(answer.roster))


def _was_sent(folder: DepartmentFolder, identity: Identity) -> bool:
    """May the coordinator know this identity already?"""
    application = folder.application()
    return application is not None and application.member.identity == identity.public.hex()
