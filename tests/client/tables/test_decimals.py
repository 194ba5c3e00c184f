"""A decimal comma is read where it is said, recognised by a look, hinted at where it is not said, and never guessed."""

import tomllib

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from commonroot.client.data import DataConfig, Problems, prepare, read_cells, read_features
from commonroot.client.tables.decimals import are_written_with_commas, is_written_with_comma, with_points
from commonroot.client.tables.features import Features
from commonroot.client.tables.look import look_at, section
from commonroot.client.tables.source import Reading
from commonroot.common.errors import DataError

ROWS = 60


def german(value):
    """1234.5 as 1.234,5"""
    return f"{value:,.3f}".replace(",", " ").replace(".", ",").replace(" ", ".")


def numbers():
    return np.random.default_rng(3).normal(0, 2000, ROWS).round(3)


def write(path, texts, *, separator=";"):
    rows = [f"{text}{separator}{at}{separator}{'ja' if at % 2 else 'nein'}" for at, text in enumerate(texts)]
    path.write_text("\n".join([separator.join(["Umsatz", "Nummer", "label"]), *rows, ""]))
    return path


def config(path, **more):
    return DataConfig.model_validate({"path": path, "target": "label", "task": "binary", "separator": ";"} | more)


def rewritten(*texts):
    return pl.DataFrame({"t": texts}, schema={"t": pl.String}).select(with_points("t")).to_series().to_list()


@pytest.mark.parametrize("memory", [1 << 28, 10], ids=["held", "batches"])
def test_a_decimal_comma_gives_the_rows_of_a_decimal_point(tmp_path, memory):
    values = numbers()
    commas = write(tmp_path / "commas.csv", map(german, values))
    points = write(tmp_path / "points.csv", values)
    found = prepare(config(commas, decimal=","), memory=memory)
    expected = prepare(config(points), memory=memory)
    assert found.names == ("Umsatz", "Nummer")
    assert np.array_equal(found.train.x, expected.train.x) and np.array_equal(found.test.x, expected.test.x)


def test_thousands_are_grouped_by_points_and_a_decimal_point_is_no_number():
    assert rewritten("1.234,5", "1.234", "-12.345.678,9e-3", " 3,5 ") == ["1234.5", "1234", "-12345678.9e-3", "3.5"]
    assert rewritten("7", ",5", "", None, "NA", "n.a.") == ["7", ".5", "", None, "NA", "n.a."]
    for text in ("3.5", "0.123", "1.23.456", "1234.567,8", "1,2,3", ".", ","):
        assert pl.Series(rewritten(text)).cast(pl.Float64, strict=False).to_list() == [None], text


@given(st.floats(-1e12, 1e12, allow_nan=False))
def test_what_is_written_with_a_comma_is_read_as_what_it_was(value):
    """as Python groups thousands, with comma and point exchanged"""
    text = german(value)
    assert float(rewritten(text)[0]) == round(value, 3)
    assert is_written_with_comma(text)


def test_cells_with_a_decimal_point_are_named_where_commas_are_said(tmp_path):
    texts = [german(value) for value in numbers()]
    texts[40] = "3.5"
    with pytest.raises(DataError, match=r"row 42, column 'Umsatz': found text, expected a finite number"):
        prepare(config(write(tmp_path / "t.csv", texts), decimal=","))


def test_check_hints_at_commas_in_a_column_of_numbers(tmp_path):
    texts = [str(round(value)) for value in numbers()]
    texts[10] = "3,5"
    with pytest.raises(DataError, match=r'row 12, column .Umsatz.: found text.*say `decimal = ","`'):
        prepare(config(write(tmp_path / "t.csv", texts)))


@pytest.mark.parametrize(("texts", "said"), [(list(map(german, numbers())), ","), (list(map(str, numbers())), None)])
def test_a_look_at_a_table_says_how_its_numbers_are_written(tmp_path, texts, said):
    path = write(tmp_path / "t.csv", texts)
    text = section(path, look_at(path), seed=7)
    found = tomllib.loads(text)["data"]
    assert found.get("decimal") == said and '#   "Umsatz": number' in text
    assert prepare(DataConfig.model_validate(found)).names == ("Umsatz", "Nummer")


def test_a_look_guesses_the_task_of_numbers_with_commas(tmp_path):
    path = write(tmp_path / "t.csv", map(german, numbers()))
    assert look_at(path, target="Umsatz").task == "regression"
    found = prepare(config(path, target="Umsatz", task="regression", decimal=","))
    assert sorted([*found.train.y, *found.validation.y, *found.test.y]) == sorted(numbers())


def test_names_with_commas_are_no_numbers():
    assert not are_written_with_commas(pl.Series(["a,b", "Berg, Anna", "3,5", None]))
    assert not are_written_with_commas(pl.Series(["3.5", "4", ""]))
    assert not are_written_with_commas(pl.Series(["", None], dtype=pl.String))
    assert are_written_with_commas(pl.Series(["3", "4,5", "NA", None]))


def test_a_stored_model_reads_the_next_table_with_commas_too(tmp_path):
    path = write(tmp_path / "t.csv", map(german, numbers()))
    features = prepare(config(path, decimal=",")).features
    stored = Features.from_json(features.to_json(), features.arrays())
    assert stored.reading.decimal == ","
    assert np.array_equal(read_features(path, stored)["Umsatz"].to_numpy(), numbers())
    plain = prepare(config(write(tmp_path / "p.csv", numbers()))).features
    assert "decimal" not in plain.to_json()["reading"]  # as it always was


def test_numbers_among_cells_have_points_and_other_cells_stay(tmp_path):
    path = write(tmp_path / "t.csv", ["3,5", "1.234,5"])
    found, first = read_cells(
        path, ["Umsatz", "label"], Reading(separator=";", decimal=","), Problems(), numbers=["Umsatz"]
    )
    assert found["Umsatz"].tolist() == ["3.5", "1234.5"] and found["label"].tolist() == ["nein", "ja"] and first == 2
    assert read_cells(path, ["Umsatz"], Reading(separator=";", decimal=","), Problems())[0]["Umsatz"][0] == "3,5"


def test_a_kept_column_stays_as_it_is_written(tmp_path):
    from commonroot.client.data import kept_columns, read_batches

    path = write(tmp_path / "t.csv", map(german, numbers()))
    features = prepare(config(path, decimal=",")).features
    frame, _ = next(read_batches(path, features, keep=["Umsatz"]))
    assert kept_columns(frame, ["Umsatz"])["Umsatz"].to_list() == [german(value) for value in numbers()]
    assert np.array_equal(frame["Umsatz"].to_numpy(), numbers())
