"""Rounds in the clear: departments with labels teach one that has none, and without them it learns nothing."""

import numpy as np
import pytest

from commonroot.client.data import Features, Prepared, Rows, Scaler
from commonroot.client.tasks import Binary
from commonroot.common.backbone import BackboneSpec
from commonroot.common.charter import Draft, Method
from commonroot.simulations.in_the_clear import Clear

TASK = Binary(("no", "yes"))


def departments():
    """Three with 60 labelled rows; the last has 60 without, moved so far that most look like ``yes`` to the others."""
    features = Features.of_numbers(tuple("abc"), Scaler(np.zeros(3), np.ones(3)))
    found = {}
    for at, name in enumerate(("ash", "birch", "cedar", "dune")):
        random = np.random.default_rng(at)
        y = np.arange(120) % 2
        x = (random.normal(size=(120, 3)) * 0.5 + np.outer(2 * y - 1, [1.2, 0.0, 0.0])).astype(np.float32)
        x[:, 0] += 1.2 * (at == 3)
        train, test = Rows(x[:60], y[:60].astype(np.int64)), Rows(x[60:], y[60:].astype(np.int64))
        none = train.take(np.arange(0))
        labelled = at < 3
        rows = train if labelled else Rows(train.x, np.full(60, -1, dtype=np.int64))
        found[name] = Prepared(
            TASK, features, rows, train.take(np.arange(20)) if labelled else none, test, labelled=labelled
        )
    return found


def scores(method, **options):
    draft = Draft(
        federation="bank",
        name="pilot",
        rounds=8,
        method=Method(name=method, options={"head": "shared", "outputs": 1, **options}),
        backbone=BackboneSpec(inputs=3, widths=(6,), activation="tanh"),
    )
    clear = Clear(draft, departments(), seed=1)
    for _ in range(draft.rounds):
        clear.round()
    return [clear.score(name) for name in ("ash", "dune")]


@pytest.mark.parametrize("method, options", [("self-training", {}), ("dann", {"trust": 1.0})])
def test_self_training_helps_where_the_common_model_leans_to_one_label(method, options):
    labelled, source_only = scores("fedavg")
    assert labelled > 0.9 > source_only
    assert scores(method, **options)[1] > source_only + 0.05
