"""Broken tables: one precise error, everything at once, no cell of the data in it, and nothing written."""

import csv
import io
import re

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from commonroot.client.data import DataConfig, ImageInput, RowInput, SequenceInput, TokenInput, prepare
from commonroot.common.errors import DataError


def config(**changes):
    return DataConfig(**({"path": "t.csv", "target": "label", "task": "classification"} | changes))


def write(folder, columns, name="t.csv"):
    frame = pl.DataFrame(columns)
    frame.write_csv(folder / name) if name.endswith(".csv") else frame.write_parquet(folder / name)
    return folder


def good(n=60, **changes):
    random = np.random.default_rng(3)
    columns = {"a": random.normal(size=n), "b": random.normal(size=n), "label": random.choice(["x", "y", "z"], n)}
    return {name: value for name, value in (columns | changes).items() if value is not None}


def refused(folder, **changes):
    options = {name: changes.pop(name) for name in ("spec_input", "memory") if name in changes}
    before = sorted(path.name for path in folder.rglob("*"))
    with pytest.raises(DataError) as caught:
        prepare(config(**changes), folder=folder, root=folder, **options)
    assert sorted(path.name for path in folder.rglob("*")) == before
    return str(caught.value)


# --- a feature that is the target ------------------------------------------------------------------------------------


def test_a_copy_of_the_target_is_refused_with_a_way_out(tmp_path):
    columns = good()
    text = refused(write(tmp_path, columns | {"again": columns["label"]}))
    assert "1 problem(s)" in text
    assert "column 'again': found a copy of the target" in text and "trusted = ['again']" in text


def test_labels_under_other_names_are_a_copy_too(tmp_path):
    columns = good()
    coded = [{"x": 7, "y": 3, "z": 5}[label] for label in columns["label"]]
    assert "column 'code': found a copy of the target" in refused(write(tmp_path, columns | {"code": coded}))


def test_a_copy_with_one_cell_in_a_thousand_changed_is_a_copy(tmp_path):
    columns = good(4000)
    almost = columns["label"].copy()
    almost[:3] = "x"
    assert "'almost': found a copy" in refused(write(tmp_path, columns | {"almost": almost}))


def test_a_good_feature_is_no_copy(tmp_path):
    """right in nine of ten rows"""
    columns = good(400)
    hint = [label if at % 10 else "x" for at, label in enumerate(columns["label"])]
    prepare(config(), folder=write(tmp_path, columns | {"hint": hint}))


@pytest.mark.parametrize("change", [lambda y: y, lambda y: 3 - 2.54 * y], ids=["the same", "another unit"])
def test_a_value_in_another_unit_is_a_copy(tmp_path, change):
    y = np.random.default_rng(1).normal(size=60)
    folder = write(tmp_path, good(label=y, other=change(y)))
    assert "column 'other': found a copy of the target" in refused(folder, task="regression")


def test_a_copy_that_is_trusted_is_let_pass(tmp_path):
    columns = good()
    folder = write(tmp_path, columns | {"again": columns["label"]})
    assert "again" in prepare(config(trusted=["again"]), folder=folder).features.columns


# --- columns that say nothing ----------------------------------------------------------------------------------------


def test_columns_without_a_value_are_named_all_at_once(tmp_path):
    empty = [None] * 60
    folder = write(tmp_path, good(n1=empty, n2=empty))
    asked = ["a", {"column": "n1", "kind": "number"}, {"column": "n2", "kind": "datetime"}]
    text = refused(folder, features=asked)
    assert "column 'n1': found no value at all" in text and "column 'n2': found no date at all" in text


def test_a_constant_column_is_noted_and_no_fault(tmp_path):
    found = prepare(config(), folder=write(tmp_path, good(still=[7.5] * 60, word=["same"] * 60)))
    assert any("'still'" in note for note in found.notes) and any("'word'" in note for note in found.notes)
    assert not any("7.5" in note or "same" in note for note in found.notes)


