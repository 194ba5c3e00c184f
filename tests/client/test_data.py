"""Reading, checking, splitting and standardising: everything wrong is told at once, and a split repeats exactly."""

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from commonroot.client.data import (
    STANDARD_LIMIT,
    DataConfig,
    Features,
    Scaler,
    folds,
    prepare,
    read_features,
    split_rows,
)
from commonroot.common.errors import DataError


def write_csv(folder, lines, name="rows.csv", *, encoding="utf-8"):
    (folder / name).write_text("\n".join(lines) + "\n", encoding=encoding)
    return folder


def good_lines(n=30, header="a,b,label"):
    return [header, *(f"{at},{at % 7},{'xyz'[at % 3]}" for at in range(n))]


def config(**changes):
    return DataConfig(**({"path": "rows.csv", "target": "label", "task": "classification"} | changes))


def scaler_of(prepared):
    return prepared.features.numbers_only.scaler


def problems_of(folder, **changes):
    inputs = changes.pop("inputs", None)
    with pytest.raises(DataError) as caught:
        prepare(config(**changes), folder=folder, inputs=inputs)
    return str(caught.value)


def test_a_csv_becomes_three_disjoint_parts(tmp_path):
    """30 rows: 6 for testing, then 0.2·24 ≈ 5 for validation, 19 left"""
    found = prepare(config(), folder=write_csv(tmp_path, good_lines()))
    assert (len(found.train), len(found.validation), len(found.test)) == (19, 5, 6)
    assert found.names == ("a", "b") and found.inputs == 2
    assert found.task.labels == ("x", "y", "z")
    assert found.train.x.dtype == np.float32 and found.train.y.dtype == np.int64


def test_a_byte_order_mark_is_no_part_of_the_first_name(tmp_path):
    found = prepare(config(), folder=write_csv(tmp_path, good_lines(), encoding="utf-8-sig"))
    assert found.names == ("a", "b")


def test_features_are_taken_in_the_order_asked_for(tmp_path):
    found = prepare(config(features=("b", "a")), folder=write_csv(tmp_path, good_lines()))
    assert found.names == ("b", "a")


def test_an_npz_gives_the_same_rows_as_its_csv(tmp_path):
    write_csv(tmp_path, good_lines())
    x = np.array([[at, at % 7] for at in range(30)], dtype=np.int32)
    np.savez(tmp_path / "rows.npz", X=x, label=np.array(["xyz"[at % 3] for at in range(30)]), names=["a", "b"])
    one, other = (prepare(config(path=path), folder=tmp_path) for path in ("rows.csv", "rows.npz"))
    assert one.names == other.names and one.task == other.task
    for part in ("train", "validation", "test"):
        np.testing.assert_array_equal(getattr(one, part).x, getattr(other, part).x)
        np.testing.assert_array_equal(getattr(one, part).y, getattr(other, part).y)


def test_whole_number_labels_are_read_from_any_dtype(tmp_path):
    for dtype in (np.int8, np.float64, np.str_):
        np.savez(tmp_path / "rows.npz", X=np.zeros((20, 2)), label=(np.arange(20) % 2).astype(dtype))
        assert prepare(config(path="rows.npz", task="binary"), folder=tmp_path).task.labels == ("0", "1")


def test_everything_wrong_is_told_at_once(tmp_path):
    lines = good_lines()
    lines[3], lines[5], lines[8], lines[9] = "oops,2,x", "1,much,y", "inf,1,z", "1,3,"
    text = problems_of(write_csv(tmp_path, lines))
    assert "4 problem(s)" in text
    assert "rows.csv, row 4, column 'a': found text, expected a finite number" in text
    assert "rows.csv, row 6, column 'b': found text" in text
    assert "rows.csv, row 9, column 'a': found infinity" in text
    assert "rows.csv, row 10, column 'label': found an empty cell, expected a label" in text


def test_a_cell_that_is_wrong_is_described_and_not_shown(tmp_path):
    lines = good_lines()
    lines[3] = "4111-1111-1111,2,x"
    assert "4111" not in problems_of(write_csv(tmp_path, lines))


