"""One federation twice: as processes over TLS, and simulated; what comes out is the same, byte for byte."""

from __future__ import annotations

import csv
import json
import socket
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from typer.testing import CliRunner

from commonroot.common.errors import ConfigError, ProcessDied
from commonroot.console import group
from commonroot.simulations import bench_data_deployed, deployment
from commonroot.simulations.bench_data import Case
from commonroot.simulations.cli import add_commands
from commonroot.simulations.datasets.world import World
from commonroot.simulations.deployment import backbones, run_deployed
from commonroot.simulations.scenario import Scenario
from commonroot.simulations.simulate import simulate

NAMES = ("north", "east", "south")
ROUNDS = 3
CASE = Case("tags", "templates", "accuracy")


def scenario(folder: Path, *, seed: int = 1) -> Scenario:
    """Three departments of 40 rows, two of which tell labels and one a value; they first sum up a column."""
    departments = []
    for at, name in enumerate(NAMES):
        random = np.random.default_rng(at)
        x = random.normal(20.0 * at, 1.0, size=(40, 2))
        value = x[:, 0] - 20.0 * at + 0.5 * random.normal(size=40)
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / f"{name}.csv").open("w", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(["a", "b", "target"])
            told = value if name == "south" else np.where(value > 0, "yes", "no")
            rows.writerows([*row, y] for row, y in zip(x, told, strict=True))
        task = "regression" if name == "south" else "binary"
        data = {"path": str(folder / f"{name}.csv"), "target": "target", "task": task, "seed": 5}
        departments.append({"name": name, "data": data})
    charter = {"federation": "works", "backbone": {"inputs": 2, "widths": [6, 5]}, "training": {"batch": 8}}
    counted = {"method": {"name": "statistics"}, "columns": [{"name": "a", "kind": "number", "low": -100, "high": 100}]}
    return Scenario.model_validate(
        {
            "seed": seed,
            "charter": charter | {"name": "tried", "rounds": ROUNDS, "method": {"name": "fedper"}},
            "statistics": {"federation": "works", "name": "counts", "rounds": 1, **counted},
            "departments": departments,
        }
    )


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """The case's folder, and what was found by deploying and by simulating it."""
    root = tmp_path_factory.mktemp("both")
    with pytest.MonkeyPatch.context() as patch:
        made = (World({}, {}, ""), scenario(root / "tables"))
        patch.setattr(bench_data_deployed, "scenario_of", lambda *_: made)
        return root, bench_data_deployed.run_both(CASE, Path(), root, Console(stderr=True))


@pytest.mark.slow
def test_every_version_of_a_deployed_backbone_is_the_simulated_one_byte_for_byte(both):
    """A first version and one more for each round; keys, masks, certificates and roster are others in both."""
    root, found = both
    assert found["deployed"]["state"] == found["simulated"]["state"] == "finished"
    assert len(set(found["deployed"]["versions"])) == 1 + ROUNDS
    assert found["deployed"]["versions"] == found["simulated"]["versions"]
    arm = next((root / "simulated" / "arms").iterdir())
    rosters = [(place / "coordinator" / "roster.json").read_bytes() for place in (root / "deployed", arm)]
    assert rosters[0] != rosters[1]


@pytest.mark.slow
def test_departments_choose_and_score_the_same_model_deployed_and_simulated(both):
    _, found = both
    deployed, simulated = (
        {one["name"]: {key: one[key] for key in ("choice", "chosen", "alone", "federated")} for one in arm}
        for arm in (found["deployed"]["departments"], found["simulated"]["departments"])
    )
    assert deployed == simulated and set(deployed) == set(NAMES)


@pytest.mark.slow
def test_another_seed_makes_other_backbones(both, tmp_path, monkeypatch):
    monkeypatch.setattr("commonroot.client.alone.GRID", ())
    monkeypatch.setattr("commonroot.client.shared_models.STRENGTHS", (1.0,))
    _, found = both
    simulate(scenario(tmp_path / "tables", seed=2), folder=tmp_path / "run")
    (arm,) = (tmp_path / "run" / "arms").iterdir()
    assert not set(backbones(arm / "coordinator")) & set(found["deployed"]["versions"])


@pytest.mark.slow
def test_the_departments_read_their_tables_through_department_toml(both):
    root, _ = both
    for name in NAMES:
        text = (root / "deployed" / "departments" / name / "department.toml").read_text()
        assert f'path = "{root / "tables" / name}.csv"' in text


def reports(versions: list[str], *, score: float = 0.9, survivors: int = 3) -> dict[str, object]:
    """What one way of running is reported to have given."""
    return {
        "departments": [{"name": name, "chosen": score} for name in NAMES],
        "history": [{"survivors": survivors}] * ROUNDS,
        "lost_rounds": 0,
        "seconds_per_round": 0.5,
        "versions": versions,
    }


@pytest.mark.parametrize(
    ("deployed", "differing"), [(["a", "b", "c"], 0), (["a", "b", "x"], 1), (["a", "b"], 1), (["a", "x", "y"], 2)]
)
def test_the_row_counts_versions_that_differ(monkeypatch, tmp_path, deployed, differing):
    """Simulated a, b, c: one that is missing differs as one of other bytes does."""
    both = {"deployed": reports(deployed), "simulated": reports(["a", "b", "c"])}
    monkeypatch.setattr(bench_data_deployed, "run_both", lambda *_: both)
    rows = bench_data_deployed.run(Console(quiet=True), ["tags"], out=tmp_path)
    row = next(row for row in rows if "versions" in row.what)
    assert (row.value, row.holds) == (differing, differing == 0)
    assert json.loads((tmp_path / "tags-templates.json").read_text()) == both


def test_the_row_says_that_somebody_was_late_where_scores_differ(monkeypatch):
    both = {"deployed": reports(["a"], survivors=2), "simulated": reports(["a"], score=0.8)}
    monkeypatch.setattr(bench_data_deployed, "run_both", lambda *_: both)
    rows = bench_data_deployed.run(Console(quiet=True), ["tags"])
    row = next(row for row in rows if "scores otherwise" in row.what)
    assert (row.value, row.holds, row.why) == (3, False, "somebody was late in 3 rounds")


def test_only_data_is_deployed_and_only_what_has_a_benchmark():
    with pytest.raises(ConfigError, match="digits has no benchmark"):
        bench_data_deployed.run(Console(quiet=True), ["digits"])
    program = group(help="")
    add_commands(program)
    ended = CliRunner().invoke(program, ["bench", "latency", "--deployed"])
    assert ended.exit_code == ConfigError.exit_code


@pytest.mark.slow
def test_a_program_that_ends_ends_the_run(tmp_path, monkeypatch):
    """Somebody else has the coordinator's port: it says so and ends, and nobody is waited for."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        monkeypatch.setattr(deployment, "free_port", lambda: taken.getsockname()[1])
        made = scenario(tmp_path / "tables")
        with pytest.raises(ProcessDied, match="coordinator ended with status"):
            run_deployed(tmp_path / "run", made, made.sections(tmp_path, tmp_path), lambda kind, facts: None)
