"""``commonroot audit compare``: what several departments were told, held against each other."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from commonroot.console import Json, emit, group, say

commands = group("For whoever wants to know whether central IT told all departments the same.")


@commands.callback()
def _group() -> None:
    """Keeps ``compare`` a command of its own although it is the only one."""


@commands.command()
def compare(
    files: Annotated[list[Path], typer.Argument(help="Ledgers that departments exported.", metavar="FILE…")],
    coordinator: Annotated[
        list[Path] | None, typer.Option(help="The coordinator's exported audit log; may be repeated.", metavar="FILE")
    ] = None,
    json: Json = False,
) -> None:
    """Find contradictions between departments' ledgers, and between them and the coordinator's audit log.

    Each finding shows the statements that contradict one another and whose signature proves it.  Ends with exit code 1
    where a lie is proven; suspicions, which rest on somebody's word or on what is missing, and what a restored
    coordinator has forgotten, as its own log says, change no exit code.
    """
    from commonroot.common.compare import compare as compare_records
    from commonroot.common.records import read
    from commonroot.common.restores import STEPS
    from commonroot.files import read_bytes

    ledgers = [read(read_bytes(path, what="the ledger")) for path in files]
    audits = [read(read_bytes(path, what="the audit log")) for path in coordinator or ()]
    findings = compare_records(ledgers, audits)
    proven = [one for one in findings if one.proven]
    restored = [one for one in findings if one.restored_at is not None]
    facts = {
        "departments": [one.name for one in ledgers],
        "authority": ledgers[0].authority,
        "statements": sum(len(one.statements) for one in ledgers),
        "proven": len(proven),
        "restored": len(restored),
        "findings": [one.describe() for one in findings],
    }

    def text() -> None:
        for one in findings:
            sort = "PROVEN" if one.proven else "suspicion" if one.restored_at is None else "restored"
            say(f"{sort}  {one.rule}: {one.what}")
            for spoken in one.statements:
                held, signer = ", ".join(spoken.held_by), spoken.signer[:16]
                say(f"    {spoken.kind} held by {held}, signed by {one.signed_by} {signer}…")
        say(f"{facts['statements']} statements of {len(ledgers)} departments compared: {len(proven)} proven lies, "
            f"{len(findings) - len(proven) - len(restored)} suspicions"
            + (f", {len(restored)} explained by a restore" if restored else ""))  # fmt: skip
        if not coordinator and proven and {one.rule for one in proven} <= STEPS:
            say("a coordinator that was restored from a backup signs such things too, and its audit log says so: "
                "compare again with --coordinator")  # fmt: skip
        say(f"all under the authority {facts['authority']}: compare it with the one that you pinned")

    emit(facts, json, text)
    if proven:
        raise typer.Exit(1)
