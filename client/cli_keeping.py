"""``commonroot department backup | restore | prune | disk``: what is kept, where, and for how long."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from commonroot.cli_sides import BackupFile, DryRun, NewFolder, say_missing, say_restored, show_backup, show_disk
from commonroot.console import Json, emit, group, say

commands = group("The department's own memory.")

Folder = Annotated[Path, typer.Argument(help="The department's folder.", metavar="DIR")]


@commands.command()
def backup(
    folder: Folder,
    file: BackupFile,
    with_keys: Annotated[
        bool, typer.Option("--with-keys", help="Identity, node and training keys too. Whoever reads it can be you.")
    ] = False,
    json: Json = False,
) -> None:
    """Write heads, models, ledger and approvals into one file.  The daemon may be up.

    An epoch's keys never go in, nor do your tables.  The file is readable by its owner alone: heads are private.
    """
    from commonroot.client.backup import backup as write_backup
    from commonroot.client.folder import DepartmentFolder

    facts = write_backup(DepartmentFolder(folder), file, with_keys=with_keys)

    show_backup(file, facts, json=json)


@commands.command()
def restore(
    file: Annotated[Path, typer.Argument(help="A backup of a department.", metavar="FILE")],
    folder: NewFolder,
    json: Json = False,
) -> None:
    """Make a department's folder from a backup.  It predicts at once, and takes part again from the next epoch on.

    Its keys of the backup's epoch are gone for good: renew, have the request enrolled, join the next roster.
    """
    from commonroot.client.backup import restore as read_backup

    facts = read_backup(file, folder)

    def text() -> None:
        say_restored(f"department {facts['department']!r}", folder, facts["made_at"])
        say_missing(facts["missing_keys"])
        if facts["standing"] == "left":
            say("it had left the federation: predict, export, report and ledger work, and it takes part in nothing")
            return
        say(f"now `commonroot department renew {folder}`, have request.json enrolled, and `join` the next roster")
        say("approve again, before you join, every charter that was approved after the backup was made")

    emit(facts, json, text)


@commands.command()
def prune(
    folder: Folder,
    dry_run: DryRun = False,
    json: Json = False,
) -> None:
    """Let go of what `[retention]` in department.toml says.  `up` does it by itself when it starts.

    Never of the model in use, of heads, approvals, evidence or the ledger.
    """
    from commonroot.client.folder import DepartmentFolder
    from commonroot.client.retention import prune as let_go
    from commonroot.client.store import DepartmentStore

    config = DepartmentFolder(folder).config
    store = DepartmentStore(folder, federation=config.federation, department=config.name)
    try:
        chosen = store.chosen()
    finally:
        store.close()
    facts = let_go(folder, config.retention, chosen, dry_run=dry_run, owner=False)

    def text() -> None:
        if not facts["asked"]:
            say("[retention] in department.toml keeps everything for ever")
        for path in facts["paths"]:
            say(f"  {path}")
        would = "would let go of" if dry_run else "let go of"
        say(f"{would} {len(facts['paths'])} files and folders ({facts['bytes']:,} bytes)")

    emit(facts, json, text)


@commands.command()
def disk(folder: Folder, json: Json = False) -> None:
    """How much room the department's folder takes, by what it is for, and how much is left."""
    from commonroot.client.folder import DepartmentFolder
    from commonroot.client.retention import disk_use

    facts = disk_use(DepartmentFolder(folder).root)

    show_disk(facts, json)
