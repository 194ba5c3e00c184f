"""``commonroot coordinator doctor | install-service | renew-certificate``: what keeps a coordinator in service."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from commonroot.console import Json, emit, group, say

commands = group("Keeping a coordinator in service.")

Folder = Annotated[Path, typer.Argument(help="The coordinator's folder.", metavar="DIR")]


@commands.command()
def doctor(folder: Folder, json: Json = False) -> None:
    """Look at versions, disk, permissions, keys, certificate, port, database, roster, charters and departments' clocks.

    Every line is ok, warn or fail, with what to type. Writes nothing; exits with 2 if something has to be mended.
    """
    from commonroot.common.errors import UsageError
    from commonroot.common.findings import lines, record, worst
    from commonroot.server.doctor import examine

    found = examine(folder)
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
    json: Json = False,
) -> None:
    """Write a systemd unit that keeps `coordinator up` running, hardened, and say what to type next."""
    from commonroot.files import atomic_write
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
