"""Labels that are expected: rows count as they will come, and labels without rows are judged by what others told."""

import math

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from commonroot.client.choice import choose
from commonroot.client.data import DataConfig
from commonroot.client.foreseen import Beyond, Foreseen
from commonroot.client.guard import Bench
from commonroot.client.models import Model
from commonroot.client.tasks import Classification, task_config
from commonroot.strategies.label_evidence import LOSS, SQUARE, TOLD

LABELS = ("a", "b", "c", "d")
UNIT = math.log(4)


def task(counts=(3, 1, 0, 0), expected="even"):
    config = task_config({"kind": "classification", "labels": LABELS, "expected": expected})
    rows = [label for label, count in zip(LABELS, counts, strict=True) for _ in range(count)]
    return Classification.learn(config, pl.DataFrame({"y": rows}))


def told(losses):
    """What departments add up to that told these losses, (departments, labels), NaN for nothing."""
    known = np.isfinite(losses)
    plain = np.where(known, losses, 0.0)
    sums = (known.sum(axis=0), plain.sum(axis=0), (plain**2).sum(axis=0))
    return {name: np.asarray(one, np.float32) for name, one in zip((TOLD, LOSS, SQUARE), sums, strict=True)}


def sure(y, probability):
    """Predictions that give the true label this probability and the others the rest."""
    out = np.full((len(y), 4), (1 - probability) / 3)
    out[np.arange(len(y)), y] = probability
    return out


def test_rows_count_by_how_much_more_frequent_their_label_will_be():
    """3 : 1 of two labels that will be alike: 2/3 and 2, whose mean over the four rows is 1"""
    assert task().weights == pytest.approx((2 / 3, 2.0, 1.0, 1.0))
    shares = {"a": 0.6, "b": 0.2, "c": 0.1, "d": 0.1}
    assert task(expected=shares).weights == pytest.approx((1.0, 1.0, 1.0, 1.0))
    assert task(expected=shares).expected == pytest.approx((0.6, 0.2, 0.1, 0.1))


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        ({"expected": "even"}, "list `labels`"),
        ({"expected": {"a": 0.5, "b": 0.5}, "labels": ["a", "b", "c"]}, "each of the labels"),
        ({"expected": {"a": 0.5, "b": 0.6}, "labels": ["a", "b"]}, "add up to 1"),
        ({"expected": "even", "labels": ["a", "b"], "balance": True}, "leave `balance` out"),
        ({"expected": "even", "task": "regression"}, "nothing can be expected"),
    ],
)
def test_expectations_that_say_nothing_are_refused(fields, match):
    with pytest.raises(ValueError, match=match):
        DataConfig.model_validate({"path": "t.csv", "target": "y", "task": "classification"} | fields)


def test_a_task_that_expects_something_comes_back_whole():
    one = task()
    assert Classification.from_json(one.to_json()) == one


def test_the_model_trained_alone_gives_labels_never_met_their_share():
    one = task()
    foreseen = Foreseen.of(one, np.array([0, 0, 0, 1]), {})
    model = foreseen.completing(Model("constant", {"values": np.array([2.0, 0.0, 9.0, 9.0])}))
    [found] = model.predict(one, np.zeros((1, 2)))
    np.testing.assert_allclose(found[2:], 0.25)
    assert found[:2].sum() == pytest.approx(0.5) and found[0] / found[1] == pytest.approx(math.exp(2))


def test_what_others_told_is_a_mean_and_the_spread_between_them():
    """Losses 0.1 and 0.3 of the third label by two departments: mean 0.2, deviation √0.02, for one more √(0.02·3/2).
    Own rows of the first two labels lose what the others said, so nothing is added; the fourth nobody knows."""
    one, nothing = task(), math.log(4) / UNIT
    y = np.array([0, 0, 1, 1])
    said = sure(y, math.exp(-0.2 * UNIT))
    others = np.array([[0.2, 0.2, 0.1, np.nan], [0.2, 0.2, 0.3, np.nan], [0.2, 0.2, np.nan, np.nan]])
    foreseen = Foreseen.of(one, y, told(others))
    found = foreseen.beyond(one, [foreseen.complete(said), said], y, np.ones(4, bool), common=[False, True])
    assert found.share == pytest.approx(0.5)
    np.testing.assert_allclose(found.losses, [[nothing, nothing], [0.2, nothing]], atol=1e-6)
    np.testing.assert_allclose(found.errors, [[0, 0], [math.sqrt(0.03), 0]], atol=1e-6)