def test_a_long_list_is_cut_and_counted(tmp_path):
    text = problems_of(write_csv(tmp_path, ["a,b,label", *(["oops,1,x", "2,oops,y"] * 15)]))
    assert "30 problem(s)" in text and "… and 10 more" in text


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        ([], "found an empty file, expected a header row"),
        (["a,b,label"], "found no rows"),
        (["a,a,label", *["1,2,x", "1,2,y"] * 8], "column 'a': found the name twice"),
        (["a,b,kind", *["1,2,x", "1,2,y"] * 8], "column 'label': found no such column"),
        (["a,b,label", *["1,2,x", "1,2"] * 8], "row 3: found 2 cells, expected 3"),
        (["a,b,label", *["1,2,x"] * 16], "column 'label': found 1 label, expected at least two"),
        (["a,b,label", "1,2,x", "3,4,y"], "found 2 rows, expected at least 10"),
        (["label", *["x", "y"] * 8], "found no feature columns"),
        (["a,b,label", *["1,2,x", "1e200,2,y"] * 8], "found a number beyond"),
    ],
)
def test_a_faulty_csv_is_refused_by_what_is_wrong(tmp_path, lines, says):
    assert says in problems_of(write_csv(tmp_path, lines))


def test_columns_that_the_charter_does_not_take_are_counted(tmp_path):
    says = "found 2 feature columns, expected 64, as the charter's backbone takes"
    assert says in problems_of(write_csv(tmp_path, good_lines()), inputs=64)


def test_a_label_outside_the_list_is_named_with_its_row(tmp_path):
    text = problems_of(write_csv(tmp_path, good_lines(12)), labels=("x", "y"))
    assert "4 problem(s)" in text and "row 4, column 'label': found a label of 1 character(s)" in text
    assert "'z'" not in text


def test_three_labels_are_no_binary_task(tmp_path):
    assert "found 3 labels, expected two" in problems_of(write_csv(tmp_path, good_lines()), task="binary")


def test_text_is_no_regression_target(tmp_path):
    assert "column 'label': found text" in problems_of(write_csv(tmp_path, good_lines()), task="regression")


def test_a_missing_file_and_another_ending_are_told(tmp_path):
    assert "found no such file" in problems_of(tmp_path)
    (tmp_path / "rows.xlsx").write_bytes(b"PK")
    assert "expected .csv or .npz" in problems_of(tmp_path, path="rows.xlsx")


def test_another_encoding_is_told(tmp_path):
    (tmp_path / "rows.csv").write_bytes("a,b,label\n1,2,größe\n".encode("latin-1"))
    assert "found another encoding, expected UTF-8" in problems_of(tmp_path)


@pytest.mark.parametrize(
    ("arrays", "says"),
    [
        ({"label": np.arange(20)}, "expected X with two dimensions"),
        ({"X": np.zeros(20), "label": np.arange(20)}, "found X with 1 dimension(s)"),
        ({"X": np.zeros((20, 2))}, "column 'label': found arrays X"),
        ({"X": np.zeros((20, 2)), "label": np.arange(19)}, "found shape (19,), expected (20,)"),
        ({"X": np.full((20, 2), "a"), "label": np.arange(20)}, "found dtype <U1, expected numbers"),
        ({"X": np.zeros((20, 2)), "label": np.arange(20) / 3}, "found a fraction"),
        ({"X": np.zeros((20, 2)), "label": np.arange(20), "names": ["a"]}, "found 1 names, expected 2"),
        ({"X": np.full((20, 2), np.nan), "label": np.arange(20)}, "column 'x0': found no value at all"),
    ],
)
def test_a_faulty_npz_is_refused_by_what_is_wrong(tmp_path, arrays, says):
    np.savez(tmp_path / "rows.npz", **arrays)
    assert says in problems_of(tmp_path, path="rows.npz")


def test_an_archive_of_python_objects_is_never_opened(tmp_path):
    np.savez(tmp_path / "rows.npz", X=np.array([[{}]], dtype=object), label=np.arange(1))
    assert "Python objects" in problems_of(tmp_path, path="rows.npz")
    (tmp_path / "rows.npz").write_bytes(b"no archive")
    assert "unreadable content" in problems_of(tmp_path, path="rows.npz")


