"""``commonroot demo``, ``simulate`` and ``bench``: what a data scientist does."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from commonroot.console import Json, emit


def add_commands(app: typer.Typer) -> None:
    """Add these commands to the program."""
    app.command()(demo)


def demo(
    folder: Annotated[Path, typer.Option(help="Where everything is written; an earlier demo there is replaced.")] = Path(
        "runs/demo"
    ),
    rounds: Annotated[int, typer.Option(help="Rounds of training.", min=2)] = 30,
    seed: Annotated[int, typer.Option(help="Of the split and of all training randomness.", min=0)] = 1,
    faults: Annotated[
        bool, typer.Option("--faults", help="Also kill a daemon and the coordinator mid-round, and restart them.")
    ] = False,
    json: Json = False,
) -> None:
    """Run a real federation on this machine: a coordinator and five departments over TLS, on handwritten digits."""
    from rich.console import Console

    from commonroot.simulations.demo import run_demo, show

    console = Console(stderr=json)
    report = run_demo(folder.resolve(), rounds=rounds, seed=seed, faults=faults, console=console)
    emit(report, json, lambda: show(report, folder, console))


