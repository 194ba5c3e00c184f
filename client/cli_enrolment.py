"""``commonroot department init …``: becoming a member, staying one, changing keys."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from commonroot.console import Json, emit, group, say

commands = group("Membership: apply, join, renew, rotate.")

Folder = Annotated[Path, typer.Argument(help="The department's folder.", metavar="DIR")]
Passphrase = Annotated[
    bool,
    typer.Option("--passphrase", help="Seal the keys under a passphrase: COMMONROOT_PASSPHRASE, or it is asked for."),
]
KeyFile = Annotated[
    Path | None, typer.Option("--key-file", help="Seal the keys under this file instead; made if it is not there.")
]
Offline = Annotated[bool, typer.Option("--offline", help="Send nothing: request.json is for somebody to carry.")]


@commands.command()
def init(
    folder: Folder,
    token: Annotated[
        str, typer.Option(help="The line that central IT's `coordinator enrol` printed.", envvar="COMMONROOT_TOKEN")
    ],
    data: Annotated[
        Path | None, typer.Option(help="This department's table: .csv, .parquet, .npz or a folder of images.")
    ] = None,
    url: Annotated[str | None, typer.Option(help="A database instead: sqlite:///FILE or postgresql://…")] = None,
    query: Annotated[str | None, typer.Option(help="What to ask it; the connection can only read.")] = None,
    target: Annotated[str | None, typer.Option(help="Column to predict; guessed where not given.")] = None,
    task: Annotated[
        str | None, typer.Option(help="classification, binary or regression; guessed where not given.")
    ] = None,
    offline: Offline = False,
    ca: Annotated[
        Path | None,
        typer.Option(help="The federation's CA certificate, where it is not to be fetched; checked as well."),
    ] = None,
    wait: Annotated[
        float, typer.Option(help="Seconds for which a coordinator that does not answer is asked again.", min=0)
    ] = 20,
    passphrase: Passphrase = False,
    key_file: KeyFile = None,
    json: Json = False,
) -> None:
    """Make this department's folder and keys, and apply for membership with a one-time token.

    Only public keys leave.  Stopped on the way, the same command goes on where it was.
    """
    from commonroot.client.enrol import init_with_token
    from commonroot.client.tables.look import look_at, section
    from commonroot.common.enrolment import Token, fingerprint
    from commonroot.common.errors import BadToken, ConfigError
    from commonroot.files import chosen_lock

    if (url is None) != (query is None) or (url is not None and data is not None):
        raise ConfigError("give --data, or --url with --query")
    if len(token) < 256 and Path(token).is_file():
        hint = f'give the line that is in it: --token "$(cat {token})"'
        raise BadToken(f"{token} is a file, and no enrolment token", hint=hint)
    read = Token.decode(token)
    found = ""
    if data is not None or url is not None:
        path, asked = None if data is None else data.resolve(), {"url": url or "", "query": query or ""}
        seed = int.from_bytes(os.urandom(4))
        found = section(path, look_at(path, **asked, target=target, task=task), **asked, seed=seed)
    lock = chosen_lock(passphrase, key_file)
    made = init_with_token(
        folder, read, data=found, random=os.urandom, offline=offline, ca=ca, lock=lock, patience=wait
    )
    identity = fingerprint(made.identity().public)
    facts = {
        "folder": str(folder),
        "name": read.name,
        "federation": read.federation,
        "request": str(folder / "request.json"),
        "fingerprint": identity,
        "sent": not offline,
    }

    def text() -> None:
        say(f"department {read.name!r} of {read.federation!r} made in {folder}")
        if offline:
            say(f"send {folder / 'request.json'} to central IT; it holds public keys only")
        else:
            say(f"applied at {read.address}; `commonroot department up {folder}` waits until it is approved")
        say(f"  fingerprint  {identity}")
        say("tell the enrolment authority this fingerprint over a channel that both trust")

    emit(facts, json, text)


@commands.command()
def join(
    folder: Folder,
    roster: Annotated[
        Path | None, typer.Argument(help="The signed roster; else the coordinator is asked.", metavar="[ROSTER.json]")
    ] = None,
    json: Json = False,
) -> None:
    """Pin a signed roster and countersign it.  A newer one replaces it, an older or a second one is refused.

    A daemon that is up does this by itself, unless [roster] says `follow = false`.
    """
    from commonroot.client.enrol import ask_standing
    from commonroot.client.enrol_follow import OFFERED
    from commonroot.client.folder import DepartmentFolder
    from commonroot.client.setup import join as join_epoch
    from commonroot.common.errors import ConfigError
    from commonroot.common.secure_sum.epoch import countersigners
    from commonroot.files import atomic_write

    opened = DepartmentFolder(folder)
    if roster is None:
        standing = ask_standing(opened, patience=5.0)
        if standing.roster is None:
            why = "this department waits for approval" if standing.state == "waiting" else "there is no newer roster"
            raise ConfigError(why, hint="central IT sees what waits with `commonroot coordinator enrolments`")
        roster = folder / OFFERED
        atomic_write(roster, standing.roster)
    before = {m.name for m in opened.roster().departments} if (folder / "roster.json").is_file() else set()
    joined = join_epoch(opened, roster, os.urandom)
    (folder / OFFERED).unlink(missing_ok=True)
    now = [member.name for member in joined.departments]
    moves = {"came": sorted(set(now) - before), "left": sorted(before - set(now))} if before else {}
    facts = {"epoch": joined.epoch, "roster": joined.digest.hex(), "departments": now, **moves}

    def text() -> None:
        say(f"joined epoch {joined.epoch} with {len(now)} departments, roster hash {joined.digest.hex()}")
        for word, names in moves.items():
            if names:
                say(f"  {word}: {', '.join(names)}")
        say(f"it begins once {countersigners(joined)} departments have countersigned this very roster")

    emit(facts, json, text)


@commands.command()
def renew(folder: Folder, offline: Offline = False, json: Json = False) -> None:
    """Make fresh agreement keys for the next epoch and apply with them; this epoch goes on meanwhile.

    A daemon that is up does this by itself when central IT prepares an epoch, unless [roster] says `follow = false`.
    """
    _apply(folder, rotate=False, offline=offline, as_json=json)


@commands.command()
def rotate(folder: Folder, offline: Offline = False, json: Json = False) -> None:
    """Make a new identity and a new node key too.  The present ones vouch for them and serve until a roster lists them.

    For keys that somebody may have seen.  Data, heads and approvals stay; the other departments need do nothing.
    """
    _apply(folder, rotate=True, offline=offline, as_json=json)


def _apply(folder: Path, *, rotate: bool, offline: bool, as_json: bool) -> None:
    from commonroot.client.enrol import send
    from commonroot.client.folder import DepartmentFolder
    from commonroot.client.setup import renew as renew_keys
    from commonroot.common.enrolment import fingerprint

    opened = DepartmentFolder(folder)
    request = renew_keys(opened, os.urandom, rotate=rotate)
    if not offline:
        send(opened, patience=5.0)
    identity = fingerprint((opened.next_identity() or opened.identity()).public)
    facts = {"request": str(request), "sent": not offline, "fingerprint": identity}

    def text() -> None:
        if offline:
            say(f"send {request} to central IT; it holds public keys only")
        else:
            say(f"applied at {opened.config.coordinator} for the next epoch")
        if rotate:
            say(f"  new fingerprint  {identity}")
        say("then the daemon, or `commonroot department join`, takes the new roster")

    emit(facts, as_json, text)


@commands.command()
def seal(folder: Folder, passphrase: Passphrase = False, key_file: KeyFile = None, json: Json = False) -> None:
    """Encrypt this folder's private keys at rest, under a passphrase or a key file."""
    from commonroot.client.folder import DepartmentFolder
    from commonroot.files import chosen_lock, reseal

    count = reseal(DepartmentFolder(folder).private_files, chosen_lock(passphrase, key_file, required=True))
    emit({"sealed": count}, json, lambda: say(f"{count} private keys sealed"))


@commands.command()
def unseal(folder: Folder, json: Json = False) -> None:
    """Write this folder's private keys as they were before they were sealed."""
    from commonroot.client.folder import DepartmentFolder
    from commonroot.files import reseal

    count = reseal(DepartmentFolder(folder).private_files, None)
    emit({"unsealed": count}, json, lambda: say(f"{count} private keys lie open again, for their owner alone"))
