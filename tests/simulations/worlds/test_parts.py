"""One table in parts: every row is used once, floors hold, and departments differ as their partitioners say."""

from __future__ import annotations

import hashlib
from collections import Counter
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from commonroot.client.data import prepare
from commonroot.common.errors import ConfigError, DataError
from commonroot.simulations.worlds import Parts

ROWS = 600
LABELS = ("a", "b", "c", "d", "e")
BRANCHES = {"North": 300, "south east": 200, "west": 88, "tiny": 7, "small": 5}


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    """600 rows as CSV, Parquet and NPZ: an id, a number with gaps, a branch, a label, a value, and 60 machines."""
    folder = tmp_path_factory.mktemp("tables")
    random = np.random.default_rng(0)
    branch = [name for name, many in BRANCHES.items() for _ in range(many)]
    x = random.normal(size=ROWS)
    frame = pl.DataFrame(
        {
            "id": np.arange(ROWS, dtype=np.float64),
            "x": pl.Series(x).set(pl.Series(random.random(ROWS) < 0.05), None),
            "branch": branch,
            "label": random.choice(LABELS, ROWS, p=[0.4, 0.3, 0.15, 0.1, 0.05]),
            "value": x + random.normal(size=ROWS),
            "machine": [f"m{at}" for at in random.integers(0, 60, ROWS)],
        }
    )
    frame.write_csv(folder / "table.csv", separator=";")
    frame.write_parquet(folder / "table.parquet")
    number = frame.select("id", pl.col("x").fill_null(float("nan"))).to_numpy()
    np.savez(folder / "table.npz", X=number, names=np.array(["id", "x"]), label=frame["label"].to_numpy().astype(str))
    return folder


def section(file="table.parquet", **fields):
    own = {"path": file, "target": "label", "task": "classification", "features": ["id", "x"]}
    return own | ({"separator": ";"} if file.endswith("csv") else {}) | fields


def cut(tables, folder, *, seed=1, data=None, **fields):
    """The sections of a world that was cut."""
    world = Parts.model_validate({"kind": "parts", "data": data or section(), **fields})
    return world.write(folder, seed=seed, beside=tables)


def frames(sections):
    """Name → a department's rows."""
    return {name: read(one.path) for name, one in sections.items()}


def read(path):
    if path.suffix == ".npz":
        with np.load(path) as arrays:
            columns = dict(zip(arrays["names"].tolist(), arrays["X"].T, strict=True))
            return pl.DataFrame(columns | {"label": arrays["label"]})
    return pl.read_parquet(path) if path.suffix == ".parquet" else pl.read_csv(path, separator=";")


def ids(found):
    return sorted(one for frame in found.values() for one in frame["id"].to_list())


def entropy(labels):
    shares = np.array(list(Counter(labels).values())) / len(labels)
    return float(-(shares * np.log(shares)).sum())


LABEL_SKEW = st.one_of(
    st.fixed_dictionaries({"kind": st.just("dirichlet"), "alpha": st.floats(0.01, 100)}),
    st.fixed_dictionaries({"kind": st.just("labels"), "classes": st.integers(2, 5)}),
    st.fixed_dictionaries({"kind": st.just("dirichlet"), "column": st.just("value"), "bins": st.integers(2, 6)}),
)
SIZES = st.one_of(
    st.fixed_dictionaries({"kind": st.just("quantity"), "alpha": st.floats(0.05, 10), "law": st.just("dirichlet")}),
    st.fixed_dictionaries({"kind": st.just("quantity"), "exponent": st.floats(0.1, 2), "law": st.just("power")}),
    st.fixed_dictionaries({"kind": st.just("quantity"), "sigma": st.floats(0.1, 2)}),
)


# -- laws --------------------------------------------------------------------------------------------------------------


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    by=st.lists(LABEL_SKEW, max_size=1).flatmap(lambda a: st.lists(SIZES, max_size=2).map(lambda b: a + b)),
    departments=st.integers(3, 20),
    seed=st.integers(0, 2**32 - 1),
    file=st.sampled_from(["table.parquet", "table.csv", "table.npz"]),
)
def test_every_row_is_used_once_and_every_department_has_ten_rows_and_two_labels(
    tables, tmp_path_factory, by, departments, seed, file
):
    if file == "table.npz":
        by = [one for one in by if one.get("column") != "value"]
    if 2 * departments < len(LABELS):
        by = [{**one, "classes": 5} if one["kind"] == "labels" else one for one in by]
    folder = tmp_path_factory.mktemp("cut")
    found = frames(cut(tables, folder, data=section(file), by=by, departments=departments, seed=seed))
    assert len(found) == departments
    assert ids(found) == list(range(ROWS))
    for frame in found.values():
        assert len(frame) >= 10
        assert frame["label"].n_unique() >= 2


