"""``commonroot demo``, ``simulate`` and ``bench``: what a data scientist does."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from commonroot.common.errors import ConfigError
from commonroot.console import Commands, Json, emit, say

#: Where else a simulation is shown.
Track = Annotated[
    list[str] | None,
    typer.Option(
        help="Show rounds and results there too: tensorboard:DIR or mlflow:URI (extra `tracking`); repeat it for both."
    ),
]


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
    workers: Annotated[int, typer.Option(help="Processes that departments are dealt out to.", min=1)] = 1,
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

    from commonroot.common.errors import RoundLost
    from commonroot.simulations.comparison import save, show
    from commonroot.simulations.progress import ArmsProgress
    from commonroot.simulations.scenario import read_scenario
    from commonroot.simulations.simulate import simulate as run
    from commonroot.simulations.tracking import both, trackers

    if write_flower_app is not None:
        _write_app(file, write_flower_app, arms=arm or (), sum=sum, quick=quick, keep=folder, out=out, json=json)
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
    json: bool,
) -> None:
    from commonroot.simulations.flower_app.writing import write_app
    from commonroot.simulations.scenario import read_scenario

    nodes = min(len(read_scenario(file).names), 100)
    files = write_app(folder, file, arms=arms, sum=sum, quick=quick, keep=keep, out=out)
    emit(
        {"written": [str(path) for path in files], "nodes": nodes},
        json,
        lambda: say(
            f"written: {files[0]}\nrun it: flwr run {folder} --stream --federation-config 'num-supernodes={nodes}'"
        ),
    )


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


def bench(
    name: Annotated[str, typer.Argument(help="Which benchmark, or all of them.")] = "all",
    only: Annotated[
        list[str] | None,
        typer.Argument(
            help="Of `data` and `transfer`: the datasets to run; of `crash`, `simulation` and `soak`: the cases."
        ),
    ] = None,
    folder: Annotated[Path, typer.Option(help="Where NAME.json is written.")] = Path("runs/bench"),
    deployed: Annotated[
        bool, typer.Option("--deployed", help="Of `data`: run departments as processes too, over TLS.")
    ] = False,
    data: Annotated[
        list[str] | None,
        typer.Option(
            help="A folder: where published data lies, see `commonroot download`. Or a dataset to run, as NAME or "
            "NAME:PROTOCOL; repeat it."
        ),
    ] = None,
    method: Annotated[
        list[str] | None,
        typer.Option(help="Of `transfer`: a method to compare, as in fedrep:head_epochs=3; repeat it."),
    ] = None,
    seeds: Annotated[int | None, typer.Option(help="Of `transfer`: how many seeds.", min=1)] = None,
    first_seed: Annotated[int | None, typer.Option(help="Of `transfer`: the first seed.", min=0)] = None,
    workers: Annotated[int | None, typer.Option(help="Of `transfer`: processes at once.", min=1)] = None,
    cache: Annotated[Path | None, typer.Option(help="Of `transfer`: where cells that are done are kept.")] = None,
    most: Annotated[
        int | None, typer.Option(help="Of `simulation`: departments at most, for a shorter run.", min=10)
    ] = None,
    rounds: Annotated[int | None, typer.Option(help="Of `soak`: how many rounds; 1,000 without.", min=20)] = None,
    json: Json = False,
) -> None:
    """Measure, beside the peer in the same run; writes runs/bench/NAME.json."""
    from rich.console import Console

    from commonroot.simulations.bench import BENCHMARKS, run_benchmark, table

    if deployed and name not in ("data", "data-deployed"):
        raise ConfigError(
            "only the benchmark `data` has departments to deploy", hint="commonroot bench data --deployed"
        )
    if deployed:
        name = "data-deployed"
    console = Console(stderr=json)
    if not console.is_terminal:
        console = Console(stderr=json, width=max(console.width, 132))  # a file has no width of its own
    place, named = _place_and_names(data or [])
    asked = {"methods": method, "seeds": seeds, "first_seed": first_seed, "workers": workers, "cache": cache}
    asked |= {"rounds": rounds, "most": most}
    options = {key: value for key, value in asked.items() if value is not None}
    measured = {}
    for one in list(BENCHMARKS) if name == "all" else [name]:
        measured[one] = run_benchmark(one, folder, console, only=[*(only or ()), *named], data=place, options=options)
        if not json:
            console.print(table(one, measured[one]))
    if json:
        emit({one: [row.as_json() for row in rows] for one, rows in measured.items()}, True, lambda: None)


def _place_and_names(data: list[str]) -> tuple[Path | None, list[str]]:
    """``--data`` says where published data lies, or names a dataset: names are those of datasets, all else is a folder.

    Raises ConfigError for what is neither.
    """
    from commonroot.simulations.datasets import DATASETS

    names = [one for one in data if one.partition(":")[0] in DATASETS]
    places = [Path(one) for one in data if one not in names]
    wrong = [str(place) for place in places if not place.is_dir()]
    if wrong or len(places) > 1:
        told = f"{wrong[0]!r} is neither a folder nor a dataset" if wrong else "two folders for published data"
        raise ConfigError(f"--data: {told}", hint=f"datasets: {', '.join(DATASETS)}")
    return (places[0] if places else None), names


def download(
    name: Annotated[
        str | None, typer.Argument(help="A dataset; without one, all are listed with their licences.")
    ] = None,
    to: Annotated[Path | None, typer.Option(help="Where data goes; a folder of your user where not given.")] = None,
    accept: Annotated[bool, typer.Option("--accept", help="You have read the terms of use and accept them.")] = False,
    json: Json = False,
) -> None:
    """Fetch real, published data, and check every file's sha256."""
    from rich.console import Console
    from rich.progress import Progress

    from commonroot.simulations.datasets import DATASETS, downloads, get
    from commonroot.simulations.datasets.download import download as fetch
    from commonroot.simulations.datasets.download import published

    if name is None:
        offers = [
            {"name": each, "about": get(each).about, "licence": offer.licence, "page": offer.page, "open": offer.open}
            for each in DATASETS
            if (offer := published().get(get(each).folder)) is not None
        ]

        def listed() -> None:
            for offer in offers:
                terms = "" if offer["open"] else " (needs --accept)"
                say(f"{offer['name']:<10} {offer['about']}; {offer['licence']}{terms}")

        emit({"datasets": offers}, json, listed)
        return
    dataset = get(name)
    if dataset.folder not in published():
        raise ConfigError(f"{name} needs no download: it is made from its seed")
    place = to or downloads()
    with Progress(console=Console(stderr=True), transient=True) as progress:
        bar = progress.add_task(name, total=None)

        def tell(file: str, done: int, total: int) -> None:
            progress.update(bar, description=file.rsplit("/", 1)[-1], completed=done, total=total)

        facts = fetch(dataset.folder, place, accept=accept, on_file=tell)
    emit(
        {**facts, "folder": str(place / dataset.folder)},
        json,
        lambda: say(f"{facts['fetched']} files fetched, {facts['there']} were there: {place / dataset.folder}"),
    )


