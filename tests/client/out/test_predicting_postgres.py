"""``department predict`` from and into a real PostgreSQL: whole or not at all, by the columns' own names and types."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from postgres_server import running
from typer.testing import CliRunner

from commonroot.cli import app
from commonroot.client.out.sql_sink import SqlSink
from commonroot.client.predicting import predict
from commonroot.common.errors import ConfigError, DataError

psycopg = pytest.importorskip("psycopg", reason="the extra commonroot[postgres] is not installed")
PREDICTED = ["class", "probability of long", "probability of short"]


@pytest.fixture(scope="module")
def server():
    """URL of a running server, and nothing in it."""
    with running() as url:
        yield url


@pytest.fixture
def empty(server):
    """The server with an empty public schema."""
    with psycopg.connect(server) as connection:
        connection.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
    return server


def asked(url, query):
    with psycopg.connect(url) as connection:
        return connection.execute(query).fetchall()


def tables(url):
    return asked(url, "SELECT tablename::text FROM pg_tables WHERE schemaname = 'public' ORDER BY 1")


def fill(url, rows):
    """The stays as a database has them: numbers, dates, text; ``id`` tells their order."""
    with psycopg.connect(url) as connection:
        connection.execute("CREATE TABLE stays (id text, age numeric, ward text, admitted date, note text)")
        connection.cursor().executemany("INSERT INTO stays VALUES (%s, %s, %s, %s, %s)", rows.rows())


def test_rows_of_a_table_become_rows_of_a_table_in_the_same_database(stays, new, empty, tmp_path):
    """what a file of the same rows gives, to the last bit, and in the query's order"""
    fill(empty, pl.read_csv(new))
    words = ["department", "predict", str(stays[0]), "--url", empty, "--query", "SELECT * FROM stays ORDER BY id DESC"]
    told = CliRunner().invoke(app, [*words, "--keep", "id,admitted", "--out-url", empty])
    assert told.exit_code == 0 and told.output == "40 predictions written to table 'predictions'\n"
    predict(stays[0], new, keep=["id"], out=str(tmp_path / "out.parquet"))
    expected = pl.read_parquet(tmp_path / "out.parquet").sort("id", descending=True)
    columns = ", ".join(f'"{name}"' for name in ("id", *PREDICTED))
    found = pl.DataFrame(asked(empty, f"SELECT {columns} FROM predictions"), schema=expected.schema, orient="row")
    assert found.drop(pl.selectors.float()).equals(expected.drop(pl.selectors.float()))
    for name in PREDICTED[1:]:  # sums of single precision in another order
        np.testing.assert_allclose(found[name], expected[name], atol=1e-6)
    kinds = dict(
        asked(
            empty,
            "SELECT column_name::text, data_type::text FROM information_schema.columns WHERE table_name='predictions'",
        )
    )
    assert kinds["id"] == "text" and kinds["admitted"].startswith("timestamp")
    assert kinds["probability of long"] == "double precision"


def test_every_bit_of_a_number_arrives(empty):
    values = [0.1, 1 / 3, np.nextafter(1.0, 2.0), 5e-324, 1.7976931348623157e308, float("inf")]
    frame = pl.DataFrame({"value": values, "n": [2**63 - 1, -(2**63), 0, 1, 2, 3]})
    with SqlSink(empty, "bits") as sink:
        sink.write(frame)
        sink.commit()
    assert asked(empty, "SELECT value, n FROM bits") == frame.rows()


def test_names_with_quotes_percents_and_colons_are_names(empty):
    frame = pl.DataFrame({'say "hi"': ["a"], "50 %(x)s": ["b"], "a:b": ["c"], "SELECT; --": [None], "größe": [1.5]})
    with SqlSink(empty, 'table "of" %s') as sink:
        sink.write(frame)
        sink.commit()
    found = asked(empty, 'SELECT * FROM "table ""of"" %s"')
    assert found == frame.rows() and tables(empty) == [('table "of" %s',)]


def test_an_existing_table_is_refused_and_replaced_only_when_asked(stays, new, empty):
    with psycopg.connect(empty) as connection:
        connection.execute("CREATE TABLE mine (a int); INSERT INTO mine VALUES (7)")
    with pytest.raises(ConfigError, match="'mine' exists already"):
        predict(stays[0], new, out_url=empty, table="mine")
    assert asked(empty, "SELECT * FROM mine") == [(7,)]
    predict(stays[0], new, out=empty, table="mine", replace=True)
    assert asked(empty, "SELECT count(*) FROM mine") == [(40,)]


