"""``docs/threats.md`` lists exactly the lies that are played, each with what becomes of it."""

from __future__ import annotations

from made_pages import made, names
from proofs.test_named_lies import LIES
from proofs.threats import MAKERS, PAGE

TEXT = PAGE.read_text("utf-8")


def test_the_page_is_what_the_tables_say():
    assert made(TEXT, MAKERS) == TEXT, "run `make docs`"


def test_every_part_that_can_be_made_stands_on_the_page_once():
    assert sorted(names(TEXT)) == sorted(MAKERS)


def test_every_lie_stands_on_the_page():
    told = [lie for lie in LIES if lie.who != "nobody"]
    assert len(told) > 80
    for lie in told:
        assert TEXT.count(f"| `{lie.name}` |") == 1
