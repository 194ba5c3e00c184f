"""``commonroot department approve / charters / refuse / withdraw / pause / resume / leave``: what people decide."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from commonroot.console import Json, emit, group, say

commands = group("What a department agrees to.")

Folder = Annotated[Path, typer.Argument(help="The department's folder.", metavar="DIR")]
Hash = Annotated[str, typer.Argument(help="The charter's hash, or its first 16 digits at least.", metavar="HASH")]


@commands.command()
def approve(
    folder: Folder,
    charter: Annotated[
        str, typer.Argument(help="A signed charter's file, or the hash of one that was offered.", metavar="CHARTER")
    ],
    hash: Annotated[
        str | None, typer.Option(help="Approve without asking, and only the charter of this hash (16 digits or more).")
    ] = None,
    backbone: Annotated[
        Path | None, typer.Option(help="The safetensors file that it starts from, if it names one; kept here.")
    ] = None,
    beyond_policy: Annotated[
        bool, typer.Option("--beyond-policy", help="Approve it although policy.toml forbids it.")
    ] = False,
    json: Json = False,
) -> None:
    """Show a charter in plain words, with what is new in it, and approve it.  Without this, nothing of it runs here."""
    from commonroot.client.consent import approve as approve_charter
    from commonroot.client.consent import (
        approved_before,
        differences,
        plain_words,
        policy_of,
        read_charter,
        require_permitted,
    )
    from commonroot.client.folder import DepartmentFolder
    from commonroot.common.charter import SignedCharter
    from commonroot.common.errors import NotApproved
    from commonroot.files import read_bytes

    opened = DepartmentFolder(folder)
    path = read_charter(opened, charter)
    roster = opened.roster()
    offered = SignedCharter.from_json(read_bytes(path, what="the charter")).check(bytes.fromhex(roster.coordinator))
    require_permitted(opened, offered, roster)  # nobody is asked about what could not be approved
    words = plain_words(offered, roster=roster)
    before = approved_before(opened, offered)
    news = [] if before is None else differences(before, offered)
    stored = policy_of(opened)
    rules = [] if stored is None else [f"{name}: {why}" for name, why in stored.policy.broken(offered, roster)]

    def show() -> None:
        for line in words:
            say(line)
        if before is not None:
            say(f"New against charter {before.name!r} ({before.digest.hex()[:16]}…), which was approved before:")
            for line in news or ["nothing but its name"]:
                say(f"  {line}")
        for line in rules:
            say(f"OUTSIDE policy.toml: {line}")

    if not json:
        show()
    if hash is None:
        if not sys.stdin.isatty():
            raise NotApproved(
                "nobody is there to be asked", hint=f"read the above, then add --hash {offered.digest.hex()}"
            )
        if not typer.confirm("Approve it?"):
            raise NotApproved("not approved", hint="`commonroot department refuse` says no for good")
    approved = approve_charter(
        opened, path, expected=hash or offered.digest.hex(), backbone=backbone, beyond_policy=beyond_policy
    )
    facts: dict[str, Any] = {"approved": approved.digest.hex(), "words": words, "new": news, "outside_policy": rules}
    emit(facts, json, lambda: say("approved"))


@commands.command()
def charters(folder: Folder, json: Json = False) -> None:
    """Charters that were offered, approved, refused or withdrawn here, by whom, and which rules said no."""
    from commonroot.client.consent import listed
    from commonroot.client.folder import DepartmentFolder

    rows = listed(DepartmentFolder(folder))

    def text() -> None:
        for row in rows:
            by = f" by {row['by']}" if row["by"] else ""
            why = f"  outside: {', '.join(row['rules'])}" if row["rules"] else ""
            say(f"{row['charter'][:16]}  {row['state'] + by:<22} {row['name'] or ''}{why}")
        if not rows:
            say("no charter was offered yet")
        elif any(row["state"] == "offered" for row in rows):
            say("`commonroot department approve DIR HASH` shows an offered one in plain words, and asks")

    emit({"charters": rows}, json, text)


@commands.command()
def refuse(folder: Folder, charter: Hash, json: Json = False) -> None:
    """Say no to a charter, whatever the policy would do; `approve` takes it back.  The coordinator learns a code."""
    from commonroot.client.consent import refuse as refuse_charter
    from commonroot.client.folder import DepartmentFolder

    name = refuse_charter(DepartmentFolder(folder), charter)
    emit({"refused": name}, json, lambda: say(f"refused {name}"))


@commands.command()
def withdraw(folder: Folder, charter: Hash, json: Json = False) -> None:
    """Take an approval back, before the next contribution.  What was sent already stays in its sum."""
    from commonroot.client.consent import withdraw as withdraw_charter
    from commonroot.client.folder import DepartmentFolder

    name = withdraw_charter(DepartmentFolder(folder), charter)
    emit({"withdrawn": name}, json, lambda: say(f"withdrawn {name}"))


@commands.command()
def pause(folder: Folder, json: Json = False) -> None:
    """Contribute nothing until `resume`.  The daemon goes on running; a restart changes nothing.

    A sum that already holds this department's part may still be opened: the others could do that without it.
    """
    from commonroot.client.folder import DepartmentFolder
    from commonroot.client.standing import pause as pause_department

    pause_department(DepartmentFolder(folder))
    emit({"standing": "paused"}, json, lambda: say("paused; `commonroot department resume` takes part again"))


@commands.command()
def resume(folder: Folder, json: Json = False) -> None:
    """Take part again after `pause`."""
    from commonroot.client.folder import DepartmentFolder
    from commonroot.client.standing import resume as resume_department

    resume_department(DepartmentFolder(folder))
    emit({"standing": "active"}, json, lambda: say("taking part again"))


@commands.command()
def leave(
    folder: Folder,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    wait: Annotated[float, typer.Option(help="Seconds in which to say good-bye to the coordinator.", min=0)] = 20.0,
    json: Json = False,
) -> None:
    """Leave the federation for good: say good-bye, erase this epoch's keys, keep model, head, report and ledger.

    It cannot be undone: to take part again, a new folder is enrolled.  `predict`, `export`, `report` and `ledger` go on
    working.  Interrupted, it is finished by the same command or by the daemon's next start.
    """
    from commonroot.client.folder import DepartmentFolder
    from commonroot.client.standing import leave as leave_for_good
    from commonroot.common.errors import ConfigError

    opened = DepartmentFolder(folder)
    if not yes:
        if not sys.stdin.isatty():
            raise ConfigError("nobody is there to be asked", hint="add --yes to leave for good")
        typer.confirm(f"Leave federation {opened.config.federation!r} for good?", abort=True)
    facts = leave_for_good(opened, wait=wait)

    def text() -> None:
        said = "said good-bye" if facts["goodbye"] else "the coordinator did not hear the good-bye; tell central IT"
        say(f"left for good; {said}")
        say("the keys of this epoch are erased; model, head, report and ledger are kept")

    emit(facts, json, text)
