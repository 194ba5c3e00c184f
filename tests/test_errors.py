"""Codes are unique and never change meaning, and ``docs/errors.md`` lists every one.

``python tests/test_errors.py`` writes that page.
"""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest

from commonroot.common import errors
from commonroot.common.errors import CommonrootError, PeerError, RoundLost, UsageError, all_errors

PAGE = Path(__file__).resolve().parent.parent / "docs" / "errors.md"

KINDS = {
    UsageError: "ours",
    PeerError: "theirs",
    RoundLost: "nobody's",
}


def classes() -> list[type[CommonrootError]]:
    """Every error class of ``common/errors.py``, read from the module and not from the table under test."""
    found = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, CommonrootError)]
    return sorted(found, key=lambda kind: kind.code)


def errors_page() -> str:
    """``docs/errors.md`` as the classes have it."""
    head = """# Errors

Every error has a code that never changes meaning. Its class says whose doing it is, and the exit code of the command
line says the same:

| whose | class | exit code | what to do |
|---|---|---|---|
| ours | `UsageError` | 2 | the call, the configuration or the data is wrong: fix it and try again |
| theirs | `PeerError` | 3 | the other side broke the protocol: stop, keep nothing, tell someone |
| nobody's | `RoundLost` | 4 | too few departments answered: the next round may well succeed |

Only the code travels to the other side; the message stays where the error was raised. This page is made from
`common/errors.py` by `make docs`, and a test compares them.

| code | name | whose | meaning | hint |
|---|---|---|---|---|
"""
    rows = []
    for kind in classes():
        whose = next((word for base, word in KINDS.items() if issubclass(kind, base)), "")
        meaning = " ".join((kind.__doc__ or "").split())
        cells = [kind.code, f"`{kind.__name__}`", whose, meaning, kind.hint]
        rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |\n")
    return head + "".join(rows)


def test_no_two_errors_share_a_code():
    codes = [kind.code for kind in classes()]
    assert sorted(codes) == sorted(set(codes))


def test_the_table_of_errors_holds_every_class():
    table = {code: kind for code, kind in all_errors().items() if kind.__module__ == errors.__name__}
    assert table == {kind.code: kind for kind in classes()}


def test_no_error_is_defined_outside_the_one_file():
    """Otherwise a code could be given twice without anybody seeing it."""
    strangers = []
    for room in ("client", "common", "server", "simulations", "strategies", "commonroot"):
        for path in (PAGE.parent.parent / room).rglob("*.py"):
            if path.name != "errors.py" and re.search(r'^\s+code = "CR\d', path.read_text("utf-8"), re.MULTILINE):
                strangers.append(path.name)
    assert strangers == []


@pytest.mark.parametrize("kind", classes(), ids=lambda kind: kind.__name__)
def test_an_error_has_its_own_code_a_docstring_and_a_hint(kind):
    assert re.fullmatch(r"CR\d{2,3}", vars(kind)["code"])
    assert (vars(kind)["__doc__"] or "").strip().endswith(".") or kind in (CommonrootError, *KINDS)
    if kind not in (CommonrootError, UsageError):
        assert kind.hint


@pytest.mark.parametrize("kind", classes(), ids=lambda kind: kind.__name__)
def test_the_exit_code_says_whose_doing_it_is(kind):
    """1 for the root alone, 2 ours, 3 theirs, 4 nobody's; no class invents one of its own."""
    expected = {None: 1, "ours": 2, "theirs": 3, "nobody's": 4}
    whose = next((word for base, word in KINDS.items() if issubclass(kind, base)), None)
    assert kind.exit_code == expected[whose]


def test_an_error_describes_itself_as_a_flat_record():
    error = errors.TooFewDepartments("two were asked for", hint="ask a third")
    assert error.describe() == {
        "code": "CR16",
        "error": "TooFewDepartments",
        "message": "two were asked for",
        "hint": "ask a third",
    }
    assert errors.TooFewDepartments("two").describe()["hint"] == "a federation needs at least three departments"


def test_the_page_of_errors_is_what_the_classes_say():
    assert PAGE.read_text(encoding="utf-8") == errors_page(), "run `make docs`"


if __name__ == "__main__":
    PAGE.write_text(errors_page(), encoding="utf-8")
