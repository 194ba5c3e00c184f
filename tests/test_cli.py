"""The program itself: help for everything, at once; errors for people and for machines."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator

import click
import pytest
import typer
from typer.testing import CliRunner

from commonroot import __version__
from commonroot.cli import app

HEAVY = ("torch", "sklearn", "flwr", "sqlalchemy", "scipy", "fastapi", "uvicorn", "nicegui", "prometheus_client")


def commands(command: click.Command, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Every group and command of the program."""
    yield path
    if isinstance(command, click.Group):
        for name, inner in command.commands.items():
            yield from commands(inner, (*path, name))


EVERYTHING = list(commands(typer.main.get_command(app)))


def said(*words: str) -> tuple[int, str, str]:
    """Run in a process of its own: exit status, standard output, standard error."""
    done = subprocess.run(
        [sys.executable, "-m", "commonroot", *words], capture_output=True, text=True, timeout=60, check=False
    )
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["--version"], 0),
        (["scenarios"], 0),
        (["scenarios", "--json"], 0),
        (["--help"], 0),
        (["audit", "--help"], 0),
        (["audit", "compare", "nowhere", "--json"], 2),
    ],
)
def test_a_reader_may_stop_reading(words, code, unbuffered):
    """As in `commonroot scenarios | head -1`: no complaint, at whatever line it stops, and an error is one still."""
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-m", "commonroot", *words],
        stdout=writer,
        stderr=subprocess.PIPE,
        env=os.environ | {"PYTHONUNBUFFERED": unbuffered},
        timeout=60,
        check=False,
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (code, b"")


@pytest.mark.parametrize("path", EVERYTHING, ids=lambda path: " ".join(path) or "commonroot")
def test_every_command_has_help_that_says_what_it_does(path):
    result = CliRunner().invoke(app, [*path, "--help"])
    assert result.exit_code == 0
    assert "Usage:" in result.output
    assert len(result.output.split("Usage:")[1].split()) > 10


#: Commands proper: what is no group of others.
COMMANDS = [p for p in EVERYTHING if not any(q[: len(p)] == p and len(q) > len(p) for q in EVERYTHING)]


@pytest.mark.parametrize("path", [p for p in COMMANDS if p[0] in ("coordinator", "department", "audit")])
def test_every_command_of_both_sides_speaks_json(path):
    assert "--json" in CliRunner().invoke(app, [*path, "--help"]).output


def test_help_loads_nothing_heavy():
    """What takes seconds to import is imported inside commands, so that ``--help`` answers at once."""
    code = (
        "import sys\n"
        "from typer.testing import CliRunner\n"
        "from commonroot.cli import app\n"
        "for words in ([], ['coordinator'], ['department']):\n"
        "    assert CliRunner().invoke(app, [*words, '--help']).exit_code == 0\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"


def test_the_version_is_printed():
    assert CliRunner().invoke(app, ["--version"]).output.strip() == __version__


def test_an_error_is_one_line_and_a_hint_on_standard_error(tmp_path):
    status, out, err = said("department", "check", str(tmp_path))
    assert status == 2
    assert out == ""
    first, second = err.splitlines()
    assert first.startswith(f"error CR10: {tmp_path} is not a department's folder")
    assert second == "  hint: make one with `commonroot department init`"


def test_an_error_with_json_is_one_json_document(tmp_path):
    status, out, err = said("coordinator", "status", str(tmp_path), "--json")
    assert (status, err) == (2, "")
    error = json.loads(out)["error"]
    assert {"code", "error", "message", "hint"} == set(error)
    assert (error["code"], error["error"]) == ("CR10", "ConfigError")


@pytest.mark.parametrize(
    "words", [["nonsense"], ["department", "nonsense"], ["department", "init"], ["demo", "--rounds", "1"]]
)
def test_a_wrong_call_is_a_usage_error_and_no_traceback(words):
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 2
    assert "Traceback" not in result.output
