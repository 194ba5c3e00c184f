"""What a department keeps beside its head, how it is trained, and heads of other kinds than one per row."""

from __future__ import annotations

import dataclasses
import tracemalloc

import numpy as np
import pytest
import torch
from backbone_tasks import CASES, THREE, rows, texts
from one_thread import one_thread

from commonroot.client import alone
from commonroot.client.alone_memory import Basis
from commonroot.client.data import Features, Prepared, Rows, Scaler
from commonroot.client.finish import conclude
from commonroot.client.model import DepartmentModel, evaluate
from commonroot.client.models import Model
from commonroot.client.predictor import Predictor
from commonroot.client.tasks import Binary, Classification, Regression
from commonroot.client.trainer import HEAD_MOMENTUM, Trainer, represent, train_alone, train_pooled
from commonroot.common.backbone import MlpSpec, ResmlpSpec, TransformerSpec
from commonroot.common.charter import Draft, Method, Training
from commonroot.common.errors import ConfigError, DataError, ForeignState
from commonroot.strategies import Phase, build, seal

BOTH, HEAD, BACKBONE = frozenset({"backbone", "head"}), frozenset({"head"}), frozenset({"backbone"})
ADAPTED = MlpSpec(inputs=5, widths=(16, 8), adapter=True)


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    with one_thread():
        yield


def draft_of(spec=ADAPTED, **training):
    method = Method(name="fedper")
    return Draft(federation="f", name="n", rounds=2, method=method, backbone=spec, training=Training(**training))


def trained(draft, data, phases, *, task=THREE, private=None):
    trainer = Trainer(draft, task, 5, False, data.x.shape[1])
    received, private = build(draft).initial(draft), private or trainer.start()
    return received, private, trainer.train(phases, received, private, data, None, version=1)


def test_departments_of_different_columns_share_one_backbone():
    """6 columns and 4 columns into 5: the same tensors are sent, of which none is an adapter's"""
    draft = draft_of()
    wide, narrow = rows(60, 1), Rows(rows(60, 2).x[:, :4], rows(60, 2).y)
    for data in (wide, narrow):
        received, private, found = trained(draft, data, [Phase(parts=BOTH, epochs=2)])
        assert set(found.result.shared) == set(received) == {name for name, _ in ADAPTED.shapes()}
        assert private["adapter/weight"].shape == (5, data.x.shape[1])
    assert not any("adapter" in term.name for term in seal(draft).terms)


@pytest.mark.parametrize(
    ("parts", "moved"), [(HEAD, {"head", "adapter"}), (BACKBONE, {"backbone"}), (BOTH, {"head", "adapter", "backbone"})]
)
def test_the_adapter_moves_with_the_head(parts, moved):
    received, private, found = trained(draft_of(), rows(60, 1), [Phase(parts=parts, epochs=1)])
    before = {**{f"backbone/{name}": array for name, array in received.items()}, **private}
    after = {**{f"backbone/{name}": array for name, array in found.net.backbone.items()}, **found.private}
    assert {name.split("/")[0] for name in before if not np.array_equal(before[name], after[name])} == moved


def test_as_many_columns_as_the_backbone_reads_begin_as_they_are():
    """an adapter that passes everything through gives what the backbone alone gives"""
    adapted, plain = MlpSpec(inputs=6, widths=(8,), adapter=True), MlpSpec(inputs=6, widths=(8,))
    x, private = rows(10, 1).x, Trainer(draft_of(adapted), THREE, 5, False, 6).start()
    np.testing.assert_array_equal(
        represent(draft_of(adapted), adapted.initial(1), x, private), represent(draft_of(plain), plain.initial(1), x)
    )


def test_the_same_columns_begin_with_the_same_mixture_and_heads_differ():
    one, other = (Trainer(draft_of(), THREE, secret, False, 9).start() for secret in (1, 2))
    np.testing.assert_array_equal(one["adapter/weight"], other["adapter/weight"])
    assert not np.array_equal(one["head/weight"], other["head/weight"])
    # √(3/9) bounds a uniform mixture of 9 columns whose variance is 1
    assert 0.9 * 3**-0.5 < np.abs(one["adapter/weight"]).max() <= 3**-0.5


def test_the_columns_must_be_known():
    with pytest.raises(ConfigError, match=r"needs to know the rows' columns"):
        Trainer(draft_of(), THREE, 5).start()


def test_momentum_covers_the_head_and_the_adapter():
    """3 × 8 + 3 of the head and 5 × 6 + 5 of the adapter; a second round goes on from it"""
    draft, data = draft_of(), rows(60, 1)
    _, _, first = trained(draft, data, [Phase(parts=BOTH, epochs=1)])
    assert first.private[HEAD_MOMENTUM].shape == (27 + 35,)
    rested = {name: array for name, array in first.private.items() if name != HEAD_MOMENTUM}
    on = trained(draft, data, [Phase(parts=BOTH, epochs=1)], private=first.private)[2]
    off = trained(draft, data, [Phase(parts=BOTH, epochs=1)], private=rested)[2]
    assert not np.allclose(on.net.adapter["weight"], off.net.adapter["weight"])


