"""Real tables, as they come: text with gaps, hospital files with question marks, sensors, engines, weekly sales.

They are not shipped: ``COMMONROOT_DATA`` names the folder that holds them, else they are sought beside the checkout.
"""

import gzip
import io
import os
import zipfile
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from commonroot.client.data import DataConfig, prepare

ROOT = Path(__file__).resolve().parents[3]
DATA = Path(os.environ.get("COMMONROOT_DATA", ROOT.parent / "shared" / "data"))


def real(*parts):
    path = DATA.joinpath(*parts)
    if not path.is_file():
        pytest.skip(f"{parts[0]} is not here: COMMONROOT_DATA names the folder that holds it")
    return path


def unpacked(path, ending, to):
    with zipfile.ZipFile(path) as archive:
        name = next(one for one in archive.namelist() if one.endswith(ending) and not one.startswith("__"))
        to.write_bytes(archive.read(name))
    return to


def test_reviews_become_words_categories_and_numbers(tmp_path):
    packed = real("womens-clothing-reviews", "Womens Clothing E-Commerce Reviews.csv.zip")
    unpacked(packed, ".csv", tmp_path / "reviews.csv")
    asked = DataConfig(path="reviews.csv", target="Recommended IND", task="binary")
    found = prepare(asked, folder=tmp_path)
    kinds = found.features.kinds
    assert {kinds[name] for name in ("Title", "Review Text")} == {"text"}
    assert {kinds[name] for name in ("Division Name", "Department Name", "Class Name")} == {"category"}
    assert len(found.train) + len(found.validation) + len(found.test) == 23_486
    assert "Department Name missing" in found.names and np.isfinite(found.train.x).all()


def test_hospital_rows_keep_their_gaps(tmp_path):
    """in Cleveland's file 6 of 303 rows have a question mark, in columns ca and thal"""
    path = real("uci-heart", "processed.cleveland.data")
    names = "age,sex,cp,trestbps,chol,fbs,restecg,thalach,exang,oldpeak,slope,ca,thal,num"
    (tmp_path / "heart.csv").write_text(names + "\n" + path.read_text(encoding="utf-8"), encoding="utf-8")
    found = prepare(DataConfig(path="heart.csv", target="num", task="classification"), folder=tmp_path)
    assert len(found.train) + len(found.validation) + len(found.test) == 303
    assert {name for name in found.names if "missing" in name} <= {"ca missing", "thal missing"}
    assert len(found.features.columns) == 13


def test_sensor_rows_have_another_separator_and_a_time(tmp_path):
    path = real("skab", "valve1", "0.csv")
    split = {"kind": "time", "column": "datetime"}
    asked = DataConfig(
        path=path, separator=";", target="Current", task="regression", split=split, trusted=["Accelerometer1RMS"]
    )
    found = prepare(asked)
    assert found.features.kinds["datetime"] == "datetime" and "datetime trend" in found.names
    assert len(found.train) > len(found.test) > 0


def test_engines_become_windows_that_are_parted_by_engine(tmp_path):
    path = real("cmapss", "train_FD001.txt.gz")
    with gzip.open(path) as file:
        rows = np.loadtxt(file)
    names = ["unit", "cycle", *(f"setting{at}" for at in range(1, 4)), *(f"sensor{at}" for at in range(1, 22))]
    frame = pl.DataFrame(rows, schema=names)
    last = pl.col("cycle").max().over("unit")
    frame.with_columns((last - pl.col("cycle")).clip(0, 125).alias("life")).write_parquet(tmp_path / "engines.parquet")
    window = {"group": "unit", "order": "cycle", "steps": 30}
    asked = DataConfig(path="engines.parquet", target="life", task="regression", window=window)
    found = prepare(asked, folder=tmp_path)
    assert found.train.x.shape[1:] == (30, 24)
    assert len(found.train) + len(found.validation) + len(found.test) == 20_631
    assert any("constant" in note and "'sensor1'" in note for note in found.notes)


def test_next_weeks_sales_are_ahead_of_every_row_they_are_told_from(tmp_path):
    packed = real("walmart-store-dept", "train.csv.zip")
    table = pl.read_csv(io.BytesIO(unpacked(packed, ".csv", tmp_path / "t").read_bytes()))
    store = table.filter(pl.col("Store") == 1)
    store.write_csv(tmp_path / "sales.csv")
    window = {"group": "Dept", "order": "Date", "steps": 8, "horizon": 1}
    asked = DataConfig(path="sales.csv", target="Weekly_Sales", task="regression", window=window)
    found = prepare(asked, folder=tmp_path)
    assert "Weekly_Sales" in found.names and found.train.x.shape[1] == 8
    series = store.group_by("Dept").len()
    assert len(found.train) + len(found.validation) + len(found.test) < len(store) - len(series)