@given(classes=st.integers(2, 5), departments=st.integers(3, 30), seed=st.integers(0, 2**32 - 1))
@settings(max_examples=20)
def test_no_department_knows_more_labels_than_it_may(tables, tmp_path_factory, classes, departments, seed):
    by = [{"kind": "labels", "classes": classes}, {"kind": "quantity", "sigma": 0.3}]
    folder = tmp_path_factory.mktemp("cut")
    try:
        found = frames(cut(tables, folder, by=by, departments=departments, seed=seed))
    except ConfigError as error:
        assert "world.by.0" in str(error)
        assert classes == 2
        return
    assert max(frame["label"].n_unique() for frame in found.values()) <= classes
    assert ids(found) == list(range(ROWS))


@pytest.mark.parametrize("seed", range(4))
def test_two_labels_are_there_however_small_alpha(tables, tmp_path, seed):
    """Dirichlet(0.01 p) is one label alone for most of 20 departments; what is traded leaves sizes alone."""
    found = frames(cut(tables, tmp_path, by=[{"kind": "dirichlet", "alpha": 0.01}], departments=20, seed=seed))
    assert min(frame["label"].n_unique() for frame in found.values()) == 2
    assert ids(found) == list(range(ROWS))


@pytest.mark.parametrize("seed", range(4))
def test_a_floor_holds_where_labels_do_not_allow_the_sizes(tables, tmp_path, seed):
    """30 departments of 20 rows with two of five labels: what is left of a label does not always fill one up."""
    by = [{"kind": "labels", "classes": 2}, {"kind": "dirichlet", "alpha": 0.05}]
    found = frames(cut(tables, tmp_path, by=by, departments=30, fewest=18, seed=seed))
    assert min(map(len, found.values())) >= 18
    assert max(frame["label"].n_unique() for frame in found.values()) == 2
    assert ids(found) == list(range(ROWS))


def test_label_entropy_grows_with_alpha(tables, tmp_path):
    """means over 20 departments and 4 seeds: Dirichlet(alpha p) has all its mass near one label for small alpha, and
    near p, whose entropy is 1.37, for a large one"""
    means = []
    for alpha in (0.1, 1.0, 5.0, 30.0, 10_000.0):
        by = [{"kind": "dirichlet", "alpha": alpha}]
        parts = [frames(cut(tables, tmp_path / f"{alpha}-{s}", by=by, departments=20, seed=s)) for s in range(4)]
        means.append(np.mean([entropy(frame["label"].to_list()) for part in parts for frame in part.values()]))
    assert (np.diff(means) > 0.05).all()
    assert means[-1] == pytest.approx(1.37, abs=0.08)


def test_sizes_follow_their_law_by_hand(tables, tmp_path):
    """600 rows in shares of 1, 1/2, 1/3 and 1/4 of 25/12: 288, 144, 96, 72"""
    by = [{"kind": "quantity", "law": "power", "exponent": 1.0}]
    found = frames(cut(tables, tmp_path, by=by, departments=4))
    assert sorted((len(frame) for frame in found.values()), reverse=True) == [288, 144, 96, 72]


def test_departments_that_are_even_have_the_same_number_of_rows(tables, tmp_path):
    found = frames(cut(tables, tmp_path, by=[{"kind": "even"}], departments=7))
    assert {len(frame) for frame in found.values()} == {85, 86}


def test_label_skew_leaves_sizes_alone(tables, tmp_path):
    """Departments have 30 rows each, whatever labels they know; rounding may move one."""
    found = frames(cut(tables, tmp_path, by=[{"kind": "dirichlet", "alpha": 1.0}], departments=20))
    assert {len(frame) for frame in found.values()} <= {29, 30, 31}


