"""The seven ways in which the digits are dealt out are what their names say."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from commonroot.simulations.datasets import get
from commonroot.simulations.datasets.digits import SCENARIOS

ALL = tuple(map(str, range(10)))


def dealt(folder, scenario, *, seed=1):
    """name → (learning X, learning y, test X, test y)."""
    world = get("digits").write(Path(), folder, seed=seed, protocol=scenario)
    out = {}
    for name, section in world.departments.items():
        with np.load(section["path"]) as learn, np.load(section["test_path"]) as test:
            out[name] = (learn["X"], learn["y"], test["X"], test["y"])
    return out


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_no_image_is_held_twice(scenario, tmp_path):
    """scanners change images and shuffling too, but two departments with one image would still share its ink"""
    found = dealt(tmp_path, scenario)
    if scenario == "dom":
        found = {name: rows for name, rows in found.items() if name in ("plain",)}
    seen = [row.tobytes() for learn, _, test, _ in found.values() for row in np.round(np.concatenate([learn, test]), 9)]
    assert len(set(seen)) == len(seen)


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_every_seed_deals_others_and_none_runs_out(scenario, tmp_path):
    first = dealt(tmp_path / "1", scenario)
    for seed in range(2, 12):
        other = dealt(tmp_path / str(seed), scenario, seed=seed)
        assert list(other) == list(first)
        assert any(not np.array_equal(other[name][0], first[name][0]) for name in first)


def test_heterogeneous_departments_have_six_label_spaces(tmp_path):
    labels = {name: set(rows[3].tolist()) for name, rows in dealt(tmp_path, "het").items()}
    assert labels["sorting"] == set(ALL)
    assert labels["parity"] == {"even", "odd"}
    assert labels["parcels"] == set(ALL[:5])
    assert labels["loops"] == {"0", "1", "2"}
    assert labels["limits"] == {"high", "low"}
    assert labels["amounts"] == set(map(float, range(10)))


def test_tiny_departments_have_twenty_rows_beside_two_big_ones(tmp_path):
    assert sorted(len(rows[1]) for rows in dealt(tmp_path, "tiny").values()) == [20] * 6 + [250] * 2


def test_skewed_departments_meet_three_digits_in_learning_and_in_testing(tmp_path):
    found = dealt(tmp_path, "skew")
    for _, learn, _, test in found.values():
        assert len(set(learn)) == 3 and set(learn) == set(test)
    assert set().union(*(set(learn) for _, learn, _, _ in found.values())) == set(ALL)


def test_scanners_show_the_same_ink_otherwise(tmp_path):
    found = dealt(tmp_path, "dom")
    ink = {name: float(rows[2].mean()) for name, rows in found.items()}
    for name in ("turned", "mirrored", "shifted"):
        assert ink[name] == pytest.approx(ink["plain"], rel=0.1)
    assert ink["inverted"] == pytest.approx(1 - ink["plain"], rel=0.1)
    assert ink["faint"] < 0.3 * ink["plain"]
    assert found["noisy"][2].std() > 1.1 * found["plain"][2].std()
    assert found["blurred"][2].std() < 0.9 * found["plain"][2].std()


def test_one_bad_department_has_random_labels_and_one_shuffled_pixels(tmp_path):
    """a corner pixel is nearly always white; shuffled, it is somewhere inside"""
    from sklearn.linear_model import RidgeClassifier

    found = dealt(tmp_path, "bad")
    score = {name: RidgeClassifier(alpha=10.0).fit(a, b).score(c, d) for name, (a, b, c, d) in found.items()}
    assert score["random"] < 0.25 < 0.6 < min(score[name] for name in score if name != "random")
    sound, shuffled = found["sound-1"], found["shuffled"]
    across = RidgeClassifier(alpha=10.0).fit(sound[0], sound[1])
    assert across.score(found["sound-2"][2], found["sound-2"][3]) > 0.6
    assert across.score(shuffled[2], shuffled[3]) < 0.4


def test_dirichlet_departments_learn_few_digits_and_are_tested_on_all_alike(tmp_path):
    """in equal shares the most frequent digit of a department would be a tenth of its rows"""
    largest = []
    for _, learn, _, test in dealt(tmp_path, "dir").values():
        counts = np.unique(learn, return_counts=True)[1]
        assert len(learn) >= 30
        largest.append(counts.max() / len(learn))
        assert np.unique(test, return_counts=True)[1].tolist() == [7] * 10
    assert np.mean(largest) > 0.25


def test_two_groups_call_the_same_digits_by_different_names(tmp_path):
    """Means of the images called 3: those of a group lie near each other, those of two groups do not."""
    found = dealt(tmp_path, "groups")
    means = {name: test[y == "3"].mean(axis=0) for name, (_, _, test, y) in found.items()}
    groups = {kind: [means[name] for name in means if name.startswith(kind)] for kind in ("plain", "renamed")}
    assert (len(groups["plain"]), len(groups["renamed"])) == (5, 4)
    within = max(np.linalg.norm(one - other) for group in groups.values() for one in group for other in group)
    between = min(np.linalg.norm(one - other) for one in groups["plain"] for other in groups["renamed"])
    assert within < between
    assert all(len(learn) == 40 for learn, _, _, _ in found.values())
