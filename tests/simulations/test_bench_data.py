"""What benchmarks of real data say of a run, on runs made by hand."""

from __future__ import annotations

import numpy as np
import pytest
from rich.console import Console

from commonroot.common.errors import ConfigError
from commonroot.simulations import bench_data
from commonroot.simulations.bench_data import CASES, Case, Found, explained_of_all, mean_of_departments
from commonroot.simulations.datasets import get


def reports(**figures):
    return {name: {"name": name, "chosen": kept, "alone": alone} for name, (kept, alone) in figures.items()}


def test_the_figure_of_a_run_is_the_mean_over_departments():
    """(0.9 + 0.7) / 2 = 0.8 kept and (0.8 + 0.6) / 2 = 0.7 alone, whatever their sizes"""
    found = Found(reports(one=(0.9, 0.8), two=(0.7, 0.6)), {}, {})
    assert mean_of_departments(found) == pytest.approx((0.8, 0.7))


def test_explained_variance_of_all_is_worked_by_hand(tmp_path):
    """y = (1, 3) and (5, 7, 9), together with mean 5 and Σ(y - 5)² = 40; around their own means 2 and 8.

    R² of 0.5 and 0.25 leaves 1 + 6 = 7: 1 - 7/40 = 0.825.  R² of 0 leaves 2 + 8 = 10: 0.75.
    """
    sections = {}
    for name, y in (("one", [1.0, 3.0]), ("two", [5.0, 7.0, 9.0])):
        np.savez(tmp_path / f"{name}.npz", X=np.zeros((len(y), 1)), y=np.array(y))
        sections[name] = {"test_path": str(tmp_path / f"{name}.npz"), "target": "y"}
    found = Found(reports(one=(0.5, 0.0), two=(0.25, 0.0)), sections, {})
    assert explained_of_all(found) == pytest.approx((0.825, 0.75))


@pytest.mark.parametrize(("bound", "held_to"), [(None, 0.6), (0.9, 0.9)])
def test_figures_are_averaged_over_seeds_and_held_to_a_bound_or_to_the_models_alone(
    bound, held_to, monkeypatch, tmp_path
):
    """kept 0.6, 0.7, 0.8 and alone 0.5, 0.6, 0.7 of seeds 1, 2, 3"""

    def simulated(case, source, scratch, seed, console):
        return Found(reports(one=(0.5 + seed / 10, 0.4 + seed / 10)), {}, {})

    monkeypatch.setattr(bench_data, "_simulated", simulated)
    monkeypatch.setattr(bench_data, "CASES", (Case("digit-images", "labels", "accuracy", ">=", bound, (1, 2, 3)),))
    kept, alone = bench_data.run(Console(quiet=True), ["digit-images"], out=tmp_path)
    assert (kept.value, kept.bound, alone.value) == pytest.approx((0.7, held_to, 0.6))
    assert kept.holds == (bound is None) and alone.relation == ""
    assert "mean over 3 seeds" in kept.what
    assert (tmp_path / "digit-images-labels.json").read_text().count('"chosen"') == 3


def test_every_case_is_a_protocol_of_a_dataset_and_is_asked_once():
    names = [case.name for case in CASES]
    assert len(set(names)) == len(names)
    for case in CASES:
        assert case.protocol in get(case.dataset).protocols
        assert case.seeds and len(set(case.seeds)) == len(case.seeds)


def test_an_unknown_dataset_is_refused_before_anything_runs():
    with pytest.raises(ConfigError, match="no dataset"):
        bench_data.run(Console(quiet=True), ["heart", "hearts"])
