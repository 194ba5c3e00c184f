"""Shared and private linear parts: what the sums give is the solution of the joint problem."""

import gathering_cases as cases
import numpy as np
import pytest
from scipy.optimize import minimize

from commonroot.common.backbone.factors import split
from commonroot.common.errors import ConfigError, DataError, OutsideCharter, SumRejected
from commonroot.strategies import build
from commonroot.strategies.linear import CURVED_HIGH, CURVED_LOW, DONE, HELD, HIGH, weights_of

SQUARED = cases.linear_draft(rounds=2)
LOGISTIC = cases.linear_draft(rounds=8, loss="logistic", labels="no|yes")


def penalty(method, width):
    return np.array([method.constant, *[1.0] * (width - 1)])


def joint(draft, parts, strength):
    """The normal equations of w₀ and every v_k at once, in one process that holds all rows."""
    method = build(draft)
    width = parts[0]["x"].shape[1]
    d = np.diag(penalty(method, width))
    size = width * (1 + len(parts))
    left, right = np.zeros((size, size)), np.zeros(size)
    left[:width, :width] = method.ridge * d
    for at, part in enumerate(parts, 1):
        gram, moment, own = part["x"].T @ part["x"], part["x"].T @ part["y"], slice(width * at, width * (at + 1))
        left[:width, :width] += gram
        left[:width, own] = left[own, :width] = gram
        left[own, own] = gram + strength * d
        right[:width] += moment
        right[own] = moment
    return np.linalg.solve(left, right).reshape(-1, width)


def test_one_sum_of_squared_losses_solves_the_joint_problem():
    """Through the secure sum's fixed point, for every λ of the grid; own parts as well."""
    parts = [cases.lines(seed) for seed in range(5)]
    method, state = build(SQUARED), cases.rounds_of(SQUARED, parts)[-1]
    for at, strength in enumerate(method.tried):
        wanted = joint(SQUARED, parts, strength)
        np.testing.assert_allclose(weights_of(state)[at, 0], wanted[0], atol=1e-9)
        for own, part in zip(wanted[1:], parts, strict=True):
            found, _ = method.own_part(part["x"], part["y"], weights_of(state)[at, 0], strength)
            np.testing.assert_allclose(found, own, atol=1e-9)


def test_newton_steps_reach_the_minimum_of_the_joint_logistic_loss():
    """A quasi-Newton minimiser over w₀ and all v_k at once, with everybody's rows in its hands, finds the same."""
    parts = [cases.line_labels(seed) for seed in range(4)]
    method, state = build(LOGISTIC), cases.rounds_of(LOGISTIC, parts)[-1]
    width = parts[0]["x"].shape[1]
    d = penalty(method, width)
    for at, strength in enumerate(method.tried):

        def whole(flat, strength=strength):
            shared, own = flat[:width], flat[width:].reshape(len(parts), width)
            cost, slope = 0.5 * method.ridge * d @ shared**2, np.zeros((1 + len(parts), width))
            slope[0] = method.ridge * d * shared
            for k, part in enumerate(parts):
                margin = part["x"] @ (shared + own[k])
                cost += np.logaddexp(0, margin).sum() - part["y"] @ margin + 0.5 * strength * d @ own[k] ** 2
                away = part["x"].T @ (1 / (1 + np.exp(-margin)) - part["y"])
                slope[0] += away
                slope[1 + k] = away + strength * d * own[k]
            return cost, slope.ravel()

        found = minimize(whole, np.zeros(width * (1 + len(parts))), jac=True, method="BFGS", options={"gtol": 1e-7})
        np.testing.assert_allclose(weights_of(state)[at, 0], found.x[:width], atol=2e-5)


