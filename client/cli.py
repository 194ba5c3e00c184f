"""``commonroot department …``: what a department's data team does."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from commonroot.console import Json, emit, group, say

app = group("For a department's data team: join, approve, train, predict.")

Folder = Annotated[Path, typer.Argument(help="The department's folder.", metavar="DIR")]


@app.command()
def init(
    folder: Folder,
    federation: Annotated[str, typer.Option(help="Name of the federation.")],
    name: Annotated[str, typer.Option(help="Name of this department, unique in the federation.")],
    coordinator: Annotated[str, typer.Option(help="host:port of central IT's coordinator.")],
    authority: Annotated[str, typer.Option(help="The enrolment authority's public key, 64 hex digits.")],
    ca: Annotated[Path, typer.Option(help="The federation's CA certificate, as handed over by central IT.")],
    data: Annotated[Path | None, typer.Option(help="This department's table, .csv or .npz.")] = None,
    target: Annotated[str, typer.Option(help="Column to predict.")] = "label",
    task: Annotated[str, typer.Option(help="classification, binary or regression.")] = "classification",
    json: Json = False,
) -> None:
    """Make this department's folder and keys.  Send request.json (public keys only) to central IT."""
    from commonroot.client.setup import create, data_section

    section = "" if data is None else data_section(data.resolve(), target=target, task=task)
    create(
        folder,
        federation=federation,
        name=name,
        coordinator=coordinator,
        authority=authority,
        ca=ca,
        data=section,
        random=os.urandom,
    )
    facts = {"folder": str(folder), "request": str(folder / "request.json")}

    def text() -> None:
        say(f"department {name!r} made in {folder}")
        say(f"send {folder / 'request.json'} to central IT; it holds public keys only")

    emit(facts, json, text)


@app.command()
def join(
    folder: Folder,
    roster: Annotated[Path, typer.Argument(help="The signed roster from central IT.", metavar="ROSTER.json")],
    json: Json = False,
) -> None:
    """Pin a signed roster and countersign it.  A newer one replaces it, an older or a second one is refused."""
    from commonroot.client.folder import DepartmentFolder
    from commonroot.client.setup import join as join_epoch
    from commonroot.common.secure_sum.epoch import countersigners

    opened = DepartmentFolder(folder)
    before = {m.name for m in opened.roster().departments} if (folder / "roster.json").is_file() else set()
    joined = join_epoch(opened, roster, os.urandom)
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


@app.command()
def renew(folder: Folder, json: Json = False) -> None:
    """Make fresh agreement keys for the next epoch.  Send request.json to central IT; this epoch goes on meanwhile."""
    from commonroot.client.folder import DepartmentFolder
    from commonroot.client.setup import renew as renew_keys

    request = renew_keys(DepartmentFolder(folder), os.urandom)

    def text() -> None:
        say(f"send {request} to central IT; it holds public keys only")
        say("then `commonroot department join` the new roster")

    emit({"request": str(request)}, json, text)


@app.command()
def approve(
    folder: Folder,
    charter: Annotated[Path, typer.Argument(help="A charter signed by the coordinator.", metavar="CHARTER.json")],
    hash: Annotated[str | None, typer.Option(help="Approve only if the charter has this hash.")] = None,
    json: Json = False,
) -> None:
    """Approve a charter.  Without this, nothing of it is ever run here."""
    from commonroot.client.folder import DepartmentFolder
    from commonroot.client.setup import approve as approve_charter
    from commonroot.client.setup import plain_words

    approved = approve_charter(DepartmentFolder(folder), charter, expected=hash)

    def text() -> None:
        for line in plain_words(approved):
            say(line)
        say("approved")

    emit({"approved": approved.digest.hex()}, json, text)


@app.command()
def check(folder: Folder, json: Json = False) -> None:
    """Read the data as training would and print every problem at once."""
    from commonroot.client.checking import check_folder

    facts = check_folder(folder)

    def text() -> None:
        say(f"{facts['task']} on {facts['columns']} columns: {facts['train']} training rows,")
        say(f"{facts['validation']} validation rows, {facts['test']} test rows; no problems found")
        for charter in facts["charters"]:
            say(f"fits charter {charter[:16]}")

    emit(facts, json, text)


