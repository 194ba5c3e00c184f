"""What several sums over the same rows would tell together, and that no charter asks for them."""

from types import SimpleNamespace

import gathering_cases as cases
import numpy as np
import pytest
from scipy.optimize import least_squares

from commonroot.common.charter import Cohort
from commonroot.common.errors import TooFewDepartments
from commonroot.common.roster import Parameters
from commonroot.strategies import build, check_roster
from commonroot.strategies.booster import GROWN, LEAF, OFFSET, UNIT, on_grid

ROWS = (52, 137, 310)


def roster_of(n, **options):
    members = [SimpleNamespace(name=f"d{at}") for at in range(n)]
    return SimpleNamespace(departments=members, parameters=Parameters.for_size(n, **options))


def one_column(strengths, **changes):
    draft = cases.linear_draft(rounds=2, strengths=strengths)
    return draft.model_copy(update={"columns": draft.columns[:1]} | changes)


def department(rows):
    random = np.random.default_rng([rows, 8])
    x = np.stack([np.ones(rows), np.clip(random.normal(random.normal(), 1, rows), -4, 4)], axis=1)
    return {"x": x, "y": np.tanh(x[:, 1]), "held_x": x[:1], "held_y": np.zeros(1)}


def gram_matrices(params):
    """Three symmetric matrices A = L Lᵀ from three numbers each."""
    lower = np.zeros((3, 2, 2))
    lower[:, [0, 1, 1], [0, 0, 1]] = params.reshape(3, 3)
    return lower @ lower.transpose(0, 2, 1)


def test_six_strengths_over_three_departments_show_the_rows_of_each_and_are_refused():
    """Σ_k λ - λ²(A_k + λ)^-1 for six λ: 18 opened numbers, 9 unknown ones.  An honest coordinator solves for the three
    A_k from one opened round, and the constant column's entry of A_k is the number of rows."""
    draft = one_column("1 3 10 30 100 300")
    opened = cases.rounds_of_sums(draft, [department(rows) for rows in ROWS])["hessian"][:, 0]
    strengths, upper = np.array(build(draft).tried), np.triu_indices(2)

    def off(params):
        left = strengths[:, None, None, None] * np.eye(2)
        sums = left - strengths[:, None, None, None] ** 2 * np.linalg.inv(gram_matrices(params) + left)
        return (1e3 * (sums.sum(axis=1)[:, *upper] - opened) / strengths[:, None]).ravel()

    random = np.random.default_rng(3)
    tries = (least_squares(off, 10 + 10 * random.normal(size=9), xtol=1e-15, ftol=1e-15, gtol=1e-15) for _ in range(40))
    found = next(one for one in tries if one.cost < 1e-12)
    assert np.sort(gram_matrices(found.x)[:, 0, 0]) == pytest.approx(ROWS, abs=1e-3)
    with pytest.raises(TooFewDepartments, match="tries 6 strengths; over 3 departments 1 can be summed") as caught:
        check_roster(draft, roster_of(3))
    assert "strengths = '1'" in caught.value.advice
    check_roster(one_column("10"), roster_of(3))


@pytest.mark.parametrize(
    ("departments", "colluders", "most"), [(3, 0, 1), (5, 1, 1), (6, 1, 2), (10, 3, 3), (10, 5, 2), (18, 1, 6)]
)
def test_strengths_are_as_many_as_groups_that_could_be_summed_by_themselves(departments, colluders, most):
    """Every group of three departments or more, two of them honest: 10 // 3 = 3 with 3 colluders, (10 - 5) // 2 = 2."""
    roster = roster_of(departments, colluders=colluders)
    allowed = " ".join(str(10**at) for at in range(most))
    everybody = {"cohort": Cohort(floor=departments)}
    check_roster(one_column(allowed, **everybody), roster)
    with pytest.raises(TooFewDepartments):
        check_roster(one_column(f"{allowed} 1e8", **everybody), roster)


TREES = cases.boosting_draft(labels="no|yes")
SOLVED_OFTEN = cases.linear_draft(rounds=3, strengths="10")
LABELLED = cases.linear_draft(rounds=2, strengths="10", loss="logistic", labels="no|yes")