def test_a_replacement_that_fails_in_its_last_row_leaves_the_old_table(stays, new, empty):
    predict(stays[0], new, out_url=empty)
    new.write_text(new.read_text() + "stay-x,old,north,2024-01-01,well\n")
    with pytest.raises(DataError):
        predict(stays[0], new, out_url=empty, replace=True)
    assert asked(empty, "SELECT count(*) FROM predictions") == [(40,)]


def test_nobody_sees_a_part_of_the_predictions(empty):
    """after two of three batches another connection finds no table, and after the third, all rows"""
    part = pl.DataFrame({"value": [1.0, 2.0]})
    with SqlSink(empty, "growing") as sink:
        for _ in range(2):
            sink.write(part)
        assert tables(empty) == []
        sink.write(part)
        sink.commit()
    assert asked(empty, "SELECT count(*), sum(value) FROM growing") == [(6, 9.0)]


def test_a_user_who_may_not_write_is_told_so_without_the_databases_words(stays, new, empty):
    with psycopg.connect(empty) as connection:
        connection.execute("CREATE ROLE reader LOGIN; GRANT USAGE ON SCHEMA public TO reader")
    with pytest.raises(ConfigError, match=r"refused the predictions \(SQLSTATE 42501\); nothing was written") as caught:
        predict(stays[0], new, out_url=empty.replace("owner@", "reader:hunter2@"))
    assert "hunter2" not in str(caught.value) and tables(empty) == []


def test_a_view_on_the_old_table_keeps_it(stays, new, empty):
    """PostgreSQL does not drop a table that a view needs: both stay as they were"""
    predict(stays[0], new, out_url=empty)
    with psycopg.connect(empty) as connection:
        connection.execute('CREATE VIEW shown AS SELECT "class" FROM predictions')
    with pytest.raises(ConfigError, match="SQLSTATE 2BP01"):
        predict(stays[0], new, out_url=empty, replace=True)
    assert asked(empty, "SELECT count(*) FROM shown") == [(40,)]


def test_text_that_no_database_takes_is_one_error_and_nothing_is_written(empty):
    with pytest.raises(ConfigError, match="nothing was written") as caught, SqlSink(empty, "texts") as sink:
        sink.write(pl.DataFrame({"text": ["hunter2\0"]}))
    assert "hunter2" not in str(caught.value) and tables(empty) == []


def test_a_name_longer_than_the_database_allows_is_one_error(empty):
    with pytest.raises(ConfigError, match="63 bytes"), SqlSink(empty, "texts") as sink:
        sink.write(pl.DataFrame({"x" * 64: [1]}))
    assert tables(empty) == []


@pytest.mark.parametrize("host", ["/nowhere", "127.0.0.1:1"])
def test_a_database_that_does_not_answer_is_one_error(stays, new, host):
    with pytest.raises(ConfigError, match="nothing was written") as caught:
        predict(stays[0], new, out_url=f"postgresql://me:hunter2@/postgres?host={host}")
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("query", "says"),
    [
        ("DELETE FROM stays RETURNING *", "found a statement that writes"),
        ("SELECT id FROM stays", "column 'age'"),
        ("SELECT nothing FROM stays", "found a column that does not exist"),
    ],
)
def test_a_bad_query_is_one_error_and_nothing_is_written(stays, new, empty, query, says):
    fill(empty, pl.read_csv(new))
    with pytest.raises(DataError, match=says):
        predict(stays[0], None, url=empty, query=query, out_url=empty)
    assert tables(empty) == [("stays",)] and asked(empty, "SELECT count(*) FROM stays") == [(40,)]


def test_a_table_may_stand_in_a_schema_which_must_be_there(stays, new, empty):
    with pytest.raises(ConfigError, match="SQLSTATE 3F000"):
        predict(stays[0], new, out_url=empty, table="ward.mine")
    with psycopg.connect(empty) as connection:
        connection.execute("CREATE SCHEMA ward")
    for replace in (False, True):
        predict(stays[0], new, out_url=empty, table="ward.mine", replace=replace)
    assert asked(empty, "SELECT count(*) FROM ward.mine") == [(40,)]
    with pytest.raises(ConfigError, match=r"'ward\.mine' exists already"):
        predict(stays[0], new, out_url=empty, table="ward.mine")