def test_pooled_training_gives_every_department_its_own_adapter():
    data, other = rows(60, 1), Rows(rows(48, 2).x[:, :4], rows(48, 2).y)
    nets = train_pooled(draft_of(), [(THREE, data), (THREE, other)], secret=1, epochs=3)
    assert [net.adapter["weight"].shape for net in nets] == [(5, 6), (5, 4)]
    for name in nets[0].backbone:
        np.testing.assert_array_equal(nets[0].backbone[name], nets[1].backbone[name])


def prepared_of(data, *, task=THREE, train=80, validation=52):
    at = np.arange(len(data))
    columns = data.x.shape[1]
    parts = (data.take(part) for part in np.split(at, [train, train + validation]))
    names = tuple(f"c{column}" for column in range(columns))
    return Prepared(task, Features.of_numbers(names, Scaler(np.zeros(columns), np.ones(columns))), *parts)


@pytest.mark.parametrize("family", ["adapter", "resmlp", "ngrams", "transformer", "tcn", "rescnn"])
def test_the_last_step_ends_in_a_stored_network_that_predicts_what_was_trained(family, tmp_path, monkeypatch):
    """the guard's candidates, the choice, a folder, and from the folder the same outputs to 1e-6"""
    monkeypatch.setattr(alone, "GRID", alone.GRID[:1])
    monkeypatch.setattr("commonroot.client.shared_models.STRENGTHS", (1.0,))
    spec, make = (ADAPTED, rows) if family == "adapter" else CASES[family]
    draft, data = draft_of(spec), make(180, 1)
    flat = Rows(data.x.reshape(len(data), -1), data.y)
    prepared = prepared_of(flat)
    strategy = build(draft)
    private = Trainer(draft, THREE, 7, False, flat.x.shape[1]).start()
    kept = []
    network = alone.network
    monkeypatch.setattr(alone, "network", lambda draft, net: kept.append(net) or network(draft, net))
    found = conclude(draft, strategy, prepared, strategy.initial(draft), private, secret=7, basis=Basis(7), version=2)
    assert found.report["federated"] is not None
    for net in kept[-2:]:
        model = DepartmentModel(spec, 3, columns=flat.x.shape[1])
        model.load(net.backbone, net.head, net.adapter)
        expected = evaluate(model, prepared.test.x)
        predictor = Predictor(THREE, prepared.features, ((1.0, network(draft, net)),))
        predictor.save(tmp_path / "stored")
        ((_, stored),) = Predictor.load(tmp_path / "stored").members
        np.testing.assert_allclose(stored.outputs(THREE, prepared.test.x), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda model: dataclasses.replace(model, network=None),
        lambda model: dataclasses.replace(model, network={"backbone": {"family": "none"}, "per_token": False}),
        lambda model: dataclasses.replace(model, network={"per_token": False}),
        lambda model: Model("network", {"head/bias": np.zeros(3)}, 1.0, model.network),
    ],
    ids=["nothing", "family", "no-spec", "no-tensors"],
)
def test_a_spoilt_network_is_foreign_state(spoil):
    draft, data = draft_of(), rows(30, 1)
    stored = alone.network(draft, train_alone(draft, THREE, data, None, secret=1, epochs=[1]).net)
    stored.outputs(THREE, data.x)
    with pytest.raises(ForeignState):
        spoil(stored).outputs(THREE, data.x)


def test_one_step_of_adam_worked_by_hand():
    """The first step moves every parameter by the rate against its gradient's sign, whatever the gradient's size.

    As in the step of SGD worked by hand every derivative is negative; weight decay 0.5 at rate 0.01 first takes 0.5 %:
    1·0.995 + 0.01 = 1.005 for weights, 0 + 0.01 for biases.
    """
    draft = draft_of(MlpSpec(inputs=1, widths=(1,)), optimizer="adam", learning_rate=0.01, weight_decay=0.5)
    received = {"layers.0.weight": np.ones((1, 1), np.float32), "layers.0.bias": np.zeros(1, np.float32)}
    private = {"head/weight": np.ones((1, 1), np.float32), "head/bias": np.zeros(1, np.float32)}
    data = Rows(np.ones((1, 1), np.float32), np.array([2.0]))
    trainer = Trainer(draft, Regression(0.0, 1.0), 5)
    found = trainer.train([Phase(parts=BOTH, epochs=1)], received, private, data, None, version=1)
    for name, expected in (("weight", 1.005), ("bias", 0.01)):
        assert found.net.backbone[f"layers.0.{name}"].item() == pytest.approx(expected, abs=1e-6)
        assert found.net.head[name].item() == pytest.approx(expected, abs=1e-6)
    assert HEAD_MOMENTUM not in found.private


