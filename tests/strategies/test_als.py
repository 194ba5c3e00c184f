"""Federated factorisation equals factorisation of all ratings in one place."""

import itertools
import math
import os
from pathlib import Path

import gathering_cases as cases
import numpy as np
import pytest

from commonroot.common.backbone.factors import FactorsSpec, joined, split
from commonroot.common.errors import ConfigError, DataError, OutsideCharter, SumRejected
from commonroot.strategies import build, seal
from commonroot.strategies.als import COUNTED, CUT, MEAN, USERS, items_of, predict, systems

PARTS = [cases.ratings(seed, users) for seed, users in enumerate((14, 20, 9, 31))]


def predictions(draft, states, data):
    """Every rating that the last state and its own users give."""
    method = build(draft)
    users, _ = method.solve_users(states[-1], data["user"], data["item"], data["rating"], int(data["users"]))
    return predict(method.mean(states[-1]), items_of(states[-1]), users, data["user"], data["item"])


@pytest.mark.parametrize("options", [{}, {"weighted": True, "strength": 0.05}], ids=["ridge", "weighted"])
def test_it_equals_the_pooled_one_through_the_secure_sums_fixed_point(options):
    draft, pooled = cases.als_draft(rounds=12, **options), cases.pooled_ratings(PARTS)
    federated = cases.rounds_of(draft, PARTS)
    together = cases.rounds_of(draft, [pooled], through=cases.plain_sum)
    np.testing.assert_allclose(items_of(federated[-1]), items_of(together[-1]), atol=1e-7)
    found = np.concatenate([predictions(draft, federated, part) for part in PARTS])
    np.testing.assert_allclose(found, predictions(draft, together, pooled), atol=1e-7)


@pytest.mark.parametrize("weighted", [False, True])
def test_it_equals_alternating_least_squares_written_out(weighted):
    """Another program: dense matrices, one user and one item at a time, float64 throughout."""
    strength = 0.1 if weighted else 2.0
    draft = cases.als_draft(rounds=5, weighted=weighted, strength=strength)
    data = cases.pooled_ratings(PARTS)
    rated = np.full((int(data["users"]), cases.ITEMS), np.nan)
    rated[data["user"], data["item"]] = data["rating"]
    mean = np.nanmean(rated)

    def fit(x, y):
        x = np.column_stack([np.ones(len(x)), x])
        penalty = strength * (max(len(x), 1) if weighted else 1) * np.eye(x.shape[1])
        return np.linalg.solve(x.T @ x + penalty, x.T @ y)

    items = items_of(build(draft).initial(draft))
    for i in range(cases.ITEMS):
        column = rated[:, i][~np.isnan(rated[:, i])]
        items[i, 0] = (column - mean).sum() / (len(column) + strength * (len(column) if weighted else 1))
    for _ in range(draft.rounds - 1):
        users = []
        for row in rated:
            known = ~np.isnan(row)
            users.append(fit(items[known, 1:], row[known] - mean - items[known, 0]))
        users = np.array(users)
        following = []
        for column in rated.T:
            known = ~np.isnan(column)
            following.append(fit(users[known, 1:], column[known] - mean - users[known, 0]))
        items = np.array(following)
    state = cases.rounds_of(draft, PARTS)[-1]
    assert build(draft).mean(state) == pytest.approx(mean, abs=1e-9)
    np.testing.assert_allclose(items_of(state), items, atol=1e-7)


def test_sweeps_never_raise_the_penalised_error():
    draft, data = cases.als_draft(rounds=10), cases.pooled_ratings(PARTS)
    method, costs = build(draft), []
    for state in cases.rounds_of(draft, [data], through=cases.plain_sum)[2:]:
        users, _ = method.solve_users(state, data["user"], data["item"], data["rating"], int(data["users"]))
        found = predict(method.mean(state), items_of(state), users, data["user"], data["item"])
        penalty = 2.0 * (np.square(users).sum() + np.square(items_of(state)).sum())
        costs.append(float(np.square(found - data["rating"]).sum() + penalty))
    assert all(later <= earlier * (1 + 1e-9) for earlier, later in itertools.pairwise(costs))


