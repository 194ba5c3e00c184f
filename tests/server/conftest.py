"""A journal's database for each test: SQLite's file, or a schema of its own in a real PostgreSQL."""

from __future__ import annotations

from pathlib import Path

import pytest

from commonroot.server.journal_engine import sqlite_url


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """URL of an empty database, of either kind."""
    if request.param == "sqlite":
        return sqlite_url(tmp_path / "journal.db")
    url: str = request.getfixturevalue("schema")()
    return url
