"""Two rounds of one department's training, for tests that hold one way of stepping against another."""

from __future__ import annotations

import numpy as np

from commonroot.client.trainer import Trainer
from commonroot.strategies import build
from commonroot.strategies.consensus import KNOWN, MEAN


def broadcasts(draft):
    """Two versions: as a method begins, and with every value moved and a mean representation that is known."""
    first = build(draft).initial(draft)
    random = np.random.default_rng(1)
    moved = {name: (a + 0.1 * random.normal(size=a.shape)).astype(np.float32) for name, a in first.items()}
    if KNOWN in moved:
        moved[KNOWN] = np.ones_like(first[KNOWN])
        moved[MEAN] = np.linspace(0, 1, moved[MEAN].size, dtype=np.float32)
    return first, moved


def two_rounds(draft, task, rows, held_out, *, columns=None):
    """What a department has trained after each of both, every phase of the method carried out."""
    strategy = build(draft).as_department("a")
    trainer = Trainer(draft, task, 5, strategy.shares_head, columns, strategy.form(draft))
    private, found = trainer.start(), []
    for version, received in enumerate(broadcasts(draft)):
        trained = trainer.train(strategy.plan(draft), received, private, rows, held_out, version=version)
        private = trained.private
        found.append(trained)
    return found
