"""Steps of residual convolutional networks that are written out move as PyTorch's own derivatives say."""

import copy

import numpy as np
import pytest
import torch
from two_rounds import broadcasts, two_rounds

from commonroot.client.data import Rows
from commonroot.client.model import DepartmentModel, evaluate
from commonroot.client.slopes import Places
from commonroot.client.steps import Loop
from commonroot.client.tasks import Classification, Regression
from commonroot.client.written_out import WrittenOut
from commonroot.common.backbone import RescnnSpec
from commonroot.common.charter import Draft, Method, Training
from commonroot.strategies.base import Form

THREE = Classification(("a", "b", "c"))
BALANCED = Classification(("a", "b", "c"), (0.5, 1.0, 1.5))
VALUE = Regression(0.5, 2.0)

DIGITS = RescnnSpec(channels=1, height=28, width=28, stages=(8, 16))
ODD = RescnnSpec(channels=3, height=9, width=7, stages=(4, 6, 10))
WIDE = RescnnSpec(channels=2, height=8, width=12, stages=(32, 48))
LOW = RescnnSpec(channels=1, height=1, width=5, stages=(2, 3))
ONE = RescnnSpec(channels=2, height=6, width=6, stages=(6,))
DEEP = RescnnSpec(channels=1, height=4, width=5, stages=(4, 4, 6, 2))
NETWORKS = [DIGITS, ODD, WIDE, LOW, ONE, DEEP]


def draft_of(spec, method="fedper", options=None, **training):
    return Draft(
        federation="f", name="n", rounds=3, method=Method(name=method, options=options or {}), backbone=spec,
        training=Training(**{"batch": 8, **training}),
    )  # fmt: skip


def rows_of(spec, task, n=21, seed=1):
    random = np.random.default_rng([n, seed])
    y = random.integers(3, size=n)
    x = random.normal(size=(n, *spec.input.shape)) + y[:, None, None, None]
    return Rows(x.astype(np.float32), y.astype(np.float32 if task is VALUE else np.int64))


def model_of(spec, form=None, seed=1):
    random = np.random.default_rng(seed)
    model = DepartmentModel(spec, 3, form=form or Form())
    with torch.no_grad():
        for tensor in model.parameters():
            drawn = random.normal(size=tuple(tensor.shape)) * min(1.0, 2 / np.sqrt(max(tensor[0].numel(), 1)))
            tensor.copy_(torch.from_numpy(drawn.astype(np.float32)))
    return model


def places_of(tensors) -> tuple[Places, list[torch.Tensor]]:
    """Room for the slopes of these tensors, with what no slope is in it."""
    room = [torch.full_like(tensor.detach(), torch.nan) for tensor in tensors]
    return {id(tensor): place for tensor, place in zip(tensors, room, strict=True)}, room


def recorded(model, x, y, tensors, task=THREE):
    loss = task.loss(model(x), y)
    return loss.detach(), torch.autograd.grad(loss / task.chance, list(tensors))


@pytest.mark.parametrize("n", [1, 2, 16])
@pytest.mark.parametrize("spec", NETWORKS, ids=lambda spec: "-".join(map(str, (*spec.input.shape, *spec.stages))))
def test_slopes_are_as_near_to_the_true_ones_as_those_of_pytorch(spec, n):
    """Against derivatives in float64; ten times PyTorch's own error in float32, and a few units of the last place."""
    model = model_of(spec)
    rows = rows_of(spec, THREE, n)
    x, y = torch.from_numpy(rows.x), torch.from_numpy(rows.y)
    tensors = list(model.parameters())
    exact = copy.deepcopy(model).double()
    truth, true = recorded(exact, x.double(), y, exact.parameters())
    usual, found = recorded(model, x, y, tensors)
    places, room = places_of(tensors)
    written = WrittenOut.of(model, THREE)
    written.ask(places)
    before = [tensor.detach().clone() for tensor in tensors]
    loss, mean = written.slopes(x, y, centre=True, target=None, pull=0.0)
    assert abs(float(loss - truth)) <= 10 * abs(float(usual - truth)) + 1e-6
    for name, (mine, theirs, right) in zip(
        dict(model.named_parameters()), zip(room, found, true, strict=True), strict=True
    ):
        size = float(right.abs().max()) + 1e-3
        assert float((mine - right).abs().max()) <= 10 * float((theirs - right).abs().max()) + 1e-5 * size, name
    torch.testing.assert_close(mean.double(), exact.represent(x.double()).mean(dim=0).detach(), atol=1e-5, rtol=1e-4)
    assert all(torch.equal(tensor, was) for tensor, was in zip(tensors, before, strict=True))
    np.testing.assert_array_equal(x.numpy(), rows.x)


