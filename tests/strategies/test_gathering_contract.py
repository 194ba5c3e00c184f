"""What every gathering promises, whatever it gathers: one contract, run over each of them."""

import copy

import gathering_cases as cases
import numpy as np
import pytest

from commonroot.common.charter import Charter, Method
from commonroot.common.errors import ConfigError, OutsideCharter
from commonroot.common.manifest import flatten, unflatten
from commonroot.strategies import GATHERINGS, Gathering, Strategy, build, build_trained, check_sealed, seal

CASES = {
    "statistics": (cases.statistics_draft(), cases.statistics_rows),
    "als": (cases.als_draft(), cases.ratings),
    "als weighted": (cases.als_draft(weighted=True, strength=0.1), cases.ratings),
    "boosting": (cases.boosting_draft(), cases.boosted_labels),
    "boosting three labels": (cases.boosting_draft(trees=2, labels=cases.LABELS), cases.boosted_three),
    "boosting values": (cases.boosting_draft(loss="squared", low=0.0, high=9.0, labels=""), cases.boosted_values),
    "linear": (cases.linear_draft(rounds=2), cases.lines),
    "linear labels": (cases.linear_draft(loss="logistic", labels="no|yes"), cases.line_labels),
    "words": (cases.words_draft(), cases.words),
    "words three labels": (cases.words_draft(labels=cases.LABELS), cases.words_three),
    "evaluation": (cases.evaluation_draft(), cases.evaluated_figures),
    "evaluation with counts": (cases.counting_draft(), cases.evaluated_figures),
    "linear three labels": (cases.linear_draft(loss="logistic", labels=cases.LABELS), cases.line_three),
}


@pytest.fixture(params=CASES, ids=str)
def case(request):
    draft, data = CASES[request.param]
    return draft, [data(seed) for seed in range(4)]


def states_of(case):
    return cases.rounds_of(*case)


def frozen(arrays):
    held = {name: np.array(array) for name, array in arrays.items()}
    for array in held.values():
        array.flags.writeable = False
    return held


def test_every_installed_gathering_is_held_to_the_contract():
    assert {draft.method.name for draft, _ in CASES.values()} == set(GATHERINGS)


def test_it_is_a_gathering_and_trains_nothing(case):
    draft, _ = case
    assert isinstance(build(draft), Gathering)
    assert not isinstance(build(draft), Strategy)
    with pytest.raises(ConfigError, match="trains nothing"):
        build_trained(draft)


def test_the_same_rows_and_state_contribute_the_same_bits(case):
    draft, parts = case
    method = build(draft)
    for state in states_of(case)[:-1]:
        one, again = (method.gather(draft, state, frozen(parts[0]), {}) for _ in range(2))
        for name in one.terms:
            assert one.terms[name].tobytes() == again.terms[name].tobytes()
        assert {name: array.tobytes() for name, array in one.private.items()} == {
            name: array.tobytes() for name, array in again.private.items()
        }


def test_inputs_are_never_written_to(case):
    """Read-only arrays go in: a write would raise."""
    draft, parts = case
    method = build(draft)
    state, data = frozen(states_of(case)[-2]), frozen(parts[0])
    before = copy.deepcopy((state, data))
    terms = frozen(method.gather(draft, state, data, {}).terms)
    following = method.combine(draft, state, cases.opened_sum(draft, [terms] * 3))
    for held, was in zip((state, data), before, strict=True):
        for name in was:
            np.testing.assert_array_equal(held[name], was[name])
    assert not any(np.shares_memory(following[name], state[name]) for name in state)


def test_every_term_is_exact_and_within_its_bound_all_along_a_run(case):
    draft, parts = case
    method, manifest = build(draft), seal(draft).manifest
    assert {term.lane for term in manifest.terms} == {"fixed64"}
    for state in states_of(case)[:-1]:
        for part in parts:
            terms = method.gather(draft, state, part, {}).terms
            assert set(terms) == {term.name for term in manifest.terms}
            for term in manifest.terms:
                assert terms[term.name].shape == term.shape
                assert np.abs(terms[term.name]).max() <= term.bound


def test_combine_reads_sums_alone(case):
    """Two federations with the same sums go on alike: departments merged two by two, and one by one."""
    draft, parts = case
    method = build(draft)
    state = states_of(case)[-2]
    terms = [method.gather(draft, state, part, {}).terms for part in parts]
    by_two = [cases.plain_sum(draft, terms[:2]), cases.plain_sum(draft, terms[2:])]
    one, other = (method.combine(draft, state, cases.plain_sum(draft, which)) for which in (terms[::-1], by_two))
    for name in one:
        np.testing.assert_allclose(one[name], other[name], rtol=1e-6, atol=1e-9)


def test_a_round_nobody_answered_leaves_the_state_as_it_was(case):
    draft, _ = case
    method = build(draft)
    nothing = {term.name: np.zeros(term.shape) for term in method.terms(draft)}
    for state in states_of(case)[:2]:
        following = method.combine(draft, state, nothing)
        assert following.keys() == state.keys()
        for name, array in state.items():
            np.testing.assert_array_equal(following[name], array)
            assert following[name].dtype == np.float32


def test_honest_states_are_accepted_and_survive_the_broadcast(case):
    draft, _ = case
    method = build(draft)
    shapes = method.broadcast(draft)
    states = states_of(case)
    for version, state in enumerate(states):
        received = unflatten(flatten(state, shapes), shapes)
        for name, _ in shapes:
            np.testing.assert_array_equal(received[name], state[name])
        method.check_received(draft, received, version, states[0], 0)


def test_another_version_0_than_the_seeds_is_refused(case):
    draft, _ = case
    method = build(draft)
    for name, _ in method.broadcast(draft):
        state = method.initial(draft)
        state[name] = state[name] + np.float32(0.5)
        with pytest.raises(OutsideCharter):
            method.check_received(draft, state, 0, method.initial(draft), 0)


def test_states_out_of_bounds_are_refused(case):
    draft, _ = case
    method, states = build(draft), states_of(case)
    for name, _ in method.broadcast(draft):
        wrong = dict(states[-1])
        wrong[name] = wrong[name] + np.float32(1e6)
        with pytest.raises(OutsideCharter):
            method.check_received(draft, wrong, len(states) - 1, states[0], 0)


def test_a_sealed_charter_lists_what_the_method_sends_and_comes_back_whole(case):
    draft, _ = case
    charter = seal(draft)
    check_sealed(charter)
    again = Charter.model_validate_json(charter.model_dump_json())
    assert again.digest == charter.digest
    with pytest.raises(OutsideCharter):
        check_sealed(charter.model_copy(update={"terms": charter.terms[:-1]}))


def test_methods_that_train_say_what_is_missing_without_a_network(case):
    draft, _ = case
    with pytest.raises(ConfigError, match="trains a network"):
        seal(draft.model_copy(update={"method": Method(name="fedper"), "backbone": None}))