def test_the_same_seed_makes_the_same_files_and_another_one_others(tables, tmp_path):
    by = [{"kind": "dirichlet"}, {"kind": "quantity"}, {"kind": "shift", "scale": 0.2, "noise": 0.1}]

    def digests(folder, seed, file):
        found = cut(tables, folder, seed=seed, by=by, departments=5, data=section(file))
        return {name: hashlib.sha256(one.path.read_bytes()).hexdigest() for name, one in found.items()}

    for file in ("table.parquet", "table.csv", "table.npz"):
        first = digests(tmp_path / f"a{file}", 1, file)
        assert digests(tmp_path / f"b{file}", 1, file) == first
        assert digests(tmp_path / f"c{file}", 2, file) != first


def test_a_seed_of_the_worlds_own_comes_before_the_scenarios(tables, tmp_path):
    own = [frames(cut(tables, tmp_path / str(seed), seed=seed, departments=3)) for seed in (1, 2)]
    assert not own[0]["d1"].equals(own[1]["d1"])
    world = Parts.model_validate({"kind": "parts", "data": section(), "departments": 3, "seed": 9})
    one, other = (frames(world.write(tmp_path / f"w{seed}", seed=seed, beside=tables))["d1"] for seed in (1, 2))
    assert one.equals(other)


@given(copies=st.integers(1, 6), more=st.integers(0, 9), seed=st.integers(0, 2**32 - 1))
@settings(max_examples=15)
def test_copies_deal_every_row_as_often_and_to_nobody_twice(tables, tmp_path_factory, copies, more, seed):
    by = [{"kind": "dirichlet", "alpha": 1.0}]
    folder = tmp_path_factory.mktemp("cut")
    found = frames(cut(tables, folder, by=by, departments=3 * copies + more, copies=copies, seed=seed))
    assert Counter(ids(found)) == Counter(dict.fromkeys(range(ROWS), copies))
    assert all(frame["id"].n_unique() == len(frame) for frame in found.values())


# -- by a column -------------------------------------------------------------------------------------------------------


def test_a_column_makes_a_department_of_each_value_and_of_the_small_ones_together(tables, tmp_path):
    """7 and 5 rows are fewer than 10: they are 12 rows of one department"""
    found = frames(cut(tables, tmp_path, by=[{"kind": "column", "column": "branch", "small": "merge"}]))
    assert {name: len(frame) for name, frame in found.items()} == {
        "North": 300, "south-east": 200, "west": 88, "others": 12,
    }  # fmt: skip
    assert set(found["others"]["branch"]) == {"tiny", "small"}
    assert ids(found) == list(range(ROWS))


def test_small_values_are_refused_by_name_where_nobody_says_what_to_do(tables, tmp_path):
    with pytest.raises(
        ConfigError, match=r"world\.by\.0\.column: 2 values have fewer than 10 rows: 'small' \(5\)"
    ) as no:
        cut(tables, tmp_path, by=[{"kind": "column", "column": "branch"}])
    assert "merge" in no.value.advice


def test_within_a_value_other_partitioners_cut_on(tables, tmp_path):
    """12 departments over 300, 200, 88 and 12 rows: 6, 4, 2 in proportion, less what the smallest needs"""
    by = [
        {"kind": "column", "column": "branch", "small": "merge"},
        {"kind": "dirichlet", "alpha": 0.5},
        {"kind": "quantity", "sigma": 0.2},
    ]
    found = frames(cut(tables, tmp_path, by=by, departments=12))
    assert len(found) == 12
    assert ids(found) == list(range(ROWS))
    for name, frame in found.items():
        assert frame["branch"].n_unique() == 1 or name == "others"
    assert Counter(name.rpartition("-")[0] or name for name in found)["North"] >= 5


def test_rows_of_a_group_stay_together(tables, tmp_path):
    data = section(split={"kind": "grouped", "column": "machine"})
    by = [{"kind": "dirichlet", "alpha": 2.0}, {"kind": "quantity", "sigma": 0.3}]
    found = frames(cut(tables, tmp_path, data=data, by=by, departments=6))
    where = {}
    for name, frame in found.items():
        assert frame["machine"].n_unique() >= 3
        for machine in frame["machine"].unique():
            assert where.setdefault(machine, name) == name
    assert ids(found) == list(range(ROWS))


# -- shifts ------------------------------------------------------------------------------------------------------------


