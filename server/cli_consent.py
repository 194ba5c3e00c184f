"""``commonroot coordinator offer / charters``: showing charters to departments, and what they said."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from commonroot.console import Json, emit, group, say

commands = group("Charters and who agreed to them.")

Folder = Annotated[Path, typer.Argument(help="The coordinator's folder.", metavar="DIR")]


@commands.command()
def offer(
    folder: Folder,
    charter: Annotated[Path, typer.Argument(help="A signed charter.", metavar="CHARTER.json")],
    retract: Annotated[bool, typer.Option("--retract", help="Show it no more.")] = False,
    json: Json = False,
) -> None:
    """Let the coordinator that is up show a charter to every department, so that their people can read and approve it.

    A run waits minutes for approval, people need days: offer first, look at `charters`, then run.
    """
    from commonroot.common.errors import ConfigError
    from commonroot.server.folder import CoordinatorFolder

    opened = CoordinatorFolder(folder)
    signed = opened.charter(charter)
    name = signed.charter.digest.hex()
    journal = opened.journal()
    try:
        if not retract:
            journal.consent.offer(signed)
        elif not journal.consent.retract(name):
            raise ConfigError(f"charter {name[:16]}… is not offered")
    finally:
        journal.close()
    word = "retracted" if retract else "offered"
    emit({word: name}, json, lambda: say(f"{word} {name}"))


@commands.command()
def charters(folder: Folder, json: Json = False) -> None:
    """Signed charters, and which departments are ready for each; of a refusal only the code is known here."""
    from commonroot.common.charter import SignedCharter
    from commonroot.server.folder import CoordinatorFolder

    opened = CoordinatorFolder(folder)
    journal = opened.journal()
    try:
        answers, offered = journal.consent.answers(), {s.charter.digest.hex() for s in journal.consent.offers()}
        runs = {run.digest: run.run for run in journal.runs()}
        left = sorted(journal.consent.farewells().values())
    finally:
        journal.close()
    rows = []
    for path in sorted((folder / "charters").glob("*.json")):
        signed = SignedCharter.from_json(path.read_bytes())
        name = signed.charter.digest.hex()
        about = {"charter": name, "name": signed.charter.name, "offered": name in offered, "run": runs.get(name)}
        rows.append(about | {"answers": answers.get(name, {})})

    def text() -> None:
        for row in rows:
            state = f"run {row['run']}" if row["run"] else "offered" if row["offered"] else "signed"
            say(f"{str(row['charter'])[:16]}  {state:<10} {row['name']}")
            for department, answer in answers.get(str(row["charter"]), {}).items():
                say(f"    {department:<24} {answer}")
        for name in left:
            say(f"has left: {name}")

    emit({"charters": rows, "left": left}, json, text)