scenarios = typer.Typer(cls=Commands, invoke_without_command=True, add_completion=False)


@scenarios.callback()
def list_scenarios(context: typer.Context, json: Json = False) -> None:
    """List ready scenarios of business settings: what each shows, and the download that it needs."""
    if context.invoked_subcommand is not None:
        return
    from commonroot.simulations.scenarios import ready

    found = [{"name": one.name, "shows": one.shows, "download": one.download, "there": one.there} for one in ready()]

    def listed() -> None:
        for one in found:
            needs = "" if one["there"] else f" (first: commonroot download {one['download']})"
            say(f"{one['name']:<10} {one['shows']}{needs}")

    emit({"scenarios": found}, json, listed)


@scenarios.command("copy")
def copy_scenario(
    name: Annotated[str, typer.Argument(help="One of the listed scenarios.")],
    file: Annotated[Path | None, typer.Argument(help="Where it goes; NAME.toml here where not given.")] = None,
    json: Json = False,
) -> None:
    """Write a ready scenario into a file, to run and to start from."""
    from commonroot.simulations.scenarios import find

    one = find(name)
    path = one.write(file or Path(f"{name}.toml"))

    def text() -> None:
        say(f"written: {path}")
        if not one.there:
            say(f"first: commonroot download {one.download}")

    emit({"written": str(path), "download": one.download, "there": one.there}, json, text)
