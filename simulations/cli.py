"""Commands of a data scientist: ``commonroot demo`` and ``simulate``, and the list of the others."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Final

import typer

from commonroot.common.errors import ConfigError
from commonroot.console import Json, emit, say
from commonroot.simulations.cli_bench import bench
from commonroot.simulations.cli_choosing import search, sweep
from commonroot.simulations.cli_published import download, scenarios
from commonroot.simulations.cli_track import Track

#: Said where the number of Flower's nodes is not by the departments.
_UNCOUNTED: Final = "only the data knows the departments, and it is not here; the number changes nothing but the time"


def add_commands(app: typer.Typer) -> None:
    """Add these commands to the program."""
    app.command()(demo)
    app.command()(bench)
    app.command()(simulate)
    app.command()(search)
    app.command()(sweep)
    app.command()(download)
    app.add_typer(scenarios, name="scenarios")


def demo(
    folder: Annotated[
        Path, typer.Option(help="Where everything is written; an earlier demo there is replaced.")
    ] = Path("runs/demo"),
    rounds: Annotated[int, typer.Option(help="Rounds of training.", min=2)] = 40,
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


def simulate(
    file: Annotated[Path, typer.Argument(help="The federation to simulate.", metavar="FEDERATION.toml")],
    arm: Annotated[
        list[str] | None,
        typer.Option(
            help="A method, with options as in fedrep:head_epochs=3,anchor=0.1, or `pooled` for all rows in one place, "
            "without any privacy. Repeat it to compare. The charter's own method where none is given."
        ),
    ] = None,
    folder: Annotated[
        Path | None, typer.Option(help="Keep the federations here; a simulation that was killed goes on from it.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Write report.json and report.html into this folder.")] = None,
    sum: Annotated[
        str | None,
        typer.Option(
            help="How contributions are added: `exact` through the whole protocol of deployment; `ring` without masks, "
            "with the very same result; `off` without rounding either. The file's own, or exact."
        ),
    ] = None,
    workers: Annotated[
        int,
        typer.Option(help="Processes that departments are dealt out to; 16 at most unless sums are `exact`.", min=1),
    ] = 1,
    quick: Annotated[
        bool, typer.Option("--quick", help="Rounds alone: no department fine-tunes, compares and chooses at the end.")
    ] = False,
    engine: Annotated[
        str,
        typer.Option(
            help="Who lets departments work: `own` processes of this machine, or `flower`, its simulation on Ray. The "
            "backbone is the same."
        ),
    ] = "own",
    device: Annotated[
        str,
        typer.Option(
            help="Where networks are computed: `cpu`, as in deployment, or a GPU, `cuda`. Another device ends at other "
            "last bits, the same each time."
        ),
    ] = "cpu",
    write_flower_app: Annotated[
        Path | None,
        typer.Option(help="Run nothing; write the folder that `flwr run` takes, for Flower's simulation elsewhere."),
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="Where published data lies, for a world of kind `dataset`.", exists=True)
    ] = None,
    track: Track = None,
    json: Json = False,
) -> None:
    """Run a whole federation on this machine, through the sessions, rounds and secure sum of deployment, or faster."""
    import torch
    from rich.console import Console

    from commonroot.client.accelerator import PROCESSOR, named
    from commonroot.common.errors import RoundLost
    from commonroot.simulations.comparison import save, show
    from commonroot.simulations.progress import ArmsProgress
    from commonroot.simulations.scenario import read_scenario
    from commonroot.simulations.simulate import simulate as run
    from commonroot.simulations.tracking import both, trackers

    if write_flower_app is not None:
        if track:
            raise ConfigError(
                "--track: an app for Flower shows its rounds in what `flwr run` streams", hint="leave it out"
            )
        if workers != 1:
            raise ConfigError(
                "--workers: an app for Flower has the workers that `flwr run` starts",
                hint=f"leave it out, and add init-args-num-cpus={workers} to what --federation-config says",
            )
        if named(device) != PROCESSOR:
            raise ConfigError("--device: departments under Flower's engine compute on processors", hint="leave it out")
        _write_app(
            file, write_flower_app, arms=arm or (), sum=sum, quick=quick, keep=folder, out=out, data=data, json=json
        )
        return
    torch.set_num_threads(1)  # departments' networks are small: more threads only wait for each other
    with ArmsProgress(Console(stderr=True)) as tell, trackers(track or (), read_scenario(file)) as shown:
        result = run(
            file,
            arms=arm or (),
            folder=folder,
            sum=sum,
            workers=workers,
            finish=not quick,
            data=data,
            engine=engine,
            device=device,
            tell=both(tell, shown),
        )
        shown.ended(result)
    written = save(result, out) if out is not None else []

    def text() -> None:
        console = Console()
        if not console.is_terminal:
            console = Console(width=max(console.width, 110))  # a file has no width of its own
        show(result, console)
        for path in written:
            console.print(f"written: {path}", soft_wrap=True, highlight=False)

    emit(result, json, text)
    if any(report["state"] != "finished" for report in result["arms"]):
        raise typer.Exit(RoundLost.exit_code)


def _write_app(
    file: Path,
    folder: Path,
    *,
    arms: Sequence[str],
    sum: str | None,
    quick: bool,
    keep: Path | None,
    out: Path | None,
    data: Path | None,
    json: bool,
) -> None:
    from commonroot.simulations.flower_app.writing import nodes_for, write_app

    nodes, counted = nodes_for(file, data)
    files = write_app(folder, file, arms=arms, sum=sum, quick=quick, keep=keep, out=out, data=data)
    emit(
        {"written": [str(path) for path in files], "nodes": nodes},
        json,
        lambda: say(
            f"written: {files[0]}\nrun it: flwr run {folder} --stream --federation-config 'num-supernodes={nodes}'"
            + ("" if counted else f"\n{_UNCOUNTED}")
        ),
    )
