"""``commonroot sweep``: wrong axes are told at once, what is known is not run again, and test rows rank nothing."""

from __future__ import annotations

import csv
import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import typer
from small_world import NAMES, few_recipes, scenario
from typer.testing import CliRunner

from commonroot import sweep
from commonroot.common.errors import ConfigError
from commonroot.console import group
from commonroot.simulations.cli import add_commands
from commonroot.simulations.contents import Contents
from commonroot.simulations.search import search
from commonroot.simulations.sweeps.axes import Axis, Range, axes_of, grid, random, varied
from commonroot.simulations.sweeps.cells import kept, key_of, request_of, run_cell
from commonroot.simulations.sweeps.plan import read_plan
from commonroot.simulations.sweeps.ranking import ranked
from commonroot.simulations.sweeps.run import Sweep, run_plan
from commonroot.simulations.sweeps.shown import frame_of_rows, page_of, save, without_test


@pytest.fixture(scope="module", autouse=True)
def _quick():
    with few_recipes(1):
        yield


def sweep_file(folder: Path, axes: str, *, before: str = "", rounds: int = 2) -> Path:
    scenario(folder, rounds=rounds)
    path = folder / "rates.toml"
    path.write_text(f'scenario = "federation.toml"\n{before}\n[axes]\n{axes}')
    return path


# -- axes --------------------------------------------------------------------------------------------------------------


def test_axes_are_dotted_or_nested():
    nested = {"charter": {"training": {"batch": [8, 16]}, "method": [{"name": "fedper"}]}, "seed": [1, 2]}
    dotted = {"charter.training.batch": (8, 16), "charter.method": [{"name": "fedper"}], "seed": range(1, 3)}
    found = [axes_of(one, where="x") for one in (nested, dotted)]
    assert found[0] == found[1]
    assert [axis.field for axis in found[0]] == ["charter.training.batch", "charter.method", "seed"]


def test_a_grid_is_every_combination():
    axes = [Axis("a", (1, 2)), Axis("b", Range(0.1, 10.0, "log", 3))]
    assert grid(axes, where="x") == [{"a": a, "b": b} for a in (1, 2) for b in (0.1, 1.0, 10.0)]
    assert Range(1, 4, "linear", 9).grid() == [1, 2, 3, 4]  # whole numbers once each
    assert Range(1, 100, "log", 3).grid() == [1, 10, 100]


def test_random_draws_stay_within_and_more_of_them_begin_the_same():
    axes = [Axis("rate", Range(0.001, 0.1, "log")), Axis("width", Range(2, 5)), Axis("kind", ("x", "y"))]
    few, many = (random(axes, draws, 7, where="x") for draws in (10, 40))
    assert many[:10] == few
    assert all(0.001 <= one["rate"] <= 0.1 for one in many)
    assert {one["width"] for one in many} == {2, 3, 4, 5} and {one["kind"] for one in many} == {"x", "y"}
    assert sum(one["rate"] < 0.01 for one in many) in range(10, 31)  # half of a log scale
    # another axis leaves the dice of the others alone
    assert [one["rate"] for one in random(axes[:2], 10, 7, where="x")] == [one["rate"] for one in few]


def test_seeds_repeat_every_draw_and_equal_draws_are_one():
    found = random([Axis("kind", ("x",)), Axis("seed", (1, 2))], 5, 1, where="x")
    assert found == [{"kind": "x", "seed": 1}, {"kind": "x", "seed": 2}]


def test_fields_are_put_in_place_and_the_base_is_left_alone():
    base = {"charter": {"rounds": 1}, "departments": [{"name": "a", "data": {}}, {"name": "b", "data": {}}]}
    before = json.dumps(base)
    found, wrong = varied(
        base, {"charter.training.batch": 8, "departments.b.data.test": 0.3, "departments.0.data.test": 0.1, "seed": 3}
    )
    assert wrong == [] and json.dumps(base) == before
    assert found["charter"] == {"rounds": 1, "training": {"batch": 8}} and found["seed"] == 3
    assert [one["data"]["test"] for one in found["departments"]] == [0.1, 0.3]


