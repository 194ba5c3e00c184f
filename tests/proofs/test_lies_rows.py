"""What is told of the lies is what is played."""

from __future__ import annotations

from proofs.lies import rows
from proofs.test_named_lies import LIES, OUTCOMES


def test_a_row_says_what_is_played():
    assert [row.name for row in rows()] == [lie.name for lie in LIES]
    for row in rows():
        assert (row.refused_by is None) == (row.step is None) == (row.code is None)
        assert row.what_happens == OUTCOMES[row.outcome]
        assert row.name.replace("-", "").isalpha() and row.name == row.name.lower()
