"""Federated boosting: the trees are those of all rows in one table, to the last bit."""

import gathering_cases as cases
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.metrics import roc_auc_score

from commonroot.common.charter import Draft
from commonroot.common.errors import ConfigError, DataError, OutsideCharter, SumRejected
from commonroot.strategies import build
from commonroot.strategies.booster import GROWN, LEAF, OFFSET, SPLIT, UNIT, grown
from commonroot.strategies.histogram_trees import Rule, Slots, choose_splits, histogram, walk

VALUES = {"loss": "squared", "low": 0.0, "high": 9.0, "labels": ""}
CASES = {
    "two labels": (cases.boosting_draft(trees=5), cases.boosted_labels),
    "three labels": (cases.boosting_draft(trees=3, labels=cases.LABELS), cases.boosted_three),
    "values": (cases.boosting_draft(trees=5, **VALUES), cases.boosted_values),
}


@pytest.fixture(params=CASES, ids=str)
def case(request):
    draft, data = CASES[request.param]
    return draft, [data(seed) for seed in range(4)]


def test_the_whole_ensemble_is_that_of_the_pooled_rows_bit_for_bit(case):
    """Four departments through the secure sum's fixed point, against one process that holds every row."""
    draft, parts = case
    federated = cases.rounds_of(draft, parts)[-1]
    pooled = grown(draft, cases.joined(parts))
    assert federated[SPLIT].any()
    assert federated[LEAF].any()
    for name, array in pooled.items():
        assert federated[name].tobytes() == array.tobytes(), name


def test_every_rounds_opened_histograms_are_those_of_the_pooled_rows(case):
    draft, parts = case
    method, whole = build(draft), cases.joined(parts)
    for state in cases.rounds_of(draft, parts)[:-1]:
        opened = cases.opened_sum(draft, [method.gather(draft, state, part, {}).terms for part in parts])
        pooled = method.gather(draft, state, whole, {}).terms
        for name, array in pooled.items():
            np.testing.assert_array_equal(opened[name], array)
            np.testing.assert_array_equal(array, np.rint(array))


@settings(max_examples=20, deadline=None)
@given(cuts=st.lists(st.integers(1, 239), min_size=2, max_size=6, unique=True), seed=st.integers(0, 50))
def test_it_does_not_matter_which_department_holds_which_row(cuts, seed):
    draft, whole = cases.boosting_draft(trees=2), cases.boosted_labels(seed, rows=240)
    order = np.random.default_rng(seed).permutation(240)
    parts = [{name: array[at] for name, array in whole.items()} for at in np.split(order, sorted(cuts))]
    federated, pooled = cases.rounds_of(draft, parts)[-1], grown(draft, whole)
    assert all(federated[name].tobytes() == pooled[name].tobytes() for name in pooled)


def test_kept_scores_and_scores_computed_anew_contribute_the_same(case):
    """A department that lost its private state, or had trees of another run in it, sends the same bits."""
    draft, parts = case
    method = build(draft)
    states = cases.rounds_of(draft, parts)
    kept = {}
    for state in states[:-1]:
        made = method.gather(draft, state, parts[0], kept)
        fresh = method.gather(draft, state, parts[0], {})
        strange = dict(made.private) | {"which": np.zeros(32, np.uint8), "scores": made.private["scores"] + 1}
        other = method.gather(draft, state, parts[0], strange)
        for name in made.terms:
            assert made.terms[name].tobytes() == fresh.terms[name].tobytes() == other.terms[name].tobytes()
        kept = made.private


def test_the_first_guess_is_the_logarithm_of_the_odds():
    """Of 480 rows a share s is labelled yes; the guess is log(s / (1 - s)) to a multiple of 2^-20."""
    parts = [cases.boosted_labels(seed) for seed in range(4)]
    for part in parts:
        del part["base"]
    share = np.concatenate([part["target"] for part in parts]).mean()
    state = cases.rounds_of(cases.boosting_draft(trees=1), parts)[1]
    assert state[OFFSET][0] == pytest.approx(np.log(share / (1 - share)), abs=UNIT)


def test_the_first_guess_is_the_mean_of_values():
    parts = [cases.boosted_values(seed) for seed in range(4)]
    state = cases.rounds_of(cases.boosting_draft(trees=1, **VALUES), parts)[1]
    assert state[OFFSET][0] == pytest.approx(np.concatenate([part["target"] for part in parts]).mean(), abs=2 * UNIT)


def test_a_departments_own_level_worked_by_hand():
    """Seven of nine rows yes: log((7 + 1)/(2 + 1)).  Three labels 4, 2, 0: logs of 5, 3, 1 less their mean.  Values
    .2 and .4: their sum over 3 rows, one more than there are."""
    two, three = build(cases.boosting_draft()), build(cases.boosting_draft(labels=cases.LABELS))
    assert two.level_of(np.array([1] * 7 + [0] * 2)) == pytest.approx([np.log(8 / 3)], abs=UNIT)
    logs = np.log([5, 3, 1])
    assert three.level_of(np.array([0] * 4 + [1] * 2)) == pytest.approx(logs - logs.mean(), abs=UNIT)
    assert build(cases.boosting_draft(**VALUES)).level_of(np.array([0.2, 0.4])) == pytest.approx([0.2], abs=UNIT)
    assert build(cases.boosting_draft(own_levels=False)).level_of(np.array([1, 1])).tolist() == [0.0]


