"""One table, many sources: the same rows from each, read once or in batches, and never written to."""

import datetime
import sqlite3

import numpy as np
import polars as pl
import pytest
from PIL import Image as Pictures

from commonroot.client.data import DataConfig, ImageInput, prepare, read_batches, read_features
from commonroot.client.tables.problems import Problems
from commonroot.client.tables.source import Reading, open_source
from commonroot.common.errors import DataError

SIZES = [33, 78, 9]


def mixed(n=120):
    """Numbers, a category, dates, text; gaps in each."""
    random = np.random.default_rng(5)
    words = ["good", "bad", "fine", "dress", "shirt", "colour", "size"]
    start = datetime.datetime(2024, 1, 1)
    return pl.DataFrame(
        {
            "age": [None if at % 7 == 0 else round(float(random.normal(40, 9)), 2) for at in range(n)],
            "shop": [None if at % 11 == 0 else str(random.choice(["north", "south", "east"])) for at in range(n)],
            "at": [(start + datetime.timedelta(hours=7 * at)).strftime("%Y-%m-%d %H:%M:%S") for at in range(n)],
            "review": [" ".join(random.choice(words, 6)) for _ in range(n)],
            "label": random.choice(["yes", "no"], n),
        }
    )


def config(**changes):
    return DataConfig(**({"path": "t.csv", "target": "label", "task": "binary"} | changes))


def same(one, other, *, atol=0.0):
    assert one.features.to_json()["parts"] == other.features.to_json()["parts"]
    for part in ("train", "validation", "test"):
        np.testing.assert_allclose(getattr(one, part).x, getattr(other, part).x, atol=atol)
        np.testing.assert_array_equal(getattr(one, part).y, getattr(other, part).y)


@pytest.fixture
def folder(tmp_path):
    table = mixed()
    table.write_csv(tmp_path / "t.csv")
    table.write_parquet(tmp_path / "t.parquet")
    with sqlite3.connect(tmp_path / "t.db") as database:
        database.execute("CREATE TABLE t (age REAL, shop TEXT, at TEXT, review TEXT, label TEXT)")
        database.executemany("INSERT INTO t VALUES (?, ?, ?, ?, ?)", table.rows())
    database.close()
    return tmp_path


SQL = {"path": None, "url": "sqlite:///t.db", "query": "SELECT * FROM t ORDER BY rowid"}


@pytest.mark.parametrize("changes", [{"path": "t.parquet"}, SQL], ids=["parquet", "sql"])
def test_every_source_gives_the_rows_of_the_csv(folder, changes):
    same(prepare(config(), folder=folder), prepare(config(**changes), folder=folder))


@pytest.mark.parametrize("path", ["t.csv", "t.parquet"])
def test_batches_give_what_reading_at_once_gives(folder, path):
    """as far as sums in another order do"""
    whole = prepare(config(path=path), folder=folder)
    batches = prepare(config(path=path), folder=folder, memory=1, root=folder)
    for part in ("train", "validation", "test"):
        np.testing.assert_allclose(getattr(whole, part).x, getattr(batches, part).x, atol=1e-5)
        np.testing.assert_array_equal(getattr(whole, part).y, getattr(batches, part).y)


def test_kinds_are_found_by_a_look(folder):
    found = prepare(config(), folder=folder).features.kinds
    assert found == {"age": "number", "shop": "category", "at": "datetime", "review": "text"}


@pytest.mark.parametrize(
    ("encoding", "named"),
    [("utf-8", "utf-8"), ("utf-8-sig", "utf-8"), ("utf-16", "utf-8"), ("cp1252", "cp1252"), ("latin-1", "latin-1")],
)
def test_an_encoding_that_is_named_or_marked_is_read(tmp_path, encoding, named):
    lines = ["größe,ort,label", *[f"{at},{'Köln' if at % 2 else 'Jülich'},{'ab'[at % 3 == 0]}" for at in range(30)]]
    (tmp_path / "t.csv").write_bytes("\n".join(lines).encode(encoding))
    found = prepare(config(encoding=named), folder=tmp_path)
    assert set(found.features.names) == {"größe", "ort = Köln", "ort = Jülich"}


def test_other_separators_quotes_and_line_ends_are_read(tmp_path):
    lines = ["a;b;label", *[f'{at};"x;{at % 2}\r\n""y""";{"ab"[at % 3 == 0]}' for at in range(30)], ""]
    (tmp_path / "t.csv").write_bytes("\r\n".join(lines).encode())
    found = prepare(config(separator=";"), folder=tmp_path)
    assert found.features.names[0] == "a" and len(found.features.names) == 3


