"""Where fitting is slow, hyper-parameters of kernels and trees are chosen on a quarter of the rows."""

from __future__ import annotations

import numpy as np
import pytest

from commonroot.client import alone
from commonroot.client.alone import Part
from commonroot.client.alone_memory import Basis
from commonroot.client.baselines import GRID, recipes
from commonroot.client.data import Rows
from commonroot.client.tasks import Classification

RANDOM = np.random.default_rng(5)


@pytest.fixture
def parts():
    """Two classes parted by a circle, 200 rows to fit and 60 to score."""
    x = RANDOM.normal(size=(260, 2)).astype(np.float32)
    y = (np.square(x).sum(axis=1) > 1.4).astype(np.int64)
    return [Part(Rows(x[:200], y[:200]), Rows(x[200:], y[200:]), np.zeros(60, dtype=np.bool_))]


def kinds(found):
    return [recipe.kind for recipe in found]


def screened(parts):
    task = Classification(("in", "out"))
    tried = recipes(task, parts[0].fit.x, GRID)
    return tried, alone._screened(task, tried, parts, parts[0].held.y, Basis(0))


def test_small_tables_try_everything(parts):
    tried, found = screened(parts)
    assert found == list(tried)


def test_large_tables_try_one_kernel_and_one_size_of_leaf(parts, monkeypatch):
    monkeypatch.setattr(alone, "MANY_NUMBERS", 300)
    tried, found = screened(parts)
    assert kinds(found).count("rbf") == kinds(found).count("trees") == 1
    assert kinds(found).count("linear") == kinds(tried).count("linear") > 1


def test_the_one_that_stays_is_the_best_on_a_quarter_of_the_rows(parts, monkeypatch):
    monkeypatch.setattr(alone, "MANY_NUMBERS", 300)
    tried, found = screened(parts)
    whole, task = parts[0], Classification(("in", "out"))
    quarter = [Part(whole.fit.take(np.arange(0, 200, 4)), whole.held, whole.seen)]
    losses = {r: alone._baseline(task, r, quarter, whole.held.y, Basis(0)).loss for r in tried if r.kind == "rbf"}
    assert next(r for r in found if r.kind == "rbf") == min(losses, key=losses.__getitem__)
