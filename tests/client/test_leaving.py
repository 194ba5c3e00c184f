"""Early exit: on evidence of harm a department gives nothing more, keeps receiving, and what it sends says neither."""

import numpy as np
import pytest

from commonroot.client import alone
from commonroot.client.data import DataConfig
from commonroot.client.folder import DepartmentConfig
from commonroot.client.learner import AGAINST, ENOUGH, DepartmentLearner
from commonroot.client.leaving import Leaving
from commonroot.common.backbone import BackboneSpec
from commonroot.common.charter import Draft, Method
from commonroot.strategies import build, seal


@pytest.fixture
def department(tmp_path, monkeypatch):
    """A charter of twelve rounds, and a learner over 150 rows in which two columns of six decide: 30 validate."""
    monkeypatch.setattr(alone, "GRID", (alone.GRID[2], alone.GRID[5]))
    random = np.random.default_rng(1)
    x = random.normal(size=(150, 6))
    np.savez(tmp_path / "rows.npz", X=x, y=np.where(x[:, 0] + x[:, 1] > 0, "yes", "no"))
    data = DataConfig(path=tmp_path / "rows.npz", target="y", task="binary", test=0.2)
    backbone = BackboneSpec(inputs=6, widths=(8,))
    charter = seal(Draft(federation="bank", name="pilot", rounds=12, method=Method(name="fedper"), backbone=backbone))
    return charter, lambda leaves: DepartmentLearner(tmp_path, "east", data, bytes(32), leaves=leaves)


def useless(state):
    """A backbone that makes the same of every row: no head can learn anything from it."""
    return {name: np.zeros_like(tensor) for name, tensor in state.items()}


def rounds(learner, charter, received, count):
    local, contributed = None, []
    for version in range(count):
        trained = learner.train(charter, received, version, local)
        contributed.append(trained.terms)
        local = trained.local
    return contributed, local


def test_three_evaluations_of_harm_end_the_giving_and_not_the_training(department):
    """12 rounds, looked at from version 3 on: 3, 4 and 5 speak against a useless backbone, and 5 gives nothing"""
    charter, learner_of = department
    received = useless(build(charter).initial(charter))
    contributed, local = rounds(learner_of(True), charter, received, 7)
    gave = [any(np.any(term) for term in terms.values()) for terms in contributed]
    assert gave == [True] * 5 + [False] * 2
    assert contributed[6]["weight"] == 0.0 and local[AGAINST] == ENOUGH
    usual, kept = rounds(learner_of(False), charter, received, 7)
    assert contributed[6].keys() == usual[6].keys()
    for name, term in usual[6].items():  # from outside: the same names, shapes and kinds of numbers
        assert contributed[6][name].shape == term.shape and contributed[6][name].dtype == term.dtype
    for name, tensor in kept.items():  # the head goes on as if nothing had happened
        np.testing.assert_array_equal(local[name], tensor)


def test_nobody_leaves_unless_asked_to(department):
    charter, learner_of = department
    contributed, local = rounds(learner_of(False), charter, useless(build(charter).initial(charter)), 7)
    assert all(terms["weight"] > 0 for terms in contributed) and AGAINST not in local
    text = {"federation": "bank", "name": "east", "coordinator": "hub:1", "authority": "ab" * 32}
    assert not DepartmentConfig.model_validate(text).guard.early_exit
    assert DepartmentConfig.model_validate(text | {"guard": {"early_exit": True}}).guard.early_exit


def test_a_useful_backbone_is_given_to_until_the_end(department):
    """each of four columns and its negative, behind ReLU: a head can say all that a line on those columns can"""
    charter, learner_of = department
    columns = np.concatenate([np.eye(6)[:4], -np.eye(6)[:4]]).astype(np.float32)
    received = useless(build(charter).initial(charter)) | {"layers.0.weight": columns}
    contributed, local = rounds(learner_of(True), charter, received, 8)
    assert all(terms["weight"] > 0 for terms in contributed) and local[AGAINST] < ENOUGH


def test_a_repeated_round_contributes_the_same(department):
    """a crash after version 5 was trained: the same local state leads to the same zeros and the same count"""
    charter, learner_of = department
    received = useless(build(charter).initial(charter))
    _, local = rounds(learner_of(True), charter, received, 5)
    one, two = (learner_of(True).train(charter, received, 5, local) for _ in range(2))
    for name in one.terms:
        np.testing.assert_array_equal(one.terms[name], two.terms[name])
    for name in one.local:
        np.testing.assert_array_equal(one.local[name], two.local[name])


def test_one_good_evaluation_starts_the_count_again_and_leaving_is_for_good(department, monkeypatch):
    """against, against, for, against, against, against, for: it leaves at the sixth and stays away"""
    charter, learner_of = department
    learner = learner_of(True)
    leaving = learner._left(charter, learner._trainer(charter))
    says = iter([True, True, False, True, True, True, False])
    monkeypatch.setattr(Leaving, "_harmed", lambda *args: next(says))
    kept, counts = {}, []
    for version in range(3, 10):
        counts.append(leaving.after(kept, {}, {}, version))
        kept = {AGAINST: np.array([counts[-1]], dtype=np.float32)}
    assert counts == [1, 2, 0, 1, 2, 3, 3]
    assert leaving.after({}, {}, {}, 2) == 0  # the first quarter is left in peace


def test_with_few_validation_rows_nobody_can_tell_so_nobody_leaves(department, tmp_path):
    charter, _ = department
    random = np.random.default_rng(1)
    x = random.normal(size=(60, 6))
    np.savez(tmp_path / "few.npz", X=x, y=np.where(x[:, 0] > 0, "yes", "no"))
    data = DataConfig(path=tmp_path / "few.npz", target="y", task="binary")
    (tmp_path / "few").mkdir()
    learner = DepartmentLearner(tmp_path / "few", "west", data, bytes(32), leaves=True)
    contributed, _ = rounds(learner, charter, useless(build(charter).initial(charter)), 8)
    assert all(terms["weight"] > 0 for terms in contributed)
