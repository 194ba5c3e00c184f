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
    data: Annotated[
        Path | None, typer.Option(help="This department's table: .csv, .parquet, .npz or a folder of images.")
    ] = None,
    url: Annotated[str | None, typer.Option(help="A database instead: sqlite:///FILE or postgresql://…")] = None,
    query: Annotated[str | None, typer.Option(help="What to ask it; the connection can only read.")] = None,
    target: Annotated[str | None, typer.Option(help="Column to predict; guessed where not given.")] = None,
    task: Annotated[
        str | None, typer.Option(help="classification, binary or regression; guessed where not given.")
    ] = None,
    json: Json = False,
) -> None:
    """Make this department's folder and keys.  Send request.json (public keys only) to central IT."""
    from commonroot.client.setup import create
    from commonroot.client.tables.look import look_at, section
    from commonroot.common.errors import ConfigError

    if (url is None) != (query is None) or (url is not None and data is not None):
        raise ConfigError("give --data, or --url with --query")
    found = ""
    if data is not None or url is not None:
        path, asked = None if data is None else data.resolve(), {"url": url or "", "query": query or ""}
        seed = int.from_bytes(os.urandom(4))
        found = section(path, look_at(path, **asked, target=target, task=task), **asked, seed=seed)
    create(
        folder,
        federation=federation,
        name=name,
        coordinator=coordinator,
        authority=authority,
        ca=ca,
        data=found,
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
    backbone: Annotated[
        Path | None, typer.Option(help="The safetensors file that it starts from, if it names one; kept here.")
    ] = None,
    json: Json = False,
) -> None:
    """Approve a charter.  Without this, nothing of it is ever run here."""
    from commonroot.client.folder import DepartmentFolder
    from commonroot.client.setup import approve as approve_charter
    from commonroot.client.setup import plain_words

    approved = approve_charter(DepartmentFolder(folder), charter, expected=hash, backbone=backbone)

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
        for note in facts["notes"]:
            say(f"note: {note}")
        for charter in facts["charters"]:
            say(f"fits charter {charter[:16]}")

    emit(facts, json, text)


@app.command()
def up(folder: Folder, json: Json = False) -> None:
    """Run the daemon: join the coordinator's rounds until stopped.  Opens no port."""
    from commonroot.client.daemon import serve

    serve(folder, as_json=json)


@app.command()
def report(
    folder: Folder,
    html: Annotated[Path | None, typer.Option(help="Also write a page with pictures.", metavar="FILE")] = None,
    json: Json = False,
) -> None:
    """What joining brought: gain, how far the model can be believed, what was sent, which model is in use and why."""
    from rich.console import Console

    from commonroot.client.own_page import show, write_page
    from commonroot.client.own_report import own_report

    facts = own_report(folder)
    if html is not None:
        write_page(facts, html)

    def text() -> None:
        console = Console()
        show(facts, console)
        if html is not None:
            console.print(f"written: {html}", soft_wrap=True, highlight=False)

    emit(facts, json, text)


@app.command()
def predict(
    folder: Folder,
    rows: Annotated[
        Path | None, typer.Argument(help="A .csv, .parquet or .npz file, or a folder of images.", metavar="[SOURCE]")
    ] = None,
    url: Annotated[str | None, typer.Option(help="A database instead: sqlite:///FILE or postgresql://…")] = None,
    query: Annotated[str | None, typer.Option(help="What to ask it; the connection can only read.")] = None,
    out: Annotated[
        str | None, typer.Option(help="Write a .csv or .parquet file instead of to the terminal.", metavar="FILE")
    ] = None,
    out_url: Annotated[str | None, typer.Option(help="Write a table of this database instead.")] = None,
    out_table: Annotated[
        str, typer.Option(help="Name of that table; in PostgreSQL also SCHEMA.TABLE.")
    ] = "predictions",
    replace: Annotated[bool, typer.Option("--replace", help="Let it take the place of an existing table.")] = False,
    keep: Annotated[str, typer.Option(help="Columns of the source to carry along, separated by commas.")] = "",
    top: Annotated[int | None, typer.Option(help="Of a recommender: this many best items per user.", min=1)] = None,
    json: Json = False,
) -> None:
    """Predict with the chosen model, of a department's folder or an exported one; all rows or none are written."""
    from commonroot.client.predicting import predict as predict_rows

    facts = predict_rows(
        folder,
        rows,
        url=url,
        query=query,
        keep=[name.strip() for name in keep.split(",") if name.strip()],
        out=out,
        out_url=out_url,
        table=out_table,
        replace=replace,
        top=top,
        as_json=json,
    )
    if out is not None or out_url is not None:
        place = f"table {out_table!r}" if out_url is not None or "://" in str(out) else out
        emit(facts, json, lambda: say(f"{facts['rows']} predictions written to {place}"))


