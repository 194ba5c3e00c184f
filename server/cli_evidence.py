"""``commonroot coordinator audit …``: what central IT did and signed, verified, and as a file for others."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from commonroot.cli_sides import shortened
from commonroot.console import Json, emit, group_of, say

commands = group_of(
    "show",
    "What central IT did and what its program signed, as a hash-chained and signed log: `audit DIR` shows it, "
    "`audit verify` checks it, `audit export` makes a file for departments to compare with.",
)

Folder = Annotated[Path, typer.Argument(help="The coordinator's folder.", metavar="DIR")]


@commands.command()
def show(
    folder: Folder,
    last: Annotated[int | None, typer.Option(help="Only this many of the newest events.", min=1)] = None,
    json: Json = False,
) -> None:
    """Every event in order, after checking the chain: rosters, charters, runs, rounds, results, faults, commands."""
    from commonroot.server.audit_file import verify_audit
    from commonroot.server.folder import CoordinatorFolder

    opened = CoordinatorFolder(folder)
    verified = verify_audit(opened)
    journal = opened.journal()
    try:
        entries = journal.audit()
    finally:
        journal.close()
    shown = entries[-last:] if last else entries
    facts = verified | {
        "events": [{"sequence": e.sequence, "at": e.at, "kind": e.kind, "facts": e.facts} for e in shown]
    }

    def text() -> None:
        for entry in shown:
            words = " ".join(f"{key}={shortened(value)}" for key, value in entry.facts.items() if value is not None)
            say(f"{entry.sequence:>6}  {entry.kind:<12} {words}")
        say(f"{verified['entries']} entries, chain intact; the last signed head is over {verified['signed']}")

    emit(facts, json, text)


@commands.command()
def verify(
    where: Annotated[
        Path, typer.Argument(help="The coordinator's folder, or a file that `export` wrote.", metavar="DIR")
    ],
    against: Annotated[
        Path | None, typer.Option(help="An export made earlier, which the log must continue.", metavar="FILE")
    ] = None,
    json: Json = False,
) -> None:
    """Check the chain and its signed heads; ends with exit code 3 where they do not hold."""
    from commonroot.server.audit_file import read_audit, verify_audit
    from commonroot.server.folder import CoordinatorFolder

    if where.is_dir():
        facts = verify_audit(CoordinatorFolder(where), against=against)
    else:
        held = read_audit(where).verified
        facts = {"entries": held.entries, "signed": held.signed, "since": held.since}

    def text() -> None:
        say(f"{facts['entries']} entries: chain and heads hold; {facts['since']} came after the last signed head")

    emit(facts, json, text)


@commands.command()
def export(
    folder: Folder,
    file: Annotated[Path, typer.Argument(help="Where to write it.", metavar="FILE")],
    json: Json = False,
) -> None:
    """Sign the log and write it as one file that anybody can verify; departments compare their ledgers with it."""
    from commonroot.server.audit_file import export_audit
    from commonroot.server.folder import CoordinatorFolder

    facts = export_audit(CoordinatorFolder(folder), file)
    emit(facts, json, lambda: say(f"{facts['entries']} entries written to {file}"))
