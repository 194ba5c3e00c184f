"""How every command speaks: tables for people, ``--json`` for machines, one clear line for an error."""

from __future__ import annotations

import json
import signal
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
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
    """A group whose commands end in one clear error instead of a traceback.

    Whoever reads may stop at any line, as ``head`` does: that is no error, and hides none.
    """

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        """As every group; its help and the version are told here, where Rich would end the program with 1."""
        try:
            return super().make_context(info_name, args, parent, **extra)
        except (BrokenPipeError, SystemExit):
            raise typer.Exit(0) from None

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; the project's own errors become a message, a hint and their exit code."""
        try:
            return super().invoke(ctx)
        except CommonrootError as error:
            with suppress(BrokenPipeError):
                _tell(error)
            raise typer.Exit(error.exit_code) from error
        except BrokenPipeError:
            raise typer.Exit(0) from None


def _tell(error: CommonrootError) -> None:
    if "--json" in sys.argv:
        print(json.dumps({"error": error.describe()}))
        return
    print(f"error {error.code}: {error}", file=sys.stderr)
    if error.advice:
        print(f"  hint: {error.advice}", file=sys.stderr)


def group(help: str, cls: type[Commands] = Commands) -> typer.Typer:
    """A group of commands."""
    return typer.Typer(
        cls=cls, help=help, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False,
        rich_markup_mode="rich",
    )  # fmt: skip


class _WithDefault(Commands):
    """A group whose first word may be left out: what is no command of its own goes to the default one."""

    default = "show"

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Put the default command in front where the first word names none."""
        if args and not args[0].startswith("-") and args[0] not in self.commands:
            args = [self.default, *args]
        return super().resolve_command(ctx, args)


def group_of(default: str, help: str) -> typer.Typer:
    """A group of commands one of which is meant where none is named."""
    kind = type("WithDefault", (_WithDefault,), {"default": default})
    return typer.Typer(
        cls=kind, help=help, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False,
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


def tell_aside(line: str) -> None:
    """One line for people beside what goes to standard output, which somebody may put into a variable."""
    print(line, file=sys.stderr, flush=True)


def stop_on_signals(stop: threading.Event) -> None:
    """Let SIGINT and SIGTERM set ``stop``; does nothing outside the main thread."""
    if threading.current_thread() is not threading.main_thread():
        return

    def handle(_number: int, _frame: FrameType | None) -> None:
        stop.set()

    signal.signal(signal.SIGINT, handle)
    signal.signal(signal.SIGTERM, handle)