@app.command()
def export(
    folder: Folder,
    out: Annotated[Path, typer.Argument(help="A folder to make.", metavar="OUT")],
    onnx: Annotated[bool, typer.Option("--onnx", help="Also as ONNX, compared with the model on real rows.")] = False,
    rows: Annotated[Path | None, typer.Option(help="Rows to compare on, instead of the department's own data.")] = None,
    json: Json = False,
) -> None:
    """The chosen model as a folder: tensors, JSON, a model card; it predicts without this department's folder."""
    from commonroot.client.out.export import export_folder

    facts = export_folder(folder, out, onnx=onnx, rows=rows)

    def text() -> None:
        say(f"written to {out}: {', '.join(facts['files'])}")
        if onnx:
            found = facts["onnx"]
            say(f"ONNX opset {found['opset']}: differs by at most {found['difference']:.1e} on {found['rows']} rows")

    emit(facts, json, text)


@app.command()
def serve(
    folder: Folder,
    host: Annotated[str, typer.Option(help="Address to listen on; any but loopback needs --token-file.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 for any free one.")] = 8000,
    token_file: Annotated[
        Path | None, typer.Option(help="File with the token that clients send; readable by its owner alone.")
    ] = None,
    max_rows: Annotated[int, typer.Option(min=1, help="Rows of one request to /predict.")] = 10_000,
    max_megabytes: Annotated[int, typer.Option(min=1, help="Size of one upload to /predict/batch.")] = 256,
    json: Json = False,
) -> None:
    """Answer predictions over HTTP on this machine: /predict, /predict/batch, /model, /docs."""
    from commonroot.client.out.server import serve as serve_model

    serve_model(
        folder, host=host, port=port, token_file=token_file, rows=max_rows, megabytes=max_megabytes, as_json=json
    )


@app.command()
def checkpoint(
    folder: Annotated[Path, typer.Argument(help="A checkpoint: config.json, safetensors, tokenizer.", metavar="DIR")],
    target: Annotated[list[str] | None, typer.Option(help="End of the name of a layer to change; repeatable.")] = None,
    rank: Annotated[int, typer.Option(help="Rank of the change.")] = 8,
    share: Annotated[str, typer.Option(help="share-a (each department keeps its B) or freeze-a.")] = "share-a",
    length: Annotated[int, typer.Option(help="Tokens read of a text.")] = 128,
    json: Json = False,
) -> None:
    """Print the [backbone] section of a charter that fine-tunes a pretrained encoder together."""
    from commonroot.client.backbones.checkpoint import describe, to_toml

    spec = describe(folder, targets=tuple(target or ()), rank=rank, share=share, length=length)
    emit(spec.model_dump(mode="json"), json, lambda: say(to_toml(spec).rstrip("\n")))


@app.command()
def profiles(
    folder: Folder,
    top: Annotated[int, typer.Option(help="Items each user liked best.", min=0)] = 3,
    segments: Annotated[int, typer.Option(help="Put users into this many segments.", min=0)] = 0,
    out: Annotated[Path | None, typer.Option(help="Write CSV here instead of to the terminal.")] = None,
    json: Json = False,
) -> None:
    """Customer profiles of a recommender: ratings, factors, favourite items and segment of every user."""
    from commonroot.client.predicting import profiles as all_profiles

    facts = all_profiles(folder, top=top, segments=segments, out=out, as_json=json)
    if out is not None:
        emit(facts, json, lambda: say(f"{facts['rows']} profiles written to {out}"))


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
