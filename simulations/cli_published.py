"""``commonroot download`` and ``scenarios``: published data, and ready scenarios of business settings."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from commonroot.common.errors import ConfigError
from commonroot.console import Commands, Json, emit, say


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
