"""ONNX of models that read tokens: tags for each of them, and pretrained encoders with their low-rank change."""

from __future__ import annotations

import json

import numpy as np
import polars as pl
import pytest
import tiny_checkpoint
from typer.testing import CliRunner

from commonroot.cli import app
from commonroot.client import alone, shared_models
from commonroot.client.backbones.checkpoint import describe
from commonroot.client.backbones.pretrained import FOLDER
from commonroot.client.baselines import Recipe, fit
from commonroot.client.data import DataConfig, Features, Rows, prepare
from commonroot.client.folder import DepartmentFolder
from commonroot.client.learner import DepartmentLearner
from commonroot.client.model import initial_head
from commonroot.client.models import Model
from commonroot.client.out.onnx_graph.write import TOLERANCE, checked
from commonroot.client.predictor import Predictor
from commonroot.client.store import DepartmentStore
from commonroot.client.tasks import Classification
from commonroot.client.tasks.tagging import Tagging
from commonroot.common.backbone import BackboneSpec, TokenInput
from commonroot.common.charter import Draft, Method
from commonroot.common.errors import ConfigError
from commonroot.strategies import build, seal

onnxruntime = pytest.importorskip("onnxruntime")
LENGTH, VOCABULARY = 6, 12
FORM = TokenInput(length=LENGTH, vocabulary=VOCABULARY)
TAGS = ("O", "B-X", "I-X", "B-Y")


def ids(n: int = 40, *, length: int = LENGTH, vocabulary: int = VOCABULARY):
    """Rows of token ids, ended by padding from a place of their own on; the first is all padding."""
    random = np.random.default_rng(8)
    rows = random.integers(1, vocabulary, size=(n, length)).astype(np.int32)
    rows[np.arange(length) >= random.integers(0, length + 1, size=n)[:, None]] = 0
    rows[0] = 0
    return rows


def tags(rows):
    """Even ids are B-X, what follows one is I-X; nothing is B-Y, and padding has no tag."""
    y = np.where(rows % 2 == 0, 1, 0).astype(np.int64)
    y[:, 1:][(rows[:, :-1] % 2 == 0) & (y[:, 1:] == 0)] = 2
    return np.where(rows == 0, -1, y)


def network(spec: BackboneSpec, task) -> Model:
    """Random weights everywhere, those of a low-rank change included."""
    random = np.random.default_rng(3)
    arrays = {f"backbone/{name}": array for name, array in spec.initial(3).items()}
    arrays |= {f"head/{name}": array for name, array in initial_head(spec, task.outputs, 4).items()}
    private = {f"adapter/{name}": shape for name, shape in spec.private_shapes()}
    changed = {name: array.shape for name, array in arrays.items() if ".lora_" in name}
    arrays |= {name: random.normal(size=shape).astype(np.float32) for name, shape in (private | changed).items()}
    return Model(
        "network", arrays, 1.3, network={"backbone": spec.model_dump(mode="json"), "per_token": task.per_token}
    )


def one_hot_of_outside(found, rows):
    """Padding is outside for certain, and there is some."""
    outside = np.eye(len(TAGS))[0]
    return (rows == 0).any() and np.array_equal(found[rows == 0], np.tile(outside, ((rows == 0).sum(), 1)))


@pytest.mark.parametrize("labelled", ["some tags", "one tag", "no tag"])
def test_tags_from_neighbours_are_the_same_in_onnx(labelled):
    """a window that never saw B-Y; a constant for each token; a constant where nothing is labelled"""
    rows, task = ids(), Tagging(TAGS, LENGTH)
    y = tags(rows)
    y = y if labelled == "some tags" else np.where(y < 0, -1, 2) if labelled == "one tag" else np.full_like(y, -1)
    model = fit(Recipe("window", 1.0), task, Rows(rows, y))
    assert model.kind == ("window" if labelled == "some tags" else "constant")
    predictor = Predictor(task, Features(FORM, ()), ((1.0, model),))
    content, parity = checked(predictor, rows)
    assert parity.difference <= 1e-9
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"rows": rows})
    assert found.shape == (len(rows), LENGTH, len(TAGS)) and one_hot_of_outside(found, rows)


