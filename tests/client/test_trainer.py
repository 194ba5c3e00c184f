"""Local training: plans are carried out to the letter, nothing is hidden, nothing is random."""

import math

import numpy as np
import pytest

from commonroot.client.data import Rows
from commonroot.client.tasks import Binary, Classification, Regression
from commonroot.client.trainer import HEAD_MOMENTUM, Trainer, represent, train_alone, train_pooled
from commonroot.common.backbone import BackboneSpec
from commonroot.common.charter import Draft, Method, Training
from commonroot.common.errors import ConfigError, TrainingDiverged
from commonroot.strategies import Phase, build
from commonroot.strategies.averaging import LOSS_LIMIT
from commonroot.strategies.fedavg import COMMON_HEAD_BIAS, COMMON_HEAD_WEIGHT

BOTH, HEAD, BACKBONE = frozenset({"backbone", "head"}), frozenset({"head"}), frozenset({"backbone"})
THREE = Classification(("a", "b", "c"))


def draft_of(*, widths=(6,), inputs=4, method=None, activation="relu", **training):
    return Draft(
        federation="bank",
        name="pilot",
        rounds=2,
        method=method or Method(name="fedper"),
        backbone=BackboneSpec(inputs=inputs, widths=widths, activation=activation),
        training=Training(**training),
    )


def rows_of(n=20, *, inputs=4, classes=3, seed=1):
    random = np.random.default_rng(seed)
    y = np.arange(n) % classes
    x = random.normal(size=(n, inputs)) + np.eye(inputs)[y % inputs] * 3
    return Rows(x.astype(np.float32), y.astype(np.int64))


def trained(phases, *, draft=None, task=THREE, rows=None, private=None, version=1, secret=5, held_out=None):
    draft = draft or draft_of()
    trainer = Trainer(draft, task, secret)
    received = build(draft).initial(draft)
    private = private or trainer.start()
    rows = rows_of() if rows is None else rows
    return received, private, trainer.train(phases, received, private, rows, held_out, version=version)


def changed(received, private, found):
    """Which parts moved."""
    parts = set()
    if any(not np.array_equal(received[name], array) for name, array in found.net.backbone.items()):
        parts.add("backbone")
    if any(not np.array_equal(private[f"head/{name}"], array) for name, array in found.net.head.items()):
        parts.add("head")
    return parts


@pytest.mark.parametrize("parts", [BOTH, HEAD, BACKBONE], ids=lambda parts: "+".join(sorted(parts)))
def test_only_the_parts_of_a_phase_move(parts):
    assert changed(*trained([Phase(parts=parts, epochs=2)])) == parts


def test_an_empty_plan_moves_nothing_and_scores_what_was_received():
    received, private, found = trained([])
    assert changed(received, private, found) == set()
    assert found.result.loss == pytest.approx(found.result.held_out)


def test_phases_run_in_order():
    """head then backbone is not backbone then head"""
    one = trained([Phase(parts=HEAD, epochs=2), Phase(parts=BACKBONE, epochs=2)])[2]
    other = trained([Phase(parts=BACKBONE, epochs=2), Phase(parts=HEAD, epochs=2)])[2]
    assert not np.allclose(one.net.head["weight"], other.net.head["weight"])


def test_one_step_worked_by_hand():
    """Regression y = 2 standardised to 2, one row x = 1, θ = 1, head h = 1: o = 1, loss (1 - 2)² = 1.

    ∂θ = 2(o - y)·h·x = -2 and likewise ∂h, ∂b₀ (through the ReLU) and ∂b; the gradient's length √(4·4) = 4 is within
    the clip.  With weight decay 0.5 weights get -2 + 0.5·1, biases -2 + 0; rate 0.1: θ = h = 1.15, both biases 0.2.
    """
    draft = draft_of(widths=(1,), inputs=1, learning_rate=0.1, weight_decay=0.5, momentum=0.0)
    trainer = Trainer(draft, Regression(0.0, 1.0), 5)
    received = {"layers.0.weight": np.ones((1, 1), np.float32), "layers.0.bias": np.zeros(1, np.float32)}
    private = {"head/weight": np.ones((1, 1), np.float32), "head/bias": np.zeros(1, np.float32)}
    rows = Rows(np.ones((1, 1), np.float32), np.array([2.0]))
    found = trainer.train([Phase(parts=BOTH, epochs=1)], received, private, rows, None, version=1)
    assert found.result.loss == found.result.held_out == pytest.approx(1.0)
    assert found.net.backbone["layers.0.weight"].item() == pytest.approx(1.15)
    assert found.net.backbone["layers.0.bias"].item() == pytest.approx(0.2)
    assert found.net.head["weight"].item() == pytest.approx(1.15)
    assert found.net.head["bias"].item() == pytest.approx(0.2)


