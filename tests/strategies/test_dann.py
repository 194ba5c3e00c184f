"""Departments without labels: what a round of them gives is one step in one place, and what leaves stays within."""

import math

import numpy as np
import pytest
import torch

from commonroot.client.data import Rows
from commonroot.client.tasks import Binary
from commonroot.client.trainer import Trainer
from commonroot.common.backbone import BackboneSpec
from commonroot.common.charter import Draft, Method, Training
from commonroot.common.errors import ConfigError, OutsideCharter, SumRejected
from commonroot.strategies import build, critic
from commonroot.strategies.averaging import LABELLED, mean_losses
from commonroot.strategies.fedavg import COMMON_HEAD_BIAS, COMMON_HEAD_WEIGHT
from commonroot.strategies.self_training import SHARES

TASK = Binary(("no", "yes"))
RATE, CONFUSION, RIDGE = 0.1, 0.7, 0.05


def draft_of(name="dann", rounds=4, **options):
    """Whole batches, plain gradient descent, nothing clipped, everybody of weight 1."""
    return Draft(
        federation="bank",
        name="pilot",
        rounds=rounds,
        method=Method(name=name, options={"epochs": 1, "outputs": 1, **options}),
        backbone=BackboneSpec(inputs=4, widths=(3,), activation="tanh"),
        training=Training(
            batch=1000,
            learning_rate=RATE,
            momentum=0.0,
            weight_decay=0.0,
            gradient_clip=1e9,
            update_clip=1000.0,
            weight_cap=1,
        ),
    )


def departments():
    """Two with labels, and one whose rows lie elsewhere and have none."""
    random = np.random.default_rng(3)
    found = []
    for rows, shift in ((20, 0.0), (30, 0.3), (25, 1.5)):
        y = np.arange(rows) % 2
        x = random.normal(size=(rows, 4)) + shift + np.outer(2 * y - 1, [1.0, 0.5, 0.0, 0.0])
        found.append(Rows(x.astype(np.float32), y.astype(np.int64)))
    found[2] = Rows(found[2].x, np.full(25, -1, dtype=np.int64))
    return found


def begun(draft, strategy):
    """A state with a critic and a head that are not zero."""
    random = np.random.default_rng(5)
    state = dict(strategy.initial(draft))
    for name, size in ((COMMON_HEAD_WEIGHT, 0.5), (critic.WEIGHT, 0.8), (critic.BIAS, 0.3), (critic.PRIOR, 0.2)):
        if name in state:
            state[name] = np.asarray(random.normal(0, size, state[name].shape), dtype=np.float32)
    state[SHARES] = np.array([0.5, 0.5], dtype=np.float32)
    return state


def results(draft, strategy, state, *, version=0):
    found = []
    for at, rows in enumerate(departments()):
        form = strategy.form(draft)
        trainer = Trainer(draft, TASK, at, strategy.shares_head, 4, form, labelled=bool(rows.y[0] >= 0))
        trained = trainer.train(strategy.plan(draft), state, trainer.start(), rows, None, version=version)
        found.append(trained.result)
    return found


def opened(draft, strategy, state, found):
    parts = [strategy.contribute(draft, state, one) for one in found]
    return {name: np.asarray(sum(part[name] for part in parts), np.float64) for name in parts[0]}


def network(tensors, x):
    """(z, logit) of the backbone and the common head, in double precision."""
    z = torch.tanh(x @ tensors["layers.0.weight"].T + tensors["layers.0.bias"])
    return z, (z @ tensors[COMMON_HEAD_WEIGHT].T + tensors[COMMON_HEAD_BIAS])[:, 0]