def test_who_loses_more_than_the_others_on_labels_all_know_expects_to_lose_more_on_the_rest():
    """Own loss 0.7 where others told 0.2: half a chance loss is added, plus a standard error of 0."""
    one, y = task(), np.array([0, 0, 1, 1])
    said = sure(y, math.exp(-0.7 * UNIT))
    others = np.array([[0.7, 0.7, np.nan, np.nan], *[[0.2, 0.2, 0.1, 0.1]] * 2])
    foreseen = Foreseen.of(one, y, told(others))
    found = foreseen.beyond(one, [foreseen.complete(said), said], y, np.ones(4, bool), common=[False, True])
    np.testing.assert_allclose(found.losses[1], [0.6, 0.6], atol=1e-6)


def test_a_label_met_in_training_alone_is_judged_out_of_fold_and_never_worse_than_unknown():
    one, y = task((3, 1, 2, 0)), np.array([0, 1, 2, 2])
    fresh = np.array([True, True, False, False])
    foreseen = Foreseen.of(one, y, {})
    for probability, loss in ((0.7, -math.log(0.7 * 0.75)), (0.01, math.log(4))):
        alone = foreseen.complete(sure(y, probability) * [1, 1, 1, 0] / (1 - (1 - probability) / 3))
        found = foreseen.beyond(one, [alone], y, fresh, common=[False])
        assert found.losses[0, 0] <= math.log(4) / UNIT + 1e-9
        assert found.losses[0, 0] == pytest.approx(loss / UNIT, abs=0.2)


@given(seed=st.integers(0, 10**6), weight=st.floats(0.05, 0.95))
def test_no_mixture_loses_more_than_is_reckoned_with(seed, weight):
    """-log of a weighted sum is concave in the losses: the mean of mixtures is at most the mixture of means."""
    random = np.random.default_rng(seed)
    alone, others = random.uniform(0.01, 1.0, size=(2, 50))
    means = np.array([[-np.log(alone).mean()], [-np.log(others).mean()]])
    beyond = Beyond(np.array([1.0]), means, np.zeros((2, 1)), 1.0)
    gain, _ = beyond.gain((weight, 1 - weight))
    truth = float((-np.log(alone) + np.log(weight * alone + (1 - weight) * others)).mean())
    assert gain <= truth + 1e-9


def test_rows_that_count_differently_are_worth_fewer():
    """Counts 3, 1, 1, 1: (Σu)²/Σu² = 36/12 = 3 rows; mean of gains 1, 0, 0, 0 is 3/6."""
    y = np.zeros(4)
    counts = np.array([3.0, 1.0, 1.0, 1.0])
    bench = Bench(task(), (np.ones((4, 4)) / 4,), y.astype(int), np.zeros(4, bool), counts)
    assert bench.size(np.ones(4, bool)) == pytest.approx(3.0)
    mean, _ = bench.mean(np.array([3.0, 0.0, 0.0, 0.0]), np.ones(4, bool), (1.0,))
    assert mean == pytest.approx(0.5)


@pytest.mark.parametrize(("others", "keeps"), [(0.1, True), (3.0, False)])
def test_what_others_told_decides_where_own_rows_cannot(others, keeps):
    """Own rows are of two labels of four, where both models are alike."""
    one, y = task((10, 10, 0, 0)), np.arange(20) % 2
    said = sure(y, 0.9)
    heard = told(np.array([[0.076, 0.076, np.nan, np.nan], *[[0.076, 0.076, others, others]] * 3]))
    foreseen = Foreseen.of(one, y, heard)
    alone, fresh = foreseen.complete(sure(y, 0.9)), np.ones(20, bool)
    beyond = foreseen.beyond(one, [alone, said], y, fresh, common=[False, True])
    choice = choose(one, alone, {"federated": said}, y, counts=foreseen.counts(one, y), beyond=beyond)
    if keeps:
        assert choice.kept != "alone" and "50 % of rows to come" in choice.reason
    else:
        assert choice.evidence["federated"].advantage < 0 and choice.weights["alone"] > 0.5


def test_nobody_who_expects_nothing_is_asked():
    assert Foreseen.of(Classification(LABELS), np.array([0, 1]), {}) is None
