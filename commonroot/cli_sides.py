"""What the coordinator's and a department's commands have in common: doctor, services, backups, disks, logs."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from commonroot.console import emit, say

if TYPE_CHECKING:
    from commonroot.common.findings import Finding
    from commonroot.service import Service

BackupFile = Annotated[Path, typer.Argument(help="The file to write; it must not exist.", metavar="FILE")]
NewFolder = Annotated[Path, typer.Argument(help="The folder to make; it must not exist or be empty.", metavar="DIR")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only say what would be let go of.")]
UserUnit = Annotated[bool, typer.Option("--user", help="A unit of your own systemd manager, without root.")]
Printed = Annotated[bool, typer.Option("--stdout", "--dry-run", help="Print the unit and install nothing.")]
UnitPassphrase = Annotated[
    Path | None, typer.Option(help="File with the passphrase of sealed keys; handed to the service alone.")
]
UnitKeyFile = Annotated[Path | None, typer.Option(help="Key file that opens sealed keys; the same.")]


def show_findings(found: Sequence[Finding], json: bool) -> None:
    """Print what a doctor found; exit code 2 where something has to be mended."""
    from commonroot.common.errors import UsageError
    from commonroot.common.findings import lines, record, worst

    emit(record(found), json, lambda: say("\n".join(lines(found))))
    if worst(found) == "fail":
        raise typer.Exit(UsageError.exit_code)


def install(made: Service, *, stdout: bool, json: bool) -> None:
    """Write a unit and say what to type next, or print it."""
    from commonroot.files import atomic_write

    if not stdout:
        made.install(atomic_write)

    def text() -> None:
        if stdout:
            say(made.text.rstrip("\n"))
            return
        say(f"written: {made.path}")
        for step in made.next_steps:
            say(f"  {step}")

    emit(made.describe() | {"installed": not stdout}, json, text)


def show_backup(file: Path, facts: Mapping[str, Any], *, json: bool) -> None:
    """Say what a backup holds; ``facts`` has ``files``, ``size`` in bytes, ``keys``."""

    def text() -> None:
        keys = "with keys: keep it like the keys themselves" if facts["keys"] else "without keys: keep those apart"
        say(f"{file}: {facts['files']} files, {facts['size']:,} bytes, {keys}")

    emit(facts, json, text)


def say_restored(what: str, folder: Path, made_at: float) -> None:
    """The first line after a restore."""
    made = datetime.datetime.fromtimestamp(made_at).astimezone()
    say(f"{what} restored to {folder}, as it was on {made:%Y-%m-%d %H:%M:%S}")


def say_missing(keys: Sequence[str]) -> None:
    """Which keys a backup was made without."""
    for name in keys:
        say(f"  missing: {name}, which the backup was made without: put it there, chmod 600")


def show_disk(facts: Mapping[str, Any], json: bool) -> None:
    """Bytes by what they are for, and what is free."""

    def text() -> None:
        for name, size in facts["uses"].items():
            say(f"{size:>16,}  {name}")
        say(f"{facts['free']:>16,}  free")

    emit(facts, json, text)


def shortened(value: object) -> str:
    """A fact of an entry in a log, on one line with others."""
    text = str(value).replace(" ", "")
    return text if len(text) <= 20 else text[:16] + "…"
