"""``department predict``: every source and place, rows carried along, whole or not at all."""

from __future__ import annotations

import io
import json
import sqlite3

import numpy as np
import polars as pl
import pytest
from typer.testing import CliRunner

from commonroot.cli import app
from commonroot.client import predicting
from commonroot.client.out import sinks
from commonroot.client.predicting import chosen_predictor, predict
from commonroot.common.errors import ConfigError, DataError, StorageFull

PREDICTED = ["class", "probability of long", "probability of short"]


def said(*words):
    return CliRunner().invoke(app, ["department", *map(str, words)])


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_csv_in_and_a_csv_out_with_columns_kept(stays, new, tmp_path):
    out = tmp_path / "out.csv"
    result = said("predict", stays[0], new, "--out", out, "--keep", "id, admitted")
    assert result.exit_code == 0 and result.output == f"40 predictions written to {out}\n"
    found = pl.read_csv(out)
    assert found.columns == ["id", "admitted", *PREDICTED]
    assert found["id"].to_list() == pl.read_csv(new)["id"].to_list()
    expected = chosen_predictor(stays[0]).predict_file(new)
    assert found["class"].to_list() == expected["class"].tolist()
    np.testing.assert_allclose(found["probability of long"], expected["probability of long"], rtol=1e-8)


def test_every_source_and_every_place_agree(stays, new, tmp_path):
    """CSV, Parquet and a query in; CSV, Parquet, a table and JSON out"""
    rows = pl.read_csv(new)
    rows.write_parquet(tmp_path / "new.parquet")
    with sqlite3.connect(tmp_path / "in.db") as db:
        db.execute("CREATE TABLE stays (id, age REAL, ward, admitted, note)")
        db.executemany("INSERT INTO stays VALUES (?, ?, ?, ?, ?)", rows.rows())
    db.close()
    asked = {"url": f"sqlite:///{tmp_path}/in.db", "query": "SELECT * FROM stays ORDER BY rowid"}
    predict(stays[0], new, out=str(tmp_path / "a.parquet"), keep=["id"])
    predict(stays[0], None, **asked, out=str(tmp_path / "b.parquet"), keep=["id"])
    predict(stays[0], tmp_path / "new.parquet", out_url=f"sqlite:///{tmp_path}/out.db", keep=["id"])
    first = pl.read_parquet(tmp_path / "a.parquet")
    assert first.columns == ["id", *PREDICTED]
    assert first.equals(pl.read_parquet(tmp_path / "b.parquet"))
    with sqlite3.connect(tmp_path / "out.db") as db:
        assert db.execute("SELECT * FROM predictions").fetchall() == first.rows()
    db.close()
    shown = json.loads(said("predict", stays[0], new, "--json", "--keep", "id").output)
    assert shown == first.to_dict(as_series=False)


def test_a_regression_predicts_values_on_the_terminal(lengths, new):
    result = said("predict", lengths[0], new)
    found = pl.read_csv(io.StringIO(result.output))
    assert found.columns[0] == "value" and len(found) == 40


def test_any_batches_give_the_same_file(stays, new, tmp_path, monkeypatch):
    """seven rows at a time, or all at once"""
    read = predicting.read_batches
    predict(stays[0], new, out=str(tmp_path / "one.parquet"), keep=["id"])
    monkeypatch.setattr(predicting, "read_batches", lambda *a, **k: read(*a, **k, size=7, memory=0))
    batches = list(predicting.predictions(chosen_predictor(stays[0]), new, keep=["id"]))
    assert [len(batch) for batch in batches] == [7] * 5 + [5]
    for ending in ("csv", "parquet"):
        predict(stays[0], new, out=str(tmp_path / f"many.{ending}"), keep=["id"])
    one, many = pl.read_parquet(tmp_path / "one.parquet"), pl.read_parquet(tmp_path / "many.parquet")
    assert one.drop(pl.selectors.float()).equals(many.drop(pl.selectors.float()))
    for name in PREDICTED[1:]:  # sums of single precision in another order
        np.testing.assert_allclose(one[name], many[name], atol=1e-6)
    assert pl.read_csv(tmp_path / "many.csv")["id"].to_list() == one["id"].to_list()


def test_what_is_kept_comes_out_as_it_went_in(stays, new, tmp_path):
    """also a number that the model reads: 007 is no 7.0, and blanks and gaps are the source's"""
    lines = new.read_text().splitlines()
    at = lines[0].split(",").index("age")
    cells = ["007", " 41", "", "4e1"]
    for row, cell in enumerate(cells, start=1):
        line = lines[row].split(",")
        line[at] = cell
        lines[row] = ",".join(line)
    new.write_text("\n".join(lines) + "\n")
    predict(stays[0], new, out=str(tmp_path / "out.csv"), keep=["age", "id"])
    found = pl.read_csv(tmp_path / "out.csv", infer_schema=False)
    assert found["age"].head(4).to_list() == ["007", " 41", None, "4e1"]
    assert found.columns[:2] == ["age", "id"]


def test_no_rows_give_no_predictions_but_their_columns(stays, tmp_path):
    (tmp_path / "none.csv").write_text("age,ward,admitted,note\n")
    predict(stays[0], tmp_path / "none.csv", out=str(tmp_path / "none.parquet"))
    found = pl.read_parquet(tmp_path / "none.parquet")
    assert found.columns == PREDICTED and len(found) == 0


