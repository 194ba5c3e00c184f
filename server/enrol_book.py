"""The coordinator's book of enrolment: tokens, applications, and who was shut out.  Tables of the journal.

Every answer to a stranger is decided here.  The order of the checks matters: until a proof verifies, there is one
refusal for everything (``EnrolmentRefused``), so whoever does not hold a token learns nothing about tokens; after that,
the honest holder is told what is wrong.  A token is used in one transaction with the application it vouches for, so
a coordinator that is killed in between has both or neither, and the same application again is answered alike.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Literal

import sqlalchemy as sa

from commonroot.common.enrolment import Application, Token
from commonroot.common.errors import (
    BadSignature,
    ConfigError,
    EnrolmentRefused,
    NameTaken,
    StaleApplication,
    TokenExpired,
    TokenRevoked,
    TokenUsed,
    WrongFederation,
    WrongName,
)
from commonroot.common.roster import Member, Roster
from commonroot.server.journal import Journal
from commonroot.server.journal_tables import applications, renewals, shut_out, tokens
from commonroot.server.node_keys import check_node_key

#: So long before a roster expires fresh keys for the next one are wanted, in seconds.
RENEWED_BEFORE: Final = 30 * 86400

TokenState = Literal["open", "used", "expired", "revoked"]
ApplicationState = Literal["waiting", "approved", "revoked", "past"]


@dataclass(frozen=True, slots=True)
class KnownToken:
    """A token as the book has it, without what it takes to use it."""

    number: str
    name: str
    verifier: bytes
    made: float
    expires: int
    used: bytes | None
    revoked: bool

    def state(self, now: float) -> TokenState:
        """What has become of it."""
        if self.revoked:
            return "revoked"
        if self.used is not None:
            return "used"
        return "expired" if self.expires <= now else "open"


@dataclass(frozen=True, slots=True)
class Filed:
    """What an application asks for, without its larger keys, and what has become of it.

    how  ``token`` or ``renewal``
    """

    id: int
    how: Literal["token", "renewal"]
    name: str
    identity: str
    node_key: str
    agreement: str
    state: ApplicationState
    at: float


class EnrolmentBook:
    """Tokens and applications of one federation, beside its journal."""

    def __init__(self, journal: Journal, *, federation: str) -> None:
        self._journal = journal
        self._federation = federation

    # -- tokens ----------------------------------------------------------------------------------------------------

    def issue(self, token: Token, *, roster: Roster | None, now: float) -> None:
        """Note a token; an unused earlier one for the same name is revoked with it.

        Raises ConfigError where the name is a member's that was not revoked.
        """
        if roster is not None and token.name in {m.name for m in self.members(roster)}:
            raise ConfigError(
                f"{token.name!r} is enrolled",
                hint="it changes its keys with `department rotate`; `coordinator revoke` first if it has lost them",
            )
        with self._journal.transaction() as db:
            same = tokens.c.name == token.name
            db.execute(tokens.update().where(same, tokens.c.used.is_(None)).values(revoked=True))
            db.execute(
                tokens.insert().values(
                    number=token.number.hex(),
                    name=token.name,
                    verifier=token.key.public,
                    made=now,
                    expires=token.expires,
                    revoked=False,
                )
            )

    def tokens(self) -> list[KnownToken]:
        """Every token, oldest first."""
        return [_token(row) for row in self._rows(sa.select(tokens).order_by(tokens.c.made, tokens.c.number))]

    # -- applications ----------------------------------------------------------------------------------------------

    def apply(self, application: Application, *, roster: Roster | None, now: float) -> None:
        """Take an application; the very same one again changes nothing.

        Parameters  roster: the one that stands, if there is one

        Raises  EnrolmentRefused: nothing that the book knows vouches for it; and of who proved to hold a token or an
                identity: WrongFederation, WrongName, NameTaken, TokenUsed, TokenRevoked, TokenExpired,
                StaleApplication, BadSignature and Malformed (its own entry), KeyFileError (its node key)
        """
        if application.token is not None:
            self._apply_with_token(application, application.token, roster, now)
        elif roster is None:
            raise EnrolmentRefused(f"{application.member.name!r} speaks of a roster, and there is none yet")
        else:
            self._apply_as_member(application, roster, now)

    def _apply_with_token(self, application: Application, number: str, roster: Roster | None, now: float) -> None:
        rows = self._rows(sa.select(tokens).where(tokens.c.number == number))
        if not rows:
            raise EnrolmentRefused("an application with a token that was never given out")
        token, member = _token(rows[0]), application.member
        _prove(application, token.verifier, f"the token of {token.name!r}")
        if application.federation != self._federation:
            raise WrongFederation(f"{member.name!r} applies to federation {application.federation!r}")
        if member.name != token.name:
            raise WrongName(f"the token of {token.name!r} was used for {member.name!r}")
        if token.used is not None and token.used != application.digest:
            raise TokenUsed(f"the token of {token.name!r} was used again, for another application")
        if token.revoked:
            raise TokenRevoked(f"the token of {token.name!r} was revoked")
        if token.used is not None:
            return
        if token.expires <= now:
            raise TokenExpired(f"the token of {token.name!r} has expired")
        self._check_entry(application, roster, standing=None)
        with self._journal.transaction() as db:
            # The write comes first: it takes the database's lock, and says whether the token was still unused.
            free = (tokens.c.number == number, tokens.c.used.is_(None), tokens.c.revoked.is_(False))
            done = db.execute(tokens.update().where(*free).values(used=application.digest, used_at=now))
            if done.rowcount == 1:
                self._file(db, application, now)
                return
        self._apply_with_token(application, number, roster, now)  # somebody was quicker: say what is so now

    def _apply_as_member(self, application: Application, roster: Roster, now: float) -> None:
        name = application.member.name
        standing = next((m for m in roster.departments if m.name == name), None)
        if standing is None:
            raise EnrolmentRefused(f"{name!r} applies as a member and is none")
        _prove(application, bytes.fromhex(standing.identity), f"the identity of {name!r}")
        if application.federation != self._federation:
            raise WrongFederation(f"{name!r} applies to federation {application.federation!r}")
        if standing.node_key in self.shut_out():
            raise TokenRevoked(f"{name!r} was revoked and applies again")
        if application.roster != roster.digest.hex():
            raise StaleApplication(f"{name!r} applies under another roster than that of epoch {roster.epoch}")
        self._check_entry(application, roster, standing=standing)
        same = (applications.c.name == name, applications.c.roster == application.roster)
        with self._journal.transaction() as db:
            older = (*same, applications.c.made < application.made)
            db.execute(applications.delete().where(*older))
            left = db.execute(sa.select(applications.c.digest).where(*same)).scalars().all()
            if not left:
                self._file(db, application, now)
        if left and bytes(left[0]) != application.digest:
            raise StaleApplication(f"{name!r} has made a later application than this one")

    def _check_entry(self, application: Application, roster: Roster | None, *, standing: Member | None) -> None:
        """What must hold of an entry whoever vouches for it."""
        member = application.member
        member.check()
        check_node_key(member.node_key)
        if member.node_key in self.shut_out():
            raise TokenRevoked(f"{member.name!r} applies with a node key that was shut out")
        members = () if roster is None else roster.departments
        spent = {key for m in members for key in (m.agreement, m.kem)}
        if member.agreement in spent or member.kem in spent:
            raise StaleApplication(
                f"{member.name!r} applies with agreement keys of epoch {roster.epoch if roster else 0}"
            )
        others: list[Member | Filed] = [m for m in (self.members(roster) if roster else ()) if m != standing]
        others += [filed for filed in self.waiting(roster) if filed.name != member.name]
        for other in others:
            for what in ("name", "identity", "node_key", "agreement"):
                if getattr(other, what) == getattr(member, what):
                    raise NameTaken(f"{member.name!r} applies with the {what.replace('_', ' ')} of {other.name!r}")

    @staticmethod
    def _file(db: sa.Connection, application: Application, now: float) -> None:
        db.execute(
            applications.insert().values(
                name=application.member.name,
                token=application.token or "",
                roster=application.roster or "",
                identity=application.member.identity,
                agreement=application.member.agreement,
                node_key=application.member.node_key,
                made=application.made,
                digest=application.digest,
                content=application.to_json(),
                at=now,
            )
        )

    def applications(self, roster: Roster | None) -> list[Filed]:
        """Every application, oldest first."""
        approved = {(m.name, m.agreement) for m in (roster.departments if roster else ())}
        standing, epoch = (roster.digest.hex(), roster.epoch) if roster else ("", 0)
        out = self.shut_out()
        gone = {token.number for token in self.tokens() if token.revoked}
        found = []
        columns = [column for column in applications.c if column.name not in ("content", "digest")]
        for row in self._rows(sa.select(*columns).order_by(applications.c.id)):
            state: ApplicationState = "past"
            if row.node_key in out or row.token in gone:
                state = "revoked"
            elif (row.name, row.agreement) in approved:
                state = "approved"
            elif (row.epoch is None or row.epoch > epoch) and (row.token or row.roster == standing):
                state = "waiting"
            how: Literal["token", "renewal"] = "token" if row.token else "renewal"
            found.append(Filed(row.id, how, row.name, row.identity, row.node_key, row.agreement, state, row.at))
        return found

    def waiting(self, roster: Roster | None) -> list[Filed]:
        """What the next roster would be made of."""
        return [filed for filed in self.applications(roster) if filed.state == "waiting"]

    # -- the next roster -------------------------------------------------------------------------------------------

    def members(self, roster: Roster) -> list[Member]:
        """Departments of a roster that were not shut out."""
        out = self.shut_out()
        return [member for member in roster.departments if member.node_key not in out]

    def not_renewed(self, roster: Roster) -> list[str]:
        """Members that have sent no fresh keys for the epoch after this roster."""
        renewed = {one.name for one in self.waiting(roster)}
        return [member.name for member in self.members(roster) if member.name not in renewed]

    def next_members(self, roster: Roster | None) -> list[Member]:
        """The next roster's departments: who stands in this one, in its order, then who comes.

        Raises ConfigError, naming departments that have not sent fresh keys yet, or where there is nothing to sign.
        """
        waiting = {one.name: self.entry(one) for one in self.waiting(roster)}
        prepared = roster is not None and (
            self._asked_to_renew(roster) or len(self.members(roster)) < len(roster.departments)
        )
        if not waiting and not prepared:
            raise ConfigError(
                "no department has applied for the next roster",
                hint="`coordinator enrol DIR NAME` for a new one; `coordinator renew DIR` for fresh keys of all",
            )
        if roster is None:
            return list(waiting.values())
        if late := self.not_renewed(roster):
            self.ask_to_renew(roster)
            raise ConfigError(
                f"no fresh keys for the next epoch yet from: {', '.join(late)}",
                hint="their daemons send them within a minute of being up, or `department renew`; "
                "`coordinator revoke DIR NAME` leaves one out",
            )
        stay = [waiting.pop(member.name) for member in roster.departments if member.name in waiting]
        return stay + list(waiting.values())

    def entry(self, filed: Filed) -> Member:
        """What an application asks to stand in the roster."""
        rows = self._rows(sa.select(applications.c.content).where(applications.c.id == filed.id))
        return Application.from_json(bytes(rows[0].content)).member

    def went_into(self, roster: Roster) -> None:
        """Note which applications a roster was made of, before it stands."""
        with self._journal.transaction() as db:
            for member in roster.departments:
                same = (applications.c.name == member.name, applications.c.agreement == member.agreement)
                db.execute(applications.update().where(*same).values(epoch=roster.epoch))

    def ask_to_renew(self, roster: Roster) -> None:
        """From now on members are told that fresh keys are wanted for the epoch after this roster."""
        if not self._asked_to_renew(roster):
            with self._journal.transaction() as db:
                db.execute(renewals.insert().values(roster=roster.digest.hex()))

    def wants_renewal(self, roster: Roster, *, now: float) -> bool:
        """Is the epoch after this roster being prepared?  It is where somebody new waits, somebody was shut out, or the
        roster soon expires."""
        if roster.expires - now < RENEWED_BEFORE or self._asked_to_renew(roster):
            return True
        if len(self.members(roster)) < len(roster.departments):
            return True
        return any(one.how == "token" for one in self.waiting(roster))

    def _asked_to_renew(self, roster: Roster) -> bool:
        return bool(self._rows(sa.select(renewals).where(renewals.c.roster == roster.digest.hex())))

    def state_of(self, identity: str, roster: Roster | None) -> Literal["waiting", "member", "out"] | None:
        """What an identity is to this federation; None for one it has never heard of."""
        members = {m.identity: m for m in (roster.departments if roster else ())}
        if identity in members:
            return "out" if members[identity].node_key in self.shut_out() else "member"
        filed = [one for one in self.applications(roster) if one.identity == identity]
        if any(one.state == "waiting" for one in filed):
            return "waiting"
        return "out" if filed or identity in self._identities_shut_out() else None

    # -- shutting out ----------------------------------------------------------------------------------------------

    def revoke(self, name: str, *, roster: Roster | None, now: float) -> dict[str, Any]:
        """Revoke all that goes by a name: its place in the roster, applications that wait, tokens.

        Returns what was revoked.  Raises ConfigError where there is nothing.
        """
        member = next((m for m in (roster.departments if roster else ()) if m.name == name), None)
        if member is not None and member.node_key in self.shut_out():
            member = None
        waiting = [one for one in self.waiting(roster) if one.name == name]
        with self._journal.transaction() as db:
            unused = tokens.c.used.is_(None) if not waiting else sa.true()
            same = (tokens.c.name == name, tokens.c.revoked.is_(False), unused)
            revoked = db.execute(tokens.update().where(*same).values(revoked=True)).rowcount
            keys: dict[str, Member | Filed] = {one.node_key: one for one in waiting}
            keys |= {member.node_key: member} if member is not None else {}
            for node_key, m in keys.items():
                db.execute(shut_out.insert().values(node_key=node_key, identity=m.identity, name=name, at=now))
        if not keys and not revoked:
            raise ConfigError(f"there is no department, request or token of the name {name!r} to revoke")
        return {"member": member is not None, "requests": len(waiting), "tokens": revoked}

    def shut_out(self) -> dict[str, str]:
        """Node keys that may never come in again, with the name they had."""
        return {row.node_key: row.name for row in self._rows(sa.select(shut_out))}

    def _identities_shut_out(self) -> set[str]:
        return {row.identity for row in self._rows(sa.select(shut_out))}

    def _rows(self, query: sa.Select[Any]) -> list[Any]:
        with self._journal.transaction() as db:
            return list(db.execute(query).all())


def _prove(application: Application, public: bytes, whose: str) -> None:
    try:
        application.check_proof(public)
    except BadSignature as error:
        raise EnrolmentRefused(
            f"an application as {application.member.name!r} is not under the signature of {whose}"
        ) from error


def _token(row: Any) -> KnownToken:
    used = None if row.used is None else bytes(row.used)
    return KnownToken(row.number, row.name, bytes(row.verifier), row.made, row.expires, used, row.revoked)
