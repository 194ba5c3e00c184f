"""``commonroot department …``: what a department's data team does."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from commonroot.client import cli_consent, cli_enrolment, cli_evidence, cli_keeping, cli_service
from commonroot.console import Json, LogFile, LogFormat, LogLevel, emit, group, say

app = group("For a department's data team: join, approve, train, predict.")
app.add_typer(cli_enrolment.commands)
app.add_typer(cli_consent.commands)
app.add_typer(cli_evidence.commands, name="ledger")
app.add_typer(cli_keeping.commands)
app.add_typer(cli_service.commands)

Folder = Annotated[Path, typer.Argument(help="The department's folder.", metavar="DIR")]


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
def up(
    folder: Folder,
    plain: Annotated[bool, typer.Option("--plain", help="Lines instead of a picture, also on a terminal.")] = False,
    log_format: LogFormat = "text",
    log_file: LogFile = None,
    log_level: LogLevel = "info",
    json: Json = False,
) -> None:
    """Run the daemon: join the coordinator's rounds until stopped.  Opens no port.

    On a terminal it shows the link, the round, this department's own loss and what left; elsewhere one line an event.
    """
    import os
    import sys

    from commonroot.client.daemon import serve
    from commonroot.logs import LogOptions

    options = LogOptions.of(json, log_format, log_file, log_level)
    seen = sys.stdout.isatty() and os.environ.get("TERM") != "dumb"
    serve(folder, log=options, view=seen and not plain and options.format == "text")


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
