"""The table of lies in plain words, for pages and other programs: who, name, step, code, and what happens.

The lies themselves, and the test that plays each against real sessions and rounds, stand in ``test_named_lies``.
"""

from __future__ import annotations

from typing import NamedTuple

from proofs.test_named_lies import LIES, OUTCOMES


class Row(NamedTuple):
    """One lie, as a page may tell it.

    who           ``coordinator``, ``department`` or ``nobody``
    name          unique, of lower-case words joined by hyphens
    forged        what the lie is, in words
    refused_by    ``coordinator``, ``department``, or None where nothing is refused
    step          a kind of parcel, ``join`` or ``approve``; None where nothing is refused
    code          of the refusal, ``CR`` and two digits; None where nothing is refused
    outcome       a key of ``OUTCOMES``
    what_happens  ``OUTCOMES[outcome]``
    """

    who: str
    name: str
    forged: str
    refused_by: str | None
    step: str | None
    code: str | None
    outcome: str
    what_happens: str


def rows() -> tuple[Row, ...]:
    """Every lie of the table, in its order.  Playing them is ``test_named_lies``'s business."""
    nobody: tuple[None, None, None] = (None, None, None)
    return tuple(
        Row(lie.who, lie.name, lie.forged, *(lie.refused or nobody), lie.outcome, OUTCOMES[lie.outcome]) for lie in LIES
    )
