"""What endurance is measured by: memory per tenth of the rounds, and a process's own account."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from commonroot.common.errors import ConfigError, RunStopped
from commonroot.simulations import bench_soak, soak_rounds
from commonroot.simulations.bench import run_benchmark
from commonroot.simulations.soak_rounds import Soaked
from commonroot.simulations.trial import Findings
from commonroot.simulations.usage import usage_of


def _sample(name: str, version: int, resident: int) -> dict[str, object]:
    return {"name": name, "pid": 1, "version": version, "resident": resident}


def test_a_tenth_is_the_median_of_its_own_rounds_process_by_process():
    """of 100 rounds, the second tenth is 10 … 19: 5, 7, 60 → 7; 9 and 20 lie outside"""
    samples = [_sample("a", v, r) for v, r in ((9, 900), (10, 5), (14, 60), (19, 7), (20, 900))]
    samples += [_sample("b", 15, 40)]
    assert soak_rounds._tenth(samples, 100, 1) == {"a": 7, "b": 40}
    with pytest.raises(RunStopped, match="no sample"):
        soak_rounds._tenth(samples, 100, 5)


def _soaked(**changes: object) -> Soaked:
    facts = {
        "rounds": 20, "versions": 20, "findings": Findings(0, 0, 0, 0, 0), "kills": ["ash", "coordinator"],
        "restarts": 0, "different": 0, "heads_changed": 0, "growth": {"coordinator": 1.01, "ash": 1.0, "birch": 1.02},
        "together": 1.0, "last": {"coordinator": 1e8, "ash": 2e8, "birch": 2e8}, "journal_bytes": 4000,
        "ledger_bytes": 800.0, "seconds_per_round": 0.3, "slowest": 4.0,
    }  # fmt: skip
    return Soaked(**(facts | changes))  # type: ignore[arg-type]


def test_one_process_that_grows_spoils_the_flat_case_although_all_together_do_not():
    assert all(row.holds for row in bench_soak._flat_rows(_soaked()))
    rows = bench_soak._flat_rows(_soaked(growth={"coordinator": 1.0, "ash": 1.06, "birch": 0.9}))
    assert [row.what for row in rows if not row.holds] == [
        "resident memory, last tenth over second, the process that grew most (ash)"
    ]


@pytest.mark.parametrize(
    "loss",
    [
        {"versions": 19},
        {"findings": Findings(0, 0, 0, 0, 1)},
        {"findings": Findings(1, 0, 0, 0, 0)},
        {"findings": Findings(0, 1, 0, 0, 0)},
        {"findings": Findings(0, 0, 0, 1, 0)},
        {"different": 1},
        {"heads_changed": 1},
        {"together": 1.06},
    ],
)
def test_whatever_is_lost_spoils_the_case_with_kills(loss):
    assert all(row.holds for row in bench_soak._kill_rows(_soaked()))
    assert [row.holds for row in bench_soak._kill_rows(_soaked(**loss))].count(False) == 1


def test_a_samples_file_that_was_cut_short_is_read_up_to_there(tmp_path):
    (tmp_path / "samples.jsonl").write_text('{"at": 1, "killed": "ash", "version": 3}\n{"at": 2, "na')
    assert [one["killed"] for one in soak_rounds._samples(tmp_path)] == ["ash"]


def test_a_process_takes_what_it_touches_and_an_ended_one_nothing():
    here = usage_of(os.getpid())
    assert here is not None
    assert 10 * 2**20 < here.own <= here.resident + 2**20
    assert here.seconds > 0
    child = subprocess.Popen([sys.executable, "-c", "x = bytearray(b'1') * 80_000_000; print('there'); input()"],
                             stdin=subprocess.PIPE, stdout=subprocess.PIPE)  # fmt: skip
    assert child.stdout is not None
    child.stdout.readline()
    there = usage_of(child.pid)
    assert there is not None
    assert 80_000_000 < there.own < 160_000_000
    child.communicate(b"\n")
    assert usage_of(child.pid) is None


def test_soak_and_crash_refuse_cases_they_do_not_have(tmp_path):
    for name in ("soak", "crash"):
        with pytest.raises(ConfigError, match="no case 'sink'"):
            run_benchmark(name, tmp_path, Console(), only=["sink"])
    with pytest.raises(ConfigError, match="a tenth"):
        run_benchmark("soak", tmp_path, Console(), options={"rounds": 10})
    assert list(Path(tmp_path).glob("*.json")) == []


def test_a_benchmark_is_told_a_folder_that_means_the_same_to_processes_it_starts(tmp_path, monkeypatch):
    """The command line's own is relative, and departments stand in their own folders."""
    told: list[Path] = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(bench_soak, "run", lambda console, only, *, data, out: told.append(out) or [])
    run_benchmark("soak", Path("runs/bench"), Console())
    assert told == [tmp_path / "runs/bench/soak"]
