"""``department export``: a folder that stands on its own, a card that tells no cell, ONNX that is the model."""

from __future__ import annotations

import json

import numpy as np
import polars as pl
import pytest
from typer.testing import CliRunner

from commonroot import Department
from commonroot.cli import app
from commonroot.client.out import export
from commonroot.client.out.card import LIMITS
from commonroot.client.out.export import export_folder
from commonroot.client.predicting import chosen_predictor, predict
from commonroot.client.predictor import Predictor
from commonroot.common.errors import ConfigError, ForeignState

FILES = ["card.json", "card.md", "predictor.json", "tensors.safetensors"]


def test_an_exported_folder_predicts_what_the_department_predicts(stays, new, tmp_path):
    facts = export_folder(stays[0], tmp_path / "out")
    assert facts["files"] == FILES == sorted(path.name for path in (tmp_path / "out").iterdir())
    for root, name in ((stays[0], "a"), (tmp_path / "out", "b")):
        predict(root, new, out=str(tmp_path / f"{name}.parquet"))
    assert pl.read_parquet(tmp_path / "a.parquet").equals(pl.read_parquet(tmp_path / "b.parquet"))


def test_the_card_says_what_was_learned_from_what_and_how_well(stays, tmp_path):
    export_folder(stays[0], tmp_path / "out")
    card = json.loads((tmp_path / "out" / "card.json").read_text())
    report = json.loads((stays[0] / "report.json").read_text())
    assert card["task"] == "binary" and card["metric"] == "accuracy"
    assert (card["federation"], card["department"], card["backbone_version"]) == ("hospital", "stays", 3)
    assert card["charter"] == {"name": "pilot", "hash": stays[1]} and card["method"] == "fedper"
    assert card["data"]["training_rows"] + card["data"]["test_rows"] == 160
    (low, high) = card["data"]["dates"]["admitted"]
    days = pl.read_csv(stays[0] / "stays.csv")["admitted"]
    assert [low, high] == [days.min(), days.max()]
    assert card["scores"]["alone"] == report["alone"] and card["scores"]["interval"] == report["interval"]
    assert card["scores"]["choice"] == report["choice"]
    kinds = {one["name"]: one["kind"] for one in card["columns"]}
    assert kinds == {"age": "number", "ward": "category", "admitted": "datetime", "note": "text"}
    assert card["predicts"] == ["class", "probability of long", "probability of short"]
    assert card["limits"] == list(LIMITS) and "checkpoint" in card["licence"]


def test_the_card_for_people_says_the_same(stays, tmp_path):
    export_folder(stays[0], tmp_path / "out")
    text = (tmp_path / "out" / "card.md").read_text()
    for words in ("# Model of stays: binary", stays[1], "| admitted | datetime |", "95 % interval", "## Limits"):
        assert words in text


def test_the_card_holds_no_cell(stays, tmp_path):
    """every note, ward and age of the table is looked for"""
    export_folder(stays[0], tmp_path / "out")
    rows = pl.read_csv(stays[0] / "stays.csv")
    text = (tmp_path / "out" / "card.json").read_text() + (tmp_path / "out" / "card.md").read_text()
    for cell in {*rows["note"], *rows["ward"], *rows["id"]}:
        assert cell not in text


def test_an_exported_card_is_kept_by_who_reads_it(stays, tmp_path):
    export_folder(stays[0], tmp_path / "out")
    export_folder(tmp_path / "out", tmp_path / "again")
    assert (tmp_path / "again" / "card.json").read_bytes() == (tmp_path / "out" / "card.json").read_bytes()
    (tmp_path / "out" / "card.json").write_text('{"layout": 99}')
    with pytest.raises(ForeignState, match="card"):
        Department(tmp_path / "out").card()


def test_a_report_of_another_run_is_no_score_of_this_model(stays, tmp_path, monkeypatch):
    from commonroot.client.out import card

    other = json.loads((stays[0] / "report.json").read_text()) | {"charter": "00" * 32}
    (tmp_path / "report.json").write_text(json.dumps(other))
    assert card._report(tmp_path / "report.json", export.chosen_folder(stays[0])) is None


@pytest.mark.parametrize("task", ["stays", "lengths"])
def test_onnx_is_compared_on_the_departments_own_rows_and_then_written(task, tmp_path, request):
    onnxruntime = pytest.importorskip("onnxruntime")
    root, _ = request.getfixturevalue(task)
    result = CliRunner().invoke(app, ["department", "export", str(root), str(tmp_path / "out"), "--onnx"])
    assert result.exit_code == 0, result.output
    assert "ONNX opset 20: differs by at most" in result.output and "on 160 rows" in result.output
    described = json.loads((tmp_path / "out" / "onnx.json").read_text())
    assert described["parity"]["difference"] <= described["parity"]["allowed"] == 1e-4
    predictor = chosen_predictor(root)
    rows = predictor.features.encode(pl.read_csv(root / "stays.csv").select(predictor.names))
    session = onnxruntime.InferenceSession(tmp_path / "out" / "model.onnx", providers=["CPUExecutionProvider"])
    (found,) = session.run(["predictions"], {"rows": rows})
    expected = predictor.predictive(pl.read_csv(root / "stays.csv"))
    np.testing.assert_allclose(found, expected, atol=1e-4)
    assert described["input"]["shape"] == ["rows", rows.shape[1]] and len(described["encoded_columns"]) == rows.shape[1]


def test_rows_to_compare_on_can_be_given(stays, new, tmp_path):
    pytest.importorskip("onnxruntime")
    export_folder(stays[0], tmp_path / "one")
    with pytest.raises(ConfigError, match="holds no rows"):
        export_folder(tmp_path / "one", tmp_path / "two", onnx=True)
    assert export_folder(tmp_path / "one", tmp_path / "two", onnx=True, rows=new)["onnx"]["rows"] == 40


def test_onnx_that_is_not_the_model_is_not_written(stays, tmp_path, monkeypatch):
    pytest.importorskip("onnxruntime")
    from commonroot.client.out.onnx_graph import write

    monkeypatch.setattr(write, "TOLERANCE", -1.0)
    with pytest.raises(ConfigError, match="differs from the model"):
        export_folder(stays[0], tmp_path / "out", onnx=True)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_holds_something_is_left_alone(stays, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("x")
    with pytest.raises(ConfigError, match="not empty"):
        export_folder(stays[0], tmp_path / "out")
    with pytest.raises(ConfigError, match="there is no folder"):
        export_folder(stays[0], tmp_path / "no" / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    (tmp_path / "out" / "mine").unlink()
    export_folder(stays[0], tmp_path / "out")
    assert Predictor.load(tmp_path / "out").task.kind == "binary"


def test_a_failure_halfway_leaves_nothing(stays, tmp_path, monkeypatch):
    def broken(*_args, **_options):
        raise ConfigError("broken")

    monkeypatch.setattr(export, "atomic_write", broken)
    with pytest.raises(ConfigError, match="broken"):
        export_folder(stays[0], tmp_path / "out")
    assert list(tmp_path.iterdir()) == []