@pytest.mark.parametrize(("offset", "value"), [(8, 1), (10, 99)], ids=["encrypted", "compressed"])
def test_an_archive_that_is_encrypted_or_compressed_in_an_unknown_way_is_one_problem(tmp_path, offset, value):
    """The flags and the method of a member, in the archive's list of its members"""
    np.savez(tmp_path / "rows.npz", X=np.zeros((9, 2)), label=np.arange(9))
    data = bytearray((tmp_path / "rows.npz").read_bytes())
    data[data.index(b"PK\x01\x02") + offset] = value
    (tmp_path / "rows.npz").write_bytes(data)
    assert "unreadable content" in problems_of(tmp_path, path="rows.npz")


def test_a_test_file_is_read_with_the_same_columns_and_labels(tmp_path):
    write_csv(tmp_path, good_lines())
    write_csv(tmp_path, ["label,b,a", "z,1,2", "x,3,4"], name="later.csv")
    found = prepare(config(test_path="later.csv"), folder=tmp_path)
    assert (len(found.train) + len(found.validation), len(found.test)) == (30, 2)
    assert found.test.y.tolist() == [2, 0]
    np.testing.assert_array_equal(found.test.x, scaler_of(found).apply(np.array([[2.0, 1.0], [4.0, 3.0]])))


def test_a_label_that_only_the_test_file_has_is_refused(tmp_path):
    write_csv(tmp_path, good_lines())
    write_csv(tmp_path, ["a,b,label", "1,2,w"], name="later.csv")
    assert "later.csv, row 2, column 'label': found a label of 1 character(s)" in problems_of(
        tmp_path, test_path="later.csv"
    )


def test_problems_of_both_files_are_told_together(tmp_path):
    write_csv(tmp_path, [*good_lines(), "oops,1,x"])
    write_csv(tmp_path, ["a,b,label", "oops,2,x"], name="later.csv")
    text = problems_of(tmp_path, test_path="later.csv")
    assert re.search(r"rows\.csv, row 32", text) and re.search(r"later\.csv, row 2", text)


def test_the_same_seed_and_data_give_the_same_split_and_another_seed_another(tmp_path):
    write_csv(tmp_path, good_lines())
    one, again, other = (prepare(config(seed=seed), folder=tmp_path) for seed in (5, 5, 6))
    np.testing.assert_array_equal(one.test.x, again.test.x)
    np.testing.assert_array_equal(one.validation.x, again.validation.x)
    assert not np.array_equal(one.test.x, other.test.x)


@given(
    n=st.integers(10, 80),
    classes=st.integers(1, 12),
    test=st.integers(0, 5),
    validation=st.floats(0.05, 0.6),
    seed=st.integers(0, 1000),
    stratify=st.booleans(),
)
def test_a_split_is_a_partition_with_the_sizes_asked_for(n, classes, test, validation, seed, stratify):
    y = np.random.default_rng(seed).integers(0, classes, n)
    train, held, tested = split_rows(y, test=test, validation=validation, seed=seed, stratify=stratify)
    np.testing.assert_array_equal(np.sort(np.concatenate([train, held, tested])), np.arange(n))
    assert len(tested) == test
    assert len(held) == min(max(1, round(validation * (n - test))), n - test - 1) and len(train) >= 1


