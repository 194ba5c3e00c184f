"""A department without labels: what it may say in [data], what it trains on, and the model it ends with."""

import json

import gathering_cases
import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from commonroot.client.alone_memory import Basis
from commonroot.client.data import DataConfig, Features, Prepared, Rows, Scaler, prepare
from commonroot.client.finish import conclude
from commonroot.client.learner import DepartmentLearner, read_report
from commonroot.client.own_report import told
from commonroot.client.tasks import Binary
from commonroot.client.trainer import Trainer
from commonroot.client.unlabelled import NO_LABELS, check_unlabelled, trusted_labels
from commonroot.common.backbone import BackboneSpec
from commonroot.common.charter import Draft, Family, Method
from commonroot.common.errors import ConfigError
from commonroot.strategies import build, seal

PLAIN = {"task": "binary", "labels": ["no", "yes"], "labelled": False}


def draft_of(name="fedavg", *, adapter=False, families=(), **options):
    return Draft(
        federation="bank",
        name="pilot",
        rounds=2,
        method=Method(name=name, options=options),
        backbone=BackboneSpec(inputs=3, widths=(4,), adapter=adapter),
        families=families,
    )


def tables(folder, *, labels=True):
    """40 rows without a target, and 12 with one to be tested on."""
    random = np.random.default_rng(1)
    pl.DataFrame({name: random.normal(size=40) for name in "abc"}).write_csv(folder / "rows.csv")
    held = {name: random.normal(size=12) for name in "abc"} | {"bought": ["no", "yes"] * 6}
    pl.DataFrame(held).write_csv(folder / "held.csv")
    tested = {"test_path": "held.csv", "target": "bought"} if labels else {}
    return DataConfig.model_validate(PLAIN | {"path": "rows.csv"} | tested)


# -- [data] ------------------------------------------------------------------------------------------------------------


def test_all_rows_are_for_training_and_have_no_label(tmp_path):
    found = prepare(tables(tmp_path), folder=tmp_path, inputs=3)
    assert (len(found.train), len(found.validation), len(found.test), found.labelled) == (40, 0, 12, False)
    assert (found.train.y == -1).all() and found.test.y.tolist() == [0, 1] * 6


def test_without_a_target_there_is_nothing_to_test_on(tmp_path):
    found = prepare(tables(tmp_path, labels=False), folder=tmp_path, inputs=3)
    assert (len(found.train), len(found.test)) == (40, 0)


def test_a_target_that_is_there_all_the_same_is_no_feature_and_is_not_read(tmp_path):
    config = tables(tmp_path)
    frame = pl.read_csv(tmp_path / "rows.csv").with_columns(pl.lit("nonsense").alias("bought"))
    frame.write_csv(tmp_path / "rows.csv")
    found = prepare(config, folder=tmp_path, inputs=3)
    assert found.names == ("a", "b", "c") and (found.train.y == -1).all()


def test_what_is_cached_or_read_in_batches_still_has_no_labels(tmp_path):
    for _ in range(2):
        found = prepare(tables(tmp_path), folder=tmp_path, inputs=3, root=tmp_path, memory=1)
        assert not found.labelled and (found.train.y == -1).all() and len(found.train) == 40


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"labels": None}, "list `labels`"),
        ({"task": "regression", "labels": None}, "cannot do without its target"),
        ({"balance": True}, "cannot be balanced"),
        ({"test_rows": 5}, "all for training"),
        ({"split": "random"}, "all for training"),
        ({"target": "bought"}, "test_path and target go together"),
    ],
)
def test_what_only_labels_make_sense_of_is_refused(changes, words):
    with pytest.raises(ValidationError, match=words):
        DataConfig.model_validate({**PLAIN, "path": "rows.csv", **changes})


# -- what it is trained on ---------------------------------------------------------------------------------------------


def test_the_surest_of_each_label_are_trusted():
    """Two labels in equal shares: rows 0-3 lean least to the second and are the first; of each, half is trusted."""
    yes = np.array([0.50, 0.55, 0.60, 0.65, 0.80, 0.85, 0.90, 0.95])
    found = trusted_labels(np.column_stack([1 - yes, yes]), np.array([0.5, 0.5]), 0.5)
    assert found.tolist() == [0, 0, -1, -1, -1, -1, 1, 1]


@given(
    shares=st.lists(st.floats(0.05, 1.0), min_size=2, max_size=4),
    lean=st.floats(0.0, 3.0),
    trust=st.floats(0.3, 1.0),
    seed=st.integers(0, 999),
)
def test_labels_come_in_about_the_shares_they_have_elsewhere_however_the_model_leans(shares, lean, trust, seed):
    shares = np.array(shares) / sum(shares)
    random = np.random.default_rng(seed)
    logits = 6.0 * random.normal(size=(600, len(shares))) + lean * np.eye(len(shares))[0]
    said = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    found = trusted_labels(said, shares, trust)
    counts = np.bincount(found[found >= 0], minlength=len(shares))
    assert np.abs(counts / counts.sum() - shares).max() < 0.1
    assert trust * 600 <= counts.sum() <= trust * 600 + len(shares)


