"""Simulations whose networks are computed on a device beside the processor."""

from __future__ import annotations

import pytest
import torch
from device_apart import a_device_apart
from small_world import quick_last_steps, scenario

from commonroot.client.accelerator import PROCESSOR, where
from commonroot.client.trainer import Trainer
from commonroot.common.errors import ConfigError, DeviceFailed
from commonroot.simulations.comparison import on_device
from commonroot.simulations.simulate import simulate
from commonroot.simulations.sweeps.cells import request_of, run_cell
from commonroot.simulations.sweeps.plan import read_plan


@pytest.fixture(scope="module", autouse=True)
def _quick():
    with quick_last_steps(2):
        yield


@pytest.mark.parametrize("sum", ["ring", "exact"])
def test_a_simulation_there_is_the_one_here_where_both_compute_alike(tmp_path, sum):
    """To the last step: what departments fine-tune, compare and choose."""
    path = scenario(tmp_path, rounds=3)
    here = simulate(path, sum=sum)
    with a_device_apart() as name:
        there = simulate(path, sum=sum, device=name)
    assert where() == PROCESSOR
    assert there["arms"][0]["backbone"] == here["arms"][0]["backbone"]
    assert there["table"] == here["table"]
    assert (here["device"], there["device"]) == ("cpu", f"{name}:0")
    assert (on_device(here), on_device(there)) == ("", f", on {name}:0")


def test_a_kept_simulation_goes_on_where_it_began(tmp_path):
    path, kept = scenario(tmp_path, rounds=2), tmp_path / "kept"
    simulate(path, sum="ring", folder=kept, finish=False)
    with a_device_apart() as name, pytest.raises(ConfigError, match="what differs: device"):
        simulate(path, sum="ring", folder=kept, finish=False, device=name)


def test_a_device_of_another_make_is_another_device(tmp_path, monkeypatch):
    path, kept = scenario(tmp_path, rounds=2), tmp_path / "kept"
    with a_device_apart() as name:
        for run in range(2):  # it goes on where it is the same
            simulate(path, sum="ring", folder=kept, finish=run == 1, device=name)
        monkeypatch.setattr(getattr(torch, name), "get_device_name", lambda device: "newer")
        with pytest.raises(ConfigError, match="what differs: device"):
            simulate(path, sum="ring", folder=kept, device=f"{name}:0")


@pytest.mark.parametrize("sum", ["ring", "exact"])
def test_a_device_that_fails_ends_the_run_where_a_department_that_fails_does_not(tmp_path, monkeypatch, sum):
    """In deployment both give zeros; here nobody's rows are to be kept from the one who runs it."""
    path, real = scenario(tmp_path, rounds=2), Trainer.train
    calls = []

    def train(self, *arguments, **options):
        calls.append(1)
        if len(calls) == 3:
            raise RuntimeError("out of memory\nand more")
        return real(self, *arguments, **options)

    monkeypatch.setattr(Trainer, "train", train)
    assert simulate(path, sum=sum, finish=False)["arms"][0]["state"] == "finished"
    calls.clear()
    with a_device_apart() as name, pytest.raises(DeviceFailed, match=f"{name}:0") as caught:
        simulate(path, sum=sum, finish=False, device=name)
    assert sum == "exact" or str(caught.value) == f"{name}:0: out of memory"
    assert len(calls) == 3


def test_workers_are_told_where_to_compute(tmp_path):
    """There is no such device in another process: each says so instead of computing elsewhere."""
    path = scenario(tmp_path, rounds=2)
    for sum in ("ring", "exact"):
        with a_device_apart() as name, pytest.raises(Exception, match="ended with status"):
            simulate(path, sum=sum, workers=2, device=name, finish=False)


def test_a_cell_of_a_sweep_is_computed_there_and_kept_apart(tmp_path):
    scenario(tmp_path, rounds=2)
    file = tmp_path / "sweep.toml"
    text = 'scenario = "federation.toml"\nquick = true\n{}[axes]\nseed = [1]\n'
    file.write_text(text.format(""))
    [here] = read_plan(file).cells
    with a_device_apart() as name:
        file.write_text(text.format(f'device = "{name}"\n'))
        [there] = read_plan(file).cells
        found = run_cell(request_of(there), tmp_path / "cells")
    assert here.key != there.key
    assert found["report"]["device"] == f"{name}:0"
    same = run_cell(request_of(here), tmp_path / "cells")
    assert found["report"]["arms"][0]["backbone"] == same["report"]["arms"][0]["backbone"]


def test_a_sweep_on_a_device_that_is_not_here_is_refused_before_anything_runs(tmp_path):
    scenario(tmp_path, rounds=2)
    file = tmp_path / "sweep.toml"
    file.write_text('scenario = "federation.toml"\ndevice = "meta"\n[axes]\nseed = [1]\n')
    with pytest.raises(ConfigError, match="'meta' computes nothing"):
        read_plan(file)


def test_flowers_engine_computes_on_processors(tmp_path):
    with pytest.raises(ConfigError, match="--device cuda"):
        simulate(scenario(tmp_path), engine="flower", device="cuda")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_device_that_is_not_here_is_told_before_anything_runs(tmp_path):
    kept = tmp_path / "kept"
    with pytest.raises(ConfigError, match="'cuda' cannot be used here"):
        simulate(scenario(tmp_path), folder=kept, device="cuda")
    assert not kept.exists()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine")
@pytest.mark.parametrize("sum", ["ring", "exact"])
def test_on_a_gpu_the_number_of_workers_changes_nothing(tmp_path, sum):
    path = scenario(tmp_path, rounds=3)
    found = {simulate(path, sum=sum, workers=n, device="cuda", finish=False)["arms"][0]["backbone"] for n in (1, 2)}
    assert len(found) == 1