@pytest.mark.parametrize(
    ("axes", "told"),
    [
        ("", ["nothing is varied"]),
        ("seed = 3", ["seed: 3 is neither a list"]),
        ("seed = []\n[axes.charter]\nrounds = [1, 1]", ["seed: an empty list", "charter.rounds: a value stands twice"]),
        (
            'charter.training.learning_rate = { low = 1.0, high = 0.1, scale = "lg", step = 2 }',
            ["no such word of a range", "neither 'linear' nor 'log'", "low 1.0 is not below high 0.1"],
        ),
        ('charter.training.learning_rate = { low = 0, high = 1, scale = "log" }', ["begins above 0"]),
        ("charter.training.learning_rate = { low = 0.1, high = 1.0 }", ["says how many `steps`"]),
        ('"charter.training" = [{}]\n"charter.training.batch" = [8]', ["lies inside charter.training"]),
        ("seed = { low = 1, high = 20000, steps = 20000 }", ["20,000 cells; 10,000 at most"]),
    ],
)
def test_wrong_axes_are_told_all_at_once(axes, told, tmp_path):
    with pytest.raises(ConfigError, match=r"rates\.toml has \d+ wrong") as caught:
        read_plan(sweep_file(tmp_path, axes))
    assert [one for one in told if one not in str(caught.value)] == []


def test_wrong_settings_are_told_once_each_with_the_axis_that_is_to_blame(tmp_path):
    axes = """seed = [1, -2]
charter.training.rate = [0.1, 0.2]
charter.training.held_out = [1, 2]
charter.training.momentum = [0.9, 1.5]
charter.method = [{ name = "fedper", options = { anchr = 1 } }, { name = "fedavgg" }]
departments.nroth.data.test = [0.1]
network.drop = [0.1, 2.0]
"""
    with pytest.raises(ConfigError) as caught:
        read_plan(sweep_file(tmp_path, axes))
    lines = [line.strip() for line in str(caught.value).splitlines()[1:]]
    assert sorted(lines) == [
        "charter.method = fedavgg: no method 'fedavgg'; did you mean 'fedavg'?",
        "charter.method = fedper:anchr=1: method 'fedper' has 1 wrong option(s): anchr: did you mean 'anchor'?",
        "charter.training.held_out: there is no such field; did you mean charter.training.held_out_every?",
        "charter.training.momentum = 1.5: Input should be less than 1",
        "charter.training.rate: there is no such field; did you mean charter.training.learning_rate?",
        "departments.nroth.data.test: no 'nroth' in that list; there are north, east, south, west",
        "network.drop = 2: Input should be less than or equal to 1",
        "seed = -2: Input should be greater than or equal to 0",
    ]


@pytest.mark.parametrize(
    ("more", "axes", "told"),
    [
        (
            '[coordinator]\nlies = ["old-backbone"]\n',
            'seed = [1, 2]\nsum = ["exact", "ring"]',
            [r"sum = ring: \[coordinator\] lies, and with ring sums .*sum = \"exact\""],
        ),
        (
            '[[behaviour]]\nkind = "label-flip"\ncount = 1\n',
            'seed = [1, 2]\ncharter.method = [{ name = "fedavg" }, { name = "statistics" }]',
            [
                r"charter.method = statistics: the charter lists no \[\[columns\]\]",
                "charter.method = statistics: label-flip: statistics trains on no labels",
            ],
        ),
    ],
)
def test_what_a_method_cannot_do_is_told_before_anything_runs(more, axes, told, tmp_path):
    path = sweep_file(tmp_path, axes)
    with (tmp_path / "federation.toml").open("a") as file:
        file.write(more)
    with pytest.raises(ConfigError) as caught:
        read_plan(path)
    lines = [line.strip() for line in str(caught.value).splitlines()[1:]]
    assert len(lines) == len(told)
    assert [one for one, line in zip(told, lines, strict=True) if not re.match(one, line)] == []