@app.command()
def up(folder: Folder, json: Json = False) -> None:
    """Run the daemon: join the coordinator's rounds until stopped.  Opens no port."""
    from commonroot.client.daemon import serve

    serve(folder, as_json=json)


@app.command()
def report(folder: Folder, json: Json = False) -> None:
    """Alone against federated on this department's own test rows, and which model is in use and why."""
    from commonroot.client.learner import read_report

    facts = read_report(folder)

    def text() -> None:
        low, high = facts["interval"]
        say(f"{facts['name']}: {facts['task']}, {facts['n_train']} training rows, {facts['n_test']} test rows")
        say(f"  alone      {facts['alone']:.3f} {facts['metric']} ({facts['alone_model']})")
        say(f"  federated  {facts['federated']:.3f}")
        say(f"  chosen     {facts['chosen']:.3f} ({facts['choice']})")
        say(f"  gain       {facts['gain']:+.1f} points, 95 % interval {low:+.1f} to {high:+.1f}")
        say(f"  why        {facts['why']}")

    emit(facts, json, text)


@app.command()
def predict(
    folder: Folder,
    rows: Annotated[Path, typer.Argument(help="A .csv or .npz file with the training columns.")],
    out: Annotated[Path | None, typer.Option(help="Write CSV here instead of to the terminal.")] = None,
    json: Json = False,
) -> None:
    """Predict with the chosen model."""
    from commonroot.client.predicting import predict_file

    facts = predict_file(folder, rows, out=out, as_json=json)
    if out is not None:
        emit(facts, json, lambda: say(f"{facts['rows']} predictions written to {out}"))


@app.command()
def ledger(folder: Folder, json: Json = False) -> None:
    """Everything that left this department, as a hash-chained list, after checking the chain."""
    from commonroot.client.folder import DepartmentFolder
    from commonroot.client.store import DepartmentStore
    from commonroot.common.ledger import verify

    config = DepartmentFolder(folder).config
    store = DepartmentStore(folder, federation=config.federation, department=config.name)
    try:
        entries = store.ledger()
    finally:
        store.close()
    count = verify(entries)
    facts = {
        "entries": [{"sequence": e.sequence, "at": e.at, "kind": e.kind, "facts": e.facts} for e in entries],
        "verified": count,
        "bytes_sent": sum(size for e in entries if e.kind == "sent" and isinstance(size := e.facts.get("bytes"), int)),
    }

    def text() -> None:
        for entry in entries:
            told = " ".join(f"{key}={_short(value)}" for key, value in entry.facts.items())
            say(f"{entry.sequence:>6}  {entry.kind:<10} {told}")
        say(f"{count} entries, chain intact, {facts['bytes_sent']} bytes sent")

    emit(facts, json, text)


@app.command()
def evidence(folder: Folder, json: Json = False) -> None:
    """Refused requests under the coordinator's signature, each beside the accepted one it contradicts."""
    from commonroot.client.folder import DepartmentFolder
    from commonroot.client.setup import other_rosters
    from commonroot.client.store import DepartmentStore

    config = DepartmentFolder(folder).config
    store = DepartmentStore(folder, federation=config.federation, department=config.name)
    try:
        exhibits = [exhibit.describe() for exhibit in store.evidence()]
    finally:
        store.close()
    rosters = other_rosters(DepartmentFolder(folder))

    def text() -> None:
        for other in rosters:
            say(f"CR52  roster {other['roster'][:16]}… of epoch {other['epoch']}: signed by the authority, not joined")
        for one in exhibits:
            about = "" if one["round"] is None else f" round {one['round']}"
            beside = " and so is the accepted one it contradicts" if one["contradicts_signed"] else ""
            signed = "signed by" if one["signed"] else "NOT signed by"
            say(f"{one['code']}  {one['kind']}{about}: {signed} {str(one['signer'])[:16]}…{beside}")
        say(f"{len(exhibits)} refused requests kept; --json shows them whole")

    emit({"exhibits": exhibits, "rosters": rosters}, json, text)


def _short(value: object) -> str:
    text = str(value).replace(" ", "")
    return text if len(text) <= 20 else text[:16] + "…"
