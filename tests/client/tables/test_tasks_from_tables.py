"""Every kind of task from tables: one way from cells to what the task learns and is scored on."""

import numpy as np
import polars as pl
import pytest

from commonroot.client.data import DataConfig, Pin, RowInput, SequenceInput, TokenInput, prepare
from commonroot.client.tasks import TASKS
from commonroot.common.errors import DataError

N = 80


def columns(n=N):
    random = np.random.default_rng(5)
    return {
        "a": random.normal(size=n),
        "b": random.normal(size=n),
        "day": np.arange(n),
        "machine": np.repeat(["m", "n"], n // 2),
        "text": [f"alpha  beta-{at % 7} \tgamma" for at in range(n)],
    }


TARGETS = {
    "binary": {"y": ["no", "yes"] * (N // 2)},
    "classification": {"y": ["x", "y", "z", "x"] * (N // 4)},
    "fault": {"y": ["none", "none", "leak", "belt"] * (N // 4)},
    "regression": {"y": np.linspace(0, 1, N) ** 2},
    "rating": {"y": [1.0, 2.0, 4.0, 5.0] * (N // 4)},
    "life": {"y": np.arange(N, 0, -1.0) * 4},
    "anomaly": {"y": ["", "1.0", "0", "0"] * (N // 4)},
    "multilabel": {"y": [["p"], ["p", "q"], [], ["q"]] * (N // 4)},
    "forecast": {"y": [[float(at), float(at + 1)] for at in range(N)]},
    "tagging": {"y": ["O B-X I-X"] * N},
}
Y = {
    "binary": ((), "i"),
    "classification": ((), "i"),
    "fault": ((), "i"),
    "regression": ((), "f"),
    "rating": ((), "f"),
    "life": ((), "f"),
    "anomaly": ((), "i"),
    "multilabel": ((2,), "f"),
    "forecast": ((2,), "f"),
    "tagging": ((8,), "i"),
}


def write(folder, values, name="t.parquet"):
    frame = pl.DataFrame(values)
    frame.write_csv(folder / name) if name.endswith(".csv") else frame.write_parquet(folder / name)
    return folder


def config(**changes):
    given = {"path": "t.parquet", "target": "y", "task": "classification", "features": ["a", "b"], "seed": 2} | changes
    return DataConfig.model_validate({name: value for name, value in given.items() if value is not None})


ROWS = RowInput(2)


def read(folder, *, goal=ROWS, **changes):
    return prepare(config(**changes), folder=folder, spec_input=goal)


def test_every_kind_that_a_network_learns_is_tried_here():
    assert set(TARGETS) == set(TASKS) - {"recommendation"}


@pytest.mark.parametrize("kind", TARGETS)
def test_a_kind_learns_from_a_table(kind, tmp_path):
    write(tmp_path, columns() | TARGETS[kind])
    goal = TokenInput(8, 100) if kind == "tagging" else RowInput(2)
    features = ["text"] if kind == "tagging" else ["a", "b"]
    found = read(tmp_path, goal=goal, task=kind, features=features)
    shape, dtype = Y[kind]
    for rows in (found.train, found.validation, found.test):
        assert rows.y.shape == (len(rows.x), *shape) and rows.y.dtype.kind == dtype
    assert found.task.kind == kind and found.task.outputs >= 1
    assert len(found.train) + len(found.validation) + len(found.test) == N


@pytest.mark.parametrize("kind", [kind for kind in TARGETS if kind not in ("multilabel", "forecast", "tagging")])
def test_a_csv_says_the_same_as_a_typed_table(kind, tmp_path):
    values = columns() | TARGETS[kind]
    typed = read(write(tmp_path, values), task=kind)
    text = read(write(tmp_path, values, "t.csv"), task=kind, path="t.csv")
    for one, other in ((typed.train, text.train), (typed.test, text.test)):
        np.testing.assert_array_equal(one.y, other.y)
        np.testing.assert_allclose(one.x, other.x, rtol=0, atol=1e-6)
    assert typed.task == text.task


def test_labels_may_be_columns_or_text(tmp_path):
    """p in rows 1, 2 of four, q in 2, 4"""
    sides = {"p": [1, 1, 0, 0] * (N // 4), "q": [0, 1, 0, 1] * (N // 4)}
    apart = read(write(tmp_path, columns() | sides), task="multilabel", target=["p", "q"])
    joined = columns() | {"y": ["p", "p;q", "", "q"] * (N // 4)}
    text = read(write(tmp_path, joined, "t.csv"), task="multilabel", path="t.csv")
    assert apart.task.labels == text.task.labels == ("p", "q")
    np.testing.assert_array_equal(apart.train.y, text.train.y)


def test_a_forecast_looks_ahead_along_its_window(tmp_path):
    """y = day: the next two are day + 1 and day + 2, within a machine; its own past is a channel that is found"""
    write(tmp_path, columns() | {"y": np.arange(float(N))})
    found = read(
        tmp_path,
        goal=SequenceInput(3, 2),
        task={"kind": "forecast", "horizon": 2},
        features=["a", "y"],
        window={"group": "machine", "order": "day", "steps": 3},
    )
    assert found.task.horizon == 2 and found.task.channel == 1
    np.testing.assert_array_equal(found.train.y[:, 1] - found.train.y[:, 0], 1.0)
    assert found.train.x.shape[1:] == (3, 2)


def test_anomalies_need_no_labels(tmp_path):
    found = read(write(tmp_path, columns()), task="anomaly", target=None)
    assert (found.train.y == -1).all() and not found.task.known and found.task.width == 2


def test_labels_of_anomalies_only_score(tmp_path):
    """empty cells are unknown, 1.0 is an anomaly; a column that copies them is no leak of what is learned"""
    write(tmp_path, columns() | TARGETS["anomaly"])
    found = read(tmp_path, task="anomaly")
    assert set(found.train.y.tolist()) == {-1, 0, 1}


def test_tags_stand_with_the_words_between_blanks(tmp_path):
    """three words a row; tokens beyond them are padding and have no tag"""
    write(tmp_path, columns() | TARGETS["tagging"])
    found = read(tmp_path, goal=TokenInput(8, 100), task="tagging", features=["text"])
    for rows in (found.train, found.test):
        np.testing.assert_array_equal(rows.x != 0, rows.y >= 0)
    assert found.train.y[0, :3].tolist() == [found.task.tags.index(tag) for tag in ("O", "B-X", "I-X")]
    listed = columns() | {
        "text": [["alpha", f"beta-{at % 7}", "gamma"] for at in range(N)],
        "y": [["O", "B-X", "I-X"]] * N,
    }
    again = read(write(tmp_path, listed), goal=TokenInput(8, 100), task="tagging", features=["text"])
    np.testing.assert_array_equal(found.train.x, again.train.x)
    np.testing.assert_array_equal(found.train.y, again.train.y)


def test_more_tags_than_words_are_a_problem_with_its_row(tmp_path):
    tags = ["O B-X I-X"] * N
    tags[4] = "O B-X I-X O"
    write(tmp_path, columns() | {"y": tags})
    with pytest.raises(DataError, match=r"row 5, column 'y': found 4 tags, expected 3, one for each token"):
        read(tmp_path, goal=TokenInput(8, 100), task="tagging", features=["text"])


def test_wrong_targets_and_wrong_features_are_told_at_once(tmp_path):
    lives = np.arange(N, 0, -1.0)
    lives[2] = -7.0
    write(tmp_path, columns() | {"y": lives, "b": [None] * N})
    with pytest.raises(DataError) as caught:
        read(tmp_path, task="life", features=["a", {"column": "b", "kind": "number"}])
    assert "row 3: found a negative life" in str(caught.value) and "column 'b': found no value at all" in str(
        caught.value
    )


def test_settings_of_a_task_reach_it(tmp_path):
    write(tmp_path, columns() | TARGETS["fault"])
    found = read(tmp_path, task={"kind": "fault", "healthy": "none"}, labels=["none", "leak", "belt"])
    assert found.task.healthy == "none" and found.task.labels == ("none", "leak", "belt")


@pytest.mark.parametrize("kind", ["forecast", "multilabel", "tagging", "anomaly"])
def test_a_table_kept_in_files_has_the_same_targets(kind, tmp_path):
    write(tmp_path, columns() | TARGETS[kind])
    goal = TokenInput(8, 100) if kind == "tagging" else RowInput(2)
    asked = config(task=kind, features=["text"] if kind == "tagging" else ["a", "b"])
    held = prepare(asked, folder=tmp_path, spec_input=goal)
    pin = Pin.of(tmp_path, "ab" * 32, write=True)
    for _ in range(2):
        kept = prepare(asked, folder=tmp_path, spec_input=goal, root=tmp_path, pin=pin, memory=0)
        np.testing.assert_array_equal(held.train.y, kept.train.y)
        np.testing.assert_array_equal(held.test.x, kept.test.x)
        assert kept.task == held.task


@pytest.mark.parametrize(
    "wrong",
    [
        {"task": "guessing"},
        {"target": None},
        {"task": {"kind": "forecast", "quantiles": [2.0]}},
        {"task": "regression", "window": {"order": "day", "steps": 3, "horizon": 2}},
        {"task": {"kind": "forecast", "horizon": 3}, "window": {"order": "day", "steps": 3, "horizon": 2}},
        {"task": "recommendation"},
        {"task": "regression", "catalogue": "items.csv"},
        {"task": "forecast", "balance": True},
    ],
)
def test_a_section_that_no_task_fits_is_refused(wrong):
    with pytest.raises(ValueError):
        config(**wrong)


def test_who_rated_what_may_stand_with_the_task():
    task = {"kind": "recommendation", "user": "u", "item": "i", "catalogue": "items.csv", "lowest": 1, "highest": 5}
    found = config(task=task, features=None)
    assert (found.user, found.item, str(found.catalogue), found.goal.highest) == ("u", "i", "items.csv", 5)
    assert found == DataConfig.model_validate(found.model_dump(mode="json"))


@pytest.mark.parametrize("where", ["task", "window", "both"])
def test_a_horizon_beside_a_window_and_lists_contradict_each_other(tmp_path, where):
    """lists hold their future; without a horizon they are the target, seen after a window of the past"""
    n = 60
    rows = {"day": list(range(n)), "x": [at % 7 for at in range(n)], "next": [[at + 1.0, at + 2.0] for at in range(n)]}
    pl.DataFrame(rows).write_parquet(tmp_path / "rows.parquet")
    horizon = {"horizon": 2}
    section = {
        "path": "rows.parquet",
        "target": "next",
        "features": ["x"],
        "task": {"kind": "forecast"} | (horizon if where != "window" else {}),
        "window": {"order": "day", "steps": 3} | (horizon if where != "task" else {}),
    }
    with pytest.raises(DataError, match=r"1 problem.*\n.*column 'next': found lists, under a `horizon`") as caught:
        prepare(DataConfig.model_validate(section), folder=tmp_path)
    assert "leave `horizon` out" in str(caught.value)
    section |= {"task": "forecast", "window": {"order": "day", "steps": 3}}
    found = prepare(DataConfig.model_validate(section), folder=tmp_path)
    assert found.task.horizon == 2 and found.train.x.shape[1:] == (3, 1) and found.train.y.shape[1:] == (2,)
