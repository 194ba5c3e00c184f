"""Splits: groups stay together, times stay in order, futures stay out of the past, and none changes under a run."""

import stat

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from commonroot.client.data import DataConfig, Pin, prepare
from commonroot.client.tables import split
from commonroot.client.tables.split import TEST, VALIDATION, balanced, place_rows, split_groups, split_time
from commonroot.client.tables.target import ahead
from commonroot.common.errors import ForeignState, SourceChanged


@given(sizes=st.lists(st.integers(1, 9), min_size=3, max_size=20), test=st.integers(1, 30), seed=st.integers(0, 99))
def test_groups_are_never_parted_and_no_part_is_empty(sizes, test, seed):
    group = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(sizes)), sizes))
    parts = split_groups(group, test=test, validation=0.25, seed=seed)
    np.testing.assert_array_equal(np.sort(np.concatenate(parts)), np.arange(len(group)))
    held = [set(group[part]) for part in parts]
    assert all(held) and not (held[0] & held[1] or held[0] & held[2] or held[1] & held[2])


@given(
    when=st.lists(st.integers(0, 12), min_size=3, max_size=60).filter(lambda times: len(set(times)) >= 3),
    test=st.integers(0, 20),
)
def test_every_part_of_a_time_split_lies_after_the_one_before(when, test):
    """and rows of one time stay together; without test rows there are two parts"""
    times = np.array(when, dtype=np.float64)
    train, held, tested = split_time(times, test=test, validation=0.3)
    np.testing.assert_array_equal(np.sort(np.concatenate([train, held, tested])), np.arange(len(when)))
    assert len(train) and len(held) and bool(len(tested)) == bool(test)
    assert times[train].max() < times[held].min()
    if test:
        assert times[held].max() < times[tested].min()


def test_a_time_split_has_the_shares_asked_for():
    """100 rows in disorder: the last 20, and 20 of the 80 before"""
    when = np.random.default_rng(1).permutation(100).astype(np.float64)
    train, held, tested = split_time(when, test=20, validation=0.25)
    assert (len(train), len(held), len(tested)) == (60, 20, 20)