# --- the wrong form --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("features", "goal", "says"),
    [
        (["a", "b"], RowInput(3), "found 2 feature columns, expected 3, as the charter's backbone takes"),
        (["a"], ImageInput(1, 4, 4), "column 'a': found kind number, expected one of image"),
        (["a"], SequenceInput(4, 1), "column 'a': found kind number, expected one of sequence"),
        (["a"], TokenInput(4, 100), "column 'a': found kind number, expected one of text, tokens"),
        ([{"column": "a", "kind": "image"}], RowInput(1), "column 'a': found kind image"),
        (["a", "nowhere"], None, "column 'nowhere': found no such column"),
    ],
)
def test_features_that_do_not_fit_the_backbone_are_named(tmp_path, features, goal, says):
    assert says in refused(write(tmp_path, good()), features=features, spec_input=goal)


def test_an_adapter_takes_rows_of_any_width(tmp_path):
    folder = write(tmp_path, good())
    assert prepare(config(), folder=folder, spec_input=RowInput(7), adapter=True).train.x.shape[1] == 2


def test_a_type_that_is_no_number_is_named_once(tmp_path):
    folder = write(tmp_path, good(c=[[1, 2]] * 60), "t.parquet")
    text = refused(folder, path="t.parquet", features=[{"column": "c", "kind": "number"}])
    assert "row 1, column 'c': found type List(Int64), expected numbers" in text and "1 problem(s)" in text


def test_lists_are_no_labels(tmp_path):
    folder = write(tmp_path, good(label=[["x"]] * 60), "t.parquet")
    assert "column 'label': found a list, expected a label" in refused(folder, path="t.parquet")


