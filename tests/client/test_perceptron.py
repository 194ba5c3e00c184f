"""Steps that are written out come to the very numbers that PyTorch's own derivatives give."""

import numpy as np
import pytest
from two_rounds import two_rounds

from commonroot.client.data import Rows
from commonroot.client.steps import Loop
from commonroot.client.tasks import Binary, Classification, Regression
from commonroot.client.written_out import WrittenOut
from commonroot.common.backbone import BackboneSpec
from commonroot.common.charter import Draft, Method, Training

ODD = BackboneSpec(inputs=5, widths=(12, 7))
WIDE = BackboneSpec(inputs=64, widths=(64, 32))
ONE = BackboneSpec(inputs=3, widths=(1,), activation="tanh")
BENT = BackboneSpec(inputs=9, widths=(33, 17, 5), activation="tanh")
ADAPTED = BackboneSpec(inputs=6, widths=(8,), adapter=True)
THREE = Classification(("a", "b", "c"))
BALANCED = Classification(("a", "b", "c"), (0.5, 1.0, 1.5))
YES = Binary(("no", "yes"))
VALUE = Regression(0.5, 2.0)
SHARED = {"head": "shared", "outputs": 3}

CASES = [
    ("fedavg", {}, ODD, THREE, {}),
    ("fedavg", SHARED, WIDE, THREE, {"gradient_clip": 0.05}),
    ("fedavg", {"epochs": 3}, BENT, BALANCED, {"momentum": 0.0}),
    ("fedavg", {"epochs": 2}, ODD, VALUE, {"optimizer": "adam"}),
    ("fedavg", {}, ONE, YES, {"batch": 1}),
    ("fedper", {}, ADAPTED, THREE, {"weight_decay": 0.01}),
    ("fedrep", {"head_epochs": 2}, WIDE, THREE, {"batch": 5}),
    ("feddbe", {}, ODD, THREE, {}),
    ("feddbe", {}, BENT, VALUE, {"batch": 3}),
    ("fedprox", {}, WIDE, BALANCED, {}),
    ("ditto", {}, ODD, THREE, {}),
]


def draft_of(method, options, backbone, training):
    named, values = Method(name=method, options=options), {"batch": 8, **training}
    return Draft(federation="f", name="n", rounds=3, method=named, backbone=backbone, training=Training(**values))


def rows_of(n, columns, task, seed=1):
    random = np.random.default_rng([n, seed])
    y = random.integers(2 if isinstance(task, Binary) else 3, size=n)
    x = random.normal(size=(n, columns)) + np.eye(columns)[y]
    return Rows(x.astype(np.float32), y.astype(np.float32 if task is VALUE else np.int64))


def rounds(draft, task, n):
    """What two rounds of one department give."""
    columns = 4 if draft.network.adapter else draft.network.input.shape[0]
    return two_rounds(draft, task, rows_of(n, columns, task), rows_of(9, columns, task), columns=columns)


@pytest.mark.parametrize("n", [3, 41])
@pytest.mark.parametrize(("method", "options", "backbone", "task", "training"), CASES)
def test_every_bit_is_that_of_pytorch_s_own_derivatives(method, options, backbone, task, training, n, monkeypatch):
    """Over two rounds of every phase of a method, whose batches differ in size"""
    draft = draft_of(method, options, backbone, training)
    written = rounds(draft, task, n)
    monkeypatch.setattr(WrittenOut, "of", lambda model, task: None)
    for one, other in zip(written, rounds(draft, task, n), strict=True):
        for left, right in ((one.result.shared, other.result.shared), (one.private, other.private)):
            assert left.keys() == right.keys()
            for name in left:
                np.testing.assert_array_equal(left[name], right[name], err_msg=name)
        assert (one.result.loss, one.result.held_out) == (other.result.loss, other.result.held_out)
        np.testing.assert_array_equal(one.result.centre, other.result.centre)


@pytest.mark.parametrize(
    ("backbone", "written"),
    [(ODD, True), (BENT, True), (ADAPTED, True), (BackboneSpec(family="resmlp", inputs=5, width=8, blocks=1), False)],
)
def test_chains_are_written_out_and_other_networks_of_rows_are_left_to_pytorch(backbone, written, monkeypatch):
    recorded = []
    step = Loop._recorded

    def noted(loop, x, y):
        recorded.append(len(x))
        return step(loop, x, y)

    monkeypatch.setattr(Loop, "_recorded", noted)
    rounds(draft_of("fedper", {}, backbone, {}), THREE, 16)
    assert bool(recorded) != written