def test_the_first_round_counts_and_moves_no_factor():
    draft = cases.als_draft()
    first, second = cases.rounds_of(draft, PARTS)[:2]
    np.testing.assert_array_equal(items_of(first)[:, 1:], items_of(second)[:, 1:])
    mean = np.concatenate([part["rating"] for part in PARTS]).mean()
    assert build(draft).mean(second) == pytest.approx(mean, abs=1e-12)
    assert float(second[COUNTED]) == 1.0


def test_systems_by_hand():
    """User 1 rated items 0 and 2 with features (1, 2) and (1, 4): Σ x xᵀ = [2 6; 6 20], Σ x·target = [8, 26]."""
    features = np.array([[1.0, 2], [1, 3], [1, 4]])
    gram, moment = systems(np.array([1, 1]), np.array([0, 2]), features, np.array([3.0, 5]), 2)
    np.testing.assert_array_equal(gram, [[0, 0, 0], [2, 6, 20]])
    np.testing.assert_array_equal(moment, [[0, 0], [8, 26]])


def test_systems_of_many_ratings_do_not_depend_on_where_steps_cut():
    random = np.random.default_rng(5)
    n = 40_000
    group, other = np.sort(random.integers(0, 3, n)), random.integers(0, 50, n)
    features, targets = random.normal(size=(50, 3)), random.normal(size=n)
    gram, moment = systems(group, other, features, targets, 3)
    for at in range(3):
        x = features[other[group == at]]
        np.testing.assert_allclose(gram[at], (x.T @ x)[np.triu_indices(3)], rtol=1e-10)
        np.testing.assert_allclose(moment[at], x.T @ targets[group == at], rtol=1e-9, atol=1e-9)


def test_an_item_that_nobody_rated_has_no_factors():
    draft = cases.als_draft(items=cases.ITEMS + 1)
    assert not items_of(cases.rounds_of(draft, PARTS)[-1])[-1].any()


def test_users_factors_are_kept_and_are_in_no_term():
    draft = cases.als_draft()
    method, states = build(draft), cases.rounds_of(draft, PARTS)
    made = method.gather(draft, states[2], PARTS[0], {})
    assert made.private[USERS].shape == (14, 4)
    assert not set(made.terms) & set(made.private)
    bodies = b"".join(term.tobytes() for term in made.terms.values())
    assert all(value.tobytes() not in bodies for value in made.private[USERS].ravel())


def test_a_user_longer_than_the_limit_is_cut_to_it_and_counted():
    draft = cases.als_draft(strength=1e-3, factor_limit=1.5)
    method = build(draft)
    state = method.initial(draft) | {COUNTED: np.ones((), np.float32)}
    made = method.gather(draft, state, PARTS[0], {})
    assert int(made.private[CUT]) > 0
    assert np.sqrt(np.square(made.private[USERS]).sum(axis=1)).max() == pytest.approx(1.5)


def test_ratings_beyond_the_range_and_too_many_of_one_item_are_refused():
    draft = cases.als_draft(most_users=5)
    part = PARTS[1] | {"rating": PARTS[1]["rating"] + 0.5}
    with pytest.raises(DataError, match=r"not between 1 and 5; one item has \d+ ratings; the charter admits 5"):
        build(draft).gather(draft, build(draft).initial(draft), part, {})


def test_sums_of_no_users_are_rejected():
    draft = cases.als_draft()
    method, states = build(draft), cases.rounds_of(draft, PARTS)
    sums = cases.plain_sum(draft, [method.gather(draft, states[2], part, {}).terms for part in PARTS])
    for wrong in (sums["gram"] - 100.0, sums["gram"] + 0.25):
        with pytest.raises(SumRejected, match="counts"):
            method.combine(draft, states[2], sums | {"gram": wrong})
    with pytest.raises(SumRejected, match="limit"):
        method.combine(draft, states[2], sums | {"moment": 1e4 * sums["moment"]})


def test_a_made_up_mean_is_refused():
    draft = cases.als_draft()
    states = cases.rounds_of(draft, PARTS)
    with pytest.raises(OutsideCharter, match="mean"):
        build(draft).check_received(draft, states[2] | {MEAN: np.array([2.5, 0], np.float32)}, 2, states[0], 0)