@given(
    sizes=st.lists(st.integers(1, 40), min_size=1, max_size=24),
    test=st.integers(0, 30),
    validation=st.floats(0.05, 0.6),
    seed=st.integers(0, 99),
)
def test_a_large_table_has_the_shares_of_a_small_one(sizes, test, validation, seed):
    """The parts are as large, and each label's rows in them as many as their share says, within one; one row of every
    label is kept for training where there are enough."""
    y = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(sizes)), sizes))
    n, labels = len(y), len(sizes)
    if test >= n - 1:
        return
    held = min(max(1, round(validation * (n - test))), n - test - 1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(split, "LARGE", 0)
        where = place_rows(y, test=test, validation=validation, seed=seed, stratify=True)
        again = place_rows(y.astype(np.uint8), test=test, validation=validation, seed=seed, stratify=True)
    np.testing.assert_array_equal(where, again)
    assert (where == TEST).sum() == test and (where == VALIDATION).sum() == held
    if test + held > n - labels:
        return
    for label, size in enumerate(sizes):
        of = where[y == label]
        assert (of == TEST).sum() <= max(0, size - 1) and (of == split.TRAIN).any()
        assert abs((of == TEST).sum() - test * (size - 1) / (n - labels)) < 1
        left = size - 1 - (of == TEST).sum()
        assert abs((of == VALIDATION).sum() - held * left / (n - labels - test)) < 1


def test_a_large_table_is_parted_by_chance(monkeypatch):
    """3,000 seeds of 12 rows, 3 for the test: each row in a quarter of them, 750 ± 5 times 23.7"""
    monkeypatch.setattr(split, "LARGE", 0)
    y = np.arange(12) % 2
    often = sum(place_rows(y, test=3, validation=0.3, seed=seed, stratify=False) == TEST for seed in range(3_000))
    assert (abs(often - 750) < 119).all()


def test_balanced_rows_are_all_there_and_every_label_as_often():
    y = np.array([0] * 7 + [1] * 2 + [2])
    at = balanced(y, seed=1)
    assert np.bincount(y[at]).tolist() == [7, 7, 7] and set(at) == set(range(10))


def test_only_training_rows_are_balanced(tmp_path):
    label = ["x"] * 50 + ["y"] * 10
    pl.DataFrame({"a": np.random.default_rng(2).normal(size=60), "label": label}).write_csv(tmp_path / "t.csv")
    found = prepare(DataConfig(path="t.csv", target="label", task="binary", balance=True), folder=tmp_path)
    counts = np.bincount(found.train.y)
    assert counts[0] == counts[1] and abs(int(np.bincount(found.test.y)[1]) - 2) <= 1


# --- windows and futures ---------------------------------------------------------------------------------------------


def test_a_future_is_the_next_rows_of_the_group():
    """Group one has 1, 2, 3, group two 7: of horizon 2 only the first row has a whole future, which ends in row 2."""
    values, order = np.array([1.0, 2.0, 3.0, 7.0]), np.arange(4)
    future, last = ahead(values, order, np.array([0, 0, 0, 3]), 2)
    assert future[0].tolist() == [2, 3] and last.tolist() == [2, -1, -1, -1]


def machines(folder, n=12, steps=20):
    random = np.random.default_rng(4)
    frame = pl.DataFrame(
        {
            "machine": np.repeat([f"m{at}" for at in range(n)], steps),
            "cycle": np.tile(np.arange(steps), n),
            "s": random.normal(size=n * steps),
            "life": np.tile(np.arange(steps)[::-1], n) + random.normal(size=n * steps),
        }
    ).sample(fraction=1.0, shuffle=True, seed=1)
    frame.write_parquet(folder / "t.parquet")
    return frame


WINDOW = {"group": "machine", "order": "cycle", "steps": 3}


def test_windows_are_parted_by_group(tmp_path):
    """every machine has 20 rows, so each part has whole twenties"""
    machines(tmp_path)
    asked = DataConfig(path="t.parquet", target="life", task="regression", window=WINDOW)
    found = prepare(asked, folder=tmp_path)
    assert found.train.x.shape[1:] == (3, 1) and found.names == ("s",)
    assert all(len(part) % 20 == 0 and len(part) for part in (found.train, found.validation, found.test))


@pytest.mark.parametrize("memory", [1, 1 << 30], ids=["files", "memory"])
def test_windows_hold_the_rows_before(tmp_path, memory):
    frame = machines(tmp_path)
    asked = DataConfig(path="t.parquet", target="life", task="regression", window=WINDOW)
    found = prepare(asked, folder=tmp_path, root=tmp_path, memory=memory)
    scaler = found.features.parts[0].scaler
    ordered = frame.sort("machine", "cycle").with_columns(
        pl.col("s").shift(1).over("machine").alias("s1"), pl.col("s").shift(2).over("machine").alias("s2")
    )
    expected = {
        row["life"]: [row["s2"], row["s1"], row["s"]] for row in ordered.filter(pl.col("cycle") >= 2).to_dicts()
    }
    seen = 0
    for x, y in zip(found.test.x, found.test.y, strict=True):
        if float(y) in expected:
            np.testing.assert_allclose(x[:, 0], scaler.apply(np.array(expected[float(y)])[:, None])[:, 0], atol=1e-5)
            seen += 1
    assert seen == len(found.test) * 18 // 20


def test_a_future_never_reaches_into_a_later_part(tmp_path):
    """20 cycles by time: 4 for the test, 4 before for choosing; a future of one takes the last cycle off each part"""
    machines(tmp_path)
    asked = DataConfig(
        path="t.parquet", target="s", task="regression", features=["s"], window=WINDOW | {"horizon": 1}, validation=0.25
    )
    found = prepare(asked, folder=tmp_path)
    assert [len(part) for part in (found.train, found.validation, found.test)] == [11 * 12, 3 * 12, 3 * 12]


# --- never under a run -----------------------------------------------------------------------------------------------


@pytest.fixture
def table(tmp_path):
    random = np.random.default_rng(2)
    frame = pl.DataFrame({"a": random.normal(size=50), "label": random.choice(["x", "y"], 50)})
    frame.write_csv(tmp_path / "t.csv")
    return tmp_path


def read(folder, *, write=True, **changes):
    asked = DataConfig(**({"path": "t.csv", "target": "label", "task": "binary"} | changes))
    return prepare(asked, folder=folder, pin=Pin.of(folder, "ab" * 32, write=write))


def test_a_split_is_stored_at_first_use_for_its_owner_alone(table):
    first = read(table)
    path = next((table / "splits").iterdir())
    assert stat.S_IMODE(path.stat().st_mode) == 0o600 and stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    again = read(table)
    np.testing.assert_array_equal(first.test.x, again.test.x)


def test_a_check_stores_nothing(table):
    read(table, write=False)
    assert not (table / "splits").exists()


def test_the_stored_split_is_the_one_that_is_used(table):
    """another one than the seed gives, as after an update of the program"""
    from safetensors import safe_open
    from safetensors.numpy import save_file

    read(table)
    path = next((table / "splits").iterdir())
    with safe_open(path, framework="numpy") as file:
        about = file.metadata()
    where = np.zeros(50, dtype=np.uint8)
    where[:5], where[5:12] = 2, 1
    save_file({"where": where}, path, metadata=about)
    found = read(table)
    assert (len(found.train), len(found.validation), len(found.test)) == (38, 7, 5)


def test_a_source_that_changed_under_a_run_is_refused(table):
    read(table)
    with (table / "t.csv").open("a") as file:
        file.write("1.5,x\n")
    with pytest.raises(SourceChanged, match=r"t\.csv is not what it was"):
        read(table)


def test_a_section_that_changed_under_a_run_is_refused(table):
    read(table)
    with pytest.raises(SourceChanged, match="section"):
        read(table, seed=3)


def test_a_table_that_only_moved_is_the_same(table):
    read(table)
    (table / "t.csv").rename(table / "moved.csv")
    read(table, path="moved.csv")


def test_a_spoilt_split_is_foreign_state(table):
    read(table)
    next((table / "splits").iterdir()).write_bytes(b"no split")
    with pytest.raises(ForeignState):
        read(table)
