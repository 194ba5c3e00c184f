"""``commonroot coordinator migrate | backup | restore | prune | disk``: what is kept, where, and for how long."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from commonroot.cli_sides import BackupFile, DryRun, NewFolder, say_missing, say_restored, show_backup, show_disk
from commonroot.console import Json, emit, group, say

commands = group("The journal and what lies beside it.")

Folder = Annotated[Path, typer.Argument(help="The coordinator's folder.", metavar="DIR")]


@commands.command()
def migrate(
    folder: Folder,
    check: Annotated[bool, typer.Option("--check", help="Only say where the journal stands; change nothing.")] = False,
    json: Json = False,
) -> None:
    """Bring a journal of an earlier version up to date.  `up` does it by itself; this is for doing it beforehand.

    All steps are one transaction.  An SQLite file is copied first, to journal.db.layout-N beside it.
    """
    from commonroot.server.folder import CoordinatorFolder
    from commonroot.server.journal_database import Database
    from commonroot.server.migrations import pending

    opened = CoordinatorFolder(folder)
    database = Database(opened.database, patience=5)
    try:
        facts = database.outlast(lambda: pending(database, federation=opened.config.federation))
    finally:
        database.close()
    steps = facts["steps"]
    if not check:
        opened.journal().close()
    facts["done"] = not check

    def text() -> None:
        if not steps:
            say(f"the journal has layout {facts['layout']}, the newest; nothing to do")
        elif check:
            say(f"the journal has layout {facts['layout']}; this version brings it to layout {facts['newest']}:")
            for step in steps:
                say(f"  {step}")
        else:
            say(f"the journal was brought from layout {facts['layout']} to layout {facts['newest']}")

    emit(facts, json, text)


@commands.command()
def backup(
    folder: Folder,
    file: BackupFile,
    with_keys: Annotated[
        bool, typer.Option("--with-keys", help="Keys too. Whoever reads the file can then be the coordinator.")
    ] = False,
    json: Json = False,
) -> None:
    """Write the journal, as it stands at one moment, and all files it names into one file.  The coordinator may be up.

    The file is readable by its owner alone.  Without --with-keys, keep keys/ and the *.key files some other way.
    """
    from commonroot.server.backup import backup as write_backup
    from commonroot.server.folder import CoordinatorFolder

    opened = CoordinatorFolder(folder)
    facts = write_backup(opened, file, with_keys=with_keys)
    journal = opened.journal()
    try:
        journal.note("backed-up", {"file": file.name, "bytes": facts["size"], "keys": with_keys})
    finally:
        journal.close()

    show_backup(file, facts, json=json)


@commands.command()
def restore(
    file: Annotated[Path, typer.Argument(help="A backup of a coordinator.", metavar="FILE")],
    folder: NewFolder,
    database: Annotated[
        str, typer.Option(help="An empty PostgreSQL database by URL, or env:NAME; without it, journal.db in DIR.")
    ] = "",
    after_round: Annotated[
        int, typer.Option(help="Number rounds from beyond this one: the highest in any department's ledger.", min=0)
    ] = 0,
    json: Json = False,
) -> None:
    """Make a coordinator's folder from a backup, here or on another host, from either database into either.

    Every hash is checked first.  What was under way goes on when `up` is started; see docs/keeping.md for how far.
    """
    from commonroot.server.backup import restore as read_backup

    facts = read_backup(file, folder, database=database, after_round=after_round)

    def text() -> None:
        say_restored(f"federation {facts['federation']!r}", folder, facts["made_at"])
        say(f"  journal in {facts['database']}; rounds are numbered from {facts['rounds_from']}")
        for number in facts["given_up"]:
            say(f"  round {number} was open then: it is given up, and its version asked about anew")
        told = "the audit log says so, signed" if facts["signed"] else "the audit log says so; `up` signs it"
        say(f"  {told}: rounds since the backup are not known here")
        say_missing(facts["missing_keys"])
        say("make sure that the other coordinator never runs again; then mend host, port and names in coordinator.toml")

    emit(facts, json, text)


@commands.command()
def prune(
    folder: Folder,
    dry_run: DryRun = False,
    json: Json = False,
) -> None:
    """Let go of what `[retention]` in coordinator.toml says.  `up` does it by itself while no run is going on.

    Never of what a run needs to be resumed, of hashes, signatures and results, or of anything that proves something.
    """
    from commonroot.server.folder import CoordinatorFolder
    from commonroot.server.retention import prune as let_go

    facts = let_go(CoordinatorFolder(folder), dry_run=dry_run)

    def text() -> None:
        if not facts["asked"]:
            say("[retention] in coordinator.toml keeps everything for ever")
        would = "would let go of" if dry_run else "let go of"
        for path in facts["files"]:
            say(f"  {path}")
        rows = f"{facts['rounds']} requests of rounds, {facts['faults']} faults"
        say(f"{would} {len(facts['files'])} files ({facts['bytes']:,} bytes), {rows}")

    emit(facts, json, text)


@commands.command()
def disk(folder: Folder, json: Json = False) -> None:
    """How much room the coordinator's folder takes, by what it is for, and how much is left."""
    from commonroot.server.folder import CoordinatorFolder
    from commonroot.server.retention import disk_use

    facts = disk_use(CoordinatorFolder(folder))

    show_disk(facts, json)
