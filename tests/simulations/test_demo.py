"""The main job as a user runs it: processes, TLS, SIGKILL, and the report that comes out."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from commonroot.common.errors import ConfigError
from commonroot.simulations.demo import run_demo
from commonroot.simulations.digits import SHARES, write_departments

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """One run of ``commonroot demo --faults --json`` with half its usual rounds."""
    folder = tmp_path_factory.mktemp("demo") / "run"
    command = [sys.executable, "-m", "commonroot", "demo", "--faults", "--json", "--rounds", "20"]
    ended = subprocess.run([*command, "--folder", str(folder)], capture_output=True, text=True, timeout=280)
    assert ended.returncode == 0, ended.stderr
    return folder, json.loads(ended.stdout)


def test_the_printed_report_is_the_written_one(demo):
    folder, report = demo
    assert json.loads((folder / "report.json").read_text()) == report
    assert (folder / "report.html").read_text().startswith("<!doctype html>")


def test_all_rounds_are_made_once_although_a_daemon_and_the_coordinator_were_killed(demo):
    _, report = demo
    faults = report["faults"]
    assert [kill["who"] for kill in faults["killed"]] == ["parcels", "coordinator"]
    assert all(kill["in_round"] and kill["restarted"] for kill in faults["killed"])
    assert (report["rounds"], faults["rounds_counted_twice"], faults["heads_intact"]) == (20, 0, True)
    assert [row["version"] for row in report["history"]] == list(range(1, 21))


def test_every_department_reports_and_none_is_measurably_worse(demo):
    _, report = demo
    assert [d["name"] for d in report["departments"]] == [share.name for share in SHARES]
    assert {d["task"] for d in report["departments"]} == {"classification", "binary", "regression"}
    for department in report["departments"]:
        low, high = department["interval"]
        assert low <= department["gain"] <= high
        assert high >= 0, f"{department['name']} is measurably worse off"
        assert department["gain"] == pytest.approx(100 * (department["chosen"] - department["alone"]))


def test_the_tiny_department_gains_more_than_ten_points(demo):
    _, report = demo
    tiny = next(d for d in report["departments"] if d["n_train"] <= 25)
    assert tiny["gain"] >= 10
    assert tiny["interval"][0] > 0


def test_the_coordinator_received_the_six_kinds_of_parcels_and_nothing_else(demo):
    _, report = demo
    known = {"ready", "greeting", "introduced", "masked", "shares", "closed"}
    assert {row["kind"] for row in report["coordinator_saw"]} == known
    assert report["bytes_per_department_per_round"] > 2 * 16_000  # two bytes for each of some 16,600 parameters


def test_a_folder_that_no_demo_made_is_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(ConfigError):
        run_demo(tmp_path, rounds=2, seed=1, faults=False, console=None)
    assert (tmp_path / "thesis.txt").read_text() == "mine"


def test_no_two_departments_hold_the_same_image(tmp_path):
    import numpy as np

    sections = write_departments(tmp_path)
    seen: set[bytes] = set()
    total = 0
    for section in sections.values():
        for path in (section.path, section.test_path):
            with np.load(path, allow_pickle=False) as table:
                rows = [row.tobytes() for row in table["X"]]
            seen.update(rows)
            total += len(rows)
    assert len(seen) == total
