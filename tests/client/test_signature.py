"""A signature tells rows apart that are distributed differently, and a department keeps to the split it saw first."""

import numpy as np
import pytest

from commonroot.client.data import Rows
from commonroot.client.own_side import own_backbone, seen_split, side_of
from commonroot.client.signature import signature
from commonroot.client.tasks import Binary, Classification, Regression
from commonroot.common.backbone import BackboneSpec
from commonroot.common.charter import Draft, Method
from commonroot.common.errors import ConfigError, OutsideCharter
from commonroot.strategies import build, two_sum

THREE = Classification(("a", "b", "c"))
TOKENS = BackboneSpec(family="transformer", vocabulary=30, length=6, width=4, heads=1, layers=1)


def draft_of(backbone=None, method="clustered", **options):
    return Draft(
        federation="bank",
        name="pilot",
        rounds=9,
        method=Method(name=method, options=options),
        backbone=backbone or BackboneSpec(inputs=4, widths=(3,)),
    )


def signed(rows, task=THREE, backbone=None, **options):
    draft = draft_of(backbone, **options)
    return signature(draft, build(draft), task, rows)


def rows_of(seed=1, n=600, shift=0.0):
    random = np.random.default_rng(seed)
    y = random.integers(0, 3, n)
    x = random.normal(size=(n, 4)) + 2 * np.eye(4)[y] + shift * np.array([0.0, 0.0, 0.0, 1.0])
    return Rows(x.astype(np.float32), y.astype(np.int64))


def test_it_is_bounded_in_steps_and_the_same_every_time():
    one, again = signed(rows_of()), signed(rows_of())
    np.testing.assert_array_equal(one, again)
    assert one.shape == (64,) and np.abs(one).max() <= 1
    np.testing.assert_array_equal(one * two_sum.STEPS, np.round(one * two_sum.STEPS))


def test_it_is_the_mean_of_random_features_written_out():
    """Of one row of length 1 along the first axis: cos(1.5 ω_1 + b), with ω and b drawn as the charter's seed says."""
    random = np.random.default_rng([0x7369676E, 1])
    shift = random.uniform(0, 2 * np.pi, size=64)
    omega = 1.5 * random.standard_normal((4, 64), dtype=np.float32)
    rows = Rows(np.array([[7.0, 0.0, 0.0, 0.0]] * 3, np.float32), np.zeros(3, np.int64))
    np.testing.assert_allclose(signed(rows), np.cos(omega[0] + shift), atol=0.5 / two_sum.STEPS + 1e-6)


def test_rows_of_another_kind_lie_farther_than_other_rows_of_the_same():
    here, alike, unlike = (signed(rows_of(seed, shift=s)) for seed, s in ((1, 0), (2, 0), (3, 2.0)))
    assert np.linalg.norm(here - unlike) > 3 * np.linalg.norm(here - alike)


def test_only_with_labels_does_it_see_that_labels_mean_something_else():
    renamed = {seed: Rows(rows_of(seed).x, (rows_of(seed).y + 1) % 3) for seed in (1, 3)}
    np.testing.assert_array_equal(signed(rows_of()), signed(renamed[1]))
    here, alike = (signed(rows_of(seed), sees="labels") for seed in (1, 2))
    unlike = signed(renamed[3], sees="labels")
    assert np.linalg.norm(here - unlike) > 3 * np.linalg.norm(here - alike)


def test_padding_and_the_order_of_tokens_do_not_count():
    rows = Rows(np.array([[3, 5, 0, 0, 0, 0]], np.int32), np.zeros(1, np.int64))
    other = Rows(np.array([[5, 3, 0, 0, 0, 0]], np.int32), np.zeros(1, np.int64))
    longer = Rows(np.array([[5, 3, 7, 0, 0, 0]], np.int32), np.zeros(1, np.int64))
    np.testing.assert_array_equal(signed(rows, backbone=TOKENS), signed(other, backbone=TOKENS))
    assert (signed(rows, backbone=TOKENS) != signed(longer, backbone=TOKENS)).any()


def test_labels_need_a_task_with_labels_and_columns_must_be_common():
    values = Rows(rows_of().x, rows_of().x[:, 0])
    with pytest.raises(ConfigError, match="need one label a row"):
        signed(values, task=Regression(0.0, 1.0), sees="labels")
    with pytest.raises(ConfigError, match="every department has its own"):
        signed(rows_of(), backbone=BackboneSpec(inputs=4, widths=(3,), adapter=True))
    assert signed(Rows(rows_of().x, rows_of().y % 2), task=Binary(("a", "b")), sees="labels") is not None


def test_declared_sides_need_no_signature():
    assert signed(rows_of(), backbones="declared", second="a,b,c") is None


def splits(draft, **changed):
    state = build(draft).initial(draft)
    known = {"stage": 1, "direction": np.eye(64)[0], "centre": np.zeros(64)} | changed
    return state | {f"split/{name}": np.asarray(value, np.float32) for name, value in known.items()}


def test_another_split_than_the_one_seen_first_is_refused_even_after_a_restart():
    """What was seen is kept as arrays of one dimension at least, as a store gives them back."""
    draft = draft_of()
    strategy = build(draft).facing(np.zeros(64), 3)
    assert seen_split(strategy, build(draft).initial(draft)) == {}
    kept = {name: np.atleast_1d(array) for name, array in seen_split(strategy, splits(draft)).items()}
    assert own_backbone(draft, strategy, splits(draft), kept).keys() == dict(draft.network.shapes()).keys()
    for changed in ({"direction": np.eye(64)[1]}, {"centre": np.full(64, 0.5)}, {"stage": 0}):
        with pytest.raises(OutsideCharter, match="another one than this department has seen before"):
            own_backbone(draft, strategy, splits(draft, **changed), kept)
    counted = splits(draft, stage=2, members=[3, 4])
    kept = seen_split(strategy, counted)
    with pytest.raises(OutsideCharter):
        own_backbone(draft, strategy, splits(draft, stage=2, members=[4, 3]), kept)


def test_the_own_backbone_is_the_second_for_who_is_beyond_the_centre():
    draft = draft_of(backbones="secret", departments=6, common_rounds=2).model_copy(
        update={"cohort": draft_of().cohort.model_copy(update={"floor": 6})}
    )
    state = splits(draft, stage=2, members=[3, 3])
    state |= {name: state[name] + 1 for name in state if name.startswith("second/")}
    for at, second in ((0.5, True), (-0.5, False)):
        strategy = build(draft).facing(at * np.eye(64)[0], 5)
        own = own_backbone(draft, strategy, state, {})
        for name, array in own.items():
            np.testing.assert_array_equal(array, state["second/" + name if second else name])
        word = "second" if second else "first"
        assert side_of(draft, strategy, state) == {"side": word, "backbone": word}


def test_other_methods_train_what_they_receive():
    draft = draft_of(method="fedper")
    strategy = build(draft)
    state = strategy.initial(draft)
    assert own_backbone(draft, strategy, state, {}) is state
    assert seen_split(strategy, state) == {} == side_of(draft, strategy, state)
