"""What ``coordinator.toml`` says about keeping: where the journal lives, what is waited for, what is let go of."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Final

import sqlalchemy as sa
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy.exc import ArgumentError

from commonroot.common.errors import ConfigError

#: ``database = "env:NAME"`` names the variable that holds the URL, so that no password stands in a file.
ENVIRONMENT: Final = "env:"

TEMPLATE: Final = """\
# Where the journal lives: empty for journal.db in this folder; a PostgreSQL URL, postgresql://USER@HOST/DATABASE; or
# "env:NAME", the environment variable that holds the URL, for a password that should stand in no file.
database = ""

# How long to wait where no charter says so, in seconds; a coordinator that stops goes on from there when it is started.
#[waits]
#retry = 2.0           # after a second lost round in a row; three times as long after each further one
#storage = 3600.0      # for space on a full disk, before the coordinator ends
#database = 30.0       # for a database that went away

# What is let go of by itself while no run is going on; 0 keeps it for ever. Never what is needed to go on or to prove.
#[retention]
#versions = 0          # backbones kept of a finished run, newest first; hashes of all stay in the journal
#rounds_days = 0       # requests of rounds of finished runs; who took part, hashes and results stay
#faults_days = 0
#logs_days = 0         # files in logs/
"""


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class RetentionConfig(_Section):
    """``[retention]``: how much is kept; 0 is everything.  See ``retention``.

    versions     backbones of a finished run, newest first
    rounds_days  requests of rounds of finished runs
    faults_days  faults
    logs_days    files in ``logs/``
    """

    versions: Annotated[int, Field(ge=0)] = 0
    rounds_days: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0
    faults_days: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0
    logs_days: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0

    @property
    def asks_for_anything(self) -> bool:
        """Is anything to be let go of?"""
        return any((self.versions, self.rounds_days, self.faults_days, self.logs_days))


def database_url(told: str, config: Path) -> str:
    """The URL that ``database`` means, looked up in the environment where it names a variable.

    Parameters  config: the file it stands in, which must be its owner's alone if it holds a password
    Raises      ConfigError; no message holds a URL
    """
    if told.startswith(ENVIRONMENT):
        name = told.removeprefix(ENVIRONMENT)
        found = os.environ.get(name, "")
        if not found:
            raise ConfigError(
                f"{config} takes the database's URL from the variable {name!r}, which is not set",
                hint=f"export {name}=postgresql://USER:PASSWORD@HOST/DATABASE, for commands and the service alike",
            )
        return found
    try:
        parsed = sa.make_url(told)
        secret = parsed.password is not None or "password" in parsed.query
    except (ArgumentError, ValueError):
        return told  # which will be said where it is opened
    if secret and config.stat().st_mode & 0o077:
        raise ConfigError(
            f"{config} holds the database's password and can be read by others",
            hint=f"chmod 600 {config}, or move the URL to an environment variable",
        )
    return told


def without_password(told: str) -> str:
    """``database`` as it may be shown and kept."""
    if told.startswith(ENVIRONMENT) or "://" not in told:
        return told
    try:
        parsed = sa.make_url(told)
    except (ArgumentError, ValueError):
        return ""
    kept = {key: value for key, value in parsed.query.items() if key != "password"}
    return sa.URL.create(
        parsed.drivername, parsed.username, None, parsed.host, parsed.port, parsed.database, kept
    ).render_as_string(hide_password=False)