def test_a_level_worked_by_hand():
    """One column of two bins and one for gaps: counts 4, 4, 2; gradients -4, 4, 2; hessians 1 each row; λ = 0.

    G = 2, H = 10, G²/H = 0.4.  Bin 0 left:            16/4 + 36/6 - 0.4 = 9.6
                                bin 0 and gaps left:    4/6 + 16/4 - 0.4 = 4.27
                                bins left, gaps right:  0/8 +  4/2 - 0.4 = 1.6
    """
    columns = Draft.model_validate(
        {
            "federation": "a",
            "name": "b",
            "rounds": 1,
            "method": {"name": "statistics"},
            "columns": [{"name": "x", "kind": "number", "low": 0, "high": 1, "bins": 2}],
        }
    ).columns
    slots = Slots.of(columns)
    parts = [np.array([row]) for row in ([4, 4, 2], [-4, 4, 2], [4, 4, 2])]
    level = choose_splits(slots, *parts, 1.0, Rule(0.0, 1, 0.0))
    assert level.splits.tolist() == [1 + 2 * 0 + 0]
    assert level.gradients.tolist() == [[-4.0, 6.0]]
    assert level.hessians.tolist() == [[4.0, 6.0]]
    swapped = [np.array([row]) for row in ([4, 4, 2], [-4, 4, -2], [4, 4, 2])]
    assert choose_splits(slots, *swapped, 1.0, Rule(0.0, 1, 0.0)).splits.tolist() == [1 + 2 * 0 + 1], "gaps go left"
    assert choose_splits(slots, *parts, 1.0, Rule(0.0, 5, 0.0)).splits.tolist() == [0], "too few rows on a side"


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), least=st.integers(1, 30))
def test_the_split_chosen_is_the_best_of_all_by_brute_force(seed, least):
    """Every possible split is tried by sending the rows through it."""
    draft = cases.boosting_draft()
    slots = Slots.of(draft.columns)
    random = np.random.default_rng(seed)
    codes = np.stack([random.integers(0, size, 60) for size in slots.sizes], axis=1)
    g, h = random.integers(-9, 10, 60).astype(float), random.integers(1, 5, 60).astype(float)
    node = np.zeros(60, np.int64)
    parts = [histogram(slots, codes, node, 1, one).astype(np.int64) for one in (None, g, h)]
    chosen = int(choose_splits(slots, *parts, 1.0, Rule(1.0, least, 0.0)).splits[0])

    def gain(split):
        right = walk(slots, np.array([split]), codes, 1) == 1
        if min(right.sum(), (~right).sum()) < least:
            return 0.0
        sides = [g[part].sum() ** 2 / (h[part].sum() + 1) for part in (right, ~right)]
        return max(0.0, sum(sides) - g.sum() ** 2 / (h.sum() + 1))

    every = np.arange(2 * slots.width + 1)
    best = max(gain(split) for split in every[slots.is_split(every)])
    assert (gain(chosen) if chosen else 0.0) == pytest.approx(best, abs=1e-9)


def numbers_draft(trees, columns, **options):
    listed = [{"name": f"x{at}", "kind": "number", "low": -5, "high": 5, "bins": 64} for at in range(columns)]
    draft = cases.boosting_draft(trees=trees, depth=4, least_rows=20, **options)
    return draft.model_copy(update={"columns": Draft.model_validate(draft.model_dump() | {"columns": listed}).columns})


def bins(x):
    return np.clip(np.floor((x + 5) / 10 * 64).astype(np.int64), 0, 63)


def test_it_grows_the_trees_that_scikit_learn_grows_of_the_pooled_slots():
    """Six numbers with interactions, 600 rows in three departments, 600 others to predict, no penalty.

    Both choose by the same gain among the same slots, so they end in the same predictions but for ties and rounding.
    """
    random = np.random.default_rng(7)
    x = random.normal(size=(1200, 6))
    score = x[:, 0] * x[:, 1] + np.sin(2 * x[:, 2]) + 0.5 * x[:, 3] + 0.5 * random.normal(size=1200)
    label, value, codes, test = (score > 0).astype(np.int64), np.clip(score / 8, -1, 1), bins(x), slice(600, 1200)
    usual = {"max_iter": 30, "max_leaf_nodes": 16, "max_depth": 4, "learning_rate": 0.1, "early_stopping": False}

    def predicted(draft, target):
        parts = [{"codes": codes[at:600:3], "target": target[at:600:3]} for at in range(3)]
        state = cases.rounds_of(draft, parts, through=cases.plain_sum)[-1]
        return build(draft).scores_of(draft, state, codes[test], 30)[:, 0]

    theirs = HistGradientBoostingClassifier(**usual).fit(codes[:600], label[:600]).decision_function(codes[test])
    ours = predicted(numbers_draft(30, 6, penalty=0.0), label)
    assert np.corrcoef(ours, theirs)[0, 1] > 0.99
    assert roc_auc_score(label[test], ours) == pytest.approx(roc_auc_score(label[test], theirs), abs=0.01)

    theirs = HistGradientBoostingRegressor(**usual).fit(codes[:600], value[:600]).predict(codes[test])
    ours = predicted(numbers_draft(30, 6, penalty=0.0, **VALUES), value)
    assert np.corrcoef(ours, theirs)[0, 1] > 0.999
    assert np.square(ours - value[test]).mean() == pytest.approx(np.square(theirs - value[test]).mean(), rel=0.01)


