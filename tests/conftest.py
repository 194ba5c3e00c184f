"""What every test needs: Flower kept quiet, laws searched the same way everywhere, a PostgreSQL where asked for."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator

import hypothesis
import pytest
from postgres_server import running

# Read by flwr at import, so set before any test module imports it.
os.environ["FLWR_TELEMETRY_ENABLED"] = "0"
os.environ["FLWR_DISABLE_UPDATE_CHECK"] = "1"
os.environ["FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION"] = "1"

# No deadline: a busy machine is not a defect.  With CI set, the examples are the same on every run.
hypothesis.settings.register_profile("here", deadline=None, max_examples=50)
hypothesis.settings.register_profile("ci", deadline=None, max_examples=100, derandomize=True, database=None)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "here")


def pytest_configure(config: pytest.Config) -> None:
    """Warnings are errors; these are not ours, named one by one."""
    # typer < 0.21 (flwr's upper pin) imports names that click 8.5 deprecates
    config.addinivalue_line("filterwarnings", r"ignore:'click\.utils\.get_.*_stream' is deprecated:DeprecationWarning")


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