@pytest.mark.parametrize(
    ("axes", "begins"),
    [
        ("charter.method.options.strength = [1.0, 5.0]", ""),
        ('charter.method = [{ name = "als" }, { name = "als", options = { strength = 5.0 } }]', "charter.method = als"),
    ],
)
def test_a_quick_sweep_takes_no_method_without_held_out_losses(axes, begins, tmp_path):
    path = sweep_file(tmp_path, axes, before="quick = true")
    text = (tmp_path / "federation.toml").read_text()
    text = re.sub("(?m)^method = .*$", 'method = { name = "als" }', text)
    text = re.sub("(?m)^backbone = .*$", 'backbone = { family = "factors", items = 4, width = 2 }', text)
    (tmp_path / "federation.toml").write_text(text)
    with pytest.raises(ConfigError) as caught:
        read_plan(path)
    lines = [line.strip() for line in str(caught.value).splitlines()[1:]]
    assert len(lines) == (2 if begins else 1)
    assert all(line.startswith(begins) and "leave `quick` out" in line for line in lines)
    path.write_text(path.read_text().replace("quick = true", ""))
    assert len(read_plan(path).cells) == 2


def test_fewer_than_one_worker_is_refused(tmp_path):
    path = sweep_file(tmp_path, "seed = [1]")
    with pytest.raises(ConfigError, match="workers: 0; at least 1"):
        sweep(path, folder=tmp_path / "out", workers=0, progress=False)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('scenario = "none.toml"\n[axes]\nseed = [1]', "none.toml does not exist"),
        ('scenario = "federation.toml"\naxis = 1', "(?s)2 wrong field.*axes: Field required.*axis: Extra"),
        ('scenario = "federation.toml"\n[axes]\nseed = [1]\n[random]\ndraws = 0', "random.draws"),
        ("[scenario]\nseed = 1\n[axes]\nseed = [1]", r"\[scenario\] has 1 wrong field.*\s+charter: Field required"),
        ("scenario = 3 4", "not valid TOML"),
        (
            'scenario = "federation.toml"\n[axes]\ndepartments.north.data.path = ["gone.csv"]',
            "departments.north.data.path = gone.csv: .*does not exist",
        ),
    ],
)
def test_a_wrong_file_is_told_by_name(text, told, tmp_path):
    path = sweep_file(tmp_path, "")
    path.write_text(text)
    with pytest.raises(ConfigError, match=told):
        read_plan(path)


# -- cells -------------------------------------------------------------------------------------------------------------


def test_a_key_depends_on_what_is_in_files_and_not_on_where_they_lie(tmp_path):
    keys = []
    for name, rounds in (("a", 2), ("b", 2), ("c", 3)):
        [cell] = read_plan(sweep_file(tmp_path / name, "seed = [1]", rounds=rounds)).cells
        keys.append(cell.key)
    assert keys[0] == keys[1] != keys[2]
    with (tmp_path / "b" / "west.csv").open("a") as file:
        csv.writer(file).writerow([0, 0, 0, 0, 1])
    [changed] = read_plan(tmp_path / "b" / "rates.toml").cells
    assert changed.key != keys[0]
    assert key_of(changed.scenario, quick=True, device="cpu", contents=Contents()) != changed.key


def test_a_scenario_that_asks_a_database_is_refused(tmp_path):
    path = sweep_file(tmp_path, "seed = [1]")
    text = (tmp_path / "federation.toml").read_text()
    text = text.replace('path = "west.csv"', 'url = "sqlite:///x.db"\nquery = "SELECT 1"')
    (tmp_path / "federation.toml").write_text(text)
    with pytest.raises(ConfigError, match="'west' asks a database"):
        read_plan(path)


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """A sweep whose cells ran in this process."""
    root = tmp_path_factory.mktemp("swept")
    plan = read_plan(sweep_file(root / "data", "seed = [1, 2]\ncharter.training.learning_rate = [0.01, 0.2]\n"))
    for cell in plan.cells:
        run_cell(request_of(cell), root / "out" / "cells")
    return plan, root / "out", run_plan(plan, root / "out", workers=1)


def test_what_scores_a_cell_is_what_a_search_opens_for_the_same_charter(swept, tmp_path):
    """One cell's charter as the arm of a search, with masks, openings and an evaluation over the whole protocol."""
    plan, out, _ = swept
    cell = plan.cells[0]
    found = kept(cell.key, out / "cells")["validation"]
    [row] = search(cell.scenario, arms=["fedper"], folder=tmp_path / "kept")["charters"]
    assert sorted(found["departments"]) == sorted(row["departments"]) == sorted(NAMES)
    for name in ("weight", "alone", "federated", "gain", "error"):
        assert found[name] == pytest.approx(row[name], abs=2e-5), name


