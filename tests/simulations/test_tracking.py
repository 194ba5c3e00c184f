"""What trackers are shown: every round once, as it closes, then what the arm ended with, and nothing of test rows in a
sweep.  The real packages are asked where they are installed."""

from __future__ import annotations

import sys
from collections.abc import Mapping

import pytest
from small_world import few_recipes, scenario

from commonroot import simulate
from commonroot.common.errors import ConfigError
from commonroot.simulations import tracking
from commonroot.simulations.scenario import read_scenario
from commonroot.simulations.sweeps.cells import request_of, run_cell
from commonroot.simulations.sweeps.plan import read_plan
from commonroot.simulations.sweeps.run import run_plan


@pytest.fixture(scope="module", autouse=True)
def _quick():
    with few_recipes(1):
        yield


class Paper:
    """A tracker of paper: it keeps what it is told, as the real ones do, under the same protocol."""

    def __init__(self, place: str, federation: str) -> None:
        self.place, self.federation = place, federation
        self.runs: dict[str, dict[str, object]] = {}
        PAPERS[place] = self

    def begin(self, name: str, params: tracking.Params, *, key: str = "") -> tracking.Log | None:
        if key and any(run["key"] == key for run in self.runs.values()):
            return None
        run: dict[str, object] = {"key": key, "params": dict(params), "rounds": [], "end": None, "broken": False}
        self.runs[name] = run
        return Line(run)


class Line:
    def __init__(self, run: dict[str, object]) -> None:
        self.run = run

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        self.run["rounds"].append((step, dict(values)))

    def end(self, metrics: Mapping[str, float]) -> None:
        self.run["end"] = dict(metrics)

    def broken_off(self) -> None:
        self.run["broken"] = True


PAPERS: dict[str, Paper] = {}


@pytest.fixture
def paper(monkeypatch, request):
    """A place of its own for every test."""
    monkeypatch.setattr(tracking, "_KINDS", {**tracking._KINDS, "paper": Paper})
    return f"paper:{request.node.name}"


def written(paper: str) -> Paper:
    return PAPERS[paper.partition(":")[2]]


def test_an_arm_is_shown_round_by_round_and_ends_with_its_gains(tmp_path, paper):
    result = simulate(scenario(tmp_path, rounds=2), track=paper, arms=["fedper:anchor=0.5", "pooled"])
    assert written(paper).federation == "works"
    runs = {run["params"]["arm"]: run for run in written(paper).runs.values()}
    assert set(runs) == {"fedper:anchor=0.5", "pooled"}
    run = runs["fedper:anchor=0.5"]
    history = result.report["arms"][0]["history"]
    assert [step for step, _ in run["rounds"]] == [1, 2]
    for (_, values), row in zip(run["rounds"], history, strict=True):
        assert values == {name: float(row[name]) for name in tracking.SHOWN}
    gains = dict(result.table.filter(arm="fedper:anchor=0.5").select("department", "gain").rows())
    assert {f"gain federated/{name}": gain for name, gain in gains.items()}.items() <= run["end"].items()
    assert run["end"]["mean gain federated"] == pytest.approx(sum(gains.values()) / 4)
    assert run["params"]["training.batch"] == 8 and run["params"]["seed"] == 1
    assert runs["pooled"]["rounds"] == [] and "gain kept/west" in runs["pooled"]["end"]
    assert not any(one["broken"] for one in runs.values())


def test_the_options_that_are_shown_are_those_of_the_arm(tmp_path, paper):
    simulate(scenario(tmp_path, rounds=1), track=paper, arms=["fedavg", "fedper:anchor=0.5"], quick=True)
    methods = {run["params"]["arm"]: run["params"] for run in written(paper).runs.values()}
    assert methods["fedavg"]["method"] == "fedavg" and "option.anchor" not in methods["fedavg"]
    assert methods["fedper:anchor=0.5"]["option.anchor"] == 0.5


def test_a_run_that_goes_on_shows_earlier_rounds_too_each_once(tmp_path, paper):
    class Killed(BaseException):
        pass

    def kill(arm, kind, facts):
        if kind == "run-closed" and facts["version"] == 2:
            raise Killed

    from commonroot.simulations.simulate import simulate as run

    path = scenario(tmp_path / "data", rounds=4)
    with (
        pytest.raises(Killed),
        tracking.trackers([paper], read_scenario(path)) as shown,
    ):
        run(path, sum="ring", finish=False, folder=tmp_path / "kept", tell=tracking.both(kill, shown))
    assert [one["broken"] for one in written(paper).runs.values()] in ([], [True])
    simulate(path, sum="ring", quick=True, folder=tmp_path / "kept", track=paper)
    [run_of] = [one for one in written(paper).runs.values() if one["end"] is not None]
    assert sorted(step for step, _ in run_of["rounds"]) == [1, 2, 3, 4]


