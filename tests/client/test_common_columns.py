"""The charter's columns among a department's encoded ones: slots agree with raw values, models with the trees."""

import numpy as np
import polars as pl
import pytest

from commonroot.client.boosting import Booster, check_task, gathered, shared_trees, target_of
from commonroot.client.common_columns import CommonColumns, LabelsHere
from commonroot.client.data import DataConfig, Rows, prepare
from commonroot.client.linear_parts import LinearParts
from commonroot.client.out.onnx_graph.kinds import unshared
from commonroot.client.out.onnx_graph.write import checked
from commonroot.client.predictor import Predictor
from commonroot.client.shared_statistics import SharedStatistics
from commonroot.client.tasks import Binary, Classification, Regression
from commonroot.common.charter import Draft
from commonroot.common.errors import ConfigError, DataError
from commonroot.simulations.pooled import pooled_statistics
from commonroot.strategies import build, seal
from commonroot.strategies.booster import LEAF, SPLIT, grown
from commonroot.strategies.linear import HELD, HIGH, weights_of

COLUMNS = [
    {"name": "age", "kind": "number", "low": 0, "high": 100, "bins": 10},
    {"name": "segment", "kind": "category", "labels": ["retail", "business", "never seen"]},
    {"name": "income", "kind": "number", "low": -50, "high": 50, "bins": 7},
    {"name": "same", "kind": "number", "low": 0, "high": 10, "bins": 5},
]


def draft_of(method, rounds, columns=COLUMNS, **options):
    return Draft.model_validate(
        {
            "federation": "bank",
            "name": "pilot",
            "rounds": rounds,
            "method": {"name": method, "options": {"most_rows": 1000} | options},
            "columns": columns,
        }
    )


def table(seed=1, rows=240, gaps=True):
    """Ages, incomes with gaps, segments with one that the charter does not list, and a column that never varies."""
    random = np.random.default_rng(seed)
    age, income = random.integers(18, 90, rows), random.normal(0, 15, rows).round(2).clip(-50, 50)
    segment = random.choice(["retail", "business", "public"], rows)
    score = (age - 50) / 20 * np.where(segment == "retail", 1, -1) + income / 15 + 0.5 * random.normal(size=rows)
    hole = random.random(rows) < 0.1 * gaps
    return pl.DataFrame(
        {
            "segment": segment,
            "income": [None if gone else value for gone, value in zip(hole, income.tolist(), strict=True)],
            "age": age,
            "same": np.full(rows, 7.0),
            "label": np.where(score > 0, "yes", "no"),
            "value": score.clip(-5, 5),
        }
    )


def prepared_of(folder, frame, *, target="label", task="binary", shared=None):
    frame.drop({"label": "value", "value": "label"}[target]).write_parquet(folder / "rows.parquet")
    config = DataConfig(path=folder / "rows.parquet", target=target, task=task, test=0.1)
    return prepare(config, folder=folder, shared=shared)


def raw_rows(frame, prepared, columns):
    """Slots of raw cells, computed from the cells themselves, keyed by what the encoded rows are."""
    encoded = prepared.features.encode(frame.select(prepared.features.columns))
    slots = []
    for age, segment, income in frame.select("age", "segment", "income").iter_rows():
        edges = np.linspace(-50, 50, 8)[1:-1]
        slots.append(
            [
                int(sum(age > edge for edge in np.linspace(0, 100, 11)[1:-1])),
                {"retail": 0, "business": 1}.get(segment, 3),
                7 if income is None else int(sum(income > edge for edge in edges)),
                int(sum(edge < 7.0 for edge in np.linspace(0, 10, 6)[1:-1])),
            ]
        )
    return encoded, np.array(slots)


def test_slots_of_encoded_rows_are_those_of_the_cells(tmp_path):
    """Bins end with their upper edge; others stand after the listed labels; gaps come last; a constant has its bin."""
    frame = table()
    prepared = prepared_of(tmp_path, frame)
    columns = CommonColumns.of(draft_of("boosting", 4), prepared.features, None)
    encoded, wanted = raw_rows(frame, prepared, columns)
    np.testing.assert_array_equal(columns.codes(encoded), wanted)


@pytest.mark.parametrize("task", ["binary", "regression"])
def test_the_model_kept_predicts_what_the_trees_say_row_by_row(task, tmp_path):
    """Node tables over encoded columns, gaps and labels included, against a walk through slots."""
    label = task == "binary"
    options = {"labels": "no|yes"} if label else {"loss": "squared", "low": -6.0, "high": 6.0}
    draft = draft_of("boosting", 1 + 3 * 8, least_rows=5, **options)
    prepared = prepared_of(tmp_path, table(), target="label" if label else "value", task=task)
    method, columns = build(draft), CommonColumns.of(draft, prepared.features, None)
    state = grown(draft, gathered(method, columns, prepared.train))
    splits = np.unique(state["split"])
    assert splits.size > 10
    model = Booster(draft, method, columns, state).fitted(prepared.task, prepared.train, 8, 0)
    scores = method.scores_of(draft, state, columns.codes(prepared.test.x), 8)
    scores = scores + method.level_of(target_of(method, prepared.train.y))
    found = model.outputs(prepared.task, prepared.test.x)
    if not label:
        found, scores = prepared.task.predictive(found)[:, None], 6 * scores
    np.testing.assert_allclose(found, scores, atol=1e-9)


