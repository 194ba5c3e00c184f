"""The model in a notebook: frames, dicts and paths alike, and a picture of it without a word unescaped."""

from __future__ import annotations

import polars as pl
import pytest

from commonroot import Department
from commonroot.client.out.export import export_folder
from commonroot.common.errors import ConfigError, DataError


def test_a_frame_a_dict_a_lazy_frame_and_a_path_are_predicted_alike(stays, new):
    model = Department(stays[0])
    frame = pl.read_csv(new)
    expected = model.predict(new, keep=["id"])
    assert expected.columns == ["id", "class", "probability of long", "probability of short"] and len(expected) == 40
    for rows in (frame, frame.lazy(), frame.to_dict(as_series=False), str(new)):
        assert model.predict(rows, keep=["id"]).equals(expected)


def test_dates_that_are_dates_are_predicted_as_text_is(stays, new):
    model, frame = Department(stays[0]), pl.read_csv(new)
    typed = frame.with_columns(pl.col("admitted").str.to_date())
    assert model.predict(typed).equals(model.predict(frame))


def test_it_tells_its_features_report_and_card(stays):
    model = Department(stays[0])
    assert model.features == {"age": "number", "ward": "category", "admitted": "datetime", "note": "text"}
    assert model.report()["charter"] == model.card()["charter"]["hash"] == stays[1]


def test_a_wrong_frame_names_row_and_column(stays, new):
    model, frame = Department(stays[0]), pl.read_csv(new)
    with pytest.raises(DataError, match="column 'age': found no such column"):
        model.predict(frame.drop("age"))
    wrong = frame.with_columns(pl.when(pl.int_range(40) == 4).then(pl.lit("old")).otherwise(pl.lit("50")).alias("age"))
    with pytest.raises(DataError, match="the frame, row 5, column 'age': found text") as caught:
        model.predict(wrong)
    assert "'old'" not in str(caught.value)


@pytest.mark.parametrize("rows", [None, 7, {"age": [1, 2], "ward": ["a"]}, [[1, 2]]], ids=str)
def test_what_are_no_rows_is_said(stays, rows):
    with pytest.raises(ConfigError):
        Department(stays[0]).predict(rows)


def test_a_folder_without_a_model_is_said(tmp_path):
    with pytest.raises(ConfigError, match="no department"):
        Department(tmp_path)


def test_it_shows_itself(stays, tmp_path):
    model = Department(stays[0])
    assert repr(model).endswith("binary from 4 column(s)")
    page = model._repr_html_()
    for words in ("<caption>stays</caption>", "hospital", "accuracy alone", "age (number)"):
        assert words in page
    export_folder(stays[0], tmp_path / "<b>out")
    text = (tmp_path / "<b>out" / "card.json").read_text().replace('"stays"', '"<script>"')
    (tmp_path / "<b>out" / "card.json").write_text(text)
    assert "<script>" not in Department(tmp_path / "<b>out")._repr_html_()
