"""From cells to what shared statistics are gathered from; every cell that does not fit is named."""

import sqlite3
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from commonroot.client.columns import read_columns
from commonroot.client.data import DataConfig, prepare, training_rows
from commonroot.client.shared_statistics import load
from commonroot.client.tables.sql_source import QuerySource
from commonroot.common.charter import Draft
from commonroot.common.errors import ConfigError, DataError, ForeignState, StatisticsMissing
from commonroot.common.schema import bucket_of, seconds_of
from commonroot.strategies import build, seal

COLUMNS = [
    {"name": "age", "kind": "number", "low": 0, "high": 120},
    {"name": "since", "kind": "datetime", "low": "2020-01-01", "high": "2026-01-01T00:00:00+00:00"},
    {"name": "segment", "kind": "category", "labels": ["b", "a"]},
    {"name": "town", "kind": "category", "buckets": 8},
    {"name": "note", "kind": "text", "buckets": 64},
]
HEAD = "id,age,since,segment,town,note,label"


def charter_of(columns=COLUMNS):
    values = {"federation": "bank", "name": "counts", "rounds": 1, "method": {"name": "statistics"}, "columns": columns}
    return seal(Draft.model_validate(values))


def config(**changes):
    return DataConfig.model_validate({"path": "rows.csv", "target": "label", "task": "binary", "seed": 5} | changes)


def lines(count=20):
    return [
        f"{at},{20 + at},2021-02-0{at % 9 + 1},{'ab'[at % 2]},Ulm,Good good news,{'xy'[at % 2]}" for at in range(count)
    ]


def write(folder: Path, rows, head=HEAD) -> Path:
    (folder / "rows.csv").write_text("\n".join([head, *rows]) + "\n", encoding="utf-8")
    return folder


def test_training_rows_are_those_that_prepare_trains_on(tmp_path):
    """``age`` tells rows apart: the standardised one of training rows, put back, names the same rows."""
    write(tmp_path, [f"{at},{20 + at},x{10 - at % 2}" for at in range(40)], "id,age,label")
    data = config(features=("age",))
    at = training_rows(data, folder=tmp_path)
    found = prepare(data, folder=tmp_path)
    scaler = found.features.numbers_only.scaler
    ages = found.train.x[:, 0] * scaler.scale[0] + scaler.centre[0]
    np.testing.assert_allclose(ages, 20 + at, rtol=1e-6)


def test_only_training_rows_are_gathered(tmp_path):
    data = read_columns(config(), write(tmp_path, lines(20)), charter_of())
    assert int(data["count"]) == len(training_rows(config(), folder=tmp_path)) == 20 - 4 - 3
    assert len(data["0"]) == int(data["count"])


def test_cells_become_numbers_slots_and_buckets(tmp_path):
    head, *others = lines(20)
    del head
    data = read_columns(config(test_rows=1, validation=0.01), write(tmp_path, [*others, others[0]]), charter_of())
    first = datetime(2021, 2, 1, tzinfo=UTC).timestamp()
    assert set((data["1"] - first) / 86400) <= set(range(9))
    assert set(data["2"]) == {0, 1}
    assert set(data["3"]) == {bucket_of("Ulm", 8)}
    rows = np.unique(data["4"][:, 0])
    assert len(rows) == int(data["count"])
    assert len(data["4"]) == 2 * len(rows), "a word that stands twice in a text counts once"


def test_empty_cells_have_no_value(tmp_path):
    rows = [f"{at},,,,,,{'xy'[at % 2]}" for at in range(20)]
    data = read_columns(config(), write(tmp_path, rows), charter_of())
    assert np.isnan(data["0"]).all()
    assert np.isnan(data["1"]).all()
    assert (data["2"] == -1).all()
    assert (data["3"] == -1).all()
    assert data["4"].shape == (0, 2)


def test_numpy_files_are_read_alike(tmp_path):
    rows = lines(20)
    cells = [line.split(",") for line in rows]
    write(tmp_path, rows)
    np.savez(
        tmp_path / "rows.npz",
        X=np.array([[float(c[0]), float(c[1])] for c in cells]),
        names=np.array(["id", "age"]),
        since=np.array([c[2] for c in cells], dtype="datetime64[D]"),
        segment=np.array([c[3] for c in cells]),
        town=np.array([c[4] for c in cells]),
        note=np.array([c[5] for c in cells]),
        label=np.array([c[6] for c in cells]),
    )
    one = read_columns(config(), tmp_path, charter_of())
    other = read_columns(config(path="rows.npz"), tmp_path, charter_of())
    for name in one:
        np.testing.assert_array_equal(one[name], other[name])


