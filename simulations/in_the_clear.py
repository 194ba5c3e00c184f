"""Rounds of an averaging method without messages, masks or coordinator: sums in the clear, for references and searches.

What comes out is what a federation's rounds give up to the rounding of their fixed point.  Nothing is concluded: a
department's last step is its own affair.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from commonroot.client.alone import network
from commonroot.client.data import Prepared
from commonroot.client.tasks import score
from commonroot.client.trainer import Private, Trainer
from commonroot.common.charter import Draft
from commonroot.strategies import Strategy, build_trained
from commonroot.strategies.base import Tensors


@dataclass(slots=True)
class Clear:
    """One federation in the clear.

    state    what the next round broadcasts, and the coordinator's own
    version  rounds done
    """

    draft: Draft
    rows: Mapping[str, Prepared]
    seed: int
    state: Tensors = field(init=False, repr=False)
    version: int = field(init=False, default=0)
    _private: dict[str, Private] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self.state = build_trained(self.draft).initial(self.draft)
        self._private = {name: self._trainer(at).start() for at, name in enumerate(self.rows)}

    def round(self) -> None:
        """One round of all departments; those without labels are left out where the method has no use for them."""
        sums: dict[str, NDArray[np.float64]] = {}
        for at, (name, prepared) in enumerate(self.rows.items()):
            strategy = self._strategy(name)
            if not prepared.labelled and not strategy.form(self.draft).unlabelled:
                continue
            trained = self._trainer(at).train(
                strategy.plan(self.draft),
                self.state,
                self._private[name],
                prepared.train,
                prepared.validation,
                version=self.version,
            )
            self._private[name] = trained.private
            for term, value in strategy.contribute(self.draft, self.state, trained.result).items():
                sums[term] = sums.get(term, 0.0) + np.asarray(value, dtype=np.float64)
        self.state = build_trained(self.draft).combine(self.draft, self.state, sums)
        self.version += 1

    def outputs(self, name: str, x: NDArray[np.generic]) -> NDArray[np.float64]:
        """A department's head outputs of rows by the state as it is."""
        at = list(self.rows).index(name)
        net = self._trainer(at).net(self.state, self._private[name])
        return network(self.draft, net).outputs(self.rows[name].task, x)

    def score(self, name: str) -> float:
        """Its metric on a department's test rows."""
        task, rows = self.rows[name].task, self.rows[name].test
        return score(task, task.predictive(self.outputs(name, rows.x)), rows.y)

    def _strategy(self, name: str) -> Strategy:
        return build_trained(self.draft).as_department(name)

    def _trainer(self, at: int) -> Trainer:
        name = list(self.rows)[at]
        rows, strategy = self.rows[name], self._strategy(name)
        return Trainer(
            self.draft,
            rows.task,
            self.seed * 1000 + at,
            strategy.shares_head,
            rows.train.x.shape[-1],
            strategy.form(self.draft),
            labelled=rows.labelled,
        )