def test_settings_are_means_over_seeds_best_first(swept):
    _, _, result = swept
    assert [row["of"] for row in result["settings"]] == [2, 2]
    for row in result["settings"]:
        those = [one for one in result["cells"] if one["setting"].items() >= row["setting"].items()]
        gains = [one["gain"] for one in those]
        assert row["score"] == pytest.approx(np.mean(gains))
        spread = np.std(gains, ddof=1) / math.sqrt(2)
        rows = math.hypot(*(one["error"] for one in those)) / 2
        assert row["error"] == pytest.approx(max(spread, rows))
    scores = [row["score"] for row in result["settings"]]
    assert scores == sorted(scores, reverse=True)


def test_test_rows_decide_nothing_and_are_shown_to_nobody_who_does_not_ask(swept, tmp_path):
    """Other test scores, the same ranking; and no figure of them in any file unless asked for."""
    plan, out, result = swept
    turned = [row | {"test_gain": -1000.0 * row["gain"]} for row in result["cells"]]
    assert [row["setting"] for row in ranked(turned, quick=False)] == [row["setting"] for row in result["settings"]]
    assert "test_gain" not in json.dumps(without_test(result))
    hidden = save(result, tmp_path / "hidden")
    assert not any(b"test" in path.read_bytes().replace(b"No test row decides", b"") for path in hidden)
    asked = save(result, tmp_path / "asked", show_test=True)
    assert "test gain, not to choose by" in asked[-1].read_text()
    assert "test_gain" in frame_of_rows(result, show_test=True).columns
    assert "test_gain" not in Sweep(result, plan, out).table.columns


def test_what_is_known_is_not_run_again(swept, monkeypatch):
    plan, out, result = swept
    monkeypatch.setattr("commonroot.simulations.cell_pool.Pool", None)
    assert run_plan(plan, out, workers=2) == result
    assert read_plan(out.parent / "data" / "rates.toml").cells[0].key == plan.cells[0].key


def test_a_sweep_in_python_has_frames_pictures_and_the_best_charter(swept, tmp_path):
    plan, out, result = swept
    found = Sweep(result, plan, out)
    assert found.best == result["settings"][0]["setting"]
    assert found.best_charter.training.learning_rate == found.best["charter.training.learning_rate"]
    assert found.settings.height == 2 and found.table.height == 4
    assert found.report(found.best, seed=2)["seed"] == 2
    assert found.plot().svg.count("by charter.training.learning_rate") >= 1
    assert "<table>" in found._repr_html_()
    with pytest.raises(ConfigError, match="no axis 'seed' was varied"):
        found.plot("seed")
    files = found.save(tmp_path)
    assert [path.name for path in files] == ["sweep.json", "sweep.csv", "sweep.parquet", "sweep.html"]
    assert pl.read_parquet(files[2]).equals(pl.read_csv(files[1], schema=pl.read_parquet(files[2]).schema))


class _Killed(BaseException):
    pass


def test_a_cell_that_was_killed_goes_on_from_its_round_to_the_same_scores(swept, tmp_path):
    plan, out, _ = swept
    request = request_of(plan.cells[0])

    def killed(kind, facts):
        if kind == "run-closed" and facts["version"] == 1:
            raise _Killed

    with pytest.raises(_Killed):
        run_cell(request, tmp_path, killed)
    heard = []
    found = run_cell(request, tmp_path, lambda kind, facts: heard.append((kind, facts)))
    assert [facts["version"] for kind, facts in heard if kind == "stands"] == [1]
    whole = kept(plan.cells[0].key, out / "cells")
    assert found["validation"] == whole["validation"] and found["held_out"] == whole["held_out"]
    assert list((tmp_path / "work").iterdir()) == []


def test_a_setting_of_which_a_cell_failed_has_no_score_and_comes_last():
    def row(value, seed, gain, state="finished"):
        scores = dict.fromkeys(("alone", "federated", "held_out", "seconds", "test_gain"))
        about = {"setting": {"a": value, "seed": seed}, "seed": seed, "state": state, "why": ""}
        return about | scores | {"gain": gain, "error": 0.01}

    rows = [row("x", 1, 0.9), row("x", 2, None, "failed"), row("y", 1, 0.1), row("y", 2, 0.3), row("z", 1, 0.5)]
    found = ranked(rows, quick=False)
    assert [(one["setting"]["a"], one["score"], one["runs"]) for one in found] == [
        ("z", 0.5, 1), ("y", pytest.approx(0.2), 2), ("x", None, 1)
    ]  # fmt: skip
    # y is 0.3 behind; its error is that of its seeds, 0.1: 3.0 standard errors of sqrt(0.1² + 0.01²)
    assert found[1]["behind"] == [pytest.approx(0.3), pytest.approx(math.hypot(0.1, 0.01))]
    assert found[1]["decides"] is True and found[0]["decides"] is None


