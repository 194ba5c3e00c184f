"""Every row of ``lies`` is played, and refused where and as the row says; and the table holds what it must."""

from __future__ import annotations

import pytest
from proofs import coordinator_lies as c
from proofs.lies import CONSEQUENCES, LIES, OUTCOMES, rows
from proofs.stage import ASH, Stage, playing

from commonroot.common.errors import PeerError, all_errors
from commonroot.common.parcel import OPEN


@pytest.mark.parametrize("lie", LIES, ids=lambda lie: lie.name)
def test_a_lie_is_refused_where_and_as_the_table_says(lie, tmp_path):
    stage = lie.play(tmp_path)
    try:
        if lie.refused is not None:
            assert lie.refused in stage.refusals, f"refused were {sorted(stage.refusals)}"
        unexpected = stage.refusals - {lie.refused} - lie.also - (CONSEQUENCES if lie.who != "nobody" else set())
        assert unexpected == set()
        assert stage.outcome() == lie.outcome
    finally:
        if isinstance(stage, Stage):
            stage.at_work.close()


def test_every_lie_has_a_name_of_its_own_and_codes_that_exist():
    names = [lie.name for lie in LIES]
    assert len(names) == len(set(names))
    for lie in LIES:
        assert lie.outcome in OUTCOMES
        assert lie.refused is None or lie.refused[2] in all_errors()


def test_a_stage_sees_a_lie_that_the_table_does_not_name(tmp_path):
    """A row would fail if its lie were refused otherwise, or elsewhere, or if the sum were not the honest one."""
    stage = playing(OPEN, c.boxes(lambda box: box[:-1]))(tmp_path)
    assert stage.refusals - CONSEQUENCES == {("department", OPEN, "CR29")}
    assert stage.outcome() == "unharmed"
    terms = stage.at_work.learners[ASH].contributed[0]
    stage.at_work.learners[ASH].contributed[0] = {name: 1.5 * value for name, value in terms.items()}
    assert stage.outcome() == "spoiled"
    stage.at_work.close()


#: What must stand in the table, and by which rows it does.
MUST: dict[str, dict[str, tuple[str, ...]]] = {
    "coordinator": {
        "split view": ("another-cohort-to-one", "other-bounds-to-one", "two-models", "split-survivor-set"),
        "a second survivor set": (
            "second-survivor-set",
            "second-survivor-set-first",
            "second-set-after-forgetting",
            "second-set-for-one-backbone",
        ),
        "both kinds of share": ("both-kinds-of-share",),
        "an honest department excluded": ("claimed-dropped", "cohort-without-the-one-asked"),
        "a wrong cohort": (
            "cohort-outside-the-roster",
            "cohort-with-one-twice",
            "cohort-too-small",
            "cohort-of-strangers",
        ),
        "a replay": ("replayed-last-round", "replayed-round", "replayed-opening", "replayed-close"),
        "another model to some": ("another-model-to-one", "two-models"),
        "a lowered quorum": ("roster-with-a-lower-quorum", "weaker-parameters-at-run-time"),
        "a forged roster": (
            "roster-of-another-authority",
            "roster-with-an-exchanged-key",
            "second-roster-of-one-epoch",
        ),
        "a stale epoch": ("stale-epoch", "older-roster", "greet-for-another-epoch"),
        "oversize": ("broadcast-too-long", "broadcast-enormous"),
        "undersize": ("broadcast-too-short", "boxes-cut-short"),
    },
    "department": {
        "a garbage vector": ("garbage-vector", "garbage-scalar", "garbage-within-the-range"),
        "bad shares": ("bad-shares", "bad-shares-by-two", "one-share-less"),
        "bad boxes": ("noise-in-one-box", "noise-in-all-boxes", "boxes-for-another-cohort"),
        "mismatched commitments": ("mismatched-commitments", "mismatched-commitments-first", "false-own-commitment"),
        "a wrong key": ("upload-under-another-key", "answer-under-another-key", "greeting-under-another-key"),
        "a replay": ("replayed-upload", "replayed-answer"),
        "silence at each stage": (
            "never-greets",
            "never-introduced",
            "never-ready",
            "never-uploads",
            "never-answers",
            "never-takes-over",
        ),
    },
}


def test_every_lie_that_must_be_in_the_table_is():
    held = {(row.who, row.name) for row in rows()}
    wanted = {(who, name) for who, kinds in MUST.items() for names in kinds.values() for name in names}
    assert wanted <= held, f"missing: {sorted(wanted - held)}"


def test_every_error_that_says_a_peer_lied_is_met_in_the_table():
    """But for the base class, and CR37, which hands on what another refused."""
    met = {row.code for row in rows()} | {code for lie in LIES for _, _, code in lie.also}
    lying = {code for code, kind in all_errors().items() if issubclass(kind, PeerError)}
    assert lying - met == {"CR02", "CR37"} - met


def test_a_row_says_what_is_played():
    assert [row.name for row in rows()] == [lie.name for lie in LIES]
    for row in rows():
        assert (row.refused_by is None) == (row.step is None) == (row.code is None)
        assert row.what_happens == OUTCOMES[row.outcome]
        assert row.name.replace("-", "").isalpha() and row.name == row.name.lower()