def test_a_long_gradient_is_cut_to_its_bound():
    """the same step with a bound of 1: each of the four derivatives is -2·1/4 = -0.5"""
    draft = draft_of(widths=(1,), inputs=1, learning_rate=0.1, weight_decay=0.0, momentum=0.0, gradient_clip=1.0)
    received = {"layers.0.weight": np.ones((1, 1), np.float32), "layers.0.bias": np.zeros(1, np.float32)}
    private = {"head/weight": np.ones((1, 1), np.float32), "head/bias": np.zeros(1, np.float32)}
    rows = Rows(np.ones((1, 1), np.float32), np.array([2.0]))
    trainer = Trainer(draft, Regression(0.0, 1.0), 5)
    found = trainer.train([Phase(parts=BOTH, epochs=1)], received, private, rows, None, version=1)
    assert found.net.head["weight"].item() == pytest.approx(1.05, abs=1e-5)


def test_the_momentum_of_the_head_outlives_a_round_and_that_of_the_backbone_does_not():
    """a second round from the same heads differs by the momentum alone"""
    _, _, first = trained([Phase(parts=BOTH, epochs=2)])
    assert set(first.private) == {"head/weight", "head/bias", HEAD_MOMENTUM}
    rested = {name: array for name, array in first.private.items() if name != HEAD_MOMENTUM}
    on = trained([Phase(parts=BOTH, epochs=1)], private=first.private)[2]
    off = trained([Phase(parts=BOTH, epochs=1)], private=rested)[2]
    assert not np.allclose(on.net.head["weight"], off.net.head["weight"])


def test_an_anchor_keeps_the_backbone_nearer_to_the_broadcast():
    def moved(anchor):
        received, _, found = trained([Phase(parts=BOTH, epochs=20, anchor=anchor)], draft=draft_of(weight_decay=0))
        return sum(float(np.square(found.net.backbone[name] - received[name]).sum()) for name in received)

    assert moved(10.0) < 0.2 * moved(0.0)


def test_the_same_arguments_give_the_same_bytes_and_another_version_or_secret_others():
    phases = [Phase(parts=BOTH, epochs=2)]
    one = trained(phases)[2].net
    again = trained(phases)[2].net
    assert all(np.array_equal(one.backbone[name], again.backbone[name]) for name in one.backbone)
    start = trained(phases)[1]
    later = trained(phases, version=2, private=start)[2].net
    elsewhere = trained(phases, secret=6, private=start)[2].net
    assert not np.array_equal(one.backbone["layers.0.weight"], later.backbone["layers.0.weight"])
    assert not np.array_equal(one.backbone["layers.0.weight"], elsewhere.backbone["layers.0.weight"])


def test_inputs_are_not_written_to():
    draft = draft_of()
    trainer = Trainer(draft, THREE, 5)
    received, private, rows = build(draft).initial(draft), trainer.start(), rows_of()
    private[HEAD_MOMENTUM] = np.ones(3 * 6 + 3, np.float32)
    held = [{k: v.copy() for k, v in received.items()}, {k: v.copy() for k, v in private.items()}, rows.x.copy()]
    trainer.train([Phase(parts=BOTH, epochs=3)], received, private, rows, None, version=1)
    for before, after in ((held[0], received), (held[1], private)):
        assert all(np.array_equal(before[name], after[name]) for name in before)
    np.testing.assert_array_equal(held[2], rows.x)


def test_read_only_arrays_are_accepted():
    """as they come from a memory-mapped store"""
    draft = draft_of()
    trainer = Trainer(draft, THREE, 5)
    received, private = build(draft).initial(draft), trainer.start()
    for array in (*received.values(), *private.values()):
        array.flags.writeable = False
    trainer.train([Phase(parts=BOTH, epochs=1)], received, private, rows_of(), None, version=1)


def test_held_out_is_the_loss_of_what_was_received():
    """on the held-out rows, before any step; a zero head knows nothing, so exactly the chance loss"""
    private = {"head/weight": np.zeros((3, 6), np.float32), "head/bias": np.zeros(3, np.float32)}
    found = trained([Phase(parts=BOTH, epochs=20)], private=private, held_out=rows_of(9, seed=2))[2]
    assert found.result.held_out == pytest.approx(1.0)
    assert found.result.loss < 0.5 and found.result.rows == 20


