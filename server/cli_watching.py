"""``commonroot coordinator page``: where the page for central IT is, and how to get in."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from commonroot.console import Json, emit, group, say

commands = group("Watching.")


@commands.command()
def page(
    folder: Annotated[Path, typer.Argument(help="The coordinator's folder.", metavar="DIR")],
    new_token: Annotated[
        bool, typer.Option("--new-token", help="Make another token; who has the old one is out at the next start.")
    ] = False,
    json: Json = False,
) -> None:
    """Print the address of the page that `coordinator up` serves, with the token that logs in.

    The token follows a '#', so it is not sent in the address and stands in nobody's log.
    """
    from commonroot.common.errors import ConfigError
    from commonroot.server.folder import CoordinatorFolder
    from commonroot.server.monitor.serving import TOKEN, address_of, token_of

    opened = CoordinatorFolder(folder)
    if not opened.config.monitor.enabled:
        raise ConfigError(
            "this coordinator serves no page", hint="set enabled = true under [monitor] in its coordinator.toml"
        )
    if new_token:
        (folder / TOKEN).unlink(missing_ok=True)
    address, token = address_of(opened), token_of(opened)
    facts = {"url": f"{address}/login#{token}", "metrics": f"{address}/metrics", "token_file": str(folder / TOKEN)}

    def text() -> None:
        say(facts["url"])
        say(f"metrics for Prometheus: {facts['metrics']}, with the token in {facts['token_file']} as a bearer")

    emit(facts, json, text)