def test_after_a_quick_sweep_the_lowest_held_out_loss_leads():
    rows = [
        {"setting": {"a": a}, "seed": 1, "state": "finished", "why": "", "held_out": loss, "error": None}
        | dict.fromkeys(("alone", "federated", "gain", "seconds", "test_gain"))
        for a, loss in (("x", 0.9), ("y", 0.2), ("z", math.nan))
    ]
    found = ranked(rows, quick=True)
    assert [one["setting"]["a"] for one in found] == ["y", "x", "z"]
    assert found[1]["behind"] == [pytest.approx(0.7), 0.0] and found[1]["decides"] is None


def test_the_page_escapes_what_it_is_given(swept):
    _, _, result = swept
    evil = dict(result) | {"federation": "<script>", "settings": [row | {"why": "<b>"} for row in result["settings"]]}
    assert "<script>" not in page_of(evil)


# -- the command -------------------------------------------------------------------------------------------------------


def command(*arguments: object):
    app: typer.Typer = group("x")
    add_commands(app)
    return CliRunner().invoke(app, ["sweep", *map(str, arguments)])


def test_the_command_ranks_writes_and_says_so(swept, tmp_path):
    _, out, _ = swept
    done = command(out.parent / "data" / "rates.toml", "--out", out, "--write", tmp_path / "best.toml")
    assert done.exit_code == 0, done.output
    assert "2 settings of charter.training.learning_rate, 2 seeds, 4 cells" in done.stdout
    assert "best: charter.training.learning_rate = " in done.stdout and "test gain" not in done.stdout
    assert "written: " in done.stdout and (tmp_path / "best.toml").read_text().startswith('federation = "works"')
    asked = command(out.parent / "data" / "rates.toml", "--out", out, "--show-test")
    assert "not to choose by" in " ".join(asked.stdout.split())
    said = command(out.parent / "data" / "rates.toml", "--out", out, "--json")
    assert json.loads(said.stdout)["axes"] == ["seed", "charter.training.learning_rate"]
    assert "test_gain" not in said.stdout


@pytest.mark.slow
def test_a_sweep_killed_for_good_goes_on_and_cells_that_cannot_run_are_told(tmp_path):
    """Workers are processes; the second cell's data does not fit, which only its department can tell."""
    path = sweep_file(tmp_path, "charter.backbone.inputs = [4]\ncharter.rounds = [15, 16]\n", before="quick = true")
    code = "import sys; from commonroot.cli import main; sys.argv = ['commonroot', 'sweep', *sys.argv[1:]]; main()"
    arguments = [sys.executable, "-c", code, str(path), "--out", str(tmp_path / "out"), "--workers", "1"]
    process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=os.environ)
    cells = tmp_path / "out" / "cells"
    for _ in range(1200):
        if list(cells.glob("work/*/run/arms/*/coordinator/backbones/run-1-version-3.safetensors")):
            break
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    under_way = list(cells.glob("work/*"))
    assert under_way, "it was killed before its first cell was under way"
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    assert "2 settings of charter.backbone.inputs, charter.rounds" in done.stdout
    assert len(list(cells.glob("*.json"))) == 3  # two cells, and how long they took
    whole = sweep(str(path), folder=tmp_path / "whole", progress=False)
    ours = pl.read_csv(tmp_path / "out" / "sweep.csv").select("charter.rounds", "held_out", "key")
    assert ours.equals(whole.table.select("charter.rounds", "held_out", "key"))
    (tmp_path / "west.csv").write_text("a,b\n1,2\n")
    refused = subprocess.run(arguments, capture_output=True, text=True, timeout=200)
    assert refused.returncode == 2
    assert "no score, 1 of 1 cells did not finish: west" in refused.stdout