@pytest.mark.parametrize("draft", [TREES, SOLVED_OFTEN, LABELLED], ids=["trees", "values", "labels"])
def test_what_is_summed_again_and_again_is_summed_over_everybody(draft):
    """Of five departments two may be missing: with the fifth in one sum and not in the next, it is a difference."""
    with pytest.raises(TooFewDepartments, match="permits sums over 3 of 5") as caught:
        check_roster(draft, roster_of(5))
    assert "cohort.floor = 5" in caught.value.advice
    check_roster(draft.model_copy(update={"cohort": Cohort(floor=5)}), roster_of(5))
    check_roster(draft, roster_of(3))  # nobody may be missing of three


def test_one_round_of_trees_over_all_and_one_over_all_but_one_show_that_one():
    """Why: the counts of the first level are the same in every tree."""
    parts = [cases.boosted_labels(seed) for seed in range(4)]
    first, second = (cases.rounds_of_sums(TREES, some)["count"] for some in (parts, parts[1:]))
    method = build(TREES)
    alone = method.gather(TREES, method.initial(TREES), parts[0], {}).terms["count"]
    np.testing.assert_array_equal(first - second, alone)
    assert alone.sum() == 120 * len(TREES.columns)


def test_values_solved_once_may_be_summed_over_fewer():
    check_roster(cases.linear_draft(rounds=2, strengths="10"), roster_of(5))


# -- what is not prevented; SECURITY.md says so ------------------------------------------------------------------------

SHARES = {60: 0.15, 140: 0.45, 320: 0.8}


def asked_at(draft, parts, shifts):
    """Σ gradients of all rows at trees that a lying coordinator makes up: constants that add up to each shift."""
    method = build(draft)
    state, opened = method.initial(draft), []
    for version, shift in enumerate(shifts, start=1):
        made_up = {name: array.copy() for name, array in state.items()} | {GROWN: np.float32(version)}
        if version == 1:
            made_up[OFFSET][:] = shift
        else:
            made_up[LEAF][version - 2] = shift - shifts[version - 2]
        method.check_received(draft, made_up, version, state, version - 1)
        state = made_up
        sums = [method.gather(draft, state, part, {}).terms["gradient"] for part in parts]
        opened.append(sum(one[0, 0, :9].sum() for one in sums) * UNIT)
    return np.array(opened)


def labelled(draft, rows, share):
    target = (np.random.default_rng([9, rows]).random(rows) < share).astype(np.int64)
    base = np.repeat(build(draft).level_of(target)[None], rows, axis=0)
    return {"codes": cases.boosted_labels(rows, rows=rows)["codes"], "target": target, "base": base}


def test_own_levels_can_be_asked_for_by_trees_that_are_made_up():
    """Σ_k n_k σ(b_k + C) - Σ y at 25 constants C: three n_k and three b_k are solved for, nobody knows whose.  Without
    own levels there is nothing to solve for: sums are those of one table."""
    draft = cases.boosting_draft(trees=30, depth=1, labels="no|yes")
    parts = [labelled(draft, rows, share) for rows, share in SHARES.items()]
    shifts = on_grid(np.linspace(-8, 8, 25))
    opened = asked_at(draft, parts, shifts)

    def off(params):
        rows, levels = np.exp(params[:3, None]), params[3:6, None]
        return (rows / (1 + np.exp(-levels - shifts))).sum(axis=0) - 100 * params[6] - opened

    start = np.array([4.0, 5.0, 5.5, -1.0, 0.0, 1.0, 2.0])
    found = least_squares(off, start, xtol=1e-15, ftol=1e-15, gtol=1e-15).x
    assert np.exp(np.sort(found[:3])) == pytest.approx(list(SHARES), abs=0.5)

    common = cases.boosting_draft(trees=30, depth=1, labels="no|yes", own_levels=False)
    parts = [labelled(common, rows, share) for rows, share in SHARES.items()]
    pooled = [{name: np.concatenate([part[name] for part in parts]) for name in parts[0]}]
    np.testing.assert_array_equal(asked_at(common, parts, shifts), asked_at(common, pooled, shifts))
