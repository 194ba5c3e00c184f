"""What the methods add to a step and to a department's state: penalties by hand, one linear head, private copies."""

import numpy as np
import pytest
import torch

from commonroot.client.data import Rows
from commonroot.client.model import SHIFT, DepartmentModel, initial_head
from commonroot.client.shared_models import shared_networks
from commonroot.client.steps import Loop
from commonroot.client.tasks import Classification, Regression
from commonroot.client.trainer import Trainer, represent
from commonroot.common.backbone import BackboneSpec
from commonroot.common.charter import Draft, Family, Method, Training
from commonroot.common.errors import ConfigError
from commonroot.strategies import Form, build
from commonroot.strategies.consensus import KNOWN, MEAN

THREE = Classification(("a", "b", "c"))
MLP = BackboneSpec(inputs=4, widths=(6,))
NORMED = BackboneSpec(family="resmlp", inputs=4, width=6, blocks=1)


def draft_of(method, *, backbone=MLP, families=(), **training):
    return Draft(
        federation="bank",
        name="pilot",
        rounds=2,
        method=Method(name=method) if isinstance(method, str) else method,
        backbone=backbone,
        training=Training(**training),
        families=families,
    )


def rows_of(n=24, seed=1):
    random = np.random.default_rng(seed)
    y = np.arange(n) % 3
    x = random.normal(size=(n, 4)) + np.eye(4)[y] * 3
    return Rows(x.astype(np.float32), y.astype(np.int64))


def trainer_of(draft, task=THREE, name="a"):
    strategy = build(draft).as_department(name)
    return strategy, Trainer(draft, task, 5, strategy.shares_head, None, strategy.form(draft))


def one_round(draft, received=None, private=None, *, version=1, name="a", task=THREE):
    strategy, trainer = trainer_of(draft, task, name)
    received = strategy.initial(draft) if received is None else received
    private = trainer.start() if private is None else private
    return strategy, trainer.train(strategy.plan(draft), received, private, rows_of(), None, version=version)


# -- one linear head ---------------------------------------------------------------------------------------------------


def test_heads_and_feature_bias_are_one_linear_map_of_the_representation():
    model = DepartmentModel(MLP, 3, form=Form(shift=True, family="f"))
    head, family = initial_head(MLP, 3, 8), initial_head(MLP, 3, 9)
    shared = MLP.initial(7) | {"family/f/weight": family["weight"], "family/f/bias": family["bias"] + 1}
    private = {"head/weight": head["weight"], "head/bias": head["bias"], SHIFT: np.arange(6, dtype=np.float32)}
    model.take(shared, private)
    x = rows_of().x
    plain = DepartmentModel(MLP, 3)
    plain.load(model.export_backbone(), model.export_head())
    with torch.inference_mode():
        rich = model(torch.from_numpy(x)).numpy()
        np.testing.assert_allclose(plain(torch.from_numpy(x)).numpy(), rich, atol=1e-5)
    z = represent(draft_of("feddbe"), shared, x)
    expected = z @ family["weight"].T + family["bias"] + 1 + (z + np.arange(6)) @ head["weight"].T
    np.testing.assert_allclose(rich, expected, atol=1e-5)


def test_what_is_averaged_and_what_is_private_never_overlap_and_are_everything():
    model = DepartmentModel(NORMED, 3, form=Form(shift=True, family="f", norms=frozenset({"last.gain", "last.shift"})))
    shared, private = set(model.shared.values()), set(model.private.values())
    assert not shared & private
    assert shared | private == set(model.parameters())
    assert {"norm/last.gain", "norm/last.shift", SHIFT} <= model.private.keys()


# -- feddbe ------------------------------------------------------------------------------------------------------------


def drawn(pull, known, *, target=3.0):
    """One step at rate 1 of a head that knows nothing and a backbone with θ = 1: rows 1 and 3, so mean(z) = 2."""
    backbone = BackboneSpec(inputs=1, widths=(1,))
    draft = draft_of(
        Method(name="feddbe", options={"pull": pull, "backbone_epochs": 1, "feature_bias": False}),
        backbone=backbone,
        learning_rate=1.0,
        momentum=0.0,
        weight_decay=0.0,
        gradient_clip=100.0,
    )
    received = {
        "layers.0.weight": np.ones((1, 1), np.float32),
        "layers.0.bias": np.zeros(1, np.float32),
        MEAN: np.array([target], np.float32),
        KNOWN: np.array(known, np.float32),
    }
    strategy, trainer = trainer_of(draft, Regression(0.0, 1.0))
    private = {"head/weight": np.zeros((1, 1), np.float32), "head/bias": np.zeros(1, np.float32)}
    rows = Rows(np.array([[1.0], [3.0]], np.float32), np.array([0.0, 0.0]))
    return trainer.train(strategy.plan(draft), received, private, rows, None, version=1)