@pytest.mark.parametrize("every, scored", [(1, [0, 1, 2, 3, 4]), (2, [0, 2, 4]), (3, [0, 3, 4]), (99, [0, 4])])
def test_held_out_rows_are_scored_as_often_as_the_charter_says(every, scored):
    """the first and the last version always; steps are the same whether or not"""
    draft = draft_of(held_out_every=every).model_copy(update={"rounds": 5})
    plain = draft_of().model_copy(update={"rounds": 5})
    for version in range(5):
        one, other = (
            trained([Phase(parts=BOTH, epochs=2)], draft=each, held_out=rows_of(9, seed=2), version=version)[2]
            for each in (draft, plain)
        )
        assert draft.scores(version) == (version in scored)
        assert one.result.held_out == (other.result.held_out if version in scored else 0.0)
        assert one.result.loss == other.result.loss and other.result.held_out > 0.1
        for name, array in other.result.shared.items():
            np.testing.assert_array_equal(one.result.shared[name], array)


def test_training_and_held_out_losses_are_on_one_scale():
    """at a rate of nearly nothing, over the same rows, they are the same number"""
    result = trained([Phase(parts=BOTH, epochs=1)], draft=draft_of(learning_rate=1e-12))[2].result
    assert result.loss == pytest.approx(result.held_out, rel=1e-5)


def test_training_learns_every_kind_of_task():
    x = rows_of(60, classes=2)
    value = Rows(x.x, x.y.astype(np.float64) * 5)
    for task, rows in ((THREE, rows_of(60)), (Binary(("no", "yes")), x), (Regression.fitted(value.y), value)):
        assert trained([Phase(parts=BOTH, epochs=30)], task=task, rows=rows)[2].result.loss < 0.3


def test_extreme_values_stop_training_by_name():
    rows = rows_of()
    with pytest.raises(TrainingDiverged):
        trained([Phase(parts=BOTH, epochs=1)], rows=Rows(np.full_like(rows.x, 3e38), rows.y))
    with pytest.raises(TrainingDiverged):
        trained([Phase(parts=BOTH, epochs=60)], draft=draft_of(learning_rate=1e6, gradient_clip=1e6))


@pytest.mark.parametrize("every", [1, 2])
def test_held_out_rows_beyond_all_numbers_keep_nobody_from_training(every):
    """else those sums would tell, by turns, with this department and without it"""
    far = rows_of(9, seed=2)
    far = Rows(np.full_like(far.x, 3e38), far.y)
    found = trained([Phase(parts=BOTH, epochs=1)], draft=draft_of(held_out_every=every), held_out=far, version=0)[2]
    assert found.result.held_out == LOSS_LIMIT and found.result.loss < 2


def test_a_shared_head_comes_from_the_broadcast_and_goes_back():
    draft = draft_of(method=Method(name="fedavg", options={"head": "shared", "outputs": 3}))
    strategy = build(draft)
    trainer = Trainer(draft, THREE, 5, strategy.shares_head)
    received = strategy.initial(draft)
    found = trainer.train(strategy.plan(draft), received, trainer.start(), rows_of(), None, version=1)
    assert set(found.result.shared) == {name for name, _ in strategy.broadcast(draft)}
    assert found.result.held_out == pytest.approx(1.0)  # the shared head starts at zero
    np.testing.assert_array_equal(found.result.shared[COMMON_HEAD_WEIGHT], found.net.head["weight"])
    assert np.abs(found.result.shared[COMMON_HEAD_BIAS]).max() > 0


def test_a_shared_head_of_another_size_is_refused():
    draft = draft_of(method=Method(name="fedavg", options={"head": "shared", "outputs": 4}))
    trainer = Trainer(draft, THREE, 5, True)
    with pytest.raises(ConfigError, match="shares a head of 4 outputs; this department's task has 3"):
        trainer.net(build(draft).initial(draft), trainer.start())


def test_private_heads_are_not_in_what_is_shared():
    _, _, found = trained([Phase(parts=BOTH, epochs=1)])
    assert set(found.result.shared) == {"layers.0.weight", "layers.0.bias"}


def test_the_secret_is_in_no_representation():
    assert "987654321" not in repr(Trainer(draft_of(), THREE, 987654321))