def test_blank_lines_and_blanks_around_cells_are_no_rows_and_no_part(tmp_path):
    lines = ["a , b,label", *[f" {at} ,{at % 7}, {'ab'[at % 3 == 0]} " for at in range(30)]]
    lines[5:5] = [""]
    (tmp_path / "t.csv").write_text("\n".join(lines) + "\n\n", encoding="utf-8")
    found = prepare(config(), folder=tmp_path)
    assert len(found.train) + len(found.validation) + len(found.test) == 30
    assert found.features.names == ("a", "b") and found.task.labels == ("a", "b")


@pytest.mark.parametrize("memory", [1, 1 << 30], ids=["batches", "held"])
def test_a_late_surprise_in_a_column_of_numbers_is_named(tmp_path, memory):
    """beyond the rows of the look, so that the fast reader meets it"""
    lines = ["a,label", *[f"{at},{'ab'[at % 3 == 0]}" for at in range(5000)]]
    lines[4321] = "oops,a"
    (tmp_path / "t.csv").write_text("\n".join(lines), encoding="utf-8")
    with pytest.raises(
        DataError, match=r"t\.csv, row 4322, column 'a': found text, expected a finite number"
    ) as caught:
        prepare(config(), folder=tmp_path, memory=memory, root=tmp_path)
    assert "1 problem(s)" in str(caught.value)
    assert not (tmp_path / "tables").exists()


@pytest.mark.parametrize("memory", [1, 1 << 30], ids=["batches", "held"])
def test_a_late_gap_marked_as_such_is_a_gap(tmp_path, memory):
    lines = ["a,label", *[f"{at},{'ab'[at % 3 == 0]}" for at in range(5000)]]
    lines[4321] = " N/A ,a"
    (tmp_path / "t.csv").write_text("\n".join(lines), encoding="utf-8")
    found = prepare(config(), folder=tmp_path, memory=memory, root=tmp_path)
    assert found.names == ("a", "a missing") or found.names == ("a",)  # the gap may lie in the test rows
    assert found.train.x.shape[1] == len(found.names)


def test_a_predictor_reads_rows_without_a_target_in_batches(folder):
    features = prepare(config(), folder=folder).features
    mixed().drop("label").write_csv(folder / "new.csv")
    whole = features.encode(read_features(folder / "new.csv", features))
    parts = [features.encode(frame) for frame, _ in read_batches(folder / "new.csv", features, size=17, memory=1)]
    np.testing.assert_array_equal(np.concatenate(parts), whole)
    asked = [
        features.encode(f)
        for f, _ in read_batches(None, features, url=f"sqlite:///{folder}/t.db", query="SELECT * FROM t")
    ]
    np.testing.assert_array_equal(np.concatenate(asked), whole)


def test_a_fingerprint_is_of_the_content_alone(folder):
    problems, reading = Problems(), Reading()
    one = open_source(folder / "t.csv", reading, problems).fingerprint()
    (folder / "copy.csv").write_bytes((folder / "t.csv").read_bytes())
    assert open_source(folder / "copy.csv", reading, problems).fingerprint() == one
    (folder / "copy.csv").write_bytes((folder / "t.csv").read_bytes() + b"1,north,2024-01-01 00:00:00,good,no\n")
    assert open_source(folder / "copy.csv", reading, problems).fingerprint() != one


# --- images ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def pictures(tmp_path):
    for at in range(30):
        place = tmp_path / "pictures" / ("cat" if at % 3 else "dog")
        place.mkdir(parents=True, exist_ok=True)
        Pictures.new("RGB", (8, 6), (at * 8, 0, 255)).save(place / f"{at:02}.png")
    return tmp_path


def test_a_folder_of_folders_is_images_with_labels(pictures):
    found = prepare(config(path="pictures"), folder=pictures)
    assert found.features.input == ImageInput(3, 6, 8) and found.train.x.shape[1:] == (3, 6, 8)
    assert found.task.labels == ("cat", "dog")


def test_an_index_names_images_and_whatever_is_known_of_them(pictures):
    lines = ["file,label,note"]
    lines += [f"{'cat' if at % 3 else 'dog'}/{at:02}.png,{at / 7},x" for at in range(30)]
    (pictures / "pictures" / "index.csv").write_text("\n".join(lines), encoding="utf-8")
    asked = config(path="pictures", task="regression", features=["file"])
    found = prepare(asked, folder=pictures, spec_input=ImageInput(1, 4, 4))
    assert found.train.x.shape[1:] == (1, 4, 4) and found.features.kinds == {"file": "image"}


