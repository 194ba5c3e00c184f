"""From applications to the roster that stands: signed here, or drafted here and signed where the authority's key is.

The authority signs what it was shown, and nothing is believed for having been drafted: ``CoordinatorFolder.install``
takes a signed roster only if it is the next one.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from commonroot.common import canonical
from commonroot.common.enrolment import Application, RosterDraft, Token, changes, check_next, fingerprint
from commonroot.common.errors import CommonrootError, ConfigError, Malformed, NotTheNextRoster
from commonroot.common.roster import NAME_PATTERN, Roster, SignedRoster
from commonroot.common.secure_sum.primitives import Identity
from commonroot.files import atomic_write, read_bytes, read_secret, read_text
from commonroot.server.enrol_book import EnrolmentBook
from commonroot.server.folder import CoordinatorFolder
from commonroot.server.pki import certificate_names, pin


@contextmanager
def book_of(folder: CoordinatorFolder) -> Iterator[EnrolmentBook]:
    """A coordinator's book of enrolment, for a command."""
    journal = folder.journal()
    try:
        yield EnrolmentBook(journal, federation=folder.config.federation)
    finally:
        journal.close()


def issue(folder: CoordinatorFolder, name: str, *, days: float, address: str | None) -> Token:
    """A token for one new department, noted in the book.  Raises ConfigError for a name or address that is none."""
    if not re.fullmatch(NAME_PATTERN, name):
        hint = "letters, digits, spaces and . _ - after a letter or digit, 63 at most"
        raise ConfigError(f"{name!r} is no name for a department", hint=hint)
    now = time.time()
    address = address or f"{folder.config.names[0]}:{folder.config.port}"
    names = certificate_names(folder.server_certificate)
    if (host := address.rpartition(":")[0].strip("[]")) not in names:
        raise ConfigError(f"the coordinator's certificate does not name {host!r}", hint=f"it names {', '.join(names)}")
    token = Token.generate(
        federation=folder.config.federation,
        address=address,
        name=name,
        expires=int(now + days * 86400),
        ca=pin(read_bytes(folder.ca, what="the CA certificate")),
        authority=folder.authority_public(),
        random=os.urandom,
    )
    try:
        Token.decode(token.encode())
    except CommonrootError as error:
        raise ConfigError(
            f"no token for {name!r} at {token.address!r}: {error}", hint="give --address HOST:PORT"
        ) from error
    with book_of(folder) as book:
        book.issue(token, roster=folder.standing(), now=now)
    return token


def admit(folder: CoordinatorFolder, files: list[Path]) -> list[str]:
    """Take applications that came as files, as the public port would; the names that applied.

    Raises what ``EnrolmentBook.apply`` raises, ConfigError or Malformed for files that are none.
    """
    applications = [(path, _request(path)) for path in files]
    roster = folder.standing()
    with book_of(folder) as book:
        for path, application in applications:
            try:
                book.apply(application, roster=roster, now=time.time())
            except CommonrootError as error:
                error.args = (f"{path}: {error}",)
                raise
    return [application.member.name for _, application in applications]


def _request(path: Path) -> Application:
    try:
        return Application.from_json(read_bytes(path, what="the enrolment request").strip())
    except Malformed as error:
        hint = "it is request.json in the folder that `commonroot department init` made; nobody was admitted"
        raise Malformed(f"{path} is no enrolment request: {error}", hint=hint) from error


def sign_here(folder: CoordinatorFolder, *, colluders: int | None, survivors_min: int | None) -> Roster:
    """Sign the next roster with the authority's key in this folder and let it stand.

    Raises ConfigError where somebody has not renewed, or nobody applied; KeyFileError where the key is elsewhere.
    """
    with book_of(folder) as book:
        roster = folder.next_roster(
            book.next_members(folder.standing()), colluders=colluders, survivors_min=survivors_min
        )
        signed = SignedRoster.sign(roster, folder.authority())
        book.went_into(roster)
    folder.install(signed)
    return roster