@pytest.mark.parametrize("place", ["out.csv", "out.parquet", "out.db"])
def test_a_bad_row_in_a_late_batch_leaves_nothing_new_and_nothing_old_changed(stays, new, tmp_path, monkeypatch, place):
    lines = new.read_text().splitlines()
    lines[38] = "stay-x,old,north,2024-01-01,well"
    new.write_text("\n".join(lines) + "\n")
    read = predicting.read_batches
    monkeypatch.setattr(predicting, "read_batches", lambda *a, **k: read(*a, **k, size=7, memory=0))
    (tmp_path / "out.csv").write_text("before")
    before = names(tmp_path)
    where = {"out_url": f"sqlite:///{tmp_path}/{place}"} if place.endswith("db") else {"out": str(tmp_path / place)}
    with pytest.raises(DataError, match="row 39, column 'age': found text"):
        predict(stays[0], new, **where)
    assert names(tmp_path) == before
    assert (tmp_path / "out.csv").read_text() == "before"


def test_an_existing_table_is_refused_and_replaced_only_when_asked(stays, new, tmp_path):
    url = f"sqlite:///{tmp_path}/out.db"
    with sqlite3.connect(tmp_path / "out.db") as db:
        db.execute("CREATE TABLE mine (a)")
        db.execute("INSERT INTO mine VALUES (7)")
    db.close()
    result = said("predict", stays[0], new, "--out-url", url, "--out-table", "mine")
    assert result.exit_code == 2
    with pytest.raises(ConfigError, match="'mine' exists already"):
        predict(stays[0], new, out_url=url, table="mine")
    with sqlite3.connect(tmp_path / "out.db") as db:
        assert db.execute("SELECT * FROM mine").fetchall() == [(7,)]
    db.close()
    predict(stays[0], new, out=url, table="mine", replace=True)
    with sqlite3.connect(tmp_path / "out.db") as db:
        assert db.execute("SELECT count(*) FROM mine").fetchone() == (40,)
    db.close()


def test_what_predictions_are_written_to_is_for_its_owner_alone(stays, new, tmp_path):
    predict(stays[0], new, out_url=f"sqlite:///{tmp_path}/out.db")
    predict(stays[0], new, out=str(tmp_path / "out.csv"))
    predict(stays[0], new, out=str(tmp_path / "out.parquet"))
    for name in ("out.db", "out.csv", "out.parquet"):
        assert (tmp_path / name).stat().st_mode & 0o077 == 0, name


def test_tables_of_odd_names_are_tables(stays, new, tmp_path):
    """Names are quoted, whatever stands in them; one statement stays one."""
    url = f"sqlite:///{tmp_path}/out.db"
    odd = ['x"; DROP TABLE y; --', "select", "main.predictions", "%(a)s", "é ü", "'q'"]
    for table in odd:
        predict(stays[0], new, out_url=url, table=table)
    with sqlite3.connect(tmp_path / "out.db") as db:
        assert {name for (name,) in db.execute("SELECT name FROM sqlite_master")} == set(odd)
    db.close()


def test_a_replacement_that_fails_leaves_the_old_table(stays, new, tmp_path):
    url = f"sqlite:///{tmp_path}/out.db"
    predict(stays[0], new, out_url=url)
    new.write_text(new.read_text() + "stay-x,old,north,2024-01-01,well\n")
    with pytest.raises(DataError):
        predict(stays[0], new, out_url=url, replace=True)
    with sqlite3.connect(tmp_path / "out.db") as db:
        assert db.execute("SELECT count(*) FROM predictions").fetchone() == (40,)
    db.close()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"out": "x.txt"}, "neither .csv nor .parquet"),
        ({"out": "no/such/folder/x.csv"}, "there is no folder"),
        ({"out": "a.csv", "out_url": "sqlite:///b.db"}, "one|contradict|place"),
        ({"out_url": "mysql://me:secret@there/db"}, "no URL of a database"),
        ({"out_url": "sqlite://"}, "no URL of a database"),
        ({"out_url": "nonsense"}, "no URL of a database"),
        ({"out_url": "sqlite:////no/such/folder/x.db"}, "there is no folder"),
        ({"url": "sqlite:///x.db"}, "give a file"),
        ({"keep": ["nothing"]}, "no such column"),
    ],
)
def test_options_that_cannot_be_are_refused_and_nothing_is_written(stays, new, tmp_path, monkeypatch, options, says):
    monkeypatch.chdir(tmp_path)
    with pytest.raises((ConfigError, DataError), match=says) as caught:
        predict(stays[0], new, **options)
    assert "secret" not in str(caught.value)
    assert names(tmp_path) == ["new.csv"]


def test_a_kept_column_may_not_be_called_as_a_predicted_one(stays, new, tmp_path):
    pl.read_csv(new).rename({"id": "class"}).write_csv(tmp_path / "odd.csv")
    with pytest.raises(ConfigError, match="--keep class"):
        predict(stays[0], tmp_path / "odd.csv", out=str(tmp_path / "out.csv"), keep=["class"])
    assert not (tmp_path / "out.csv").exists()


def test_a_full_disk_is_one_error_and_no_litter(stays, new, tmp_path, monkeypatch):
    def full(*_args, **_options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(sinks.os, "fsync", full)
    with pytest.raises(StorageFull):
        predict(stays[0], new, out=str(tmp_path / "out.csv"))
    with pytest.raises(StorageFull):
        predict(stays[0], new, out=str(tmp_path / "out.parquet"))
    assert names(tmp_path) == ["new.csv"]


def test_predictions_in_a_file_are_for_its_owner_alone(stays, new, tmp_path):
    for name in ("out.csv", "out.parquet"):
        predict(stays[0], new, out=str(tmp_path / name))
        assert (tmp_path / name).stat().st_mode & 0o777 == 0o600