@pytest.mark.parametrize("spec", [ODD, DIGITS])
def test_outputs_are_the_network_s_own(spec):
    model, rows = model_of(spec), rows_of(spec, THREE)
    written = WrittenOut.of(model, THREE)
    x = torch.from_numpy(rows.x)
    np.testing.assert_allclose(written.outputs(x).numpy(), evaluate(model, rows.x), atol=2e-5, rtol=1e-4)
    np.testing.assert_array_equal(written.outputs(x.flatten(1)).numpy(), written.outputs(x).numpy())  # flat rows


def test_images_that_lie_otherwise_are_read_as_the_network_reads_them():
    model, x = model_of(ODD), torch.from_numpy(rows_of(ODD, THREE).x).transpose(2, 3)
    written = WrittenOut.of(model, THREE)
    with torch.inference_mode():
        torch.testing.assert_close(written.outputs(x), model(x), atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize(
    "asked", ["entry.weight", "stages.1.shortcut.weight", "stages.0.first.bias", "last.gain", "head"]
)
def test_what_is_asked_for_alone_comes_as_it_does_beside_the_others(asked):
    model, rows = model_of(ODD), rows_of(ODD, THREE)
    x, y = torch.from_numpy(rows.x), torch.from_numpy(rows.y)
    everything = dict(model.named_parameters())
    some = {name: tensor for name, tensor in everything.items() if asked in name}
    assert some and len(some) < len(everything)
    written = WrittenOut.of(model, THREE)
    told = {}
    for which in (everything, some):
        places, room = places_of(which.values())
        written.ask(places)
        written.slopes(x, y, centre=False, target=None, pull=0.0)
        told[len(which)] = dict(zip(which, room, strict=True))
    for name in some:
        torch.testing.assert_close(told[len(some)][name], told[len(everything)][name], atol=0, rtol=0)


CASES = [
    ("fedavg", {"head": "shared", "outputs": 3}, ODD, THREE, {}),
    ("fedavg", {"epochs": 2}, ONE, BALANCED, {"momentum": 0.0}),
    ("fedper", {}, DIGITS, THREE, {"gradient_clip": 0.05}),
    ("fedrep", {"head_epochs": 2}, ODD, THREE, {"batch": 5}),
    ("feddbe", {}, ODD, THREE, {"weight_decay": 0.01}),
    ("feddbe", {}, LOW, VALUE, {"batch": 3}),
    ("fedbn", {}, ODD, THREE, {}),
    ("fedprox", {}, ONE, VALUE, {"optimizer": "adam"}),
    ("ditto", {}, ODD, THREE, {}),
]


def rounds(draft, task):
    """What two rounds of one department give."""
    return two_rounds(draft, task, rows_of(draft.network, task), rows_of(draft.network, task, 9))


@pytest.mark.parametrize(("method", "options", "spec", "task", "training"), CASES)
def test_every_method_trains_as_it_does_with_pytorch_s_derivatives(method, options, spec, task, training, monkeypatch):
    """Over two rounds of every phase; how far a round moves anything is far more than what they differ by."""
    draft = draft_of(spec, method, options, **training)
    written, again = rounds(draft, task), rounds(draft, task)
    monkeypatch.setattr(WrittenOut, "of", lambda model, task: None)
    first = broadcasts(draft)[0]
    for one, other, same in zip(written, rounds(draft, task), again, strict=True):
        moved = max(float(np.abs(other.result.shared[name] - first[name]).max()) for name in other.result.shared)
        assert moved > 1e-3
        for left, right, repeated in (
            (one.result.shared, other.result.shared, same.result.shared),
            (one.private, other.private, same.private),
        ):
            assert left.keys() == right.keys()
            for name in left:
                np.testing.assert_allclose(left[name], right[name], atol=2e-4, rtol=1e-3, err_msg=name)
                np.testing.assert_array_equal(left[name], repeated[name], err_msg=name)
        assert one.result.loss == pytest.approx(other.result.loss, rel=1e-4)
        assert one.result.held_out == pytest.approx(other.result.held_out, rel=1e-4)
        if other.result.centre is not None:
            np.testing.assert_allclose(one.result.centre, other.result.centre, atol=1e-4)


def test_residual_networks_are_written_out(monkeypatch):
    recordings = []
    step = Loop._recorded
    monkeypatch.setattr(Loop, "_recorded", lambda loop, x, y: recordings.append(len(x)) or step(loop, x, y))
    rounds(draft_of(ODD), THREE)
    assert recordings == []
