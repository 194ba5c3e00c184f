"""``commonroot coordinator enrol …`` and ``commonroot authority …``: who is in, and under whose signature."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from commonroot.common.errors import ConfigError
from commonroot.console import Json, emit, group, say, tell_aside

commands = group("Enrolment: tokens, requests, rosters, revoking.")
authority = group("For the enrolment authority: look at a roster and sign it, on a machine of its own.")

Folder = Annotated[Path, typer.Argument(help="The coordinator's folder.", metavar="DIR")]
Passphrase = Annotated[
    bool,
    typer.Option("--passphrase", help="Seal the keys under a passphrase: COMMONROOT_PASSPHRASE, or it is asked for."),
]
KeyFile = Annotated[
    Path | None, typer.Option("--key-file", help="Seal the keys under this file instead; made if it is not there.")
]
Colluders = Annotated[int | None, typer.Option(help="Departments that may collude with the coordinator (t_c).", min=0)]
SurvivorsMin = Annotated[int | None, typer.Option(help="Fewest departments in any opened sum.", min=3)]

#: For how long a token may be good, in days: a minute at least, or it has expired before anybody can use it.
_SHORTEST_DAYS, _LONGEST_DAYS = 1 / 1440, 36_500


@commands.command()
def enrol(
    folder: Folder,
    name: Annotated[str, typer.Argument(help="The new department's name, unique in the federation.", metavar="NAME")],
    days: Annotated[
        float, typer.Option(help="Days after which the token is good for nothing; parts of a day too.")
    ] = 7,
    address: Annotated[
        str | None,
        typer.Option(help="host:port by which the department reaches this coordinator; else the first name."),
    ] = None,
    json: Json = False,
) -> None:
    """Print a one-time token for a new department.  Hand it over on a channel that only the two of you read.

    The token alone goes to standard output.  Whoever holds it can apply in the department's name, once.
    """
    from commonroot.server.enrol_roster import issue
    from commonroot.server.folder import CoordinatorFolder

    if not _SHORTEST_DAYS <= days <= _LONGEST_DAYS:
        raise ConfigError(
            f"--days: {days:g} is no time for a token to be good for",
            hint=f"more than 0 and at most {_LONGEST_DAYS:,}, as in --days 7 or --days 0.5",
        )
    token = issue(CoordinatorFolder(folder), name, days=days, address=address)
    line = token.encode()
    facts = {"name": name, "token": line, "number": token.number.hex(), "expires": token.expires}

    def text() -> None:
        say(line)
        until = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(token.expires))
        tell_aside(f"for {name!r}, once, until {until}: `commonroot department init DIR --token TOKEN`")

    emit(facts, json, text)


@commands.command()
def enrolments(folder: Folder, json: Json = False) -> None:
    """Tokens and requests with their state, and who has not sent fresh keys for the next epoch."""
    from commonroot.common.enrolment import fingerprint
    from commonroot.server.enrol_roster import book_of
    from commonroot.server.folder import CoordinatorFolder

    opened = CoordinatorFolder(folder)
    roster, now = opened.standing(), time.time()
    with book_of(opened) as book:
        tokens = [
            {"number": t.number, "name": t.name, "state": t.state(now), "expires": t.expires} for t in book.tokens()
        ]
        requests = [
            {
                "name": f.name,
                "how": f.how,
                "state": f.state,
                "identity": f.identity,
                "fingerprint": fingerprint(f.identity),
                "at": f.at,
            }
            for f in book.applications(roster)
            if f.state != "past"
        ]
        wanted = roster is not None and book.wants_renewal(roster, now=now)
        late = book.not_renewed(roster) if roster is not None and wanted else []
        revoked = sorted(book.shut_out().values())
    facts = {"tokens": tokens, "requests": requests, "not_renewed": late, "revoked": revoked}

    def text() -> None:
        for t in tokens:
            until = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(float(str(t["expires"]))))
            say(f"token    {t['name']!s:<24} {t['state']!s:<9} {t['number']}  until {until}")
        for r in requests:
            say(f"request  {r['name']!s:<24} {r['state']!s:<9} {r['fingerprint']}")
        for name in revoked:
            say(f"revoked  {name}")
        if late:
            say(f"fresh keys for the next epoch are awaited from: {', '.join(late)}")
        elif any(r["state"] == "waiting" for r in requests):
            say("sign the next roster: `commonroot coordinator roster DIR --sign`, or --draft FILE for the authority")

    emit(facts, json, text)


@commands.command()
def admit(
    folder: Folder,
    requests: Annotated[list[Path], typer.Argument(help="request.json files of departments.", metavar="REQUEST…")],
    json: Json = False,
) -> None:
    """Take requests that came as files, as the public port takes those that come over the network."""
    from commonroot.server.enrol_roster import admit as take
    from commonroot.server.folder import CoordinatorFolder

    names = take(CoordinatorFolder(folder), requests)
    emit({"admitted": names}, json, lambda: say(f"waiting for the next roster: {', '.join(names)}"))


@commands.command()
def revoke(
    folder: Folder,
    name: Annotated[str, typer.Argument(help="The department.", metavar="NAME")],
    json: Json = False,
) -> None:
    """Shut one department out: at once from the hub, and from the next roster.  Its tokens and requests go with it.

    The others are asked for fresh keys; when they have sent them, sign the next roster.  What was revoked stays so: the
    department comes back, if it does, with a new token and a new folder.
    """
    from commonroot.server.enrol_roster import book_of
    from commonroot.server.folder import CoordinatorFolder

    opened = CoordinatorFolder(folder)
    roster = opened.standing()
    with book_of(opened) as book:
        done = book.revoke(name, roster=roster, now=time.time())
        left = len(book.members(roster)) if roster else None

    def text() -> None:
        what = ["its place in the roster"] if done["member"] else []
        what += [f"{done[kind]} {kind}" for kind in ("requests", "tokens") if done[kind]]
        say(f"revoked {name!r}: {', '.join(what)}")
        if done["member"]:
            say("sign the next roster without it once the others have renewed: `commonroot coordinator enrolments DIR`")
        if left is not None and left < 3:
            say(f"note: {left} departments are left, and a federation needs at least three")

    emit({"name": name} | done, json, text)


@commands.command()
def renew(folder: Folder, json: Json = False) -> None:
    """Ask every department for fresh keys, for an epoch with the same members."""
    from commonroot.server.enrol_roster import book_of
    from commonroot.server.folder import CoordinatorFolder

    opened = CoordinatorFolder(folder)
    roster = opened.roster()
    with book_of(opened) as book:
        book.ask_to_renew(roster)
        late = book.not_renewed(roster)
    emit({"not_renewed": late}, json, lambda: say(f"fresh keys are awaited from: {', '.join(late) or 'nobody'}"))


@commands.command()
def roster(
    folder: Folder,
    sign: Annotated[
        bool, typer.Option("--sign", help="Sign the next one with the authority's key in this folder.")
    ] = False,
    draft: Annotated[
        Path | None, typer.Option(help="Write the next one here, for `commonroot authority sign`.", metavar="FILE")
    ] = None,
    signed: Annotated[
        Path | None, typer.Option(help="Take the next one, which the authority has signed.", metavar="FILE")
    ] = None,
    colluders: Colluders = None,
    survivors_min: SurvivorsMin = None,
    json: Json = False,
) -> None:
    """Show the roster, or make the next one of the requests that wait (`coordinator enrolments`)."""
    from commonroot.server import enrol_roster
    from commonroot.server.folder import CoordinatorFolder

    if sum((sign, draft is not None, signed is not None)) > 1:
        raise ConfigError("one of --sign, --draft and --signed", hint="`commonroot coordinator roster --help`")
    opened = CoordinatorFolder(folder)
    if draft is not None:
        drafted = enrol_roster.write_draft(opened, draft, colluders=colluders, survivors_min=survivors_min)
        facts = {"epoch": drafted.epoch, "hash": drafted.digest.hex(), "file": str(draft)}
        told = f"draft of epoch {drafted.epoch} written to {draft}: `commonroot authority sign {draft} --key KEY`"
        emit(facts, json, lambda: say(told))
        return
    if sign:
        enrol_roster.sign_here(opened, colluders=colluders, survivors_min=survivors_min)
    elif signed is not None:
        enrol_roster.take_signed(opened, signed)
    _show(opened.root, opened.roster(), new=sign or signed is not None, as_json=json)


def _show(folder: Path, current: Any, *, new: bool, as_json: bool) -> None:
    from commonroot.common.secure_sum.committee import Committee
    from commonroot.common.secure_sum.epoch import countersigners
    from commonroot.common.secure_sum.graph import MaskGraph, survivors_per_window

    p = current.parameters
    graph, members = MaskGraph.of(current), Committee.of(current).members
    facts = {
        "epoch": current.epoch,
        "hash": current.digest.hex(),
        "file": str(folder / "roster.json"),
        "parameters": p.model_dump(),
        "masks_with": len(graph.neighbours(0)),
        "committee": [current.departments[at].name for at in members],
        "countersigners": countersigners(current),
        "departments": [{"name": m.name, "identity": m.identity} for m in current.departments],
    }

    def text() -> None:
        say(f"roster of {current.federation!r}, epoch {current.epoch}, hash {current.digest.hex()}")
        everyone = len(members) == len(current.departments)
        for at, member in enumerate(current.departments):
            opens = "  opens" if at in members and not everyone else ""
            say(f"  {member.name:<24} {member.identity}{opens}")
        if current.epoch > 1 and new:
            say("departments whose daemons follow join it by themselves; then resume stopped runs under it")
        absent = len(members) - p.opening_quorum
        say(f"hides each department from the coordinator and {p.colluders} colluding department(s)")
        if graph.reach is None:
            say(f"opens sums of at least {p.survivors_min}; {absent} department(s) may be absent at opening")
        else:
            say(f"each masks with {p.degree} others; a committee of {len(members)}, marked above, opens sums")
            say(f"opens sums of at least {p.survivors_min}; {absent} committee member(s) may be absent at opening,")
            least = survivors_per_window(p.colluders)
            say(f"and of any {graph.reach} neighbours on the mask ring at least {least} must be in the sum")
            say(f"it begins once {countersigners(current)} departments have countersigned it")
            say('departments train before a round opens, unless a charter says ready = "off"')
        if absent == 0:
            say("note: with these numbers no department may be lost at opening; four departments or more can spare one")

    emit(facts, as_json, text)


@commands.command()
def seal(folder: Folder, passphrase: Passphrase = False, key_file: KeyFile = None, json: Json = False) -> None:
    """Encrypt this folder's private keys at rest, under a passphrase or a key file."""
    from commonroot.files import chosen_lock, reseal
    from commonroot.server.folder import CoordinatorFolder

    count = reseal(CoordinatorFolder(folder).private_files, chosen_lock(passphrase, key_file, required=True))
    emit({"sealed": count}, json, lambda: say(f"{count} private keys sealed"))


