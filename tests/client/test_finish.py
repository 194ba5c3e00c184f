"""The last step: candidates see the rows they may see, the choice is reported as it was made, and nothing is random."""

import dataclasses
import json

import numpy as np
import pytest

from commonroot.client import alone, finish
from commonroot.client.alone_memory import AloneMemory, Basis
from commonroot.client.choice import Calibration
from commonroot.client.data import DataConfig, Features, Prepared, Rows, Scaler
from commonroot.client.finish import conclude
from commonroot.client.shared_models import Shared, shared_networks
from commonroot.client.tasks import Classification, Regression
from commonroot.client.trainer import Trainer
from commonroot.common.backbone import BackboneSpec
from commonroot.common.charter import Draft, Method, Training
from commonroot.common.errors import SumRejected, TrainingDiverged
from commonroot.strategies import build

NAMES = tuple("abcd")


def draft_of(method="fedper", **options):
    backbone = BackboneSpec(inputs=4, widths=(8,))
    return Draft(
        federation="bank", name="pilot", rounds=2, method=Method(name=method, options=options), backbone=backbone
    )


def prepared_of(*, train=40, validation=24, test=30, task=None, seed=1):
    """Three blobs; or, for a regression, the sum of the columns."""
    task = task or Classification(("x", "y", "z"))
    random = np.random.default_rng(seed)

    def rows(n):
        label = np.arange(n) % 3
        x = (random.normal(size=(n, 4)) + 2 * np.eye(4)[label]).astype(np.float32)
        return Rows(x, x.sum(axis=1).astype(np.float64) if task.kind == "regression" else label.astype(np.int64))

    return Prepared(
        task, Features.of_numbers(NAMES, Scaler(np.zeros(4), np.ones(4))), rows(train), rows(validation), rows(test)
    )


def concluded(draft, prepared, *, secret=7):
    strategy = build(draft)
    trainer = Trainer(draft, prepared.task, secret, strategy.shares_head)
    private = trainer.start()
    return conclude(
        draft, strategy, prepared, strategy.initial(draft), private, secret=secret, basis=Basis(secret), version=2
    )


@pytest.fixture
def few_recipes(monkeypatch):
    """Two baselines are enough where the step is not about them."""
    monkeypatch.setattr(alone, "GRID", (alone.GRID[2], alone.GRID[5]))


@pytest.mark.parametrize("method", ["fedavg", "fedavg-ft", "fedper", "fedrep"])
def test_every_method_ends_with_a_predictor_and_a_report(method, few_recipes):
    prepared = prepared_of()
    found = concluded(draft_of(method), prepared)
    report = json.loads(json.dumps(found.report, allow_nan=False))
    assert report["rows"] == {"train": 40, "validation": 24, "test": 30}
    assert set(report["scores"]) - {"stack"} == {"alone", "federated", "both"}
    assert sum(report["weights"].values()) == pytest.approx(1)
    assert report["kept"] in report["scores"] and report["reason"]
    predicted = found.predictor.predictive(prepared.test.x.astype(np.float64))
    assert 100 * (predicted.argmax(axis=1) == prepared.test.y).mean() == pytest.approx(report["scores"][report["kept"]])
    assert report["gain"]["points"] == pytest.approx(report["scores"][report["kept"]] - report["scores"]["alone"])


def test_a_regression_ends_alike(few_recipes):
    report = concluded(draft_of(), prepared_of(task=Regression(2.0, 2.0))).report
    assert report["metric"] == "R²" and report["scores"]["alone"] > 50


def test_under_local_there_is_nothing_to_choose(few_recipes):
    report = concluded(draft_of("local"), prepared_of()).report
    assert report["kept"] == "alone" and set(report["scores"]) == {"alone"} and report["federated"] is None


def test_the_predictor_is_the_mixture_that_the_guard_weighed(few_recipes):
    found = concluded(draft_of(), prepared_of(train=14, validation=6))
    weights = [weight for weight, _ in found.predictor.members]
    assert weights == pytest.approx(list(found.report["weights"].values()))
    assert found.report["kept"] in ("alone", "federated", "both", "stack")


def test_two_federated_models_are_told_apart(few_recipes):
    """by their kind; a sequence of one is the same as that one"""
    draft, prepared = draft_of(), prepared_of()
    strategy = build(draft)
    trainer = Trainer(draft, prepared.task, 7, strategy.shares_head)
    (one,) = shared_networks(draft, strategy, prepared, strategy.initial(draft), trainer.start(), secret=7, version=2)
    options = {"secret": 7, "basis": Basis(7), "version": 2, "epochs": 0, "refits": True}
    found = finish.decide(draft, prepared, (one, dataclasses.replace(one, kind="family")), **options).report
    assert {"alone", "federated", "family", "both"} <= set(found["scores"])
    assert found["scores"]["family"] == found["scores"]["federated"]
    single, listed = (finish.decide(draft, prepared, which, **options) for which in (one, [one]))
    assert single.report == listed.report