def test_a_cell_of_a_sweep_is_shown_once_and_nothing_of_test_rows(tmp_path, paper):
    scenario(tmp_path, rounds=2)
    (tmp_path / "s.toml").write_text('scenario = "federation.toml"\n[axes]\ncharter.training.batch = [8, 16]\n')
    plan = read_plan(tmp_path / "s.toml")
    for cell in plan.cells:
        run_cell(request_of(cell), tmp_path / "out" / "cells")
    run_plan(plan, tmp_path / "out", workers=1, track=paper)
    runs = list(written(paper).runs.values())
    assert [run["params"]["charter.training.batch"] for run in runs] == ["8", "16"]
    assert [len(run["rounds"]) for run in runs] == [2, 2]
    expected = {"validation alone", "validation federated", "validation gain", "held_out", "seconds"}
    assert all(set(run["end"]) == expected for run in runs)
    before = written(paper)
    listening = tracking.Trackers([before], plan.base)
    listening.cell("again", plan.cells[0].key, {}, [], {})
    assert len(before.runs) == 2


@pytest.mark.parametrize("text", ["tensorboard", "mlflow:", "wandb:x", "x"])
def test_what_is_no_place_to_track_is_refused(text, tmp_path):
    with pytest.raises(ConfigError, match="not a place to track"):
        tracking.trackers([text], read_scenario(scenario(tmp_path)))


@pytest.mark.parametrize(
    ("kind", "module", "package"),
    [("tensorboard", "torch.utils.tensorboard", "tensorboard"), ("mlflow", "mlflow.tracking", "mlflow-skinny")],
)
def test_a_package_that_is_absent_is_named_with_what_to_type(kind, module, package, tmp_path, monkeypatch):
    for name in (module, kind, "mlflow.exceptions"):
        monkeypatch.setitem(sys.modules, name, None)  # what import then finds is that there is none
    with pytest.raises(ConfigError, match=f"needs the package {package}, which is not installed") as caught:
        tracking.trackers([f"{kind}:{tmp_path}"], read_scenario(scenario(tmp_path)))
    assert f"pip install {package}" in caught.value.advice


def test_names_are_those_that_trackers_and_file_systems_take():
    assert tracking._word("gain kept/Süd (1)") == "gain_kept/S_d_1"
    assert tracking._word("../../etc") == "etc" and tracking._word("…") == "run"


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_tensorboard_reads_what_is_written(tmp_path):
    """Its own reader, on the files of a simulation."""
    pytest.importorskip("tensorboard", reason="the extra commonroot[tracking] is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    result = simulate(scenario(tmp_path / "data", rounds=3), quick=True, track=f"tensorboard:{tmp_path / 'board'}")
    [folder] = (tmp_path / "board").iterdir()
    events = EventAccumulator(str(folder))
    events.Reload()
    read = [(one.step, one.value) for one in events.Scalars("round/held_out")]
    assert read == [(at, pytest.approx(loss)) for at, loss in enumerate(result.rounds["held_out"], start=1)]
    assert {"round/survivors", "round/clipped_share", "last held_out"} <= set(events.Tags()["scalars"])
    assert events.PluginTagToContent("hparams")


def test_tensorboard_shows_a_cell_once_and_anew_where_it_was_half_written(tmp_path):
    pytest.importorskip("tensorboard", reason="the extra commonroot[tracking] is not installed")
    board = tracking._TensorBoard(str(tmp_path), "works")
    half = board.begin("a cell", {"x": 1}, key="k" * 32)
    half.scalars(1, {"loss": 1.0})
    half.broken_off()
    whole = board.begin("a cell", {"x": 1}, key="k" * 32)
    whole.scalars(1, {"loss": 2.0})
    whole.end({"gain": 0.1})
    assert board.begin("a cell", {"x": 1}, key="k" * 32) is None
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    [folder] = tmp_path.iterdir()
    events = EventAccumulator(str(folder))
    events.Reload()
    assert [one.value for one in events.Scalars("round/loss")] == [2.0]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("store", ["sqlite", "file"])
def test_mlflow_reads_what_is_written(store, tmp_path, monkeypatch):
    """Its own client, on both stores that ``docs/notebook.md`` names."""
    pytest.importorskip("mlflow", reason="the extra commonroot[tracking] is not installed")
    if store == "file":
        monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    from mlflow.tracking import MlflowClient

    uri = f"sqlite:///{tmp_path}/runs.db" if store == "sqlite" else (tmp_path / "runs").as_uri()
    result = simulate(scenario(tmp_path / "data", rounds=3), quick=True, track=f"mlflow:{uri}")
    client = MlflowClient(uri)
    [run] = client.search_runs([client.get_experiment_by_name("works").experiment_id])
    assert (run.info.status, run.data.params["method"]) == ("FINISHED", "fedper")
    history = client.get_metric_history(run.info.run_id, "held_out")
    assert [one.value for one in sorted(history, key=lambda one: one.step)] == result.rounds["held_out"].to_list()
    store = tracking._MLflow(uri, "works")
    store.begin("a cell", {"x": 1}, key="k").end({"gain": 0.1})
    assert store.begin("a cell", {"x": 1}, key="k") is None


def test_a_place_that_mlflow_does_not_know_is_told_with_its_own_words(tmp_path):
    pytest.importorskip("mlflow", reason="the extra commonroot[tracking] is not installed")
    with pytest.raises(ConfigError, match="--track mlflow:nowhere://x"):
        tracking.trackers(["mlflow:nowhere://x"], read_scenario(scenario(tmp_path)))