def test_a_file_that_is_no_image_is_named(pictures):
    (pictures / "pictures" / "cat" / "01.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"01\.png, column 'image': found content that is no image"):
        prepare(config(path="pictures"), folder=pictures)


def test_arrays_of_images_and_of_sequences_are_read_as_the_backbone_takes_them(tmp_path):
    from commonroot.client.data import SequenceInput

    x = np.random.default_rng(1).random((40, 6, 5))
    np.savez(tmp_path / "t.npz", X=x, label=np.arange(40) % 2)
    images = prepare(config(path="t.npz"), folder=tmp_path, spec_input=ImageInput(1, 6, 5))
    sequences = prepare(config(path="t.npz"), folder=tmp_path, spec_input=SequenceInput(6, 5))
    assert images.train.x.shape[1:] == (1, 6, 5) and sequences.train.x.shape[1:] == (6, 5)


# --- SQL -------------------------------------------------------------------------------------------------------------


def asked(folder, query, url="sqlite:///t.db"):
    with pytest.raises(DataError) as caught:
        prepare(config(path=None, url=url, query=query), folder=folder)
    assert "1 problem(s)" in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("query", "says"),
    [
        ("DELETE FROM t", "found a statement that writes"),
        ("INSERT INTO t VALUES (1, 'a', 'b', 'c', 'd')", "found a statement that writes"),
        ("DROP TABLE t", "found a statement that writes"),
        ("CREATE TABLE u (a)", "found a statement that writes"),
        ("VACUUM INTO '{folder}/copy.db'", "found a statement that writes"),
        ("ATTACH DATABASE '{folder}/other.db' AS other", "found a statement that writes"),
        ("PRAGMA user_version = 7", "found a statement that writes"),
        ("SELECT 1; DELETE FROM t", "found several statements"),
        ("SELECT * FROM nowhere", "found a table that does not exist"),
        ("SELECT elsewhere FROM t", "found a column that does not exist"),
        ("SELEKT 1", "found no valid SQL"),
        ("SELECT age, age FROM t", "column 'age': found the name twice"),
        ("SELECT * FROM t WHERE age < 0", "found no rows"),
        ("SELECT age FROM t", "column 'label': found no such column"),
    ],
)
def test_a_query_that_fails_or_writes_is_one_error_and_nothing_is_written(folder, query, says):
    before = (folder / "t.db").read_bytes()
    assert says in asked(folder, query.format(folder=folder))
    assert (folder / "t.db").read_bytes() == before
    assert sorted(path.name for path in folder.iterdir()) == ["t.csv", "t.db", "t.parquet"]


def test_a_database_that_is_not_there_is_not_made(folder):
    assert "found no database that can be opened" in asked(folder, "SELECT 1", url="sqlite:///other.db")
    assert not (folder / "other.db").exists()


@pytest.mark.parametrize("url", ["nonsense", "mysql://u:secret@h/d", "sqlite://", "oracle://u:secret@h/d"])
def test_a_url_that_cannot_be_used_is_refused_and_not_repeated(folder, url):
    assert "secret" not in asked(folder, "SELECT 1", url=url)


def test_colons_and_semicolons_inside_quotes_are_text(folder):
    query = "SELECT age, ':x;' AS shop, at, review, label FROM t -- a; comment\n ORDER BY rowid;"
    found = prepare(config(path=None, url="sqlite:///t.db", query=query), folder=folder)
    assert ("shop = :x;") in found.names


def test_columns_of_mixed_cells_become_text(tmp_path):
    with sqlite3.connect(tmp_path / "t.db") as database:
        database.execute("CREATE TABLE t (a, b, label)")
        rows = [
            (at if at % 5 == 0 else f"k{at % 4}", None if at % 5 else 1.5 * at, "xy"[at % 3 == 0]) for at in range(30)
        ]
        database.executemany("INSERT INTO t VALUES (?, ?, ?)", rows)
    database.close()
    found = prepare(config(path=None, url="sqlite:///t.db", query="SELECT * FROM t"), folder=tmp_path)
    assert found.features.kinds["b"] == "number" and "b missing" in found.names


def test_a_password_is_in_no_representation():
    secret = config(path=None, url="postgresql://me:hunter2@db/sales", query="SELECT 1")
    assert "hunter2" not in repr(secret)
