"""``commonroot department ledger …``: what left, verified, and as a file for others."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from commonroot.cli_sides import shortened
from commonroot.console import Json, emit, group_of, say

commands = group_of(
    "show",
    "What left this department, as a hash-chained and signed list: `ledger DIR` shows it, "
    "`ledger verify` checks it, `ledger export` makes a file that others can check.",
)

Folder = Annotated[Path, typer.Argument(help="The department's folder.", metavar="DIR")]


@commands.command()
def show(folder: Folder, json: Json = False) -> None:
    """Every event in order, after checking the chain, and the account of what left by kind.  The default."""
    from commonroot.client.evidence_file import account, verify_folder
    from commonroot.client.folder import DepartmentFolder

    opened = DepartmentFolder(folder)
    verified = verify_folder(opened)
    facts = account(opened)
    sent = sum(row["bytes"] for row in facts["parcels"].values())
    link = sum(row["bytes"] for row in facts["link"].values())

    def text() -> None:
        for entry in facts["entries"]:
            told = entry["facts"] | {f"({name})": value for name, value in entry.get("private", {}).items()}
            words = " ".join(f"{key}={shortened(value)}" for key, value in told.items() if key != "sealed")
            say(f"{entry['sequence']:>6}  {entry['kind']:<10} {words}")
        for kind, row in sorted(facts["parcels"].items()):
            say(f"left: {kind:<12} {row['messages']:>6} parcels {row['bytes']:>12} bytes")
        if link:
            say(f"the link sent {link} bytes in HTTP requests, these parcels and its own questions included")
        say(f"{verified['entries']} entries, chain intact, {sent} bytes sent")
        say(_signed(verified))

    emit(facts | {"verified": verified["entries"], "signed": verified["signed"], "bytes_sent": sent}, json, text)


@commands.command()
def verify(
    where: Annotated[
        Path, typer.Argument(help="The department's folder, or a file that `export` wrote.", metavar="DIR")
    ],
    against: Annotated[
        Path | None, typer.Option(help="An export made earlier, which the ledger must continue.", metavar="FILE")
    ] = None,
    authority: Annotated[
        str | None, typer.Option(help="The enrolment authority's public key, which a file must be under.")
    ] = None,
    json: Json = False,
) -> None:
    """Check chain, signed heads and statements; ends with exit code 3 where anything does not hold.

    A file is checked by itself: whose key signs it follows from the rosters in it, and these from the authority's key,
    which only you can compare with the one you know.
    """
    from commonroot.client.evidence_file import read_record, require_prefix, verify_folder
    from commonroot.client.folder import DepartmentFolder
    from commonroot.common.errors import BadSignature

    if where.is_dir():
        facts = verify_folder(DepartmentFolder(where), against=against)
    else:
        record = read_record(where)
        if authority is not None and record.authority != authority.lower():
            raise BadSignature(f"{where} is under the authority {record.authority}, not {authority}")
        if against is not None:
            require_prefix(read_record(against), list(record.entries), record.owner)
        facts = {
            "department": record.name,
            "entries": record.verified.entries,
            "signed": record.verified.signed,
            "since": record.verified.since,
            "statements": len(record.statements),
            "identity": record.identity,
            "authority": record.authority,
        }

    def text() -> None:
        said = f"chain, heads and {facts['statements']} statements hold"
        say(f"{facts['entries']} entries of {facts['department']!r}: {said}")
        say(_signed(facts))
        if "authority" in facts:
            say(f"signed by {facts['identity']}, under the authority {facts['authority']}")
            say("compare the authority with the one that you pinned")

    emit(facts, json, text)


@commands.command()
def export(
    folder: Folder,
    file: Annotated[Path, typer.Argument(help="Where to write it.", metavar="FILE")],
    json: Json = False,
) -> None:
    """Sign the ledger and write it as one file that anybody can verify without this folder.

    It holds kinds, sizes, times, digests and signed messages of the protocol: no rows, counts, losses, scores or heads.
    """
    from commonroot.client.evidence_file import export_ledger
    from commonroot.client.folder import DepartmentFolder

    facts = export_ledger(DepartmentFolder(folder), file)

    def text() -> None:
        say(f"{facts['entries']} entries and {facts['statements']} signed statements written to {file}")

    emit(facts, json, text)


def _signed(facts: dict[str, Any]) -> str:
    if not facts["signed"]:
        return "no head was signed yet"
    return f"the last signed head is over {facts['signed']} entries; {facts['since']} came later"
