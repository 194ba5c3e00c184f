"""What every test needs: Flower kept quiet, and laws searched the same way on every machine."""

from __future__ import annotations

import os

import hypothesis
import pytest

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