def test_everything_that_does_not_fit_is_named_at_once(tmp_path):
    rows = [line.replace(",Ulm", ",Ulm") for line in lines(40)]
    rows = [
        f"{at},{'old' if at < 20 else 130},{'yesterday' if at < 20 else '2019-12-31'},a,Ulm,x,{'xy'[at % 2]}"
        for at in range(40)
    ]
    with pytest.raises(DataError) as caught:
        read_columns(config(), write(tmp_path, rows), charter_of())
    text = str(caught.value)
    assert "column 'age': found something else, expected a finite number" in text
    assert "column 'since'" in text or "more" in text
    assert "old" not in text
    assert "yesterday" not in text


def test_a_column_that_the_table_lacks_is_named(tmp_path):
    with pytest.raises(DataError, match="column 'note': found no such column"):
        read_columns(config(), write(tmp_path, lines(), HEAD.replace("note", "memo")), charter_of())


MOMENTS = {
    "1970-01-02": 86400.0,
    "2021-02-03T04:05": 1612325100.0,
    "2021-02-03 04:05:06.25Z": 1612325106.25,
    "2021-02-03T04:05:06+01:30": 1612319706.0,
    " 2021-02-03T04:05:06-00:30 ": 1612326906.0,
}


def test_moments_are_seconds_since_1970_utc():
    for text, seconds in MOMENTS.items():
        told = datetime.fromisoformat(text.strip())
        assert seconds_of(text) == seconds == (told if told.tzinfo else told.replace(tzinfo=UTC)).timestamp()
    for text in ("", "yesterday", "2021-13-01", "2021-02-30", "03.02.2021", "2021-02-03T25:00", "20210203", "now"):
        with pytest.raises(ValueError, match=r"."):
            seconds_of(text)


# -- what is kept ------------------------------------------------------------------------------------------------------


def kept(tmp_path):
    from commonroot.client.shared_statistics import SharedStatistics

    charter = charter_of()
    method = build(charter)
    rows = read_columns(config(), write(tmp_path, lines(40)), charter)
    terms = method.gather(charter, method.initial(charter), rows, {}).terms
    state = method.combine(charter, method.initial(charter), {n: np.asarray(t, float) for n, t in terms.items()})
    shared = SharedStatistics.received(charter, state)
    shared.save(tmp_path, charter.digest.hex())
    return shared, charter.digest.hex()


def test_what_is_kept_comes_back_whole(tmp_path):
    shared, digest = kept(tmp_path)
    again = load(tmp_path, digest)
    assert again.columns == shared.columns
    assert {name: array.tobytes() for name, array in again.totals.items()} == {
        name: array.tobytes() for name, array in shared.totals.items()
    }


def test_missing_or_foreign_statistics_are_said_to_be_so(tmp_path):
    _, digest = kept(tmp_path)
    with pytest.raises(StatisticsMissing):
        load(tmp_path, "00" * 32)
    record = tmp_path / "statistics" / f"{digest}.json"
    record.write_text(record.read_text().replace(digest, "11" * 32))
    with pytest.raises(ForeignState):
        load(tmp_path, digest)


def test_asking_a_column_for_what_it_is_not_is_an_error(tmp_path):
    shared, _ = kept(tmp_path)
    for call in (
        lambda: shared.standardise("note"),
        lambda: shared.standardise("nothing"),
        lambda: shared.categories("town"),
        lambda: shared.idf("age"),
        lambda: shared.counts("age"),
        lambda: shared.quantiles("segment", [0.5]),
    ):
        with pytest.raises(ConfigError):
            call()


def test_other_counts_whatever_the_charter_does_not_list(tmp_path):
    rows = [line.replace(",b,", ",c,") for line in lines(40)]
    charter = charter_of()
    method = build(charter)
    data = read_columns(config(), write(tmp_path, rows), charter)
    state = method.gather(charter, method.initial(charter), data, {}).terms
    assert state["categories"][0] == 0
    assert state["categories"][2] > 0


# -- the schema --------------------------------------------------------------------------------------------------------

WRONG = {
    "no range": {"name": "x", "kind": "number", "low": 3, "high": 3},
    "labels and buckets": {"name": "x", "kind": "category", "labels": ["a"], "buckets": 8},
    "neither": {"name": "x", "kind": "category"},
    "a label twice": {"name": "x", "kind": "category", "labels": ["a", "a"]},
    "an unknown kind": {"name": "x", "kind": "sound"},
    "dates the wrong way round": {"name": "x", "kind": "datetime", "low": "2026-01-01", "high": "2020-01-01"},
}


