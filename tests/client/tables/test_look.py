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
