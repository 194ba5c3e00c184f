"""The program ``commonroot``.  Heavy imports happen inside commands, so ``--help`` answers at once."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from commonroot import __version__, cli_audit
from commonroot.client.cli import app as department
from commonroot.console import group
from commonroot.server.cli import app as coordinator
from commonroot.server.cli_enrolment import authority
from commonroot.simulations.cli import add_commands

app = group("Departments learn together through a shared backbone and private heads; only encrypted sums leave.")
app.add_typer(coordinator, name="coordinator", help="For central IT: keys, roster, charters, runs.")
app.add_typer(department, name="department", help="For a department's data team: join, approve, train, predict.")
app.add_typer(cli_audit.commands, name="audit")
app.add_typer(authority, name="authority", help="For the enrolment authority: look at a roster and sign it.")
add_commands(app)


def _version(show: bool) -> None:
    if show:
        print(__version__)
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Options of the program itself."""


def main() -> None:
    """Entry point."""
    code: str | int | None = 0
    try:
        app(prog_name="commonroot")
    except SystemExit as end:
        code = end.code
    try:
        print(end="", flush=True, file=sys.__stdout__)
    except BrokenPipeError:
        # What is still held back goes nowhere; else Python would complain of it at the very end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    raise SystemExit(code)


if __name__ == "__main__":
    main()
