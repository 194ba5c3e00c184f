"""Columns that shared statistics know are encoded by them: the same columns and numbers in every department."""

import numpy as np
import polars as pl
import pytest

from commonroot.client.columns import read_columns
from commonroot.client.data import DataConfig, prepare, training_rows
from commonroot.client.shared_statistics import SharedStatistics
from commonroot.common.charter import Draft
from commonroot.common.errors import ConfigError
from commonroot.common.schema import bucket_of
from commonroot.strategies import build, seal

COLUMNS = [
    {"name": "age", "kind": "number", "low": 0, "high": 120},
    {"name": "segment", "kind": "category", "labels": ["b", "a", "c"]},
    {"name": "note", "kind": "text", "buckets": 64},
]
SEGMENTS = {"ash": ["a", "a", "b", "a"], "elm": ["c", "a", "z", None]}
NOTES = {"ash": ["good day", "good night", "day", "good"], "elm": ["bad", "bad day", "rain", "bad rain"]}


def config(features):
    return DataConfig(path="rows.parquet", target="label", task="binary", seed=5, features=features)


def department(folder, name, low):
    (folder / name).mkdir()
    ages = low + np.arange(40.0) % 13
    values = {"age": ages, "segment": SEGMENTS[name] * 10, "note": NOTES[name] * 10, "label": ["x", "y", "y", "x"] * 10}
    pl.DataFrame(values).write_parquet(folder / name / "rows.parquet")
    return folder / name


@pytest.fixture
def summed(tmp_path):
    """Two departments and what the sum over both says."""
    places = {"ash": department(tmp_path, "ash", 20), "elm": department(tmp_path, "elm", 60)}
    fields = {"federation": "bank", "name": "counts", "rounds": 1, "method": {"name": "statistics"}, "columns": COLUMNS}
    charter = seal(Draft.model_validate(fields))
    method = build(charter)
    state = method.initial(charter)
    parts = [
        method.gather(charter, state, read_columns(config(["age"]), place, charter), {}).terms
        for place in places.values()
    ]
    sums = {name: np.asarray(sum(part[name] for part in parts), dtype=np.float64) for name in parts[0]}
    return places, SharedStatistics.received(charter, method.combine(charter, state, sums))


def test_numbers_are_standardised_by_everybodys_rows(summed):
    places, shared = summed
    pooled = []
    for place in places.values():
        rows = training_rows(config(["age"]), folder=place)
        pooled.append(pl.read_parquet(place / "rows.parquet")["age"].to_numpy()[rows])
    values = np.concatenate(pooled)
    for place in places.values():
        scaler = prepare(config(["age"]), folder=place, shared=shared).features.numbers_only.scaler
        assert scaler.centre[0] == pytest.approx(values.mean(), rel=1e-9)
        assert scaler.scale[0] == pytest.approx(values.std(), rel=1e-9)


def test_categories_have_one_order_in_every_department(summed):
    """most frequent first: a, then c and b; z is listed by nobody, and gaps are somewhere"""
    places, shared = summed
    listed = [label for label, _ in shared.categories("segment")[:-1]]
    assert listed[0] == "a"
    for place in places.values():
        found = prepare(config(["segment", "age"]), folder=place, shared=shared)
        names = (*(f"segment = {label}" for label in listed), "segment rare", "segment missing", "age")
        assert found.names == names
    frame = pl.DataFrame({"segment": ["a", "z", None, "c"], "age": [20.0] * 4})
    encoded = found.features.encode(frame)[:, :5]
    assert encoded.argmax(axis=1).tolist() == [0, 3, 4, listed.index("c")]
    assert encoded.sum(axis=1).tolist() == [1.0] * 4


def test_without_shared_statistics_each_has_its_own(summed):
    places, _ = summed
    ash, elm = (prepare(config(["segment", "age"]), folder=place).names for place in places.values())
    assert ash != elm


def test_words_weigh_by_everybodys_texts(summed):
    """idf = ln((1 + n)/(1 + df)) + 1 of all training texts, at the place that the sum counted the word in"""
    places, shared = summed
    texts = []
    for place in places.values():
        rows = training_rows(config(["age"]), folder=place)
        texts += pl.read_parquet(place / "rows.parquet")["note"].to_numpy()[rows].tolist()
    features = [{"column": "note", "kind": "text"}, "age"]
    parts = [prepare(config(features), folder=place, shared=shared).features.parts[0] for place in places.values()]
    np.testing.assert_array_equal(parts[0].weights, parts[1].weights)
    for word in ("good", "rain", "bad"):
        place = bucket_of(word, 64)
        alike = {other for other in ("good", "day", "night", "bad", "rain") if bucket_of(other, 64) == place}
        df = sum(bool(alike & set(text.split())) for text in texts)
        assert parts[0].weights[place] == pytest.approx(np.log((1 + len(texts)) / (1 + df)) + 1, rel=1e-6)
        (at,) = np.flatnonzero(parts[0].encode(pl.DataFrame({"note": [word]}), places["ash"])[0])
        assert at == place


def test_other_statistics_are_another_cache(summed, tmp_path):
    places, shared = summed
    own = prepare(config(["age"]), folder=places["ash"], root=tmp_path, memory=0)
    theirs = prepare(config(["age"]), folder=places["ash"], shared=shared, root=tmp_path, memory=0)
    assert not np.array_equal(own.train.x, theirs.train.x)


@pytest.mark.parametrize("asked", [{"ngrams": 3}, {"chars": 4}, {"width": 128}, {"width": 32, "ngrams": 2}])
def test_a_text_asked_for_in_another_way_than_it_was_counted_is_refused(summed, asked):
    """64 buckets of single words; what says the same, or nothing, is fine"""
    places, shared = summed
    place = next(iter(places.values()))
    features = [{"column": "note", "kind": "text", **asked}, "age"]
    with pytest.raises(ConfigError, match=r"'note' asks for .* count single words in 64 buckets") as caught:
        prepare(config(features), folder=place, shared=shared)
    assert all(f"{name} = {value}" in str(caught.value) for name, value in asked.items())
    assert all(name in caught.value.advice for name in asked)
    same = {"column": "note", "kind": "text", "width": 64, "ngrams": 1, "chars": 0}
    found = prepare(config([same, "age"]), folder=place, shared=shared)
    plain = prepare(config([{"column": "note", "kind": "text"}, "age"]), folder=place, shared=shared)
    np.testing.assert_array_equal(found.train.x, plain.train.x)