def test_a_shift_is_one_line_for_a_department_and_leaves_keys_targets_and_gaps(tables, tmp_path):
    """Without noise, x after is a straight function of x before in each department, another one in every one."""
    plain = frames(cut(tables, tmp_path / "a", departments=4, data=section(features=["x"])))
    by = [{"kind": "shift", "scale": 0.5, "offset": 0.5}]
    found = frames(cut(tables, tmp_path / "b", departments=4, by=by, data=section(features=["x"])))
    slopes = set()
    for name, before in plain.items():
        after = found[name]
        assert after.drop("x").equals(before.drop("x"))
        assert after["x"].is_null().equals(before["x"].is_null())
        x, y = before["x"].drop_nulls().to_numpy(), after["x"].drop_nulls().to_numpy()
        slope, constant = np.polyfit(x, y, 1)
        assert y == pytest.approx(slope * x + constant, abs=1e-9)
        slopes.add(round(float(slope), 6))
    assert len(slopes) == 4 and 1.0 not in slopes


def test_turning_columns_into_each_other_keeps_lengths(tmp_path):
    """Two columns of one spread, turned: every row keeps its distance from the centre."""
    x = np.random.default_rng(0).normal(size=(300, 2))
    x = (x - x.mean(axis=0)) / x.std(axis=0)
    np.savez(tmp_path / "t.npz", X=x, y=np.arange(300) % 2)
    data = {"path": "t.npz", "target": "y", "task": "binary"}
    world = Parts.model_validate(
        {"kind": "parts", "data": data, "departments": 3, "by": [{"kind": "shift", "rotation": 60.0}]}
    )
    still = world.model_copy(update={"by": ()})
    for after, before in zip(
        world.write(tmp_path / "a", seed=1, beside=tmp_path).values(),
        still.write(tmp_path / "b", seed=1, beside=tmp_path).values(),
        strict=True,
    ):
        with np.load(after.path) as one, np.load(before.path) as other:
            assert np.linalg.norm(one["X"], axis=1) == pytest.approx(np.linalg.norm(other["X"], axis=1), rel=1e-4)
            assert np.abs(one["X"] - other["X"]).max() > 0.1


def test_images_are_changed_within_the_range_there_was(tmp_path):
    by = [{"kind": "shift", "scale": 0.3, "offset": 0.1, "rotation": 20, "blur": 0.7, "noise": 0.05}]
    world = Parts.model_validate({"kind": "parts", "data": "digit-images", "departments": 30, "by": by})
    sections = world.write(tmp_path, seed=1, beside=tmp_path)
    everything = [np.load(one.path)["X"] for one in sections.values()]
    assert sum(map(len, everything)) == 1797
    for x in everything:
        assert x.shape[1:] == (8, 8) and x.dtype == np.float32
        assert x.min() >= 0 and x.max() <= 16
    means = [float(x.mean()) for x in everything]
    assert np.std(means) > 0.5


def test_an_image_turned_by_a_quarter_is_the_image_turned_by_a_quarter():
    from commonroot.simulations.worlds.by.shift import _turned

    image = np.random.default_rng(0).random((1, 8, 8)).astype(np.float32)
    found = _turned(image, np.array([np.pi / 2]))
    turned = (np.rot90(image[0]), np.rot90(image[0], -1))
    assert any(found[0] == pytest.approx(one, abs=1e-5) for one in turned)


# -- what a department finds -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("file", ["table.csv", "table.parquet", "table.npz"])
def test_a_department_reads_its_part_as_it_would_have_read_the_whole(tables, tmp_path, file):
    sections = cut(tables, tmp_path, data=section(file), departments=5, by=[{"kind": "dirichlet", "alpha": 1.0}])
    for one in sections.values():
        assert one.labels == LABELS
        found = prepare(one, inputs=3)
        assert len(found.train.x) and len(found.validation.x) and len(found.test.x)


def test_departments_may_list_their_own_labels_alone(tables, tmp_path):
    sections = cut(tables, tmp_path, departments=5, labels="own", by=[{"kind": "labels", "classes": 2}])
    assert all(one.labels is None for one in sections.values())
    assert all(prepare(one, inputs=3).task.outputs <= 2 for one in sections.values())


def test_a_value_can_be_cut_by_its_size(tables, tmp_path):
    """Four kinds of values, two for each department: what a department sees spans no more than two quarters."""
    data = section(target="value", task="regression", features=["x"])
    found = frames(cut(tables, tmp_path, data=data, departments=6, by=[{"kind": "labels", "classes": 2, "bins": 4}]))
    whole = np.sort(np.concatenate([frame["value"].to_numpy() for frame in found.values()]))
    quarters = whole[[149, 299, 449]]
    for frame in found.values():
        assert len(set(np.searchsorted(quarters, frame["value"].to_numpy()))) == 2