def test_the_pull_towards_the_consensus_worked_by_hand():
    """κ(mean(z) - m̄)² with mean(z) = 2, m̄ = 3: ∂θ = 2κ(2 - 3)·mean(x) = -4κ, ∂bias = -2κ; κ = 0.25: θ = 2, b = 0.5"""
    found = drawn(0.25, 1.0)
    assert found.net.backbone["layers.0.weight"].item() == pytest.approx(2.0)
    assert found.net.backbone["layers.0.bias"].item() == pytest.approx(0.5)
    assert found.result.centre == pytest.approx([2.0])
    assert found.result.loss == pytest.approx(0.0)  # without the penalty


@pytest.mark.parametrize(("pull", "known"), [(0.0, 1.0), (1.0, 0.0)])
def test_without_a_consensus_or_a_strength_nothing_pulls(pull, known):
    found = drawn(pull, known, target=0.0 if known == 0.0 else 3.0)
    assert found.net.backbone["layers.0.weight"].item() == 1.0
    assert found.result.centre == pytest.approx([2.0])


def test_the_mean_representation_is_that_of_every_row_once():
    """at a rate of nearly nothing the pass sees one backbone"""
    draft = draft_of("feddbe", learning_rate=1e-12)
    strategy, found = one_round(draft)
    expected = represent(draft, strategy.initial(draft), rows_of().x).mean(axis=0)
    np.testing.assert_allclose(found.result.centre, expected, atol=1e-5)


def test_without_pull_and_bias_feddbe_trains_as_fedper_does():
    plain = one_round(draft_of("fedper"))[1]
    bare = one_round(draft_of(Method(name="feddbe", options={"pull": 0.0, "feature_bias": False})))[1]
    for name, array in plain.result.shared.items():
        np.testing.assert_array_equal(bare.result.shared[name], array)


def test_the_feature_bias_is_kept_and_never_shared():
    _, found = one_round(draft_of("feddbe"))
    assert found.private[SHIFT].any()
    assert set(found.result.shared) == {name for name, _ in MLP.shapes()}


# -- family heads ------------------------------------------------------------------------------------------------------

FAMILY = (Family(name="f", outputs=3, departments=("a", "b", "c")),)


def test_a_member_trains_the_familys_head_and_a_stranger_does_not():
    draft = draft_of("feddbe", families=FAMILY)
    member, stranger = one_round(draft, name="a")[1], one_round(draft, name="z")[1]
    assert member.result.shared["family/f/weight"].any()
    assert not any(name.startswith("family") for name in stranger.result.shared)


def test_a_familys_head_of_another_size_is_refused():
    draft = draft_of("feddbe", families=(Family(name="f", outputs=4),))
    strategy, trainer = trainer_of(draft)
    with pytest.raises(ConfigError, match="the head of family 'f' of 4 outputs; this department's task has 3"):
        trainer.check(strategy.initial(draft), rows_of())


def test_a_refitted_head_stands_for_all_heads_together():
    """H = head - G, so that G + H is the head that was fitted"""
    draft = draft_of("feddbe", families=FAMILY)
    _, trainer = trainer_of(draft)
    received = one_round(draft)[1].result.shared | {MEAN: np.zeros(6, np.float32), KNOWN: np.zeros((), np.float32)}
    head = initial_head(MLP, 3, 3)
    net = trainer.net(received, trainer.own_head(received, head))
    for name, array in head.items():
        np.testing.assert_allclose(net.head[name], array, atol=1e-6)


# -- fedprox, fedbn, ditto, server -------------------------------------------------------------------------------------


def moved(draft, received, found):
    return sum(float(np.square(array - received[name]).sum()) for name, array in found.result.shared.items())


@pytest.mark.parametrize("options", [{}, {"head": "shared", "outputs": 3}], ids=["private", "shared"])
def test_fedprox_stays_nearer_to_the_broadcast(options):
    far = draft_of(Method(name="fedprox", options={"proximal": 0.0, **options}), weight_decay=0.0)
    near = draft_of(Method(name="fedprox", options={"proximal": 5.0, **options}), weight_decay=0.0)
    received = build(far).initial(far)
    assert moved(near, received, one_round(near)[1]) < 0.3 * moved(far, received, one_round(far)[1])


def test_fedprox_without_its_term_is_fedavg():
    without = draft_of(Method(name="fedprox", options={"proximal": 0.0}))
    assert build(without).plan(without) == build(draft_of("fedavg-ft")).plan(without)


