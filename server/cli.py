"""``commonroot coordinator …``: what central IT does."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Annotated

import typer

from commonroot.console import Json, LogFile, LogFormat, LogLevel, emit, group, say
from commonroot.server import cli_consent, cli_enrolment, cli_evidence, cli_keeping, cli_service, cli_watching
from commonroot.server.cli_enrolment import KeyFile, Passphrase
from commonroot.server.noted import Noted

app = group("For central IT: keys, roster, charters, runs.", cls=Noted)
app.add_typer(cli_enrolment.commands)
app.add_typer(cli_consent.commands)
app.add_typer(cli_evidence.commands, name="audit")
app.add_typer(cli_keeping.commands)
app.add_typer(cli_service.commands)
app.add_typer(cli_watching.commands)

Folder = Annotated[Path, typer.Argument(help="The coordinator's folder.", metavar="DIR")]


@app.command()
def init(
    folder: Folder,
    federation: Annotated[str, typer.Option(help="Name of the federation.")],
    host: Annotated[str, typer.Option(help="Address to listen on for departments.")] = "0.0.0.0",
    port: Annotated[int, typer.Option(help="TLS port for departments.", min=1, max=65535)] = 9443,
    name: Annotated[
        list[str] | None, typer.Option(help="DNS name or address that departments use; may be repeated.")
    ] = None,
    authority: Annotated[
        str | None, typer.Option(help="Public key of an authority kept elsewhere (`commonroot authority init`).")
    ] = None,
    passphrase: Passphrase = False,
    key_file: KeyFile = None,
    json: Json = False,
) -> None:
    """Make a folder with the coordinator's keys, an enrolment authority and the federation's own CA."""
    from commonroot.files import chosen_lock
    from commonroot.server.folder import CoordinatorFolder

    names = tuple(name or ["localhost", "127.0.0.1"])
    made = CoordinatorFolder.create(
        folder,
        federation=federation,
        host=host,
        port=port,
        names=names,
        random=os.urandom,
        authority=authority,
        lock=chosen_lock(passphrase, key_file),
    )
    facts = {
        "folder": str(folder),
        "authority": made.authority_public().hex(),
        "ca": str(made.ca),
        "listens_on": f"{host}:{port}",
    }

    def text() -> None:
        say(f"coordinator of {federation!r} made in {folder}")
        say(f"  authority  {facts['authority']}")
        say(f"  CA         {facts['ca']}")
        say("next: `commonroot coordinator up DIR`, and `commonroot coordinator enrol DIR NAME` for each department")

    emit(facts, json, text)


@app.command()
def charter(
    folder: Folder,
    draft: Annotated[Path, typer.Argument(help="The charter as you wrote it, in TOML.")],
    backbone: Annotated[
        Path | None, typer.Option(help="The safetensors file whose SHA-256 its warm_start names; kept here.")
    ] = None,
    json: Json = False,
) -> None:
    """Seal and sign a charter: adds the exact list of numbers that may be sent.  Departments approve its hash."""
    from commonroot.server.folder import CoordinatorFolder

    signed, path = CoordinatorFolder(folder).sign_charter(draft, backbone=backbone)
    sealed = signed.charter
    facts = {
        "hash": sealed.digest.hex(),
        "file": str(path),
        "terms": len(sealed.terms),
        "numbers_per_round": sealed.manifest.length("fixed16") + sealed.manifest.length("fixed64"),
    }

    def text() -> None:
        say(f"charter {sealed.name!r} signed: {path}")
        say(f"  hash {sealed.digest.hex()}")
        say("departments approve it with `commonroot department approve DIR FILE`")

    emit(facts, json, text)


@app.command()
def run(
    folder: Folder,
    charter: Annotated[Path, typer.Argument(help="A signed charter.", metavar="CHARTER.json")],
    json: Json = False,
) -> None:
    """Queue a run of a charter; the coordinator that is up (or comes up) carries it out."""
    from commonroot.server.folder import CoordinatorFolder

    opened = CoordinatorFolder(folder)
    signed = opened.charter(charter)
    journal = opened.journal()
    try:
        number = journal.queue(signed)
    finally:
        journal.close()
    emit({"run": number}, json, lambda: say(f"run {number} is queued"))


@app.command()
def search(
    folder: Folder,
    charter: Annotated[
        list[Path], typer.Option(help="A charter as you wrote it, in TOML; repeat it for each to compare.")
    ],
    counts: Annotated[
        bool, typer.Option("--counts", help="Also count, deniably, how many departments keep what.")
    ] = False,
    backbone: Annotated[
        Path | None, typer.Option(help="The safetensors file whose SHA-256 a warm_start names; kept here.")
    ] = None,
    json: Json = False,
) -> None:
    """Queue several charters, each followed by an evaluation of its models on private validation rows.

    Departments approve them all.  Given the same charters again, only what is not queued yet is.
    """
    from commonroot.server.folder import CoordinatorFolder
    from commonroot.server.search import queue_search

    queued = queue_search(CoordinatorFolder(folder), charter, counts=counts, backbone=backbone)

    def text() -> None:
        for one in queued:
            say(f"run {one['run']}  {one['charter']}")
            say(f"  hash {one['hash']}")
            say(f"  file {one['file']}")
        say("departments approve each file with `commonroot department approve DIR FILE`;")
        say("what came of it: `commonroot coordinator results DIR`")

    emit({"queued": queued}, json, text)


@app.command()
def results(
    folder: Folder,
    write: Annotated[
        Path | None, typer.Option(help="Write the best charter here, in TOML, to be signed under another name or seed.")
    ] = None,
    json: Json = False,
) -> None:
    """What evaluations opened: summed validation losses of every charter, and which one is best."""
    from rich.console import Console

    from commonroot.server.folder import CoordinatorFolder
    from commonroot.server.search import best, compared, in_words, results_of, table_of, write_best

    opened = CoordinatorFolder(folder)
    rows = results_of(opened)
    if write is not None:
        write_best(opened, rows, write)

    def text() -> None:
        console = Console()
        if not console.is_terminal:
            console = Console(width=max(console.width, 132))  # a file has no width of its own
        console.print(table_of(rows))
        for line in in_words(rows):
            say(line)
        if write is not None:
            say(f"written: {write}")

    found = best(rows)
    emit({"best": found and found["hash"], "charters": compared(rows)}, json, text)


@app.command()
def resume(
    folder: Folder,
    run: Annotated[int, typer.Argument(help="Number of a stopped run.", metavar="RUN")],
    json: Json = False,
) -> None:
    """Let a stopped run go on from its last backbone, once what stopped it is mended."""
    from commonroot.server.folder import CoordinatorFolder

    journal = CoordinatorFolder(folder).journal()
    try:
        journal.resume(run)
    finally:
        journal.close()
    emit({"run": run}, json, lambda: say(f"run {run} is queued again"))


@app.command()
def up(
    folder: Folder,
    until_idle: Annotated[bool, typer.Option(help="Stop once no run is waiting.")] = False,
    log_format: LogFormat = "text",
    log_file: LogFile = None,
    log_level: LogLevel = "info",
    json: Json = False,
) -> None:
    """Serve departments and carry out queued runs.  Killed and started again, it goes on where it stood.

    It also serves a page to watch it by, on this machine alone: `commonroot coordinator page` prints its address.
    """
    from commonroot.logs import LogOptions
    from commonroot.server.coordinator import serve

    serve(folder, until_idle=until_idle, log=LogOptions.of(json, log_format, log_file, log_level))


@app.command()
def status(folder: Folder, json: Json = False) -> None:
    """Runs and rounds as the journal has them."""
    from commonroot.server.folder import CoordinatorFolder
    from commonroot.server.status import status_of

    facts = status_of(CoordinatorFolder(folder))

    def text() -> None:
        if not facts["runs"]:
            say("no runs yet; queue one with `commonroot coordinator run`")
        for one in facts["runs"]:
            why = f": {one['reason']}" if one["reason"] else ""
            say(f"run {one['run']}  {one['state']}{why}  charter {one['charter'][:16]}  version {one['version']}")
            if one["advice"]:
                say(f"  what to do: {one['advice']}")
            for r in one["rounds"][-5:]:
                told = r["reason"]
                for name, words in (("loss", "trained to"), ("held_out", "loss")):  # not every version is scored
                    if (loss := r["report"].get(name)) is not None:
                        told = f"{words} {loss:.3f}"
                say(f"  round {r['round']:<5} {r['state']:<7} {told}")
        if restored := facts["restored"]:
            when, made = (time.strftime("%Y-%m-%d %H:%M", time.gmtime(restored[name])) for name in ("at", "made_at"))
            lost = f"rounds {restored['last_round'] + 1} to {restored['rounds_from'] - 1}"
            say(f"restored {when} UTC from a backup of {made} UTC: of {lost} nothing is known here")
        for line in facts["trouble"]:
            say(f"trouble  {line}")
        for fault in facts["faults"][-5:]:
            say(f"fault  {fault['department'] or 'sum'}: {fault['what']} ({fault['code']})")
        for name, about in facts["gate"].get("departments", {}).items():
            if about["version"] not in ("", facts["program"]):
                say(f"program  {name} runs commonroot {about['version']}, and this is {facts['program']}")
        for reason, count in facts["gate"].get("refused", {}).items():
            say(f"port   refused {count} × {reason}")
        for name, about in facts["gate"].get("departments", {}).items():
            if about["refused"]:
                say(f"port   of {name}: " + ", ".join(f"{count} × {what}" for what, count in about["refused"].items()))

    emit(facts, json, text)


@app.command()
def models(folder: Folder, json: Json = False) -> None:
    """Stored versions of the backbone, with the hash of each file."""
    from commonroot.server.folder import CoordinatorFolder

    journal = CoordinatorFolder(folder).journal()
    try:
        rows = [
            {"run": v.run, "version": v.version, "file": v.file, "sha256": v.digest.hex()}
            for run in journal.runs()
            for v in journal.versions(run.run)
        ]
    finally:
        journal.close()

    def text() -> None:
        for row in rows:
            say(f"run {row['run']}  version {row['version']:<5} {str(row['sha256'])[:16]}  {row['file']}")

    emit(rows, json, text)


@app.command()
def evidence(folder: Folder, json: Json = False) -> None:
    """Faulty messages that departments have signed, with a check of each signature."""
    from commonroot.server.folder import CoordinatorFolder

    journal = CoordinatorFolder(folder).journal()
    try:
        exhibits = [{"department": name} | exhibit.describe() for name, exhibit in journal.faults.exhibits()]
    finally:
        journal.close()

    def text() -> None:
        for one in exhibits:
            signed = "signed by" if one["signed"] else "NOT signed by"
            say(f"{one['code']}  {one['kind']}: {signed} {one['department']} ({str(one['signer'])[:16]}…)")
        say(f"{len(exhibits)} messages kept; --json shows them whole")

    emit({"exhibits": exhibits}, json, text)
