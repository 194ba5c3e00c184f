"""A wrong file or option of a command: one clear error, its code, a hint, and folders as they were before."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from federation import small
from federation.refusing import refused
from federation.wrong_files import draft, other_authority, write

from commonroot.common import canonical
from commonroot.common.charter import SignedCharter
from commonroot.common.enrolment import Token
from commonroot.common.roster import Roster, SignedRoster
from commonroot.common.secure_sum.primitives import Identity
from commonroot.server.pki import pin
from commonroot.simulations.founding import Federation


def _changed_roster(federation: Federation) -> Path:
    value = canonical.loads((federation.coordinator.root / "roster.json").read_bytes(), what="it")
    value["roster"]["parameters"]["survivors_min"] = 3
    value["roster"]["expires"] += 1
    path = federation.root / "changed.json"
    path.write_bytes(canonical.dumps(value))
    return path


def _signed_by(made: Federation, key: Identity, **changes: Any) -> Path:
    charter = made.charter.charter.model_copy(update=changes)
    path = made.root / "other-charter.json"
    path.write_bytes(SignedCharter.sign(type(charter).model_validate(charter.model_dump()), key).to_json())
    return path


def _wider(federation: Federation) -> Path:
    """Signed by the coordinator, but with a bound that the method as installed does not have."""
    terms = federation.charter.charter.terms
    wider = (terms[0].model_copy(update={"bound": 2 * terms[0].bound}), *terms[1:])
    return _signed_by(federation, federation.coordinator.identity(), terms=wider)


FOLDERS: list[tuple[str, Callable[[Federation, Path, Path], list[str]], str]] = [
    # the three are: the federation, ash's folder, the coordinator's folder
    ("join: no such file", lambda f, d, c: ["department", "join", str(d), str(f.root / "none.json")], "CR10"),
    (
        "join: not the pinned authority",
        lambda f, d, c: ["department", "join", str(d), str(other_authority(f))],
        "CR21",
    ),
    ("join: changed on the way", lambda f, d, c: ["department", "join", str(d), str(_changed_roster(f))], "CR21"),
    ("join: a charter", lambda f, d, c: ["department", "join", str(d), str(f.charter_path)], "CR20"),
    (
        "join: cut short",
        lambda f, d, c: [
            "department",
            "join",
            str(d),
            str(write(f.root / "cut.json", (c / "roster.json").read_bytes()[:-9])),
        ],
        "CR20",
    ),
    (
        "approve: another hash",
        lambda f, d, c: ["department", "approve", str(d), str(f.charter_path), "--hash", "00" * 32],
        "CR12",
    ),
    (
        "approve: too little of a hash",
        lambda f, d, c: ["department", "approve", str(d), str(f.charter_path), "--hash", "00"],
        "CR10",
    ),
    (
        "approve: nobody there to be asked",
        lambda f, d, c: ["department", "approve", str(d), str(f.charter_path)],
        "CR12",
    ),
    (
        "approve: signed by somebody",
        lambda f, d, c: ["department", "approve", str(d), str(_signed_by(f, Identity(bytes(32)), rounds=9))],
        "CR21",
    ),
    ("approve: a wider bound", lambda f, d, c: ["department", "approve", str(d), str(_wider(f))], "CR26"),
    (
        "approve: another federation",
        lambda f, d, c: [
            "department",
            "approve",
            str(d),
            str(_signed_by(f, f.coordinator.identity(), federation="desert")),
        ],
        "CR10",
    ),
    ("approve: not JSON", lambda f, d, c: ["department", "approve", str(d), str(c / "coordinator.toml")], "CR20"),
    ("report: no run has ended", lambda f, d, c: ["department", "report", str(d)], "CR10"),
    ("predict: no model yet", lambda f, d, c: ["department", "predict", str(d), str(d / "rows.npz")], "CR10"),
    (
        "init: a folder that is not empty",
        lambda f, d, c: [
            "department",
            "init",
            str(d),
            "--token",
            _token(f),
            "--offline",
            "--ca",
            str(c / "tls/ca.pem"),
        ],
        "CR10",
    ),
    ("init: no token", lambda f, d, c: ["department", "init", str(f.root / "new"), "--token", "let me in"], "CR55"),
    (
        "init: a token cut short",
        lambda f, d, c: ["department", "init", str(f.root / "new"), "--token", _token(f)[:-1]],
        "CR55",
    ),
    (
        "init: a token that has expired",
        lambda f, d, c: ["department", "init", str(f.root / "new"), "--token", _token(f, expires=1_000_000_000)],
        "CR57",
    ),
    (
        "init: a CA that is none",
        lambda f, d, c: [
            *["department", "init", str(f.root / "new"), "--token", _token(f), "--offline"],
            *["--ca", str(c / "coordinator.toml")],
        ],
        "CR61",
    ),
    (
        "init: a CA that is not the token's",
        lambda f, d, c: [
            *["department", "init", str(f.root / "new"), "--token", _token(f, ca=bytes(32)), "--offline"],
            *["--ca", str(c / "tls" / "ca.pem")],
        ],
        "CR61",
    ),
    (
        "init: offline without a CA",
        lambda f, d, c: ["department", "init", str(f.root / "new"), "--token", _token(f), "--offline"],
        "CR10",
    ),
    (
        "init: nobody at the address",
        lambda f, d, c: [
            *["department", "init", str(f.root / "new"), "--token", _token(f, address="127.0.0.1:1"), "--wait", "0"],
        ],
        "CR63",
    ),
    ("enrol: a member", lambda f, d, c: ["coordinator", "enrol", str(c), "ash"], "CR10"),
    ("enrol: a name that is a path", lambda f, d, c: ["coordinator", "enrol", str(c), "../oak"], "CR10"),
    (
        "enrol: an address that the certificate does not name",
        lambda f, d, c: ["coordinator", "enrol", str(c), "oak", "--address", "elsewhere:9443"],
        "CR10",
    ),
    ("revoke: nobody", lambda f, d, c: ["coordinator", "revoke", str(c), "oak"], "CR10"),
    ("admit: not a request", lambda f, d, c: ["coordinator", "admit", str(c), str(c / "coordinator.toml")], "CR20"),
    (
        "admit: a request that nothing vouches for",
        lambda f, d, c: ["coordinator", "admit", str(c), str(d / "request.json")],
        "CR20",
    ),
    ("roster: nothing to sign", lambda f, d, c: ["coordinator", "roster", str(c), "--sign"], "CR10"),
    (
        "roster: signed by somebody",
        lambda f, d, c: ["coordinator", "roster", str(c), "--signed", str(other_authority(f))],
        "CR21",
    ),
    (
        "roster: changed on the way",
        lambda f, d, c: ["coordinator", "roster", str(c), "--signed", str(_changed_roster(f))],
        "CR21",
    ),
    (
        "roster: another one of this epoch",
        lambda f, d, c: ["coordinator", "roster", str(c), "--signed", str(_second(f))],
        "CR104",
    ),
    (
        "roster: two wishes",
        lambda f, d, c: ["coordinator", "roster", str(c), "--sign", "--draft", str(f.root / "draft.json")],
        "CR10",
    ),
    (
        "authority: no draft",
        lambda f, d, c: [
            *["authority", "sign", str(f.charter_path), "--yes"],
            *["--key", str(c / "authority" / "authority.key")],
        ],
        "CR20",
    ),
    ("seal: under nothing", lambda f, d, c: ["department", "seal", str(d)], "CR10"),
    ("charter: no such file", lambda f, d, c: ["coordinator", "charter", str(c), str(f.root / "none.toml")], "CR10"),
    (
        "charter: three wrong fields",
        lambda f, d, c: ["coordinator", "charter", str(c), str(draft(f, "rounds = 3", "rounds = 0\nx = 1"))],
        "CR10",
    ),
    (
        "charter: an unknown method",
        lambda f, d, c: ["coordinator", "charter", str(c), str(draft(f, "fedper", "fedmagic"))],
        "CR10",
    ),
    (
        "charter: another federation",
        lambda f, d, c: ["coordinator", "charter", str(c), str(draft(f, '"grove"', '"desert"'))],
        "CR10",
    ),
    (
        "run: a charter that somebody signed",
        lambda f, d, c: ["coordinator", "run", str(c), str(_signed_by(f, Identity(bytes(32))))],
        "CR21",
    ),
    ("run: no such charter", lambda f, d, c: ["coordinator", "run", str(c), str(f.root / "none.json")], "CR10"),
    (
        "init: a coordinator's folder again",
        lambda f, d, c: ["coordinator", "init", str(c), "--federation", "grove"],
        "CR10",
    ),
    ("status: not a coordinator's folder", lambda f, d, c: ["coordinator", "status", str(d)], "CR10"),
    (
        "enrol: a token that has expired already",
        lambda f, d, c: ["coordinator", "enrol", str(c), "oak", "--days", "0"],
        "CR10",
    ),
    ("enrol: a time that is none", lambda f, d, c: ["coordinator", "enrol", str(c), "oak", "--days", "nan"], "CR10"),
    ("enrol: for ever", lambda f, d, c: ["coordinator", "enrol", str(c), "oak", "--days", "inf"], "CR10"),
    ("enrol: before now", lambda f, d, c: ["coordinator", "enrol", str(c), "oak", "--days=-1"], "CR10"),
    ("resume: no such run", lambda f, d, c: ["coordinator", "resume", str(c), "7"], "CR10"),
]


def _token(federation: Federation, **changes: Any) -> str:
    """One that nobody gave out."""
    fields = {
        "federation": "grove",
        "address": "127.0.0.1:9443",
        "name": "oak",
        "number": bytes(8),
        "secret": bytes(16),
        "expires": 2**40,
        "ca": pin(federation.coordinator.ca.read_bytes()),
        "authority": federation.coordinator.authority_public(),
    }
    return Token(**(fields | changes)).encode()


def _second(federation: Federation) -> Path:
    """Another roster of the epoch that stands, under the same authority."""
    standing = federation.coordinator.roster()
    other = Roster.model_validate(standing.model_dump(mode="json") | {"expires": standing.expires + 1})
    signed = SignedRoster.sign(other, federation.coordinator.authority())
    return write(federation.root / "second.json", signed.to_json())


@pytest.mark.parametrize(("what", "words", "code"), FOLDERS, ids=[what for what, _, _ in FOLDERS])
def test_a_wrong_file_or_option_is_refused_by_name(what, words, code, tmp_path, monkeypatch):
    federation = small.founded(tmp_path)
    line = words(federation, federation.departments["ash"].root, federation.coordinator.root)
    assert refused(tmp_path, line, code, monkeypatch)
    assert not (tmp_path / "new").exists()