@commands.command()
def unseal(folder: Folder, json: Json = False) -> None:
    """Write this folder's private keys as they were before they were sealed."""
    from commonroot.files import reseal
    from commonroot.server.folder import CoordinatorFolder

    count = reseal(CoordinatorFolder(folder).private_files, None)
    emit({"unsealed": count}, json, lambda: say(f"{count} private keys lie open again, for their owner alone"))


# -- at the authority's ------------------------------------------------------------------------------------------------

Key = Annotated[Path, typer.Option(help="The authority's key, as `coordinator init` made it.", metavar="KEY")]


@authority.command("sign")
def sign_draft(
    draft: Annotated[Path, typer.Argument(help="The draft that `coordinator roster --draft` wrote.", metavar="FILE")],
    key: Key,
    out: Annotated[
        Path | None, typer.Option(help="Where the signed roster goes; else beside the draft.", metavar="FILE")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Sign without asking.")] = False,
    again: Annotated[
        bool, typer.Option("--again", help="Although another roster of this epoch was signed, which nobody has seen.")
    ] = False,
    json: Json = False,
) -> None:
    """Say in plain words what a roster changes, and sign it.  `coordinator roster --signed` takes the result back."""
    from commonroot.common.enrolment import changes
    from commonroot.files import atomic_write
    from commonroot.server import enrol_roster

    if json and not yes:
        raise ConfigError("--json asks nobody", hint="look at the draft first, then sign it with --yes")
    identity = enrol_roster.authority_key(key)
    found = enrol_roster.read_draft(draft, identity)
    if not json:
        for line in enrol_roster.in_words(found):
            say(line)
    if not yes and not typer.confirm("Sign it?"):
        raise typer.Exit(1)
    target = out or draft.with_name(f"{draft.stem}.signed.json")
    record = key.with_name(key.name + ".signed")
    signed = enrol_roster.sign_draft(found, identity, record=record, again=again)
    atomic_write(target, signed.to_json())
    before = found.before.roster if found.before else None
    facts = {
        "file": str(target),
        "epoch": found.roster.epoch,
        "hash": found.roster.digest.hex(),
        "changes": [{"name": c.name, "what": c.what} for c in changes(before, found.roster)],
    }
    emit(facts, json, lambda: say(f"signed: {target}"))


@authority.command("init")
def make_authority(
    key: Annotated[Path, typer.Argument(help="File to make.", metavar="KEY")],
    passphrase: Passphrase = False,
    key_file: KeyFile = None,
    json: Json = False,
) -> None:
    """Make the authority's key on a machine of its own; give what it prints to `coordinator init --authority`."""
    from commonroot.common.secure_sum.primitives import Identity
    from commonroot.files import chosen_lock, write_secret

    identity = Identity.generate(os.urandom)
    write_secret(key, identity.secret_bytes(), lock=chosen_lock(passphrase, key_file))
    emit({"authority": identity.public.hex()}, json, lambda: say(identity.public.hex()))


@authority.command("seal")
def seal_authority(
    key: Annotated[Path, typer.Argument(help="The authority's key.", metavar="KEY")],
    passphrase: Passphrase = False,
    key_file: KeyFile = None,
    json: Json = False,
) -> None:
    """Encrypt the authority's key at rest, under a passphrase or a key file."""
    from commonroot.files import chosen_lock, read_secret, reseal

    read_secret(key)
    count = reseal([key], chosen_lock(passphrase, key_file, required=True))
    emit({"sealed": count}, json, lambda: say(f"{key} is sealed"))


@authority.command("unseal")
def unseal_authority(
    key: Annotated[Path, typer.Argument(help="The authority's key.", metavar="KEY")], json: Json = False
) -> None:
    """Write the authority's key as it was before it was sealed."""
    from commonroot.files import read_secret, reseal

    read_secret(key)
    count = reseal([key], None)
    emit({"unsealed": count}, json, lambda: say(f"{key} lies open again, for its owner alone"))
