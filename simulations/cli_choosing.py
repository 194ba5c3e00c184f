"""``commonroot search`` and ``sweep``: choosing a method and its settings by private validation rows."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from commonroot.common.errors import ConfigError
from commonroot.console import Json, emit, say
from commonroot.simulations.cli_track import Track


def search(
    file: Annotated[Path, typer.Argument(help="The federation to simulate.", metavar="FEDERATION.toml")],
    arm: Annotated[
        list[str],
        typer.Option(help="A method, with options as in fedrep:head_epochs=3,anchor=0.1; repeat it to compare."),
    ],
    halving: Annotated[
        bool, typer.Option("--halving", help="Drop half of the arms after a quarter and after half of the rounds.")
    ] = False,
    counts: Annotated[
        bool, typer.Option("--counts", help="Also count, deniably, how many departments keep what.")
    ] = False,
    write: Annotated[
        Path | None, typer.Option(help="Write the best arm's charter here, in TOML, as `coordinator charter` takes it.")
    ] = None,
    folder: Annotated[
        Path | None, typer.Option(help="Keep the federations here; a search that was killed goes on from it.")
    ] = None,
    json: Json = False,
) -> None:
    """Choose a method by summed losses on private validation rows; test rows decide nothing."""
    import torch
    from rich.console import Console

    from commonroot.server.search import in_words, table_of
    from commonroot.simulations.progress import ArmsProgress
    from commonroot.simulations.search import search as run

    torch.set_num_threads(1)
    with ArmsProgress(Console(stderr=True)) as tell:
        result = run(file, arms=arm, folder=folder, counts=counts, halving=halving, write=write, tell=tell)

    def text() -> None:
        console = Console()
        if not console.is_terminal:
            console = Console(width=max(console.width, 110))
        console.print(table_of(result["charters"], title="arm"))
        for line in in_words(result["charters"]):
            say(line)
        if write is not None and result["best"] is not None:
            say(f"written: {write}")

    emit(result, json, text)


def sweep(
    file: Annotated[Path, typer.Argument(help="What is varied, of which scenario.", metavar="SWEEP.toml")],
    workers: Annotated[int, typer.Option(help="Cells that run at once, each in a process.", min=1)] = 1,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Cells are kept and results written here; the same sweep goes on from it. By default "
            "runs/sweep/NAME, for NAME.toml."
        ),
    ] = None,
    show_test: Annotated[
        bool,
        typer.Option("--show-test", help="Also show gains on test rows. They rank nothing; choose before you look."),
    ] = False,
    write: Annotated[
        Path | None,
        typer.Option(help="Write the best setting's charter here, in TOML, as `coordinator charter` takes it."),
    ] = None,
    track: Track = None,
    json: Json = False,
) -> None:
    """Run a scenario under many settings of its fields, and rank them by sums of private validation losses."""
    from rich.console import Console

    from commonroot.files import atomic_write
    from commonroot.simulations.sweeps.plan import read_plan
    from commonroot.simulations.sweeps.run import Sweep, run_plan
    from commonroot.simulations.sweeps.shown import save, show, without_test

    plan = read_plan(file)
    root = out or Path("runs/sweep") / plan.name
    result = run_plan(plan, root, workers=workers, track=track or (), console=Console(stderr=True))
    written = save(result, root, show_test=show_test)
    if write is not None:
        atomic_write(write, Sweep(result, plan, root).best_charter.to_toml().encode())
        written.append(write)

    def text() -> None:
        console = Console()
        if not console.is_terminal:
            console = Console(width=max(console.width, 132))
        show(result, console, show_test=show_test)
        for path in written:
            say(f"written: {path}")

    emit(result if show_test else without_test(result), json, text)
    if any(row["state"] == "failed" for row in result["cells"]):
        raise typer.Exit(ConfigError.exit_code)