def test_little_strength_leaves_departments_to_themselves_and_much_makes_one_model():
    """λ = 1e-3: w₀ + v_k is department k's own least squares; λ = 1e6: all have the pooled ridge solution."""
    draft = cases.linear_draft(rounds=2, strengths="1e-3 1e6", ridge=1e-6)
    parts = [cases.lines(seed) for seed in range(4)]
    method, weights = build(draft), weights_of(cases.rounds_of(draft, parts)[-1])[:, 0]
    whole = cases.joined(parts)
    for part in parts:
        alone = np.linalg.lstsq(part["x"], part["y"], rcond=None)[0]
        own, _ = method.own_part(part["x"], part["y"], weights[0], 1e-3)
        np.testing.assert_allclose(weights[0] + own, alone, atol=1e-3)
    pooled = np.linalg.lstsq(whole["x"], whole["y"], rcond=None)[0]
    np.testing.assert_allclose(weights[1], pooled, atol=1e-3)


def test_what_is_sent_of_squared_losses_is_sent_once():
    """The second round tells validation losses alone: the same Hessian twice would part those who dropped out."""
    parts = [cases.lines(seed) for seed in range(3)]
    method, states = build(SQUARED), cases.rounds_of(SQUARED, parts)
    second = method.gather(SQUARED, states[1], parts[0], {}).terms
    assert not second["hessian"].any()
    assert not second["gradient"].any()
    assert second["held"].any()
    np.testing.assert_array_equal(states[2][HIGH], states[1][HIGH])


@pytest.mark.parametrize("draft", [SQUARED, LOGISTIC], ids=["values", "labels"])
def test_validation_losses_are_the_mean_over_everybodys_validation_rows(draft):
    parts = [(cases.lines if draft is SQUARED else cases.line_labels)(seed) for seed in range(3)]
    method, states = build(draft), cases.rounds_of(draft, parts)
    for at, strength in enumerate(method.tried):
        found = []
        for part in parts:
            shared = weights_of(states[-2])[at, 0]
            own, _ = method.own_part(part["x"], method.wanted(part["y"])[:, 0], shared, strength)
            found.append(method.losses((part["held_x"] @ (shared + own))[:, None], part["held_y"]))
        assert states[-1][HELD][at] == pytest.approx(np.concatenate(found).mean(), rel=1e-5)
    assert method.chosen(states[-1]) == int(states[-1][HELD].argmin())


def test_of_equal_losses_the_stronger_penalty_is_chosen():
    state = build(SQUARED).initial(SQUARED)
    assert build(SQUARED).chosen(state) == 1


def test_no_entry_of_a_hessian_exceeds_the_penalty_whatever_the_rows_are():
    """A thousand rows at the columns' limit: the Gram matrix holds 64,000, what is sent at most λ = 30."""
    random = np.random.default_rng(1)
    x = np.concatenate([np.ones((1000, 1)), 8.0 * random.choice([-1.0, 1.0], (1000, 4))], axis=1)
    data = {"x": x, "y": np.tanh(x[:, 1]), "held_x": x[:2], "held_y": np.zeros(2)}
    sent = build(SQUARED).gather(SQUARED, build(SQUARED).initial(SQUARED), data, {}).terms["hessian"]
    assert np.abs(sent[1]).max() <= 30
    assert np.abs(sent[1]).max() > 29


def test_own_parts_are_exact_where_labels_are_parted_without_error():
    """Separable rows: the penalised minimum is finite, and its slope is 0 there."""
    method = build(LOGISTIC)
    x = np.stack([np.ones(20), np.linspace(-1, 1, 20)], axis=1)
    y = (x[:, 1] > 0).astype(float)
    own, _ = method.own_part(x, y, np.zeros(2), 1e-3)
    slope = x.T @ (1 / (1 + np.exp(-x @ own)) - y) + 1e-3 * own
    np.testing.assert_allclose(slope, 0, atol=1e-6)


def test_what_no_round_can_have_led_to_is_refused():
    method, states = build(SQUARED), cases.rounds_of(SQUARED, [cases.lines(seed) for seed in range(3)])
    for name, value in ((DONE, 3.0), (DONE, 0.5), (HELD, -1.0), (HIGH, 1e4)):
        wrong = {key: array.copy() for key, array in states[2].items()}
        wrong[name][...] = value
        with pytest.raises(OutsideCharter):
            method.check_received(SQUARED, wrong, 2, states[0], 0)
    with pytest.raises(OutsideCharter, match="another number of rounds"):
        method.check_received(SQUARED, states[1], 2, states[2], 2)