# -- refused ------------------------------------------------------------------------------------------------------


def test_trees_that_changed_after_they_were_broadcast_are_refused():
    draft, parts = CASES["two labels"][0], [cases.boosted_labels(seed) for seed in range(3)]
    method, states = build(draft), cases.rounds_of(draft, parts)
    early, late = states[5], states[-1]
    method.check_received(draft, late, len(states) - 1, early, 5)
    for name in (OFFSET, SPLIT, LEAF):
        changed = dict(late) | {name: late[name].copy()}
        changed[name][(0,) * late[name].ndim] = 3.0
        with pytest.raises(OutsideCharter, match="have changed"):
            method.check_received(draft, changed, len(states) - 1, early, 5)
    with pytest.raises(OutsideCharter, match="have changed"):
        method.check_received(draft, early, 5, late, len(states) - 1)


@pytest.mark.parametrize(
    ("name", "place", "value", "told"),
    [
        (SPLIT, (4, 0, 6), 1.0, "cannot have grown"),
        (LEAF, (4, 0, 0), 1.0, "cannot have grown"),
        (SPLIT, (0, 0, 0), 0.5, "none of the charter's columns"),
        (LEAF, (0, 0, 0), 2.0**-21, "not in multiples"),
        (LEAF, (0, 0, 0), 9.0, "not in multiples"),
        (GROWN, (), 9.0, "more rounds"),
    ],
)
def test_impossible_trees_are_refused(name, place, value, told):
    draft, parts = CASES["two labels"][0], [cases.boosted_labels(seed) for seed in range(3)]
    method, states = build(draft), cases.rounds_of(draft, parts)
    wrong = {key: array.copy() for key, array in states[6].items()}
    wrong[name][place] = value
    with pytest.raises(OutsideCharter, match=told):
        method.check_received(draft, wrong, 6, states[0], 0)


def test_sums_that_are_no_histograms_are_rejected():
    draft, part = CASES["two labels"][0], cases.boosted_labels(0)
    method = build(draft)
    state = method.initial(draft)
    terms = {name: array.copy() for name, array in method.gather(draft, state, part, {}).terms.items()}
    for name, change, told in [
        ("count", 1.0, "different rows"),
        ("count", -200.0, "negative"),
        ("gradient", 0.5, "whole"),
    ]:
        wrong = dict(terms) | {name: terms[name].copy()}
        wrong[name][0, 0, 0] += change
        with pytest.raises(SumRejected, match=told):
            method.combine(draft, state, wrong)


def test_one_departments_lies_are_no_trees_that_nobody_can_receive():
    """Rows of one output alone, or of nodes that are not there, would divide by no rows; a thousandfold
    gradient would be a leap."""
    draft = CASES["three labels"][0]
    method, parts = build(draft), [cases.boosted_three(seed) for seed in range(3)]
    honest = cases.rounds_of_sums(draft, parts)
    missing = {name: array.copy() for name, array in honest.items()}
    for array in missing.values():
        array[0] = 0
    elsewhere = {name: np.roll(array, 1, axis=1) for name, array in honest.items()}
    for wrong, told in (
        (missing, "other rows than one another"),
        (elsewhere, "of no node"),
        (honest | {"gradient": honest["gradient"] * 1000}, "larger than so many rows"),
        (honest | {"hessian": honest["hessian"] * 1000}, "larger than so many rows"),
    ):
        with pytest.raises(SumRejected, match=told):
            method.combine(draft, method.initial(draft), wrong)


def test_what_does_not_fit_the_charter_is_said():
    with pytest.raises(ConfigError, match="no whole number of trees"):
        build(cases.boosting_draft()).terms(cases.boosting_draft().model_copy(update={"rounds": 12}))
    with pytest.raises(ConfigError, match="two labels"):
        build(cases.boosting_draft(labels="yes"))
    with pytest.raises(ConfigError, match="neither a number nor"):
        build(cases.boosting_draft()).terms(
            cases.boosting_draft().model_copy(update={"columns": cases.statistics_draft().columns})
        )
    draft = cases.boosting_draft(most_rows=50)
    with pytest.raises(DataError, match="120 training rows; the charter admits 50"):
        build(draft).gather(draft, build(draft).initial(draft), cases.boosted_labels(0), {})
