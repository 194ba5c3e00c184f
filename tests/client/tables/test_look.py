"""A look at a table writes a section that a person can read and `check` accepts, without a cell of the data in it."""

import sqlite3
import tomllib

import numpy as np
import polars as pl
import pytest

from commonroot.client.data import DataConfig, prepare
from commonroot.client.tables.look import look_at, section
from commonroot.common.errors import DataError


@pytest.fixture
def frame():
    random = np.random.default_rng(1)
    n = 80
    return pl.DataFrame(
        {
            "age": [None if at % 4 == 0 else float(random.integers(18, 80)) for at in range(n)],
            "town": random.choice(["Atlantis", "Eldorado"], n),
            'a "quoted" name': random.normal(size=n),
            "spent": random.normal(100, 9, n).round(2),
            "label": random.choice(["keeps", "leaves"], n),
        }
    )


def written(path, **options):
    return section(path, look_at(path, **options), seed=77)


@pytest.mark.parametrize("name", ["t.csv", "t.parquet"])
def test_a_section_names_columns_and_kinds_and_shows_no_cell(tmp_path, frame, name):
    frame.write_csv(tmp_path / name) if name.endswith("csv") else frame.write_parquet(tmp_path / name)
    text = written(tmp_path / name)
    assert '#   "age": number, 25% missing' in text and '#   "town": category, 2 values' in text
    assert "Atlantis" not in text and "keeps" not in text
    found = DataConfig.model_validate(tomllib.loads(text)["data"])
    assert (found.target, found.task, found.seed) == ("label", "binary", 77)
    prepare(found)


@pytest.mark.parametrize(
    ("options", "task"),
    [
        ({}, "binary"),
        ({"target": "spent"}, "regression"),
        ({"target": "town"}, "binary"),
        ({"task": "classification"}, "classification"),
    ],
)
def test_the_task_is_what_suits_the_target(tmp_path, frame, options, task):
    frame.write_csv(tmp_path / "t.csv")
    assert look_at(tmp_path / "t.csv", **options).task == task


def test_every_commented_line_of_a_section_is_right_when_uncommented(tmp_path, frame):
    frame.write_csv(tmp_path / "t.csv")
    lines = written(tmp_path / "t.csv").replace("#features", "features").replace("#window", "window").splitlines()
    found = DataConfig.model_validate(tomllib.loads("\n".join(lines))["data"])
    assert [one.kind for one in found.listed] == ["number", "category"] and found.window.steps == 30
    lines = written(tmp_path / "t.csv").replace("#split", "split").splitlines()
    assert DataConfig.model_validate(tomllib.loads("\n".join(lines))["data"]).split.kind == "grouped"


def test_another_separator_is_found(tmp_path, frame):
    frame.write_csv(tmp_path / "t.csv", separator=";")
    text = written(tmp_path / "t.csv")
    assert 'separator = ";"' in text
    prepare(DataConfig.model_validate(tomllib.loads(text)["data"]))


@pytest.mark.parametrize(("written_in", "said"), [("cp1252", "cp1252"), ("utf-16", "utf-16"), ("utf-8-sig", None)])
def test_another_encoding_is_found(tmp_path, written_in, said):
    """Größe and Süd, as spreadsheets save them; what is UTF-8 needs no word"""
    rows = [f"{at};{'Süd' if at % 3 else 'Nord'};{'ja' if at % 2 else 'nein'}" for at in range(40)]
    (tmp_path / "t.csv").write_bytes("\n".join(["Größe;Ort;label", *rows, ""]).encode(written_in))
    text = written(tmp_path / "t.csv")
    found = tomllib.loads(text)["data"]
    assert (found.get("encoding"), found["separator"], found["target"]) == (said, ";", "label")
    assert {"Größe", "Ort = Süd"} <= set(prepare(DataConfig.model_validate(found)).names)


def test_columns_that_make_no_row_together_are_left_out(tmp_path):
    """an empty column and one of lists, beside a number: the section is right as it stands"""
    n = 60
    rows = {"watts": [float(at) for at in range(n)], "trace": [[1.0, 2.0]] * n, "none": [None] * n}
    frame = pl.DataFrame(rows | {"label": ["on" if at % 7 > 2 else "off" for at in range(n)]})
    frame.with_columns(pl.col("none").cast(pl.Float64)).write_parquet(tmp_path / "t.parquet")
    text = written(tmp_path / "t.parquet")
    assert 'left out: "trace", "none"' in text
    found = DataConfig.model_validate(tomllib.loads(text)["data"])
    assert found.features == ("watts",) and prepare(found).names == ("watts",)


def test_lists_alone_are_the_rows(tmp_path):
    n = 60
    rows = {"trace": [[float(at % 5), 2.0] for at in range(n)], "label": ["ab"[at % 2] for at in range(n)]}
    pl.DataFrame(rows).write_parquet(tmp_path / "t.parquet")
    assert "left out" not in written(tmp_path / "t.parquet")


def test_numbers_with_decimal_commas_that_nobody_told_of_are_said_to_be_names(tmp_path):
    rows = [f"{at}.{at:03d},5;{'ja' if at % 2 else 'nein'}" for at in range(100, 200)]
    (tmp_path / "t.csv").write_text("\n".join(["Umsatz;label", *rows, ""]))
    told = tomllib.loads(written(tmp_path / "t.csv"))["data"]
    assert told.pop("decimal") == ","
    found = prepare(DataConfig.model_validate(told))
    assert any("numbers with decimal commas" in note for note in found.notes)


def test_an_archive_and_a_query_are_looked_at_too(tmp_path, frame):
    np.savez(tmp_path / "t.npz", X=np.zeros((20, 2)), y=np.arange(20) % 3)
    found = look_at(tmp_path / "t.npz")
    assert (found.target, found.task) == ("y", "classification")
    with sqlite3.connect(tmp_path / "t.db") as database:
        database.execute("CREATE TABLE t (a, label)")
        database.executemany("INSERT INTO t VALUES (?, ?)", [(at, "xy"[at % 2]) for at in range(20)])
    database.close()
    asked = {"url": f"sqlite:///{tmp_path}/t.db", "query": "SELECT * FROM t"}
    text = section(None, look_at(None, **asked), **asked)
    assert DataConfig.model_validate(tomllib.loads(text)["data"]).query == "SELECT * FROM t"


def test_a_table_that_cannot_be_read_is_one_error(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        look_at(tmp_path / "t.csv")
    (tmp_path / "t.csv").write_text("a,b\n1,2\n", encoding="utf-8")
    with pytest.raises(DataError, match="column 'c': found no such column"):
        look_at(tmp_path / "t.csv", target="c")
