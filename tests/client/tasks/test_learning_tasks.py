"""From target columns to a task and y: what is found, what is refused, and where the problem is said to be."""

import numpy as np
import polars as pl
import pytest

from commonroot.client.tasks import (
    Binary,
    Classification,
    Fault,
    Life,
    Multilabel,
    Rating,
    Regression,
    Tagging,
    Where,
    kinds,
    registry,
    task_class,
    task_config,
    task_from_json,
)
from commonroot.common.errors import ConfigError, DataError, ForeignState

HERE = Where("sales.csv", 2)


def learned(kind, target, **fields):
    config = task_config({"kind": kind, **fields})
    return task_class(kind).learn(config.seen(target), target)


@pytest.mark.parametrize(
    "target",
    [
        pl.DataFrame({"t": ["b", " a ", "b"]}),
        pl.DataFrame({"t": pl.Series(["b", "a", "b"], dtype=pl.Categorical)}),
        np.array(["b", "a", "b"]),
        np.array(["b", "a", "b"], dtype=object),
    ],
    ids=["text", "categories", "array", "objects"],
)
def test_labels_are_read_from_any_kind_of_text(target):
    task = learned("classification", target)
    assert task.labels == ("a", "b") and task.encode(target, HERE)[0].tolist() == [1, 0, 1]


@pytest.mark.parametrize("values", [[10, 9, 10], [10.0, 9.0, 10.0]], ids=["int", "float"])
def test_whole_numbers_are_labels_in_their_order(values):
    task = learned("binary", pl.DataFrame({"t": values}))
    assert task.labels == ("9", "10") and task.encode(np.array(values), HERE)[0].tolist() == [1, 0, 1]


def test_truth_values_are_labels():
    assert learned("binary", pl.DataFrame({"t": [True, False]})).labels == ("false", "true")


def test_labels_of_the_whole_table_survive_a_split_that_hides_them():
    whole = pl.DataFrame({"t": ["a", "b", "c"]})
    config = task_config("classification").seen(whole)
    task = Classification.learn(config, whole[:2])
    assert task.labels == ("a", "b", "c")


def test_a_label_that_nobody_announced_is_named_with_its_row():
    task = Binary(("no", "yes"))
    y, problems = task.encode(pl.DataFrame({"sold": ["yes", "maybe", "no"]}), HERE)
    assert y.tolist() == [1, -1, 0]
    (problem,) = problems
    assert str(problem) == (
        "sales.csv, row 3, column 'sold': found a label of 5 character(s) that is not listed, "
        "expected one of the 2 labels known; mend the label or add it to `labels`"
    )


@pytest.mark.parametrize(
    ("kind", "values", "found"),
    [
        ("classification", ["a", None, ""], "an empty cell"),
        ("classification", [1.0, 2.5, None], "no whole number"),
        ("regression", [1.0, None, float("nan")], "no finite number"),
        ("regression", ["1.5", "x", "inf"], "no finite number"),
        ("life", [3.0, 1e200, -float("inf")], "no finite number"),
    ],
)
def test_every_unreadable_cell_is_a_problem_and_learning_refuses_them_all_at_once(kind, values, found):
    with pytest.raises(DataError, match=r"2 problem\(s\)") as error:
        learned(kind, pl.DataFrame({"t": values}))
    assert str(error.value).count(found) == 2


def test_one_label_alone_cannot_be_learned():
    with pytest.raises(DataError, match="1 different"):
        learned("classification", np.array(["a", "a"]))


def test_balanced_weights_worked_by_hand():
    """6 of a, 2 of b: 8/(2·6) = 2/3 and 8/(2·2) = 2, whose mean over the rows is (6·2/3 + 2·2)/8 = 1"""
    task = learned("classification", np.array(["a"] * 6 + ["b"] * 2), weights="balanced")
    assert task.weights == pytest.approx((2 / 3, 2.0)) and task.metric == "balanced accuracy"


def test_balanced_weights_are_scikit_learns():
    from sklearn.utils.class_weight import compute_class_weight

    y = np.random.default_rng(1).integers(0, 4, 50)
    task = learned("fault", y)  # balanced unless told otherwise
    assert task.weights == pytest.approx(compute_class_weight("balanced", classes=np.arange(4), y=y))
    assert learned("fault", y, weights="none").weights is None


def test_a_multi_label_target_is_columns_or_a_list_or_text():
    columns = pl.DataFrame({"red": [1, 0, 0], "blue": [True, True, False]})
    lists = pl.DataFrame({"tags": [["red", "blue"], ["blue"], []]})
    text = pl.DataFrame({"tags": ["red;blue", " blue ", ""]})
    expected = {"red": [1, 0, 0], "blue": [1, 1, 0]}
    for target in (columns, lists, text):
        task = learned("multilabel", target)
        y, problems = task.encode(target, HERE)
        assert not problems
        assert {name: y[:, at].tolist() for at, name in enumerate(task.labels)} == expected
    _, problems = task.encode(pl.DataFrame({"tags": ["red;green"]}), HERE)
    assert "a label of 5 character" in str(problems[0])
    _, problems = learned("multilabel", columns).encode(pl.DataFrame({"red": [1, 2], "blue": [0, 0]}), HERE)
    assert "row 3, column 'red'" in str(problems[0])


