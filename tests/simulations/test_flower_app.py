"""A simulation under Flower's engine: the very backbone of our own, on however many nodes, with workers that forget.

Most run the ClientApp on a grid in this process; two start Flower's simulation itself, where its Ray is installed.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import httpx
import numpy as np
import pytest
from click.testing import Result
from flower_grid import GridHere
from flwr.supercore.task_identity import TaskIdentity
from small_world import NAMES, STORM, quick_last_steps, scenario
from typer.testing import CliRunner

from commonroot.common.errors import ConfigError, DataError, ProcessDied
from commonroot.console import group
from commonroot.simulations.cli import add_commands
from commonroot.simulations.datasets import get
from commonroot.simulations.flower_app import client
from commonroot.simulations.flower_app.crews import hire_on
from commonroot.simulations.flower_app.server import SETTINGS, main
from commonroot.simulations.flower_app.states import States
from commonroot.simulations.flower_app.writing import write_app
from commonroot.simulations.simulate import simulate

needs_ray = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason="ray is not installed: pip install 'commonroot[flower-simulation]'"
)
DIGITS = """seed = 1
[charter]
federation = "digits"
name = "tried"
rounds = 2
method = { name = "fedper" }
backbone = { inputs = 64, widths = [32] }
[world]
kind = "digits"
[network]
drop = 0.2
parcels = ["round-open", "masked"]
"""


@pytest.fixture(scope="module", autouse=True)
def _quick():
    with quick_last_steps(2), pytest.MonkeyPatch.context() as patch:
        for name in ("_run_id", "_node_id", "_task_id"):  # whose message it is, which Flower's runtimes set
            patch.setattr(TaskIdentity, name, 1)
        yield
    client._home.clear()


def arm(path: Path, **options):
    return simulate(path, **options)["arms"][0]


# -- what comes out ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "nodes", "forgets"), [("ring", 1, False), ("ring", 3, True), ("off", 9, False)])
def test_any_number_of_nodes_gives_the_backbone_of_our_own_engine(tmp_path, kind, nodes, forgets):
    path = scenario(tmp_path, more=STORM)
    own = arm(path, sum=kind, finish=False)
    found = arm(path, sum=kind, finish=False, engine=hire_on(GridHere(nodes, forgets=forgets)))
    assert found["backbone"] == own["backbone"]
    told = ("version", "cohort", "survivors", "loss", "held_out", "clipped_share")
    assert [[row[key] for key in told] for row in found["history"]] == [
        [row[key] for key in told] for row in own["history"]
    ]


@pytest.mark.parametrize("how", ['kind = "sign-flip"', 'kind = "stale"', 'kind = "label-flip"'])
def test_departments_misbehave_there_too(tmp_path, how):
    """With workers that forget: what a misbehaving department remembers is among its private state."""
    path = scenario(tmp_path, more=f'[[behaviour]]\n{how}\ndepartments = ["north"]\n')
    own = arm(path, sum="ring", finish=False)
    found = arm(path, finish=False, engine=hire_on(GridHere(2, forgets=True)))
    honest = arm(scenario(tmp_path / "honest"), sum="ring", finish=False)
    assert found["backbone"] == own["backbone"] != honest["backbone"]


def test_departments_end_with_the_same_reports(tmp_path):
    path = scenario(tmp_path, rounds=2)
    own, found = arm(path, sum="ring"), arm(path, engine=hire_on(GridHere(2)))
    assert found["sum"] == "ring"
    assert [row["name"] for row in found["departments"]] == list(NAMES)
    assert found["departments"] == own["departments"]


class Killed(BaseException):
    """Stands for SIGKILL: nothing of the program catches it."""


@pytest.mark.parametrize("kind", ["round", "trained", "closed"])
def test_killed_at_any_event_it_goes_on_to_the_same_backbone(tmp_path, kind):
    path = scenario(tmp_path, more="[network]\ndrop = 0.25\n")
    undisturbed = arm(path, sum="ring", finish=False)["backbone"]
    deaths = 0
    while True:
        seen = 0

        def tell(_arm, event, _facts, nth=deaths + 1):
            nonlocal seen
            seen += event in (kind, f"run-{kind}")
            if seen == nth and event in (kind, f"run-{kind}"):
                raise Killed

        try:
            engine = hire_on(GridHere(2, forgets=True))
            found = arm(path, finish=False, folder=tmp_path / "kept", engine=engine, tell=tell)
        except Killed:
            deaths += 1
            assert deaths < 40
            continue
        break
    assert deaths >= 2
    assert found["backbone"] == undisturbed


# -- what goes wrong ---------------------------------------------------------------------------------------------------


def test_wrong_data_of_all_departments_is_told_at_once(tmp_path):
    path = scenario(tmp_path)
    for name in ("north", "south"):
        (tmp_path / f"{name}.csv").write_text("a,b,c,d,target\n1,2,3,4,yes\n")
    with pytest.raises(DataError) as found:
        simulate(path, engine=hire_on(GridHere(3)))
    assert "north" in str(found.value) and "south" in str(found.value) and "east.csv" not in str(found.value)


def test_a_worker_that_fails_ends_the_simulation_with_its_reason(tmp_path):
    with pytest.raises(ProcessDied, match="out of memory"):
        simulate(scenario(tmp_path), engine=hire_on(GridHere(2, fails=True)))


def test_rounds_end_when_flower_has_stopped(tmp_path):
    stopped = threading.Event()
    stopped.set()
    with pytest.raises(ProcessDied, match="no nodes"):
        simulate(scenario(tmp_path), engine=hire_on(GridHere(0), stopped))


def test_exact_sums_and_unknown_engines_are_refused(tmp_path):
    path = scenario(tmp_path)
    with pytest.raises(ConfigError, match="no exact sums"):
        simulate(path, sum="exact", engine=hire_on(GridHere(2)))
    with pytest.raises(ConfigError, match="--engine ray"):
        simulate(path, engine="ray")


def test_a_folder_stays_with_the_engine_that_began_it(tmp_path):
    path = scenario(tmp_path, rounds=1)
    arm(path, finish=False, folder=tmp_path / "kept", engine=hire_on(GridHere(2)))
    with pytest.raises(ConfigError, match="what differs: engine"):
        simulate(path, sum="ring", finish=False, folder=tmp_path / "kept")


def test_without_ray_the_command_that_installs_it_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr("commonroot.simulations.flower_app.here.find_spec", lambda name: None)
    with pytest.raises(ConfigError) as found:
        simulate(scenario(tmp_path), engine="flower")
    assert found.value.advice == "pip install 'commonroot[flower-simulation]'"


# -- private states as files -------------------------------------------------------------------------------------------


def states(value: float) -> dict[str, np.ndarray]:
    return {"head/weight": np.full((2, 3), value, np.float32), "count": np.array(value), "a": np.array([1], np.int64)}


def test_a_state_comes_back_as_it_was_and_in_its_order(tmp_path):
    kept = States(tmp_path)
    assert kept.before(7, 9) is None
    kept.put(7, 3, states(0.5))
    found = kept.before(7, 4)
    assert list(found) == ["head/weight", "count", "a"]
    assert {name: (array.dtype, array.shape, array.tolist()) for name, array in found.items()} == {
        name: (array.dtype, array.shape, array.tolist()) for name, array in states(0.5).items()
    }


def test_the_state_from_before_a_round_is_there_until_the_next(tmp_path):
    kept = States(tmp_path)
    for version in range(4):
        kept.put(0, version, states(version))
    kept.put(0, 3, states(30.0))
    assert kept.before(0, 3)["count"] == 2
    assert kept.before(0, 4)["count"] == 30
    assert kept.before(0, 2) is None
    assert sorted(path.name for path in (tmp_path / "0").iterdir()) == ["2.safetensors", "3.safetensors"]


# -- Flower's simulation itself ----------------------------------------------------------------------------------------


def test_the_app_is_one_file_that_names_installed_code(tmp_path):
    path = scenario(tmp_path / "world")
    files = write_app(tmp_path / "app", path, arms=["fedavg"], sum=None, quick=True, keep=None, out=None)
    found = tomllib.loads(files[0].read_text())["tool"]["flwr"]["app"]
    for target in found["components"].values():
        module, name = target.split(":")
        assert hasattr(importlib.import_module(module), name)
    assert found["config"]["scenario"] == str(path.resolve())
    assert write_app(tmp_path / "app", path, arms=[], sum="off", quick=False, keep=None, out=None) == files


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"sum": "exact"}, "no exact sums"),
        ({"arms": ["fedperr"]}, "fedperr"),
        ({"arms": ["fedper:a=1, b=2"]}, "spaces"),
    ],
)
def test_an_app_that_could_not_run_is_not_written(tmp_path, options, told):
    given = {"arms": [], "sum": None, "quick": True, "keep": None, "out": None} | options
    with pytest.raises(ConfigError, match=told):
        write_app(tmp_path / "app", scenario(tmp_path), **given)
    assert not (tmp_path / "app").exists()


def test_an_app_is_not_written_over_something_else(tmp_path):
    path = scenario(tmp_path)  # which lies in the folder
    with pytest.raises(ConfigError, match="holds no app"):
        write_app(tmp_path, path, arms=[], sum=None, quick=True, keep=None, out=None)


PUBLISHED = """
[charter]
federation = "house"
name = "read"
rounds = 1
backbone = { family = "mlp", inputs = 7, widths = [4] }
[world]
kind = "dataset"
name = "NAME"
"""


def command(*arguments: object) -> Result:
    app = group("The program.")
    add_commands(app)
    return CliRunner().invoke(app, ["simulate", *map(str, arguments)])


def published(folder: Path, name: str, monkeypatch) -> Path:
    """A scenario of a published dataset, on a machine that has none."""
    monkeypatch.delenv("COMMONROOT_DATA", raising=False)
    monkeypatch.setattr("commonroot.simulations.datasets.world.downloads", lambda: folder / "downloads")
    path = folder / "federation.toml"
    path.write_text(PUBLISHED.replace("NAME", name))
    return path


def test_departments_that_only_data_knows_are_counted_where_it_is_here(tmp_path, monkeypatch):
    path = published(tmp_path, "digit-images", monkeypatch)  # which comes with scikit-learn
    done = command(path, "--write-flower-app", tmp_path / "app")
    assert done.exit_code == 0 and "'num-supernodes=4'" in done.output
    assert "the data" not in done.output


def test_a_number_that_works_is_said_to_be_one_where_the_data_is_not_here(tmp_path, monkeypatch):
    path = published(tmp_path, "heart", monkeypatch)
    done = command(path, "--write-flower-app", tmp_path / "app")
    assert done.exit_code == 0 and "'num-supernodes=16'" in done.output
    assert "only the data knows the departments" in done.output


def test_the_app_says_where_published_data_lies(tmp_path, monkeypatch):
    path = published(tmp_path, "heart", monkeypatch)

    def said(data: Path | None) -> str:
        written = write_app(tmp_path / "app", path, arms=[], sum=None, quick=True, keep=None, out=None, data=data)
        return tomllib.loads(written[0].read_text())["tool"]["flwr"]["app"]["config"]["data"]

    assert said(None) == ""
    assert said(tmp_path / "elsewhere") == str(tmp_path / "elsewhere")
    (tmp_path / "here" / get("heart").folder).mkdir(parents=True)
    monkeypatch.setenv("COMMONROOT_DATA", str(tmp_path / "here"))  # which Flower's processes may not have
    assert said(None) == str(tmp_path / "here")


def test_the_server_app_looks_for_data_where_its_settings_say(tmp_path, monkeypatch):
    asked = {}

    def simulate(path, **options):
        asked.update(options, path=path)
        return {"arms": []}

    monkeypatch.setattr("commonroot.simulations.simulate.simulate", simulate)
    monkeypatch.setattr("commonroot.simulations.comparison.save", lambda result, folder: [])
    settings = dict.fromkeys(SETTINGS, "") | {"scenario": "x.toml", "quick": True, "data": str(tmp_path)}
    main(None, SimpleNamespace(run_config=settings))
    assert asked["data"] == tmp_path
    main(None, SimpleNamespace(run_config=settings | {"data": ""}))
    assert asked["data"] is None


@pytest.mark.parametrize(
    ("option", "value", "told"),
    [("--track", "tensorboard:here", "leave it out"), ("--workers", "4", "init-args-num-cpus=4")],
)
def test_what_has_no_meaning_in_an_app_is_refused(tmp_path, option, value, told):
    done = command(scenario(tmp_path), "--write-flower-app", tmp_path / "app", option, value)
    assert done.exit_code == ConfigError.exit_code
    assert f"{option}: an app for Flower" in done.output and told in done.output
    assert not (tmp_path / "app").exists()


@pytest.fixture
def digits(tmp_path) -> Path:
    path = tmp_path / "federation.toml"
    path.write_text(DIGITS)
    return path


@needs_ray
@pytest.mark.slow
def test_flowers_simulation_gives_the_same_backbone(digits):
    command = [sys.executable, "-m", "commonroot", "simulate", str(digits), "--workers", "2", "--quick", "--json"]
    done = subprocess.run([*command, "--engine", "flower"], capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["arms"][0]["backbone"] == arm(digits, sum="ring", finish=False)["backbone"]


@pytest.fixture
def superlink(tmp_path) -> Iterator[dict[str, str]]:
    """Flower's hub for simulations, and the environment in which its command finds it."""
    with socket.socket() as one, socket.socket() as two:
        one.bind(("127.0.0.1", 0))
        two.bind(("127.0.0.1", 0))
        port, control = one.getsockname()[1], two.getsockname()[1]
    home = tmp_path / "home"
    home.mkdir()
    address = f'address = "127.0.0.1:{port}"\ninsecure = true\n'
    (home / "config.toml").write_text(f'[superlink]\ndefault = "here"\n[superlink.here]\n{address}')
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = os.environ | {"FLWR_HOME": str(home), "PATH": path, "RAY_USAGE_STATS_ENABLED": "0"}
    command = ["flower-superlink", "--insecure", "--simulation", "--isolation", "subprocess", "--host", "127.0.0.1"]
    command += ["--port", str(port), "--control-api-address", f"127.0.0.1:{control}"]
    program = shutil.which(command[0], path=path)
    with (tmp_path / "superlink.log").open("w") as log:
        process = subprocess.Popen([str(program), *command[1:]], env=environment, stdout=log, stderr=log)
    try:
        for _ in range(600):
            try:
                if httpx.get(f"http://127.0.0.1:{port}/health", timeout=1).is_success:
                    break
            except httpx.HTTPError:
                time.sleep(0.1)
        yield environment
    finally:
        process.terminate()
        process.wait(20)


@needs_ray
@pytest.mark.slow
def test_flwr_run_gives_the_same_backbone(tmp_path, digits, superlink):
    files = write_app(tmp_path / "app", digits, arms=[], sum=None, quick=True, keep=None, out=None)
    flwr = str(shutil.which("flwr", path=superlink["PATH"]))
    command = [flwr, "run", str(files[0].parent), "--stream", "--federation-config"]
    command += ["num-supernodes=5 client-resources-num-cpus=1 init-args-num-cpus=2"]
    done = subprocess.run(command, env=superlink, capture_output=True, text=True, timeout=240)
    report = tmp_path / "app-report" / "report.json"
    assert report.is_file(), done.stdout + done.stderr
    found = json.loads(report.read_text())["arms"][0]["backbone"]
    assert found == arm(digits, sum="ring", finish=False)["backbone"]
