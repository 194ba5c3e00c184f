"""Columns of few values are read once per value, and nothing that comes of a table says that they were."""

import datetime
import math
import tracemalloc

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from commonroot.client.data import DataConfig, prepare, split_rows
from commonroot.client.tables.cells import clean
from commonroot.client.tables.coded import FEW, Codes, Once, is_coded
from commonroot.client.tables.dates import FORMATS, find_format
from commonroot.client.tables.numbers import Moments, Numbers, Scaler
from commonroot.client.tables.problems import Problems

TEXTS = st.lists(
    st.one_of(st.none(), st.sampled_from(["a", "b", " a", "", "  ", "München", "2024-01-02"])), max_size=30
)


@given(TEXTS, st.sampled_from(["category", "label", "datetime"]))
def test_cells_and_problems_are_the_same_with_codes_and_without(texts, kind):
    frame = pl.DataFrame({"c": pl.Series(texts, dtype=pl.String)})
    found = []
    for codes in (None, Codes(["c"])):
        problems = Problems()
        cleaned = clean(
            frame,
            {"c": kind},
            missing=(),
            file="t.csv",
            row_of=lambda at: at + 2,
            problems=problems,
            codes=codes,
        )
        found.append((cleaned["c"].cast(pl.String).to_list(), [str(one) for one in problems], problems.count))
    assert found[0] == found[1]


@pytest.mark.parametrize(
    "column",
    [
        pl.Series("c", ["b", "a", None, "b"]).cast(pl.Categorical),
        pl.Series("c", ["b", "a", None, "b"]).cast(pl.Enum(["z", "b", "a"])),
        pl.Series("c", [7, -3, None, 7]),
        pl.Series("c", [datetime.date(1969, 12, 1), datetime.date(1970, 1, 2), None, datetime.date(1969, 12, 1)]),
        pl.Series("c", [-128, 127, None, 0], dtype=pl.Int8),
        pl.Series("c", [255, 0, None], dtype=pl.UInt8),
        pl.Series("c", [2**60, 2**60 + 3, None], dtype=pl.UInt64),
        pl.Series("c", [None, None], dtype=pl.Int64),
        pl.Series("c", [], dtype=pl.Date),
    ],
    ids=["codes", "enum", "numbers", "days", "bytes", "full bytes", "large numbers", "gaps", "nothing"],
)
def test_what_is_found_once_per_value_stands_at_every_row_that_holds_it(column):
    once = Once.of(column)
    told = np.array([str(value) for value in once.values.to_list()], dtype="<U20")
    assert once.spread(told, gap="-").tolist() == ["-" if value is None else str(value) for value in column.to_list()]
    assert len(told) == column.drop_nulls().n_unique()


def test_values_that_lie_far_apart_or_are_fractions_are_not_taken_once_each():
    assert Once.of(pl.Series([0, FEW])) is None
    assert Once.of(pl.Series([0.0, 1.0])) is None
    assert Once.of(pl.Series([2**64 - 1, None], dtype=pl.UInt64)) is None
    assert Once.of(pl.Series([0, FEW - 1])) is not None


def test_a_column_of_too_many_values_stays_text():
    many = pl.Series("c", [f"row {at}" for at in range(FEW + 1)])
    assert Codes(["c"]).coded(many) is None
    assert is_coded(Codes(["c"]).coded(many.head(100)).dtype)


@given(TEXTS, st.integers(0, 2))
def test_a_whole_column_of_a_handful_of_values_is_coded_by_comparing(texts, kind):
    """also where some values come late, or are many"""
    texts = texts + ([None, *"abcdefghij"] if kind == 1 else []) + (["z"] if kind == 2 else [])
    whole = pl.Series("c", texts, dtype=pl.String)
    found = Codes(["c"], whole=True).coded(whole, bare=False)
    assert found is None or found.cast(pl.String).to_list() == texts
    assert found is None or Once.of(found).values.to_list() == sorted(set(texts) - {None}) or len(set(texts)) > 8


