"""Every command, every option and every error code stands in the documentation.

``docs/commands.md`` is made from the program's own help; ``python tests/test_everything_is_documented.py`` writes it.
A made page is complete and explains nothing, so each command must stand on a page that somebody wrote, too.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
import typer

from commonroot.cli import app
from commonroot.common.errors import all_errors

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "commands.md"
#: Pages that are made from the code, and explain nothing.
MADE = {PAGE.name, "errors.md"}

#: Shorthand of the pages: `department join`, where the program's name is understood.
_PROGRAM = r"(?:commonroot\s+)?"


def commands(command: click.Command, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Every command of the program, groups left out."""
    if not isinstance(command, click.Group):
        yield path, command
        return
    if command.invoke_without_command and path:  # a group that does something by itself
        yield path, command
    for name, inner in command.commands.items():
        yield from commands(inner, (*path, name))


EVERYTHING = list(commands(typer.main.get_command(app)))


def commands_page() -> str:
    """``docs/commands.md`` as the program's help has it."""
    out = """# Commands

Every command and what it takes, from the program's own help; `commonroot GROUP COMMAND --help` says the same. Commands
of both sides print one JSON document with `--json`. Exit codes are 0 for done, 2 for something to mend here, 3 for
something the other side did wrong, and 4 for a round that came to nothing; [errors](errors.md) has every code. This
page is made by `make docs`, and a test compares them.
"""
    sides = {
        "coordinator": "Central IT",
        "authority": "The enrolment authority",
        "department": "A department",
        "audit": "Whoever audits",
        "": "A data scientist",
    }
    for group, title in sides.items():
        out += f"\n## {title}\n"
        for path, command in EVERYTHING:
            side = path[0] if len(path) > 1 and path[0] in sides else ""
            if side == group:
                out += "\n" + entry(path, command)
    return out


def entry(path: tuple[str, ...], command: click.Command) -> str:
    """One command: heading, what it is for, its arguments and options."""
    shown = [
        p for p in command.params if isinstance(p, click.Argument | click.Option) and p.name not in ("help", "json")
    ]
    arguments = [p for p in shown if isinstance(p, click.Argument)]
    usage = " ".join(["commonroot", *path, *(_metavar(p) for p in arguments)])
    out = f"### `{usage}`\n\n{textwrap.fill(_plain(command.help or ''), 119)}\n"
    rows = []
    for param in shown:
        told = _plain(getattr(param, "help", "") or "")
        if isinstance(param, click.Option):
            name = "`, `".join([*param.opts, *param.secondary_opts])
            default = param.default
            if default not in (None, False, "", (), []) and not callable(default) and not param.required:
                told += f" Default: `{default!s}`."
            if param.required:
                told += " Required."
        else:
            name = _metavar(param)
        rows.append(f"| `{name}` | {told.strip()} |\n")
    if rows:
        out += "\n| | |\n|---|---|\n" + "".join(rows)
    return out


def _metavar(param: click.Parameter) -> str:
    return str(param.metavar or (param.name or "").upper().replace("_", "-")).strip("[]")


def _plain(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def written() -> str:
    """Everything that somebody wrote: README and docs, without the made pages."""
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
    return "\n".join(page.read_text("utf-8") for page in pages if page.name not in MADE)


@pytest.mark.parametrize("path", [path for path, _ in EVERYTHING], ids=" ".join)
def test_a_page_that_somebody_wrote_names_the_command(path: tuple[str, ...]) -> None:
    """As `commonroot GROUP COMMAND`, or without the program's name where it is a command of a group."""
    program = _PROGRAM if len(path) > 1 else r"commonroot\s+"
    assert re.search(program + r"\s+".join(map(re.escape, path)) + r"(?![\w-])", written()), " ".join(path)


def test_the_page_of_commands_is_what_the_program_says() -> None:
    assert PAGE.read_text(encoding="utf-8") == commands_page(), "run `make docs`"


@pytest.mark.parametrize("command", [pytest.param(c, id=" ".join(p)) for p, c in EVERYTHING])
def test_every_option_says_what_it_is_for(command: click.Command) -> None:
    silent = [p.name for p in command.params if isinstance(p, click.Option) and not p.help]
    assert silent == []


def test_every_code_is_on_the_page_of_errors() -> None:
    page = (ROOT / "docs" / "errors.md").read_text("utf-8")
    assert [code for code in all_errors() if f"| {code} |" not in page] == []


if __name__ == "__main__":
    PAGE.write_text(commands_page(), encoding="utf-8")