def test_weights_before_any_round_are_refused():
    """They would have the Hessians of values sent once more, perhaps over other departments."""
    method, states = build(SQUARED), cases.rounds_of(SQUARED, [cases.lines(seed) for seed in range(3)])
    again = {name: array.copy() for name, array in states[1].items()}
    again[DONE][...] = 0.0
    with pytest.raises(OutsideCharter, match="before any round"):
        method.check_received(SQUARED, again, 1, states[0], 0)
    method.check_received(SQUARED, states[0], 1, states[0], 0)  # a round in which nobody gave anything


def test_sums_that_lead_beyond_the_limits_are_rejected():
    method, part = build(SQUARED), cases.lines(0)
    state = method.initial(SQUARED)
    terms = {name: np.array(a) for name, a in method.gather(SQUARED, state, part, {}).terms.items()}
    with pytest.raises(SumRejected, match="weights of length"):
        method.combine(SQUARED, state, terms | {"gradient": terms["gradient"] + 1e7})
    with pytest.raises(SumRejected, match="validation losses"):
        method.combine(SQUARED, state, terms | {"held_count": np.asarray(1.0), "held": np.array([-1.0, 0.0])})


def test_what_does_not_fit_the_charter_is_said():
    with pytest.raises(ConfigError, match="ascending"):
        build(cases.linear_draft(strengths="10 1"))
    with pytest.raises(ConfigError, match="ascending"):
        build(cases.linear_draft(strengths="little"))
    with pytest.raises(ConfigError, match="another compares"):
        build(SQUARED).terms(SQUARED.model_copy(update={"rounds": 1}))
    method, part = build(SQUARED), cases.lines(0)
    state = method.initial(SQUARED)
    with pytest.raises(DataError, match="units from its middle"):
        method.gather(SQUARED, state, part | {"x": part["x"] * 20}, {})
    with pytest.raises(DataError, match="outside the charter's range"):
        method.gather(SQUARED, state, part | {"y": part["y"] + 3}, {})


def test_a_department_can_undo_its_own_part_exactly():
    """w₀ as it would be had the last department kept every third row to itself: the joint problem without them."""
    parts = [cases.lines(seed) for seed in range(4)]
    method, state = build(SQUARED), cases.rounds_of(SQUARED, parts)[-1]
    gave = parts[-1]["x"], parts[-1]["y"]
    some = np.arange(len(gave[1])) % 3 != 0
    other = gave[0][some], gave[1][some]
    without = [*parts[:-1], {**parts[-1], "x": other[0], "y": other[1]}]
    for at, strength in enumerate(method.tried):
        wanted = joint(SQUARED, without, strength)[0]
        np.testing.assert_allclose(method.instead(state, at, gave, other), wanted, atol=1e-7)
        assert np.abs(wanted - weights_of(state)[at, 0]).max() > 1e-4


def test_sums_that_cannot_be_undone_are_refused():
    """All curvature that was opened is said to be this department's, and more: nothing is left to solve with."""
    parts = [cases.lines(seed) for seed in range(3)]
    method, state = build(SQUARED), dict(cases.rounds_of(SQUARED, parts)[-1])
    for name in (CURVED_HIGH, CURVED_LOW):
        state[name] = np.zeros_like(state[name])
    x, y = parts[0]["x"], parts[0]["y"]
    own, curvature = method.own_part(x, y, np.zeros(x.shape[1]), method.tried[0])
    left, _ = method._left(own, curvature, method.tried[0])
    least = left - method.ridge * np.diag(penalty(method, len(left)))
    state[CURVED_HIGH][0, 0], state[CURVED_LOW][0, 0] = split(least[np.triu_indices(len(left))])
    with pytest.raises(SumRejected):
        method.instead(state, 0, (x, y), (x[:0], y[:0]))
