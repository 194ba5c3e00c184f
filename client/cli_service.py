"""``commonroot department doctor | install-service``: what keeps a department in service."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from commonroot.cli_sides import Printed, UnitKeyFile, UnitPassphrase, UserUnit, install, show_findings
from commonroot.console import Json, group

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

    show_findings(examine(folder, data=data), json)


@commands.command("install-service")
def install_service(
    folder: Folder,
    user: UserUnit = False,
    stdout: Printed = False,
    passphrase_file: UnitPassphrase = None,
    key_file: UnitKeyFile = None,
    devices: Annotated[bool, typer.Option("--devices", help="Let the service use devices such as GPUs.")] = False,
    json: Json = False,
) -> None:
    """Write a systemd unit that keeps `department up` running, hardened, and say what to type next."""
    from commonroot.client.folder import DepartmentFolder
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
    install(made, stdout=stdout, json=json)
