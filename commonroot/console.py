"""How every command speaks: tables for people, ``--json`` for machines, one clear line for an error."""

from __future__ import annotations

import json
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

import click
import typer
from typer.core import TyperGroup

from commonroot.common.errors import CommonrootError

#: The option every command takes.
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of text for people.")]


#: The options of a daemon's log; see ``commonroot.logs``.
LogFormat = Annotated[
    str,
    typer.Option(
        "--log-format",
        help="text: lines for people; json: one object a line.",
        click_type=click.Choice(["text", "json"]),
    ),
]
LogFile = Annotated[
    Path | None,
    typer.Option(
        "--log-file", help="Write events and warnings there too; six files of 10 MiB are kept.", metavar="FILE"
    ),
]
LogLevel = Annotated[
    str,
    typer.Option(
        "--log-level", help="The least that is told.", click_type=click.Choice(["debug", "info", "warning", "error"])
    ),
]


class Commands(TyperGroup):
    """A group whose commands end in one clear error instead of a traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; the project's own errors become a message, a hint and their exit code."""
        try:
            return super().invoke(ctx)
        except CommonrootError as error:
            if "--json" in sys.argv:
                print(json.dumps({"error": error.describe()}))
            else:
                print(f"error {error.code}: {error}", file=sys.stderr)
                if error.advice:
                    print(f"  hint: {error.advice}", file=sys.stderr)
            raise typer.Exit(error.exit_code) from error
        except BrokenPipeError:
            raise typer.Exit(0) from None


def group(help: str) -> typer.Typer:
    """A group of commands."""
    return typer.Typer(
        cls=Commands, help=help, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False,
        rich_markup_mode="rich",
    )  # fmt: skip


def emit(value: Any, as_json: bool, text: Callable[[], None]) -> None:
    """Print a result once, for machines or for people."""
    if as_json:
        print(json.dumps(value, indent=2, ensure_ascii=False))
    else:
        text()


def say(line: str = "") -> None:
    """One line for people, without wrapping, so that it can be copied."""
    print(line, flush=True)


def stop_on_signals(stop: threading.Event) -> None:
    """Let SIGINT and SIGTERM set ``stop``; does nothing outside the main thread."""
    if threading.current_thread() is not threading.main_thread():
        return

    def handle(_number: int, _frame: FrameType | None) -> None:
        stop.set()

    signal.signal(signal.SIGINT, handle)
    signal.signal(signal.SIGTERM, handle)