@pytest.mark.slow
def test_tags_of_a_transformer_mixed_with_neighbours_are_the_same_in_onnx():
    rows, task = ids(), Tagging(TAGS, LENGTH)
    fields = {"family": "transformer", "vocabulary": VOCABULARY, "length": LENGTH, "width": 8, "heads": 2, "layers": 1}
    spec = BackboneSpec.model_validate(fields)
    members = ((0.5, network(spec, task)), (0.5, fit(Recipe("window", 1.0), task, Rows(rows, tags(rows)))))
    assert checked(Predictor(task, Features(FORM, ()), members), rows)[1].difference <= 1e-5


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """The folder of a tiny pretrained encoder, where it is looked for."""
    folder = tiny_checkpoint.make(tmp_path_factory.mktemp("checkpoints"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(FOLDER, str(folder.parent))
        yield folder


@pytest.mark.slow
@pytest.mark.parametrize("share", ["share-a", "freeze-a"])
def test_a_pretrained_encoder_is_the_same_in_onnx(checkpoint, share):
    task = Classification(("a", "b", "c"))
    spec = describe(checkpoint, rank=2, length=LENGTH, share=share)
    rows = ids(vocabulary=len(tiny_checkpoint.WORDS) + 1)
    predictor = Predictor(task, Features(spec.input, ()), ((1.0, network(spec, task)),))
    assert checked(predictor, rows)[1].difference <= 1e-5


@pytest.mark.slow
def test_a_low_rank_change_that_is_left_out_shows(checkpoint):
    """without B, which is the department's own, predictions are others: the comparison above compares something"""
    spec, task = describe(checkpoint, rank=2, length=LENGTH), Classification(("a", "b", "c"))
    model = network(spec, task)
    bare = {name: np.zeros_like(array) if name.endswith("lora_b") else array for name, array in model.arrays.items()}
    rows = ids(vocabulary=len(tiny_checkpoint.WORDS) + 1)
    found = [one.predict(task, rows) for one in (model, Model("network", bare, 1.3, network=model.network))]
    assert np.abs(found[0] - found[1]).max() > 100 * TOLERANCE


TOLD = """federation = "kitchen"
name = "notes"
coordinator = "localhost:9091"
authority = "{authority}"
[data]
path = "notes.parquet"
target = "{target}"
task = "{task}"
features = [{{ column = "text", kind = "{kind}" }}]
"""


@pytest.mark.slow
@pytest.mark.parametrize(("task", "kind", "target"), [("tagging", "tokens", "tags"), ("binary", "text", "label")])
def test_a_department_exports_onnx(tmp_path, checkpoint, task, kind, target, monkeypatch):
    """once a run has ended, compared on its own rows: tags by a transformer, or labels by a pretrained encoder"""
    random = np.random.default_rng(2)
    rows = [random.choice(tiny_checkpoint.WORDS[4:], size=int(random.integers(2, 6))) for _ in range(60)]
    tagged = [" ".join("B-X" if word == "soup" else "O" for word in row) for row in rows]
    labels = ["soup" if "B-X" in row else "none" for row in tagged]
    frame = pl.DataFrame({"text": [" ".join(row) for row in rows], "tags": tagged, "label": labels})
    frame.write_parquet(tmp_path / "notes.parquet")
    about = {"target": target, "task": task, "kind": kind}
    (tmp_path / "department.toml").write_text(TOLD.format(authority="ab" * 32, **about))
    if kind == "text":
        spec = describe(checkpoint, rank=2, length=LENGTH)
    else:
        fields = {"family": "transformer", "vocabulary": 32, "length": LENGTH, "width": 8, "heads": 2, "layers": 1}
        spec = BackboneSpec.model_validate(fields)
    method = Method(name="fedper", options={"fine_tune_head_epochs": 1, "fine_tune_epochs": 1})
    charter = seal(Draft(federation="kitchen", name="pilot", rounds=1, method=method, backbone=spec))
    monkeypatch.setattr(alone, "GRID", ())
    monkeypatch.setattr(shared_models, "STRENGTHS", (1.0,))
    learner = DepartmentLearner(tmp_path, "notes", DepartmentFolder(tmp_path).data, bytes(range(32)))
    name = learner.finish(charter, build(charter).initial(charter), 1, None)
    store = DepartmentStore(tmp_path, federation="kitchen", department="notes")
    store.commit_closed(charter=charter.digest.hex(), version=1, predictor=name, facts={})
    store.close()
    out = tmp_path / "exported"
    result = CliRunner().invoke(app, ["department", "export", str(tmp_path), str(out), "--onnx"])
    assert result.exit_code == 0, result.output
    described = json.loads((out / "onnx.json").read_text())
    assert described["parity"]["rows"] == 60 and described["parity"]["difference"] <= 1e-5
    assert described["output"]["task"]["kind"] == task


def test_tags_under_a_pretrained_encoder_are_one_clear_error(tmp_path, checkpoint):
    """its tokenizer cuts words into pieces, and a tag belongs to a word; nothing is left to export"""
    pl.DataFrame({"text": ["good soup"] * 20, "tags": ["O B-X"] * 20}).write_parquet(tmp_path / "notes.parquet")
    feature = {"column": "text", "kind": "tokens"}
    data = DataConfig(path="notes.parquet", target="tags", task="tagging", features=(feature,))
    spec = describe(checkpoint, rank=2, length=LENGTH)
    with pytest.raises(ConfigError, match="cuts words into pieces") as caught:
        prepare(data, folder=tmp_path, spec_input=spec.input, checkpoint=spec)
    assert "transformer" in caught.value.advice