def test_one_round_is_one_step_of_centralised_dann():
    """Three departments of weight 1: L = 1/3 Σ_k [k labelled]·CE_k/log 2 + λ·CE(1/2, critic_k)/log 2, written out."""
    draft = draft_of(confusion=CONFUSION, critic_ridge=RIDGE)
    strategy = build(draft)
    state = begun(draft, strategy)
    following = strategy.combine(draft, state, opened(draft, strategy, state, results(draft, strategy, state)))

    names = [name for name, _ in strategy.common(draft)]
    body = {name: torch.tensor(state[name].astype(np.float64), requires_grad=True) for name in names}
    u = torch.tensor(state[critic.WEIGHT].astype(np.float64))
    offset = float(state[critic.BIAS]) - float(state[critic.PRIOR])
    total = torch.zeros((), dtype=torch.float64)
    for rows in departments():
        z, logit = network(body, torch.tensor(rows.x.astype(np.float64)))
        c = z @ u + offset
        half = torch.full_like(c, 0.5)
        total = total + CONFUSION * torch.nn.functional.binary_cross_entropy_with_logits(c, half) / math.log(2) / 3
        if rows.y[0] >= 0:
            y = torch.tensor(rows.y.astype(np.float64))
            total = total + torch.nn.functional.binary_cross_entropy_with_logits(logit, y) / math.log(2) / 3
    gradients = torch.autograd.grad(total, list(body.values()))
    for (name, tensor), gradient in zip(body.items(), gradients, strict=True):
        expected = (tensor - RATE * gradient).detach().numpy()
        np.testing.assert_allclose(following[name], expected, atol=2e-6)
        assert np.abs(gradient.numpy()).max() > 1e-4  # every part of it moves


def test_the_critic_takes_the_newton_step_of_all_rows_in_one_place():
    """The mean over departments of each one's mean logistic loss, plus a ridge; a row counts 1/(3 n_k)."""
    draft = draft_of(confusion=CONFUSION, critic_ridge=RIDGE)
    strategy = build(draft)
    state = begun(draft, strategy)
    following = strategy.combine(draft, state, opened(draft, strategy, state, results(draft, strategy, state)))

    tensors = {name: torch.tensor(state[name].astype(np.float64)) for name, _ in strategy.common(draft)}
    held = departments()
    z = np.concatenate([network(tensors, torch.tensor(one.x.astype(np.float64)))[0].numpy() for one in held])
    ones = np.column_stack([z, np.ones(len(z))])
    row = np.concatenate([np.full(len(one), 1 / (3 * len(one))) for one in held])
    t = np.concatenate([np.full(len(one), float(one.y[0] < 0)) for one in held])
    old = np.append(state[critic.WEIGHT], state[critic.BIAS]).astype(np.float64)
    said = 1 / (1 + np.exp(-ones @ old))
    hessian = (ones * (row * said * (1 - said))[:, None]).T @ ones
    strength = RIDGE * np.diag(hessian)[:3].mean()
    gradient = ones.T @ (row * (said - t)) + strength * old * [1, 1, 1, 0]
    expected = old - np.linalg.solve(hessian + np.diag([strength] * 3 + [1e-6]), gradient)
    np.testing.assert_allclose(np.append(following[critic.WEIGHT], following[critic.BIAS]), expected, atol=1e-5)
    assert float(following[critic.PRIOR]) == pytest.approx(math.log(1 / 2))


def test_repeated_steps_find_who_has_no_labels():
    draft = draft_of(confusion=0.0, rounds=20)
    strategy = build(draft)
    state = strategy.initial(draft)
    for version in range(8):
        found = results(draft, strategy, state, version=version)
        state = strategy.combine(draft, state, opened(draft, strategy, state, found))
    logits = [one.seen @ state[critic.WEIGHT] + state[critic.BIAS] - state[critic.PRIOR] for one in found]
    assert min(logits[2].mean() - logits[0].mean(), logits[2].mean() - logits[1].mean()) > 1.0
    assert (np.concatenate(logits[:2]) < 0).mean() > 0.7 < (logits[2] > 0).mean()


def test_confusion_brings_the_two_kinds_together():
    def apart(confusion):
        draft = draft_of(confusion=confusion, rounds=40)
        strategy = build(draft)
        state = strategy.initial(draft)
        for version in range(30):
            found = results(draft, strategy, state, version=version)
            state = strategy.combine(draft, state, opened(draft, strategy, state, found))
        there = [one.seen.mean(axis=0) for one in results(draft, strategy, state)]
        return float(np.linalg.norm(there[2] - (there[0] + there[1]) / 2))

    assert apart(1.0) < 0.7 * apart(0.0)