def write_draft(folder: CoordinatorFolder, file: Path, *, colluders: int | None, survivors_min: int | None) -> Roster:
    """Write what the authority is to sign, with the roster before it to compare with.  Raises ConfigError."""
    before = folder.standing()
    with book_of(folder) as book:
        roster = folder.next_roster(book.next_members(before), colluders=colluders, survivors_min=survivors_min)
    stood = None
    if before is not None:
        stood = SignedRoster.from_json(read_bytes(folder.root / "roster.json", what="the roster"))
    atomic_write(file, RosterDraft(before=stood, roster=roster).to_json())
    return roster


def take_signed(folder: CoordinatorFolder, file: Path) -> Roster:
    """Let a roster stand that came back from the authority.  Raises BadSignature, NotTheNextRoster, Malformed."""
    signed = SignedRoster.from_json(read_bytes(file, what="the signed roster"))
    roster, before = signed.check(folder.authority_public()), folder.standing()
    if before is None or roster.digest != before.digest:
        check_next(roster, before)
    with book_of(folder) as book:
        book.went_into(roster)
    folder.install(signed)
    return roster


# -- at the authority's ------------------------------------------------------------------------------------------------


def in_words(draft: RosterDraft) -> list[str]:
    """What signing a draft means, one sentence a line."""
    roster, before = draft.roster, draft.before.roster if draft.before else None
    p = roster.parameters
    lines = [
        f"Federation {roster.federation!r}, epoch {roster.epoch}: {len(roster.departments)} departments.",
        f"Coordinator's key {fingerprint(roster.coordinator)}.",
    ]
    told = {
        "added": "ADDED       ",
        "removed": "REMOVED     ",
        "new identity": "NEW KEYS    ",
        "new node key": "NEW NODE KEY",
        "stays": "stays       ",
    }
    lines += [f"  {told[c.what]}  {c.name:<24} {fingerprint(c.identity)}" for c in changes(before, roster)]
    lines += [
        f"Each department is hidden from the coordinator and {p.colluders} colluding department(s).",
        f"No sum over fewer than {p.survivors_min} departments is ever opened, and {p.opening_quorum} must help.",
        "Compare the fingerprints of who is added or has new keys with the departments, over a channel you trust.",
    ]
    return lines


def read_draft(file: Path, key: Identity) -> RosterDraft:
    """A draft that this authority may sign.  Raises BadSignature, NotTheNextRoster, Malformed."""
    draft = RosterDraft.from_json(read_bytes(file, what="the draft"))
    draft.check(key.public)
    return draft


def authority_key(file: Path) -> Identity:
    """The authority's key, sealed or not."""
    return Identity(read_secret(file))


def sign_draft(draft: RosterDraft, key: Identity, *, record: Path, again: bool = False) -> SignedRoster:
    """Sign a draft and note beside the key what was signed: one roster for an epoch.

    again  sign another one although one of this epoch was signed; for one that nobody has seen

    Raises NotTheNextRoster where another roster of this epoch was signed, or of a later one.
    """
    roster = draft.roster
    known: dict[str, Any] = json.loads(read_text(record, what="the authority's record")) if record.is_file() else {}
    last = known.get(roster.federation, {"epoch": 0, "roster": ""})
    if last["epoch"] > roster.epoch or (
        last["epoch"] == roster.epoch and last["roster"] != roster.digest.hex() and not again
    ):
        raise NotTheNextRoster(
            f"this key has signed another roster of epoch {last['epoch']} of {roster.federation!r}",
            hint="take that one back to the coordinator; if it is lost and nobody has seen it, sign with --again",
        )
    signed = SignedRoster.sign(roster, key)
    known[roster.federation] = {"epoch": roster.epoch, "roster": roster.digest.hex()}
    atomic_write(record, canonical.dumps(known))
    return signed