def test_the_local_twin_is_the_same_whether_it_is_looked_at_or_not():
    draft, rows = draft_of(), rows_of()
    watched = train_alone(draft, THREE, rows, rows_of(7, seed=3), secret=4, epochs=[2, 5])
    blind = train_alone(draft, THREE, rows, None, secret=4, epochs=[5])
    assert watched.epochs == (2, 5) and [o.shape for o in watched.outputs] == [(7, 3), (7, 3)]
    assert blind.outputs == ()
    np.testing.assert_array_equal(watched.net.head["weight"], blind.net.head["weight"])


def test_the_local_twin_starts_from_the_first_backbone_of_the_charter():
    """at a rate of nearly nothing it stays there"""
    draft = draft_of(learning_rate=1e-12)
    net = train_alone(draft, THREE, rows_of(), None, secret=4, epochs=[1]).net
    for name, array in draft.backbone.initial(draft.training.seed).items():
        np.testing.assert_allclose(net.backbone[name], array, atol=1e-9)


def test_pooled_training_gives_one_backbone_and_a_head_for_each():
    rows, other = rows_of(40), rows_of(24, classes=2, seed=9)
    departments = [(THREE, rows), (Binary(("no", "yes")), other)]
    draft = draft_of()
    nets = train_pooled(draft, departments, secret=1, epochs=25)
    for name in nets[0].backbone:
        np.testing.assert_array_equal(nets[0].backbone[name], nets[1].backbone[name])
    for (task, held), net in zip(departments, nets, strict=True):
        outputs = represent(draft, net.backbone, held.x) @ net.head["weight"].T + net.head["bias"]
        assert task.row_losses(task.predictive(outputs), held.y).mean() < 0.3


def test_pooled_training_of_one_department_learns_like_the_twin():
    """not the same order of rows, so the same loss within a tenth"""
    draft, rows = draft_of(), rows_of(40)
    losses = []
    for net in (
        train_pooled(draft, [(THREE, rows)], secret=1, epochs=10)[0],
        train_alone(draft, THREE, rows, None, secret=1, epochs=[10]).net,
    ):
        outputs = represent(draft, net.backbone, rows.x) @ net.head["weight"].T + net.head["bias"]
        losses.append(THREE.row_losses(THREE.predictive(outputs), rows.y).mean())
    assert math.isclose(*losses, abs_tol=0.1)


def test_batches_differ_by_one_row_at_most_and_hold_every_row_once():
    """17 rows in batches of 16 would be 16 and 1; here 9 and 8"""
    from commonroot.client.model import DepartmentModel
    from commonroot.client.steps import Loop

    draft = draft_of(batch=16)
    model = DepartmentModel(draft.backbone, 3)
    model.load(draft.backbone.initial(1), {"weight": np.zeros((3, 6)), "bias": np.zeros(3)})
    batches = list(Loop(model, THREE, draft.training, np.random.default_rng(1)).batches(17))
    assert [len(batch) for batch in batches] == [9, 8]
    assert sorted(int(at) for batch in batches for at in batch) == list(range(17))


def test_the_last_round_measures_by_label_and_trains_nothing():
    """Of three rounds the third; labels 0 and 1 have validation rows, label 2 has none."""
    options = {"head": "shared", "outputs": 3, "label_evidence": True}
    draft = Draft(
        federation="bank",
        name="pilot",
        rounds=3,
        method=Method(name="fedavg", options=options),
        backbone=BackboneSpec(inputs=4, widths=(8,)),
    )
    strategy, task = build(draft), Classification(("x", "y", "z"))
    trainer = Trainer(draft, task, 7, strategy.shares_head, None, strategy.form(draft))
    random = np.random.default_rng(3)
    rows, held = (
        Rows(random.normal(size=(n, 4)).astype(np.float32), (np.arange(n) % labels).astype(np.int64))
        for n, labels in ((30, 3), (10, 2))
    )
    received = strategy.initial(draft)
    private = trainer.start()
    for version in range(3):
        made = trainer.train(strategy.plan(draft), received, private, rows, held, version=version).result
        moved = any((made.shared[name] != received[name]).any() for name in made.shared)
        assert moved == (version < 2) == (made.label_losses is None)
    # a head of zeros gives every label a third: the chance loss, exactly
    np.testing.assert_allclose(made.label_losses, [1.0, 1.0, np.nan], rtol=1e-6)