def test_trees_learn_from_gaps_and_labels(tmp_path):
    """The target is whether a cell is empty, then whether a label is one the charter does not list."""
    frame = table()
    for told in (frame["income"].is_null(), frame["segment"] == "public"):
        named = frame.with_columns(label=pl.when(told).then(pl.lit("yes")).otherwise(pl.lit("no")))
        prepared = prepared_of(tmp_path, named)
        draft = draft_of("boosting", 1 + 2 * 20, labels="no|yes", depth=2, least_rows=5)
        columns = CommonColumns.of(draft, prepared.features, None)
        state = grown(draft, gathered(build(draft), columns, prepared.train))
        model = Booster(draft, build(draft), columns, state).fitted(prepared.task, prepared.train, 20, 0)
        hits = model.predict(prepared.task, prepared.test.x).argmax(axis=1) == prepared.test.y
        assert hits.all()


def test_private_trees_go_on_from_the_shared_ones(tmp_path):
    """On the rows they are grown on, ten trees more lower the loss; the shared ones stay as they are."""
    draft = draft_of("boosting", 1 + 3 * 2, labels="no|yes", least_rows=20)
    prepared = prepared_of(tmp_path, table())
    columns = CommonColumns.of(draft, prepared.features, None)
    booster = Booster(draft, build(draft), columns, grown(draft, gathered(build(draft), columns, prepared.train)))
    task, rows = prepared.task, prepared.train
    some, more = (booster.fitted(task, rows, 2, own) for own in (0, 10))
    losses = [task.row_losses(model.predict(task, rows.x), rows.y).mean() for model in (some, more)]
    assert losses[1] < 0.9 * losses[0]
    most = some.arrays["feature"].shape[1]
    np.testing.assert_array_equal(more.arrays["feature"][:2, :most], some.arrays["feature"])


def test_without_enough_validation_rows_all_shared_trees_are_kept(tmp_path):
    draft = draft_of("boosting", 1 + 3 * 4, labels="no|yes", least_rows=5)
    prepared = prepared_of(tmp_path, table(rows=60))
    columns = CommonColumns.of(draft, prepared.features, None)
    state = grown(draft, gathered(build(draft), columns, prepared.train))
    assert len(prepared.validation) < 20
    assert shared_trees(Booster(draft, build(draft), columns, state), prepared).name == "4 shared trees"


def test_with_statistics_bins_are_quantiles_of_all_departments_rows(tmp_path):
    """Ages 18 to 90 uniform in four bins: edges close to 36, 54 and 72, whoever holds the rows."""
    sections = {}
    for at in range(3):
        table(seed=at, gaps=False).drop("value").write_parquet(tmp_path / f"{at}.parquet")
        sections[f"d{at}"] = DataConfig(path=tmp_path / f"{at}.parquet", target="label", task="binary")
    counted = [COLUMNS[0] | {"bins": 100}, *COLUMNS[1:]]
    shared = pooled_statistics(seal(draft_of("statistics", 1, counted)), sections)
    draft = draft_of("boosting", 4, [COLUMNS[0] | {"bins": 4}, *COLUMNS[1:]], labels="no|yes")
    found = [
        CommonColumns.of(draft, prepare(one, shared=shared).features, shared).columns[0] for one in sections.values()
    ]
    assert found[0].edges == pytest.approx([36, 54, 72], abs=4)
    assert all(np.array_equal(one.edges, found[0].edges) for one in found)
    assert isinstance(shared, SharedStatistics)


def test_linear_parts_are_one_linear_model_of_the_encoded_rows(tmp_path):
    """What the kept model says equals x·(w₀ + v) in the charter's own terms."""
    draft = draft_of("shared-linear", 2, loss="squared", low=-6.0, high=6.0, strengths="3")
    prepared = prepared_of(tmp_path, table(), target="value", task="regression")
    method, columns = build(draft), CommonColumns.of(draft, prepared.features, None)
    random = np.random.default_rng(3)
    state = method.initial(draft)
    state[HIGH] = random.normal(0, 0.1, state[HIGH].shape).astype(np.float32)
    state[HELD] += 1
    model = LinearParts(method, columns, state).fitted(prepared.task, prepared.train, 0)
    x, target = columns.numbers(prepared.train.x), target_of(method, prepared.train.y)
    own, _ = method.own_part(x, target, weights_of(state)[0, 0], 3.0)
    wanted = 6 * (columns.numbers(prepared.test.x) @ (weights_of(state)[0, 0] + own))
    np.testing.assert_allclose(model.predict(prepared.task, prepared.test.x), wanted, atol=1e-9)