@pytest.mark.parametrize("case", WRONG)
def test_columns_that_make_no_sense_are_refused(case):
    with pytest.raises(ValueError, match="column"):
        charter_of([WRONG[case]])


def test_a_column_twice_is_refused():
    with pytest.raises(ValueError, match="listed twice"):
        charter_of([COLUMNS[0], COLUMNS[0]])


def test_a_query_is_gathered_from_as_its_file_is(tmp_path):
    """the same rows in the same order: every sum's ingredients are the same"""
    with_file = read_columns(config(), write(tmp_path, lines(20)), charter_of())
    with sqlite3.connect(tmp_path / "bank.db") as db:
        db.execute("CREATE TABLE rows (id INT, age REAL, since TEXT, segment TEXT, town TEXT, note TEXT, label TEXT)")
        db.executemany("INSERT INTO rows VALUES (?, ?, ?, ?, ?, ?, ?)", [line.split(",") for line in lines(20)])
    db.close()
    asked = {"path": None, "url": "sqlite:///bank.db", "query": "SELECT * FROM rows ORDER BY id"}
    with_query = read_columns(config(**asked), tmp_path, charter_of())
    assert with_query.keys() == with_file.keys()
    for name, array in with_file.items():
        np.testing.assert_array_equal(with_query[name], array)


def test_a_query_is_asked_once_for_its_rows_and_for_who_trains(tmp_path, monkeypatch):
    """an answer without ORDER BY may come in another order each time: here it is turned round at every question"""
    source = "commonroot.client.tables.read.open_query"
    asked = []

    def turning(url, query, folder, problems):
        ages = [float(20 + at) for at in range(40)][:: -1 if len(asked) % 2 else 1]
        labels = ["xy"[int(age) % 2] for age in ages]
        asked.append(query)
        return QuerySource(pl.DataFrame({"age": ages, "label": labels}), folder)

    monkeypatch.setattr(source, turning)
    monkeypatch.setattr("commonroot.client.tables.opening.open_query", turning)
    data = config(path=None, url="sqlite:///x.db", query="SELECT 1")
    found = read_columns(data, tmp_path, charter_of([COLUMNS[0]]))
    assert len(asked) == 1
    first = pl.DataFrame({"age": [20.0 + at for at in range(40)], "label": ["xy"[at % 2] for at in range(40)]})
    at = training_rows(data, folder=tmp_path, source=QuerySource(first, tmp_path))
    np.testing.assert_array_equal(found["0"], 20 + at)


def test_a_cell_of_a_query_beyond_the_range_is_named(tmp_path):
    with sqlite3.connect(tmp_path / "bank.db") as db:
        db.execute("CREATE TABLE rows (age REAL, label TEXT)")
        db.executemany("INSERT INTO rows VALUES (?, ?)", [(500.0, "xy"[at % 2]) for at in range(20)])
    db.close()
    asked = {"path": None, "url": "sqlite:///bank.db", "query": "SELECT * FROM rows"}
    with pytest.raises(DataError, match="the query, row 1, column 'age': found a value beyond"):
        read_columns(config(**asked), tmp_path, charter_of([COLUMNS[0]]))
    with pytest.raises(DataError, match="the query, column 'age': found no such column"):
        read_columns(config(**asked | {"query": "SELECT label FROM rows"}), tmp_path, charter_of([COLUMNS[0]]))


def test_numbers_with_a_decimal_comma_are_counted_as_those_with_a_point(tmp_path):
    """1.020,5 and 1020.5, summed over the same training rows; labels and texts are as they stand"""
    columns = [{"name": "spent", "kind": "number", "low": 0, "high": 9000}, COLUMNS[2]]
    found = []
    for folder, text, said in (("commas", "1.0{},5", {"decimal": ","}), ("points", "10{}.5", {})):
        (tmp_path / folder).mkdir()
        rows = [f"{text.format(10 + at)};{'ab'[at % 2]};{'xy'[at % 2]}" for at in range(20)]
        write(tmp_path / folder, rows, "spent;segment;label")
        found.append(read_columns(config(separator=";", **said), tmp_path / folder, charter_of(columns)))
    assert found[0]["0"].min() >= 1010.5
    for name, values in found[1].items():
        np.testing.assert_array_equal(found[0][name], values)
