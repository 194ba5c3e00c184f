"""A stored predictor predicts bit for bit what it predicted before, from data that cannot run."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file

from commonroot.client.alone import network
from commonroot.client.baselines import Recipe, fit
from commonroot.client.data import Features, Rows, Scaler
from commonroot.client.model import DepartmentModel, initial_head
from commonroot.client.predictor import Predictor
from commonroot.client.tasks import Binary, Classification, Regression
from commonroot.client.trainer import Net
from commonroot.common.backbone import BackboneSpec
from commonroot.common.charter import Draft, Method
from commonroot.common.errors import DataError, ForeignState

NAMES = ("height", "weight", "größe")
RAW = np.random.default_rng(1).normal(5.0, 2.0, size=(40, 3))
SCALER = Scaler.fitted(RAW[:30])
FEATURES = Features.of_numbers(NAMES, SCALER)
LABELS = np.arange(30) % 3
TASKS = {
    "classification": (Classification(("a", "b", "c")), LABELS),
    "binary": (Binary(("no", "yes")), LABELS % 2),
    "regression": (Regression(2.0, 3.0), RAW[:30, 0] * 2),
}
RECIPES = [Recipe("linear", 1.0), Recipe("rbf", 1.0, 1.0), Recipe("trees", 0.1, 5)]


def draft_of(activation="relu"):
    backbone = BackboneSpec(inputs=3, widths=(5, 4), activation=activation)
    return Draft(federation="f", name="n", rounds=1, method=Method(name="fedper"), backbone=backbone)


def net_of(draft, task):
    return Net(draft.backbone.initial(3), initial_head(draft.backbone, task.outputs, 4))


def predictor_of(kind, *, about=None):
    """Every kind of baseline and a network, averaged: 3 × 0.2 + 0.4."""
    task, y = TASKS[kind]
    rows = Rows(SCALER.apply(RAW[:30]), y)
    models = [fit(recipe, task, rows) for recipe in RECIPES] + [network(draft_of(), net_of(draft_of(), task))]
    members = tuple(zip((0.2, 0.2, 0.2, 0.4), models, strict=True))
    return Predictor(task, FEATURES, members, about or {})


@pytest.mark.parametrize("kind", TASKS)
def test_what_is_loaded_predicts_what_was_saved(kind, tmp_path):
    saved = predictor_of(kind, about={"federation": "bank", "gain": 3.5})
    saved.save(tmp_path / "new" / "folder")
    loaded = Predictor.load(tmp_path / "new" / "folder")
    np.testing.assert_array_equal(loaded.predictive(RAW), saved.predictive(RAW))
    assert loaded.names == NAMES and loaded.task == saved.task and loaded.about == saved.about


@pytest.mark.parametrize("activation", ["relu", "tanh"])
@pytest.mark.parametrize("kind", TASKS)
def test_a_stored_network_predicts_what_torch_predicts(kind, activation):
    import torch

    task, _ = TASKS[kind]
    draft = draft_of(activation)
    net = net_of(draft, task)
    model = DepartmentModel(draft.backbone, task.outputs)
    model.load(net.backbone, net.head)
    x = SCALER.apply(RAW)
    with torch.inference_mode():
        expected = task.predictive(model(torch.from_numpy(x)).numpy())
    np.testing.assert_allclose(network(draft, net).predict(task, x), expected, rtol=1e-5, atol=1e-6)


def test_members_are_averaged_by_weight():
    predictor = predictor_of("regression")
    x = SCALER.apply(RAW)
    expected = sum(weight * model.predict(predictor.task, x) for weight, model in predictor.members)
    np.testing.assert_allclose(predictor.predict(RAW)["value"], expected)


def test_a_csv_is_read_by_column_names_and_an_npz_in_order(tmp_path):
    predictor = predictor_of("classification")
    lines = ["größe,other,height,weight", *(f"{c!r},9,{a!r},{b!r}" for a, b, c in RAW.tolist())]
    (tmp_path / "rows.csv").write_text("\n".join(lines), encoding="utf-8")
    np.savez(tmp_path / "named.npz", X=RAW[:, ::-1], names=np.array(NAMES[::-1]))
    expected = predictor.predict(RAW)
    for file in ("rows.csv", "named.npz"):
        found = predictor.predict_file(tmp_path / file)
        assert list(found) == ["class", "probability of a", "probability of b", "probability of c"]
        assert found["class"].tolist() == expected["class"].tolist()


@pytest.mark.parametrize("rows", [np.zeros((2, 4)), np.zeros(3), np.full((1, 3), np.inf)], ids=str)
def test_rows_that_do_not_fit_are_refused(rows):
    with pytest.raises(DataError):
        predictor_of("regression").predict(rows)


def test_no_file_of_a_predictor_holds_a_pickle(tmp_path):
    predictor_of("classification").save(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["predictor.json", "tensors.safetensors"]
    json.loads((tmp_path / "predictor.json").read_text(encoding="utf-8"))
    assert all(array.dtype.kind in "fi" for array in load_file(tmp_path / "tensors.safetensors").values())


def test_saving_again_replaces_and_litters_nothing(tmp_path):
    predictor_of("binary").save(tmp_path)
    predictor_of("regression").save(tmp_path)
    assert Predictor.load(tmp_path).task.kind == "regression"
    assert len(list(tmp_path.iterdir())) == 2


def spoil(folder, change):
    record = json.loads((folder / "predictor.json").read_text(encoding="utf-8"))
    change(record)
    (folder / "predictor.json").write_text(json.dumps(record), encoding="utf-8")


@pytest.mark.parametrize(
    "change",
    [
        lambda record: record.update(version=1),
        lambda record: record.pop("task"),
        lambda record: record["task"].update(kind="ranking"),
        lambda record: record["models"][0].pop("weight"),
        lambda record: record.update(features=None),
    ],
)
def test_a_record_of_another_make_is_foreign_state(change, tmp_path):
    predictor_of("binary").save(tmp_path)
    spoil(tmp_path, change)
    with pytest.raises(ForeignState):
        Predictor.load(tmp_path)


def test_an_unknown_kind_of_model_is_refused_when_it_predicts(tmp_path):
    predictor_of("binary").save(tmp_path)
    spoil(tmp_path, lambda record: record["models"][0].update(kind="oracle"))
    with pytest.raises(ForeignState, match="unknown kind 'oracle'"):
        Predictor.load(tmp_path).predict(RAW)


@pytest.mark.parametrize("file", ["predictor.json", "tensors.safetensors"])
@pytest.mark.parametrize("content", [None, b"", b"\x80\x04garbage"], ids=["missing", "empty", "garbage"])
def test_a_spoilt_folder_is_foreign_state(file, content, tmp_path):
    predictor_of("binary").save(tmp_path)
    (tmp_path / file).unlink()
    if content is not None:
        (tmp_path / file).write_bytes(content)
    with pytest.raises(ForeignState):
        Predictor.load(tmp_path)


def test_predicting_needs_neither_torch_nor_scikit_learn():
    import subprocess
    import sys

    code = "import sys, commonroot.client.predictor; print([m for m in ('torch', 'sklearn') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
