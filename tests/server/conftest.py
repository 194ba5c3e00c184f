"""A journal's database for each test: SQLite's file, or a schema of its own in a real PostgreSQL."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from postgres_server import running

from commonroot.server.journal import sqlite_url

_NUMBERS = itertools.count(1)


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """URL of a PostgreSQL server that runs for this session; tests that need it are skipped where there is none."""
    pytest.importorskip("psycopg", reason="the extra commonroot[postgres] is not installed")
    with running() as url:
        yield url


@pytest.fixture
def schema(postgres: str) -> Callable[[], str]:
    """Makes a schema and returns the URL of it: what a coordinator of a shared server is given."""
    import psycopg

    def make() -> str:
        name = f"journal_{next(_NUMBERS)}"
        with psycopg.connect(postgres, autocommit=True) as connection:
            connection.execute(f"CREATE SCHEMA {name}")
        return f"{postgres}&options=-csearch_path%3D{name}"

    return make


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """URL of an empty database, of either kind."""
    if request.param == "sqlite":
        return sqlite_url(tmp_path / "journal.db")
    url: str = request.getfixturevalue("schema")()
    return url
