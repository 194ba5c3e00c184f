"""Training on a device beside the processor: the same, wherever the device computes as the processor does."""

from __future__ import annotations

import hashlib
import os

import numpy as np
import pytest
import torch
from backbone_tasks import CASES, THREE
from device_apart import Apart, a_device_apart
from one_thread import one_thread

from commonroot.client import steps
from commonroot.client.accelerator import PROCESSOR, computing_on, usable, where
from commonroot.client.data import Rows
from commonroot.client.model import DepartmentModel, evaluate, initial_head
from commonroot.client.tasks import Classification
from commonroot.client.trainer import Trainer, train_alone, train_pooled
from commonroot.common.backbone import MlpSpec
from commonroot.common.charter import Draft, Family, Method, Training
from commonroot.common.errors import ConfigError
from commonroot.strategies import STRATEGIES, build
from commonroot.strategies.consensus import KNOWN, MEAN

BOTH = frozenset({"backbone", "head"})
CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine")


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    with one_thread():
        yield


def draft_of(spec, method="fedper", *, families=(), options=None, **training):
    return Draft(
        federation="f",
        name="n",
        rounds=3,
        method=Method(name=method, options=options or {}),
        backbone=spec,
        families=families,
        training=Training(**training),
    )


def digest(*states):
    found = hashlib.sha256()
    for state in states:
        for name in sorted(state):
            found.update(name.encode() + np.asarray(state[name]).tobytes())
    return found.hexdigest()


def rounds(draft, rows, *, task=THREE, labelled=True):
    """Three rounds of one department, and everything that it sent and kept."""
    strategy = build(draft).as_department("a")
    trainer = Trainer(draft, task, 5, strategy.shares_head, rows.x.shape[-1], strategy.form(draft), labelled)
    state, private, found = strategy.initial(draft), trainer.start(), []
    for version in range(3):
        broadcast = {name: np.asarray(state[name], dtype=np.float32) for name, _ in strategy.broadcast(draft)}
        done = trainer.train(strategy.plan(draft), broadcast, private, rows, rows.take(range(8)), version=version)
        terms = strategy.contribute(draft, broadcast, done.result)
        state, private = strategy.combine(draft, state, terms), done.private
        found += [terms, private, done.net.backbone, done.net.head]
    return found


def on_both(run):
    """What a call gives on the processor and on the device apart."""
    here = run()
    with a_device_apart() as name, computing_on(name):
        there = run()
    return digest(*here), digest(*there)


@pytest.mark.parametrize("family", CASES)
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_every_family_of_backbones_trains_there_as_here(family, optimizer):
    spec, make = CASES[family]
    here, there = on_both(lambda: rounds(draft_of(spec, optimizer=optimizer), make(40, 1)))
    assert here == there


@pytest.mark.parametrize("method", sorted(STRATEGIES))
def test_every_method_trains_there_as_here(method):
    spec, make = CASES["resmlp"]
    options = {"outputs": 3} if "outputs" in STRATEGIES[method].model_fields else {}
    if "head" in STRATEGIES[method].model_fields and options:
        options["head"] = "shared"
    here, there = on_both(lambda: rounds(draft_of(spec, method, options=options), make(40, 1)))
    assert here == there


@pytest.mark.parametrize("method", ["dann", "self-training"])
def test_a_department_without_labels_trains_there_as_here(method):
    spec, make = CASES["mlp"]
    x = make(40, 1).x
    unlabelled = Rows(x, np.full(len(x), -1, dtype=np.int64))
    draft = draft_of(spec, method, options={"outputs": 3})
    here, there = on_both(lambda: rounds(draft, unlabelled, labelled=False))
    assert here == there


@pytest.mark.parametrize("family", [(), (Family(name="all", outputs=3),)], ids=["private heads", "a family"])
@pytest.mark.parametrize("spec", [MlpSpec(inputs=4, widths=(8,), adapter=True), MlpSpec(inputs=6, widths=(8,))])
def test_an_adapter_a_family_and_weighted_labels_train_there_as_here(spec, family):
    task = Classification(("a", "b", "c"), weights=(0.5, 1.0, 2.0))
    rows = CASES["mlp"][1](40, 1)
    here, there = on_both(lambda: rounds(draft_of(spec, "feddbe", families=family), rows, task=task))
    assert here == there


def test_a_consensus_is_drawn_to_there_as_here():
    """The mean representation that a broadcast holds, which the first round has not."""
    spec, make = CASES["mlp"]
    draft = draft_of(spec, "feddbe")
    strategy = build(draft)
    received = strategy.initial(draft) | {KNOWN: np.float32(1.0), MEAN: np.full(spec.outputs, 0.3, np.float32)}
    trainer = Trainer(draft, THREE, 5, strategy.shares_head, None, strategy.form(draft))

    def run():
        done = trainer.train(strategy.plan(draft), received, trainer.start(), make(40, 1), None, version=1)
        return [done.result.shared, done.private, {"centre": done.result.centre}]

    here, there = on_both(run)
    assert here == there


