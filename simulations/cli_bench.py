"""``commonroot bench``: measured beside a peer, in one run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from commonroot.common.errors import ConfigError
from commonroot.console import Json, emit


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