@given(per=st.lists(st.integers(1, 30), min_size=2, max_size=10), seed=st.integers(0, 1000))
def test_a_stratified_split_keeps_a_row_of_every_label_for_training(per, seed):
    """as long as there are rows to spare: here a tenth each is asked for"""
    y = np.repeat(np.arange(len(per)), per)
    free = len(y) - len(per)
    test = min(len(y) // 10, free // 2)
    train, held, _ = split_rows(y, test=test, validation=0.1, seed=seed, stratify=True)
    if free - test >= len(held):
        assert set(y[train]) == set(range(len(per)))


def test_a_stratified_split_keeps_shares():
    """40 rows of one label and 20 of another; 12 test rows: 8 and 4, give or take one"""
    y = np.repeat([0, 1], [40, 20])
    for seed in range(20):
        _, _, tested = split_rows(y, test=12, validation=0.2, seed=seed, stratify=True)
        assert abs(int((y[tested] == 0).sum()) - 8) <= 1


def test_folds_are_even_and_spread_labels():
    y = np.repeat([0, 1, 2], [9, 6, 3])
    fold = folds(y, count=3, seed=1, stratify=True)
    assert np.bincount(fold).tolist() == [6, 6, 6]
    for at in range(3):
        assert np.bincount(y[fold == at], minlength=3).tolist() == [3, 2, 1]


def test_training_columns_are_standardised_and_constant_ones_become_zero():
    x = np.array([[1.0, 5.0, 0.1], [3.0, 5.0, 0.1], [5.0, 5.0, 0.1]])
    scaled = Scaler.fitted(x).apply(x)
    np.testing.assert_allclose(scaled[:, 0], [-(1.5**0.5), 0, 1.5**0.5], rtol=1e-6)
    assert (scaled[:, 1:] == 0).all()
    assert (Scaler.fitted(x).apply(np.full((1, 3), 99.0))[:, 1:] == 0).all()


def test_one_spread_for_the_table_keeps_relative_spreads():
    """columns ±1 and ±3 about their means: one spread √((1 + 9)/2) = √5"""
    x = np.array([[0.0, 10.0], [2.0, 16.0]])
    scaled = Scaler.fitted(x, scaling="table").apply(x)
    np.testing.assert_allclose(scaled, np.array([[-1, -3], [1, 3]]) / 5**0.5, rtol=1e-6)


def test_standardised_values_are_limited():
    scaler = Scaler.fitted(np.array([[0.0], [1.0]]))
    assert scaler.apply(np.array([[1e9], [-1e9]])).ravel().tolist() == [STANDARD_LIMIT, -STANDARD_LIMIT]


def test_statistics_come_from_training_rows_alone(tmp_path):
    """the same split with other test rows gives the same scaler"""
    write_csv(tmp_path, good_lines())
    write_csv(tmp_path, ["a,b,label", "1,2,x"], name="one.csv")
    write_csv(tmp_path, ["a,b,label", "1e6,2e6,x"], name="two.csv")
    one, two = (prepare(config(test_path=path), folder=tmp_path) for path in ("one.csv", "two.csv"))
    np.testing.assert_array_equal(scaler_of(one).centre, scaler_of(two).centre)
    np.testing.assert_array_equal(one.train.x, two.train.x)
    np.testing.assert_allclose(one.train.x.mean(axis=0), 0.0, atol=1e-6)
    assert np.abs(one.validation.x.mean(axis=0)).max() > 1e-3


def test_features_for_predicting_need_no_target(tmp_path):
    write_csv(tmp_path, ["b,a", "2,1", "4,3"])
    scaler = Scaler(np.zeros(2), np.ones(2))
    found = read_features(tmp_path / "rows.csv", Features.of_numbers(("a", "b"), scaler))
    assert found.rows() == [(1.0, 2.0), (3.0, 4.0)]
    with pytest.raises(DataError, match="column 'c': found no such column"):
        read_features(tmp_path / "rows.csv", Features.of_numbers(("a", "c"), scaler))


@pytest.mark.parametrize(
    "wrong",
    [
        {"task": "regression", "labels": ("a", "b")},
        {"task": "binary", "labels": ("a", "b", "c")},
        {"labels": ("1", 1)},
        {"test_rows": 3, "test_path": "later.csv"},
        {"features": ("a", "label")},
        {"validation": 0.0},
        {"colour": "red"},
    ],
)
def test_a_contradictory_configuration_is_refused(wrong):
    with pytest.raises(ValidationError):
        config(**wrong)


def test_rows_are_not_in_any_representation(tmp_path):
    found = prepare(config(), folder=write_csv(tmp_path, ["a,b,label", *["123.25,7,x", "456.5,7,y", "123.25,8,y"] * 8]))
    assert "123" not in repr(found) and "array" not in repr(found)
