"""``coordinator roster`` over more requests than a complete graph holds: the defaults, signed and told."""

from __future__ import annotations

import json
import os

import pytest
from typer.testing import CliRunner

from commonroot.cli import app
from commonroot.client.node_key import make_node_key
from commonroot.common import canonical
from commonroot.common.enrolment import Application, Token
from commonroot.common.roster import Member
from commonroot.common.secure_sum.agreement import AgreementKey
from commonroot.common.secure_sum.primitives import Identity
from commonroot.server.enrol_roster import book_of
from commonroot.server.folder import CoordinatorFolder


@pytest.fixture
def centre(tmp_path):
    CoordinatorFolder.create(
        tmp_path / "centre", federation="grove", host="127.0.0.1", port=9443, names=("localhost",), random=os.urandom
    )
    return tmp_path / "centre"


def requests(folder, count):
    paths = []
    for at in range(count):
        keys = AgreementKey.generate(os.urandom).public
        member = Member.signed(f"site-{at:03}", Identity.generate(os.urandom), keys, f"ecdsa-sha2-nistp384 key-{at}")
        paths.append(folder.parent / f"{at}.json")
        paths[-1].write_bytes(canonical.dumps(member.model_dump(mode="json")))
    return paths


def signed(folder, count):
    """A roster over requests that nothing vouches for, as whoever owns all folders signs one."""
    CoordinatorFolder(folder).sign_roster(requests(folder, count), colluders=None, survivors_min=None)
    return folder


def said(*words):
    result = CliRunner().invoke(app, ["coordinator", "roster", *map(str, words)])
    assert result.exit_code == 0, result.output
    return result.stdout


def test_a_hundred_departments_get_a_ring_and_a_committee_and_are_told_so(centre):
    """n = 100: t_c = 8, k = 36, m = 40, tau = 25, u_min = 50; 18 in a row keep 5; 55 = ⌊108/2⌋ + 1 countersign."""
    facts = json.loads(said(signed(centre, 100), "--json"))
    p = facts["parameters"]
    assert (p["colluders"], p["degree"], p["committee"]) == (8, 36, 40)
    assert (p["opening_quorum"], p["survivors_min"]) == (25, 50)
    assert (facts["masks_with"], facts["countersigners"], len(facts["committee"])) == (36, 55, 40)
    assert len(facts["departments"]) == 100

    text = said(centre)
    opens = [line.split()[0] for line in text.splitlines() if line.endswith("  opens")]
    assert opens == facts["committee"]
    for told in (
        "hides each department from the coordinator and 8 colluding department(s)",
        "each masks with 36 others; a committee of 40, marked above, opens sums",
        "opens sums of at least 50; 15 committee member(s) may be absent at opening",
        "of any 18 neighbours on the mask ring at least 5 must be in the sum",
        "departments train before a round opens",
        "it begins once 55 departments have countersigned it",
    ):
        assert told in text


def test_up_to_32_everyone_masks_with_everyone_and_nothing_is_said_of_a_ring(centre):
    facts = json.loads(said(signed(centre, 32), "--json"))
    assert {"degree", "committee"}.isdisjoint(facts["parameters"])
    assert (facts["masks_with"], len(facts["committee"])) == (31, 32)
    text = said(centre)
    assert "ring" not in text
    assert "  opens\n" not in text


def test_numbers_that_the_argument_does_not_cover_are_refused_by_name(centre):
    """40 departments with tokens, so that the command has something to sign."""
    with book_of(CoordinatorFolder(centre)) as book:
        for at in range(40):
            token = Token.generate(
                federation="grove", address="h:1", name=f"site-{at:03}", expires=2**40, ca=bytes(32),
                authority=bytes(32), random=os.urandom,
            )  # fmt: skip
            book.issue(token, roster=None, now=1.0)
            keys = AgreementKey.generate(os.urandom).public
            line = make_node_key(centre.parent / f"{at}.key")
            member = Member.signed(token.name, Identity.generate(os.urandom), keys, line)
            book.apply(Application.by_token(token, member, made=1), roster=None, now=2.0)
    result = CliRunner().invoke(app, ["coordinator", "roster", str(centre), "--sign", "--colluders", "9"])
    assert result.exit_code == 2
    assert "9 colluders among 40 departments are not provided for" in result.output
    assert not (centre / "roster.json").exists()