def test_private_norms_are_trained_kept_and_taken_up_again():
    draft = draft_of("fedbn", backbone=NORMED)
    strategy, first = one_round(draft)
    norms = {name for name, _ in NORMED.shapes() if name.endswith(("gain", "shift"))}
    assert norms == {name.removeprefix("norm/") for name in first.private if name.startswith("norm/")}
    assert norms.isdisjoint(first.result.shared) and norms <= first.net.backbone.keys()
    assert (first.private["norm/last.gain"] != 1).any()
    _, trainer = trainer_of(draft)
    net = trainer.net(strategy.initial(draft), first.private)
    np.testing.assert_array_equal(net.backbone["last.gain"], first.private["norm/last.gain"])


def test_ditto_contributes_what_fedavg_does_and_keeps_a_copy_beside_it():
    options = {"head": "shared", "outputs": 3}
    plain = one_round(draft_of(Method(name="fedavg", options=options)))[1]
    _, found = one_round(draft_of(Method(name="ditto", options=options)))
    for name, array in plain.result.shared.items():
        np.testing.assert_array_equal(found.result.shared[name], array)
    kept = {name for name in found.private if name.startswith("twin/")}
    assert {f"twin/shared/{name}" for name in plain.result.shared} <= kept
    np.testing.assert_array_equal(found.net.backbone["layers.0.weight"], found.private["twin/shared/layers.0.weight"])
    assert not np.array_equal(found.net.backbone["layers.0.weight"], found.result.shared["layers.0.weight"])


def test_dittos_copy_goes_on_from_where_it_was_and_is_held_near_the_broadcast():
    def twice(anchor):
        draft = draft_of(Method(name="ditto", options={"anchor": anchor}), weight_decay=0.0)
        strategy, first = one_round(draft)
        received = {name: array + np.float32(2.0) for name, array in strategy.initial(draft).items()}
        second = one_round(draft, received, first.private, version=2)[1]
        return first, second, received

    first, free, _ = twice(0.0)
    near = np.abs(free.net.backbone["layers.0.weight"] - first.net.backbone["layers.0.weight"]).max()
    assert 0 < near < 1.5  # not the broadcast, which is 2 away
    _, held, received = twice(20.0)
    there = received["layers.0.weight"]
    distances = [float(np.abs(found.net.backbone["layers.0.weight"] - there).mean()) for found in (held, free)]
    assert distances[0] < 0.7 * distances[1]


def test_dittos_last_word_is_its_copy():
    draft = draft_of("ditto")
    strategy, trainer = trainer_of(draft)
    _, first = one_round(draft)
    received = strategy.initial(draft)
    ended = trainer.train(strategy.finish(draft), received, first.private, rows_of(), None, version=2)
    for name, array in received.items():
        np.testing.assert_array_equal(ended.result.shared[name], array)
    assert (ended.net.backbone["layers.0.weight"] != received["layers.0.weight"]).any()


def test_a_method_that_pulls_nothing_takes_the_short_way_through_a_step(monkeypatch):
    """No mean is kept and no representation is looked at twice."""
    draft = draft_of("fedper")
    monkeypatch.setattr(Loop, "_drawn_together", lambda *_: pytest.fail("a method without a consensus"))
    one_round(draft)


def test_structure_has_a_candidate_and_local_has_none():
    from commonroot.client.data import Prepared

    def candidate(method):
        draft = draft_of(Method(name=method, options={"epochs": 1} if method == "structure" else {}))
        strategy, trainer = trainer_of(draft)
        rows = rows_of()
        prepared = Prepared(THREE, None, rows, rows, rows)
        return shared_networks(draft, strategy, prepared, strategy.initial(draft), trainer.start(), secret=5, version=2)

    assert candidate("local") == ()
    assert [one.model.kind for one in candidate("structure")] == ["network"]


@pytest.mark.parametrize("rows", [9, 40])
def test_a_member_of_a_family_has_the_familys_head_as_a_candidate_too(rows):
    """however few its validation rows are, and the private head by itself beside it"""
    from commonroot.client.data import Prepared

    family = Family(name="three", outputs=3, departments=())
    draft = draft_of(Method(name="fedper", options={"fine_tune_head_epochs": 0, "fine_tune_epochs": 1}))
    draft = draft.model_copy(update={"families": (family,)})
    strategy = build(draft).as_department("north")
    state = strategy.initial(draft)
    trainer = Trainer(draft, THREE, 5, strategy.shares_head, None, strategy.form(draft))
    part = rows_of().take(np.arange(rows) % len(rows_of()))
    prepared = Prepared(THREE, None, part, part, part)
    found = shared_networks(draft, strategy, prepared, state, trainer.start(), secret=5, version=2)
    assert [one.kind for one in found] == ["federated", "family"]
    assert found[0].name.startswith("refitted head")
