"""A real PostgreSQL, started for these tests alone: it is asked, and nothing can be written to it."""

import datetime

import numpy as np
import pytest
from postgres_server import running

from commonroot.client.data import DataConfig, prepare
from commonroot.common.errors import DataError

psycopg = pytest.importorskip("psycopg", reason="the extra commonroot[postgres] is not installed")


@pytest.fixture(scope="module")
def server():
    """URL of a running server with a table ``sales`` of 60 rows."""
    with running() as url:
        with psycopg.connect(url) as connection:
            _fill(connection)
        yield url


def _fill(connection):
    connection.execute(
        "CREATE TABLE sales (id int PRIMARY KEY, price numeric, shop text, "
        "at timestamptz, day date, sold bool, label text)"
    )
    connection.execute("CREATE SEQUENCE counter")
    random = np.random.default_rng(3)
    start = datetime.datetime(2024, 1, 1, tzinfo=datetime.UTC)
    for at in range(60):
        price = None if at % 9 == 0 else round(float(random.normal(10, 3)), 2)
        when = start + datetime.timedelta(hours=at)
        row = (
            at,
            price,
            "north" if at % 2 else "south",
            when,
            when.date(),
            bool(random.integers(2)),
            "xy"[at % 3 == 0],
        )
        connection.execute("INSERT INTO sales VALUES (%s, %s, %s, %s, %s, %s, %s)", row)


def asked(url, query, **changes):
    section = {"url": url, "query": query, "target": "label", "task": "binary"} | changes
    return prepare(DataConfig(**section))


def count(url):
    with psycopg.connect(url) as connection:
        return connection.execute("SELECT count(*), sum(price) FROM sales").fetchone()


def test_a_query_becomes_rows_with_the_kinds_of_its_columns(server):
    found = asked(server, "SELECT price, shop, at, day, sold, label FROM sales ORDER BY id")
    kinds = {"price": "number", "shop": "category", "at": "datetime", "day": "datetime", "sold": "number"}
    assert found.features.kinds == kinds
    assert len(found.train) + len(found.validation) + len(found.test) == 60 and "price missing" in found.names


def test_the_same_question_gives_the_same_rows(server):
    query = "SELECT price, shop, label FROM sales WHERE shop LIKE '%o%' AND id::int >= 0 ORDER BY id"
    np.testing.assert_array_equal(asked(server, query).test.x, asked(server, query).test.x)


@pytest.mark.parametrize(
    ("query", "says"),
    [
        ("DELETE FROM sales", "found a statement that writes"),
        ("UPDATE sales SET price = 0 RETURNING *", "found a statement that writes"),
        ("WITH gone AS (DELETE FROM sales RETURNING *) SELECT * FROM gone", "found a statement that writes"),
        ("SELECT * INTO copy FROM sales", "found a statement that writes"),
        ("SELECT nextval('counter') AS label", "found a statement that writes"),
        ("COMMIT; DELETE FROM sales", "found several statements"),
        ("SET default_transaction_read_only = off", "found a statement that writes"),
        ("SELECT * FROM nowhere", "found a table that does not exist"),
        ("SELECT elsewhere FROM sales", "found a column that does not exist"),
        ("SELEKT 1", "found no valid SQL"),
        ("SELECT 1 / 0 AS label", "found a query that failed (SQLSTATE 22012)"),
        ("SELECT 'hunter2'::int AS label", "found a query that failed (SQLSTATE 22P02)"),
    ],
)
def test_a_query_that_fails_or_writes_is_one_error_and_nothing_is_written(server, query, says):
    before = count(server)
    with pytest.raises(DataError) as caught:
        asked(server, query)
    assert says in str(caught.value) and "1 problem(s)" in str(caught.value)
    assert "hunter2" not in str(caught.value)
    assert count(server) == before
    with psycopg.connect(server) as connection:
        assert connection.execute("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'").fetchone() == (1,)


@pytest.mark.parametrize(
    "url", ["postgresql://nobody:hunter2@/postgres?host=/nowhere", "postgresql://owner@/other?host={root}"]
)
def test_a_database_that_does_not_answer_is_one_error(server, url):
    with pytest.raises(DataError, match="1 problem") as caught:
        asked(url.format(root=server.partition("host=")[2]), "SELECT 1 AS label")
    assert "hunter2" not in str(caught.value)