@pytest.mark.parametrize("name", ["self-training", "dann"])
def test_version_0_is_trusted_nowhere_and_pulls_nobody(name):
    draft = draft_of(name, trust=1.0)
    strategy = build(draft)
    state = strategy.initial(draft)
    unlabelled = results(draft, strategy, state)[2]
    for tensor, _ in strategy.common(draft):
        np.testing.assert_array_equal(unlabelled.shared[tensor], state[tensor])
    assert unlabelled.trusted == 0.0


def test_a_department_without_labels_is_in_no_loss_and_in_no_share():
    """losses are means over the two with labels; so are the shares, 1/2 each"""
    draft = draft_of("self-training")
    strategy = build(draft)
    state = begun(draft, strategy)
    found = results(draft, strategy, state, version=2)
    sums = opened(draft, strategy, state, found)
    assert float(sums[LABELLED]) == 2.0
    assert float(sums["weight"]) == 2.5  # version 2 of 4: half is trusted
    assert mean_losses(draft, 2, sums)["loss"] == pytest.approx((found[0].loss + found[1].loss) / 2)
    np.testing.assert_allclose(strategy.combine(draft, state, sums)[SHARES], [0.5, 0.5], atol=1e-6)


def test_what_it_weighs_does_not_depend_on_its_rows():
    draft = draft_of("self-training", unlabelled_weight=0.3)
    strategy = build(draft)
    state = begun(draft, strategy)
    one = results(draft, strategy, state, version=3)[2]
    weights = {
        float(
            strategy.contribute(
                draft, state, type(one)(one.shared, rows, 0.0, 0.0, labelled=False, trusted=one.trusted)
            )["weight"]
        )
        for rows in (1, 25, 10**6)
    }
    assert weights == {math.ceil(0.3 * 0.75 * 64) / 64}


def test_without_a_department_without_labels_a_round_is_that_of_fedavg():
    draft, plain = draft_of("dann"), draft_of("fedavg", head="shared")
    strategy, fedavg = build(draft), build(plain)
    state = strategy.initial(draft)
    ours = strategy.combine(draft, state, opened(draft, strategy, state, results(draft, strategy, state)[:2]))
    first = fedavg.initial(plain)
    sums = [fedavg.contribute(plain, first, one) for one in results(plain, fedavg, first)[:2]]
    theirs = fedavg.combine(plain, first, {name: sums[0][name] + sums[1][name] for name in sums[0]})
    for name in theirs:
        np.testing.assert_allclose(ours[name], theirs[name], atol=1e-7)
    assert not ours[critic.WEIGHT].any()


def test_a_private_head_is_refused():
    with pytest.raises(ConfigError, match="head must be shared"):
        build(_private("dann"))


def _private(name):
    return draft_of(name).model_copy(update={"method": Method(name=name, options={"head": "private"})})


@pytest.mark.parametrize("what, value", [(critic.WEIGHT, np.nan), (critic.WEIGHT, 1e3), (critic.PRIOR, 1e9)])
def test_a_critic_that_no_sum_gives_is_refused(what, value):
    draft = draft_of()
    strategy = build(draft)
    first = strategy.initial(draft)
    received = dict(first) | {what: np.full_like(first[what], value)}
    with pytest.raises(OutsideCharter):
        strategy.check_received(draft, received, 1, first, 0)
    strategy.check_received(draft, first, 1, first, 0)


@pytest.mark.parametrize("shares", [[0.5, 0.7], [-0.1, 1.1], [np.nan, 0.5]])
def test_shares_that_no_sum_gives_are_refused(shares):
    draft = draft_of("self-training")
    strategy = build(draft)
    first = strategy.initial(draft)
    with pytest.raises(OutsideCharter):
        strategy.check_received(draft, dict(first) | {SHARES: np.array(shares, np.float32)}, 1, first, 0)
    state = begun(draft, strategy)
    sums = opened(draft, strategy, state, results(draft, strategy, state))
    with pytest.raises(SumRejected):
        strategy.combine(draft, state, sums | {SHARES: 2 * np.array(shares)})