def test_a_column_that_looks_like_the_label_in_a_few_rows_is_trusted_and_one_that_is_the_label_is_not(tmp_path):
    random = np.random.default_rng(0)
    y = random.integers(0, 2, 400)
    x = np.column_stack([random.integers(0, 2, (400, 5)), y])
    np.savez(tmp_path / "t.npz", X=x, y=y)
    data = {"path": "t.npz", "target": "y", "task": "binary"}
    world = Parts.model_validate({"kind": "parts", "data": data, "departments": 8})
    sections = world.write(tmp_path, seed=1, beside=tmp_path)
    assert sections["d1"].trusted == ("x0", "x1", "x2", "x3", "x4")
    with pytest.raises(DataError, match="'x5': found a copy of the target"):
        prepare(sections["d1"], inputs=6)


# -- what is refused ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"departments": 2}, "departments"),
        ({}, "say how many departments"),
        ({"departments": 100_001}, "departments"),
        ({"departments": 5, "copies": 2}, "copies: 2 need at least 6"),
        ({"departments": 5, "by": [{"kind": "even"}, {"kind": "quantity"}]}, "even stands beside"),
        ({"departments": 5, "by": [{"kind": "column", "column": "a"}] * 2}, "column stands twice"),
        ({"departments": 5, "by": [{"kind": "shift"}]}, "nothing is shifted"),
        ({"departments": 5, "by": [{"kind": "quantity", "law": "power", "sigma": 1}]}, "has exponent, and no sigma"),
        ({"departments": 5, "by": [{"kind": "dirichlet", "alpha": 0}]}, "alpha"),
        ({"departments": 5, "by": [{"kind": "skew"}]}, "no partitioner 'skew'; known: labels"),
        ({"departments": 5, "by": ["dirichlet"]}, "a partitioner is a section with its kind"),
        ({"departments": 5, "data": "digit"}, "there are: digits, digit-images"),
        ({"departments": 5, "data": section(test_path="t.csv")}, "leave test_path out"),
        ({"departments": 5, "data": section(window={"order": "id", "steps": 3})}, "name the window's group"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_read(fields, said):
    with pytest.raises(ValidationError, match=said):
        Parts.model_validate({"kind": "parts", "data": "digits", **fields})


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"departments": 61}, r"world\.departments: 61 departments of at least 10 rows need 610, and there are 600"),
        ({"departments": 5, "fewest": 9}, r"world\.fewest: 9 rows are too few"),
        ({"departments": 60, "data": section(test_rows=5)}, r"departments of at least 15 rows need 900"),
        ({"departments": 150, "together": "value"}, r"world\.fewest: 150 departments have fewer than 10 rows"),
        ({"departments": 5, "together": "plant"}, r"world\.together: no column 'plant'"),
        ({"departments": 5, "by": [{"kind": "labels", "classes": 6}]}, r"world\.by\.0\.classes: 6 of 5 labels"),
        (
            {"departments": 5, "by": [{"kind": "dirichlet", "column": "plant"}]},
            r"world\.by\.0\.column: no column 'plant'",
        ),
        ({"by": [{"kind": "column", "column": "x"}]}, r"world\.by\.0\.column: 'x' has \d+ empty cells"),
        (
            {"by": [{"kind": "column", "column": "branch", "small": "merge"}], "departments": 3},
            r"world\.departments: 3 for 4 values",
        ),
        (
            {"departments": 5, "data": section(features=["branch"]), "by": [{"kind": "shift", "noise": 1}]},
            r"world\.by\.0: there is no column of numbers",
        ),
        ({"departments": 5, "by": [{"kind": "shift", "blur": 1}]}, r"world\.by\.0: .*blur"),
    ],
)
def test_what_the_table_does_not_allow_is_refused_with_its_field(tables, tmp_path, fields, said):
    with pytest.raises(ConfigError, match=said):
        cut(tables, tmp_path, **fields)


def test_a_table_that_is_not_there_is_named(tables, tmp_path):
    with pytest.raises(DataError, match=r"none\.csv"):
        cut(tables, tmp_path, data=section("none.csv"), departments=5)
    with pytest.raises(DataError, match="label2"):
        cut(tables, tmp_path, data=section(target="label2"), departments=5)
    with pytest.raises(ConfigError, match="cannot be cut"):
        cut(tables, tmp_path, data=section(path=str(Path(tables))), departments=5)