@pytest.mark.parametrize("content", [b"", b"PAR1", b"PAR1" + bytes(100) + b"PAR1", b"\0" * 64])
@pytest.mark.parametrize("name", ["t.csv", "t.parquet", "t.npz"])
def test_a_file_of_something_else_is_one_error(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    assert name in refused(tmp_path, path=name)


def test_an_empty_folder_holds_no_images(tmp_path):
    (tmp_path / "pictures").mkdir()
    assert "pictures: found no images" in refused(tmp_path, path="pictures")


def test_a_cell_of_megabytes_is_told_as_an_open_quote(tmp_path):
    lines = ["a,label", *["text,x", "words,y"] * 10, f'"{"z" * 5_000_000}",x']
    (tmp_path / "t.csv").write_text("\n".join(lines), encoding="utf-8")
    text = refused(tmp_path)
    assert re.search(r"row 22, column 'a': found a cell of more than \d+ bytes", text) and "zzz" not in text


def test_an_open_quote_is_told_with_its_row(tmp_path):
    lines = ["a,label", *["1,x", "2,y"] * 10, '3,"x', "4,y"]
    (tmp_path / "t.csv").write_text("\n".join(lines), encoding="utf-8")
    assert "t.csv, row 22: found quotes that do not match" in refused(tmp_path)


def test_a_column_without_a_name_is_left_out(tmp_path):
    """as programs write that number their rows"""
    (tmp_path / "t.csv").write_text(",a,label\n" + "0,1,x\n1,3,y\n2,3,x\n" * 10, encoding="utf-8")
    assert prepare(config(), folder=tmp_path).names == ("a",)


# --- splits ----------------------------------------------------------------------------------------------------------


def test_a_time_split_refuses_rows_of_the_future_and_without_a_time(tmp_path):
    days = [f"2024-03-{at % 28 + 1:02}" for at in range(60)]
    days[4], days[9] = "2999-01-01", ""
    text = refused(write(tmp_path, good(day=days)), split={"kind": "time", "column": "day"})
    assert "row 6, column 'day': found a time in the future" in text
    assert "row 11, column 'day': found no time" in text and "2999" not in text


def test_test_rows_before_the_end_of_training_are_refused(tmp_path):
    write(tmp_path, good(day=np.arange(60)))
    write(tmp_path, good(3, day=[60, 12, 61]), "later.csv")
    text = refused(tmp_path, split={"kind": "time", "column": "day"}, test_path="later.csv")
    assert "1 problem(s)" in text
    assert "later.csv, row 3, column 'day': found a time before the end of the training rows" in text


@pytest.mark.parametrize(
    ("split", "says"),
    [
        ({"kind": "grouped", "column": "one"}, "column 'one': found 1 different groups, expected at least 3"),
        ({"kind": "time", "column": "same"}, "column 'same': found 1 different times, expected at least 3"),
        ({"kind": "time", "column": "label"}, "column 'label': found a column that is neither numbers nor dates"),
        ({"kind": "grouped", "column": "nowhere"}, "column 'nowhere': found no such column"),
    ],
)
def test_a_split_that_cannot_be_made_is_refused(tmp_path, split, says):
    assert says in refused(write(tmp_path, good(one=["k"] * 60, same=[1] * 60)), split=split)


def test_a_stratified_split_of_numbers_is_refused(tmp_path):
    folder = write(tmp_path, good(label=np.arange(60.0)))
    assert "found a stratified split of numbers" in refused(folder, task="regression", split="stratified")


# --- fuzzed ----------------------------------------------------------------------------------------------------------

CELLS = st.one_of(
    st.sampled_from(
        ["", " ", "1", "-2.5", "nan", "inf", "1e400", "NA", "?", "x", "y", '"', "\0", "\r", "2024-01-01", "𝟙", "é"]
    ),
    st.floats(width=32).map(repr),
    st.text(max_size=6),
)
TABLES = st.lists(st.lists(CELLS, max_size=5), max_size=40)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(table=TABLES, spoil=st.binary(max_size=4), at=st.integers(0, 400), quoted=st.booleans())
@example(table=[["label", "a"], *[["x", "1"], ["y", "2"], ["x", "4"]] * 9], spoil=b"", at=0, quoted=True)
def test_any_table_becomes_rows_or_one_error(tmp_path, table, spoil, at, quoted):
    """Whatever lies in the file: no traceback of a library, no rows that are not finite, no cell in the message."""
    header = [["label", "a", "b", "c"][: max(1, len(table[0]))]] if table and at % 3 else []
    text = io.StringIO()
    csv.writer(text, quoting=csv.QUOTE_ALL).writerows(header + table)
    bare = "\n".join(",".join(row) for row in header + table)
    content = (text.getvalue() if quoted else bare).encode("utf-8", "surrogatepass")
    (tmp_path / "t.csv").write_bytes(content[:at] + spoil + content[at:])
    for task in ("classification", "regression"):
        try:
            found = prepare(config(task=task), folder=tmp_path, memory=0 if at % 2 else 1 << 20)
        except DataError as error:
            assert "problem(s) in the data" in str(error)
            continue
        for rows in (found.train, found.validation, found.test):
            assert np.isfinite(rows.x).all() and len(rows.x) == len(rows.y)
    assert [path.name for path in tmp_path.iterdir()] == ["t.csv"]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(spoil=st.binary(min_size=1, max_size=8), at=st.floats(0, 1), name=st.sampled_from(["t.parquet", "t.npz"]))
def test_a_spoilt_binary_table_becomes_rows_or_one_error(tmp_path, spoil, at, name):
    whole = tmp_path.parent / f"whole-{name}"
    if not whole.exists():
        columns = good()
        if name == "t.npz":
            np.savez(whole, X=np.stack([columns["a"], columns["b"]], axis=1), label=columns["label"])
        else:
            pl.DataFrame(columns).write_parquet(whole)
    content = bytearray(whole.read_bytes())
    start = int(at * (len(content) - len(spoil)))
    content[start : start + len(spoil)] = spoil
    (tmp_path / name).write_bytes(content)
    try:
        prepare(config(path=name), folder=tmp_path, memory=0)
    except DataError as error:
        assert "problem(s) in the data" in str(error)