def test_adam_is_torchs_adamw():
    """over many steps: the same numbers as the reference implementation"""
    from commonroot.client.steps import Adam

    random = np.random.default_rng(1)
    start = torch.from_numpy(random.normal(size=20).astype(np.float32))
    gradients = [torch.from_numpy(random.normal(size=20).astype(np.float32)) for _ in range(30)]
    ours, theirs = start.clone(), torch.nn.Parameter(start.clone())
    adam = Adam(ours)
    reference = torch.optim.AdamW([theirs], lr=0.01, weight_decay=0.1, foreach=False)
    for gradient in gradients:
        adam.move(ours, gradient.clone(), rate=0.01, decay=0.1)
        theirs.grad = gradient.clone()
        reference.step()
    torch.testing.assert_close(ours, theirs.detach(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("family", ["resmlp", "transformer"])
def test_adam_learns_and_repeats_exactly(family):
    spec, make = CASES[family]
    draft = draft_of(spec, optimizer="adam", learning_rate=0.003)
    held = make(150, 2)
    one, again = (train_alone(draft, THREE, make(240, 1), held, secret=3, epochs=[12]) for _ in range(2))
    assert (one.outputs[0].argmax(axis=1) == held.y).mean() > 0.65
    np.testing.assert_array_equal(one.net.head["weight"], again.net.head["weight"])


def test_rows_in_a_file_are_never_copied_whole(tmp_path):
    """51 MB of rows in a read-only map: training, scoring and representing them takes less than a quarter"""
    n, columns = 200_000, 64
    made = np.lib.format.open_memmap(tmp_path / "x.npy", mode="w+", dtype=np.float32, shape=(n, columns))
    made[:] = np.random.default_rng(1).normal(size=(n, columns))
    made.flush()
    del made
    x = np.load(tmp_path / "x.npy", mmap_mode="r", allow_pickle=False)
    data = Rows(x, (x[:, 0] > 0).astype(np.int64))
    draft = draft_of(MlpSpec(inputs=columns, widths=(4,)), batch=2048)
    trainer = Trainer(draft, Binary(("no", "yes")), 5)
    received = build(draft).initial(draft)
    tracemalloc.start()
    try:
        found = trainer.train([Phase(parts=BOTH, epochs=1)], received, trainer.start(), data, None, version=1)
        seen = represent(draft, received, x)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert found.result.loss < found.result.held_out and seen.shape == (n, 4)
    assert peak < x.nbytes / 4


class Tags(Classification):
    """A label per token; -1 for none."""

    per_token = True

    def loss(self, outputs, targets):
        return torch.nn.functional.cross_entropy(outputs.flatten(0, 1), targets.flatten(), ignore_index=-1)


class Rebuilt(Regression):
    """What goes in is to come out; ``y`` says which rows are odd and is for scoring alone."""

    reconstructs = True
    outputs = 6

    def loss(self, outputs, targets):
        return (outputs - targets).square().mean()

    def targets(self, y):
        """Of the rows, which are given in place of ``y``."""
        return y.reshape(len(y), -1)


@pytest.mark.parametrize("family", ["ngrams", "transformer"])
def test_a_head_may_label_every_token(family):
    """the class of a word is in its id; padding has no label"""
    task = Tags(("a", "b", "c", "other"))
    x = texts(90, 1).x
    y = np.where(x == 0, -1, np.where(x < 10, (x - 1) // 3, 3)).astype(np.int64)
    draft = draft_of(CASES[family][0])
    net = train_alone(draft, task, Rows(x, y), Rows(x, y), secret=1, epochs=[20])
    assert net.outputs[0].shape == (90, 12, 4) and net.net.per_token
    assert (net.outputs[0].argmax(axis=2) == y)[y >= 0].mean() > 0.9
    stored = alone.network(draft, net.net)
    np.testing.assert_allclose(stored.outputs(task, x), net.outputs[0], atol=1e-6)


def test_a_head_may_give_back_the_rows():
    """six columns that are three, twice over, through a representation of eight"""
    half = np.random.default_rng(1).normal(size=(200, 3)).astype(np.float32)
    data = Rows(np.hstack([half, half]), np.zeros(200, np.int64))
    draft = draft_of(MlpSpec(inputs=6, widths=(16, 8), activation="tanh"))
    found = train_alone(draft, Rebuilt(0.0, 1.0), data, data, secret=1, epochs=[40])
    assert np.square(found.outputs[0] - data.x).mean() < 0.2 * np.square(data.x).mean()


def test_a_department_checks_its_rows_against_the_backbone_before_a_run():
    draft = draft_of(ResmlpSpec(inputs=5, width=4))
    trainer = Trainer(draft, THREE, 5)
    received = build(draft).initial(draft)
    with pytest.raises(DataError, match=r"reads rows of shape \(5,\); the rows have \(6,\)"):
        trainer.check(received, rows(20, 1))
    tokens = draft_of(TransformerSpec(vocabulary=256, length=12, width=8, heads=2, layers=1))
    Trainer(tokens, THREE, 5).check(build(tokens).initial(tokens), texts(20, 1))
