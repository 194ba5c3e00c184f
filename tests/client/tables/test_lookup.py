"""Rows that are looked up are those that stand in the tables, however many tables are joined into one."""

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from commonroot.client.data import DataConfig, prepare
from commonroot.client.tables.coded import Codes
from commonroot.client.tables.lookup import Lookup, joined

ROWS = 200


def lookup(random, size, width):
    codes = random.integers(0, size, ROWS).astype(random.choice(["u1", "i4", "i8"]))
    return Lookup(codes, random.normal(size=(size, width)).astype(np.float32))


def expected(one):
    return one.table[one.codes]


@given(st.integers(1, 13), st.integers(1, 9), st.integers(0, 2**32))
def test_rows_are_the_same_alone_and_beside_other_columns(size, width, seed):
    """a whole block is copied row by row, some columns of a wider one four at a time"""
    one = lookup(np.random.default_rng(seed), size, width)
    block, wide = np.empty((50, width), np.float32), np.full((50, width + 3), 7, np.float32)
    one(slice(30, 80), block)
    one(slice(30, 80), wide[:, 2 : 2 + width])
    assert np.array_equal(block, expected(one)[30:80]) and np.array_equal(wide[:, 2 : 2 + width], block)
    assert (wide[:, :2] == 7).all() and (wide[:, 2 + width :] == 7).all()


@given(st.lists(st.tuples(st.integers(1, 20), st.integers(1, 6)), min_size=1, max_size=5), st.integers(0, 2**32))
def test_joined_tables_say_what_each_says_in_its_columns(shapes, seed):
    """13 codes and 20 codes are 260 pairs: more than a byte tells apart"""
    random = np.random.default_rng(seed)
    lookups, end = [], 0
    for size, width in shapes:
        end += int(random.integers(0, 3))  # columns of others in between
        lookups.append((slice(end, end + width), lookup(random, size, width)))
        end += width
    first, others = joined(lookups, end)
    out = np.full((ROWS, end), 7, np.float32)
    if first is not None:
        first(slice(0, ROWS), out)
    for columns, one in others:
        one(slice(0, ROWS), out[:, columns])
    covered = np.zeros(end, dtype=bool)
    for columns, one in lookups:
        assert np.array_equal(out[:, columns], expected(one))
        covered[columns] = True
    assert set(np.unique(out[:, ~covered])) <= {0.0, 7.0}


def test_tables_that_would_be_too_large_together_stay_apart():
    """3 x 4 rows are joined, and 12 x 4000 of 40 numbers are not: 7.7 MB"""
    random = np.random.default_rng(1)
    sizes = (4000, 3, 4)
    lookups = [(slice(10 * at, 10 * at + 10), lookup(random, size, 10)) for at, size in enumerate(sizes)]
    first, others = joined(lookups, 40)
    assert first.table.shape == (12, 40) and [len(one.table) for _, one in others] == [4000]


def test_a_few_columns_of_a_wide_row_are_no_reason_to_write_it_twice():
    one = (slice(0, 4), lookup(np.random.default_rng(1), 3, 4))
    assert joined([one], 100) == (None, [one]) and joined([], 100) == (None, [])


@pytest.mark.parametrize("late", ["town 3", "elsewhere", "", None])
def test_a_value_that_comes_late_in_a_column_of_few_is_a_value(tmp_path, late):
    """of 20 values all are met among the cells that are tried; what else there is, is found when all are read"""
    values = [f"town {at % 20}" for at in range(9_000)]
    values[8_999] = late
    coded = Codes(["t"], whole=True).coded(pl.Series("t", values))
    if late == "":
        assert coded is None
    else:
        assert coded.cast(pl.String).to_list() == values
    table = pl.DataFrame({"t": values, "label": [at // 20 % 2 for at in range(9_000)]})
    table.write_parquet(tmp_path / "t.parquet")
    config = DataConfig(path=tmp_path / "t.parquet", target="label", task="binary")
    held, read = prepare(config), prepare(config, memory=1)
    assert held.names == read.names and np.array_equal(held.train.x, read.train.x)