def test_it_needs_factors_and_two_rounds():
    with pytest.raises(ConfigError, match="one round to count"):
        seal(cases.als_draft(rounds=1))
    with pytest.raises(ConfigError, match="item factors"):
        seal(cases.als_draft().model_copy(update={"backbone": None}))


def test_two_float32_hold_48_bits():
    values = np.random.default_rng(1).normal(size=1000) * 10.0 ** np.random.default_rng(2).integers(-3, 4, 1000)
    assert np.abs(joined(*split(values)) / values - 1).max() < 2.0**-47


def test_factors_of_a_seed_are_the_same_everywhere():
    spec = FactorsSpec(family="factors", items=3, width=2)
    first = joined(*spec.initial(1).values())
    # raw PCG64, which no version of numpy changes
    np.testing.assert_allclose(first[:, 1:].ravel()[:3], [0.0358984394, 0.0042646026, 0.0571337014], atol=1e-9)
    assert not np.array_equal(first, joined(*spec.initial(2).values()))


# -- real ratings ------------------------------------------------------------------------------------------------------

GROUPS = (
    {"student"},
    {"educator", "librarian"},
    {"engineer", "programmer", "scientist", "technician"},
    {"administrator", "executive", "marketing", "salesman"},
    {"writer", "artist", "entertainment"},
)


def movielens():
    """Six occupation groups of MovieLens 100K (Harper and Konstan, 2015), each split 80/20: (train, test) pairs."""
    folder = Path(os.environ.get("COMMONROOT_DATA", "")) / "movielens-100k"
    if not (folder / "u.data").is_file():
        pytest.skip("COMMONROOT_DATA names no folder that holds movielens-100k; its licence forbids shipping it")
    rows = np.loadtxt(folder / "u.data", dtype=np.int64)
    jobs = [line.split("|")[3] for line in (folder / "u.user").read_text(encoding="latin-1").splitlines()]
    group = np.array([next((at for at, jobs_of in enumerate(GROUPS) if job in jobs_of), 5) for job in jobs])
    parts = []
    for at in range(6):
        mine = rows[group[rows[:, 0] - 1] == at]
        names, user = np.unique(mine[:, 0], return_inverse=True)
        order = np.random.default_rng([11, at]).permutation(len(mine))
        both = []
        for some in (order[len(mine) // 5 :], order[: len(mine) // 5]):
            found = {"user": user[some], "item": mine[some, 1] - 1, "rating": mine[some, 2].astype(float)}
            both.append(found | {"users": np.asarray(len(names))})
        parts.append(tuple(both))
    return parts


def rmse(draft, states, train, test):
    method = build(draft)
    users, _ = method.solve_users(states[-1], train["user"], train["item"], train["rating"], int(train["users"]))
    found = predict(method.mean(states[-1]), items_of(states[-1]), users, test["user"], test["item"])
    return found, math.sqrt(np.square(np.clip(found, 1, 5) - test["rating"]).mean())


def test_movielens_by_occupation_reaches_what_pooling_reaches_and_every_group_gains():
    """At most .925, within 1e-6 of all ratings in one place, and every group better than factorising its own."""
    parts = movielens()
    draft = cases.als_draft(rounds=11, items=1682, width=8, strength=12.0, most_users=1000)
    federated = cases.rounds_of(draft, [train for train, _ in parts])
    whole_train = cases.pooled_ratings([train for train, _ in parts])
    whole_test = cases.pooled_ratings([test for _, test in parts])
    together = cases.rounds_of(draft, [whole_train], through=cases.plain_sum)
    pooled, pooled_error = rmse(draft, together, whole_train, whole_test)
    found = [rmse(draft, federated, train, test) for train, test in parts]
    ours = np.concatenate([one for one, _ in found])
    error = math.sqrt(np.square(np.clip(ours, 1, 5) - whole_test["rating"]).mean())
    assert error <= 0.925
    assert abs(error - pooled_error) < 1e-6
    np.testing.assert_allclose(ours, pooled, atol=1e-6)
    for (train, test), (_, federated_error) in zip(parts, found, strict=True):
        alone = cases.rounds_of(draft, [train], through=cases.plain_sum)
        assert federated_error < rmse(draft, alone, train, test)[1]
