"""``commonroot coordinator doctor | install-service | renew-certificate``: what keeps a coordinator in service."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from commonroot.cli_sides import Printed, UnitKeyFile, UnitPassphrase, UserUnit, install, show_findings
from commonroot.console import Json, emit, group, say

commands = group("Keeping a coordinator in service.")

Folder = Annotated[Path, typer.Argument(help="The coordinator's folder.", metavar="DIR")]


@commands.command()
def doctor(folder: Folder, json: Json = False) -> None:
    """Look at versions, disk, permissions, keys, certificate, port, database, roster, charters and departments' clocks.

    Every line is ok, warn or fail, with what to type. Writes nothing; exits with 2 if something has to be mended.
    """
    from commonroot.server.doctor import examine

    show_findings(examine(folder), json)


@commands.command("install-service")
def install_service(
    folder: Folder,
    user: UserUnit = False,
    stdout: Printed = False,
    passphrase_file: UnitPassphrase = None,
    key_file: UnitKeyFile = None,
    json: Json = False,
) -> None:
    """Write a systemd unit that keeps `coordinator up` running, hardened, and say what to type next."""
    from commonroot.server.folder import CoordinatorFolder
    from commonroot.service import service

    config = CoordinatorFolder(folder).config
    made = service(
        "coordinator",
        folder,
        for_user=user,
        name=config.federation,
        passphrase_file=passphrase_file,
        key_file=key_file,
        low_port=config.port < 1024,
    )
    install(made, stdout=stdout, json=json)


@commands.command("renew-certificate")
def renew_certificate(
    folder: Folder,
    name: Annotated[
        list[str] | None,
        typer.Option(help="DNS name or address that departments use; repeatable. Else coordinator.toml's."),
    ] = None,
    days: Annotated[int, typer.Option(help="How long it is good for.", min=1, max=825)] = 825,
    json: Json = False,
) -> None:
    """Make a new certificate for the public port under the federation's own CA.  Departments have nothing to do."""
    from commonroot.server import pki
    from commonroot.server.folder import CoordinatorFolder

    opened = CoordinatorFolder(folder)
    names = tuple(name or opened.config.names)
    key = opened.ca.with_name(pki.CA_KEY)
    pki.make_server_certificate(opened.ca.parent, names, ca_certificate=opened.ca, ca_key=key, days=days)
    ends = pki.expires(opened.server_certificate)
    facts = {"names": list(names), "expires": ends.isoformat(), "file": str(opened.server_certificate)}

    def text() -> None:
        say(f"certificate for {', '.join(names)} until {ends:%Y-%m-%d}: {opened.server_certificate}")
        say("restart the coordinator to use it; a run goes on where it stood")

    emit(facts, json, text)