def test_what_is_compared_with_trains_there_as_here():
    spec, make = CASES["rescnn"]
    draft = draft_of(spec)

    def run():
        twin = train_alone(draft, THREE, make(40, 1), make(20, 2), secret=3, epochs=[1, 2])
        pooled = train_pooled(draft, [(THREE, make(20, 1)), (THREE, make(30, 4))], secret=3, epochs=1)
        return [twin.net.backbone, twin.net.head, {"said": twin.outputs[1]}, *(net.backbone for net in pooled)]

    here, there = on_both(run)
    assert here == there


def test_networks_lie_where_they_are_asked_for_and_rows_are_sent_there():
    spec, make = CASES["mlp"]
    with a_device_apart() as name:
        with computing_on(name):
            model = DepartmentModel(spec, 3)
            model.load(spec.initial(1), initial_head(spec, 3, 2))
            assert all(isinstance(tensor, Apart) for tensor in model.parameters())
            x, y = steps.Source(model, THREE, make(9, 1)).take(np.arange(4))
            assert isinstance(x, Apart) and isinstance(y, Apart)
            assert where().type == name
        assert where() == PROCESSOR
        assert evaluate(model, make(5, 1).x).shape == (5, 3)  # it stays where it was made


def test_a_tensor_that_is_left_on_the_processor_is_noticed(monkeypatch):
    """Or the tests above could not fail."""
    spec, make = CASES["rescnn"]
    monkeypatch.setattr(steps, "where", lambda: PROCESSOR)
    monkeypatch.setattr(steps.Source, "take", lambda self, at: (torch.from_numpy(self._x[at]), torch.zeros(len(at))))
    with (
        a_device_apart() as name,
        computing_on(name),
        pytest.raises(RuntimeError, match="expected all tensors on the same device"),
    ):
        rounds(draft_of(spec), make(40, 1))


@pytest.mark.parametrize(
    "name, words",
    [
        ("gpu", "torch knows no such device"),
        ("meta", "computes nothing"),
        pytest.param(
            "cuda",
            "cannot be used here",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device"),
        ),
    ],
)
def test_a_device_that_is_not_here_is_one_clear_error(name, words):
    with pytest.raises(ConfigError, match=words) as caught:
        usable(name)
    assert caught.value.hint


def choices():
    """Of the process, that bits depend on."""
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    digits = [one.fp32_precision for one in (matmul, cudnn.conv, cudnn.rnn)]
    return [torch.get_deterministic_debug_mode(), cudnn.benchmark, *digits, os.environ.get("CUBLAS_WORKSPACE_CONFIG")]


@pytest.mark.parametrize("workspace", [None, ":0:0"])
def test_whatever_the_process_had_chosen_bits_are_the_same_and_its_choices_come_back(monkeypatch, workspace):
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)
    if workspace is None:
        monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    else:
        monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", workspace)
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.set_float32_matmul_precision("high")
    try:
        before = choices()
        with a_device_apart() as name:
            with computing_on(name):
                assert choices() == [2, False, "ieee", "ieee", "ieee", ":4096:8"]
            with pytest.raises(ConfigError), computing_on("meta"):
                pass
        assert choices() == before
    finally:
        torch.use_deterministic_algorithms(False)
        torch.set_float32_matmul_precision("highest")


def test_dice_on_a_device_are_its_own_and_nobody_notices():
    with a_device_apart() as name, computing_on(name):
        before = torch.get_rng_state()
        with steps.own_dice(1, 2):
            first = torch.rand(3)
        with steps.own_dice(1, 2):
            assert torch.equal(first, torch.rand(3))
        assert torch.equal(before, torch.get_rng_state())


def test_the_processor_is_one_device_whatever_its_number():
    assert usable("cpu") == usable("cpu:0") == PROCESSOR


@CUDA
@pytest.mark.parametrize("family", CASES)
def test_a_gpu_trains_the_same_each_time_and_nearly_what_the_processor_does(family):
    spec, make = CASES[family]
    run = lambda: rounds(draft_of(spec), make(40, 1))  # noqa: E731
    here = run()
    with computing_on("cuda"):
        there, again = run(), run()
    assert digest(*there) == digest(*again)
    if spec.family == "resmlp":  # it draws other dropout there
        return
    for one, other in zip(here, there, strict=True):
        for name in one:
            np.testing.assert_allclose(one[name], other[name], atol=2e-3)