def test_where_rounds_can_be_undone_every_row_judges(few_recipes):
    """14 training and 6 validation rows: 20 that no fit has seen, where else 6 decide and 14 may only speak against"""
    draft, prepared = draft_of(), prepared_of(train=14, validation=6)
    best = alone.candidates(draft, prepared, epochs=0, basis=Basis(7))[0]
    undone = []

    def anew(rows):
        undone.append(len(rows))
        return best.fit(rows)

    options = {"secret": 7, "basis": Basis(7), "version": 2, "epochs": 0, "refits": True}
    usual = Shared("usual", 0.0, best.fit(prepared.train), best.fit)
    both = (usual, dataclasses.replace(usual, anew=anew))
    found = [finish.decide(draft, prepared, one, **options).report for one in both]
    assert [report["reason"].split(" validation")[0] for report in found] == ["on 6", "on 20"]
    assert ["training" in report["evidence"] for report in found] == [True, False]
    assert len(undone) == 6 and sum(20 - rows for rows in undone) == 20


@pytest.mark.parametrize("error", [TrainingDiverged, SumRejected])
def test_a_federated_model_that_will_not_converge_is_left_out(error, few_recipes):
    draft, prepared = draft_of(), prepared_of()

    def diverge(rows):
        raise error("no")

    wild = Shared(
        "wild", 0.0, alone.candidates(draft, prepared, epochs=0, basis=Basis(7))[0].fit(prepared.train), diverge
    )
    report = finish.decide(draft, prepared, wild, secret=7, basis=Basis(7), version=2, epochs=0, refits=True).report
    assert report["kept"] == "alone" and report["federated"] is None and report["gain_federated"] is None


def test_the_same_arguments_give_the_same_model_and_report(few_recipes):
    prepared = prepared_of()
    one, again = concluded(draft_of(), prepared), concluded(draft_of(), prepared)
    assert one.report == again.report
    x = prepared.test.x.astype(np.float64)
    np.testing.assert_array_equal(one.predictor.predictive(x), again.predictor.predictive(x))


def test_test_rows_decide_nothing(few_recipes):
    """other test rows, even with wrong labels: the same models, temperatures, choice and reason"""
    prepared = prepared_of()
    spoilt = Rows(prepared.test.x[::-1].copy(), (prepared.test.y + 1) % 3)
    other = Prepared(prepared.task, prepared.features, prepared.train, prepared.validation, spoilt)
    one, two = concluded(draft_of(), prepared), concluded(draft_of(), other)
    for key in ("kept", "reason", "alone", "federated", "contenders", "evidence"):
        assert one.report[key] == two.report[key]
    x = prepared.train.x.astype(np.float64)
    np.testing.assert_array_equal(one.predictor.predictive(x), two.predictor.predictive(x))


@pytest.mark.parametrize(("train", "validation"), [(60, 60), (60, 20)], ids=["held out", "in folds"])
def test_what_is_compared_was_fitted_without_the_rows_that_compare(train, validation, monkeypatch, few_recipes):
    """before the choice no fit sees a row that it predicts; after it, both sides see training and validation rows.

    60 and 60: every fit before sees the 60 training rows.  60 and 20: the federated model's head strengths are chosen
    on the 60, then 4 folds leave 60 of 80 for both sides.
    """
    seen = {"alone": [], "federated": [], "chosen": None}
    prepared = prepared_of(train=train, validation=validation)
    fit, fine_tune, decide = alone.fit, Trainer.train, finish.choose

    def spy_fit(recipe, task, rows):
        seen["alone"].append((len(rows), seen["chosen"] is not None))
        return fit(recipe, task, rows)

    def spy_train(self, phases, received, private, rows, held_out, *, version):
        seen["federated"].append((len(rows), seen["chosen"] is not None))
        return fine_tune(self, phases, received, private, rows, held_out, version=version)

    def spy_choose(*args):
        seen["chosen"] = decide(*args)
        return seen["chosen"]

    monkeypatch.setattr(alone, "fit", spy_fit)
    monkeypatch.setattr(Trainer, "train", spy_train)
    monkeypatch.setattr(finish, "choose", spy_choose)
    # the best alone must be a baseline for its last fit to be seen
    monkeypatch.setattr(alone, "_twins", lambda *args, **options: [])
    concluded(draft_of(), prepared)
    for side in ("alone", "federated"):
        assert {rows for rows, after in seen[side] if not after} == {60}
        assert {rows for rows, after in seen[side] if after} == {train + validation}


def test_a_method_that_cannot_fit_again_gives_nobody_more_rows(monkeypatch, few_recipes):
    """FedAvg has no fine-tuning step, so the model trained alone keeps to the training rows as well"""
    sizes = []
    fit = alone.fit
    monkeypatch.setattr(alone, "fit", lambda recipe, task, rows: sizes.append(len(rows)) or fit(recipe, task, rows))
    monkeypatch.setattr(alone, "_twins", lambda *args, **options: [])
    concluded(draft_of("fedavg"), prepared_of(train=60, validation=60))
    assert set(sizes) == {60}