def test_linear_models_read_numbers_in_half_ranges_and_labels_as_columns(tmp_path):
    """Age 75 in 0 to 100 is 0.5; 7 in 0 to 10 is 0.4; the label that nobody here has is 0."""
    frame = table().with_columns(age=pl.Series([75] * 120 + [25] * 120))
    prepared = prepared_of(tmp_path, frame)
    x = CommonColumns.of(draft_of("shared-linear", 2), prepared.features, None).numbers(prepared.train.x)
    assert x.shape[1] == 1 + 1 + 3 + 1 + 1
    assert set(np.round(x[:, 1], 6)) == {0.5, -0.5}
    assert (x[:, 4] == 0).all()
    np.testing.assert_allclose(x[:, 6], 0.4)
    np.testing.assert_array_equal(x[:, 0], 1.0)


def test_what_does_not_fit_is_told(tmp_path):
    prepared = prepared_of(tmp_path, table())
    other = draft_of("boosting", 4, [*COLUMNS, {"name": "town", "kind": "category", "labels": ["a"]}], labels="no|yes")
    with pytest.raises(ConfigError, match=r"'town' \(category\) are no features"):
        CommonColumns.of(other, prepared.features, None)
    label, value = (
        build(draft_of("boosting", 4, labels="no|yes")),
        build(draft_of("shared-linear", 2, low=0.0, high=5.0)),
    )
    for task in (Binary(("yes", "no")), Classification(("a", "b", "c"))):
        with pytest.raises(ConfigError, match="not the charter's"):
            check_task(label, task)
    with pytest.raises(ConfigError, match="tells labels apart"):
        check_task(label, Regression(0.0, 1.0))
    with pytest.raises(ConfigError, match="predicts a value"):
        check_task(value, Binary(("no", "yes")))
    with pytest.raises(DataError, match="2 target value"):
        target_of(value, np.array([1.0, 5.1, -0.1]))


def test_shared_trees_export_to_onnx_with_gaps_and_labels(tmp_path):
    """In the file every node has one parent, as onnxruntime wants it; in the model places are shared."""
    pytest.importorskip("onnxruntime")
    draft = draft_of("boosting", 1 + 3 * 8, labels="no|yes", least_rows=5)
    prepared = prepared_of(tmp_path, table())
    columns = CommonColumns.of(draft, prepared.features, None)
    state = grown(draft, gathered(build(draft), columns, prepared.train))
    model = Booster(draft, build(draft), columns, state).fitted(prepared.task, prepared.train, 8, 10)
    _, parity = checked(Predictor(prepared.task, prepared.features, ((1.0, model),)), prepared.test.x)
    assert parity.rows == len(prepared.test)
    assert parity.difference <= 1e-9


def test_trees_that_ask_for_none_of_a_thousand_labels_stay_small(tmp_path):
    """Three levels, each of which sends rows of no listed label left: 7 places, a thousand questions each, 8 leaves.

    With a copy of the right side for every label it would be a thousand to the third: who chooses splits could fill a
    department's memory.  Predictions are those of the walk over slots.
    """
    labels, none = 1000, 1 + 2 * 1000
    column = {"name": "town", "kind": "category", "labels": [f"t{at}" for at in range(labels)]}
    draft = draft_of("boosting", 4, [column], labels="no|yes")
    method = build(draft)
    columns = CommonColumns((LabelsHere(tuple(range(labels)), None),), labels)
    state = method.initial(draft)
    state[SPLIT][:] = none
    state[LEAF][:] = np.arange(8) / 8
    state["grown"] = np.float32(4)
    x = np.concatenate([np.eye(labels, dtype=np.float32)[[0, 500, 999]], np.zeros((1, labels), np.float32)])
    rows = Rows(x, np.array([0, 1, 0, 1]))
    model = Booster(draft, method, columns, state).fitted(Binary(("no", "yes")), rows, 1, 0)
    assert model.arrays["feature"].size == 7 * labels + 8
    expected = method.scores_of(draft, state, columns.codes(x), 1) + method.level_of(rows.y)
    np.testing.assert_array_equal(model.outputs(Binary(("no", "yes")), x), expected)
    assert expected[0, 0] != expected[3, 0]
    with pytest.raises(ConfigError, match="more than 1,048,576 nodes"):
        unshared(model.arrays)


def test_nodes_with_two_parents_are_repeated_for_each():
    """0 asks 1 and 2, 1 asks 2 and 3: of 2 there are two in a tree."""
    shared = {
        "feature": np.array([[0, 1, 0, 0]]),
        "threshold": np.zeros((1, 4)),
        "left": np.array([[1, 2, 2, 3]]),
        "right": np.array([[2, 3, 2, 3]]),
        "value": np.array([[0.0, 0.0, 5.0, 7.0]]),
    }
    found = unshared(shared)
    assert found["value"].tolist() == [[0.0, 0.0, 5.0, 5.0, 7.0]]
    assert (found["left"].tolist(), found["right"].tolist()) == ([[1, 3, 2, 3, 4]], [[2, 4, 2, 3, 4]])
    assert unshared(found) == {}
