"""``commonroot department doctor | install-service``: what keeps a department in service."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from commonroot.console import Json, emit, group, say

commands = group("Keeping a department in service.")

Folder = Annotated[Path, typer.Argument(help="The department's folder.", metavar="DIR")]


@commands.command()
def doctor(
    folder: Folder,
    data: Annotated[bool, typer.Option("--data/--no-data", help="Read the table too, as training would.")] = True,
    json: Json = False,
) -> None:
    """Look at versions, disk, permissions, keys, DNS, the coordinator, its certificate, clocks, enrolment and data.

    Every line is ok, warn or fail, with what to type. Sends one signed question to the coordinator, and nothing else
    leaves. Exits with 2 if something has to be mended.
    """
    from commonroot.client.doctor import examine
    from commonroot.common.errors import UsageError
    from commonroot.common.findings import lines, record, worst

    found = examine(folder, data=data)
    emit(record(found), json, lambda: say("\n".join(lines(found))))
    if worst(found) == "fail":
        raise typer.Exit(UsageError.exit_code)


@commands.command("install-service")
def install_service(
    folder: Folder,
    user: Annotated[bool, typer.Option("--user", help="A unit of your own systemd manager, without root.")] = False,
    stdout: Annotated[bool, typer.Option("--stdout", "--dry-run", help="Print the unit and install nothing.")] = False,
    passphrase_file: Annotated[
        Path | None, typer.Option(help="File with the passphrase of sealed keys; handed to the service alone.")
    ] = None,
    key_file: Annotated[Path | None, typer.Option(help="Key file that opens sealed keys; the same.")] = None,
    devices: Annotated[bool, typer.Option("--devices", help="Let the service use devices such as GPUs.")] = False,
    json: Json = False,
) -> None:
    """Write a systemd unit that keeps `department up` running, hardened, and say what to type next."""
    from commonroot.client.folder import DepartmentFolder
    from commonroot.files import atomic_write
    from commonroot.service import service

    made = service(
        "department",
        folder,
        for_user=user,
        name=DepartmentFolder(folder).config.name,
        passphrase_file=passphrase_file,
        key_file=key_file,
        devices=devices,
    )
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