def test_nothing_is_trusted_before_anybody_knows_the_shares():
    assert (trusted_labels(np.full((5, 2), 0.5), np.zeros(2), 1.0) == -1).all()


# -- what it needs of a charter ----------------------------------------------------------------------------------------


def learner_of(folder, **more):
    return DepartmentLearner(folder, "north", tables(folder, **more), bytes(32))


@pytest.mark.parametrize("name", ["fedper", "feddbe", "local", "structure", "reptile"])
def test_a_method_that_shares_no_head_is_refused(tmp_path, name):
    with pytest.raises(ConfigError, match="shares no head"):
        learner_of(tmp_path).check(seal(draft_of(name)))


def test_a_method_that_gathers_from_labels_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="gathers from labels"):
        learner_of(tmp_path).check(seal(gathering_cases.boosting_draft()))


def test_a_private_adapter_that_nothing_trains_is_refused():
    draft = draft_of("fedavg", adapter=True, head="shared", outputs=1)
    with pytest.raises(ConfigError, match="private adapter"):
        check_unlabelled(draft, build(draft).form(draft))


@pytest.mark.parametrize("method", ["fedavg", "fedavg-ft", "ditto"])
def test_where_it_can_give_nothing_it_adds_zeros_of_weight_zero(tmp_path, method):
    charter = seal(draft_of(method, head="shared", outputs=1))
    learner = learner_of(tmp_path)
    learner.check(charter)
    found = learner.train(charter, build(charter).initial(charter), 0, None)
    assert all(not np.any(term) for term in found.terms.values())
    assert set(found.terms) == {term.name for term in charter.manifest.terms}


def test_the_head_of_its_family_is_all_it_reads():
    """o = G(z) + H(z), and an H that nothing trains is zero."""
    draft = draft_of("fedper", families=(Family(name="buyers", outputs=1, departments=("north", "east", "south")),))
    strategy = build(draft).as_department("north")
    state = {name: np.full_like(array, 0.25) for name, array in strategy.initial(draft).items()}
    trainer = Trainer(draft, Binary(("no", "yes")), 1, False, 3, strategy.form(draft), labelled=False)
    net = trainer.net(state, trainer.start())
    np.testing.assert_array_equal(net.head["weight"], np.full((1, 4), 0.25, np.float32))
    np.testing.assert_array_equal(net.head["bias"], np.full(1, 0.25, np.float32))


# -- what it ends with -------------------------------------------------------------------------------------------------


def finished(folder, **more):
    charter = seal(draft_of("dann", outputs=1, trust=1.0))
    learner, strategy = learner_of(folder, **more), build(charter)
    state = {name: np.array(array) for name, array in strategy.initial(charter).items()}
    state["common_head/weight"] += 1.0
    (folder / "predictors").mkdir()
    name = learner.finish(charter, state, 2, None)
    return read_report(folder), folder / "predictors" / name


def test_it_ends_with_the_common_model_and_the_report_says_why(tmp_path):
    report, folder = finished(tmp_path)
    assert (report["choice"], report["why"], report["n_train"], report["n_test"]) == ("federated", NO_LABELS, 40, 12)
    assert report["alone"] == 0.5  # a model that knows nothing says the first label everywhere
    assert report["details"]["contenders"] == [] and (folder / "predictor.json").is_file()
    assert "which without labels you could not have made" in told(report | EXTRA)[0]["text"]


def test_without_a_labelled_test_row_the_report_claims_nothing(tmp_path):
    report, _ = finished(tmp_path, labels=False)
    assert report["n_test"] == 0
    assert [report[name] for name in ("alone", "federated", "chosen", "gain", "interval")] == [None] * 5
    assert "nobody can say" in told(report | EXTRA)[0]["text"]
    json.dumps(report, allow_nan=False)


EXTRA = {"sent": [], "received": {"versions": 0, "bytes_each": None, "bytes": None}}


def test_the_end_is_the_same_every_time_and_needs_no_labels_of_training_rows():
    draft = draft_of("fedavg", head="shared", outputs=1)
    random = np.random.default_rng(2)
    x = random.normal(size=(20, 3)).astype(np.float32)
    features = Features.of_numbers(tuple("abc"), Scaler(np.zeros(3), np.ones(3)))
    rows = Prepared(
        Binary(("no", "yes")),
        features,
        Rows(x, np.full(20, -1)),
        Rows(x[:0], np.zeros(0, np.int64)),
        Rows(x, np.arange(20) % 2),
        labelled=False,
    )
    strategy = build(draft)
    state = strategy.initial(draft)
    one, other = (conclude(draft, strategy, rows, state, {}, secret=1, basis=Basis(1), version=2) for _ in range(2))
    assert one.report == other.report and one.report["kept"] == "federated"
