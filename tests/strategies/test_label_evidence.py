"""What departments tell of labels in the last round: one sum, of the model that is kept, and nothing before."""

import numpy as np
import pytest

from commonroot.common.charter import Draft
from commonroot.common.errors import OutsideCharter, SumRejected
from commonroot.strategies import build
from commonroot.strategies.base import LocalResult
from commonroot.strategies.label_evidence import LOSS, NAMES, SQUARE, TOLD, check_evidence, contribution, opened


def draft(**options):
    method = {"name": "fedavg", "options": {"head": "shared", "outputs": 3, "label_evidence": True} | options}
    backbone = {"family": "mlp", "inputs": 4, "widths": [3]}
    return Draft.model_validate(
        {"federation": "bank", "name": "pilot", "rounds": 5, "method": method, "backbone": backbone}
    )


def test_means_and_squares_are_added_over_the_departments_that_have_a_label():
    """Losses 0.5 and 0.3 of the first label, 1.0 of the second by one, none of the third."""
    told = [contribution(np.array([0.5, np.nan, np.nan]), 3), contribution(np.array([0.3, 1.0, np.nan]), 3)]
    found = opened({name: sum(one[name] for one in told) for name in NAMES})
    np.testing.assert_allclose(found[TOLD], [2, 1, 0])
    np.testing.assert_allclose(found[LOSS], [0.8, 1.0, 0.0])
    np.testing.assert_allclose(found[SQUARE], [0.34, 1.0, 0.0], rtol=1e-6)


def test_nothing_is_told_where_it_is_not_the_round_for_it():
    assert not any(array.any() for array in contribution(None, 3).values())


def test_sums_that_no_departments_give_are_refused():
    good = {TOLD: np.array([2.0]), LOSS: np.array([0.8]), SQUARE: np.array([0.34])}
    opened(good)
    for name, wrong in ((TOLD, 1.5), (LOSS, 40.0), (SQUARE, 0.2), (LOSS, -1.0)):
        with pytest.raises(SumRejected):
            opened(good | {name: np.array([wrong])})


def test_evidence_before_the_last_round_is_refused():
    told = {TOLD: np.array([2.0]), LOSS: np.array([0.8]), SQUARE: np.array([0.34])}
    check_evidence(told, 5, 5)
    with pytest.raises(OutsideCharter, match="last round alone"):
        check_evidence(told, 4, 5)
    with pytest.raises(OutsideCharter, match="are none"):
        check_evidence(told | {TOLD: np.array([1.5])}, 5, 5)


def test_a_round_carries_what_was_told_beside_the_average():
    one = draft()
    strategy = build(one)
    state = strategy.initial(one)
    assert {name for name, _ in strategy.broadcast(one)} == set(state) >= set(NAMES)
    shared = {name: state[name] for name in state if name not in NAMES}
    losses = np.array([0.2, np.nan, 0.6])
    terms = strategy.contribute(one, state, LocalResult(shared, 10, 0.1, 0.1, label_losses=losses))
    assert set(terms) == {term.name for term in strategy.terms(one)}
    following = strategy.combine(one, state, {name: np.asarray(array) * 3 for name, array in terms.items()})
    np.testing.assert_allclose(following[TOLD], [3, 0, 3])
    for name in shared:
        np.testing.assert_array_equal(following[name], state[name])


@pytest.mark.parametrize("options", [{"head": "private", "outputs": None}, {"server": "momentum"}])
def test_it_is_of_a_common_head_that_the_last_round_leaves_alone(options):
    wrong = {name: value for name, value in ({"outputs": 3} | options).items() if value is not None}
    with pytest.raises(Exception, match="label_evidence needs"):
        method = {"name": "fedavg", "options": {"head": "shared", "label_evidence": True} | wrong}
        build(draft().model_copy(update={"method": type(draft().method)(**method)}))