def test_a_rare_label_weighs_more_and_never_without_limit():
    """present in 1 of 4: absent ½/(3/4) = 2/3, present ½/(1/4) = 2; present in 1 of 1000: 500, cut at 20"""
    task = learned("multilabel", pl.DataFrame({"x": [1, 0, 0, 0]}), weights="balanced")
    assert task.weights[0] == pytest.approx((2 / 3, 2.0))
    rare = learned("multilabel", pl.DataFrame({"x": [1] + [0] * 999}), weights="balanced")
    assert rare.weights[0][1] == 20.0


def test_a_life_is_capped_and_never_negative():
    """lives 0, 100, 300 capped at 125: mean 75"""
    task = learned("life", np.array([0.0, 100.0, 300.0]))
    assert task.cap == 125.0 and task.centre == pytest.approx(75.0)
    y, problems = task.encode(np.array([10.0, 200.0, -1.0]), HERE)
    assert y[:2].tolist() == [10.0, 125.0] and "a negative life" in str(problems[0])
    assert task.predictive(np.array([[9.0], [-9.0]])).tolist() == [125.0, 0.0]


def test_ratings_stay_on_their_scale():
    task = learned("rating", np.array([1.0, 2.0, 4.0]), highest=5)
    assert (task.lowest, task.highest) == (1.0, 5.0)
    assert task.predictive(np.array([[99.0], [-99.0]])).tolist() == [5.0, 1.0]
    _, problems = task.encode(np.array([0.5, 5.5]), HERE)  # only the stated end is a law
    assert len(problems) == 1 and "row 3" in str(problems[0])


def test_a_named_healthy_label_must_exist():
    with pytest.raises(DataError, match="healthy"):
        learned("fault", np.array(["leak", "wear"]), healthy="fine")
    task = learned("fault", np.array(["leak", "fine"]), healthy="fine")
    assert isinstance(task, Fault) and task.healthy == "fine"


def test_tags_are_read_from_lists_and_text_and_cut_at_the_backbones_length():
    lists = pl.DataFrame({"t": [["B-PER", "I-PER", "O"], ["O"]]})
    text = pl.DataFrame({"t": ["B-PER I-PER  O", "O"]})
    for target in (lists, text):
        task = learned("tagging", target)
        assert task.tags == ("O", "B-PER", "I-PER")
        assert task.encode(target, HERE)[0].tolist() == [[1, 2, 0], [0, -1, -1]]
        short = task.fitted_to(np.zeros((2, 2), np.int32))
        assert short.encode(target, HERE)[0].tolist() == [[1, 2], [0, -1]]
    _, problems = task.encode(pl.DataFrame({"t": ["B-LOC"]}), HERE)
    assert "a tag of 5 character" in str(problems[0])
    assert isinstance(task, Tagging)


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ("ranking", "no task is called 'ranking'"),
        ({"horizon": 3}, "needs its kind"),
        ({"kind": "forecast", "horizon": 0}, "horizon"),
        ({"kind": "forecast", "under_cost": 1}, "both under_cost and over_cost"),
        ({"kind": "forecast", "metric": "cost"}, "needs under_cost"),
        ({"kind": "forecast", "quantiles": [0.0]}, "quantiles.0"),
        ({"kind": "classification", "labels": ["1", 1]}, "listed twice"),
        ({"kind": "binary", "labels": ["a", "b", "c"]}, "labels"),
        ({"kind": "rating", "lowest": 5, "highest": 1}, "not below"),
        ({"kind": "fault", "healthy": "x", "labels": ["a", "b"]}, "healthy"),
        ({"kind": "regression", "colour": "red"}, "colour"),
    ],
)
def test_a_wrong_configuration_is_named(value, why):
    with pytest.raises(ConfigError, match=why):
        task_config(value)


def test_a_name_is_short_for_a_table_with_that_kind():
    for kind in kinds():
        assert task_config(kind) == task_config({"kind": kind})


class Count(Regression):
    """a task that a user installed"""

    __slots__ = ()
    kind = "count"


class Point:
    name, value = "count", "theirs:Count"

    def __init__(self, found):
        self.found = found

    def load(self):
        return self.found


def test_an_installed_task_is_found_by_its_entry_point(monkeypatch):
    monkeypatch.setattr(registry, "entry_points", lambda group: [Point(Count)] if group == "commonroot.tasks" else [])
    assert task_class("count") is Count and "count" in kinds()
    task = learned("count", np.array([1.0, 3.0]))
    assert task_from_json(task.to_json()) == task and type(task) is Count


@pytest.mark.parametrize("wrong", [object, Regression, "text"])
def test_an_entry_point_that_is_no_task_of_its_kind_is_refused(monkeypatch, wrong):
    monkeypatch.setattr(registry, "entry_points", lambda group: [Point(wrong)])
    with pytest.raises(ConfigError, match="no subclass of Task"):
        task_class("count")


def test_a_record_of_a_task_that_is_not_installed_is_foreign():
    with pytest.raises(ForeignState):
        task_from_json({"kind": "count", "centre": 0.0, "scale": 1.0})


def test_lives_ratings_and_flags_are_what_they_say():
    for kind, made in (("life", Life), ("rating", Rating), ("multilabel", Multilabel)):
        assert task_class(kind) is made