def test_batches_of_one_table_share_their_codes():
    codes = Codes(["c"])
    parts = [codes.coded(pl.Series("c", texts)) for texts in (["a", "b"], ["c", "b"])]
    assert pl.concat(parts).to_list() == ["a", "b", "c", "b"]


@settings(max_examples=50)
@given(
    rows=st.lists(
        st.lists(st.one_of(st.floats(-1e9, 1e9), st.sampled_from([math.nan, math.inf, 1e99])), min_size=3, max_size=3),
        min_size=1,
        max_size=30,
    )
)
def test_numbers_are_filled_in_as_one_formula_over_all_of_them_says(rows):
    """clip((x - centre) / scale), 0 where that is no number, and 1 behind where a gap is told of"""
    x = np.array(rows)
    part = Numbers(("a", "b", "c"), Scaler(np.array([0.5, -1e3, 0.0]), np.array([2.0, 1e-3, np.inf])), (1, 2))
    with np.errstate(all="ignore"):
        scaled = np.clip((x - part.scaler.centre) / part.scaler.scale, -5, 5).astype(np.float32)
    gaps = np.isnan(scaled)
    expected = np.concatenate([np.where(gaps, np.float32(0), scaled), gaps[:, [1, 2]]], axis=1, dtype=np.float32)
    np.testing.assert_array_equal(part.encode_matrix(x), expected)
    np.testing.assert_array_equal(part.encode(pl.DataFrame(dict(zip("abc", x.T, strict=True))), None), expected)


@settings(max_examples=50)
@given(st.lists(st.lists(st.one_of(st.floats(-1e6, 1e6), st.just(math.nan)), min_size=2, max_size=2), max_size=40))
def test_moments_of_columns_are_those_of_rows(rows):
    x = np.array(rows, dtype=np.float64).reshape(-1, 2)
    one, other = Moments(2), Moments(2)
    one.add(x)
    other.add_columns(list(x.T))
    np.testing.assert_array_equal(one.count, other.count)
    np.testing.assert_allclose(one.mean, other.mean, rtol=1e-9, atol=1e-6)
    np.testing.assert_allclose(one.spread, other.spread, rtol=1e-7, atol=1e-6)


@given(st.lists(st.sampled_from(["2024-01-02", " 2024-01-02", "soon", "02.01.2024", "-5", "x1"]), max_size=12))
def test_a_form_of_dates_is_found_as_by_trying_each_on_every_text(texts):
    def share(form):
        return (
            pl.Series(texts, dtype=pl.String).str.strip_chars().str.to_datetime(form, strict=False).is_not_null().mean()
        )

    for wanted in (1.0, 0.5):
        tried = [form for form in FORMATS if texts and share(form) >= wanted]
        assert find_format(texts, share=wanted) == (tried[0] if tried else None)


def test_a_split_is_what_it_was_before_positions_took_half_the_room():
    """pinned: a department's split must not change with a version"""
    y = np.arange(24) % 3
    found = split_rows(y, test=5, validation=0.25, seed=7, stratify=True)
    assert [part.tolist() for part in found] == [
        [0, 1, 2, 3, 5, 6, 7, 11, 13, 15, 16, 18, 21, 23],
        [9, 10, 17, 19, 20],
        [4, 8, 12, 14, 22],
    ]


def test_what_is_kept_for_each_row_of_a_large_table_is_a_fraction_of_the_row(tmp_path):
    """A row of 64 float32 is 256 bytes; targets, parts and positions may take 100 at their peak."""
    peaks = {}
    for rows in (20_000, 120_000):
        random = np.random.default_rng(1)
        columns = {f"c{at}": random.normal(size=rows).astype(np.float32) for at in range(64)}
        pl.DataFrame(columns | {"label": random.integers(0, 3, rows)}).write_parquet(
            tmp_path / "t.parquet", row_group_size=10_000
        )
        del columns
        tracemalloc.start()
        try:
            config = DataConfig(path="t.parquet", target="label", task="classification")
            prepare(config, folder=tmp_path, root=tmp_path, memory=1)
            peaks[rows] = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert (peaks[120_000] - peaks[20_000]) / 100_000 < 100
