"""``bench simulation``: everybody gets the same job, and what could not be run is never told as met."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from rich.console import Console
from rich.progress import Progress

from commonroot.common.errors import ConfigError, ProcessDied
from commonroot.simulations import bench_simulation
from commonroot.simulations.bench import Row
from commonroot.simulations.bench_simulation import Run, _rows, run
from commonroot.simulations.bench_simulation_peers import around, command
from commonroot.simulations.bench_simulation_world import Job, steps


@pytest.fixture(params=["mlp", "cnn"])
def job(request, tmp_path) -> Job:
    found = Job(request.param, 3, 2, str(tmp_path / "data"), steps=2, batch=4)
    found.write()
    return found


def test_a_job_crosses_a_pipe_as_it_is(job):
    assert Job.read(job.text()) == job


def test_the_plain_network_is_that_of_the_charter_and_learns_from_the_departments_rows(job):
    net, (x, y) = job.network(), job.department(2)
    shapes = {name: tuple(tensor.shape) for name, tensor in net.backbone.named_parameters()}
    assert set(shapes.values()) <= {shape for _, shape in job.draft.network.shapes()}
    assert len(x) == len(y) == job.rows == 8
    before = [tensor.detach().clone() for tensor in net.parameters()]
    steps(net, x, y, job.batch)
    assert not all(torch.equal(a, b) for a, b in zip(before, net.parameters(), strict=True))


@pytest.mark.parametrize("system", ["ours", "bare"])
def test_a_system_tells_when_each_round_ended(job, system):
    done = subprocess.run(
        command(sys.executable, f"bench_simulation_{system}", job.text()),
        env=around(), capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    ended = json.loads(done.stdout.splitlines()[-1])["ended"]
    assert len(ended) == job.rounds and ended == sorted(ended)


def test_ratios_are_of_the_same_turn_and_what_did_not_run_does_not_hold(tmp_path):
    """Ours 2 s over a bare 1 s, then 6 over 4: the median of 2.0 and 1.5 is 1.75, and not 4 over 2.5."""
    found = {"ring": [Run(2.0, 9.0), Run(6.0, 9.0)], "bare": [Run(1.0, 9.0), Run(4.0, 9.0)]}
    rows = _rows("mlp", Job("mlp", 100, 3, str(tmp_path)), found, {"flower": "no ray here"})
    ratio = next(row for row in rows if row.what.startswith("ours, ring ÷ bare"))
    assert (ratio.value, ratio.target, ratio.holds) == (1.75, "<= 1.1", False)
    missing = next(row for row in rows if row.what.startswith("Flower's simulation ÷ ours"))
    assert (missing.value, missing.holds, missing.why) == (None, False, "no ray here")


def missing_of(rows: list[Row], departments: int) -> set[str]:
    """Systems that some row of this size says nothing of."""
    found = [row.what for row in rows if row.value is None and f" {departments} dep" in row.what]
    return {what.split(":")[0].split(" ÷")[0] for what in found}


def test_a_system_that_fails_is_told_and_the_others_go_on(tmp_path, monkeypatch):
    """In every turn of one size there is no row; in one turn of another, the rest of its turns are compared."""
    calls = []

    def timed(name: str, job: Job, _peers: Path) -> Run:
        calls.append((name, job.departments))
        if name == "flower" and (job.departments == 10 or calls.count((name, 100)) == 2):
            raise ProcessDied("Flower's simulation took longer than 600 s")
        return Run(6.0 if name == "flower" else 1.0, 2.0)

    monkeypatch.setattr(bench_simulation, "_timed", timed)
    with Progress(console=Console(quiet=True)) as progress:
        rows = bench_simulation._compared("mlp", [10, 100, 1000], tmp_path, tmp_path, progress, progress.add_task(""))
    assert [missing_of(rows, size) for size in (10, 100, 1000)] == [{"Flower's simulation"}, set(), {"ours, exact"}]
    told = {row.what: row for row in rows}
    assert "600 s" in told["Flower's simulation: milliseconds of a round, mlp, 10 departments, 20 steps"].why
    once = told["Flower's simulation: milliseconds of a round, mlp, 100 departments, 20 steps"]
    assert once.value == 6000.0
    assert once.why.startswith("1 of 5 turns failed: Flower's")
    assert told["Flower's simulation ÷ ours (ring), a round, mlp, 100 departments, 20 steps"].value == 6.0


def test_an_unknown_case_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="no case 'mpl'"):
        run(Console(quiet=True), ["mpl"], out=tmp_path)