def test_few_rows_are_compared_by_cross_validation_over_all_but_test_rows(few_recipes):
    parts = alone.held_out(prepared_of(train=14, validation=6), secret=1)
    assert sum(len(part.held) for part in parts) == 20
    assert all(len(part.fit) + len(part.held) == 20 for part in parts)
    every = np.concatenate([part.held.x for part in parts])
    assert len(np.unique(every, axis=0)) == 20
    seen = np.concatenate([part.held.x[part.seen] for part in parts])
    np.testing.assert_array_equal(np.sort(seen, axis=0), np.sort(prepared_of(train=14, validation=6).train.x, axis=0))


def test_nobody_wins_by_having_had_more_tries(few_recipes):
    """100 candidates that guess: the best of them looks better than chance on its own rows, not where others chose"""
    prepared = prepared_of(train=40, validation=20)
    parts = alone.held_out(prepared, 1)
    y = np.concatenate([part.held.y for part in parts])
    random = np.random.default_rng(5)
    one = alone.candidates(draft_of(), prepared, epochs=0, basis=Basis(1))[0]
    guesses = [
        dataclasses.replace(one, outputs=2 * random.normal(size=(60, 3)), calibration=Calibration()) for _ in range(100)
    ]
    losses = [prepared.task.row_losses(prepared.task.predictive(guess.outputs), y).mean() for guess in guesses]
    elsewhere = prepared.task.row_losses(alone.chosen_elsewhere(prepared.task, guesses, parts), y).mean()
    assert min(losses) < elsewhere - 0.1
    assert elsewhere > np.quantile(losses, 0.1)


def test_candidates_come_best_first_and_the_twin_is_among_them(few_recipes):
    found = alone.candidates(draft_of(), prepared_of(), epochs=16, basis=Basis(1))
    assert [c.loss for c in found] == sorted(c.loss for c in found)
    twins = sorted(int(c.name.split()[-2]) for c in found if c.name.startswith("the same network alone"))
    assert twins == [2, 4, 8, 16]


def test_a_twin_that_diverges_is_left_out(few_recipes):
    draft = draft_of()
    wild = draft.model_copy(
        update={"training": draft.training.model_copy(update={"learning_rate": 1e9, "gradient_clip": 1e9})}
    )
    found = alone.candidates(wild, prepared_of(), epochs=16, basis=Basis(1))
    assert len(found) == 2


def test_a_good_backbone_is_worth_more_than_two_dozen_rows(few_recipes):
    """The pooled backbone of 600 related rows against 16 of one's own: the gain that sharing is for.

    Labels are the cells of a 2 × 2 grid seen through a random rotation into 12 columns: hard from 16 rows, easy once
    the two directions that matter are known.
    """
    random = np.random.default_rng(3)
    turn = np.linalg.qr(random.normal(size=(12, 12)))[0]

    def rows(n):
        z = random.normal(size=(n, 12))
        y = (z[:, 0] > 0).astype(np.int64) * 2 + (z[:, 1] > 0)
        return Rows((z @ turn).astype(np.float32), y)

    from commonroot.client.trainer import train_pooled

    task = Classification(tuple("abcd"))
    draft = Draft(
        federation="bank",
        name="pilot",
        rounds=5,
        method=Method(name="fedper"),
        backbone=BackboneSpec(inputs=12, widths=(32,)),
        training=Training(batch=32),
    )
    shared = train_pooled(draft, [(task, rows(600))], secret=1, epochs=30)[0].backbone
    names = tuple(f"x{at}" for at in range(12))
    prepared = Prepared(
        task, Features.of_numbers(names, Scaler(np.zeros(12), np.ones(12))), rows(16), rows(6), rows(300)
    )
    trainer = Trainer(draft, task, 9)
    report = conclude(
        draft, build(draft), prepared, shared, trainer.start(), secret=9, basis=Basis(9), version=5
    ).report
    assert report["weights"]["federated"] >= 0.5
    assert report["gain"]["low"] > 0 and report["scores"]["federated"] > report["scores"]["alone"] + 10


def test_candidates_from_memory_are_those_that_were_fitted(few_recipes, tmp_path, monkeypatch):
    """Nothing is fitted a second time but the best, and only when it is wanted."""
    draft, prepared = draft_of(), prepared_of()
    data = DataConfig(path="rows.npz", target="y", task="binary")
    found = [
        alone.candidates(draft, prepared, epochs=16, basis=basis)
        for basis in (Basis(1), Basis(1, AloneMemory(tmp_path, data)), Basis(1, AloneMemory(tmp_path, data)))
    ]
    for other in found[1:]:
        assert [one.name for one in other] == [one.name for one in found[0]]
        for one, same in zip(found[0], other, strict=True):
            assert one.loss == same.loss and np.array_equal(one.outputs, same.outputs)
    monkeypatch.setattr(alone, "fit", None)
    monkeypatch.setattr(alone, "train_alone", None)
    alone.candidates(draft, prepared, epochs=16, basis=Basis(1, AloneMemory(tmp_path, data)))
    with pytest.raises(TypeError):
        alone.candidates(draft, prepared, epochs=16, basis=Basis(2, AloneMemory(tmp_path, data)))
