"""The statistics of the guard's benchmark, by hand; and one world from dealing to figures."""

import dataclasses

import numpy as np
import pytest

from commonroot.simulations import bench_guard, guard_cases
from commonroot.simulations.bench_guard import Judged, below, figures, holm
from commonroot.simulations.guard_cases import Case, cases
from commonroot.simulations.guard_worlds import NAMES, write


def test_holm_stops_at_the_first_that_is_too_likely():
    """three at 5 %: the smallest against 0.0167, the next against 0.025, the last against 0.05"""
    assert holm([0.04, 0.001, 0.02]) == 3
    assert holm([0.03, 0.001, 0.03]) == 1
    assert holm([0.02, 0.02, 0.02]) == 0


def test_a_loss_of_one_point_is_within_the_margin():
    """gains -1 ± 0: not below the margin of 1; -3, -4, -5: mean -4, error 0.577, t = -5.2 with 2 degrees: p = 0.0176"""
    assert below(np.full(5, -1.0), 1.0) == 1.0
    assert below(np.full(5, -1.5), 1.0) == 0.0
    assert below(np.array([-3.0, -4.0, -5.0]), 1.0) == pytest.approx(0.0176, abs=1e-4)


@pytest.mark.parametrize("name", [name for name in NAMES if name not in ("heart", "school")])
def test_no_image_is_dealt_twice(name, tmp_path):
    world = write(name, tmp_path, seed=3)
    images = [np.load(path, allow_pickle=False)["X"] for path in sorted(tmp_path.glob("*.npz"))]
    assert len(world.departments) == (6 if name == "het" else 8)
    if name != "dom":  # where the same image could look different
        every = np.concatenate(images)
        from sklearn.datasets import load_digits

        doubles = len(load_digits().data) - len(np.unique(load_digits().data, axis=0))
        assert len(every) - len(np.unique(every, axis=0)) <= doubles


def test_cases_are_made_once_and_come_back_as_they_were(tmp_path, monkeypatch):
    """one round of a world cut to its two smallest departments: what is loaded is what was saved"""
    monkeypatch.setattr(guard_cases, "ROUNDS", 1)
    real = guard_cases.write

    def small(*args, **options):
        world = real(*args, **options)
        return dataclasses.replace(world, departments=dict(list(world.departments.items())[-2:]))

    monkeypatch.setattr(guard_cases, "write", small)
    first = list(cases(["tiny"], [101], tmp_path))
    monkeypatch.setattr(guard_cases, "make", None)
    again = list(cases(["tiny"], [101], tmp_path))
    assert [case.department for case in first] == ["d6", "d7"]
    for one, two in zip(first, again, strict=True):
        assert one.names == two.names and one.names[-2:] == ("federated", "family")
        np.testing.assert_array_equal(one.cross, two.cross)
        assert one.cross.shape == (len(one.names), len(one.y), 10) and one.seen.sum() == 16
    facts = figures([Judged.of(case) for case in again], bench_guard.RULES["guard"])
    assert facts["cases"] == facts["departments"] == 2 and facts["worse"] == 0
    nothing = figures([Judged.of(case) for case in again], lambda judged: judged.weights(1.0))
    assert nothing["gain"] == 0.0 and nothing["kept_alone"] == 1.0 and isinstance(again[0], Case)
